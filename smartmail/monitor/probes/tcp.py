"""A connection and no more: the control targets of a location."""

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckSpec
from smartmail.monitor.probes.context import ProbeContext
from smartmail.monitor.probes.conversation import connect, target_of
from smartmail.monitor.probes.observation import Observation, Visit, observe


async def probe_tcp(check: CheckSpec, context: ProbeContext) -> Observation:
    """Connect. Options: family, resolver."""
    return await observe(check, context, _tcp)


async def _tcp(visit: Visit) -> Outcome:
    async with await connect(visit, target_of(visit.check)):
        return Outcome.OK
