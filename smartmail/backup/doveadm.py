"""doveadm, as far as a mailbox's restore needs it: whose files, what is there, what room, and the import itself.

Tried with Dovecot 2.3.19: `import` ends with 0 even when it could not open what it was to read, keeps the base name of
a message's file as its GUID, and looks for no duplicates; so what came is read back afterwards. Only names and GUIDs
are ever fetched, never anything of a message.
"""

import asyncio
import json
import os
import re
import shutil
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from smartmail.backup.process import CHUNK, Patience, Pipe, Process, finish, start, unhurried
from smartmail.core.mailbox_restore import Refusal, RestoreError

_OUT: Final = 256 << 20
_ERR: Final = 1 << 16
_TAIL: Final = 3
_NO_USER: Final = 67
_PATIENCE: Final = Patience(limit_s=3600, interrupt_s=10, terminate_s=5)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_OF_PROCESS: Final = re.compile(r"^doveadm(?:\([^)]*\))?(?:<[^>]*>)*: ?")


# command lines and answers, as plain values


def user_argv(address: str) -> tuple[str, ...]:
    """Look up an account."""
    return ("user", "--", address)


def namespace_argv() -> tuple[str, ...]:
    """The namespaces of the configuration."""
    return ("config", "namespace")


def quota_argv(address: str) -> tuple[str, ...]:
    """How much may be kept."""
    return ("-f", "json", "quota", "get", "-u", address)


def guids_argv(address: str, below: str = "") -> tuple[str, ...]:
    """The GUIDs of all messages, or of those in mailboxes whose names begin with `below`."""
    query = ("mailbox", f"{below}*") if below else ("ALL",)
    return ("-f", "json", "fetch", "-u", address, "--", "mailbox guid", *query)


def import_argv(address: str, maildir: str, parent: str) -> tuple[str, ...]:
    """Put all of a Maildir below the mailbox `parent`, subscribed. Raises ValueError for a path that cannot be told."""
    if ":" in maildir or not maildir.startswith("/"):
        raise ValueError(f"{maildir!r} cannot be told to doveadm")
    source = f"maildir:{maildir}:LAYOUT=maildir++:INDEX=MEMORY"
    return ("import", "-s", "-u", address, "--", source, parent, "ALL")


@dataclass(frozen=True, slots=True)
class Account:
    """Whose files a mailbox is."""

    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class Namespace:
    """Where mailboxes of a user are named. separator: "" if the configuration leaves it to the mailboxes' format."""

    prefix: str = ""
    separator: str = ""


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit. kind: STORAGE in KiB, or MESSAGE."""

    root: str
    kind: str
    value: int
    limit: int


def read_account(text: str) -> Account | None:
    """Of `doveadm user`; None if there is no uid in it."""
    fields = dict(line.split("\t", 1) for line in text.splitlines() if "\t" in line)
    uid, gid = fields.get("uid", ""), fields.get("gid", "")
    if not (uid.isdecimal() and gid.isdecimal()):
        return None
    return Account(int(uid), int(gid), fields.get("home", ""))


def read_namespace(text: str) -> Namespace:
    """Of `doveadm config namespace`: the one that INBOX is in."""
    for block in re.split(r"(?m)^namespace\b", text)[1:]:
        fields = dict(re.findall(r"(?m)^ {2}(\w+) = (.*)$", block))
        if fields.get("inbox") == "yes" and fields.get("type", "private") == "private":
            return Namespace(_unquoted(fields.get("prefix", "")), _unquoted(fields.get("separator", "")))
    return Namespace()


def read_quota(text: str) -> tuple[Quota, ...]:
    """Of `doveadm quota get`: those that have a limit."""
    found = []
    for row in _rows(text):
        value, limit = row.get("value", ""), row.get("limit", "")
        if value.isdecimal() and limit.isdecimal():
            found.append(Quota(row.get("root", ""), row.get("type", ""), int(value), int(limit)))
    return tuple(found)


def read_guids(text: str) -> dict[str, set[str]]:
    """Of `doveadm fetch`: mailbox -> GUIDs."""
    found: dict[str, set[str]] = {}
    for row in _rows(text):
        found.setdefault(row.get("mailbox", ""), set()).add(row.get("guid", ""))
    return found


def by_folder_below(guids: Mapping[str, set[str]], parent: str, separator: str) -> dict[str, set[str]]:
    """The mailboxes below `parent` by the folders that they were made of: "Restored X/Archive/2026" -> "Archive/2026".
    separator: "" for any that mail servers use."""
    found: dict[str, set[str]] = {}
    for mailbox, names in guids.items():
        rest = mailbox.removeprefix(parent)
        if rest != mailbox and rest[:1] and rest[0] in (separator or "./\\"):
            found.setdefault("/".join(rest[1:].split(rest[0])), set()).update(names)
    return found


def too_much(quotas: Iterable[Quota], messages: int, octets: int) -> Quota | None:
    """The limit that so much more would break; None if there is none."""
    more = {"STORAGE": -(-octets // 1024), "MESSAGE": messages}
    return next((one for one in quotas if one.value + more.get(one.kind, 0) > one.limit), None)


def _rows(text: str) -> list[dict[str, str]]:
    try:
        found = json.loads(text or "[]")
    except (ValueError, RecursionError):
        raise RestoreError(Refusal.MAIL_SERVER, "doveadm's answer cannot be read") from None
    rows = found if isinstance(found, list) else []
    return [{str(key): str(value) for key, value in row.items()} for row in rows if isinstance(row, dict)]


def _unquoted(value: str) -> str:
    value = value.strip()
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


# running it


@dataclass(frozen=True, slots=True)
class Answer:
    """One run that has ended."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """The last lines of stderr, fit to be shown."""
        lines = [_CONTROL.sub("?", _OF_PROCESS.sub("", line))[:300] for line in self.err.splitlines() if line.strip()]
        return "; ".join(dict.fromkeys(lines[-_TAIL:])) or f"exit code {self.code}"


class Doveadm:
    """binary: a name or a path. All methods raise RestoreError."""

    def __init__(self, binary: str = "doveadm") -> None:
        self.binary = binary

    async def account(self, address: str) -> Account:
        """Look up an account. NO_ACCOUNT if there is none."""
        answer = await self._run(user_argv(address))
        if answer.code == _NO_USER:
            hint = "make the account first, or restore into a folder or an archive"
            raise RestoreError(Refusal.NO_ACCOUNT, f"the mail server knows no {address}", hint)
        found = read_account(answer.out) if answer.code == 0 else None
        if found is None:
            raise self._failure(f"looking up {address}", answer)
        return found

    async def namespace(self) -> Namespace:
        """Where mailboxes are named; the usual if the configuration cannot be read."""
        answer = await self._run(namespace_argv())
        return read_namespace(answer.out) if answer.code == 0 else Namespace()

    async def quota(self, address: str) -> tuple[Quota, ...]:
        """Its limits; none if the server has no quota."""
        answer = await self._run(quota_argv(address))
        if answer.code and "Unknown command" in answer.err:
            return ()
        if answer.code:
            raise self._failure(f"asking for the quota of {address}", answer)
        return read_quota(answer.out)

    async def guids(self, address: str, below: str = "") -> dict[str, set[str]]:
        """What each of its mailboxes has."""
        answer = await self._run(guids_argv(address, below))
        if answer.code:
            raise self._failure(f"listing the mailboxes of {address}", answer)
        return read_guids(answer.out)

    async def bring(self, address: str, maildir: str, parent: str) -> Answer:
        """The import, however it ends: what came of it is to be looked up."""
        return await self._run(import_argv(address, maildir, parent))

    def _failure(self, what: str, answer: Answer) -> RestoreError:
        return RestoreError(Refusal.MAIL_SERVER, f"{what}: {answer.words}", "look at Dovecot's log")

    async def _run(self, arguments: tuple[str, ...]) -> Answer:
        path = shutil.which(self.binary)
        if path is None:
            hint = "restore into a folder or an archive, or set [backup] doveadm"
            raise RestoreError(Refusal.MAIL_SERVER, f'no "{self.binary}" to run', hint)
        out, err = Pipe(), Pipe()
        kept_out, kept_err = bytearray(), bytearray()
        try:
            await out.open()
            await err.open()
            try:
                process = await start((path, *arguments), _environment(), None, out, err)
            except OSError as error:
                raise RestoreError(Refusal.MAIL_SERVER, f"{path} cannot be started: {error.strerror}") from error
            readers = {
                asyncio.create_task(_drain(out.reader, kept_out, _OUT, cut_front=False)),
                asyncio.create_task(_drain(err.reader, kept_err, _ERR, cut_front=True)),
            }
            await _attend(process, readers)
        finally:
            out.close()
            err.close()
        code = process.returncode if process.returncode is not None else -signal.SIGKILL
        return Answer(code, kept_out.decode(errors="surrogateescape"), kept_err.decode(errors="replace"))


async def _attend(process: Process, readers: set[asyncio.Task[None]]) -> None:
    ended = asyncio.create_task(process.wait())
    try:
        await asyncio.wait((ended,), timeout=_PATIENCE.limit_s)
    finally:
        await unhurried(finish(process, ended, readers, _PATIENCE))


async def _drain(stream: asyncio.StreamReader, kept: bytearray, most: int, *, cut_front: bool) -> None:
    while chunk := await stream.read(CHUNK):
        kept += chunk
        if len(kept) > most:
            if cut_front:
                del kept[:-most]
            else:
                del kept[most:]


def _environment() -> dict[str, str]:
    """All of doveadm's environment. Its mailbox names are UTF-8 whatever the locale."""
    path = os.environ.get("PATH", os.defpath)
    return {"PATH": f"{path}:/usr/sbin:/sbin", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
