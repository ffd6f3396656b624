"""What a drill writes down of files, which files, and what it finds when they are restored."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.manifest import (
    SIZE_CLASSES,
    Comparison,
    Entry,
    Fault,
    Finding,
    Listed,
    Manifest,
    ManifestError,
    SamplePlan,
    Total,
    choose,
    compare,
    key_of,
    manifest_from_json,
    size_class,
    totals_of,
)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def entry(name: str, text: str) -> Entry:
    return Entry(f"/v/anna/Maildir/{name}", len(text), sha(text))


ENTRIES = (entry("cur/1.x:2,S", "one"), entry("new/2.x", "two two"), entry("dovecot-uidlist", "3 V1"))
MADE = Manifest("20261122T020000Z-7f", "mail", 1_763_776_800_000, "seed", ENTRIES, {"anna@example.com": Total(2, 10)})


# the form


def test_a_manifest_has_one_form_whatever_order_it_was_made_in() -> None:
    other = replace(MADE, entries=tuple(reversed(ENTRIES)))
    assert other.octets() == MADE.octets() and other.digest() == MADE.digest()
    assert MADE.digest() == hashlib.sha256(MADE.octets()).hexdigest()


def test_a_manifest_is_read_back_as_it_was() -> None:
    assert manifest_from_json(json.loads(MADE.octets()), MADE.digest()) == MADE


def test_a_path_that_is_no_utf8_survives() -> None:
    odd = Manifest("r", "mail", 1, "s", (Entry(b"/v/\xff\xfe/cur/1".decode(errors="surrogateescape"), 0, sha("")),), {})
    again = manifest_from_json(json.loads(odd.octets()), odd.digest())
    assert again == odd and again.entries[0].path.encode(errors="surrogateescape") == b"/v/\xff\xfe/cur/1"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"format": 2}, id="another format"),
        pytest.param({"extra": 1}, id="something more"),
        pytest.param({"run": 5}, id="a number for a text"),
        pytest.param({"made_ms": True}, id="true for a number"),
        pytest.param({"entries": {}}, id="no list"),
        pytest.param({"entries": [["/a", 1]]}, id="an entry without a hash"),
        pytest.param({"entries": [["/a", "1", sha("")]]}, id="a text for a size"),
        pytest.param({"entries": [["/a", True, sha("")]]}, id="true for a size"),
        pytest.param({"entries": [["/a", -1, sha("")]]}, id="a negative size"),
        pytest.param({"entries": [["/a", 2**53, sha("")]]}, id="a size beyond"),
        pytest.param({"entries": [["", 1, sha("")]]}, id="no path"),
        pytest.param({"entries": [["/a", 1, sha("").upper()]]}, id="great digits"),
        pytest.param({"entries": [["/a", 1, sha("")[1:]]]}, id="a short hash"),
        pytest.param({"entries": [["/a", 1, sha("") + "\n"]]}, id="a line feed"),
        pytest.param({"entries": [["/a", 1, sha("")], ["/a", 1, sha("")]]}, id="twice the same"),
        pytest.param({"entries": [["/m/new/a", 1, sha("")], ["/m/cur/a:2,S", 1, sha("")]]}, id="one message twice"),
        pytest.param({"entries": [["/b", 1, sha("")], ["/a", 1, sha("")]]}, id="not in order"),
        pytest.param({"totals": {"anna": [1]}}, id="half a total"),
        pytest.param({"totals": {"anna": [-1, 0]}}, id="fewer than none"),
        pytest.param({"totals": {"anna": [True, 0]}}, id="true messages"),
        pytest.param({"totals": [1]}, id="totals that are a list"),
        pytest.param({"made_ms": 1.5}, id="a fraction"),
    ],
)
def test_what_is_no_manifest_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ManifestError):
        manifest_from_json(MADE.to_json() | change)


@pytest.mark.parametrize("value", [None, [], "text", 5, {}])
def test_what_is_no_object_or_an_empty_one_is_refused(value: object) -> None:
    with pytest.raises(ManifestError):
        manifest_from_json(value)


def test_a_manifest_changed_after_it_was_written_is_refused() -> None:
    forged = replace(MADE, entries=ENTRIES[:1])
    with pytest.raises(ManifestError, match="digest differs"):
        manifest_from_json(forged.to_json(), MADE.digest())


# which files

MAILBOXES = [f"user{number}@example.com" for number in range(20)]
SIZES = [0, 700, 5_000, 70_000, 2_000_000]
FILES = [
    Listed(f"/v/{mailbox}/Maildir/cur/{number}.x:2,S", SIZES[number % 40 % 5 if number % 40 < 5 else 1], mailbox)
    for mailbox in MAILBOXES
    for number in range(100)
]


def test_every_mailbox_and_every_class_of_size_in_it_is_tried() -> None:
    chosen = choose(FILES, "seed", SamplePlan(0, 2, 1))
    for mailbox in MAILBOXES:
        mine = [one for one in chosen if one.mailbox == mailbox]
        assert {size_class(one.size) for one in mine} == set(range(len(SIZE_CLASSES) + 1))
        assert 5 <= len(mine) <= 7


def test_as_many_are_taken_at_random_as_were_asked_for() -> None:
    assert len(choose(FILES, "seed", SamplePlan(50, 0, 0))) == 50
    assert choose(FILES, "seed", SamplePlan(0, 0, 0)) == ()
    assert choose([], "seed", SamplePlan()) == ()
    assert len(choose(FILES[:3], "seed", SamplePlan())) == 3


def test_another_seed_chooses_other_files() -> None:
    one, other = (set(choose(FILES, seed, SamplePlan(50, 0, 0))) for seed in ("monday", "tuesday"))
    assert len(one & other) < 10


def test_over_many_seeds_every_file_has_its_turn() -> None:
    files = FILES[:40]
    turns = [one for seed in range(200) for one in choose(files, f"{seed}", SamplePlan(4, 0, 0))]
    assert set(turns) == set(files)
    assert max(turns.count(one) for one in files) < 45


def test_a_message_listed_under_two_names_is_chosen_once() -> None:
    files = [Listed("/m/new/1.x", 5, "m"), Listed("/m/cur/1.x:2,S", 5, "m")]
    assert len(choose(files, "seed", SamplePlan())) == 1


RENAMED = [one._replace(path=one.path.replace("/cur/", "/new/").removesuffix(":2,S")) for one in FILES]


@given(
    st.lists(st.sampled_from(FILES[:30] + RENAMED[:30]), max_size=40),
    st.text(max_size=5),
    st.randoms(),
    st.integers(0, 5),
)
def test_the_choice_does_not_depend_on_the_order_of_the_listing(
    files: list[Listed], seed: str, chance: Random, most: int
) -> None:
    mixed = list(files)
    chance.shuffle(mixed)
    wanted = SamplePlan(most, most // 2, most // 3)
    assert choose(mixed, seed, wanted) == choose(files, seed, wanted)


@given(st.lists(st.sampled_from(FILES), max_size=40), st.integers(0, 5))
def test_a_greater_sample_holds_the_smaller_one(files: list[Listed], most: int) -> None:
    small, great = (set(choose(files, "s", SamplePlan(number, number, number))) for number in (most, most + 1))
    assert small <= great <= set(files)


def test_totals_are_counted_by_mailbox() -> None:
    files = [Listed("/a", 5, "anna"), Listed("/b", 6, "anna"), Listed("/c", 7, "bert")]
    assert totals_of(files) == {"anna": Total(2, 11), "bert": Total(1, 7)}


@pytest.mark.parametrize(("octets", "number"), [(0, 0), (1, 1), (4095, 1), (4096, 2), (65_536, 3), (1_048_576, 4)])
def test_classes_of_size(octets: int, number: int) -> None:
    assert size_class(octets) == number


# what was restored


def faults(found: Comparison) -> list[Fault]:
    return [one.fault for one in found.findings]


def test_what_came_back_as_it_was_is_proved() -> None:
    assert compare(ENTRIES, MADE) == Comparison(3, 14, ())
    assert compare(ENTRIES, MADE).proved


def test_a_message_is_found_under_another_flag() -> None:
    renamed = [entry("cur/1.x:2,RS", "one"), entry("cur/2.x:2,", "two two"), ENTRIES[2]]
    assert compare(renamed, MADE).proved


def test_in_another_folder_it_is_another_message() -> None:
    moved = [ENTRIES[0]._replace(path="/v/anna/Maildir/.Trash/cur/1.x:2,S"), *ENTRIES[1:]]
    assert faults(compare(moved, MADE)) == [Fault.MISSING]
    assert key_of("/m/cur/a") != key_of("/m/a") != key_of("/m/.a/cur/a")


def test_a_restore_of_no_file_is_a_failure() -> None:
    found = compare([], MADE)
    assert not found.proved and Fault.NOTHING_RESTORED in faults(found)
    assert not Comparison(0, 0, ()).proved
    empty = compare([], replace(MADE, entries=()))
    assert not empty.proved and set(faults(empty)) == {Fault.NOTHING_RESTORED, Fault.NOTHING_TO_PROVE}


def test_a_manifest_of_no_file_proves_nothing() -> None:
    found = compare(ENTRIES, replace(MADE, entries=()))
    assert not found.proved and faults(found) == [Fault.NOTHING_TO_PROVE]


@pytest.mark.parametrize(
    ("restored", "fault"),
    [
        pytest.param(ENTRIES[1:], Fault.MISSING, id="not there"),
        pytest.param((entry("cur/1.x:2,S", "on"), *ENTRIES[1:]), Fault.SIZE, id="cut off"),
        pytest.param((entry("cur/1.x:2,S", "\0\0\0"), *ENTRIES[1:]), Fault.HASH, id="zeros of the right size"),
        pytest.param((*ENTRIES, entry("cur/1.x:2,", "other")), Fault.DOUBLED, id="twice, and not the same"),
    ],
)
def test_each_fault_is_found_and_named(restored: Sequence[Entry], fault: Fault) -> None:
    found = compare(restored, MADE)
    assert faults(found) == [fault] and not found.proved
    assert found.findings[0].where.startswith("/v/anna/Maildir/cur/1.x")


def test_files_that_nobody_wrote_down_prove_nothing_and_are_no_fault() -> None:
    assert compare([*ENTRIES, entry("new/9.x", "late")], MADE) == Comparison(3, 14, ())
    assert not compare([entry("new/9.x", "late")], MADE).proved


@pytest.mark.parametrize(
    ("totals", "found"),
    [
        (None, ()),
        ({"anna@example.com": Total(2, 10)}, ()),
        ({"anna@example.com": Total(3, 99), "bert@example.com": Total(1, 1)}, ()),
        (
            {"anna@example.com": Total(1, 10)},
            (Finding(Fault.FEWER, "anna@example.com", "1 messages, where 2 were written down"),),
        ),
        ({}, (Finding(Fault.FEWER, "anna@example.com", "0 messages, where 2 were written down"),)),
    ],
)
def test_a_mailbox_with_fewer_messages_than_before_is_found(
    totals: dict[str, Total] | None, found: tuple[Finding, ...]
) -> None:
    assert compare(ENTRIES, MADE, totals).findings == found


def compare_naively(restored: list[Entry], manifest: Manifest) -> bool:
    there = {one.key: (one.size, one.sha256) for one in restored}
    return bool(manifest.entries) and all(there.get(one.key) == (one.size, one.sha256) for one in manifest.entries)


some_entries = st.lists(
    st.builds(entry, st.sampled_from(["cur/1:2,S", "cur/2:2,", "new/3", "sieve"]), st.sampled_from(["", "a", "b"])),
    max_size=4,
    unique_by=lambda one: one.path,
)


@given(some_entries, some_entries)
def test_proved_is_what_a_plain_comparison_says(restored: list[Entry], written: list[Entry]) -> None:
    manifest = Manifest("r", "mail", 1, "s", tuple(written), {})
    assert compare(restored, manifest).proved is compare_naively(restored, manifest)
    assert manifest_from_json(json.loads(manifest.octets()), manifest.digest()) == manifest
