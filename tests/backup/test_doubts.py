"""What makes retention doubt the clock where there is no other."""

import pytest

from smartmail.backup.doubts import JUMP_DAYS, jump
from smartmail.core.retention import Ground

DAY_MS = 86_400_000
NOW_MS = 1_795_478_400_000


@pytest.mark.parametrize(
    ("days", "doubted"),
    [(0, False), (1, False), (JUMP_DAYS - 1, False), (JUMP_DAYS, True), (3653, True), (-3653, False)],
)
def test_how_long_ago_the_last_retention_may_be(days: int, doubted: bool) -> None:
    assert [one.ground for one in jump(NOW_MS - days * DAY_MS, NOW_MS)] == [Ground.CLOCK_UNPROVED] * doubted


def test_the_first_retention_has_nothing_to_compare_with() -> None:
    assert jump(None, NOW_MS) == []
