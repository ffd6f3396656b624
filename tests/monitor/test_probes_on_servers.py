"""Every probe against real servers: all well, and each fault that a mail host has, told for what it is."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from probe_peers import Authority, Pair, check_of, context_of, make_secrets
from probe_servers import SecureDovecot, SecurePostfix, run_secure_dovecot, run_secure_postfix, run_web_server
from support.mailservers import ALICE, password
from support.processes import PATIENCE

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind, CheckSpec
from smartmail.monitor.probes import Observation, ProbeContext, SecretSource, Visit, observe, probe
from smartmail.monitor.probes.conversation import connect, target_of
from smartmail.monitor.probes.imap import ImapSession
from smartmail.monitor.probes.smtp import SmtpSession

pytestmark = pytest.mark.servers

OF_POSTFIX = (CheckKind.MX, CheckKind.SUBMISSION, CheckKind.SMTPS)
OF_DOVECOT = (CheckKind.IMAPS, CheckKind.IMAP, CheckKind.POP3S, CheckKind.SIEVE)
WITH_LOGIN = tuple(kind for kind in OF_POSTFIX + OF_DOVECOT if kind is not CheckKind.MX)


@dataclass
class MailHost:
    """The servers, and whom the probes trust."""

    dovecot: SecureDovecot
    postfix: SecurePostfix
    web_port: int
    ca_file: Path

    def check(self, kind: CheckKind, **options: str) -> CheckSpec:
        """The check of the port where this kind is served."""
        ports = {
            CheckKind.MX: self.postfix.mx_port,
            CheckKind.SUBMISSION: self.postfix.submission_port,
            CheckKind.SMTPS: self.postfix.smtps_port,
            CheckKind.IMAPS: self.dovecot.imaps_port,
            CheckKind.IMAP: self.dovecot.imap_port,
            CheckKind.POP3S: self.dovecot.pop3s_port,
            CheckKind.SIEVE: self.dovecot.sieve_port,
            CheckKind.HTTPS: self.web_port,
        }
        return check_of(kind, ports[kind], **{"recipient": ALICE, "text": "Web mail", **options})


@pytest.fixture(scope="module")
def host(authority: Authority, good: Pair) -> Iterator[MailHost]:
    """All servers running."""
    with (
        run_secure_dovecot(good) as dovecot,
        run_secure_postfix(dovecot) as postfix,
        run_web_server(good) as web_port,
    ):
        yield MailHost(dovecot, postfix, web_port, authority.file)


@pytest.fixture
def secrets(tmp_path: Path) -> SecretSource:
    """Alice's password."""
    return make_secrets(tmp_path, ALICE, password(ALICE))


@pytest.fixture
def context(host: MailHost, secrets: SecretSource) -> ProbeContext:
    """What the probes share."""
    return context_of(secrets, host.ca_file)


async def until(outcome: Outcome, look: Callable[[], Awaitable[Observation]]) -> Observation:
    """Look again and again until it ends so: a server takes a moment to change."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while (seen := await look()).outcome is not outcome:
        assert loop.time() < deadline, f"still {seen}"
        await asyncio.sleep(0.05)
    return seen


@pytest.mark.parametrize("kind", [*OF_POSTFIX, *OF_DOVECOT, CheckKind.HTTPS])
async def test_all_is_well(host: MailHost, context: ProbeContext, kind: CheckKind) -> None:
    seen = await probe(host.check(kind), context)
    assert (seen.outcome, seen.detail) == (Outcome.OK, "")
    assert isinstance(seen.facts["certificate_expires"], int)


async def test_pop3_by_auth_plain(host: MailHost, context: ProbeContext) -> None:
    assert (await probe(host.check(CheckKind.POP3S, auth="plain"), context)).outcome is Outcome.OK


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        (CheckKind.MX, "smtp"),
        (CheckKind.SMTPS, "none"),
        (CheckKind.IMAP, "imap"),
        (CheckKind.POP3S, "none"),
        (CheckKind.SIEVE, "sieve"),
    ],
)
async def test_the_certificate_of_each_port(
    host: MailHost, context: ProbeContext, kind: CheckKind, protocol: str
) -> None:
    check = check_of(CheckKind.CERTIFICATE, host.check(kind).port, starttls=protocol)
    assert (await probe(check, context)).outcome is Outcome.OK
    check = check_of(CheckKind.CERTIFICATE, host.check(kind).port, starttls=protocol, warn_days="100")
    assert (await probe(check, context)).outcome is Outcome.OK_EXPIRES_SOON
    check = check_of(CheckKind.CERTIFICATE, host.check(kind).port, starttls=protocol, tls_name="other.example.com")
    assert (await probe(check, context)).outcome is Outcome.CERTIFICATE


@pytest.mark.parametrize("kind", WITH_LOGIN)
async def test_a_wrong_password(host: MailHost, tmp_path: Path, kind: CheckKind) -> None:
    wrong = make_secrets(tmp_path, ALICE, "not-this-one-at-all")
    seen = await probe(host.check(kind), context_of(wrong, host.ca_file))
    assert seen.outcome is Outcome.LOGIN
    assert "not-this" not in repr(seen)


async def test_an_unknown_recipient(host: MailHost, context: ProbeContext) -> None:
    seen = await probe(host.check(CheckKind.MX, recipient="nobody@example.com"), context)
    assert seen.outcome is Outcome.PERMANENT
    assert seen.detail.startswith("550 5.1.1 <nobody@example.com>")


async def test_postfix_stopped(host: MailHost, context: ProbeContext) -> None:
    host.postfix.stop()
    try:
        for kind in OF_POSTFIX:
            seen = await until(Outcome.REFUSED, lambda kind=kind: probe(host.check(kind), context))  # type: ignore[misc]
            assert seen.detail == "connection refused at connect"
        assert (await probe(host.check(CheckKind.IMAPS), context)).outcome is Outcome.OK
    finally:
        host.postfix.start()
    assert (await probe(host.check(CheckKind.MX), context)).outcome is Outcome.OK


async def test_postfix_without_its_tables_is_no_greylisting(host: MailHost, context: ProbeContext) -> None:
    host.postfix.set(virtual_mailbox_maps="fail:tables-gone")
    try:
        seen = await until(Outcome.TRANSIENT, lambda: probe(host.check(CheckKind.MX), context))
        assert seen.detail.startswith("451 4.3.0 ")
    finally:
        host.postfix.set(virtual_mailbox_maps=f"texthash:{host.postfix.postfix.config}/users")
    await until(Outcome.OK, lambda: probe(host.check(CheckKind.MX), context))


async def test_postfix_that_greylists(host: MailHost, context: ProbeContext) -> None:
    host.postfix.set(
        smtpd_recipient_restrictions="check_recipient_access inline:{{" + ALICE + " = 450 4.2.0 Greylisted}}"
    )
    try:
        seen = await until(Outcome.OK_GREYLISTED, lambda: probe(host.check(CheckKind.MX), context))
        assert "Greylisted" in seen.detail
    finally:
        host.postfix.set(smtpd_recipient_restrictions="")
    await until(Outcome.OK, lambda: probe(host.check(CheckKind.MX), context))


async def test_dovecot_hangs(host: MailHost, secrets: SecretSource, context: ProbeContext) -> None:
    soon = context_of(secrets, host.ca_file, 1500)
    with host.dovecot.frozen():
        seen = await asyncio.gather(*(probe(host.check(kind), soon) for kind in OF_DOVECOT))
        assert [one.outcome for one in seen] == [Outcome.TIMEOUT] * len(OF_DOVECOT)
        # Postfix asks Dovecot for each login.
        login = await probe(host.check(CheckKind.SUBMISSION), soon)
        assert login.outcome is Outcome.TIMEOUT
        assert (await probe(host.check(CheckKind.HTTPS), soon)).outcome is Outcome.OK
    for kind in OF_DOVECOT:
        await until(Outcome.OK, lambda kind=kind: probe(host.check(kind), context))  # type: ignore[misc]


async def test_the_certificate_has_expired(
    host: MailHost, context: ProbeContext, authority: Authority, good: Pair
) -> None:
    host.dovecot.use(authority.issue("expired-on-servers", end_days=-1))
    host.postfix.set()
    try:
        for kind in OF_POSTFIX + OF_DOVECOT:
            seen = await until(Outcome.CERTIFICATE, lambda kind=kind: probe(host.check(kind), context))  # type: ignore[misc]
            assert seen.detail == "certificate has expired at TLS handshake"
    finally:
        host.dovecot.use(good)
        host.postfix.set()
    for kind in OF_POSTFIX + OF_DOVECOT:
        await until(Outcome.OK, lambda kind=kind: probe(host.check(kind), context))  # type: ignore[misc]


@pytest.mark.parametrize("kind", [CheckKind.MX, CheckKind.IMAPS, CheckKind.HTTPS])
async def test_dns_dead(host: MailHost, secrets: SecretSource, kind: CheckKind) -> None:
    dead = context_of(secrets, host.ca_file, 1500, "127.0.0.1:9")
    check = host.check(kind)
    named = CheckSpec(
        check.name, check.service, kind, "mail.example.com", check.port, check.locations, True, check.options
    )
    seen = await probe(named, dead)
    assert seen.outcome is Outcome.DNS
    assert seen.detail.endswith("at DNS")


async def test_a_message_sent_found_read_and_cleared_away(host: MailHost, context: ProbeContext) -> None:
    """The sessions by themselves, as a round trip uses them; the message fills more than one record of TLS."""
    text = b".dot\r\nFROM here\r\n" + b"A line of some length, many times over.\r\n" * 2000 + b"..two dots"

    async def send(visit: Visit) -> Outcome:
        target = target_of(visit.check)
        async with await connect(visit, target) as conversation:
            session = SmtpSession(conversation)
            await session.greeting()
            await session.hello()
            await session.start_tls(target.tls_name)
            await session.login(visit.secret())
            await session.mail(ALICE)
            assert (await session.rcpt(ALICE)).positive
            reply = await session.data(b"Subject: trip 7\r\nX-Trip: seven\r\n\r\n" + text)
            visit.facts["reply"] = reply.code
            await session.quit()
        return Outcome.OK

    async def fetch(visit: Visit) -> Outcome:
        target = target_of(visit.check)
        async with await connect(visit, target) as conversation:
            session = ImapSession(conversation)
            await conversation.start_tls(target.tls_name)
            await session.greeting()
            await session.login(visit.secret())
            await session.select("INBOX")
            while not (uids := await session.search('HEADER "X-Trip" "seven"')):
                await asyncio.sleep(0.05)
            (fetched,) = await session.fetch(uids, "FLAGS BODY.PEEK[HEADER] BODY.PEEK[TEXT]")
            assert fetched.uid == uids[0]
            header, read = fetched.literals
            assert b"X-Trip: seven\r\n" in header
            assert read == text + b"\r\n"
            await session.store(uids, "\\Deleted")
            await session.expunge(uids)
            assert await session.search('HEADER "X-Trip" "seven"') == ()
            await session.logout()
        return Outcome.OK

    sent = await observe(host.check(CheckKind.SUBMISSION), context, send)
    assert (sent.outcome, sent.detail, sent.facts["reply"]) == (Outcome.OK, "", 250)
    seen = await observe(host.check(CheckKind.IMAPS), context, fetch, timeout_ms=60_000)
    assert (seen.outcome, seen.detail) == (Outcome.OK, ""), host.postfix.postfix.log[-4000:]
    assert (await probe(host.check(CheckKind.IMAPS), context)).outcome is Outcome.OK
