"""SMTP replies: reply code, enhanced status code, text; rendered, and parsed from an upstream.

RFC 5321 section 4.2 (reply syntax), RFC 3463 (enhanced status codes), RFC 2034 (their place in the text).
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache

MAX_REPLY_LINE = 4096
"""Octets of one upstream reply line, CRLF included. RFC 5321 4.5.3.1.5 asks for 512; long texts exceed it."""
MAX_REPLY_SIZE = 65536
"""Octets of one whole upstream reply: a large EHLO answer has about 1,000."""

MAX_REMEMBERED = 512
"""Octets of replies that are kept to be known again."""

_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |\Z)")
_LINE = re.compile(rb"([2-5][0-9]{2})([ -]?)([\t\x20-\x7e\x80-\xff]*)")
# A whole reply of one line. The enhanced code is of the reply's own class, or it is text.
_ONE_LINE = re.compile(
    rb"(([245])[0-9]{2}|3[0-9]{2})(?: (?:(\2\.[0-9]{1,3}\.[0-9]{1,3})(?: |(?=\r)))?+([\t\x20-\x7e\x80-\xff]*+))?+\r\n"
)


class ReplyError(ValueError):
    """An upstream sent something that is no SMTP reply; the connection is beyond use.

    replies: those that came whole before it in the same feed. They were said and they count.
    """

    def __init__(self, problem: str, replies: "tuple[Reply, ...]" = ()) -> None:
        super().__init__(problem)
        self.replies = replies


# Never changed once made, but not `frozen`: that would make it cost as much as reading it, several times a mail.
@dataclass(slots=True, unsafe_hash=True)
class Reply:
    """One SMTP reply.

    code: 200-599. enhanced: "5.7.1", or "" where the reply has none. lines: texts without either code. wire: the
    reply as an upstream sent it, or as it was rendered before; b"" if it was neither.
    """

    code: int
    lines: tuple[str, ...]
    enhanced: str = ""
    wire: bytes = field(default=b"", compare=False, repr=False)

    @property
    def positive(self) -> bool:
        """2xx: done as asked."""
        return self.code < 300

    @property
    def transient(self) -> bool:
        """4xx: the client may try again later."""
        return 400 <= self.code < 500

    @property
    def text(self) -> str:
        """The texts on one line, as a log or an event row wants them."""
        lines = self.lines
        return lines[0] if len(lines) == 1 else " ".join(lines)

    def render(self) -> bytes:
        """The reply as it goes on the wire, CRLF included, codes repeated on each line (RFC 2034 section 4)."""
        if self.wire:
            return self.wire
        lead = f"{self.enhanced} " if self.enhanced else ""
        if len(self.lines) == 1:
            return f"{self.code} {lead}{self.lines[0]}\r\n".encode("utf-8", "surrogateescape")
        *early, last = self.lines or ("",)
        head = "".join(f"{self.code}-{lead}{line}\r\n" for line in early)
        return f"{head}{self.code} {lead}{last}\r\n".encode("utf-8", "surrogateescape")

    def __str__(self) -> str:
        if len(self.lines) == 1 and self.enhanced and self.lines[0]:
            return f"{self.code} {self.enhanced} {self.lines[0]}"
        return " ".join(part for part in (str(self.code), self.enhanced, self.text) if part)


def reply(code: int, enhanced: str, *lines: str) -> Reply:
    """Shorthand of this package's own reply tables."""
    return Reply(code, lines, enhanced, Reply(code, lines, enhanced).render())


class ReplyParser:
    """Upstream bytes in, whole replies out. Keeps at most MAX_REPLY_SIZE octets."""

    __slots__ = ("_buffer", "_code", "_size", "_texts")

    def __init__(self) -> None:
        self._buffer = b""
        self._texts: list[bytes] = []
        self._code = b""
        self._size = 0

    @property
    def idle(self) -> bool:
        """True when no part of a reply is held back."""
        return not self._buffer and not self._texts

    def feed(self, data: bytes) -> list[Reply]:
        """Take bytes as they came; return the replies that are now whole, in order.

        Raises ReplyError for a line that is no reply, a code that changes within a reply, a bare CR or LF,
        a control character, or a size above the bounds.
        """
        at_start = not self._buffer and not self._texts
        if at_start and len(data) <= MAX_REMEMBERED and (known := _usual(data)) is not None:
            return list(known)
        replies: list[Reply] = []
        try:
            self._feed(data, replies)
        except ReplyError as error:
            error.replies = tuple(replies)
            raise
        return replies

    def _feed(self, data: bytes, replies: list[Reply]) -> None:
        buffer = self._buffer + data if self._buffer else data
        start = 0
        while (end := buffer.find(b"\r\n", start)) >= 0:
            if end + 2 - start > MAX_REPLY_LINE:
                raise ReplyError("reply line too long")
            if done := self._line(buffer[start:end]):
                replies.append(done)
            start = end + 2
        self._buffer = buffer[start:]
        if len(self._buffer) > MAX_REPLY_LINE:
            raise ReplyError("reply line too long")

    def _line(self, line: bytes) -> Reply | None:
        match = _LINE.fullmatch(line)
        if match is None:
            raise ReplyError(f"not a reply line: {line[:80]!r}")
        code, more, text = match.groups()
        if not more and text:
            raise ReplyError(f"not a reply line: {line[:80]!r}")
        if self._texts and code != self._code:
            raise ReplyError(f"reply code changes from {self._code!r} to {code!r}")
        self._size += len(line) + 2
        if self._size > MAX_REPLY_SIZE:
            raise ReplyError("reply too large")
        self._code = code
        self._texts.append(text)
        if more == b"-":
            return None
        texts, self._texts, self._size = self._texts, [], 0
        return _assemble(int(code), [text.decode("utf-8", "surrogateescape") for text in texts])


@lru_cache(maxsize=256)
def _usual(data: bytes) -> tuple[Reply, ...] | None:
    """Whole replies of one line each, or None. Kept: a mail server says the same to most MAIL, RCPT and DATA."""
    replies, at = [], 0
    while (found := _ONE_LINE.match(data, at)) is not None:
        code, _, enhanced, text = found.groups(b"")
        lines = (text.decode("utf-8", "surrogateescape"),)
        replies.append(Reply(int(code), lines, enhanced.decode("ascii"), found[0]))
        at = found.end()
    return tuple(replies) if at == len(data) else None


def _assemble(code: int, texts: list[str]) -> Reply:
    """Split off the enhanced status code if every line carries the same one of the reply's own class."""
    found = _ENHANCED.match(texts[0])
    if found is None or found[1][0] != str(code)[0]:
        return Reply(code, tuple(texts))
    lead = found[1]
    if not all(text == lead or text.startswith(f"{lead} ") for text in texts):
        return Reply(code, tuple(texts))
    return Reply(code, tuple(text[len(lead) + 1 :] for text in texts), lead)
