"""Batches as octets: one form only, nothing else is taken, and nothing a sender does costs more than the limits."""

import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.outcome import Outcome
from smartmail.core.sample import (
    MAX_DETAIL,
    MAX_MS,
    MAX_SAMPLES,
    Batch,
    Sample,
    SampleError,
    SampleFault,
    decode_batch,
    encode_batch,
    make_sample,
)

NOON = 1_767_268_800_000
names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,39}", fullmatch=True)
details = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=30)
samples = st.builds(
    make_sample,
    check=st.sampled_from(["mx", "imaps", "web-mail", "control"]) | names,
    started_ms=st.integers(NOON, NOON + 30 * 86_400_000),
    outcome=st.sampled_from(list(Outcome)) | st.integers(1, 255),
    latency_ms=st.integers(-5, 100_000),
    detail=details,
)
batches = st.builds(
    Batch,
    agent=names,
    location=names,
    sequence=st.integers(0, 2**63 - 1),
    made_ms=st.integers(1, MAX_MS),
    offset_ms=st.none() | st.integers(-MAX_MS, MAX_MS),
    samples=st.lists(samples, max_size=20).map(tuple),
)

SAMPLES = (
    Sample("mx", NOON + 5_017, Outcome.OK, 31),
    Sample("imaps", NOON + 7_000, Outcome.TIMEOUT, 10_000, "no answer within 10 s"),
    Sample("mx", NOON + 65_017, Outcome.OK, 29),
)
BATCH = Batch("agent-7", "ams", 12, NOON + 70_000, -35, SAMPLES)


def reason_of(octets: bytes, **limits: int) -> SampleFault:
    with pytest.raises(SampleError) as raised:
        decode_batch(octets, **limits)
    return raised.value.reason


def rewritten(body: bytes, claimed: int | None = None) -> bytes:
    return struct.pack("<4sI", b"SMB1", len(body) if claimed is None else claimed) + zlib.compress(body)


BODY = zlib.decompress(encode_batch(BATCH)[8:])


@given(batches)
def test_a_batch_comes_back_as_it_was_and_has_one_form(batch: Batch) -> None:
    octets = encode_batch(batch)
    assert decode_batch(octets) == batch
    assert encode_batch(decode_batch(octets)) == octets


def test_a_code_of_a_newer_version_is_kept() -> None:
    batch = BATCH._replace(samples=(Sample("mx", NOON, 31, 1, "new kind of failure"),))
    assert decode_batch(encode_batch(batch)) == batch


def test_known_outcomes_come_back_as_outcomes() -> None:
    assert decode_batch(encode_batch(BATCH)).samples[1].outcome is Outcome.TIMEOUT


def test_a_batch_without_samples_can_be() -> None:
    empty = BATCH._replace(samples=())
    assert decode_batch(encode_batch(empty)) == empty


def test_a_day_of_a_location_costs_less_than_four_octets_a_sample() -> None:
    day = tuple(
        Sample(f"check-{check}", NOON + minute * 60_000 + check * 4_000 + minute * 7919 % 90, 1, minute * 31 % 251)
        for minute in range(600)
        for check in range(12)
    )
    assert len(encode_batch(BATCH._replace(samples=day))) < 4 * len(day)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (make_sample("mx", NOON, 18, 70_000, "x"), Sample("mx", NOON, 18, 65_535, "x")),
        (make_sample("mx", NOON, 18, -1, "x" * 300), Sample("mx", NOON, 18, 0, "x" * MAX_DETAIL)),
        (make_sample("mx", NOON, 25, 1, "a\r\nb\x00\udcff"), Sample("mx", NOON, 25, 1, "a??b??")),
        (make_sample("mx", NOON, 1, 1, "ok needs no words"), Sample("mx", NOON, 1, 1)),
        (make_sample("mx", NOON, 4, 1, "nine days left"), Sample("mx", NOON, 4, 1, "nine days left")),
    ],
)
def test_a_sample_is_made_so_that_it_can_be_written(made: Sample, expected: Sample) -> None:
    assert made == expected
    encode_batch(BATCH._replace(samples=(made,)))


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (BATCH._replace(agent="Agent"), SampleFault.NAME),
        (BATCH._replace(location="../ams"), SampleFault.NAME),
        (BATCH._replace(location="a" * 41), SampleFault.NAME),
        (BATCH._replace(sequence=-1), SampleFault.LAYOUT),
        (BATCH._replace(sequence=2**63), SampleFault.LAYOUT),
        (BATCH._replace(made_ms=0), SampleFault.TIME),
        (BATCH._replace(offset_ms=2**60), SampleFault.TIME),
        (BATCH._replace(samples=(SAMPLES[0]._replace(check="mx\n"),)), SampleFault.NAME),
        (BATCH._replace(samples=(SAMPLES[0]._replace(started_ms=0),)), SampleFault.TIME),
        (BATCH._replace(samples=(SAMPLES[0]._replace(outcome=0),)), SampleFault.OUTCOME),
        (BATCH._replace(samples=(SAMPLES[0]._replace(outcome=256),)), SampleFault.OUTCOME),
        (BATCH._replace(samples=(SAMPLES[0]._replace(latency_ms=65_536),)), SampleFault.LATENCY),
        (BATCH._replace(samples=(SAMPLES[0]._replace(detail="ok, really"),)), SampleFault.DETAIL),
        (BATCH._replace(samples=(SAMPLES[1]._replace(detail="x" * 201),)), SampleFault.DETAIL),
        (BATCH._replace(samples=(SAMPLES[1]._replace(detail="line\nend"),)), SampleFault.DETAIL),
        (
            BATCH._replace(samples=(SAMPLES[0], SAMPLES[0]._replace(started_ms=NOON + 50 * 86_400_000))),
            SampleFault.TIME,
        ),
    ],
)
def test_what_would_be_refused_is_not_written(batch: Batch, reason: SampleFault) -> None:
    with pytest.raises(SampleError) as raised:
        encode_batch(batch)
    assert raised.value.reason is reason


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"", SampleFault.FORM),
        (b"SMB1", SampleFault.FORM),
        (b"GET / HTTP/1.1\r\n", SampleFault.FORM),
        (b"SMB2" + encode_batch(BATCH)[4:], SampleFault.FORM),
        (encode_batch(BATCH) + b"\0", SampleFault.DAMAGED),
        (encode_batch(BATCH)[:-1], SampleFault.DAMAGED),
        (rewritten(BODY, len(BODY) + 1), SampleFault.DAMAGED),
        (rewritten(BODY, len(BODY) - 1), SampleFault.DAMAGED),
        (rewritten(BODY + b"\0"), SampleFault.LAYOUT),
        (rewritten(BODY[:-1]), SampleFault.LAYOUT),
        (rewritten(BODY.replace(b"\x03ams", b"\x03a/s")), SampleFault.NAME),
        (rewritten(BODY.replace(b"\x03ams", b"\x03a\xffs")), SampleFault.NAME),
        (rewritten(BODY.replace(b"\x05imaps\x02mx", b"\x02mx\x05imaps")), SampleFault.LAYOUT),
        (rewritten(BODY.replace(b"no answer", b"no\nanswer")), SampleFault.DETAIL),
        (rewritten(BODY.replace(b"no answer", b"no \xffnswer")), SampleFault.DETAIL),
        (rewritten(BODY.replace(bytes([1, 18, 1]), bytes([1, 0, 1]))), SampleFault.OUTCOME),
        (rewritten(BODY.replace(bytes([1, 18, 1]), bytes([1, 1, 1]))), SampleFault.DETAIL),
        (rewritten(BODY.replace(bytes([1, 0, 1, 0, 0, 0]), bytes([1, 9, 1, 0, 0, 0]), 1)), SampleFault.LAYOUT),
        (rewritten(BODY.replace(bytes([1, 0, 1, 0, 0, 0]), bytes([1, 1, 1, 0, 0, 0]), 1)), SampleFault.LAYOUT),
    ],
)
def test_octets_that_are_no_batch_are_refused_with_the_reason(octets: bytes, reason: SampleFault) -> None:
    assert reason_of(octets) is reason


def test_more_samples_or_octets_than_may_be_are_refused() -> None:
    octets = encode_batch(BATCH)
    assert reason_of(octets, max_samples=2) is SampleFault.TOO_MANY
    assert reason_of(octets, max_octets=len(BODY) - 1) is SampleFault.TOO_LARGE
    assert decode_batch(octets, max_samples=3, max_octets=len(BODY)) == BATCH


def test_the_most_and_longest_samples_are_within_the_limits() -> None:
    longest = tuple(
        Sample(f"{number:040}", NOON + number, 18, 1, f"{number:05}" + "\U0001f4e7" * 195)
        for number in range(MAX_SAMPLES)
    )
    batch = BATCH._replace(samples=longest)
    assert decode_batch(encode_batch(batch)) == batch


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (rewritten(bytes(100_000_000)), SampleFault.TOO_LARGE),
        (rewritten(bytes(100_000_000), 1_000_000), SampleFault.DAMAGED),
        (rewritten(bytes(1_000), 16_000_000), SampleFault.DAMAGED),
        (struct.pack("<4sI", b"SMB1", 100_000_000), SampleFault.TOO_LARGE),
        (rewritten(BODY.replace(struct.pack("<I", 3), struct.pack("<I", 2**32 - 1), 1)), SampleFault.TOO_MANY),
    ],
    ids=["100 MB of zeros", "100 MB that claim to be one", "a few that claim to be many", "a claim alone", "samples"],
)
def test_a_zip_bomb_costs_no_memory(octets: bytes, reason: SampleFault) -> None:
    tracemalloc.start()
    try:
        assert reason_of(octets) is reason
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=300))
def test_garbage_is_refused(garbage: bytes) -> None:
    reason_of(garbage)
    reason_of(rewritten(garbage))


@given(batches, st.data())
def test_a_batch_cut_short_is_refused(batch: Batch, data: st.DataObject) -> None:
    octets = encode_batch(batch)
    body = zlib.decompress(octets[8:])
    reason_of(octets[: data.draw(st.integers(0, len(octets) - 1))])
    reason_of(rewritten(body[: data.draw(st.integers(0, len(body) - 1))]))


@given(batches, st.data())
def test_a_flipped_bit_in_transit_is_always_seen(batch: Batch, data: st.DataObject) -> None:
    octets = bytearray(encode_batch(batch))
    place = data.draw(st.integers(0, len(octets) * 8 - 1))
    octets[place // 8] ^= 1 << place % 8
    try:
        found = decode_batch(bytes(octets))
    except SampleError:
        return
    assert found == batch  # zlib has header bits without a meaning


@given(batches, st.data())
def test_whatever_a_body_says_it_is_refused_or_is_the_one_form_of_its_batch(batch: Batch, data: st.DataObject) -> None:
    body = bytearray(zlib.decompress(encode_batch(batch)[8:]))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode_batch(rewritten(bytes(body)))
    except SampleError:
        return
    assert zlib.decompress(encode_batch(found)[8:]) == body
