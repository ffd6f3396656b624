"""The written sums: real integers, and each of them true."""

import re

import pytest
from reportworld import (
    ALL_MAINTENANCE,
    AUTUMN,
    BREACHED,
    CLEAN,
    INDETERMINATE,
    PROVIDER,
    RUNNING,
    SPRING,
    YOUNG,
    Scene,
    report_on,
)

from smartmail.core.sla import Terms
from smartmail.report.model import MonthReport
from smartmail.report.wording import length, listed, minutes, notice, target


def sums(report: MonthReport) -> dict[str, str]:
    return {step.title: step.sum for step in report.arithmetic}


def value(words: str) -> int:
    """An expression of integers, +, - and x, computed."""
    terms = re.sub(r"[a-z ,]+", lambda found: "*" if found[0].strip() == "x" else "", words.replace(",", ""))
    assert re.fullmatch(r"[0-9+*() -]+", terms), words
    return int(eval(terms))


def test_every_sum_of_integers_is_true(any_scene: Scene) -> None:
    checked = 0
    for title, text in sums(report_on(any_scene)).items():
        if title in ("Availability", "Minutes that may be down"):
            continue
        for part in filter(None, re.split(r" is (?:not )?more than |, but | is$", text)):
            sides = part.split(" = ")
            assert len({value(side) for side in sides}) == 1, part
            checked += len(sides) > 1
    assert checked >= 3


@pytest.mark.parametrize(
    ("scene", "title", "text"),
    [
        (CLEAN, "Minutes of the month", "30 x 1,440 = 43,200"),
        (SPRING, "Minutes of the month", "30 x 1,440 + 1,380 = 44,580"),
        (AUTUMN, "Minutes of the month", "30 x 1,440 + 1,500 = 44,700"),
        (BREACHED, "Minutes that count", "44,700 - 120 = 44,580"),
        (BREACHED, "What they were", "44,433 up + 133 down + 14 unknown = 44,580"),
        (
            BREACHED,
            "Availability",
            "(44,580 - 133) / 44,580 = 99.701 %; (44,580 - 133 - 14) / 44,580 = 99.670 %",
        ),
        (BREACHED, "Minutes that may be down", "44,580 x 1 / 1,000, whole minutes: 44"),
        (BREACHED, "The comparison that decides", "1,000 x 133 = 133,000 is more than 1 x 44,580 = 44,580"),
        (CLEAN, "The comparison that decides", "1,000 x 0 = 0 is not more than 1 x 43,200 = 43,200"),
        (
            INDETERMINATE,
            "The comparison that decides",
            "1,000 x 30 = 30,000 is not more than 1 x 43,200 = 43,200, but 1,000 x (30 + 40) = 70,000 is",
        ),
        (YOUNG, "Minutes measured", "44,640 - 14,940 = 29,700"),
        (RUNNING, "Minutes measured", "43,200 - 19,440 = 23,760"),
    ],
)
def test_the_sums_of_a_month(scene: Scene, title: str, text: str) -> None:
    assert sums(report_on(scene))[title] == text


def test_case_23_a_month_of_maintenance_divides_by_nothing() -> None:
    report = report_on(ALL_MAINTENANCE)
    assert sums(report)["The comparison that decides"] == "40,320 - 40,320 = 0"
    assert "Availability" not in sums(report)
    assert report.headline == "No minute of this month counts, so there is no availability to state."


def test_an_undecided_month_says_who_wins_by_which_terms() -> None:
    customer, provider = report_on(INDETERMINATE), report_on(PROVIDER)
    assert "By terms 2026-1, in the customer's favour, the month counts as not met." in customer.arithmetic[-1].says
    assert "By terms 2026-2, in the provider's favour, the month counts as met." in provider.arithmetic[-1].says
    assert customer.consequence.endswith("Each subscription on the service is extended by a month.")
    assert provider.consequence.endswith("No subscription is extended.")


def test_the_clock_change_is_told() -> None:
    assert "25 October has 25 hours" in report_on(AUTUMN).arithmetic[0].says
    assert "29 March has 23 hours" in report_on(SPRING).arithmetic[0].says


@pytest.mark.parametrize(
    ("numerator", "denominator", "words"),
    [
        (999, 1000, "99.9 %"),
        (9995, 10000, "99.95 %"),
        (1, 1, "100 %"),
        (2, 3, "2/3"),
        (99, 100, "99 %"),
        (1, 200, "0.5 %"),
    ],
)
def test_the_promise_is_said_exactly(numerator: int, denominator: int, words: str) -> None:
    assert target(terms(numerator=numerator, denominator=denominator)) == words


def test_words_for_numbers() -> None:
    assert (minutes(1), minutes(44_640)) == ("1 minute", "44,640 minutes")
    assert (length(0), length(45), length(120), length(1445)) == ("0 min", "45 min", "2 h", "1 d 5 min")
    assert (listed(()), listed(("a",)), listed(("a", "b", "c"))) == ("none", "a", "a, b and c")
    assert (notice(terms()), notice(terms(notice_minutes=90)), notice(terms(notice_minutes=60))) == (
        "48 hours",
        "90 minutes",
        "1 hour",
    )


def terms(**changed: int) -> Terms:
    from dataclasses import replace
    from datetime import date

    return replace(Terms("1", date(2026, 1, 1), "Europe/London"), **changed)
