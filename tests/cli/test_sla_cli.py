"""`smartmail sla` as an operator and a script meet it: from samples to the credit, and back."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from smartmail.cli import acting
from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind, CheckSpec, Roster
from smartmail.core.sample import Batch, Sample, encode_batch
from smartmail.store.agents import add_roster
from smartmail.store.database import Database
from smartmail.store.samples import SampleStore

Run = Callable[..., Any]
At = Callable[[str], None]
PLACES = ("berlin", "toronto", "tokyo")
FIRST = int(datetime(2026, 10, 5, 8, tzinfo=UTC).timestamp()) // 60
"""The first of the two hours that the service lived for."""
LENGTH = 120


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> At:
    """Sets the clock: at("2026-10-01T12:00"), UTC."""

    def set_clock(text: str) -> None:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
        monkeypatch.setattr(acting, "now_ns", lambda: int(moment.timestamp()) * 10**9)

    return set_clock


def hand_in(url: str, down: range, sequence: int, minutes: range = range(LENGTH)) -> None:
    store = SampleStore(url)
    store.start()
    for place in PLACES:
        samples = tuple(
            Sample(
                "mx", (FIRST + one) * 60_000, Outcome.TIMEOUT if one in down else Outcome.OK, 9, "slow" * (one in down)
            )
            for one in minutes
        )
        batch = Batch(f"agent-{place}", place, sequence, (FIRST + LENGTH) * 60_000, 0, samples)
        store.put(encode_batch(batch), batch, (FIRST + LENGTH) * 60_000).result(60)
    store.stop()


@pytest.fixture
def measured(hosted: Run, url: str, config: Path, at: At) -> Run:
    """`hosted`, with a service that lived for two hours of October and was down for five minutes; the last ten of its
    minutes are not in. Acme is paid through the end of the year. It is 5 November."""
    config.write_text(config.read_text() + '[[terms]]\nversion = "1"\nzone = "Europe/London"\n')
    check = CheckSpec("mx", "mail", CheckKind.MX, "mx.example", 25, PLACES)
    with Database(url) as database:
        database.upgrade()
        with database.write() as connection:
            add_roster(connection, Roster(1, FIRST, PLACES, (check,)))
            add_roster(connection, Roster(2, FIRST + LENGTH, PLACES, ()))
    hand_in(url, range(30, 35), 1, range(LENGTH - 10))
    # Acme was added by the clock of the machine; it lived there in October.
    with Database(url) as database, database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE subscription SET created_ns = 0, anchor_day = 31, paid_through = '2026-12-31'"
        )
    at("2026-11-05T00:00")
    return hosted


def read(run: Run, *arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert done.code == 0, done
    return json.loads(done.output)


def paid_through(run: Run) -> str:
    found: str = read(run, "subscription", "show", "1")["paid_through"]
    return found


def test_a_month_is_shown_so_far_and_as_closed(measured: Run) -> None:
    (shown,) = read(measured, "sla", "month", "2026-10")
    assert (shown["service"], shown["revision"], shown["eligible"]) == ("mail", None, 120)
    assert (shown["down"], shown["unknown"], shown["up"], shown["result"]) == (5, 10, 105, "breached")
    assert (shown["availability_low"], shown["availability_high"]) == ("87.500", "95.833")
    output = measured("sla", "month", "2026-10", "--service", "mail").output
    assert "so far" in output and "87.500 to 95.833 %" in output
    assert "2026-10-05 09:30 BST" in output and "berlin, tokyo, toronto" in output
    measured("sla", "close", "2026-10", "--yes")
    (closed,) = read(measured, "sla", "month", "2026-10")
    assert (closed["revision"], closed["down"]) == (1, 5)
    assert "revision 1" in measured("sla", "month", "2026-10").output


def test_closing_says_what_it_freezes_and_asks(measured: Run, at: At) -> None:
    at("2026-11-02T00:00")
    early = measured("sla", "close", "2026-10", "--yes")
    assert (early.code, "may not be closed before 2026-11-04 00:00Z" in early.error) == (1, True)
    at("2026-11-05T00:00")
    dry = measured("sla", "close", "2026-10", "--dry-run")
    assert dry.code == 0 and "5 minutes down and 10 unknown of 120" in dry.output and "nothing was done" in dry.output
    assert measured("sla", "close", "2026-10", input="n\n").code == 1
    assert read(measured, "ledger", "list") == []
    done = measured("sla", "close", "2026-10", input="y\n")
    assert done.code == 0 and "closed as revision 1" in done.output
    again = measured("sla", "close", "2026-10", "--yes")
    assert (again.code, "every service has closed 2026-10" in again.error) == (1, True)
    assert measured("sla", "close", "2026-10", "--service", "mail", "--yes").code == 1


def test_late_samples_are_restated_minute_by_minute_case_28(measured: Run, url: str) -> None:
    measured("sla", "close", "2026-10", "--yes")
    same = measured("sla", "restate", "2026-10", "--yes")
    assert same.code == 0 and "nothing has come since revision 1" in same.output
    hand_in(url, range(0), 2, range(LENGTH - 10, LENGTH))
    dry = measured("sla", "restate", "2026-10", "--dry-run")
    assert dry.code == 0 and "unknown" in dry.output and "2026-10-05 10:50 BST" in dry.output
    assert read(measured, "sla", "month", "2026-10")[0]["revision"] == 1
    done = measured("sla", "restate", "2026-10", "--yes")
    assert done.code == 0 and "mail: revision 2, record" in done.output
    (shown,) = read(measured, "sla", "month", "2026-10")
    assert (shown["revision"], shown["unknown"], shown["result"]) == (2, 0, "breached")


def test_credits_are_planned_granted_once_and_reversed_case_34_case_35(measured: Run) -> None:
    measured("sla", "close", "2026-10", "--yes")
    plan = measured("sla", "credits", "2026-10")
    assert plan.code == 0 and "1 to be credited" in plan.output and "2027-01-31" in plan.output
    assert read(measured, "sla", "credits", "2026-10", "--dry-run")["totals"] == {"granted": 1}
    assert paid_through(measured) == "2026-12-31"
    assert measured("sla", "credits", "2026-10", "--apply", input="n\n").code == 1
    done = measured("sla", "credits", "2026-10", "--apply", "--yes")
    assert done.code == 0 and "1 subscriptions were credited" in done.output
    assert paid_through(measured) == "2027-01-31"
    again = measured("sla", "credits", "2026-10", "--apply", "--yes")
    assert again.code == 0 and "1 already credited" in again.output
    assert read(measured, "sla", "credits", "2026-10", "--apply", "--yes")["granted"] == 0
    key = "credit:1:2026-10:uptime"
    assert measured("sla", "reverse", key).code == 2, "no reason"
    dry = measured("sla", "reverse", key, "--reason", "mistake", "--dry-run")
    assert dry.code == 0 and "2027-01-31 -> 2026-12-31" in dry.output
    assert measured("sla", "reverse", key, "--reason", "mistake", "--yes").code == 0
    assert paid_through(measured) == "2026-12-31"
    assert "1 reversed by decision" in measured("sla", "credits", "2026-10").output
    twice = measured("sla", "reverse", key, "--reason", "mistake", "--yes")
    assert (twice.code, f"reversal:{key}" in twice.remedy) == (1, True)
    assert measured("sla", "reverse", f"reversal:{key}", "--reason", "it was right", "--yes").code == 0
    assert paid_through(measured) == "2027-01-31"
    assert measured("ledger", "verify").code == 0


def test_one_command_grants_for_a_script(measured: Run) -> None:
    measured("sla", "close", "2026-10", "--yes")
    done = read(measured, "sla", "credits", "2026-10", "--apply", "--yes")
    assert done["granted"] == 1
    assert done["decisions"][0] == {
        "subscription": 1,
        "customer": 1,
        "decision": "granted",
        "key": "credit:1:2026-10:uptime",
        "service": "mail",
        "paid_from": "2026-12-31",
        "paid_to": "2027-01-31",
    }


def test_who_is_not_credited_is_said_with_the_reason_case_36(measured: Run) -> None:
    measured("sla", "close", "2026-10", "--yes")
    measured("subscription", "close", "1", "--for", "abuse", "--reason", "spam", "--yes")
    found = read(measured, "sla", "credits", "2026-10")
    assert [(one["subscription"], one["decision"]) for one in found["decisions"]] == [(1, "closed for abuse")]
    assert measured("sla", "credits", "2026-10", "--apply", "--yes").code == 0
    assert paid_through(measured) == "2026-12-31"


def test_a_month_that_met_the_promise_credits_nobody(measured: Run, config: Path) -> None:
    config.write_text(config.read_text() + "numerator = 1\ndenominator = 2\n")
    measured("sla", "close", "2026-10", "--yes")
    done = measured("sla", "credits", "2026-10", "--apply", "--yes")
    assert done.code == 0 and "nobody is credited" in done.output


def test_a_subscription_without_a_service_is_told_of_case_40(measured: Run, url: str) -> None:
    """With two services nobody can know where it lives."""
    web = CheckSpec("web", "web", CheckKind.HTTPS, "web.example", 443, PLACES)
    with Database(url) as database, database.write() as connection:
        add_roster(connection, Roster(3, FIRST + LENGTH + 1, PLACES, (web,)))
    measured("sla", "close", "2026-10", "--service", "mail", "--yes")
    done = measured("sla", "credits", "2026-10")
    assert (
        "1 subscription is on no service in 2026-10" in done.error
        and "not closed yet" in done.error
        and "web" in done.error
    )
    assert "1 not on the service" in done.output


@pytest.mark.parametrize(
    ("command", "code", "what"),
    [
        (("month", "October"), 2, "is no month"),
        (("month", "2026-13"), 2, "no month 13"),
        (("month", "2026-10", "--service", "web"), 1, "no service web"),
        (("month", "2020-01"), 1, "no service existed"),
        (("month", "2027-01", "--service", "mail"), 1, "has not begun"),
        (("restate", "2026-10"), 1, "is not closed"),
        (("credits", "2026-10"), 1, "is not closed"),
        (("credits", "2026-10", "--apply", "--dry-run"), 2, "exclude each other"),
        (("reverse", "credit:9:2026-10:uptime", "--reason", "x"), 1, "no entry"),
    ],
)
def test_an_error_says_what(measured: Run, command: tuple[str, ...], code: int, what: str) -> None:
    done = measured("sla", *command)
    assert (done.code, what in done.error) == (code, True), done


@pytest.mark.parametrize(
    "command",
    [
        ("maintenance", "announce", "--service", "mial", "--from", "2026-12-04T02:00", "--for", "1h", "--yes"),
        ("subscription", "set", "1", "--service", "mial"),
    ],
)
def test_a_service_that_no_roster_names_is_a_slip_of_the_pen(measured: Run, command: tuple[str, ...]) -> None:
    done = measured(*command)
    assert (done.code, 'no service "mial"' in done.error, done.remedy) == (1, True, "there are: mail")


def test_terms_in_use_cannot_be_edited_case_39(measured: Run, config: Path) -> None:
    measured("sla", "close", "2026-10", "--yes")
    config.write_text(config.read_text().replace('zone = "Europe/London"', 'zone = "UTC"'))
    done = measured("maintenance", "list")
    assert (done.code, "changed them" in done.error) == (1, True)


def test_reading_commands_have_json_and_a_report_is_verified_with_what_that_proves(
    measured: Run, tmp_path: Path
) -> None:
    measured("sla", "close", "2026-10", "--yes")
    file = tmp_path / "report.json"
    file.write_text(measured("sla", "report", "2026-10", "--json").output)
    plain = measured("sla", "verify-report", str(file))
    assert plain.code == 0 and "only the digests prove" in plain.output
    found = json.loads(measured("sla", "verify-report", str(file), "--json").output)
    assert (found["name"], found["problems"]) == ("mail, 2026-10", [])
    file.write_text(file.read_text().replace('"result":"breached"', '"result":"met"'))
    assert measured("sla", "verify-report", str(file), "--json").code == 1
