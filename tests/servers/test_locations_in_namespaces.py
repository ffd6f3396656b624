"""Real faults of real servers, seen from several places: each location, the mail host and the collector on an address
of its own, with a link that is cut.

One story is played on a fast clock, and judged afterwards as a month is. A fault begins and ends while no probe is
under way, so that its minutes are known exactly; a minute in which a busy machine made it begin late is of no phase.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import pytest
from support.fast_agent import MADE
from support.places import (
    BY_NAME,
    COLLECTOR,
    CORE,
    DNS,
    INNER,
    INSIDE,
    LONDON,
    MAIL,
    MONTH,
    MX,
    OF_DOVECOT,
    OSAKA,
    OUTER,
    SUBMISSION,
    TORONTO,
    WRONG_CLOCKS,
    Phase,
    Stage,
    set_up,
)
from support.processes import eventually, short_directory

from smartmail.core.minutes import Verdict, check_minutes
from smartmail.core.month_record import MonthRecord, recompute
from smartmail.core.months import Span
from smartmail.core.outcome import Outcome
from smartmail.core.roster import roster_planes
from smartmail.monitor.months import Months
from smartmail.store.database import Database
from smartmail.store.samples import Failure, SampleStore, Stream

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]


@dataclass
class Story:
    """What was played, and what came of it."""

    phases: dict[str, Phase]
    records: dict[str, MonthRecord]
    failures: tuple[Failure, ...]
    made: Counter[tuple[str, str, int, int, int]]
    """Every sample that an agent's spool took: check, location, second, outcome, latency."""
    stored: Counter[tuple[str, str, int, int, int]]
    refused: int
    """Samples in quarantine and in conflict."""
    corrections: dict[Stream, tuple[int, int]]
    kills: int
    before_mending: dict[str, set[str]]
    """The locations of which something was stored for a phase in which a link was cut, just before it was mended."""

    def verdict(self, service: str, minute: int) -> Verdict | None:
        """What the month says of a minute."""
        return self.records[service].assessment.verdict_at(minute)

    def check_verdicts(self, check: str) -> Callable[[int], Verdict]:
        """What a check of its own was in a minute."""
        evidence = self.records["inside" if check == INSIDE else "mail"].evidence
        span = evidence.span
        roster = roster_planes(evidence.history, span.first, span.end)[check]
        seen = check_minutes(evidence.streams[check], roster, evidence.silenced, 2, span.minutes)

        def verdict(minute: int) -> Verdict:
            bit = minute - span.first
            planes = ((Verdict.UP, seen.up), (Verdict.DOWN, seen.down), (Verdict.UNKNOWN, seen.unknown))
            return next(word for word, plane in planes if plane >> bit & 1)

        return verdict

    def seen_in(self, minutes: range) -> str:
        """Everything that was not well in these minutes, and what was not seen at all, for who reads a failure."""
        seen = {(check, location, second // 60) for check, location, second, _, _ in self.stored}
        lines = [
            f"{one.minute - minutes.start}: {one.check} from {one.location}: {Outcome(one.outcome).name}, {one.detail}"
            for one in self.failures
            if one.minute in minutes
        ]
        for check in CHECKS:
            for location in INNER if check == INSIDE else OUTER:
                silent = [minute for minute in minutes if (check, location, minute) not in seen]
                lines += [f"{minute - minutes.start}: {check} from {location}: silence" for minute in silent]
        return "\n".join(sorted(lines))

    def outcomes(self, check: str, minute: int) -> list[Outcome]:
        """The failures that were seen of a check."""
        return [Outcome(one.outcome) for one in self.failures if (one.check, one.minute) == (check, minute)]


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    """The whole of it, played once."""
    with ExitStack() as stack:
        folder = stack.enter_context(short_directory("places"))
        stage = set_up(folder, stack)
        end = play(stage)
        told = told_by(stage, end)
        for process in stage.agents.values():
            assert process.stop() == 0, process.text
        assert stage.collector.stop() == 0
        yield told


WELL = "all is well"
POSTFIX, DOVECOT, CERTIFICATE, NO_NAMES = "postfix stopped", "dovecot hangs", "certificate expired", "dns dead"
OSAKA_CUT, COLLECTOR_CUT, MAIL_CUT, TWO_CUT = "osaka cut", "collector cut", "mail host cut", "two of three cut"


def play(stage: Stage) -> int:
    """Every fault in turn. Returns the minute in which all is over."""
    net = stage.net
    stage.phases[WELL] = Phase(stage.now[0] + 1, stage.now[0] + 2)
    stage.play(POSTFIX, stage.stop_postfix, kills=2)
    stage.play("postfix again", stage.start_postfix, minutes=1)
    stage.play(DOVECOT, stage.freeze)
    stage.play("dovecot again", stage.thaw, minutes=1, kills=1)
    stage.play(CERTIFICATE, partial(stage.serve_with, stage.expired))
    stage.play("certificate again", partial(stage.serve_with, stage.good), minutes=1)
    stage.play(NO_NAMES, partial(stage.silence_names, silent=True), kills=1)
    stage.play("dns again", partial(stage.silence_names, silent=False), minutes=1)
    stage.play(OSAKA_CUT, net[OSAKA].cut)
    stage.play(COLLECTOR_CUT, net[OSAKA].mend, net[COLLECTOR].cut, minutes=3)
    stage.play(MAIL_CUT, net[COLLECTOR].mend, net[MAIL].cut, kills=2)
    stage.play(TWO_CUT, net[MAIL].mend, net[LONDON].unplug, net[TORONTO].unplug)
    stage.play("the end", net[LONDON].plug, net[TORONTO].plug, minutes=1)
    return stage.end()


def told_by(stage: Stage, end: int) -> Story:
    """Wait until all that was made before `end` is handed in; then judge."""
    url, first = stage.config.database_url, next(iter(stage.phases.values())).first
    span, store = Span(first, end), SampleStore(url)
    made = Counter(one for location in (*OUTER, CORE) for one in made_by(stage, location) if one[2] // 60 in span)
    with suppress(AssertionError):  # what is missing then, a test says
        eventually(lambda: stored_in(store, span).total() >= made.total(), "all samples to be handed in")
    with Database(url) as database:
        months = Months(database, store, stage.config.sla_terms)
        records = {service: months.judge(service, MONTH, end * 60_000) for service in ("mail", "inside")}
        with database.read() as connection:
            refused = sum(
                connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()
                for table in ("sample_quarantine", "sample_conflict")
            )
    return Story(
        phases=stage.phases,
        records=records,
        failures=store.failures(span),
        made=made,
        stored=stored_in(store, span),
        refused=refused,
        corrections=store.clock_corrections(span),
        kills=stage.collector.kills,
        before_mending=stage.before_mending,
    )


def made_by(stage: Stage, location: str) -> Iterator[tuple[str, str, int, int, int]]:
    """What an agent's spool took."""
    for line in (stage.folder / location / MADE).read_text().splitlines():
        check, started_ms, outcome, latency_ms, _ = json.loads(line)
        yield check, location, started_ms // 1000, outcome, latency_ms


def stored_in(store: SampleStore, span: Span) -> Counter[tuple[str, str, int, int, int]]:
    """Every sample that is stored."""
    found: Counter[tuple[str, str, int, int, int]] = Counter()
    for (check, location), stretch in store.read_stretches(span).items():
        columns = zip(stretch.outcomes, stretch.seconds, stretch.low, stretch.high, strict=True)
        for minute, (outcome, second, low, high) in enumerate(columns, stretch.first):
            if outcome:
                found[check, location, minute * 60 + second, outcome, low + 256 * high] += 1
        for extra in stretch.extras:
            found[check, location, extra.second, extra.outcome, extra.latency_ms] += 1
    return found


# What came of it

UP, DOWN, UNKNOWN = Verdict.UP, Verdict.DOWN, Verdict.UNKNOWN
NOBODY_THERE = frozenset({Outcome.TIMEOUT, Outcome.UNREACHABLE})


def all_of(checks: tuple[str, ...], *outcomes: Outcome) -> dict[str, frozenset[Outcome]]:
    """The same for each of them."""
    return dict.fromkeys(checks, frozenset(outcomes))


@dataclass(frozen=True)
class Expected:
    """What each minute of a phase must be: the services, the checks that are down with what is seen of them; others
    are `others`."""

    mail: Verdict = UP
    inside: Verdict = UP
    down: dict[str, frozenset[Outcome]] = field(default_factory=dict)
    others: Verdict = UP


EXPECTED = {
    WELL: Expected(),
    POSTFIX: Expected(DOWN, UP, all_of((MX, SUBMISSION), Outcome.REFUSED)),
    "postfix again": Expected(),
    DOVECOT: Expected(DOWN, DOWN, all_of((SUBMISSION, *OF_DOVECOT, INSIDE), Outcome.TIMEOUT)),
    "dovecot again": Expected(),
    CERTIFICATE: Expected(DOWN, DOWN, all_of((*BY_NAME, INSIDE), Outcome.CERTIFICATE)),
    "certificate again": Expected(),
    NO_NAMES: Expected(DOWN, UP, all_of((*BY_NAME, DNS), Outcome.DNS)),
    "dns again": Expected(),
    OSAKA_CUT: Expected(),
    COLLECTOR_CUT: Expected(),
    MAIL_CUT: Expected(DOWN, DOWN, all_of((*BY_NAME, INSIDE), *NOBODY_THERE)),
    TWO_CUT: Expected(UNKNOWN, UP, others=UNKNOWN),
    "the end": Expected(),
}
CHECKS = (*BY_NAME, DNS, INSIDE)


@pytest.mark.parametrize("name", EXPECTED)
def test_each_minute_is_judged_for_what_it_was(story: Story, name: str) -> None:
    minutes, expected = story.phases[name].minutes, EXPECTED[name]
    assert minutes
    for service, verdict in (("mail", expected.mail), ("inside", expected.inside)):
        judged = [story.verdict(service, minute) for minute in minutes]
        assert judged == [verdict] * len(minutes), f"{service}\n{story.seen_in(minutes)}"


@pytest.mark.parametrize("name", EXPECTED)
def test_each_check_is_down_for_its_own_reason_and_no_other(story: Story, name: str) -> None:
    minutes, expected = story.phases[name].minutes, EXPECTED[name]
    for check in CHECKS:
        verdict = DOWN if check in expected.down else UP if check == INSIDE else expected.others
        judged = story.check_verdicts(check)
        assert [judged(minute) for minute in minutes] == [verdict] * len(minutes), f"{check}\n{story.seen_in(minutes)}"
        for minute in minutes if verdict is DOWN else ():
            seen = [one for one in story.outcomes(check, minute) if one in expected.down[check]]
            assert len(seen) >= 2, (check, minute, story.outcomes(check, minute))


@pytest.mark.parametrize("service", ["mail", "inside"])
def test_the_minutes_that_are_down_are_those_of_the_faults(story: Story, service: str) -> None:
    """Every one of them, and no other: but for those in which a fault of the service began late, or ended late."""
    phases = [(phase, getattr(EXPECTED[name], service) is DOWN) for name, phase in story.phases.items()]
    surely = {minute for phase, faulty in phases if faulty for minute in phase.minutes}
    late = set()
    for (before, was_faulty), (after, is_faulty) in pairwise(phases):
        if was_faulty or is_faulty:
            late |= set(range(before.end, after.first))
    assessment = story.records[service].assessment
    span = assessment.span
    down = {minute for minute in range(span.first, span.end) if story.verdict(service, minute) is DOWN}
    assert surely <= down <= surely | late
    assert assessment.down_minutes == len(down)
    assert assessment.up_minutes + assessment.down_minutes + assessment.unknown_minutes == span.minutes


def test_every_sample_is_stored_once_though_collectors_died_and_links_were_cut(story: Story) -> None:
    assert story.kills == 6
    assert story.made.total() > 0
    assert max(story.made.values()) == 1
    assert story.stored == story.made
    assert story.refused == 0


def test_a_location_that_is_cut_off_is_silenced_and_what_it_saw_comes_later(story: Story) -> None:
    evidence = story.records["mail"].evidence
    assert OSAKA not in story.before_mending[OSAKA_CUT]
    assert {LONDON, TORONTO, CORE} <= story.before_mending[OSAKA_CUT]
    for minute in story.phases[OSAKA_CUT].minutes:
        bit = 1 << minute - evidence.span.first
        assert evidence.silenced[OSAKA] & bit
        assert not evidence.silenced.get(LONDON, 0) & bit
        assert not any(votes[OSAKA].up & bit for votes in evidence.streams.values())
        # What it saw fail has come, and is no vote.
        assert {one.outcome for one in story.failures if (one.location, one.minute) == (OSAKA, minute)} == {
            Outcome.CONTROL_FAILED
        }


def test_with_the_collector_cut_off_nothing_is_lost_and_its_own_host_abstains(story: Story) -> None:
    assert story.before_mending[COLLECTOR_CUT] <= {CORE}
    of_mail, of_inside = story.records["mail"].evidence, story.records["inside"].evidence
    for minute in story.phases[COLLECTOR_CUT].minutes:
        bit = 1 << minute - of_mail.span.first
        for check in (*BY_NAME, DNS):
            assert sum(of_mail.streams[check][place].up >> (bit.bit_length() - 1) & 1 for place in OUTER) >= 2
        assert of_inside.silenced[CORE] & bit
        assert not of_inside.silenced.get(TORONTO, 0) & bit


def test_two_of_three_cut_off_are_no_majority(story: Story) -> None:
    assert story.before_mending[TWO_CUT] & {LONDON, TORONTO} == set()
    evidence = story.records["mail"].evidence
    for minute in story.phases[TWO_CUT].minutes:
        bit = 1 << minute - evidence.span.first
        assert evidence.silenced[LONDON] & bit
        assert evidence.silenced[TORONTO] & bit
        assert any(votes[OSAKA].up & bit for votes in evidence.streams.values())


def test_the_cores_own_host_is_a_location_like_any_other(story: Story) -> None:
    evidence = story.records["inside"].evidence
    votes = evidence.streams[INSIDE][CORE]
    for name in (WELL, POSTFIX, OSAKA_CUT, TWO_CUT, "the end"):
        for minute in story.phases[name].minutes:
            assert votes.up >> minute - evidence.span.first & 1, name
    for name in (DOVECOT, CERTIFICATE, MAIL_CUT):
        for minute in story.phases[name].minutes:
            assert votes.down >> minute - evidence.span.first & 1, name


def test_clocks_that_were_five_minutes_wrong_are_put_right(story: Story) -> None:
    for (_, location), (low, high) in story.corrections.items():
        assert abs(low + WRONG_CLOCKS[location]) < 60_000
        assert abs(high + WRONG_CLOCKS[location]) < 60_000


def test_the_month_can_be_computed_again_by_anybody(story: Story) -> None:
    for record in story.records.values():
        assert recompute(record) == []
