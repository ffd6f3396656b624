"""The tables of the monitor: rosters and agents, samples, maintenance, months, the ledger. See schema.py.

Times: *_ms are milliseconds since the epoch, minutes are POSIX seconds // 60, days POSIX seconds // 86400.
"""

from sqlalchemy import BigInteger, CheckConstraint, Column, Date, ForeignKey, Index, Integer, LargeBinary, Table, Text

from smartmail.store.schema import KEY, metadata

APPEND_ONLY = (
    "roster_version",
    "terms_version",
    "maintenance_entry",
    "sla_revision",
    "ledger_entry",
    "sample_quarantine",
    "sample_conflict",
)

roster_version = Table(
    "roster_version",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("from_minute", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)
"""Who looked at what from a minute on. id: the roster's version."""

terms_version = Table(
    "terms_version",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("version", Text, nullable=False, unique=True),
    Column("effective", Date, nullable=False),
    Column("body", Text, nullable=False),
    Column("recorded_ms", BigInteger, nullable=False),
)

enrolment_token = Table(
    "enrolment_token",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("digest", Text, nullable=False, unique=True),
    Column("location", Text, nullable=False),
    Column("made_ms", BigInteger, nullable=False),
    Column("made_by", Text, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("used_ms", BigInteger),
)
"""digest: of the token, which is told once and kept nowhere."""

agent = Table(
    "agent",
    metadata,
    Column("name", Text, primary_key=True),
    Column("location", Text, nullable=False),
    Column("public_key", Text, nullable=False),
    Column("enrolled_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger),
    Column("last_seen_ms", BigInteger),
    Column("offset_ms", BigInteger),
)

sample_batch = Table(
    "sample_batch",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("agent", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("samples", Integer, nullable=False),
    Column("octets", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)
"""The journal: what agents handed in, until it is sealed into segments."""

sample_segment = Table(
    "sample_segment",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("location", Text, nullable=False),
    Column("check_name", Text, nullable=False),
    Column("day", Integer, nullable=False),
    Column("samples", Integer, nullable=False),
    Column("octets", LargeBinary, nullable=False),
    Index(None, "day", "location", "check_name", unique=True),
)
"""A day of one check seen from one location, every sample of it, compressed."""

sample_summary = Table(
    "sample_summary",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("location", Text, nullable=False),
    Column("check_name", Text, nullable=False),
    Column("day", Integer, nullable=False),
    Column("samples", Integer, nullable=False),
    Column("octets", LargeBinary, nullable=False),
    Index(None, "day", "location", "check_name", unique=True),
)
"""What stays of a segment when its months are closed: each minute's outcome, failures' details, latencies by hour."""

sample_quarantine = Table(
    "sample_quarantine",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("agent", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("check_name", Text, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("outcome", Integer, nullable=False),
    Column("latency_ms", Integer, nullable=False),
    Index(None, "check_name", "started_ms"),
)

sample_conflict = Table(
    "sample_conflict",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("agent", Text, nullable=False),
    Column("location", Text, nullable=False),
    Column("check_name", Text, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("kept", Text, nullable=False),
    Column("refused", Text, nullable=False),
    Index(None, "check_name", "started_ms"),
)

maintenance_entry = Table(
    "maintenance_entry",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("window", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("from_minute", BigInteger, nullable=False),
    Column("until_minute", BigInteger, nullable=False),
    Column("recorded_ms", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("text", Text, nullable=False),
    Index(None, "window"),
)

sla_revision = Table(
    "sla_revision",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("service", Text, nullable=False),
    Column("month", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("closed_ms", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("record_digest", Text, nullable=False),
    Column("record", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("credited", Integer, nullable=False),
    Index(None, "service", "month", "number", unique=True),
)
"""A closed month, for ever; a restatement is the next number. credited: 1 where it grants a credit month."""

ledger_entry = Table(
    "ledger_entry",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("key", Text, nullable=False, unique=True),
    Column("actor", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("prev", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Index(None, "subject"),
)
"""id: the place in the chain, without gaps. key: what may happen once only."""

residence = Table(
    "residence",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("subscription", KEY, ForeignKey("subscription.id"), nullable=False, index=True),
    Column("service", Text, nullable=False),
    Column("from_minute", BigInteger, nullable=False),
    Column("until_minute", BigInteger),
    CheckConstraint("until_minute IS NULL OR until_minute >= from_minute", name="order"),
)
"""Which service a subscription lived on, and when."""
