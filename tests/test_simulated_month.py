"""Whole months that never were, by the real chain: batches as octets, collectors that die, sealing at any time, the
month's verdict, its close, what comes late, and the credits. The truth is known, and nothing else may come out.

One location partitioned, any clock five minutes wrong, the collector killed fifty times: no false down minute, and no
sample lost or counted twice.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent / "simulator"))

from simcollector import collect, collect_killed
from simmonth import (
    DAY_MS,
    FIVE_MINUTES,
    HOUR_MS,
    MINUTE_MS,
    SERVICE,
    Delivery,
    Place,
    Plan,
    check,
    deliveries,
    jumbled,
    minutes,
    roster,
)
from simshapes import SMALL, plans, quiet_places, spells, wild_places
from simtrouble import PLACES, clocks, excluded, one_at_a_time
from simtruth import by_hand, plane, truth
from simworld import TERMS, World, empty_database, month_span, world

from smartmail.core.credits import Reason, credit_key
from smartmail.core.ledger import verify
from smartmail.core.minutes import Verdict
from smartmail.core.month_record import MonthRecord, digest, recompute
from smartmail.core.months import Month, Span, days_of
from smartmail.core.planes import ones
from smartmail.core.roster import checks_of, sla_planes
from smartmail.core.sla import Favour, Result
from smartmail.monitor import months as months_module
from smartmail.monitor.clock import CorrectedClock, Learnt
from smartmail.monitor.control import CONTROL
from smartmail.monitor.months import read_record, zone_of
from smartmail.store import ledger, sla, subscriptions

OCTOBER, MARCH, FEBRUARY = Month(2026, 10), Month(2026, 3), Month(2026, 2)
"""London: 44,700 minutes with the hour that comes twice, 44,580 with the hour that is skipped, 40,320."""
LAST_DAYS = {OCTOBER: 24, MARCH: 28, FEBRUARY: 25}
"""The day on which a short simulation of that month begins: the change of the clock is the day after, at night."""


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return empty_database(tmp_path_factory.mktemp("empty"))


def days(month: Month, count: int) -> Span:
    """Some days of a month, from LAST_DAYS on."""
    found = [span for day, span in days_of(month, zone_of("Europe/London")) if day.day >= LAST_DAYS[month]][:count]
    return Span(found[0].first, found[-1].end)


def really_down(plan: Plan, span: Span) -> int:
    """The minutes in which some check that bore the SLA was down."""
    down = 0
    for name, bearing in sla_planes(plan.history, SERVICE, span.first, span.end).items():
        down |= plan.down(name, span) & bearing
    return down


def assert_whole(record: MonthRecord) -> None:
    """Each minute is one of the four, and the record can be computed again."""
    judged = record.assessment
    parts = (judged.up, judged.down, judged.unknown, judged.maintenance)
    assert sum(parts) == ones(judged.span.minutes), "disjoint planes add up without a carry"
    assert sum(part.bit_count() for part in parts) == judged.span.minutes
    assert recompute(record) == []


def assert_as_it_was(record: MonthRecord, plan: Plan) -> None:
    """Down when it was, up whenever it was not, and nothing unknown."""
    assert_whole(record)
    judged, span = record.assessment, record.assessment.span
    assert span == plan.span
    left_out = excluded(plan.announcements, span) if plan.announcements else 0
    down = really_down(plan, span) & ~left_out
    assert (judged.down & ~down, down & ~judged.down) == (0, 0)
    assert (judged.unknown, judged.maintenance) == (0, left_out)


def assert_stored_once(one: World, given: Sequence[Delivery]) -> None:
    """Nothing lost, nothing doubled."""
    span = month_span(one.month)
    checks = {*checks_of(one.plan.history, SERVICE, span.first, span.end), CONTROL}
    assert one.stored().samples == len(truth(given, span, checks))


def every(given: Sequence[Delivery]) -> int:
    """How many different samples there are, of all checks and minutes."""
    names = {sample.check for _, batch in given for sample in batch.samples}
    return len(truth(given, Span(0, 10**8), names))


# Troubles of every kind


@pytest.mark.parametrize(
    ("month", "seed"), [(OCTOBER, 1), (MARCH, 2), (FEBRUARY, 3), (OCTOBER, 4)], ids=lambda value: str(value)
)
def test_one_location_in_trouble_at_a_time_costs_no_minute_and_hides_none(
    empty: Path, tmp_path: Path, month: Month, seed: int
) -> None:
    """Cut off, away from the collector, dead, faulty or out of files, one after the other, and every clock wrong; a
    roster that changes on the way, maintenance, and a network that splits, repeats and reorders."""
    plan = one_at_a_time(seed, days(month, 4))
    sent = jumbled(deliveries(plan), seed)
    with world(empty, tmp_path, plan, month) as one:
        told = collect(one.url, sent, seed, collectors=2)
        assert (told.accepted, told.quarantined, told.conflicts) == (every(sent), 0, 0)
        assert told.accepted + told.duplicates == sum(len(batch.samples) for _, batch in sent)
        record = one.judged()
        assert_as_it_was(record, plan)
        assert_stored_once(one, sent)
        assert record.assessment.down_minutes > 20 and told.duplicates > 1000


@pytest.mark.parametrize("seed", [1, 2])
def test_the_planes_say_what_counting_by_hand_says(empty: Path, tmp_path: Path, seed: int) -> None:
    """Several locations in trouble at once, so that there are unknown minutes of all sorts."""
    span = days(OCTOBER, 2)
    chance = Random(seed)
    plan = one_at_a_time(seed, span, places=PLACES[:4])
    worse = {}
    for name, place in plan.places.items():
        starts = [chance.randrange(plan.begin_ms, plan.end_ms) for _ in range(8)]
        spells = tuple((at, at + chance.randrange(1000, 5 * HOUR_MS)) for at in starts)
        worse[name] = replace(place, dead=spells[:2], cut_off=spells[2:4], faulty=spells[4:6], strained=spells[6:8])
    plan = replace(plan, places=worse, announcements=())
    sent = jumbled(deliveries(plan), seed)
    with world(empty, tmp_path, plan, OCTOBER) as one:
        collect(one.url, sent, seed)
        record = one.judged()
        assert_whole(record)
        judged = record.assessment
        names = {*checks_of(plan.history, SERVICE, span.first, span.end), CONTROL}
        counted = by_hand(truth(sent, span, names), plan.history, span)
        assert judged.span == span
        assert (judged.up, judged.down, judged.unknown) == tuple(
            plane(bits) for bits in (counted.up, counted.down, counted.unknown)
        )
        assert min(len(counted.up), len(counted.down), len(counted.unknown)) > 20
        assert_stored_once(one, sent)


# One location partitioned


def simple(span: Span, places: dict[str, Place], *, seed: int = 0) -> Plan:
    """Two checks; two outages of one, of 1 and 17 minutes, and one of the other, of 30 that overlap with these."""
    history = (roster(1, span.first, [check("imaps", PLACES), check("mx", PLACES)]), roster(2, span.end, ()))
    at = span.first + 200
    outages = {"mx": (minutes(at, at + 1), minutes(at + 100, at + 117)), "imaps": (minutes(at + 110, at + 140),)}
    fine = {name: replace(clocks(Random(f"{seed} {name}"), span), steps=()) for name in PLACES}
    return Plan(seed, span, history, fine | places, outages)


@pytest.mark.parametrize("kind", ["cut_off", "away", "both", "dead"])
@pytest.mark.parametrize("name", PLACES)
def test_any_one_location_partitioned_makes_no_false_minute(empty: Path, tmp_path: Path, name: str, kind: str) -> None:
    """All the time but its first and last hour: what it did see comes in the end, and nothing hangs on it."""
    first = days(OCTOBER, 1).first
    span = Span(first, first + 480)
    spell = ((span.first * MINUTE_MS + HOUR_MS, span.end * MINUTE_MS + (-HOUR_MS if kind == "dead" else DAY_MS)),)
    kinds = ("cut_off", "away") if kind == "both" else (kind,)
    troubles: dict[str, Any] = dict.fromkeys(kinds, spell)
    plan = simple(span, {name: Place(skew_ms=FIVE_MINUTES, **troubles)})
    sent = deliveries(plan)
    with world(empty, tmp_path, plan, OCTOBER) as one:
        collect(one.url, sent)
        record = one.judged()
        assert_as_it_was(record, plan)
        assert record.assessment.down_minutes == 1 + 10 + 30
        assert_stored_once(one, sent)
        mute = [view.silenced + view.silent for view in record.findings.locations if view.location == name]
        alone = [view.alone for view in record.findings.locations]
        assert sum(alone) == 0
        assert all(count == 0 if kind == "away" else count > 300 for count in mute)


# Clocks


@pytest.mark.parametrize("skew", [FIVE_MINUTES, -FIVE_MINUTES], ids=["fast", "slow"])
@pytest.mark.parametrize("wrong", [PLACES[:1], PLACES], ids=["one", "all"])
def test_agents_five_minutes_wrong_see_everything_in_its_minute(
    empty: Path, tmp_path: Path, skew: int, wrong: Sequence[str]
) -> None:
    """Their machines' clocks jump as well; and one of them begins without a collector, so that its first hours are put
    right only afterwards."""
    first = days(MARCH, 1).first
    span = Span(first, first + 480)
    steps = tuple(((span.first + at) * MINUTE_MS, by) for at, by in ((90, 200_000), (205, -470_000), (330, 3_600_000)))
    cold = ((0, span.first * MINUTE_MS + 3 * HOUR_MS + HOUR_MS // 2),)
    places = {name: Place(skew, steps, drift_ppm=2, away=cold if name == PLACES[0] else ()) for name in wrong}
    plan = simple(span, places)
    sent = deliveries(plan)
    with world(empty, tmp_path, plan, MARCH) as one:
        told = collect(one.url, sent)
        assert (told.quarantined, told.conflicts, told.duplicates) == (0, 0, 0)
        # Nobody knows a roster before the first contact: where that is late, the location is silent until then.
        assert_as_it_was(one.judged(), plan)
        assert_stored_once(one, sent)
        lowest, highest = one.samples.clock_corrections(span)["mx", PLACES[0]]
        by_then = skew + 200_000 - 470_000
        assert (round(lowest, -3), round(highest, -3)) == (-by_then, -by_then), "as it was when it was first compared"


def test_without_the_correction_the_simulator_would_tell(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clocks that learn nothing: the outages come out in other minutes."""
    monkeypatch.setattr(CorrectedClock, "learn", lambda *_: Learnt(0, first=True))
    first = days(OCTOBER, 1).first
    plan = simple(Span(first, first + 480), {name: Place(skew_ms=-FIVE_MINUTES) for name in PLACES})
    with world(empty, tmp_path, plan, OCTOBER) as one:
        collect(one.url, deliveries(plan))
        judged = one.judged().assessment
        assert judged.down == really_down(plan, plan.span) >> 5
        assert judged.down != really_down(plan, plan.span)


# Collectors that die, and batches in any order


@pytest.mark.parametrize("collectors", [1, 2])
def test_fifty_kills_change_nothing(empty: Path, tmp_path: Path, collectors: int) -> None:
    """SIGKILL between or within any two statements; what was not acknowledged is sent again, by two collectors on one
    database as by one."""
    plan = one_at_a_time(5, days(OCTOBER, 2), checks=1)
    sent = jumbled(deliveries(plan), 5)
    with world(empty, tmp_path / "calm", plan, OCTOBER) as calm:
        collect(calm.url, deliveries(plan))
        expected = calm.judged()
    with world(empty, tmp_path / "killed", plan, OCTOBER) as one:
        survived = collect_killed(one.url, sent, tmp_path, collectors=collectors)
        assert survived.killed == 50
        assert survived.handed_in > len(sent)
        assert_stored_once(one, sent)
        assert_as_it_was(one.judged(), plan)
        assert digest(one.judged()) == digest(expected)
        told = collect(one.url, sent)
        assert (told.accepted, told.conflicts, told.quarantined) == (0, 0, 0)
        assert one.stored() == calm.stored()


def test_order_splits_repeats_and_sealing_do_not_show_case_25(empty: Path, tmp_path: Path) -> None:
    plan = one_at_a_time(6, days(MARCH, 1))
    given = deliveries(plan)
    latest = max(one.received_ms for one in given)
    backwards = [Delivery(latest, batch) for _, batch in reversed(given)]
    shuffled = [Delivery(latest, batch) for _, batch in jumbled(given, 7)]
    Random(7).shuffle(shuffled)
    single = [
        Delivery(latest, batch._replace(samples=batch.samples[at : at + 7]))
        for _, batch in given
        for at in range(0, len(batch.samples), 7)
    ]
    ways = [
        (given, 1, 0),
        (given, 2, 30),
        (backwards, 1, 5),
        (shuffled, 2, 5),
        (jumbled(given, 8), 3, 5),
        (single, 1, 3),
    ]
    digests, samples = set(), set()
    for number, (sent, collectors, seals) in enumerate(ways):
        with world(empty, tmp_path / str(number), plan, MARCH) as one:
            collect(one.url, sent, number, collectors=collectors, seals=seals)
            digests.add(digest(one.judged()))
            samples.add(one.stored().samples)
            one.samples.seal()
            digests.add(digest(one.judged()))
    assert (len(digests), len(samples)) == (1, 1)


# What comes after the close


def test_what_comes_late_makes_a_revision_of_just_these_minutes_and_credits_once(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of three locations are cut from the collector on the month's last evening, and the service goes down for 50
    minutes. Closed without them it is undecided; with them it is breached."""
    end = month_span(OCTOBER).end
    span, places = Span(end - 1500, end), PLACES[:3]
    history = (roster(1, span.first, [check("mx", places)]), roster(2, span.end, ()))
    away = (((end - 250) * MINUTE_MS + 1, (end + 5 * 1440) * MINUTE_MS),)
    plan = Plan(
        9,
        span,
        history,
        {places[0]: Place(away=away), places[1]: Place(away=away, skew_ms=FIVE_MINUTES), places[2]: Place()},
        {"mx": (minutes(end - 240, end - 190),)},
        chunk=10,
    )
    terms = replace(TERMS, indeterminate=Favour.PROVIDER)
    with world(empty, tmp_path, plan, OCTOBER, terms) as one:
        one.add_subscriptions(3)
        sent = deliveries(plan)
        late = [delivery for delivery in sent if delivery.received_ms > one.over_ms]
        collect(one.url, sent[: len(sent) - len(late)])
        closed = one.months.close(SERVICE, OCTOBER, one.act())
        first = read_record(closed).assessment
        assert (first.down_minutes, first.unknown_minutes, first.result) == (0, 250, Result.INDETERMINATE)
        assert one.credit() == []
        assert not one.months.restate(SERVICE, OCTOBER, one.act(10)).differs

        collect(one.url, late)
        monkeypatch.setattr(months_module, "zone_of", lambda _name: zone_of("Asia/Tokyo"))
        restated = one.months.restate(SERVICE, OCTOBER, one.act(3 * 1440))
        monkeypatch.undo()
        second = restated.new.assessment
        assert (restated.number, second.span, restated.new.evidence.days) == (2, span, restated.old.evidence.days)
        assert (second.down_minutes, second.unknown_minutes, second.result) == (50, 0, Result.BREACHED)
        changed = {minute for change in restated.changes for minute in range(change.first, change.end)}
        assert changed == set(range(end - 250, end))
        assert changed == {at for at in range(span.first, end) if first.verdict_at(at) is not second.verdict_at(at)}
        assert [(change.before, change.after, change.end - change.first) for change in restated.changes] == [
            (Verdict.UNKNOWN, Verdict.UP, 10),
            (Verdict.UNKNOWN, Verdict.DOWN, 50),
            (Verdict.UNKNOWN, Verdict.UP, 190),
        ]

        assert one.credit() == [Reason.GRANTED] * 3
        assert not one.months.restate(SERVICE, OCTOBER, one.act(4 * 1440)).differs, "nothing has come since"
        assert one.credit() == [Reason.ALREADY] * 3
        with one.database.read() as connection:
            entries = list(ledger.entries(connection))
            paid = {each.paid_through for each in subscriptions.list_subscriptions(connection)}
            revisions = [each.number for each in sla.revisions(connection, service=SERVICE)]
            assert sla.get_revision(connection, SERVICE, "2026-10", 1) == closed, "the old one stays"
        keys = [each.key for each in entries if each.key.startswith("credit:")]
        assert keys == [credit_key(number, "2026-10") for number in (1, 2, 3)]
        assert (paid, revisions, verify(entries)) == ({date(2027, 1, 31)}, [1, 2], [])


def test_a_changed_rule_of_the_zone_moves_no_closed_month_case_02(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A month with a day of 23 hours, closed; then its country abolishes the change of the clock."""
    plan = simple(days(MARCH, 2), {})
    with world(empty, tmp_path, plan, MARCH) as one:
        collect(one.url, deliveries(plan))
        closed = one.months.close(SERVICE, MARCH, one.act())
        monkeypatch.setattr(months_module, "zone_of", lambda _name: zone_of("Africa/Lagos"))
        assert one.judged().evidence.span != month_span(MARCH), "judged anew it would be another month"
        found = one.months.restated(SERVICE, MARCH, one.over_ms)
        assert (found.changes, found.differs, digest(found.new)) == ((), False, closed.digest)
        assert found.new.evidence.span.minutes == 44_580


# Small months of every shape


UNHURRIED = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)


@UNHURRIED
@given(plan=plans(wild_places, outages=True), collectors=st.integers(1, 2))
def test_small_months_of_any_shape_are_judged_as_by_hand(
    empty: Path, tmp_path_factory: pytest.TempPathFactory, plan: Plan, collectors: int
) -> None:
    sent = jumbled(deliveries(plan), plan.seed)
    with world(empty, tmp_path_factory.mktemp("small"), plan, OCTOBER) as one:
        told = collect(one.url, sent, plan.seed, collectors=collectors)
        assert (told.accepted, told.quarantined, told.conflicts) == (every(sent), 0, 0)
        record = one.judged()
        assert_whole(record)
        judged = record.assessment
        names = {*checks_of(plan.history, SERVICE, SMALL.first, SMALL.end), CONTROL}
        counted = by_hand(truth(sent, SMALL, names), plan.history, SMALL)
        assert (judged.up, judged.down, judged.unknown) == tuple(
            plane(bits) for bits in (counted.up, counted.down, counted.unknown)
        )
        assert_stored_once(one, sent)


@UNHURRIED
@given(plan=plans(quiet_places, outages=False), broken=st.sampled_from(PLACES[:4]), lone=spells)
def test_whatever_befalls_the_agents_a_service_that_runs_is_never_down(
    empty: Path, tmp_path_factory: pytest.TempPathFactory, plan: Plan, broken: str, lone: tuple[tuple[int, int], ...]
) -> None:
    """All of them dead, away, out of files and wrong in their clocks, and one cut off from the net or broken."""
    history = [
        replace(one, checks=tuple(each for each in one.checks if len(each.locations) > 1)) for one in plan.history
    ]
    history[-2] = replace(history[-2], locations=PLACES[:4], checks=(check("mx", PLACES[:4]),))
    places = dict(plan.places) | {broken: replace(plan.places[broken], cut_off=lone[:1], faulty=lone[1:])}
    plan = replace(plan, history=tuple(history), places=places)
    with world(empty, tmp_path_factory.mktemp("small"), plan, OCTOBER) as one:
        collect(one.url, deliveries(plan), plan.seed)
        record = one.judged()
        assert_whole(record)
        assert record.assessment.down == 0


# Whole months


@pytest.mark.timeout(300)
def test_a_whole_month_with_an_hour_that_comes_twice(empty: Path, tmp_path: Path) -> None:
    """31 days and an hour, from four locations; two collectors, killed fifty times."""
    plan = replace(one_at_a_time(10, month_span(OCTOBER), checks=1, places=PLACES[:4], outages=9), chunk=180)
    sent = jumbled(deliveries(plan), 10)
    with world(empty, tmp_path, plan, OCTOBER) as one:
        survived = collect_killed(one.url, sent, tmp_path, 10, collectors=2)
        assert survived.killed == 50
        record = one.judged()
        assert record.assessment.span.minutes == 44_700
        assert_as_it_was(record, plan)
        assert_stored_once(one, sent)
        assert one.months.close(SERVICE, OCTOBER, one.act()).digest == digest(record)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("month", "seed"), [(OCTOBER, 11), (MARCH, 12)], ids=["october", "march"])
def test_a_month_of_twelve_checks_from_five_locations(empty: Path, tmp_path: Path, month: Month, seed: int) -> None:
    """2.9 million samples, every trouble, fifty kills; and once more without the kills and in another order."""
    plan = replace(one_at_a_time(seed, month_span(month), checks=11, outages=2), chunk=120)
    given = deliveries(plan)
    sent = jumbled(given, seed)
    with world(empty, tmp_path / "killed", plan, month) as one:
        one.add_subscriptions(2)
        assert collect_killed(one.url, sent, tmp_path, seed, collectors=2).killed == 50
        record = one.judged()
        assert_as_it_was(record, plan)
        assert_stored_once(one, sent)
        one.months.close(SERVICE, month, one.act())
        expected = [Reason.GRANTED] * 2 if record.assessment.credit else []
        assert one.credit() == expected
    with world(empty, tmp_path / "calm", plan, month) as calm:
        collect(calm.url, given, seed)
        assert digest(calm.judged()) == digest(record)
