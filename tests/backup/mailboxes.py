"""A repository with mailboxes, for the tests of their restore: real restic, few messages."""

import os
from dataclasses import dataclass
from pathlib import Path

from plans import make_plan, put_message
from weakkeys import make_cheap

from smartmail.backup.restic import Settings, find_restic
from smartmail.backup.vault import Vault
from smartmail.core import restic as ask
from smartmail.core.backup_plan import BackupPlan
from smartmail.core.points import Snapshot

BODY = "the body that nobody is to see"
RECEIVED_S = 1_790_000_000


def received(file: Path, second: int) -> Path:
    """Give a message's file the time of its delivery."""
    os.utime(file, (second, second))
    return file


def fill(maildir: Path, folder: str, messages: int, first: int = 0, flags: str = "S") -> list[Path]:
    """Messages `first` to `first + messages`, one received each hour."""
    return [
        received(put_message(maildir, number, folder, flags=flags, text=BODY), RECEIVED_S + 3600 * number)
        for number in range(first, first + messages)
    ]


@dataclass
class Store:
    """A plan whose onsite repository is there, and its vault."""

    plan: BackupPlan
    vault: Vault
    vmail: Path

    def maildir(self, address: str) -> Path:
        """Of an address."""
        local, _, domain = address.rpartition("@")
        return self.vmail / domain / local / "Maildir"

    async def back_up(self, run: str, *paths: Path) -> Snapshot:
        """One more snapshot of a run: of all mail, or of these paths. The newest that there is then."""
        wish = ask.Backup(self.plan.host, ("job=mail", f"run={run}"), tuple(str(one) for one in paths or (self.vmail,)))
        await self.vault.must(ask.backup(self.vault.known, self.vault.at, wish))
        return max(await self.vault.snapshots(), key=lambda one: one.time_ms)


async def make_store(folder: Path, plan: BackupPlan | None = None, vmail: Path | None = None) -> Store:
    """An empty repository."""
    plan = plan or make_plan(folder)
    vault = await open_vault(plan)
    await make_cheap(vault)
    return Store(plan, vault, vmail or folder / "vmail")


async def open_vault(plan: BackupPlan) -> Vault:
    """The onsite one."""
    return Vault(plan.repository("onsite"), await find_restic(Settings(Path(plan.folder) / "cache", plan.restic)))
