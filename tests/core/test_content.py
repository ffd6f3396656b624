"""Where a mail ends, and what may be inside: DATA and BDAT scanners against a plain reading of RFC 5321."""

import re
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.content import ChunkScanner, DataScanner, Fault, find_fault, normalise

BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
TRICKY = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\0", b"x", b"\r\n", b"\r\n.", b"\r\n.\r\n", b".\r\n", b"..", b"\xff"]),
    max_size=24,
).map(b"".join)


def scan(pieces: list[bytes], *, normalising: bool = False) -> tuple[bytes, bytes | None, Fault | None]:
    """(what was passed on, what follows the end or None without one, fault)."""
    scanner = DataScanner(normalising=normalising)
    passed = b""
    for number, piece in enumerate(pieces):
        octets, following = scanner.feed(piece)
        passed += octets
        if following >= 0:
            rest = piece[len(piece) - following :] + b"".join(pieces[number + 1 :])
            return passed, rest, scanner.fault
    return passed, None, scanner.fault


def octets_of(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def end_of(data: bytes) -> int:
    """The reference: behind the first CRLF.CRLF, the CRLF of the DATA command being the first."""
    found = (b"\r\n" + data).find(b"\r\n.\r\n")
    return found + 3 if found >= 0 else -1


@pytest.mark.parametrize(
    ("data", "content", "following"),
    [
        (b".\r\n", b".\r\n", b""),
        (b".\r\nNOOP\r\n", b".\r\n", b"NOOP\r\n"),
        (b"x\r\n.\r\n", b"x\r\n.\r\n", b""),
        (b"\r\n.\r\n", b"\r\n.\r\n", b""),
        (b"..\r\n.\r\n", b"..\r\n.\r\n", b""),
        (b".x\r\n.\r\n", b".x\r\n.\r\n", b""),
        (b"x\r\n.\r\n.\r\n", b"x\r\n.\r\n", b".\r\n"),
        (b"x.\r\n.\r\ny", b"x.\r\n.\r\n", b"y"),
    ],
)
def test_the_end(data: bytes, content: bytes, following: bytes) -> None:
    assert scan([data]) == scan(octets_of(data)) == (content, following, None)


@pytest.mark.parametrize("data", [b"", b".", b".\r", b"x\r\n", b"x\r\n.", b"x\r\n.\r", b"x\r\n..\r\n", b"x.\r\n"])
def test_no_end_yet(data: bytes) -> None:
    passed, rest, fault = scan([data])
    assert rest is None and fault is None
    assert passed == data.removesuffix(b"\r"), "all but a CR that may yet be a bare one"


@pytest.mark.parametrize("data", [b"x\r\n.\r\n", b".\r\n", b"a\r\n..\r\nb\r\n.\r\nMAIL"])
def test_the_end_is_found_at_every_split(data: bytes) -> None:
    whole = scan([data])
    for first, second in product(range(len(data) + 1), repeat=2):
        low, high = sorted((first, second))
        assert scan([data[:low], data[low:high], data[high:]]) == whole


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"\n.\n", Fault.BARE_NEWLINE),
        (b"\n.\r\n", Fault.BARE_NEWLINE),
        (b"\r.\r", Fault.BARE_NEWLINE),
        (b"\r\n.\n", Fault.BARE_NEWLINE),
        (b"\r\n.\r\0\n", Fault.BARE_NEWLINE),
        (b"\r\r\n.\r\r\n", Fault.BARE_NEWLINE),
        (b"\n", Fault.BARE_NEWLINE),
        (b"\r\r", Fault.BARE_NEWLINE),
        (b"\0", Fault.NUL),
        (b"\r\n\0.\r\n", Fault.NUL),
        (b"\0\n", Fault.NUL),
        (b"\n\0", Fault.BARE_NEWLINE),
    ],
)
def test_what_looks_like_an_end_is_none_and_is_a_fault(data: bytes, fault: Fault) -> None:
    for pieces in ([b"x" + data + b"y"], octets_of(b"x" + data + b"y")):
        passed, rest, found = scan(pieces)
        assert (rest, found) == (None, fault)
        assert not BARE.search(passed)


def test_the_end_is_still_found_after_a_fault_and_nothing_passes_any_more() -> None:
    for pieces in ([b"a\nb", b"more\r\n.\r\nNOOP"], octets_of(b"a\nbmore\r\n.\r\nNOOP")):
        passed, rest, fault = scan(pieces)
        assert passed in (b"", b"a") and rest == b"NOOP" and fault is Fault.BARE_NEWLINE


@given(TRICKY, st.lists(st.integers(0, 60), max_size=6))
def test_however_it_is_cut_it_is_the_same(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    pieces = [data[low:high] for low, high in pairwise(edges)]
    whole, split, single = scan([data]), scan(pieces), scan(octets_of(data))
    assert whole[1:] == split[1:] == single[1:]
    if whole[2] is None:
        assert whole[0] == split[0] == single[0]


@given(TRICKY)
def test_content_passes_unaltered_up_to_the_end_or_not_at_all(data: bytes) -> None:
    passed, rest, fault = scan([data])
    end = end_of(data)
    content = data if end < 0 else data[:end]
    assert rest == (None if end < 0 else data[end:])
    if fault is None:
        assert passed in (content, content.removesuffix(b"\r"))
        assert end < 0 or passed == content
    else:
        assert BARE.search(content) and passed == b""


@given(TRICKY)
def test_nothing_bare_ever_passes(data: bytes) -> None:
    for pieces in ([data], octets_of(data)):
        for normalising in (False, True):
            assert not BARE.search(scan(pieces, normalising=normalising)[0])


@given(TRICKY)
def test_normalising_keeps_every_octet_but_those_at_fault(data: bytes) -> None:
    passed, rest, fault = scan([data], normalising=True)
    end = end_of(data)
    content = data.removesuffix(b"\r") if end < 0 else data[:end]
    assert fault is None
    assert passed == BARE.sub(b" ", content)
    assert rest == (None if end < 0 else data[end:])
    assert scan(octets_of(data), normalising=True) == (passed, rest, None)


@given(TRICKY)
def test_find_fault_names_the_first(data: bytes) -> None:
    first = BARE.search(data)
    expected = None if first is None else Fault.NUL if first[0] == b"\0" else Fault.BARE_NEWLINE
    assert find_fault(data) is expected


@given(TRICKY)
def test_normalise_leaves_what_is_right_as_it_is(data: bytes) -> None:
    assert normalise(data) == BARE.sub(b" ", data)
    assert normalise(normalise(data)) == normalise(data)


# BDAT


def watch(pieces: list[bytes]) -> Fault | None:
    scanner = ChunkScanner()
    for number, piece in enumerate(pieces):
        scanner.feed(piece, ends_message=number == len(pieces) - 1)
        if scanner.fault is not None:
            return scanner.fault
    return None


@given(TRICKY, st.integers(0, 60), st.integers(0, 60))
def test_chunks_are_judged_as_the_whole_they_make(data: bytes, first: int, second: int) -> None:
    low, high = sorted((min(first, len(data)), min(second, len(data))))
    expected = None if not BARE.search(data) else find_fault(data)
    assert (watch([data]) is None) == (expected is None)
    assert (watch([data[:low], data[low:high], data[high:]]) is None) == (expected is None)
    assert (watch(octets_of(data) or [b""]) is None) == (expected is None)


@pytest.mark.parametrize("data", [b"x\r", b"\r", b"\r\n\r"])
def test_a_cr_at_the_very_end_of_a_message_is_bare(data: bytes) -> None:
    assert watch([data]) is Fault.BARE_NEWLINE
    assert watch([data, b""]) is Fault.BARE_NEWLINE
    assert watch([data, b"\n"]) is None
    assert watch([data, b"", b"\n"]) is None


@pytest.mark.parametrize("data", [b".\r\n", b"\r\n.\r\n", b"x", b""])
def test_a_dot_means_nothing_in_a_chunk(data: bytes) -> None:
    assert watch([data]) is None
