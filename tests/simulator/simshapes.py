"""Small months of every shape, for hypothesis."""

from dataclasses import replace

from hypothesis import strategies as st
from simmonth import FIVE_MINUTES, MINUTE_MS, Place, Plan, check, roster
from simtrouble import PLACES

from smartmail.core.months import Span

SMALL = Span(29_881_380, 29_881_470)
"""The night of 25 October 2026, in which the clock goes back in London, from midnight."""
instants = st.integers(SMALL.first * MINUTE_MS - MINUTE_MS, SMALL.end * MINUTE_MS + 20 * MINUTE_MS)
spells = st.lists(
    st.builds(lambda at, length: (at, at + length), instants, st.integers(1, 40 * MINUTE_MS)), max_size=2
).map(lambda found: tuple(sorted(found)))
skews = st.sampled_from([0, FIVE_MINUTES, -FIVE_MINUTES]) | st.integers(-FIVE_MINUTES, FIVE_MINUTES)
steps = st.lists(st.tuples(instants, skews), max_size=2).map(tuple)
wild_places = st.builds(Place, skews, steps, st.integers(-3, 3), spells, spells, spells, spells, spells)
quiet_places = st.builds(Place, skews, steps, st.integers(-3, 3), away=spells, dead=spells, strained=spells)


@st.composite
def plans(draw: st.DrawFn, places: st.SearchStrategy[Place], *, outages: bool) -> Plan:
    history = []
    for version in range(1, draw(st.integers(1, 3)) + 1):
        begins = SMALL.first if version == 1 else draw(st.integers(SMALL.first, SMALL.end - 1))
        checks = []
        for name in ("imaps", "mx", "probe"):
            where = draw(st.lists(st.sampled_from(PLACES[:4]), min_size=1, unique=True))
            if name == "mx" or draw(st.booleans()):
                checks.append(check(name, sorted(where), sla=name != "probe"))
        history.append(roster(version, begins, checks))
    begun = sorted(history, key=lambda one: one.from_minute)
    ordered = [replace(one, version=number) for number, one in enumerate(begun, 1)]
    ordered.append(roster(len(ordered) + 1, SMALL.end, ()))
    down = {name: draw(spells) for name in ("imaps", "mx", "probe")} if outages else {}
    found = {name: draw(places) for name in PLACES[:4]}
    return Plan(draw(st.integers(0, 10**6)), SMALL, tuple(ordered), found, down, chunk=10)
