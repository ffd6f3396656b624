"""The monitor: rosters, agents, samples, maintenance, months, the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
APPEND_ONLY = {
    "roster_version": (),
    "terms_version": ("version",),
    "maintenance_entry": (),
    "sla_revision": ("service", "month", "number"),
    "ledger_entry": ("key",),
    "sample_quarantine": (),
    "sample_conflict": (),
}
"""Tables of evidence, and what besides the id no two of their rows share."""

SQLITE_TRIGGER = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
# INSERT OR REPLACE deletes without firing the delete trigger, so what is taken is refused on the way in.
SQLITE_REPLACE_TRIGGER = """
CREATE TRIGGER {table}_no_replace_{name} BEFORE INSERT ON {table}
WHEN EXISTS (SELECT 1 FROM {table} WHERE {same})
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
POSTGRESQL_TRIGGER = """
CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION append_only()
"""


def upgrade() -> None:
    """Make the tables and their triggers; subscriptions learn of trials and of why they ended."""
    _subscriptions()
    _rosters()
    _samples()
    _months()
    _triggers()


def downgrade() -> None:
    """The samples and the ledger are evidence: never dropped by a command."""
    raise NotImplementedError("this version cannot be taken back; restore a backup instead")


def _subscriptions() -> None:
    op.add_column("subscription", sa.Column("trial_until", sa.Date))
    op.add_column("subscription", sa.Column("closed_for", sa.Text, nullable=False, server_default=""))


def _rosters() -> None:
    op.create_table(
        "roster_version",
        sa.Column("id", KEY, nullable=False),
        sa.Column("from_minute", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_roster_version"),
    )
    op.create_table(
        "terms_version",
        sa.Column("id", KEY, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("effective", sa.Date, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("recorded_ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_terms_version"),
        sa.UniqueConstraint("version", name="uq_terms_version_version"),
    )
    op.create_table(
        "enrolment_token",
        sa.Column("id", KEY, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("made_ms", sa.BigInteger, nullable=False),
        sa.Column("made_by", sa.Text, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=False),
        sa.Column("used_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_enrolment_token"),
        sa.UniqueConstraint("digest", name="uq_enrolment_token_digest"),
    )
    op.create_table(
        "agent",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.Column("enrolled_ms", sa.BigInteger, nullable=False),
        sa.Column("revoked_ms", sa.BigInteger),
        sa.Column("last_seen_ms", sa.BigInteger),
        sa.Column("offset_ms", sa.BigInteger),
        sa.PrimaryKeyConstraint("name", name="pk_agent"),
    )


def _samples() -> None:
    op.create_table(
        "sample_batch",
        sa.Column("id", KEY, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
        sa.Column("samples", sa.Integer, nullable=False),
        sa.Column("octets", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sample_batch"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "sample_segment",
        sa.Column("id", KEY, nullable=False),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("check_name", sa.Text, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("samples", sa.Integer, nullable=False),
        sa.Column("octets", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sample_segment"),
    )
    op.create_index(
        "ix_sample_segment_day_location_check_name",
        "sample_segment",
        ["day", "location", "check_name"],
        unique=True,
    )
    op.create_table(
        "sample_summary",
        sa.Column("id", KEY, nullable=False),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("check_name", sa.Text, nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("samples", sa.Integer, nullable=False),
        sa.Column("octets", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sample_summary"),
    )
    op.create_index(
        "ix_sample_summary_day_location_check_name",
        "sample_summary",
        ["day", "location", "check_name"],
        unique=True,
    )
    op.create_table(
        "sample_quarantine",
        sa.Column("id", KEY, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("check_name", sa.Text, nullable=False),
        sa.Column("started_ms", sa.BigInteger, nullable=False),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("outcome", sa.Integer, nullable=False),
        sa.Column("latency_ms", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sample_quarantine"),
    )
    op.create_index("ix_sample_quarantine_check_name_started_ms", "sample_quarantine", ["check_name", "started_ms"])
    op.create_table(
        "sample_conflict",
        sa.Column("id", KEY, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("location", sa.Text, nullable=False),
        sa.Column("check_name", sa.Text, nullable=False),
        sa.Column("started_ms", sa.BigInteger, nullable=False),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
        sa.Column("kept", sa.Text, nullable=False),
        sa.Column("refused", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sample_conflict"),
    )
    op.create_index("ix_sample_conflict_check_name_started_ms", "sample_conflict", ["check_name", "started_ms"])


def _months() -> None:
    op.create_table(
        "maintenance_entry",
        sa.Column("id", KEY, nullable=False),
        sa.Column("window", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("from_minute", sa.BigInteger, nullable=False),
        sa.Column("until_minute", sa.BigInteger, nullable=False),
        sa.Column("recorded_ms", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_maintenance_entry"),
    )
    op.create_index("ix_maintenance_entry_window", "maintenance_entry", ["window"])
    op.create_table(
        "sla_revision",
        sa.Column("id", KEY, nullable=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("month", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("closed_ms", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("record_digest", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("credited", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sla_revision"),
    )
    op.create_index("ix_sla_revision_service_month_number", "sla_revision", ["service", "month", "number"], unique=True)
    op.create_table(
        "ledger_entry",
        sa.Column("id", KEY, nullable=False),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("prev", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ledger_entry"),
        sa.UniqueConstraint("key", name="uq_ledger_entry_key"),
    )
    op.create_index("ix_ledger_entry_subject", "ledger_entry", ["subject"])
    op.create_table(
        "residence",
        sa.Column("id", KEY, nullable=False),
        sa.Column(
            "subscription", KEY, sa.ForeignKey("subscription.id", name="fk_residence_subscription"), nullable=False
        ),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("from_minute", sa.BigInteger, nullable=False),
        sa.Column("until_minute", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_residence"),
        sa.CheckConstraint("until_minute IS NULL OR until_minute >= from_minute", name=op.f("ck_residence_order")),
    )
    op.create_index("ix_residence_subscription", "residence", ["subscription"])


def _triggers() -> None:
    bind = op.get_bind()
    for table, key in APPEND_ONLY.items():
        if bind.dialect.name != "sqlite":
            bind.exec_driver_sql(POSTGRESQL_TRIGGER.format(table=table))
            continue
        for verb in ("UPDATE", "DELETE"):
            bind.exec_driver_sql(SQLITE_TRIGGER.format(table=table, verb=verb))
        for name, columns in (("id", ("id",)), ("key", key)):
            if columns:
                same = " AND ".join(f"{column} = NEW.{column}" for column in columns)
                bind.exec_driver_sql(SQLITE_REPLACE_TRIGGER.format(table=table, name=name, same=same))
