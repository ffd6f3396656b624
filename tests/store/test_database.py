"""Schema, migrations, transactions, and evidence that nobody can change."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from smartmail.store import migrations, plans, schema_backup, schema_monitor
from smartmail.store.customers import add_customer, list_customers
from smartmail.store.database import Database
from smartmail.store.errors import Conflict, StoreUnavailable
from smartmail.store.records import Act
from smartmail.store.schema import APPEND_ONLY, metadata


def test_the_migrations_make_exactly_the_tables_of_the_schema(database: Database) -> None:
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_named_head_is_the_newest_version() -> None:
    assert ScriptDirectory.from_config(migrations.alembic_config()).get_current_head() == migrations.HEAD


def test_an_upgrade_is_done_once(tmp_path: Path) -> None:
    with Database(f"sqlite:///{tmp_path / 'new' / 'a.db'}") as database:
        assert database.upgrade()
        assert not database.upgrade()


def test_a_long_running_process_upgrades_without_importing_sqlalchemy(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    program = (
        "import sys\n"
        "from smartmail.store import directory, migrations, writer\n"
        f"assert migrations.ensure({url!r}) and not migrations.ensure({url!r})\n"
        "directory.DirectoryReader(sys.argv[1]).poll()\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('sqlalchemy', 'alembic', 'argon2')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_child_that_cannot_upgrade_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="folder"):
        migrations.ensure(f"sqlite:///{tmp_path / 'file' / 'a.db'}")


def test_a_database_of_a_newer_version_is_left_alone(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreUnavailable, match="9999"):
        database.upgrade()


@pytest.mark.parametrize("url", ["nonsense", "oracle9://x", "sqlite:///"])
def test_a_url_that_means_nothing_is_refused(url: str) -> None:
    with pytest.raises(StoreUnavailable):
        Database(url).upgrade()


def test_a_password_in_a_url_is_not_shown() -> None:
    with pytest.raises(StoreUnavailable) as refused:
        Database("nosuch://user:hunter2@host/db")
    assert "hunter2" not in str(refused.value)


def test_a_transaction_that_fails_leaves_nothing(database: Database, act: Act) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        add_customer(connection, "Acme", "", act)
        raise ZeroDivisionError
    with database.read() as connection:
        assert list_customers(connection) == []


def test_a_broken_constraint_is_a_conflict(hosted: Database) -> None:
    with pytest.raises(Conflict), hosted.write() as connection:
        connection.execute(text("UPDATE account SET conduct = 'angelic'"))


def test_a_corrupt_file_is_unavailable_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"not a database, but long enough to be looked at " * 100)
    with pytest.raises(StoreUnavailable):
        Database(f"sqlite:///{tmp_path / 'a.db'}").upgrade()


def test_the_default_plan_is_there(database: Database) -> None:
    with database.read() as connection:
        limits = {one.name: one for one in plans.get_plan(connection, "standard").limits}
    assert set(limits) == {
        "recipients-per-day",
        "messages-per-hour",
        "first-time-recipients-per-day",
        "messages-burst",
    }
    assert limits["messages-burst"].burst == 30


EVIDENCE = {
    name: f"INSERT INTO {name} VALUES (1{', 1' * (len(metadata.tables[name].columns) - 1)})"
    for name in (*APPEND_ONLY, *schema_monitor.APPEND_ONLY, *schema_backup.APPEND_ONLY)
}


@pytest.mark.parametrize("table", EVIDENCE)
@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE {table} SET {column} = 2",
        "DELETE FROM {table}",
        "UPDATE OR REPLACE {table} SET {column} = 2",
        "REPLACE INTO {table} SELECT * FROM {table}",
        "INSERT OR REPLACE INTO {table} SELECT * FROM {table}",
        "INSERT INTO {table} SELECT * FROM {table} WHERE true ON CONFLICT (id) DO UPDATE SET {column} = 2",
    ],
)
def test_evidence_is_neither_changed_nor_removed(url: str, table: str, attack: str) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    connection.execute(EVIDENCE[table])
    connection.commit()
    before = connection.execute(f"SELECT * FROM {table}").fetchall()
    columns = [column.name for column in metadata.tables[table].columns]
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(attack.format(table=table, column=columns[1]))
    connection.rollback()
    assert connection.execute(f"SELECT * FROM {table}").fetchall() == before
    connection.close()


@pytest.mark.parametrize("table", ["terms_version", "sla_revision", "ledger_entry"])
def test_evidence_is_not_pushed_out_by_a_row_of_the_same_key(url: str, table: str) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    connection.execute(EVIDENCE[table])
    connection.commit()
    others = ", ".join(column.name for column in metadata.tables[table].columns if column.name != "id")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(f"INSERT OR REPLACE INTO {table} (id, {others}) SELECT id + 1, {others} FROM {table}")
    connection.close()
