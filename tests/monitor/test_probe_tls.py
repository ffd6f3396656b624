"""What a probe makes of certificates and handshakes, whichever protocol they come with."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from probe_peers import (
    DIALOGS,
    IMPLICIT,
    KINDS,
    NAME,
    Authority,
    Link,
    Pair,
    Step,
    check_of,
    context_of,
    dialog,
    peer,
)

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind
from smartmail.monitor.probes import Observation, SecretSource, TlsRoots, probe
from smartmail.monitor.probes.context import system_now_ms

DAY = 86_400
Visit = Callable[..., Awaitable[Observation]]


@pytest.fixture
def visit(authority: Authority, probe_secrets: SecretSource) -> Visit:
    """Run a probe against a server with this certificate that is fine in all else."""

    async def run(kind: CheckKind, pair: Pair, tls_name: str = NAME, **options: str) -> Observation:
        context = context_of(probe_secrets, authority.file)
        implicit = kind in IMPLICIT
        async with peer(dialog(DIALOGS[kind]), pair.server(), implicit=implicit) as server:
            return await probe(check_of(kind, server.port, tls_name=tls_name, **options), context)

    return run


@pytest.mark.parametrize("kind", KINDS)
async def test_case_14_an_expired_certificate_is_a_failure(visit: Visit, authority: Authority, kind: CheckKind) -> None:
    seen = await visit(kind, authority.issue("expired", end_days=-1))
    assert seen.outcome is Outcome.CERTIFICATE
    assert "certificate has expired" in seen.detail


@pytest.mark.parametrize("kind", KINDS)
async def test_case_14_a_certificate_of_another_name_is_a_failure(visit: Visit, good: Pair, kind: CheckKind) -> None:
    seen = await visit(kind, good, tls_name="imap.example.com")
    assert seen.outcome is Outcome.CERTIFICATE
    assert "imap.example.com" in seen.detail


@pytest.mark.parametrize("kind", KINDS)
async def test_a_certificate_nobody_trusts_is_a_failure(visit: Visit, tmp_path: Path, kind: CheckKind) -> None:
    seen = await visit(kind, Authority(tmp_path, "Nobody").issue("foreign"))
    assert seen.outcome is Outcome.CERTIFICATE
    assert "unable to get local issuer certificate" in seen.detail


async def test_a_certificate_not_yet_valid_is_a_failure(visit: Visit, authority: Authority) -> None:
    seen = await visit(CheckKind.IMAPS, authority.issue("early", start_days=2))
    assert (seen.outcome, seen.detail) == (Outcome.CERTIFICATE, "certificate is not yet valid at TLS handshake")


async def test_a_certificate_for_an_address(visit: Visit, authority: Authority) -> None:
    pair = authority.issue("address", ("192.0.2.1", "127.0.0.1"))
    assert (await visit(CheckKind.IMAPS, pair, tls_name="")).outcome is Outcome.OK
    assert (await visit(CheckKind.IMAPS, pair, tls_name="127.0.0.2")).outcome is Outcome.CERTIFICATE


async def test_a_host_with_a_clock_off_by_days_does_not_judge_certificates(
    authority: Authority, probe_secrets: SecretSource
) -> None:
    corrected = replace(context_of(probe_secrets, authority.file), now_ms=lambda: system_now_ms() - 5 * DAY * 1000)
    expired = authority.issue("expired-by-our-clock", end_days=-1)
    async with peer(dialog(DIALOGS[CheckKind.IMAPS]), expired.server(), implicit=True) as server:
        seen = await probe(check_of(CheckKind.IMAPS, server.port), corrected)
    assert seen.outcome is Outcome.MONITOR_ERROR
    assert "the clock of this host is wrong" in seen.detail


STARTTLS = {
    CheckKind.MX: "smtp",
    CheckKind.IMAP: "imap",
    CheckKind.SIEVE: "sieve",
    CheckKind.IMAPS: "none",
}


@pytest.mark.parametrize("kind", STARTTLS)
@pytest.mark.parametrize(("days", "outcome"), [(15, Outcome.OK), (13, Outcome.OK_EXPIRES_SOON)])
async def test_case_14_an_end_in_sight_is_told_and_costs_nothing(
    authority: Authority, probe_secrets: SecretSource, kind: CheckKind, days: int, outcome: Outcome
) -> None:
    pair = authority.issue(f"for-{days}-days", end_days=days)
    handshake = [index + 1 for index, step in enumerate(DIALOGS[kind]) if step.tls]
    steps = DIALOGS[kind][: handshake[0] if handshake else 0]  # what comes later is not the certificate's business
    async with peer(dialog(steps), pair.server(), implicit=kind in IMPLICIT) as server:
        check = check_of(CheckKind.CERTIFICATE, server.port, starttls=STARTTLS[kind])
        seen = await probe(check, context_of(probe_secrets, authority.file))
    assert seen.outcome is outcome
    assert seen.detail == ("" if outcome is Outcome.OK else "the certificate expires in 13 days")
    assert isinstance(seen.facts["certificate_expires"], int)
    assert seen.facts["certificate_expires"] // DAY == (system_now_ms() // 1000 + days * DAY + 3600) // DAY


async def test_certificate_of_pop3_behind_stls(authority: Authority, good: Pair, probe_secrets: SecretSource) -> None:
    steps = [Step(b"", b"+OK\r\n"), Step(b"STLS", b"+OK Begin\r\n", tls=True), Step(b"QUIT", b"+OK Bye\r\n")]
    async with peer(dialog(steps), good.server()) as server:
        check = check_of(CheckKind.CERTIFICATE, server.port, starttls="pop3")
        seen = await probe(check, context_of(probe_secrets, authority.file))
    assert seen.outcome is Outcome.OK


async def test_warning_time_is_an_option(visit: Visit, authority: Authority) -> None:
    pair = authority.issue("for-20-days", end_days=20)
    async with peer(dialog([]), pair.server(), implicit=True) as server:
        check = check_of(CheckKind.CERTIFICATE, server.port, warn_days="30")
        seen = await probe(check, context_of(SecretSource(None), authority.file))
    assert (seen.outcome, seen.detail) == (Outcome.OK_EXPIRES_SOON, "the certificate expires in 20 days")


# Handshakes


async def _seen(
    script: Callable[[Link], Awaitable[None]], authority: Authority, good: Pair, ms: int = 20_000
) -> Observation:
    async with peer(script, good.server()) as server:
        check = check_of(CheckKind.CERTIFICATE, server.port)
        return await probe(check, context_of(SecretSource(None), authority.file, ms))


async def test_a_server_that_speaks_clear_text_where_tls_belongs(authority: Authority, good: Pair) -> None:
    async def script(link: Link) -> None:
        await link.say(b"220 mail.example.com ESMTP\r\n")
        await link.wait()

    seen = await _seen(script, authority, good)
    assert (seen.outcome, seen.detail) == (Outcome.TLS, "handshake failed: wrong version number at TLS handshake")


async def test_a_server_that_ends_in_the_handshake(authority: Authority, good: Pair) -> None:
    async def script(link: Link) -> None:
        await link.reader.read(10)
        link.writer.close()

    seen = await _seen(script, authority, good)
    assert seen.outcome in (Outcome.TLS, Outcome.LOST)
    assert seen.detail.endswith("at TLS handshake")


async def test_a_server_that_says_nothing_in_the_handshake(authority: Authority, good: Pair) -> None:
    seen = await _seen(Link.wait, authority, good, 200)
    assert (seen.outcome, seen.detail) == (Outcome.TIMEOUT, "no answer within 200 ms at TLS handshake")


async def test_a_broken_record_after_the_handshake(
    authority: Authority, good: Pair, probe_secrets: SecretSource
) -> None:
    """Clear text in the middle of a protected conversation."""
    held: list[asyncio.Transport] = []

    async def script(link: Link) -> None:
        for step in DIALOGS[CheckKind.IMAP][:2]:
            if step.hear:
                await link.hear(step.hear)
            await link.say(step.say)
        under = link.writer.transport
        await link.start_tls()
        assert isinstance(under, asyncio.Transport)
        held.append(under)
        under.write(b"\x17\x03\x03\x00\x04junk")
        await link.wait()

    async with peer(script, good.server()) as server:
        seen = await probe(check_of(CheckKind.IMAP, server.port), context_of(probe_secrets, authority.file))
    assert seen.outcome is Outcome.TLS
    assert seen.detail.startswith("TLS breaks: ")


# Roots


def test_the_context_is_made_once_and_again_when_the_roots_change(authority: Authority, tmp_path: Path) -> None:
    file = tmp_path / "roots.pem"
    file.write_bytes(authority.file.read_bytes())
    roots = TlsRoots(file)
    first = roots.context()
    assert roots.context() is first
    os.utime(file, ns=(1, 1))
    assert roots.context() is not first


def test_the_systems_roots_are_the_default() -> None:
    assert TlsRoots().context().cert_store_stats()["x509_ca"] >= 0


async def test_roots_that_cannot_be_read_are_our_own_fault(tmp_path: Path, good: Pair) -> None:
    for name, content in (("missing", None), ("broken", b"no certificate")):
        file = tmp_path / name
        if content is not None:
            file.write_bytes(content)
        async with peer(Link.wait, good.server()) as server:
            seen = await probe(check_of(CheckKind.CERTIFICATE, server.port), context_of(SecretSource(None), file))
        assert seen.outcome is Outcome.MONITOR_ERROR
        assert seen.detail.startswith("trusted roots: ")
