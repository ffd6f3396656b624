"""Checks with the real restic, old and new: a pack that is gone and an octet that is not what was written are found by
the parts, and named; and all parts together read everything."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from plans import DAY_MS, HOUR_MS, make_repository
from weakkeys import make_cheap

from smartmail.backup.checking import Checked, check, faults_of, judged
from smartmail.backup.process import Patience
from smartmail.backup.restic import Run, Settings, find_restic
from smartmail.backup.vault import Vault
from smartmail.core import restic as ask
from smartmail.core.backup_due import RunState
from smartmail.core.backup_record import Activity, Reason, Record
from smartmail.core.coverage import part_of
from smartmail.core.restic_version import Outcome, Version, capabilities, classify

ROOT = Path(__file__).parents[2]
NOW_MS = 1_800_000_000_000
BRIEF = Patience(silence_s=100, limit_s=100)
PACKS = ("ab" * 32, "cd" * 32)

# what restic says, line by line, of versions 0.14 and 0.18


@pytest.mark.parametrize(
    ("lines", "structure", "data", "packs"),
    [
        ((), 0, 0, ()),
        (("Fatal: repository contains errors",), 0, 0, ()),
        ((f"pack {PACKS[0]}: does not exist", "Fatal: repository contains errors"), 1, 0, PACKS[:1]),
        ((f"pack {PACKS[0]}: unexpected file size: got 1, expected 2",), 1, 0, PACKS[:1]),
        ((f"Pack ID does not match, want {PACKS[1]}, got {'0' * 64}",), 0, 1, PACKS[1:]),
        ((f"pack {PACKS[0]} contains 2 errors: [blob x: decrypting failed]",), 0, 1, PACKS[:1]),
        ((f"pack {PACKS[0]} failed to download: StreamPack: open {PACKS[0]}: no such file",), 0, 1, PACKS[:1]),
        (("error for tree 19e7e04e:", "decrypting blob 19e7 failed: ciphertext verification failed"), 1, 0, ()),
        (
            (
                "error for tree 19e7e04e:", "id fb1e not found in repository", "file x: blob y not found in index",
                "error for tree 20e7e04e:", f"pack {PACKS[1]}: does not exist",
            ),
            3, 0, PACKS[1:],
        ),
        (("error: load <snapshot/89e7427577>: invalid data returned",), 1, 0, ()),
        (("error: error loading index beb2: load <index/beb2fdb8ca>: invalid data returned",), 1, 0, ()),
        (("Load(<data/e6eb967022>, 3000612, 0) returned error, retrying after 552.330144ms: no such file",), 0, 0, ()),
        (("unable to create temporary directory for cache during check, disabling cache: stat /x",), 0, 0, ()),
        (("The repository is damaged and must be repaired. Please follow the guide",), 0, 0, ()),
        ((f"restic repair packs {PACKS[0]}", "Damaged pack files can be caused by backend problems"), 0, 0, ()),
        ((f"pack {PACKS[0]}: does not exist", f"pack {PACKS[1]}: does not exist"), 2, 0, PACKS),
    ],
)  # fmt: skip
def test_faults_of_the_structure_and_of_the_data(
    lines: tuple[str, ...], structure: int, data: int, packs: tuple[str, ...]
) -> None:
    found = faults_of(lines)
    assert (len(found.structure), len(found.data), found.packs) == (structure, data, packs)


def test_what_explains_a_fault_is_behind_it() -> None:
    found = faults_of(["error for tree 19e7e04e:", "id fb1e not found in repository"])
    assert found.structure == ("error for tree 19e7e04e: id fb1e not found in repository",)
    assert len(faults_of(["error for tree 1:", *["x" * 400] * 1000]).structure[0]) == 500


DAMAGED = "Fatal: repository contains errors"
INDEX = "Fatal: LoadIndex returned errors"


@pytest.mark.parametrize(
    ("code", "stdout", "stderr", "expected"),
    [
        (0, "no errors were found\n", (), (RunState.OK, Reason.NONE, True)),
        (0, "", (), (RunState.FAILED, Reason.FAILED, False)),
        (0, "no errors were found\n", ("rclone: NOTICE: no config",), (RunState.OK, Reason.NONE, True)),
        (1, "", (f"pack {PACKS[0]}: does not exist", DAMAGED), (RunState.FAILED, Reason.DAMAGED, True)),
        (1, "", (f"pack {PACKS[0]}: strange", DAMAGED), (RunState.FAILED, Reason.DAMAGED, True)),
        (
            1, "", ("error: error loading index ab: load <index/ab>: invalid data returned", INDEX),
            (RunState.FAILED, Reason.DAMAGED, False),
        ),
        (
            1, "", ("Load(<data/ab>, 1, 0) returned error: dial tcp: connection refused", DAMAGED),
            (RunState.FAILED, Reason.UNREACHABLE, False),
        ),
        (1, "", ("Fatal: wrong password or no key found",), (RunState.FAILED, Reason.WRONG_PASSWORD, False)),
        (1, "", ("Fatal: repository is already locked by PID 1 on x",), (RunState.FAILED, Reason.LOCKED, False)),
        (-9, "", (), (RunState.FAILED, Reason.KILLED, False)),
        (130, "", (), (RunState.FAILED, Reason.INTERRUPTED, False)),
        (2, "no errors were found\n", (), (RunState.FAILED, Reason.FAILED, False)),
    ],
)  # fmt: skip
def test_how_a_check_ended(
    code: int, stdout: str, stderr: tuple[str, ...], expected: tuple[RunState, Reason, bool]
) -> None:
    command = ask.check(capabilities(Version(0, 14)), ask.Repository("x", "/x", "/x"), (1, 4))
    outcome = classify(command.kind, Version(0, 14), code, stderr)
    run = Run(command, Version(0, 14), code, outcome, stdout, False, (), 0, stderr, stderr, 1)
    assert judged(run, faults_of(stderr))[:3] == expected


def test_a_check_that_hung_was_not_one() -> None:
    command = ask.check(capabilities(Version(0, 14)), ask.Repository("x", "/x", "/x"), (1, 4))
    run = Run(command, Version(0, 14), -9, Outcome.STALLED, "", False, (), 0, (), (), 1)
    assert judged(run, faults_of(()))[:3] == (RunState.FAILED, Reason.STALLED, False)


# the real restic


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of several packs, of two backups."""
    folder = tmp_path_factory.mktemp("base")
    plan = make_repository(folder, "onsite")
    (folder / "mail").mkdir()

    async def make() -> None:
        vault = Vault(plan, await find_restic(Settings(folder / "cache")))
        await make_cheap(vault)
        for number in range(2):
            (folder / f"mail/{number}").write_bytes(os.urandom(2_000_000))
            wish = ask.Backup("mx1", ("job=mail", f"run=r{number}"), (str(folder / "mail"),))
            await vault.must(ask.backup(vault.known, vault.at, wish))

    asyncio.run(make())
    return folder / "onsite"


@pytest.fixture(scope="module")
def newer() -> Path:
    """Debian 13's restic, where it can be had."""
    subprocess.run([ROOT / "ops/lib/restic18.sh"], check=True, timeout=100)
    return ROOT / ".cache/restic18/restic"


async def make(base: Path, folder: Path, parts: int, binary: str = "restic") -> Vault:
    plan = make_repository(folder, "onsite")
    shutil.copytree(base, folder / "onsite")
    for file in (folder / "onsite").rglob("*"):
        file.chmod(0o700)
    plan = replace(plan, check=replace(plan.check, parts=parts))
    return Vault(plan, await find_restic(Settings(folder / "cache", binary)))


def largest_pack(folder: Path) -> Path:
    return max(
        (one for one in (folder / "onsite/data").rglob("*") if one.is_file()), key=lambda one: one.stat().st_size
    )


def record(number: int, found: Checked, at_ms: int) -> Record:
    end = found.end
    return Record(number, Activity.CHECK, "", "onsite", "", at_ms, at_ms + 1, end.state, end.reason, end.facts)


async def rounds(vault: Vault, number: int, at_ms: int = NOW_MS, records: Sequence[Record] = ()) -> list[Checked]:
    """So many checks, each an hour after the one before and told of all of them."""
    found: list[Checked] = []
    told = list(records)
    for index in range(number):
        now_ms = at_ms + index * HOUR_MS
        found.append(await check(vault, told, now_ms, patience=BRIEF))
        told.append(record(len(told) + 1, found[-1], now_ms))
    return found


@pytest.mark.servers
async def test_all_parts_of_a_sound_repository(base: Path, tmp_path: Path) -> None:
    vault = await make(base, tmp_path, 3)
    found = await rounds(vault, 3)
    assert [(one.state, one.reason, one.part, one.errors) for one in found] == [
        (RunState.OK, Reason.NONE, number, 0) for number in (1, 2, 3)
    ]
    assert [one.coverage.covered_since_ms for one in found] == [None, None, NOW_MS]
    assert found[2].coverage.next == 1
    assert found[2].coverage.within(vault.plan.check.window_ms, NOW_MS + DAY_MS)
    assert found[2].end.facts["covered_since_ms"] == NOW_MS
    whole = await check(vault, (), NOW_MS, whole=True, patience=BRIEF)
    assert (whole.part, whole.parts, whole.coverage.covered_since_ms) == (1, 1, NOW_MS)
    assert "no fault was found" in whole.words


@pytest.mark.servers
@pytest.mark.parametrize("age", ["0.14", "0.18"])
async def test_an_octet_that_differs_is_found_by_its_part_and_by_no_other(
    base: Path, tmp_path: Path, age: str, newer: Path
) -> None:
    vault = await make(base, tmp_path, 3, "restic" if age == "0.14" else str(newer))
    pack = largest_pack(tmp_path)
    octets = bytearray(pack.read_bytes())
    octets[1000] ^= 1
    pack.write_bytes(octets)
    its_part = part_of(pack.name, 3)
    found = await rounds(vault, 3)
    assert [one.part for one in found] == [1, 2, 3]
    for one in found:
        if one.part == its_part:
            assert (one.state, one.reason, one.read) == (RunState.FAILED, Reason.DAMAGED, True)
            assert one.faults.packs == (pack.name,)
            assert (len(one.faults.structure), len(one.faults.data), one.errors) == (0, 1, 1)
            assert one.end.facts["packs"] == [pack.name]
            assert pack.name[:12] in one.words
        else:
            assert (one.state, one.errors) == (RunState.OK, 0)
    last = found[-1].coverage
    assert (last.damaged, last.unread, last.covered_since_ms) == ((its_part,), (its_part,), None)
    again = await check(vault, (), NOW_MS, part=its_part, patience=BRIEF)
    assert again.reason is Reason.DAMAGED


@pytest.mark.servers
async def test_a_pack_that_is_gone_is_named_by_every_part(base: Path, tmp_path: Path, newer: Path) -> None:
    vault = await make(base, tmp_path, 2, str(newer))
    pack = largest_pack(tmp_path)
    pack.unlink()
    found = await rounds(vault, 2)
    for one in found:
        assert (one.state, one.reason) == (RunState.FAILED, Reason.DAMAGED)
        assert pack.name in one.faults.packs
        assert len(one.faults.structure) == 1
        assert len(one.faults.data) == (1 if one.part == part_of(pack.name, 2) else 0)
    assert found[1].coverage.damaged == (1, 2)


@pytest.mark.servers
async def test_a_pack_that_is_gone_is_named_by_the_older_restic_too(base: Path, tmp_path: Path) -> None:
    """In the part that it is not of: in its own 0.14 asks for it for 45 seconds first."""
    vault = await make(base, tmp_path, 2)
    pack = largest_pack(tmp_path)
    pack.unlink()
    found = await check(vault, (), NOW_MS, part=3 - part_of(pack.name, 2), patience=BRIEF)
    assert (found.reason, found.faults.packs, found.errors) == (Reason.DAMAGED, (pack.name,), 1)


@pytest.mark.servers
async def test_what_is_no_damage(base: Path, tmp_path: Path) -> None:
    vault = await make(base, tmp_path, 2)
    Path(vault.at.password_file).write_text("another\n")
    wrong = await check(vault, (), NOW_MS, patience=BRIEF)
    assert (wrong.state, wrong.reason, wrong.errors, wrong.read) == (RunState.FAILED, Reason.WRONG_PASSWORD, 0, False)
    assert "was not checked: wrong password" in wrong.words
    assert wrong.coverage.next == 1
    shutil.rmtree(tmp_path / "onsite")
    gone = await check(vault, (), NOW_MS, patience=BRIEF)
    assert (gone.reason, gone.coverage.damaged) == (Reason.NO_REPOSITORY, ())
