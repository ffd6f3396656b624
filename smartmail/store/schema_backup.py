"""The tables of the backup: its catalogue, leases and tombstones. Times ending in _ms are milliseconds since the epoch.

As in `schema`: the migrations make the same tables, and the triggers.
"""

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, Table, Text

from smartmail.store.schema import KEY, metadata

APPEND_ONLY = ("backup_tombstone",)

backup_record = Table(
    "backup_record",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("activity", Text, nullable=False),
    Column("job", Text, nullable=False),
    Column("repository", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("facts", Text, nullable=False, server_default="{}"),
    CheckConstraint("(ended_ms IS NULL) = (state = 'started')", name="end"),
    Index(None, "activity", "job", "id"),
    Index(None, "repository", "id"),
    Index(None, "run"),
    Index(None, "activity", "repository", "job", "id"),
    Index(None, "activity", "state", "reason"),
)
"""What the backup did. A row is ended once, and never changes after that; none is ever taken away."""

backup_lease = Table(
    "backup_lease",
    metadata,
    Column("repository", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("changed_ms", BigInteger, nullable=False),
)
"""Who works on a repository now. changed_ms: for people; nothing is decided by it."""

backup_tombstone = Table(
    "backup_tombstone",
    metadata,
    Column("id", KEY, primary_key=True),
    Column("subject", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Index(None, "subject"),
)
