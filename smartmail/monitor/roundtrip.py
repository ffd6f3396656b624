"""The round trip: a message sent as a customer sends it, and seen where a customer sees it (DESIGN section 4).

A trip is judged for the minute of its sending, and only at its deadline: seen by then is OK (OK_JUNK in the Junk
folder), not there is NOT_ARRIVED, and where nobody could look it is what kept us from looking. A message that comes
later is told as a late arrival with its latency, by a later trip of the same check; it votes for nothing. A sending
that fails is a failed trip, at once, with the sending's own class.

Greylisting is no fault: where we come as a stranger (way mx, or an outside sender), a 4xx of that kind is tried again
until the deadline; through in the end, or still greylisted at the deadline, is OK_GREYLISTED. A submission server of
ours has no reason to greylist its own customer: there it is TRANSIENT.

Of a provider outside (option `outside`) nothing counts against us: its failures, and a mailbox of its where nothing
arrived, are MONITOR_ERROR. To have the way out judged, receive with an own sink instead (receive = "intake").
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from smartmail.core.outcome import Outcome
from smartmail.core.probe_token import MIN_SECRET, NONCE_OCTETS, ProbeToken, make
from smartmail.core.roster import CheckSpec
from smartmail.monitor.probes.context import ProbeContext
from smartmail.monitor.probes.conversation import Target
from smartmail.monitor.probes.observation import Observation, ProbeFailure, Visit, observe
from smartmail.monitor.roundtrip_mailbox import INBOX, Found, Mailbox, MailboxSettings
from smartmail.monitor.roundtrip_send import Greylisted, Letter, Way, compose, send
from smartmail.monitor.roundtrip_stages import hops_of, split

DEADLINE_SECONDS: Final = 180
MAX_DEADLINE_SECONDS: Final = 780
"""The agent ends a trip after 900 seconds."""
RETRY_SECONDS: Final = 60
MOST_AT_ONCE: Final = 16
"""Trips of one check: one is begun each minute, and the longest takes 14."""
CLEAN_AFTER_MS: Final = 24 * 3_600_000
"""Own messages of any check or location that are older are deleted."""
_MARGIN_SECONDS: Final = 60
"""For what comes after the deadline: the last look and the cleaning."""
_LATE_MARGIN_MS: Final = 30_000
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 15.0
_SLOWER: Final = 1.6
_JUNK_AFTER: Final = 1.0
"""Seconds after which the Junk folder is looked into as well."""


class Seen(Protocol):
    """A message that came to a sink (`intake.probemail.Arrival`)."""

    @property
    def token(self) -> ProbeToken: ...
    @property
    def received_ms(self) -> int: ...
    @property
    def received(self) -> tuple[str, ...]: ...


class Sink(Protocol):
    """Where probe mail comes to (`intake.probemail.ProbeIntake`)."""

    async def wait(self, token: str) -> Seen: ...
    def arrivals(self) -> Sequence[Seen]: ...
    def forget(self, token: str) -> None: ...


@dataclass(frozen=True, slots=True)
class LateArrival:
    """A message that nobody saw by its deadline. stored_ms: when the mailbox says it came, None: does not say."""

    check: str
    location: str
    sent_ms: int
    seen_ms: int
    stored_ms: int | None

    @property
    def late_ms(self) -> int:
        """From the sending to its coming, as far as is known."""
        return max(0, (self.stored_ms or self.seen_ms) - self.sent_ms)


def _ignore(_: LateArrival) -> None:
    return


class RoundTrips:
    """The round trips of one location. sink: for checks that receive = "intake". on_late: told of each late arrival."""

    def __init__(
        self, location: str, *, sink: Sink | None = None, on_late: Callable[[LateArrival], None] = _ignore
    ) -> None:
        self.location = location
        self.sink = sink
        self.on_late = on_late
        self._running: Counter[str] = Counter()

    async def start(self, check: CheckSpec, context: ProbeContext) -> Observation:
        """Do one trip, of the signature of a probe. It ends at its deadline at the latest, minutes after it began; its
        sample is of its beginning. Several may run, MOST_AT_ONCE of a check: one more is a MONITOR_ERROR.

        Options: recipient, secret (login for sending), token_secret (its password is the key of the tokens, 16 octets
        or more); way (submission, smtps, mx), sender (default: the login), deadline (seconds, 180), retry (seconds
        between tries where greylisted, 60), outside ("", sender, mailbox); receive (imap, intake), imap_host (default:
        the check's), imap_port (993), imap_starttls (yes), imap_secret (default: secret), junk (folder, "Junk"; "-":
        none); starttls ("no": way mx goes without), tls_name, imap_tls_name, family, resolver.
        """
        if self._running[check.name] >= MOST_AT_ONCE:
            return Observation(Outcome.MONITOR_ERROR, 0, {}, "too many round trips of this check are under way")
        self._running[check.name] += 1
        try:
            return await self._one(check, context)
        finally:
            self._running[check.name] -= 1
            self._running += Counter()  # drops what is at zero

    def running(self, check: str) -> int:
        """Trips of a check under way."""
        return self._running[check]

    async def _one(self, check: CheckSpec, context: ProbeContext) -> Observation:
        trips: list[_Trip] = []

        async def work(visit: Visit) -> Outcome:
            trips.append(_Trip(self, visit))
            return await trips[0].run()

        limit = (MAX_DEADLINE_SECONDS + _MARGIN_SECONDS) * 1000
        seen = await observe(check, context, work, limit)
        if not trips:
            return seen
        trip = trips[0]
        latency = trip.latency_ms if trip.latency_ms is not None else seen.latency_ms
        return replace(seen, latency_ms=latency, phases=trip.phases, facts={**trip.facts, **seen.facts})


async def round_trip(check: CheckSpec, context: ProbeContext) -> Observation:
    """One trip by IMAP, of a location without a name of its own; an agent makes `RoundTrips` with its location."""
    return await RoundTrips("agent").start(check, context)


class _Trip:
    """One trip under way."""

    def __init__(self, trips: RoundTrips, visit: Visit) -> None:
        self._trips = trips
        self._visit = visit
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._deadline = self._began
        self._key, self._token = b"", ""
        self._greylisted = ""
        self.sent_ms = visit.context.now_ms()
        self.phases: dict[str, int] = {}
        self.facts: dict[str, str | int] = {"sent_ms": self.sent_ms}
        self.latency_ms: int | None = None
        """From the sending to the seeing; None: not seen."""

    async def run(self) -> Outcome:
        """Send, wait, split, clean up. Raises ProbeFailure."""
        visit = self._visit
        deadline = visit.number("deadline", DEADLINE_SECONDS)
        if not 0 < deadline <= MAX_DEADLINE_SECONDS:
            raise self._misconfigured(f"option deadline: 1 to {MAX_DEADLINE_SECONDS} seconds")
        self._deadline = self._began + deadline
        self._key = self._token_key()
        nonce = secrets.token_bytes(NONCE_OCTETS)
        self._token = make(self._key, visit.check.name, self._trips.location, self.sent_ms, nonce)
        letter = self._letter(nonce.hex())
        receiver = self._receiver()
        if not await self._send(letter):
            visit.note = self._greylisted
            return Outcome.OK_GREYLISTED
        try:
            return await (self._by_imap(receiver) if isinstance(receiver, Mailbox) else self._by_sink(receiver))
        except ProbeFailure as failure:
            if visit.check.option("outside") == "mailbox":
                raise ProbeFailure(Outcome.MONITOR_ERROR, f"the outside mailbox: {failure.detail}") from None
            raise

    def _misconfigured(self, text: str) -> ProbeFailure:
        return self._visit.failure(Outcome.MONITOR_ERROR, text)

    def _token_key(self) -> bytes:
        name = self._visit.check.option("token_secret")
        if not name:
            raise self._misconfigured("the check has no option token_secret")
        key = self._visit.secret_named(name).password.encode()
        if len(key) < MIN_SECRET:
            raise self._misconfigured(f"secret {name}: a key of {MIN_SECRET} octets or more")
        return key

    # Sending

    def _letter(self, nonce: str) -> Letter:
        check = self._visit.check
        try:
            way = Way(check.option("way") or Way.SUBMISSION)
        except ValueError:
            raise self._misconfigured("option way: submission, smtps or mx") from None
        login = "" if way is Way.MX else self._visit.secret().login
        sender, recipient = check.option("sender") or login, check.option("recipient")
        for name, address in (("sender", sender), ("recipient", recipient)):
            if "@" not in address or not address.isascii() or not address.isprintable() or set(address) & set("<> "):
                raise self._misconfigured(f"option {name} is no address")
        content = compose(sender, recipient, self._token, nonce, self.sent_ms)
        return Letter(way, sender, recipient, "" if way is Way.MX else check.option("secret"), content)

    async def _send(self, letter: Letter) -> bool:
        """Send it, again where it is greylisted. False: still greylisted at the deadline."""
        check, context = self._visit.check, self._visit.context
        outside = check.option("outside") == "sender"
        pause = max(1, self._visit.number("retry", RETRY_SECONDS))
        tries = 0
        while True:
            tries += 1
            visit = Visit(check, context, context.timeout_ms)
            try:
                await send(visit, letter)
            except Greylisted as reply:
                self._greylisted = str(reply)
                if letter.way is not Way.MX and not outside:
                    raise visit.failure(Outcome.TRANSIENT, str(reply)) from None
            except ProbeFailure as failure:
                if outside:
                    raise ProbeFailure(Outcome.MONITOR_ERROR, f"the outside sender: {failure.detail}") from None
                raise
            else:
                return True
            finally:
                self.phases = visit.phases()
                self.facts.update(visit.facts, tries=tries)
            if self._loop.time() + pause >= self._deadline:
                return False
            await asyncio.sleep(pause)

    # Receiving

    def _receiver(self) -> Mailbox | Sink:
        match self._visit.check.option("receive", "imap"), self._trips.sink:
            case "imap", _:
                return self._mailbox()
            case "intake", sink if sink is not None:
                return sink
            case _:
                raise self._misconfigured("option receive: imap, or intake where the location has a sink")

    def _mailbox(self) -> Mailbox:
        visit, check = self._visit, self._visit.check
        host = check.option("imap_host") or check.host
        junk = check.option("junk", "Junk")
        settings = MailboxSettings(
            Target(
                host,
                visit.number("imap_port", 993),
                check.option("imap_tls_name") or host.rstrip("."),
                check.option("family"),
                check.option("resolver"),
            ),
            starttls=check.option("imap_starttls") == "yes",
            secret=check.option("imap_secret") or check.option("secret"),
            key=self._key,
            junk="" if junk == "-" else junk,
        )
        visit.secret_named(settings.secret)  # before anything is sent: without it nobody could look
        return Mailbox(settings, lambda: Visit(check, visit.context, visit.context.timeout_ms))

    async def _by_imap(self, mailbox: Mailbox) -> Outcome:
        try:
            found = await self._poll(mailbox)
            if found is not None:
                outcome = self._arrived(found.received, found.stored_ms, found.folder)
            await self._clean(mailbox, found)
            if found is None:
                raise self._visit.failure(Outcome.NOT_ARRIVED, f"not there after {self._seconds:.0f} s")
            return outcome
        except asyncio.CancelledError:
            mailbox.drop()  # whoever cancels does not wait for a goodbye
            raise
        finally:
            await mailbox.close()

    async def _poll(self, mailbox: Mailbox) -> Found | None:
        """Look until it is there or the deadline has come. Raises ProbeFailure where the last look failed."""
        self._visit.at = ""
        pause = _FIRST_PAUSE
        while True:
            left = self._deadline - self._loop.time()
            try:
                found = await mailbox.look(self._token, junk=left <= 0 or self._seconds >= _JUNK_AFTER)
            except ProbeFailure:
                if left <= 0:
                    raise
                found = None
            if found is not None or left <= 0:
                return found
            await asyncio.sleep(max(0.0, min(pause, self._deadline - self._loop.time())))
            pause = min(pause * _SLOWER, _LONGEST_PAUSE)

    async def _by_sink(self, sink: Sink) -> Outcome:
        self._visit.at = ""
        try:
            async with asyncio.timeout_at(self._deadline):
                seen = await sink.wait(self._token)
        except TimeoutError:
            raise self._visit.failure(Outcome.NOT_ARRIVED, f"not there after {self._seconds:.0f} s") from None
        except ConnectionError:
            raise self._visit.failure(Outcome.MONITOR_ERROR, "the sink was closed") from None
        finally:
            self._tell_late([(one.token, one.received_ms) for one in sink.arrivals()])
            for one in sink.arrivals():
                if one.token.text == self._token or self._is_late(one.token) or self._is_old(one.token):
                    sink.forget(one.token.text)
        return self._arrived(seen.received, seen.received_ms, INBOX)

    @property
    def _seconds(self) -> float:
        return self._loop.time() - self._began

    def _arrived(self, received: Sequence[str], stored_ms: int | None, folder: str) -> Outcome:
        """It has just been seen: the stages, and what that is."""
        self.latency_ms = round(1000 * self._seconds)
        stages = split(self.sent_ms, self.sent_ms + self.latency_ms, hops_of(received), stored_ms)
        self.phases |= {
            "submitted": stages.submitted,
            "relayed": stages.relayed,
            "delivered": stages.delivered,
            "seen": stages.seen,
        }
        self.facts |= {"folder": folder, "hops": len(stages.hops), "skew_ms": stages.skew_ms}
        if stages.skew_ms:
            self.facts["clocks"] = self._visit.words(stages.text)
        if folder != INBOX:
            self._visit.note = f"in the folder {folder}"
            return Outcome.OK_JUNK
        self._visit.note = self._greylisted
        return Outcome.OK_GREYLISTED if self._greylisted else Outcome.OK

    # Cleaning up

    async def _clean(self, mailbox: Mailbox, found: Found | None) -> None:
        """Delete our message, late ones of this check, and old ones of ours; tell of the late ones. What fails here is
        no part of the trip: the next one cleans up after it."""
        try:
            own = await mailbox.own()
            late = [one for one in own if self._is_late(one.token)]
            old = [one for one in own if self._is_old(one.token)]
            gone = {(one.folder, one.uid): one for one in (*late, *old, *([found] if found else []))}
            gone |= {(one.folder, one.uid): one for one in own if one.token.text == self._token}
            if gone:
                await mailbox.delete(list(gone.values()))
            self._tell_late([(one.token, one.stored_ms) for one in late])
        except ProbeFailure as failure:
            self.facts["clean_failed"] = failure.detail

    def _is_old(self, token: ProbeToken) -> bool:
        return token.sent_ms + CLEAN_AFTER_MS < self._visit.context.now_ms()

    def _is_late(self, token: ProbeToken) -> bool:
        """Of this check and location, and its own trip can no longer be under way."""
        if (token.check, token.location) != (self._visit.check.name, self._trips.location):
            return False
        limit_ms = round(1000 * (self._deadline - self._began)) + _LATE_MARGIN_MS
        return token.text != self._token and token.sent_ms + limit_ms < self._visit.context.now_ms()

    def _tell_late(self, messages: Sequence[tuple[ProbeToken, int | None]]) -> None:
        late = [
            LateArrival(token.check, token.location, token.sent_ms, self._visit.context.now_ms(), stored_ms)
            for token, stored_ms in messages
            if self._is_late(token)
        ]
        if late:
            self.facts |= {"late_arrivals": len(late), "late_ms": max(one.late_ms for one in late)}
        for one in late:
            self._trips.on_late(one)
