"""Who was erased, and is not to come back by a restore.

A tombstone names an address or a domain. Copies that refuse deletion still hold what it speaks of until they expire, so
every later restore looks here first. Somebody may get the same address later: what was backed up after the tombstone is
theirs. Times are milliseconds since the epoch.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from smartmail.core.address import AddressError, normalise, normalise_domain


class ErasureError(ValueError):
    """Nobody is meant by this; the message says why."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """subject: as `subject_of` makes it. why, by: for people. expires_ms: by when the last copy that refuses deletion
    has expired; None: nobody knows."""

    id: int
    subject: str
    why: str
    by: str
    at_ms: int
    expires_ms: int | None

    def outlived(self, now_ms: int) -> bool:
        """Has every copy expired by now?"""
        return self.expires_ms is not None and self.expires_ms <= now_ms


def subject_of(text: str) -> str:
    """Whom an operator means, in normal form: "user@domain", or "@domain" for all of it (without its subdomains).
    Raises ErasureError."""
    text = text.strip()
    try:
        return f"@{normalise_domain(text[1:])}" if text.startswith("@") else normalise(text)
    except AddressError:
        raise ErasureError(f"{text!r} is neither an address nor @domain: name one or the other") from None


def erased(address: str, tombstones: Iterable[Tombstone], made_ms: int | None = None) -> Tombstone | None:
    """The newest tombstone that keeps this mailbox from being restored; None if it may be. made_ms: when the snapshot
    was made that it is to be restored from; None: whenever."""
    key = _key(address)
    subjects = (key, f"@{key.rpartition('@')[2]}")
    found = [one for one in tombstones if one.subject in subjects and (made_ms is None or made_ms <= one.at_ms)]
    return max(found, key=lambda one: (one.at_ms, one.id), default=None)


def _key(address: str) -> str:
    """A mailbox's folder may bear a name that is no address: it is compared as it is."""
    try:
        return normalise(address)
    except AddressError:
        return address.strip().lower()
