"""Real mail programs, our submission listener with STARTTLS and AUTH, a real Postfix, a real Dovecot mailbox."""

import asyncio
import base64
import random
import re
import secrets
import ssl
import string
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from support.clients import CLIENTS, Ability, Client, Job, Sent, swaks
from support.mailservers import (
    ALICE,
    DAVE,
    DAVES_LOCAL_PASSWORD,
    UTF8_USER,
    Dovecot,
    Postfix,
    messages_with,
    password,
    run_postfix,
)
from support.processes import eventually
from support.relayserver import Relay

BOB, CAROL, ERIN = "bob@example.com", "carol@example.com", "erin@example.org"
NOBODY = "nobody-has-this@example.com"
LARGE = 20 * 1024 * 1024
BODY = (
    b".\r\n..\r\n.leading dot\r\n"
    + b"x" * 990
    + b"\r\numlauts \xc3\xa4\xc3\xb6\xc3\xbc\r\n\ttab and trailing blanks  \r\n"
    + b"From the start of a line\r\n\r\n\r\nlast\r\n"
)


def compose(body: bytes = BODY) -> tuple[str, bytes]:
    """A message with a mark of its own: (mark, message)."""
    mark = secrets.token_hex(12)
    header = (
        f"From: Alice <{ALICE}>\r\nTo: Bob <{BOB}>\r\nSubject: a test\r\nX-Mark: {mark}\r\n"
        f"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <{mark}@example.com>\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=UTF-8\r\n"
        "Content-Transfer-Encoding: 8bit\r\n\r\n"
    )
    return mark, header.encode() + body


def body_of(message: bytes, line_end: bytes = b"\r\n") -> bytes:
    """What follows the headers."""
    return message.partition(line_end * 2)[2]


@pytest.fixture(scope="session")
def client_postfix(mail_relay: Relay) -> Iterator[Postfix]:
    """A Postfix that sends all its mail through the relay's submission listener, as `alice`."""
    settings = {
        "myhostname": "client.example",
        "mynetworks": "127.0.0.0/8",
        "smtpd_relay_restrictions": "permit_mynetworks, reject",
        "relayhost": f"[localhost]:{mail_relay.submission}",
        "smtp_tls_security_level": "secure",
        "smtp_tls_secure_cert_match": "localhost",
        "smtp_tls_CAfile": str(mail_relay.certificate.file),
        "smtp_sasl_auth_enable": "yes",
        "smtp_sasl_security_options": "noanonymous",
        "smtp_sasl_password_maps": "texthash:{directory}/conf/passwords",
        "smtp_tls_loglevel": "1",
    }
    tables = {"passwords": f"[localhost]:{mail_relay.submission} {ALICE}:{password(ALICE)}\n"}
    with run_postfix(settings, tables) as postfix:
        yield postfix


Compose = Callable[..., Job]


@pytest.fixture
def job(mail_relay: Relay, client_postfix: Postfix, tmp_path: Path) -> Compose:
    """Makes a job: message, recipients, further fields of Job."""

    def make(message: bytes, recipients: Sequence[str] = (BOB,), dsn: str = "") -> Job:
        return Job(
            port=mail_relay.submission,
            ca=mail_relay.certificate.file,
            directory=tmp_path,
            message=message,
            recipients=tuple(recipients),
            dsn=dsn,
            client_postfix=client_postfix,
        )

    return make


def arrived(dovecot: Dovecot, postfix: Postfix, mark: str, *addresses: str) -> list[bytes]:
    """Wait until each address has the message, and the queue is empty; each has it once. Their copies."""
    for address in addresses:
        maildir = dovecot.maildir(address)
        eventually(partial(messages_with, maildir, mark), f"{mark} in {address}'s mailbox")
    postfix.wait_empty()
    found = [messages_with(dovecot.maildir(address), mark) for address in addresses]
    assert [len(copies) for copies in found] == [1] * len(addresses)
    return [copies[0] for copies in found]


every_client = pytest.mark.parametrize("send", [ability.send for ability in CLIENTS.values()], ids=list(CLIENTS))


def those(wanted: Callable[[Ability], bool]) -> pytest.MarkDecorator:
    """The clients that are able to."""
    able = {name: ability for name, ability in CLIENTS.items() if wanted(ability)}
    return pytest.mark.parametrize("send", [ability.send for ability in able.values()], ids=list(able))


@every_client
def test_a_message_arrives_once_with_its_body_untouched(
    send: Client, job: Compose, dovecot: Dovecot, postfix: Postfix
) -> None:
    mark, message = compose()
    sent = send(job(message))
    assert sent.status == 0, sent.output
    (found,) = arrived(dovecot, postfix, mark, BOB)
    assert body_of(found) == BODY
    assert found.startswith(f"Return-Path: <{ALICE}>\r\n".encode())


@every_client
def test_the_mail_servers_log_names_login_and_address_of_the_client(
    send: Client, job: Compose, dovecot: Dovecot, postfix: Postfix
) -> None:
    mark, message = compose()
    assert send(job(message)).status == 0
    (found,) = arrived(dovecot, postfix, mark, BOB)
    queued = re.search(rb"\(Postfix\) with \w+ id (\w+)", found)
    assert queued is not None
    lines = postfix.wait_removed(queued[1].decode())
    assert f"sasl_username={ALICE}" in lines
    assert "client=" in lines and "[127.0.0.1]" in lines


@every_client
def test_20_megabytes_arrive_untouched(send: Client, job: Compose, dovecot: Dovecot, postfix: Postfix) -> None:
    line = random.Random(7).choices(string.printable[:94].encode(), k=76)
    body = (bytes(line) + b"\r\n") * (LARGE // 78)
    mark, message = compose(body)
    sent = send(job(message))
    assert sent.status == 0, sent.output[-2000:]
    (found,) = arrived(dovecot, postfix, mark, BOB)
    assert body_of(found) == body


@those(lambda client: not client.stops_at_refused)
def test_a_refused_recipient_does_not_keep_the_others_from_their_mail(
    send: Client, job: Compose, dovecot: Dovecot, postfix: Postfix
) -> None:
    mark, message = compose()
    sent = send(job(message, (BOB, NOBODY, CAROL, ERIN)))
    assert sent.status == 0, sent.output
    assert "5.1.1" in sent.output or sent.refused == (NOBODY,)
    for found in arrived(dovecot, postfix, mark, BOB, CAROL, ERIN):
        assert body_of(found) == BODY


@those(lambda client: client.stops_at_refused)
def test_a_client_that_stops_at_a_refused_recipient_sends_nobody_anything(
    send: Client, job: Compose, dovecot: Dovecot, postfix: Postfix
) -> None:
    mark, message = compose()
    sent = send(job(message, (BOB, NOBODY, CAROL)))
    assert sent.status != 0
    assert "5.1.1" in sent.output or "User unknown" in sent.output
    postfix.wait_empty()
    assert not messages_with(dovecot.maildir(BOB), mark)
    assert not messages_with(dovecot.maildir(CAROL), mark)


@those(lambda client: client.utf8)
def test_an_address_in_cyrillic_is_reached(send: Client, job: Compose, postfix: Postfix) -> None:
    mark, message = compose()
    sent = send(job(message, (UTF8_USER,)))
    assert sent.status == 0, sent.output
    maildir = postfix.maildir(UTF8_USER)
    eventually(lambda: messages_with(maildir, mark), "the message")
    postfix.wait_empty()
    (found,) = messages_with(maildir, mark)
    assert body_of(found, b"\n") == BODY.replace(b"\r\n", b"\n")
    assert f"Delivered-To: {UTF8_USER}\n".encode() in found


@those(lambda client: client.dsn)
def test_a_notification_of_success_comes_back_as_it_was_asked_for(
    send: Client, job: Compose, dovecot: Dovecot, postfix: Postfix
) -> None:
    mark, message = compose()
    sent = send(job(message, dsn=f"envid-{mark}"))
    assert sent.status == 0, sent.output
    arrived(dovecot, postfix, mark, BOB)
    (report,) = arrived(dovecot, postfix, mark, ALICE)
    assert b"report-type=delivery-status" in report
    assert re.search(rb"^Action: (relayed|delivered)\r$", report, re.MULTILINE)
    assert b"last\r\n" not in report, "RET=HDRS: the headers only"
    if send is not CLIENTS["msmtp"].send:
        assert f"Original-Envelope-Id: envid-{mark}\r\n".encode() in report
        assert b"Original-Recipient: rfc822;" in report


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("options", [(), ("--pipeline",)], ids=["one by one", "pipelined"])
def test_swaks_with_either_mechanism_pipelined_or_not(
    mechanism: str, options: tuple[str, ...], job: Compose, dovecot: Dovecot, postfix: Postfix
) -> None:
    mark, message = compose()
    sent = swaks(job(message, (BOB, NOBODY, CAROL)), "--auth", mechanism, *options)
    assert sent.status == 0, sent.output
    assert f"AUTH {mechanism}" in sent.output
    for found in arrived(dovecot, postfix, mark, BOB, CAROL):
        assert body_of(found) == BODY


def test_swaks_over_implicit_tls(mail_relay: Relay, job: Compose, dovecot: Dovecot, postfix: Postfix) -> None:
    mark, message = compose()
    made = job(message)
    tls_from_the_start = Job(mail_relay.smtps, made.ca, made.directory, message, (BOB,))
    sent = swaks(tls_from_the_start, tls="--tls-on-connect")
    assert sent.status == 0, sent.output
    arrived(dovecot, postfix, mark, BOB)


@pytest.mark.parametrize("wrong", ["wrong password", "unknown login"])
def test_a_wrong_login_is_refused_and_nothing_is_sent(
    wrong: str, job: Compose, dovecot: Dovecot, postfix: Postfix
) -> None:
    mark, message = compose()
    options = ("--auth-password", "no") if wrong == "wrong password" else ("--auth-user", "nobody@example.com")
    sent = swaks(job(message), *options)
    assert sent.status == 28, "swaks: authentication failed"
    assert "535 5.7.8" in sent.output
    assert not messages_with(dovecot.maildir(BOB), mark)


def test_a_sender_address_of_somebody_else_is_refused(job: Compose, dovecot: Dovecot) -> None:
    mark, message = compose()
    sent = swaks(job(message), "--from", CAROL)
    assert sent.status != 0
    assert re.search(r"<~\* 5\d\d 5\.7\.1 ", sent.output), sent.output
    assert not messages_with(dovecot.maildir(BOB), mark)


async def test_a_transaction_in_one_segment_is_answered_in_order(
    mail_relay: Relay, dovecot: Dovecot, postfix: Postfix
) -> None:
    """RFC 2920: MAIL, three RCPT and DATA at once, the next transaction's commands behind the dot."""
    context = ssl.create_default_context(cafile=str(mail_relay.certificate.file))
    reader, writer = await asyncio.open_connection("localhost", mail_relay.smtps, ssl=context)

    async def replies(number: int) -> list[str]:
        found: list[str] = []
        while len(found) < number:
            line = (await reader.readuntil(b"\r\n")).decode()
            if line[3] == " ":
                found.append(line[:3])
        return found

    assert await replies(1) == ["220"]
    token = base64.b64encode(f"\0{ALICE}\0{password(ALICE)}".encode()).decode()
    for line in ("EHLO client.example", f"AUTH PLAIN {token}"):
        writer.write(line.encode() + b"\r\n")
        assert (await replies(1))[0] in ("250", "235")
    first, one = compose()
    second, two = compose()
    dotted = [message.replace(b"\r\n.", b"\r\n..") for message in (one, two)]
    recipients = "".join(f"RCPT TO:<{one}>\r\n" for one in (BOB, NOBODY, CAROL))
    start = f"MAIL FROM:<{ALICE}>\r\n{recipients}DATA\r\n".encode()
    writer.write(start)
    assert await replies(5) == ["250", "250", "550", "250", "354"]
    writer.write(dotted[0] + b".\r\n" + start)
    assert await replies(6) == ["250", "250", "250", "550", "250", "354"]
    writer.write(dotted[1] + b".\r\nQUIT\r\n")
    assert await replies(2) == ["250", "221"]
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    for mark in (first, second):
        for found in await asyncio.to_thread(arrived, dovecot, postfix, mark, BOB, CAROL):
            assert body_of(found) == BODY


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_logins_by_dovecots_auth_socket(
    mechanism: str,
    make_relay: Callable[..., "asyncio.Future[Relay]"],
    dovecot: Dovecot,
    postfix: Postfix,
    tmp_path: Path,
) -> None:
    relay: Relay = await make_relay(postfix.port, auth={"backend": "dovecot", "socket": str(dovecot.auth_socket)})
    mark, message = compose()
    job = Job(relay.submission, relay.certificate.file, tmp_path, message, (BOB,), sender=DAVE)
    sent: Sent = await asyncio.to_thread(swaks, job, "--auth", mechanism)
    assert sent.status == 0, sent.output
    await asyncio.to_thread(arrived, dovecot, postfix, mark, BOB)
    refused: Sent = await asyncio.to_thread(swaks, job, "--auth-password", DAVES_LOCAL_PASSWORD)
    assert "535 5.7.8" in refused.output
