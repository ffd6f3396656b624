"""One fuzz target per byte parser: octets in, AssertionError (or any other escape) if an invariant is broken.

Each target first states its invariant. To all of them applies: nothing escapes but the declared exceptions, and the
result does not depend on where the octets were cut. `run.py TARGET` fuzzes one; `test_fuzz.py` replays the corpus.
"""

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from session_target import check_session

from smartmail.core import address, content, dovecot, esmtp, proxy, sasl, xclient
from smartmail.core.reply import Reply, ReplyError, ReplyParser

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}

ALL_EXTENSIONS = frozenset({"SIZE", "8BITMIME", "BINARYMIME", "SMTPUTF8", "DSN", "AUTH", "REQUIRETLS"})
ATTRIBUTES = frozenset({"NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT", "IDENT", "SOURCE"})
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
COMMAND = re.compile(rb"(?:(?:XCLIENT|XFORWARD)(?: [A-Z]+=[!-~]+)+\r\n)+")
BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")

Result = TypeVar("Result")


def target(function: Target) -> Target:
    """Register a target under its name."""
    TARGETS[function.__name__] = function
    return function


def cuts(data: bytes) -> Iterable[list[bytes]]:
    """The octets in one piece, one by one, and in uneven pieces that depend on them."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    step = 2 + sum(data[:4]) % 13
    yield [data[at : at + step] for at in range(0, len(data), step)]


def same(results: list[Result]) -> Result:
    """The one result there is."""
    assert all(result == results[0] for result in results), results
    return results[0]


@target
def path(data: bytes) -> None:
    """Accepted means: what goes upstream reads back as the same mailbox, is clean, and has one key that is stable.
    The plain case gives what the whole grammar gives."""
    for sender in (True, False):
        for utf8 in (True, False):
            outcomes: list[object] = []
            for parse in (address.parse_path, address._parse_any):
                try:
                    outcomes.append(parse(data, sender=sender, utf8=utf8))
                except address.AddressError as error:
                    assert error.reply.code == 553
                    outcomes.append(error.reply)
            result = same(outcomes)
            if not isinstance(result, tuple) or result[0] is None:
                continue
            mailbox, rest = result
            wire = mailbox.wire.encode()
            assert data.endswith(wire + b">" + rest)
            assert not CONTROL.search(mailbox.wire) and not CONTROL.search(mailbox.key)
            assert utf8 or (wire.isascii() and mailbox.key.isascii())
            assert mailbox.domain_key.isascii()
            assert address.parse_path(b"<%s>" % wire, sender=sender, utf8=utf8) == (mailbox, b"")


@target
def spelling(data: bytes) -> None:
    """An operator's text becomes a key that is its own normal form, or an AddressError."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        domain = address.normalise_domain(text)
    except address.AddressError:
        pass
    else:
        assert domain.isascii() and address.normalise_domain(domain) == domain
    try:
        key = address.normalise(text)
    except address.AddressError:
        return
    assert not CONTROL.search(key)
    local = key.rpartition("@")[0] or key
    # Case folding may make a local part longer than an address may have, or bring a routing character to light.
    if len(local.encode()) <= address.MAX_LOCAL and len(key.encode()) <= address.MAX_PATH - 2:
        assert address.normalise(key) == key


@target
def parameters(data: bytes) -> None:
    """What goes upstream is ASCII, one line, and reads back as what was read. Nothing that was not offered is taken."""
    for parse in (esmtp.parse_mail_parameters, esmtp.parse_rcpt_parameters):
        for offered in (ALL_EXTENSIONS, frozenset({"SIZE", "DSN"})):
            try:
                fields = parse(data, offered)
            except esmtp.ParameterError as error:
                assert error.reply.code in (501, 555)
                continue
            wire = fields.wire
            assert wire.isascii() and not CONTROL.search(wire.decode())
            assert wire == b"" or wire[:1] == b" "
            again = parse(wire, offered)
            assert again.wire == wire
            assert again == (fields._replace(auth="") if isinstance(fields, esmtp.MailParameters) else fields)
            assert "SMTPUTF8" in offered or b"SMTPUTF8" not in wire


@target
def xtext(data: bytes) -> None:
    """Decoded text has no control character and encodes to xtext that decodes to it; and the other way round."""
    try:
        text = esmtp.decode_xtext(data)
    except esmtp.ParameterError:
        text = data.decode("utf-8", "surrogateescape")
        try:
            assert esmtp.decode_xtext(esmtp.encode_xtext(text)) == text
        except esmtp.ParameterError:
            assert CONTROL.search(text) or not text.isprintable()
        return
    assert not CONTROL.search(text)
    encoded = esmtp.encode_xtext(text)
    assert re.fullmatch(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*", encoded)
    assert esmtp.decode_xtext(encoded) == text


@target
def identity(data: bytes) -> None:
    """Whatever is known of a client, XCLIENT and XFORWARD are whole lines of at most 512 octets that set each offered
    attribute once."""
    texts = [part.decode("utf-8", "surrogateescape") for part in (data + b"\xff" * 6).split(b"\xff")[:6]]
    name, client, proto, helo, login, destination = texts
    known = xclient.Identity(name, client, len(data), proto, helo, login, destination, len(data) - 9)
    for build in (xclient.xclient_command, xclient.xforward_command):
        command = build(known, ATTRIBUTES)
        assert COMMAND.fullmatch(command), command
        assert all(len(line) <= xclient.MAX_LINE for line in command.splitlines(keepends=True))
        names = re.findall(rb" ([A-Z]+)=", command)
        assert len(names) == len(set(names)) >= 7 and names[-1] == b"ADDR"


@target
def proxy_header(data: bytes) -> None:
    """A header is accepted with exactly the octets behind it left over, or refused, or more octets are needed."""

    def run(pieces: list[bytes]) -> proxy.ProxyHeader | str | None:
        parser = proxy.ProxyParser()
        for index, piece in enumerate(pieces):
            try:
                header = parser.feed(piece)
            except proxy.ProxyError:
                return "refused"
            if header is not None:
                return header._replace(rest=header.rest + b"".join(pieces[index + 1 :]))
        return None

    header = same([run(pieces) for pieces in cuts(data)])
    if isinstance(header, proxy.ProxyHeader):
        assert data.endswith(header.rest) and len(data) - len(header.rest) <= proxy.MAX_V2
        assert (header.source is None) == (header.destination is None)
        assert header.source is None or 0 <= header.source[1] <= 65535
    else:
        assert header == "refused" or len(data) < proxy.MAX_V2


@target
def dovecot_lines(data: bytes) -> None:
    """Each line is a typed one or ends the connection; no answer is heard before the handshake is done; no login
    holds a control character."""

    def run(pieces: list[bytes]) -> tuple[list[dovecot.Line], bool]:
        parser = dovecot.AuthLineParser()
        lines: list[dovecot.Line] = []
        for piece in pieces:
            try:
                lines += parser.feed(piece)
            except dovecot.DovecotError as error:
                return [*lines, *error.lines], True
        return lines, False

    lines, _ = same([run(pieces) for pieces in cuts(data)])
    ready = False
    for index, line in enumerate(lines):
        assert (index == 0) == isinstance(line, dovecot.Version)
        assert ready or not isinstance(line, (dovecot.Ok, dovecot.Fail, dovecot.Cont))
        ready = ready or isinstance(line, dovecot.Done)
        if isinstance(line, dovecot.Ok):
            assert not any(CONTROL.search(text) for text in (line.user, *line.parameters.values()))


@target
def dovecot_request(data: bytes) -> None:
    """Whatever a client sends, AUTH is one line whose parameters are those that were meant, with resp last."""
    user, _, initial = data.partition(b"\xff")
    try:
        line = dovecot.encode_auth(
            1, "PLAIN", [("service", "smtp"), ("session", user.decode("utf-8", "replace"))], initial
        )
    except dovecot.DovecotError:
        return
    assert line.count(b"\n") == 1 and line.endswith(b"\n") and b"\0" not in line and b"\r" not in line
    words = line[:-1].split(b"\t")
    assert words[:4] == [b"AUTH", b"1", b"PLAIN", b"service=smtp"] and words[-1].startswith(b"resp=")
    assert len(words) == 6


@target
def upstream_reply(data: bytes) -> None:
    """Replies are those of the octets alone; what is read renders to lines that read back as the same reply."""

    def run(pieces: list[bytes]) -> tuple[list[Reply], bool, bool]:
        parser = ReplyParser()
        replies: list[Reply] = []
        for piece in pieces:
            try:
                replies += parser.feed(piece)
            except ReplyError as error:
                return [*replies, *error.replies], True, True
        return replies, False, parser.idle

    replies, failed, idle = same([run(pieces) for pieces in cuts(data)])
    assert failed or idle == (not data or (data.endswith(b"\r\n") and data.split(b"\r\n")[-2][3:4] != b"-"))
    for reply in replies:
        wire = reply.render()
        assert not BARE.search(wire) and 200 <= reply.code <= 599
        assert ReplyParser().feed(wire) == [reply] or len(wire) > 4096


@target
def sasl_response(data: bytes) -> None:
    """PLAIN and LOGIN give credentials without a control character in the login, a challenge, or Malformed."""
    login = sasl.Login()
    for result in (sasl.Plain().step(data), login.step(data), login.step(data)):
        if isinstance(result, sasl.Credentials):
            assert result.login and not CONTROL.search(result.login)
        else:
            assert isinstance(result, (sasl.Challenge, sasl.Malformed))
            if isinstance(result, sasl.Malformed):
                break


@target
def data_content(data: bytes) -> None:
    """Only CRLF.CRLF ends DATA. What passes is what came, without a bare CR, bare LF or NUL, and nothing behind the
    end; normalising passes each other octet."""
    framed = b"\r\n" + data
    end = framed.find(b"\r\n.\r\n")
    expected_end = end + 3 if end >= 0 else -1

    def run(pieces: list[bytes], *, normalising: bool) -> tuple[bytes, int, bool]:
        scanner = content.DataScanner(normalising=normalising)
        passed, eaten = b"", 0
        for piece in pieces:
            octets, following = scanner.feed(piece)
            assert scanner.fault is None or not octets
            passed += octets
            eaten += len(piece)
            if following >= 0:
                return passed, eaten - following, scanner.fault is not None
        return passed, -1, scanner.fault is not None

    strict = [run(pieces, normalising=False) for pieces in cuts(data)]
    for passed, ended, faulty in strict:
        assert ended == expected_end
        assert data.startswith(passed) and not BARE.search(passed)
        if ended >= 0:
            assert faulty == bool(BARE.search(data[:ended]))
            assert faulty or passed == data[:ended]
    same([faulty for _, _, faulty in strict])
    passed, ended, faulty = same([run(pieces, normalising=True) for pieces in cuts(data)])
    assert ended == expected_end and not faulty and not BARE.search(passed)
    if ended >= 0:
        assert passed == BARE.sub(b" ", data[:ended])


@target
def chunk_content(data: bytes) -> None:
    """Chunks are refused if, and only if, all of them together hold a bare CR, bare LF or NUL."""

    def run(pieces: list[bytes]) -> bool:
        scanner = content.ChunkScanner()
        for index, piece in enumerate(pieces):
            scanner.feed(piece, ends_message=index == len(pieces) - 1)
            if scanner.fault is not None:
                return True
        return False

    if data:
        assert same([run(pieces) for pieces in cuts(data)]) == bool(BARE.search(data))


@target
def session(data: bytes) -> None:
    """No command takes effect where RFC 5321 has no place for it, no octet behind the end of a message is content,
    and a conversation is the same line by line and octet by octet. Octets kept are bounded."""
    check_session(data)
