"""What becomes of a mail when one side is lost: the table is whole, and says what must never happen."""

import pytest

from smartmail.core.policy import Reason, Verdict
from smartmail.core.transfer import FATES, Charge, Loss, Phase

BEFORE = [phase for phase in Phase if phase is not Phase.DOT_SENT]
OF_THE_UPSTREAM = [Loss.UPSTREAM_LOST, Loss.UPSTREAM_SILENT, Loss.UPSTREAM_UNREACHABLE]
OF_THE_CLIENT = [Loss.CLIENT_LOST, Loss.CLIENT_SLOW]


def test_every_loss_in_every_phase_has_a_fate() -> None:
    assert set(FATES) == set(Phase)
    for fates in FATES.values():
        assert set(fates) == set(Loss)


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("phase", BEFORE)
def test_before_the_dot_nothing_is_charged_and_nothing_may_arrive(phase: Phase, loss: Loss) -> None:
    fate = FATES[phase][loss]
    assert fate.charge is Charge.RELEASE and not fate.finish
    assert fate.verdict in (Verdict.DEFERRED, Verdict.ABORTED)


@pytest.mark.parametrize("loss", OF_THE_UPSTREAM)
@pytest.mark.parametrize("phase", BEFORE)
def test_a_lost_upstream_is_451_and_the_session_goes_on(phase: Phase, loss: Loss) -> None:
    fate = FATES[phase][loss]
    assert fate.verdict is Verdict.DEFERRED
    assert fate.reply is not None and fate.reply.code == 451 and fate.reply.enhanced.startswith("4.4.")


@pytest.mark.parametrize("loss", [Loss.UPSTREAM_LOST, Loss.UPSTREAM_SILENT])
def test_after_the_dot_nobody_knows_so_it_is_451_and_charged(loss: Loss) -> None:
    fate = FATES[Phase.DOT_SENT][loss]
    assert (fate.verdict, fate.reason) == (Verdict.AMBIGUOUS, Reason.UPSTREAM_SILENT_AFTER_DOT)
    assert fate.charge is Charge.COMMIT
    assert fate.reply is not None and (fate.reply.code, fate.reply.enhanced) == (451, "4.4.2")


@pytest.mark.parametrize("loss", OF_THE_CLIENT)
def test_a_client_lost_after_its_dot_changes_nothing(loss: Loss) -> None:
    fate = FATES[Phase.DOT_SENT][loss]
    assert fate.finish and fate.charge is Charge.COMMIT and fate.verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("phase", BEFORE)
def test_a_client_lost_before_its_dot_leaves_no_mail(phase: Phase) -> None:
    assert FATES[phase][Loss.CLIENT_LOST].verdict is Verdict.ABORTED
    assert FATES[phase][Loss.CLIENT_LOST].reply is None, "nobody is there to hear it"
    slow = FATES[phase][Loss.CLIENT_SLOW].reply
    assert slow is not None and slow.code == 421


def test_no_fate_is_a_250() -> None:
    for fates in FATES.values():
        for fate in fates.values():
            assert fate.reply is None or fate.reply.transient
