"""Troubles for simulated months, by a seed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from simmonth import DAY_MS, FIVE_MINUTES, HOUR_MS, MINUTE_MS, SERVICE, Place, Plan, Spell, check, minutes, roster

from smartmail.core.maintenance import Action, Announcement
from smartmail.core.months import Span

PLACES = ("amsterdam", "dublin", "frankfurt", "london", "paris")


def clocks(chance: Random, span: Span) -> Place:
    """An agent whose wall clock is up to five minutes wrong, and jumps."""
    steps = tuple(
        (chance.randrange(span.first, span.end) * MINUTE_MS, chance.randrange(-FIVE_MINUTES, FIVE_MINUTES))
        for _ in range(chance.randrange(4))
    )
    skew = chance.choice((-FIVE_MINUTES, FIVE_MINUTES, chance.randrange(-FIVE_MINUTES, FIVE_MINUTES)))
    return Place(skew_ms=skew, steps=steps, drift_ppm=chance.randrange(-3, 4))


def one_at_a_time(
    seed: int, span: Span, *, checks: int = 2, places: Sequence[str] = PLACES, outages: int = 6, lasting: int = 40
) -> Plan:
    """Never more than one location in trouble, whatever the trouble; every clock wrong; real outages in between.

    The last of the checks does not bear the SLA, and a check comes and a location goes on the way."""
    chance = Random(f"one at a time {seed}")
    troubled: dict[str, dict[str, list[Spell]]] = {name: {} for name in places}
    at = span.first * MINUTE_MS + chance.randrange(HOUR_MS)
    while at < span.end * MINUTE_MS:
        name = chance.choice(places)
        kind = chance.choice(("cut_off", "cut_off", "away", "dead", "faulty", "strained"))
        length = chance.choice((chance.randrange(90_000, HOUR_MS), chance.randrange(HOUR_MS, 20 * HOUR_MS)))
        troubled[name].setdefault(kind, []).append((at, at + length))
        # Time to come back in: a backlog is handed in at the end of the batch in which the collector is reached.
        at += length + chance.randrange(2 * HOUR_MS, 8 * HOUR_MS)
    names = [f"check-{number}" for number in range(checks)]
    kept = [check(name, places) for name in names] + [check("advisory-only", places[:3], sla=False)]
    middle = chance.randrange(span.first + span.minutes // 3, span.end - span.minutes // 3)
    moved = [
        replace(kept[0], locations=tuple(places[1:])),
        *kept[1:],
        check("added", places, sla=True),
        check("web", places[:2], service="web"),
    ]
    history = (roster(1, span.first, kept), roster(2, middle, moved), roster(3, span.end, ()))
    down: dict[str, tuple[Spell, ...]] = {}
    for name in (*names, "added", "advisory-only", "web"):
        starts = [chance.randrange(span.first, span.end) for _ in range(outages)]
        down[name] = tuple(minutes(start, start + chance.randrange(1, lasting)) for start in sorted(starts))
    return Plan(
        seed,
        span,
        history,
        {name: _place(clocks(chance, span), of_place) for name, of_place in troubled.items()},
        down,
        maintenance(chance, span),
    )


def _place(place: Place, troubles: Mapping[str, Sequence[Spell]]) -> Place:
    spells: dict[str, Any] = {kind: tuple(found) for kind, found in troubles.items()}
    return replace(place, **spells)


def maintenance(chance: Random, span: Span) -> tuple[Announcement, ...]:
    """Three windows: one in time, extended too late, one cancelled while it runs, one with too short a notice."""
    day = DAY_MS // MINUTE_MS
    entries = []
    for number, notice in enumerate((4 * day, 3 * day, 60)):
        first = chance.randrange(span.first, span.end - 200)
        end = first + chance.randrange(30, 180)
        entries.append(announcement(f"w{number}", Action.ANNOUNCE, first, end, first - notice))
        if number == 0:
            entries.append(announcement("w0", Action.EXTEND, first, end + 45, first - 90))
        if number == 1:
            entries.append(announcement("w1", Action.CANCEL, first, end, first + 12))
    return tuple(sorted(entries, key=lambda one: one.recorded_ms))


def excluded(entries: Sequence[Announcement], span: Span) -> int:
    """What the windows of `maintenance` leave out of a span: the first as announced, of the second twelve minutes."""
    first = next(one for one in entries if one.window == "w0" and one.action is Action.ANNOUNCE)
    second = next(one for one in entries if one.window == "w1" and one.action is Action.ANNOUNCE)
    ended = min(second.until_minute, second.from_minute + 12)
    return span.mask(first.from_minute, first.until_minute) | span.mask(second.from_minute, ended)


def announcement(window: str, action: Action, first: int, end: int, recorded: int) -> Announcement:
    return Announcement(window, action, SERVICE, first, end, recorded * MINUTE_MS, "anna", "new disks")
