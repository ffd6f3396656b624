"""Real servers on loopback, each in its own directory on its own ports; a missing one fails the test."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from support.mailservers import (
    ALICE,
    DAVE,
    DAVES_LOCAL_PASSWORD,
    Dovecot,
    Postfix,
    password,
    run_dovecot,
    run_mailbox_postfix,
)
from support.processes import short_directory
from support.relayserver import Certificate, Relay, Table, make_certificate
from support.scripted import Script, ScriptedUpstream


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs servers."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.servers)


@pytest.fixture(scope="session")
def dovecot() -> Iterator[Dovecot]:
    """A Dovecot with the mailboxes of support.mailservers.USERS."""
    with run_dovecot() as server:
        yield server


@pytest.fixture(scope="session")
def postfix(dovecot: Dovecot) -> Iterator[Postfix]:
    """A Postfix that delivers to `dovecot`."""
    with run_mailbox_postfix(dovecot) as server:
        yield server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """For localhost and 127.0.0.1, its own authority."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def accounts(certificate: Certificate) -> Iterator[Path]:
    """A data directory with local accounts for alice and dave, made once by the command line."""
    with short_directory("accounts") as directory:
        relay = Relay(directory, certificate)
        relay.write_config()
        relay.add_customer(["example.com"])
        relay.add_account(ALICE, password(ALICE))
        relay.add_account(DAVE, DAVES_LOCAL_PASSWORD)
        yield relay.data_dir


MakeRelay = Callable[..., Awaitable[Relay]]


@pytest.fixture
def make_relay(certificate: Certificate, accounts: Path) -> Iterator[MakeRelay]:
    """Give it the upstream's port and tables of the configuration; a relay runs, and is ended after the test.

    `await` it: the upstream may be in this loop, and the relay greets it before it is ready.
    """
    with ExitStack() as stack:

        async def make(upstream_port: int, **tables: Table | Sequence[Table]) -> Relay:
            directory = stack.enter_context(short_directory("relay"))
            upstream = {"address": f"127.0.0.1:{upstream_port}", **dict(tables.pop("upstream", {}))}  # type: ignore[arg-type]
            relay = Relay(directory, certificate, {"upstream": upstream, **tables}, accounts=accounts)
            relay.write_config()
            await asyncio.to_thread(relay.start)
            stack.callback(relay.stop)
            return relay

        yield make


@pytest.fixture(scope="session")
def mail_relay(postfix: Postfix, certificate: Certificate, accounts: Path) -> Iterator[Relay]:
    """A relay before `postfix`."""
    with short_directory("relay") as directory:
        upstream = {"address": f"127.0.0.1:{postfix.port}"}
        relay = Relay(directory, certificate, {"upstream": upstream}, accounts=accounts)
        relay.write_config()
        relay.start()
        yield relay
        relay.stop()


MakeUpstream = Callable[..., Awaitable[ScriptedUpstream]]


@pytest.fixture
async def make_upstream(tmp_path: Path) -> AsyncIterator[MakeUpstream]:
    """Give it a script; a scripted upstream runs in this loop, and is ended after the test."""
    made: list[ScriptedUpstream] = []

    async def make(script: Script | None = None) -> ScriptedUpstream:
        upstream = await ScriptedUpstream(tmp_path / f"kept-{len(made)}", script).start()
        made.append(upstream)
        return upstream

    yield make
    for upstream in made:
        await upstream.close()
