"""A Dovecot of the benchmark's own, on the Maildirs of its mail."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .backup_data import Tree
from .load import LoadFailed
from .peers import program
from .procs import Child, Processes, StartFailed, free_port

CONFIG: Final = """\
base_dir = {home}/run
log_path = {home}/dovecot.log
ssl = no
protocols = imap
listen = 127.0.0.1
disable_plaintext_auth = no
auth_mechanisms = plain
first_valid_uid = 1
mail_location = maildir:~/Maildir
passdb {{
  driver = passwd-file
  args = username_format=%Lu {home}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%Lu {home}/users
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
namespace inbox {{
  inbox = yes
}}
"""
START_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Dovecot:
    """A running one."""

    home: Path
    child: Child

    @property
    def config(self) -> Path:
        """Its dovecot.conf."""
        return self.home / "dovecot.conf"

    def messages(self, address: str, pattern: str) -> int:
        """How many a user has in the folders of this pattern. Raises LoadFailed."""
        return sum(self.folders(address, pattern).values())

    def folders(self, address: str, pattern: str) -> dict[str, int]:
        """The folders of this pattern, and how many messages are in each. Raises LoadFailed."""
        lines = self.doveadm("mailbox", "status", "-u", address, "messages", pattern).splitlines()
        found = (line.rpartition(" messages=") for line in lines)
        return {name: int(count) for name, told, count in found if told}

    def doveadm(self, *words: str) -> str:
        """What it answers. Raises LoadFailed."""
        argv = [program("doveadm"), "-c", str(self.config), *words]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no output"]
            raise LoadFailed(f"doveadm {words[0]} ended with code {done.returncode}: {lines[-1][:300]}")
        return done.stdout


def start_dovecot(processes: Processes, home: Path, tree: Tree) -> Dovecot:
    """Start it with every mailbox of the tree as a user, whose mail is where the tree has it; wait until it answers.
    Raises StartFailed."""
    (home / "run").mkdir(parents=True)
    home.chmod(0o755)
    owner = tree.folder.stat()
    # user:password:uid:gid:gecos:home, as in passwd(5)
    users = (
        f"{tree.address(one)}:{{PLAIN}}bench-only:{owner.st_uid}:{owner.st_gid}::{tree.maildir(one).parent}::\n"
        for one in range(tree.mailboxes)
    )
    (home / "users").write_text("".join(users))
    config = home / "dovecot.conf"
    config.write_text(CONFIG.format(home=home, port=free_port()))
    found = Dovecot(home, processes.start("dovecot", [program("dovecot"), "-F", "-c", config], frozenset()))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and found.child.popen.poll() is None:
        try:
            found.doveadm("user", tree.address(0))
        except LoadFailed:
            time.sleep(0.1)
        else:
            return found
    log = home / "dovecot.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else [found.child.tail()]
    raise StartFailed(f"dovecot does not answer: {lines[-1][:300] if lines else 'no output'}")
