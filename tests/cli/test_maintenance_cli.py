"""`smartmail maintenance` as an operator and a script meet it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from smartmail.cli import acting
from smartmail.store import ledger
from smartmail.store.database import Database

Run = Callable[..., Any]
At = Callable[[str], None]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """Sets the clock: at("2026-10-01T12:00"), UTC."""

    def set_clock(text: str) -> None:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
        monkeypatch.setattr(acting, "now_ns", lambda: int(moment.timestamp()) * 10**9)

    return set_clock


@pytest.fixture
def london(run: Run, config: Path, at: At) -> Run:
    """`run`, with a contract that counts by London's clock, on 1 October 2026."""
    config.write_text(config.read_text() + '[[terms]]\nversion = "1"\nzone = "Europe/London"\n')
    at("2026-10-01T12:00")
    return run


def listed(run: Run, *more: str) -> dict[str, Any]:
    done = run("maintenance", "list", "--past", "--json", *more)
    assert done.code == 0, done
    return {one["window"]: one for one in json.loads(done.output)}


def announce(run: Run, *more: str, name: str = "w", service: str = "mail") -> Any:
    return run("maintenance", "announce", "--service", service, "--name", name, "--yes", *more)


def utc(minute: int) -> str:
    return datetime.fromtimestamp(minute * 60, UTC).strftime("%m-%dT%H:%M")


def test_announced_in_time_its_minutes_are_excluded_case_18(london: Run) -> None:
    done = announce(london, "--from", "2026-10-04T02:00", "--until", "2026-10-04T04:00", "--text", "Update")
    assert done.code == 0
    assert "announce w (mail): 2026-10-04 02:00 BST to 2026-10-04 04:00 BST; 120 minutes are excluded" in done.output
    window = listed(london)["w"]
    assert (utc(window["from_minute"]), utc(window["excluded_until_minute"])) == ("10-04T01:00", "10-04T03:00")
    assert (window["state"], window["text"], window["log"][0]["effect"]) == ("announced", "Update", "counts")
    shown = london("maintenance", "list").output
    assert "2026-10-04 02:00 BST" in shown and "120" in shown


@pytest.mark.parametrize(("start", "excluded"), [("2026-10-03T13:00", 60), ("2026-10-03T12:59", 0)])
def test_too_short_a_notice_is_recorded_and_said_case_18(london: Run, start: str, excluded: int) -> None:
    """It is noon of the 1st in UTC, 13:00 by the contract's clock."""
    done = announce(london, "--from", start, "--for", "1h")
    assert done.code == 0
    assert f"{excluded} minutes are excluded" in done.output
    assert ("too short a notice: 2879 minutes of 2880" in done.output) == (excluded == 0)
    assert listed(london)["w"]["state"] == ("announced" if excluded else "short notice")


def test_what_is_over_can_only_be_noted_case_19(london: Run) -> None:
    when = ("--from", "2026-09-30T02:00", "--for", "1h")
    done = announce(london, *when)
    assert (done.code, "reaches back" in done.error, "note" in done.remedy) == (1, True, True)
    assert announce(london, *when, "--note").code == 0
    window = listed(london)["w"]
    assert (window["state"], window["excluded_from_minute"]) == ("note", None)


def test_extended_shortened_and_cancelled_case_20(london: Run, at: At) -> None:
    announce(london, "--from", "2026-10-04T02:00", "--for", "1h")
    assert "120 minutes are excluded" in london("maintenance", "extend", "w", "--for", "2h", "--yes").output
    at("2026-10-03T12:00")
    late = london("maintenance", "extend", "w", "--for", "3h", "--yes").output
    assert "120 minutes are excluded" in late and "too short a notice" in late
    assert "90 minutes" in london("maintenance", "shorten", "w", "--until", "2026-10-04T03:30", "--yes").output
    at("2026-10-04T01:20")
    assert "20 minutes are excluded" in london("maintenance", "cancel", "w", "--text", "done", "--yes").output
    window = listed(london)["w"]
    assert (window["state"], utc(window["excluded_until_minute"]), window["text"]) == (
        "cancelled",
        "10-04T01:20",
        "done",
    )
    assert [one["effect"] for one in window["log"]] == ["counts", "counts", "short notice", "counts", "counts"]


def test_a_series_keeps_the_wall_clock_and_each_window_is_its_own_case_22(london: Run) -> None:
    done = announce(
        london, "--from", "2026-10-18T02:00", "--until", "2026-10-18T03:00", "--every", "week", "--times", "3"
    )
    assert done.code == 0
    windows = listed(london)
    assert list(windows) == ["w-20261018", "w-20261025", "w-20261101"]
    starts = [utc(one["from_minute"]) for one in windows.values()]
    assert starts == ["10-18T01:00", "10-25T02:00", "11-01T02:00"], "summer time ends on 25 October"
    assert london("maintenance", "cancel", "w-20261018", "w-20261101", "--yes").code == 0
    states = [one["state"] for one in listed(london).values()]
    assert states == ["cancelled", "announced", "cancelled"]


def test_a_time_may_name_its_zone(london: Run) -> None:
    announce(london, "--from", "2026-10-04T02:00+02:00", "--until", "2026-10-04T01:00:59Z")
    window = listed(london)["w"]
    assert (utc(window["from_minute"]), utc(window["until_minute"])) == ("10-04T00:00", "10-04T01:00")


def test_only_whole_minutes_are_announced_case_17(london: Run) -> None:
    announce(london, "--from", "2026-10-04T02:00:01", "--until", "2026-10-04T02:59:59")
    window = listed(london)["w"]
    assert window["until_minute"] - window["from_minute"] == 58


@pytest.mark.parametrize(
    ("more", "code", "what"),
    [
        (("--from", "soon", "--for", "1h"), 2, "is no time"),
        (("--from", "2026-10-04", "--for", "1h"), 2, "names no hour"),
        (("--from", "2026-10-04T02:00"), 2, "until when?"),
        (("--from", "2026-10-04T02:00", "--for", "1h", "--until", "2026-10-04T03:00"), 2, "until when?"),
        (("--from", "2026-10-04T02:00", "--for", "1h", "--all"), 2, "which service?"),
        (("--from", "2026-10-04T02:00", "--for", "1h", "--times", "3"), 2, "how often?"),
        (("--from", "2026-10-04T02:00", "--for", "2d", "--every", "day"), 2, "a day at most"),
        (("--from", "2026-10-04T02:00", "--for", "1h", "--every", "day", "--times", "401"), 2, "out of bounds"),
        (("--from", "2026-10-04T02:00", "--until", "2026-10-04T02:00"), 1, "whole minute"),
        (("--from", "2026-10-04T02:00", "--for", "30s"), 1, "whole minute"),
    ],
)
def test_an_error_says_what_and_nothing_is_recorded(london: Run, more: tuple[str, ...], code: int, what: str) -> None:
    done = announce(london, *more)
    assert (done.code, what in done.error) == (code, True), done
    assert listed(london) == {}


@pytest.mark.parametrize("verb", ["extend", "shorten", "cancel"])
def test_an_unknown_window_is_named(london: Run, verb: str) -> None:
    more = () if verb == "cancel" else ("--for", "1h")
    done = london("maintenance", verb, "nothing", *more, "--yes")
    assert (done.code, 'no window "nothing"' in done.error) == (1, True)


def test_a_dry_run_and_a_no_leave_the_log_alone(london: Run) -> None:
    when = ("--from", "2026-10-04T02:00", "--for", "1h")
    done = london("maintenance", "announce", "--all", *when, "--dry-run")
    assert done.code == 0 and "60 minutes are excluded" in done.output and "nothing was done" in done.output
    assert london("maintenance", "announce", "--all", *when, input="n\n").code == 1
    assert london("maintenance", "announce", "--all", *when).code == 2, "nobody to ask"
    assert listed(london) == {}
    assert london("maintenance", "announce", "--all", *when, input="y\n").code == 0
    assert list(listed(london)) == ["all-20261004-0200"]


def test_a_service_sees_its_own_windows_and_those_of_all(london: Run) -> None:
    when = ("--from", "2026-10-04T02:00", "--for", "1h")
    announce(london, *when, name="mail-one")
    announce(london, *when, name="web-one", service="web")
    london("maintenance", "announce", "--all", "--name", "every", *when, "--yes")
    assert list(listed(london, "--service", "mail")) == ["every", "mail-one"]


def test_the_list_is_of_what_is_to_come_and_the_past_on_demand(london: Run, at: At) -> None:
    announce(london, "--from", "2026-10-04T02:00", "--for", "1h")
    at("2026-10-04T02:00")
    assert json.loads(london("maintenance", "list", "--json").output) == []
    assert list(listed(london)) == ["w"]


def test_the_feed_is_icalendar(london: Run, tmp_path: Path) -> None:
    announce(london, "--from", "2026-10-04T02:00", "--for", "1h", "--text", "Update, reboot")
    feed = london("maintenance", "ical").output
    assert "DTSTART:20261004T010000Z" in feed and "UID:w@localhost" in feed
    target = tmp_path / "maintenance.ics"
    assert london("maintenance", "ical", "--output", str(target)).code == 0
    assert target.read_bytes().startswith(b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\n")
    assert b"DESCRIPTION:Update\\, reboot\r\n" in target.read_bytes()


def test_each_line_is_sealed_in_the_ledger(london: Run, url: str) -> None:
    announce(london, "--from", "2026-10-04T02:00", "--for", "1h")
    london("maintenance", "cancel", "w", "--yes")
    with Database(url) as database, database.read() as connection:
        assert [one.kind for one in ledger.entries(connection)] == ["maintenance_recorded"] * 2
    assert london("ledger", "verify").code == 0


def test_a_window_is_told_by_the_notice_of_its_own_months_terms_case_39(london: Run, config: Path) -> None:
    more = (
        'version = "2"\neffective = "2026-11-01"\nzone = "Europe/London"\nnotice_minutes = 100000\ncap_minutes = 90\n'
    )
    config.write_text(config.read_text() + f"[[terms]]\n{more}")
    done = announce(london, "--from", "2026-11-04T02:00", "--for", "1h")
    assert "0 minutes are excluded" in done.output and "of 100000; what it adds costs uptime" in done.output
    assert listed(london)["w"]["excluded_from_minute"] is None
    done = announce(london, "--from", "2026-10-31T22:00", "--for", "1m", name="x")
    assert "1 minute is excluded" in done.output


def test_a_note_of_a_time_before_any_terms_can_be_listed(run: Run, config: Path, at: At) -> None:
    config.write_text(config.read_text() + '[[terms]]\nversion = "1"\neffective = "2026-10-01"\n')
    at("2026-10-10T12:00")
    assert announce(run, "--from", "2026-08-04T02:00", "--for", "1h", "--note").code == 0
    assert listed(run)["w"]["state"] == "note"
