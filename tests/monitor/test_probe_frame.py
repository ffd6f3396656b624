"""The frame of every probe: network errors told apart, addresses tried in turn, own faults kept from the service."""

import asyncio
import errno
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probe_peers import DIALOGS, Authority, Link, Pair, check_of, context_of, dialog, peer

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind, CheckSpec
from smartmail.core.sample import MAX_DETAIL
from smartmail.monitor.probes import OPTIONS, PROBES, ProbeContext, SecretSource, Visit, make_context, observe, probe
from smartmail.monitor.probes.observation import _blanked
from smartmail.monitor.probes.resolver import NoNameserverError, Resolver, split_nameserver

NOWHERE = make_context(SecretSource(None), nameserver="127.0.0.1:9")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of loopback on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


async def test_a_connection_is_all_that_tcp_asks_for(good: Pair) -> None:
    async with peer(Link.wait, good.server()) as server:
        seen = await probe(check_of(CheckKind.TCP, server.port), NOWHERE)
    assert (seen.outcome, seen.detail, dict(seen.facts)) == (Outcome.OK, "", {"address": "127.0.0.1"})
    assert set(seen.phases) == {"dns", "connect"}


@pytest.mark.parametrize("kind", [kind for kind in PROBES if kind is not CheckKind.DNS])
async def test_nobody_listens(
    probe_secrets: SecretSource, authority: Authority, closed_port: int, kind: CheckKind
) -> None:
    seen = await probe(check_of(kind, closed_port), context_of(probe_secrets, authority.file))
    assert (seen.outcome, seen.detail) == (Outcome.REFUSED, "connection refused at connect")


ERRORS = [
    (errno.ECONNREFUSED, Outcome.REFUSED),
    (errno.EHOSTUNREACH, Outcome.UNREACHABLE),
    (errno.ENETUNREACH, Outcome.UNREACHABLE),
    (errno.ENETDOWN, Outcome.UNREACHABLE),
    (errno.ETIMEDOUT, Outcome.TIMEOUT),
    (errno.ECONNRESET, Outcome.LOST),
    (errno.EPIPE, Outcome.LOST),
    (errno.EMFILE, Outcome.MONITOR_ERROR),
    (errno.ENFILE, Outcome.MONITOR_ERROR),
    (errno.ENOMEM, Outcome.MONITOR_ERROR),
    (errno.ENOBUFS, Outcome.MONITOR_ERROR),
    (errno.EADDRNOTAVAIL, Outcome.MONITOR_ERROR),
    (errno.EPERM, Outcome.MONITOR_ERROR),
    (errno.EACCES, Outcome.MONITOR_ERROR),
    (errno.EINVAL, Outcome.MONITOR_ERROR),
]


@pytest.mark.parametrize(("number", "outcome"), ERRORS)
async def test_errors_of_the_network_and_of_our_own_host(
    monkeypatch: pytest.MonkeyPatch, number: int, outcome: Outcome
) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise OSError(number, "in the way")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", fails)
    seen = await probe(check_of(CheckKind.TCP, 25), NOWHERE)
    assert seen.outcome is outcome
    assert outcome is not Outcome.MONITOR_ERROR or errno.errorcode[number] in seen.detail


@pytest.mark.parametrize("fault", [MemoryError("x"), KeyError("x"), RecursionError("x"), AssertionError("x")])
async def test_a_bug_is_our_fault_and_not_the_services(fault: Exception) -> None:
    async def work(visit: Visit) -> Outcome:
        visit.at = "the middle"
        raise fault

    seen = await observe(check_of(CheckKind.TCP, 25), NOWHERE, work)
    assert (seen.outcome, seen.detail) == (Outcome.MONITOR_ERROR, f"{type(fault).__name__} at the middle")


async def test_a_fault_while_octets_arrive_is_ours(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, good: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    from smartmail.monitor.probes.conversation import Conversation

    def no_memory(self: Conversation, data: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(Conversation, "_take", no_memory)
    async with peer(dialog(DIALOGS[CheckKind.MX]), good.server()) as server:
        seen = await probe(check_of(CheckKind.MX, server.port), context_of(SecretSource(None), authority.file))
    assert (seen.outcome, seen.detail) == (Outcome.MONITOR_ERROR, "MemoryError at greeting")
    assert caplog.records == []


async def test_the_callers_own_end_is_passed_on(good: Pair) -> None:
    async with peer(Link.wait, good.server()) as server:
        task = asyncio.create_task(probe(check_of(CheckKind.MX, server.port), NOWHERE))
        while not server.connections:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_kind_without_a_probe_is_our_fault() -> None:
    seen = await probe(check_of(CheckKind.ROUND_TRIP, 25), NOWHERE)
    assert (seen.outcome, seen.detail) == (Outcome.MONITOR_ERROR, "no probe for round-trip")


async def test_a_check_can_have_a_deadline_of_its_own(good: Pair) -> None:
    async with peer(Link.wait, good.server()) as server:
        seen = await probe(check_of(CheckKind.MX, server.port, timeout_ms="120"), NOWHERE)
    assert (seen.outcome, seen.detail) == (Outcome.TIMEOUT, "no answer within 120 ms at greeting")


def test_the_options_of_every_kind_are_known() -> None:
    assert set(OPTIONS) == set(PROBES)


WRONG_OPTIONS = [
    (CheckKind.MX, "recipient", "probe@example.com>\r\nQUIT"),
    (CheckKind.MX, "recipient", "nobody"),
    (CheckKind.MX, "recipient", ""),
    (CheckKind.HTTPS, "path", "mail"),
    (CheckKind.HTTPS, "path", "/ HTTP/1.1\r\nX: y"),
    (CheckKind.CERTIFICATE, "warn_days", "-1"),
    (CheckKind.CERTIFICATE, "warn_days", "soon"),
    (CheckKind.DNS, "soa_wait_ms", "1e3"),
    (CheckKind.TCP, "timeout_ms", "never"),
]


@pytest.mark.parametrize(("kind", "option", "value"), WRONG_OPTIONS)
async def test_an_option_that_makes_no_sense_is_our_fault(kind: CheckKind, option: str, value: str) -> None:
    seen = await probe(check_of(kind, 25, **{option: value}), NOWHERE)
    assert seen.outcome is Outcome.MONITOR_ERROR
    assert f"option {option} is no" in seen.detail


# Addresses


class Addresses(Resolver):
    """Says what it was told."""

    def __init__(self, *addresses: str) -> None:
        super().__init__()
        self._addresses = addresses

    async def addresses(
        self, host: str, family: str = "", nameserver: str = "", seconds: float = 10
    ) -> tuple[str, ...]:
        return self._addresses


def with_addresses(*addresses: str) -> ProbeContext:
    """A context in which every name has these."""
    return replace(NOWHERE, resolver=Addresses(*addresses))


async def test_the_next_address_is_tried_where_one_refuses(good: Pair) -> None:
    async with peer(Link.wait, good.server()) as server:
        seen = await probe(check_of(CheckKind.TCP, server.port, "mail.test"), with_addresses("127.0.0.9", "127.0.0.1"))
    assert (seen.outcome, seen.facts["address"]) == (Outcome.OK, "127.0.0.1")


async def test_an_address_that_says_nothing_does_not_use_up_the_others_time(
    monkeypatch: pytest.MonkeyPatch, good: Pair
) -> None:
    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    async def hangs(factory: object, host: str, port: int) -> object:
        if host == "127.0.0.9":
            await asyncio.Event().wait()
        return await connect(factory, host, port)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "create_connection", hangs)
    async with peer(Link.wait, good.server()) as server:
        context = replace(with_addresses("127.0.0.9", "127.0.0.1"), timeout_ms=600)
        seen = await probe(check_of(CheckKind.TCP, server.port, "mail.test"), context)
    assert (seen.outcome, seen.facts["address"]) == (Outcome.OK, "127.0.0.1")


async def test_the_most_telling_of_several_errors_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(factory: object, host: str, port: int) -> None:
        raise OSError(errno.ENETUNREACH if ":" in host else errno.ECONNREFUSED, "no")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", fails)
    seen = await probe(check_of(CheckKind.TCP, 25, "mail.test"), with_addresses("2001:db8::1", "192.0.2.1"))
    assert seen.outcome is Outcome.REFUSED


async def test_literal_addresses_and_localhost_ask_nobody() -> None:
    resolver = Resolver("127.0.0.1:9")
    assert await resolver.addresses("192.0.2.1") == ("192.0.2.1",)
    assert await resolver.addresses("2001:db8::1") == ("2001:db8::1",)
    assert await resolver.addresses("localhost") == ("127.0.0.1", "::1")
    assert await resolver.addresses("localhost.", "6") == ("::1",)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_where_a_resolver_is(text: str, where: tuple[str, int]) -> None:
    assert split_nameserver(text) == where


@pytest.mark.parametrize(
    "text", ["dns.example.com", "192.0.2.1:0", "192.0.2.1:70000", "192.0.2.1:x", "[::1", "::1]:53x"]
)
def test_where_no_resolver_is(text: str) -> None:
    with pytest.raises(NoNameserverError):
        split_nameserver(text)


async def test_a_resolver_that_is_none_is_our_fault() -> None:
    seen = await probe(check_of(CheckKind.TCP, 25, "mail.test", resolver="somewhere"), NOWHERE)
    assert seen.outcome is Outcome.MONITOR_ERROR


# Words


@given(st.binary(max_size=2000))
def test_any_octets_become_words_that_can_be_stored(octets: bytes) -> None:
    async def work(visit: Visit) -> Outcome:
        raise visit.failure(Outcome.PROTOCOL, octets)

    check = CheckSpec("a-check", "mail", CheckKind.TCP, "127.0.0.1", 25, ("london",))
    seen = asyncio.run(observe(check, NOWHERE, work))
    assert seen.outcome is Outcome.PROTOCOL
    assert seen.detail.isprintable()
    assert len(seen.detail) <= MAX_DETAIL
    assert seen.detail.endswith(" at start")


@given(st.text("abc", max_size=20), st.text("def", min_size=1, max_size=30), st.text("abc", max_size=20))
def test_a_secret_in_any_text_is_blanked(before: str, secret: str, after: str) -> None:
    """Letters of their own, so that nothing else can look like the secret."""
    assert _blanked(before + secret + after, (secret,)) == f"{before}***{after}"
    assert _blanked(before + secret.upper() + after, (secret,)) == f"{before}***{after}"
