"""The mail that `ops/bench backup` backs up: 500 mailboxes of 1,000 messages, always the same, made from a seed.

    python -m benchmarks.backup_data FOLDER MESSAGES PART PARTS UID GID

makes each PARTS-th mailbox, as this user.
"""

import base64
import os
import random
import string
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

SEED: Final = 20261124
PER_MAILBOX: Final = 1_000
NEWEST: Final = 1_795_000_000
"""Epoch seconds: every message is older, so that no run takes a folder for one that changed meanwhile."""
SPAN: Final = 2 * 365 * 86_400
SMALLEST: Final = 512
TIMES: Final = 16
"""Sizes are spread evenly by their logarithm from SMALLEST to so many times that: 0.5 to 8 KiB, 2.7 KiB on average."""
FOLDERS: Final = (("", 0.60), (".Sent", 0.20), (".Archive.2025", 0.12), (".Trash", 0.05), (".Junk", 0.03))
"""Maildir++ folders, and which share of a mailbox's messages is in each."""
UNSEEN: Final = 0.03
"""Share of INBOX that is in new/."""
FLAGS: Final = ("S", "S", "S", "S", "RS", "FS", "", "ST")
DOMAINS: Final = ("example.com", "example.net", "example.org", "mail.example.com", "shop.example.net")
NAMES: Final = ("anna", "ben", "carla", "david", "emma", "felix", "grace", "henry", "ida", "jonas")
POOL: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder of Maildirs, as Dovecot's mail_location maildir:%d/%n/Maildir has them."""

    folder: Path
    messages: int

    @property
    def mailboxes(self) -> int:
        """How many."""
        return -(-self.messages // PER_MAILBOX)

    @property
    def layout(self) -> str:
        """As a job of ours names it."""
        return f"{self.folder}/{{domain}}/{{local}}/Maildir"

    def address(self, number: int) -> str:
        """Whose the mailbox is."""
        return f"{NAMES[number % len(NAMES)]}.{number:03}@{DOMAINS[number % len(DOMAINS)]}"

    def maildir(self, number: int) -> Path:
        """Where it is."""
        local, _, domain = self.address(number).partition("@")
        return self.folder / domain / local / "Maildir"

    def size(self, number: int) -> int:
        """How many messages a mailbox has: 1,000, the last one what is left."""
        return min(PER_MAILBOX, self.messages - number * PER_MAILBOX)

    def files(self, number: int) -> Iterator[Path]:
        """The messages that are in a mailbox now."""
        for kind in ("cur", "new"):
            yield from self.maildir(number).glob(f"{kind}/*")
            yield from self.maildir(number).glob(f".*/{kind}/*")

    def make(self, number: int) -> None:
        """Write a mailbox with all of its messages."""
        spread = random.Random(f"{SEED}:{number}")
        home = self.maildir(number)
        left, serial = self.size(number), 0
        for name, share in reversed(FOLDERS):
            count = left if not name else round(self.size(number) * share)
            left -= count
            folder = home / name if name else home
            for kind in ("cur", "new", "tmp"):
                (folder / kind).mkdir(mode=0o700, parents=True)
            if name:
                (folder / "maildirfolder").touch(mode=0o600)
            unseen = 0 if name else round(count * UNSEEN)
            for index in range(count):
                serial += 1
                write(folder, self.address(number), number * PER_MAILBOX + serial, spread, new=index < unseen)
        (home / "subscriptions").write_text("".join(f"{name[1:]}\n" for name, _ in FOLDERS if name))

    def deliver(self, count: int) -> int:
        """Put new messages into INBOXes, one after the other, as an MDA would. Returns their octets."""
        spread = random.Random(f"{SEED}:delivered")
        owner = self.folder.stat()
        total = 0
        for index in range(count):
            number = index % self.mailboxes
            home, address, serial = self.maildir(number), self.address(number), self.messages + index
            file = write(home, address, serial, spread, new=True, at=int(time.time()))
            os.chown(file, owner.st_uid, owner.st_gid)
            total += os.path.getsize(file)
        return total


def write(home: Path, address: str, serial: int, spread: random.Random, *, new: bool, at: int = 0) -> str:
    """Write one message into a folder. at: when it came (epoch seconds), 0: within two years before NEWEST. Returns its
    path."""
    at = at or NEWEST - int(SPAN * spread.random())
    octets = message(address, serial, at, spread)
    kind, flags = ("new", "") if new else ("cur", f":2,{spread.choice(FLAGS)}")
    path = f"{home}/{kind}/{at}.M{serial % 1_000_000:06}P{1000 + serial % 31_000}.mx1,S={len(octets)}{flags}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, octets)
        os.utime(descriptor, (at, at))
    finally:
        os.close(descriptor)
    return path


def message(address: str, serial: int, at: int, spread: random.Random) -> bytes:
    """One mail: text, every fourth with base64 as of an attachment. No two are alike."""
    sender = f"{spread.choice(NAMES)}@{spread.choice(DOMAINS)}"
    head = (
        f"Return-Path: <{sender}>\r\nDelivered-To: {address}\r\n"
        f"Received: from mx.example.org (mx.example.org [192.0.2.{serial % 254 + 1}])\r\n"
        f"\tby mx1.example.net with ESMTPS id {serial:010X}; {_date(at)}\r\n"
        f"From: <{sender}>\r\nTo: <{address}>\r\nSubject: message {serial}\r\n"
        f"Message-ID: <{serial}.{at}@{sender.partition('@')[2]}>\r\nDate: {_date(at)}\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    ).encode()
    size = max(int(SMALLEST * TIMES ** spread.random()), len(head) + 16)
    pool = _pools()[serial % 4 == 0]
    begin = spread.randrange(POOL - SMALLEST * TIMES)
    return head + pool[begin : begin + size - len(head) - 2] + b"\r\n"


def _date(at: int) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(at))


@cache
def _pools() -> tuple[bytes, bytes]:
    """What bodies are cut from: words in lines, and base64 in lines."""
    spread = random.Random(SEED)
    words = ["".join(spread.choices(string.ascii_lowercase, k=spread.randint(2, 11))) for _ in range(4_000)]
    lines: list[str] = []
    octets = 0
    while octets < POOL:
        lines.append(" ".join(spread.choices(words, k=10))[:74])
        octets += len(lines[-1]) + 2
    coded = base64.b64encode(spread.randbytes(POOL))
    rows = [coded[one : one + 76] for one in range(0, len(coded), 76)]
    return "\r\n".join(lines).encode()[:POOL], b"\r\n".join(rows)[:POOL]


def main(folder: Path, messages: int, part: int, parts: int, uid: int, gid: int) -> None:
    """Make a part of the mailboxes."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    tree = Tree(folder, messages)
    for number in range(part, tree.mailboxes, parts):
        tree.make(number)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(word) for word in sys.argv[2:7]))
