"""The commands of dumps: what they ask for, and that no secret is in them."""

import pytest

from smartmail.core import backup_dumps as ask
from smartmail.core.mailbox_place import LayoutError


def test_a_dump_is_custom_uncompressed_and_never_asks() -> None:
    assert ask.pg_dump("mail", "/s/x") == (
        "pg_dump", "--format=custom", "--compress=0", "--no-password", "--dbname=mail", "--file=/s/x",
    )  # fmt: skip
    assert "--database=mail" in ask.pg_dumpall("mail", "/s/x")
    assert "--dbname=service=mail" in ask.pg_dumpall("service=mail", "/s/x")
    assert "--dbname=-x" in ask.pg_dump("-x", "/s/x")


@pytest.mark.parametrize(
    "database",
    ["host=db password=geheim", "password = geheim", "postgresql://mail:geheim@db/mail", "postgres://mail:g@/mail"],
)
def test_a_password_never_gets_into_argv(database: str) -> None:
    for command in (ask.pg_dump, ask.pg_dumpall):
        with pytest.raises(ask.DumpRefused, match=r"\.pgpass") as caught:
            command(database, "/s/x")
        assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("database", ["postgresql://mail@db:5432/mail", "service=mail", "host=/run/postgresql"])
def test_connections_without_a_password_pass(database: str) -> None:
    assert f"--dbname={database}" in ask.pg_dump(database, "/s/x")


def test_entries_are_counted_without_comments() -> None:
    assert ask.listed_entries(";\n; Archive created\n;\n215; 1259 16386 TABLE public a postgres\n\n") == 1
    assert ask.listed_entries("") == 0


def test_what_dovecot_would_expand_is_escaped() -> None:
    assert ask.dovecot_backup("doveadm", "a%d:b@x.org", "/s/x.org/a%d:b/Maildir")[-1] == (
        "maildir:/s/x.org/a%%d::b/Maildir"
    )


def test_a_user_cannot_lead_out_of_the_staging_folder() -> None:
    layout = ask.staging_layout("/s/mail")
    for user in ("../../etc@x.org", "..@x.org", "anna@..", "a/b@x.org", "anna"):
        with pytest.raises(LayoutError):
            layout.maildir(user)


def test_the_queue_is_restored_to_hold() -> None:
    assert "postsuper -s" in ask.QUEUE_NOTE
    assert "hold" in ask.QUEUE_FOLDERS
