"""Runs command lines against a database of the test's own."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smartmail.cli import app
from smartmail.cli.common import failure_of


@dataclass(frozen=True)
class Ran:
    """How a command line ended. error: the one explained failure, where there was one."""

    code: int
    output: str
    error: str
    remedy: str = ""


Run = Callable[..., Ran]


def make_config(folder: Path) -> Path:
    """A configuration whose data are in `folder`."""
    path = folder / "smartmail.toml"
    path.write_text(f'[server]\ndata_dir = "{folder / "data"}"\n')
    return path


def runner(config: Path) -> Run:
    """A function that runs command lines with this configuration."""

    def run(*arguments: str, input: str | None = None) -> Ran:
        result = CliRunner().invoke(app, ["--config", str(config), *arguments], input=input)
        if isinstance(result.exception, Exception):
            failure = failure_of(result.exception)
            if failure is None:
                raise result.exception
            return Ran(int(failure.code), result.stdout, failure.what, failure.remedy)
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return make_config(tmp_path)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of the database that `run` works on."""
    return f"sqlite:///{tmp_path / 'data' / 'smartmail.db'}"


@pytest.fixture
def run(config: Path) -> Run:
    """run("account", "list", input="y\\n") -> Ran. There is no database yet."""
    return runner(config)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a database with the customer Acme, example.com, and ann@example.com, made by command lines."""
    folder = tmp_path_factory.mktemp("hosted")
    run = runner(make_config(folder))
    for line in (
        ("customer", "add", "Acme"),
        ("domain", "add", "example.com", "--customer", "Acme"),
        ("account", "add", "ann@example.com", "--generate"),
    ):
        assert run(*line).code == 0
    return folder / "data"


@pytest.fixture
def hosted(run: Run, template: Path, tmp_path: Path) -> Run:
    """`run`, on a copy of the template."""
    shutil.copytree(template, tmp_path / "data")
    return run
