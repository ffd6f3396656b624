"""Attacks on the relay, each by its name. The judge is the upstream: it got one whole mail, or none; never a second.

Sources: the attack table of research on SMTP proxies; CVE-2023-51764/5/6 and CVE-2024-27305 (smuggling), CVE-2011-0411
and https://nostarttls.secvuln.info/ (STARTTLS), CVE-2026-28753 (XCLIENT).
"""

import asyncio
import base64
import re
import resource
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from upstream import CAPABILITIES, Override, Upstream
from world import (
    PASSWORD,
    PATIENCE,
    Client,
    Setup,
    World,
    account,
    auth_plain,
    client_tls,
    proxy_v1,
    running,
    server_tls,
)

from smartmail.core.smtp import MAX_AUTH_LINE, MAX_COMMAND_LINE
from smartmail.relay.route import Identify
from smartmail.relay.services import Rules, Services
from smartmail.relay.session import GRACE_SECONDS, READ_HIGH

SECOND_MAIL = b"MAIL FROM:<admin@example.com>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\nSubject: smuggled\r\n\r\nx"


ON_UVLOOP = True
LARGEST_READ = 262_144
"""Octets that uvloop reads at once."""
RELAY = ("relay",)


def relaying(**fields: object) -> Setup:
    """A relay for trusted networks."""
    return Setup(listeners=RELAY, accounts=[], **fields)  # type: ignore[arg-type]


async def send_in(pieces: Sequence[bytes], client: Client) -> None:
    """Each piece in its own segment, read by the relay before the next one is sent."""
    for piece in pieces:
        await client.send(piece)
        await asyncio.sleep(0.005)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that no event tells."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.001)


def no_second_mail(world: World) -> None:
    """The one oracle of all smuggling."""
    assert not [command for command in world.upstream.commands if "admin@example.com" in command]
    assert sum(command.startswith("DATA") for command in world.upstream.commands) <= 1
    assert len(world.upstream.kept) <= 1


# smuggling

FALSE_ENDS = {
    "lf_dot_lf": b"\n.\n",
    "lf_dot_crlf": b"\n.\r\n",
    "crlf_dot_lf": b"\r\n.\n",
    "cr_dot_cr": b"\r.\r",
    "cr_dot_crlf": b"\r.\r\n",
    "crlf_dot_cr": b"\r\n.\r",
    "lf_dot_cr": b"\n.\r",
    "cr_dot_lf": b"\r.\n",
    "cr_crlf_dot_crlf": b"\r\r\n.\r\r\n",
    "crlf_dot_cr_crlf": b"\r\n.\r\r\n",
    "crlf_nul_dot_crlf": b"\r\n\0.\r\n",
    "crlf_dot_nul_crlf": b"\r\n.\0\r\n",
    "crlf_dot_cr_nul_lf": b"\r\n.\r\0\n",
}


@pytest.mark.parametrize("normalise", [False, True], ids=["refused", "normalised"])
@pytest.mark.parametrize("end", FALSE_ENDS.values(), ids=FALSE_ENDS.keys())
async def test_smuggling_by_a_false_end_of_data(end: bytes, normalise: bool) -> None:
    terms = replace(Setup().terms, normalise=normalise)
    async with running(relaying(terms=terms)) as world:
        client = await world.greeted()
        await client.envelope()
        await client.ask("DATA", 354)
        await client.send(b"Subject: first\r\n\r\nhello" + end + SECOND_MAIL + b"\r\n.\r\n")
        code, text = await client.reply()
        assert (code, "5.6.11" in text) == ((250, False) if normalise else (550, True))
        await client.ask("QUIT", 221)
        no_second_mail(world)
        assert len(world.upstream.kept) == normalise
        if normalise:
            assert b"MAIL FROM:<admin@example.com>" in world.upstream.kept[0].content, "content stays content"
        else:
            assert world.rows[0].reason == "bad_content"


@pytest.mark.parametrize("end", FALSE_ENDS.values(), ids=FALSE_ENDS.keys())
async def test_smuggling_by_a_false_end_that_comes_octet_by_octet(end: bytes) -> None:
    async with running(relaying()) as world:
        client = await world.greeted()
        await client.envelope()
        await client.ask("DATA", 354)
        await send_in([b"hello", *(end[at : at + 1] for at in range(len(end))), SECOND_MAIL + b"\r\n.\r\n"], client)
        assert (await client.reply())[0] == 550
        no_second_mail(world)
        assert world.upstream.kept == []


@pytest.mark.parametrize("cut", range(1, 12))
async def test_a_dot_at_the_edge_of_what_was_read_ends_the_mail_where_it_should(cut: int) -> None:
    content = b"hello\r\n.\r\n"
    async with running(relaying()) as world:
        client = await world.greeted()
        await client.envelope()
        await client.ask("DATA", 354)
        await send_in([content[:cut], content[cut:]] if cut < len(content) else [content], client)
        assert (await client.reply())[0] == 250
        (kept,) = world.upstream.kept
        assert kept.content == b"hello\r\n"


@pytest.mark.parametrize("cut", range(1, 10))
async def test_a_stuffed_dot_at_the_edge_ends_nothing(cut: int) -> None:
    content = b"a\r\n..\r\n.b\r\n"
    async with running(relaying()) as world:
        client = await world.greeted()
        await client.envelope()
        await client.ask("DATA", 354)
        await send_in([content[:cut], content[cut:], b".\r\n"], client)
        assert (await client.reply())[0] == 250
        (kept,) = world.upstream.kept
        assert kept.content == content


@pytest.mark.parametrize("end", [b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\r", b"x\0y"])
@pytest.mark.parametrize("cut", [0, 1, 2])
async def test_smuggling_by_bdat(end: bytes, cut: int) -> None:
    chunked = Upstream(capabilities=(*CAPABILITIES, "CHUNKING"))
    async with running(relaying(upstream=chunked)) as world:
        client = await world.greeted()
        await client.envelope()
        body = b"hello" + end + SECOND_MAIL
        at = 5 + cut
        await client.send(b"BDAT %d\r\n%b" % (at, body[:at]))
        first, _ = await client.reply()
        await client.send(b"BDAT %d LAST\r\n%b" % (len(body) - at, body[at:]))
        second, _ = await client.reply()
        assert 550 in (first, second)
        no_second_mail(world)
        assert world.upstream.kept == []


async def test_what_is_a_true_end_to_data_is_content_to_bdat() -> None:
    chunked = Upstream(capabilities=(*CAPABILITIES, "CHUNKING"))
    body = b"hello\r\n.\r\n" + SECOND_MAIL
    async with running(relaying(upstream=chunked)) as world:
        client = await world.greeted()
        await client.envelope()
        await client.send(b"BDAT %d LAST\r\n%b" % (len(body), body))
        assert (await client.reply())[0] == 250
        no_second_mail(world)
        assert [one.content for one in world.upstream.kept] == [body]


async def test_a_chunk_with_a_lying_size_makes_commands_of_content_for_nobody() -> None:
    """The octets beyond the size are commands to us as to the upstream: both count alike."""
    chunked = Upstream(capabilities=(*CAPABILITIES, "CHUNKING"))
    async with running(relaying(upstream=chunked)) as world:
        client = await world.greeted()
        await client.envelope()
        await client.send(b"BDAT 5 LAST\r\nhelloRSET\r\n")
        assert [(await client.reply())[0], (await client.reply())[0]] == [250, 250]
        assert [one.content for one in world.upstream.kept] == [b"hello"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\r\n", b"\n\r"])
async def test_commands_that_end_otherwise_than_in_crlf_close_the_session(line_end: bytes) -> None:
    async with running(relaying()) as world:
        client = await world.greeted()
        await client.send(b"MAIL FROM:<a@example.com>" + line_end + b"RCPT TO:<b@example.net>\r\n")
        assert (await client.reply())[0] == 521
        assert await client.ended() == b""
        assert world.upstream.commands == []


async def test_reply_smuggling_a_second_reply_is_no_answer_to_the_next_mail() -> None:
    upstream = Upstream(overrides=[Override("dot", "250 2.0.0 ok|250 2.0.0 ok|250 2.0.0 ok|354 go", times=1)])
    async with running(relaying(upstream=upstream)) as world:
        client = await world.greeted()
        await client.envelope()
        await client.ask("DATA", 354)
        upstream.overrides.append(Override("rcpt", "550 5.1.1 no"))
        await client.send(b".\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n")
        codes = [(await client.reply())[0] for _ in range(4)]
        assert codes == [250, 250, 550, 503]
        assert len(upstream.kept) == 1


# STARTTLS


async def test_starttls_injection_by_the_client_side_ends_the_session() -> None:
    """CVE-2011-0411: what follows STARTTLS in the clear is never carried out under TLS."""
    async with running() as world:
        client = await world.greeted("submission")
        await client.send(b"STARTTLS\r\nEHLO injected.example\r\n")
        assert (await client.reply())[0] == 554
        assert await client.ended() == b""


async def test_starttls_injection_in_a_segment_of_its_own_never_reaches_the_session() -> None:
    async with running() as world:
        client = await world.greeted("submission")
        session = world.session()
        await client.ask("STARTTLS", 220)
        await client.send(b"EHLO injected.example\r\nMAIL FROM:<a@example.com>\r\n")
        await client.ended()
        assert session.helo != "injected.example"
        assert session.transaction is None


async def test_starttls_forgets_what_was_said_before() -> None:
    async with running(relaying()) as world:
        client = await world.greeted()
        await client.ask("STARTTLS", 220)
        await client.start_tls()
        await client.ask("MAIL FROM:<a@example.com>", 503)
        assert world.session().helo == ""


async def test_starttls_takes_no_argument_and_no_place_in_a_transaction() -> None:
    async with running(relaying()) as world:
        client = await world.greeted()
        await client.ask("STARTTLS now", 501)
        await client.ask("MAIL FROM:<a@example.com>", 250)
        await client.ask("STARTTLS", 503)


async def test_starttls_response_injection_by_the_upstream_ends_that_connection() -> None:
    """Octets behind its 220 came in the clear: whoever put them there, they are no reply."""
    injected = "220 2.0.0 go|250-upstream.example|250 XCLIENT LOGIN ADDR"
    upstream = Upstream(tls=server_tls(), overrides=[Override("starttls", injected)])
    async with running(relaying(upstream=upstream, upstream_tls=client_tls())) as world:
        client = await world.greeted()
        await client.ask("MAIL FROM:<a@example.com>", 250)
        await client.ask("RCPT TO:<b@example.net>", 451)
        assert "XCLIENT" not in world.services.pool.capabilities
        assert not [one for one in upstream.commands if one.startswith(("XCLIENT", "MAIL"))]


async def test_capabilities_of_an_upstream_count_only_as_said_under_tls() -> None:
    upstream = Upstream(tls=server_tls())
    clear = Override("ehlo", "250-upstream.example|250-XCLIENT ADDR LOGIN|250 STARTTLS", times=1)
    upstream.overrides.append(clear)
    async with running(relaying(upstream=upstream, upstream_tls=client_tls())) as world:
        client = await world.greeted()
        await client.envelope()
        assert not [one for one in upstream.commands if one.startswith("XCLIENT")]


async def test_an_upstream_stripped_of_starttls_gets_no_mail_where_tls_is_required() -> None:
    setup = relaying(upstream_tls=client_tls(), upstream_tls_required=True)
    setup.upstream.overrides.append(Override("connect", "220 upstream.example"))
    async with running(setup) as world:
        client = await world.greeted()
        await client.ask("MAIL FROM:<a@example.com>", 250)
        await client.ask("RCPT TO:<b@example.net>", 451)
        assert not [one for one in world.upstream.commands if one.startswith("MAIL")]


# who talks too early


async def test_talk_before_the_greeting_is_554() -> None:
    """With a PROXY header before it, what follows is there for certain when the session begins."""
    async with running(Setup(listeners=("balanced-incoming",))) as world:
        client = await world.client()
        await client.send(proxy_v1("203.0.113.9") + b"EHLO early.example\r\n")
        assert (await client.reply())[0] == 554
        assert await client.ended() == b""
        assert world.services.metrics.sessions_refused["early_talk"] == 1


async def test_talk_in_the_time_before_a_greeting_that_is_held_back_is_554() -> None:
    async with running(relaying(greeting_delay=0.05)) as world:
        client = await world.client()
        await client.send(b"EHLO early.example\r\n")
        assert (await client.reply())[0] == 554
        assert await client.ended() == b""


async def test_commands_behind_the_first_ehlo_are_early_talk() -> None:
    """RFC 2920 3.1: EHLO is the last of its group; before its answer nobody knows of pipelining."""
    async with running(relaying()) as world:
        client = await world.client()
        assert (await client.reply())[0] == 220
        await client.send(b"EHLO early.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\n")
        assert (await client.reply())[0] == 554
        assert await client.ended() == b""
        assert world.upstream.commands == []


async def test_content_before_354_is_554_and_no_mail() -> None:
    async with running(relaying()) as world:
        client = await world.greeted()
        await client.envelope()
        await client.send(b"DATA\r\nSubject: early\r\n\r\nx\r\n.\r\n")
        assert (await client.reply())[0] == 554
        assert await client.ended() == b""
        assert world.upstream.kept == []


async def test_content_between_data_and_354_is_554_and_no_mail() -> None:
    upstream = Upstream(overrides=[Override("data", "held")])
    async with running(relaying(upstream=upstream)) as world:
        client = await world.greeted()
        await client.envelope()
        await client.send(b"DATA\r\n")
        await upstream.until(lambda: upstream.reached["data"] == 1)
        await send_in([b"Subject: early\r\n.\r\n"], client)
        upstream.going.set()
        assert (await client.reply())[0] == 554
        assert await client.ended() == b""
        assert upstream.kept == []
        assert world.rows[0].reason == "early_talk"


# AUTH


@pytest.mark.parametrize("command", [auth_plain("ann@example.com"), "AUTH LOGIN", "AUTH PLAIN", "AUTH X"])
async def test_auth_before_tls_is_neither_offered_nor_taken(command: str) -> None:
    async with running() as world:
        client = await world.client("submission")
        await client.reply()
        assert "AUTH" not in await client.ask("EHLO client.example", 250)
        await client.ask(command, 538)
        await client.ask("MAIL FROM:<ann@example.com>", 530)
        assert world.services.metrics.logins == {}


async def test_auth_on_a_relay_listener_is_not_there() -> None:
    async with running(relaying()) as world:
        client = await world.greeted()
        await client.ask(auth_plain("ann@example.com"), 502)


async def test_guessing_ends_the_session() -> None:
    async with running(Setup(listeners=("plain",), terms=replace(Setup().terms, max_errors=3))) as world:
        client = await world.greeted()
        for _ in range(2):
            await client.ask(auth_plain("ann@example.com", "wrong"), 535)
        await client.ask(auth_plain("ann@example.com", "wrong"), 535)
        assert (await client.reply())[0] == 421
        assert await client.ended() == b""


async def test_a_login_as_another_is_refused() -> None:
    accounts = [account(1, "ann@example.com"), account(2, "bob@example.com")]
    async with running(Setup(accounts=accounts, listeners=("plain",))) as world:
        client = await world.greeted()
        line = base64.b64encode(f"bob@example.com\0ann@example.com\0{PASSWORD}".encode()).decode()
        await client.ask(f"AUTH PLAIN {line}", 535)


async def test_a_session_that_logged_in_stays_who_it_is() -> None:
    accounts = [account(1, "ann@example.com"), account(2, "bob@example.com")]
    async with running(Setup(accounts=accounts)) as world:
        client = await world.logged_in("ann@example.com")
        await client.ask(auth_plain("bob@example.com"), 503)
        await client.ask("MAIL FROM:<bob@example.com>", 553)


# injection

INJECTED = ["\r", "\n", "\r\n", "\0", "\x1b", "\x7f", "\t"]


@pytest.mark.parametrize("injected", INJECTED, ids=repr)
@pytest.mark.parametrize(
    "command",
    [
        "MAIL FROM:<a{}b@example.com>",
        "MAIL FROM:<a@exam{}ple.com>",
        'MAIL FROM:<"a{}b"@example.com>',
        "MAIL FROM:<a@example.com> ENVID=a{}b",
        "MAIL FROM:<a@example.com>{}RCPT TO:<admin@example.com>",
    ],
)
async def test_control_octets_in_a_command_never_reach_the_upstream(command: str, injected: str) -> None:
    async with running(relaying()) as world:
        client = await world.greeted()
        await client.send(command.format(injected).encode() + b"\r\nRCPT TO:<b@example.net>\r\n")
        code, _ = await client.reply()
        if injected == "\r\n":  # two commands, each of which is read as such
            assert code in (250, 501, 503, 553)
        else:
            assert code in (500, 501, 521, 553, 555)
        octets = b"".join(world.upstream.received)
        assert not re.search(rb"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]", octets)
        assert world.upstream.kept == []


@pytest.mark.parametrize("hidden", ["+0D+0A", "+0A", "+00", "+7F", "+C2+85", "+E2+80+A8", "+0d", "+ZZ", "+"])
@pytest.mark.parametrize(
    "command", ["MAIL FROM:<a@example.com> ENVID=a{}b", "MAIL FROM:<a@example.com> AUTH=a{}b@example.com"]
)
async def test_control_octets_hidden_in_xtext_are_refused(command: str, hidden: str) -> None:
    async with running() as world:
        client = await world.logged_in()
        await client.ask(command.replace("a@example.com>", "ann@example.com>").format(hidden), 501)
        await client.ask("MAIL FROM:<ann@example.com>", 250)
        await client.ask(f"RCPT TO:<b@example.net> ORCPT=rfc822;a{hidden}b", 501)


async def test_an_auth_parameter_is_no_identity_and_goes_nowhere() -> None:
    async with running() as world:
        client = await world.logged_in()
        await client.ask("MAIL FROM:<ann@example.com> AUTH=admin@example.com", 250)
        await client.ask("RCPT TO:<b@example.net>", 250)
        assert world.upstream.commands[-2:] == ["MAIL FROM:<ann@example.com>", "RCPT TO:<b@example.net>"]


@pytest.mark.parametrize("helo", ["a b", "a\tb", "x+0D+0A", "a=b", "<x>", "é", "[", "x" * 256])
async def test_a_helo_name_cannot_add_to_the_identity(helo: str) -> None:
    upstream = Upstream(capabilities=(*CAPABILITIES, "XCLIENT ADDR HELO LOGIN"))
    async with running(relaying(upstream=upstream)) as world:
        client = await world.client()
        await client.reply()
        await client.send(f"EHLO {helo}\r\n".encode())
        if (await client.reply())[0] != 250:
            return
        await client.envelope()
        (told,) = [one for one in upstream.commands if one.startswith("XCLIENT")]
        assert re.fullmatch(r"XCLIENT HELO=\S+ LOGIN=\[UNAVAILABLE\] ADDR=127\.0\.0\.1", told)
        assert "\r" not in told


# too long, too much


async def test_a_command_line_without_an_end_takes_no_memory() -> None:
    async with running(relaying()) as world:
        client = await world.greeted()
        session = world.session()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(400):
            await client.send(b"x" * 65536)
        await client.send(b"\r\n")
        assert (await client.reply())[0] == 500
        assert session._smtp.backlog <= MAX_COMMAND_LINE
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024
        await client.ask("NOOP", 250)


@pytest.mark.parametrize("over", [0, 1])
async def test_command_lines_are_bounded_to_the_octet(over: int) -> None:
    async with running(relaying()) as world:
        client = await world.greeted()
        await client.ask(b"NOOP " + b"x" * (MAX_COMMAND_LINE - 7 + over), 500 if over else 250)


async def test_auth_lines_are_bounded() -> None:
    async with running(Setup(listeners=("plain",))) as world:
        client = await world.greeted()
        assert "5.5.6" in await client.ask(b"AUTH PLAIN " + b"A" * MAX_AUTH_LINE, 500)
        await client.ask("AUTH PLAIN", 334)
        assert "5.5.6" in await client.ask(b"A" * MAX_AUTH_LINE, 500)
        await client.ask(auth_plain("ann@example.com"), 235)


async def test_a_line_of_content_without_an_end_streams_through() -> None:
    async with running(relaying()) as world:
        client = await world.greeted()
        await client.envelope()
        await client.ask("DATA", 354)
        session = world.session()
        for _ in range(6):
            await client.send(b"x" * 10_000)
            assert session._smtp.backlog == 0
        await client.send(b"\r\n.\r\n")
        assert (await client.reply())[0] == 250


async def test_commands_sent_ahead_of_an_answer_are_not_read_without_bound() -> None:
    upstream = Upstream(overrides=[Override("rcpt", "held")])
    async with running(relaying(upstream=upstream)) as world:
        client = await world.greeted()
        await client.send(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\n")
        await upstream.until(lambda: upstream.reached["rcpt"] == 1)
        flood = asyncio.create_task(client.send(b"NOOP\r\n" * 1_000_000))
        await until(lambda: world.session()._paused != 0)
        assert world.session()._smtp.backlog <= READ_HIGH + LARGEST_READ
        flood.cancel()
        upstream.going.set()


async def test_a_client_that_never_reads_its_replies_is_not_written_to_without_bound() -> None:
    async with running(relaying(terms=replace(Setup().terms, max_noops=50))) as world:
        client = await world.greeted()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        session = world.session()
        client.writer.write(b"EHLO x\r\n" * 100_000)
        await until(lambda: session._smtp.closed)
        transport = session._transport
        assert transport is None or transport.get_write_buffer_size() < LARGEST_READ


async def test_a_harvester_is_sent_away() -> None:
    async with running(relaying(upstream=Upstream(overrides=[Override("rcpt", "550 5.1.1 no such user")]))) as world:
        client = await world.greeted()
        await client.ask("MAIL FROM:<a@example.com>", 250)
        codes = []
        for number in range(200):
            await client.send(f"RCPT TO:<user{number}@example.net>\r\n".encode())
            codes.append((await client.reply())[0])
            if codes[-1] == 421 or client.reader.at_eof():
                break
        assert 421 in codes or (await client.ended()).startswith(b"421")
        assert 100 <= codes.count(550) <= 101


# too slow


async def test_a_client_that_sends_its_mail_drop_by_drop_is_cut_by_the_rate_floor() -> None:
    async with running(relaying(rules=Rules(min_data_rate=100))) as world:
        client = await world.greeted()
        await client.envelope()
        await client.ask("DATA", 354)
        session = world.session()
        for _ in range(GRACE_SECONDS + 1):
            assert not session._smtp.closed
            session.sweep(session.heard)
        assert (await client.reply())[0] == 421
        assert await client.ended() == b""
        assert world.rows[-1].reason == "too_slow"
        assert world.upstream.kept == []


async def test_a_client_above_the_rate_floor_is_left_alone() -> None:
    async with running(relaying(rules=Rules(min_data_rate=100))) as world:
        client = await world.greeted()
        await client.envelope()
        await client.ask("DATA", 354)
        session = world.session()
        await client.send((b"x" * 98 + b"\r\n") * 20)
        await until(lambda: session._content_octets >= 2000)
        for _ in range(GRACE_SECONDS + 19):
            session.sweep(session.heard)
        await client.send(b".\r\n")
        assert (await client.reply())[0] == 250


async def test_a_slow_upstream_is_not_held_against_its_client() -> None:
    upstream = Upstream()
    async with running(relaying(upstream=upstream, terms=replace(Setup().terms, max_size=50_000_000))) as world:
        client = await world.greeted()
        await client.envelope()
        upstream.reading.clear()
        await client.ask("DATA", 354)
        session = world.session()
        sending = asyncio.create_task(client.send((b"x" * 998 + b"\r\n") * 8_000 + b".\r\n"))
        await until(lambda: session._paused != 0)
        for _ in range(GRACE_SECONDS + 1000):
            session.sweep(session.heard + 10_000)
        upstream.reading.set()
        await sending
        assert (await client.reply())[0] == 250


async def test_a_command_that_comes_octet_by_octet_does_not_renew_its_time() -> None:
    async with running(relaying(rules=Rules(command_seconds=300))) as world:
        client = await world.greeted()
        session = world.session()
        begun = session.heard
        world.services.tick.now = begun + 200
        await send_in([b"N", b"O"], client)
        session.sweep(begun + 301)
        assert (await client.reply())[0] == 421
        assert await client.ended() == b""


async def test_a_client_that_does_not_read_is_given_up() -> None:
    async with running(relaying(terms=replace(Setup().terms, max_noops=1_000_000), rules=Rules())) as world:
        client = await world.greeted()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        flood = asyncio.create_task(client.send(b"EHLO x\r\n" * 400_000))
        session = world.session()
        await until(lambda: session._paused != 0)
        session.sweep(session.heard + 301)
        assert session._smtp.closed
        session.sweep(session.heard + 301)
        await until(lambda: world.relay.sessions == 0)
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)


async def test_commands_that_achieve_nothing_renew_it_only_so_often() -> None:
    async with running(relaying(terms=replace(Setup().terms, max_noops=3))) as world:
        client = await world.greeted()
        for _ in range(3):
            await client.ask("NOOP", 250)
        await client.ask("NOOP", 250)
        assert (await client.reply())[0] == 421


# spoofed identity


@pytest.mark.parametrize(
    "command", ["XCLIENT ADDR=192.0.2.1 LOGIN=admin", "XFORWARD ADDR=192.0.2.1", "PROXY TCP4 192.0.2.1 1.1.1.1 1 25"]
)
@pytest.mark.parametrize("listener", ["relay", "submission"])
async def test_identity_claimed_by_a_client_is_no_command(command: str, listener: str) -> None:
    async with running(Setup(listeners=(listener,))) as world:
        client = await world.greeted()
        assert "XCLIENT" not in await client.ask("EHLO x", 250)
        text = await client.ask(command, 500)
        assert "5.5.2" in text
        assert world.session().identity.address == "127.0.0.1"


async def test_a_proxy_header_from_an_untrusted_peer_is_early_talk_or_nonsense() -> None:
    async with running(Setup(listeners=("unbalanced",))) as world:
        client = await world.client()
        await client.send(proxy_v1("192.0.2.1"))
        codes = [(await client.reply())[0]]
        if codes[0] == 220:
            codes.append((await client.reply())[0])
        assert codes[-1] in (500, 554)
        await client.ended() if codes[-1] == 554 else client.hang_up()
        assert "192.0.2.1" not in world.relay.listeners[0]._clients


async def test_a_trusted_balancer_that_says_nothing_gets_no_session() -> None:
    async with running(Setup(listeners=("balanced",))) as world:
        client = await world.client()
        await client.send(b"EHLO x\r\n" + b"x" * 120)
        assert await client.ended() == b""
        assert world.relay.sessions == 0


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.1 127.0.0.1 40000 25\n",
        b"PROXY TCP4 192.0.2.999 127.0.0.1 40000 25\r\n",
        b"PROXY TCP4 192.0.2.1 127.0.0.1 40000\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c" + b"\0" * 12,
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
    ],
)
async def test_a_bad_proxy_header_gets_no_session(header: bytes) -> None:
    async with running(Setup(listeners=("balanced",))) as world:
        client = await world.client()
        await client.send(header)
        assert await client.ended() == b""
        assert world.relay.sessions == 0


@pytest.mark.parametrize(
    ("source", "shown"), [("192.0.2.77", "192.0.2.77"), ("2001:db8::77", "IPV6:2001:db8::77")], ids=["IPv4", "IPv6"]
)
@pytest.mark.parametrize("how", [Identify.XCLIENT, Identify.XFORWARD])
async def test_a_proxy_header_from_a_trusted_balancer_tells_the_client(source: str, shown: str, how: Identify) -> None:
    upstream = Upstream(capabilities=(*CAPABILITIES, "XCLIENT ADDR PORT", "XFORWARD ADDR PORT"))
    async with running(Setup(listeners=("balanced",), upstream=upstream, identify=how)) as world:
        client = await world.client()
        await client.send(proxy_v1(source, 40123))
        assert (await client.reply())[0] == 220
        await client.ask("EHLO client.example", 250)
        code, _ = await client.mail()
        assert code == 250
        (told,) = [one for one in upstream.commands if one.startswith(how.value.upper())]
        assert told == f"{how.value.upper()} PORT=40123 ADDR={shown}"
        assert world.rows[0].client_address == source


async def test_trust_is_in_the_client_behind_the_balancer_and_not_in_the_balancer() -> None:
    async with running(Setup(listeners=("balanced",))) as world:
        client = await world.client()
        await client.send(proxy_v1("203.0.113.9"))
        assert (await client.reply())[0] == 554


async def test_two_clients_of_one_pooled_upstream_connection_are_told_apart() -> None:
    upstream = Upstream(capabilities=(*CAPABILITIES, "XCLIENT ADDR"))
    async with running(Setup(listeners=("balanced",), upstream=upstream, max_connections=1)) as world:
        for source in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
            client = await world.client()
            await client.send(proxy_v1(source))
            await client.reply()
            await client.ask("EHLO x", 250)
            assert (await client.mail())[0] == 250
            await client.ask("QUIT", 221)
        told = [one for one in upstream.commands if one.startswith(("XCLIENT", "MAIL"))]
        mails = [number for number, one in enumerate(told) if one.startswith("MAIL")]
        assert [told[number - 1] for number in mails] == [f"XCLIENT ADDR=192.0.2.{last}" for last in (1, 2, 1)]


# details, and the upstream that dies at a bad moment


async def test_a_fault_of_ours_tells_the_client_a_reference_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running(relaying(), sound=False) as world:
        client = await world.greeted()
        await client.ask("MAIL FROM:<a@example.com>", 250)

        def broken(*_: object) -> None:
            raise RuntimeError("secret detail of ours")

        monkeypatch.setattr(Services, "destination", broken)
        await client.send(b"RCPT TO:<b@example.net>\r\n")
        _, text = await client.reply()
        assert re.fullmatch(r"451 4\.3\.0 Internal error; the operator finds it under reference [0-9a-f]+", text)
        assert world.services.metrics.internal_errors == 1


@pytest.mark.parametrize("says", ["reset", "552 5.3.4 enough"])
async def test_an_upstream_that_ends_while_it_is_slow_leaves_no_session_hanging(says: str) -> None:
    """The client was not read because the upstream did not; it must be read again once there is no upstream."""
    upstream = Upstream()
    async with running(relaying(upstream=upstream, terms=replace(Setup().terms, max_size=50_000_000))) as world:
        client = await world.greeted()
        await client.envelope()
        upstream.reading.clear()
        upstream.overrides.append(Override("content", says))
        await client.ask("DATA", 354)
        sending = asyncio.create_task(client.send((b"x" * 998 + b"\r\n") * 8_000 + b".\r\n"))
        session = world.session()
        await until(lambda: session._paused != 0)
        upstream.reading.set()
        await asyncio.wait_for(sending, 10)
        assert (await client.reply())[0] in (451, 552)
        await client.ask("NOOP", 250)


async def test_an_upstream_that_hangs_while_it_is_slow_is_given_up() -> None:
    upstream = Upstream()
    async with running(relaying(upstream=upstream, terms=replace(Setup().terms, max_size=50_000_000))) as world:
        client = await world.greeted()
        await client.envelope()
        upstream.reading.clear()
        await client.ask("DATA", 354)
        sending = asyncio.create_task(client.send((b"x" * 998 + b"\r\n") * 8_000 + b".\r\n"))
        session = world.session()
        await until(lambda: session._paused != 0)
        world.services.pool.sweep(asyncio.get_running_loop().time() + 10_000)
        await asyncio.wait_for(sending, 10)
        assert (await client.reply())[0] == 451
        upstream.reading.set()
