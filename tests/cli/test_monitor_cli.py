"""`smartmail monitor` and an agent as operators run them: processes of their own, signals, and what they then show."""

import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import dns.message
import dns.rcode
import pytest

from smartmail.cli import monitor
from smartmail.config import load
from smartmail.monitor.rosters import put_in_force, roster_of
from smartmail.monitor.trust_runner import FIRST_WITHIN_MS, place_ms
from smartmail.store.database import Database

Run = Callable[..., Any]
ROOT = Path(__file__).parents[2]
PATIENCE = 60
"""Seconds until a process that says nothing is given up."""

HEAD = """
[server]
hostname = "127.0.0.1"
data_dir = "{data}"
[monitor]
address = "127.0.0.1:0"
metrics_address = "127.0.0.1:0"
locations = ["here"]
[log]
format = "json"
"""
CHECK = """
[[check]]
name = "{name}"
service = "{name}"
kind = "mx"
host = "127.0.0.1"
port = {port}
recipient = "probe@example.com"
starttls = "no"
"""


class Child:
    """A `smartmail` process whose log is read line by line."""

    def __init__(self, *arguments: str, environment: Mapping[str, str]) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "smartmail", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self._giving_up = threading.Timer(PATIENCE, self.process.kill)
        self._giving_up.start()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The next line in which this is found."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found
        pytest.fail(f"{pattern!r} is not in:\n{''.join(self.lines)}")

    def event(self, name: str) -> re.Match[str]:
        return self.wait_for(rf'"event": ?"{name}"')

    def metrics_page(self) -> str:
        """Its URL, once it is served."""
        return f"http://127.0.0.1:{self.wait_for(r'metrics.*127[.]0[.]0[.]1:([0-9]+)')[1]}/metrics"

    def end(self) -> int:
        """As an operator stops it."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stderr is not None
        self.lines += self.process.stderr.readlines()
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        self._giving_up.cancel()
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


Start = Callable[..., Child]


@pytest.fixture
def start(config: Path) -> Iterator[Start]:
    """start("monitor", "run") -> a process with this test's configuration; killed at the end."""
    children: list[Child] = []
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SMARTMAIL_")}

    def start(*arguments: str) -> Child:
        children.append(Child(*arguments, environment=clean | {"SMARTMAIL_CONFIG": str(config)}))
        return children[-1]

    yield start
    for child in children:
        child.close()


@pytest.fixture
def write(config: Path, tmp_path: Path) -> Callable[..., None]:
    """write("imap", "pop3", port=2525) puts these checks into the configuration."""

    def write(*names: str, port: int = 25, more: str = "") -> None:
        checks = "".join(CHECK.format(name=name, port=port) for name in names)
        config.write_text(HEAD.format(data=tmp_path / "data") + checks + more)

    return write


class _Mx(socketserver.StreamRequestHandler):
    """Speaks as much SMTP as a probe needs."""

    ANSWERS: Mapping[bytes, bytes] = {b"EHLO": b"250 mail.example.com", b"QUIT": b"221 2.0.0 Bye"}

    def handle(self) -> None:
        self.wfile.write(b"220 mail.example.com ESMTP\r\n")
        for line in self.rfile:
            self.wfile.write(self.ANSWERS.get(line[:4].upper(), b"250 2.0.0 Ok") + b"\r\n")


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A probe that has heard enough closes; that is no fault."""


@contextmanager
def mail_server() -> Iterator[int]:
    """A tiny mail server: its port."""
    with _Server(("127.0.0.1", 0), _Mx) as server:
        yield from served(server)


class _Refuses(socketserver.BaseRequestHandler):
    """A resolver that will not answer us."""

    def handle(self) -> None:
        octets, connection = self.request
        answer = dns.message.make_response(dns.message.from_wire(octets))
        answer.set_rcode(dns.rcode.REFUSED)
        connection.sendto(answer.to_wire(), self.client_address)


@contextmanager
def refusing_resolver() -> Iterator[int]:
    """Its port, UDP."""
    with socketserver.UDPServer(("127.0.0.1", 0), _Refuses) as server:
        yield from served(server)


def served(server: socketserver.BaseServer) -> Iterator[int]:
    """Serve in a thread of its own; the port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield int(server.server_address[1])  # type: ignore[index]
    finally:
        server.shutdown()
        thread.join()


def told(ran: Any) -> list[dict[str, object]]:
    found = json.loads(ran.output)
    assert isinstance(found, list)
    return found


class TestApplyAndRoster:
    def test_before_anything_is_applied_there_is_no_roster(self, run: Run) -> None:
        ran = run("monitor", "roster")
        assert (ran.code, ran.error) == (1, "nothing is watched yet")
        assert "monitor apply" in ran.remedy

    def test_nothing_configured_is_nothing_to_do(self, run: Run) -> None:
        assert run("monitor", "apply").output == "nothing to do: it is in force already\n"

    def test_the_first_is_in_force_from_the_next_minute_and_a_change_three_minutes_ahead(
        self, run: Run, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(monitor, "now_ns", lambda: 1_790_000_059 * 10**9)
        write("web")
        assert run("monitor", "apply").output == (
            "roster 1: 1 checks, locations: here; in force from 2026-09-21 14:15Z\n"
        )
        assert run("monitor", "apply").output == "nothing to do: it is in force already\n"
        write("web", "imap")
        assert run("monitor", "apply").output == (
            "roster 2: 2 checks, locations: here; in force from 2026-09-21 14:17Z\n"
        )
        shown = json.loads(run("monitor", "roster", "--json").output)
        assert (shown["version"], [one["name"] for one in shown["checks"]]) == (2, ["web", "imap"])
        table = run("monitor", "roster").output
        assert "roster 2, in force from 2026-09-21 14:17Z" in table
        assert "imap" in table

    def test_terms_in_force_are_not_edited(self, run: Run, write: Callable[..., None]) -> None:
        write("web", more='[[terms]]\nversion = "2026"\neffective = "2020-01-01"\n')
        assert run("monitor", "apply").code == 0
        write("web", more='[[terms]]\nversion = "2026"\neffective = "2020-01-01"\nnumerator = 990\n')
        ran = run("monitor", "apply")
        assert ran.code != 0
        assert "2026" in ran.error

    def test_without_a_service_status_says_what_to_do(self, run: Run) -> None:
        assert "add [[check]]" in run("monitor", "status").output
        assert told(run("monitor", "status", "--json")) == []


@pytest.mark.slow
class TestRun:
    def test_sighup_takes_a_changed_configuration_refuses_a_wrong_one_and_sigterm_ends_it(
        self, start: Start, run: Run, config: Path, write: Callable[..., None]
    ) -> None:
        write("web")
        child = start("monitor", "run")
        child.event("ready")
        write("web", "imap")
        child.process.send_signal(signal.SIGHUP)
        child.event("config_reloaded")
        assert json.loads(run("monitor", "roster", "--json").output)["version"] == 2
        right = config.read_text()
        config.write_text(right + '[[check]]\nname = "control"\n')
        child.process.send_signal(signal.SIGHUP)
        child.event("config_refused")
        config.write_text(right)
        assert json.loads(run("monitor", "roster", "--json").output)["version"] == 2
        assert child.end() == 0
        last = json.loads(child.lines[-1])
        assert last["event"] == "stopped"

    def test_a_domain_is_looked_at_and_what_is_found_is_told_and_shown(
        self, start: Start, write: Callable[..., None]
    ) -> None:
        soon = next(name for name in (f"d{n}.example" for n in range(10_000)) if place_ms(name) % FIRST_WITHIN_MS < 100)
        with refusing_resolver() as port:
            more = f'[[trust]]\ndomain = "{soon}"\nresolver = "127.0.0.1:{port}"\nconnect = false\n'
            write("web", more=more)
            child = start("monitor", "run")
            page = child.metrics_page()
            line = json.loads(child.event("trust_finding").string)
            assert (line["domain"], line["severity"]) == (soon, "error")
            assert "the resolver refused" in line["found"]
        told = f'^smartmail_trust_findings{{check="spf",domain="{soon}",severity="error"}} 1.0'
        assert f'smartmail_trust_checked_timestamp_seconds{{domain="{soon}"}}' in until(page, told)
        assert child.end() == 0

    def test_a_port_that_is_taken_ends_it_with_the_reason(
        self, start: Start, config: Path, write: Callable[..., None]
    ) -> None:
        with mail_server() as port:
            write("web")
            config.write_text(config.read_text().replace('address = "127.0.0.1:0"', f'address = "127.0.0.1:{port}"', 1))
            child = start("monitor", "run")
            child.wait_for(rf"monitor\.address 127\.0\.0\.1:{port}")
            assert child.process.wait(PATIENCE) == 3


@pytest.mark.slow
def test_an_agent_enrolled_by_a_token_probes_and_its_minutes_stand_in_the_status(
    start: Start,
    run: Run,
    config: Path,
    url: str,
    write: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fifty services, so that whenever it begins some slot is near."""
    with mail_server() as port:
        write(*(f"mx-{number}" for number in range(50)), port=port)
        before_ms = time.time_ns() // 10**6 - 3_600_000
        (tmp_path / "data").mkdir()
        with Database(url) as database:
            database.upgrade()
            put_in_force(database, roster_of(load(config)), before_ms)
        collector = start("monitor", "run")
        collector_port = collector.wait_for(r'"name": ?"collector".*127\.0\.0\.1:(\d+)')[1]
        home = enrolled(run, tmp_path, f"https://127.0.0.1:{collector_port}")
        agent = start("agent", "run", "--dir", str(home))
        page = agent.metrics_page()
        metrics = until(page, r"^smartmail_agent_handed_in_samples_total [1-9]")
        assert re.search(r'^smartmail_agent_probes_total\{kind="mx",outcome="ok"\} [1-9]', metrics, re.M)
        assert agent.end() == 0
        assert collector.end() == 0
    # Minutes are judged two minutes after their end.
    shown: list[dict[str, object]] = []
    for minutes in (3, 4):
        monkeypatch.setattr(monitor, "now_ns", lambda minutes=minutes: time.time_ns() + minutes * 60 * 10**9)
        ran = run("monitor", "status", "--json")
        assert ran.code == 0
        shown += told(ran)
    assert {one["service"] for one in shown} == {f"mx-{number}" for number in range(50)}
    assert "up" in {one["verdict"] for one in shown}
    assert not [one for one in shown if one["verdict"] == "down"]
    listed = json.loads(run("agent", "list", "--json").output)
    assert [(one["name"], one["location"]) for one in listed] == [("here-1", "here")]
    assert listed[0]["last_seen_ms"] is not None


def enrolled(run: Run, folder: Path, url: str) -> Path:
    """The folder of an agent "here-1" that tells its metrics on a free port."""
    token, home, ca = folder / "token", folder / "agent", folder / "data" / "collector.crt"
    token.write_text(run("agent", "token", "here").output)
    ran = run(
        *("agent", "enrol", "--collector", url, "--token-file", str(token), "--name", "here-1"),
        *("--ca", str(ca), "--probe-ca", str(ca), "--dir", str(home)),
    )
    assert (ran.code, ran.error) == (0, "")
    assert (home / "probe-ca.pem").read_bytes() == ca.read_bytes()
    settings = home / "agent.toml"
    settings.write_text(settings.read_text().replace('metrics = ""', 'metrics = "127.0.0.1:0"'))
    return home


def until(page: str, pattern: str) -> str:
    """The page of metrics once this is on it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with urlopen(page) as answer:
            text = answer.read().decode()
        if re.search(pattern, text, re.M):
            return str(text)
        time.sleep(0.2)
    pytest.fail(f"{pattern!r} is not on the page:\n{text}")


def test_an_authority_for_probes_that_is_none_is_refused_before_the_token_is_spent(run: Run, tmp_path: Path) -> None:
    token, wrong = tmp_path / "token", tmp_path / "wrong.pem"
    token.write_text("here.x")
    wrong.write_text("no certificate")
    line = ("agent", "enrol", "--collector", "https://127.0.0.1:9", "--token-file", str(token), "--name", "here-1")
    ran = run(*line, "--dir", str(tmp_path / "agent"), "--probe-ca", str(wrong))
    assert (ran.code, ran.error) == (2, "no certificates in it")
    ran = run(*line, "--dir", str(tmp_path / "agent"), "--probe-ca", str(tmp_path / "none.pem"))
    assert (ran.code, ran.error) == (2, "No such file or directory")
    assert not (tmp_path / "agent").exists()
