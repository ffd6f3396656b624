"""The trust checks of all configured domains, each once an hour at a place of its own in the hour.

Advisory (DESIGN section 4): what is found is kept here, told to the operator's log and shown as metrics. Nothing here
knows of samples, minutes or months.
"""

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Protocol

from smartmail.config import TrustConfig
from smartmail.monitor.probes.resolver import split_nameserver
from smartmail.monitor.trust.dnsbl import BlockList, ListKind
from smartmail.monitor.trust.finding import Severity, TrustCheck, TrustFinding, finding
from smartmail.monitor.trust.lookup import Lookup
from smartmail.monitor.trust.report import TrustContext, TrustReport, TrustRequest, check_trust
from smartmail.monitor.trust.served import SmtpSettings

HOUR_MS: Final = 3_600_000
FIRST_WITHIN_MS: Final = 60_000
"""A domain that is new here is looked at within this time, and from then on at its place in the hour."""
APART_MS: Final = 600_000
"""The least time between the first look at a domain and the next."""
AT_ONCE: Final = 4
"""Domains that are looked at at the same time; the others wait."""
LIMIT_SECONDS: Final = 600
_LONGEST_SLEEP: Final = 30.0
_OF_HOSTS: Final = frozenset({TrustCheck.MX, TrustCheck.TLSA, TrustCheck.PTR, TrustCheck.DNSBL, TrustCheck.MTA_STS})
"""Checks that cannot look where the MX hosts of the domain are not known."""

Look = Callable[[TrustConfig], Awaitable[TrustReport]]
"""Looks at one domain. May raise: that is a fault of ours, and said as such."""


class TrustEvents(Protocol):
    """The operator's log, as the runner needs it."""

    def trust_finding(self, *, domain: str, check: str, severity: str, subject: str, found: str, remedy: str) -> None:
        """There is something that was not there before, or not so."""

    def trust_resolved(self, *, domain: str, check: str, subject: str, found: str) -> None:
        """What was found before is there no more."""

    def trust_fault(self, *, domain: str, error: BaseException) -> None:
        """The look broke off by a fault of ours."""


@dataclass(frozen=True, slots=True)
class TrustResult:
    """What is known of a domain. findings: of the last look, and those of earlier ones that it could not look for
    again. checked_ms: when a look last came to its end, None: none has yet."""

    domain: str
    findings: tuple[TrustFinding, ...]
    checked_ms: int | None

    @property
    def open(self) -> tuple[TrustFinding, ...]:
        """Those that are worth an operator's time."""
        return tuple(one for one in self.findings if one.severity is not Severity.OK)


class TrustRunner:
    """Looks at each domain once an hour, never twice at the same time. `results` is replaced whole."""

    def __init__(self, look: Look, now_ms: Callable[[], int], events: TrustEvents) -> None:
        self.results: Mapping[str, TrustResult] = {}
        """By domain; of those that have been looked at."""
        self._look = look
        self._now_ms = now_ms
        self._events = events
        self._entries: dict[str, TrustConfig] = {}
        self._due: dict[str, int] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._changed = asyncio.Event()

    def watch(self, entries: Sequence[TrustConfig]) -> None:
        """From now on these. What was known of a domain that is gone is forgotten; a changed one is looked at soon."""
        wanted = {entry.domain.lower(): entry for entry in entries}
        now = self._now_ms()
        for domain, entry in wanted.items():
            if self._entries.get(domain) != entry:
                self._due[domain] = now + place_ms(domain) % FIRST_WITHIN_MS
        self._due = {domain: at for domain, at in self._due.items() if domain in wanted}
        self.results = {domain: result for domain, result in self.results.items() if domain in wanted}
        self._entries = wanted
        self._changed.set()

    def next_ms(self, domain: str) -> int:
        """When a domain is to be looked at next. Raises KeyError for one that is not watched."""
        return self._due[domain]

    def begin(self) -> list["asyncio.Task[None]"]:
        """Begin what is due. A domain that is still being looked at waits for the end of that."""
        now, begun = self._now_ms(), []
        for domain, at_ms in self._due.items():
            after = next_place(domain, now + APART_MS)
            if at_ms > now:
                self._due[domain] = min(at_ms, after)  # a clock that was set back leaves no domain alone for long
            elif domain in self._running:
                self._due[domain] = now + FIRST_WITHIN_MS
            else:
                self._due[domain] = after
                task = asyncio.create_task(self._one(domain, self._entries[domain]), name=domain)
                task.add_done_callback(self._ended)
                self._running[domain] = task
                begun.append(task)
        return begun

    def _ended(self, task: "asyncio.Task[None]") -> None:
        del self._running[task.get_name()]

    async def run(self, pace: int = 1) -> None:
        """Look until cancelled. pace: how much faster than real time `now_ms` goes."""
        try:
            while True:
                self.begin()
                ahead = min(self._due.values(), default=self._now_ms() + HOUR_MS) - self._now_ms()
                self._changed.clear()
                wait = min(max(ahead / 1000 / pace, 0.05), _LONGEST_SLEEP)
                try:
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
                except TimeoutError:
                    continue
        finally:
            await self.stop()

    async def stop(self) -> None:
        """End the looks that run; they leave nothing."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def counts(self) -> dict[tuple[str, str, str], int]:
        """For metrics: (domain, check, severity) -> findings, with a 0 for each severity of a check that was made."""
        found: dict[tuple[str, str, str], int] = {}
        for domain, result in self.results.items():
            counted = Counter((one.check, one.severity) for one in result.findings)
            for check in {one.check for one in result.findings}:
                found |= {(domain, check.value, one.value): counted[check, one] for one in Severity}
        return found

    def checked_seconds(self) -> dict[str, int]:
        """For metrics: domain -> POSIX seconds at which a look last came to its end."""
        results = self.results
        return {domain: one.checked_ms // 1000 for domain, one in results.items() if one.checked_ms is not None}

    async def _one(self, domain: str, entry: TrustConfig) -> None:
        try:
            async with self._slots, asyncio.timeout(LIMIT_SECONDS):
                report = await self._look(entry)
            found, ended_ms = report.findings, self._now_ms()
        except Exception as error:  # whatever is wrong with one domain, the others must go on
            found, ended_ms = (_broken(domain, error),), None
            if not isinstance(error, OSError):  # TimeoutError is one: the net's or the system's, not a fault of ours
                self._events.trust_fault(domain=domain, error=error)
        if self._entries.get(domain) == entry:
            self._take(domain, found, ended_ms)

    def _take(self, domain: str, found: tuple[TrustFinding, ...], ended_ms: int | None) -> None:
        before = self.results.get(domain, TrustResult(domain, (), None))
        after = TrustResult(domain, (*found, *held(domain, before.open, found)), ended_ms or before.checked_ms)
        self.results = {**self.results, domain: after}
        appeared, gone = difference(before.open, after.open)
        for one in appeared:
            self._events.trust_finding(
                domain=domain,
                check=one.check.value,
                severity=one.severity.value,
                subject=one.subject,
                found=one.text,
                remedy=one.remedy,
            )
        for one in gone:
            self._events.trust_resolved(domain=domain, check=one.check.value, subject=one.subject, found=one.text)


def place_ms(domain: str) -> int:
    """The place of a domain in the hour: fixed, and spread so that resolvers and lists do not have all at once."""
    return int.from_bytes(hashlib.sha256(domain.lower().encode()).digest()[:4]) % HOUR_MS


def next_place(domain: str, after_ms: int) -> int:
    """The first instant after `after_ms` (epoch ms) that is at the domain's place in its hour."""
    place = place_ms(domain)
    return (after_ms - place) // HOUR_MS * HOUR_MS + HOUR_MS + place


def held(domain: str, before: Iterable[TrustFinding], found: Sequence[TrustFinding]) -> list[TrustFinding]:
    """The findings of before that the new look says nothing about, because just there it could not look: a resolver
    that is away for an hour resolves nothing."""
    errors = [one for one in found if one.severity is Severity.ERROR]
    answered = {(one.check, one.subject) for one in found if one.severity is not Severity.ERROR}
    return [
        one
        for one in before
        if one.severity is not Severity.ERROR
        and one not in found
        # Block lists answer each for itself: what one says of an address is not what another says.
        and (one.check is TrustCheck.DNSBL or (one.check, one.subject) not in answered)
        and any(_hides(error, one, domain) for error in errors)
    ]


def _hides(error: TrustFinding, one: TrustFinding, domain: str) -> bool:
    if error.check is TrustCheck.ALL:
        return True
    if error.check is TrustCheck.MX and error.subject == domain:
        return one.check in _OF_HOSTS
    # An error is of a host or of a list's zone, what was found of an address: subject or text holds the other.
    return error.check is one.check and _names(f"{one.subject} {one.text}", error.subject)


def _names(text: str, name: str) -> bool:
    return re.search(rf"(?<![\w.:-]){re.escape(name)}(?![\w:-]|\.\w)", text) is not None


def difference(
    before: Sequence[TrustFinding], after: Sequence[TrustFinding]
) -> tuple[list[TrustFinding], list[TrustFinding]]:
    """(appeared or changed, gone). What changed of the same check and subject is not gone besides."""
    appeared = [one for one in after if one not in before]
    changed = Counter((one.check, one.subject) for one in appeared)
    gone = []
    for one in before:
        if one in after:
            continue
        if changed[one.check, one.subject]:
            changed[one.check, one.subject] -= 1
        else:
            gone.append(one)
    return appeared, gone


def _broken(domain: str, error: Exception) -> TrustFinding:
    if isinstance(error, TimeoutError):
        text = f"not at its end after {LIMIT_SECONDS} s"
    else:
        text = (isinstance(error, OSError) and (error.strerror or str(error))) or f"broke off: {type(error).__name__}"
    return finding(TrustCheck.ALL, domain, Severity.ERROR, text, "see the log; it is tried again in an hour")


def looker(hostname: str) -> Look:
    """The look at a domain as configured. hostname: given to the MX hosts with EHLO."""

    async def look(entry: TrustConfig) -> TrustReport:
        context = TrustContext(lookup_of(entry.resolver), SmtpSettings(helo=hostname))
        return await check_trust(request_of(entry), context)

    return look


def request_of(entry: TrustConfig) -> TrustRequest:
    """What the configuration asks for."""
    lists = [BlockList(zone) for zone in entry.block_lists]
    for text in entry.domain_lists:
        zone, found, test = text.partition("=")
        lists.append(BlockList(zone, ListKind.DOMAINS, test) if found else BlockList(zone, ListKind.DOMAINS))
    senders = tuple(ip_address(text) for text in entry.senders)
    return TrustRequest(entry.domain, entry.selectors, senders, tuple(lists), entry.connect)


def lookup_of(resolver: str) -> Lookup:
    """The resolver of a configuration entry, "": the system's. Raises OSError where the system names none."""
    if not resolver:
        return Lookup()
    address, port = split_nameserver(resolver)
    return Lookup([address], port=port)
