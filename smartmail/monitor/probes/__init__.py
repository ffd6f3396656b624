"""Probes: each does what a customer's program would do, and says how it went, how long each part took, and why not.

observation.py  the frame: deadline, phases, failures in words; no exception leaves it, no secret either
conversation.py lines over TCP and TLS
resolver.py     names to addresses
context.py      what all probes of an agent share
The others are a protocol each.
"""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind, CheckSpec
from smartmail.monitor.probes.certificate import probe_certificate
from smartmail.monitor.probes.context import (
    ProbeContext,
    Secret,
    SecretError,
    SecretSource,
    TlsRoots,
    make_context,
)
from smartmail.monitor.probes.dns import probe_dns
from smartmail.monitor.probes.https import probe_https
from smartmail.monitor.probes.imap import probe_imap, probe_imaps
from smartmail.monitor.probes.observation import Observation, ProbeFailure, Visit, observe
from smartmail.monitor.probes.pop3 import probe_pop3s
from smartmail.monitor.probes.resolver import Resolver
from smartmail.monitor.probes.sieve import probe_sieve
from smartmail.monitor.probes.smtp import probe_mx, probe_smtps, probe_submission
from smartmail.monitor.probes.tcp import probe_tcp

__all__ = [
    "OPTIONS",
    "PROBES",
    "Observation",
    "Probe",
    "ProbeContext",
    "ProbeFailure",
    "Resolver",
    "Secret",
    "SecretError",
    "SecretSource",
    "TlsRoots",
    "Visit",
    "make_context",
    "observe",
    "probe",
]

Probe = Callable[[CheckSpec, ProbeContext], Awaitable[Observation]]
"""Gives an Observation, whatever happens; raises nothing but CancelledError."""

PROBES: Final[Mapping[CheckKind, Probe]] = MappingProxyType(
    {
        CheckKind.MX: probe_mx,
        CheckKind.SUBMISSION: probe_submission,
        CheckKind.SMTPS: probe_smtps,
        CheckKind.IMAPS: probe_imaps,
        CheckKind.IMAP: probe_imap,
        CheckKind.POP3S: probe_pop3s,
        CheckKind.SIEVE: probe_sieve,
        CheckKind.HTTPS: probe_https,
        CheckKind.DNS: probe_dns,
        CheckKind.CERTIFICATE: probe_certificate,
        CheckKind.TCP: probe_tcp,
    }
)
"""By kind. The round trip needs more than a look and is not among them."""

_OF_ALL: Final = frozenset({"family", "resolver", "timeout_ms"})
_OF_LOGIN: Final = _OF_ALL | {"tls_name", "secret"}
OPTIONS: Final[Mapping[CheckKind, frozenset[str]]] = MappingProxyType(
    {
        CheckKind.MX: _OF_ALL | {"tls_name", "recipient", "starttls"},
        CheckKind.SUBMISSION: _OF_LOGIN,
        CheckKind.SMTPS: _OF_LOGIN,
        CheckKind.IMAPS: _OF_LOGIN | {"mailbox"},
        CheckKind.IMAP: _OF_LOGIN | {"mailbox"},
        CheckKind.POP3S: _OF_LOGIN | {"auth"},
        CheckKind.SIEVE: _OF_LOGIN,
        CheckKind.HTTPS: _OF_ALL | {"tls_name", "path", "status", "text"},
        CheckKind.DNS: _OF_ALL | {"mx", "dnssec", "warn_hours", "soa_wait_ms"},
        CheckKind.CERTIFICATE: _OF_ALL | {"tls_name", "starttls", "warn_days"},
        CheckKind.TCP: _OF_ALL,
    }
)
"""The options that each kind knows; what they mean stands with its probe."""


async def probe(check: CheckSpec, context: ProbeContext) -> Observation:
    """Do the check. A kind that this version does not know is the monitor's own fault."""
    known = PROBES.get(check.kind)
    if known is None:
        return Observation(Outcome.MONITOR_ERROR, 0, {}, f"no probe for {check.kind}")
    return await known(check, context)
