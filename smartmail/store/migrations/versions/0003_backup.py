"""The backup: its catalogue, leases, tombstones."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")

# The one change that a row of the catalogue knows is that it ends.
KEPT = ("id", "activity", "job", "repository", "run", "started_ms")
CHANGED = " OR ".join(f"NEW.{column} <> OLD.{column}" for column in KEPT)
FORBIDDEN = f"OLD.ended_ms IS NOT NULL OR NEW.ended_ms IS NULL OR {CHANGED}"

# INSERT OR REPLACE deletes without firing the delete trigger, so what is taken is refused on the way in.
REPLACE_TRIGGER = """
CREATE TRIGGER {table}_no_replace_id BEFORE INSERT ON {table}
WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
SQLITE_TRIGGERS = (
    f"""
    CREATE TRIGGER backup_record_ends_once BEFORE UPDATE ON backup_record WHEN {FORBIDDEN}
    BEGIN SELECT RAISE(ABORT, 'backup_record is append-only: a row is ended once'); END
    """,
    """
    CREATE TRIGGER backup_record_no_DELETE BEFORE DELETE ON backup_record
    BEGIN SELECT RAISE(ABORT, 'backup_record is append-only'); END
    """,
    """
    CREATE TRIGGER backup_tombstone_no_UPDATE BEFORE UPDATE ON backup_tombstone
    BEGIN SELECT RAISE(ABORT, 'backup_tombstone is append-only'); END
    """,
    """
    CREATE TRIGGER backup_tombstone_no_DELETE BEFORE DELETE ON backup_tombstone
    BEGIN SELECT RAISE(ABORT, 'backup_tombstone is append-only'); END
    """,
    *(REPLACE_TRIGGER.format(table=table) for table in ("backup_record", "backup_tombstone")),
)
POSTGRESQL_TRIGGERS = (
    """
    CREATE FUNCTION backup_record_ends_once() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'backup_record is append-only: a row is ended once'; END $$
    """,
    f"""
    CREATE TRIGGER backup_record_ends_once BEFORE UPDATE ON backup_record
    FOR EACH ROW WHEN ({FORBIDDEN}) EXECUTE FUNCTION backup_record_ends_once()
    """,
    """
    CREATE TRIGGER backup_record_append_only BEFORE DELETE OR TRUNCATE ON backup_record
    FOR EACH STATEMENT EXECUTE FUNCTION append_only()
    """,
    """
    CREATE TRIGGER backup_tombstone_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON backup_tombstone
    FOR EACH STATEMENT EXECUTE FUNCTION append_only()
    """,
)


def upgrade() -> None:
    """Make the tables and their triggers."""
    _catalogue()
    _leases()
    _tombstones()
    bind = op.get_bind()
    for trigger in SQLITE_TRIGGERS if bind.dialect.name == "sqlite" else POSTGRESQL_TRIGGERS:
        bind.exec_driver_sql(trigger)


def downgrade() -> None:
    """What was backed up, and who is not to come back, is evidence: never dropped by a command."""
    raise NotImplementedError("this version cannot be taken back; restore a backup instead")


def _catalogue() -> None:
    op.create_table(
        "backup_record",
        sa.Column("id", KEY, nullable=False),
        sa.Column("activity", sa.Text, nullable=False),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("repository", sa.Text, nullable=False),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("started_ms", sa.BigInteger, nullable=False),
        sa.Column("ended_ms", sa.BigInteger),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("facts", sa.Text, nullable=False, server_default="{}"),
        sa.PrimaryKeyConstraint("id", name="pk_backup_record"),
        sa.CheckConstraint("(ended_ms IS NULL) = (state = 'started')", name=op.f("ck_backup_record_end")),
    )
    for columns in (
        ["activity", "job", "id"],
        ["repository", "id"],
        ["run"],
        ["activity", "repository", "job", "id"],
        ["activity", "state", "reason"],
    ):
        op.create_index(f"ix_backup_record_{'_'.join(columns)}", "backup_record", columns)


def _leases() -> None:
    op.create_table(
        "backup_lease",
        sa.Column("repository", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("changed_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("repository", name="pk_backup_lease"),
    )


def _tombstones() -> None:
    op.create_table(
        "backup_tombstone",
        sa.Column("id", KEY, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_backup_tombstone"),
    )
    op.create_index("ix_backup_tombstone_subject", "backup_tombstone", ["subject"])
