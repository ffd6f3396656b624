"""The collector over HTTPS on a real socket: who may hand in what, each attack by its name, nothing kept if refused."""

import asyncio
import json
import os
import resource
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from agentworld import MINUTE, NOW_MS, Collecting, batch, check, collecting, key, roster, sample

from smartmail.core import signing
from smartmail.core.roster import roster_from_json
from smartmail.core.sample import Batch, encode_batch
from smartmail.monitor.client import Identity, new_key
from smartmail.store import agents
from smartmail.web.app import MAX_BATCH_OCTETS, Refusal

OTHERS_401 = {"error": "unauthorised", "what": "this agent is not known, or the signature is not its own"}


@pytest.fixture
async def collector(tmp_path: Path) -> AsyncIterator[Collecting]:
    async with collecting(tmp_path) as collector:
        yield collector


@pytest.fixture
async def http(collector: Collecting) -> AsyncIterator[httpx2.AsyncClient]:
    context = ssl.create_default_context(cafile=collector.ca)
    async with httpx2.AsyncClient(base_url=collector.url, verify=context, trust_env=False) as client:
        yield client


def signed(identity: Identity, body: bytes, path: str = "/v1/samples", method: str = "POST") -> dict[str, str]:
    return identity.headers(method, path, body)


async def hand_in(http: httpx2.AsyncClient, identity: Identity, one: Batch) -> httpx2.Response:
    octets = encode_batch(one)
    return await http.post("/v1/samples", content=octets, headers=signed(identity, octets))


def assert_refused(
    collector: Collecting, answer: httpx2.Response, status: int, error: str, reason: Refusal, times: int = 1
) -> None:
    """Refused clearly, counted, logged, nothing stored."""
    assert answer.status_code == status
    told = answer.json()
    assert set(told) == {"error", "what"}
    assert told["error"] == error
    assert told["what"]
    counted = {one: count for one, count in collector.state.counts.refused.items() if count}
    assert counted == {reason: times}
    assert [line["reason"] for line in collector.lines.of("collector_refused")] == [reason] * times
    assert collector.batches() == 0
    assert collector.state.counts.batches == 0


# Samples


async def test_a_batch_is_stored_and_answered_with_what_became_of_it(
    collector: Collecting, http: httpx2.AsyncClient
) -> None:
    identity = collector.enrolled()
    answer = await hand_in(http, identity, batch(sample("imap"), sample("pop3", NOW_MS + 60_000)))
    assert answer.status_code == 200
    assert answer.json() == {
        "received_ms": NOW_MS,
        "accepted": 2,
        "duplicates": 0,
        "quarantined": 0,
        "conflicts": 0,
    }
    assert collector.stored() == {"imap": [0], "pop3": [1]}
    assert (collector.state.counts.batches, collector.state.counts.samples) == (1, 2)


async def test_case_25_the_same_batch_again_is_all_duplicates(collector: Collecting, http: httpx2.AsyncClient) -> None:
    identity = collector.enrolled()
    for accepted, duplicates in ((1, 0), (0, 1)):
        answer = (await hand_in(http, identity, batch(sample()))).json()
        assert (answer["accepted"], answer["duplicates"]) == (accepted, duplicates)
    assert collector.batches() == 1


async def test_case_26_a_conflicting_duplicate_is_answered_and_logged(
    collector: Collecting, http: httpx2.AsyncClient
) -> None:
    identity = collector.enrolled()
    await hand_in(http, identity, batch(sample(latency_ms=7)))
    assert (await hand_in(http, identity, batch(sample(latency_ms=8)))).json()["conflicts"] == 1
    assert collector.lines.of("batch_questioned") == [
        {"agent": "london-1", "location": "london", "quarantined": 0, "conflicts": 1}
    ]


async def test_case_27_a_sample_from_the_future_is_quarantined(collector: Collecting, http: httpx2.AsyncClient) -> None:
    answer = await hand_in(http, collector.enrolled(), batch(sample(at_ms=NOW_MS + 600_000)))
    assert answer.json()["quarantined"] == 1
    assert collector.stored() == {}


async def test_two_collectors_on_one_database_take_the_same_batch_once(
    tmp_path: Path, http: httpx2.AsyncClient
) -> None:
    one = batch(sample())
    async with collecting(tmp_path) as second, collecting(tmp_path) as third:
        identity = second.enrolled("london-9")
        for collector, accepted in ((second, 1), (third, 0)):
            client = collector.client(identity)
            receipt = await client.post(encode_batch(one._replace(agent="london-9")))
            await client.close()
            assert receipt.accepted == accepted
        assert second.batches() == 1


async def test_when_an_agent_was_seen_is_kept(collector: Collecting, http: httpx2.AsyncClient) -> None:
    identity = collector.enrolled()
    await hand_in(http, identity, batch(sample(), offset_ms=-250))
    with collector.database.read() as connection:
        found = agents.find_agent(connection, "london-1")
    assert found is not None
    assert (found.last_seen_ms, found.offset_ms) == (NOW_MS, -250)


async def test_attack_wrong_signature(collector: Collecting, http: httpx2.AsyncClient) -> None:
    collector.enrolled()
    answer = await hand_in(http, Identity("london-1", key()), batch(sample()))
    assert_refused(collector, answer, 401, "unauthorised", Refusal.SIGNATURE)


async def test_attack_signature_of_another_request(collector: Collecting, http: httpx2.AsyncClient) -> None:
    identity = collector.enrolled()
    octets = encode_batch(batch(sample()))
    headers = signed(identity, octets, path="/v1/roster")
    answer = await http.post("/v1/samples", content=octets, headers=headers)
    assert_refused(collector, answer, 401, "unauthorised", Refusal.SIGNATURE)


async def test_attack_path_by_host_header_does_not_choose_what_was_signed(
    collector: Collecting, http: httpx2.AsyncClient
) -> None:
    identity = collector.enrolled()
    octets = encode_batch(batch(sample()))
    headers = signed(identity, octets, path="/v1/roster") | {"Host": "x/v1/roster?"}
    answer = await http.post("/v1/samples", content=octets, headers=headers)
    assert_refused(collector, answer, 401, "unauthorised", Refusal.SIGNATURE)


@pytest.mark.parametrize("left_out", [signing.AGENT_HEADER, signing.SIGNATURE_HEADER, signing.DIGEST_HEADER])
async def test_attack_header_left_out(collector: Collecting, http: httpx2.AsyncClient, left_out: str) -> None:
    identity = collector.enrolled()
    octets = encode_batch(batch(sample()))
    headers = {name: value for name, value in signed(identity, octets).items() if name != left_out}
    answer = await http.post("/v1/samples", content=octets, headers=headers)
    assert (answer.status_code, answer.json()) == (401, OTHERS_401)
    assert collector.batches() == 0


async def test_attack_bit_flipped_body(collector: Collecting, http: httpx2.AsyncClient) -> None:
    identity = collector.enrolled()
    octets = bytearray(encode_batch(batch(sample())))
    headers = signed(identity, bytes(octets))
    octets[-3] ^= 4
    answer = await http.post("/v1/samples", content=bytes(octets), headers=headers)
    assert_refused(collector, answer, 401, "unauthorised", Refusal.BODY)


async def test_attack_revoked_agent(collector: Collecting, http: httpx2.AsyncClient) -> None:
    identity = collector.enrolled()
    with collector.database.write() as connection:
        agents.revoke(connection, "london-1", NOW_MS)
    answer = await hand_in(http, identity, batch(sample()))
    assert_refused(collector, answer, 401, "unauthorised", Refusal.REVOKED_AGENT)
    assert answer.json() == OTHERS_401


@pytest.mark.parametrize("name", ["london-2", "../../etc/passwd", "", "x" * 4000])
async def test_attack_unknown_agent_learns_no_more_than_a_revoked_one(
    collector: Collecting, http: httpx2.AsyncClient, name: str
) -> None:
    octets = encode_batch(batch(sample()))
    headers = signed(Identity("london-2", key()), octets) | {signing.AGENT_HEADER: name}
    answer = await http.post("/v1/samples", content=octets, headers=headers)
    assert_refused(collector, answer, 401, "unauthorised", Refusal.UNKNOWN_AGENT)
    assert answer.json() == OTHERS_401
    # A name that is none is not repeated in the log.
    assert collector.lines.of("collector_refused")[0]["agent"] in ("london-2", "")


async def test_attack_ten_thousand_unknown_agents_leave_nothing_behind(
    collector: Collecting, http: httpx2.AsyncClient
) -> None:
    """By ASGI: ten thousand handshakes would only measure TLS. A known agent is served afterwards."""
    identity = collector.enrolled()
    proof = signed(Identity("stranger", key()), b"")

    async def come(number: int) -> int:
        headers = proof | {signing.AGENT_HEADER: f"stranger-{number}"}
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/v1/samples", "query_string": b""}
        scope |= {"headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()]}
        statuses: list[int] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await collector.app(scope, receive, send)
        return statuses[0]

    for start in range(0, 10_000, 500):
        assert set(await asyncio.gather(*(come(number) for number in range(start, start + 500)))) == {401}
    assert collector.state.counts.refused[Refusal.UNKNOWN_AGENT] == 10_000
    assert collector.batches() == 0
    assert (await hand_in(http, identity, batch(sample()))).status_code == 200


async def pour(collector: Collecting, head: str, piece: bytes) -> tuple[int, httpx2.Response]:
    """Send 100 MB after this head, listening meanwhile as curl does: the octets sent until the answer came, and it."""
    context = ssl.create_default_context(cafile=collector.ca)
    reader, writer = await asyncio.open_connection("127.0.0.1", collector.server.port, ssl=context)
    writer.write(head.encode())
    answering = asyncio.create_task(reader.readuntil(b'"}'))
    sent = 0
    while not answering.done() and sent < 100 << 20:
        writer.write(piece)
        sent += len(piece)
        await asyncio.wait((answering, asyncio.create_task(writer.drain())), return_when=asyncio.FIRST_COMPLETED)
    answer = await answering
    writer.transport.abort()
    start, _, body = answer.partition(b"\r\n\r\n")
    return sent, httpx2.Response(int(start.split()[1]), content=body)


def head(identity: Identity, *more: str) -> str:
    own = [f"{name}: {value}" for name, value in signed(identity, b"").items()]
    return "\r\n".join(["POST /v1/samples HTTP/1.1", "Host: collector", *own, *more, "", ""])


@pytest.mark.parametrize("known", [True, False])
async def test_attack_100_mb_body_is_refused_by_its_length(collector: Collecting, known: bool) -> None:
    identity = collector.enrolled() if known else Identity("stranger", key())
    sent, answer = await pour(collector, head(identity, f"Content-Length: {100 << 20}"), bytes(65_536))
    assert_refused(collector, answer, 413, "too_large", Refusal.TOO_LARGE)
    assert sent < 20 << 20


async def test_attack_100_mb_body_without_a_length_is_cut_at_the_limit(collector: Collecting) -> None:
    chunk = b"10000\r\n" + bytes(65_536) + b"\r\n"
    sent, answer = await pour(collector, head(collector.enrolled(), "Transfer-Encoding: chunked"), chunk)
    assert_refused(collector, answer, 413, "too_large", Refusal.TOO_LARGE)
    assert MAX_BATCH_OCTETS < sent < MAX_BATCH_OCTETS + (20 << 20)


async def test_attack_100_mb_body_of_a_stranger_is_not_read(collector: Collecting) -> None:
    chunk = b"10000\r\n" + bytes(65_536) + b"\r\n"
    sent, answer = await pour(collector, head(Identity("stranger", key()), "Transfer-Encoding: chunked"), chunk)
    assert_refused(collector, answer, 401, "unauthorised", Refusal.UNKNOWN_AGENT)
    assert sent < 20 << 20


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 400, "0x10"])
async def test_attack_length_that_is_no_number(collector: Collecting, length: str) -> None:
    context = ssl.create_default_context(cafile=collector.ca)
    reader, writer = await asyncio.open_connection("127.0.0.1", collector.server.port, ssl=context)
    writer.write(f"POST /v1/samples HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))
    assert collector.batches() == 0


async def test_attack_zip_bomb(collector: Collecting, http: httpx2.AsyncClient) -> None:
    identity = collector.enrolled()
    bomb = zlib.compress(bytes(400 << 20), 9)
    for claimed in (400 << 20, 1000, 15 << 20):
        octets = struct.pack("<4sI", b"SMB1", claimed) + bomb
        answer = await http.post("/v1/samples", content=octets, headers=signed(identity, octets))
        assert answer.status_code == 400
        assert answer.json()["error"] == "bad_batch"
    assert collector.state.counts.refused[Refusal.BATCH] == 3
    assert collector.batches() == 0


@pytest.mark.parametrize("octets", [b"", b"SMB1", b"hello" * 100, b"SMB2" + bytes(100)])
async def test_attack_octets_that_are_no_batch(collector: Collecting, http: httpx2.AsyncClient, octets: bytes) -> None:
    identity = collector.enrolled()
    answer = await http.post("/v1/samples", content=octets, headers=signed(identity, octets))
    assert_refused(collector, answer, 400, "bad_batch", Refusal.BATCH)


async def test_attack_path_in_the_location_of_a_batch(collector: Collecting, http: httpx2.AsyncClient) -> None:
    identity = collector.enrolled()
    plain = zlib.decompress(encode_batch(batch(sample()))[8:]).replace(b"\x06london", b"\x06../etc")
    octets = struct.pack("<4sI", b"SMB1", len(plain)) + zlib.compress(plain)
    answer = await http.post("/v1/samples", content=octets, headers=signed(identity, octets))
    assert_refused(collector, answer, 400, "bad_batch", Refusal.BATCH)


@pytest.mark.parametrize("other", [{"location": "paris"}, {"agent": "london-2"}])
async def test_attack_batch_of_another_location_or_agent(
    collector: Collecting, http: httpx2.AsyncClient, other: dict[str, str]
) -> None:
    identity = collector.enrolled()
    answer = await hand_in(http, identity, batch(sample(), **other))
    assert_refused(collector, answer, 403, "not_yours", Refusal.OTHER_AGENT)


async def test_attack_checks_that_an_enrolled_agent_made_up(collector: Collecting, http: httpx2.AsyncClient) -> None:
    collector.put_roster(roster(check("imap"), check("smtps", "paris")))
    identity = collector.enrolled()
    for number, made_up in enumerate(("smtps", "x" * 40), 1):
        answer = await hand_in(http, identity, batch(sample("imap"), sample(made_up)))
        assert_refused(collector, answer, 403, "not_yours", Refusal.OTHER_AGENT, number)
        assert made_up in answer.json()["what"]


async def test_what_any_roster_gave_to_a_location_is_taken_from_it(
    collector: Collecting, http: httpx2.AsyncClient
) -> None:
    identity = collector.enrolled()
    collector.put_roster(roster(check("imap")))
    assert (await hand_in(http, identity, batch(sample("imap"), sample("control")))).status_code == 200
    collector.put_roster(roster(check("pop3"), version=2))
    answer = await hand_in(http, identity, batch(sample("imap", NOW_MS + 60_000), sample("pop3")))
    assert answer.json()["accepted"] == 2


async def test_attack_rosters_asked_for_without_end(
    collector: Collecting, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    identity = collector.enrolled()
    found = agents.rosters_from

    def slow(connection: Any, minute: int) -> Any:
        held.wait(20)
        return found(connection, minute)

    monkeypatch.setattr(agents, "rosters_from", slow)
    headers = signed(identity, b"", "/v1/roster", "GET")
    answers = [asyncio.create_task(http.get("/v1/roster", headers=headers)) for _ in range(5)]
    try:
        while collector.state.counts.refused[Refusal.BUSY] < 3:
            await asyncio.sleep(0.01)
    finally:
        held.set()
    assert sorted([answer.status_code for answer in await asyncio.gather(*answers)]) == [200, 200, 429, 429, 429]
    assert (await http.get("/v1/roster", headers=headers)).status_code == 200


async def test_a_known_agent_hands_in_two_batches_at_once_no_more(collector: Collecting) -> None:
    identity = collector.enrolled()
    octets = encode_batch(batch(sample()))
    context = ssl.create_default_context(cafile=collector.ca)
    head = "".join(f"{name}: {value}\r\n" for name, value in signed(identity, octets).items())
    request = f"POST /v1/samples HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(octets)}\r\n\r\n".encode()
    slow = [await asyncio.open_connection("127.0.0.1", collector.server.port, ssl=context) for _ in range(3)]
    answers = [asyncio.create_task(reader.read(2_000)) for reader, _ in slow]
    for _, writer in slow:
        writer.write(request + octets[:-1])
    done, waiting = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result().startswith(b"HTTP/1.1 429") for task in done] == [True]
    for _, writer in slow:
        writer.write(octets[-1:])
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in await asyncio.gather(*waiting))
    for _, writer in slow:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    assert collector.state.counts.refused[Refusal.BUSY] == 1


async def test_when_nothing_can_be_stored_the_agent_keeps_its_samples(
    collector: Collecting, http: httpx2.AsyncClient
) -> None:
    identity = collector.enrolled()
    collector.store.stop()
    answer = await hand_in(http, identity, batch(sample()))
    assert_refused(collector, answer, 503, "unavailable", Refusal.STORE)


# Enrolment


def asked(token: str, **fields: str) -> dict[str, str]:
    _, _, public_key = new_key()
    return {"token": token, "name": "london-1", "location": "london", "public_key": public_key} | fields


async def enrol(http: httpx2.AsyncClient, form: object) -> httpx2.Response:
    return await http.post("/v1/enrol", content=json.dumps(form).encode())


def known(collector: Collecting) -> list[str]:
    with collector.database.read() as connection:
        return [one.name for one in agents.list_agents(connection)]


async def test_an_agent_enrols_with_its_token_and_hands_in(collector: Collecting, http: httpx2.AsyncClient) -> None:
    private, _, public_key = new_key()
    answer = await enrol(http, asked(collector.token(), public_key=public_key))
    assert answer.status_code == 200
    assert answer.json() == {"name": "london-1", "location": "london", "enrolled_ms": NOW_MS}
    assert collector.lines.of("agent_enrolled") == [{"agent": "london-1", "location": "london", "address": "127.0.0.1"}]
    assert (await hand_in(http, Identity("london-1", private), batch(sample()))).status_code == 200


async def test_attack_replayed_token(collector: Collecting, http: httpx2.AsyncClient) -> None:
    form = asked(collector.token())
    await enrol(http, form)
    assert_refused(collector, await enrol(http, form), 403, "token_used", Refusal.TOKEN_USED)
    answer = await enrol(http, form | {"name": "london-2"})
    assert_refused(collector, answer, 403, "token_used", Refusal.TOKEN_USED, times=2)
    assert known(collector) == ["london-1"]


async def test_attack_expired_token(collector: Collecting, http: httpx2.AsyncClient) -> None:
    token = collector.token(life_ms=60_000)
    collector.time.jump(60_000)
    assert_refused(collector, await enrol(http, asked(token)), 403, "token_expired", Refusal.TOKEN_EXPIRED)
    assert known(collector) == []


async def test_attack_guessed_token(collector: Collecting, http: httpx2.AsyncClient) -> None:
    collector.token()
    answer = await enrol(http, asked("london.guess"))
    assert_refused(collector, answer, 403, "token_unknown", Refusal.TOKEN_UNKNOWN)


async def test_attack_token_that_no_text_can_be(collector: Collecting, http: httpx2.AsyncClient) -> None:
    collector.token()
    answer = await enrol(http, asked("london.\ud800\udc80\udfff"))
    assert_refused(collector, answer, 403, "token_unknown", Refusal.TOKEN_UNKNOWN)


async def test_attack_token_of_another_location(collector: Collecting, http: httpx2.AsyncClient) -> None:
    answer = await enrol(http, asked(collector.token("paris")))
    assert_refused(collector, answer, 403, "token_unknown", Refusal.TOKEN_UNKNOWN)


async def test_attack_name_of_a_living_agent(collector: Collecting, http: httpx2.AsyncClient) -> None:
    collector.enrolled()
    answer = await enrol(http, asked(collector.token()))
    assert_refused(collector, answer, 409, "name_taken", Refusal.NAME_TAKEN)


@pytest.mark.parametrize("field", ["location", "name"])
@pytest.mark.parametrize("value", ["../../etc", "/etc", "a/b", "London", "", "a.b", "a\n", "-a", "a" * 41, "lon\0don"])
async def test_attack_path_in_location_name(
    collector: Collecting, http: httpx2.AsyncClient, field: str, value: str
) -> None:
    answer = await enrol(http, asked(collector.token(), **{field: value}))
    assert_refused(collector, answer, 400, "bad_name", Refusal.NAME)
    assert known(collector) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[" * 10_000,
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'{"token": 1, "name": "a", "location": "b", "public_key": "c"}',
        b'{"token": "t", "name": "a", "location": "b", "public_key": "c", "more": "d"}',
        b'{"token": "t", "name": "a", "location": "b", "public_key": "no key"}',
    ],
)
async def test_attack_form_that_is_none(collector: Collecting, http: httpx2.AsyncClient, body: bytes) -> None:
    answer = await http.post("/v1/enrol", content=body)
    assert_refused(collector, answer, 400, "malformed", Refusal.MALFORMED)


async def test_attack_large_form(collector: Collecting, http: httpx2.AsyncClient) -> None:
    answer = await http.post("/v1/enrol", content=bytes(17 << 10))
    assert_refused(collector, answer, 413, "too_large", Refusal.TOO_LARGE)


async def test_a_token_does_not_stand_in_the_log_or_the_database(
    collector: Collecting, http: httpx2.AsyncClient, tmp_path: Path
) -> None:
    token = collector.token()
    await enrol(http, asked(token))
    await enrol(http, asked(token))
    assert token not in repr(collector.lines.said)
    stored = b"".join(file.read_bytes() for file in tmp_path.glob("smartmail.db*"))
    assert token.encode() not in stored


# The roster and the time


async def ask_roster(http: httpx2.AsyncClient, identity: Identity, **headers: str) -> httpx2.Response:
    return await http.get("/v1/roster", headers=signed(identity, b"", "/v1/roster", "GET") | headers)


async def test_an_agent_is_told_the_roster_in_force_and_those_to_come_of_its_location(
    collector: Collecting, http: httpx2.AsyncClient
) -> None:
    identity = collector.enrolled()
    old, now = roster(check("old"), from_minute=MINUTE - 9), roster(check("a"), check("b", "paris"), version=2)
    coming = roster(check("c"), version=3, from_minute=MINUTE + 5)
    now = type(now)(2, MINUTE - 5, now.locations, now.checks)
    for one in (old, now, coming):
        collector.put_roster(one)
    answer = await ask_roster(http, identity)
    found = [roster_from_json(one) for one in answer.json()["rosters"]]
    assert [(one.version, [each.name for each in one.checks]) for one in found] == [(2, ["a"]), (3, ["c"])]


async def test_a_roster_that_is_known_is_not_sent_again(collector: Collecting, http: httpx2.AsyncClient) -> None:
    identity = collector.enrolled()
    collector.put_roster(roster(check("a")))
    tag = (await ask_roster(http, identity)).headers["etag"]
    again = await ask_roster(http, identity, **{"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    collector.put_roster(roster(check("b"), version=2, from_minute=MINUTE))
    assert (await ask_roster(http, identity, **{"If-None-Match": tag})).status_code == 200


async def test_attack_stranger_asks_for_the_roster(collector: Collecting, http: httpx2.AsyncClient) -> None:
    collector.put_roster(roster(check("a")))
    answer = await ask_roster(http, Identity("stranger", key()))
    assert_refused(collector, answer, 401, "unauthorised", Refusal.UNKNOWN_AGENT)


async def test_the_time_is_told_to_anybody(collector: Collecting, http: httpx2.AsyncClient) -> None:
    assert (await http.get("/v1/time")).json() == {"now_ms": NOW_MS}


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc", "/openapi.json", "/v1", "/v1/samples/..", "/v2/time"])
async def test_there_is_nothing_else(collector: Collecting, http: httpx2.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"] == "no_such_place"


async def test_a_method_that_an_endpoint_does_not_have(collector: Collecting, http: httpx2.AsyncClient) -> None:
    answer = await http.get("/v1/samples")
    assert_refused(collector, answer, 404, "no_such_place", Refusal.NO_SUCH_PLACE)


async def test_without_tls_nobody_is_heard(collector: Collecting) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", collector.server.port)
    writer.write(b"GET /v1/time HTTP/1.1\r\nHost: x\r\n\r\n")
    with suppress(ConnectionResetError):
        assert b"200" not in await reader.read()
    writer.close()


async def test_attack_connection_that_never_asks_is_ended(
    collector: Collecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartmail.web.serving.HEAD_SECONDS", 0.05)
    context = ssl.create_default_context(cafile=collector.ca)
    for started in (b"", b"GET /v1/time HTTP/1.1\r\nHo"):
        reader, writer = await asyncio.open_connection("127.0.0.1", collector.server.port, ssl=context)
        writer.write(started)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()
        await writer.wait_closed()


async def test_attack_connections_that_take_up_all_handles(collector: Collecting, http: httpx2.AsyncClient) -> None:
    assert (await http.get("/v1/time")).status_code == 200
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    held = [socket.socket() for _ in range(3)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        for one in held:
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(("127.0.0.1", collector.server.port))
        async with asyncio.timeout(20):
            ends = await asyncio.gather(*(_end_of(one) for one in held))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in held:
            one.close()
    assert ends == [b"", b"", b""]
    assert faults == []
    assert (await http.get("/v1/time")).status_code == 200


async def _end_of(connected: socket.socket) -> bytes:
    try:
        return await asyncio.get_running_loop().sock_recv(connected, 100)
    except ConnectionError:
        return b""
