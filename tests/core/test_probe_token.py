"""Probe tokens: only what was made with the secret, for exactly these fields, verifies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.probe_token import MAX_TOKEN, find, make, verify

SECRET = b"0123456789abcdef0123456789abcdef"
NONCE = bytes(range(16))
SENT = 1_793_000_000_123
TOKEN = make(SECRET, "round-trip", "london", SENT, NONCE)

NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,39}", fullmatch=True)


@given(NAMES, NAMES, st.integers(0, 10**15 - 1), st.binary(min_size=16, max_size=16))
def test_a_token_gives_back_what_it_was_made_of(check: str, location: str, sent_ms: int, nonce: bytes) -> None:
    text = make(SECRET, check, location, sent_ms, nonce)
    token = verify(SECRET, text)
    assert token is not None
    assert (token.check, token.location, token.sent_ms, token.nonce) == (check, location, sent_ms, nonce.hex())
    assert token.text == text
    assert len(text) <= MAX_TOKEN


def test_a_token_is_one_word_that_no_server_folds_or_encodes() -> None:
    assert TOKEN.isascii()
    assert not set(TOKEN) - set("abcdefghijklmnopqrstuvwxyz0123456789.-")


def test_the_form_is_the_published_one() -> None:
    head, _, mac = TOKEN.rpartition(".")
    assert head == "sm1.round-trip.london.1793000000123.000102030405060708090a0b0c0d0e0f"
    # openssl dgst -sha256 -hmac SECRET over "smartmail probe token 1\n" and the head, its first 32 digits
    assert mac == "05c4ae7e482a249c1344bfc7c8e6d330"


@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="ascii"))
def test_a_token_with_one_character_changed_is_none(at: int, character: str) -> None:
    forged = TOKEN[:at] + character + TOKEN[at + 1 :]
    assert (verify(SECRET, forged) is None) == (forged != TOKEN)


@pytest.mark.parametrize("tail", ["\n", " ", "0", "\r\n", "\0"])
def test_nothing_may_stand_before_or_behind_it(tail: str) -> None:
    assert verify(SECRET, TOKEN + tail) is None
    assert verify(SECRET, tail + TOKEN) is None


@given(st.text(max_size=300))
def test_any_text_is_no_token(text: str) -> None:
    assert verify(SECRET, text) is None
    assert find(SECRET, text) is None


def test_a_token_of_another_secret_is_none() -> None:
    assert verify(b"x" * 32, TOKEN) is None


def test_two_messages_never_share_a_token() -> None:
    assert make(SECRET, "round-trip", "london", SENT, bytes(16)) != TOKEN
    assert make(SECRET, "round-trip", "london", SENT + 60_000, NONCE) != TOKEN
    assert make(SECRET, "round-trip", "paris", SENT, NONCE) != TOKEN


def test_fields_cannot_slide_into_each_other() -> None:
    assert make(SECRET, "a-b", "c", 1, NONCE) != make(SECRET, "a", "b-c", 1, NONCE)


@pytest.mark.parametrize(
    ("check", "location", "sent_ms", "nonce"),
    [
        ("Round", "london", 1, NONCE),
        ("a.b", "london", 1, NONCE),
        ("", "london", 1, NONCE),
        ("a", "lon/don", 1, NONCE),
        ("a", "london\n", 1, NONCE),
        ("a", "london", -1, NONCE),
        ("a", "london", 10**15, NONCE),
        ("a", "london", 1, b"short"),
    ],
)
def test_what_cannot_be_read_back_is_not_made(check: str, location: str, sent_ms: int, nonce: bytes) -> None:
    with pytest.raises(ValueError, match=r"token|time|nonce"):
        make(SECRET, check, location, sent_ms, nonce)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="16 octets"):
        make(b"short", "a", "london", 1, NONCE)
    with pytest.raises(ValueError, match="16 octets"):
        verify(b"short", TOKEN)


def test_a_token_is_found_in_a_folded_field_and_behind_forged_ones() -> None:
    forged = TOKEN[:-1] + ("0" if TOKEN[-1] != "0" else "1")
    found = find(SECRET, f"\r\n {forged} {TOKEN}\r\n")
    assert found is not None
    assert found.text == TOKEN


def test_a_field_full_of_forged_tokens_is_not_read_to_its_end() -> None:
    forged = TOKEN[:-1] + ("0" if TOKEN[-1] != "0" else "1")
    assert find(SECRET, " ".join([forged] * 8 + [TOKEN])) is None
    assert find(SECRET, " " * 4096 + TOKEN) is None
