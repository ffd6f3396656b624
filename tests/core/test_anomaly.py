"""What is unusual about a run, and what is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartmail.core.anomaly import SMALL_FILES, AnomalyKind, Figures, anomalies
from smartmail.core.backup_plan import Usual

USUAL = Usual()
NIGHT = Figures(10_000, 500_000_000, 5_000_000, 120, 10)
HISTORY = (NIGHT,) * 5


def kinds(now: Figures, history: tuple[Figures, ...] = HISTORY, usual: Usual = USUAL) -> list[AnomalyKind]:
    return [one.kind for one in anomalies(now, history, usual)]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (NIGHT, []),
        (Figures(0, 0, 0, 0), [AnomalyKind.EMPTY]),
        (Figures(10_000, 0, 0, 0), [AnomalyKind.EMPTY]),
        (Figures(4_999, 500_000_000, 0, 0), [AnomalyKind.SHRUNK, AnomalyKind.MASS_DELETION]),
        (Figures(10_000, 249_999_999, 0, 0), [AnomalyKind.SHRUNK]),
        (Figures(5_000, 250_000_000, 0, 0), [AnomalyKind.MASS_DELETION]),
        (Figures(7_500, 500_000_000, 0, 0), []),
        (Figures(15_001, 500_000_000, 0, 5_001), [AnomalyKind.GREW]),
        (Figures(15_000, 750_000_000, 0, 5_000), []),
        (Figures(10_000, 750_000_001, 5_000_000, 0), [AnomalyKind.GREW]),
        # Everything was written anew, as by what encrypts it.
        (Figures(10_000, 500_000_000, 490_000_000, 10_000, 990), [AnomalyKind.ADDED_SPIKE, AnomalyKind.ENTROPY_JUMP]),
        # A customer with a lot of mail has moved in: much, and no large share.
        (Figures(10_900, 560_000_000, 60_000_000, 900, 10), []),
        # All was marked read: renamed, so all is new and nothing is.
        (Figures(10_000, 500_000_000, 3_700_000, 10_000, 10), []),
        (Figures(10_000, 500_000_000, 0, 0, 209), []),
        (Figures(10_000, 500_000_000, 0, 0, 210), [AnomalyKind.ENTROPY_JUMP]),
        (Figures(10_000, 500_000_000, 0, 0, None), []),
    ],
)
def test_what_is_found(now: Figures, expected: list[AnomalyKind]) -> None:
    assert kinds(now) == expected


def test_the_first_run_is_only_looked_at_for_being_empty() -> None:
    assert kinds(NIGHT, ()) == []
    assert kinds(Figures(0, 0, 0, 0), ()) == [AnomalyKind.EMPTY]


def test_the_second_run_may_be_larger_and_not_smaller() -> None:
    small = Figures(100, 1_000, 1_000, 100)
    assert kinds(NIGHT, (small,)) == []
    assert kinds(small, (NIGHT,)) == [AnomalyKind.SHRUNK, AnomalyKind.MASS_DELETION]


def test_one_odd_night_does_not_become_the_rule() -> None:
    odd = Figures(100, 1_000, 0, 0, 1000)
    assert kinds(NIGHT, (odd, *HISTORY)) == []
    assert AnomalyKind.SHRUNK in kinds(odd, (odd, *HISTORY))


def test_a_store_that_compresses_is_not_taken_for_an_encrypted_one() -> None:
    compressed = Figures(10_000, 500_000_000, 5_000_000, 120, 1000)
    assert kinds(compressed, (compressed,) * 5) == []


def test_a_small_job_does_not_alarm_for_a_file_or_two() -> None:
    keys = Figures(4, 4_000, 0, 0)
    assert kinds(Figures(9, 9_000, 5_000, 5), (keys,) * 5) == []


def test_a_job_may_allow_more() -> None:
    assert kinds(Figures(20_000, 900_000_000, 0, 0), usual=Usual(percent=100)) == []
    assert kinds(Figures(10, 1_000, 0, 0), (Figures(10 + SMALL_FILES, 2_000, 0, 0),), Usual(percent=99)) == []


FIGURES = st.builds(Figures, *(st.integers(0, 10**12),) * 4, st.none() | st.integers(0, 1000))


@given(FIGURES, st.lists(FIGURES, max_size=14).map(tuple), st.integers(0, 1000))
def test_each_kind_at_most_once_and_in_words(now: Figures, history: tuple[Figures, ...], percent: int) -> None:
    found = anomalies(now, history, Usual(percent=percent))
    assert len({one.kind for one in found}) == len(found)
    assert all(one.text for one in found)
    assert (not now.files or not now.octets) == (AnomalyKind.EMPTY in [one.kind for one in found])
