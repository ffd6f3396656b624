"""`smartmail config`: check, show, schema, sample, reference; and where the configuration is looked for."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from smartmail.cli import main
from smartmail.config import json_schema, reference, sample_toml

Run = Callable[..., tuple[int, str, str]]

BAD = '[server]\nmax_errors = "ten"\n\n[log]\ncolour = true\n'


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """run(*arguments) runs one command in an empty working directory: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SMARTMAIL_CONFIG", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


class TestCheck:
    def test_the_embedded_default_is_right(self, run: Run) -> None:
        assert run("config", "check") == (0, "embedded default: configuration is right\n", "")

    def test_a_right_file(self, run: Run) -> None:
        Path("mail.toml").write_text('[server]\nhostname = "mx.example.com"\n')
        assert run("--config", "mail.toml", "config", "check") == (0, "mail.toml: configuration is right\n", "")

    def test_all_problems_one_line_each_and_exit_code_1(self, run: Run) -> None:
        Path("mail.toml").write_text(BAD)
        assert run("--config", "mail.toml", "config", "check") == (
            1,
            "",
            'error: mail.toml:2: server.max_errors: must be a whole number, not "ten" (for example max_errors = 10)\n'
            "error: mail.toml:5: log.colour: unknown key (known here: format, level)\n",
        )

    def test_json(self, run: Run) -> None:
        Path("mail.toml").write_text(BAD)
        code, out, err = run("--config", "mail.toml", "config", "check", "--json")
        told = json.loads(out)
        assert (code, err, told["file"], told["ok"]) == (1, "", "mail.toml", False)
        assert told["problems"][1] == {
            "file": "mail.toml",
            "line": 5,
            "key": "log.colour",
            "reason": "unknown key",
            "hint": "known here: format, level",
        }

    def test_json_when_all_is_well(self, run: Run) -> None:
        code, out, _ = run("config", "check", "--json")
        assert (code, json.loads(out)) == (0, {"file": "embedded default", "ok": True, "problems": []})

    def test_markup_in_a_file_is_shown_as_it_stands(self, run: Run) -> None:
        Path("mail.toml").write_text('[log]\nlevel = "[red]x[/]"\n')
        assert 'not "[red]x[/]"' in run("--config", "mail.toml", "config", "check")[2]


class TestShow:
    def test_every_value_with_its_origin(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SMARTMAIL_SERVER__MAX_ERRORS", "7")
        Path("smartmail.toml").write_text('[server]\nhostname = "mx.example.com"\n')
        code, out, _ = run("config", "show", "--json")
        told = json.loads(out)
        assert (code, told["file"]) == (0, "smartmail.toml")
        assert told["values"]["server.hostname"] == {"value": "mx.example.com", "origin": "file"}
        assert told["values"]["server.max_errors"] == {"value": 7, "origin": "environment"}
        assert told["values"]["sender.allow_null"] == {"value": True, "origin": "default"}
        assert told["values"]["listener[1].trusted_networks"]["value"] == ["127.0.0.0/8", "::1/128"]

    def test_only_what_is_not_the_default(self, run: Run) -> None:
        Path("smartmail.toml").write_text('[server]\nhostname = "mx.example.com"\n')
        _, out, _ = run("config", "show", "--changed")
        rows = [line.split() for line in out.splitlines() if "." in line]
        assert rows == [["server.hostname", '"mx.example.com"', "file"]]
        assert run("--config", "/dev/null", "config", "show", "--changed")[1] == "every value is the default\n"

    @pytest.mark.parametrize("form", [[], ["--json"]])
    def test_secrets_are_hidden(self, form: list[str], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SMARTMAIL_STORE__URL", "postgresql://mail:geheim@db/mail")
        code, out, err = run("config", "show", *form)
        assert code == 0
        assert "geheim" not in out + err
        assert "***" in out

    def test_a_wrong_configuration_is_told_and_exit_code_2(self, run: Run) -> None:
        Path("smartmail.toml").write_text(BAD)
        code, out, err = run("config", "show")
        assert (code, out) == (2, "")
        assert [line.split(":")[2] for line in err.splitlines()] == ["2", "5"]


class TestWhereItIs:
    def test_a_file_in_the_working_directory(self, run: Run) -> None:
        Path("smartmail.toml").write_text("")
        assert run("config", "check")[1] == "smartmail.toml: configuration is right\n"

    def test_the_environment_is_stronger_than_the_working_directory(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("smartmail.toml").write_text(BAD)
        Path("other.toml").write_text("")
        monkeypatch.setenv("SMARTMAIL_CONFIG", "other.toml")
        assert run("config", "check")[1] == "other.toml: configuration is right\n"

    def test_the_option_is_stronger_than_the_environment(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        Path("other.toml").write_text("")
        monkeypatch.setenv("SMARTMAIL_CONFIG", "none.toml")
        assert run("--config", "other.toml", "config", "check")[0] == 0

    def test_a_named_file_that_is_not_there_is_never_replaced_by_the_default(self, run: Run) -> None:
        assert run("--config", "none.toml", "config", "show") == (
            2,
            "",
            "error: none.toml: there is no such file (smartmail config sample prints one to begin with)\n",
        )


class TestPrinted:
    def test_sample(self, run: Run) -> None:
        assert run("config", "sample") == (0, sample_toml(), "")

    def test_reference(self, run: Run) -> None:
        assert run("config", "reference") == (0, reference(), "")

    def test_schema(self, run: Run) -> None:
        code, out, _ = run("config", "schema")
        assert (code, json.loads(out)) == (0, json_schema())
