"""The verdict of each minute: the votes of locations -> a check's minutes -> the service's minutes.

All planes of one call are over the same n minutes. The rules are DESIGN section 4: down is strictly more than half of
the roster in force, silent and silenced locations included; up is enough reporters that saw it up; everything else is
unknown. So silence is never up, no minority decides alone, and one more failure can never make a minute better.

Planes are left out of what these values show of themselves: Python refuses to write an integer of that size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from smartmail.core.planes import at_least, by_count, ones, sum_planes


class Verdict(StrEnum):
    """What a minute was."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"
    MAINTENANCE = "maintenance"


@dataclass(frozen=True, slots=True)
class LocationVotes:
    """What one location said of one check: the minutes it saw it up, and those it saw it fail.

    Precedence within a minute is settled (core.outcome.Vote). Neither bit: silent, abstaining, or the monitor's own
    error. Both would be a failure.
    """

    up: int = field(repr=False)
    down: int = field(repr=False)


@dataclass(frozen=True, slots=True)
class CheckMinutes:
    """A check: each of n minutes is up, down or unknown. advisory: of the up ones, those that some location saw fail.

    A minute in which nobody was to report is unknown; whether that counts is the service's question.
    """

    up: int = field(repr=False)
    down: int = field(repr=False)
    unknown: int = field(repr=False)
    advisory: int = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServiceMinutes:
    """A service: each of n minutes is up, down or unknown. Maintenance is not known here."""

    up: int = field(repr=False)
    down: int = field(repr=False)
    unknown: int = field(repr=False)


def counted_votes(
    votes: Mapping[str, LocationVotes], roster: Mapping[str, int], silenced: Mapping[str, int]
) -> dict[str, LocationVotes]:
    """The votes that count, for each location of the roster: those of minutes in which it was to report and was not
    silenced; a failure beats an up."""
    counted = {}
    for location, expected in roster.items():
        vote = votes.get(location)
        if vote is None:
            continue
        if muted := silenced.get(location, 0):
            expected ^= expected & muted
        down, up = vote.down & expected, vote.up & expected
        counted[location] = LocationVotes(up ^ (up & down), down)
    return counted


def check_minutes(
    votes: Mapping[str, LocationVotes],
    roster: Mapping[str, int],
    silenced: Mapping[str, int],
    minimum_reporters: int,
    n: int,
) -> CheckMinutes:
    """The verdicts of one check.

    votes, roster, silenced: by location. roster: the minutes in which it was to report; votes of others count nothing.
    silenced: the minutes in which its own control targets failed: it votes nothing then, and stays in the roster.
    minimum_reporters: at least 1; capped, minute by minute, at a majority of that minute's roster.
    """
    if minimum_reporters < 1:
        raise ValueError("at least one location must have seen it up")
    everything = ones(n)
    counted = counted_votes(votes, roster, silenced).values()
    failures = sum_planes(vote.down for vote in counted)
    successes = sum_planes(vote.up for vote in counted)
    down = enough = 0
    for size, minutes in by_count(roster.values(), n).items():
        majority = size // 2 + 1
        down |= minutes & at_least(failures, majority, n)
        enough |= minutes & at_least(successes, min(minimum_reporters, majority), n)
    up = enough ^ (enough & down)
    failing = 0
    for digit in failures:
        failing |= digit
    return CheckMinutes(up, down, everything ^ (up | down), up & failing)


def service_minutes(checks: Mapping[str, CheckMinutes], bearing: Mapping[str, int], n: int) -> ServiceMinutes:
    """The verdicts of a service: down if any check that bears its SLA in that minute is down by its own quorum, else
    unknown if any of them is unknown or none is in force, else up. Failures of different checks never add up.

    bearing: the minutes in which each check bears. A check that bears but of which nothing is given is unknown.
    """
    everything = ones(n)
    down = unknown = in_force = 0
    for name, plane in bearing.items():
        plane &= everything
        in_force |= plane
        check = checks.get(name)
        if check is None:
            unknown |= plane
        else:
            down |= check.down & plane
            unknown |= check.unknown & plane
    unknown = (unknown | (everything ^ in_force)) & ~down
    return ServiceMinutes(everything ^ (down | unknown), down, unknown)
