"""Slips of the pen at the command line of the backup: a clear error, which names the nearest thing that exists."""

from pathlib import Path

import pytest
from support.backups import ANNA, World, like, put, snapshots, template


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world with one run."""
    return template(tmp_path_factory.getbasetemp() / "template of backups")


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    """Another like it."""
    return like(made, tmp_path)


@pytest.fixture(scope="module")
def still(made: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world that is only read."""
    world = like(made, tmp_path_factory.mktemp("still"))
    for name in (".Projects", ".projects"):
        put(world.maildir("bob"), 1, name)
    assert world.run("run", "mail").code == 0
    return world


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("restore", "ana@example.net", "--into", "archive", "--target", "/x.zip"), 1, [ANNA]),
        (("restore", ANNA, "--at", "2001-01-01T00:00", "--into", "archive", "--target", "/x.zip"), 1, ["20"]),
        (("restore", ANNA, "--at", "yesterday", "--into", "archive", "--target", "/x.zip"), 2, ["2026-10-03T08:00"]),
        (("restore", ANNA, "--folder", "Snet", "--into", "archive", "--target", "/x.zip"), 1, ["'Sent'"]),
        (
            ("restore", "bob@example.net", "--folder", "PROJECTS", "--into", "archive", "--target", "/x.zip"),
            1,
            ["'Projects'", "'projects'"],
        ),
        (("restore", ANNA, "--repository", "offside", "--into", "archive", "--target", "/x.zip"), 1, ["offsite"]),
        (("run", "mial"), 1, ["accounts, mail"]),
    ],
)
def test_bad_input_names_the_nearest_thing(still: World, words: tuple[str, ...], code: int, named: list[str]) -> None:
    found = still.run(*words)
    assert found.code == code, found
    assert all(name in found.err for name in named), found.err
    assert found.err.count("error: ") == 1
    assert "Traceback" not in found.err


@pytest.mark.parametrize(
    ("keep", "named"), [("{ dayly = 7 }", "daily"), ("{ weekly = 0 }", "1"), ("{ within = '30days' }", "1y6m10d12h")]
)
def test_a_slip_in_a_keep_rule(world: World, keep: str, named: str) -> None:
    world.set("onsite", keep=keep)
    for words in (("run",), ("prune", "--yes")):
        found = world.run(*words)
        assert found.code == 2
        assert named in found.err
    assert snapshots(world, "onsite") == 2


def test_the_wrong_password_is_told_where_it_is(world: World) -> None:
    (world.folder / "onsite.password").write_text("wrong\n")
    for words in (("restore", ANNA, "--into", "archive", "--target", "/x.zip"), ("prune", "onsite", "--yes")):
        found = world.run(*words)
        assert found.code == 1
        assert "wrong password" in found.err
        assert "password_file" in found.err
