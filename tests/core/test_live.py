"""A running month as it stands: figures that a person can check, at any minute of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.burn import Budget, Burn, Urgency
from smartmail.core.evidence import Evidence
from smartmail.core.live import Advisory, LiveMonth, joined, live_month
from smartmail.core.maintenance import Action, Announcement
from smartmail.core.minutes import LocationVotes, Verdict
from smartmail.core.month_record import MonthRecord, build
from smartmail.core.months import Month, days_of, span_of
from smartmail.core.planes import between, ones
from smartmail.core.roster import CheckKind, CheckSpec, Roster
from smartmail.core.sla import Result, Terms

LONDON = ZoneInfo("Europe/London")
JUNE, JULY = Month(2026, 6), Month(2026, 7)
FIRST = span_of(JUNE, LONDON).first
DAYS_30 = 43_200
TERMS = Terms("1", date(2026, 1, 1), "Europe/London")
PLACES = ("berlin", "dublin", "oslo")
BEARING = {"imaps": True, "mx": True, "webmail": False}
Runs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Scene:
    """A month up to `until`; all minutes count from the month's first. down: (check, place or "" for all) -> failing.
    silent: of all checks at all places. began: when the service came onto the roster."""

    until: int
    down: Mapping[tuple[str, str], Runs] = field(default_factory=dict)
    silent: Runs = ()
    cut_off: Mapping[str, Runs] = field(default_factory=dict)
    windows: Runs = ()
    month: Month = JUNE
    began: int = -1000
    terms: Terms = TERMS
    gone: str = ""
    """A check that is off the roster from minute 500 on."""

    def record(self) -> MonthRecord:
        span = span_of(self.month, LONDON)
        checks = tuple(
            CheckSpec(name, "mail", CheckKind.TCP, "mail.example", 25, PLACES, sla) for name, sla in BEARING.items()
        )
        kept = tuple(one for one in checks if one.name != self.gone)
        history = [Roster(1, span.first + self.began, PLACES, checks)]
        if self.gone:
            history.append(Roster(2, span.first + 500, PLACES, kept))
        streams: dict[str, dict[str, LocationVotes]] = {}
        for name in BEARING:
            streams[name] = {}
            for place in PLACES:
                failed = union([*self.down.get((name, ""), ()), *self.down.get((name, place), ())])
                up = ones(span.minutes) & ~failed & ~union(self.silent)
                streams[name][place] = LocationVotes(up, failed & ~union(self.silent))
        return build(
            Evidence(
                service="mail",
                month=self.month,
                zone="Europe/London",
                tz_version="2026a",
                days=days_of(self.month, LONDON),
                until=span.first + self.until,
                terms=self.terms,
                history=tuple(history),
                streams=streams,
                silenced={place: union(found) for place, found in self.cut_off.items()},
                announcements=tuple(
                    Announcement(
                        f"w{number}",
                        Action.ANNOUNCE,
                        "mail",
                        span.first + start,
                        span.first + end,
                        (span.first + start - 4000) * 60_000,
                        "anna",
                        "",
                    )
                    for number, (start, end) in enumerate(self.windows)
                ),
                sample_digest="",
            )
        )

    def live(self, before: MonthRecord | None = None) -> LiveMonth:
        return live_month(self.record(), None if before is None else before.assessment)


def union(parts: Runs) -> int:
    plane = 0
    for start, end in parts:
        plane |= between(start, end)
    return plane


def rate(live: LiveMonth, window: int) -> Burn:
    return next(one for one in live.burns if one.window == window)


# the verdict and the budget


@pytest.mark.parametrize(
    ("scene", "verdict"),
    [
        (Scene(600), Verdict.UP),
        (Scene(600, {("mx", ""): [(599, 600)]}), Verdict.DOWN),
        (Scene(600, {("mx", ""): [(598, 599)]}), Verdict.UP),
        (Scene(600, {("mx", ""): [(600, 700)]}), Verdict.UP),
        (Scene(600, silent=[(599, 600)]), Verdict.UNKNOWN),
        (Scene(600, {("mx", ""): [(590, 600)]}, windows=[(580, 640)]), Verdict.MAINTENANCE),
        (Scene(600, {("webmail", ""): [(590, 600)]}), Verdict.UP),
        (Scene(600, began=700), None),
    ],
    ids=["up", "down", "up again", "not yet", "silent", "maintenance", "bears no SLA", "not begun"],
)
def test_what_the_last_judged_minute_was(scene: Scene, verdict: Verdict | None) -> None:
    assert scene.live().verdict is verdict


def test_the_budget_of_a_running_month() -> None:
    live = Scene(10_000, {("mx", ""): [(100, 112)], ("imaps", ""): [(110, 120)]}, silent=[(500, 507)]).live()
    assert live.until == FIRST + 10_000
    assert live.budget == Budget(DAYS_30, 43, 20, 7, 23, 16, DAYS_30 - 10_000)


def test_maintenance_that_is_announced_is_no_minute_to_come() -> None:
    live = Scene(10_000, {("mx", ""): [(100, 112)]}, windows=[(90, 110), (9_990, 10_010), (43_100, 43_300)]).live()
    assert live.budget.ahead == DAYS_30 - 10_000 - 10 - 100
    assert live.budget.eligible == DAYS_30 - 20 - 20 - 100
    assert (live.budget.allowed, live.budget.spent, live.budget.left) == (43, 2, 41)


def test_the_cap_is_of_the_month_and_not_of_what_is_to_come() -> None:
    live = Scene(10_000, windows=[(90, 110), (20_000, 20_100)], terms=replace(TERMS, cap_minutes=50)).live()
    assert (live.budget.eligible, live.budget.ahead) == (DAYS_30 - 50, DAYS_30 - 10_000 - 30)


def test_a_service_that_began_on_the_way_has_a_budget_of_what_is_left() -> None:
    live = Scene(10_000, began=3_200).live()
    assert (live.budget.eligible, live.budget.allowed) == (40_000, 40)


@given(
    st.integers(1, DAYS_30), st.integers(0, DAYS_30), st.integers(0, 60), st.integers(0, DAYS_30), st.integers(1, 300)
)
def test_as_time_goes_by_only_the_announced_and_the_seen_changes_the_budget(
    until: int, start: int, length: int, window: int, lasting: int
) -> None:
    """Eligible and allowed minutes are those of the month's end from the first minute on."""
    scene = Scene(until, {("mx", ""): [(start, start + length)]}, windows=[(window, window + lasting)])
    live, whole = scene.live(), replace(scene, until=DAYS_30).record().assessment
    assert (live.budget.eligible, live.budget.allowed) == (whole.eligible, whole.allowed_down)
    assert live.budget.spent == (whole.down & ones(until)).bit_count()
    assert live.budget.left == live.budget.allowed - live.budget.spent
    assert live.budget.spent <= whole.down_minutes


def test_at_its_end_the_live_month_is_the_month() -> None:
    live = Scene(DAYS_30, {("mx", ""): [(100, 144)]}).live()
    assert (live.budget.ahead, live.budget.left) == (0, -1)
    assert live.record.assessment.result is Result.BREACHED


# the open incident


def test_the_open_incident_begins_where_the_failing_began() -> None:
    live = Scene(600, {("mx", "oslo"): [(585, 600)], ("mx", ""): [(590, 600)]}).live()
    assert live.incident is not None
    assert (live.incident.start, live.incident.down_from) == (FIRST + 585, FIRST + 590)
    assert (live.incident.end, live.incident.down_minutes) == (None, 10)
    assert (live.incident.checks, live.incident.locations) == (("mx",), PLACES)


@pytest.mark.parametrize(
    "scene",
    [
        Scene(600),
        Scene(600, {("mx", ""): [(590, 599)]}),
        Scene(600, {("mx", ""): [(590, 600)]}, silent=[(599, 600)]),
        Scene(600, {("mx", "oslo"): [(500, 600)]}),
        Scene(600, {("webmail", ""): [(500, 600)]}),
    ],
    ids=["nothing", "over", "unknown by now", "one location", "bears no SLA"],
)
def test_no_incident_is_open(scene: Scene) -> None:
    assert scene.live().incident is None


def test_an_outage_in_maintenance_is_an_open_incident_that_costs_nothing() -> None:
    live = Scene(600, {("mx", ""): [(590, 600)]}, windows=[(580, 640)]).live()
    assert live.incident is not None
    assert (live.incident.down_minutes, live.incident.excluded_minutes) == (0, 10)


# the breach to come


def test_a_breach_comes_when_what_is_left_is_gone_at_the_last_hour_s_rate() -> None:
    live = Scene(600, {("mx", ""): [(590, 600)]}).live()
    assert (live.budget.left, rate(live, 60)) == (33, Burn(60, 60, 10, 166_666))
    assert live.breach_in == 204, "34 more down minutes, 10 in an hour"


@pytest.mark.parametrize("already", range(60, 100, 7))
def test_in_an_outage_the_breach_comes_when_it_is_foretold(already: int) -> None:
    """It goes on, and in the foretold minute the month is breached, and not in the one before."""
    begun = 20_000
    scene = Scene(
        begun + already, {("mx", ""): [(begun, DAYS_30)]}, terms=replace(TERMS, numerator=99, denominator=100)
    )
    live = scene.live()
    assert live.breach_in is not None and live.breach_in > 1
    after = replace(scene, until=scene.until + live.breach_in)
    assert after.live().budget.left == -1
    assert after.live().breach_in == 0
    assert replace(after, until=after.until - 1).live().budget.left == 0


def test_no_breach_is_in_sight_without_failures_or_after_the_month() -> None:
    assert Scene(600, {("mx", ""): [(500, 510)]}).live().breach_in is None
    assert Scene(DAYS_30 - 20, {("mx", ""): [(DAYS_30 - 40, DAYS_30 - 20)]}).live().breach_in is None
    assert Scene(DAYS_30 - 30, {("mx", ""): [(DAYS_30 - 60, DAYS_30 - 30)]}).live().breach_in == 28


def test_a_breached_month_is_breached_whatever_comes() -> None:
    assert Scene(600, {("mx", ""): [(500, 544)]}).live().breach_in == 0


# a lone failing location


def test_a_location_that_fails_alone_is_named_since_when() -> None:
    live = Scene(600, {("mx", "oslo"): [(480, 500), (512, 600)]}).live()
    assert live.verdict is Verdict.UP
    assert live.advisories == (Advisory("mx", "oslo", FIRST + 512),)


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        (Scene(600), []),
        (Scene(600, {("mx", "oslo"): [(480, 599)]}), []),
        (Scene(600, {("mx", "oslo"): [(480, 600)]}, cut_off={"oslo": [(599, 600)]}), []),
        (Scene(600, {("mx", "oslo"): [(480, 600)]}, cut_off={"oslo": [(500, 510)]}), [("mx", "oslo", 510)]),
        (Scene(600, {("mx", "oslo"): [(480, 600)]}, silent=[(520, 530)]), [("mx", "oslo", 530)]),
        (Scene(600, {("mx", "oslo"): [(0, 600)]}), [("mx", "oslo", 0)]),
        (
            Scene(600, {("mx", "oslo"): [(480, 600)], ("imaps", "berlin"): [(590, 600)]}),
            [("imaps", "berlin", 590), ("mx", "oslo", 480)],
        ),
        (Scene(600, {("webmail", "oslo"): [(480, 600)]}), [("webmail", "oslo", 480)]),
        (Scene(600, {("mx", "oslo"): [(480, 600)]}, gone="mx"), []),
        (Scene(600, {("mx", "oslo"): [(480, 600)]}, windows=[(590, 610)]), [("mx", "oslo", 480)]),
    ],
    ids=[
        "nobody",
        "no longer",
        "cut off",
        "cut off before",
        "silent before",
        "since the month began",
        "two checks",
        "bears no SLA",
        "off the roster",
        "in maintenance",
    ],
)
def test_who_fails_alone_and_since_when(scene: Scene, expected: list[tuple[str, str, int]]) -> None:
    assert [(one.check, one.location, one.since - FIRST) for one in scene.live().advisories] == expected


def test_locations_too_few_to_be_a_majority_are_named_each() -> None:
    """One sees it fail, one is cut off, one says nothing of it: unknown, and worth a look."""
    live = Scene(600, {("mx", "oslo"): [(590, 600)]}, cut_off={"berlin": [(550, 600)], "dublin": [(550, 600)]}).live()
    assert (live.verdict, live.incident) == (Verdict.UNKNOWN, None)
    assert live.advisories == (Advisory("mx", "oslo", FIRST + 590),)


def test_a_check_that_is_down_is_no_advisory() -> None:
    assert Scene(600, {("mx", ""): [(590, 600)], ("mx", "oslo"): [(500, 590)]}).live().advisories == ()
    assert Scene(600, {("mx", "oslo"): [(590, 600)], ("mx", "dublin"): [(595, 600)]}).live().advisories == ()


def test_a_check_that_bears_no_sla_and_fails_everywhere_is_not_failing_alone() -> None:
    assert Scene(600, {("webmail", ""): [(590, 600)]}).live().advisories == ()


def test_a_check_that_is_up_again_while_the_outage_goes_on_may_fail_alone() -> None:
    """The open incident names both checks; the one is up again but for Oslo."""
    live = Scene(600, {("mx", ""): [(570, 580)], ("mx", "oslo"): [(580, 600)], ("imaps", ""): [(575, 600)]}).live()
    assert live.incident is not None and live.incident.checks == ("imaps", "mx")
    assert live.advisories == (Advisory("mx", "oslo", FIRST + 570),)


# burning


def test_windows_look_back_into_the_month_before() -> None:
    """An outage of the month's last half hour, looked at ten minutes into the next."""
    before = Scene(DAYS_30, {("mx", ""): [(DAYS_30 - 30, DAYS_30)]}).record()
    scene = Scene(10, {("mx", ""): [(0, 4)]}, month=JULY)
    live, alone = scene.live(before), scene.live()
    assert rate(live, 60) == Burn(60, 60, 34, 566_666)
    assert rate(live, 4320) == Burn(4320, 4320, 34, 7_870)
    assert rate(live, 5) == rate(alone, 5) == Burn(5, 5, 0, 0)
    assert rate(alone, 60) == Burn(60, 10, 4, 400_000)
    assert (live.budget.spent, alone.budget.spent) == (4, 4), "the budget is of this month alone"
    assert [(one.pair.urgency, one.firing) for one in live.alerts] == [
        (Urgency.PAGE, False),
        (Urgency.PAGE, True),
        (Urgency.TICKET, True),
        (Urgency.TICKET, True),
    ]


def test_maintenance_of_the_month_before_counts_on_neither_side() -> None:
    last = (DAYS_30 - 30, DAYS_30)
    before = Scene(DAYS_30, {("mx", ""): [last]}, windows=[last]).record()
    assert rate(Scene(10, month=JULY).live(before), 60) == Burn(60, 30, 0, 0)


def test_minutes_between_two_lives_of_a_service_are_neither_up_nor_down() -> None:
    """Off the roster over the turn of the month: joined, they are unknown, and conserved."""
    before = Scene(DAYS_30, {("mx", ""): [(100, 105)]}).record().assessment
    now = Scene(200, {("mx", ""): [(120, 130)]}, month=JULY, began=50).record().assessment
    whole = joined(before, now)
    assert whole.span.minutes == DAYS_30 + 200
    assert (whole.up | whole.down | whole.unknown | whole.maintenance) == ones(whole.span.minutes)
    assert whole.down == before.down | now.down << (DAYS_30 + 50)
    assert whole.unknown == between(DAYS_30, DAYS_30 + 50)


def test_a_total_outage_pages_within_a_minute_and_a_slow_burn_makes_a_ticket() -> None:
    def firing(scene: Scene) -> list[bool]:
        return [one.firing for one in scene.live().alerts]

    assert firing(Scene(10_000, {("mx", ""): [(9_999, 10_000)]})) == [True, False, False, False]
    slow = [(at, at + 1) for at in range(5_000, 10_000, 300)]
    assert firing(Scene(9_900, {("mx", ""): slow})) == [False, False, True, True]
    assert firing(Scene(10_000)) == [False] * 4
