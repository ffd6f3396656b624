"""What the backup's scene stands on: its folder, its mail, its configuration. It is played in test_run.py."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from smartmail.cli.bringing import ELSEWHERE, configure, emptied, outside
from smartmail.cli.bringing_mail import ANNA, BEN, CLEO, FOLDERS, Mail, mark_read
from smartmail.cli.bringing_scene import Board
from smartmail.config import load
from smartmail.config.backup import backup_plan


@pytest.fixture
def mail(tmp_path: Path) -> Mail:
    found = Mail(tmp_path / "mail")
    found.fill()
    return found


def test_the_folder_is_emptied_with_what_a_killed_scene_left_elsewhere(tmp_path: Path) -> None:
    folder, left = tmp_path / "demo", tmp_path / "smartmail-demo-x"
    for one in (folder, left):
        one.mkdir()
        (one / "old").touch()
    (folder / ELSEWHERE).write_text(str(left))
    emptied(folder)
    assert list(folder.iterdir()) == []
    assert not left.exists()


def test_nothing_else_is_removed_whatever_the_note_says(tmp_path: Path) -> None:
    folder, other = tmp_path / "demo", tmp_path / "other"
    for one in (folder, other):
        one.mkdir()
    (folder / ELSEWHERE).write_text(str(other))
    emptied(folder)
    assert other.is_dir()


def test_the_folder_outside_goes_with_the_scene(tmp_path: Path) -> None:
    with outside(tmp_path) as place:
        assert (tmp_path / ELSEWHERE).read_text() == str(place)
        assert len(str(place)) < 80
    assert not place.exists()
    assert list(tmp_path.iterdir()) == []


def test_each_mailbox_has_its_messages_and_loses_only_its_own(mail: Mail) -> None:
    assert {one: len(mail.contents(one)) for one in FOLDERS} == {ANNA: 100, BEN: 100, CLEO: 60}
    before = mail.contents(BEN)
    mail.lose(ANNA)
    assert mail.contents(ANNA) == {}
    assert mail.contents(BEN) == before


def test_a_mail_that_was_opened_is_the_same_under_another_name(mail: Mail) -> None:
    before, file = mail.contents(BEN), mail.unread(BEN)[0]
    mark_read(file)
    after = mail.contents(BEN)
    assert set(after) - set(before) == {f"cur/{file.name}:2,S"}
    assert sorted(after.values()) == sorted(before.values())


def test_the_configuration_has_two_repositories_with_passwords_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / 'with "quotes" and ü'
    folder.mkdir()
    plan = backup_plan(load(configure(folder, Mail(folder / "mail"), "doveadm")))
    onsite, offsite = plan.repositories
    assert (onsite.copy_from, offsite.copy_from, offsite.offsite) == ("", "onsite", True)
    passwords = {Path(one.at.password_file).read_text() for one in plan.repositories}
    assert len(passwords) == 2
    assert all(Path(one.at.password_file).stat().st_mode & 0o077 == 0 for one in plan.repositories)
    assert plan.folder == str(folder / "state")


def test_what_is_not_as_it_should_be_is_kept() -> None:
    board = Board(Console(file=StringIO()))
    board.expect("messages", 100, 100)
    assert board.wrong == []
    board.expect("messages", 99, 100)
    assert board.wrong == ["messages: 99, expected 100"]
