"""An agent that takes its round trips' messages itself: the settings, and a message that comes in by SMTP."""

import contextlib
import smtplib
from asyncio import to_thread, wait_for
from dataclasses import replace
from pathlib import Path

import pytest

from smartmail.cli.agent import _intake
from smartmail.cli.common import CliError
from smartmail.core.probe_token import HEADER, make
from smartmail.monitor.control import Target
from smartmail.monitor.settings import AgentSettings, IntakeAt, SettingsError, load_settings, write_settings

KEY = "a secret of the round trips"


def settings(folder: Path) -> AgentSettings:
    """An agent with an intake on a free port."""
    secrets = folder / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "trip").write_text(f"key\n{KEY}\n")
    (secrets / "trip").chmod(0o600)
    at = IntakeAt(Target("127.0.0.1", 0), ("probe@here.example",), "trip")
    return AgentSettings(folder, "here-1", "here", ("https://127.0.0.1:1",), secrets=secrets, intake=at)


def test_the_intake_is_written_and_read(tmp_path: Path) -> None:
    written = settings(tmp_path)
    write_settings(written)
    assert load_settings(tmp_path).intake == written.intake


@pytest.mark.parametrize(
    "table",
    [
        'intake = "127.0.0.1:25"',
        '[intake]\naddress = "127.0.0.1:25"',
        '[intake]\naddress = ""\naddresses = ["a@b.example"]\ntoken_secret = "trip"',
        '[intake]\naddress = "127.0.0.1:25"\naddresses = []\ntoken_secret = "trip"',
        '[intake]\naddress = "127.0.0.1:25"\naddresses = ["a@b.example"]\ntoken_secret = "../trip"',
    ],
)
def test_an_intake_that_cannot_be_is_refused(tmp_path: Path, table: str) -> None:
    write_settings(replace(settings(tmp_path), intake=None))
    file = tmp_path / "agent.toml"
    file.write_text(f"{file.read_text()}{table}\n")
    with pytest.raises(SettingsError, match="intake"):
        load_settings(tmp_path)


async def test_a_message_of_ours_is_taken_and_known_by_its_token(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        sink = await _intake(stack, settings(tmp_path), lambda: 5_000)
        assert sink is not None
        token = make(KEY.encode(), "trip", "here", 1_000, bytes(range(16)))

        def send() -> None:
            with smtplib.SMTP(*sink.address) as client:
                client.sendmail("", ["probe@here.example"], f"{HEADER}: {token}\r\n\r\nprobe\r\n")

        await to_thread(send)
        arrival = await wait_for(sink.wait(token), 10)
        assert arrival.received_ms == 5_000


async def test_an_intake_without_its_secret_says_which(tmp_path: Path) -> None:
    given = settings(tmp_path)
    (given.secrets / "trip").unlink()
    async with contextlib.AsyncExitStack() as stack:
        with pytest.raises(CliError, match="trip"):
            await _intake(stack, given, lambda: 5_000)


async def test_an_agent_without_an_intake_has_none(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        assert await _intake(stack, replace(settings(tmp_path), intake=None), lambda: 5_000) is None
