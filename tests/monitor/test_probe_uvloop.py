"""The conversation on uvloop, where agents run: well, refused, lost, and without an answer."""

import pytest
from probe_peers import DIALOGS, IMPLICIT, KINDS, Authority, Link, Pair, Step, check_of, context_of, dialog, peer

from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind
from smartmail.monitor.probes import SecretSource, probe

ON_UVLOOP = True


@pytest.mark.parametrize("kind", KINDS)
async def test_all_is_well(authority: Authority, good: Pair, probe_secrets: SecretSource, kind: CheckKind) -> None:
    async with peer(dialog(DIALOGS[kind]), good.server(), implicit=kind in IMPLICIT) as server:
        seen = await probe(check_of(kind, server.port), context_of(probe_secrets, authority.file))
    assert (seen.outcome, seen.detail) == (Outcome.OK, "")


async def test_refused_lost_and_silent(authority: Authority, good: Pair, probe_secrets: SecretSource) -> None:
    async def hang_up(link: Link, step: Step) -> None:
        link.writer.transport.abort()

    async def stay_silent(link: Link, step: Step) -> None:
        await link.wait()

    context = context_of(probe_secrets, authority.file, 300)
    steps = DIALOGS[CheckKind.IMAP]
    async with peer(dialog(steps, {2: hang_up}), good.server()) as server:
        assert (await probe(check_of(CheckKind.IMAP, server.port), context)).outcome is Outcome.LOST
    async with peer(dialog(steps, {0: stay_silent}), good.server()) as server:
        assert (await probe(check_of(CheckKind.IMAP, server.port), context)).outcome is Outcome.TIMEOUT
    seen = await probe(check_of(CheckKind.IMAP, server.port), context)
    assert (seen.outcome, seen.detail) == (Outcome.REFUSED, "connection refused at connect")
