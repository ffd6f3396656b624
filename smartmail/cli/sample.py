"""The sample account of the embedded start: its file, and having it made.

The store's side is `smartmail.cli.people`, run as a process of its own: SQLAlchemy would make the relay's process
35 MB larger for its whole life.
"""

import asyncio
import json
import os
import secrets
import string
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from smartmail.cli.common import CliError, ExitCode

SAMPLE_DOMAIN = "sample.example"
SAMPLE_LOGIN = f"ann@{SAMPLE_DOMAIN}"
SAMPLE_FILE = "sample-account"
"""In data_dir: login and password, mode 0600. It is what counts: an account that has another password gets this one
only when the file is new."""

DEMO_DOMAIN = "demo.example"
SMALL_QUOTA = 5
"""Messages in a minute, of the demo account that tries more."""

_LETTERS = string.ascii_letters + string.digits
_PASSWORD_LENGTH = 20
"""119 bits, and not a character that a shell minds: the password is part of commands to paste."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The sample account's login and password."""

    login: str
    password: str


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made. url: of the store. sample: make this account. new_password: set it also if the account
    exists. demo_password: make the demo's accounts, all with this password; "" makes none."""

    url: str
    sample: Sample | None = None
    new_password: bool = False
    demo_password: str = ""


def make_password() -> str:
    """Letters and digits."""
    return "".join(secrets.choice(_LETTERS) for _ in range(_PASSWORD_LENGTH))


def read_sample(data_dir: Path) -> Sample | None:
    """What the last start wrote; None where there is nothing, or nothing that makes sense. Raises OSError."""
    file = data_dir / SAMPLE_FILE
    try:
        lines = file.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return None
    file.chmod(0o600)
    values = dict(line.split(": ", 1) for line in lines if ": " in line)
    found = Sample(values.get("login", ""), values.get("password", ""))
    return found if found.login == SAMPLE_LOGIN and found.password else None


def write_sample(data_dir: Path, sample: Sample) -> None:
    """All of it or nothing, and never readable by others. Raises OSError."""
    file = data_dir / SAMPLE_FILE
    part = file.with_name(f".{SAMPLE_FILE}.{secrets.token_hex(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(f"login: {sample.login}\npassword: {sample.password}\n")
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


async def provision(order: Order) -> int:
    """Have a child process carry it out. Returns the number of the newest change: the relay's directory holds what
    was made once its version is at least that. Raises CliError."""
    # The URL and the passwords go by standard input: an argument list is there for all to read.
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "smartmail.cli.people",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, complaint = await child.communicate(json.dumps(asdict(order)).encode())
    finally:
        if child.returncode is None:
            child.kill()
    if child.returncode != 0:
        reason = complaint.decode("utf-8", "replace").strip() or f"exit status {child.returncode}"
        raise CliError(reason, where="sample accounts", code=ExitCode.FOUND_BAD)
    return int(said)
