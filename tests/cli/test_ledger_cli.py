"""`smartmail ledger` as an operator and a script meet it."""

import hashlib
import json
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def written(hosted: Run) -> Run:
    """Three changes of a subscription."""
    for day in ("2027-01-31", "2027-02-28", "2027-03-31"):
        assert hosted("subscription", "set", "1", "--paid-through", day).code == 0
    return hosted


def verified(run: Run, *more: str) -> tuple[int, dict[str, Any]]:
    done = run("ledger", "verify", "--json", *more)
    return done.code, json.loads(done.output)


def tamper(url: str, statement: str) -> None:
    """As somebody with the database file in hand."""
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute(statement)
        connection.commit()
    finally:
        connection.close()


def test_entries_are_listed_with_what_their_hash_is_of_case_38(written: Run) -> None:
    found = json.loads(written("ledger", "list", "--json").output)
    assert [one["seq"] for one in found] == [1, 2, 3]
    for one in found:
        rest = {key: value for key, value in one.items() if key != "hash"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
        assert hashlib.sha256(text.encode()).hexdigest() == one["hash"]
    shown = written("ledger", "list", "--last", "1").output
    assert "subscription_changed" in shown and found[2]["hash"][:12] in shown and found[1]["hash"][:12] not in shown


def test_entries_are_picked(written: Run) -> None:
    for more, count in (
        (("--kind", "subscription_changed"), 3),
        (("--kind", "credit_granted"), 0),
        (("--subscription", "1"), 3),
        (("--subscription", "2"), 0),
        (("--month", "2026-10"), 0),
    ):
        assert len(json.loads(written("ledger", "list", "--json", *more).output)) == count


def test_a_whole_chain_verifies_and_gives_its_head(written: Run) -> None:
    code, found = verified(written)
    assert (code, found["entries"], found["problems"]) == (0, 3, [])
    assert written("ledger", "verify", "--head", found["head"]).code == 0
    assert "0 problems" in written("ledger", "verify").output


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE ledger_entry SET actor = 'eve' WHERE id = 2", "not what was sealed"),
        ("DELETE FROM ledger_entry WHERE id = 2", "does not follow"),
        ("UPDATE ledger_entry SET id = 9 WHERE id = 3", "number is not the next"),
        ("DELETE FROM ledger_entry WHERE id = 3", "head that you kept"),
    ],
)
def test_tampering_is_found_and_is_exit_code_1(written: Run, url: str, statement: str, words: str) -> None:
    head = verified(written)[1]["head"]
    tamper(url, statement)
    code, found = verified(written, "--head", head)
    assert code == 1
    assert any(words in line for line in found["problems"]), found
    assert words in written("ledger", "verify", "--head", head).output


@pytest.mark.parametrize("head", ["x", "3", "3:abc", "three:" + "a" * 64, "3:" + "g" * 64])
def test_a_head_is_as_it_was_printed(written: Run, head: str) -> None:
    done = written("ledger", "verify", "--head", head)
    assert (done.code, "is no head" in done.error) == (2, True)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        (
            "UPDATE subscription SET paid_through = '2099-01-01'",
            "subscription 1: paid through 2099-01-01, 2027-03-31 by the ledger",
        ),
        ("UPDATE subscription SET closed_for = 'ended'", "subscription 1: closed for ended, by the ledger not closed"),
        ("DELETE FROM ledger_entry", "subscription 1: paid through 2027-03-31, the ledger knows of no payment"),
        (
            "DELETE FROM ledger_entry WHERE id = 3",
            "subscription 1: paid through 2027-03-31, 2027-02-28 by the ledger",
        ),
        (
            "INSERT INTO maintenance_entry (window, action, service, from_minute, until_minute, recorded_ms, actor,"
            " text) VALUES ('w', 'announce', '*', 1, 2, 0, 'nobody', '')",
            "maintenance:1: it is in no entry of the ledger",
        ),
        (
            "INSERT INTO sla_revision (service, month, number, closed_ms, actor, record_digest, record, result,"
            " credited) VALUES ('mail', '2026-10', 1, 0, 'x', 'x', '{}', 'met', 0)",
            "month:mail:2026-10:1: it is in no entry of the ledger",
        ),
    ],
)
def test_rows_beside_the_ledger_that_it_does_not_bear_out_are_found_case_38(
    written: Run, url: str, statement: str, problem: str
) -> None:
    assert verified(written)[0] == 0
    tamper(url, statement)
    code, found = verified(written)
    assert (code, found["problems"]) == (1, [problem])
