"""A stream's day by columns: the same whatever the order; read in bulk, and equal to counting sample by sample."""

import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.columns import (
    DAY_MINUTES,
    EMPTY,
    LATENCY_BOUNDS_MS,
    Added,
    Column,
    ColumnError,
    Draft,
    Held,
    counted_details,
    decode_column,
    decode_outcomes,
    decode_summary,
    encode_column,
    encode_summary,
    faults_in,
    join_days,
    latency_hours,
    latency_quantile,
    planes_of,
    stretch_digest,
    summarise,
)
from smartmail.core.outcome import Outcome, Vote, vote_of

Put = tuple[int, int, int, str]
"""Second of the day, outcome, latency, detail."""

seconds = st.integers(0, 299) | st.integers(0, 86_399)
outcomes = st.sampled_from([*Outcome, 6, 31, 99])


@st.composite
def puts(draw: st.DrawFn) -> list[Put]:
    """Samples of one day, each second at most once."""
    found = []
    for second in draw(st.lists(seconds, unique=True, max_size=30)):
        outcome = draw(outcomes)
        text = "" if outcome == 1 else draw(st.sampled_from(["", "timed out", "451 4.3.0 später", "refused"]))
        found.append((second, int(outcome), draw(st.integers(0, 65_535)), text))
    return found


def column_of(samples: Iterable[Put]) -> Column:
    draft = Draft()
    for sample in samples:
        draft.add(*sample)
    return draft.freeze()


@given(puts(), st.randoms(use_true_random=False))
def test_case_25_order_and_repetition_change_nothing(samples: list[Put], random: object) -> None:
    shuffled = samples * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = column_of(samples), column_of(shuffled)
    assert one == other
    assert encode_column(one) == encode_column(other)
    assert one.samples == len(samples)


@given(puts(), st.data())
def test_case_25_a_day_put_together_from_parts_is_the_same_day(samples: list[Put], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(samples)))
    draft = Draft(decode_column(encode_column(column_of(samples[:place]))))
    for sample in samples[place:]:
        assert draft.add(*sample) is Added.NEW
    for sample in samples:
        assert draft.add(*sample) is Added.DUPLICATE
    assert draft.freeze() == column_of(samples)


@given(puts())
def test_every_sample_is_kept_and_the_greatest_vote_of_each_minute_counts(samples: list[Put]) -> None:
    draft = Draft(column_of(samples))
    for second, outcome, latency, detail in samples:
        assert draft.held(second) == (outcome, latency, detail)
    column = draft.freeze()
    for minute in {second // 60 for second, *_ in samples}:
        votes = [vote_of(outcome) for second, outcome, *_ in samples if second // 60 == minute]
        assert vote_of(column.outcomes[minute]) == max(votes)


@pytest.mark.parametrize(
    ("order", "counts"),
    [
        ([Outcome.OK, Outcome.TIMEOUT], Outcome.TIMEOUT),
        ([Outcome.TIMEOUT, Outcome.OK], Outcome.TIMEOUT),
        ([Outcome.TIMEOUT, Outcome.CONTROL_FAILED, Outcome.OK], Outcome.CONTROL_FAILED),
        ([Outcome.MONITOR_ERROR, Outcome.OK], Outcome.OK),
        ([Outcome.MONITOR_ERROR, Outcome.REFUSED], Outcome.REFUSED),
        ([Outcome.OK, Outcome.MONITOR_ERROR, Outcome.OK_JUNK], Outcome.OK),
        ([Outcome.REFUSED, Outcome.TIMEOUT], Outcome.REFUSED),
    ],
)
def test_case_10_two_probes_in_one_minute_are_one_vote(order: list[Outcome], counts: Outcome) -> None:
    samples = [(600 + place, int(outcome), 7, "") for place, outcome in enumerate(order)]
    for way in (samples, samples[::-1]):
        column = column_of(way)
        assert column.outcomes[10] == counts
        assert column.outcomes.count(0) == DAY_MINUTES - 1
        assert column.samples == len(order)


def test_case_27_a_clock_that_steps_back_does_not_overwrite_a_failure() -> None:
    draft = Draft()
    assert draft.add(630, Outcome.TIMEOUT, 10_000, "no answer") is Added.NEW
    assert draft.add(612, Outcome.OK, 20, "") is Added.NEW
    assert draft.outcomes[10] == Outcome.TIMEOUT
    assert draft.held(630) == Held(Outcome.TIMEOUT, 10_000, "no answer")


@pytest.mark.parametrize(
    "other",
    [
        (630, Outcome.OK, 20, ""),
        (630, Outcome.TIMEOUT, 10_001, "no answer"),
        (630, Outcome.TIMEOUT, 10_000, "no answer at all"),
        (612, Outcome.OK, 21, ""),
        (612, Outcome.CONTROL_FAILED, 20, ""),
    ],
)
def test_case_26_another_sample_of_the_same_second_is_refused(other: Put) -> None:
    first = [(630, int(Outcome.TIMEOUT), 10_000, "no answer"), (612, int(Outcome.OK), 20, "")]
    draft = Draft(column_of(first))
    assert draft.add(*other) is Added.CONFLICT
    assert draft.freeze() == column_of(first)


def test_asking_for_a_second_without_a_sample_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Draft().held(0)


@given(puts())
def test_a_column_comes_back_as_it_was(samples: list[Put]) -> None:
    draft = Draft(column_of(samples))
    draft.widen_clock(-40, -30)
    draft.widen_clock(-35, 12)
    column = draft.freeze()
    octets = encode_column(column)
    found = decode_column(octets)
    assert found == column
    assert found.clock == (-40, 12)
    assert decode_outcomes(octets) == column.outcomes


@given(puts())
def test_a_summary_keeps_what_counted(samples: list[Put]) -> None:
    column = column_of(samples)
    summary = summarise(column)
    octets = encode_summary(summary)
    assert decode_summary(octets) == summary
    assert decode_outcomes(octets) == column.outcomes
    by_minute = {second // 60: text for second, text in summary.details}
    assert len(by_minute) == len(summary.details)
    for second, text in column.details:
        counted = column.seconds[second // 60] == second % 60
        assert (by_minute.get(second // 60) == text) or not counted
    assert summary.details == counted_details(column)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"nonsense",
        zlib.compress(bytes(100)),
        zlib.compress(bytes(5 * DAY_MINUTES)),
        encode_column(EMPTY)[:-9],
    ],
)
def test_damage_in_the_database_is_told(octets: bytes) -> None:
    with pytest.raises(ColumnError):
        decode_column(octets)
    with pytest.raises(ColumnError):
        decode_summary(octets)


def test_a_column_is_no_summary() -> None:
    with pytest.raises(ColumnError):
        decode_summary(encode_column(EMPTY))
    with pytest.raises(ColumnError):
        decode_outcomes(zlib.compress(bytes(DAY_MINUTES - 1)))


@given(st.binary(max_size=200))
def test_planes_are_the_votes_octet_by_octet(octets: bytes) -> None:
    planes = planes_of(octets)
    for place, outcome in enumerate(octets):
        said = [plane >> place & 1 for plane in (planes.up, planes.down, planes.abstain, planes.error)]
        assert said == [vote_of(outcome) == vote for vote in (Vote.UP, Vote.DOWN, Vote.ABSTAIN, Vote.ERROR)]
    assert max(planes) >> len(octets) == 0
    assert faults_in(octets) == [
        place for place, outcome in enumerate(octets) if vote_of(outcome) not in (Vote.UP, Vote.SILENT)
    ]


DAY = 20_000
FIRST = DAY * DAY_MINUTES


@given(puts(), puts(), st.integers(0, 3 * DAY_MINUTES), st.integers(0, 3 * DAY_MINUTES))
def test_a_stretch_holds_just_the_minutes_it_was_cut_to(one: list[Put], other: list[Put], start: int, end: int) -> None:
    start, end = sorted((start, end))
    stretch = join_days({DAY: column_of(one), DAY + 2: column_of(other)}, FIRST + start, FIRST + end)
    within = [
        (day * 86_400 + second, outcome, text)
        for day, samples in ((0, one), (2, other))
        for second, outcome, _, text in samples
        if start * 60 <= day * 86_400 + second < end * 60
    ]
    assert stretch.samples == len(within)
    assert len(stretch.outcomes) == len(stretch.low) == end - start
    assert stretch.details == tuple(sorted((DAY * 86_400 + second, text) for second, _, text in within if text))


def test_case_05_a_sample_at_the_boundary_belongs_to_the_later_month() -> None:
    days = {DAY: column_of([(86_399, 18, 1, "")]), DAY + 1: column_of([(0, 19, 1, "")])}
    boundary = FIRST + DAY_MINUTES
    assert join_days(days, FIRST, boundary).outcomes.strip(b"\0") == bytes([18])
    assert join_days(days, boundary, boundary + DAY_MINUTES).outcomes.strip(b"\0") == bytes([19])


@given(puts(), puts())
def test_the_digest_tells_samples_apart_and_nothing_else(one: list[Put], other: list[Put]) -> None:
    stretches = [join_days({DAY: column_of(samples)}, FIRST, FIRST + DAY_MINUTES) for samples in (one, other)]
    digests = [stretch_digest("mx", "ams", stretch) for stretch in stretches]
    assert (digests[0] == digests[1]) == (sorted(one) == sorted(other))


def test_the_digest_is_of_a_stream_and_a_time() -> None:
    stretch = join_days({}, FIRST, FIRST + 60)
    later = join_days({}, FIRST + 1, FIRST + 61)
    digests = {
        stretch_digest("mx", "ams", stretch),
        stretch_digest("mx", "fra", stretch),
        stretch_digest("imaps", "ams", stretch),
        stretch_digest("mx", "ams", later),
    }
    assert len(digests) == 4


@given(puts())
def test_latencies_are_counted_for_what_was_up(samples: list[Put]) -> None:
    column = column_of(samples)
    hours = latency_hours(column)
    counted = [column.outcomes[minute] for minute in range(DAY_MINUTES) if vote_of(column.outcomes[minute]) == Vote.UP]
    assert sum(map(sum, hours.values())) == len(counted)
    assert all(len(counts) == len(LATENCY_BOUNDS_MS) and any(counts) for counts in hours.values())


@pytest.mark.parametrize(
    ("latency", "bound"),
    [
        (0, 1),
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 4),
        (5, 6),
        (31, 32),
        (33, 48),
        (1000, 1024),
        (49_153, 65_535),
        (65_535, 65_535),
    ],
)
def test_a_latency_is_in_the_bucket_of_the_next_bound(latency: int, bound: int) -> None:
    (counts,) = latency_hours(column_of([(0, 1, latency, "")])).values()
    assert latency_quantile(counts, 500) == bound


def test_quantiles() -> None:
    samples = [(minute * 60, 1, 10 if minute < 57 else 4000, "") for minute in range(60)]
    counts = latency_hours(column_of(samples))[0]
    assert [latency_quantile(counts, per_mille) for per_mille in (1, 500, 950, 951, 1000)] == [12, 12, 12, 4096, 4096]
    assert latency_quantile((0,) * len(LATENCY_BOUNDS_MS), 500) is None


def test_a_day_is_small() -> None:
    """Latencies of noise, probes in their slot but for some: what a segment costs in the database."""
    noise = 12_345
    draft = Draft()
    for minute in range(DAY_MINUTES):
        noise = noise * 1_103_515_245 + 12_345 & 0x7FFFFFFF
        draft.add(minute * 60 + 17 + (noise % 50 == 0), 1 if noise % 997 else 18, 20 + (noise >> 16) % 400, "")
    column = draft.freeze()
    assert len(encode_column(column)) < 2 * DAY_MINUTES
    assert len(encode_summary(summarise(column))) < 600
