"""A month judged by bit planes against the same month judged by loops over dictionaries, and what must always hold."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from fractions import Fraction
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smartmail.core.evidence import Evidence, relevant
from smartmail.core.maintenance import Action, Announcement
from smartmail.core.minutes import LocationVotes
from smartmail.core.month_record import (
    MonthRecord,
    build,
    difference,
    digest,
    from_json,
    octets_of,
    recompute,
    to_json,
    verify,
)
from smartmail.core.months import Month, Span
from smartmail.core.planes import ones
from smartmail.core.roster import CheckKind, CheckSpec, Roster
from smartmail.core.sla import Favour, Terms

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
FIRST, N = 10_000, 36
NOTICE = 50
LOCATIONS = ("berlin", "dublin", "oslo", "paris")
CHECKS = (("imap", "mail", True), ("smtp", "mail", True), ("dmarc", "mail", False), ("other", "web", True))
DAYS = tuple((date(2026, 10, 1) + timedelta(days=i), Span(FIRST + 12 * i, FIRST + 12 * i + 12)) for i in range(3))

planes = st.integers(0, ones(N)) | st.sampled_from([0, ones(N)])
votes = st.builds(LocationVotes, planes, planes)
streams = st.fixed_dictionaries(
    {name: st.dictionaries(st.sampled_from(LOCATIONS), votes) for name, _, _ in CHECKS},
)
windows = st.builds(
    lambda start, length, notice: (FIRST + start, FIRST + start + length, FIRST + start - notice),
    st.integers(-10, N),
    st.integers(1, 15),
    st.sampled_from([NOTICE - 1, NOTICE, NOTICE + 100]),
)


@st.composite
def rosters(draw: st.DrawFn) -> tuple[Roster, ...]:
    found = []
    for version in range(draw(st.integers(1, 4))):
        checks = []
        for name, service, sla in CHECKS:
            where = draw(st.lists(st.sampled_from(LOCATIONS), unique=True))
            if where or draw(st.booleans()):
                bears = sla and draw(st.sampled_from([True, True, False]))
                checks.append(CheckSpec(name, service, CheckKind.TCP, "h", 1, tuple(where), bears, {"secret": "x"}))
        begins = FIRST - 5 if version == 0 and draw(st.booleans()) else draw(st.integers(FIRST - 5, FIRST + N + 5))
        found.append(Roster(version, begins, LOCATIONS, tuple(checks)))
    return tuple(found)


terms_of_any_kind = st.builds(
    lambda target, minimum, cap, favour: Terms(
        "t", date(2026, 1, 1), "UTC", *target, minimum, NOTICE, cap, favour, credit_months=1
    ),
    st.sampled_from([(999, 1000), (9, 10), (1, 2), (1, 1)]),
    st.integers(1, 5),
    st.none() | st.integers(0, N),
    st.sampled_from(Favour),
)


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    announced = draw(st.lists(windows, max_size=3))
    entries = [
        Announcement(
            f"w{i}", Action.ANNOUNCE, draw(st.sampled_from(["mail", "web", "*"])), a, b, at * 60_000, "ann", ""
        )
        for i, (a, b, at) in enumerate(announced)
    ]
    until = draw(st.sampled_from([FIRST + N, FIRST + N, FIRST + 20, FIRST]))
    silenced = draw(st.dictionaries(st.sampled_from(LOCATIONS), planes))
    history, given_votes, terms = draw(rosters()), draw(streams), draw(terms_of_any_kind)
    month = Month(2026, 10)
    return Evidence(
        "mail", month, "UTC", "2026a", DAYS, until, terms, history, given_votes, silenced, tuple(entries), "d"
    )


@dataclass(frozen=True)
class ByHand:
    """A month by loops: each measured minute's word, and what follows."""

    words: Mapping[int, str]
    breach: bool
    met: bool
    credit: bool
    low: Fraction | None
    high: Fraction | None


def in_force(history: Sequence[Roster], minute: int) -> Roster | None:
    begun = [roster for roster in history if roster.from_minute <= minute]
    return max(begun, key=lambda roster: (roster.from_minute, roster.version)) if begun else None


def word_of_check(evidence: Evidence, check: CheckSpec, minute: int) -> str:
    bit = minute - FIRST
    failed = well = 0
    for location in check.locations:
        vote = evidence.streams[check.name].get(location)
        if vote is None or evidence.silenced.get(location, 0) >> bit & 1:
            continue
        if vote.down >> bit & 1:
            failed += 1
        elif vote.up >> bit & 1:
            well += 1
    configured = len(check.locations)
    if 2 * failed > configured:
        return "down"
    return "up" if configured and well >= min(evidence.terms.minimum_reporters, configured // 2 + 1) else "unknown"


def word_of_service(evidence: Evidence, minute: int) -> str:
    roster = in_force(evidence.history, minute)
    checks = [check for check in roster.checks if check.service == "mail" and check.sla] if roster else []
    words = {word_of_check(evidence, check, minute) for check in checks}
    for word in ("down", "unknown"):
        if word in words:
            return word
    return "up" if words else "unknown"


def by_hand(evidence: Evidence) -> ByHand:
    def exists(minute: int) -> bool:
        roster = in_force(evidence.history, minute)
        return roster is not None and any(check.service == "mail" for check in roster.checks)

    there = [minute for minute in range(FIRST, FIRST + N) if exists(minute)]
    measured = range(there[0], min(there[-1] + 1, evidence.until)) if there else range(0)
    excluded: set[int] = set()
    for entry in evidence.announcements:
        if entry.service != "web" and entry.recorded_ms <= (entry.from_minute - NOTICE) * 60_000:
            excluded |= set(range(entry.from_minute, entry.until_minute)) & set(measured)
    cap = evidence.terms.cap_minutes
    excluded = set(sorted(excluded)[: N if cap is None else cap])
    words = {m: "maintenance" if m in excluded else word_of_service(evidence, m) for m in measured}
    eligible = len(words) - len(excluded)
    down, unknown = (list(words.values()).count(word) for word in ("down", "unknown"))
    target = Fraction(evidence.terms.numerator, evidence.terms.denominator)
    if not eligible:
        return ByHand(words, False, False, False, None, None)
    low, high = Fraction(eligible - down - unknown, eligible), Fraction(eligible - down, eligible)
    breach, met = high < target, low >= target
    credit = breach or (not met and evidence.terms.indeterminate is Favour.CUSTOMER)
    return ByHand(words, breach, met, credit, low, high)


def shown(share: Fraction | None) -> str:
    if share is None:
        return "-"
    cut_off = share * 100_000 // 1
    return f"{cut_off // 1000}.{cut_off % 1000:03}"


def words_of(record: MonthRecord) -> dict[int, str]:
    found = {minute: record.assessment.verdict_at(minute) for minute in range(FIRST - 2, FIRST + N + 2)}
    return {minute: word.value for minute, word in found.items() if word is not None}


@UNHURRIED
@given(evidences())
def test_the_planes_say_what_the_loops_say(evidence: Evidence) -> None:
    found, expected = build(evidence).assessment, by_hand(evidence)
    assert words_of(build(evidence)) == expected.words
    assert (found.result == "breached", found.result == "met") == (expected.breach, expected.met)
    assert found.credit == expected.credit
    assert (found.availability_low, found.availability_high) == (shown(expected.low), shown(expected.high))
    assert (found.result == "no_commitment") == (expected.low is None)


@UNHURRIED
@given(evidences())
def test_every_minute_is_exactly_one_of_four_and_all_counts_add_up(evidence: Evidence) -> None:
    record = build(evidence)
    found, findings = record.assessment, record.findings
    assert found.up + found.down + found.unknown + found.maintenance == ones(found.span.minutes)
    counts = (found.up_minutes, found.down_minutes, found.unknown_minutes, found.maintenance_minutes)
    assert sum(counts) == found.span.minutes == found.eligible + found.maintenance_minutes
    for check in findings.checks:
        assert check.up + check.down + check.unknown == check.in_force
        assert check.divided + check.cut_off + check.silent == check.unknown
        assert check.advisory <= check.up
    for place in findings.locations:
        assert place.up + place.down + place.silenced + place.silent == place.expected
        assert place.alone <= place.down
    outages = findings.incidents
    assert sum(one.down_minutes for one in outages) == found.down_minutes
    assert all(one.start <= one.down_from and one.checks and one.locations for one in outages)
    assert all(one.end is not None and one.end < later.start for one, later in pairwise(outages))


@UNHURRIED
@given(evidences(), st.sampled_from([name for name, _, _ in CHECKS]), st.sampled_from(LOCATIONS), planes)
def test_a_further_failure_never_makes_anything_better(
    evidence: Evidence, check: str, location: str, failures: int
) -> None:
    old = evidence.streams[check].get(location, LocationVotes(0, 0))
    worse = LocationVotes(old.up & ~failures, old.down | failures)
    streams = {**evidence.streams, check: {**evidence.streams[check], location: worse}}
    before, after = build(evidence).assessment, build(replace(evidence, streams=streams)).assessment
    assert after.up & ~before.up == 0
    assert before.down & ~after.down == 0
    assert after.down_minutes >= before.down_minutes
    if before.eligible:
        assert Fraction(after.availability_low) <= Fraction(before.availability_low)
        assert Fraction(after.availability_high) <= Fraction(before.availability_high)
    assert after.credit or not before.credit or before.result == "indeterminate"
    if before.result == "breached":
        assert after.result == "breached"
    if after.result == "met":
        assert before.result == "met"


@UNHURRIED
@given(evidences(), planes, st.sampled_from(LOCATIONS))
def test_silencing_a_location_makes_no_minute_down(evidence: Evidence, silenced: int, location: str) -> None:
    more = {**evidence.silenced, location: evidence.silenced.get(location, 0) | silenced}
    before, after = build(evidence).assessment, build(replace(evidence, silenced=more)).assessment
    assert after.down & ~before.down == 0


@UNHURRIED
@given(evidences(), st.randoms(use_true_random=False))
def test_the_order_in_which_things_come_changes_nothing(evidence: Evidence, random: st.random_module) -> None:
    def shuffled(mapping: Mapping[str, object]) -> dict[str, object]:
        return dict(random.sample(list(mapping.items()), len(mapping)))

    mixed = replace(
        evidence,
        history=tuple(random.sample(evidence.history, len(evidence.history))),
        streams=shuffled({check: shuffled(places) for check, places in evidence.streams.items()}),
        silenced=shuffled(evidence.silenced),
    )
    assert octets_of(build(mixed)) == octets_of(build(evidence))


@UNHURRIED
@given(evidences())
def test_what_is_not_relevant_changes_nothing(evidence: Evidence) -> None:
    kept = relevant(evidence)
    assert relevant(kept) == kept
    assert kept.measured == evidence.measured
    assert digest(build(kept)) == digest(build(evidence))
    assert all(check.service == "mail" for roster in kept.history for check in roster.checks)


@UNHURRIED
@given(evidences())
def test_a_record_is_read_back_and_computed_again(evidence: Evidence) -> None:
    record = build(evidence)
    again = from_json(json.loads(octets_of(record)))
    assert again == record and digest(again) == digest(record)
    assert recompute(again) == [] and verify(to_json(record)) == []


@UNHURRIED
@given(evidences(), streams)
def test_the_difference_names_every_minute_that_changed(evidence: Evidence, other: dict[str, object]) -> None:
    old, new = build(evidence), build(replace(evidence, streams=other, until=FIRST + N))
    changes = difference(old, new)
    named = {minute: (change.before, change.after) for change in changes for minute in range(change.first, change.end)}
    before, after = old.assessment, new.assessment
    expected = {minute: (before.verdict_at(minute), after.verdict_at(minute)) for minute in range(FIRST, FIRST + N)}
    assert named == {minute: pair for minute, pair in expected.items() if pair[0] is not pair[1]}
    assert difference(old, old) == ()
