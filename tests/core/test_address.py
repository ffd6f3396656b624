"""Mail addresses: what is one, what is none, and which spellings are the same mailbox."""

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from smartmail.core.address import (
    MAX_LOCAL,
    AddressError,
    Mailbox,
    normalise,
    normalise_domain,
    parse_path,
)

ATEXT = string.ascii_letters + string.digits + "!#$%&'*+-/=?^_`{|}~"
ROUTELESS = "".join(char for char in ATEXT if char not in "%!")

LABEL_63 = "a" * 63
# With "<a@" and ">" the longest path there may be: 256 octets.
LONG_DOMAIN = ".".join([LABEL_63, LABEL_63, LABEL_63, "b" * 56, "org"])


def recipient(text: str | bytes) -> Mailbox:
    raw = text.encode() if isinstance(text, str) else text
    mailbox, rest = parse_path(raw, sender=False, utf8=True)
    assert mailbox is not None and rest == b""
    return mailbox


def refusal(text: str | bytes, *, sender: bool = False, utf8: bool = True) -> str:
    raw = text.encode() if isinstance(text, str) else text
    with pytest.raises(AddressError) as caught:
        parse_path(raw, sender=sender, utf8=utf8)
    return f"{caught.value.reply.code} {caught.value.reply.enhanced}"


@pytest.mark.parametrize(
    ("path", "wire", "key"),
    [
        ("<jane@example.com>", "jane@example.com", "jane@example.com"),
        ("<Jane.Doe+Tag@Example.COM>", "Jane.Doe+Tag@Example.COM", "jane.doe+tag@example.com"),
        ("   <jane@example.com>", "jane@example.com", "jane@example.com"),
        ("<#$&'*+-/=?^_`{|}~@example.com>", "#$&'*+-/=?^_`{|}~@example.com", "#$&'*+-/=?^_`{|}~@example.com"),
        ("<a@b>", "a@b", "a@b"),
        ("<a@localhost>", "a@localhost", "a@localhost"),
        ("<a@3com.4u>", "a@3com.4u", "a@3com.4u"),
        ("<a@x--y.example>", "a@x--y.example", "a@x--y.example"),
        ("<a@XN--BCHER-KVA.example>", "a@XN--BCHER-KVA.example", "a@xn--bcher-kva.example"),
        (f"<{'l' * MAX_LOCAL}@example.com>", "l" * 64 + "@example.com", "l" * 64 + "@example.com"),
        (f"<a@{LABEL_63}.org>", f"a@{LABEL_63}.org", f"a@{LABEL_63}.org"),
        (f"<a@{LONG_DOMAIN}>", f"a@{LONG_DOMAIN}", f"a@{LONG_DOMAIN}"),
    ],
)
def test_plain_mailboxes(path: str, wire: str, key: str) -> None:
    mailbox = recipient(path)
    assert (mailbox.wire, mailbox.key) == (wire, key)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ('<"jane"@example.com>', "jane@example.com"),
        ('<"Jane.Doe"@example.com>', "jane.doe@example.com"),
        ('<"j\\a\\ne"@example.com>', "jane@example.com"),
        ('<"jane doe"@example.com>', '"jane doe"@example.com'),
        ('<"jane\\ doe"@example.com>', '"jane doe"@example.com'),
        ('<"jane..doe"@example.com>', '"jane..doe"@example.com'),
        ('<".jane"@example.com>', '".jane"@example.com'),
        ('<"a\\"b"@example.com>', '"a\\"b"@example.com'),
        ('<"a\\\\b"@example.com>', '"a\\\\b"@example.com'),
        ('<"<a>"@example.com>', '"<a>"@example.com'),
        ('<""@example.com>', '""@example.com'),
    ],
)
def test_needless_quoting_is_taken_off_the_key_but_not_off_the_wire(path: str, key: str) -> None:
    mailbox = recipient(path)
    assert mailbox.wire == path[1:-1]
    assert mailbox.key == key


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("<a@[192.0.2.1]>", "a@[192.0.2.1]"),
        ("<a@[IPv6:2001:DB8:0:0::1]>", "a@[ipv6:2001:db8::1]"),
        ("<a@[ipv6:::1]>", "a@[ipv6:::1]"),
        ("<a@[IPv6:::ffff:192.0.2.1]>", "a@[192.0.2.1]"),
    ],
)
def test_address_literals(path: str, key: str) -> None:
    mailbox = recipient(path)
    assert mailbox.wire == path[1:-1]
    assert mailbox.key == key


@pytest.mark.parametrize(
    "domain",
    [
        "[192.0.2.256]",
        "[192.0.2]",
        "[192.0.02.1]",
        "[2001:db8::1]",
        "[IPv6:192.0.2.1]",
        "[IPv6:2001:db8::1::2]",
        "[IPv6:fe80::1%eth0]",
        "[IPv6:12345::]",
        "[tag:content]",
        "[]",
        "[192.0.2.1",
        "192.0.2.1]",
    ],
)
def test_what_is_no_address_literal(domain: str) -> None:
    assert refusal(f"<a@{domain}>") == "553 5.1.3"


def test_a_source_route_is_checked_and_stripped() -> None:
    mailbox = recipient("<@hosta.example,@jkl.example:userc@d.bar.example>")
    assert mailbox == Mailbox("userc", "d.bar.example")
    assert mailbox.wire == "userc@d.bar.example"
    assert refusal("<@-bad-.example:userc@d.bar.example>") == "553 5.1.3"
    assert refusal("<@a.example,b.example:userc@d.example>") == "553 5.1.3"
    assert refusal("<@a.example userc@d.example>") == "553 5.1.3"


def test_the_null_path_is_for_senders_only() -> None:
    assert parse_path(b"<> SIZE=1", sender=True, utf8=False) == (None, b" SIZE=1")
    assert parse_path(b" <>", sender=True, utf8=False) == (None, b"")
    assert refusal("<>") == "553 5.1.3"


@pytest.mark.parametrize("spelling", ["Postmaster", "postmaster", "POSTMASTER"])
def test_postmaster_needs_no_domain_as_a_recipient(spelling: str) -> None:
    mailbox = recipient(f"<{spelling}>")
    assert mailbox == Mailbox(spelling, "")
    assert (mailbox.wire, mailbox.key) == (spelling, "postmaster")
    assert refusal(f"<{spelling}>", sender=True) == "553 5.1.7"


@pytest.mark.parametrize("rest", [b"", b" SIZE=1", b" ", b"x", b">", b"\xff\x00"])
def test_what_follows_the_path_is_handed_back_unread(rest: bytes) -> None:
    for path in (b"<jane@example.com>", b'<"jane doe"@example.com>', "<jürg@bücher.example>".encode()):
        mailbox, left = parse_path(path + rest, sender=True, utf8=True)
        assert mailbox is not None
        assert left == rest


@pytest.mark.parametrize(
    "path",
    [
        "",
        " ",
        "jane@example.com",
        "<jane@example.com",
        "jane@example.com>",
        "<<jane@example.com>>",
        "<jane>",
        "<@example.com>",
        "<jane@>",
        "<jane@@example.com>",
        "<jane@a@b.example>",
        "<.jane@example.com>",
        "<jane.@example.com>",
        "<jane..doe@example.com>",
        "<jane doe@example.com>",
        "< jane@example.com>",
        "<jane@example.com >",
        "<jane @example.com>",
        "<jane@ example.com>",
        "<(comment)jane@example.com>",
        "<jane@example.com(comment)>",
        "Jane <jane@example.com>",
        "\t<jane@example.com>",
        "<jane@example.com.>",
        "<jane@.example.com>",
        "<jane@example..com>",
        "<jane@-example.com>",
        "<jane@example-.com>",
        "<jane@exa_mple.com>",
        "<jane@exa/mple.com>",
        '<"jane@example.com>',
        '<jane"@example.com>',
        '<"ja"ne@example.com>',
        '<ja"ne"@example.com>',
        '<"ja"ne"@example.com>',
        '<"jane\\"@example.com>',
        '<"jane"."doe"@example.com>',
        "<ja\\ne@example.com>",
        "<jane;doe@example.com>",
        "<jane,doe@example.com>",
        "<list:jane@example.com;>",
    ],
)
def test_what_is_no_path(path: str) -> None:
    assert refusal(path) == "553 5.1.3"
    assert refusal(path, sender=True) == "553 5.1.7"


@pytest.mark.parametrize(
    "path",
    [
        f"<{'l' * 65}@example.com>",
        f'<"{"l" * 63}"@example.com>',
        f"<a@{'b' * 64}.org>",
        f"<a@{'.'.join(['b' * 60] * 4)}.example.org>",
        f"<a@{LONG_DOMAIN}x>",
        f"<@{'.'.join(['b' * 60] * 3)}.org,@{'c' * 60}.example:a@example.org>",
        f"<{'ü' * 33}@example.org>",
        "<" + "a" * 100_000 + "@example.org>",
        '<"' + "a" * 100_000 + '"@example.org>',
        "<a@" + "a." * 50_000 + "org>",
        "<a@" + "a-" * 50_000 + ">",
        "<" + "@a," * 50_000 + ":a@example.org>",
    ],
)
def test_oversize_is_refused(path: str) -> None:
    assert refusal(path) == "553 5.1.3"
    assert refusal(path, sender=True) == "553 5.1.7"


class TestAttacks:
    """Each by its name."""

    @pytest.mark.parametrize("control", [chr(code) for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))])
    @pytest.mark.parametrize(
        "path", ["<ja{}ne@example.com>", '<"ja{}ne"@example.com>', '<"ja\\{}ne"@example.com>', "<jane@exa{}mple.com>"]
    )
    def test_control_character_in_an_address(self, path: str, control: str) -> None:
        assert refusal(path.format(control)) == "553 5.1.3"

    def test_crlf_smuggles_no_second_command(self) -> None:
        assert refusal(b"<jane@example.com\r\nRCPT TO:<eve@example.org>") == "553 5.1.3"
        assert refusal(b'<"jane\r\nDATA\r\n"@example.com>') == "553 5.1.3"

    def test_a_parameter_hidden_in_a_quoted_local_part_stays_in_it(self) -> None:
        mailbox, rest = parse_path(b'<"a> SIZE=1 <b"@example.com> SIZE=2', sender=True, utf8=False)
        assert mailbox is not None
        assert (mailbox.wire, rest) == ('"a> SIZE=1 <b"@example.com', b" SIZE=2")

    @pytest.mark.parametrize(
        "path",
        [
            '<"victim@elsewhere.example"@example.com>',
            "<victim%elsewhere.example@example.com>",
            "<elsewhere.example!victim@example.com>",
            '<"victim\\@elsewhere.example"@example.com>',
            '<"elsewhere.example!victim"@example.com>',
        ],
    )
    def test_sender_specified_routing_past_the_recipient_domain_limit(self, path: str) -> None:
        assert refusal(path) == "553 5.1.3"

    def test_a_sender_may_have_such_a_local_part(self) -> None:
        mailbox, _ = parse_path(b"<bounce%list!x@example.com>", sender=True, utf8=False)
        assert mailbox is not None and mailbox.key == "bounce%list!x@example.com"

    @pytest.mark.parametrize("domain", ["192.0.2.1", "1", "example.123", "0.0.0.0"])
    def test_an_address_dressed_as_a_domain(self, domain: str) -> None:
        assert refusal(f"<a@{domain}>") == "553 5.1.3"

    @pytest.mark.parametrize(
        "domain",
        [
            "\uff45xample.com",  # fullwidth: compatibility mapping makes it example.com
            "example。com",  # ideographic full stop
            "exam\u00adple.com",  # soft hyphen
            "exam\u200bple.com",  # zero width space
            "exam\u200dple.com",  # zero width joiner
            "exam\u034fple.com",  # combining grapheme joiner, ignored by IDNA
            "exa\ufe0fmple.com",  # variation selector
            "\u0301example.com",  # begins with a mark
            "ⅷ.example",
            "①.example",
            "☃.example",
            "ﬁ.example",
            "a\u202eb.example",
            "xn--ü.example",
            "ab--ü.example",
            "-ü.example",
            "ü-.example",
            "ü..example",
            "ü" * 60 + ".example",
            "\uff21.example",
        ],
    )
    def test_a_domain_that_others_would_map_to_another(self, domain: str) -> None:
        assert refusal(f"<a@{domain}>") == "553 5.1.3"

    @pytest.mark.parametrize("unseen", "\u00a0\u00ad\u200b\u200e\u2028\u2029\u202e\u2060\u2066\ufeff\U000e0041")
    def test_invisible_characters_in_a_local_part(self, unseen: str) -> None:
        assert refusal(f"<ja{unseen}ne@example.com>") == "553 5.1.3"

    @pytest.mark.parametrize(
        "raw", [b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80"]
    )
    def test_invalid_utf8(self, raw: bytes) -> None:
        assert refusal(b"<ja" + raw + b"ne@example.com>") == "553 5.1.3"
        assert refusal(b"<jane@ex" + raw + b"ample.com>") == "553 5.1.3"

    def test_no_reply_repeats_what_was_sent(self) -> None:
        for path in (b"<canary", b"<canary%x@example.com>", "<canäry@example.com>".encode()):
            with pytest.raises(AddressError) as caught:
                parse_path(path, sender=False, utf8=False)
            assert "can" not in caught.value.reply.text
            assert "can" not in str(caught.value)


def test_utf8_needs_smtputf8() -> None:
    for path in ("<jürg@example.com>", "<a@bücher.example>", '<"j ü"@example.com>', "<@ü.example:a@example.com>"):
        assert refusal(path, sender=True, utf8=False) == "553 5.6.7"
        assert refusal(path, sender=False, utf8=False) == "553 5.6.7"


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("<Jürg@example.com>", "jürg@example.com"),
        ("<Ju\u0308rg@example.com>", "jürg@example.com"),
        ("<ΔΣ@example.com>", "δ\u03c3@example.com"),
        ("<δς@example.com>", "δ\u03c3@example.com"),
        ("<straße@example.com>", "strasse@example.com"),
        ("<\u212aelvin@example.com>", "kelvin@example.com"),
        ("<a\u037eb@example.com>", '"a;b"@example.com'),
        ("<用户@例子.广告>", "用户@xn--fsqu00a.xn--4rr70v"),
        ("<a@Bücher.example>", "a@xn--bcher-kva.example"),
        ("<a@BU\u0308CHER.example>", "a@xn--bcher-kva.example"),
        ("<a@straße.example>", "a@xn--strae-oqa.example"),
        ("<a@βόλος.example>", "a@xn--nxasmm1c.example"),
        ("<a@ΒΌΛΟΣ.example>", "a@xn--nxasmq6b.example"),
        ("<a@Россия.рф>", "a@xn--h1alffa9f.xn--p1ai"),
        ("<a@\u212a.example>", "a@k.example"),
        ('<"J ü"@bücher.example>', '"j ü"@xn--bcher-kva.example'),
    ],
)
def test_utf8_mailboxes_and_their_keys(path: str, key: str) -> None:
    mailbox = recipient(path)
    assert mailbox.wire == path[1:-1]
    assert mailbox.key == key


def test_a_u_label_and_its_a_label_are_one_key() -> None:
    assert recipient("<a@Bücher.example>").key == recipient("<A@xn--bcher-KVA.example>").key
    assert recipient("<a@bücher.example>").domain_key == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("spelling", "key"),
    [
        ("Jane@Example.com", "jane@example.com"),
        ("  jane@example.com\n", "jane@example.com"),
        ("jane@example.com.", "jane@example.com"),
        ("Jürg@Bücher.example", "jürg@xn--bcher-kva.example"),
        ("Postmaster", "postmaster"),
        ('"jane"@example.com', "jane@example.com"),
    ],
)
def test_an_operators_spelling(spelling: str, key: str) -> None:
    assert normalise(spelling) == key


@pytest.mark.parametrize(
    "spelling",
    ["", "jane", "jane@", "@example.com", "<jane@example.com>", "a@b> SIZE=1", "a@b..", "a b@c", "\ud800@b", "a@b\0"],
)
def test_an_operators_slip(spelling: str) -> None:
    with pytest.raises(AddressError):
        normalise(spelling)


def test_an_operators_domain() -> None:
    assert normalise_domain(" Bücher.Example. ") == "xn--bcher-kva.example"
    for slip in ("", ".", "a..b", "-a", "a b", "a@b", "[192.0.2.1]", "192.0.2.1", "\ud800", "x" * 64, "a." * 130):
        with pytest.raises(AddressError):
            normalise_domain(slip)


# Properties

dot_strings = st.lists(st.text(ROUTELESS, min_size=1, max_size=12), min_size=1, max_size=4).map(".".join)
quoted_strings = st.lists(
    st.sampled_from([chr(code) for code in range(32, 127) if chr(code) not in '"\\@%!'])
    | st.sampled_from(["\\" + chr(code) for code in range(32, 127) if chr(code) not in "@%!"]),
    max_size=30,
).map(lambda parts: f'"{"".join(parts)}"')
locals_ = (dot_strings | quoted_strings).filter(lambda local: len(local) <= MAX_LOCAL)
labels = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?", fullmatch=True)
domains = (
    st.lists(labels, min_size=1, max_size=5).map(".".join).filter(lambda domain: not domain.split(".")[-1].isdigit())
)
literals = st.ip_addresses(v=4).map("[{}]".format) | st.ip_addresses(v=6).map("[IPv6:{}]".format)
utf8_locals = st.text(min_size=1, max_size=20)


@given(locals_, domains | literals, st.binary(max_size=20))
def test_what_is_read_is_what_was_said(local: str, domain: str, rest: bytes) -> None:
    wire = f"{local}@{domain}"
    mailbox, left = parse_path(f"<{wire}>".encode() + rest, sender=False, utf8=False)
    assert mailbox == Mailbox(local, domain)
    assert mailbox.wire == wire
    assert left == rest


@given(locals_, domains | literals)
def test_the_wire_form_reads_back_to_the_same_mailbox_and_the_key_to_the_same_key(local: str, domain: str) -> None:
    mailbox = recipient(f"<{local}@{domain}>")
    assert recipient(f"<{mailbox.wire}>") == mailbox
    assume(len(mailbox.key.rpartition("@")[0]) <= MAX_LOCAL)
    assert normalise(mailbox.key) == mailbox.key
    assert recipient(f"<{mailbox.key}>").key == mailbox.key
    assert mailbox.key.rpartition("@")[2] == mailbox.domain_key


@given(dot_strings.filter(lambda local: len(local) <= 31), domains)
def test_quoting_and_case_do_not_make_another_mailbox(local: str, domain: str) -> None:
    plain = recipient(f"<{local}@{domain}>").key
    assert recipient(f'<"{local}"@{domain.upper()}>').key == plain
    pairs = "".join("\\" + char for char in local.upper())
    assert recipient(f'<"{pairs}"@{domain}>').key == plain


@given(utf8_locals, domains)
def test_any_text_is_a_clean_local_part_or_refused(local: str, domain: str) -> None:
    try:
        mailbox = recipient(f"<{local}@{domain}>".encode("utf-8", "surrogatepass"))
    except AddressError:
        return
    assert mailbox.wire == f"{local}@{domain}"
    assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in mailbox.wire + mailbox.key)
    assert " " not in mailbox.wire or local.startswith('"')


@given(st.text(min_size=1, max_size=12))
def test_a_domain_key_is_ascii_whatever_was_sent(label: str) -> None:
    try:
        key = normalise_domain(label)
    except AddressError:
        return
    assert key.isascii() and key == key.lower()
    assert normalise_domain(key) == key


@given(st.binary(max_size=80), st.booleans(), st.booleans())
def test_no_octets_raise_anything_else(text: bytes, sender: bool, utf8: bool) -> None:
    for raw in (text, b"<" + text + b">", b"<a@" + text + b">", b"<" + text + b"@example.com>"):
        try:
            mailbox, _ = parse_path(raw, sender=sender, utf8=utf8)
        except AddressError as error:
            assert error.reply.code == 553
        else:
            assert mailbox is None or mailbox.key
