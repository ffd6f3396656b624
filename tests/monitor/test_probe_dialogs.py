"""Each probe against a server that does as told: all well, and every way to fail at every point of the dialog."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest
from probe_peers import (
    DIALOGS,
    IMPLICIT,
    KINDS,
    STEPS,
    Act,
    Authority,
    Link,
    Pair,
    Step,
    check_of,
    context_of,
    dialog,
    peer,
    with_answer,
)

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind
from smartmail.monitor.probes import Observation, SecretSource, probe

Is = Outcome
K = CheckKind
Visit = Callable[..., Awaitable[Observation]]


@pytest.fixture
def visit(authority: Authority, good: Pair, probe_secrets: SecretSource) -> Visit:
    """Run a probe of a kind against these steps."""

    async def run(
        kind: CheckKind,
        steps: Sequence[Step],
        instead: Mapping[int, Act] | None = None,
        timeout_ms: int = 20_000,
        **options: str,
    ) -> Observation:
        context = context_of(probe_secrets, authority.file, timeout_ms)
        implicit = kind in IMPLICIT and options.get("implicit", "yes") == "yes"
        async with peer(dialog(steps, instead), good.server(), implicit=implicit) as server:
            return await probe(check_of(kind, server.port, **options), context)

    return run


async def hang_up(link: Link, step: Step) -> None:
    link.writer.transport.abort()


async def say_half_and_hang_up(link: Link, step: Step) -> None:
    await link.say(step.say[: len(step.say) // 2])
    link.writer.close()


async def stay_silent(link: Link, step: Step) -> None:
    await link.wait()


async def garbage(link: Link, step: Step) -> None:
    await link.drip(b"\x00\xffjunk \x1b[2J\x07\r\n" * 3)
    await link.wait()


async def endless_line(link: Link, step: Step) -> None:
    await link.for_ever(b"x")


@pytest.mark.parametrize("kind", KINDS)
async def test_all_is_well(visit: Visit, kind: CheckKind) -> None:
    seen = await visit(kind, DIALOGS[kind])
    assert (seen.outcome, seen.detail) == (Is.OK, "")
    assert isinstance(seen.facts["certificate_expires"], int)
    assert seen.facts["address"] == "127.0.0.1"
    assert {"dns", "connect", "tls", "command"} <= set(seen.phases)
    assert kind is K.HTTPS or "banner" in seen.phases
    assert kind in (K.HTTPS, K.MX) or "auth" in seen.phases


@pytest.mark.parametrize("kind", KINDS)
async def test_all_is_well_octet_by_octet(visit: Visit, kind: CheckKind) -> None:
    steps = DIALOGS[kind]

    async def whole(link: Link, step: Step) -> None:
        await link.drip(step.say)
        if step.tls:
            await link.start_tls()
        for later in steps[1:]:
            if later.hear:
                await link.hear(later.hear)
            await link.drip(later.say)
            if later.tls:
                await link.start_tls()
        await link.wait()

    assert (await visit(kind, steps, {0: whole})).outcome is Is.OK


@pytest.mark.parametrize(("kind", "at"), STEPS)
async def test_the_connection_ends_in_the_middle(visit: Visit, kind: CheckKind, at: int) -> None:
    seen = await visit(kind, DIALOGS[kind], {at: hang_up})
    goodbye = at == len(DIALOGS[kind]) - 1 and kind is not K.HTTPS
    assert seen.outcome is (Is.OK if goodbye else Is.LOST), seen


@pytest.mark.parametrize(("kind", "at"), STEPS)
async def test_the_connection_ends_in_the_middle_of_an_answer(visit: Visit, kind: CheckKind, at: int) -> None:
    seen = await visit(kind, DIALOGS[kind], {at: say_half_and_hang_up})
    goodbye = at == len(DIALOGS[kind]) - 1 and kind is not K.HTTPS
    assert seen.outcome is (Is.OK if goodbye else Is.LOST), seen


@pytest.mark.parametrize(("kind", "at"), STEPS)
async def test_no_answer_is_a_timeout_that_says_where(visit: Visit, kind: CheckKind, at: int) -> None:
    seen = await visit(kind, DIALOGS[kind], {at: stay_silent}, timeout_ms=300)
    assert seen.outcome is Is.TIMEOUT
    assert seen.detail.startswith("no answer within 300 ms at ")


@pytest.mark.parametrize(("kind", "at"), STEPS)
async def test_garbage_octet_by_octet_is_not_the_protocol(visit: Visit, kind: CheckKind, at: int) -> None:
    seen = await visit(kind, DIALOGS[kind], {at: garbage})
    assert seen.outcome is Is.PROTOCOL
    assert seen.detail.isprintable()
    assert len(seen.detail) <= 200


@pytest.mark.parametrize(("kind", "at"), STEPS)
async def test_an_endless_line_is_cut(visit: Visit, kind: CheckKind, at: int) -> None:
    seen = await visit(kind, DIALOGS[kind], {at: endless_line})
    assert seen.outcome is Is.PROTOCOL
    assert len(seen.detail) <= 200


ENDLESS = {
    K.MX: b"250-more\r\n",
    K.SUBMISSION: b"250-more\r\n",
    K.SMTPS: b"250-more\r\n",
    K.IMAPS: b"* OK still here\r\n",
    K.IMAP: b"* OK still here\r\n",
    K.SIEVE: b'"MORE" "and more"\r\n',
    K.HTTPS: b"X-More: and more\r\n",
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_an_endless_answer_of_good_lines_is_cut(visit: Visit, kind: CheckKind) -> None:
    async def on_and_on(link: Link, step: Step) -> None:
        if kind is K.HTTPS:
            await link.say(b"HTTP/1.1 200 OK\r\n")
        await link.for_ever(ENDLESS[kind])

    at = 1 if kind is not K.HTTPS else 0
    assert (await visit(kind, DIALOGS[kind], {at: on_and_on})).outcome is Is.PROTOCOL


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in IMPLICIT])
async def test_clear_text_slipped_in_before_the_handshake_is_not_taken_for_protected(
    visit: Visit, kind: CheckKind
) -> None:
    at = next(index for index, step in enumerate(DIALOGS[kind]) if step.tls)

    async def inject(link: Link, step: Step) -> None:
        await link.say(step.say + b"250 injected\r\n")
        await link.wait()

    seen = await visit(kind, DIALOGS[kind], {at: inject})
    assert (seen.outcome, seen.detail) == (Is.PROTOCOL, "clear text sent ahead of the TLS handshake at STARTTLS")


ANSWERS = [
    # kind, command, answer, outcome, words of the detail
    (K.MX, b"", b"421 4.3.2 Too busy\r\n", Is.TRANSIENT, "421 4.3.2 Too busy at greeting"),
    (K.MX, b"", b"450 4.3.2 Later\r\n", Is.TRANSIENT, "at greeting"),
    (K.MX, b"", b"554 5.7.1 Not you\r\n", Is.PERMANENT, "554 5.7.1 Not you at greeting"),
    (K.MX, b"", b"250 What?\r\n", Is.PROTOCOL, "at greeting"),
    (K.MX, b"", b"220-early\r\n221 late\r\n", Is.PROTOCOL, "at greeting"),
    (K.MX, b"EHLO", b"502 5.5.1 No\r\n", Is.PERMANENT, "at EHLO"),
    (K.MX, b"STARTTLS", b"454 4.7.0 TLS not available\r\n", Is.TLS, "454 4.7.0 TLS not available at STARTTLS"),
    (K.MX, b"STARTTLS", b"502 5.5.1 No\r\n", Is.TLS, "at STARTTLS"),
    (K.MX, b"MAIL", b"451 4.3.0 Queue file write error\r\n", Is.TRANSIENT, "451 4.3.0 Queue file write error at MAIL"),
    (K.MX, b"MAIL", b"550 5.7.1 Blocked\r\n", Is.PERMANENT, "at MAIL"),
    (K.MX, b"RCPT", b"550 5.1.1 No such user\r\n", Is.PERMANENT, "550 5.1.1 No such user at RCPT"),
    (K.MX, b"RCPT", b"421 4.3.2 Shutting down\r\n", Is.TRANSIENT, "at RCPT"),
    (K.MX, b"RCPT", b"452 4.3.1 No space\r\n", Is.TRANSIENT, "at RCPT"),
    (K.MX, b"RCPT", b"451 4.3.0 Temporary lookup failure\r\n", Is.TRANSIENT, "at RCPT"),
    (K.SUBMISSION, b"AUTH", b"535 5.7.8 Wrong\r\n", Is.LOGIN, "535 5.7.8 Wrong at AUTH"),
    (K.SUBMISSION, b"AUTH", b"454 4.7.0 Later\r\n", Is.TRANSIENT, "at AUTH"),
    (K.SUBMISSION, b"AUTH", b"503 5.5.1 What?\r\n", Is.PERMANENT, "at AUTH"),
    (K.SUBMISSION, b"AUTH", b"334 \r\n", Is.PROTOCOL, "at AUTH"),
    (K.IMAPS, b"", b"* BYE Too many connections\r\n", Is.TRANSIENT, "Too many connections at greeting"),
    (K.IMAPS, b"", b"* PREAUTH Come in\r\n", Is.PROTOCOL, "at greeting"),
    (K.IMAPS, b"A1 LOGIN", b"A1 NO [AUTHENTICATIONFAILED] No.\r\n", Is.LOGIN, "NO [AUTHENTICATIONFAILED] No. at LOGIN"),
    (K.IMAPS, b"A1 LOGIN", b"A1 NO No.\r\n", Is.LOGIN, "at LOGIN"),
    (K.IMAPS, b"A1 LOGIN", b"A1 NO [UNAVAILABLE] Later.\r\n", Is.TRANSIENT, "at LOGIN"),
    (K.IMAPS, b"A1 LOGIN", b"A1 BAD What?\r\n", Is.PERMANENT, "BAD What? at LOGIN"),
    (K.IMAPS, b"A1 LOGIN", b"A2 OK Yes\r\n", Is.PROTOCOL, "at LOGIN"),
    (K.IMAPS, b"A2 SELECT", b"A2 NO [NONEXISTENT] Gone\r\n", Is.PERMANENT, "at SELECT"),
    (K.IMAPS, b"A2 SELECT", b"A2 OK But no count\r\n", Is.PROTOCOL, "at SELECT"),
    (K.IMAPS, b"A3 FETCH", b"* 1 FETCH (X {999999999}\r\n", Is.PROTOCOL, "a literal of 999999999 octets at FETCH"),
    (K.IMAP, b"A1 STARTTLS", b"A1 NO Not now\r\n", Is.TLS, "at STARTTLS"),
    (K.POP3S, b"", b"-ERR No\r\n", Is.PERMANENT, "at greeting"),
    (K.POP3S, b"", b"-ERR [SYS/TEMP] Later\r\n", Is.TRANSIENT, "at greeting"),
    (K.POP3S, b"PASS", b"-ERR [AUTH] No\r\n", Is.LOGIN, "-ERR [AUTH] No at PASS"),
    (K.POP3S, b"PASS", b"-ERR [IN-USE] Locked\r\n", Is.TRANSIENT, "at PASS"),
    (K.POP3S, b"STAT", b"-ERR Corrupt\r\n", Is.PERMANENT, "at STAT"),
    (K.POP3S, b"STAT", b"+OK many\r\n", Is.PROTOCOL, "at STAT"),
    (K.SIEVE, b"", b'BYE "Too many"\r\n', Is.TRANSIENT, "at greeting"),
    (K.SIEVE, b"", b'NO "No"\r\n', Is.PERMANENT, "at greeting"),
    (K.SIEVE, b"", b'"VERSION" "1.0"\r\nOK\r\n', Is.PROTOCOL, "no capability SIEVE"),
    (K.SIEVE, b"STARTTLS", b'NO "No"\r\n', Is.TLS, "at STARTTLS"),
    (K.SIEVE, b"AUTH", b'NO "Authentication failed."\r\n', Is.LOGIN, "Authentication failed. \" at AUTHENTICATE"),
    (K.SIEVE, b"AUTH", b'NO (TRYLATER) "Later"\r\n', Is.TRANSIENT, "at AUTHENTICATE"),
    (K.SIEVE, b"AUTH", b"NO {6}\r\nBroken\r\n", Is.LOGIN, "Broken at AUTHENTICATE"),
    (K.HTTPS, b"GET", b"HTTP/1.1 503 Busy\r\n\r\n", Is.TRANSIENT, "status 503 at GET"),
    (K.HTTPS, b"GET", b"HTTP/1.1 500 Oh\r\n\r\n", Is.PERMANENT, "status 500"),
    (K.HTTPS, b"GET", b"HTTP/1.1 404 No\r\n\r\n", Is.CONTENT, "status 404"),
    (K.HTTPS, b"GET", b"HTTP/1.1 302 There\r\nLocation: /x\r\n\r\n", Is.CONTENT, "status 302"),
    (K.HTTPS, b"GET", b"HTTP/2 200\r\n\r\n", Is.PROTOCOL, "at GET"),
    (K.HTTPS, b"GET", b"HTTP/1.1 200 OK\r\nno field\r\n\r\n", Is.PROTOCOL, "no field at GET"),
    (K.HTTPS, b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Is.PROTOCOL, "content-length -1"),
    (K.HTTPS, b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Is.CONTENT, "not in the body (3 octets)"),
    (K.HTTPS, b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Is.CONTENT, "not in the body (0 octets)"),
    (K.HTTPS, b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", Is.PROTOCOL, "gzip at body"),
    (K.HTTPS, b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n", Is.PROTOCOL, "not a chunk: no"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "command", "answer", "outcome", "words"), ANSWERS)
async def test_answers_are_told_apart(
    visit: Visit, kind: CheckKind, command: bytes, answer: bytes, outcome: Outcome, words: str
) -> None:
    steps = with_answer(DIALOGS[kind], command, answer) if command else [Step(b"", answer)]
    seen = await visit(kind, steps)
    assert seen.outcome is outcome, seen
    assert words.replace(' "', '"') in seen.detail.replace(' "', '"')


GREYLISTED = (
    b"450 4.2.0 Greylisted\r\n",
    b"451 4.7.1 Try again later\r\n",
    b"450 4.3.2 Service unavailable\r\n",
    b"450 Later\r\n",
)


@pytest.mark.parametrize("answer", GREYLISTED)
async def test_case_15_greylisting_is_no_outage(visit: Visit, answer: bytes) -> None:
    steps = list(DIALOGS[K.MX])
    steps[5] = Step(b"RCPT", answer)
    seen = await visit(K.MX, steps)
    assert seen.outcome is Is.OK_GREYLISTED
    assert seen.detail == answer.decode().strip() + " at RCPT"


NOT_OFFERED = [
    (K.MX, 1, Step(b"EHLO", b"250 mail.example.com\r\n"), Is.TLS),
    (K.SUBMISSION, 1, Step(b"EHLO", b"250 mail.example.com\r\n"), Is.TLS),
    (K.SUBMISSION, 3, Step(b"EHLO", b"250-mail.example.com\r\n250 AUTH GSSAPI\r\n"), Is.CONTENT),
    (K.IMAP, 0, Step(b"", b"* OK [CAPABILITY IMAP4rev1] Ready\r\n"), Is.TLS),
    (K.SIEVE, 0, Step(b"", b'"SIEVE" "reject"\r\n"SASL" "PLAIN"\r\nOK\r\n'), Is.TLS),
    (K.SIEVE, 2, Step(b"", b'"SIEVE" "reject"\r\n"SASL" "GSSAPI"\r\nOK\r\n'), Is.CONTENT),
]


@pytest.mark.parametrize(("kind", "at", "step", "outcome"), NOT_OFFERED)
async def test_what_is_not_offered_is_not_tried(
    visit: Visit, kind: CheckKind, at: int, step: Step, outcome: Outcome
) -> None:
    seen = await visit(kind, [*DIALOGS[kind][:at], step])
    assert seen.outcome is outcome
    assert "not offered" in seen.detail


async def test_imap_without_capabilities_in_the_greeting_is_asked_for_them(visit: Visit) -> None:
    mailbox = [
        Step(step.hear.replace(b"A%d" % n, b"A%d" % (n + 1)), step.say.replace(b"A%d" % n, b"A%d" % (n + 1)))
        for n, step in enumerate(DIALOGS[K.IMAP][2:], 2)
    ]
    steps = [
        Step(b"", b"* OK Ready\r\n"),
        Step(b"A1 CAPABILITY", b"* CAPABILITY IMAP4rev1 STARTTLS\r\nA1 OK Done\r\n"),
        Step(b"A2 STARTTLS", b"A2 OK Begin\r\n", tls=True),
        *mailbox,
    ]
    assert (await visit(K.IMAP, steps)).outcome is Is.OK


async def test_an_empty_mailbox_is_a_mailbox(visit: Visit) -> None:
    steps = list(DIALOGS[K.IMAPS])
    steps[2:] = [
        Step(b"A2 SELECT", b"* 0 EXISTS\r\nA2 OK Selected\r\n"),
        Step(b"A3 LOGOUT", b"* BYE\r\nA3 OK\r\n"),
    ]
    seen = await visit(K.IMAPS, steps)
    assert (seen.outcome, seen.facts["messages"]) == (Is.OK, 0)


async def test_a_server_that_says_why_it_goes_is_heard(visit: Visit) -> None:
    async def goes(link: Link, step: Step) -> None:
        await link.say(b"* BYE Internal error occurred\r\n")
        link.writer.close()

    seen = await visit(K.IMAPS, DIALOGS[K.IMAPS], {2: goes})
    assert (seen.outcome, seen.detail) == (Is.TRANSIENT, "* BYE Internal error occurred at SELECT")


async def test_pop3_by_auth_plain(visit: Visit) -> None:
    steps = list(DIALOGS[K.POP3S])
    steps[1:3] = [Step(b"AUTH PLAIN AHByb2JlQGV4YW1wbGUuY29tAGtWNC1tYXJrZWQtelE4dw==", b"+OK\r\n")]
    assert (await visit(K.POP3S, steps, auth="plain")).outcome is Is.OK


async def test_mx_without_starttls_where_none_is_wanted(visit: Visit) -> None:
    steps = [*DIALOGS[K.MX][:2], *DIALOGS[K.MX][4:]]
    seen = await visit(K.MX, steps, starttls="no")
    assert (seen.outcome, "tls" in seen.phases) == (Is.OK, False)


BODIES = [
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nSign\r\n4;x=1\r\n in!\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwell, Sign in",
    b"HTTP/1.1 103 Early\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:  8 \r\n\r\nSign in!",
    b"HTTP/1.0 200\r\n\r\nSign in",
    b"HTTP/1.1 200 OK\r\nContent-Length: 900000000\r\n\r\nSign in",
]


@pytest.mark.parametrize("answer", BODIES)
async def test_bodies_of_every_kind(visit: Visit, answer: bytes) -> None:
    async def say_and_end(link: Link, step: Step) -> None:
        while await link.reader.readline() != b"\r\n":
            pass
        await link.drip(answer)
        link.writer.close()

    assert (await visit(K.HTTPS, DIALOGS[K.HTTPS], {0: say_and_end})).outcome is Is.OK


async def test_an_endless_body_is_read_up_to_a_bound(visit: Visit) -> None:
    async def on_and_on(link: Link, step: Step) -> None:
        await link.say(b"HTTP/1.1 200 OK\r\n\r\n")
        await link.for_ever(b"nothing of it. ")

    seen = await visit(K.HTTPS, DIALOGS[K.HTTPS], {0: on_and_on})
    assert (seen.outcome, seen.detail) == (Is.CONTENT, "the text is not in the body (524288 octets) at body")


async def test_another_status_where_it_is_expected(visit: Visit) -> None:
    steps = [Step(b"GET /mail", b"HTTP/1.1 401 Who?\r\nContent-Length: 7\r\n\r\nSign in")]
    assert (await visit(K.HTTPS, steps, status="200, 401")).outcome is Is.OK


async def test_a_body_that_ends_early_is_lost(visit: Visit) -> None:
    async def short(link: Link, step: Step) -> None:
        await link.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        link.writer.close()

    assert (await visit(K.HTTPS, DIALOGS[K.HTTPS], {0: short})).outcome is Is.LOST
