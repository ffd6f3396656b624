"""The event row: what is kept of one SMTP transaction. The envelope and what became of it; never content."""

from collections.abc import Mapping
from json import JSONEncoder
from typing import Any, NamedTuple

from smartmail import __version__

Recipient = tuple[str, int, str]
"""Address as sent, reply code the client got for it, reason (`core.policy.Reason` value)."""

SqlValue = str | int | None


class EventRow(NamedTuple):
    """One SMTP transaction, or an attempt at one (a refused login has no envelope).

    Made on the loop for each message, so nothing is converted here: JSON is written by the writer's
    thread. Do not change `recipients` or `timings` after the row was handed over. Texts are "" where there
    is nothing to say. Several hundred rows make one commit; the order of fields is the order of columns.
    """

    at_ns: int
    """When the transaction began."""
    session: str
    listener: str
    client_address: str
    client_network: str = ""
    """The network that limits by client count under, where it is not the address itself (IPv6 /64)."""
    helo: str = ""
    tls: str = ""
    """Version and cipher, as "TLSv1.3 TLS_AES_256_GCM_SHA384"."""
    login: str = ""
    account_id: int | None = None
    reverse_path: str = ""
    recipients: list[Recipient] | tuple[Recipient, ...] = ()
    verdict: str = ""
    """`core.policy.Verdict` value."""
    reason: str = ""
    """`core.policy.Reason` value."""
    limit_name: str = ""
    reply: str = ""
    """What the client got at last."""
    upstream: str = ""
    upstream_reply: str = ""
    queue_id: str = ""
    size: int = 0
    """Octets of content that went upstream."""
    recipients_accepted: int = 0
    timings: Mapping[str, int] = {}
    """Microseconds by stage."""
    version: str = __version__

    def line(self) -> dict[str, str | int]:
        """What an operator's log line says of it; addresses with their reply codes, no empty fields."""
        said: dict[str, str | int] = {
            "verdict": self.verdict,
            "reason": self.reason,
            "session": self.session,
            "listener": self.listener,
            "client": self.client_address,
            "login": self.login,
            "from": f"<{self.reverse_path}>",
            "to": " ".join(f"<{address}>={code}" for address, code, _ in self.recipients),
            "limit": self.limit_name,
            "size": self.size,
            "reply": self.reply,
            "upstream": self.upstream,
            "upstream_reply": "" if self.upstream_reply == self.reply else self.upstream_reply,
            "queue_id": self.queue_id,
            "microseconds": sum(self.timings.values()),
        }
        return {key: value for key, value in said.items() if value != ""}


COLUMNS = EventRow._fields
"""The columns of `transaction_event`, less its id, in the order of the row."""

_RECIPIENTS = COLUMNS.index("recipients")
_TIMINGS = COLUMNS.index("timings")
_json = JSONEncoder(separators=(",", ":"), ensure_ascii=True, check_circular=False).encode


def encode(row: EventRow) -> tuple[SqlValue, ...]:
    """The row as the database takes it: recipients and timings as JSON text. Raises TypeError, ValueError."""
    values: list[Any] = list(row)
    values[_RECIPIENTS] = _json(row.recipients)
    values[_TIMINGS] = _json(row.timings)
    return tuple(values)


def clean(values: tuple[SqlValue, ...]) -> tuple[SqlValue, ...]:
    """The same with every octet that is no UTF-8 (kept as a lone surrogate by the SMTP parsers) written as
    "\\xNN"."""
    return tuple(clean_text(value) if isinstance(value, str) else value for value in values)


def clean_text(text: str) -> str:
    """One text of `clean`."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that no octet stands behind
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
