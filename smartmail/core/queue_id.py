"""The queue id in an upstream's reply to the dot, so that a mail can be followed into its log."""

import re
from typing import Final

_FORMS: Final = re.compile(r"(?:queued as |\bid=|\bqp |^<[^<> ]*@[^<> ]*> |^<)([0-9A-Za-z][0-9A-Za-z.+=_-]{3,63})")
"""Postfix, aiosmtpd: "queued as 4XyZ12"; Exim: "OK id=1tBqFv-0001-2w"; qmail: "qp 12345"; Dovecot: "<to> id Saved"."""


def read_queue_id(text: str) -> str:
    """Return the id that a positive reply's text names, or ""."""
    found = _FORMS.search(text)
    return found[1] if found else ""
