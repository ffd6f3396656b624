"""What the verbs that change something share: who does it, show the plan, ask, apply; passwords; times and
dates."""

import getpass
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from sqlalchemy import Connection

from smartmail.cli.common import CliError, ExitCode, console
from smartmail.store.moves import Move, apply_moves
from smartmail.store.records import Act, Axis, StandingChange

if TYPE_CHECKING:
    from smartmail.store.database import Database

Reason = Annotated[str, typer.Option("--reason", help="Why: kept as evidence.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
OnlyAxis = Annotated[
    Axis | None, typer.Option("--axis", help="Which hold to lift, where there are two.", show_default=False)
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(help="Read the password from the first line of this file; - is standard input.", show_default=False),
]
Generate = Annotated[bool, typer.Option("--generate", help="Make a password and print it, once.")]

_GENERATED_OCTETS = 15
"""120 bits: 20 characters."""


def now_ns() -> int:
    """The clock of the command line."""
    return time.time_ns()


def who() -> str:
    """Who answers for it: the login name, behind sudo the one who called it."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return f"uid {os.getuid()}"


def act(reason: str = "") -> Act:
    """The act of whoever runs this command, now."""
    return Act(who(), reason, now_ns())


def carry_out(
    database: "Database",
    plan: Callable[[Connection], tuple[Sequence[Move], Sequence[str]]],
    reason: str,
    *,
    dry_run: bool,
    yes: bool,
) -> None:
    """Plan, print, ask, apply. plan: reads the moves and some lines on their consequences.

    Raises CliError when there is nobody to ask, and when the answer is no.
    """
    if not reason.strip():
        raise CliError("a change of standing needs a reason", remedy="give --reason TEXT", code=ExitCode.USAGE)
    with database.read() as connection:
        moves, consequences = plan(connection)
    if not moves:
        say("nothing to do: it stands there already")
        return
    for line in (*map(str, moves), *consequences):
        say(line)
    if dry_run:
        say("dry run: nothing was done")
        return
    if not yes:
        ask()
    with database.write() as connection:
        apply_moves(connection, moves, act(reason))
    say("done; running relays hear of it within a second")


def ask() -> None:
    """Raises CliError unless the answer is yes."""
    try:
        agreed = typer.confirm("Do it?")
    except typer.Abort:
        raise CliError(
            "nobody answered, nothing was done", remedy="give --yes to do without", code=ExitCode.USAGE
        ) from None
    if not agreed:
        raise CliError("nothing was done", remedy="the answer was no")


def say(text: str) -> None:
    """A line for the operator."""
    console().print(text, soft_wrap=True)


def read_password(password_file: Path | None, *, generate: bool) -> tuple[str, bool]:
    """The new password, and whether it was made here and must be shown. Never from the argument list.

    Raises CliError for both options at once, an unreadable file, or nobody to ask.
    """
    if generate and password_file is not None:
        raise CliError("--generate and --password-file exclude each other", code=ExitCode.USAGE)
    if generate:
        return secrets.token_urlsafe(_GENERATED_OCTETS), True
    if password_file is not None:
        return _first_line(password_file), False
    try:
        return typer.prompt("Password", hide_input=True, confirmation_prompt=True), False
    except typer.Abort:
        raise CliError(
            "no password was given", remedy="use --password-file FILE or --generate", code=ExitCode.USAGE
        ) from None


def _first_line(path: Path) -> str:
    try:
        text = sys.stdin.readline() if str(path) == "-" else path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CliError(
            f"the password file cannot be read: {reason}",
            where=str(path),
            remedy="name a readable file with the password on its first line",
            code=ExitCode.USAGE,
        ) from error
    return text.partition("\n")[0].removesuffix("\r")


def stamp(at_ns: int | None) -> str:
    """A time for people: UTC, to the second."""
    if at_ns is None:
        return ""
    return datetime.fromtimestamp(at_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def parse_span(text: str) -> int:
    """ "90", "90s", "15m", "2h", "7d" -> seconds. Raises CliError."""
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, "s")
    if not number.isascii() or not number.isdecimal() or len(number) > 9:
        raise CliError(f"{text!r} is no length of time", remedy="write 90s, 15m, 2h or 7d", code=ExitCode.USAGE)
    return int(number) * _UNITS[unit]


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_since(text: str, now: int) -> int:
    """A length of time back from `now` (nanoseconds), or a date or time in ISO 8601 (UTC if it names no zone)
    -> nanoseconds. Raises CliError."""
    if text[-1:] in _UNITS and text[:-1].isdecimal():
        return now - parse_span(text) * 10**9
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(
            f"{text!r} is no time", remedy="write 2h, 7d, 2026-11-23 or 2026-11-23T14:00", code=ExitCode.USAGE
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 10**9


def parse_day(text: str) -> date:
    """A date in ISO 8601. Raises CliError."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise CliError(f"{text!r} is no date", remedy="write 2026-11-23", code=ExitCode.USAGE) from None


def change_rows(changes: Sequence[StandingChange]) -> list[tuple[object, ...]]:
    """Evidence as rows of a table: when, axis, from, to, reason, who."""
    return [
        (stamp(one.at_ns), one.axis.value, f"{one.from_state} -> {one.to_state}", one.reason, one.who)
        for one in changes
    ]


def change_dicts(changes: Sequence[StandingChange]) -> list[dict[str, object]]:
    """Evidence for JSON."""
    return [asdict(one) for one in changes]


def one_axis(moves: Sequence[Move], axis: Axis | None) -> tuple[Move, ...]:
    """Of the moves that lift holds, those on `axis`. Raises CliError when there are two and none was
    named: who has paid must not by that come back from being closed for spam."""
    if axis is None and len({move.axis for move in moves}) > 1:
        listed = "; ".join(map(str, moves))
        raise CliError(f"two things hold it: {listed}", remedy="say which with --axis", code=ExitCode.USAGE)
    return tuple(move for move in moves if axis is None or move.axis is axis)


CHANGE_COLUMNS = ("when", "axis", "change", "reason", "who")
