"""Agents, the tokens by which they enrol, and the rosters they work by, in the caller's transaction."""

import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, select, update

from smartmail.core.roster import NAME, Roster, roster_from_json
from smartmail.store.errors import Conflict, Invalid, NotFound, StoreError
from smartmail.store.schema_monitor import agent, enrolment_token, roster_version

TOKEN_LIFE_MS: Final = 30 * 86_400_000
"""The longest a token may be good for."""


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An agent as the collector knows it. public_key: base64 of 32 octets. Times: epoch ms. offset_ms: what it last
    said its clock was put right by."""

    name: str
    location: str
    public_key: str
    enrolled_ms: int
    revoked_ms: int | None
    last_seen_ms: int | None
    offset_ms: int | None


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an agent asks for: the digest of its token, its name, its location, its key in base64."""

    digest: str
    name: str
    location: str
    public_key: str


class TokenRefused(StoreError):
    """This token enrols nobody. Its kind says why."""


class TokenUnknown(TokenRefused):
    """There is no such token for this location."""


class TokenUsed(TokenRefused):
    """It has enrolled somebody already."""


class TokenExpired(TokenRefused):
    """Its time is over."""


def add_token(
    connection: Connection, digest: str, location: str, *, made_by: str, made_ms: int, expires_ms: int
) -> None:
    """Keep the digest of a new token for one agent at `location`. Raises Invalid for a name or a time that cannot
    be."""
    _name("location", location)
    if not 0 < expires_ms - made_ms <= TOKEN_LIFE_MS:
        raise Invalid("a token is good for an hour at least and 30 days at most", "see --hours")
    connection.execute(
        insert(enrolment_token).values(
            digest=digest, location=location, made_ms=made_ms, made_by=made_by, expires_ms=expires_ms
        )
    )


def enrol(connection: Connection, asked: Enrolment, now_ms: int) -> AgentRecord:
    """Spend the token and write the agent down, both or neither.

    A revoked agent's name may be used again, by a new token. Raises TokenUnknown, TokenUsed, TokenExpired, Conflict
    when the name is in use, Invalid for a name or location that is none.
    """
    _name("agent", asked.name)
    _name("location", asked.location)
    row = _token(connection, asked.digest, asked.location)
    # One statement decides between two who come with the same token at once.
    spent = connection.execute(
        update(enrolment_token)
        .where(
            enrolment_token.c.id == row.id,
            enrolment_token.c.used_ms.is_(None),
            enrolment_token.c.expires_ms > now_ms,
        )
        .values(used_ms=now_ms)
    )
    if spent.rowcount != 1:
        if row.used_ms is None and row.expires_ms <= now_ms:
            raise TokenExpired("this token has expired", 'make another with "smartmail agent token"')
        raise TokenUsed("this token has been used already", 'make another with "smartmail agent token"')
    _write(connection, asked, now_ms)
    return AgentRecord(asked.name, asked.location, asked.public_key, now_ms, None, None, None)


def find_agent(connection: Connection, name: str) -> AgentRecord | None:
    """By name, revoked ones too."""
    row = connection.execute(select(agent).where(agent.c.name == name)).one_or_none()
    return None if row is None else _record(row)


def list_agents(connection: Connection) -> list[AgentRecord]:
    """Every agent, by location and name."""
    return [_record(row) for row in connection.execute(select(agent).order_by(agent.c.location, agent.c.name))]


def revoke(connection: Connection, name: str, now_ms: int) -> None:
    """Take nothing more from this agent; what it has handed in stays. Raises NotFound, and Conflict when it is
    revoked already."""
    if (found := find_agent(connection, name)) is None:
        raise NotFound(f'there is no agent "{name}"', 'see "smartmail agent list"')
    if found.revoked_ms is not None:
        raise Conflict(f'the agent "{name}" is revoked already', 'see "smartmail agent list"')
    connection.execute(update(agent).where(agent.c.name == name).values(revoked_ms=now_ms))


def note_seen(connection: Connection, name: str, seen_ms: int, offset_ms: int | None) -> None:
    """When an agent was last heard of, and what its clock is put right by."""
    connection.execute(update(agent).where(agent.c.name == name).values(last_seen_ms=seen_ms, offset_ms=offset_ms))


def add_roster(connection: Connection, roster: Roster) -> None:
    """Write a roster down for ever. Raises Conflict for a version that exists, or one that would reach back before
    the newest."""
    newest = connection.execute(
        select(roster_version.c.id, roster_version.c.from_minute).order_by(roster_version.c.id.desc()).limit(1)
    ).one_or_none()
    if newest is not None and (roster.version <= newest.id or roster.from_minute < newest.from_minute):
        raise Conflict(
            f"roster {newest.id} is in force from minute {newest.from_minute}; a new one has a higher version and "
            "begins no earlier"
        )
    body = json.dumps(roster.to_json(), sort_keys=True, separators=(",", ":"))
    connection.execute(insert(roster_version).values(id=roster.version, from_minute=roster.from_minute, body=body))


def roster_history(connection: Connection) -> list[Roster]:
    """Every roster there ever was, oldest first."""
    return [
        roster_from_json(json.loads(row.body))
        for row in connection.execute(select(roster_version).order_by(roster_version.c.id))
    ]


def checks_by_location(connection: Connection) -> dict[str, frozenset[str]]:
    """The names of all checks that any roster ever gave to a location."""
    found: dict[str, set[str]] = {}
    for roster in roster_history(connection):
        for check in roster.checks:
            for location in check.locations:
                found.setdefault(location, set()).add(check.name)
    return {location: frozenset(names) for location, names in found.items()}


def rosters_from(connection: Connection, minute: int) -> list[Roster]:
    """The roster in force in a minute, where there is one, and all that come after it."""
    first = connection.execute(
        select(roster_version.c.id)
        .where(roster_version.c.from_minute <= minute)
        .order_by(roster_version.c.from_minute.desc(), roster_version.c.id.desc())
        .limit(1)
    ).scalar_one_or_none()
    rows = connection.execute(
        select(roster_version).where(roster_version.c.id >= (first or 0)).order_by(roster_version.c.id)
    )
    return [roster_from_json(json.loads(row.body)) for row in rows]


def _token(connection: Connection, digest: str, location: str) -> Row[int, str, int, int | None]:
    table = enrolment_token
    rows: Sequence[Row[int, str, int, int | None]] = connection.execute(
        select(table.c.id, table.c.digest, table.c.expires_ms, table.c.used_ms).where(table.c.location == location)
    ).all()
    # All are compared, each in constant time: how long it takes says nothing about any of them.
    found = [row for row in rows if hmac.compare_digest(row.digest, digest)]
    if not found:
        raise TokenUnknown("there is no such token for this location", 'make one with "smartmail agent token"')
    return found[0]


def _write(connection: Connection, asked: Enrolment, now_ms: int) -> None:
    known = find_agent(connection, asked.name)
    if known is not None and known.revoked_ms is None:
        raise Conflict(f'there is an agent "{asked.name}" already', "choose another name, or revoke it first")
    values = {
        "location": asked.location,
        "public_key": asked.public_key,
        "enrolled_ms": now_ms,
        "revoked_ms": None,
        "last_seen_ms": None,
        "offset_ms": None,
    }
    if known is None:
        connection.execute(insert(agent).values(name=asked.name, **values))
    else:
        connection.execute(update(agent).where(agent.c.name == asked.name).values(**values))


def _record(row: Row[Any]) -> AgentRecord:
    return AgentRecord(
        row.name, row.location, row.public_key, row.enrolled_ms, row.revoked_ms, row.last_seen_ms, row.offset_ms
    )


def _name(what: str, value: str) -> None:
    if not NAME.match(value):
        raise Invalid(
            f"{value[:60]!r} cannot be the name of {'an agent' if what == 'agent' else 'a location'}",
            "small letters, digits and -, 40 at most",
        )
