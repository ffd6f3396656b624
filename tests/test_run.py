"""`ops/run` as people run it: a process of its own, with and without a terminal."""

import os
import pty
import re
import shutil
import signal
import smtplib
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAST_LINE = "Ctrl-C stops the relay"
LISTENERS = """
[metrics]
address = "127.0.0.1:0"
[[listener]]
name = "submission"
role = "submission"
address = "{submission}"
[[listener]]
name = "relay"
role = "relay"
address = "127.0.0.1:0"
accept_incoming = true
"""
REPLIES = (
    "250 2.0.0 Ok: queued as",
    "450 4.7.1 Limit reached: 5 messages in 1 minute",
    "525 5.7.13 This account is suspended",
    "525 5.7.13 This account is closed",
    "421 4.7.0 This account has been closed",
    "450 4.2.1 This mailbox is suspended",
    "550 5.2.1 This mailbox is closed",
)
BROUGHT = "The mailbox is back, whole."
NO_RESTIC = "apt-get install restic"

pytestmark = pytest.mark.slow


@dataclass
class Home:
    """A folder with a configuration; its data are in `var`."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def configure(self, submission: str = "127.0.0.1:0") -> "Home":
        (self.folder / "smartmail.toml").write_text(LISTENERS.format(submission=submission))
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("SMARTMAIL_", "COLUMNS"))}
        self.environment = clean | {"SMARTMAIL_CONFIG": str(self.folder / "smartmail.toml")}
        return self

    @property
    def data(self) -> Path:
        return self.folder / "var"

    @property
    def maildir(self) -> Path:
        return self.data / "maildrop" / "ann@sample.example" / "new"


@dataclass
class Running:
    """A relay that has said all it has to say. screen: its standard output so far."""

    process: subprocess.Popen[str]
    screen: str

    def found(self, pattern: str) -> str:
        match = re.search(pattern, self.screen, re.MULTILINE)
        assert match, f"{pattern!r} is not in:\n{self.screen}"
        return match[1]

    @property
    def port(self) -> int:
        return int(self.found(r"^ ?submission +127\.0\.0\.1:(\d+)"))

    @property
    def account(self) -> tuple[str, str]:
        return self.found(r"^ *login +(\S+)"), self.found(r"^ *password +(\S+)")


EMBEDDED = (sys.executable, "-m", "smartmail", "serve", "--embedded")


@contextmanager
def started(home: Home, command: tuple[str, ...] = EMBEDDED, **other: str) -> Iterator[Running]:
    """Start it and wait for its last line; SIGTERM at the end, where it must leave with 0."""
    with (home.folder / "stderr").open("w") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=home.folder,
            env=home.environment | other,
        )
        with process:
            assert process.stdout is not None
            try:
                screen = ""
                for line in process.stdout:
                    screen += line
                    if LAST_LINE in line:
                        break
                assert LAST_LINE in screen, screen + (home.folder / "stderr").read_text()
                yield Running(process, screen)
            finally:
                process.terminate()
            assert process.wait(30) == 0
            assert process.stdout.read() == ""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("run")).configure()


@pytest.fixture(scope="module")
def relay(home: Home) -> Iterator[Running]:
    """One that `ops/run` has started, for the tests that only look and send."""
    with started(home, (str(ROOT / "ops" / "run"),)) as running:
        yield running
    assert (home.folder / "stderr").read_text() == ""


@pytest.fixture
def place(home: Home, relay: Running, tmp_path: Path) -> Home:
    """A copy of a home that was started once already, so that no schema has to be made again."""
    shutil.copytree(home.data, tmp_path / "var", ignore=shutil.ignore_patterns("maildrop", "*.log", "*.db*"))
    with (
        closing(sqlite3.connect(home.data / "smartmail.db")) as source,
        closing(sqlite3.connect(tmp_path / "var" / "smartmail.db")) as copy,
    ):
        source.backup(copy)
    return Home(tmp_path).configure()


def test_a_mail_handed_in_with_starttls_and_auth_lies_in_the_maildir(home: Home, relay: Running) -> None:
    login, password = relay.account
    with smtplib.SMTP("127.0.0.1", relay.port, "localhost", timeout=30) as client:
        client.starttls()
        client.login(login, password)
        client.sendmail(login, [login], "Subject: by smtplib\r\n\r\nmark-4711\r\n")
    assert any("mark-4711" in mail.read_text() for mail in home.maildir.iterdir())


def test_the_printed_command_can_be_pasted(home: Home, relay: Running) -> None:
    command = relay.found(r"(python3 -c '\n(?:.*\n)+?print.*')").replace("It works.", "mark-4712")
    done = subprocess.run(
        ["/bin/sh", "-c", command.replace("python3", sys.executable, 1)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("221 ")
    assert any("mark-4712" in mail.read_text() for mail in home.maildir.iterdir())


def test_the_named_commands_work_as_printed(home: Home, relay: Running) -> None:
    folder = relay.found(r"in another terminal, in (/.*)$")
    for words in ("account list", "events", "account why ann@sample.example"):
        command = relay.found(rf"^(.*smartmail.* {words})$")
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            env={key: value for key, value in home.environment.items() if key != "SMARTMAIL_CONFIG"},
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def test_the_log_is_in_its_file_and_tears_nothing(home: Home, relay: Running) -> None:
    assert "ready: smartmail is ready" in (home.data / "smartmail.log").read_text()
    assert stat.S_IMODE((home.data / "smartmail.log").stat().st_mode) == 0o600
    assert "INFO" not in relay.screen
    assert "\x1b" not in relay.screen


def test_the_next_start_keeps_the_account_and_its_password(home: Home, relay: Running, place: Home) -> None:
    with started(place) as again:
        assert again.account == relay.account
        with smtplib.SMTP("127.0.0.1", again.port, "localhost", timeout=30) as client:
            client.starttls()
            assert client.login(*again.account)[0] == 235
    assert stat.S_IMODE((place.data / "sample-account").stat().st_mode) == 0o600


def test_a_lost_password_file_makes_a_new_password_that_works(relay: Running, place: Home) -> None:
    (place.data / "sample-account").unlink()
    with started(place) as again:
        assert again.account[1] != relay.account[1]
        with smtplib.SMTP("127.0.0.1", again.port, "localhost", timeout=30) as client:
            client.starttls()
            assert client.login(*again.account)[0] == 235


def test_a_busy_port_is_one_clear_line_and_nothing_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        home = Home(tmp_path).configure(submission=address)
        done = run(home, EMBEDDED)
    assert done.returncode == 3
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: listener submission: {address} is in use by another program (stop it")
    assert not home.data.exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_demo_ends_by_itself_without_a_terminal_and_can_be_played_again(place: Home) -> None:
    backup = place.data / "demo-backup"
    restic = shutil.which("restic") is not None
    # The second time without restic, which is quicker.
    for other, last in (({}, BROUGHT if restic else NO_RESTIC), (nothing_installed(place), NO_RESTIC)):
        done = run(place, (*EMBEDDED, "--demo"), other)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        words = " ".join(done.stdout.split())
        assert "All 20 replies were as they should be. Copies accepted: 11; in their Maildirs: 11." in words
        assert "\x1b" not in done.stdout
        folded = re.sub(r"\n {48,}", " ", done.stdout)
        assert [reply for reply in REPLIES if reply not in folded] == []
        assert "now the mail server hangs" in words
        assert "The month came out as it must." in words
        reports = {file.suffix for file in (place.data / "demo-monitor").glob("mail-*-operator.*")}
        assert reports == {".html", ".pdf", ".json"}
        assert last in words
        assert (backup / "onsite" / "config").is_file() == (last == BROUGHT), "it is emptied at the start"
        assert ("below “Restored " in words) == (last == BROUGHT and has_dovecot())
        assert ("left out the live mailbox: Dovecot" in words) == (last == BROUGHT and not has_dovecot())


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_the_demo_leaves_the_relay_running_on_a_terminal_until_ctrl_c(place: Home, term: str) -> None:
    other = {"TERM": term, "NO_COLOR": "1"} | nothing_installed(place)
    code, screen = on_terminal(place, (*EMBEDDED, "--demo"), other)
    assert code == 0, screen
    assert NO_RESTIC in screen
    assert "All 20 replies were as they should be." in screen
    assert not re.search(r"\x1b\[(?:\d+;)*[34]\d[;m]", screen), "a colour in spite of NO_COLOR"


def test_ctrl_c_in_the_middle_of_the_scene_ends_it_in_order(place: Home) -> None:
    code, screen = on_terminal(place, (*EMBEDDED, "--demo"), {"TERM": "xterm"}, until="mail 2 of")
    assert code == 0, screen
    assert "Traceback" not in screen
    assert "The end" not in screen


def nothing_installed(home: Home) -> dict[str, str]:
    """A PATH with nothing in it."""
    return {"PATH": str(home.folder / "nothing")}


def has_dovecot() -> bool:
    """Is there one that the demo can set up?"""
    binary = shutil.which("dovecot", path=f"{os.environ['PATH']}:/usr/sbin")
    if binary is None:
        return False
    return subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.startswith("2.3.")


def run(
    home: Home, command: tuple[str, ...], other: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=home.folder,
        env=home.environment | dict(other or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
    )


def on_terminal(
    home: Home, command: tuple[str, ...], other: Mapping[str, str], until: str = LAST_LINE
) -> tuple[int, str]:
    """Run on a terminal of its own; Ctrl-C when `until` is on the screen. Returns exit code and screen."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        process = subprocess.Popen(
            command,
            cwd=home.folder,
            env=home.environment | dict(other),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        with process:
            screen, asked = b"", False
            while chunk := read(terminal.fileno()):
                screen += chunk
                if not asked and until.encode() in screen:
                    os.killpg(process.pid, signal.SIGINT)
                    asked = True
            code = process.wait(30)
    return code, screen.decode("utf-8", "replace")


def read(descriptor: int) -> bytes:
    """b"" once nobody has the other side of the terminal any more: Linux says EIO."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""
