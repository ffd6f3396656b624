"""CSV and the terminal: whole, and without what a spreadsheet or a terminal would run."""

import csv
import io
import re
from dataclasses import replace

import pytest
from reportworld import ALL_MAINTENANCE, BREACHED, MANY, Scene, report_on

from smartmail.core.credits import Reason
from smartmail.report.model import Audience, CreditLine, MonthReport
from smartmail.report.outputs import Form, write
from smartmail.report.tables import credits_csv, days_csv, guarded, incidents_csv


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def named(customer: str) -> MonthReport:
    line = CreditLine(7, customer, "basic", Reason.TRIAL)
    return replace(report_on(BREACHED), credits=(line,), credit_counts={Reason.TRIAL: 1})


def test_days_add_up(any_scene: Scene) -> None:
    report = report_on(any_scene)
    found = rows(days_csv(report))
    assert sum(int(row["minutes"]) for row in found) == report.month_minutes
    assert sum(int(row["down"]) for row in found) == report.counts.down
    for row in found:
        parts = ("up", "down", "unknown", "maintenance", "not_measured")
        assert sum(int(row[part]) for part in parts) == int(row["minutes"])


def test_incidents_are_all_there_with_their_offsets() -> None:
    assert len(rows(incidents_csv(report_on(MANY)))) == 440
    first = rows(incidents_csv(report_on(BREACHED)))[0]
    assert (first["start"], first["end"], first["down_minutes"]) == (
        "2026-10-03T14:02+01:00",
        "2026-10-03T14:03+01:00",
        "1",
    )


def test_credits_say_before_and_after() -> None:
    first, second, _ = rows(credits_csv(report_on(BREACHED)))
    assert (first["paid_from"], first["paid_to"], first["ledger_entry"]) == ("2027-01-01", "2027-02-01", "42")
    assert (second["decision"], second["paid_to"], second["ledger_entry"]) == ("closed for abuse", "", "")


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\n=1",
        " =1",
        "\u00a0=1",
        "\ufeff=1",
        "\uff1d1",
        '=HYPERLINK("x")',
    ],
)
def test_a_cell_never_begins_like_a_formula(text: str) -> None:
    (row,) = rows(credits_csv(named(text)))
    assert row["customer"] == f"'{text}"


@pytest.mark.parametrize("text", ["a=b", "Müller, Söhne & Co", 'say "hi"', "line\r\nbreak", "'quoted", "O'Neill"])
def test_other_words_come_back_as_they_were(text: str) -> None:
    (row,) = rows(credits_csv(named(text)))
    assert row["customer"] == text


def test_numbers_are_not_quoted() -> None:
    assert (guarded(-5), guarded(None), guarded("a\0b")) == (-5, None, "ab")


def test_lines_end_as_rfc_4180_says() -> None:
    assert days_csv(report_on(BREACHED)).count("\r\n") == 32


def test_words_that_are_no_unicode_can_still_be_written() -> None:
    assert b"?x" in write(named("\ud800x"), Form.CREDITS)


def terminal(report: MonthReport) -> str:
    return write(report, Form.TERMINAL).decode()


def test_the_terminal_tells_the_result_and_the_sums() -> None:
    text = terminal(report_on(BREACHED))
    assert "Availability was below 99.9 %." in text
    assert "Each subscription on the service is extended by a month." in text
    assert "99.701 % at best, 99.670 % if the 14 minutes unknown were down" in text
    assert "1,000 x 133 = 133,000 is more than 1 x 44,580 = 44,580" in text


def test_the_strip_has_a_mark_for_each_day() -> None:
    lines = terminal(report_on(BREACHED)).splitlines()
    marks = lines[lines.index("Days") + 1].split()
    assert len(marks) == 31
    assert (marks[0], marks[2], marks[8], marks[17], marks[26]) == ("·", "▂", "█", "▆", "?")
    maintenance = terminal(report_on(ALL_MAINTENANCE)).splitlines()
    assert maintenance[maintenance.index("Days") + 1].split() == ["="] * 28


def test_many_incidents_are_cut_with_a_count() -> None:
    text = terminal(report_on(MANY))
    assert "These are the 20 longest. 420 more incidents" in text
    assert len(text.splitlines()) < 150


def test_no_escape_of_anybody_reaches_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J[bold]x[/bold]\u202e\x9b31m"
    report = replace(named(evil), audience=Audience.OPERATOR)
    text = terminal(report)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "[bold]x[/bold]" in text
