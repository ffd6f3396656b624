"""The operator's log: every line there is, one function each, with fixed wording.

lines.py  what a line looks like, and what cannot get into it
sink.py   the queue and the thread that writes

Addresses may stand in a log, content never. Nothing here blocks. Before `configure` the lines go wherever
Python's logging sends them: the command line and tests need no set-up.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from io import FileIO
from typing import Literal

from smartmail.events.lines import EventRecord, Field, console_line, fault, json_line, safe
from smartmail.events.sink import CAPACITY, Sink

__all__ = ["CAPACITY", "EventRecord", "Field", "Sink", "configure", "safe"]

_LOG = logging.getLogger("smartmail")
_STANDARD_ERROR = 2

_VERDICTS: Mapping[str, str] = {
    "accepted": "mail accepted",
    "deferred": "mail deferred",
    "rejected": "mail rejected",
    "aborted": "mail aborted",
    "ambiguous": "mail handed over, but the upstream never said so",
}


def configure(
    *,
    style: Literal["console", "json"] = "console",
    level: Literal["debug", "info", "warning", "error"] = "info",
    stream: FileIO | None = None,
    capacity: int = CAPACITY,
) -> Sink:
    """Send the log to `stream` (raw; default: standard error), in place of where it went before.

    Returns the sink: `close` it at the end. Libraries are heard from warning upwards, whatever `level` says:
    below that some of them log what passes through them.
    """
    stream = stream or FileIO(_STANDARD_ERROR, "w", closefd=False)
    sink = Sink(stream, json_line if style == "json" else console_line, capacity=capacity)
    root = logging.getLogger()
    for former in [handler for handler in root.handlers if isinstance(handler, Sink)]:
        root.removeHandler(former)
        former.close()
    root.addHandler(sink)
    root.setLevel(logging.WARNING)
    _LOG.setLevel(level.upper())
    return sink


def _emit(level: int, event: str, text: str, fields: Mapping[str, Field]) -> None:
    if _LOG.isEnabledFor(level):
        _LOG.handle(EventRecord(level, event, text, fields))


# The process


def started(*, version: str, pid: int, config: str) -> None:
    """The process is up. config: the file, or "embedded default"."""
    _emit(logging.INFO, "started", "smartmail is starting", {"version": version, "pid": pid, "config": config})


def listening(*, name: str, role: str, address: str, tls: str = "") -> None:
    """A socket is open. name: the listener's, or "metrics", "maildrop". address: as bound, with the real
    port."""
    _emit(logging.INFO, "listening", "listening", {"name": name, "role": role, "address": address, "tls": tls})


def ready(*, listeners: int) -> None:
    """Every socket is open: mail is taken from now on."""
    _emit(logging.INFO, "ready", "smartmail is ready", {"listeners": listeners})


def accept_failed(*, name: str, reason: str) -> None:
    """A listener could not take a connection: too many open files, mostly."""
    _emit(logging.ERROR, "accept_failed", "connection not taken", {"name": name, "reason": reason})


def draining(*, sessions: int, transactions: int, seconds: int) -> None:
    """No new sessions; running transactions have `seconds` to finish."""
    fields: dict[str, Field] = {"sessions": sessions, "transactions": transactions, "seconds": seconds}
    _emit(logging.INFO, "draining", "stopping: transactions may finish", fields)


def stopped(*, seconds: int = 0, cut: int = 0) -> None:
    """The process ends. seconds: how long it ran. cut: transactions that did not finish in time."""
    _emit(logging.INFO, "stopped", "smartmail has stopped", {"ran_seconds": seconds, "transactions_cut": cut})


def config_reloaded(*, config: str, changed: Sequence[str] = (), needs_restart: Sequence[str] = ()) -> None:
    """A new configuration counts from now on. changed, needs_restart: key paths."""
    fields: dict[str, Field] = {"config": config, "changed": changed, "needs_restart": needs_restart}
    _emit(logging.INFO, "config_reloaded", "configuration reloaded", fields)


def config_refused(*, config: str, problems: Sequence[str]) -> None:
    """A new configuration is wrong, the old one stays. One line for each problem."""
    for problem in problems:
        fields: dict[str, Field] = {"config": config, "problem": problem}
        _emit(logging.ERROR, "config_refused", "configuration refused, the old one stays in force", fields)


def tls_reloaded(*, certificate: str, names: Sequence[str] = (), expires: str = "") -> None:
    """A certificate counts for new handshakes from now on."""
    fields: dict[str, Field] = {"certificate": certificate, "names": names, "expires": expires}
    _emit(logging.INFO, "tls_reloaded", "certificate loaded", fields)


# The upstream


def upstream_up(*, address: str) -> None:
    """The upstream answers (again)."""
    _emit(logging.INFO, "upstream_up", "upstream is up", {"address": address})


def upstream_down(*, address: str, reason: str) -> None:
    """The upstream cannot be used; mail is deferred meanwhile."""
    _emit(logging.WARNING, "upstream_down", "upstream is down", {"address": address, "reason": reason})


def upstream_capabilities(*, address: str, capabilities: Sequence[str], identity: str = "") -> None:
    """What the upstream offers: at the first connection, and when it changes. identity: what is used of
    it."""
    words = " ".join(capabilities)
    fields: dict[str, Field] = {"address": address, "capabilities": words, "identity": identity}
    _emit(logging.INFO, "upstream_capabilities", "upstream offers", fields)


def upstream_refuses_identity(*, address: str, reply: str) -> None:
    """It offers XCLIENT and does not take it from us: it is told of clients by XFORWARD, or not at all."""
    fields: dict[str, Field] = {"address": address, "reply": reply}
    _emit(logging.WARNING, "upstream_refuses_identity", "upstream refuses XCLIENT, XFORWARD is used if offered", fields)


def auth_backend_up(*, socket: str) -> None:
    """Dovecot's authentication socket answers (again)."""
    _emit(logging.INFO, "auth_backend_up", "authentication backend is up", {"socket": socket})


def auth_backend_down(*, socket: str, reason: str) -> None:
    """Dovecot's authentication socket is gone: nobody can log in to send but who did a short while ago."""
    fields: dict[str, Field] = {"socket": socket, "reason": reason}
    _emit(logging.WARNING, "auth_backend_down", "authentication backend is down", fields)


# Clients


def login_failed(*, client: str, login: str = "", why: str = "", session: str = "", listener: str = "") -> None:
    """Wrong password, or no such login: the line that fail2ban and the like look for."""
    fields: dict[str, Field] = {
        "client": client,
        "login": login,
        "why": why,
        "session": session,
        "listener": listener,
    }
    _emit(logging.INFO, "login_failed", "login failed", fields)


def login_refused(*, client: str, login: str, reason: str, session: str = "") -> None:
    """The password was right, the account may not: unpaid, closed, too many sessions."""
    fields: dict[str, Field] = {"client": client, "login": login, "reason": reason, "session": session}
    _emit(logging.INFO, "login_refused", "login refused", fields)


def session_refused(*, client: str, listener: str, reason: str, session: str = "") -> None:
    """A connection was turned away, or cut for what it did."""
    fields: dict[str, Field] = {"client": client, "listener": listener, "reason": reason, "session": session}
    _emit(logging.INFO, "session_refused", "session refused", fields)


def transaction(fields: Mapping[str, Field]) -> None:
    """One mail came to its end. `fields` as in its event row: verdict, reason, envelope, reply, times; no
    content.

    The mapping is read later, by the writer: it must not be changed any more.
    """
    verdict = str(fields.get("verdict", ""))
    level = logging.WARNING if verdict == "ambiguous" else logging.INFO
    if _LOG.isEnabledFor(level):
        _LOG.handle(EventRecord(level, "transaction", _VERDICTS.get(verdict, "mail"), fields))


# Trouble of our own


def internal_error(reference: str, error: BaseException, *, session: str = "", client: str = "") -> None:
    """A fault of ours, answered 451 4.3.0. reference: what the client was told."""
    fields: dict[str, Field] = {"reference": reference, "session": session, "client": client, **fault(error)}
    _emit(logging.ERROR, "internal_error", "a fault of ours", fields)


def loop_fault(_loop: asyncio.AbstractEventLoop, context: Mapping[str, object]) -> None:
    """An exception that nobody caught, for `loop.set_exception_handler`. asyncio's own line would print the
    arguments of the callback, which may be content."""
    error = context.get("exception")
    fields = fault(error) if isinstance(error, BaseException) else {}
    _emit(logging.ERROR, "loop_fault", "a fault of ours that nothing caught", fields)


def store_trouble(*, error: str, waiting_rows: int = 0) -> None:
    """The database cannot be read or written; rows wait in memory, the accounts read last stay in force."""
    fields: dict[str, Field] = {"error": error, "waiting_rows": waiting_rows}
    _emit(logging.ERROR, "store_trouble", "the database cannot be used", fields)


def store_recovered(*, seconds: int = 0) -> None:
    """The database takes rows again. seconds: how long it did not."""
    _emit(logging.WARNING, "store_recovered", "the database can be used again", {"after_seconds": seconds})


def event_rows_dropped(*, count: int, total: int = 0) -> None:
    """Event rows were lost: too many waited. count: since the last such line. total: since the start."""
    fields: dict[str, Field] = {"count": count, "total": total}
    _emit(logging.ERROR, "event_rows_dropped", "event rows were lost", fields)
