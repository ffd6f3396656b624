"""The queue id in the words of several mail servers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.queue_id import read_queue_id


@pytest.mark.parametrize(
    ("text", "queue_id"),
    [
        ("Ok: queued as 4XyZ12AbC", "4XyZ12AbC"),
        ("Ok: queued as 3F2A61C0B2", "3F2A61C0B2"),
        ("OK id=1tBqFv-0001-2w", "1tBqFv-0001-2w"),
        ("OK id=1tBqFv-00000001pQk-2wXy", "1tBqFv-00000001pQk-2wXy"),
        ("ok 1732390000 qp 12345", "12345"),
        ("<XkQyMzQ1Njc4OTA> Saved", "XkQyMzQ1Njc4OTA"),
        ("Ok", ""),
        ("", ""),
        ("queued", ""),
        ("queued as ", ""),
        ("queued as ab", ""),
        ("queued as <script>alert(1)</script>", ""),
        ("queued as " + "x" * 100, "x" * 64),
    ],
)
def test_forms(text: str, queue_id: str) -> None:
    found = read_queue_id(text)
    assert found == queue_id


@given(st.text(max_size=80))
def test_an_id_is_short_and_of_plain_characters(text: str) -> None:
    found = read_queue_id("queued as " + text)
    assert len(found) <= 64 and (not found or found.isascii())
    assert not set(found) & set(" \t\r\n\0<>\"'")
