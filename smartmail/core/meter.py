"""The arithmetic of one counter: a rate (GCRA) or a sliding quota, and the clock both live by.

A meter knows two amounts: what is *held* by transactions in flight, and what is *committed*. Only the
committed part drains, from when it is committed. So giving back a held amount is exact at any moment,
whatever drained meanwhile, and the bound holds whether one dates a unit by its reservation or by its commit.

Times are nanoseconds, amounts are units; everything is an integer.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

NS = 1_000_000_000
GRAINS = 60
"""A sliding quota remembers its period in this many grains: at most GRAINS + 2 pairs of integers per key."""
HOLD_NS = 2 * NS
"""How far a clock that was set back must run on before it is believed. Covers a leap second."""
NEVER = -1
"""As a wait: no time will do."""

MeterName = tuple[str, str, str, int, bool]
"""Limit's name, key, unit, period in seconds, is it a rate: what makes two counters the same counter."""
Row = tuple[int | str, ...]
"""One line of a dump: plain integers and strings."""

_FAR = 1 << 80


class RowError(ValueError):
    """A dumped row is not what `dump` writes."""


class SteadyClock:
    """Time that never runs back and never stands still for long.

    A reading below the latest one is read as the latest: a clock set back loosens nothing. If the clock goes
    on from there for more than HOLD_NS, it is believed, and time goes on from the latest reading at its pace:
    a clock that was an hour ahead does not freeze the counters for an hour. A jump ahead cannot be told from
    a machine that slept; it is believed at once.
    """

    __slots__ = ("_held_at", "_lowest", "latest", "offset")

    def __init__(self, now_ns: int = 0) -> None:
        self.latest = now_ns
        self.offset = 0
        self._held_at = NEVER
        self._lowest = 0

    def read(self, now_ns: int) -> int:
        """What the caller's clock says -> the time to reckon with. Never below an earlier answer."""
        now = now_ns + self.offset
        if now >= self.latest:
            self.latest = now
            return now
        if self._held_at != self.latest or now_ns < self._lowest:
            self._held_at = self.latest
            self._lowest = now_ns
        elif now_ns - self._lowest > HOLD_NS:
            self._held_at = NEVER
            self.offset = self.latest - now_ns
        return self.latest


class Meter(ABC):
    """One counter of one limit for one key. `quota` and `burst` come with each call: plans change, history
    stays."""

    __slots__ = ("held", "name", "span", "unit")

    def __init__(self, name: MeterName) -> None:
        self.name = name
        self.unit = name[2]
        self.span = name[3] * NS
        self.held = 0

    @abstractmethod
    def fits(self, quota: int, burst: int, amount: int, now: int) -> bool:
        """Would `amount` more be within the limit, with all that is held? A rate drains by this `quota` from
        now on."""

    @abstractmethod
    def commit(self, held: int, amount: int, now: int) -> None:
        """End a hold of `held` units and count `amount` from now on; more than was held overdraws."""

    @abstractmethod
    def wait(self, quota: int, burst: int, amount: int, now: int) -> int:
        """Nanoseconds until `amount` fits if nothing else is taken and what is held is committed now.
        0: it fits. NEVER: it is more than the limit ever gives."""

    @abstractmethod
    def used(self, now: int) -> int:
        """Committed units that count at `now`, rounded up."""

    @abstractmethod
    def row(self, now: int, offset: int) -> Row:
        """All but the holds, as of `now`, for a dump; `offset` is taken off every time."""

    def idle(self, now: int) -> bool:
        """True when forgetting this meter changes nothing."""
        return not self.held and not self.used(now)


class Rate(Meter):
    """GCRA: `quota` units each period on average, at most `burst` at once; so at most
    burst + d * quota / period in any time d.

    Kept as the equivalent leaky bucket (ITU-T I.371 annex A), without a fraction anywhere: a unit fills it by
    `span`, each nanosecond drains `quota`.
    """

    __slots__ = ("_at", "_level", "_quota")

    def __init__(self, name: MeterName) -> None:
        super().__init__(name)
        self._level = 0
        self._at = 0
        self._quota = 0

    def fits(self, quota: int, burst: int, amount: int, now: int) -> bool:
        level = self._level
        if level:
            # The time that has passed drained at the quota that was in force; the new one counts from here.
            level -= (now - self._at) * self._quota
            self._level = level = level if level > 0 else 0
        self._at = now
        self._quota = quota
        return quota > 0 and level <= (burst - self.held - amount) * self.span

    def commit(self, held: int, amount: int, now: int) -> None:
        self.held -= held
        level = self._level - (now - self._at) * self._quota
        self._level = (level if level > 0 else 0) + amount * self.span
        self._at = now

    def wait(self, quota: int, burst: int, amount: int, now: int) -> int:
        if amount > burst or not quota:
            return NEVER
        return max(0, _ceil(self._left(now) + (self.held + amount - burst) * self.span, quota))

    def used(self, now: int) -> int:
        return _ceil(self._left(now), self.span)

    def row(self, now: int, offset: int) -> Row:
        return ("rate", *self.name[:4], self._quota, self._left(now))

    @classmethod
    def from_row(cls, name: MeterName, numbers: Sequence[int], latest: int, shift: int) -> "Rate":
        """The meter of a row that was written at `latest`, which is read as `latest + shift`."""
        if len(numbers) != 2 or min(numbers) < 0:
            raise RowError(f"not a rate: {name}")
        meter = cls(name)
        meter._quota, meter._level = numbers
        meter._at = latest + shift
        return meter

    def _left(self, now: int) -> int:
        level = self._level - (now - self._at) * self._quota
        return level if level > 0 else 0


class Window(Meter):
    """Sliding quota: never more than `quota` units in any half-open `period`, wherever it begins.

    The log holds pairs (time of the last commit of a grain, units). A grain begins with a commit, not at a
    round time, and takes in the commits of the next period / GRAINS; it counts whole until its last commit is
    a period old. So the error is on the strict side alone: a unit counts for at least a period and for less
    than period * (1 + 1 / GRAINS), and for exactly a period where commits are at least a grain apart.
    """

    __slots__ = ("_due", "_grain", "_log", "_start", "_total")

    def __init__(self, name: MeterName) -> None:
        super().__init__(name)
        self._grain = self.span // GRAINS
        self._log: list[int] = []
        self._total = 0
        self._start = -_FAR
        # Nothing drains before this. It may be too early, since a grain that is added to lives longer.
        self._due = _FAR

    def fits(self, quota: int, burst: int, amount: int, now: int) -> bool:
        if now >= self._due:
            self._drain(now)
        return self._total + self.held + amount <= quota

    def commit(self, held: int, amount: int, now: int) -> None:
        self.held -= held
        if not amount:
            return
        log = self._log
        if now - self._start < self._grain:
            log[-2] = now
            log[-1] += amount
        else:
            if not log:
                self._due = now + self.span
            self._start = now
            log += (now, amount)
        self._total += amount

    def wait(self, quota: int, burst: int, amount: int, now: int) -> int:
        if amount > quota:
            return NEVER
        if self.fits(quota, burst, amount, now):
            return 0
        over = self._total + self.held + amount - quota
        log = self._log
        joined = bool(self.held) and now - self._start < self._grain
        for index in range(0, len(log) - 2 * joined, 2):
            over -= log[index + 1]
            if over <= 0:
                return log[index] + self.span - now
        return self.span

    def used(self, now: int) -> int:
        if now >= self._due:
            self._drain(now)
        return self._total

    def row(self, now: int, offset: int) -> Row:
        self._drain(now)
        log = self._log
        times = (value if index % 2 else value - offset for index, value in enumerate(log))
        return ("window", *self.name[:4], self._start - offset, *times)

    @classmethod
    def from_row(cls, name: MeterName, numbers: Sequence[int], latest: int, shift: int) -> "Window":
        """The meter of a row; times after `latest` are read as `latest`, then all are shifted."""
        times, amounts = numbers[1::2], numbers[2::2]
        if len(times) != len(amounts) or min(amounts, default=0) < 0 or list(times) != sorted(times):
            raise RowError(f"not a sliding quota: {name}")
        meter = cls(name)
        meter._start = min(numbers[0], latest) + shift
        for time, amount in zip(times, amounts, strict=True):
            meter._log += (min(time, latest) + shift, amount)
        meter._total = sum(amounts)
        meter._due = meter._log[0] + meter.span if times else _FAR
        return meter

    def _drain(self, now: int) -> None:
        log, span = self._log, self.span
        gone = 0
        while gone < len(log) and log[gone] + span <= now:
            self._total -= log[gone + 1]
            gone += 2
        del log[:gone]
        self._due = log[0] + span if log else _FAR


def meter_of(name: MeterName) -> Meter:
    """A fresh meter of the kind that the name says."""
    return Rate(name) if name[4] else Window(name)


def meter_from_row(row: Sequence[int | str], latest: int, shift: int) -> Meter:
    """A row of `Meter.row` -> the meter. `latest`: the dump's own clock; `shift`: added to every time.

    Raises RowError.
    """
    if len(row) < 6:
        raise RowError("a row of a counter is too short")
    kind, name, key, unit, *rest = row
    numbers = [value for value in rest if type(value) is int]
    if not (isinstance(name, str) and isinstance(key, str) and isinstance(unit, str)):
        raise RowError("names of a row must be strings")
    if len(numbers) != len(rest) or numbers[0] < 1 or kind not in ("rate", "window"):
        raise RowError(f"not a row of a counter: {kind!r} {name!r}")
    if kind == "rate":
        return Rate.from_row((name, key, unit, numbers[0], True), numbers[1:], latest, shift)
    return Window.from_row((name, key, unit, numbers[0], False), numbers[1:], latest, shift)


def _ceil(value: int, by: int) -> int:
    return -(-value // by)
