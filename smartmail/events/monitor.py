"""The lines of the monitor: agents and their collector. As in `smartmail.events`: fixed wording, one function each."""

import logging
from collections.abc import Sequence

from smartmail.events import Field, _emit
from smartmail.events.lines import fault

# The collector


def agent_enrolled(*, agent: str, location: str, address: str) -> None:
    """A token was spent. address: whence it came."""
    fields: dict[str, Field] = {"agent": agent, "location": location, "address": address}
    _emit(logging.WARNING, "agent_enrolled", "agent enrolled", fields)


def collector_refused(*, reason: str, agent: str, address: str, what: str) -> None:
    """A request to the collector was refused. reason: of the closed list; what: as answered."""
    fields: dict[str, Field] = {"reason": reason, "agent": agent, "address": address, "what": what}
    _emit(logging.WARNING, "collector_refused", "request to the collector refused", fields)


def batch_questioned(*, agent: str, location: str, quarantined: int, conflicts: int) -> None:
    """A batch was taken, but some of its samples were not: from the future, or other than what is known already."""
    fields: dict[str, Field] = {
        "agent": agent,
        "location": location,
        "quarantined": quarantined,
        "conflicts": conflicts,
    }
    _emit(logging.WARNING, "batch_questioned", "samples put aside", fields)


# An agent


def agent_started(*, agent: str, location: str, collectors: Sequence[str]) -> None:
    """The agent begins its work."""
    fields: dict[str, Field] = {"agent": agent, "location": location, "collectors": collectors}
    _emit(logging.INFO, "agent_started", "agent is running", fields)


def agent_stopped(*, agent: str, waiting: int) -> None:
    """The agent has ended. waiting: samples that lie in its spool."""
    _emit(logging.INFO, "agent_stopped", "agent has stopped", {"agent": agent, "samples_waiting": waiting})


def agent_paused(*, seconds: int, missed: int) -> None:
    """The agent did not run for a while. missed: probes that were not made."""
    fields: dict[str, Field] = {"seconds": seconds, "missed": missed}
    _emit(logging.WARNING, "agent_paused", "the agent did not run: no samples of this time", fields)


def clock_learnt(*, offset_ms: int, shift_ms: int) -> None:
    """The time was learnt from a collector. offset_ms: how far the wall clock is behind it."""
    fields: dict[str, Field] = {"offset_ms": offset_ms, "shift_ms": shift_ms}
    _emit(logging.INFO, "clock_learnt", "time learnt from the collector", fields)


def roster_taken(*, version: int, checks: int) -> None:
    """Another roster is the newest that the agent knows."""
    _emit(logging.INFO, "roster_taken", "roster taken", {"version": version, "checks": checks})


def probe_fault(*, check: str, error: BaseException) -> None:
    """A probe broke off by a fault of ours."""
    _emit(logging.ERROR, "probe_fault", "a fault of ours in a probe", {"check": check, **fault(error)})


def location_cut_off(*, location: str, detail: str) -> None:
    """No control target can be reached: the location abstains."""
    fields: dict[str, Field] = {"location": location, "detail": detail}
    _emit(logging.WARNING, "location_cut_off", "this location is cut off", fields)


def location_back(*, location: str) -> None:
    """Control targets can be reached again."""
    _emit(logging.WARNING, "location_back", "this location is on the net again", {"location": location})


def collector_lost(*, reason: str) -> None:
    """No collector takes samples; they gather on disk."""
    _emit(logging.WARNING, "collector_lost", "no collector takes samples, they are kept", {"reason": reason})


def collector_back(*, url: str) -> None:
    """A collector takes samples again."""
    _emit(logging.WARNING, "collector_back", "a collector takes samples again", {"url": url})


def batch_set_aside(*, samples: int, reason: str) -> None:
    """No collector will ever take these samples; they are kept apart."""
    fields: dict[str, Field] = {"samples": samples, "reason": reason}
    _emit(logging.ERROR, "batch_set_aside", "samples set aside that no collector takes", fields)


def samples_lost(*, samples: int, reason: str) -> None:
    """These samples are gone."""
    _emit(logging.ERROR, "samples_lost", "samples were lost", {"samples": samples, "reason": reason})


def spool_failed(*, reason: str) -> None:
    """The agent's disk does not take or give samples."""
    _emit(logging.ERROR, "spool_failed", "the agent's disk cannot be used", {"reason": reason})


def spool_broken(*, file: str) -> None:
    """The spool could not be read; it lies in `file`, and a new one was begun."""
    _emit(logging.ERROR, "spool_broken", "the spool could not be read and was moved away", {"file": file})


def round_trip_late(*, check: str, location: str, late_ms: int, sent_ms: int) -> None:
    """A probe's message came after its deadline: its minute counted as failed. late_ms: from its sending to its coming,
    as far as is known. sent_ms: epoch."""
    fields: dict[str, Field] = {"check": check, "location": location, "late_ms": late_ms, "sent_ms": sent_ms}
    _emit(logging.WARNING, "round_trip_late", "a probe's message came late", fields)


def secret_readable(text: str) -> None:
    """Others than the agent may read a file of a secret. text: which, and its mode."""
    _emit(logging.WARNING, "secret_readable", "a secret can be read by others", {"what": text})


def roster_in_force(*, version: int, checks: int, locations: Sequence[str], from_minute: int) -> None:
    """Another roster counts from this minute on, which is at most a few ahead. from_minute: POSIX seconds / 60."""
    fields: dict[str, Field] = {
        "version": version,
        "checks": checks,
        "locations": locations,
        "from_minute": from_minute,
    }
    _emit(logging.INFO, "roster_in_force", "roster in force", fields)


# Trust checks


def trust_finding(*, domain: str, check: str, severity: str, subject: str, found: str, remedy: str) -> None:
    """A trust check finds something that it did not find an hour ago, or not so. Advisory: no part of any SLA."""
    fields: dict[str, Field] = {
        "domain": domain,
        "check": check,
        "severity": severity,
        "subject": subject,
        "found": found,
        "remedy": remedy,
    }
    level = logging.INFO if severity == "warning" else logging.WARNING
    _emit(level, "trust_finding", "a trust check finds something", fields)


def trust_resolved(*, domain: str, check: str, subject: str, found: str) -> None:
    """What a trust check had found is there no more. found: as it was."""
    fields: dict[str, Field] = {"domain": domain, "check": check, "subject": subject, "found": found}
    _emit(logging.INFO, "trust_resolved", "a trust check's finding is gone", fields)


def trust_fault(*, domain: str, error: BaseException) -> None:
    """The look at a domain broke off by a fault of ours."""
    _emit(logging.ERROR, "trust_fault", "a fault of ours in a trust check", {"domain": domain, **fault(error)})
