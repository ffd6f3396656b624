"""Whom an account has written to before: the set behind the limit on first-time recipients.

A hijacked account writes to strangers; a newsletter or a group chat writes to the same people again. So the
first mail to a recipient is charged and the next ones are not. Addresses are not kept, only 64-bit hashes.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from smartmail.core.meter import NS, Row, RowError, SteadyClock

DUMP_VERSION = 1
CAPACITY = 5000
"""Recipients remembered for one account."""
MAX_AGE_SECONDS = 180 * 86400
"""A recipient not written to for this long is a stranger again."""
SWEEP_AT_LEAST = 64
"""Accounts looked at by one `expire`: this many, or a 64th of all if that is more."""

_HOUR = 3600 * NS


def recipient_hash(address: str, secret: bytes = b"") -> int:
    """An address (normal form) -> 64 bits. Whoever lacks `secret` (at most 64 octets) cannot try addresses."""
    digest = blake2b(address.encode("utf-8", "surrogateescape"), digest_size=8, key=secret).digest()
    return int.from_bytes(digest, "big")


class KnownRecipients:
    """For each account, the recipients it wrote to most recently, each with the hour of the last mail.

    What is wrong with the answer, when: an account's set is full at `capacity`; then the recipient not
    written to for longest is forgotten and will be charged as a first-time one again. It is never wrong the
    other way but by a collision of hashes: the odds that a stranger is taken for a known recipient are at
    most capacity / 2**64. Hours are whole: a recipient is forgotten up to an hour before `max_age_seconds`.
    """

    __slots__ = ("_accounts", "_capacity", "_clock", "_hour", "_max_hours", "_share", "_unswept")

    def __init__(self, capacity: int = CAPACITY, max_age_seconds: int = MAX_AGE_SECONDS) -> None:
        if capacity < 1 or max_age_seconds < 3600:
            raise ValueError("known recipients: capacity must be at least 1, the age limit an hour")
        self._capacity = capacity
        self._max_hours = max_age_seconds // 3600
        self._accounts: dict[int, dict[int, int]] = {}
        self._clock = SteadyClock()
        self._hour = 0
        self._unswept: list[int] = []
        self._share = 0

    @property
    def accounts(self) -> int:
        """Accounts that have known recipients."""
        return len(self._accounts)

    def count(self, account: int) -> int:
        """Recipients remembered for this account, some of which may be too old to count as known."""
        return len(self._accounts.get(account, ()))

    def full(self, account: int) -> bool:
        """True when a new recipient makes this account's oldest one forgotten."""
        return self.count(account) >= self._capacity

    def known(self, account: int, recipient: int, now_ns: int) -> bool:
        """Did the account have a mail to this recipient (a hash) accepted, not too long ago?"""
        seen = self._accounts.get(account)
        if seen is None:
            return False
        hour = seen.get(recipient)
        return hour is not None and self._read(now_ns) - hour < self._max_hours

    def learn(self, account: int, recipient: int, now_ns: int) -> None:
        """A mail to this recipient was accepted now."""
        hour = self._read(now_ns)
        seen = self._accounts.get(account)
        if seen is None:
            seen = self._accounts[account] = {}
        # The order of insertion is the order of last use: what is learnt again moves to the end.
        seen.pop(recipient, None)
        seen[recipient] = hour
        if len(seen) > self._capacity:
            del seen[next(iter(seen))]

    def forget(self, account: int) -> None:
        """Drop all that is known of an account: it was deleted."""
        self._accounts.pop(account, None)

    def expire(self, now_ns: int) -> int:
        """Drop recipients past the age limit, for a part of the accounts each time; return how many."""
        hour = self._read(now_ns)
        if not self._unswept:
            self._unswept = list(self._accounts)
            self._share = max(SWEEP_AT_LEAST, len(self._accounts) >> 6)
        dropped = 0
        for _ in range(min(len(self._unswept), self._share)):
            account = self._unswept.pop()
            seen = self._accounts.get(account, {})
            while seen and hour - seen[oldest := next(iter(seen))] >= self._max_hours:
                del seen[oldest]
                dropped += 1
            if not seen:
                self._accounts.pop(account, None)
        return dropped

    def dump(self) -> list[Row]:
        """All sets as rows of plain integers and strings, for `load`."""
        rows: list[Row] = [("clock", DUMP_VERSION, self._hour)]
        for account, seen in self._accounts.items():
            rows.append((account, *(number for pair in seen.items() for number in pair)))
        return rows

    def load(self, rows: Iterable[Sequence[int | str]], now_ns: int) -> None:
        """Replace everything by a dump. One from the future (the clock was set back between) keeps its ages.

        A set above the capacity loses its oldest. Raises RowError, and changes nothing, for rows that `dump`
        did not write.
        """
        lines = iter(rows)
        head = tuple(next(lines, ()))
        if len(head) != 3 or head[:2] != ("clock", DUMP_VERSION) or not isinstance(head[2], int):
            raise RowError("not a dump of known recipients, or of another version")
        latest = head[2]
        shift = min(0, now_ns // _HOUR - latest)
        accounts: dict[int, dict[int, int]] = {}
        for line in lines:
            numbers = [value for value in line if type(value) is int]
            if len(numbers) != len(line) or len(numbers) % 2 == 0:
                raise RowError("not a row of known recipients")
            pairs = sorted(zip(numbers[2::2], numbers[1::2], strict=True), key=lambda pair: pair[0])
            kept = pairs[-self._capacity :]
            accounts[numbers[0]] = {recipient: min(hour, latest) + shift for hour, recipient in kept}
        self._accounts = accounts
        self._unswept = []
        self._clock = SteadyClock(now_ns)
        self._hour = now_ns // _HOUR

    def _read(self, now_ns: int) -> int:
        """The present hour; the same object through all of it, since it is stored with each recipient."""
        hour = self._clock.read(now_ns) // _HOUR
        if hour != self._hour:
            self._hour = hour
        return self._hour
