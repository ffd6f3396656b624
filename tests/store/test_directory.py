"""The account directory: what it answers, what it folds together, and that no change by anybody escapes it."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smartmail.core.limits import Limit, Scope, Unit
from smartmail.core.standing import Billing, Conduct
from smartmail.store import accounts, changes, customers, directory, moves, plans
from smartmail.store.database import Database
from smartmail.store.directory import Directory, DirectoryReader, DirectoryWatch
from smartmail.store.errors import StoreUnavailable
from smartmail.store.records import Act


@pytest.fixture
def reader(hosted: Database) -> Iterator[DirectoryReader]:
    """Has loaded everything."""
    reader = DirectoryReader(hosted.url)
    reader.poll()
    yield reader
    reader.close()


def account_id(database: Database, name: str) -> int:
    with database.read() as connection:
        return accounts.get_account(connection, f"{name}@example.com").id


def move(database: Database, act: Act, **to: Billing | Conduct) -> None:
    """Move ann@example.com."""
    with database.write() as connection:
        ann = accounts.get_account(connection, "ann@example.com")
        moves.apply_moves(connection, moves.account_moves(ann, **to), act)  # type: ignore[arg-type]


def test_a_login_is_an_own_address(hosted: Database, reader: DirectoryReader) -> None:
    with hosted.write() as connection:
        accounts.add_alias(connection, accounts.get_account(connection, "ann@example.com"), "sales@example.com")
    reader.poll()
    found = reader.current.by_login("ann@example.com")
    assert found is not None
    assert found.password_hash.startswith("$argon2id$")
    assert found.account.limits
    assert reader.current.by_login("sales@example.com") is None


def test_mail_goes_to_address_then_alias_then_whole_domain(hosted: Database, reader: DirectoryReader) -> None:
    with hosted.write() as connection:
        ann, bob = (accounts.get_account(connection, f"{name}@example.com") for name in ("ann", "bob"))
        accounts.add_alias(connection, ann, "sales@example.com")
        accounts.add_alias(connection, bob, "@example.com")
    reader.poll()
    owners = {
        address: getattr(reader.current.by_address(address), "id", None)
        for address in ("ann@example.com", "sales@example.com", "anything@example.com", "ann@example.net", "", "x")
    }
    assert owners == {
        "ann@example.com": ann.id,
        "sales@example.com": ann.id,
        "anything@example.com": bob.id,
        "ann@example.net": None,
        "": None,
        "x": None,
    }


def test_a_local_domain_stays_local_when_it_is_closed(hosted: Database, reader: DirectoryReader, act: Act) -> None:
    with hosted.write() as connection:
        domain = customers.get_domain(connection, "example.com")
        moves.apply_moves(connection, moves.domain_moves(domain, closed=True), act)
    reader.poll()
    assert reader.current.is_local_domain("example.com")
    assert not reader.current.is_local_domain("example.net")


@pytest.mark.parametrize(
    ("own", "above", "folded"),
    [
        ({}, "", (Billing.CURRENT, Conduct.GOOD)),
        ({"billing": Billing.PAST_DUE}, "", (Billing.PAST_DUE, Conduct.GOOD)),
        ({}, "customer suspended", (Billing.SUSPENDED, Conduct.GOOD)),
        ({"billing": Billing.SUSPENDED}, "customer past due", (Billing.SUSPENDED, Conduct.GOOD)),
        ({}, "customer closed", (Billing.CURRENT, Conduct.CLOSED)),
        ({}, "domain closed", (Billing.CURRENT, Conduct.CLOSED)),
        ({"conduct": Conduct.STOPPED}, "domain closed", (Billing.CURRENT, Conduct.CLOSED)),
        ({"conduct": Conduct.STOPPED}, "customer suspended", (Billing.SUSPENDED, Conduct.STOPPED)),
    ],
)
def test_what_is_above_an_account_is_folded_into_its_standing(
    hosted: Database,
    reader: DirectoryReader,
    act: Act,
    own: dict[str, Billing | Conduct],
    above: str,
    folded: tuple[Billing, Conduct],
) -> None:
    if own:
        move(hosted, act, **own)
    with hosted.write() as connection:
        owner, domain = customers.get_customer(connection, 1), customers.get_domain(connection, "example.com")
        plan = {
            "": (),
            "customer suspended": moves.customer_moves(owner, billing=Billing.SUSPENDED),
            "customer past due": moves.customer_moves(owner, billing=Billing.PAST_DUE),
            "customer closed": moves.customer_moves(owner, closed=True),
            "domain closed": moves.domain_moves(domain, closed=True),
        }[above]
        moves.apply_moves(connection, plan, act)
    reader.poll()
    fresh = DirectoryReader(hosted.url)
    fresh.poll()
    fresh.close()
    for seen in (reader.current, fresh.current):  # followed, and loaded anew
        ann = seen.by_address("ann@example.com")
        assert ann is not None
        assert (ann.billing, ann.conduct) == folded


def test_one_change_reloads_one_account(hosted: Database, reader: DirectoryReader, act: Act) -> None:
    before = reader.current
    move(hosted, act, conduct=Conduct.WATCHED)
    assert reader.poll() == {account_id(hosted, "ann")}
    assert reader.current.by_address("bob@example.com") is before.by_address("bob@example.com")
    assert before.by_address("ann@example.com") != reader.current.by_address("ann@example.com")


def test_a_snapshot_never_changes(hosted: Database, reader: DirectoryReader, act: Act) -> None:
    before = reader.current
    move(hosted, act, conduct=Conduct.CLOSED)
    reader.poll()
    ann = before.by_address("ann@example.com")
    assert ann is not None
    assert ann.conduct is Conduct.GOOD
    with pytest.raises(TypeError):
        before.accounts[1] = ann  # type: ignore[index]


def test_no_change_is_no_news(hosted: Database, reader: DirectoryReader) -> None:
    assert reader.poll() is None
    with hosted.write() as connection:
        customers.set_contact(connection, 1, "new@acme.example")
    assert reader.poll() is None


def test_a_changed_plan_reaches_its_accounts(hosted: Database, reader: DirectoryReader) -> None:
    limit = Limit("tiny", Scope.ACCOUNT, Unit.MESSAGES, 1, 60)
    with hosted.write() as connection:
        plans.put_limit(connection, "standard", limit)
    assert reader.poll() == set(reader.current.accounts)
    ann = reader.current.by_address("ann@example.com")
    assert ann is not None
    assert limit in ann.limits


def test_a_new_password_a_moved_alias_and_a_new_account_are_heard_of(
    hosted: Database, reader: DirectoryReader, act: Act
) -> None:
    with hosted.write() as connection:
        ann, bob = (accounts.get_account(connection, f"{name}@example.com") for name in ("ann", "bob"))
        accounts.add_alias(connection, ann, "sales@example.com")
    reader.poll()
    with hosted.write() as connection:
        accounts.set_password(connection, ann.id, "another")
        accounts.remove_alias(connection, ann, "sales@example.com")
        accounts.add_alias(connection, bob, "sales@example.com")
        carl = accounts.add_account(connection, "carl@example.com", "h", act)
    assert reader.poll() == {ann.id, bob.id, carl.id}
    found = reader.current.by_login("ann@example.com")
    assert found is not None
    assert found.password_hash == "another"
    assert getattr(reader.current.by_address("sales@example.com"), "id", None) == bob.id
    assert reader.current.by_login("carl@example.com") is not None


def test_a_watch_that_missed_changes_loads_everything(
    hosted: Database, reader: DirectoryReader, act: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "KEPT_CHANGES", 2)
    move(hosted, act, conduct=Conduct.WATCHED)
    with hosted.write() as connection:
        bob = accounts.get_account(connection, "bob@example.com")
        for number in range(5):
            accounts.set_password(connection, bob.id, f"password {number}")
    assert reader.poll() == set(reader.current.accounts)
    ann = reader.current.by_address("ann@example.com")
    assert ann is not None
    assert ann.conduct is Conduct.WATCHED


class Heard:
    """Collects what a watch calls back, and lets a test wait for it."""

    def __init__(self) -> None:
        self.directories: list[Directory] = []
        self.errors: list[str] = []
        self.news = threading.Condition()

    def change(self, found: Directory, _changed: frozenset[int]) -> None:
        with self.news:
            self.directories.append(found)
            self.news.notify_all()

    def error(self, error: Exception) -> None:
        with self.news:
            self.errors.append(str(error))
            self.news.notify_all()

    def wait(self, ready: Callable[[], bool]) -> None:
        with self.news:
            assert self.news.wait_for(ready, timeout=60)


@pytest.fixture
def watching(hosted: Database) -> Iterator[tuple[DirectoryWatch, Heard]]:
    heard = Heard()
    watch = DirectoryWatch(hosted.url, heard.change, heard.error, poll_seconds=0.01)
    watch.start()
    yield watch, heard
    watch.stop()


MUTATE = """
import sys
from smartmail.store import accounts
from smartmail.store.database import Database
from smartmail.store.records import Act

url, name = sys.argv[1:]
with Database(url) as database:
    for number in range(40):
        with database.write() as connection:
            added = accounts.add_account(connection, f"{name}{number}@example.com", "0", Act(name, "", 1))
        with database.write() as connection:
            accounts.set_password(connection, added.id, f"{name} {number}")
"""


def test_every_change_of_two_processes_at_once_is_seen(
    hosted: Database, watching: tuple[DirectoryWatch, Heard]
) -> None:
    watch, heard = watching
    processes = [subprocess.Popen([sys.executable, "-c", MUTATE, hosted.url, name]) for name in ("one", "two")]
    assert [process.wait(timeout=100) for process in processes] == [0, 0]

    def complete() -> bool:
        found = {name: watch.current.by_login(f"{name}@example.com") for name in expected}
        return {name: getattr(one, "password_hash", None) for name, one in found.items()} == expected

    expected = {f"{name}{number}": f"{name} {number}" for name in ("one", "two") for number in range(40)}
    heard.wait(complete)
    assert heard.errors == []
    versions = [one.version for one in heard.directories]
    assert versions == sorted(set(versions))


def test_the_callback_runs_on_the_loop(hosted: Database, act: Act) -> None:
    async def scene() -> None:
        told: asyncio.Future[tuple[Directory, frozenset[int], int]] = asyncio.get_running_loop().create_future()

        def change(found: Directory, changed: frozenset[int]) -> None:
            told.set_result((found, changed, threading.get_ident()))

        watch = DirectoryWatch(hosted.url, change, told.set_exception, asyncio.get_running_loop(), 0.01)
        watch.start()
        move(hosted, act, conduct=Conduct.CLOSED)
        found, changed, thread = await asyncio.wait_for(told, 60)
        assert thread == threading.get_ident()
        assert changed == {account_id(hosted, "ann")}
        assert found is watch.current
        watch.stop()

    asyncio.run(scene())


def test_a_locked_database_keeps_the_old_snapshot(
    hosted: Database, reader: DirectoryReader, act: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    watch = DirectoryWatch(hosted.url, heard.change, heard.error)
    watch.load()
    monkeypatch.setattr(directory, "connect", locked)
    monkeypatch.setattr(watch._reader, "_connection", None)
    assert not watch.step()
    assert not watch.step()
    assert watch.errors == 2
    assert heard.errors == ["database is locked"]
    assert watch.current.by_login("ann@example.com") is not None
    monkeypatch.undo()
    move(hosted, act, conduct=Conduct.CLOSED)
    assert watch.step()
    watch.stop()


def locked(_url: str, *, read_only: bool) -> None:
    import sqlite3

    raise sqlite3.OperationalError("database is locked")


def test_a_database_that_is_gone_for_a_while_is_found_again(
    hosted: Database, watching: tuple[DirectoryWatch, Heard], act: Act, tmp_path: Path
) -> None:
    watch, heard = watching
    hosted.close()
    path = Path(hosted.url.removeprefix("sqlite:///"))
    away = tmp_path / "away"
    path.parent.rename(away)
    heard.wait(lambda: bool(heard.errors))
    assert watch.current.by_login("ann@example.com") is not None
    away.rename(path.parent)
    move(hosted, act, conduct=Conduct.CLOSED)
    heard.wait(lambda: bool(heard.directories))
    ann = watch.current.by_address("ann@example.com")
    assert ann is not None
    assert ann.conduct is Conduct.CLOSED


def test_a_restored_backup_replaces_everything(hosted: Database, act: Act, tmp_path: Path) -> None:
    path = Path(hosted.url.removeprefix("sqlite:///"))
    with hosted.write() as connection:  # the backup is to have the same change numbers, and other rows
        accounts.add_account(connection, "carl@example.com", "h", act)
    reader = DirectoryReader(hosted.url)
    reader.poll()
    hosted.close()
    backup = f"sqlite:///{tmp_path / 'backup.db'}"
    with Database(backup) as other:
        other.upgrade()
    os.replace(tmp_path / "backup.db", path)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    changed = reader.poll()
    assert changed is not None
    assert reader.current.accounts == {}
    assert len(changed) == 3
    reader.close()


def test_a_row_of_nonsense_keeps_the_old_snapshot(hosted: Database, act: Act) -> None:
    import sqlite3

    heard = Heard()
    watch = DirectoryWatch(hosted.url, heard.change, heard.error)
    watch.load()
    connection = sqlite3.connect(hosted.url.removeprefix("sqlite:///"))
    connection.execute("PRAGMA ignore_check_constraints=ON")
    connection.execute("UPDATE account SET conduct = 'angelic' WHERE address = 'ann@example.com'")
    connection.execute("INSERT INTO change (kind, ref) VALUES ('account', '1')")
    connection.commit()
    connection.close()
    assert not watch.step()
    assert "angelic" in heard.errors[0]
    assert watch.current.by_login("ann@example.com") is not None
    watch.stop()


def test_a_watch_without_a_database_does_not_start(tmp_path: Path) -> None:
    watch = DirectoryWatch(f"sqlite:///{tmp_path / 'none.db'}", Heard().change, Heard().error)
    with pytest.raises(StoreUnavailable):
        watch.start()
