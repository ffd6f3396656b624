"""A password is in no result, no log line and no exception, whatever the server does with what it heard."""

import base64
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from probe_peers import (
    DIALOGS,
    IMPLICIT,
    LOGIN,
    PASSWORD,
    Authority,
    Link,
    Pair,
    Step,
    check_of,
    context_of,
    dialog,
    make_secrets,
    peer,
)

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind
from smartmail.monitor.probes import ProbeFailure, Secret, SecretError, SecretSource, probe

WITH_LOGIN = (
    CheckKind.SUBMISSION,
    CheckKind.SMTPS,
    CheckKind.IMAPS,
    CheckKind.IMAP,
    CheckKind.POP3S,
    CheckKind.SIEVE,
)
LOGIN_STEPS = [
    (kind, index)
    for kind in WITH_LOGIN
    for index, step in enumerate(DIALOGS[kind])
    if any(word in step.hear for word in (b"AUTH", b"LOGIN", b"PASS"))
]


def decoded(line: bytes) -> bytes:
    """What a careless server logs: the token in clear."""
    try:
        return base64.b64decode(line.split()[-1].strip(b'"')).replace(b"\0", b" ")
    except ValueError:
        return line


SENT_BACK: dict[str, Callable[[bytes], bytes]] = {
    "as heard": lambda line: line,
    "decoded": decoded,
    "decoded and encoded": lambda line: base64.b64encode(decoded(line).split()[-1]),
    "in capitals": bytes.upper,
    "cut short": lambda line: line[:-9],
    "cut off in front": lambda line: line[-11:],
    "letter by letter": lambda line: line.replace(b"m", b"\x07m"),
    "twice": lambda line: line + line,
}
ANSWERS: dict[CheckKind, tuple[bytes, ...]] = {
    CheckKind.SUBMISSION: (b"535 5.7.8 no: %s", b"454 later %s", b"334 %s", b"what? %s", b"535-%s"),
    CheckKind.SMTPS: (b"535 5.7.8 no: %s", b"503 %s", b"%s", b"535 %s"),
    CheckKind.IMAPS: (b"A1 NO [AUTHENTICATIONFAILED] %s", b"A1 BAD %s", b"%s", b"+ %s", b"* BYE %s"),
    CheckKind.IMAP: (b"A2 NO %s", b"A2 BAD %s", b"A1 OK %s", b"* OK %s"),
    CheckKind.POP3S: (b"-ERR [AUTH] %s", b"%s", b"+ %s"),
    CheckKind.SIEVE: (b'NO "%s"', b"NO {9}\r\n%s", b'BYE "%s"', b"%s", b'"%s"'),
}


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that was ever put into a failure."""
    seen: list[str] = []
    make = ProbeFailure.__init__

    def noting(self: ProbeFailure, outcome: Outcome, detail: str) -> None:
        make(self, outcome, detail)
        seen.append(repr(self) + repr(self.args) + self.detail)

    monkeypatch.setattr(ProbeFailure, "__init__", noting)
    return seen


def assert_hidden(text: str) -> None:
    """No six letters of the password, as it is or as it is sent."""
    plain = base64.b64encode(f"\0{LOGIN}\0{PASSWORD}".encode()).decode()
    text = text.casefold()
    for form in (PASSWORD, base64.b64encode(PASSWORD.encode()).decode().rstrip("="), plain.rstrip("=")):
        pieces = {form.casefold()[at : at + 6] for at in range(len(form) - 5)}
        assert not [piece for piece in pieces if piece in text], text


@pytest.mark.parametrize("way", SENT_BACK)
@pytest.mark.parametrize(("kind", "at"), LOGIN_STEPS)
async def test_a_server_sends_the_password_back(
    authority: Authority,
    good: Pair,
    probe_secrets: SecretSource,
    failures: list[str],
    caplog: pytest.LogCaptureFixture,
    kind: CheckKind,
    at: int,
    way: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    for answer in ANSWERS[kind]:

        async def send_back(link: Link, step: Step, answer: bytes = answer) -> None:
            await link.say(answer % SENT_BACK[way](link.heard.strip()) + b"\r\n")
            link.writer.close()

        async with peer(dialog(DIALOGS[kind], {at: send_back}), good.server(), implicit=kind in IMPLICIT) as server:
            context = context_of(probe_secrets, authority.file)
            seen = await probe(check_of(kind, server.port), context)
        assert seen.outcome is not Outcome.OK
        assert seen.detail.isprintable()
        assert_hidden(repr(seen) + str(dict(seen.facts)) + repr(context))
    assert failures
    assert_hidden("\n".join(failures) + caplog.text + repr([record.__dict__ for record in caplog.records]))


@pytest.mark.parametrize("kind", WITH_LOGIN)
@pytest.mark.parametrize("fault", [KeyError, MemoryError, RuntimeError, ValueError, UnicodeError])
async def test_a_fault_of_our_own_holds_no_secret(
    authority: Authority,
    good: Pair,
    probe_secrets: SecretSource,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: CheckKind,
    fault: type[Exception],
) -> None:
    from smartmail.monitor.probes.conversation import Conversation

    send = Conversation.send

    def break_at_the_password(self: Conversation, data: bytes) -> None:
        if PASSWORD.encode() in data or PASSWORD.encode() in decoded(data):
            raise fault(f"while sending {PASSWORD}")
        send(self, data)

    monkeypatch.setattr(Conversation, "send", break_at_the_password)
    caplog.set_level(logging.DEBUG)
    async with peer(dialog(DIALOGS[kind]), good.server(), implicit=kind in IMPLICIT) as server:
        seen = await probe(check_of(kind, server.port), context_of(probe_secrets, authority.file))
    assert seen.outcome is Outcome.MONITOR_ERROR
    assert seen.detail.startswith(f"{fault.__name__} at ")
    assert_hidden(repr(seen) + caplog.text)


async def test_a_password_that_no_quoted_string_holds(authority: Authority, good: Pair, tmp_path: Path) -> None:
    secrets = make_secrets(tmp_path, password="pässwörd-ünd-mehr")
    token = base64.b64encode(f"\0{LOGIN}\0pässwörd-ünd-mehr".encode())
    steps = list(DIALOGS[CheckKind.IMAPS])
    steps[1] = Step(b"A1 AUTHENTICATE PLAIN " + token, b"A1 OK In\r\n")
    async with peer(dialog(steps), good.server(), implicit=True) as server:
        seen = await probe(check_of(CheckKind.IMAPS, server.port), context_of(secrets, authority.file))
    assert seen.outcome is Outcome.OK


async def test_quotes_and_backslashes_in_a_password(authority: Authority, good: Pair, tmp_path: Path) -> None:
    secrets = make_secrets(tmp_path, password='a"b\\c d')
    steps = list(DIALOGS[CheckKind.IMAPS])
    steps[1] = Step(b'A1 LOGIN "probe@example.com" "a\\"b\\\\c d"\r\n', b"A1 OK In\r\n")
    async with peer(dialog(steps), good.server(), implicit=True) as server:
        seen = await probe(check_of(CheckKind.IMAPS, server.port), context_of(secrets, authority.file))
    assert seen.outcome is Outcome.OK


async def test_a_short_password_is_hidden_as_a_whole(authority: Authority, good: Pair, tmp_path: Path) -> None:
    secrets = make_secrets(tmp_path, password="q7")
    steps = [*DIALOGS[CheckKind.POP3S][:2], Step(b"PASS q7", b"-ERR not q7 here\r\n")]
    async with peer(dialog(steps), good.server(), implicit=True) as server:
        seen = await probe(check_of(CheckKind.POP3S, server.port), context_of(secrets, authority.file))
    assert (seen.outcome, seen.detail) == (Outcome.LOGIN, "-ERR not *** here at PASS")


# The source


def test_a_secret_does_not_show_its_password() -> None:
    assert PASSWORD not in repr(Secret(LOGIN, PASSWORD))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    source = make_secrets(tmp_path)
    assert source.get("probe") == Secret(LOGIN, PASSWORD)
    assert source.get("probe") is source.get("probe")
    make_secrets(tmp_path, password="another one")
    assert source.get("probe") == Secret(LOGIN, "another one")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "two lines"),
        (b"login only\n", "two lines"),
        (b"login\n\n", "two lines"),
        (b"\npassword\n", "two lines"),
        (b"login\npassword\nmore\n", "two lines"),
        (b"login\n" + b"x" * 5000, "two lines"),
        (b"login\n\xff\xfe", "not UTF-8"),
        (b"login\npass\0word\n", "control character"),
        (b"lo\rgin\npassword\n", "control character"),
    ],
)
def test_a_file_that_holds_no_secret(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "probe").write_bytes(content)
    with pytest.raises(SecretError, match=reason):
        SecretSource(tmp_path).get("probe")


def test_line_ends_of_another_system(tmp_path: Path) -> None:
    (tmp_path / "probe").write_bytes(b"login\r\npass word\r\n")
    assert SecretSource(tmp_path).get("probe") == Secret("login", "pass word")


@pytest.mark.parametrize("name", ["../probe", "/etc/passwd", "", "a/b", "probe.old", "PROBE", "probe\n", "." * 3])
def test_a_name_that_could_be_a_path_is_refused(tmp_path: Path, name: str) -> None:
    make_secrets(tmp_path)
    (tmp_path / "inner").mkdir()
    with pytest.raises(SecretError, match="the name of the secret is none"):
        SecretSource(tmp_path / "inner").get(name)


def test_a_file_that_others_may_read_is_told_once(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    (tmp_path / "probe").chmod(0o644)
    told: list[str] = []
    source = SecretSource(tmp_path, told.append)
    source.get("probe")
    make_secrets(tmp_path, password="changed")
    (tmp_path / "probe").chmod(0o640)
    source.get("probe")
    assert told == ["secret probe: others than the owner may read the file (mode 0644)"]


@pytest.mark.parametrize("kind", WITH_LOGIN)
async def test_a_missing_secret_is_our_fault_and_not_the_services(tmp_path: Path, kind: CheckKind) -> None:
    check = check_of(kind, 9)
    for source in (SecretSource(tmp_path), SecretSource(None)):
        seen = await probe(check, context_of(source, tmp_path))
        assert seen.outcome is Outcome.MONITOR_ERROR
        assert seen.detail.startswith("secret probe: ")
    seen = await probe(check_of(kind, 9, secret=""), context_of(SecretSource(tmp_path), tmp_path))
    assert (seen.outcome, seen.detail) == (Outcome.MONITOR_ERROR, "the check has no option secret at start")
