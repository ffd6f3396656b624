"""Subscriptions: changed with evidence, closed for a reason, their residences never rewritten."""

import json
from datetime import date

import pytest
from sqlalchemy import Connection

from smartmail.core.credits import credit_key
from smartmail.core.ledger import Draft, Kind, body_of, verify
from smartmail.store import ledger, subscriptions
from smartmail.store.database import Database
from smartmail.store.errors import Conflict, Invalid, NotFound, StoreError
from smartmail.store.records import Act
from smartmail.store.subscriptions import Change, ClosedFor, Residence

NOW_MINUTE = 1_700_000_000 // 60


def change(database: Database, act: Act, **values: object) -> list[str]:
    with database.write() as connection:
        return subscriptions.change_subscription(connection, 1, Change(**values), act)  # type: ignore[arg-type]


def close(database: Database, why: ClosedFor, act: Act) -> int:
    with database.write() as connection:
        return subscriptions.close_subscription(connection, 1, why, act)


def bodies(connection: Connection) -> list[dict[str, object]]:
    entries = list(ledger.entries(connection))
    assert verify(entries) == []
    return [json.loads(one.body) for one in entries]


def test_a_change_goes_into_the_ledger_with_what_it_was(hosted: Database, act: Act) -> None:
    lines = change(hosted, act, paid_through=date(2027, 1, 31), anchor_day=30, trial_until=date(2023, 12, 1))
    assert lines == [
        "anchor day: 31 -> 30",
        "paid through: none -> 2027-01-31",
        "trial until: none -> 2023-12-01",
    ]
    with hosted.read() as connection:
        found = subscriptions.get_subscription(connection, 1)
        (body,) = bodies(connection)
    assert (found.paid_through, found.anchor_day, found.trial_until) == (date(2027, 1, 31), 30, date(2023, 12, 1))
    assert body == {
        "subscription": 1,
        "was": {"anchor_day": 31, "paid_through": None, "trial_until": None},
        "now": {"anchor_day": 30, "paid_through": "2027-01-31", "trial_until": "2023-12-01"},
        "reason": "invoice 12",
    }


def test_what_is_so_already_is_no_change(hosted: Database, act: Act) -> None:
    assert change(hosted, act, anchor_day=31, plan="standard") == []
    with hosted.read() as connection:
        assert bodies(connection) == []


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"anchor_day": 32}, Invalid),
        ({"anchor_day": 0}, Invalid),
        ({"plan": "gold"}, NotFound),
        ({"service": "../etc"}, Invalid),
    ],
)
def test_what_cannot_be_is_refused(hosted: Database, act: Act, values: dict[str, object], error: type) -> None:
    with pytest.raises(error):
        change(hosted, act, **values)


def test_moving_ends_one_stay_and_begins_another_case_40(hosted: Database, act: Act) -> None:
    assert change(hosted, act, service="mail1", service_from=100)[0].startswith("service: none -> mail1 from ")
    assert change(hosted, act, service="mail1", service_from=150) == []
    assert change(hosted, act, service="mail2", service_from=200)[0].startswith("service: mail1 -> mail2 from ")
    with hosted.read() as connection:
        (found,) = subscriptions.list_subscriptions(connection)
        assert found.residences == (Residence("mail1", 100, 200), Residence("mail2", 200, None))
        assert subscriptions.get_subscriber(connection, 1).stays == (("mail1", 100, 200), ("mail2", 200, None))
        assert subscriptions.homeless(connection, 0, 30_000_000) == 0
    with pytest.raises(Conflict, match="not rewritten"):
        change(hosted, act, service="mail1", service_from=199)


def test_closing_ends_the_stay_with_the_minute_that_it_still_lived_in_case_36(hosted: Database, act: Act) -> None:
    change(hosted, act, service="mail", service_from=100)
    assert close(hosted, ClosedFor.ENDED, act) == 0
    with hosted.read() as connection:
        found = subscriptions.get_subscription(connection, 1)
        assert (found.closed_for, found.closed_ns) == ("ended", act.at_ns)
        assert found.residences == (Residence("mail", 100, NOW_MINUTE + 1),)
        assert subscriptions.get_subscriber(connection, 1).end_minute == NOW_MINUTE + 1
    with pytest.raises(Conflict, match="closed already"):
        close(hosted, ClosedFor.ENDED, act)
    with pytest.raises(Conflict, match="is closed"):
        change(hosted, act, anchor_day=2)


def test_closing_for_abuse_forfeits_and_is_written_down_case_36(hosted: Database, act: Act) -> None:
    with hosted.write() as connection:
        body = body_of(subscription=1, months=2)
        draft = Draft(Kind.CREDIT_GRANTED, credit_key(1, "2023-10"), "anna", "subscription:1", body, 1)
        ledger.append(connection, [draft])
    assert close(hosted, ClosedFor.ABUSE, act) == 2
    with hosted.read() as connection:
        entry = list(ledger.entries(connection))[-1]
        assert subscriptions.forfeitable(connection, 1) == 0
        assert subscriptions.get_subscriber(connection, 1).closed_for == "abuse"
    assert (entry.kind, json.loads(entry.body)["forfeited_months"]) == ("subscription_forfeited", 2)
    assert json.loads(entry.body)["reason"] == "invoice 12"


def test_one_that_ended_may_still_be_closed_for_abuse_but_not_the_other_way_case_36(hosted: Database, act: Act) -> None:
    close(hosted, ClosedFor.ENDED, act)
    later = Act("anna", "found out", act.at_ns + 10**12)
    close(hosted, ClosedFor.ABUSE, later)
    with hosted.read() as connection:
        found = subscriptions.get_subscription(connection, 1)
    assert (found.closed_for, found.closed_ns) == ("abuse", act.at_ns), "it ended when it ended"
    for why in ClosedFor:
        with pytest.raises(Conflict):
            close(hosted, why, later)


def test_nobody_is_found_under_a_number_that_is_not_there(hosted: Database) -> None:
    with hosted.read() as connection:
        for get in (subscriptions.get_subscription, subscriptions.get_subscriber):
            with pytest.raises(NotFound):
                get(connection, 2)
        assert subscriptions.list_subscriptions(connection, customer=99) == []
        assert subscriptions.subscribers(connection, after=1, limit=5) == []


def test_a_change_that_breaks_leaves_no_entry(hosted: Database, act: Act) -> None:
    with pytest.raises(StoreError):
        change(hosted, act, paid_through=date(2027, 1, 1), service="NO")
    with hosted.read() as connection:
        assert bodies(connection) == []
        assert subscriptions.get_subscription(connection, 1).paid_through is None


def test_a_move_says_since_when_in_words(hosted: Database, act: Act) -> None:
    assert change(hosted, act, service="mail1", service_from=29_803_620) == [
        "service: none -> mail1 from 2026-08-31 23:00Z on"
    ]
