"""Any sequence of reserve, extend, commit, release, expire, restart and clock steps, against a log of all events."""

from fractions import Fraction

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from smartmail.core.limits import Charge, Counters, Limit, Mode, Refusal, Scope, Unit
from smartmail.core.meter import NS, SteadyClock

DAY = Limit("day", Scope.ACCOUNT, Unit.MESSAGES, 6, 60)
HOUR = Limit("hour", Scope.CUSTOMER, Unit.RECIPIENTS, 9, 600)
FLOW = Limit("flow", Scope.ACCOUNT, Unit.MESSAGES, 7, 60, 4)
SIZE = Limit("size", Scope.ACCOUNT, Unit.BYTES, 100, 60)
TRIAL = Limit("trial", Scope.ACCOUNT, Unit.MESSAGES, 3, 60, 0, Mode.SHADOW)
UNUSED = Limit("unused", Scope.ACCOUNT, Unit.MESSAGES, 0, 60, 0, Mode.OFF)

LIMITS = (DAY, HOUR, FLOW, SIZE, TRIAL, UNUSED)
Key = tuple[Limit, str]
KEYS: tuple[Key, ...] = tuple((limit, key) for limit in LIMITS for key in ("a:1", "a:2"))

charges = st.lists(
    st.tuples(st.sampled_from(KEYS), st.integers(1, 4)).map(lambda pair: Charge(*pair[0], pair[1])),
    max_size=5,
)


class Oracle:
    """Every committed unit with its time, and what each open reservation holds: nothing is ever thrown away."""

    def __init__(self) -> None:
        self.log: dict[Key, list[tuple[int, int]]] = {key: [] for key in KEYS}
        self.held: dict[int, dict[Key, int]] = {}
        self.deadline: dict[int, int] = {}

    def in_flight(self, key: Key) -> int:
        return sum(held.get(key, 0) for held in self.held.values())

    def counted(self, key: Key, now: int, span: int) -> int:
        """Units committed in the half-open window of `span` that ends now."""
        return sum(units for at, units in self.log[key] if at > now - span)

    def level(self, key: Key, now: int) -> Fraction:
        """A rate's bucket in units, worked out from the whole log."""
        limit, level, last = key[0], Fraction(0), 0
        for at, units in [*self.log[key], (now, 0)]:
            level = max(Fraction(0), level - Fraction((at - last) * limit.quota, limit.period * NS)) + units
            last = at
        return level

    def fits(self, key: Key, amount: int, now: int) -> bool | None:
        """None: within the sixtieth of a period by which a sliding quota may be too strict."""
        limit, wanted = key[0], self.in_flight(key) + amount
        if limit.burst:
            return self.level(key, now) + wanted <= limit.burst
        span = limit.period * NS
        if self.counted(key, now, span) + wanted > limit.quota:
            return False
        return True if self.counted(key, now, span + span // 60) + wanted <= limit.quota else None

    def end(self, number: int, now: int, actual: int | None = None) -> None:
        for key, units in self.held.pop(number).items():
            self.log[key].append((now, units if actual is None or key[0].unit is not Unit.BYTES else actual))


class LimitsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.raw = 1_800_000_000 * NS
        self.clock = SteadyClock()
        self.counters = Counters()
        self.oracle = Oracle()

    def now(self) -> int:
        return self.clock.read(self.raw)

    # time

    @rule(step=st.sampled_from([0, 1, NS // 3, NS, 7 * NS, 59 * NS, 60 * NS, 61 * NS, 700 * NS]))
    def time_passes(self, step: int) -> None:
        self.raw += step

    @rule(step=st.sampled_from([1, NS, 5 * NS, 3600 * NS]))
    def the_clock_is_set_back(self, step: int) -> None:
        self.raw -= step

    # reservations

    def attempt(self, wanted: list[Charge], number: int | None) -> None:
        now = self.now()
        oracle, hold = self.oracle, dict[Key, int]()
        verdicts: list[bool | None] = []
        shadowed: list[Charge] = []
        unsure = False
        before = [self.counters.usage(*key, self.raw) for key in KEYS], self.counters.dump()
        if number is None:
            result = self.counters.reserve(wanted, self.raw, 300 * NS)
        else:
            result = self.counters.extend(number, wanted, self.raw)
        told = () if isinstance(result, Refusal) else result.shadowed
        for charge in wanted:
            key = (charge.limit, charge.key)
            if charge.limit.mode is Mode.OFF:
                continue
            fits = oracle.fits(key, hold.get(key, 0) + charge.amount, now)
            if charge.limit.mode is Mode.ENFORCE:
                verdicts.append(fits)
            elif fits is None:
                # Within the strictness either answer is right: follow the one that was given.
                fits, unsure = sum(charge is one for one in told) == 0, True
            if fits is not False:
                hold[key] = hold.get(key, 0) + charge.amount
            else:
                shadowed.append(charge)
        if False in verdicts:
            assert isinstance(result, Refusal)
        if None not in verdicts and False not in verdicts:
            assert not isinstance(result, Refusal)
        if isinstance(result, Refusal):
            assert before == ([self.counters.usage(*key, self.raw) for key in KEYS], self.counters.dump())
            return
        assert unsure or list(result.shadowed) == shadowed
        held = oracle.held.setdefault(result.id, {})
        for key, units in hold.items():
            held[key] = held.get(key, 0) + units
        oracle.deadline[result.id] = now + 300 * NS

    @rule(wanted=charges)
    def reserve(self, wanted: list[Charge]) -> None:
        self.attempt(wanted, None)

    @precondition(lambda self: self.oracle.held)
    @rule(wanted=charges, data=st.data())
    def extend(self, wanted: list[Charge], data: st.DataObject) -> None:
        self.attempt(wanted, data.draw(st.sampled_from(sorted(self.oracle.held))))

    @precondition(lambda self: self.oracle.deadline)
    @rule(data=st.data(), actual=st.none() | st.integers(0, 150))
    def commit(self, data: st.DataObject, actual: int | None) -> None:
        number = data.draw(st.sampled_from(sorted(self.oracle.deadline)))
        now = self.now()
        self.counters.commit(number, self.raw, None if actual is None else {Unit.BYTES: actual})
        if number in self.oracle.held:
            self.oracle.end(number, now, actual)

    @precondition(lambda self: self.oracle.deadline)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.oracle.deadline)))
        self.now()
        self.counters.release(number, self.raw)
        self.oracle.held.pop(number, None)

    @rule()
    def expire(self) -> None:
        now = self.now()
        late = [number for number in self.oracle.held if self.oracle.deadline[number] <= now]
        assert self.counters.expire(self.raw) == len(late)
        for number in late:
            self.oracle.end(number, now)

    @rule(down=st.sampled_from([0, 1, 10 * NS, 61 * NS]), back=st.sampled_from([0, NS, 3600 * NS]))
    def restart(self, down: int, back: int) -> None:
        for number in list(self.oracle.held):
            self.oracle.end(number, self.clock.latest)
        rows = self.counters.dump()
        dumped = self.clock.latest - self.clock.offset
        self.raw = max(self.raw, dumped) + down - back
        self.counters = Counters()
        self.counters.load(rows, self.raw)
        shift = min(0, self.raw - dumped) - self.clock.offset
        self.oracle.log = {key: [(at + shift, units) for at, units in log] for key, log in self.oracle.log.items()}
        self.oracle.deadline = {}
        self.clock = SteadyClock(self.raw)

    # what always holds

    @invariant()
    def usage_is_what_was_taken_and_not_given_back(self) -> None:
        now = self.now()
        for key in KEYS:
            usage = self.counters.usage(*key, self.raw)
            assert usage.reserved == self.oracle.in_flight(key)
            limit = key[0]
            span = limit.period * NS
            if limit.burst:
                assert usage.used == -(-self.oracle.level(key, now) // 1)
            else:
                least = self.oracle.counted(key, now, span)
                assert least <= usage.used <= self.oracle.counted(key, now, span + span // 60)

    @invariant()
    def no_window_ever_passes_its_quota(self) -> None:
        for key, log in self.oracle.log.items():
            limit = key[0]
            if limit.unit is Unit.BYTES:
                continue  # corrected at commit, so it may be overdrawn
            for first, (start, _) in enumerate(log):
                units = 0
                for at, more in log[first:]:
                    units += more
                    if limit.burst:
                        assert units <= limit.burst + Fraction((at - start) * limit.quota, limit.period * NS)
                    elif at < start + limit.period * NS:
                        assert units <= limit.quota


LimitsMachine.TestCase.settings = settings(deadline=None, stateful_step_count=40)
TestLimitsMachine = LimitsMachine.TestCase
