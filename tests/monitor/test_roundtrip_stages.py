"""Where a message spent its time, when every host has a clock of its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.monitor.roundtrip_stages import Hop, hops_of, parse_date, split

T = 1_793_000_000_000
"""Sending: 2026-10-26 07:33:20 UTC, epoch ms."""


def hop(second: int, by: str = "mx.example") -> Hop:
    """A server whose stamp is so many seconds after the sending."""
    return Hop(by, T + 1000 * second)


def test_the_parts_of_a_usual_trip() -> None:
    way = [hop(1, "submission.example"), hop(4, "mx.example"), hop(6, "mailbox.example")]
    stages = split(T, T + 9_500, way, T + 7_000)
    assert (stages.submitted, stages.relayed, stages.delivered, stages.seen) == (1000, 5000, 1000, 2500)
    assert stages.hops == (("submission.example", 1000), ("mx.example", 3000), ("mailbox.example", 2000))
    assert (stages.total, stages.skew_ms, stages.text) == (9_500, 0, "")


def test_a_stamp_is_to_the_second_and_its_lost_part_is_no_skew() -> None:
    stages = split(T + 900, T + 1_300, [hop(0), hop(1)], T + 1_000)
    assert stages.skew_ms == 0
    assert (stages.submitted, stages.relayed, stages.delivered, stages.seen) == (0, 100, 0, 300)


def test_a_clock_that_is_behind_is_clamped_and_said() -> None:
    stages = split(T, T + 5_000, [hop(-300, "slow.example"), hop(2)], T + 3_000)
    assert (stages.submitted, stages.relayed, stages.delivered, stages.seen) == (0, 2000, 1000, 2000)
    assert (stages.skew_ms, stages.skewed) == (299_001, "slow.example")
    assert stages.text == "the clock of slow.example is off by 299001 ms or more"


def test_a_clock_that_is_ahead_is_clamped_and_said() -> None:
    stages = split(T, T + 5_000, [hop(1), hop(3600, "fast.example")], T + 3_000)
    assert (stages.submitted, stages.relayed, stages.delivered, stages.seen) == (1000, 4000, 0, 0)
    assert (stages.skew_ms, stages.skewed) == (3_595_000, "fast.example")


def test_the_mailboxs_clock_is_one_of_them() -> None:
    assert split(T, T + 5_000, [hop(1)], T - 60_000).skewed == "the mailbox"


def test_without_any_stamp_all_of_it_is_seeing() -> None:
    stages = split(T, T + 800, [])
    assert (stages.submitted, stages.relayed, stages.delivered, stages.seen) == (0, 0, 0, 800)


def test_a_stamp_that_cannot_be_read_takes_no_time() -> None:
    stages = split(T, T + 4_000, [hop(1), Hop("odd.example", None), hop(3)])
    assert stages.hops == (("mx.example", 1000), ("odd.example", 0), ("mx.example", 2000))
    assert stages.skew_ms == 0


def test_our_own_clock_stepping_back_gives_no_negative_part() -> None:
    stages = split(T, T - 10_000, [hop(1)])
    assert stages.total == 0
    assert stages.skew_ms == 1000


@given(
    st.integers(0, 10**6),
    st.lists(st.none() | st.integers(-(10**9), 10**9), max_size=10),
    st.none() | st.integers(-(10**9), 10**9),
)
def test_whatever_the_clocks_say_no_part_is_negative_and_they_add_up(
    took: int, stamps: list[int | None], stored: int | None
) -> None:
    way = [Hop("a", None if stamp is None else T + stamp) for stamp in stamps]
    stages = split(T, T + took, way, None if stored is None else T + stored)
    parts = (stages.submitted, stages.relayed, stages.delivered, stages.seen)
    assert all(part >= 0 for part in parts)
    assert sum(parts) == stages.total == took
    assert sum(ms for _, ms in stages.hops) == stages.submitted + stages.relayed


POSTFIX = """from mail.example.com (mail.example.com [192.0.2.5])
\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits))
\t(No client certificate requested)
\tby mx.example.com (Postfix) with ESMTPS id 4cZabc1XyZ
\tfor <probe@example.com>; Mon, 26 Oct 2026 07:33:21 +0000 (UTC)"""
DOVECOT = """from mx.example.com\r\n\tby mailbox.example.com with LMTP\r\n\tid abc (envelope-from <probe@example.com>)
\tfor <probe@example.com>; Mon, 26 Oct 2026 08:33:22 +0100"""


def test_the_fields_of_real_servers_in_the_order_of_travel() -> None:
    assert hops_of([DOVECOT, POSTFIX]) == (
        Hop("mx.example.com", T + 1000),
        Hop("mailbox.example.com", T + 2000),
    )


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("from a (by liar.example) by mx.example; Mon, 26 Oct 2026 07:33:20 +0000", Hop("mx.example", T)),
        ("from a (x (nested by b) y) by mx.example; Mon, 26 Oct 2026 07:33:20 -0000", Hop("mx.example", T)),
        ("by 10.0.0.1 with SMTP id 7; Mon, 26 Oct 2026 00:33:20 -0700 (PDT)", Hop("10.0.0.1", T)),
        ("by [IPv6:2001:db8::1]; 26 Oct 2026 07:33:20 GMT", Hop("[ipv6:2001:db8::1]", T)),
        ("(qmail 7 invoked by uid 89); 26 Oct 2026 07:33:20 -0000", Hop("", T)),
        ("from a by mx.example", Hop("mx.example", None)),
        ("from a by mx.example; yesterday", Hop("mx.example", None)),
        ("from a by mx.example; Mon, 99 Oct 2026 07:33:20 +0000", Hop("mx.example", None)),
        ("from a by \x1b[31mred; Mon, 26 Oct 2026 07:33:20 +0000", Hop("", T)),
        ("", Hop("", None)),
        (";" * 3000, Hop("", None)),
        ("(" * 3000 + " by a; b", Hop("", None)),
    ],
)
def test_a_field(field: str, expected: Hop) -> None:
    assert hops_of([field]) == (expected,)


@given(st.text(max_size=3000))
def test_no_field_is_too_odd(field: str) -> None:
    (found,) = hops_of([field])
    assert found.by == found.by.lower()


def test_no_more_hops_than_a_server_would_pass_on() -> None:
    assert len(hops_of(["by a; b"] * 10_000)) == 50


def test_the_date_of_a_mailbox() -> None:
    assert parse_date('"26-Oct-2026 07:33:20 +0000"') == T
    assert parse_date(" 6-Oct-2026 07:33:20 +0200") == T - 20 * 86_400_000 - 7_200_000
    assert parse_date("") is None
