"""Who is served next, and when: a bounded queue that takes turns between client networks.

A flood from one network fills that network's places only, and a network whose attempts fail gets its turns
ever further apart, so that guessing costs the guesser and nobody else. The pause comes before an attempt is
looked at, right or wrong: a pause after failures alone tells a guesser who doesn't wait for it what it means.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Generic, TypeVar

Item = TypeVar("Item")

SECOND_NS = 1_000_000_000
_V6_HOST = (1 << 64) - 1


def client_key(address: str) -> str:
    """What sessions and limits of one client count under: an IPv4 address, or the /64 of an IPv6 one."""
    network = client_network(address)
    if not network.endswith(".0/24"):
        return network
    return address if ":" not in address else address.rpartition(":")[2]


def client_network(address: str) -> str:
    """The network an address counts for: "192.0.2.0/24", "2001:db8::/64"; anything else as it is.

    An end site has at least a /64 (RFC 6177), so single IPv6 addresses would count nobody. IPv4 mapped into
    IPv6 counts as IPv4.
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is None:
            return f"{IPv6Address(int(parsed) & ~_V6_HOST)}/64"
        parsed = parsed.ipv4_mapped
    return f"{str(parsed).rpartition('.')[0]}.0/24"


@dataclass(frozen=True, slots=True)
class Penalty:
    """How failures slow a network down. Times in nanoseconds.

    free: failures without any pause, for people who mistype. pauses: before an attempt with 1, 2, ...
    failures beyond those; the last one is the cap. forgive_ns: one failure is forgotten in this time.
    Successes forgive nothing: a guesser with one working login would clear the network with it.
    """

    free: int = 3
    pauses: tuple[int, ...] = tuple(s * SECOND_NS for s in (1, 2, 4, 8, 15))
    forgive_ns: int = 30 * SECOND_NS

    def pause(self, failures: int) -> int:
        """Nanoseconds between two attempts of a network with so many failures remembered."""
        over = failures - self.free
        return self.pauses[min(over, len(self.pauses)) - 1] if over > 0 and self.pauses else 0

    @property
    def most(self) -> int:
        """Failures remembered at most: what a network is forgiven for is bounded in time, too."""
        return self.free + 2 * len(self.pauses)


@dataclass(frozen=True, slots=True)
class Bounds:
    """running: attempts looked at at once. waiting: in all; waiting_per_network: of one network. patience_ns:
    who would have to wait longer than this for his network's pauses is refused at once. networks: with
    failures that are remembered; beyond it the ones longest quiet are forgotten."""

    running: int = 2
    waiting: int = 200
    waiting_per_network: int = 100
    patience_ns: int = 30 * SECOND_NS
    networks: int = 10_000


@dataclass(slots=True)
class _Record:
    """Failures of a network as of `as_of_ns`, and the start of its latest attempt."""

    failures: int
    as_of_ns: int
    started_ns: int


@dataclass(slots=True, eq=False)
class FairQueue(Generic[Item]):
    """Items wait by network and are taken in turns. Holds at most `bounds.waiting` items."""

    bounds: Bounds = field(default_factory=Bounds)
    penalty: Penalty = field(default_factory=Penalty)
    _waiting: dict[str, deque[Item]] = field(default_factory=dict)
    _turns: deque[str] = field(default_factory=deque)
    """Networks that have somebody waiting, next one first."""
    _records: OrderedDict[str, _Record] = field(default_factory=OrderedDict)
    _size: int = 0
    _running: int = 0

    def __len__(self) -> int:
        """Items waiting."""
        return self._size

    @property
    def running(self) -> int:
        """Items taken and not done."""
        return self._running

    def offer(self, network: str, item: Item, now_ns: int) -> tuple[Item, ...]:
        """Put an item at the end of its network's line; return those that must be refused for it.

        That is the item itself when its network has no room or would wait beyond patience; or, when the whole
        queue is full, the last item of the network that has the most waiting, if that has more than this one.
        """
        line = self._waiting.get(network)
        length = len(line) if line else 0
        if length >= self.bounds.waiting_per_network:
            return (item,)
        if self._due(network, now_ns) + length * self._pause(network, now_ns) > now_ns + self.bounds.patience_ns:
            return (item,)
        refused: tuple[Item, ...] = ()
        if self._size >= self.bounds.waiting:
            greedy = max(self._waiting, key=lambda name: len(self._waiting[name]), default=network)
            if greedy == network or len(self._waiting[greedy]) <= length + 1:
                return (item,)
            refused = (self._waiting[greedy].pop(),)
            self._size -= 1
        if line is None:
            line = self._waiting[network] = deque()
            self._turns.append(network)
        line.append(item)
        self._size += 1
        return refused

    def take(self, now_ns: int) -> tuple[str, Item] | None:
        """The (network, item) whose turn it is now, or None: nobody is due, or enough is running. Each item
        taken is to be given back by `done`."""
        if self._running >= self.bounds.running:
            return None
        for _ in range(len(self._turns)):
            network = self._turns.popleft()
            if self._due(network, now_ns) > now_ns:
                self._turns.append(network)
                continue
            line = self._waiting[network]
            item = line.popleft()
            if line:
                self._turns.append(network)
            else:
                del self._waiting[network]
            self._size -= 1
            self._running += 1
            if record := self._records.get(network):
                record.started_ns = now_ns
            return network, item
        return None

    def done(self, network: str, now_ns: int, *, failed: bool) -> None:
        """An item taken is finished. failed: it was a wrong attempt, and its network pays for it."""
        self._running -= 1
        if not failed:
            return
        failures = min(self._failures(network, now_ns) + 1, self.penalty.most)
        if record := self._records.get(network):
            record.failures = failures
            record.as_of_ns = now_ns
            record.started_ns = max(record.started_ns, now_ns)
        else:
            self._records[network] = _Record(failures, now_ns, now_ns)
        self._records.move_to_end(network)
        while len(self._records) > self.bounds.networks:
            self._records.popitem(last=False)

    def withdraw(self, network: str, item: Item) -> bool:
        """Who waited has left. False: the item was not waiting (any more)."""
        line = self._waiting.get(network)
        if line is None or item not in line:
            return False
        line.remove(item)
        self._size -= 1
        if not line:
            del self._waiting[network]
            self._turns.remove(network)
        return True

    def due_ns(self, now_ns: int) -> int | None:
        """When `take` will next have something though nothing gets done until then. None: there is no such
        time."""
        if self._running >= self.bounds.running or not self._turns:
            return None
        return min(self._due(network, now_ns) for network in self._turns)

    def delay_ns(self, network: str, now_ns: int) -> int:
        """How long an attempt of this network would be held now if nobody else waited."""
        return max(0, self._due(network, now_ns) - now_ns)

    def _failures(self, network: str, now_ns: int) -> int:
        record = self._records.get(network)
        if record is None:
            return 0
        forgiven = max(0, now_ns - record.as_of_ns) // self.penalty.forgive_ns
        if forgiven >= record.failures:
            del self._records[network]
            return 0
        record.failures -= forgiven
        record.as_of_ns += forgiven * self.penalty.forgive_ns
        return record.failures

    def _pause(self, network: str, now_ns: int) -> int:
        return self.penalty.pause(self._failures(network, now_ns))

    def _due(self, network: str, now_ns: int) -> int:
        pause = self._pause(network, now_ns)
        return self._records[network].started_ns + pause if pause else now_ns
