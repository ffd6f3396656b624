"""What retention keeps, what it removes and why, and when it refuses to remove anything."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.points import Snapshot
from smartmail.core.retention import (
    MOST,
    Approval,
    Decision,
    Duration,
    Facts,
    Ground,
    Guards,
    Holds,
    KeepRule,
    Period,
    Plan,
    Reason,
    Refusal,
    RuleError,
    Why,
    group_of,
    guard,
    parse_rules,
    plan,
    recheck,
)

LONDON = ZoneInfo("Europe/London")
HOUR = 3_600_000
DAY = 24 * HOUR


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


NOW = ms("2026-11-22T09:00")


def snapshot(when: int | str, name: str = "", *tags: str, host: str = "mx1", job: str = "mail") -> Snapshot:
    time_ms = ms(when) if isinstance(when, str) else when
    every = (*tags, f"job={job}") if job else tags
    return Snapshot(name or f"s{time_ms}", time_ms, f"tree{time_ms}", host, tuple(sorted(every)))


def nightly(days: int) -> list[Snapshot]:
    """One at two in the morning of each of the last days, newest first."""
    return [snapshot(ms("2026-11-22T02:00") - day * DAY, f"d{day:03}") for day in range(days)]


def kept(found: Plan) -> list[str]:
    return [one.id for one in found.kept]


def decision(found: Plan, name: str) -> Decision:
    return next(one for one in found.decisions if one.snapshot.id == name)


# rules


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        ({"last": 3}, ["d000", "d001", "d002"]),
        ({"daily": 3}, ["d000", "d001", "d002"]),
        # 22 November 2026 is a Sunday: the weeks end on d000, d007, d014.
        ({"weekly": 3}, ["d000", "d007", "d014"]),
        ({"monthly": 3}, ["d000", "d022", "d053"]),
        ({"yearly": 1}, ["d000"]),
        ({"within": "3d"}, ["d000", "d001", "d002"]),
        ({"within": "3d1h"}, ["d000", "d001", "d002", "d003"]),
        ({"within_weekly": "15d"}, ["d000", "d007", "d014"]),
        ({"within_monthly": "1m"}, ["d000", "d022"]),
        ({"last": 1, "weekly": 2, "monthly": 2}, ["d000", "d007", "d022"]),
    ],
)
def test_each_rule_keeps_the_newest_of_its_periods(rules: dict[str, object], left: list[str]) -> None:
    assert kept(plan(nightly(90), parse_rules(rules), UTC, NOW)) == left


def test_hourly_keeps_the_newest_of_each_hour() -> None:
    times = ["2026-11-22T08:59", "2026-11-22T08:00", "2026-11-22T07:59", "2026-11-22T05:00", "2026-11-22T04:59"]
    found = plan([snapshot(one) for one in times], parse_rules({"hourly": 3}), UTC, NOW)
    assert kept(found) == [f"s{ms(times[place])}" for place in (0, 2, 3)]


def test_a_rule_that_has_not_its_number_yet_keeps_the_oldest_too() -> None:
    found = plan(nightly(20), parse_rules({"yearly": 5}), UTC, NOW)
    assert kept(found) == ["d000", "d019"]
    assert decision(found, "d019").reasons == (Reason(Why.OLDEST, "yearly 5: 2026"),)


def test_all_as_a_number_keeps_every_period() -> None:
    assert len(kept(plan(nightly(90), parse_rules({"daily": "all"}), UTC, NOW))) == 90


def test_a_day_is_a_day_of_the_zone_and_not_of_utc() -> None:
    late, early = snapshot("2026-06-01T23:30", "late"), snapshot("2026-06-01T01:00", "early")
    rules = parse_rules({"daily": 2})
    assert kept(plan([late, early, snapshot("2026-05-01T00:00", "old")], rules, UTC, NOW)) == ["late", "old"]
    assert kept(plan([late, early, snapshot("2026-05-01T00:00", "old")], rules, LONDON, NOW)) == ["late", "early"]


def test_both_hours_that_a_clock_shows_twice_are_kept() -> None:
    first, second = snapshot("2026-10-25T00:30", "first"), snapshot("2026-10-25T01:30", "second")
    found = plan([first, second], parse_rules({"hourly": 2}), LONDON, NOW)
    assert [str(decision(found, name).reasons[-1]) for name in ("first", "second")] == [
        "kept by rule (hourly 2: 2026-10-25 01 +0100)",
        "kept by rule (hourly 2: 2026-10-25 01 +0000)",
    ]


def test_a_clock_set_back_over_midnight_makes_two_days_and_not_four() -> None:
    class SetBack(ZoneInfo):
        """An hour is set back at 00:30 of the 2nd."""

        def utcoffset(self, moment: datetime | None) -> timedelta:
            return timedelta(0)

        def fromutc(self, moment: datetime) -> datetime:
            naive = moment.replace(tzinfo=None)
            shift = timedelta(hours=-1) if naive.isoformat() >= "2026-06-02T00:30" else timedelta(0)
            return (naive + shift).replace(tzinfo=self)

        def dst(self, moment: datetime | None) -> timedelta:
            return timedelta(0)

    times = ["2026-06-01T23:50", "2026-06-02T00:10", "2026-06-02T00:40", "2026-06-02T01:05", "2026-05-30T12:00"]
    found = plan([snapshot(one) for one in times], parse_rules({"daily": 2}), SetBack("UTC"), NOW)
    assert kept(found) == [f"s{ms('2026-06-02T01:05')}", f"s{ms('2026-06-02T00:40')}"]


def test_time_is_counted_from_the_newest_snapshot_and_never_from_the_clock() -> None:
    rules = parse_rules({"within": "7d"})
    assert plan(nightly(30), rules, UTC, NOW).kept == plan(nightly(30), rules, UTC, NOW + 3650 * DAY).kept


@pytest.mark.parametrize(
    ("duration", "before"),
    [
        ("1m", "2026-02-28T02:00"),
        ("1m1d", "2026-02-27T02:00"),
        ("1y1m", "2025-02-28T02:00"),
        ("2y1m", "2024-02-29T02:00"),
        ("12m", "2025-03-31T02:00"),
        ("3m", "2025-12-31T02:00"),
        ("4m", "2025-11-30T02:00"),
        ("25h", "2026-03-30T01:00"),
        ("9999y", "1970-01-01T00:00"),
        ("56y999999d", "1970-01-01T02:00"),
        ("9999999h", "1970-01-01T00:00"),
    ],
)
def test_a_duration_goes_back_by_the_calendar(duration: str, before: str) -> None:
    assert Duration.parse(duration).before(ms("2026-03-31T02:00"), UTC) == ms(before)


def test_a_day_back_over_a_change_of_the_clock_is_a_day_of_the_wall_clock() -> None:
    assert Duration.parse("1d").before(ms("2026-03-29T11:00"), LONDON) == ms("2026-03-28T12:00")
    assert Duration.parse("24h").before(ms("2026-03-29T11:00"), LONDON) == ms("2026-03-28T11:00")


def test_a_tag_keeps_whatever_carries_it_and_makes_no_group() -> None:
    legal = snapshot(NOW - 300 * DAY, "legal-one", "legal")
    found = plan([*nightly(3), legal], parse_rules({"last": 1, "tags": ["legal"]}), UTC, NOW)
    assert kept(found) == ["d000", "legal-one"]
    assert group_of(legal) == group_of(nightly(1)[0])


@pytest.mark.parametrize(
    ("table", "says"),
    [
        pytest.param({"dayly": 7}, 'no keep rule "dayly"; did you mean "daily"', id="a letter"),
        pytest.param({"keep-daily": 7}, 'did you mean "daily"', id="as restic has it"),
        pytest.param({"with_in": "7d"}, 'did you mean "within"', id="within"),
        pytest.param({"tag": ["legal"]}, 'did you mean "tags"', id="singular"),
        pytest.param({"zzz": 7}, 'no keep rule "zzz"', id="nothing near"),
        pytest.param({"daily": 0}, "keeps nothing", id="nought"),
        pytest.param({"daily": -1}, "keeps nothing", id="negative"),
        pytest.param({"daily": True}, "keeps nothing", id="true"),
        pytest.param({"daily": "7"}, "keeps nothing", id="text for a number"),
        pytest.param({"daily": MOST + 1}, "keeps nothing", id="absurd"),
        pytest.param({"within": 7}, "no duration", id="number for a duration"),
        pytest.param({"within": "7"}, "no duration", id="without a unit"),
        pytest.param({"within": "7w"}, "no duration", id="weeks"),
        pytest.param({"within": "0d"}, "no duration", id="no time"),
        pytest.param({"within": ""}, "no duration", id="empty duration"),
        pytest.param({"within": "7d\n"}, "no duration", id="line feed"),
        pytest.param({"within": "\u0667d"}, "no duration", id="other digits"),
        pytest.param({"tags": "legal"}, "no list of tags", id="text for a list"),
        pytest.param({"tags": ["legal", " "]}, "no list of tags", id="empty tag"),
        pytest.param({}, "everything would go", id="nothing at all"),
        pytest.param({"tags": []}, "everything would go", id="an empty list"),
    ],
)
def test_a_slip_of_the_pen_in_a_rule_is_refused(table: dict[str, object], says: str) -> None:
    with pytest.raises(RuleError, match=says):
        parse_rules(table)


# groups, sets and holds


def test_each_job_and_host_is_counted_by_itself() -> None:
    mine = nightly(3)
    other_job = [replace(one, id=f"a{one.id}", tags=("job=accounts",)) for one in mine]
    other_host = [replace(one, id=f"h{one.id}", host="mx2") for one in mine]
    found = plan([*mine, *other_job, *other_host], parse_rules({"last": 1}), UTC, NOW)
    assert sorted(kept(found)) == ["ad000", "d000", "hd000"]


def test_a_run_is_one_whatever_number_of_snapshots_a_job_has_in_it() -> None:
    night = [snapshot(NOW - HOUR, "whole", "run=b"), snapshot(NOW - HOUR + 60_000, "again", "run=b")]
    before = [snapshot(NOW - DAY, "before", "run=a")]
    found = plan([*night, *before, snapshot(NOW - 2 * DAY, "old", "run=0")], parse_rules({"last": 2}), UTC, NOW)
    assert kept(found) == ["again", "whole", "before"]


def test_a_run_is_kept_whole_over_all_its_jobs() -> None:
    # The accounts were dumped before midnight, so by days alone their newest of the 20th would not be this one.
    mail = [snapshot("2026-11-21T00:10", "mail-1", "run=a"), snapshot("2026-11-21T23:00", "mail-2", "run=b")]
    accounts = [
        snapshot("2026-11-20T23:50", "accounts-1", "run=a", job="accounts"),
        snapshot("2026-11-20T23:55", "accounts-x", "run=x", job="accounts"),
        snapshot("2026-11-21T22:50", "accounts-2", "run=b", job="accounts"),
    ]
    holds = Holds(ids=frozenset({"mail-1"}))
    found = plan([*mail, *accounts], parse_rules({"last": 1}), UTC, NOW, holds)
    assert sorted(kept(found)) == ["accounts-1", "accounts-2", "mail-1", "mail-2"]
    assert decision(found, "accounts-1").reasons == (Reason(Why.SET, "a"),)


def test_of_a_day_the_complete_one_is_kept_before_a_newer_partial_one() -> None:
    whole, torn = snapshot("2026-11-20T02:00", "whole"), snapshot("2026-11-20T14:00", "torn", "partial=17")
    found = plan([*nightly(1), whole, torn, snapshot("2026-01-01T00:00", "o")], parse_rules({"daily": 2}), UTC, NOW)
    assert kept(found) == ["d000", "whole"]


def test_the_newest_complete_one_stays_however_many_partial_ones_came_after() -> None:
    torn = [replace(one, tags=("job=mail", "partial=3")) for one in nightly(10)]
    found = plan([*torn, snapshot(NOW - 90 * DAY, "whole")], parse_rules({"last": 2}), UTC, NOW)
    assert kept(found) == ["d000", "d001", "whole"]
    assert decision(found, "whole").reasons == (Reason(Why.NEWEST_WHOLE),)


def test_the_last_one_proved_by_a_drill_stays_and_older_proofs_do_not() -> None:
    holds = Holds(verified=frozenset({"d020", "d040"}))
    assert kept(plan(nightly(60), parse_rules({"last": 2}), UTC, NOW, holds)) == ["d000", "d001", "d020"]


def test_two_of_the_same_millisecond_are_always_taken_in_the_same_order() -> None:
    two = [snapshot(NOW, "00", "run=z"), snapshot(NOW, "01")]
    found = plan(two, parse_rules({"last": 1}), UTC, NOW)
    assert kept(found) == ["00"]
    assert grounds(guard(found, ROOMY, SANE)) == set()


def test_the_proof_that_counts_is_the_newest_even_where_runs_overlap() -> None:
    long_run = [snapshot(NOW - 10 * HOUR, "long-1", "run=a"), snapshot(NOW - 5 * HOUR, "long-2", "run=a")]
    short_run = [snapshot(NOW - 7 * HOUR, "short", "run=b")]
    holds = Holds(verified=frozenset({"long-1", "short"}))
    found = plan([*nightly(1), snapshot(NOW), *long_run, *short_run], parse_rules({"last": 1}), UTC, NOW, holds)
    assert "short" in kept(found) and "long-1" not in kept(found)
    assert grounds(guard(found, ROOMY, SANE)) == set()


def test_a_copy_is_known_by_its_origin() -> None:
    copies = [replace(one, id=f"copy-{one.id}", original=one.id) for one in nightly(9)]
    holds = Holds(verified=frozenset({"d005"}), ids=frozenset({"d007"}))
    assert kept(plan(copies, parse_rules({"last": 1}), UTC, NOW, holds)) == ["copy-d000", "copy-d005", "copy-d007"]


def test_a_run_that_another_repository_keeps_is_kept_here() -> None:
    runs = [snapshot(NOW - day * DAY, f"s{day}", f"run=r{day}") for day in range(5)]
    found = plan(runs, parse_rules({"last": 1}), UTC, NOW, Holds(runs=frozenset({"r3"})))
    assert kept(found) == ["s0", "s3"]


def test_what_no_job_made_is_never_removed() -> None:
    foreign = [snapshot(NOW - day * DAY, f"f{day}", job="") for day in range(9)]
    found = plan([*nightly(1), *foreign], parse_rules({"last": 1}), UTC, NOW)
    assert found.removed == ()


def test_snapshots_dated_in_the_future_stay_and_push_out_nothing() -> None:
    """An attacker who may add snapshots and not delete any makes a rule that counts do the deleting."""
    fakes = [snapshot(NOW + day * DAY, f"fake{day}") for day in range(1, 9)]
    found = plan([*nightly(9), *fakes], parse_rules({"last": 4}), UTC, NOW)
    assert [name for name in kept(found) if name.startswith("d")] == ["d000", "d001", "d002", "d003"]
    assert decision(found, "fake1").reasons == (Reason(Why.FUTURE, "2026-11-23 09:00:00 +0000"),)


def test_of_what_goes_each_rule_says_what_it_has_against_it() -> None:
    rules = parse_rules({"daily": 2, "weekly": 1, "within": "1d", "tags": ["legal"]})
    found = plan(nightly(3), rules, UTC, NOW)
    assert [str(one) for one in decision(found, "d002").reasons] == [
        "past the rule's number (daily 2: 2026-11-20)",
        "not the one of its period (weekly 1: 2026-W47)",
        "before the rule's time (within 1d)",
        "without the rule's tag (tag legal)",
    ]


def test_one_id_for_two_snapshots_is_an_error() -> None:
    one = snapshot(NOW, "same")
    with pytest.raises(ValueError, match="two different snapshots"):
        plan([one, replace(one, tree="other")], parse_rules({"last": 1}), UTC, NOW)
    assert plan([one, one], parse_rules({"last": 1}), UTC, NOW).kept == (one,)


# the guards

SANE = Facts(NOW, NOW, {})
ROOMY = Guards(floor=1, most_removed=1000, most_percent=100)


def grounds(found: Approval | Refusal) -> set[Ground]:
    return set(found.grounds) if isinstance(found, Refusal) else set()


def test_a_sane_plan_is_approved_with_ids_oldest_first_and_the_counts_for_next_time() -> None:
    found = plan(nightly(9), parse_rules({"last": 7}), UTC, NOW)
    approved = guard(found, Guards(), Facts(NOW, NOW + 1000, {group_of(nightly(1)[0]): 8}))
    assert approved == Approval(("d008", "d007"), {group_of(nightly(1)[0]): 7})


def by_hand(removed: set[str], snapshots: Sequence[Snapshot], rules: object = None, holds: Holds | None = None) -> Plan:
    """A plan as an error in the first step could make it."""
    decisions = tuple(Decision(one, group_of(one), one.id not in removed, ()) for one in snapshots)
    keep = parse_rules({"last": 1}) if rules is None else rules
    assert isinstance(keep, tuple)
    return Plan(decisions, keep, holds or Holds())


MX1 = group_of(nightly(1)[0])
SET = [snapshot(NOW - HOUR, "m", "run=a"), snapshot(NOW - 2 * HOUR, "a", "run=a", job="accounts")]


@pytest.mark.parametrize(
    ("ground", "planned", "guards", "facts"),
    [
        pytest.param(Ground.NO_RULES, by_hand(set(), nightly(3), (KeepRule(),)), ROOMY, SANE, id="rules keep nothing"),
        pytest.param(
            Ground.TAG_UNMATCHED,
            plan(nightly(3), parse_rules({"tags": ["leagl"], "last": 2}), UTC, NOW),
            ROOMY,
            SANE,
            id="the tag of a rule is on nothing",
        ),
        pytest.param(Ground.NO_SNAPSHOTS, by_hand(set(), []), ROOMY, SANE, id="an empty listing"),
        pytest.param(
            Ground.CLOCK_UNPROVED, by_hand(set(), nightly(3)), ROOMY, Facts(NOW, None, {}), id="no other clock"
        ),
        pytest.param(
            Ground.CLOCK_WRONG,
            by_hand(set(), nightly(3)),
            ROOMY,
            Facts(NOW + 3650 * DAY, NOW, {}),
            id="ten years ahead",
        ),
        pytest.param(
            Ground.CLOCK_WRONG, by_hand(set(), nightly(3)), ROOMY, Facts(NOW, NOW + HOUR, {}), id="an hour behind"
        ),
        pytest.param(
            Ground.FUTURE_SNAPSHOT,
            plan([*nightly(3), snapshot(NOW + HOUR)], parse_rules({"last": 3}), UTC, NOW),
            ROOMY,
            SANE,
            id="a snapshot of tomorrow",
        ),
        pytest.param(
            Ground.NEWEST_TOO_OLD,
            by_hand(set(), nightly(3)),
            Guards(newest_within_ms=6 * HOUR),
            SANE,
            id="backups stopped",
        ),
        pytest.param(
            Ground.ANOMALY,
            by_hand(set(), nightly(3)),
            ROOMY,
            Facts(NOW, NOW, {}, ("mail: 9 of 10 files changed",)),
            id="the newest looks wrong",
        ),
        pytest.param(
            Ground.COUNT_FELL, by_hand(set(), nightly(3)), ROOMY, Facts(NOW, NOW, {MX1: 4}), id="somebody else removed"
        ),
        pytest.param(
            Ground.COUNT_FELL,
            by_hand(set(), nightly(3)),
            ROOMY,
            Facts(NOW, NOW, {group_of(snapshot(0, job="keys")): 1}),
            id="a job is gone as a whole",
        ),
        pytest.param(
            Ground.COUNT_ROSE,
            by_hand(set(), nightly(60)),
            ROOMY,
            Facts(NOW, NOW, {MX1: 9}),
            id="somebody else added",
        ),
        pytest.param(
            Ground.TOO_MANY, by_hand({"d005", "d006"}, nightly(9)), replace(ROOMY, most_removed=1), SANE, id="too many"
        ),
        pytest.param(
            Ground.TOO_LARGE_A_SHARE,
            by_hand({"d002"}, nightly(3)),
            replace(ROOMY, most_percent=33),
            SANE,
            id="a third is more than 33 per cent",
        ),
        pytest.param(
            Ground.BELOW_FLOOR, by_hand({"d002"}, nightly(3)), replace(ROOMY, floor=3), SANE, id="too few left"
        ),
        pytest.param(Ground.NEWEST_REMOVED, by_hand({"d000"}, nightly(3)), ROOMY, SANE, id="the newest would go"),
        pytest.param(
            Ground.VERIFIED_REMOVED,
            by_hand({"d001"}, nightly(3), holds=Holds(verified=frozenset({"d001", "d002"}))),
            ROOMY,
            SANE,
            id="the last proved would go",
        ),
        pytest.param(
            Ground.NOTHING_VERIFIED,
            by_hand(set(), nightly(3)),
            replace(ROOMY, needs_verified=True),
            SANE,
            id="no drill ever",
        ),
        pytest.param(
            Ground.HELD_REMOVED,
            by_hand({"d001"}, nightly(3), holds=Holds(ids=frozenset({"d001"}))),
            ROOMY,
            SANE,
            id="under a legal hold",
        ),
        pytest.param(
            Ground.HELD_REMOVED,
            by_hand({"x"}, [*nightly(3), snapshot(NOW - DAY, "x", job="")]),
            ROOMY,
            SANE,
            id="not ours",
        ),
        pytest.param(Ground.SET_SPLIT, by_hand({"a"}, SET), replace(ROOMY, floor=0), SANE, id="half a run"),
    ],
)
def test_a_plan_is_refused_on_just_this_ground(ground: Ground, planned: Plan, guards: Guards, facts: Facts) -> None:
    assert grounds(guard(planned, guards, facts)) - {Ground.NEWEST_REMOVED} == {ground} - {Ground.NEWEST_REMOVED}
    assert ground in grounds(guard(planned, guards, facts))


def test_every_ground_can_be_reached() -> None:
    marks = test_a_plan_is_refused_on_just_this_ground.pytestmark  # type: ignore[attr-defined]
    reached = {one.values[0] for one in marks[0].args[1]}
    assert reached | {Ground.CHANGED} == set(Ground)


def test_all_grounds_are_named_and_not_the_first_alone() -> None:
    found = guard(by_hand({"d000", "d001"}, nightly(3)), Guards(), Facts(NOW + DAY, NOW, {MX1: 9}))
    assert grounds(found) == {
        Ground.CLOCK_WRONG,
        Ground.COUNT_FELL,
        Ground.TOO_LARGE_A_SHARE,
        Ground.BELOW_FLOOR,
        Ground.NEWEST_REMOVED,
    }


def test_a_clock_ahead_by_ten_years_removes_nothing() -> None:
    later = NOW + 3650 * DAY
    found = plan(nightly(90), parse_rules({"within": "30d"}), UTC, later)
    assert Ground.CLOCK_WRONG in grounds(guard(found, ROOMY, Facts(later, NOW, {})))


def test_a_snapshot_taken_while_the_clock_was_ahead_stops_retention_until_it_is_looked_at() -> None:
    found = plan([*nightly(9), snapshot(NOW + 3650 * DAY)], parse_rules({"within": "7d"}), UTC, NOW)
    assert grounds(guard(found, ROOMY, SANE)) == {Ground.FUTURE_SNAPSHOT}
    assert "d000" in kept(found)


def test_what_changed_since_the_plan_stops_it_and_new_snapshots_do_not() -> None:
    found = plan(nightly(9), parse_rules({"last": 7}), UTC, NOW)
    assert recheck(found, [*nightly(9), snapshot(NOW)]) is None
    for changed in (nightly(9)[1:], [replace(nightly(9)[0], tree="other"), *nightly(9)[1:]]):
        refused = recheck(found, changed)
        assert refused and refused.grounds == {Ground.CHANGED}
        assert "d000" in refused.objections[0].text


# what always holds

ZONES = [UTC, LONDON, ZoneInfo("Asia/Kathmandu"), timezone(timedelta(hours=-11))]
durations = st.builds(Duration, st.integers(0, 2), st.integers(0, 14), st.integers(0, 40), st.integers(1, 50))
keep_rules = st.one_of(
    st.builds(KeepRule, st.sampled_from(Period), st.integers(1, 12)),
    st.builds(KeepRule, st.sampled_from(Period), within=durations),
    st.just(KeepRule(tag="legal")),
)
rule_lists = st.lists(keep_rules, min_size=1, max_size=5)


@st.composite
def listings(draw: st.DrawFn) -> list[Snapshot]:
    """Snapshots of three months, with runs, partial ones, two jobs, strangers and a few of the future."""
    found = []
    for number in range(draw(st.integers(1, 25))):
        minutes = draw(st.integers(-3 * 1440, 90 * 1440))
        tags = draw(st.sets(st.sampled_from(["legal", "partial=2", "run=a", "run=b", "run=c"]), max_size=2))
        job = draw(st.sampled_from(["mail", "mail", "accounts", ""]))
        found.append(snapshot(NOW - minutes * 60_000, f"{number:02}", *tags, job=job))
    return found


holdings = st.builds(
    lambda verified, ids, runs: Holds(frozenset(verified), frozenset(ids), frozenset(runs)),
    st.sets(st.sampled_from(["01", "05", "09"])),
    st.sets(st.sampled_from(["02", "03"])),
    st.sets(st.sampled_from(["a"])),
)


def bucket(period: Period, moment: datetime, name: str) -> object:
    year, week, _ = moment.isocalendar()
    return {
        Period.LAST: name,
        Period.HOURLY: (moment.date(), moment.hour, moment.utcoffset()),
        Period.DAILY: moment.date(),
        Period.WEEKLY: (year, week),
        Period.MONTHLY: (moment.year, moment.month),
        Period.YEARLY: moment.year,
    }[period]


def kept_naively(rules: list[KeepRule], snapshots: list[Snapshot], zone: object) -> set[str]:
    """restic's own loop over snapshots, newest first: of plain snapshots, one group, no run and no partial one."""
    ordered = sorted(snapshots, key=lambda one: (-one.time_ms, one.id))
    found = {ordered[0].id}
    for rule in rules:
        seen: list[object] = []
        for place, one in enumerate(ordered):
            moment = datetime.fromtimestamp(one.time_ms // 1000, UTC).astimezone(zone)  # type: ignore[arg-type]
            if rule.tag:
                keep = rule.tag in one.tags
            elif rule.within and one.time_ms <= rule.within.before(ordered[0].time_ms, zone):  # type: ignore[arg-type]
                keep = False
            else:
                name = bucket(rule.period, moment, one.id)
                full = rule.within is None and len(seen) >= rule.count
                keep = not full and (name not in seen or place == len(ordered) - 1)
                if keep:
                    seen.append(name)
            if keep:
                found.add(one.id)
    return found


@given(listings(), rule_lists, st.sampled_from(ZONES))
def test_plain_snapshots_are_kept_as_by_the_loop_that_restic_has(
    snapshots: list[Snapshot], rules: list[KeepRule], zone: ZoneInfo
) -> None:
    plain = [
        replace(one, tags=tuple(tag for tag in (*one.tags, "job=mail") if tag in ("legal", "job=mail")))
        for one in snapshots
        if one.time_ms <= NOW
    ]
    plain = [replace(one, tags=tuple(sorted(set(one.tags)))) for one in plain]
    if plain:
        assert {one.id for one in plan(plain, rules, zone, NOW).kept} == kept_naively(rules, plain, zone)


@given(listings(), rule_lists, holdings)
def test_the_newest_of_every_group_is_never_removed(
    snapshots: list[Snapshot], rules: list[KeepRule], holds: Holds
) -> None:
    found = plan(snapshots, rules, LONDON, NOW, holds)
    newest: dict[object, Snapshot] = {}
    for one in snapshots:
        if one.time_ms <= NOW and (group_of(one) not in newest or newest[group_of(one)].time_ms < one.time_ms):
            newest[group_of(one)] = one
    assert {one.id for one in newest.values()} <= set(kept(found))


@given(listings(), rule_lists, keep_rules, holdings, st.sampled_from(ZONES))
def test_another_rule_never_removes_more(
    snapshots: list[Snapshot], rules: list[KeepRule], more: KeepRule, holds: Holds, zone: ZoneInfo
) -> None:
    before = set(kept(plan(snapshots, rules, zone, NOW, holds)))
    assert before <= set(kept(plan(snapshots, [*rules, more], zone, NOW, holds)))


@given(listings(), rule_lists)
def test_a_greater_number_never_removes_more(snapshots: list[Snapshot], rules: list[KeepRule]) -> None:
    greater = [replace(one, count=one.count + 1) if one.count else one for one in rules]
    assert set(kept(plan(snapshots, rules, UTC, NOW))) <= set(kept(plan(snapshots, greater, UTC, NOW)))


@given(listings(), rule_lists, holdings, st.randoms())
def test_the_order_of_the_listing_and_of_the_rules_is_nothing(
    snapshots: list[Snapshot], rules: list[KeepRule], holds: Holds, chance: object
) -> None:
    one = plan(snapshots, rules, LONDON, NOW, holds)
    mixed = list(snapshots)
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    assert plan(mixed, rules, LONDON, NOW, holds) == one
    assert kept(plan(mixed, list(reversed(rules)), LONDON, NOW, holds)) == kept(one)


@given(listings(), rule_lists, holdings)
def test_a_second_plan_over_what_was_left_removes_nothing(
    snapshots: list[Snapshot], rules: list[KeepRule], holds: Holds
) -> None:
    left = plan(snapshots, rules, LONDON, NOW, holds).kept
    assert plan(left, rules, LONDON, NOW, holds).kept == left


@given(listings(), rule_lists, holdings)
def test_every_snapshot_is_decided_once_and_says_why(
    snapshots: list[Snapshot], rules: list[KeepRule], holds: Holds
) -> None:
    found = plan(snapshots, rules, LONDON, NOW, holds)
    assert sorted(one.snapshot.id for one in found.decisions) == sorted(one.id for one in snapshots)
    assert all(one.reasons for one in found.decisions)


@given(listings(), rule_lists, holdings)
def test_no_plan_splits_a_run_removes_what_is_held_or_what_is_not_ours(
    snapshots: list[Snapshot], rules: list[KeepRule], holds: Holds
) -> None:
    found = plan(snapshots, rules, LONDON, NOW, holds)
    bad = {Ground.SET_SPLIT, Ground.HELD_REMOVED, Ground.NEWEST_REMOVED, Ground.VERIFIED_REMOVED}
    assert not grounds(guard(found, ROOMY, SANE)) & bad
