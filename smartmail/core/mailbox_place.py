"""Where mailboxes are: an address -> the path of its Maildir, and a path -> whose it is.

A layout is a path with {domain} and {local} in it, as Dovecot's mail_location has %d and %n:
/srv/vmail/{domain}/{local}/Maildir. Folders are those of Maildir++ (".Sent", ".Archive.2026"), in modified UTF-7.
"""

import base64
import re
from dataclasses import dataclass
from typing import Final

from smartmail.core.maildir import escaped

INBOX: Final = "INBOX"
_PART: Final = r"[^/\0]{1,255}"
_SHIFTED: Final = re.compile(r"&([A-Za-z0-9+,]*)-")


class LayoutError(ValueError):
    """This is no layout; the message says why."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Raises LayoutError unless it is an absolute path that names {domain} and {local} once each, whole parts."""

    template: str

    def __post_init__(self) -> None:
        parts = self.template.split("/")
        if not self.template.startswith("/") or "" in parts[1:] or {".", ".."} & set(parts):
            raise LayoutError(f"{self.template!r} is no absolute path")
        if parts.count("{domain}") != 1 or parts.count("{local}") != 1 or self.template.count("{") != 2:
            raise LayoutError(f"{self.template!r} must have {{domain}} and {{local}} once, each between slashes")

    def maildir(self, address: str) -> str:
        """The Maildir of an address. Raises LayoutError for what cannot be part of a path."""
        local, found, domain = address.rpartition("@")
        if not found or not _fits(local) or not _fits(domain):
            raise LayoutError(f"{address!r} is no address of a mailbox")
        return self._filled(domain, local)

    def pattern(self) -> str:
        """restic's pattern of all Maildirs: for `maildir.exclusions`, and for glob."""
        return "/".join("*" if part in ("{domain}", "{local}") else escaped(part) for part in self.template.split("/"))

    def address(self, path: str) -> str:
        """Whose mailbox a path is in or at; "" if in none."""
        found = _matcher(self.template).match(path)
        return f"{found['local']}@{found['domain']}" if found else ""

    def folder(self, path: str) -> str:
        """Which folder, as users know it (INBOX, Sent, Archive/2026), a Maildir folder's path (".../Maildir/.Sent", the
        part before cur/) is; "" if it is none of a mailbox of ours."""
        found = _matcher(self.template).match(path)
        rest = path[found.end() :].strip("/") if found else "?"
        if "/" in rest or (rest and not rest.startswith(".")):
            return ""
        return "/".join(decoded(part) for part in rest[1:].split(".")) if rest else INBOX

    def _filled(self, domain: str, local: str) -> str:
        filled = {"{domain}": domain, "{local}": local}
        return "/".join(filled.get(part, part) for part in self.template.split("/"))


def folder_name(folder: str) -> str:
    """The name on disk of a folder as users know it: "" for INBOX, else ".Archive.2026"."""
    if folder.upper() == INBOX or not folder:
        return ""
    return "".join(f".{encoded(part)}" for part in folder.split("/"))


def decoded(name: str) -> str:
    """From modified UTF-7 (RFC 3501, section 5.1.3); what is none stays as it is."""

    def shifted(found: re.Match[str]) -> str:
        text = found[1].replace(",", "/")
        if not text:
            return "&"
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4)).decode("utf-16-be")
        except ValueError:
            return found[0]

    return _SHIFTED.sub(shifted, name)


def encoded(name: str) -> str:
    """Into modified UTF-7."""

    def shift(found: re.Match[str]) -> str:
        octets = base64.b64encode(found[0].encode("utf-16-be", "surrogatepass"))
        return f"&{octets.decode().rstrip('=').replace('/', ',')}-"

    return re.sub(r"[^\x20-\x7e]+", shift, name.replace("&", "&-"))


def _matcher(template: str) -> re.Pattern[str]:
    return re.compile(
        "/".join(
            f"(?P<{part[1:-1]}>{_PART})" if part in ("{domain}", "{local}") else re.escape(part)
            for part in template.split("/")
        )
        + r"(?=/|\Z)"
    )


def _fits(part: str) -> bool:
    return bool(re.fullmatch(_PART, part)) and part not in (".", "..")
