"""The pages of the backup: nothing to load, nothing that anybody's text could do, and what is wrong is on them."""

import re
from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest
from backupcases import BAD_CHECK, NOW, good_readings, good_records, make_plan

from smartmail.core.backup_status import status
from smartmail.core.drill_report import DrillReport, DumpProof, Fault, Finding, JobProof, MailboxProof, cut
from smartmail.core.scorecard import Scorecard, scorecard
from smartmail.report.backup import (
    FAULT_WORDS,
    MOST_FINDINGS,
    Seal,
    age,
    drill_headline,
    drill_html,
    drill_text,
    duration,
    scorecard_headline,
    scorecard_html,
    size,
)

ZONE = ZoneInfo("Europe/London")
EVIL = '<script>alert(1)</script>"\x1b[31m\u202e'


def proved() -> DrillReport:
    return DrillReport(
        "mx1.example.net",
        "offsite",
        True,
        "20261124T020000Z-7f3a",
        NOW - 3_600_000 * 13,
        NOW,
        NOW + 41_200,
        "restic 0.14.0",
        "5eed",
        412_884_113,
        (
            JobProof("accounts", "postgresql", ("a" * 64,), "b" * 64, 2, 2, 48_224_112, 2, 2_300),
            JobProof("mail", "maildir", ("f0" * 32, "e1" * 32), "1c" * 32, 1_843, 1_843, 61_884_113, 4_120, 18_900),
        ),
        (MailboxProof("mail", "anna@example.net", 1_204, 1_205, 9, 88_112_331, "Python's mailbox"),),
        (DumpProof("accounts", "database.pgdump", 14, 40_112, "restored into a server of its own"),),
        (),
    )


def failed(*findings: Finding) -> DrillReport:
    return replace(proved(), findings=findings)


def is_self_contained(page: str) -> None:
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|link|img|iframe|object|form)\b|url\(|@import|\bon[a-z]+=", page)
    assert not re.search(r"(?:src|href)=", page)
    assert "\x1b" not in page and "\u202e" not in page


def test_a_proved_drill() -> None:
    page = drill_html(proved(), ZONE, Seal("the key", "the signature"))
    is_self_contained(page)
    for text in (
        "The restore is proved",
        "1,845 files restored from offsite and proved by SHA-256, 1 mailbox opened and counted and 1 database loaded.",
        "24 November 2026, 06:00 (+00:00)",
        "13 h old",
        "anna@example.net",
        "40,112",
        proved().digest(),
        "1c" * 32,
        "the key",
        "the signature",
    ):
        assert text in page, text
    assert "Findings</h2>" not in page
    assert drill_html(proved(), ZONE) == drill_html(proved(), ZONE)


@pytest.mark.parametrize("fault", list(Fault))
def test_each_finding_has_its_words(fault: Fault) -> None:
    report = failed(Finding(fault, "mail", "/srv/vmail/x", "something is wrong"))
    page = drill_html(report, ZONE)
    assert "The restore is not proved" in page and FAULT_WORDS[fault] in page and "something is wrong" in page
    assert FAULT_WORDS[fault] in drill_text(report)


def test_hostile_names_stay_text() -> None:
    report = replace(
        failed(Finding(Fault.MISSING, EVIL, EVIL, EVIL)),
        mailboxes=(MailboxProof(EVIL, EVIL, 1, 1, 1, 1, EVIL),),
        dumps=(DumpProof(EVIL, EVIL, 1, 1, EVIL),),
        host=EVIL,
        run=EVIL,
    )
    is_self_contained(drill_html(report, ZONE, Seal(EVIL, EVIL)))
    assert "\x1b" not in drill_text(report) and "\u202e" not in drill_text(report)


def test_many_findings_are_cut_and_counted() -> None:
    many = [Finding(Fault.MISSING, "mail", f"/{number:05}", "gone") for number in range(2_000)]
    many.append(Finding(Fault.DUMP, "accounts", "a.sqlite", "malformed"))
    findings, more = cut(many)
    assert len(findings) + more == 2_001 and {one.fault for one in findings[:2]} == {Fault.MISSING, Fault.DUMP}
    report = replace(failed(*findings), more=more)
    page = drill_html(report, ZONE)
    assert f"And {2_001 - MOST_FINDINGS:,} more findings." in page and "2,001 findings" in drill_headline(report)
    assert f"and {2_001 - MOST_FINDINGS:,} more findings" in drill_text(report)


def test_nothing_proved() -> None:
    nothing = replace(failed(Finding(Fault.NO_SNAPSHOT, "mail", "", "none")), jobs=(), mailboxes=(), dumps=())
    assert not nothing.proved and "could be proved; 1 finding" in drill_headline(nothing)
    drill_html(nothing, ZONE)


def card(*more: object) -> Scorecard:
    plan = make_plan()
    records = [*good_records(), BAD_CHECK] if more else good_records()
    media = {"onsite": "this machine's own storage", "offsite": "rest at backup.example.org"}
    return scorecard(status(plan, good_readings(), records, ZONE, NOW), plan, media)


def test_a_scorecard() -> None:
    page = scorecard_html(card(), ZONE)
    is_self_contained(page)
    assert "5 of 5" in page and "All five are met" in page and "Not met" not in page
    assert page.count("<code>smartmail backup ") == sum(len(one.facts) for one in card().digits)


def test_a_scorecard_with_a_fault() -> None:
    page = scorecard_html(card("bad"), ZONE)
    assert "4 of 5" in page and "Not met" in page and "pack abcdef01 is damaged" in page
    assert scorecard_headline(card("bad")).endswith("Open: 0 (no errors when reading and restoring).")


@pytest.mark.parametrize(
    ("octets", "wanted"),
    [
        (0, "0 octets"),
        (1, "1 octet"),
        (1023, "1,023 octets"),
        (1024, "1.0 KiB"),
        (102_400, "100 KiB"),
        (3 << 40, "3.0 TiB"),
    ],
)
def test_sizes(octets: int, wanted: str) -> None:
    assert size(octets) == wanted


@pytest.mark.parametrize(
    ("ms", "wanted"), [(0, "0.0 s"), (9_990, "9.9 s"), (59_999, "59 s"), (65_000, "1 min 5 s"), (7_200_000, "2 h")]
)
def test_durations(ms: int, wanted: str) -> None:
    assert duration(ms) == wanted


@pytest.mark.parametrize(
    ("ms", "wanted"),
    [(None, "never"), (5, "just now"), (60_000, "1 min"), (7_200_000, "2 h"), (86_400_000 * 4, "4 days")],
)
def test_ages(ms: int | None, wanted: str) -> None:
    assert age(ms) == wanted
