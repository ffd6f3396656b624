"""`python -m smartmail` is the command `smartmail`."""

import sys

from smartmail.cli import main

if __name__ == "__main__":
    sys.exit(main())
