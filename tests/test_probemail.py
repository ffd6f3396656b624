"""The sink of the round trip: takes our own probe mail, keeps tokens and times, refuses everybody else's."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from email.message import EmailMessage

import aiosmtplib
import pytest

from smartmail.core.probe_token import HEADER, make
from smartmail.intake.probemail import Arrival, Counted, IntakeSettings, ProbeIntake, start

SECRET = b"0123456789abcdef0123456789abcdef"
PROBE = "probe@sink.example"
NOW = 1_793_000_000_000


def token(number: int = 0, secret: bytes = SECRET) -> str:
    """The token of one message."""
    return make(secret, "round-trip", "london", NOW - 5000, number.to_bytes(16))


def message(mark: str, body: str = "x") -> bytes:
    """A probe's message as it comes after two servers."""
    return (
        "Received: from mx.example (mx.example [192.0.2.1])\r\n\tby sink.example with ESMTP id 2;\r\n"
        " Sat, 24 Oct 2026 10:13:18 +0200\r\n"
        "Received: from probe by mx.example with ESMTPSA id 1; Sat, 24 Oct 2026 08:13:16 +0000\r\n"
        f"{HEADER}: {mark}\r\nSubject: a probe\r\n\r\n{body}\r\n"
    ).encode()


@pytest.fixture
def seen() -> list[Arrival]:
    """What the callback was given."""
    return []


@pytest.fixture
async def sink(seen: list[Arrival]) -> AsyncIterator[ProbeIntake]:
    """A running sink."""
    settings = IntakeSettings(SECRET, frozenset({PROBE}), max_kept=3, max_octets=100_000)
    server = await start(settings, "127.0.0.1", 0, now_ms=lambda: NOW, on_arrival=seen.append)
    yield server
    await server.close()


def connection(sink: ProbeIntake) -> aiosmtplib.SMTP:
    """A client that does not do TLS."""
    host, port = sink.address
    return aiosmtplib.SMTP(hostname=host, port=port, use_tls=False, start_tls=False)


@pytest.fixture
async def client(sink: ProbeIntake) -> AsyncIterator[aiosmtplib.SMTP]:
    """A session."""
    session = connection(sink)
    await session.connect()
    yield session
    session.close()


async def reply(client: aiosmtplib.SMTP, content: bytes, recipient: str = PROBE) -> str:
    """Send a message; the reply to its content, or to what was refused before."""
    try:
        errors, text = await client.sendmail("tester@example.com", [recipient], content)
    except aiosmtplib.SMTPRecipientsRefused as refused:
        (one,) = refused.recipients
        return f"{one.code} {one.message}"
    except aiosmtplib.SMTPResponseException as refused:
        return f"{refused.code} {refused.message}"
    assert not errors
    return f"250 {text}"


async def test_a_probes_message_leaves_its_token_its_time_and_its_way(
    client: aiosmtplib.SMTP, sink: ProbeIntake, seen: list[Arrival]
) -> None:
    assert (await reply(client, message(token()))).startswith("250 ")
    (arrival,) = sink.arrivals()
    assert (arrival.token.check, arrival.token.location, arrival.token.sent_ms) == ("round-trip", "london", NOW - 5000)
    assert arrival.received_ms == NOW
    assert arrival.received == (
        "from mx.example (mx.example [192.0.2.1]) by sink.example with ESMTP id 2; Sat, 24 Oct 2026 10:13:18 +0200",
        "from probe by mx.example with ESMTPSA id 1; Sat, 24 Oct 2026 08:13:16 +0000",
    )
    assert seen == [arrival]


async def test_nothing_of_the_message_but_that_is_kept(client: aiosmtplib.SMTP, sink: ProbeIntake) -> None:
    await reply(client, message(token(), body="a body of 17 octets"))
    assert "17 octets" not in repr(vars(sink))
    assert "Subject" not in repr(sink.arrivals())


async def test_mail_of_others_is_refused_and_not_kept(client: aiosmtplib.SMTP, sink: ProbeIntake) -> None:
    letter = EmailMessage()
    letter["Subject"] = "To whom it may concern"
    assert (await reply(client, letter.as_bytes())).startswith("550 5.7.1")
    assert sink.arrivals() == ()
    assert sink.counts == {Counted.NOT_OURS: 1}


async def test_a_forged_token_is_refused(client: aiosmtplib.SMTP, sink: ProbeIntake) -> None:
    assert (await reply(client, message(token(secret=b"another secret, as long")))).startswith("550 5.7.1")
    assert sink.arrivals() == ()


async def test_a_token_in_the_body_counts_for_nothing(client: aiosmtplib.SMTP, sink: ProbeIntake) -> None:
    assert (await reply(client, message("none", body=f"{HEADER}: {token()}"))).startswith("550 5.7.1")


async def test_another_address_is_refused_before_any_content(client: aiosmtplib.SMTP, sink: ProbeIntake) -> None:
    assert (await reply(client, message(token()), "postmaster@sink.example")).startswith("550 5.1.1")
    assert sink.counts == {Counted.WRONG_ADDRESS: 1}


async def test_the_address_is_compared_without_regard_to_case(client: aiosmtplib.SMTP) -> None:
    assert (await reply(client, message(token()), PROBE.upper())).startswith("250 ")


async def test_the_second_copy_of_a_message_changes_nothing(
    client: aiosmtplib.SMTP, sink: ProbeIntake, seen: list[Arrival]
) -> None:
    await reply(client, message(token()))
    assert (await reply(client, message(token()))).startswith("250 ")
    assert len(sink.arrivals()) == len(seen) == 1
    assert sink.counts[Counted.DUPLICATE] == 1


async def test_memory_is_bounded_the_oldest_goes(client: aiosmtplib.SMTP, sink: ProbeIntake) -> None:
    for number in range(5):
        await reply(client, message(token(number)))
    assert [arrival.token.text for arrival in sink.arrivals()] == [token(2), token(3), token(4)]
    assert sink.counts[Counted.DROPPED] == 2


async def test_a_message_announced_as_too_large_is_refused(client: aiosmtplib.SMTP, sink: ProbeIntake) -> None:
    assert (await reply(client, message(token(), body="0123456789" * 20_000))).startswith("552 ")
    assert sink.arrivals() == ()


@pytest.mark.parametrize("body", ["0123456789" * 20_000, "short lines\r\n" * 10_000], ids=["one line", "many lines"])
async def test_a_message_that_turns_out_too_large_is_refused_whatever_its_token(sink: ProbeIntake, body: str) -> None:
    reader, writer = await asyncio.open_connection(*sink.address)
    writer.write(b"EHLO a\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<probe@sink.example>\r\nDATA\r\n")
    await reader.readuntil(b"354 ")
    writer.write(message(token(), body=body) + b".\r\nQUIT\r\n")
    assert b"\n552 5.3.4 " in await reader.read()
    assert sink.arrivals() == ()
    assert sink.counts == {Counted.TOO_LARGE: 1}
    writer.close()
    await writer.wait_closed()


async def test_whoever_waits_gets_what_came_before_and_what_comes_after(
    client: aiosmtplib.SMTP, sink: ProbeIntake
) -> None:
    later = asyncio.create_task(sink.wait(token(1)))
    await reply(client, message(token(0)))
    assert (await sink.wait(token(0))).token.text == token(0)
    assert not later.done()
    await reply(client, message(token(1)))
    assert (await later).token.text == token(1)


async def test_a_forgotten_arrival_is_gone(client: aiosmtplib.SMTP, sink: ProbeIntake) -> None:
    await reply(client, message(token()))
    sink.forget(token())
    sink.forget(token())
    assert sink.arrivals() == ()


async def test_a_sink_that_closes_tells_whoever_waits() -> None:
    sink = await start(IntakeSettings(SECRET, frozenset({PROBE})), "127.0.0.1", 0)
    waiting = asyncio.create_task(sink.wait(token()))
    await asyncio.sleep(0)
    await sink.close()
    with pytest.raises(ConnectionAbortedError):
        await waiting


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(sink: ProbeIntake) -> None:
    reader, writer = await asyncio.open_connection(*sink.address)
    writer.write(b"EHLO a\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<probe@sink.example>\r\nDATA\r\n" + message(token()))
    await reader.readuntil(b"354 ")
    writer.close()
    await writer.wait_closed()
    await sink.close()
    assert sink.arrivals() == ()


async def test_no_text_of_an_exception_leaves(sink: ProbeIntake, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(header: bytes) -> str:
        raise RuntimeError("internal words")

    monkeypatch.setattr(sink, "take", fail)
    async with connection(sink) as client:
        assert await reply(client, message(token())) == "451 4.3.0 Try again later"


async def test_the_secret_is_in_no_repr() -> None:
    assert "0123456789abcdef" not in repr(IntakeSettings(SECRET, frozenset({PROBE})))


async def test_starttls_is_offered_with_a_certificate(sink: ProbeIntake) -> None:
    async with connection(sink) as plain:
        await plain.ehlo()
        assert not plain.supports_extension("starttls")
    settings = IntakeSettings(SECRET, frozenset({PROBE}), tls=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    offering = await start(settings, "127.0.0.1", 0)
    async with connection(offering) as client:
        await client.ehlo()
        assert client.supports_extension("starttls")
    await offering.close()
