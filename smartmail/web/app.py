"""What the endpoints of the collector share: refusals in one form, each counted; bodies read within bounds.

A refusal is `{"error": code, "what": text}` with the status of its code. The code says no more than a stranger may
know; the reason that is counted and logged says it exactly.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Final, Protocol

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

MAX_BATCH_OCTETS: Final = 8 << 20
MAX_FORM_OCTETS: Final = 16 << 10
BODY_SECONDS: Final = 60
"""Time for a body to come in whole."""
LINGER_SECONDS: Final = 1
LINGER_OCTETS: Final = 4 << 20
"""Of a refused body, read and thrown away."""
_READ: Final = "smartmail.body_read"


class Refusal(StrEnum):
    """Why a request was refused: the closed list that is counted."""

    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    DISCONNECTED = "disconnected"
    """Gone before its body was whole."""
    MALFORMED = "malformed"
    """A header or a form that cannot be."""
    NAME = "name"
    """A name that is none, as one with a path in it."""
    UNKNOWN_AGENT = "unknown_agent"
    REVOKED_AGENT = "revoked_agent"
    SIGNATURE = "signature"
    BODY = "body"
    """The signature is right, but the body is not the one it was made for."""
    BATCH = "batch"
    """The octets are no batch."""
    OTHER_AGENT = "other_agent"
    """A batch in another agent's name, of another location, or of a check that its location never had."""
    BUSY = "busy"
    """The agent hands in, or asks, more at once than it may."""
    TOKEN_UNKNOWN = "token_unknown"  # noqa: S105 - a word of the list, no secret
    TOKEN_USED = "token_used"  # noqa: S105
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    NAME_TAKEN = "name_taken"
    NO_SUCH_PLACE = "no_such_place"
    """A path or method that the collector does not have."""
    STORE = "store"
    """Our own fault: the database does not answer."""


_ANSWERS: Final[Mapping[Refusal, tuple[int, str]]] = {
    Refusal.TOO_LARGE: (413, "too_large"),
    Refusal.TOO_SLOW: (408, "too_slow"),
    Refusal.DISCONNECTED: (400, "malformed"),
    Refusal.MALFORMED: (400, "malformed"),
    Refusal.NAME: (400, "bad_name"),
    Refusal.UNKNOWN_AGENT: (401, "unauthorised"),
    Refusal.REVOKED_AGENT: (401, "unauthorised"),
    Refusal.SIGNATURE: (401, "unauthorised"),
    Refusal.BODY: (401, "unauthorised"),
    Refusal.BATCH: (400, "bad_batch"),
    Refusal.OTHER_AGENT: (403, "not_yours"),
    Refusal.BUSY: (429, "busy"),
    Refusal.TOKEN_UNKNOWN: (403, "token_unknown"),
    Refusal.TOKEN_USED: (403, "token_used"),
    Refusal.TOKEN_EXPIRED: (403, "token_expired"),
    Refusal.NAME_TAKEN: (409, "name_taken"),
    Refusal.NO_SUCH_PLACE: (404, "no_such_place"),
    Refusal.STORE: (503, "unavailable"),
}
"""Status and code for each reason. One code for all that concerns who asks: it must not tell which agents exist."""

UNAUTHORISED: Final = "this agent is not known, or the signature is not its own"


@dataclass(slots=True)
class CollectorCounts:
    """What the collector has done since it started; plain integers that only the loop writes."""

    batches: int = 0
    samples: int = 0
    duplicates: int = 0
    quarantined: int = 0
    conflicts: int = 0
    octets: int = 0
    """Of accepted batches, as they came."""
    enrolled: int = 0
    rosters: int = 0
    """Rosters handed out; not counted when the agent had it already."""
    refused: dict[Refusal, int] = field(default_factory=lambda: dict.fromkeys(Refusal, 0))


class CollectorEvents(Protocol):
    """The operator's log, as the collector needs it."""

    def agent_enrolled(self, *, agent: str, location: str, address: str) -> None:
        """A token was spent. address: whence."""

    def collector_refused(self, *, reason: str, agent: str, address: str, what: str) -> None:
        """A request was refused. agent: the name it gave where that is one, else "". what: as answered."""

    def batch_questioned(self, *, agent: str, location: str, quarantined: int, conflicts: int) -> None:
        """A batch was taken, but some of its samples were not."""


class Refused(Exception):
    """Ends a request: the reason and what the asker is told."""

    def __init__(self, reason: Refusal, what: str, *, agent: str = "") -> None:
        super().__init__(what)
        self.reason = reason
        self.what = what
        self.agent = agent


def install_refusals(app: FastAPI, counts: CollectorCounts, events: CollectorEvents) -> None:
    """Have every refusal of `app` answered in one form, counted and logged."""

    async def refused(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            what = f"there is no {request.method} here" if error.status_code == 405 else "there is nothing here"
            error = Refused(Refusal.NO_SUCH_PLACE, what)
        if not isinstance(error, Refused):
            raise error
        counts.refused[error.reason] += 1
        address = request.client.host if request.client else ""
        events.collector_refused(reason=error.reason.value, agent=error.agent, address=address, what=error.what)
        status, code = _ANSWERS[error.reason]
        return _Refusing({"error": code, "what": error.what}, HTTPStatus(status), {"Connection": "close"})

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(HTTPException, refused)


class _Refusing(JSONResponse):
    """An answer that is given while the body may still be coming in.

    Closing at once would make the kernel reset the connection, and the answer could be lost with it. So for a moment
    what comes is read and thrown away.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if not scope.get(_READ):
            await _throw_away(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _throw_away(receive: Receive) -> None:
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while size < LINGER_OCTETS:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body"):
                    return


def check_length(request: Request, limit: int) -> None:
    """Refuse, before anything is read, a body that says it is larger than `limit`."""
    declared = request.headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdecimal():
        raise Refused(Refusal.MALFORMED, "Content-Length is no number")
    if len(declared) > 18 or int(declared) > limit:
        raise Refused(Refusal.TOO_LARGE, f"a body of more than {limit} octets is not taken")


async def read_body(request: Request, limit: int, *, agent: str = "") -> bytes:
    """The body, of at most `limit` octets, however it comes: reading stops there. Raises Refused."""
    check_length(request, limit)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise Refused(Refusal.TOO_LARGE, f"a body of more than {limit} octets is not taken", agent=agent)
                parts.append(part)
    except TimeoutError:
        raise Refused(Refusal.TOO_SLOW, f"the body took more than {BODY_SECONDS} seconds", agent=agent) from None
    except ClientDisconnect:
        raise Refused(Refusal.DISCONNECTED, "the connection ended within the body", agent=agent) from None
    request.scope[_READ] = True
    return b"".join(parts)


def read_form(body: bytes, keys: tuple[str, ...]) -> tuple[str, ...]:
    """The texts of these keys, in order, of a JSON object that has just them. Raises Refused."""
    try:
        form = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(Refusal.MALFORMED, "the body is no JSON") from None
    if not isinstance(form, dict) or set(form) != set(keys) or not all(isinstance(form[key], str) for key in keys):
        raise Refused(Refusal.MALFORMED, f"the body is an object with the texts {', '.join(keys)}")
    return tuple(form[key] for key in keys)
