"""The tables, as SQLAlchemy Core knows them. Times are integers, nanoseconds since the epoch; JSON is text.

The migrations make the same tables step by step; a test compares the two. Append-only triggers live in the
migrations, one text for each dialect.
"""

from collections.abc import Sequence
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    text,
)

from smartmail.core.limits import Mode, Scope, Unit
from smartmail.core.standing import Billing, Conduct

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

KEY = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only in a column of exactly the type INTEGER."""

APPEND_ONLY = ("standing_change", "transaction_event")
"""Evidence: rows are added, never changed, never taken away."""


def one_of(column: str, words: Sequence[StrEnum]) -> CheckConstraint:
    """The column holds one of these words."""
    listed = ", ".join(f"'{word.value}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


plan = Table(
    "plan",
    metadata,
    Column("name", Text, primary_key=True),
    Column("description", Text, nullable=False, server_default=""),
)

plan_limit = Table(
    "plan_limit",
    metadata,
    Column("plan", Text, ForeignKey("plan.name"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("scope", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("quota", BigInteger, nullable=False),
    Column("period", BigInteger, nullable=False),
    Column("burst", BigInteger, nullable=False, server_default="0"),
    Column("mode", Text, nullable=False, server_default=Mode.ENFORCE.value),
    one_of("scope", list(Scope)),
    one_of("unit", list(Unit)),
    one_of("mode", list(Mode)),
    CheckConstraint("quota >= 0 AND period > 0 AND burst >= 0", name="range"),
)

customer = Table(
    "customer",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("contact", Text, nullable=False, server_default=""),
    Column("billing", Text, nullable=False, server_default=Billing.CURRENT.value),
    Column("created_ns", BigInteger, nullable=False),
    Column("closed_ns", BigInteger),
    one_of("billing", list(Billing)),
)

subscription = Table(
    "subscription",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("customer", KEY, ForeignKey("customer.id"), nullable=False, index=True),
    Column("plan", Text, ForeignKey("plan.name"), nullable=False),
    Column("anchor_day", Integer, nullable=False),
    Column("paid_through", Date),
    Column("created_ns", BigInteger, nullable=False),
    Column("closed_ns", BigInteger),
    Column("trial_until", Date),
    Column("closed_for", Text, nullable=False, server_default=""),
    CheckConstraint("anchor_day BETWEEN 1 AND 31", name="anchor_day"),
)
"""closed_for: "" while it is open, then "ended" or "abuse"."""

domain = Table(
    "domain",
    metadata,
    Column("name", Text, primary_key=True),
    Column("customer", KEY, ForeignKey("customer.id"), nullable=False, index=True),
    Column("created_ns", BigInteger, nullable=False),
    Column("closed_ns", BigInteger),
)

account = Table(
    "account",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("address", Text, nullable=False, unique=True),
    Column("customer", KEY, ForeignKey("customer.id"), nullable=False, index=True),
    Column("domain", Text, ForeignKey("domain.name"), nullable=False, index=True),
    Column("password_hash", Text, nullable=False),
    Column("plan", Text, ForeignKey("plan.name"), nullable=False, index=True),
    Column("billing", Text, nullable=False, server_default=Billing.CURRENT.value),
    Column("conduct", Text, nullable=False, server_default=Conduct.GOOD.value),
    Column("created_ns", BigInteger, nullable=False),
    one_of("billing", list(Billing)),
    one_of("conduct", list(Conduct)),
)

alias = Table(
    "alias",
    metadata,
    Column("address", Text, primary_key=True),
    Column("account", KEY, ForeignKey("account.id"), nullable=False, index=True),
)

standing_change = Table(
    "standing_change",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("subject", Text, nullable=False),
    Column("ref", Text, nullable=False),
    Column("axis", Text, nullable=False),
    Column("from_state", Text, nullable=False),
    Column("to_state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("who", Text, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Index(None, "subject", "ref", "id"),
)
"""subject and ref: "account" and its id, "customer" and its id, "domain" and its name. axis: billing or
conduct."""

change = Table(
    "change",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("ref", Text, nullable=False),
    sqlite_autoincrement=True,
)
"""One row for each mutation the directory must hear of. Old rows go; a watch that misses some loads
everything."""

NOT_ACCEPTED, NOT_OK, QUEUED = "verdict <> 'accepted'", "reason <> 'ok'", "queue_id <> ''"
"""What the partial indices hold: the few rows that anybody looks for. A query must say the same words to use them."""

transaction_event = Table(
    "transaction_event",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("at_ns", BigInteger, nullable=False),
    Column("session", Text, nullable=False),
    Column("listener", Text, nullable=False),
    Column("client_address", Text, nullable=False),
    Column("client_network", Text, nullable=False),
    Column("helo", Text, nullable=False),
    Column("tls", Text, nullable=False),
    Column("login", Text, nullable=False),
    Column("account_id", BigInteger),
    Column("reverse_path", Text, nullable=False),
    Column("recipients", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("limit_name", Text, nullable=False),
    Column("reply", Text, nullable=False),
    Column("upstream", Text, nullable=False),
    Column("upstream_reply", Text, nullable=False),
    Column("queue_id", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("recipients_accepted", Integer, nullable=False),
    Column("timings", Text, nullable=False),
    Column("version", Text, nullable=False),
    Index(None, "at_ns"),
    Index(None, "account_id", "at_ns"),
    Index(None, "client_address", "at_ns"),
    Index(None, "verdict", "at_ns", sqlite_where=text(NOT_ACCEPTED), postgresql_where=text(NOT_ACCEPTED)),
    Index(None, "reason", "at_ns", sqlite_where=text(NOT_OK), postgresql_where=text(NOT_OK)),
    Index(None, "queue_id", sqlite_where=text(QUEUED), postgresql_where=text(QUEUED)),
)
"""One row for each SMTP transaction: the envelope and what became of it, never content. No foreign keys:
evidence outlives what it speaks of."""

counters_snapshot = Table(
    "counters_snapshot",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    CheckConstraint("id = 1", name="single"),
)
