"""A dump of PostgreSQL loaded into a server that lives only for the drill."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from smartmail.backup import scratch_postgres
from smartmail.backup.drill_files import Scratch
from smartmail.backup.scratch_postgres import load_postgresql

pytestmark = pytest.mark.servers


@pytest.fixture
async def dump(tmp_path: Path) -> AsyncIterator[Path]:
    """Made by a server of the same kind."""
    programs = scratch_postgres._programs()
    assert programs is not None
    server = scratch_postgres._Server(programs, scratch_postgres._base())
    try:
        assert await server.start() == ""
        make = (
            "CREATE ROLE mailadmin LOGIN; CREATE TABLE accounts (address text PRIMARY KEY);"
            " CREATE TABLE aliases (alias text REFERENCES accounts);"
            " INSERT INTO accounts SELECT 'user' || n || '@example.net' FROM generate_series(1, 5000) AS n;"
            " INSERT INTO aliases VALUES ('user1@example.net')"
        )
        assert (await server.client("psql", "--no-psqlrc", f"--command={make}", "postgres")).ok
        for program, *words in (
            ("pg_dump", "--format=custom", "--compress=0", f"--file={tmp_path}/database.pgdump", "postgres"),
            ("pg_dumpall", "--globals-only", f"--file={tmp_path}/globals.sql"),
        ):
            ended = await server.client(program, *words)
            assert ended.ok, ended
    finally:
        await server.stop()
    yield tmp_path / "database.pgdump"
    assert not list(Path(tempfile.gettempdir()).glob("smartmail-drill-*"))


async def test_a_dump_is_loaded_and_a_cut_one_is_not(dump: Path, tmp_path: Path) -> None:
    scratch = Scratch.open(tmp_path / "state")
    try:
        found = await load_postgresql(dump, dump.with_name("globals.sql"), scratch)
        assert (found.tables, found.rows, found.faults) == (2, 5001, [])
        assert "server of its own" in found.how

        cut = tmp_path / "cut.pgdump"
        cut.write_bytes(dump.read_bytes()[:-20_000])
        found = await load_postgresql(cut, None, scratch)
        assert found.faults and found.tables == 0

        broken = tmp_path / "broken.pgdump"
        broken.write_bytes(dump.read_bytes().replace(b"CREATE TABLE public.accounts", b"CREATE TABEL public.accounts"))
        found = await load_postgresql(broken, None, scratch)
        assert len(found.faults) == 1 and "does not load" in found.faults[0]
    finally:
        scratch.close()


async def test_without_a_server_it_is_read_to_its_end(
    dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch_postgres, "_programs", lambda: None)
    scratch = Scratch.open(tmp_path / "state")
    found = await load_postgresql(dump, None, scratch)
    assert found.faults == [] and "read to its end" in found.how
    scratch.close()


async def test_a_cancelled_load_leaves_no_server(dump: Path, tmp_path: Path) -> None:
    scratch = Scratch.open(tmp_path / "state")
    task = asyncio.create_task(load_postgresql(dump, None, scratch))
    place = Path(tempfile.gettempdir())
    while not list(place.glob("smartmail-drill-*/.s.PGSQL.*")):
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not list(place.glob("smartmail-drill-*"))
    scratch.close()


def test_what_a_killed_drill_left_elsewhere_is_removed(tmp_path: Path) -> None:
    left, other = tmp_path / "smartmail-drill-x", tmp_path / "precious"
    for one in (left, other):
        one.mkdir()
        (one / "file").write_text("mail")
    scratch = Scratch.open(tmp_path / "state")
    scratch.outside(left)
    scratch.outside(other)
    kept = scratch.folder / "outside"
    text = kept.read_text()
    scratch.close()
    assert not left.exists() and other.exists()
    # Killed: nobody has closed it.
    left.mkdir()
    (scratch.folder).mkdir()
    kept.write_text(text)
    Scratch.open(tmp_path / "state").close()
    assert not left.exists() and other.exists()
