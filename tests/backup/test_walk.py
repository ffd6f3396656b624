"""Walks: which folders changed, what is in them, and a sample that a drill can prove."""

import hashlib
import json
import os
import random
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from plans import make_plan, put_message

from smartmail.backup import walk
from smartmail.core.backup_plan import JobKind, JobPlan
from smartmail.core.left_out import left_out_by
from smartmail.core.mailbox_place import Layout
from smartmail.core.maildir import SLACK_NS, by_folder, exclusions, reconcile
from smartmail.core.manifest import Manifest, SamplePlan, Total, manifest_from_json

LATER = SLACK_NS + 10**9
HOSTILE = (
    "1764000001.M1P1.mx1,S=3:2,S\nx",
    os.fsdecode(b"1764000002.M\xff\xfe.mx1:2,S"),
    "-rf",
    "*",
    "1764000003 with spaces",
    "?[a]{b}$HOME`id`",
)
PLAN = SamplePlan(20, 2, 1)


def mail_job(folder: Path) -> JobPlan:
    return make_plan(folder).job("mail")


def layout_of(folder: Path) -> Layout:
    layout = mail_job(folder).layout
    assert layout is not None
    return layout


def maildir(folder: Path, user: str = "anna") -> Path:
    return folder / "vmail" / "example.net" / user / "Maildir"


def made_ms() -> int:
    return time.time_ns() // 10**6


def sample(folder: Path, seed: str = "s", plan: SamplePlan = PLAN) -> walk.Sampled:
    return walk.sampled(mail_job(folder), "run", made_ms(), seed, plan)


# folders


def test_mailboxes_are_found_by_the_layout_and_by_nothing_else(tmp_path: Path) -> None:
    put_message(maildir(tmp_path), 1)
    put_message(maildir(tmp_path, "-x *"), 2)
    (tmp_path / "vmail" / "example.net" / "no-mail").mkdir()
    (tmp_path / "vmail" / "lost+found").touch()
    found = walk.mailboxes(layout_of(tmp_path))
    assert [one.address for one in found] == ["-x *@example.net", "anna@example.net"]


def test_mail_below_a_name_that_is_no_address_is_looked_at_all_the_same(tmp_path: Path) -> None:
    for name in ("a\nb", os.fsdecode(b"\xff\xfe"), "..."):
        file = put_message(maildir(tmp_path, "anna"), 1)
        file.parents[2].rename(file.parents[2].with_name(name))
        assert list(walk.changed_folders(layout_of(tmp_path), 0)) == [str(maildir(tmp_path, name))]
        assert [Path(one.path).name for one in sample(tmp_path).manifest.entries] == [file.name]
        file.parents[2].with_name(name).rename(tmp_path / name)


def test_a_layout_with_the_domain_last(tmp_path: Path) -> None:
    put_message(tmp_path / "anna" / "example.net", 1)
    found = walk.mailboxes(Layout(f"{tmp_path}/{{local}}/{{domain}}"))
    assert [one.address for one in found] == ["anna@example.net"]


def test_only_folders_that_changed_are_listed(tmp_path: Path) -> None:
    put_message(maildir(tmp_path), 1)
    sent = put_message(maildir(tmp_path), 2, ".Sent")
    inbox = str(maildir(tmp_path))
    assert walk.changed_folders(layout_of(tmp_path), time.time_ns() + LATER) == {}
    found = walk.changed_folders(layout_of(tmp_path), time.time_ns())
    assert found == {inbox: [f"cur/{put_message(maildir(tmp_path), 1).name}"], f"{inbox}/.Sent": [f"cur/{sent.name}"]}


def test_a_folder_whose_time_was_set_back_changed_all_the_same(tmp_path: Path) -> None:
    began = time.time_ns()
    file = put_message(maildir(tmp_path), 1)
    os.utime(file.parent, (1, 1))
    assert walk.changed_folders(layout_of(tmp_path), began)


def test_marks_do_without_our_clock(tmp_path: Path) -> None:
    """The file server's clock is an hour behind ours."""
    file = put_message(maildir(tmp_path), 1)
    layout = layout_of(tmp_path)
    before = walk.marks(layout)
    ahead = time.time_ns() + 3600 * 10**9
    assert walk.changed_folders(layout, ahead, before) == {}
    while walk.marks(layout) == before:
        file = file.rename(file.with_name(file.name + "R"))
    assert list(walk.changed_folders(layout, ahead, before)) == [str(maildir(tmp_path))]


def test_hostile_names_come_through_as_they_are(tmp_path: Path) -> None:
    put_message(maildir(tmp_path), 1).unlink()
    for name in HOSTILE:
        (maildir(tmp_path) / "cur" / name).write_text("Subject: x\n\nx")
    [(folder, names)] = walk.changed_folders(layout_of(tmp_path), 0).items()
    assert set(names) == {f"cur/{name}" for name in HOSTILE}
    assert reconcile({folder: names}, {folder: names}).complete


def test_a_folder_that_is_gone_has_nothing_in_it(tmp_path: Path) -> None:
    assert walk.listing([str(tmp_path / "gone")]) == {str(tmp_path / "gone"): []}


def test_a_listing_loses_nothing_that_moves_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message goes from new/ to cur/ just as new/ is about to be read."""
    file = put_message(maildir(tmp_path), 1)
    fresh = maildir(tmp_path) / "new" / file.name.partition(":")[0]
    file.rename(fresh)
    real = os.listdir

    def moving(path: str) -> list[str]:
        if path.endswith("/cur") and fresh.exists():
            found = real(path)
            fresh.rename(file)
            return found
        return real(path)

    monkeypatch.setattr(os, "listdir", moving)
    [names] = walk.listing([str(maildir(tmp_path))]).values()
    assert {name[4:].partition(":")[0] for name in names} == {fresh.name}


def test_links_among_mailboxes_are_told_of(tmp_path: Path) -> None:
    put_message(maildir(tmp_path), 1)
    elsewhere = tmp_path / "elsewhere"
    put_message(elsewhere / "Maildir", 2)
    (tmp_path / "vmail" / "example.net" / "bert").symlink_to(elsewhere)
    (maildir(tmp_path) / ".Old").symlink_to(elsewhere / "Maildir")
    found = walk.linked(layout_of(tmp_path))
    assert found == [f"{maildir(tmp_path)}/.Old", f"{tmp_path}/vmail/example.net/bert"]


# the sample


def test_the_sample_has_hashes_and_totals(tmp_path: Path) -> None:
    files = [put_message(maildir(tmp_path), number) for number in range(3)]
    files += [put_message(maildir(tmp_path, "bert"), 9, ".Sent")]
    found = sample(tmp_path).manifest
    assert {one.path for one in found.entries} == {str(file) for file in files}
    for one in found.entries:
        content = Path(one.path).read_bytes()
        assert (one.size, one.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    octets = sum(file.stat().st_size for file in files[:3])
    assert found.totals == {
        "anna@example.net": Total(3, octets),
        "bert@example.net": Total(1, files[3].stat().st_size),
    }
    assert manifest_from_json(found.to_json(), found.digest()) == found


def test_no_mailbox_is_left_untried_and_one_alone_gives_enough(tmp_path: Path) -> None:
    for user in range(30):
        put_message(maildir(tmp_path, f"u{user}"), user)
    for number in range(100):
        put_message(maildir(tmp_path, "much"), number)
    found = sample(tmp_path).manifest
    assert {one.path.split("/")[-4] for one in found.entries} >= {f"u{user}" for user in range(30)}
    alone = tmp_path / "alone"
    for number in range(100):
        put_message(maildir(alone), number)
    assert len(sample(alone, plan=SamplePlan(40, 2, 1)).manifest.entries) >= 40


def test_the_sample_follows_from_the_seed_in_whatever_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(60):
        put_message(maildir(tmp_path), number)
    first = sample(tmp_path, plan=SamplePlan(5, 2, 1)).manifest.entries
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: random.sample(names := real(path), len(names)))
    assert sample(tmp_path, plan=SamplePlan(5, 2, 1)).manifest.entries == first
    assert sample(tmp_path, "another", plan=SamplePlan(5, 2, 1)).manifest.entries != first


def test_names_without_sizes_are_counted_all_the_same(tmp_path: Path) -> None:
    file = put_message(maildir(tmp_path), 1)
    size = file.stat().st_size
    file.rename(file.with_name("1764000001.M1.mx1:2,S"))
    put_message(maildir(tmp_path), 2)
    assert sample(tmp_path).manifest.totals["anna@example.net"].octets == 2 * size


def test_a_name_that_lies_about_its_size_breaks_nothing(tmp_path: Path) -> None:
    file = put_message(maildir(tmp_path), 1)
    file.rename(file.with_name("1764000001.M1.mx1,S=99999999999999999999999999:2,S"))
    (file.parent / "1764000002.M1.mx1,S=999999999999:2,S").write_text("Subject: x\n")
    found = sample(tmp_path).manifest
    assert found.octets()
    assert found.totals["anna@example.net"].messages == 2


def test_hostile_names_are_sampled_and_written_down(tmp_path: Path) -> None:
    put_message(maildir(tmp_path), 1)
    for name in HOSTILE:
        (maildir(tmp_path) / "cur" / name).write_text("Subject: x\n\nx")
    found = sample(tmp_path).manifest
    assert {Path(one.path).name for one in found.entries} >= set(HOSTILE)
    assert manifest_from_json(found.to_json()).digest() == found.digest()


@pytest.mark.parametrize("attack", ["pipe", "link", "folder", "socket"])
def test_what_is_no_file_is_never_opened(tmp_path: Path, attack: str) -> None:
    put_message(maildir(tmp_path), 1)
    place = maildir(tmp_path) / "cur" / "1764000002.M2.mx1:2,S"
    match attack:
        case "pipe":
            os.mkfifo(place)
        case "link":
            place.symlink_to("/etc/passwd")
        case "folder":
            place.mkdir()
        case _:
            os.mknod(place, 0o140600)
    assert [Path(one.path).name for one in sample(tmp_path).manifest.entries] == [
        put_message(maildir(tmp_path), 1).name
    ]


def test_what_dot_files_and_excluded_mail_are_not_in_the_manifest(tmp_path: Path) -> None:
    put_message(maildir(tmp_path), 1)
    put_message(maildir(tmp_path), 2, ".Trash")
    (maildir(tmp_path) / "cur" / ".nfs0001").write_text("x")
    job = replace(mail_job(tmp_path), excludes=("/**/.Trash",))
    found = walk.sampled(job, "run", made_ms(), "s", PLAN).manifest
    assert [one.path.count(".Trash") for one in found.entries] == [0]
    assert found.totals["anna@example.net"].messages == 1


@pytest.mark.parametrize(
    ("content", "permille"),
    [
        (b"Return-Path: <a@b>\r\nSubject: x\r\n\r\nx", 0),
        (b"From a@b Tue Nov 24\nSubject: x\n\nx", 0),
        (b"\n\nReceived:\n by x", 0),
        (b"", 1000),
        (b"\x28\xb5\x2f\xfd" + bytes(range(256)) * 4, 1000),
        (random.Random(1).randbytes(4096), 1000),
        (b"c2VjcmV0IHNlY3JldCBzZWNyZXQ\n" * 40, 1000),
        (b"x" * 1024 + b"\nSubject: x\n\nx", 1000),
    ],
)
def test_what_does_not_look_like_mail_is_counted(tmp_path: Path, content: bytes, permille: int) -> None:
    put_message(maildir(tmp_path), 1).write_bytes(content)
    assert sample(tmp_path).entropy_permille == permille


def test_no_mail_no_figure(tmp_path: Path) -> None:
    found = sample(tmp_path)
    assert (found.manifest.entries, found.manifest.totals, found.entropy_permille) == ((), {}, None)


# what is still there


def test_what_was_only_renamed_is_still_there(tmp_path: Path) -> None:
    file = put_message(maildir(tmp_path), 1)
    before = sample(tmp_path).manifest
    file.rename(file.with_name(file.name + "RT"))
    assert walk.still_there(before, layout_of(tmp_path)) == before


@pytest.mark.parametrize("with_layout", [True, False])
def test_what_was_deleted_meanwhile_is_left_out(tmp_path: Path, with_layout: bool) -> None:
    files = [put_message(maildir(tmp_path), number) for number in range(3)]
    before = sample(tmp_path).manifest
    files[0].unlink()
    found = walk.still_there(before, layout_of(tmp_path) if with_layout else None)
    assert {one.path for one in found.entries} == {str(file) for file in files[1:]}
    assert found.totals == {"anna@example.net": Total(2, sum(file.stat().st_size for file in files[1:]))}


def test_deleted_messages_count_even_where_others_have_arrived(tmp_path: Path) -> None:
    """Else a drill would find fewer messages than were written down, and alarm for nothing."""
    files = [put_message(maildir(tmp_path), number) for number in range(100)]
    before = sample(tmp_path, plan=SamplePlan(1, 1, 1)).manifest
    for file in files[:40]:
        file.unlink()
    for number in range(40):
        put_message(maildir(tmp_path), 30_000_000_000 + number)
    assert walk.still_there(before, layout_of(tmp_path)).totals["anna@example.net"].messages == 60


def test_a_mailbox_that_is_gone_is_left_out(tmp_path: Path) -> None:
    file = put_message(maildir(tmp_path), 1)
    before = sample(tmp_path).manifest
    file.unlink()
    assert walk.still_there(before, layout_of(tmp_path)).totals["anna@example.net"].messages == 0


# other files


def files_job(folder: Path, *excludes: str) -> JobPlan:
    job = mail_job(folder)
    return replace(job, kind=JobKind.FILES, paths=(str(folder / "etc"),), layout=None, excludes=excludes)


def of_files(folder: Path, *excludes: str) -> Manifest:
    job = files_job(folder, *excludes)
    return walk.sampled_files(job, "run", 1, "s", PLAN, job.paths).manifest


def test_every_file_is_in_the_manifest_up_to_a_thousand(tmp_path: Path) -> None:
    (tmp_path / "etc" / "deep").mkdir(parents=True)
    for number in range(500):
        (tmp_path / "etc" / f"{number}").write_text("x")
        (tmp_path / "etc" / "deep" / f"{number}").write_text("xy")
    assert len(of_files(tmp_path).entries) == 1000
    assert of_files(tmp_path).totals == {"": Total(1000, 1500)}
    (tmp_path / "etc" / "one-more").write_text("x")
    found = of_files(tmp_path)
    assert 1000 <= len(found.entries) <= 1001
    assert found.totals == {"": Total(1001, 1501)}
    assert found == of_files(tmp_path)


def test_links_pipes_and_what_is_left_out_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "etc" / "skip").mkdir(parents=True)
    (tmp_path / "etc" / "skip" / "a").write_text("x")
    (tmp_path / "etc" / "b.log").write_text("x")
    (tmp_path / "etc" / "c").write_text("x")
    (tmp_path / "etc" / "loop").symlink_to(tmp_path / "etc")
    os.mkfifo(tmp_path / "etc" / "pipe")
    assert [one.path for one in of_files(tmp_path, "skip", "*.log").entries] == [str(tmp_path / "etc" / "c")]


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("x")
    assert [one.path for one in of_files(tmp_path).entries] == [str(tmp_path / "etc")]


def restic(folder: Path, *argv: str) -> str:
    env = {
        "PATH": os.environ["PATH"],
        "RESTIC_REPOSITORY": str(folder / "repository"),
        "RESTIC_PASSWORD": "x",
        "RESTIC_CACHE_DIR": str(folder / "cache"),
    }
    return subprocess.run(["restic", *argv], env=env, check=True, capture_output=True, text=True).stdout


def test_no_name_is_missed_because_a_listing_has_it_otherwise(tmp_path: Path) -> None:
    """restic's listings have a replacement character for what is no UTF-8."""
    put_message(maildir(tmp_path), 1)
    for name in HOSTILE:
        (maildir(tmp_path) / "cur" / name).write_text("Subject: x\n\nx")
    restic(tmp_path, "init")
    restic(tmp_path, "backup", str(tmp_path / "vmail"))
    lines = restic(tmp_path, "ls", "--json", "latest").splitlines()[1:]
    stored = by_folder([node["path"] for node in map(json.loads, lines) if node["type"] == "file"])
    found = reconcile(walk.changed_folders(layout_of(tmp_path), 0), stored)
    assert (found.missed, found.messages) == ((), 1 + len(HOSTILE))


def test_restic_leaves_out_just_what_we_think_it_does(tmp_path: Path) -> None:
    source = tmp_path / "source"
    names = [
        "a.log",
        "keep.log",
        "tmp/x",
        "deep/tmp/y",
        "deep/er/a[1]",
        "deep/er/b1",
        "Maildir/tmp/1",
        "Maildir/cur/1",
        "Maildir/.Sent/tmp/2",
        "Maildir/dovecot.index",
        "Maildir/.Sent/dovecot.index.log",
        "bob.lock/x",
        "c*d",
    ]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    patterns = (*exclusions([f"{source}/Maildir"]), "*.log", "!keep.log", "/**/deep/tmp", "a\\[1\\]", "c\\*d", "b?")
    (tmp_path / "patterns").write_text("".join(f"{one}\n" for one in patterns))
    restic(tmp_path, "init")
    restic(tmp_path, "backup", f"--exclude-file={tmp_path}/patterns", str(source))
    out = restic(tmp_path, "ls", "latest")
    left_out = left_out_by(patterns)
    stored = {name for name in names if f"{source}/{name}" in out.splitlines()}
    assert stored == {name for name in names if not left_out(f"{source}/{name}")}
