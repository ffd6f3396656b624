"""The nouns customer, domain, account, plan and events as an operator and a script meet them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from smartmail.cli.acting import parse_since, parse_span
from smartmail.cli.common import CliError
from smartmail.cli.events import print_new
from smartmail.core.limits import Charge, Limit, Scope, Unit
from smartmail.store.counters import MemoryCounters
from smartmail.store.database import Database
from smartmail.store.directory import DirectoryReader
from smartmail.store.events import EventRow
from smartmail.store.history import EventQuery
from smartmail.store.writer import EventWriter

Run = Callable[..., Any]


def read(run: Run, *arguments: str) -> Any:
    """What a read command prints as JSON."""
    done = run(*arguments, "--json")
    assert done.code == 0, done
    return json.loads(done.output)


def password_hash(url: str, login: str) -> str:
    reader = DirectoryReader(url)
    reader.poll()
    found = reader.current.by_login(login)
    reader.close()
    assert found is not None
    return found.password_hash


# adding and showing


def test_from_nothing_to_an_account_in_three_commands(hosted: Run) -> None:
    (account,) = read(hosted, "account", "list")
    assert (account["address"], account["customer"], account["plan"]) == ("ann@example.com", "Acme", "standard")
    (customer,) = read(hosted, "customer", "list")
    assert (customer["name"], customer["billing"], customer["closed_ns"]) == ("Acme", "current", None)
    (domain,) = read(hosted, "domain", "list")
    assert (domain["name"], domain["customer"]) == ("example.com", "Acme")
    assert [plan["name"] for plan in read(hosted, "plan", "list")] == ["standard"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("customer", "list"), ("Acme", "current")),
        (("customer", "show", "Acme"), ("example.com", "standard")),
        (("domain", "list"), ("example.com", "Acme")),
        (("domain", "show", "example.com"), ("Acme", "open", "1 accounts")),
        (("account", "list"), ("ann@example.com", "good")),
        (("account", "show", "ann@example.com"), ("billing current, conduct good",)),
        (("plan", "list"), ("standard",)),
        (("plan", "show", "standard"), ("recipients-per-day", "500")),
        (("events",), ("verdict",)),
    ],
)
def test_every_read_command_speaks_to_people_and_to_programs(
    hosted: Run, command: tuple[str, ...], words: tuple[str, ...]
) -> None:
    shown = hosted(*command)
    assert shown.code == 0
    assert all(word in shown.output for word in words), shown.output
    read(hosted, *command)


@pytest.mark.parametrize(
    ("command", "code", "what", "remedy"),
    [
        (("account", "show", "x@example.com"), 1, 'no account "x@example.com"', "account list"),
        (("account", "show", "x y@example.com"), 2, "is no address", ""),
        (("account", "add", "x@nowhere.example", "--generate"), 1, 'no domain "nowhere.example"', "domain add"),
        (("account", "add", "ann@example.com", "--generate"), 1, "is taken", "account show"),
        (("account", "add", "b@example.com", "--plan", "gold", "--generate"), 1, 'no plan "gold"', "standard"),
        (("account", "set", "ann@example.com"), 2, "nothing to set", "--plan"),
        (("account", "move", "ann@example.com", "--reason", "x"), 2, "move it where?", "--conduct"),
        (("account", "close", "ann@example.com"), 2, "needs a reason", "--reason"),
        (("customer", "show", "Nobody"), 1, 'no customer "Nobody"', "customer list"),
        (("customer", "add", "Acme"), 1, 'a customer "Acme" already', "customer show"),
        (("customer", "add", "12"), 2, "cannot be a customer's name", "no digit"),
        (("customer", "set", "Acme", "--paid-through", "soon"), 2, "is no date", "2026-11-23"),
        (("domain", "add", "a..b", "--customer", "Acme"), 2, "is no domain", ""),
        (("domain", "add", "b.example", "--customer", "Nobody"), 1, 'no customer "Nobody"', "customer list"),
        (("plan", "set", "standard", "--limit", "name=x"), 2, "missing: period, quota, unit", "write name="),
        (("plan", "set", "standard", "--limit", "name=x,unit=cows,quota=1,period=1"), 2, "cows", "write name="),
        (("plan", "set", "standard", "--drop-limit", "x"), 1, 'has no limit "x"', "plan show"),
        (("events", "--since", "yesterday"), 2, "is no time", "2h"),
    ],
)
def test_an_error_says_what_and_what_to_do(
    hosted: Run, command: tuple[str, ...], code: int, what: str, remedy: str
) -> None:
    done = hosted(*command)
    assert done.code == code
    assert what in done.error
    assert remedy in done.remedy


def test_an_unreachable_database_is_exit_code_3(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "smartmail.db").write_bytes(b"no database at all, whatever its name says. " * 50)
    done = run("account", "list")
    assert done.code == 3
    assert "database" in done.error


# passwords


def test_a_generated_password_is_shown_once_and_works(hosted: Run, url: str) -> None:
    done = hosted("account", "set", "ann@example.com", "--generate")
    password = done.output.partition("password: ")[2].strip()
    assert PasswordHasher().verify(password_hash(url, "ann@example.com"), password)


def test_a_password_comes_from_a_file_a_pipe_or_a_prompt(hosted: Run, url: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from a file\nsecond line\n")
    for arguments, typed, password in (
        (("--password-file", str(tmp_path / "secret")), None, "from a file"),
        (("--password-file", "-"), "from a pipe\n", "from a pipe"),
        (("--password",), "from a prompt\nfrom a prompt\n", "from a prompt"),
    ):
        done = hosted("account", "set", "ann@example.com", *arguments, input=typed)
        assert done.code == 0, done
        assert password not in done.output
        assert PasswordHasher().verify(password_hash(url, "ann@example.com"), password)


def test_no_option_takes_a_password_from_the_argument_list(hosted: Run) -> None:
    assert hosted("account", "set", "ann@example.com", "--password", "hunter2hunter2").code == 2
    assert hosted("account", "set", "ann@example.com", "--password=hunter2hunter2").code == 2


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--password-file", "/nonexistent/file"), "cannot be read"),
        (("--password-file", "-", "--generate"), "exclude each other"),
        ((), "no password was given"),
        (("--password-file", "-"), "under 8 characters"),
    ],
)
def test_an_account_without_a_good_password_is_not_made(hosted: Run, arguments: tuple[str, ...], what: str) -> None:
    done = hosted("account", "add", "bob@example.com", *arguments, input="")
    assert done.code == 2
    assert what in done.error
    assert len(read(hosted, "account", "list")) == 1


# plans and aliases


def test_a_plan_is_made_changed_and_given(hosted: Run) -> None:
    limit = "name=per-day,unit=recipients,quota=10,period=1d,scope=customer,mode=shadow"
    assert hosted("plan", "add", "small", "--description", "for one", "--limit", limit).code == 0
    assert hosted("plan", "set", "small", "--limit", "name=rate,unit=messages,quota=60,period=1h,burst=5").code == 0
    plan = read(hosted, "plan", "show", "small")
    assert [(one["name"], one["scope"], one["period"], one["burst"], one["mode"]) for one in plan["limits"]] == [
        ("per-day", "customer", 86400, 0, "shadow"),
        ("rate", "account", 3600, 5, "enforce"),
    ]
    assert hosted("plan", "set", "small", "--drop-limit", "rate", "--description", "fewer").code == 0
    assert hosted("account", "set", "ann@example.com", "--plan", "small").code == 0
    assert read(hosted, "account", "show", "ann@example.com")["plan"] == "small"


def test_aliases_are_added_and_removed(hosted: Run) -> None:
    done = hosted(
        "account", "set", "ann@example.com", "--add-alias", "Sales@example.com", "--add-alias", "@example.com"
    )
    assert done.code == 0
    assert read(hosted, "account", "show", "sales@example.com")["aliases"] == ["@example.com", "sales@example.com"]
    assert hosted("account", "set", "ann@example.com", "--remove-alias", "@example.com").code == 0
    assert read(hosted, "account", "show", "ann@example.com")["aliases"] == ["sales@example.com"]


def test_one_bad_part_leaves_the_whole_change_undone(hosted: Run) -> None:
    done = hosted("account", "set", "ann@example.com", "--add-alias", "s@example.com", "--add-alias", "s@elsewhere.org")
    assert done.code == 1
    assert read(hosted, "account", "show", "ann@example.com")["aliases"] == []


def test_a_customers_contact_and_payment(hosted: Run) -> None:
    assert hosted("customer", "set", "Acme", "--contact", "o@acme.example", "--paid-through", "2026-12-31").code == 0
    shown = read(hosted, "customer", "show", "Acme")
    assert shown["contact"] == "o@acme.example"
    assert shown["subscriptions"][0]["paid_through"] == "2026-12-31"


# standing


@pytest.mark.parametrize(
    ("noun", "name", "verb", "step"),
    [
        ("account", "ann@example.com", "suspend", "billing current -> suspended"),
        ("account", "ann@example.com", "close", "conduct good -> closed"),
        ("customer", "Acme", "suspend", "billing current -> suspended"),
        ("customer", "Acme", "close", "conduct good -> closed"),
        ("domain", "example.com", "close", "conduct good -> closed"),
    ],
)
def test_a_hold_is_planned_asked_for_done_and_lifted(hosted: Run, noun: str, name: str, verb: str, step: str) -> None:
    act = (noun, verb, name, "--reason", "invoice 12")
    before = read(hosted, noun, "show", name)

    dry = hosted(*act, "--dry-run")
    assert dry.code == 0
    assert step in dry.output
    assert read(hosted, noun, "show", name) == before

    assert hosted(*act, input="n\n").code == 1
    assert hosted(*act, input="").code == 2
    assert read(hosted, noun, "show", name) == before

    done = hosted(*act, input="y\n")
    assert done.code == 0
    assert step in done.output
    (evidence,) = read(hosted, noun, "show", name)["changes"]
    assert evidence["reason"] == "invoice 12"
    assert evidence["who"]

    again = hosted(*act, "--yes")
    assert again.code == 0
    assert "nothing to do" in again.output

    assert hosted(noun, "reopen", name, "--reason", "paid", "--yes").code == 0
    after = read(hosted, noun, "show", name)
    assert len(after.pop("changes")) == 2
    before.pop("changes")
    assert after == before


def test_reopening_what_two_things_hold_asks_which(hosted: Run) -> None:
    for verb in ("suspend", "close"):
        assert hosted("account", verb, "ann@example.com", "--reason", "x", "--yes").code == 0
    done = hosted("account", "reopen", "ann@example.com", "--reason", "paid", "--yes")
    assert done.code == 2
    assert "--axis" in done.remedy
    assert hosted("account", "reopen", "ann@example.com", "--reason", "paid", "--axis", "billing", "--yes").code == 0
    shown = read(hosted, "account", "show", "ann@example.com")
    assert (shown["billing"], shown["conduct"]) == ("current", "closed")


def test_reopening_an_account_says_what_still_holds_it(hosted: Run) -> None:
    assert hosted("domain", "close", "example.com", "--reason", "x", "--yes").code == 0
    assert hosted("account", "close", "ann@example.com", "--reason", "x", "--yes").code == 0
    done = hosted("account", "reopen", "ann@example.com", "--reason", "x", "--yes")
    assert "its domain example.com stays closed" in done.output


def test_a_move_that_the_tables_do_not_know_is_refused(hosted: Run) -> None:
    assert hosted("account", "close", "ann@example.com", "--reason", "x", "--yes").code == 0
    done = hosted("account", "move", "ann@example.com", "--conduct", "slowed", "--reason", "x", "--yes")
    assert done.code == 1
    assert "conduct cannot go from closed to slowed" in done.error


# events and why


@pytest.fixture
def played(hosted: Run, url: str) -> Run:
    """Ann has sent one mail, and tried another."""
    account = read(hosted, "account", "list")[0]["id"]
    now = time.time_ns()
    sent = EventRow(
        at_ns=now,
        session="one",
        listener="submission",
        client_address="192.0.2.1",
        login="ann@example.com",
        account_id=account,
        reverse_path="ann@example.com",
        recipients=[("bob@example.net", 250, "ok")],
        verdict="accepted",
        reason="ok",
        reply="250 2.0.0 queued",
        queue_id="4ABC",
    )
    limit = {"verdict": "deferred", "reason": "limit_reached", "limit_name": "messages-per-hour", "queue_id": ""}
    refused = sent._replace(at_ns=now + 1, recipients=[("evil\x1b[2J@example.net", 450, "limit_reached")], **limit)
    limits = (
        Limit("messages-per-hour", Scope.ACCOUNT, Unit.MESSAGES, 100, 3600),
        Limit("recipients-per-day", Scope.ACCOUNT, Unit.RECIPIENTS, 500, 86400),
    )
    counters = MemoryCounters()
    for limit_, amount in zip(limits, (100, 7), strict=True):
        taken = counters.reserve([Charge(limit_, f"a:{account}", amount)], now, 10**9)
        counters.commit(taken.id, now)  # type: ignore[union-attr]
    writer = EventWriter(url)
    writer.put(sent)
    writer.put(refused)
    writer.store_counters(counters.snapshot())
    assert writer.step()
    return hosted


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ((), 2),
        (("--account", "ann@example.com"), 2),
        (("--account", "gone@example.com"), 0),
        (("--verdict", "accepted"), 1),
        (("--reason", "limit_reached"), 1),
        (("--client", "192.0.2.1", "--since", "1h"), 2),
        (("--recipient", "bob@example.net"), 1),
        (("--queue-id", "4ABC"), 1),
        (("--limit", "1"), 1),
        (("--since", "2099-01-01"), 0),
    ],
)
def test_events_are_asked_for_in_an_operators_words(played: Run, options: tuple[str, ...], count: int) -> None:
    assert len(read(played, "events", *options)) == count


def test_an_address_cannot_play_with_the_terminal(played: Run, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "\x1b" not in played("events").output
    with Database(url) as database:
        print_new(database, EventQuery(), as_json=False)
        print_new(database, EventQuery(), as_json=True)
    assert "\x1b" not in capsys.readouterr().out


def test_following_prints_each_event_once(
    played: Run, url: str, event_after: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with Database(url) as database:
        query = print_new(database, EventQuery(), as_json=True)
        assert len(capsys.readouterr().out.splitlines()) == 2
        query = print_new(database, query, as_json=True)
        assert capsys.readouterr().out == ""
        event_after()
        print_new(database, query, as_json=True)
        (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["session"] == "after"


@pytest.fixture
def event_after(url: str) -> Callable[[], None]:
    def put() -> None:
        writer = EventWriter(url)
        writer.put(EventRow(1, "after", "submission", "192.0.2.1"))
        assert writer.step()

    return put


def test_why_tells_standing_limits_and_last_events(played: Run) -> None:
    told = read(played, "account", "why", "ann@example.com")
    answers = {one["question"]: one for one in told["answers"]}
    assert answers["log in to send, with the right password"]["allowed"]
    refused = answers["send to another domain"]
    assert not refused["allowed"]
    assert refused["reply"].startswith("450 4.7.1 Limit reached: 100 messages in 1 hour (messages-per-hour)")
    assert refused["because"] == "the limit messages-per-hour is reached"
    assert answers["receive mail"]["allowed"]
    usage = {one["limit"]["name"]: one["usage"] for one in told["limits"]}
    assert (usage["messages-per-hour"]["free"], usage["recipients-per-day"]["used"]) == (0, 7)
    assert len(told["events"]) == 2
    shown = played("account", "why", "ann@example.com")
    assert shown.code == 0
    assert "the limit messages-per-hour is reached" in shown.output


def test_why_without_a_relay_says_so(hosted: Run) -> None:
    done = hosted("account", "why", "ann@example.com")
    assert "no relay has stored its counters yet" in done.output
    assert "nothing holds it" in done.output
    assert "no events yet" in done.output


def test_why_counts_configured_limits_too(hosted: Run, config: Path) -> None:
    with config.open("a") as file:
        file.write('[[limit]]\nname = "house"\nscope = "account"\nunit = "messages"\nquota = 9\nperiod = 60\n')
    told = read(hosted, "account", "why", "ann@example.com")
    assert "house" in [one["limit"]["name"] for one in told["limits"]]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604800), ("0", 0)]
)
def test_a_length_of_time_is_read(text: str, seconds: int) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1h", "1w", "1.5h", "\u0661h", "9999999999"])
def test_no_length_of_time(text: str) -> None:
    with pytest.raises(CliError):
        parse_span(text)


def test_since_is_a_span_back_or_a_time_in_utc() -> None:
    now = 1_000_000 * 10**9
    assert parse_since("1h", now) == now - 3600 * 10**9
    assert parse_since("1970-01-02", now) == 86400 * 10**9
    assert parse_since("1970-01-02T01:00+01:00", now) == 86400 * 10**9
