"""`smartmail sla report` and `smartmail sla verify-report` as an operator meets them, on a real database."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import pytest
from reportworld import BREACHED, LONDON, PLACES, Scene, at
from typer.testing import CliRunner

from smartmail.cli import app
from smartmail.cli.common import failure_of
from smartmail.core.canonical import canonical
from smartmail.core.credits import Grounds, Undoing
from smartmail.core.month_record import MonthRecord, digest, to_json
from smartmail.core.outcome import Outcome
from smartmail.core.sample import Batch, Sample, encode_batch
from smartmail.report import gather
from smartmail.store import customers, plans
from smartmail.store.credits import CreditOrder, credit_batch, reverse_entry
from smartmail.store.database import Database
from smartmail.store.records import Act, Plan
from smartmail.store.samples import SampleStore
from smartmail.store.sla import Revision, insert_revision
from smartmail.store.subscriptions import Change, change_subscription

CLOSED_MS = (BREACHED.span.end + 4320) * 60_000
BOSS = Act("closer", "", CLOSED_MS * 10**6)


@dataclass(frozen=True)
class Ran:
    code: int
    output: bytes
    error: str


Run = Callable[..., Ran]


def close(database: Database, record: MonthRecord, number: int = 1) -> None:
    revision = Revision(
        service=record.service,
        month=str(record.month),
        number=number,
        closed_ms=CLOSED_MS + number,
        actor="closer",
        digest=digest(record),
        result=record.assessment.result.value,
        credited=record.assessment.credit,
        record=canonical(to_json(record)).decode(),
    )
    with database.write() as connection:
        insert_revision(connection, revision)


def credit(database: Database, record: MonthRecord) -> None:
    span, terms = record.evidence.span, record.evidence.terms
    ground = Grounds(record.service, str(record.month), span, 1, digest(record), terms.version, LONDON)
    with database.write() as connection:
        credit_batch(connection, CreditOrder((ground,), "closer", CLOSED_MS + 1), 0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of a database with three customers, one subscription each, on a service whose October fell below."""
    url = f"sqlite:///{tmp_path / 'data' / 'smartmail.db'}"
    (tmp_path / "smartmail.toml").write_text(f'[server]\ndata_dir = "{tmp_path / "data"}"\n')
    begin = Act("boss", "", 10**18)
    with Database(url) as database:
        database.upgrade()
        with database.write() as connection:
            plans.add_plan(connection, Plan("basic", "", ()))
            for name in ("Acme", "=cmd|' /C calc'!A0", "Müller & Söhne"):
                customer = customers.add_customer(connection, name, "", begin)
                one = customers.add_subscription(connection, customer, "basic", 31, begin)
                change = Change(paid_through=date(2026, 12, 31), service=BREACHED.service)
                change_subscription(connection, one, change, begin)
        close(database, BREACHED.record())
    return url


@pytest.fixture
def database(url: str) -> Database:
    return Database(url)


@pytest.fixture
def run(url: str, tmp_path: Path) -> Run:
    def invoke(*words: str) -> Ran:
        result = CliRunner().invoke(app, ["--config", str(tmp_path / "smartmail.toml"), "sla", *words])
        if isinstance(result.exception, Exception):
            failure = failure_of(result.exception)
            if failure is None:
                raise result.exception
            return Ran(int(failure.code), result.stdout_bytes, f"{failure.what}; {failure.remedy}")
        return Ran(result.exit_code, result.stdout_bytes, result.stderr)

    return invoke


def test_the_operator_sees_all_credits(run: Run, database: Database) -> None:
    before = run("report", "2026-10").output.decode()
    assert "1 month due, not entered yet" in before
    credit(database, BREACHED.record())
    text = run("report", "2026-10").output.decode()
    assert "Availability was below 99.9 %." in text
    assert text.count("Extended by 1 month") == 3 and "2027-01-31" in text and "Acme" in text


def test_a_customer_sees_its_own_credits_alone(run: Run, database: Database) -> None:
    credit(database, BREACHED.record())
    page = run("report", "2026-10", "--customer", "Acme", "--format", "html").output.decode()
    assert "prepared for <strong><bdi>Acme" in page and "31 Jan 2027" in page
    assert "Müller" not in page and "cmd|" not in page
    text = run("report", "2026-10", "--customer", "Acme", "--format", "json").output
    told = json.loads(text)
    assert [line["subscription"] for line in told["credits"]["lines"]] == [1]
    assert b"cmd|" not in text


def test_what_is_published_names_nobody(run: Run, database: Database) -> None:
    credit(database, BREACHED.record())
    for form in ("html", "json", "terminal", "credits-csv"):
        out = run("report", "2026-10", "--public", "--format", form).output.decode()
        assert "Acme" not in out and "Müller" not in out and "cmd|" not in out


def test_every_form_into_a_folder_and_the_json_verifies(run: Run, database: Database, tmp_path: Path) -> None:
    credit(database, BREACHED.record())
    folder = tmp_path / "out"
    folder.mkdir()
    forms = ("terminal", "html", "pdf", "json", "days-csv", "incidents-csv", "credits-csv")
    words = [word for form in forms for word in ("--format", form)]
    assert run("report", "2026-10", *words, "--output", str(folder)).code == 0
    name = "cluster-eu-1-2026-10-r1-operator"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{name}{end}" for end in (".txt", ".html", ".pdf", ".json", "-days.csv", "-incidents.csv", "-credits.csv")
    )
    done = run("verify-report", str(folder / f"{name}.json"))
    assert (done.code, done.error) == (0, "")
    rows = list(csv.DictReader(io.StringIO((folder / f"{name}-credits.csv").read_text(), newline="")))
    assert [row["customer"] for row in rows] == ["Acme", "'=cmd|' /C calc'!A0", "Müller & Söhne"]


def test_a_changed_file_does_not_verify(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(run("report", "2026-10", "--format", "json").output.replace(b'"down":133', b'"down":13'))
    done = run("verify-report", str(path))
    assert done.code == 1 and b"figures.minutes.down: published 13, computed 133" in done.output


def test_a_restated_month_shows_its_changes_and_its_credits_stand(run: Run, database: Database) -> None:
    credit(database, BREACHED.record())
    met = replace(BREACHED, outages=()).record()
    close(database, met, 2)
    text = run("report", "2026-10").output.decode()
    assert "revision 2" in text and "120 minutes, down -> up" in text
    assert text.count("Extended by 1 month") == 3
    first = run("report", "2026-10", "--revision", "1").output.decode()
    assert "Availability was below" in first
    assert run("report", "2026-10", "--revision", "3").code == 1


def test_a_reversed_credit_is_shown_as_such(run: Run, database: Database) -> None:
    credit(database, BREACHED.record())
    undoing = Undoing("wrong service", "boss", CLOSED_MS + 9, date(2026, 11, 5))
    with database.write() as connection:
        reverse_entry(connection, "credit:1:2026-10:uptime", undoing)
    text = run("report", "2026-10").output.decode()
    assert "Extended, then reversed by decision" in text and text.count("Extended by 1 month") == 2


def test_what_the_agents_saw_is_told(run: Run, url: str) -> None:
    first = BREACHED.span.first + at(3, 14, 2)
    samples = (Sample("submission", first * 60_000, Outcome.TLS, 9, "bad certificate"),)
    store = SampleStore(url)
    store.start()
    for place in PLACES:
        batch = Batch(f"agent-{place}", place, 1, CLOSED_MS, 0, samples)
        store.put(encode_batch(batch), batch, CLOSED_MS).result(60)
    store.stop()
    text = run("report", "2026-10").output.decode()
    assert 'submission: encryption failed, seen from amsterdam, frankfurt and london ("bad certificate")' in text
    assert "bad certificate" not in run("report", "2026-10", "--public").output.decode()


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("2026-09",), 1, "2026-09 is not closed"),
        (("2026-10", "--service", "other"), 1, "there is no closed 2026-10 of other"),
        (("2026-10", "--customer", "Nobody"), 1, 'there is no customer "Nobody"'),
        (("2026-10", "--customer", "Acme", "--public"), 2, "exclude each other"),
        (("2026-10", "--format", "html", "--format", "json"), 2, "several formats need a folder"),
        (("2026-10", "--format", "docx"), 2, "docx"),
        (("October",), 2, "no month"),
    ],
)
def test_what_cannot_be_done_is_explained(run: Run, words: tuple[str, ...], code: int, error: str) -> None:
    done = run("report", *words)
    assert done.code == code and error in done.error


def test_few_and_many_subscriptions_are_decided_alike(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    few = run("report", "2026-10", "--format", "json")
    monkeypatch.setattr(gather, "FEW", 0)
    monkeypatch.setattr(gather, "BATCH", 2)
    assert few == run("report", "2026-10", "--format", "json")
    assert [line["decision"] for line in json.loads(few.output)["credits"]["lines"]] == ["granted"] * 3


def test_several_services_want_one_to_be_named(run: Run, database: Database) -> None:
    close(database, Scene("2026-10", service="cluster-us-1").record())
    assert "give --service: cluster-eu-1, cluster-us-1" in run("report", "2026-10").error
    assert run("report", "2026-10", "--service", "cluster-us-1").code == 0


def test_a_missing_file_is_a_clear_error(run: Run, tmp_path: Path) -> None:
    done = run("verify-report", str(tmp_path / "none.json"))
    assert done.code == 3 and "No such file" in done.error


def test_verifying_imports_no_database_and_no_templates(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(run("report", "2026-10", "--format", "json").output)
    script = (
        "import sys; from typer import Typer; from smartmail.report.command import verify_report\n"
        "app = Typer(); app.command()(verify_report)\n"
        f"app([{str(path)!r}], standalone_mode=False)\n"
        "print(sorted({'sqlalchemy', 'jinja2', 'weasyprint', 'fastapi', 'httpx2'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_restated_month_does_not_say_that_nothing_was_extended_and_the_old_one_that_it_was_replaced(
    run: Run, database: Database
) -> None:
    new = Scene("2026-10").record()
    close(database, new, 2)
    credit(database, BREACHED.record())
    for words in (("--format", "html"), ()):
        said = b" ".join(run("report", "2026-10", *words).output.replace("\u2502".encode(), b"").split())
        assert b"A credit that an earlier revision granted stands." in said
        old = b" ".join(
            run("report", "2026-10", *words, "--revision", "1").output.replace("\u2502".encode(), b"").split()
        )
        assert b"This is revision 1; revision 2 has replaced it." in old and b"stands" not in old


def test_a_credit_for_another_services_month_is_not_on_this_ones_report(run: Run, database: Database) -> None:
    """It lived elsewhere, was credited for that, and has nothing to do with this service."""
    other = replace(BREACHED, service="cluster-eu-2").record()
    with database.write() as connection:
        customer = customers.add_customer(connection, "Elsewhere Ltd", "", Act("boss", "", 10**18))
        number = customers.add_subscription(connection, customer, "standard", 5, Act("boss", "", 10**18))
        change_subscription(connection, number, Change(service="cluster-eu-2", service_from=0), BOSS)
    close(database, other)
    credit(database, other)
    assert b"Elsewhere Ltd" in run("report", "2026-10", "--service", "cluster-eu-2", "--format", "credits-csv").output
    assert (
        b"Elsewhere Ltd" not in run("report", "2026-10", "--service", "cluster-eu-1", "--format", "credits-csv").output
    )
