"""The first schema, with the plan that new accounts get."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer, "sqlite")
APPEND_ONLY = ("standing_change", "transaction_event")

BILLING = "billing IN ('current', 'past_due', 'suspended')"
CONDUCT = "conduct IN ('good', 'watched', 'slowed', 'stopped', 'closed')"
SCOPE = "scope IN ('account', 'customer', 'domain', 'client', 'recipient_domain')"
UNIT = "unit IN ('messages', 'recipients', 'first_time_recipients', 'bytes')"
MODE = "mode IN ('off', 'shadow', 'enforce')"

HOUR, DAY = 3600, 86400
STANDARD = (
    # name, unit, quota, period, burst
    ("recipients-per-day", "recipients", 500, DAY, 0),
    ("messages-per-hour", "messages", 100, HOUR, 0),
    ("first-time-recipients-per-day", "first_time_recipients", 200, DAY, 0),
    # 30 at once, then one more every 30 seconds.
    ("messages-burst", "messages", 120, HOUR, 30),
)

SQLITE_TRIGGER = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
# INSERT OR REPLACE deletes without firing the delete trigger, so a taken id is refused on the way in.
SQLITE_REPLACE_TRIGGER = """
CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN NEW.id IN (SELECT id FROM {table})
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END
"""
POSTGRESQL_FUNCTION = """
CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$
"""
POSTGRESQL_TRIGGER = """
CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION append_only()
"""


def upgrade() -> None:
    """Make every table, the triggers, and the plan "standard"."""
    _plans()
    _customers()
    _accounts()
    _evidence()
    _events()
    _triggers()


def downgrade() -> None:
    """There is nothing before it: evidence is never dropped by a command."""
    raise NotImplementedError("the first version cannot be taken back; restore a backup instead")


def _plans() -> None:
    plan = op.create_table(
        "plan",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("name", name="pk_plan"),
    )
    plan_limit = op.create_table(
        "plan_limit",
        sa.Column("plan", sa.Text, sa.ForeignKey("plan.name", name="fk_plan_limit_plan"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("unit", sa.Text, nullable=False),
        sa.Column("quota", sa.BigInteger, nullable=False),
        sa.Column("period", sa.BigInteger, nullable=False),
        sa.Column("burst", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("mode", sa.Text, nullable=False, server_default="enforce"),
        sa.PrimaryKeyConstraint("plan", "name", name="pk_plan_limit"),
        sa.CheckConstraint(SCOPE, name=op.f("ck_plan_limit_scope")),
        sa.CheckConstraint(UNIT, name=op.f("ck_plan_limit_unit")),
        sa.CheckConstraint(MODE, name=op.f("ck_plan_limit_mode")),
        sa.CheckConstraint("quota >= 0 AND period > 0 AND burst >= 0", name=op.f("ck_plan_limit_range")),
    )
    op.bulk_insert(plan, [{"name": "standard", "description": "What a new account gets"}])
    columns = ("name", "unit", "quota", "period", "burst")
    op.bulk_insert(
        plan_limit,
        [
            {
                "plan": "standard",
                "scope": "account",
                "mode": "enforce",
                **dict(zip(columns, row, strict=True)),
            }
            for row in STANDARD
        ],
    )


def _customers() -> None:
    op.create_table(
        "customer",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("contact", sa.Text, nullable=False, server_default=""),
        sa.Column("billing", sa.Text, nullable=False, server_default="current"),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("closed_ns", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_customer"),
        sa.UniqueConstraint("name", name="uq_customer_name"),
        sa.CheckConstraint(BILLING, name=op.f("ck_customer_billing")),
    )
    op.create_table(
        "subscription",
        sa.Column("id", KEY, nullable=False),
        sa.Column("customer", KEY, sa.ForeignKey("customer.id", name="fk_subscription_customer"), nullable=False),
        sa.Column("plan", sa.Text, sa.ForeignKey("plan.name", name="fk_subscription_plan"), nullable=False),
        sa.Column("anchor_day", sa.Integer, nullable=False),
        sa.Column("paid_through", sa.Date),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("closed_ns", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_subscription"),
        sa.CheckConstraint("anchor_day BETWEEN 1 AND 31", name=op.f("ck_subscription_anchor_day")),
    )
    op.create_index("ix_subscription_customer", "subscription", ["customer"])
    op.create_table(
        "domain",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("customer", KEY, sa.ForeignKey("customer.id", name="fk_domain_customer"), nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("closed_ns", sa.BigInteger),
        sa.PrimaryKeyConstraint("name", name="pk_domain"),
    )
    op.create_index("ix_domain_customer", "domain", ["customer"])


def _accounts() -> None:
    op.create_table(
        "account",
        sa.Column("id", KEY, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("customer", KEY, sa.ForeignKey("customer.id", name="fk_account_customer"), nullable=False),
        sa.Column("domain", sa.Text, sa.ForeignKey("domain.name", name="fk_account_domain"), nullable=False),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, sa.ForeignKey("plan.name", name="fk_account_plan"), nullable=False),
        sa.Column("billing", sa.Text, nullable=False, server_default="current"),
        sa.Column("conduct", sa.Text, nullable=False, server_default="good"),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_account"),
        sa.UniqueConstraint("address", name="uq_account_address"),
        sa.CheckConstraint(BILLING, name=op.f("ck_account_billing")),
        sa.CheckConstraint(CONDUCT, name=op.f("ck_account_conduct")),
    )
    for column in ("customer", "domain", "plan"):
        op.create_index(f"ix_account_{column}", "account", [column])
    op.create_table(
        "alias",
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("account", KEY, sa.ForeignKey("account.id", name="fk_alias_account"), nullable=False),
        sa.PrimaryKeyConstraint("address", name="pk_alias"),
    )
    op.create_index("ix_alias_account", "alias", ["account"])
    op.create_table(
        "change",
        sa.Column("id", KEY, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("ref", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_change"),
        sqlite_autoincrement=True,
    )


def _evidence() -> None:
    op.create_table(
        "standing_change",
        sa.Column("id", KEY, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("ref", sa.Text, nullable=False),
        sa.Column("axis", sa.Text, nullable=False),
        sa.Column("from_state", sa.Text, nullable=False),
        sa.Column("to_state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("at_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_standing_change"),
    )
    op.create_index("ix_standing_change_subject_ref_id", "standing_change", ["subject", "ref", "id"])
    op.create_table(
        "counters_snapshot",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("at_ns", sa.BigInteger, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_counters_snapshot"),
        sa.CheckConstraint("id = 1", name=op.f("ck_counters_snapshot_single")),
    )


def _events() -> None:
    texts_before = ("session", "listener", "client_address", "client_network", "helo", "tls", "login")
    texts_after = ("reverse_path", "recipients", "verdict", "reason", "limit_name", "reply", "upstream")
    op.create_table(
        "transaction_event",
        sa.Column("id", KEY, nullable=False),
        sa.Column("at_ns", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in texts_before),
        sa.Column("account_id", sa.BigInteger),
        *(sa.Column(name, sa.Text, nullable=False) for name in texts_after),
        sa.Column("upstream_reply", sa.Text, nullable=False),
        sa.Column("queue_id", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("recipients_accepted", sa.Integer, nullable=False),
        sa.Column("timings", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_transaction_event"),
    )
    for columns in (["at_ns"], ["account_id", "at_ns"], ["client_address", "at_ns"]):
        op.create_index(f"ix_transaction_event_{'_'.join(columns)}", "transaction_event", columns)
    for columns, condition in (
        (["verdict", "at_ns"], "verdict <> 'accepted'"),
        (["reason", "at_ns"], "reason <> 'ok'"),
        (["queue_id"], "queue_id <> ''"),
    ):
        op.create_index(
            f"ix_transaction_event_{'_'.join(columns)}",
            "transaction_event",
            columns,
            sqlite_where=sa.text(condition),
            postgresql_where=sa.text(condition),
        )


def _triggers() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for table in APPEND_ONLY:
            for verb in ("UPDATE", "DELETE"):
                op.get_bind().exec_driver_sql(SQLITE_TRIGGER.format(table=table, verb=verb))
            op.get_bind().exec_driver_sql(SQLITE_REPLACE_TRIGGER.format(table=table))
        return
    op.get_bind().exec_driver_sql(POSTGRESQL_FUNCTION.replace("%", "%%"))
    for table in APPEND_ONLY:
        op.get_bind().exec_driver_sql(POSTGRESQL_TRIGGER.format(table=table))
