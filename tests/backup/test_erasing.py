"""Keys deleted: the repository opens for nobody, and it is known to."""

from dataclasses import replace
from pathlib import Path

import pytest
from nights import world
from plans import make_plan, put_message
from served import SECRET, at, rclone

from smartmail.backup.erasing import destroy_keys
from smartmail.backup.vault import Vault, VaultError
from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import Reason
from smartmail.core.restic_version import Outcome

pytestmark = pytest.mark.servers


async def test_a_repository_without_keys_opens_for_nobody_and_the_other_is_as_it_was(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    put_message(tmp_path / "vmail" / "example.net" / "anna" / "Maildir", 1)
    async with world(plan, tmp_path) as one:
        await one.night.run()
        end = await destroy_keys(one.vaults["offsite"])
        assert (end.state, end.facts["keys"]) == (RunState.OK, 1)
        with pytest.raises(VaultError) as caught:
            await one.vaults["offsite"].snapshots()
        assert caught.value.outcome is Outcome.WRONG_PASSWORD
        assert len(await one.vaults["onsite"].snapshots()) == 1


async def test_a_repository_that_cannot_be_reached_so_is_left_as_it_is(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    async with world(plan, tmp_path) as one:
        vault = one.vaults["onsite"]
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_text("sftp:backup@offsite.example:/srv\n")
        away = Vault(replace(vault.plan, at=replace(vault.at, repository_file=str(elsewhere))), vault.restic)
        away.at = vault.at
        end = await destroy_keys(away)
        assert (end.state, end.reason) == (RunState.FAILED, Reason.UNSUPPORTED)
        assert await vault.snapshots() == ()


@pytest.mark.parametrize(
    ("flags", "state", "reason"),
    [((), RunState.OK, Reason.NONE), (("--append-only",), RunState.FAILED, Reason.REFUSED)],
    ids=["a server that deletes", "a server that refuses to"],
)
async def test_keys_behind_a_rest_server(
    tmp_path: Path, flags: tuple[str, ...], state: RunState, reason: Reason
) -> None:
    with rclone(tmp_path / "served", *flags) as port:
        plan = replace(make_plan(tmp_path), repositories=(at(tmp_path, port),), jobs=())
        async with world(plan, tmp_path) as one:
            end = await destroy_keys(one.vaults["offsite"])
            assert (end.state, end.reason) == (state, reason)
            assert SECRET not in end.words
            if reason is Reason.REFUSED:
                assert await one.vaults["offsite"].snapshots() == ()
