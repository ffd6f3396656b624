"""The page says how everything comes back from offsite alone: a test that follows it, command by command."""

import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from nights import world
from plans import HOURLY, make_plan, put_message

from smartmail.core.backup_plan import JobKind, JobPlan
from smartmail.core.points import restore_points

pytestmark = pytest.mark.servers

PAGE = Path(__file__).parents[2] / "ops" / "docs" / "backup.md"


def commands() -> list[str]:
    """The restic commands of "Bring everything back", in order."""
    section = PAGE.read_text().split("## Bring everything back")[1].split("\n## ")[0]
    return re.findall(r"`(restic [^`]+)`", section)


def files(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """What is in a folder: octets, time and mode of each file."""
    return {
        str(one.relative_to(folder)): (one.read_bytes(), one.stat().st_mtime_ns, one.stat().st_mode)
        for one in sorted(folder.rglob("*"))
        if one.is_file()
    }


async def test_everything_comes_back_from_offsite_alone(tmp_path: Path) -> None:
    vmail, etc = tmp_path / "vmail", tmp_path / "etc"
    for local in ("anna", "bob"):
        for number in range(8):
            put_message(vmail / "example.net" / local / "Maildir", number, ".Sent" if number % 2 else "")
        (vmail / "example.net" / local / "Maildir" / "dovecot-uidlist").write_text("3 V1 N9\n")
    etc.mkdir()
    (etc / "main.cf").write_text("myhostname = mx1\n")
    plan = make_plan(tmp_path)
    plan = replace(plan, jobs=(*plan.jobs, JobPlan("config", JobKind.FILES, "onsite", HOURLY, paths=(str(etc),))))
    async with world(plan, tmp_path) as one:
        await one.night.run()
        # Mail that came, and was marked read, before the second night.
        put_message(vmail / "example.net" / "anna" / "Maildir", 99)
        one.clock.now_ms += 3_600_000
        await one.night.run()
    before = {"vmail": files(vmail), "etc": files(etc)}

    # The server is gone: what is left is offsite and its key.
    for name in ("vmail", "etc", "onsite", "state"):
        shutil.rmtree(tmp_path / name)
    (tmp_path / "catalogue.db").unlink()
    config, mail = commands()
    async with world(plan, tmp_path / "new", init=False) as left:
        point = restore_points({"offsite": await left.vaults["offsite"].snapshots()})[-1]
    back = tmp_path / "back"
    for command, job in ((config, "config"), (mail, "mail")):
        for member in point.of_job(job):
            words = (
                command.replace("LOCATION", str(tmp_path / "offsite"))
                .replace("FILE", str(tmp_path / "offsite.password"))
                .replace("ID", str(member.id_in("offsite")))
                .replace("--target /tmp/back", f"--target {back}")
                .replace("--target /", f"--target {back}/" if "--target / " in command else "--target /")
                .replace("--include /srv/vmail", f"--include {vmail}")
            )
            done = subprocess.run(shlex.split(words), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    found = {name: files(back / str(tmp_path).lstrip("/") / name) for name in ("vmail", "etc")}
    assert found == before
