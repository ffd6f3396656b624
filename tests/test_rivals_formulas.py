"""Formulas in common use, and the same minutes judged by ours: where and by how many minutes they go another way.

Each is named after what it does. None is made of straw: on a month without anything special all say the same.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

import pytest

from smartmail.core.maintenance import Recurrence, occurrences
from smartmail.core.minutes import LocationVotes, ServiceMinutes, check_minutes, service_minutes
from smartmail.core.months import Month, Span, span_of
from smartmail.core.planes import ones
from smartmail.core.sla import Assessment, Result, Terms, assess

TERMS = Terms("1", date(2026, 1, 1), "Europe/London")
LONDON = ZoneInfo("Europe/London")
DAY = 1440
MET, BREACHED, UNDECIDED = Result.MET, Result.BREACHED, Result.INDETERMINATE

Series = str
"""A letter for each minute: u up, d down, ? unknown, m maintenance (and up), x maintenance (and down)."""
Formula = Callable[[Series], Result]
Runs = Sequence[tuple[int, int]]


def minutes(n: int, **at: Runs) -> Series:
    """n minutes, up but for the runs of each letter; `q` stands for ?."""
    series = ["u"] * n
    for letter, runs in at.items():
        for start, end in runs:
            series[start:end] = ("?" if letter == "q" else letter) * (end - start)
    return "".join(series)


def plane(series: Series, letters: str) -> int:
    return int("".join("1" if letter in letters else "0" for letter in reversed(series)) or "0", 2)


def ours(series: Series, terms: Terms = TERMS) -> Assessment:
    judged = ServiceMinutes(plane(series, "um"), plane(series, "dx"), plane(series, "?"))
    return assess(judged, plane(series, "mx"), terms, Span(0, len(series)))


def below(share: float) -> Result:
    return BREACHED if share < 99.9 else MET


# formulas over minutes


def float_target_as_a_percentage(series: Series) -> Result:
    """(E - D) / E < 99.9 / 100, in floating point."""
    kept = [letter for letter in series if letter in "ud?"]
    return BREACHED if (len(kept) - kept.count("d")) / len(kept) < 99.9 / 100 else MET


def float_budget_as_a_percentage(series: Series) -> Result:
    """D > E * (100 - 99.9) / 100, in floating point."""
    kept = [letter for letter in series if letter in "ud?"]
    return BREACHED if kept.count("d") > len(kept) * (100 - 99.9) / 100 else MET


def good_checks_over_all_checks(series: Series) -> Result:
    """Only what was measured is in the denominator."""
    good, bad = series.count("u"), series.count("d")
    return below(100 * good / (good + bad))


def checks_that_come_faster_while_down(series: Series) -> Result:
    """The same, with a retry every 20 seconds until it works again."""
    good, bad = series.count("u"), 3 * series.count("d")
    return below(100 * good / (good + bad))


def failures_over_successes(series: Series) -> Result:
    """100 - failures / hits, where hits are the successes."""
    return below(100 - 100 * series.count("d") / max(1, series.count("u")))


def maintenance_as_up(series: Series) -> Result:
    """In the numerator and in the denominator."""
    good = sum(series.count(letter) for letter in "umx")
    return below(100 * good / (good + series.count("d")))


def maintenance_only_mutes_alerts(series: Series) -> Result:
    """What fails in it counts."""
    good = sum(series.count(letter) for letter in "um")
    bad = sum(series.count(letter) for letter in "dx")
    return below(100 * good / (good + bad))


def mean_of_days(series: Series) -> Result:
    """The average of each day's percentage."""
    days = [series[start : start + DAY] for start in range(0, len(series), DAY)]
    shares = [100 * day.count("u") / (day.count("u") + day.count("d")) for day in days if set(day) & set("ud")]
    return below(sum(shares) / len(shares))


def rounded_to_two_places(series: Series) -> Result:
    """The verdict by the number that is shown."""
    good, bad = series.count("u"), series.count("d")
    return below(round(100 * good / (good + bad), 2))


def unknown_as_the_state_before(series: Series) -> Result:
    """Silence takes the last state, and up where there was none."""
    filled, last = [], "u"
    for letter in series:
        last = last if letter == "?" else letter
        filled.append(last)
    return good_checks_over_all_checks("".join(filled))


def rolling_thirty_days(series: Series) -> Result:
    """The last 43,200 minutes, whatever the month."""
    return good_checks_over_all_checks(series[-30 * DAY :])


def fixed_thirty_days(series: Series) -> Result:
    """A denominator of 43,200 in any month."""
    return below(100 - 100 * series.count("d") / (30 * DAY))


FORMULAS: tuple[Formula, ...] = (
    float_target_as_a_percentage,
    float_budget_as_a_percentage,
    good_checks_over_all_checks,
    checks_that_come_faster_while_down,
    failures_over_successes,
    maintenance_as_up,
    maintenance_only_mutes_alerts,
    mean_of_days,
    rounded_to_two_places,
    unknown_as_the_state_before,
    rolling_thirty_days,
    fixed_thirty_days,
)


def named(value: object) -> str:
    return getattr(value, "__name__", "")


@pytest.mark.parametrize("formula", FORMULAS, ids=named)
def test_on_a_plain_month_all_say_the_same(formula: Formula) -> None:
    """Of 30 days without maintenance or silence, with no failures, with 10 minutes of them, and with 3 hours."""
    for down, result in ((0, MET), (10, MET), (180, BREACHED)):
        series = minutes(30 * DAY, d=[(20_000, 20_000 + down)])
        assert (formula(series), ours(series).result) == (result, result)


LAST_DAY_MAINTAINED = [(29 * DAY, 30 * DAY)]

# Formula, minutes, what it says; what we say, and by which integers: down, unknown, eligible, allowed.
CASES: tuple[tuple[str, Formula, Series, Result, Result, tuple[int, int, int, int]], ...] = (
    (
        "exactly 99.9: 43 of 43,000",
        float_target_as_a_percentage,
        minutes(30 * DAY, d=[(0, 43)], m=[(1000, 1200)]),
        BREACHED,
        MET,
        (43, 0, 43_000, 43),
    ),
    (
        "exactly 99.9 by the budget",
        float_budget_as_a_percentage,
        minutes(30 * DAY, d=[(0, 43)], m=[(1000, 1200)]),
        BREACHED,
        MET,
        (43, 0, 43_000, 43),
    ),
    (
        "a week without a monitor",
        good_checks_over_all_checks,
        minutes(30 * DAY, d=[(0, 40)], q=[(DAY, 8 * DAY)]),
        BREACHED,
        UNDECIDED,
        (40, 10_080, 43_200, 43),
    ),
    (
        "the monitor falls silent with the service",
        good_checks_over_all_checks,
        minutes(30 * DAY, q=[(0, 300)]),
        MET,
        UNDECIDED,
        (0, 300, 43_200, 43),
    ),
    (
        "an hour's third of failures, asked three times as often",
        checks_that_come_faster_while_down,
        minutes(30 * DAY, d=[(0, 20)]),
        BREACHED,
        MET,
        (20, 0, 43_200, 43),
    ),
    (
        "43 of 43,020",
        failures_over_successes,
        minutes(30 * DAY, d=[(0, 43)], m=[(1000, 1180)]),
        BREACHED,
        MET,
        (43, 0, 43_020, 43),
    ),
    (
        "a day of maintenance, and 43 down",
        maintenance_as_up,
        minutes(30 * DAY, d=[(0, 43)], m=LAST_DAY_MAINTAINED),
        MET,
        BREACHED,
        (43, 0, 41_760, 41),
    ),
    (
        "down for an hour in its maintenance",
        maintenance_only_mutes_alerts,
        minutes(30 * DAY, d=[(0, 20)], x=[(1000, 1060)]),
        BREACHED,
        MET,
        (20, 0, 43_140, 43),
    ),
    (
        "a day of 60 minutes, 2 of them down",
        mean_of_days,
        minutes(30 * DAY, m=[(29 * DAY, 30 * DAY - 60)], d=[(30 * DAY - 2, 30 * DAY)]),
        BREACHED,
        MET,
        (2, 0, 41_820, 41),
    ),
    (
        "45 of 31 days",
        rounded_to_two_places,
        minutes(31 * DAY, d=[(0, 45)]),
        MET,
        BREACHED,
        (45, 0, 44_640, 44),
    ),
    (
        "46 of 31 days",
        rounded_to_two_places,
        minutes(31 * DAY, d=[(0, 46)]),
        MET,
        BREACHED,
        (46, 0, 44_640, 44),
    ),
    (
        "all probes dead for two days",
        unknown_as_the_state_before,
        minutes(30 * DAY, q=[(DAY, 3 * DAY)]),
        MET,
        UNDECIDED,
        (0, 2_880, 43_200, 43),
    ),
    (
        "the last thing seen was a failure",
        unknown_as_the_state_before,
        minutes(30 * DAY, d=[(1000, 1001)], q=[(1001, 1101)]),
        BREACHED,
        UNDECIDED,
        (1, 100, 43_200, 43),
    ),
    (
        "an outage on the 1st of 31 days",
        rolling_thirty_days,
        minutes(31 * DAY, d=[(60, 180)]),
        MET,
        BREACHED,
        (120, 0, 44_640, 44),
    ),
    (
        "41 of 28 days",
        fixed_thirty_days,
        minutes(28 * DAY, d=[(0, 41)]),
        MET,
        BREACHED,
        (41, 0, 40_320, 40),
    ),
    (
        "44 of 31 days",
        fixed_thirty_days,
        minutes(31 * DAY, d=[(0, 44)]),
        BREACHED,
        MET,
        (44, 0, 44_640, 44),
    ),
)


@pytest.mark.parametrize(
    ("formula", "series", "theirs", "result", "integers"),
    [case[1:] for case in CASES],
    ids=[f"{named(case[1])}: {case[0]}" for case in CASES],
)
def test_where_a_formula_goes_another_way(
    formula: Formula, series: Series, theirs: Result, result: Result, integers: tuple[int, int, int, int]
) -> None:
    judged = ours(series)
    assert formula(series) is theirs
    assert judged.result is result
    found = (judged.down_minutes, judged.unknown_minutes, judged.eligible, judged.allowed_down)
    assert found == integers


def test_every_formula_has_a_month_in_which_it_is_wrong() -> None:
    wrong = {formula for _, formula, _, theirs, result, _ in CASES if theirs is not result}
    assert wrong == set(FORMULAS)


def test_every_exact_month_is_a_breach_in_floating_point() -> None:
    """D of 1000 D eligible minutes: by the words of the contract not below, and by floats below in all 44 of them."""
    exact = range(1, 45)
    assert 99.9 / 100 > 0.999 and 100 - 99.9 > 0.0999
    assert sum((1000 * d - d) / (1000 * d) < 99.9 / 100 for d in exact) == 44
    assert sum(d > 1000 * d * (100 - 99.9) / 100 for d in exact) == 44
    assert sum((1000 * d - d) / (1000 * d) < 0.999 for d in exact) == 0, "a test by this literal shows nothing"
    assert [ours(minutes(1000 * d, d=[(0, d)])).result for d in exact] == [MET] * 44
    assert [ours(minutes(1000 * d, d=[(0, d + 1)])).result for d in exact] == [BREACHED] * 44


def test_what_is_shown_is_cut_off_and_never_rounded_up() -> None:
    judged = ours(minutes(31 * DAY, d=[(0, 45)]))
    assert judged.availability_high == "99.899"
    assert f"{100 * (31 * DAY - 45) / (31 * DAY):.2f}" == "99.90"


# formulas over votes

N = 60
ALL = ones(N)
A, B, C, D = "amsterdam", "berlin", "copenhagen", "dublin"
Seen = dict[str, Series]
"""Location -> a letter for each minute: u, d, or ? where it said nothing."""


def votes(seen: Seen) -> dict[str, LocationVotes]:
    return {place: LocationVotes(plane(series, "u"), plane(series, "d")) for place, series in seen.items()}


def by_us(seen: Seen) -> tuple[int, int, int, int]:
    """Up, down, unknown and advisory minutes; every location of `seen` is on the roster."""
    found = check_minutes(votes(seen), dict.fromkeys(seen, ALL), {}, TERMS.minimum_reporters, N)
    return found.up.bit_count(), found.down.bit_count(), found.unknown.bit_count(), found.advisory.bit_count()


def counted(seen: Seen, rule: Callable[[list[str]], bool]) -> int:
    """The minutes that are down by a rule over what the locations say."""
    return sum(rule([series[minute] for series in seen.values()]) for minute in range(N))


def a_tie_is_a_majority(said: list[str]) -> bool:
    """failing >= n / 2."""
    return said.count("d") >= len(said) / 2


def majority_of_those_who_report(said: list[str]) -> bool:
    live = len(said) - said.count("?")
    return live > 0 and said.count("d") > live / 2


def as_many_as_are_required_or_connected(said: list[str]) -> bool:
    """min(2, connected) must agree; nobody connected: they agree with whatever was."""
    live = len(said) - said.count("?")
    return live > 0 and said.count("d") >= min(2, live)


def anybody(said: list[str]) -> bool:
    return "d" in said


@pytest.mark.parametrize(
    ("rule", "seen", "theirs", "us"),
    [
        (a_tie_is_a_majority, {A: "d" * N, B: "u" * N}, 60, (0, 0, 60, 0)),
        (a_tie_is_a_majority, {A: "d" * N, B: "d" * N, C: "u" * N, D: "u" * N}, 60, (60, 0, 0, 60)),
        (a_tie_is_a_majority, {A: "d" * N, B: "d" * N, C: "u" * N}, 60, (0, 60, 0, 0)),
        (majority_of_those_who_report, {A: "d" * N, B: "?" * N, C: "?" * N}, 60, (0, 0, 60, 0)),
        (majority_of_those_who_report, {A: "d" * N, B: "d" * N, C: "u" * N, D: "?" * N}, 60, (0, 0, 60, 0)),
        (majority_of_those_who_report, {A: "?" * N, B: "?" * N, C: "?" * N}, 0, (0, 0, 60, 0)),
        (as_many_as_are_required_or_connected, {A: "d" * N, B: "?" * N, C: "?" * N}, 60, (0, 0, 60, 0)),
        (as_many_as_are_required_or_connected, {A: "d" * N, B: "d" * N, C: "u" * N, D: "u" * N}, 60, (60, 0, 0, 60)),
        (anybody, {A: "d" * N, B: "u" * N, C: "u" * N}, 60, (60, 0, 0, 60)),
    ],
    ids=[
        "a tie of two is down",
        "a tie of four is down",
        "all agree on a real majority",
        "quorum over live probes: one decides alone",
        "quorum over live probes: two of four",
        "quorum over live probes: nobody is left, and it is up",
        "fewer are required when fewer are connected",
        "as many as are required, of four",
        "one red tile is an outage",
    ],
)
def test_where_another_quorum_goes_another_way(
    rule: Callable[[list[str]], bool], seen: Seen, theirs: int, us: tuple[int, int, int, int]
) -> None:
    assert counted(seen, rule) == theirs
    assert by_us(seen) == us
    assert sum(us[:3]) == N


def test_a_partition_decides_a_month_by_live_probes_and_not_by_us() -> None:
    """Two of three locations are cut off for an hour, and the third has a fault of its own."""
    seen = {A: "d" * N, B: "?" * N, C: "?" * N}
    down = counted(seen, majority_of_those_who_report)
    assert good_checks_over_all_checks(minutes(30 * DAY, d=[(0, down)])) is BREACHED
    judged = ours(minutes(30 * DAY, q=[(0, by_us(seen)[2])]))
    assert (judged.result, judged.down_minutes, judged.unknown_minutes) == (UNDECIDED, 0, 60)
    assert (judged.availability_low, judged.availability_high) == ("99.861", "100.000")


def failing_places_of_any_check(checks: Sequence[Seen]) -> int:
    """Minutes in which a majority of locations sees some check or other fail."""
    failing = {}
    for place in checks[0]:
        said = zip(*(one[place] for one in checks), strict=True)
        failing[place] = "".join("d" if "d" in minute else "u" for minute in said)
    return counted(failing, majority_of_those_who_report)


def test_failures_of_different_checks_do_not_add_up() -> None:
    imaps = {A: "d" * N, B: "u" * N, C: "u" * N}
    mx = {A: "u" * N, B: "d" * N, C: "u" * N}
    assert failing_places_of_any_check([imaps, mx]) == 60
    roster = dict.fromkeys((A, B, C), ALL)
    found = {name: check_minutes(votes(seen), roster, {}, 2, N) for name, seen in (("imaps", imaps), ("mx", mx))}
    service = service_minutes(found, dict.fromkeys(found, ALL), N)
    assert (service.down, service.up) == (0, ALL)
    assert all(one.advisory == ALL for one in found.values())


def own_errors_as_down(seen: Seen) -> int:
    """The monitor's database is locked: every probe that could not be written down is a failure."""
    return counted({place: series.replace("?", "d") for place, series in seen.items()}, majority_of_those_who_report)


def test_an_error_of_the_monitor_is_no_outage() -> None:
    seen = dict.fromkeys((A, B, C), "?" * N)
    assert own_errors_as_down(seen) == 60
    assert by_us(seen) == (0, 0, 60, 0)


# formulas over time


def month_of_days_of_24_hours(month: Month) -> Span:
    """Local midnight of the 1st, and as many times 86,400 seconds as the month has days."""
    begins = datetime(month.year, month.month, 1, tzinfo=LONDON).astimezone(UTC)
    days = (month.end_day - month.first_day).days
    first = int(begins.timestamp()) // 60
    return Span(first, first + days * DAY)


@pytest.mark.parametrize(
    ("month", "theirs", "us", "outage", "counted_by_them", "counted_by_us"),
    [
        (Month(2026, 3), 44_640, 44_580, (0, 50), 50, 0),
        (Month(2026, 10), 44_640, 44_700, (-50, 0), 0, 50),
    ],
    ids=["an hour of April is March", "an hour of October is nobody's"],
)
def test_days_of_24_hours_lose_or_gain_an_hour_when_the_clock_changes(
    month: Month, theirs: int, us: int, outage: tuple[int, int], counted_by_them: int, counted_by_us: int
) -> None:
    """outage: minutes from the end of the month on. It decides the month in both, and another one."""
    fixed, real = month_of_days_of_24_hours(month), span_of(month, LONDON)
    assert (fixed.minutes, real.minutes) == (theirs, us)
    start, end = real.end + outage[0], real.end + outage[1]
    assert fixed.mask(start, end).bit_count() == counted_by_them
    down = real.mask(start, end)
    assert down.bit_count() == counted_by_us
    judged = assess(ServiceMinutes(ones(us) ^ down, down, 0), 0, TERMS, real)
    assert judged.result is (BREACHED if counted_by_us else MET)


def test_a_window_at_a_distance_from_midnight_is_an_hour_off_when_the_clock_changes() -> None:
    """Announced for 02:30 to 03:30 on the day of 23 hours. Midnight plus 2.5 hours is 03:30 on the wall."""
    real, day = span_of(Month(2026, 3), LONDON), date(2026, 3, 29)
    midnight = datetime(2026, 3, 29, tzinfo=LONDON).astimezone(UTC)
    by_distance = int(midnight.timestamp()) // 60 + 150
    ((_, first, end),) = occurrences(Recurrence(day, time(2, 30), time(3, 30)), LONDON)
    assert (by_distance - first, end - first) == (60, 60)
    down = real.mask(first, end)
    wrong, right = real.mask(by_distance, by_distance + 60), real.mask(first, end)
    served = ServiceMinutes(ones(real.minutes) ^ down, down, 0)
    judged = [assess(served, excluded, TERMS, real) for excluded in (wrong, right)]
    assert [(one.down_minutes, one.result) for one in judged] == [(60, BREACHED), (0, MET)]


def whole_month_for_a_young_service(series: Series, month_minutes: int) -> Result:
    return below(100 - 100 * series.count("d") / month_minutes)


def test_a_young_service_is_measured_on_the_minutes_it_lived() -> None:
    """Ten days, 15 minutes down: three tools have three answers; ours is written in the contract's words."""
    series = minutes(10 * DAY, d=[(100, 115)])
    assert whole_month_for_a_young_service(series, 30 * DAY) is MET
    judged = ours(series)
    assert (judged.result, judged.eligible, judged.allowed_down) == (BREACHED, 14_400, 14)
