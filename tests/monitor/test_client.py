"""How an agent speaks to its collectors: the next one when one is away, and no trust in what is none of ours."""

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from agentworld import MINUTE, NOW_MS, Collecting, FakeTime, batch, check, collecting, key, roster, sample
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from smartmail.core.sample import encode_batch
from smartmail.monitor.client import (
    ClientError,
    Collectors,
    Identity,
    KeyUnusable,
    RefusedByCollector,
    Unreachable,
    new_key,
    read_key,
    read_rosters,
    tls_context,
)

AWAY = "https://127.0.0.1:9"
"""Nothing listens there."""


@pytest.fixture
async def collector(tmp_path: Path) -> AsyncIterator[Collecting]:
    async with collecting(tmp_path) as collector:
        yield collector


def answering(status: int, content: bytes) -> Collectors:
    """Collectors at whose address something else answers."""
    collectors = Collectors(("https://collector.example",), ssl.create_default_context(), FakeTime().steady_ms)
    collectors._http = httpx2.AsyncClient(
        transport=httpx2.MockTransport(lambda request: httpx2.Response(status, content=content))
    )
    return collectors


async def test_the_second_collector_is_asked_when_the_first_is_away(collector: Collecting) -> None:
    async with collector.client(collector.enrolled(), AWAY) as client:
        assert client.url == AWAY
        assert (await client.post(encode_batch(batch(sample())))).accepted == 1
        assert client.url == collector.url


async def test_the_second_collector_is_asked_when_the_first_does_not_know_us(
    collector: Collecting, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "collector.crt").write_bytes(collector.ca.read_bytes())
    (tmp_path / "other" / "collector.key").write_bytes((tmp_path / "collector.key").read_bytes())
    async with collecting(tmp_path / "other") as other, collector.client(collector.enrolled(), other.url) as client:
        assert (await client.post(encode_batch(batch(sample())))).accepted == 1


async def test_when_all_are_away_the_error_names_each(collector: Collecting) -> None:
    identity = Identity("london-1", key())
    async with Collectors((AWAY, "https://127.0.0.1:10"), tls_context(None), FakeTime().steady_ms, identity) as client:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9.*127\.0\.0\.1:10"):
            await client.time()


async def test_a_refusal_of_the_agent_is_not_for_ever_one_of_the_batch_is(collector: Collecting) -> None:
    async with collector.client(Identity("stranger", key())) as client:
        with pytest.raises(RefusedByCollector) as refused:
            await client.post(b"")
        assert not refused.value.for_ever
    async with collector.client(collector.enrolled()) as client:
        with pytest.raises(RefusedByCollector) as refused:
            await client.post(b"no batch")
        assert refused.value.for_ever
        with pytest.raises(RefusedByCollector) as refused:
            await client.post(encode_batch(batch(sample(), location="paris")))
        assert refused.value.for_ever


async def test_attack_collector_with_a_certificate_of_its_own_making(collector: Collecting, tmp_path: Path) -> None:
    (tmp_path / "impostor").mkdir()
    tls = tls_context(collector.ca)
    async with collecting(tmp_path / "impostor") as impostor:
        client = Collectors((impostor.url,), tls, FakeTime().steady_ms)
        with pytest.raises(Unreachable, match="certificate"):
            await client.time()
        await client.close()


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, b"<html>Log in to the hotel's network</html>"),
        (200, b"[]"),
        (200, b'{"now_ms": "soon"}'),
        (200, b"[" * 100_000),
        (302, b""),
        (400, b"<html>bad request</html>"),
        (413, b"nginx"),
        (502, b""),
    ],
)
async def test_attack_captive_portal_answers_in_the_collectors_place(status: int, content: bytes) -> None:
    """Whatever it says is no word about our batch: samples must stay."""
    async with answering(status, content) as client:
        for ask in (client.time(), client.post(b"")):
            with pytest.raises(Unreachable):
                await ask


async def test_attack_answer_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartmail.monitor.client.MAX_ANSWER_OCTETS", 10_000)
    async with answering(200, bytes(10_001)) as client:
        with pytest.raises(Unreachable, match="more than"):
            await client.time()


async def test_the_time_comes_with_when_we_asked_and_heard(collector: Collecting) -> None:
    async with collector.client(None) as client:
        told = await client.time()
    assert (told.sent_ms, told.server_ms, told.received_ms) == (5_000, NOW_MS, 5_000)


async def test_the_rosters_come_once_until_they_change(collector: Collecting) -> None:
    collector.put_roster(roster(check("imap")))
    async with collector.client(collector.enrolled()) as client:
        rosters = await client.roster()
        assert rosters is not None
        assert [one.version for one in rosters.rosters] == [1]
        assert read_rosters(rosters.body) == rosters.rosters
        assert await client.roster(rosters.tag) is None
        collector.put_roster(roster(check("pop3"), version=2, from_minute=MINUTE + 5))
        changed = await client.roster(rosters.tag)
        assert changed is not None
        assert [one.version for one in changed.rosters] == [1, 2]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rosters": [1]}', '{"rosters": 7}', "[" * 100_000])
def test_what_is_no_roster_is_not_taken(text: str) -> None:
    with pytest.raises(Unreachable):
        read_rosters(text)


async def test_an_agent_enrols_at_one_collector_only(collector: Collecting) -> None:
    _, _, public_key = new_key()
    async with collector.client(None, AWAY) as client:
        with pytest.raises(Unreachable):
            await client.enrol(collector.token(), "london-1", "london", public_key)
    async with collector.client(None) as client:
        await client.enrol(collector.token(), "london-1", "london", public_key)


def test_a_key_comes_back_from_its_file(tmp_path: Path) -> None:
    made, pem, _ = new_key()
    file = tmp_path / "agent.key"
    file.touch(0o600)
    file.write_bytes(pem)
    assert read_key(file).public_key() == made.public_key()


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "agent.key"
    file.write_bytes(new_key()[1])
    file.chmod(0o640)
    with pytest.raises(KeyUnusable, match="0600"):
        read_key(file)


def test_a_file_that_is_no_key_is_refused(tmp_path: Path) -> None:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(encoding, form, serialization.NoEncryption())
    file = tmp_path / "agent.key"
    file.touch(0o600)
    for content in (b"", b"no key", other):
        file.write_bytes(content)
        with pytest.raises(KeyUnusable):
            read_key(file)
    with pytest.raises(KeyUnusable):
        read_key(tmp_path / "missing")
    assert issubclass(KeyUnusable, ClientError)
