"""Who was erased does not come back, and whoever got the address later does."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.erasure import ErasureError, Tombstone, erased, subject_of


def tombstone(subject: str, at_ms: int = 1000, number: int = 1) -> Tombstone:
    return Tombstone(number, subject, "asked for it", "anna", at_ms, None)


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("ann@example.com", "ann@example.com"),
        (" Ann@EXAMPLE.com. ", "ann@example.com"),
        ("@Example.COM", "@example.com"),
        ("@bücher.example", "@xn--bcher-kva.example"),
        ('"ann"@example.com', "ann@example.com"),
    ],
)
def test_a_subject_has_one_form(text: str, subject: str) -> None:
    assert subject_of(text) == subject
    assert subject_of(subject) == subject


@pytest.mark.parametrize("text", ["", "@", "ann", "ann@", "ann@example.com bob@example.com", "@a b", "@ex\nample.com"])
def test_what_means_nobody_is_refused(text: str) -> None:
    with pytest.raises(ErasureError, match="neither an address"):
        subject_of(text)


@pytest.mark.parametrize(
    ("address", "subject", "kept_away"),
    [
        ("ann@example.com", "ann@example.com", True),
        ("Ann@Example.Com", "ann@example.com", True),
        ("bob@example.com", "ann@example.com", False),
        ("bob@example.com", "@example.com", True),
        ("bob@mail.example.com", "@example.com", False),
        ("bob@badexample.com", "@example.com", False),
        ("ann@example.com", "ann@example.co", False),
        ("ann@bücher.example", "@xn--bcher-kva.example", True),
        ("..@example.com", "@example.com", True),
        ("a b@example.com", "@example.com", True),
    ],
)
def test_whom_a_tombstone_keeps_away(address: str, subject: str, kept_away: bool) -> None:
    assert (erased(address, [tombstone(subject)]) is not None) is kept_away


def test_the_newest_tombstone_is_told_of() -> None:
    old, new = tombstone("@example.com", 1000, 1), tombstone("ann@example.com", 2000, 2)
    assert erased("ann@example.com", [new, old]) is new


@pytest.mark.parametrize(("made_ms", "kept_away"), [(999, True), (1000, True), (1001, False), (None, True)])
def test_an_address_given_to_somebody_else_later_can_be_restored(made_ms: int | None, kept_away: bool) -> None:
    found = erased("ann@example.com", [tombstone("ann@example.com", 1000)], made_ms)
    assert (found is not None) is kept_away


def test_copies_are_outlived_at_their_date_and_never_without_one() -> None:
    assert not tombstone("@example.com").outlived(10**15)
    dated = Tombstone(1, "@example.com", "", "anna", 0, 500)
    assert not dated.outlived(499)
    assert dated.outlived(500)


@given(st.text(max_size=80))
def test_any_text_is_an_answer_or_an_error_of_ours(text: str) -> None:
    erased(text, [tombstone("@example.com")])
    with suppress(ErasureError):
        assert subject_of(subject_of(text)) == subject_of(text)
