"""Sets of minutes as integers, against plain sets and lists."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.planes import (
    PlaneError,
    at_least,
    between,
    by_count,
    cut,
    from_bytes,
    ones,
    pack,
    runs,
    sum_planes,
    to_bytes,
    unpack,
)

N = 70
planes = st.integers(0, ones(N))
several = st.lists(planes | st.sampled_from([0, ones(N)]), max_size=12)


def bits(plane: int, n: int = N) -> list[int]:
    return [plane >> i & 1 for i in range(n)]


def test_nothing_of_no_minutes() -> None:
    assert ones(0) == 0
    assert between(3, 3) == between(5, 3) == 0
    assert runs(0) == []
    assert by_count([], 0) == {}


@given(st.integers(0, N), st.integers(0, N))
def test_between_has_the_bits_of_a_half_open_range(start: int, end: int) -> None:
    assert bits(between(start, end)) == [int(start <= i < end) for i in range(N)]


@given(planes, st.integers(0, N), st.integers(0, N))
def test_a_cut_begins_with_its_first_bit(plane: int, start: int, end: int) -> None:
    assert bits(cut(plane, start, end)) == (bits(plane)[start:end] + [0] * N)[:N]


@given(planes)
def test_runs_are_the_plane_and_cannot_be_longer(plane: int) -> None:
    found = runs(plane)
    assert sum(between(start, end) for start, end in found) == plane
    assert all(end < start for (_, end), (start, _) in pairwise(found))


@given(several)
def test_digits_count_the_planes_of_each_minute(given_planes: list[int]) -> None:
    digits = sum_planes(given_planes)
    counted = [sum(bits(digit)[i] << weight for weight, digit in enumerate(digits)) for i in range(N)]
    assert counted == [sum(bits(plane)[i] for plane in given_planes) for i in range(N)]


@given(several, st.integers(-1, 14))
def test_at_least_is_a_comparison_minute_by_minute(given_planes: list[int], least: int) -> None:
    found = at_least(sum_planes(given_planes), least, N)
    assert bits(found) == [int(sum(bits(plane)[i] for plane in given_planes) >= least) for i in range(N)]


@given(several)
def test_minutes_are_parted_by_how_many_planes_have_them(given_planes: list[int]) -> None:
    parts = by_count(given_planes, N)
    assert all(parts.values()) and sum(parts.values()) == ones(N)
    for count, part in parts.items():
        assert all(sum(bits(plane)[i] for plane in given_planes) == count for i in range(N) if bits(part)[i])


@given(st.integers(0, 90), st.data())
def test_octets_and_text_are_read_back(n: int, data: st.DataObject) -> None:
    plane = data.draw(st.integers(0, ones(n)))
    assert from_bytes(to_bytes(plane, n), n) == plane
    assert unpack(pack(plane, n), n) == plane


def test_a_plane_of_a_month_takes_5580_octets() -> None:
    assert len(to_bytes(ones(44_640), 44_640)) == 5580


@pytest.mark.parametrize(("plane", "n"), [(0b1000, 3), (-1, 8)])
def test_a_plane_that_is_longer_than_its_minutes_is_refused(plane: int, n: int) -> None:
    with pytest.raises(PlaneError):
        to_bytes(plane, n)


@pytest.mark.parametrize(("octets", "n"), [(b"", 1), (b"\x00\x00", 8), (b"\x08", 3)])
def test_octets_of_another_length_are_refused(octets: bytes, n: int) -> None:
    with pytest.raises(PlaneError):
        from_bytes(octets, n)


@pytest.mark.parametrize(
    ("plane", "n", "text"),
    [
        (0, 44_640, ""),
        (ones(44_640), 44_640, "0+44640"),
        (between(1440, 1443) | between(2000, 2002), 44_640, "1440+3,2000+2"),
        (0b10101010, 8, "=qg=="),
    ],
    ids=["none", "all", "two runs", "octets"],
)
def test_the_text_of_a_plane_can_be_read_by_people_where_it_is_short(plane: int, n: int, text: str) -> None:
    assert pack(plane, n) == text
    assert unpack(text, n) == plane


def test_the_text_of_a_plane_is_never_much_longer_than_its_octets() -> None:
    flapping = sum(1 << i for i in range(0, 44_640, 2))
    assert len(pack(flapping, 44_640)) == 1 + 7440


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "1+",
        "+1",
        "1-2",
        "01+2",
        "1+0",
        "-1+2",
        "1+2,",
        ",1+2",
        "3+2,1+1",
        "1+1,2+1",
        "1+2,2+3",
        "1+2, 5+1",
        "99+2",
        "999999999+999999999",
        "9999999999+1",
        "1+2\n",
        "\u0661+2",
        "=",
        "=AAAA",
        "=AA==AA==",
        "=!!!!",
        "=AAAAAAAAAAAAAAAAAA==",
    ],
)
def test_a_text_that_is_not_written_so_is_refused(text: str) -> None:
    with pytest.raises(PlaneError):
        unpack(text, 100)
