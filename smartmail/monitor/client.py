"""How an agent speaks to its collectors: signed requests over HTTPS, the collectors tried in turn."""

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx2
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smartmail.core import signing
from smartmail.core.roster import Roster, RosterError, roster_from_json
from smartmail.core.sample import MAX_MS

EARLIEST_MS: Final = 1_577_836_800_000
"""2020: a clock before it was never set."""
MAX_ANSWER_OCTETS: Final = 32 << 20
"""A roster of 10,000 checks is about 3 MB."""
WHOLE_SECONDS: Final = 180
"""For one question and its whole answer: what drips would else hold up everything behind it for ever."""
NEVER: Final = frozenset({"bad_batch", "bad_name", "not_yours", "too_large"})
"""Codes of the collector that it will say again, whenever the same batch comes."""


class ClientError(Exception):
    """Base of what may go wrong; the message is for an operator."""


class Unreachable(ClientError):
    """No collector gave an answer that can be used; later it may."""


class RefusedByCollector(ClientError):
    """A collector says no. code: its word for why, "" where it is not one of ours."""

    def __init__(self, status: int, code: str, what: str) -> None:
        super().__init__(f"{status} {code or 'refused'}: {what}")
        self.status = status
        self.code = code
        self.what = what

    @property
    def for_ever(self) -> bool:
        """The same request will never be taken."""
        return self.code in NEVER


class KeyUnusable(ClientError):
    """The agent's private key cannot be read."""


@dataclass(frozen=True, slots=True)
class Told:
    """The collector's time (epoch ms), and when we asked and heard by our steady clock."""

    sent_ms: int
    server_ms: int
    received_ms: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a batch."""

    accepted: int
    duplicates: int
    quarantined: int
    conflicts: int


@dataclass(frozen=True, slots=True)
class Rosters:
    """The roster in force and those to come; tag: to be shown when asking again. body: as it came."""

    rosters: tuple[Roster, ...]
    tag: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Answer:
    url: str
    status: int
    tag: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signs."""

    name: str
    key: Ed25519PrivateKey

    def headers(self, method: str, path: str, body: bytes) -> dict[str, str]:
        """The headers that prove that this request is ours."""
        digest = signing.digest_of(body)
        signature = self.key.sign(signing.signed_text(self.name, method, path, digest))
        return {
            signing.AGENT_HEADER: self.name,
            signing.SIGNATURE_HEADER: signing.write_base64(signature),
            signing.DIGEST_HEADER: signing.digest_header(digest),
        }


def new_key() -> tuple[Ed25519PrivateKey, bytes, str]:
    """A key, its PEM to be kept (unencrypted, for the agent alone), and the public part in base64."""
    key = Ed25519PrivateKey.generate()
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(encoding, form, serialization.NoEncryption())
    return key, pem, signing.write_base64(key.public_key().public_bytes_raw())


def read_key(file: Path) -> Ed25519PrivateKey:
    """The private key in a file. Raises KeyUnusable, also when others may read it."""
    try:
        if file.stat().st_mode & 0o077:
            raise KeyUnusable(f"{file}: others may read it; make it 0600, or enrol anew")
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except OSError as error:
        raise KeyUnusable(f"{file}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(f"{file}: this is no private key in PEM form") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnusable(f"{file}: this is no Ed25519 key")
    return key


def tls_context(authority: Path | None) -> ssl.SSLContext:
    """Verifies the collector's chain and name against `authority` (PEM), else the system's. Raises OSError."""
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Collectors:
    """The collectors of one agent. It stays with one that answers; one that does not is left for the next."""

    def __init__(
        self, urls: Sequence[str], tls: ssl.SSLContext, steady_ms: Callable[[], int], identity: Identity | None = None
    ) -> None:
        """urls: https://host[:port], in the order they are tried in. identity: None only enrols and asks the time."""
        self._urls = tuple(url.rstrip("/") for url in urls)
        self._steady_ms = steady_ms
        self._identity = identity
        self._now = 0
        self._http = httpx2.AsyncClient(
            verify=tls,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx2.Timeout(30, connect=10),
            limits=httpx2.Limits(max_connections=4, keepalive_expiry=70),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    @property
    def url(self) -> str:
        """The collector asked next."""
        return self._urls[self._now]

    async def enrol(self, token: str, name: str, location: str, public_key: str) -> None:
        """Have this key known as agent `name` at `location`. Raises ClientError."""
        form = {"token": token, "name": name, "location": location, "public_key": public_key}
        # One only: a token spent at a collector whose answer was lost must not be tried at the next.
        await self._ask(self.url, "POST", "/v1/enrol", json.dumps(form).encode(), {})

    async def time(self) -> Told:
        """What time it is there. Raises ClientError."""
        sent_ms = self._steady_ms()
        answer = await self._any("GET", "/v1/time")
        received_ms = self._steady_ms()
        now_ms = _integer(_object(answer), "now_ms")
        if not EARLIEST_MS < now_ms <= MAX_MS:
            raise Unreachable(f"{answer.url}: its clock is not set, it says {now_ms} ms since 1970")
        return Told(sent_ms, now_ms, received_ms)

    async def roster(self, tag: str = "") -> Rosters | None:
        """The rosters; None when they are the ones with this tag. Raises ClientError."""
        answer = await self._any("GET", "/v1/roster", headers={"If-None-Match": tag} if tag else {})
        if answer.status == 304:
            return None
        return Rosters(read_rosters(answer.body), answer.tag, answer.body)

    async def post(self, octets: bytes) -> Receipt:
        """Hand in a batch. When this returns, the collector has it on its disk. Raises ClientError."""
        answer = _object(await self._any("POST", "/v1/samples", octets))
        names = ("accepted", "duplicates", "quarantined", "conflicts")
        return Receipt(*(_integer(answer, name) for name in names))

    async def _any(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> _Answer:
        """Ask the collectors in turn, from the one that answered last."""
        failures: list[ClientError] = []
        for _ in self._urls:
            try:
                return await self._ask(self.url, method, path, body, headers or {})
            except RefusedByCollector as error:
                if error.for_ever:
                    raise
                failures.append(error)
            except Unreachable as error:
                failures.append(error)
            self._now = (self._now + 1) % len(self._urls)
        refusals = [one for one in failures if isinstance(one, RefusedByCollector)]
        raise refusals[0] if len(refusals) == len(failures) else Unreachable("; ".join(map(str, failures)))

    async def _ask(self, url: str, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> _Answer:
        signed = self._identity.headers(method, path, body) if self._identity else {}
        try:
            async with (
                asyncio.timeout(WHOLE_SECONDS),
                self._http.stream(method, url + path, content=body, headers={**headers, **signed}) as response,
            ):
                content = await _bounded(response)
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as error:
            raise Unreachable(f"{url}: {str(error) or type(error).__name__}") from error
        answer = _Answer(url, response.status_code, response.headers.get("etag", ""), content)
        if answer.status in (200, 304):
            return answer
        raise _refusal(answer)


async def _bounded(response: httpx2.Response) -> bytes:
    """The whole answer, unless it is larger than any of ours."""
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > MAX_ANSWER_OCTETS:
            raise Unreachable(f"{response.url}: an answer of more than {MAX_ANSWER_OCTETS} octets")
        parts.append(part)
    return b"".join(parts)


def read_rosters(text: str | bytes) -> tuple[Roster, ...]:
    """The rosters in what a collector sent, or in what was kept of it. Raises Unreachable when it is none."""
    try:
        value: Any = json.loads(text)
        return tuple(roster_from_json(one) for one in value["rosters"])
    except (ValueError, RecursionError, KeyError, TypeError, RosterError) as error:
        raise Unreachable(f"this is no roster: {error}") from error


def _refusal(answer: _Answer) -> ClientError:
    try:
        value: Any = json.loads(answer.body)
        return RefusedByCollector(answer.status, str(value["error"]), str(value["what"]))
    except (ValueError, RecursionError, KeyError, TypeError):
        # A proxy or another server at that address: what it says is not about our batch.
        return Unreachable(f"{answer.url}: {answer.status}, and not from a collector")


def _object(answer: _Answer) -> dict[str, Any]:
    try:
        value: Any = json.loads(answer.body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Unreachable(f"{answer.url}: the answer is not a collector's")
    return value


def _integer(answer: Mapping[str, Any], name: str) -> int:
    value = answer.get(name)
    if not isinstance(value, int):
        raise Unreachable(f"the collector's answer has no {name}")
    return value
