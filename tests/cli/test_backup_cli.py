"""`smartmail backup` as an operator uses it: every verb once, on real repositories."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from smartmail.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "backup"))

from plans import put_message

pytestmark = pytest.mark.servers

CONFIG = """
[server]
data_dir = "{folder}/data"

[backup]
host = "mx1.example.net"
zone = "Europe/London"

[drill]
repository = "offsite"

[[repository]]
name = "onsite"
location = "{folder}/onsite"
password_file = "{folder}/keys/onsite"
keep = {{ daily = 14 }}

[[repository]]
name = "offsite"
location = "{folder}/offsite"
password_file = "{folder}/keys/offsite"
copy_from = "onsite"
offsite = true
keep = {{ daily = 30 }}

[[job]]
name = "config"
kind = "files"
repository = "onsite"
paths = ["{folder}/etc"]

[[job]]
name = "mail"
kind = "maildir"
repository = "onsite"
paths = ["{folder}/vmail"]
mailboxes = "{folder}/vmail/{{domain}}/{{local}}/Maildir"
order = 1
"""

Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Ask:
    """Runs `smartmail backup ...`: its exit code, and all that it printed."""
    for local in ("anna", "bob"):
        for number in range(6):
            folder = ".Sent" if number % 2 else ""
            put_message(tmp_path / "vmail" / "example.net" / local / "Maildir", number, folder)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "main.cf").write_text("myhostname = mx1.example.net\n")
    file = tmp_path / "smartmail.toml"
    file.write_text(CONFIG.format(folder=tmp_path))

    def run(*words: str) -> tuple[int, str]:
        capfd.readouterr()
        code = main(["--config", str(file), "backup", *words])
        told = capfd.readouterr()
        return code, told.out if "--json" in words else told.out + told.err

    return run


def test_a_night_from_nothing_to_a_mailbox_back(ask: Ask, tmp_path: Path) -> None:
    code, said = ask("init")
    assert code == 0
    assert "Keep a copy of each password" in said
    assert (tmp_path / "keys" / "onsite").stat().st_mode & 0o777 == 0o600
    assert ask("init")[0] == 0

    code, said = ask("due", "--json")
    assert [(one["job"], one["due"], one["cause"]) for one in json.loads(said)] == [
        ("config", True, "never run"),
        ("mail", True, "never run"),
    ]
    code, said = ask("run", "--due", "--json")
    assert code == 0, said
    assert [(one["activity"], one["job"] or one["repository"], one["state"]) for one in json.loads(said)] == [
        ("backup", "config", "ok"),
        ("backup", "mail", "ok"),
        ("copy", "offsite", "ok"),
        ("retention", "onsite", "ok"),
        ("check", "onsite", "ok"),
        ("retention", "offsite", "ok"),
        ("check", "offsite", "ok"),
        ("drill", "offsite", "ok"),
    ]
    code, said = ask("run", "--due")
    assert (code, said.strip()) == (0, "nothing is due")

    code, said = ask("points", "--json")
    (point,) = json.loads(said)
    assert [one["job"] for one in point["snapshots"]] == ["config", "mail"]
    assert all(set(one["in"]) == {"onsite", "offsite"} for one in point["snapshots"])

    code, said = ask("status", "--textfile", str(tmp_path / "backup.prom"))
    assert code == 0, said
    page = (tmp_path / "backup.prom").read_text()
    assert 'smartmail_backup_state{job="mail",repository="offsite",state="ok"} 1.0' in page

    code, said = ask("prune", "--plan")
    assert code == 0, said
    assert "newest" in said

    target = tmp_path / "back"
    wish = ("restore", "anna@example.net", "--into", "folder", "--target", str(target), "--folder", "Sent")
    code, said = ask(*wish, "--dry-run")
    assert (code, target.exists()) == (0, False)
    assert "3 to add" in said
    assert ask(*wish, "--yes")[0] == 0
    assert len(list((target / ".Sent" / "cur").iterdir())) == 3
    code, said = ask(*wish, "--yes")
    assert "0 added" in said

    reports = sorted((tmp_path / "data" / "backup" / "reports").iterdir())
    code, said = ask("verify-drill", str(reports[0]), "--html", str(tmp_path / "drill.html"))
    assert code == 0, said
    assert "The restore is proved" in (tmp_path / "drill.html").read_text()
    reports[0].write_bytes(reports[0].read_bytes().replace(b'"mail"', b'"male"', 1))
    assert ask("verify-drill", str(reports[0]))[0] == 1

    code, said = ask("scorecard", "--json")
    assert code == 1
    assert [one["mark"] for one in json.loads(said)["digits"]] == ["met", "not_met", "met", "not_met", "not_proved"]


def test_who_is_erased_is_not_brought_back(ask: Ask, tmp_path: Path) -> None:
    assert ask("init")[0] == 0
    assert ask("run")[0] == 0
    assert ask("erase", "anna@example.net")[0] == 2
    code, said = ask("erase", "anna@example.net", "--reason", "request 17", "--yes")
    assert code == 0
    assert "offsite lets go of it by 20" in said
    code, said = ask("restore", "anna@example.net", "--into", "folder", "--target", str(tmp_path / "back"), "--yes")
    assert code == 1
    assert "was erased" in said
    assert ask("restore", "bob@example.net", "--into", "folder", "--target", str(tmp_path / "b"), "--yes")[0] == 0
    code, said = ask("erased", "--json")
    assert [one["subject"] for one in json.loads(said)] == ["anna@example.net"]


def test_a_destroyed_repository_is_said_to_be_out_of_reach(ask: Ask) -> None:
    assert ask("init")[0] == 0
    assert ask("run")[0] == 0
    assert ask("destroy", "offsite", "--reason", "the customer left", "--confirm", "onsite")[0] == 2
    code, said = ask("destroy", "offsite", "--reason", "the customer left", "--confirm", "offsite")
    assert code == 0, said
    assert ask("status")[0] == 3


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("run", "male"), 1, "there are: config, mail"),
        (("check", "nowhere"), 1, "there are: onsite, offsite"),
        (("restore", "anna@example.net", "--at", "yesterday"), 2, "as 2026-10-03T08:00"),
        (("probe",), 1, "set append_only"),
        (("drill", "--json"), 1, "NO_REPOSITORY"),
    ],
)
def test_what_cannot_be_is_said_in_words(ask: Ask, words: tuple[str, ...], code: int, says: str) -> None:
    found, said = ask(*words)
    assert found == code
    assert says in said or says == "NO_REPOSITORY"
