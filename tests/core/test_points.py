"""Restore points from the listings of several repositories, and how old the newest good one is."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.canonical import JsonError
from smartmail.core.points import (
    Age,
    Expected,
    Freshness,
    Member,
    Mismatch,
    PointNotFound,
    RestorePoint,
    Snapshot,
    ages,
    mismatches,
    nearest_names,
    point_at,
    point_of_run,
    restore_points,
    shown,
    snapshot_from_json,
)

LONDON = ZoneInfo("Europe/London")
HOUR = 3_600_000
NOW = int(datetime(2026, 10, 3, 8, tzinfo=UTC).timestamp()) * 1000


def snapshot(name: str, time_ms: int, *tags: str, original: str = "", tree: str = "") -> Snapshot:
    return Snapshot(name, time_ms, tree or f"tree-{original or name}", "mx1", tuple(sorted(tags)), (), original)


def night(number: int, *jobs: str) -> list[Snapshot]:
    """The snapshots of one run: a minute apart, on the night that many days ago."""
    start = NOW - 6 * HOUR - number * 24 * HOUR
    return [
        snapshot(f"{job}{number}", start + 60_000 * place, f"job={job}", f"run=r{number}")
        for place, job in enumerate(jobs or ("accounts", "mail"))
    ]


def copied(snapshots: Sequence[Snapshot]) -> list[Snapshot]:
    return [replace(one, id=f"copy-{one.id}", original=one.origin) for one in snapshots]


# restic's listing

LISTED = {
    "time": "2026-10-03T09:00:00.123456789+01:00",
    "parent": "aa",
    "tree": "t1",
    "paths": ["/srv/vmail"],
    "hostname": "mx1",
    "username": "root",
    "tags": ["run=r1", "job=mail"],
    "id": "e01d",
    "short_id": "e0",
}


def test_a_snapshot_is_read_as_restic_lists_it() -> None:
    assert snapshot_from_json(LISTED) == Snapshot(
        "e01d", NOW + 123, "t1", "mx1", ("job=mail", "run=r1"), ("/srv/vmail",), ""
    )


@pytest.mark.parametrize("tags", [None, []])
def test_a_snapshot_without_tags_is_read(tags: object) -> None:
    assert snapshot_from_json(LISTED | {"tags": tags}).tags == ()
    without = {key: value for key, value in LISTED.items() if key not in ("tags", "paths")}
    assert snapshot_from_json(without).paths == ()


def test_what_newer_versions_add_is_passed_over_and_the_original_is_taken() -> None:
    found = snapshot_from_json(LISTED | {"original": "dead", "program_version": "restic 0.19.1", "summary": {"x": 1.5}})
    assert (found.original, found.origin, snapshot_from_json(LISTED).origin) == ("dead", "dead", "e01d")


@pytest.mark.parametrize(
    "change",
    [
        {"time": "yesterday"},
        {"time": "2026-10-03T09:00:00"},
        {"time": 5},
        {"id": None},
        {"tags": "job=mail"},
        {"tags": [5]},
        {"original": 5},
    ],
)
def test_what_is_no_snapshot_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(JsonError, match="a snapshot"):
        snapshot_from_json(LISTED | change)


@pytest.mark.parametrize("value", [None, [], {}, "x"])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(JsonError):
        snapshot_from_json(value)


def test_tags_are_asked_by_their_keys() -> None:
    one = snapshot("x", 1, "job=mail", "jobs=other", "run=a=b", "legal")
    assert [one.tag(key) for key in ("job", "run", "legal", "jo", "")] == ["mail", "a=b", "", "", ""]


@pytest.mark.parametrize(("tag", "partial"), [("partial=17", True), ("partial=0", False), ("partial", False)])
def test_a_snapshot_is_partial_by_its_tag(tag: str, partial: bool) -> None:
    assert snapshot("x", 1, tag).partial is partial


# points


def test_the_snapshots_of_one_run_are_one_point_over_all_repositories() -> None:
    onsite = night(0)
    (point,) = restore_points({"onsite": onsite, "offsite": copied(onsite)[1:]})
    assert point == RestorePoint(
        "r0",
        (
            Member("accounts", "accounts0", "tree-accounts0", onsite[0].time_ms, False, (("onsite", "accounts0"),)),
            Member(
                "mail",
                "mail0",
                "tree-mail0",
                onsite[1].time_ms,
                False,
                (("offsite", "copy-mail0"), ("onsite", "mail0")),
            ),
        ),
    )
    assert point.time_ms == onsite[1].time_ms
    assert point.members[1].id_in("offsite") == "copy-mail0" and point.members[0].id_in("offsite") is None
    assert point.lacks(["mail", "accounts", "keys"]) == ("keys",)
    assert point.lacks(["mail", "accounts"], "offsite") == ("accounts",)
    assert point.lacks(["mail"], "offsite") == ()


def test_folders_that_were_run_again_are_in_the_same_point_after_the_first() -> None:
    again = snapshot("again", NOW, "job=mail", "run=r0")
    (point,) = restore_points({"onsite": [again, *night(0)]})
    assert [one.origin for one in point.of_job("mail")] == ["mail0", "again"]
    (copy,) = restore_points({"onsite": [again, *night(0)], "offsite": copied(night(0))})
    assert copy.lacks(["mail"], "offsite") == ("mail",)


def test_a_copy_whose_tree_differs_is_no_copy() -> None:
    onsite = night(0, "mail")
    forged = [replace(copied(onsite)[0], tree="other")]
    (point,) = restore_points({"onsite": onsite, "offsite": forged})
    assert [one.tree for one in point.members] == ["other", "tree-mail0"]
    assert point.lacks(["mail"], "offsite") == ("mail",)
    assert mismatches({"onsite": onsite, "offsite": forged}) == (
        Mismatch("mail0", "mail", (("offsite", "other"), ("onsite", "tree-mail0"))),
    )
    assert mismatches({"onsite": onsite, "offsite": copied(onsite)}) == ()


def test_a_point_is_partial_if_any_of_it_is() -> None:
    torn = snapshot("torn", NOW, "job=mail", "run=r9", "partial=3")
    points = restore_points({"onsite": [*night(0), torn]})
    assert [(one.run, one.partial) for one in points] == [("r0", False), ("r9", True)]


def test_snapshots_without_a_run_or_a_job_are_in_no_point() -> None:
    assert restore_points({"onsite": [snapshot("a", 1, "job=mail"), snapshot("b", 2, "run=r1")]}) == ()


POINTS = restore_points({"onsite": [*night(0), *night(1), *night(2)]})


@pytest.mark.parametrize(
    ("at_ms", "run"),
    [
        (NOW, "r0"),
        (POINTS[2].time_ms, "r0"),
        (POINTS[2].time_ms - 1, "r1"),
        (POINTS[0].time_ms, "r2"),
        (NOW + 10**12, "r0"),
    ],
)
def test_the_nearest_point_at_or_before_a_time_is_found(at_ms: int, run: str) -> None:
    assert point_at(POINTS, at_ms, UTC).run == run


def test_a_time_before_the_first_point_names_the_first() -> None:
    with pytest.raises(PointNotFound) as caught:
        point_at(POINTS, POINTS[0].time_ms - 1, LONDON)
    assert str(caught.value) == (
        "there is no restore point at or before 2026-10-01 03:00:59 +0100; "
        "the first is 2026-10-01 03:01:00 +0100 (run r2)"
    )
    with pytest.raises(PointNotFound, match="none at all yet"):
        point_at((), NOW, UTC)


def test_a_run_is_found_by_its_name_or_a_beginning_of_it() -> None:
    points = (*POINTS, RestorePoint("r00-more", POINTS[0].members))
    assert point_of_run(points, "r0", UTC).run == "r0"
    assert point_of_run(points, "r00", UTC).run == "r00-more"


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("r", r'more than one run begins with "r"; they are r2 \(2026-10-01 02:01:00 \+0000\), r1 .*, r0'),
        ("", r'there is no run ""; the nearest: r0'),
        ("rr0", r'there is no run "rr0"; the nearest: r0'),
        ("nothing like it", r"the nearest: r0 \(2026-10-03 02:01:00"),
    ],
)
def test_a_run_that_is_not_there_names_the_nearest(run: str, says: str) -> None:
    with pytest.raises(PointNotFound, match=says):
        point_of_run(POINTS, run, UTC)


def test_without_any_point_the_error_says_so() -> None:
    with pytest.raises(PointNotFound, match="none at all yet"):
        point_of_run((), "r0", UTC)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("ana@example.com", ("anna@example.com",)),
        ("ANNA@EXAMPLE.COM", ("anna@example.com",)),
        ("zzz", ()),
    ],
)
def test_the_nearest_name_is_offered(wanted: str, found: tuple[str, ...]) -> None:
    assert nearest_names(wanted, ["anna@example.com", "x@other.org"], 1) == found


def test_a_time_is_shown_by_the_wall_clock_with_its_offset() -> None:
    assert shown(NOW, LONDON) == "2026-10-03 09:00:00 +0100"


# ages

EXPECTED = Expected("mail", "onsite", 26 * HOUR)


def mail(age_hours: int, *tags: str) -> Snapshot:
    return snapshot(f"m{age_hours}{tags}", NOW - age_hours * HOUR, "job=mail", *tags)


@pytest.mark.parametrize(
    ("snapshots", "state", "last", "whole", "future"),
    [
        pytest.param([], Freshness.NEVER, None, None, 0, id="never run"),
        pytest.param([mail(2), mail(26)], Freshness.OK, 2, 2, 0, id="new enough"),
        pytest.param([mail(26)], Freshness.OK, 26, 26, 0, id="to the millisecond"),
        pytest.param([mail(27)], Freshness.STALE, 27, 27, 0, id="too old"),
        pytest.param([mail(2, "partial=1"), mail(20)], Freshness.OK, 2, 20, 0, id="partial after a complete one"),
        pytest.param([mail(2, "partial=1"), mail(30)], Freshness.PARTIAL, 2, 30, 0, id="partial, complete too old"),
        pytest.param([mail(2, "partial=1")], Freshness.PARTIAL, 2, None, 0, id="never complete"),
        pytest.param([mail(-1000)], Freshness.NEVER, None, None, 1, id="only from the future"),
        pytest.param([mail(-1000), mail(40)], Freshness.STALE, 40, 40, 1, id="the future hides nothing"),
        pytest.param([snapshot("a", NOW, "job=accounts")], Freshness.NEVER, None, None, 0, id="another job's"),
    ],
)
def test_an_expected_job_is_judged_by_what_is_in_the_repository(
    snapshots: list[Snapshot], state: Freshness, last: int | None, whole: int | None, future: int
) -> None:
    (age,) = ages([EXPECTED], {"onsite": snapshots, "offsite": [mail(1)]}, NOW)
    times = [None if hours is None else NOW - hours * HOUR for hours in (last, whole)]
    assert age == Age(EXPECTED, state, times[0], times[1], future)
    assert age.age_ms(NOW) == (None if whole is None else whole * HOUR)


def test_every_expectation_is_answered_even_of_a_repository_that_is_not_there() -> None:
    wanted = [EXPECTED, Expected("mail", "offsite", HOUR), Expected("keys", "onsite", HOUR)]
    found = ages(wanted, {"onsite": [mail(3)]}, NOW)
    assert [one.expected for one in found] == wanted
    assert [one.state for one in found] == [Freshness.OK, Freshness.NEVER, Freshness.NEVER]


# what always holds

listings = st.lists(
    st.builds(
        lambda number, run, job, hours: snapshot(f"{number}", NOW - hours * HOUR, f"run={run}", f"job={job}"),
        st.integers(0, 99),
        st.sampled_from("abc"),
        st.sampled_from(["mail", "accounts"]),
        st.integers(0, 50),
    ),
    max_size=12,
    unique_by=lambda one: one.id,
)


@given(listings, st.randoms())
def test_points_hold_every_snapshot_once_in_whatever_order(snapshots: list[Snapshot], chance: object) -> None:
    mixed = [*snapshots]
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    points = restore_points({"onsite": mixed, "offsite": copied(snapshots)})
    assert points == restore_points({"offsite": copied(mixed), "onsite": snapshots})
    assert sorted(one.origin for point in points for one in point.members) == sorted(one.id for one in snapshots)
    assert all(len(one.copies) == 2 for point in points for one in point.members)
    assert [one.time_ms for one in points] == sorted(one.time_ms for one in points)


@given(listings, st.integers(-5, 60))
def test_the_point_found_is_the_newest_with_nothing_after_the_time(snapshots: list[Snapshot], hours: int) -> None:
    points = restore_points({"onsite": snapshots})
    at_ms = NOW - hours * HOUR
    runs = {one.tag("run") for one in snapshots}
    newest = {run: max(one.time_ms for one in snapshots if one.tag("run") == run) for run in runs}
    possible = {time_ms for time_ms in newest.values() if time_ms <= at_ms}
    if possible:
        assert point_at(points, at_ms, UTC).time_ms == max(possible)
    else:
        with pytest.raises(PointNotFound):
            point_at(points, at_ms, UTC)
