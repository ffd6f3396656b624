"""The configuration's checks as the roster that comes into force."""

from dataclasses import replace
from typing import Final

from smartmail.config import Config
from smartmail.core.roster import Roster
from smartmail.store.agents import add_roster, roster_history
from smartmail.store.database import Database

LEAD_MINUTES: Final = 3
"""Between the minute in which a roster is changed and the one in which the change counts. Agents ask once a minute: one
whose answer was lost asks again before it, and no minute is judged by checks that nobody had heard of."""


def roster_of(config: Config) -> Roster:
    """What the configuration says; without a version, and in force from no minute yet."""
    places = config.monitor.locations
    return Roster(0, 0, places, tuple(check.spec(places) for check in config.check))


def put_in_force(database: Database, wanted: Roster, now_ms: int) -> Roster | None:
    """Write `wanted` down: the first roster from the next minute on, a change LEAD_MINUTES ahead. None: it is in force
    already, or will be. An empty one is not written before there was any other."""
    with database.write() as connection:
        history = roster_history(connection)
        newest = history[-1] if history else Roster(0, 0, (), ())
        if (newest.locations, newest.checks) == (wanted.locations, wanted.checks):
            return None
        lead = LEAD_MINUTES if history else 1
        from_minute = max(now_ms // 60_000 + lead, newest.from_minute)
        roster = replace(wanted, version=newest.version + 1, from_minute=from_minute)
        add_roster(connection, roster)
    return roster
