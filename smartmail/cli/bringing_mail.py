"""The mail of the backup's scene: three mailboxes, what their users do, and what is in them.

Mail is put there by the embedded upstream's own delivery. Where Dovecot serves it, it does so from the same Maildirs.
"""

import hashlib
import os
import random
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from smartmail.cli.sample import DEMO_DOMAIN
from smartmail.core.mailbox_place import INBOX, Layout, folder_name
from smartmail.intake.maildrop import deliver

ANNA: Final = f"anna@{DEMO_DOMAIN}"
"""She loses her mail."""
BEN: Final = f"ben@{DEMO_DOMAIN}"
"""He reads his while the backup reads it."""
CLEO: Final = f"cleo@{DEMO_DOMAIN}"
FOLDERS: Final = {
    ANNA: {INBOX: 40, "Sent": 25, "Archive/2026": 35},
    BEN: {INBOX: 80, "Sent": 20},
    CLEO: {INBOX: 60},
}
"""How many messages each folder has."""
_FLAGS: Final = {ANNA: ("", "S", "S", "RS", "FS"), BEN: ("",), CLEO: ("S", "")}
"""Of INBOX by turns; a message without one is new. In other folders all are read."""
_HOUR_S: Final = 3600
_WORDS: Final = (
    "bread",
    "order",
    "week",
    "next",
    "please",
    "flour",
    "salt",
    "oven",
    "early",
    "late",
    "thanks",
    "invoice",
)

Contents = dict[str, tuple[str, int]]
"""Path below a Maildir -> SHA-256 of the message, and the time of its reception in seconds."""


@dataclass(frozen=True, slots=True)
class Mail:
    """root: where the mailboxes are."""

    root: Path

    @property
    def layout(self) -> str:
        """As the configuration has it."""
        return f"{self.root}/{{domain}}/{{local}}/Maildir"

    def maildir(self, address: str) -> Path:
        """Of an address."""
        return Path(Layout(self.layout).maildir(address))

    def fill(self) -> None:
        """Deliver all mail, as if over the last weeks. Raises OSError."""
        now_s = int(time.time())
        for address, folders in FOLDERS.items():
            for folder, messages in folders.items():
                for number in range(messages):
                    flags = _FLAGS[address][number % len(_FLAGS[address])] if folder == INBOX else "S"
                    self._deliver(address, folder, number, flags, now_s - (number + 1) * 5 * _HOUR_S)

    def _deliver(self, address: str, folder: str, number: int, flags: str, received_s: int) -> None:
        home = self.maildir(address) / folder_name(folder)
        identifier = secrets.token_hex(8)
        headers = f"Message-ID: <{identifier}@{DEMO_DOMAIN}>\nTo: <{address}>\n".encode()
        deliver(home.parent, [(home.name, headers)], _message(folder, number), identifier)
        (file,) = (home / "new").glob(f"*.{identifier}.*")
        os.utime(file, (received_s, received_s))
        if flags:
            file.rename(home / "cur" / f"{file.name}:2,{flags}")

    def unread(self, address: str) -> list[Path]:
        """The files of the INBOX that nobody has opened."""
        return sorted((self.maildir(address) / "new").iterdir())

    def contents(self, address: str) -> Contents:
        """What is in a mailbox. Raises OSError."""
        return contents(self.maildir(address))

    def lose(self, address: str) -> None:
        """Remove all messages and folders but INBOX, as a mail program does. Raises OSError."""
        maildir = self.maildir(address)
        for folder in FOLDERS[address]:
            if folder != INBOX:
                shutil.rmtree(maildir / folder_name(folder))
        for file in _files(maildir):
            file.unlink()


def contents(maildir: Path) -> Contents:
    """What is in a Maildir. Raises OSError."""
    return {
        str(file.relative_to(maildir)): (hashlib.sha256(file.read_bytes()).hexdigest(), int(file.stat().st_mtime))
        for file in _files(maildir)
    }


def mark_read(file: Path) -> None:
    """As a mail program has it done: the message gets another name in another folder. Raises OSError."""
    file.rename(file.parent.with_name("cur") / f"{file.name}:2,S")


def _files(maildir: Path) -> Iterator[Path]:
    for kind in ("cur", "new"):
        yield from maildir.glob(f"{kind}/*")
        yield from maildir.glob(f".*/{kind}/*")


def _message(folder: str, number: int) -> bytes:
    words = " ".join(random.choices(_WORDS, k=random.randrange(50, 400)))  # noqa: S311 - only to have sizes differ
    return f"From: <customer{number}@elsewhere.example>\nSubject: {folder} {number}\n\n{words}\n".encode()
