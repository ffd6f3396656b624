"""The child process of `migrations.ensure`: upgrade the database whose URL comes on standard input."""

import sys

from smartmail.store.errors import StoreError
from smartmail.store.migrations import upgrade


def main() -> int:
    """Returns 0, or 3 with one line on standard error."""
    try:
        upgrade(sys.stdin.read().strip())
    except StoreError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
