"""What a probe saw, and the frame every probe runs in: one deadline, phases by name, failures put into words.

A failure's text is short, printable and never holds a secret, whatever the server said: `Visit.words` is the one way
from a peer's octets to a detail.
"""

import asyncio
import base64
import errno
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckSpec
from smartmail.core.sample import MAX_DETAIL
from smartmail.monitor.probes.context import ProbeContext, Secret, SecretError

_HIDDEN: Final = "***"
_TELLING: Final = 6
"""Letters of a secret that are blanked wherever they stand together; a shorter secret is blanked as a whole."""
_LOOKED_AT: Final = 1000
"""Letters of a peer's words that are looked at: the rest would not fit into a detail."""

_REFUSED: Final = frozenset({errno.ECONNREFUSED})
_UNREACHABLE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.ENONET})
_LOST: Final = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ESHUTDOWN, errno.ENOTCONN})


@dataclass(frozen=True, slots=True)
class Observation:
    """How a probe ended. latency_ms: from its start to its end. phases: ms by name (dns, connect, tls, banner, auth,
    command), only those that began. detail: printable, at most MAX_DETAIL, "" for plain OK. facts: what else was seen:
    "certificate_expires" (epoch seconds), "address", and what the kind of probe adds."""

    outcome: Outcome
    latency_ms: int
    phases: Mapping[str, int]
    detail: str = ""
    facts: Mapping[str, str | int] = field(default_factory=dict)


class ProbeFailure(Exception):
    """The end of a probe that did not go well. Made by `Visit.failure`, so that its text is fit to be seen."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


class Visit:
    """One probe under way: where it is (`at`), how long each phase took, what it found, what must not be repeated."""

    __slots__ = (
        "at",
        "check",
        "context",
        "facts",
        "note",
        "timeout_ms",
        "_loop",
        "_phase",
        "_phases",
        "_secrets",
        "_since",
    )

    def __init__(self, check: CheckSpec, context: ProbeContext, timeout_ms: int) -> None:
        self.check = check
        self.context = context
        self.timeout_ms = timeout_ms
        self.at = "start"
        self.note = ""
        """Detail of a probe that ends well, but not plainly (greylisted, expires soon)."""
        self.facts: dict[str, str | int] = {}
        self._loop = asyncio.get_running_loop()
        self._phases: dict[str, float] = {}
        self._phase = ""
        self._since = self._loop.time()
        self._secrets: tuple[str, ...] = ()

    def phase(self, name: str) -> None:
        """From now on time counts for this phase; a phase entered again goes on where it was left."""
        now = self._loop.time()
        if self._phase:
            self._phases[self._phase] = self._phases.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = name, now

    def phases(self) -> dict[str, int]:
        """Milliseconds of each phase so far."""
        self.phase(self._phase)
        return {name: round(1000 * seconds) for name, seconds in self._phases.items()}

    def secret(self) -> Secret:
        """The login that the option `secret` names; it is blanked in all words from now on. Raises ProbeFailure
        (MONITOR_ERROR)."""
        name = self.check.option("secret")
        if not name:
            raise self.failure(Outcome.MONITOR_ERROR, "the check has no option secret")
        return self.secret_named(name)

    def secret_named(self, name: str) -> Secret:
        """As `secret`, by its name: for a check that uses two."""
        try:
            secret = self.context.secrets.get(name)
        except SecretError as error:
            raise self.failure(Outcome.MONITOR_ERROR, str(error)) from None
        self._secrets += _forms(secret)
        return secret

    def number(self, option: str, default: int) -> int:
        """An option that is a whole number, 0 or more. Raises ProbeFailure (MONITOR_ERROR)."""
        text = self.check.option(option, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise self.failure(Outcome.MONITOR_ERROR, f"option {option} is no whole number")
        return int(text)

    def words(self, text: str | bytes) -> str:
        """A peer's words, fit to be stored and shown: printable, without secrets, cut to MAX_DETAIL."""
        if isinstance(text, bytes):
            text = text[:_LOOKED_AT].decode("utf-8", "replace")
        text = "".join(letter if letter.isprintable() else " " for letter in text[:_LOOKED_AT])
        text = " ".join(text.split())
        return _blanked(text, self._secrets)[:MAX_DETAIL]

    def failure(self, outcome: Outcome, text: str | bytes) -> ProbeFailure:
        """The failure to raise: what was said, and where."""
        where = f" at {self.at}" if self.at else ""
        said = self.words(text) or "an empty answer"
        return ProbeFailure(outcome, said[: MAX_DETAIL - len(where)].rstrip() + where)

    def fault(self, error: OSError) -> ProbeFailure:
        """The failure that an error of the network or the system means."""
        code = error.errno or 0
        name = errno.errorcode.get(code, type(error).__name__)
        if code in _REFUSED:
            return self.failure(Outcome.REFUSED, "connection refused")
        if code in _UNREACHABLE:
            return self.failure(Outcome.UNREACHABLE, f"unreachable ({name})")
        if isinstance(error, TimeoutError):
            return self.failure(Outcome.TIMEOUT, "no answer")
        if code in _LOST:
            return self.failure(Outcome.LOST, f"connection lost ({name})")
        return self.failure(Outcome.MONITOR_ERROR, f"{type(error).__name__} {name}")


Work = Callable[[Visit], Awaitable[Outcome]]
"""The steps of one kind of probe: gives an OK outcome, or raises ProbeFailure."""


async def observe(check: CheckSpec, context: ProbeContext, work: Work, timeout_ms: int = 0) -> Observation:
    """Run the steps under one deadline and say how they ended. Raises nothing but CancelledError, when the caller's
    own task is cancelled. timeout_ms: for a probe that may take longer than others; 0: the check's option timeout_ms,
    or else the context's."""
    visit = Visit(check, context, timeout_ms or context.timeout_ms)
    loop = asyncio.get_running_loop()
    started = loop.time()
    outcome, detail = Outcome.MONITOR_ERROR, ""
    try:
        if not timeout_ms:
            visit.timeout_ms = visit.number("timeout_ms", context.timeout_ms)
        async with asyncio.timeout(visit.timeout_ms / 1000):
            outcome = await work(visit)
        detail = visit.words(visit.note) if outcome is not Outcome.OK else ""
    except ProbeFailure as failure:
        outcome, detail = failure.outcome, visit.words(failure.detail)
    except TimeoutError:
        outcome, detail = Outcome.TIMEOUT, f"no answer within {visit.timeout_ms} ms at {visit.at}"
    except Exception as error:
        # Whatever else goes wrong is ours, and is counted as such: a sample of the monitor's own fault. Its text
        # could hold anything, so only its type is told.
        outcome, detail = Outcome.MONITOR_ERROR, f"{type(error).__name__} at {visit.at}"[:MAX_DETAIL]
    latency = round(1000 * (loop.time() - started))
    return Observation(outcome, latency, visit.phases(), detail, visit.facts)


def _forms(secret: Secret) -> tuple[str, ...]:
    """The password as it goes over the wire, and so as a server could repeat it. Casefolded."""
    password = secret.password
    quoted = password.replace("\\", "\\\\").replace('"', '\\"')
    encoded = base64.b64encode(password.encode()).decode().rstrip("=")
    plain = base64.b64encode(b"\0".join((b"", secret.login.encode(), password.encode()))).decode().rstrip("=")
    # The front of `plain` is the login's: not secret, but its last letters would let a password's first be guessed.
    return tuple({form.casefold() for form in (password, quoted, encoded, plain) if form})


def _blanked(text: str, secrets: tuple[str, ...]) -> str:
    """The text without any six letters that also stand together in a secret: servers cut what they repeat."""
    if not secrets:
        return text
    folded = text.casefold()
    if len(folded) != len(text):  # a letter that folds to two: positions would not fit
        text = folded
    hidden = bytearray(len(text))
    for secret in secrets:
        size = min(_TELLING, len(secret))
        for at in range(len(text) - size + 1):
            if folded[at : at + size] in secret:
                hidden[at : at + size] = b"\1" * size
    parts, at = [], 0
    while at < len(text):
        end = at
        while end < len(text) and hidden[end] == hidden[at]:
            end += 1
        parts.append(_HIDDEN if hidden[at] else text[at:end])
        at = end
    return "".join(parts)
