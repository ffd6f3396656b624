"""Where mailboxes are: an address -> the path of its Maildir, and a path -> whose it is.

A layout is a path with {domain} and {local} in it, as Dovecot's mail_location has %d and %n:
/srv/vmail/{domain}/{local}/Maildir. A job of one customer's domain alone has {domain=example.com} there, so that it can
have a repository, and a key, of its own. Folders are those of Maildir++ (".Sent", ".Archive.2026"), in modified UTF-7.
"""

import base64
import re
from dataclasses import dataclass
from functools import cache
from typing import Final

INBOX: Final = "INBOX"
MAX_NAME: Final = 255
"""Octets of one part of a path, on every file system of Linux."""
_NOT_IN_NAMES: Final = re.compile(r"[\x00-\x1f\x7f/]")
_SHIFTED: Final = re.compile(r"&([A-Za-z0-9+,]*)-")
_MAGIC: Final = re.compile(r"([*?\[\\])")
_FIXED: Final = re.compile(r"\{domain=([A-Za-z0-9._-]{1,253})\}\Z")


class LayoutError(ValueError):
    """This is no layout, or nothing that has a place in one; the message says why."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Raises LayoutError unless it is an absolute path that names {domain} (or {domain=NAME}) and {local} once each,
    whole parts."""

    template: str

    def __post_init__(self) -> None:
        parts = self.template.split("/")
        plain = self.template.startswith("/") and "\0" not in self.template
        if not plain or "" in parts[1:] or {".", ".."} & set(parts):
            raise LayoutError(f"{self.template!r} is no absolute path without . and .. and a slash at its end")
        domains = sum(part == "{domain}" or _fixed(part) != "" for part in parts)
        if domains != 1 or parts.count("{local}") != 1 or self.template.count("{") != 2:
            raise LayoutError(f"{self.template!r} must have {{domain}} and {{local}} once, each between slashes")

    def maildir(self, address: str) -> str:
        """The Maildir of an address. Raises LayoutError for what cannot be part of a path."""
        local, found, domain = address.rpartition("@")
        if not found or not _fits(local) or not _fits(domain):
            raise LayoutError(f"{address!r} is no address of a mailbox")
        if any(name not in ("", domain) for name in map(_fixed, self.template.split("/"))):
            raise LayoutError(f"{address!r} has no mailbox in {self.template}")
        filled = {"{domain}": domain, "{local}": local}
        return "/".join(filled.get(part, _fixed(part) or part) for part in self.template.split("/"))

    def parts(self) -> tuple[str | None, ...]:
        """The parts of its path after the first slash; None for one that any name stands in."""
        named = self.template.split("/")[1:]
        return tuple(None if part in ("{domain}", "{local}") else _fixed(part) or part for part in named)

    def owned(self) -> int:
        """How many of the parts come before the first that belongs to a domain or a mailbox."""
        return next(
            number for number, part in enumerate(self.template.split("/")[1:]) if part.startswith(("{domain", "{local"))
        )

    def pattern(self) -> str:
        """The pattern of all Maildirs, for `maildir.exclusions`, restic's excludes and Python's glob alike."""
        # A backslash before it would do for restic, and is a plain character to glob.
        return "".join(f"/{'*' if part is None else _MAGIC.sub(_in_brackets, part)}" for part in self.parts())

    def address(self, path: str) -> str:
        """Whose mailbox a path is in or at; "" if in none."""
        return self._owner(path)[0]

    def folder(self, path: str) -> str:
        """Which folder, as users know it (INBOX, Sent, Archive/2026), a Maildir folder's path (".../Maildir/.Sent", the
        part before cur/) is; "" if it is none of a mailbox of ours."""
        owner, inside = self._owner(path)
        if not owner or "/" in inside or (inside and not inside.startswith(".")):
            return ""
        parts = inside[1:].split(".")
        if "\0" in inside or (inside and "" in parts):
            return ""
        return "/".join(decoded(part) for part in parts) if inside else INBOX

    def _owner(self, path: str) -> tuple[str, str]:
        """Whose mailbox, and the rest of the path within it; "" and "" for no mailbox."""
        found = _matcher(self.template).match(path)
        if not found or not _fits(found["local"]) or not _fits(found["domain"]):
            return "", ""
        inside = path[found.end() :].strip("/")
        # With an "@" the domain's folder would be that of another address; ".." leads out of the mailbox.
        if "@" in found["domain"] or (".." in inside and ".." in inside.split("/")):
            return "", ""
        return f"{found['local']}@{found['domain']}", inside


def folder_name(folder: str) -> str:
    """The name on disk of a folder as users know it: "" for INBOX, else ".Archive.2026". Both "/" and "." stand between
    its parts. It may be longer than a file system has it. Raises LayoutError for what can be no folder, such as ".." or
    "/etc"; never for what `Layout.folder` gives."""
    if folder.upper() == INBOX or not folder:
        return ""
    parts = re.split(r"[/.]", folder)
    if "" in parts or "\0" in folder:
        raise LayoutError(f"{folder!r} is no name of a folder")
    return "".join(f".{encoded(part)}" for part in parts)


def decoded(name: str) -> str:
    """From modified UTF-7 (RFC 3501, section 5.1.3); what is none stays as it is, so that no two names on disk are one
    to the user."""

    def shifted(found: re.Match[str]) -> str:
        text = found[1].replace(",", "/")
        if not text:
            return "&"
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4)).decode("utf-16-be")
        except ValueError:
            return found[0]

    text = _SHIFTED.sub(shifted, name)
    return text if encoded(text) == name and "\0" not in text else name


def encoded(name: str) -> str:
    """Into modified UTF-7."""

    def shift(found: re.Match[str]) -> str:
        octets = base64.b64encode(found[0].encode("utf-16-be", "surrogatepass"))
        return f"&{octets.decode().rstrip('=').replace('/', ',')}-"

    return re.sub(r"[^\x20-\x7e]+", shift, name.replace("&", "&-"))


@cache
def _matcher(template: str) -> re.Pattern[str]:
    parts = (
        f"(?P<domain>{re.escape(name)})"
        if (name := _fixed(part))
        else f"(?P<{part[1:-1]}>[^/]+)"
        if part in ("{domain}", "{local}")
        else re.escape(part)
        for part in template.split("/")
    )
    return re.compile("/".join(parts) + r"(?=/|\Z)")


def _fixed(part: str) -> str:
    """The name in {domain=NAME}; "" for every other part."""
    found = _FIXED.match(part)
    return found[1] if found else ""


def _in_brackets(found: re.Match[str]) -> str:
    return r"[\\]" if found[0] == "\\" else f"[{found[0]}]"


def _fits(part: str) -> bool:
    """Can it be one part of a path, and of an address?"""
    if not part or part in (".", "..") or _NOT_IN_NAMES.search(part):
        return False
    try:
        return len(part.encode("utf-8", "surrogateescape")) <= MAX_NAME
    except UnicodeEncodeError:
        return False
