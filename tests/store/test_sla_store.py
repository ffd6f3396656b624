"""Announcements, terms and closed months are written once, each with an entry in the ledger."""

import json
from dataclasses import replace
from datetime import date

import pytest
from sqlalchemy import delete, update

from smartmail.core.ledger import verify
from smartmail.core.maintenance import Action, Announcement
from smartmail.core.sla import Terms
from smartmail.store import ledger, sla
from smartmail.store.database import Database
from smartmail.store.errors import Conflict, Invalid, NotFound, StoreError
from smartmail.store.records import Act
from smartmail.store.schema_monitor import maintenance_entry, sla_revision, terms_version

START = 30_000_000
WINDOW = Announcement(
    "w", Action.ANNOUNCE, "mail", START, START + 60, (START - 5000) * 60_000, "anna", "Update of the mail software"
)
CANCEL = replace(WINDOW, action=Action.CANCEL, recorded_ms=(START - 10) * 60_000, text="")
TERMS = Terms("1", date(2020, 1, 1), "Europe/London")
REVISION = sla.Revision("mail", "2026-10", 1, 1000, "anna", "d" * 64, "breached", True, "{}")


def entries(database: Database) -> list[tuple[str, str]]:
    with database.read() as connection:
        found = list(ledger.entries(connection))
    assert verify(found) == []
    return [(one.kind, one.key) for one in found]


def announce(database: Database, new: Announcement) -> None:
    with database.write() as connection:
        sla.record_announcements(connection, [new])


def freeze(database: Database, new: sla.Revision) -> None:
    with database.write() as connection:
        sla.insert_revision(connection, new)


def record(database: Database, act: Act, *terms: Terms) -> list[Terms]:
    with database.write() as connection:
        return sla.record_terms(connection, terms, act)


# maintenance


def test_the_log_keeps_each_line_and_the_ledger_seals_it_case_18(database: Database) -> None:
    announce(database, WINDOW)
    announce(database, CANCEL)
    with database.read() as connection:
        assert sla.announcements(connection) == [WINDOW, CANCEL]
        (first, _) = ledger.entries(connection)
    assert entries(database) == [("maintenance_recorded", "maintenance:1"), ("maintenance_recorded", "maintenance:2")]
    assert json.loads(first.body) == WINDOW.to_json()
    assert (first.at_ms, first.actor, first.subject) == (WINDOW.recorded_ms, "anna", "window:w")


@pytest.mark.parametrize(
    "new",
    [
        pytest.param(WINDOW, id="the same window again"),
        pytest.param(replace(CANCEL, window="other"), id="no such window"),
        pytest.param(replace(CANCEL, recorded_ms=0), id="case_18 backdated"),
        pytest.param(replace(WINDOW, window="x", recorded_ms=(START + 1) * 60_000), id="case_19 retroactive"),
    ],
)
def test_a_line_that_may_not_stand_there_is_refused_and_leaves_nothing(database: Database, new: Announcement) -> None:
    announce(database, WINDOW)
    with pytest.raises(Conflict):
        announce(database, new)
    with database.read() as connection:
        assert sla.announcements(connection) == [WINDOW]
    assert len(entries(database)) == 1


def test_of_several_lines_all_are_taken_or_none_case_18(database: Database) -> None:
    second = replace(WINDOW, window="v")
    with pytest.raises(Conflict, match="w: "), database.write() as connection:
        sla.record_announcements(connection, [second, WINDOW, WINDOW])
    assert entries(database) == []
    with database.write() as connection:
        sla.record_announcements(connection, [second, WINDOW, CANCEL])
    assert len(entries(database)) == 3


@pytest.mark.parametrize("table", [maintenance_entry, terms_version, sla_revision], ids=lambda table: table.name)
def test_evidence_cannot_be_rewritten(database: Database, act: Act, table: object) -> None:
    announce(database, WINDOW)
    record(database, act, TERMS)
    freeze(database, REVISION)
    for statement in (update(table).values(id=9), delete(table)):  # type: ignore[arg-type]
        with pytest.raises(StoreError, match="append-only"), database.write() as connection:
            connection.execute(statement)


# terms


def test_terms_are_recorded_once_and_stay_known_when_the_configuration_forgets_them_case_39(
    database: Database, act: Act
) -> None:
    new = replace(TERMS, version="2", effective=date(2027, 1, 1), notice_minutes=60)
    assert record(database, act, TERMS) == [TERMS]
    assert record(database, act, TERMS, new) == [TERMS, new]
    assert record(database, act, new) == [TERMS, new]
    assert entries(database) == [("terms_recorded", "terms:1"), ("terms_recorded", "terms:2")]
    with database.read() as connection:
        assert sla.recorded_terms(connection) == sla.known_terms(connection, []) == [TERMS, new]


def test_recorded_terms_are_not_rewritten_case_39(database: Database, act: Act) -> None:
    record(database, act, TERMS)
    with pytest.raises(Conflict, match="changed them"):
        record(database, act, replace(TERMS, numerator=990))
    with database.read() as connection, pytest.raises(Conflict):
        sla.known_terms(connection, [replace(TERMS, cap_minutes=5)])


@pytest.mark.parametrize(
    ("effective", "allowed"),
    [((2026, 9, 1), False), ((2026, 10, 1), False), ((2026, 10, 2), True), ((2026, 11, 1), True)],
)
def test_new_terms_do_not_reach_back_into_a_closed_month_case_39(
    database: Database, act: Act, effective: tuple[int, int, int], allowed: bool
) -> None:
    record(database, act, TERMS)
    freeze(database, REVISION)
    new = replace(TERMS, version="2", effective=date(*effective), numerator=900)
    if allowed:
        assert record(database, act, new) == [TERMS, new]
        return
    with pytest.raises(Invalid, match="2026-10 is closed"):
        record(database, act, new)
    with database.read() as connection:
        assert sla.recorded_terms(connection) == [TERMS]


# months


def test_a_month_has_its_revisions_in_order_and_each_is_an_entry_case_28(database: Database) -> None:
    second = replace(REVISION, number=2, digest="e" * 64, result="met", credited=False, closed_ms=2000)
    freeze(database, REVISION)
    freeze(database, second)
    freeze(database, replace(REVISION, service="web"))
    assert entries(database) == [
        ("month_closed", "month:mail:2026-10:1"),
        ("month_restated", "month:mail:2026-10:2"),
        ("month_closed", "month:web:2026-10:1"),
    ]
    with database.read() as connection:
        assert sla.get_revision(connection, "mail", "2026-10") == second
        assert sla.get_revision(connection, "mail", "2026-10", 1) == REVISION
        assert sla.latest_number(connection, "mail", "2026-11") == 0
        latest = sla.latest_revisions(connection, "2026-10")
        assert [(one.service, one.number, one.record) for one in latest] == [("mail", 2, ""), ("web", 1, "")]
        assert [one.number for one in sla.revisions(connection, service="mail")] == [1, 2]
        assert sla.revisions(connection, month="2026-09") == []


@pytest.mark.parametrize("number", [1, 3, 0])
def test_only_the_next_number_is_taken_case_34(database: Database, number: int) -> None:
    freeze(database, REVISION)
    with pytest.raises(Conflict, match="the next is 2"):
        freeze(database, replace(REVISION, number=number))
    assert len(entries(database)) == 1


def test_a_month_that_is_not_closed_is_not_found(database: Database) -> None:
    freeze(database, REVISION)
    with database.read() as connection:
        for service, month, number in (("mail", "2026-11", 0), ("web", "2026-10", 0), ("mail", "2026-10", 2)):
            with pytest.raises(NotFound):
                sla.get_revision(connection, service, month, number)
