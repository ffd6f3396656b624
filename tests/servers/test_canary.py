"""Whilst we never monitor emails: marks in headers and body are nowhere in what is ours afterwards."""

import asyncio
import base64
import secrets
import smtplib
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from support.mailservers import ALICE, Dovecot, Postfix, messages_with, password
from support.processes import PATIENCE, eventually
from support.relayserver import Relay
from support.scripted import ScriptedUpstream, Step, at

BOB = "bob@example.com"
MakeRelay = Callable[..., Awaitable[Relay]]
MakeUpstream = Callable[..., Awaitable[ScriptedUpstream]]


class Canary:
    """A message with marks: in header names, header values, text, an attachment, and the local part of a cc."""

    def __init__(self) -> None:
        self.marks = [f"canary{secrets.token_hex(10)}" for _ in range(6)]
        name, value, subject, text, attachment, carbon = self.marks
        encoded = base64.b64encode(attachment.encode() * 3).decode()
        self.message = (
            f"From: {ALICE}\r\nTo: {BOB}\r\nCc: {carbon}@example.com\r\nSubject: {subject}\r\n"
            f"X-{name}: {value}\r\nMIME-Version: 1.0\r\n"
            'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\n\r\n'
            f"{text}\r\n.{text}\r\n--b\r\nContent-Transfer-Encoding: base64\r\n\r\n{encoded}\r\n--b--\r\n"
        ).encode()
        self._traces = [mark.encode() for mark in self.marks] + [encoded.encode()]
        self._traces += [mark.encode("utf-16-le") for mark in self.marks]

    def traces_in(self, data: bytes) -> list[bytes]:
        """The marks found in `data`, in any letter case."""
        folded = data.lower()
        return [trace for trace in self._traces if trace.lower() in folded]


def files_of(relay: Relay) -> Iterator[Path]:
    """Everything the relay may have written, output included."""
    for path in relay.directory.rglob("*"):
        if path.is_file():
            yield path


def memory_free_traces(relay: Relay, canary: Canary) -> dict[str, list[bytes]]:
    """Where marks are, by place; empty when they are nowhere."""
    places = {str(path.relative_to(relay.directory)): path.read_bytes() for path in files_of(relay)}
    places["events"] = relay.cli("events", "--json").encode()
    found = {place: canary.traces_in(data) for place, data in places.items()}
    return {place: traces for place, traces in found.items() if traces}


def send(relay: Relay, message: bytes, recipients: list[str]) -> str:
    """Send it with STARTTLS and AUTH; the outcome in words."""
    with smtplib.SMTP("localhost", relay.submission, "client.example", PATIENCE) as session:
        session.starttls(context=ssl.create_default_context(cafile=str(relay.certificate.file)))
        session.login(ALICE, password(ALICE))
        try:
            return str(session.sendmail(ALICE, recipients, message))
        except smtplib.SMTPException as error:
            return repr(error)


async def test_no_mark_of_a_delivered_message_stays_with_us(
    make_relay: MakeRelay, postfix: Postfix, dovecot: Dovecot
) -> None:
    relay = await make_relay(postfix.port)
    canary = Canary()
    assert await asyncio.to_thread(send, relay, canary.message, [BOB]) == "{}"
    await asyncio.to_thread(
        eventually, lambda: messages_with(dovecot.maildir(BOB), canary.marks[3]), "the message in the mailbox"
    )
    page = relay.metrics()
    assert "smartmail_relay_transactions_total" in page
    assert canary.traces_in(page.encode()) == []
    await asyncio.to_thread(relay.stop)
    assert await asyncio.to_thread(memory_free_traces, relay, canary) == {}
    rows = await asyncio.to_thread(relay.cli, "events", "--json")
    assert BOB in rows, "the envelope is recorded; so the search has something to search"


FAULTS = {
    "refused content": at(Step.DOT, 1, b"550 5.7.1 No\r\n"),
    "put off": at(Step.DOT, 1, b"451 4.3.0 Later\r\n"),
    "refused DATA": at(Step.DATA, 1, b"554 5.5.0 No\r\n"),
    "nonsense after the dot": at(Step.DOT, 1, b"what?\r\n"),
    "nonsense in the content": at(Step.CONTENT, 1, b"\x00\xff\r\n"),
}


@pytest.mark.parametrize("fault", list(FAULTS))
async def test_no_mark_of_a_message_that_failed_stays_with_us(
    fault: str, make_relay: MakeRelay, make_upstream: MakeUpstream
) -> None:
    """With the log at debug level, as the fixture has it: trouble is what makes programs talk."""
    upstream = await make_upstream(FAULTS[fault])
    relay = await make_relay(upstream.port)
    canary = Canary()
    outcome = await asyncio.to_thread(send, relay, canary.message, [BOB])
    assert outcome != "{}"
    assert canary.traces_in(outcome.encode()) == []
    assert canary.traces_in(relay.metrics().encode()) == []
    await asyncio.to_thread(relay.stop)
    assert await asyncio.to_thread(memory_free_traces, relay, canary) == {}


@pytest.mark.parametrize("broken", [b"\nbare line feed\r\n", b"\rbare return\r\n", b"\0nul\r\n"])
async def test_no_mark_of_content_that_we_refuse_stays_with_us(
    broken: bytes, make_relay: MakeRelay, make_upstream: MakeUpstream
) -> None:
    upstream = await make_upstream()
    relay = await make_relay(upstream.port)
    canary = Canary()
    message = canary.message.replace(b"--b--\r\n", broken)

    def raw() -> bytes:
        with smtplib.SMTP("localhost", relay.submission, "client.example", PATIENCE) as session:
            session.starttls(context=ssl.create_default_context(cafile=str(relay.certificate.file)))
            session.login(ALICE, password(ALICE))
            session.mail(ALICE)
            session.rcpt(BOB)
            session.docmd("DATA")
            session.send(message + b"\r\n.\r\n")
            code, text = session.getreply()
            return str(code).encode() + text

    answer = await asyncio.to_thread(raw)
    assert answer.startswith(b"5")
    assert canary.traces_in(answer) == []
    await asyncio.to_thread(relay.stop)
    assert await asyncio.to_thread(memory_free_traces, relay, canary) == {}
    assert upstream.contents == []
