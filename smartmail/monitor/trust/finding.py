"""What a trust check says: advice for the operator, never a vote in any minute (DESIGN section 4)."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MAX_TEXT: Final = 400


class TrustCheck(StrEnum):
    """What was looked at."""

    MX = "mx"
    SPF = "spf"
    DKIM = "dkim"
    DMARC = "dmarc"
    MTA_STS = "mta-sts"
    TLS_RPT = "tls-rpt"
    TLSA = "tlsa"
    PTR = "ptr"
    DNSBL = "dnsbl"
    ALL = "all"
    """The whole look at the domain, where it broke off."""


class Severity(StrEnum):
    """ok; warning: worth a change; problem: other servers may refuse or bin mail; error: we could not look."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    ERROR = "error"


_RANK: Final = {Severity.OK: 0, Severity.WARNING: 1, Severity.ERROR: 2, Severity.PROBLEM: 3}


@dataclass(frozen=True, slots=True)
class TrustFinding:
    """One thing found. subject: the name or address it is about. remedy: what to do, or nothing."""

    check: TrustCheck
    subject: str
    severity: Severity
    text: str
    remedy: str = ""


def finding(check: TrustCheck, subject: str, severity: Severity, text: str, remedy: str = "") -> TrustFinding:
    """A finding in one printable line each: texts may hold what somebody put into the DNS."""
    return TrustFinding(check, printable(subject), severity, printable(text), printable(remedy))


def printable(text: str) -> str:
    """One line of at most MAX_TEXT printable characters."""
    line = " ".join(text[: 4 * MAX_TEXT].split())
    line = "".join(character if character.isprintable() else "\ufffd" for character in line)
    return line if len(line) <= MAX_TEXT else f"{line[: MAX_TEXT - 1]}…"


def worst(findings: Iterable[TrustFinding]) -> Severity:
    """The worst of them: a problem, else an error, else a warning, else ok."""
    return max((one.severity for one in findings), key=_RANK.__getitem__, default=Severity.OK)
