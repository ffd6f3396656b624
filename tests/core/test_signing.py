"""What an agent signs: every part counts, and no two requests have the same text."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.signing import (
    SigningError,
    digest_header,
    digest_of,
    read_base64,
    read_digest_header,
    signed_text,
    token_digest,
    write_base64,
)

DIGEST = digest_of(b"body")
USUAL = ("london-1", "POST", "/v1/samples", DIGEST)


def test_the_text_names_purpose_method_path_agent_and_digest() -> None:
    lines = signed_text(*USUAL).decode().split("\n")
    assert lines == ["smartmail agent request v1", "POST", "/v1/samples", "london-1", DIGEST.hex(), ""]


@pytest.mark.parametrize(
    "other",
    [
        ("london-2", "POST", "/v1/samples", DIGEST),
        ("london-1", "GET", "/v1/samples", DIGEST),
        ("london-1", "POST", "/v1/roster", DIGEST),
        ("london-1", "POST", "/v1/samples", digest_of(b"bodY")),
    ],
)
def test_another_request_has_another_text(other: tuple[str, str, str, bytes]) -> None:
    assert signed_text(*other) != signed_text(*USUAL)


@pytest.mark.parametrize(
    ("agent", "method", "path", "digest"),
    [
        ("../etc", "POST", "/v1/samples", DIGEST),
        ("", "POST", "/v1/samples", DIGEST),
        ("london-1\n", "POST", "/v1/samples", DIGEST),
        ("london-1", "POST\nX", "/v1/samples", DIGEST),
        ("london-1", "", "/v1/samples", DIGEST),
        ("london-1", "POST", "/v1/\nsamples", DIGEST),
        ("london-1", "POST", "/v1/ samples", DIGEST),
        ("london-1", "POST", "/v1/sämples", DIGEST),
        ("london-1", "POST", "/v1/samples", DIGEST[:-1]),
    ],
)
def test_a_part_that_could_pass_for_another_is_refused(agent: str, method: str, path: str, digest: bytes) -> None:
    with pytest.raises(SigningError):
        signed_text(agent, method, path, digest)


@given(st.binary(max_size=100))
def test_a_digest_comes_back_from_its_header(body: bytes) -> None:
    assert read_digest_header(digest_header(digest_of(body))) == digest_of(body)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sha-256=::",
        "sha-512=:" + base64.b64encode(bytes(64)).decode() + ":",
        "sha-256=:" + base64.b64encode(bytes(31)).decode() + ":",
        "sha-256=:" + base64.b64encode(DIGEST).decode(),
        "sha-256=:" + base64.b64encode(DIGEST).decode() + ":, sha-256=:" + base64.b64encode(DIGEST).decode() + ":",
        "sha-256=:" + base64.b64encode(DIGEST).decode().replace("=", "") + ":",
        "sha-256=:ä:",
    ],
)
def test_any_other_digest_header_is_refused(value: str) -> None:
    with pytest.raises(SigningError):
        read_digest_header(value)


@given(st.text(max_size=60))
def test_base64_has_one_text_for_the_same_octets(text: str) -> None:
    try:
        octets = read_base64(text, 32)
    except SigningError:
        return
    assert write_base64(octets) == text


def test_a_token_is_known_by_a_digest_that_does_not_tell_it() -> None:
    assert token_digest("london.abc") != token_digest("london.abd")
    assert "london" not in token_digest("london.abc")
