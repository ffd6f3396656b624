"""What one mail draws on the limits: a reservation for each recipient, and how they end."""

from smartmail.core.budget import Budget
from smartmail.core.known import recipient_hash
from smartmail.core.limits import Mode, Refusal, Unit
from smartmail.core.policy import ACCEPT, Decision, over_limit
from smartmail.core.smtp_events import RcptTo
from smartmail.core.standing import Account
from smartmail.relay.services import RESERVATION_TTL_NS, Services

_BYTES = Unit.BYTES


class Recipient:
    """A recipient on its way to the upstream. reservation: its charges. new: its hash, if it is a first-time one."""

    __slots__ = ("command", "domain", "key", "new", "reservation")

    def __init__(self, rcpt: RcptTo) -> None:
        recipient, parameters = rcpt
        self.command = b"RCPT TO:<%b>%b\r\n" % (recipient.wire.encode(), parameters.wire)
        self.key = key = recipient.key
        self.domain = key.rpartition("@")[2]
        self.reservation = 0
        self.new = 0


class Charges:
    """The reservations of one mail. Each ends once: committed with the mail, or released with its refusal."""

    __slots__ = ("_account", "_declared", "_domains", "_new", "_reservations", "_services")

    def __init__(self, services: Services, account: Account | None, declared: int) -> None:
        """account: whose mail it is, if anybody's. declared: octets by MAIL SIZE=, 0 if it had none."""
        self._services = services
        self._account = account
        self._declared = declared
        self._reservations: list[int] = []
        self._domains: set[str] = set()
        self._new: list[int] = []

    def reserve(self, recipient: Recipient, budget: Budget) -> Decision:
        """Reserve what a recipient draws on, all of it or nothing. The first one that is kept pays for the message."""
        services, domain = self._services, recipient.domain
        is_new = budget.counts_first_time and self._is_new(recipient)
        if self._reservations:
            first_there = domain not in self._domains
            charges = budget.further(domain, self._declared, is_new=is_new, first_there=first_there)
        else:
            charges = budget.opening(domain, self._declared, is_new=is_new)
        taken = services.counters.reserve(charges, services.clock.now_ns(), RESERVATION_TTL_NS)
        if isinstance(taken, Refusal):
            decision = over_limit(taken)
            services.metrics.limit_refusals[decision.limit, Mode.ENFORCE.value] += 1
            return decision
        recipient.reservation = taken.id
        for charge in taken.shadowed:
            services.metrics.limit_refusals[charge.limit.name, Mode.SHADOW.value] += 1
        return ACCEPT

    def keep(self, recipient: Recipient) -> None:
        """The upstream took this recipient."""
        self._reservations.append(recipient.reservation)
        self._domains.add(recipient.domain)
        if recipient.new:
            self._new.append(recipient.new)

    def release(self, recipient: Recipient) -> None:
        """The upstream did not take it."""
        self._services.counters.release(recipient.reservation, self._services.clock.now_ns())

    def release_all(self) -> None:
        """The mail was not taken: all comes back."""
        reservations, self._reservations = self._reservations, []
        for reservation in reservations:
            self._services.counters.release(reservation, self._services.clock.now_ns())

    def commit(self, size: int) -> None:
        """The mail was taken, or may have been. size: octets that passed, which correct the declared ones."""
        services, now = self._services, self._services.clock.now_ns()
        reservations, self._reservations = self._reservations, []
        actual = {_BYTES: size}
        for reservation in reservations:
            services.counters.commit(reservation, now, actual)
        if self._account is not None:
            for hashed in self._new:
                services.known.learn(self._account.id, hashed, now)

    def _is_new(self, recipient: Recipient) -> bool:
        """Has the account not written to this recipient before, nor in this mail?"""
        account, services = self._account, self._services
        if account is None:
            return False
        hashed = recipient_hash(recipient.key, services.secret)
        if hashed in self._new or services.known.known(account.id, hashed, services.clock.now_ns()):
            return False
        recipient.new = hashed
        return True
