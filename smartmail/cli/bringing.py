"""The demo's third part: three mailboxes are backed up, one is deleted and brought back.

`python -m smartmail.cli.bringing`: a `Bring` as JSON on standard input. All of it is real: restic, a repository here
and one that stands for another place, the night's run and its proofs, a Dovecot where one is installed, and the mail
program that deletes everything. Exit code 0 when all comes back as it was; also where restic is missing, for then
nothing is played, and the scene says how to get it.
"""

import asyncio
import contextlib
import imaplib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import typer
from rich.text import Text

from smartmail import events
from smartmail.backup.restic import ResticError, Settings, find_restic
from smartmail.backup.vault import VaultError
from smartmail.cli.backing import working
from smartmail.cli.backup import app
from smartmail.cli.bringing_mail import CLEO, FOLDERS, Mail
from smartmail.cli.bringing_scene import OFFSITE, ONSITE, Board, Scene
from smartmail.cli.bringing_server import Dovecot, NoDovecot
from smartmail.cli.common import CliError, ExitCode, Globals
from smartmail.cli.demo import Bring
from smartmail.cli.guide import head, make_console, near
from smartmail.core.mailbox_restore import RestoreError
from smartmail.core.points import PointNotFound
from smartmail.store.errors import StoreError

ELSEWHERE: Final = "elsewhere"
"""A file that names the folder outside of ours, for who comes after a scene that was killed."""
LONGEST: Final = 40
"""Of the folder for temporary files: a socket's path may have 107 octets."""
_CONFIG: Final = """\
[server]
data_dir = {data}

[backup]
host = "mail.demo.example"
folder = {state}
doveadm = {doveadm}

[drill]
repository = "offsite"

[[repository]]
name = "onsite"
location = {onsite}
password_file = {onsite_key}
check_parts = 1

[[repository]]
name = "offsite"
location = {offsite}
password_file = {offsite_key}
copy_from = "onsite"
offsite = true
check_parts = 1

[[job]]
name = "mail"
kind = "maildir"
repository = "onsite"
paths = [{mail}]
mailboxes = {layout}
"""


def configure(folder: Path, mail: Mail, doveadm: str) -> Path:
    """Write the configuration, and the passwords that it names. Returns its file. Raises OSError."""
    keys = folder / "passwords"
    keys.mkdir(mode=0o700)
    for name in (ONSITE, OFFSITE):
        (keys / name).touch(mode=0o600)
        (keys / name).write_text(f"{secrets.token_urlsafe(32)}\n")
    values = {
        "data": folder,
        "state": folder / "state",
        "doveadm": doveadm,
        "onsite": folder / ONSITE,
        "onsite_key": keys / ONSITE,
        "offsite": folder / OFFSITE,
        "offsite_key": keys / OFFSITE,
        "mail": mail.root,
        "layout": mail.layout,
    }
    file = folder / "smartmail.toml"
    # A string of JSON is one of TOML, too.
    file.write_text(_CONFIG.format(**{name: json.dumps(str(value)) for name, value in values.items()}))
    return file


@contextlib.contextmanager
def outside(folder: Path) -> Iterator[Path]:
    """A folder with a short path, and that other users can come to. Removed at the end, by the next scene at the
    latest."""
    made = Path(tempfile.mkdtemp(prefix="smartmail-demo-", dir=_short()))
    (folder / ELSEWHERE).write_text(str(made))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        (folder / ELSEWHERE).unlink(missing_ok=True)


def _short() -> str:
    usual = tempfile.gettempdir()
    # What is made there has a name that nobody knows, and is closed to others.
    return usual if len(usual) <= LONGEST else "/tmp"  # noqa: S108


def emptied(folder: Path) -> None:
    """Remove what the last scene left, and make the folder. Raises OSError."""
    note = folder / ELSEWHERE
    if note.is_file() and (other := Path(note.read_text())).name.startswith("smartmail-demo-"):
        shutil.rmtree(other, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)


def _server(board: Board, stack: ExitStack, folder: Path) -> tuple[Dovecot | None, Mail]:
    """Dovecot, where it is installed, with the mail that it serves. Raises OSError."""
    mail, server = Mail(folder / "mail"), None
    try:
        place = stack.enter_context(outside(folder))
        server = Dovecot(place, FOLDERS)
        if os.geteuid() == 0:
            # The mail's own user must get there, and our folder is closed to others.
            mail = Mail(place / "mail")
        mail.fill()
        stack.callback(server.stop)
        server.start(mail.root)
    except NoDovecot as error:
        board.line("left out", f"the live mailbox: {error}", "yellow")
        if server is None:
            mail.fill()
        return None, mail
    return server, mail


def _play(folder: Path, board: Board) -> None:
    """All of it, to the end. Raises what the backup raises."""
    head(board.console, "The backup", "three mailboxes; one is deleted, and brought back")
    with ExitStack() as stack:
        with board.console.status("delivering mail"):
            server, mail = _server(board, stack, folder)
        rows = [
            (one, ", ".join(f"{name} {count}" for name, count in folders.items()), sum(folders.values()))
            for one, folders in FOLDERS.items()
        ]
        board.table(("mailbox", "its folders", "messages"), rows)
        file = configure(folder, mail, str(server.doveadm) if server else "doveadm")

        async def play() -> None:
            context = typer.Context(typer.main.get_command(app), obj=Globals(file))
            stack.enter_context(context)
            async with working(context) as work:
                await Scene(folder, board, mail, server, work).play()

        asyncio.run(play())


def _restic(folder: Path) -> str:
    """Why restic cannot be used; "" if it can."""
    try:
        asyncio.run(find_restic(Settings(folder / "state" / "cache")))
    except ResticError as error:
        return str(error)
    return ""


def main() -> int:
    """Play it. Returns the exit code."""
    bring = Bring(**json.loads(sys.stdin.read()))
    # They would go before what our own configuration says.
    for name in [one for one in os.environ if one.startswith("SMARTMAIL_")]:
        del os.environ[name]
    board, folder = Board(make_console()), Path(bring.folder).absolute()
    emptied(folder)
    lacking = _restic(folder)
    if lacking:
        head(board.console, "The backup", "left out")
        board.console.print(Text(f"This scene is played with restic: {lacking}", "yellow"), soft_wrap=True)
        return ExitCode.OK
    began = time.monotonic()
    with (folder / "backup.log").open("wb", buffering=0) as stream:
        log = events.configure(stream=stream)
        try:
            _play(folder, board)
        except (
            VaultError,
            ResticError,
            RestoreError,
            PointNotFound,
            StoreError,
            CliError,
            imaplib.IMAP4.error,
            OSError,
        ) as error:
            board.wrong.append(f"the scene broke off: {error}")
        finally:
            log.close()
    _end_of(board, folder, bring.command, time.monotonic() - began)
    return ExitCode.FOUND_BAD if board.wrong else ExitCode.OK


def _end_of(board: Board, folder: Path, command: str, seconds: float) -> None:
    for one in board.wrong:
        board.console.print(Text(f"not as it should be: {one}", "bold red"), soft_wrap=True)
    if board.wrong:
        return
    board.console.print()
    board.console.print(Text(f"The mailbox is back, whole. {seconds:.1f} s", "green"))
    head(board.console, "Look closer")
    config = near(folder / "smartmail.toml")
    for words in ("points", "status", f"restore {CLEO} --into archive --target {folder}/cleo.zip --dry-run"):
        board.console.print(Text(f"{command} --config {config} backup {words}", "yellow"), soft_wrap=True)


def _end(_signal: int, _frame: object) -> None:
    # Ctrl-C comes twice: from the terminal, and from the relay, which ends its scenes. What is tidied up goes on.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
