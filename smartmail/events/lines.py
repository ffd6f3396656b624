"""One line of the operator's log: what may stand in it, and how it is written.

Nothing that came from outside can forge a line, move the cursor or hide text: all that is not printable is
escaped. Octets never get in: mail content is `bytes` everywhere in this product, so a slip shows a count,
not a letter.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from time import time
from types import TracebackType

Field = str | int | float | bytes | Sequence[str] | None
"""What a field may be. "", None and empty lists are left out of the line."""

MAX_VALUE = 512
"""Characters of one value; an address has 320 at most (RFC 5321 section 4.5.3.1), a reply may have more."""
MAX_ITEMS = 10
"""Items of a list that are written; the rest is counted."""
MAX_FRAMES = 8

_AMBIGUOUS = re.compile('[ "=]').search
_encode = json.JSONEncoder(ensure_ascii=False).encode


_BLANK = vars(logging.LogRecord("smartmail", logging.INFO, "", 0, "", None, None)) | {"threadName": "", "thread": 0}


class EventRecord(logging.LogRecord):
    """A line to be written: its event, its fixed text, its fields.

    The base class looks up thread, process and caller for each record, which would cost the loop more than all
    the rest of a line; here they are blank.
    """

    def __init__(self, level: int, event: str, text: str, fields: Mapping[str, Field]) -> None:
        self.__dict__.update(_BLANK)
        self.created = time()
        self.levelno = level
        self.levelname = logging.getLevelName(level)
        self.msg = text
        self.event = event
        self.fields = fields


def safe(text: str) -> str:
    """The text with everything unprintable escaped, cut to MAX_VALUE.

    Unprintable are controls (C0, DEL, C1), line and paragraph separators, bidirectional overrides, lone
    surrogates.
    """
    if len(text) > MAX_VALUE:
        text = f"{text[:MAX_VALUE]}..."
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _plain(value: Field) -> str | int | float | list[str]:
    if isinstance(value, str):
        return value if len(value) <= MAX_VALUE and value.isprintable() else safe(value)
    if isinstance(value, int | float):
        return value
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"<{len(value)} octets>"
    items = [str(_plain(item)) for item in value[:MAX_ITEMS]]
    return [*items, f"and {len(value) - MAX_ITEMS} more"] if len(value) > MAX_ITEMS else items


def _plain_fields(record: EventRecord) -> Iterator[tuple[str, str | int | float | list[str]]]:
    for key, value in record.fields.items():
        plain = _plain(value)
        if plain or not isinstance(plain, str | list):
            yield key, plain


@lru_cache(maxsize=4)
def _second(moment: int) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%S}"


def _time(record: EventRecord) -> str:
    second, millisecond = divmod(int(record.created * 1000), 1000)
    return f"{_second(second)}.{millisecond:03}Z"


def json_line(record: EventRecord) -> str:
    """One JSON object: time, level, event, message, then the fields."""
    written: dict[str, object] = {
        "time": _time(record),
        "level": record.levelname.lower(),
        "event": record.event,
        "message": record.msg,
    }
    for key, value in _plain_fields(record):
        written.setdefault(key, value)
    return _encode(written)


def console_line(record: EventRecord) -> str:
    """`TIME LEVEL event: text key=value key="a value"`."""
    words = "".join([f" {key}={_quoted(value)}" for key, value in _plain_fields(record)])
    return f"{_time(record)} {record.levelname:<7} {record.event}: {record.msg}{words}"


def _quoted(value: str | int | float | list[str]) -> str:
    if isinstance(value, list):
        value = ",".join(value)
    if not isinstance(value, str):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if _AMBIGUOUS(value):
        return '"' + value.replace('"', '\\"') + '"'
    return value


def fault(error: BaseException) -> dict[str, Field]:
    """An exception as fields: its type, where it rose, and what made it.

    Never its text, which may repeat what a mail said; only the system's own words on a failed system call.
    """
    fields: dict[str, Field] = {"error": _type_name(error), "at": _frames(error.__traceback__)}
    cause = error.__cause__ or error.__context__
    if cause is not None:
        fields["cause"] = _type_name(cause)
    if isinstance(error, OSError):
        fields["system"] = error.strerror
    return fields


def from_library(record: logging.LogRecord) -> EventRecord:
    """A record of somebody else's logger. With an exception its text is left out, for the reason in
    `fault`."""
    fields: dict[str, Field] = {"logger": record.name}
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        fields |= fault(error)
    else:
        fields["text"] = record.getMessage().partition("\n")[0]
    made = EventRecord(record.levelno, "library", "a library says", fields)
    made.created = record.created
    return made


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _frames(trace: TracebackType | None) -> str:
    """The innermost frames, innermost first: "relay/session.py:120 _on_mail < ...". Reads no source file."""
    frames: list[str] = []
    while trace is not None:
        code = trace.tb_frame.f_code
        path = code.co_filename.rpartition("/smartmail/")[2]
        name = path.rpartition("/")[2] if path.startswith("/") else path
        frames.append(f"{name}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return " < ".join(frames[: -MAX_FRAMES - 1 : -1])
