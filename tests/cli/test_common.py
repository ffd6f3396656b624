"""The command line as a whole: exit codes, errors in one form, lazy nouns, plain output for programs."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import smartmail.cli
from smartmail import __version__
from smartmail.cli import NOUNS, main
from smartmail.cli.common import CliError, ExitCode, failure_of, print_error, print_json, print_table
from smartmail.config import ConfigError, Problem
from smartmail.store.errors import Conflict, Invalid, NotFound, StoreUnavailable

Ghost = Callable[[str], None]


@pytest.fixture
def ghost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ghost:
    """ghost(source) gives the program a noun `ghost` of this source."""
    monkeypatch.setattr(smartmail.cli, "__path__", [*smartmail.cli.__path__, str(tmp_path)])
    monkeypatch.setattr(smartmail.cli, "NOUNS", {**NOUNS, "ghost": "Only in this test."})
    monkeypatch.delitem(sys.modules, "smartmail.cli.ghost", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(source: str) -> None:
        (tmp_path / "ghost.py").write_text(source)

    return write


class TestNouns:
    def test_help_lists_every_noun_without_importing_one(self) -> None:
        code = (
            "import sys; from smartmail.cli import main; code = main(['--help']);"
            "loaded = [name for name in sys.modules if name.startswith('smartmail.cli.')];"
            "assert loaded == ['smartmail.cli.common'], loaded;"
            "assert not {'sqlalchemy', 'pydantic', 'uvloop'} & set(sys.modules); sys.exit(code)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert all(noun in done.stdout for noun in NOUNS)

    def test_a_noun_is_imported_when_it_is_used(self, ghost: Ghost, capsys: pytest.CaptureFixture[str]) -> None:
        ghost(
            "import typer\napp = typer.Typer()\n@app.command()\ndef one(): print('one')\n@app.command()\ndef two(): 0\n"
        )
        assert main(["ghost", "one"]) == 0
        assert capsys.readouterr().out == "one\n"

    def test_completion_is_offered_once_not_for_each_noun(
        self, ghost: Ghost, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ghost("import typer\napp = typer.Typer()\n@app.command()\ndef one(): 0\n@app.command()\ndef two(): 0\n")
        assert main(["ghost", "--help"]) == 0
        out = capsys.readouterr().out
        assert "Only in this test." in out
        assert "completion" not in out

    def test_a_noun_that_is_not_installed(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(smartmail.cli, "NOUNS", {"absent": "Not there."})
        assert main(["absent"]) == ExitCode.USAGE
        assert "this installation has no `absent` commands" in capsys.readouterr().err

    def test_a_noun_that_cannot_be_imported_is_a_fault_of_ours_and_not_hidden(self, ghost: Ghost) -> None:
        ghost("import a_module_that_nobody_has\n")
        with pytest.raises(ModuleNotFoundError, match="a_module_that_nobody_has"):
            main(["ghost"])

    def test_a_misspelt_noun_gets_a_suggestion(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["acount"]) == ExitCode.USAGE
        assert "Did you mean 'account'?" in capsys.readouterr().err

    def test_completion_knows_nouns_and_their_verbs(self) -> None:
        for words, expected in (("smartmail con", "config"), ("smartmail config ch", "check")):
            environment = {**os.environ, "_SMARTMAIL_COMPLETE": "complete_bash", "COMP_WORDS": words}
            environment["COMP_CWORD"] = str(words.count(" "))
            done = subprocess.run(
                [sys.executable, "-m", "smartmail"], env=environment, capture_output=True, text=True, check=False
            )
            assert done.stdout.split() == [expected]


class TestExitCodes:
    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == ExitCode.OK
        assert capsys.readouterr().out == f"smartmail {__version__}\n"

    @pytest.mark.parametrize("arguments", [[], ["config"], ["--colour"], ["config", "check", "extra"]])
    def test_wrong_usage(self, arguments: list[str]) -> None:
        assert main(arguments) == ExitCode.USAGE

    @pytest.mark.parametrize(
        ("error", "code", "line"),
        [
            (
                CliError("busy", where="127.0.0.1:25", remedy="stop it", code=ExitCode.UNREACHABLE),
                3,
                "127.0.0.1:25: busy (stop it)",
            ),
            (
                ConfigError([Problem("a.toml", "log.level", "is wrong", "fix it", 4)]),
                2,
                "a.toml:4: log.level: is wrong (fix it)",
            ),
            (NotFound("no such account", "list them"), 1, "no such account (list them)"),
            (Conflict("there already"), 1, "there already"),
            (Invalid("no address"), 2, "no address"),
            (StoreUnavailable("no database"), 3, "no database"),
            (PermissionError(13, "Permission denied", "/var/lib/x"), 3, "/var/lib/x: Permission denied"),
            (ConnectionRefusedError(111, "Connection refused"), 3, "Connection refused"),
        ],
    )
    def test_what_can_be_explained_is_one_line_and_a_code(
        self, error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        failure = failure_of(error)
        assert failure is not None
        print_error(failure)
        captured = capsys.readouterr()
        assert (failure.code, captured.err, captured.out) == (code, f"error: {line}\n", "")

    def test_a_fault_of_ours_is_not_explained_away(self, ghost: Ghost) -> None:
        assert failure_of(ValueError("x")) is None
        ghost("import typer\napp = typer.Typer()\n@app.callback(invoke_without_command=True)\ndef run(): 1 / 0\n")
        with pytest.raises(ZeroDivisionError):
            main(["ghost"])

    def test_a_command_may_give_its_own_code(self, ghost: Ghost) -> None:
        ghost(
            "import typer\napp = typer.Typer()\n@app.callback(invoke_without_command=True)\n"
            "def run(): raise typer.Exit(3)\n"
        )
        assert main(["ghost"]) == ExitCode.UNREACHABLE

    def test_as_a_module(self) -> None:
        done = subprocess.run([sys.executable, "-m", "smartmail", "nonsense"], capture_output=True, check=False)
        assert done.returncode == ExitCode.USAGE


class TestOutput:
    def test_a_table_for_a_program_is_neither_cut_nor_folded(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_table(("a", "b"), [("x" * 300, 5), ("y", 12)])
        lines = capsys.readouterr().out.splitlines()
        assert any("x" * 300 in line and line.rstrip().endswith(" 5") for line in lines)

    def test_cells_are_plain_text_whatever_they_say(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_table(("a",), [("[bold]x[/bold]",), ("\x1b[2J:smile:",), (None,), (True,)])
        out = capsys.readouterr().out
        assert "[bold]x[/bold]" in out
        assert "\ufffd[2J:smile:" in out
        assert "\x1b" not in out

    def test_json_keeps_order_and_letters(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_json({"b": "ü", "a": Path("/x")})
        assert capsys.readouterr().out == '{\n  "b": "ü",\n  "a": "/x"\n}\n'

    def test_an_error_of_several_lines_names_its_place_on_each(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_error(CliError("one\ntwo", where="here"))
        assert capsys.readouterr().err == "error: here: one\nerror: here: two\n"

    @pytest.mark.parametrize(("setting", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
    def test_colour_is_for_terminals_and_no_color_forbids_it(self, setting: dict[str, str], coloured: bool) -> None:
        ours, theirs = pty.openpty()
        environment = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", **setting}
        done = subprocess.run(
            [sys.executable, "-m", "smartmail", "--config", "/nonexistent/x.toml", "config", "show"],
            stderr=theirs,
            env=environment,
            check=False,
        )
        shown = os.read(ours, 65536)
        os.close(ours)
        os.close(theirs)
        assert done.returncode == ExitCode.USAGE
        assert b"there is no such file" in shown
        assert (b"\x1b[1;31m" in shown) is coloured
