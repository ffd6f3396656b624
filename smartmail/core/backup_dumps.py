"""The commands that dump a source, as argv, and how to tell that a dump is whole. Secrets are in none of them."""

from typing import Final

from smartmail.core.backup_plan import JobPlan
from smartmail.core.mailbox_place import Layout

DATABASE_FILE: Final = "database.pgdump"
"""The database, in PostgreSQL's custom format."""
GLOBALS_FILE: Final = "globals.sql"
"""Roles and tablespaces, as SQL."""
GLOBALS_TRAILER: Final = b"-- PostgreSQL database cluster dump complete"
QUEUE_FOLDERS: Final = (
    "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop", "trace",
)  # fmt: skip
QUEUE_NOTE_FILE: Final = "RESTORE.txt"
QUEUE_NOTE: Final = """\
How to bring a Postfix queue back

1. Stop Postfix: postfix stop
2. Put the messages of incoming/, active/, deferred/ and hold/ into hold/ of the queue directory of this machine, and
   those of maildrop/ into maildrop/. Nothing is sent from hold/: what was delivered since the backup would go twice.
3. Bring owners and names in order: postfix set-permissions, then postsuper -s. A queue file is named after its inode,
   which is another one after a restore.
4. Start Postfix, look at the queue (postqueue -p), and let go what is still to be sent: postsuper -H QUEUE_ID
   (postsuper -H ALL for everything).
"""


class DumpRefused(ValueError):
    """This cannot be handed to a command; the message says why."""


def pg_dump(database: str, file: str) -> tuple[str, ...]:
    """database: a name, or a connection string (service=mail). Not compressed, so that what is the same from one day to
    the next is stored once. Raises DumpRefused for one with a password in it."""
    _without_password(database)
    return ("pg_dump", "--format=custom", "--compress=0", "--no-password", f"--dbname={database}", f"--file={file}")


def pg_dumpall(database: str, file: str) -> tuple[str, ...]:
    """Roles and tablespaces of the same server. Raises DumpRefused as `pg_dump` does."""
    _without_password(database)
    # A plain name is none of the connection strings that pg_dumpall takes.
    where = f"--dbname={database}" if _is_connection(database) else f"--database={database}"
    return ("pg_dumpall", "--globals-only", "--no-password", where, f"--file={file}")


def pg_list(file: str) -> tuple[str, ...]:
    """Its table of contents on stdout."""
    return ("pg_restore", "--list", file)


def pg_read(file: str) -> tuple[str, ...]:
    """Read all of it. The table of contents is at the beginning, so `pg_list` alone takes half a dump for a whole."""
    return ("pg_restore", "--file=/dev/null", file)


def listed_entries(text: str) -> int:
    """How many entries `pg_list` has told."""
    return sum(1 for line in text.splitlines() if line and not line.startswith(";"))


def globals_whole(tail: bytes) -> bool:
    """tail: the last KiB of the globals. Does it end as pg_dumpall ends it?"""
    return GLOBALS_TRAILER in tail


def dovecot_users(doveadm: str, pattern: str) -> tuple[str, ...]:
    """One user a line on stdout."""
    return (doveadm, "user", pattern)


def dovecot_field(doveadm: str, user: str, field: str) -> tuple[str, ...]:
    """A field of a user's userdb entry ("uid", "gid") on stdout."""
    return (doveadm, "user", "-f", field, user)


def dovecot_backup(doveadm: str, user: str, maildir: str) -> tuple[str, ...]:
    """A user's mailboxes into a Maildir, exactly as they are: what is there and not in the mailboxes is removed."""
    # Dovecot expands %, and ends a path at a colon.
    place = maildir.replace("%", "%%").replace(":", "::")
    return (doveadm, "backup", "-u", user, f"maildir:{place}")


def is_pattern(users: str) -> bool:
    """Does it stand for several users?"""
    return "*" in users or "?" in users


def staging_layout(folder: str) -> Layout:
    """Where the mailboxes of a DOVECOT job are staged. Raises LayoutError."""
    return Layout(f"{folder}/{{domain}}/{{local}}/Maildir")


def staging_folder(state_folder: str, job: JobPlan) -> str:
    """Where a job's dump is, at the same path each time. state_folder: of the plan."""
    return f"{state_folder}/staging/{job.name}"


def _is_connection(database: str) -> bool:
    return "=" in database or database.startswith(("postgresql://", "postgres://"))


def _without_password(database: str) -> None:
    _, scheme, rest = database.partition("://")
    if "password=" in database.replace(" ", "") or (scheme and ":" in rest.partition("@")[0] and "@" in rest):
        raise DumpRefused("the database's connection has a password in it: put it into ~/.pgpass or a service file")
