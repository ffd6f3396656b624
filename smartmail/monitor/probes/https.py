"""HTTPS (HTTP/1.1, RFC 9112): one GET, its status and a text in the body. Octets are read up to a bound."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckSpec
from smartmail.monitor.probes.context import ProbeContext
from smartmail.monitor.probes.conversation import Conversation, Target, connect, target_of
from smartmail.monitor.probes.observation import Observation, Visit, observe

MAX_BODY: Final = 512 * 1024
"""Octets of the body that are looked at."""
MAX_FIELDS: Final = 200
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |\Z)")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*\Z")
_PATH: Final = re.compile(r"/[\x21-\x7e]*\Z")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?\Z")
_BUSY: Final = frozenset({429, 502, 503, 504})
"""What a server answers that is there, but not able now."""


async def probe_https(check: CheckSpec, context: ProbeContext) -> Observation:
    """GET a path, expect a status and a text.

    TRANSIENT for 429, 502, 503, 504; PERMANENT for other 5xx; CONTENT for any other status that is not the one, and for
    a body without the text. Redirections are not followed. Options: path ("/"), status ("200"; several with commas),
    text (none), tls_name, family, resolver.
    """
    return await observe(check, context, _https)


async def _https(visit: Visit) -> Outcome:
    target = target_of(visit.check)
    path = visit.check.option("path", "/")
    if not _PATH.match(path):
        raise visit.failure(Outcome.MONITOR_ERROR, "option path is none")
    expected = {word.strip() for word in visit.check.option("status", "200").split(",")}
    async with await connect(visit, target) as conversation:
        await conversation.start_tls(target.tls_name)
        visit.phase("command")
        visit.at = "GET"
        conversation.send(_request(target, path))
        status, fields = await _head(conversation)
        visit.facts["status"] = status
        if str(status) not in expected:
            raise visit.failure(_class_of(status), f"status {status}")
        visit.at = "body"
        await _look_for(conversation, status, fields)
    return Outcome.OK


def _request(target: Target, path: str) -> bytes:
    name = f"[{target.tls_name}]" if ":" in target.tls_name else target.tls_name
    host = name if target.port == 443 else f"{name}:{target.port}"
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "User-Agent: smartmail",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Connection: close",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")


def _class_of(status: int) -> Outcome:
    if status in _BUSY:
        return Outcome.TRANSIENT
    return Outcome.PERMANENT if status >= 500 else Outcome.CONTENT


async def _head(conversation: Conversation) -> tuple[int, dict[bytes, bytes]]:
    """Status and fields (names in small letters) of the answer; interim answers (1xx) are passed over."""
    visit = conversation.visit
    while True:
        line = await conversation.line()
        found = _STATUS.match(line)
        if found is None:
            raise visit.failure(Outcome.PROTOCOL, line)
        fields: dict[bytes, bytes] = {}
        for _ in range(MAX_FIELDS):
            line = await conversation.line()
            if not line:
                break
            field = _FIELD.match(line)
            if field is None:
                raise visit.failure(Outcome.PROTOCOL, line)
            fields[field[1].lower()] = field[2]
        else:
            raise visit.failure(Outcome.PROTOCOL, "endless header")
        if int(found[1]) >= 200:
            return int(found[1]), fields


async def _look_for(conversation: Conversation, status: int, fields: dict[bytes, bytes]) -> None:
    """Read the body until the text was seen, or to its end."""
    visit = conversation.visit
    wanted = visit.check.option("text").encode("utf-8")
    if status in (204, 304):
        fields = {b"content-length": b"0"}
    seen = 0
    kept = b""
    found = not wanted
    async with aclosing(_body(conversation, fields)) as parts:
        async for part in parts:
            seen += len(part)
            if not found:
                kept += part
                found = wanted in kept
                kept = kept[-len(wanted) :]
            if (found and wanted) or seen >= MAX_BODY:
                break
    if not found:
        raise visit.failure(Outcome.CONTENT, f"the text is not in the body ({min(seen, MAX_BODY)} octets)")


async def _body(conversation: Conversation, fields: dict[bytes, bytes]) -> AsyncGenerator[bytes, None]:
    """The body in pieces (RFC 9112 6.3): chunked, by its length, or up to the end of the connection."""
    visit = conversation.visit
    if b"transfer-encoding" in fields:
        if fields[b"transfer-encoding"].lower() != b"chunked":
            raise visit.failure(Outcome.PROTOCOL, b"transfer-encoding " + fields[b"transfer-encoding"])
        async with aclosing(_chunks(conversation)) as parts:
            async for part in parts:
                yield part
    elif b"content-length" in fields:
        length = fields[b"content-length"]
        if not (length.isdigit() and len(length) < 16):
            raise visit.failure(Outcome.PROTOCOL, b"content-length " + length)
        left = int(length)
        while left > 0:
            part = await conversation.some()
            if not part:
                raise visit.failure(Outcome.LOST, "connection closed")
            left -= len(part)
            yield part
    else:
        while part := await conversation.some():
            yield part


async def _chunks(conversation: Conversation) -> AsyncGenerator[bytes, None]:
    while True:
        line = await conversation.line()
        found = _CHUNK.match(line)
        if found is None:
            raise conversation.visit.failure(Outcome.PROTOCOL, b"not a chunk: " + line)
        size = int(found[1], 16)
        if size == 0:
            return  # what trails is not waited for: the connection ends here
        while size > 0:
            part = await conversation.octets(min(size, 65536))
            size -= len(part)
            yield part
        if await conversation.line():
            raise conversation.visit.failure(Outcome.PROTOCOL, "not the end of a chunk")
