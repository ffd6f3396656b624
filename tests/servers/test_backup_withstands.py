"""What goes wrong around a backup, through the real command line and the real restic: each time the right outcome in
the catalogue, the right exit code, the right metric, and nothing lost."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from support.backups import World, ended, like, put, snapshots, template
from support.processes import eventually, free_port
from support.relayserver import Certificate
from support.restserver import rclone, slow_link

from smartmail.core.backup_record import Activity, Reason

OK = ("backup", "ok", "")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with one run."""
    return template(tmp_path_factory.getbasetemp() / "template of backups")


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    """Another like it."""
    return like(made, tmp_path)


def ends(world: World, activity: Activity) -> list[tuple[str, str]]:
    """How all of a kind ended, oldest first."""
    return [(one.state.value, one.reason.value) for one in world.records(activity)]


def counted(activity: str, reason: str = "", state: str = "failed") -> str:
    """A line of the metrics: it ended so once."""
    return f'smartmail_backup_runs_total{{activity="{activity}",reason="{reason}",state="{state}"}} 1.0'


def readable(repository: str, *, yes: bool = True) -> str:
    """A line of the metrics."""
    return f'smartmail_backup_repository_readable{{repository="{repository}"}} {float(yes)}'


# offsite


@contextmanager
def down(world: World, certificate: Certificate) -> Iterator[None]:
    """Nobody listens there."""
    world.set("offsite", location=f'"rest:http://127.0.0.1:{free_port()}/"')
    yield
    world.set("offsite", location=f'"{world.folder}/offsite"')


@contextmanager
def moved(world: World, certificate: Certificate) -> Iterator[None]:
    """A disk that is not mounted."""
    (world.folder / "offsite").rename(world.folder / "away")
    yield
    (world.folder / "away").rename(world.folder / "offsite")


@contextmanager
def other_password(world: World, certificate: Certificate) -> Iterator[None]:
    """Not the one it was made with."""
    file = world.folder / "offsite.password"
    right = file.read_text()
    file.write_text("wrong\n")
    yield
    file.write_text(right)


@contextmanager
def strange_certificate(world: World, certificate: Certificate) -> Iterator[None]:
    """Somebody in between, with a certificate that nobody we trust has signed."""
    tls = ("--cert", str(certificate.file), "--key", str(certificate.key))
    with rclone(world.folder / "offsite", *tls) as url:
        world.set("offsite", location=f'"rest:{url}"')
        yield
    world.set("offsite", location=f'"{world.folder}/offsite"')


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (down, Reason.UNREACHABLE),
        (moved, Reason.NO_REPOSITORY),
        (other_password, Reason.WRONG_PASSWORD),
        (strange_certificate, Reason.UNTRUSTED),
    ],
)
def test_offsite_cannot_be_used(
    world: World,
    certificate: Certificate,
    fault: Callable[[World, Certificate], AbstractContextManager[None]],
    reason: Reason,
) -> None:
    with fault(world, certificate):
        found = world.run("run", "--json")
        assert found.code == 1
        assert [(one["activity"], one["state"], one["reason"]) for one in found.json] == [
            OK,
            OK,
            ("copy", "failed", reason.value),
        ]
        assert "offsite" in found.json[-1]["words"]
        status, metrics = world.metrics()
        assert status.code == 3
        assert status.json["repositories"][1]["snapshots"] is None
        assert counted("copy", reason.value) in metrics
        assert readable("onsite") in metrics
        assert readable("offsite", yes=False) in metrics
    found = world.run("run", "--due", "--json")
    assert found.code == 0, found
    copied = next(one for one in found.json if one["activity"] == "copy")
    assert copied["facts"]["proved"] == 2, "what could not be copied is caught up"


def test_a_slow_offsite_is_waited_for(world: World) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(rclone(world.folder / "offsite"))
        port = stack.enter_context(slow_link(int(url.rstrip("/").rpartition(":")[2]), 200_000))
        world.set("offsite", location=f'"rest:http://127.0.0.1:{port}/"')
        put(world.maildir("anna"), 100).write_bytes(os.urandom(150_000))
        found = world.run("run", "--json")
    assert found.code == 0, found
    assert found.json[-1]["facts"]["proved"] == 2


@contextmanager
def small_disk(folder: Path, free: int) -> Iterator[Path]:
    """Put what is in a folder on a disk that has so many octets left. Gives the file that fills it."""
    away = folder.rename(folder.with_name("moved"))
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    try:
        shutil.copytree(away, folder, dirs_exist_ok=True)
        filler = folder / "filler"
        room = os.statvfs(folder)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - free)
        yield filler
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(("repository", "activity"), [("onsite", "backup"), ("offsite", "copy")])
def test_a_full_disk(world: World, repository: str, activity: str) -> None:
    with small_disk(world.folder / repository, 100_000) as filler:
        put(world.maildir("anna"), 100).write_bytes(os.urandom(600_000))
        found = world.run("run", "mail", "--json")
        assert found.code == 1
        assert (found.json[-1]["activity"], found.json[-1]["reason"]) == (activity, "no_space")
        assert snapshots(world, repository) == 2
        status, metrics = world.metrics()
        assert counted(activity, "no_space") in metrics
        assert not [one for one in status.json["repositories"] if one["lock_ms"]], "it unlocked"
        filler.unlink()
        found = world.run("run", "mail", "--json")
        assert found.code == 0, found
        assert snapshots(world, repository) >= 3


# damage


def newest_pack(world: World) -> Path:
    """Of the copy: with a message in it that is larger than all the others."""
    put(world.maildir("anna"), 100).write_bytes(os.urandom(50_000))
    assert world.run("run").code == 0
    return max((world.folder / "offsite" / "data").glob("*/*"), key=lambda one: one.stat().st_size)


def test_a_flipped_byte_is_found_by_the_check_and_by_the_drill_and_named(world: World) -> None:
    pack = newest_pack(world)
    octets = bytearray(pack.read_bytes())
    octets[len(octets) // 3] ^= 1
    pack.unlink()
    pack.write_bytes(octets)
    found = world.run("check", "--json")
    assert found.code == 1
    onsite, offsite = found.json
    assert (onsite["state"], offsite["state"], offsite["reason"]) == ("ok", "failed", "damaged")
    assert pack.name in offsite["facts"]["packs"]
    assert pack.name[:12] in offsite["words"]
    drill = world.run("drill", "--json")
    assert drill.code == 1
    assert ends(world, Activity.DRILL) == [("failed", "not_proved")]
    status, metrics = world.metrics()
    assert status.json["repositories"][1]["check"]["damaged"] == [1]
    assert status.json["drill"]["proved_ms"] is None
    assert counted("check", "damaged") in metrics
    assert counted("drill", "not_proved") in metrics
    # The other copy is whole, and nobody has touched what is left of this one.
    assert snapshots(world, "offsite") == 4


def test_a_deleted_pack_is_found_by_the_check_of_any_part_and_named(world: World) -> None:
    """By the structure alone: to read it, restic would ask for it for minutes."""
    world.set("offsite", check_parts="2")
    pack = newest_pack(world)
    pack.unlink()
    other = (int(pack.name[:2], 16) + 1) % 2 + 1
    found = world.run("check", "offsite", "--part", str(other), "--json")
    assert found.code == 1
    assert found.json[0]["reason"] == "damaged"
    assert pack.name in found.json[0]["facts"]["packs"]
    status, metrics = world.metrics()
    assert status.json["repositories"][1]["check"]["damaged"] == [other]
    assert counted("check", "damaged") in metrics


def test_a_source_that_vanished(world: World) -> None:
    assert world.run("run").code == 0
    (world.folder / "vmail").rename(world.folder / "away")
    found = world.run("run", "--json")
    assert found.code == 1
    assert [(one["job"], one["state"], one["reason"]) for one in found.json if one["activity"] == "backup"] == [
        ("accounts", "ok", ""),
        ("mail", "failed", "source_missing"),
    ]
    assert str(world.folder / "vmail") in found.json[1]["words"]
    _, metrics = world.metrics()
    assert counted("backup", "source_missing") in metrics
    assert 'smartmail_backup_last_run_ok{job="mail"} 0.0' in metrics
    point = world.run("points", "--json").json[-2]
    assert {one["job"] for one in point["snapshots"]} == {"accounts", "mail"}


def test_a_clock_that_is_ten_years_ahead(world: World) -> None:
    assert world.run("run", "--due").code == 0
    ahead = world.folder / "ahead"
    ahead.mkdir()
    shift = 3653 * 86_400
    (ahead / "sitecustomize.py").write_text(
        f"import time\nreal = time.time_ns\ntime.time_ns = lambda: real() + {shift} * 10**9\n"
        "time.time = lambda: time.time_ns() / 10**9\n"
    )
    paced = world.folder / "ahead" / "restic"
    paced.write_text(
        "#!/bin/sh\n"
        "case \" $* \" in *' backup '*)\n"
        f'  exec /usr/bin/restic --time="$(date -d @$(($(date +%s) + {shift})) \'+%Y-%m-%d %H:%M:%S\')" "$@";;\n'
        "esac\n"
        'exec /usr/bin/restic "$@"\n'
    )
    paced.chmod(0o755)
    world.restic = str(paced)
    found = world.run_alone("run", "--due", "--json", PYTHONPATH=str(ahead))
    assert found.code == 1
    made = [(one["activity"], one["state"], one["reason"]) for one in found.json]
    assert made[:3] == [OK, OK, ("copy", "ok", "")]
    retained = [one for one in found.json if one["activity"] == "retention"]
    assert [(one["state"], one["reason"]) for one in retained] == [("failed", "guarded")] * 2
    assert [one["facts"]["grounds"] for one in retained] == [["clock_unproved"]] * 2
    world.restic = "restic"
    found = world.run("run", "--json")
    assert found.code == 0
    assert {one["state"] for one in found.json} == {"ok"}, "who waits for a date of the future waits for ten years"
    assert {snapshots(world, name) for name in ("onsite", "offsite")} == {6}
    found = world.run("prune", "--plan", "--json")
    assert found.code == 1
    assert "future_snapshot" in found.json["grounds"]
    _, metrics = world.metrics()
    assert 'smartmail_backup_future_snapshots{job="mail",repository="onsite"} 1.0' in metrics
    assert 'smartmail_backup_runs_total{activity="retention",reason="guarded",state="failed"} 2.0' in metrics


def test_two_orchestrators_at_once(world: World) -> None:
    world.pace("held", "backup", "job=mail")
    first = world.begin("run", "--due", "--json")
    world.reached(first)
    second = world.run("run", "--due", "--json")
    assert second.code == 1
    assert {(one["activity"], one["reason"]) for one in second.json} >= {("backup", "leased")}
    assert f"process {first.pid}" in second.json[0]["words"]
    world.go()
    found = ended(first)
    assert found.code == 0, found
    assert ends(world, Activity.BACKUP) == [("ok", ""), ("ok", "")]


def test_a_restic_that_outlived_its_orchestrator_is_left_alone_until_it_is_gone(world: World) -> None:
    assert world.run("run").code == 0
    world.pace("held", "forget")
    process = world.begin("run", "--due")
    wrapper, restic = world.reached(process)
    os.kill(process.pid, signal.SIGKILL)
    ended(process)
    found = world.run("run", "--due", "--json")
    assert found.code == 1
    assert ("retention", "onsite", "locked") in {
        (one["activity"], one["repository"], one["reason"]) for one in found.json
    }
    assert "which lives" in found.err
    status, metrics = world.metrics()
    assert status.json["repositories"][0]["lock_ms"]
    assert counted("retention", "locked") in metrics
    os.killpg(wrapper, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{restic}").exists(), "the end of restic")
    found = world.run("prune", "onsite", "--yes")
    assert found.code == 0, found
    assert not world.locks()


# append-only


def test_a_server_that_refuses_to_delete(world: World) -> None:
    with rclone(world.folder / "offsite", "--append-only") as url:
        world.set("offsite", location=f'"rest:{url}"')
        found = world.run("run", "--due", "--json")
        assert found.code == 1
        assert {(one["activity"], one["reason"]) for one in found.json if one["state"] != "ok"} == {
            ("retention", "refused")
        }
        assert snapshots(world, "offsite") == 4
        assert counted("retention", "refused") in world.metrics()[1]
        world.set("offsite", append_only="true")
        found = world.run("probe", "--json")
        assert found.code == 0
        assert (found.json[0]["activity"], found.json[0]["state"]) == ("probe", "ok")
        found = world.run("prune", "offsite", "--yes")
        assert found.code == 1
        assert "append-only" in found.out + found.err
        assert snapshots(world, "offsite") == 4
    with rclone(world.folder / "offsite") as url:
        world.set("offsite", location=f'"rest:{url}"')
        found = world.run("probe", "--json")
        assert (found.code, found.json[0]["reason"]) == (1, "not_append_only")
        assert counted("probe", "not_append_only") in world.metrics()[1]
