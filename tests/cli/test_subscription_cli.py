"""`smartmail subscription` as an operator and a script meet it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., Any]


def show(run: Run, number: int = 1) -> dict[str, Any]:
    done = run("subscription", "show", str(number), "--json")
    assert done.code == 0, done
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_every_read_command_speaks_to_people_and_to_programs(hosted: Run) -> None:
    assert "Acme" in hosted("subscription", "list").output
    assert "never paid" in hosted("subscription", "list", "--customer", "Acme").output
    (one,) = json.loads(hosted("subscription", "list", "--json").output)
    assert (one["customer_name"], one["plan"], one["closed_for"], one["residences"]) == ("Acme", "standard", "", [])
    assert "paid through no day" in hosted("subscription", "show", "1").output


def test_a_change_is_said_kept_and_in_the_ledger(hosted: Run) -> None:
    done = hosted(
        "subscription", "set", "1", "--paid-through", "2027-01-31", "--service", "mail", "--reason", "invoice 3"
    )
    assert done.code == 0
    assert "paid through: none -> 2027-01-31" in done.output and "service: none -> mail" in done.output
    found = show(hosted)
    assert (found["paid_through"], found["residences"][0]["service"]) == ("2027-01-31", "mail")
    (entry,) = json.loads(hosted("ledger", "list", "--subscription", "1", "--json").output)
    assert (entry["kind"], entry["body"]["reason"]) == ("subscription_changed", "invoice 3")
    assert "mail" in hosted("subscription", "show", "1").output


def test_it_moves_when_it_is_said_to_have_moved(hosted: Run) -> None:
    hosted("subscription", "set", "1", "--service", "mail1", "--since", "2026-10-01T00:00")
    hosted("subscription", "set", "1", "--service", "mail2", "--since", "2026-10-09T02:00+02:00")
    first, second = show(hosted)["residences"]
    assert first["until_minute"] == second["from_minute"] == 1_791_504_000 // 60
    done = hosted("subscription", "set", "1", "--service", "mail1", "--since", "2026-10-05T00:00")
    assert (done.code, "not rewritten" in done.remedy) == (1, True)


def test_a_dry_run_changes_nothing(hosted: Run) -> None:
    before = show(hosted)
    done = hosted("subscription", "set", "1", "--paid-through", "2027-01-31", "--dry-run")
    assert done.code == 0 and "none -> 2027-01-31" in done.output and "nothing was done" in done.output
    closing = hosted("subscription", "close", "1", "--for", "abuse", "--reason", "spam", "--dry-run")
    assert closing.code == 0 and "forfeits 0 credited months" in closing.output
    assert show(hosted) == before


def test_what_is_so_already_is_said(hosted: Run) -> None:
    done = hosted("subscription", "set", "1", "--plan", "standard")
    assert done.code == 0 and "it is so already" in done.output
    assert show(hosted)["entries"] == []


def test_closed_for_a_reason_and_by_a_yes_case_36(hosted: Run) -> None:
    assert hosted("subscription", "close", "1", "--for", "ended").code == 2, "no reason"
    assert hosted("subscription", "close", "1", "--for", "ended", "--reason", "left", input="n\n").code == 1
    assert hosted("subscription", "close", "1", "--for", "ended", "--reason", "left", input="y\n").code == 0
    found = show(hosted)
    assert (found["closed_for"], found["closed_ns"] is None) == ("ended", False)
    assert "ended" in hosted("subscription", "list").output and "(ended)" in hosted("subscription", "show", "1").output
    again = hosted("subscription", "close", "1", "--for", "abuse", "--reason", "spam after all", "--yes")
    assert again.code == 0
    kinds = [one["kind"] for one in show(hosted)["entries"]]
    assert kinds == ["subscription_changed", "subscription_forfeited"]


@pytest.mark.parametrize(
    ("command", "code", "what"),
    [
        (("show", "99"), 1, "no subscription 99"),
        (("set", "1"), 2, "nothing to set"),
        (("set", "1", "--since", "2026-10-01T00:00"), 2, "goes with --service"),
        (("set", "1", "--paid-through", "soon"), 2, "is no date"),
        (("set", "1", "--anchor-day", "32"), 2, "no month has a day 32"),
        (("set", "1", "--plan", "gold"), 1, 'no plan "gold"'),
        (("set", "1", "--service", "A/B"), 2, "no name of a service"),
        (("close", "99", "--for", "ended", "--reason", "x", "--yes"), 1, "no subscription 99"),
        (("list", "--customer", "Nobody"), 1, 'no customer "Nobody"'),
    ],
)
def test_an_error_says_what(hosted: Run, command: tuple[str, ...], code: int, what: str) -> None:
    done = hosted("subscription", *command)
    assert (done.code, what in done.error) == (code, True), done
