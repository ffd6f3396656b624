"""`smartmail agent`: a token told once, an agent enrolled by it over HTTPS, listed, revoked."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from agentworld import FakeTime, collecting
from typer.testing import CliRunner

from smartmail.cli import agent
from smartmail.cli.common import Globals, failure_of
from smartmail.monitor.client import read_key
from smartmail.monitor.settings import load_settings

Said = tuple[int, str, str]
Run = Callable[..., Said]


@pytest.fixture
def run(config: Path) -> Run:
    """run("list") -> (exit code, standard output, what went wrong)."""

    def run(*arguments: str, input: str | None = None) -> Said:
        result = CliRunner().invoke(agent.app, arguments, input=input, obj=Globals(config))
        if isinstance(result.exception, Exception):
            failure = failure_of(result.exception)
            if failure is None:
                raise result.exception
            return int(failure.code), result.stdout, failure.what
        return result.exit_code, result.stdout, result.stderr

    return run


@contextmanager
def collector(folder: Path) -> Iterator[str]:
    """A collector in a thread of its own, on the database of `run`: its URL. Its certificate is collector.crt."""
    loop, up, url = asyncio.new_event_loop(), threading.Event(), [""]
    stop = asyncio.Event()

    async def serve() -> None:
        now_ms = agent.now_ns() // 10**6
        async with collecting(folder, time=FakeTime(now_ms)) as running:
            url[0] = running.url
            up.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert up.wait(30)
    try:
        yield url[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def test_a_token_is_told_once_and_kept_nowhere(run: Run, tmp_path: Path) -> None:
    code, out, told = run("token", "london")
    assert code == 0
    assert out.startswith("london.")
    assert len(out.strip()) == len("london.") + 43
    assert "not shown again" in told
    stored = b"".join(file.read_bytes() for file in (tmp_path / "data").glob("smartmail.db*"))
    assert out.strip().encode() not in stored


def test_a_token_for_programs(run: Run) -> None:
    told = json.loads(run("token", "london", "--hours", "2", "--json")[1])
    assert told["location"] == "london"
    assert told["token"].startswith("london.")


@pytest.mark.parametrize("location", ["../x", "London", "a b"])
def test_a_location_that_is_no_name(run: Run, location: str) -> None:
    code, _, error = run("token", location)
    assert code == 2
    assert "cannot be the name of a location" in error


def test_an_agent_enrols_is_listed_and_revoked(run: Run, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(run("token", "london")[1])
    home, ca = tmp_path / "agent", tmp_path / "data" / "collector.crt"
    with collector(tmp_path / "data") as url:
        line = ("enrol", "--collector", url, "--token-file", str(token), "--name", "london-1", "--ca", str(ca))
        line += ("--dir", str(home), "--control", "192.0.2.1:53")
        code, out, error = run(*line)
        assert (code, error) == (0, "")
        assert "london-1 enrolled at london" in out
        assert run(*line)[2] == "there is an agent in this folder already"
        again = run(*line[:-4], "--dir", str(tmp_path / "other"))
        assert again[0] == 1
        assert "used already" in again[2]
    settings = load_settings(home)
    assert (settings.name, settings.location, settings.collectors) == ("london-1", "london", (url,))
    assert settings.ca is not None
    assert settings.ca.read_bytes() == ca.read_bytes()
    assert read_key(settings.key)
    assert home.stat().st_mode & 0o077 == 0
    (listed,) = json.loads(run("list", "--json")[1])
    assert (listed["name"], listed["location"], listed["revoked_ms"]) == ("london-1", "london", None)
    assert "london-1" in run("list")[1]
    assert run("revoke", "london-1")[0] == 0
    assert json.loads(run("list", "--json")[1])[0]["revoked_ms"] is not None
    assert run("revoke", "london-1")[0] == 1


def enrolling(token: str, folder: Path, *more: str) -> tuple[str, ...]:
    file = folder / "token"
    file.write_text(token)
    return ("enrol", "--token-file", str(file), "--dir", str(folder / "agent"), *more)


@pytest.mark.parametrize(
    ("token", "more", "code", "says"),
    [
        ("london.x", ("--collector", "http://c", "--name", "a"), 2, "no collector"),
        ("london.x", ("--collector", "https://c", "--name", "../a"), 2, "cannot be an agent's name"),
        ("../x.y", ("--collector", "https://c", "--name", "a"), 2, "no token"),
        ("london.x", ("--collector", "https://c", "--name", "a", "--control", "x"), 2, "host:port"),
        ("london.x", ("--collector", "https://127.0.0.1:9", "--name", "a"), 3, "127.0.0.1:9"),
        ("london.x", ("--collector", "https://c", "--name", "a", "--ca", "/nonexistent"), 2, "No such file"),
    ],
)
def test_an_agent_that_cannot_enrol(
    run: Run, tmp_path: Path, token: str, more: tuple[str, ...], code: int, says: str
) -> None:
    ended, _, error = run(*enrolling(token, tmp_path, *more))
    assert (ended, says in error) == (code, True)
    assert not (tmp_path / "agent" / "agent.toml").exists()


def test_an_agent_that_was_never_enrolled_does_not_run(run: Run, tmp_path: Path) -> None:
    code, _, error = run("run", "--dir", str(tmp_path))
    assert code == 2
    assert "no agent was enrolled" in error
