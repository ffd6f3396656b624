"""A Dovecot of the backup's scene alone, and a mail program that is logged in to it.

Sockets, logs and users are in a short folder of their own, for a socket's path may not be long. It is started as root,
with the mailboxes belonging to `nobody`, or by an ordinary user for himself, without any other user.
"""

import grp
import imaplib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from smartmail.core.mailbox_place import INBOX

START_SECONDS: Final = 10
PATIENCE: Final = 10
_PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
"""Ordinary users often do not have the folders of daemons in theirs."""
_CONF: Final = """\
base_dir = {folder}/run
log_path = {folder}/dovecot.log
ssl = no
protocols = imap
listen = 127.0.0.1
disable_plaintext_auth = no
first_valid_uid = 1
first_valid_gid = 0
mail_location = maildir:~/Maildir
passdb {{
  driver = passwd-file
  args = username_format=%Lu {folder}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%Lu {folder}/users
  default_fields = uid={uid} gid={gid} home={mail}/%d/%n
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
"""
_ROOTLESS: Final = """\
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
service auth-worker {{
  user = {user}
}}
"""


class NoDovecot(Exception):
    """There is none, or it does not run here; the message says why."""


class Seen(NamedTuple):
    """What a mail program sees of a message. flags: sorted; received: INTERNALDATE, in seconds."""

    flags: tuple[str, ...]
    received: int


Mailbox = dict[tuple[str, str], Seen]
"""By folder and Message-ID."""


class Dovecot:
    """folder: empty, of a short path."""

    def __init__(self, folder: Path, users: Iterable[str]) -> None:
        """Raises NoDovecot where there is none of a version that we can set up."""
        self._folder = folder
        self._binary, self._doveadm = _found("dovecot"), _found("doveadm")
        said = subprocess.run(
            [self._binary, "--version"], capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        self.version = said.stdout.partition(" ")[0].strip()
        if not self.version.startswith(("2.2.", "2.3.")):
            raise NoDovecot(f"the scene can set up Dovecot 2.3, and this is {self.version or 'something else'}")
        self._passwords = {user: secrets.token_urlsafe(16) for user in users}
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def doveadm(self) -> Path:
        """doveadm, as this server's."""
        return self._folder / "doveadm"

    @property
    def _conf(self) -> Path:
        return self._folder / "dovecot.conf"

    def start(self, mail: Path) -> None:
        """Return when it takes connections. mail: where the mailboxes are; they become its own. Raises NoDovecot when
        it does not, OSError."""
        root = os.geteuid() == 0
        self._folder.chmod(0o755 if root else 0o700)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        try:
            owner = pwd.getpwnam("nobody") if root else pwd.getpwuid(os.geteuid())
            uid, gid, group = owner.pw_uid, owner.pw_gid, grp.getgrgid(owner.pw_gid).gr_name
        except KeyError as error:
            raise NoDovecot(f"Dovecot needs users with names: {error.args[0]}") from None
        conf = _CONF.format(folder=self._folder, mail=mail, port=self.port, uid=uid, gid=gid)
        if not root:
            conf += _ROOTLESS.format(user=owner.pw_name, group=group)
        self._conf.write_text(conf)
        lines = "".join(f"{user}:{{PLAIN}}{password}::::::\n" for user, password in self._passwords.items())
        (self._folder / "users").write_text(lines)
        self.doveadm.write_text(f'#!/bin/sh\nexec {self._doveadm} -c {self._conf} "$@"\n')
        self.doveadm.chmod(0o755)
        for path in (mail, *mail.rglob("*")):
            os.chown(path, uid, gid)
        with (self._folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [self._binary, "-F", "-c", str(self._conf)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise NoDovecot(f"Dovecot {self.version} does not start here: {self._last_words()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
                return client.recv(4) == b"* OK"
        except OSError:
            return False

    def _last_words(self) -> str:
        for name in ("dovecot.log", "output"):
            file = self._folder / name
            lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
            bad = [line for line in lines if "Fatal" in line or "Error" in line]
            if bad:
                return bad[-1]
        return "it says nothing"

    def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def program(self, user: str) -> "MailProgram":
        """One that is logged in. Raises OSError, imaplib.IMAP4.error."""
        return MailProgram(self.port, user, self._passwords[user])


class MailProgram:
    """An IMAP client. All methods raise OSError and imaplib.IMAP4.error."""

    def __init__(self, port: int, user: str, password: str) -> None:
        self._imap = imaplib.IMAP4("127.0.0.1", port, timeout=PATIENCE)
        self._imap.login(user, password)

    def look(self, folders: Mapping[str, int], below: str = "") -> Mailbox:
        """All messages of these folders. below: the folder that they are in."""
        found: Mailbox = {}
        for folder in folders:
            name = f"{below}/{folder}" if below else folder
            said, messages = self._imap.select(f'"{name}"', readonly=True)
            if said != "OK" or messages == [b"0"]:
                continue
            _, answers = self._imap.fetch("1:*", "(FLAGS INTERNALDATE BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")
            for answer in answers:
                if isinstance(answer, tuple):
                    told, header = answer
                    identifier = header.decode().partition(":")[2].strip()
                    found[folder, identifier] = _seen(told)
        return found

    def delete_all(self, folders: Mapping[str, int]) -> None:
        """Delete every message, and every folder but INBOX."""
        # One that is selected may not be deleted: the server hangs up.
        self._must(self._imap.select(INBOX))
        self._must(self._imap.store("1:*", "+FLAGS.SILENT", r"(\Deleted)"))
        self._must(self._imap.expunge())
        for folder in folders:
            if folder != INBOX:
                self._must(self._imap.delete(f'"{folder}"'))

    def leave(self) -> None:
        """Log out."""
        self._imap.logout()

    @staticmethod
    def _must(answer: tuple[str, object]) -> None:
        if answer[0] != "OK":
            raise imaplib.IMAP4.error(f"{answer[0]} {answer[1]!r}")


def _seen(told: bytes) -> Seen:
    flags = sorted(flag.decode() for flag in imaplib.ParseFlags(told) if flag != rb"\Recent")
    moment = imaplib.Internaldate2tuple(told)
    return Seen(tuple(flags), int(time.mktime(moment)) if moment else 0)


def _found(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise NoDovecot("Dovecot is not installed; on Debian: apt-get install dovecot-imapd")
    return found
