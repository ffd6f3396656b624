"""The configuration's checks as the roster that is in force from the next minute on."""

from dataclasses import replace

from smartmail.config import Config
from smartmail.core.roster import Roster
from smartmail.store.agents import add_roster, roster_history
from smartmail.store.database import Database


def roster_of(config: Config) -> Roster:
    """What the configuration says; without a version, and in force from no minute yet."""
    places = config.monitor.locations
    return Roster(0, 0, places, tuple(check.spec(places) for check in config.check))


def put_in_force(database: Database, wanted: Roster, now_ms: int) -> Roster | None:
    """Write `wanted` down as the roster from the next minute on. None: it is in force already. An empty one is not
    written before there was any other."""
    with database.write() as connection:
        history = roster_history(connection)
        newest = history[-1] if history else Roster(0, 0, (), ())
        if (newest.locations, newest.checks) == (wanted.locations, wanted.checks):
            return None
        from_minute = max(now_ms // 60_000 + 1, newest.from_minute)
        roster = replace(wanted, version=newest.version + 1, from_minute=from_minute)
        add_roster(connection, roster)
    return roster
