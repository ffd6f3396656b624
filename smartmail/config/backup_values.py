"""The kinds of values that the backup's part of the file holds: times, keep rules, addresses of repositories, commands.

Text in, the same text out if it can be used; what it becomes for the core is made here as well.
"""

import os
import re
from collections.abc import Mapping
from datetime import time
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationInfo, WithJsonSchema

from smartmail.config.values import resolved, wrong
from smartmail.core.mailbox_place import Layout, LayoutError
from smartmail.core.restic import VARIABLES, CommandError, Repository, redacted
from smartmail.core.retention import KeepRule, RuleError, parse_rules

BACKENDS: Final = ("sftp", "rest", "s3", "b2", "azure", "gs", "swift", "rclone")
KEEP_ALL: Final = "all"
WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_NOT_PLACES: Final = frozenset(("AWS_PROFILE", "AWS_DEFAULT_REGION"))
_TIME: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])\Z")
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}\Z")
_UNUSED: Final = re.compile(r"(?:[0-9]{1,2}%|100%|[0-9]{1,9}[KMGT]?|unlimited)\Z")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def time_of(text: str) -> time:
    """ "02:30" as a time of the day. Raises ValueError."""
    found = _TIME.match(text)
    if found is None:
        raise ValueError(f"{text!r} is no time")
    return time(int(found[1]), int(found[2]))


def is_local(location: str) -> bool:
    """Is a checked address of a repository a folder of this machine?"""
    return location.startswith("/")


def keep_rules(keep: Mapping[str, object] | str) -> tuple[KeepRule, ...] | None:
    """What checked `keep` says; None: nothing is ever forgotten."""
    return parse_rules(keep) if isinstance(keep, Mapping) else None


def lies_in(path: str, folder: str) -> bool:
    """Is an absolute path below a folder, or the folder itself?"""
    top = folder.rstrip("/")
    return path == (top or "/") or path.startswith(f"{top}/")


def _time_text(text: str) -> str:
    if not _TIME.match(text):
        raise wrong(f"{text!r} is no time of the day", 'for example "02:30"')
    return text


def _snapshot_host(text: str) -> str:
    if text and not _HOST.match(text):
        raise wrong(f"{text!r} is no host name", 'for example "mx1.example.com"')
    return text


def _program(text: str) -> str:
    if not text or _CONTROL.search(text) or text.startswith("-") or ("/" in text and not text.startswith("/")):
        raise wrong(f"{text!r} is no program", 'its name, or its absolute path: "/usr/bin/restic"')
    return text


def _absolute(text: str) -> str:
    path = text.rstrip("/") or text[:1]
    if not path.startswith("/") or _CONTROL.search(path) or path != os.path.normpath(path):
        raise wrong(f"{text!r} is no absolute path without . and ..", 'for example "/srv/vmail"')
    return path


def _layout(text: str) -> str:
    place = text if text == "/" else text.rstrip("/")
    try:
        if place:
            Layout(place)
    except LayoutError as error:
        raise wrong(str(error), 'for example "/srv/vmail/{domain}/{local}/Maildir"') from None
    return place


def _exclude(text: str) -> str:
    if not text.strip("/* ") or _CONTROL.search(text) or text != text.strip() or text.startswith(("!", "#")):
        reason = f"{text!r} would leave out everything, or is no pattern of one line"
        raise wrong(reason, 'for example "/etc/ssl/certs" or "*.tmp"')
    return text


def _doveadm_user(text: str) -> str:
    if not text or _CONTROL.search(text) or text.startswith("-"):
        raise wrong(f"{text!r} is no pattern of users", 'for example "*@example.com"')
    return text


def _database(text: str) -> str:
    if redacted(text) != text or "password=" in text:
        raise wrong("holds a password, in a file that many may read", 'put it into ~/.pgpass: "service=mail" or "mail"')
    if _CONTROL.search(text) or text.startswith("-"):
        raise wrong(f"{text!r} is no database", 'its name, or "service=mail"')
    return text


def _location(text: str, info: ValidationInfo) -> str:
    if not text:
        return text
    if _CONTROL.search(text) or text != text.strip():
        raise wrong(f"{redacted(text)!r} is no address of one line", 'for example "/srv/backup/onsite"')
    if redacted(text) != text:
        hint = 'put the address into a file of its own: location_file = "/etc/smartmail/offsite.location"'
        raise wrong("holds a password, in a file that many may read", hint)
    backend, colon, rest = text.partition(":")
    if not colon or "/" in backend or backend == "local":
        place = rest if backend == "local" and colon else text
        return os.path.normpath(resolved(Path(place), info))
    if backend not in BACKENDS:
        known = ", ".join(f"{one}:" for one in BACKENDS)
        raise wrong(f"restic has no backend {backend!r}", f"known: {known}; or a path: /srv/backup/onsite")
    if not rest or (backend == "rest" and not rest.startswith(("https://", "http://"))):
        raise wrong(f"{text!r} is not whole", _LOCATIONS.get(backend, "see restic's manual"))
    return text


_LOCATIONS: Final = {
    "rest": 'for example "rest:https://backup.example.net/mx1/"',
    "sftp": 'for example "sftp:smartmail@backup.example.net:/srv/mx1"',
    "s3": 'for example "s3:https://s3.example.net/mx1"',
}


def _clock(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = not text or (parts.scheme in ("http", "https") and parts.hostname and parts.username is None)
    except ValueError:
        usable = False
    if not usable or _CONTROL.search(text) or " " in text:
        raise wrong(
            f"{redacted(text)!r} is no URL to read a Date header from", 'for example "https://www.example.net/"'
        )
    return text


def _option(text: str) -> str:
    if redacted(text) != text:
        raise wrong("an option holds a password, in a file that many may read", "name a file that holds it")
    try:
        Repository("", "/", "/", options=(text,))
    except CommandError:
        raise wrong(f"{text!r} is no option of restic", 'for example "rest.connections=8"') from None
    return text


def _unused(text: str) -> str:
    if not _UNUSED.match(text):
        raise wrong(f"{text!r} is no share or size", 'for example "5%", "10G" or "unlimited"')
    return text


def _keep(value: object) -> dict[str, object] | str:
    if value == KEEP_ALL:
        return KEEP_ALL
    example = "keep = { daily = 14, weekly = 8, monthly = 12 }"
    if not isinstance(value, dict):
        raise wrong(f'must be a table of rules, or "{KEEP_ALL}"', f"for example {example}")
    try:
        parse_rules(value)
    except RuleError as error:
        raise wrong(error.message, error.hint or f"for example {example}") from None
    return dict(value)


def _variables(value: object) -> object:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise wrong("must be a table of texts", 'for example variables = { AWS_PROFILE = "backup" }')
    for name, text in value.items():
        if name not in VARIABLES:
            reason = f"{name} is no variable that may be set"
            raise wrong(reason, f"secrets stand in files that these name: {', '.join(sorted(VARIABLES))}")
        if not text or _CONTROL.search(text) or (name not in _NOT_PLACES and not text.startswith("/")):
            kind = "a text of one line" if name in _NOT_PLACES else "the absolute path of a file"
            raise wrong(f"{name} must be {kind}")
    return value


def _commands(value: object) -> object:
    example = 'each is a list of words: [["zfs", "snapshot", "tank/mail@backup"]]'
    if not isinstance(value, list | tuple):
        raise wrong("must be a list of commands", example)
    for command in value:
        words = command if isinstance(command, list | tuple) else []
        if not words or not all(isinstance(word, str) and "\0" not in word for word in words) or not words[0].strip():
            raise wrong(f"{command!r} is no command", example)
        if len(words) == 1 and " " in words[0]:
            raise wrong(f"{words[0]!r} is one word: no shell takes it apart", example)
    return value


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
OptionalName = Annotated[str, Field(pattern=r"^(?:[a-z0-9][a-z0-9_-]{0,31})?$")]
TimeOfDay = Annotated[str, AfterValidator(_time_text)]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
SnapshotHost = Annotated[str, AfterValidator(_snapshot_host)]
Program = Annotated[str, AfterValidator(_program)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
MailboxLayout = Annotated[str, AfterValidator(_layout)]
Exclude = Annotated[str, AfterValidator(_exclude)]
DoveadmUser = Annotated[str, AfterValidator(_doveadm_user)]
Database = Annotated[str, AfterValidator(_database)]
Location = Annotated[str, AfterValidator(_location)]
Clock = Annotated[str, AfterValidator(_clock)]
ResticOption = Annotated[str, AfterValidator(_option)]
MaxUnused = Annotated[str, AfterValidator(_unused)]
Keep = Annotated[
    dict[str, object] | str, PlainValidator(_keep), WithJsonSchema({"anyOf": [{"type": "object"}, {"const": KEEP_ALL}]})
]
Variables = Annotated[dict[str, str], BeforeValidator(_variables)]
Commands = Annotated[tuple[tuple[str, ...], ...], BeforeValidator(_commands)]
