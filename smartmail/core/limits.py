"""Limits: rates (GCRA) and sliding quotas; reserve, commit, release and expire over N keys in one step.

Integers only. A reservation is taken over all its charges or over none; N racers can never pass one unit
over a quota, because `reserve` checks and takes in the same step, and what it takes is held until the
reservation ends. A clock that is set back neither loosens nor freezes anything (`core.meter.SteadyClock`).

A reservation ends exactly once, by whichever comes first:

- `commit`: the mail was taken by the upstream. The units count from this moment.
- `release`: it was not. Every unit held is free again, at once and exactly, for rates too.
- `expire`: its time to live passed without either. Nobody knows whether the mail went out, so it counts as
  committed: a sender who makes sessions hang must not gain by it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, cast

from smartmail.core.meter import (
    NEVER,
    NS,
    Meter,
    MeterName,
    Row,
    RowError,
    SteadyClock,
    meter_from_row,
    meter_of,
)

DUMP_VERSION = 1
SWEEP_AT_LEAST = 512
"""Keys looked at by one `expire`: this many, or a 32nd of all if that is more."""


class Unit(StrEnum):
    """What a limit counts."""

    MESSAGES = "messages"
    RECIPIENTS = "recipients"
    FIRST_TIME = "first_time_recipients"
    BYTES = "bytes"


class Scope(StrEnum):
    """Whose budget it is."""

    ACCOUNT = "account"
    CUSTOMER = "customer"
    DOMAIN = "domain"
    CLIENT = "client"
    RECIPIENT_DOMAIN = "recipient_domain"


class Mode(StrEnum):
    """off: not looked at. shadow: counted and reported, never refuses. enforce: refuses."""

    OFF = "off"
    SHADOW = "shadow"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `quota` units in any `period` seconds (burst 0: a sliding quota), or `quota` units each
    `period` seconds on average with at most `burst` at once (burst > 0: a GCRA rate).

    Quota 0 lets nothing pass. Name, unit, period and kind make the counter: `quota`, `burst` and `mode` may
    change while it runs, and its history stays. Another period or kind begins with an empty history.
    """

    name: str
    scope: Scope
    unit: Unit
    quota: int
    period: int
    burst: int = 0
    mode: Mode = Mode.ENFORCE


class Charge(NamedTuple):
    """`amount` units of `limit` for `key` ("a:17", "r:example.com": the prefix keeps scopes apart).

    Amount 0 takes nothing, but 0 BYTES means a size not known yet: it holds one byte, so that a full budget
    refuses it, and `commit` corrects it. A named tuple, since several are made for each recipient.
    """

    limit: Limit
    key: str
    amount: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """The charge that must wait longest, and how long: whole seconds, rounded up, at least 1; 0: never fits.

    What is in flight is taken as used now; nothing else is foreseen.
    """

    charge: Charge
    retry_after: int


class Reservation:
    """An open reservation: `id`, and `shadowed`, the charges of the latest call that shadow limits would have
    refused."""

    __slots__ = ("_deadline", "_holds", "_ttl", "id", "shadowed")

    def __init__(self, number: int, holds: dict[Meter, int], shadowed: tuple[Charge, ...], ttl: int) -> None:
        self.id = number
        self.shadowed = shadowed
        self._holds = holds
        self._ttl = ttl
        self._deadline = 0

    def __repr__(self) -> str:
        return f"Reservation(id={self.id}, shadowed={self.shadowed})"


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one limit and key: units committed (rounded up), held by transactions in flight, and free; and when
    the next one is free (nanoseconds; now if one is; 0: never)."""

    used: int
    reserved: int
    free: int
    free_at_ns: int


class ReservationEnded(LookupError):
    """This reservation was committed, released or has expired: it cannot grow."""


class Counters:
    """All counters of one process, for one thread.

    `now_ns` is nanoseconds since the epoch. A shadow limit counts what it would have let pass and nothing
    else, so the charges it reports are exactly those that it would have refused, and enforcing it one day
    holds nothing against anybody that it did not report.
    """

    __slots__ = ("_clock", "_due", "_last_id", "_meters", "_open", "_share", "_unswept")

    def __init__(self) -> None:
        self._clock = SteadyClock()
        self._meters: dict[MeterName, Meter] = {}
        self._open: dict[int, Reservation] = {}
        self._unswept: list[MeterName] = []
        self._share = 0
        self._last_id = 0
        self._due = 0

    @property
    def keys(self) -> int:
        """Counters kept in memory."""
        return len(self._meters)

    @property
    def open(self) -> int:
        """Reservations in flight."""
        return len(self._open)

    def reserve(self, charges: Sequence[Charge], now_ns: int, ttl_ns: int) -> Reservation | Refusal:
        """Hold all charges, or none and say which must wait longest. Charges on the same key add up.

        ttl_ns: the reservation expires this long after its last growth. Raises ValueError, holding nothing,
        for a negative amount, an empty key (which would be one budget for everybody) or a period below 1.
        """
        now = self._clock.read(now_ns)
        holds: dict[Meter, int] = {}
        shadowed = self._hold(charges, now, holds)
        if isinstance(shadowed, Refusal):
            return shadowed
        self._last_id = number = self._last_id + 1
        reservation = Reservation(number, holds, shadowed, ttl_ns)
        reservation._deadline = deadline = now + ttl_ns
        if deadline < self._due or not self._open:
            self._due = deadline
        self._open[number] = reservation
        return reservation

    def extend(self, reservation_id: int, charges: Sequence[Charge], now_ns: int) -> Reservation | Refusal:
        """Add charges to an open reservation, all or none, and renew its time to live.

        A refusal leaves the reservation as it was. Raises ReservationEnded, and ValueError as `reserve` does.
        """
        now = self._clock.read(now_ns)
        reservation = self._open.get(reservation_id)
        if reservation is None:
            raise ReservationEnded(reservation_id)
        more: dict[Meter, int] = {}
        shadowed = self._hold(charges, now, more)
        if isinstance(shadowed, Refusal):
            return shadowed
        holds = reservation._holds
        for meter, amount in more.items():
            holds[meter] = holds.get(meter, 0) + amount
        reservation._deadline = now + reservation._ttl
        reservation.shadowed = shadowed
        return reservation

    def commit(self, reservation_id: int, now_ns: int, actual: Mapping[Unit, int] | None = None) -> None:
        """End a reservation: what it holds is used. Does nothing if it has ended.

        actual: for a unit, what really passed, in place of what was held; each key charged in that unit gets
        the same number, so it is of use for BYTES. More than was held may overdraw a limit: the next charge
        is refused until that has drained. Raises ValueError for a negative number, ending nothing.
        """
        if actual is not None:
            for amount in actual.values():
                if amount < 0:
                    raise ValueError("less than nothing cannot have passed")
        now = self._clock.read(now_ns)
        reservation = self._open.pop(reservation_id, None)
        if reservation is None:
            return
        if actual is None:
            for meter, held in reservation._holds.items():
                meter.commit(held, held, now)
        else:
            passed = cast("Mapping[str, int]", actual)
            for meter, held in reservation._holds.items():
                meter.commit(held, passed.get(meter.unit, held), now)

    def release(self, reservation_id: int, now_ns: int) -> None:
        """End a reservation: all it holds is free again. Does nothing if it has ended."""
        self._clock.read(now_ns)
        reservation = self._open.pop(reservation_id, None)
        if reservation is not None:
            for meter, held in reservation._holds.items():
                meter.held -= held

    def expire(self, now_ns: int) -> int:
        """Commit the reservations past their time to live and return how many; forget drained keys.

        To be called regularly, each second or so. It looks at a part of the keys each time; a drained one is
        forgotten within 66 calls.
        """
        now = self._clock.read(now_ns)
        ended = 0
        if self._open and now >= self._due:
            for number, reservation in list(self._open.items()):
                if reservation._deadline <= now:
                    self.commit(number, now_ns)
                    ended += 1
            self._due = min((left._deadline for left in self._open.values()), default=0)
        self._sweep(now)
        return ended

    def usage(self, limit: Limit, key: str, now_ns: int) -> Usage:
        """How much of `limit` is used for `key`. Changes nothing."""
        now = self._clock.read(now_ns)
        name = _name(Charge(limit, key, 0))
        meter = self._meters.get(name) or meter_of(name)
        wait = meter.wait(limit.quota, limit.burst, 1, now)
        used = meter.used(now)
        most = (limit.burst if limit.quota else 0) if limit.burst else limit.quota
        free_at = 0 if wait == NEVER else now + wait - self._clock.offset
        return Usage(used, meter.held, max(0, most - used - meter.held), free_at)

    def dump(self) -> list[Row]:
        """All counters as rows of plain integers and strings, for `load`. What is in flight is written as used:
        a process that starts from this dump cannot know how it ended."""
        now, offset = self._clock.latest, self._clock.offset
        rows: list[Row] = [("clock", DUMP_VERSION, now - offset)]
        for meter in self._meters.values():
            if meter.idle(now):
                continue
            row = meter.row(now, offset)
            if meter.held:
                twin = meter_from_row(row, now - offset, offset)
                twin.commit(0, meter.held, now)
                row = twin.row(now, offset)
            rows.append(row)
        return rows

    def load(self, rows: Iterable[Sequence[int | str]], now_ns: int) -> None:
        """Replace all counters by those of a dump; reservations in flight here are dropped.

        A dump from the future (the clock was set back between) keeps its ages: what was used ten minutes
        before the dump was used ten minutes before `now_ns`, so nothing waits longer than it ever had to.
        Raises RowError, and changes nothing, for rows that `dump` did not write.
        """
        lines = iter(rows)
        head = tuple(next(lines, ()))
        if len(head) != 3 or head[:2] != ("clock", DUMP_VERSION) or not isinstance(head[2], int):
            raise RowError("not a dump of counters, or of another version")
        latest = head[2]
        shift = min(0, now_ns - latest)
        meters = [meter_from_row(line, latest, shift) for line in lines]
        self._meters = {meter.name: meter for meter in meters}
        self._open = {}
        self._unswept = []
        self._clock = SteadyClock(now_ns)

    def _hold(self, charges: Sequence[Charge], now: int, holds: dict[Meter, int]) -> tuple[Charge, ...] | Refusal:
        """Hold all charges and note them in `holds`, or undo and refuse. Returns the shadowed ones."""
        meters = self._meters
        shadowed: tuple[Charge, ...] = ()
        try:
            for charge in charges:
                limit, key, amount = charge
                mode = limit.mode
                if mode is _OFF or (amount <= 0 and not (amount := _wanted(charge))):
                    continue
                name = (limit.name, key, limit.unit, limit.period, limit.burst > 0)
                meter = meters.get(name) or _new_meter(name)
                if meter.fits(limit.quota, limit.burst, amount, now):
                    meters[name] = meter
                    meter.held += amount
                    holds[meter] = holds.get(meter, 0) + amount
                elif mode is _SHADOW:
                    shadowed += (charge,)
                else:
                    self._undo(holds, now)
                    return self._refusal(charges, charge, now)
        except ValueError:
            self._undo(holds, now)
            raise
        return shadowed

    def _undo(self, holds: Mapping[Meter, int], now: int) -> None:
        for meter, held in holds.items():
            meter.held -= held
            if meter.idle(now):
                del self._meters[meter.name]

    def _refusal(self, charges: Iterable[Charge], refused: Charge, now: int) -> Refusal:
        """Nothing of this call is held any more: of all that would be refused, which waits longest?"""
        worst, longest = refused, NS
        totals: dict[MeterName, int] = {}
        for charge in charges:
            limit = charge.limit
            if limit.mode is _OFF or not (amount := _wanted(charge)):
                continue
            name = _name(charge)
            total = totals.get(name, 0) + amount
            wait = (self._meters.get(name) or _new_meter(name)).wait(limit.quota, limit.burst, total, now)
            if limit.mode is _SHADOW:
                if not wait:
                    totals[name] = total
                continue
            totals[name] = total
            if wait == NEVER:
                return Refusal(charge, 0)
            if wait > longest:
                worst, longest = charge, wait
        return Refusal(worst, -(-longest // NS))

    def _sweep(self, now: int) -> None:
        meters = self._meters
        if not self._unswept:
            self._unswept = list(meters)
            self._share = max(SWEEP_AT_LEAST, len(meters) >> 5)
        for _ in range(min(len(self._unswept), self._share)):
            meter = meters.get(self._unswept.pop())
            if meter is not None and meter.idle(now):
                del meters[meter.name]


# Looking a member up in its Enum takes Python 3.11 a tenth of a microsecond, each time.
_OFF, _SHADOW, _BYTES = Mode.OFF, Mode.SHADOW, Unit.BYTES


def _name(charge: Charge) -> MeterName:
    limit = charge.limit
    return (limit.name, charge.key, limit.unit, limit.period, limit.burst > 0)


def _new_meter(name: MeterName) -> Meter:
    if not name[1] or name[3] < 1:
        raise ValueError(f"limit {name[0]!r}: key {name[1]!r}, period {name[3]}")
    return meter_of(name)


def _wanted(charge: Charge) -> int:
    """Units to hold: a message of unknown size holds one byte."""
    if charge.amount < 0:
        raise ValueError(f"limit {charge.limit.name!r}: negative amount {charge.amount}")
    return charge.amount or (1 if charge.limit.unit is _BYTES else 0)
