"""Runs command lines against a database of the test's own."""

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


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "smartmail.toml"
    path.write_text(f'[server]\ndata_dir = "{tmp_path / "data"}"\n')
    return path


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of the database that `run` works on."""
    return f"sqlite:///{tmp_path / 'data' / 'smartmail.db'}"


@pytest.fixture
def run(config: Path) -> Run:
    """run("account", "list", input="y\\n") -> Ran."""

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
def hosted(run: Run) -> Run:
    """`run`, with the customer Acme, example.com, and ann@example.com."""
    for line in (
        ("customer", "add", "Acme"),
        ("domain", "add", "example.com", "--customer", "Acme"),
        ("account", "add", "ann@example.com", "--generate"),
    ):
        assert run(*line).code == 0
    return run
