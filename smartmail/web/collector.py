"""The collector: where agents enrol, hand in samples, and fetch the roster and the time.

The way of a batch: signature judged on the headers alone -> body read within bounds and held against the signed
digest -> decoded -> whose is it? -> stored -> 200. A stranger never makes us read a body, and 200 is said only for
samples that are durable.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from fastapi import FastAPI, Request
from sqlalchemy import Connection
from starlette.responses import JSONResponse, Response

from smartmail.core import signing
from smartmail.core.roster import CONTROL, NAME, Roster
from smartmail.core.sample import Batch, SampleError, decode_batch
from smartmail.store import agents
from smartmail.store.agents import AgentRecord
from smartmail.store.database import Database
from smartmail.store.errors import Conflict, StoreError, StoreUnavailable
from smartmail.store.sample_writer import Taken
from smartmail.web.app import (
    MAX_BATCH_OCTETS,
    MAX_FORM_OCTETS,
    UNAUTHORISED,
    CollectorCounts,
    CollectorEvents,
    Refusal,
    Refused,
    check_length,
    install_refusals,
    read_body,
    read_form,
)

MAX_SAMPLES: Final = 20_000
"""In one batch."""
MAX_PLAIN_OCTETS: Final = 16 << 20
"""Of one batch when its compression is undone."""
AT_ONCE: Final = 2
"""Batches that one agent may be handing in at the same time."""
SEEN_EVERY_MS: Final = 15_000
"""When an agent was last seen is written no more often than this."""
_INLINE_OCTETS: Final = 16 << 10
"""Larger batches are decoded beside the loop."""
_DATABASE_AT_ONCE: Final = 8
_NOTHING: Final[frozenset[str]] = frozenset()

T = TypeVar("T")


class Samples(Protocol):
    """Where batches go: SampleStore."""

    def put(self, octets: bytes, batch: Batch, received_ms: int) -> "Future[Taken]":
        """The future ends when the batch is durable, or in StoreError: then nothing of it is stored."""


@dataclass(slots=True)
class CollectorState:
    """What the collector works on. now_ms: the clock that samples are measured against."""

    database: Database
    samples: Samples
    now_ms: Callable[[], int]
    events: CollectorEvents
    counts: CollectorCounts = field(default_factory=CollectorCounts)


def collector_app(state: CollectorState) -> FastAPI:
    """The ASGI application. It has no pages that describe it: strangers have no business here."""
    app = FastAPI(title="smartmail collector", openapi_url=None, docs_url=None, redoc_url=None)
    collector = _Collector(state)
    app.add_api_route("/v1/time", collector.time, methods=["GET"])
    app.add_api_route("/v1/enrol", collector.enrol, methods=["POST"])
    app.add_api_route("/v1/samples", collector.samples, methods=["POST"])
    app.add_api_route("/v1/roster", collector.roster, methods=["GET"])
    install_refusals(app, state.counts, state.events)
    return app


class _Collector:
    def __init__(self, state: CollectorState) -> None:
        self._state = state
        self._busy: Counter[tuple[str, str]] = Counter()
        self._given: dict[str, frozenset[str]] = {}
        self._seen: dict[str, int] = {}
        self._database = asyncio.Semaphore(_DATABASE_AT_ONCE)
        # A signature by nobody is judged against this, so that it takes as long as one by somebody.
        self._nobody = Ed25519PublicKey.from_public_bytes(bytes(range(signing.KEY_OCTETS)))

    async def time(self) -> Response:
        """GET /v1/time: {"now_ms"}."""
        return JSONResponse({"now_ms": self._state.now_ms()})

    async def enrol(self, request: Request) -> Response:
        """POST /v1/enrol {token, name, location, public_key} -> {name, location, enrolled_ms}."""
        body = await read_body(request, MAX_FORM_OCTETS)
        token, name, location, public_key = read_form(body, ("token", "name", "location", "public_key"))
        for what, value in (("name", name), ("location", location)):
            if not NAME.match(value):
                raise Refused(Refusal.NAME, f"{what}: small letters, digits and -, 40 at most, beginning with no -")
        try:
            signing.read_base64(public_key, signing.KEY_OCTETS)
        except signing.SigningError as error:
            raise Refused(Refusal.MALFORMED, f"public_key: {error}", agent=name) from None
        asked = agents.Enrolment(signing.token_digest(token), name, location, public_key)
        record = await self._enrol(asked)
        self._state.counts.enrolled += 1
        address = request.client.host if request.client else ""
        self._state.events.agent_enrolled(agent=name, location=location, address=address)
        return JSONResponse({"name": name, "location": location, "enrolled_ms": record.enrolled_ms})

    async def samples(self, request: Request) -> Response:
        """POST /v1/samples: the octets of a batch -> {received_ms, accepted, duplicates, quarantined, conflicts}."""
        check_length(request, MAX_BATCH_OCTETS)
        agent, digest = await self._authenticated(request)
        with self._one_of_few(agent.name, "hands in {} batches"):
            return await self._take(request, agent, digest)

    async def roster(self, request: Request) -> Response:
        """GET /v1/roster -> {rosters: [the one in force and those to come]}, with the asker's own checks only. 304
        when the asker has it."""
        agent, digest = await self._authenticated(request)
        if digest != signing.digest_of(b""):
            raise Refused(Refusal.BODY, UNAUTHORISED, agent=agent.name)
        minute = self._state.now_ms() // 60_000
        with self._one_of_few(agent.name, "asks for {} rosters"):
            # Of ten thousand checks it is megabytes: nothing to be written out on the loop.
            body = await self._read(lambda connection: _rosters(connection, minute, agent.location))
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        self._state.counts.rosters += 1
        return Response(body, media_type="application/json", headers=headers)

    @contextmanager
    def _one_of_few(self, agent: str, what: str) -> Iterator[None]:
        """For a request of which an agent may have AT_ONCE under way. Raises Refused."""
        if self._busy[agent, what] >= AT_ONCE:
            raise Refused(Refusal.BUSY, f"one agent {what.format(AT_ONCE)} at once, no more", agent=agent)
        self._busy[agent, what] += 1
        try:
            yield
        finally:
            self._busy[agent, what] -= 1
            self._busy += Counter()  # drops what is at zero

    async def _authenticated(self, request: Request) -> tuple[AgentRecord, bytes]:
        """Who asks, and the digest of the body that the signature is for. Raises Refused."""
        name = request.headers.get(signing.AGENT_HEADER, "")
        if not NAME.match(name):
            raise Refused(Refusal.UNKNOWN_AGENT, UNAUTHORISED)
        try:
            digest = signing.read_digest_header(request.headers.get(signing.DIGEST_HEADER, ""))
            octets = request.headers.get(signing.SIGNATURE_HEADER, "")
            signature = signing.read_base64(octets, signing.SIGNATURE_OCTETS)
        except signing.SigningError:
            raise Refused(Refusal.SIGNATURE, UNAUTHORISED, agent=name) from None
        record = await self._read(lambda connection: agents.find_agent(connection, name))
        text = signing.signed_text(name, request.method, request.scope["path"], digest)
        right = self._signed(record, signature, text)
        if record is None:
            raise Refused(Refusal.UNKNOWN_AGENT, UNAUTHORISED, agent=name)
        if not right:
            raise Refused(Refusal.SIGNATURE, UNAUTHORISED, agent=name)
        if record.revoked_ms is not None:
            raise Refused(Refusal.REVOKED_AGENT, UNAUTHORISED, agent=name)
        return record, digest

    def _signed(self, record: AgentRecord | None, signature: bytes, text: bytes) -> bool:
        key = self._nobody
        if record is not None:
            key = Ed25519PublicKey.from_public_bytes(signing.read_base64(record.public_key, signing.KEY_OCTETS))
        try:
            key.verify(signature, text)
        except InvalidSignature:
            return False
        return True

    async def _take(self, request: Request, agent: AgentRecord, digest: bytes) -> Response:
        body = await read_body(request, MAX_BATCH_OCTETS, agent=agent.name)
        received_ms = self._state.now_ms()
        if signing.digest_of(body) != digest:
            raise Refused(Refusal.BODY, UNAUTHORISED, agent=agent.name)
        batch = await _decoded(body, agent)
        await self._look_at_checks(batch)
        try:
            receipt = await self._stored(body, batch, received_ms)
        except StoreError as error:
            raise Refused(Refusal.STORE, "the samples cannot be stored now", agent=agent.name) from error
        self._count(body, batch, receipt)
        await self._note_seen(batch, received_ms)
        answer = {
            "received_ms": received_ms,
            "accepted": receipt.accepted,
            "duplicates": receipt.duplicates,
            "quarantined": receipt.quarantined,
            "conflicts": receipt.conflicts,
        }
        return JSONResponse(answer)

    async def _look_at_checks(self, batch: Batch) -> None:
        """Refuse what no roster ever gave to the location: nobody would ever judge it, and each name that an agent
        makes up would be memory and a row for ever. (Before the first roster there is nothing to go by.)"""
        names = {sample.check for sample in batch.samples} - {CONTROL}
        if names <= self._given.get(batch.location, _NOTHING):
            return
        self._given = await self._read(agents.checks_by_location)
        if self._given and (strange := names - self._given.get(batch.location, _NOTHING)):
            what = f"no roster gave {min(strange)} to {batch.location}"
            raise Refused(Refusal.OTHER_AGENT, what, agent=batch.agent)

    async def _stored(self, body: bytes, batch: Batch, received_ms: int) -> Taken:
        # Shielded: the writer cannot take a batch back when the request is cancelled.
        return await asyncio.shield(asyncio.wrap_future(self._state.samples.put(body, batch, received_ms)))

    def _count(self, body: bytes, batch: Batch, receipt: Taken) -> None:
        counts = self._state.counts
        counts.batches += 1
        counts.octets += len(body)
        counts.samples += receipt.accepted
        counts.duplicates += receipt.duplicates
        counts.quarantined += receipt.quarantined
        counts.conflicts += receipt.conflicts
        if receipt.quarantined or receipt.conflicts:
            self._state.events.batch_questioned(
                agent=batch.agent,
                location=batch.location,
                quarantined=receipt.quarantined,
                conflicts=receipt.conflicts,
            )

    async def _note_seen(self, batch: Batch, now_ms: int) -> None:
        """For the list of agents, so it need not be exact; the samples are stored already, whatever becomes of it."""
        if abs(now_ms - self._seen.get(batch.agent, 0)) < SEEN_EVERY_MS:
            return
        self._seen[batch.agent] = now_ms
        try:
            await self._write(lambda connection: agents.note_seen(connection, batch.agent, now_ms, batch.offset_ms))
        except Refused as error:
            self._state.counts.refused[error.reason] += 1

    async def _enrol(self, asked: agents.Enrolment) -> AgentRecord:
        now_ms = self._state.now_ms()
        try:
            return await self._write(lambda connection: agents.enrol(connection, asked, now_ms))
        except agents.TokenRefused as error:
            reason = Refusal.TOKEN_UNKNOWN
            if isinstance(error, agents.TokenUsed):
                reason = Refusal.TOKEN_USED
            elif isinstance(error, agents.TokenExpired):
                reason = Refusal.TOKEN_EXPIRED
            raise Refused(reason, str(error), agent=asked.name) from None
        except Conflict as error:
            raise Refused(Refusal.NAME_TAKEN, str(error), agent=asked.name) from None

    async def _read(self, work: Callable[[Connection], T]) -> T:
        def run() -> T:
            with self._state.database.read() as connection:
                return work(connection)

        return await self._beside(run)

    async def _write(self, work: Callable[[Connection], T]) -> T:
        def run() -> T:
            with self._state.database.write() as connection:
                return work(connection)

        return await self._beside(run)

    async def _beside(self, run: Callable[[], T]) -> T:
        """Run a transaction in a thread. Raises Refused when the database does not answer."""
        try:
            async with self._database:
                return await asyncio.to_thread(run)
        except StoreUnavailable as error:
            raise Refused(Refusal.STORE, "the collector cannot reach its database now") from error


async def _decoded(body: bytes, agent: AgentRecord) -> Batch:
    def decode() -> Batch:
        return decode_batch(body, max_samples=MAX_SAMPLES, max_octets=MAX_PLAIN_OCTETS)

    try:
        batch = decode() if len(body) <= _INLINE_OCTETS else await asyncio.to_thread(decode)
    except SampleError as error:
        raise Refused(Refusal.BATCH, f"{error.reason}: {error}", agent=agent.name) from None
    if batch.agent != agent.name or batch.location != agent.location:
        what = f"{agent.name} is an agent at {agent.location}, not {batch.agent} at {batch.location}"
        raise Refused(Refusal.OTHER_AGENT, what, agent=agent.name)
    return batch


def _rosters(connection: Connection, minute: int, location: str) -> bytes:
    rosters = agents.rosters_from(connection, minute)
    return json.dumps({"rosters": [_for_location(one, location) for one in rosters]}).encode()


def _for_location(roster: Roster, location: str) -> dict[str, object]:
    """What an agent is told: its own checks, nobody else's."""
    value: dict[str, object] = roster.to_json()
    names = {check.name for check in roster.of_location(location)}
    checks = roster.to_json()["checks"]
    return value | {"checks": [one for one in checks if one["name"] in names]}
