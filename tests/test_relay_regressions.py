"""What went wrong once, or would have under load: what leaks, hangs, is told to the wrong one or counted twice."""

import asyncio
import os
import socket
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from upstream import CAPABILITIES, Override, Upstream
from world import HOST, Client, Setup, account, auth_plain, client_tls, running

from smartmail.core.smtp_events import Terms
from smartmail.relay.auth import AuthResult, Outcome
from smartmail.relay.tls import load_context, self_made
from smartmail.relay.transaction import Transaction
from smartmail.relay.upstream import Pool

ON_UVLOOP = True
BIG = 64_000_000


def descriptors() -> int:
    """Open ones of this process."""
    return len(os.listdir("/proc/self/fd"))


async def turns(number: int = 20) -> None:
    """Let the loop go round, with its polls."""
    for _ in range(number):
        await asyncio.sleep(0.001)


async def fill(client: Client, content: bytes = b"x" * 998 + b"\r\n") -> asyncio.Task[None]:
    """Send content until the relay reads no more. The task goes on when it does."""

    async def send() -> None:
        for _ in range(BIG // len(content)):
            client.writer.write(content)
            await client.writer.drain()

    return asyncio.create_task(send())


# clients


async def test_a_client_gone_before_it_is_accepted_leaves_nothing() -> None:
    async with running(Setup(listeners=("relay",))) as world:
        await turns()
        before = descriptors()
        for _ in range(5):
            with socket.socket() as gone:
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                gone.connect(("127.0.0.1", world.port()))
        await turns()
        assert descriptors() == before
        assert world.relay.sessions == 0


async def test_upstream_lost_while_it_was_slow_client_is_read_on_and_told() -> None:
    async with running(Setup(listeners=("relay",), terms=Terms(HOST, max_size=BIG * 2))) as world:
        world.upstream.reading.clear()
        client = await world.greeted()
        await client.envelope()
        await client.ask("DATA", 354)
        sending = await fill(client)
        session = world.session()
        while not session._paused:
            await asyncio.sleep(0.01)
        for connection in tuple(world.services.pool._all):
            connection.abort()
        await asyncio.wait_for(sending, 30)
        await client.send(b".\r\n")
        assert (await client.reply())[0] == 451


async def test_upstream_silent_while_it_was_slow_client_is_read_on_and_told() -> None:
    async with running(Setup(listeners=("relay",), terms=Terms(HOST, max_size=BIG * 2))) as world:
        world.upstream.reading.clear()
        client = await world.greeted()
        await client.envelope()
        await client.ask("DATA", 354)
        sending = await fill(client)
        session = world.session()
        while not session._paused:
            await asyncio.sleep(0.01)
        world.services.pool.sweep(asyncio.get_running_loop().time() + 1000)
        await asyncio.wait_for(sending, 30)
        await client.send(b".\r\n")
        assert (await client.reply())[0] == 451


async def test_content_that_is_swallowed_counts_as_sent() -> None:
    up = Upstream(overrides=[Override("content", "552 5.3.4 Too big for me")])
    async with running(Setup(listeners=("relay",), upstream=up)) as world:
        client = await world.greeted()
        await client.envelope()
        await client.ask("DATA", 354)
        await client.send(b"x\r\n")
        session = world.session()
        while not session.transaction.done:
            await asyncio.sleep(0.001)
        for _ in range(100):
            await client.send(b"x" * 10_000 + b"\r\n")
            await turns(2)
            session.sweep(session.heard + 1)
        await client.send(b".\r\n")
        assert (await client.reply())[0] == 552


async def test_a_client_that_never_reads_is_cut() -> None:
    async with running(Setup(listeners=("relay",))) as world:
        client = await world.greeted()
        session = world.session()
        session._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.writer.transport.pause_reading()
        while not session._paused:
            client.writer.write(
                (b"MAIL FROM:<a@example.com>\r\n" + b"RCPT TO:<b@example.com>\r\n" * 900 + b"RSET\r\n") * 4
            )
            await asyncio.sleep(0.02)
        while world.relay.sessions:
            session.sweep(session.heard + 100_000)
            await asyncio.sleep(0.01)


async def test_octets_that_make_no_command_buy_no_time() -> None:
    async with running(Setup(listeners=("relay",))) as world:
        client = await world.greeted()
        session = world.session()
        begun = session.heard
        world.relay.tick.now += 299
        await client.send(b"NO")
        await turns()
        assert session.heard == begun
        session.sweep(begun + 301)
        assert (await client.reply())[0] == 421


async def test_mails_begun_and_reset_are_counted() -> None:
    async with running(Setup(listeners=("relay",))) as world:
        client = await world.greeted()
        await client.send(b"MAIL FROM:<a@example.com>\r\nRSET\r\n" * 200 + b"QUIT\r\n")
        assert b"\n421 4.7.0" in await client.ended()
        assert len(world.rows) < 60


# upstream: identity


async def test_what_one_client_is_never_clings_to_the_connection_of_another() -> None:
    up = Upstream(capabilities=(*CAPABILITIES, "XCLIENT NAME ADDR PORT PROTO HELO LOGIN", "XFORWARD NAME ADDR"))
    setup = Setup(listeners=("submission", "relay"), upstream=up)
    async with running(setup) as world:
        ann, same = await world.logged_in(), await world.logged_in()
        await ann.envelope()
        assert (await same.mail())[0] == 250
        await ann.ask("DATA", 354)
        await ann.send(b"x\r\n.\r\n")
        assert (await ann.reply())[0] == 250
        # Two connections that know ann are idle; from here on XCLIENT is refused.
        up.overrides.append(Override("xclient", "550 5.7.0 No more of that"))
        for _ in range(2):
            other = await world.greeted("relay")
            assert (await other.mail())[0] == 250
        for octets in up.received:
            mails = octets.partition(b"LOGIN=ann")[2].partition(b"XCLIENT")[0].count(b"MAIL FROM")
            assert mails <= 1, "ann's login was on another's mail"


async def test_an_upstream_without_xclient_after_xclient_is_not_shared() -> None:
    up = Upstream(capabilities=(*CAPABILITIES, "XCLIENT NAME ADDR PORT PROTO HELO LOGIN"))
    async with running(Setup(listeners=("relay",), upstream=up)) as world:
        up.overrides.append(Override("ehlo", "250-upstream.example|250 PIPELINING", times=1))
        one = await world.greeted()
        assert (await one.mail())[0] == 250
        two = await world.greeted()
        assert (await two.mail())[0] == 250
        mails = [o.count(b"MAIL FROM") for o in up.received if b"XCLIENT" in o]
        assert mails == [1, 1]


async def test_xclient_refused_for_now_is_asked_for_again() -> None:
    up = Upstream(capabilities=(*CAPABILITIES, "XCLIENT NAME ADDR PORT PROTO HELO LOGIN"))
    async with running(Setup(listeners=("relay",), upstream=up)) as world:
        up.overrides.append(Override("xclient", "421 4.3.0 Busy", times=1))
        one = await world.greeted()
        await one.mail()
        two = await world.greeted()
        assert (await two.mail())[0] == 250
        assert up.reached["xclient"] >= 2


@pytest.mark.parametrize("answer", ["550 5.7.0 Not from you", "250 2.0.0 Ok"])
async def test_xclient_that_is_never_honoured_is_given_up_and_said_once(answer: str) -> None:
    """250 is what a sink says that knows the word only; 220 would have been the start of the new session."""
    up = Upstream(capabilities=(*CAPABILITIES, "XCLIENT NAME ADDR PORT PROTO HELO LOGIN"))
    async with running(Setup(listeners=("relay",), upstream=up)) as world:
        said: list[str] = []
        world.relay.services.pool.on_refused_identity = said.append
        up.overrides.append(Override("xclient", answer))
        for _ in range(2):
            client = await world.greeted()
            assert (await client.mail())[0] == 250
        assert said == [answer]


async def test_a_long_xforward_where_nothing_is_pipelined() -> None:
    up = Upstream(capabilities=("XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE",))
    async with running(Setup(listeners=("relay",), upstream=up)) as world:
        client = await world.client()
        await client.reply()
        await client.ask("EHLO " + "+" * 150, 250)
        up.overrides.append(Override("mail", "550 5.1.0 Not you"))
        await client.ask("MAIL FROM:<ann@example.com>", 250)
        assert "Not you" in await client.ask("RCPT TO:<bob@example.net>", 550)


async def test_a_second_reply_to_the_dot_is_not_the_next_mails() -> None:
    up = Upstream(overrides=[Override("dot", "250 2.0.0 Ok|250 2.0.0 Ok", times=1)])
    async with running(Setup(listeners=("relay",), upstream=up)) as world:
        client = await world.greeted()
        await client.envelope()
        await client.ask("DATA", 354)
        up.overrides.append(Override("mail", "550 5.1.0 Not you"))
        await client.send(b"x\r\n.\r\nMAIL FROM:<ann@example.com>\r\nRCPT TO:<bob@example.net>\r\n")
        assert (await client.reply())[0] == 250
        assert (await client.reply())[0] == 250
        assert (await client.reply())[0] == 550


# upstream: pool


async def test_a_connection_given_back_goes_to_who_waits_for_one() -> None:
    async with running(Setup(listeners=("relay",), max_connections=1)) as world:
        one, two = await world.greeted(), await world.greeted()
        await one.envelope()
        await two.ask("MAIL FROM:<ann@example.com>", 250)
        await two.send(b"RCPT TO:<bob@example.net>\r\n")
        while not world.services.pool._waiters:
            await asyncio.sleep(0.001)
        await one.ask("DATA", 354)
        await one.send(b"x\r\n.\r\n")
        assert (await one.reply())[0] == 250
        assert (await two.reply())[0] == 250
        assert world.upstream.connections == 1


async def test_a_connection_being_opened_counts_once() -> None:
    async with running(Setup(listeners=("relay",), max_connections=3)) as world:
        for connection in tuple(world.services.pool._idle):
            connection.farewell()
        world.upstream.overrides.append(Override("connect", "silent", times=2))
        one, two, three = await world.greeted(), await world.greeted(), await world.greeted()
        for client in (one, two):
            await client.ask("MAIL FROM:<ann@example.com>", 250)
            await client.send(b"RCPT TO:<bob@example.net>\r\n")
        await world.upstream.until(lambda: world.upstream.reached["connect"] == 3)
        assert (await asyncio.wait_for(three.mail(), 5))[0] == 250


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_upstream_that_closes_at_once_uses_up_no_room(how: str) -> None:
    async with running(Setup(listeners=("relay",), max_connections=2)) as world:
        pool = world.services.pool
        for connection in tuple(pool._idle):
            connection.farewell()
        world.upstream.overrides.append(Override("connect", how, times=6))
        client = await world.greeted()
        for _ in range(6):
            await client.ask("MAIL FROM:<ann@example.com>", 250)
            await client.ask("RCPT TO:<bob@example.net>", 451)
            await client.ask("RSET", 250)
        assert pool.size == (0, 0)
        assert (await client.mail())[0] == 250


async def test_a_pool_that_was_replaced_is_still_timed() -> None:
    up = Upstream()
    async with running(Setup(listeners=("relay",), upstream=up)) as world:
        up.overrides.append(Override("dot", "silent", times=1))
        client = await world.greeted()
        await client.envelope()
        await client.ask("DATA", 354)
        await client.send(b"x\r\n.\r\n")
        await up.until(lambda: up.reached["dot"] == 1)
        old = world.services.pool
        world.relay.replace_pool(Pool(old.route, asyncio.get_running_loop()))
        (connection,) = old._all
        connection.due_in(0.1)
        assert (await client.reply())[0] == 451
        assert old.size == (0, 0)


# upstream: promises


async def test_bdat_never_goes_to_a_connection_that_does_not_know_it() -> None:
    up = Upstream(capabilities=(*CAPABILITIES, "CHUNKING"))
    async with running(Setup(listeners=("relay",), upstream=up)) as world:
        client = await world.greeted()
        up.capabilities = CAPABILITIES
        for connection in tuple(world.services.pool._idle):
            connection.farewell()
        await client.envelope()
        await client.send(b"BDAT 30 LAST\r\n" + b"RCPT TO:<smuggled@e.com>\r\nxyz\r"[:30])
        code, _ = await client.reply()
        assert code == 451
        assert not any(b"BDAT" in octets or b"smuggled" in octets for octets in up.received)
        await client.ask("NOOP", 250)


async def test_a_chunk_for_a_connection_that_is_gone_was_never_sent() -> None:
    up = Upstream(capabilities=(*CAPABILITIES, "CHUNKING"))
    async with running(Setup(listeners=("relay",), upstream=up)) as world:
        client = await world.greeted()
        await client.envelope()
        for connection in tuple(world.services.pool._all):
            connection.abort()
        await client.send(b"BDAT 3 LAST\r\nx\r\n")
        assert (await client.reply())[0] == 451
        assert world.rows[-1].verdict == "deferred"
        await client.envelope()
        for connection in tuple(world.services.pool._all):
            connection.abort()
        await client.ask("BDAT 0 LAST", 451)


# faults of ours


@pytest.mark.parametrize("step", ["rcpt", "dot"])
async def test_a_fault_of_ours_at_an_upstreams_reply_is_451_with_a_reference(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(Setup(listeners=("relay",)), sound=False) as world:
        client = await world.greeted()
        await client.ask("MAIL FROM:<ann@example.com>", 250)
        if step == "dot":
            await client.ask("RCPT TO:<bob@example.net>", 250)
            await client.ask("DATA", 354)
        real = Transaction._stage

        def broken(self: object, stage: str) -> None:
            if stage == step:
                raise RuntimeError("as if something of ours were wrong")
            real(self, stage)

        monkeypatch.setattr(Transaction, "_stage", broken)
        await client.send(b"RCPT TO:<bob@example.net>\r\n" if step == "rcpt" else b"x\r\n.\r\n")
        code, text = await client.reply()
        assert code == 451 and "reference" in text
        await client.ask("NOOP", 250)
        assert world.services.counters.open == 0
        assert world.services.metrics.internal_errors == 1


# logins


async def test_starttls_forgets_who_had_logged_in() -> None:
    setup = Setup(accounts=[account(1, "ann@example.com"), account(2, "bea@example.com")])
    async with running(setup) as world:
        client = await world.greeted("submission")
        session = world.session()
        world.relay.logged_in(session, AuthResult(Outcome.OK, "ann@example.com"))
        await client.ask("STARTTLS", 220)
        await client.start_tls()
        await client.ask("EHLO x", 250)
        await client.ask("MAIL FROM:<ann@example.com>", 530)
        await client.ask(auth_plain("bea@example.com"), 235)
        assert set(world.relay._by_account) == {2}
        client.hang_up()
        await turns()
        assert world.relay._by_account == {}


async def test_a_login_that_is_refused_leaves_no_trace() -> None:
    async with running(Setup(accounts=[account(1, "ann@example.com", "closed")], listeners=("plain",))) as world:
        client = await world.greeted()
        await client.ask(auth_plain("ann@example.com"), 525)
        assert world.relay._by_account == {}


# the process


async def test_implicit_tls_shows_a_renewed_certificate(tmp_path: Path) -> None:
    async with running(Setup(listeners=("smtps",))) as world:
        (listener,) = world.relay.listeners
        renewed = load_context(*self_made(tmp_path, "renewed.example.com"))
        seen = []
        for context in (listener.tls, renewed):
            listener.tls = context
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port(), ssl=client_tls())
            seen.append(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
            assert (await reader.readline()).startswith(b"220")
            writer.transport.abort()
        assert b"renewed.example.com" not in seen[0]
        assert b"renewed.example.com" in seen[1]


async def test_drain_waits_for_a_mail_whose_client_has_gone_after_the_dot() -> None:
    up = Upstream(overrides=[Override("dot", "held")])
    async with running(Setup(listeners=("relay",), upstream=up)) as world:
        client = await world.greeted()
        await client.envelope()
        await client.ask("DATA", 354)
        await client.send(b"x\r\n.\r\n")
        await up.until(lambda: up.reached["dot"] == 1)
        client.hang_up()
        while world.relay.sessions:
            await asyncio.sleep(0.001)
        drain = asyncio.create_task(world.relay.drain(10))
        await turns()
        up.going.set()
        assert await drain == 0
        assert [(row.verdict, row.reply[:3]) for row in world.rows] == [("accepted", "250")]


async def test_a_reload_holds_from_the_next_mail_on() -> None:
    async with running(Setup(listeners=("plain",))) as world:
        client = await world.logged_in(listener="plain")
        await client.ask("MAIL FROM:<else@example.com>", 553)
        world.services.rules = replace(world.services.rules, must_own_sender=False)
        world.relay.rules_changed()
        await client.ask("MAIL FROM:<else@example.com>", 250)


async def test_ehlo_refused_after_xclient_is_not_tried_without_an_end() -> None:
    up = Upstream(capabilities=(*CAPABILITIES, "XCLIENT NAME ADDR PORT PROTO HELO LOGIN"))
    async with running(Setup(listeners=("relay",), upstream=up)) as world:
        client = await world.greeted()
        await client.ask("MAIL FROM:<ann@example.com>", 250)
        for _ in range(5):
            up.overrides.append(Override("ehlo", "554 5.7.1 Not this client", times=1))
        await client.ask("RCPT TO:<bob@example.net>", 451)
        assert up.connections <= 3


@pytest.mark.parametrize("command", ["DATA", "BDAT 3 LAST"])
async def test_sending_stopped_between_recipient_and_content(command: str) -> None:
    up = Upstream(capabilities=(*CAPABILITIES, "CHUNKING"))
    async with running(Setup(listeners=("plain",), upstream=up)) as world:
        client = await world.logged_in(listener="plain")
        await client.envelope()
        world.change(account(1, "ann@example.com", "stopped"))
        if command == "DATA":
            await client.ask(command, 550)
        else:
            await client.ask(b"BDAT 3 LAST\r\nx", 550)
        assert up.kept == []
        await client.ask("NOOP", 250)


async def test_a_drain_leaves_no_balanced_client_open() -> None:
    async with running(Setup(listeners=("balanced",))) as world:
        client = await world.client()
        await client.send(b"PROXY")
        await turns()
        await world.relay.drain(5)
        assert await client.ended() == b""
