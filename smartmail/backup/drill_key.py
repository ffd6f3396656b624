"""The drill's reports, signed: an Ed25519 key that is made at first use, and the check of a signed report.

Whoever verifies needs no key of ours but the public one, which `drill.pub` of the state folder holds: keep a copy of it
elsewhere, else a report is only as trustworthy as the machine that it is on.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smartmail.core import signing
from smartmail.core.canonical import canonical
from smartmail.core.drill_report import DrillReport, ReportError, envelope, read_envelope, signed_text

MOST_OCTETS: Final = 64 << 20
"""Of a report's file that is read at all."""


class KeyUnusable(Exception):
    """The drill's key cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What is in a published report. problems: what is wrong with it; none: it is as it was signed by `key`. key,
    signature: as the file says them, in base64."""

    report: DrillReport
    digest: str
    key: str
    signature: str
    problems: tuple[str, ...]


def drill_key(state: Path) -> Ed25519PrivateKey:
    """The key in the state folder, made if there is none (0600, with its public half beside it). Raises KeyUnusable."""
    file = state / "drill.key"
    try:
        if not file.exists():
            _make(state, file)
        if file.stat().st_mode & 0o077:
            raise KeyUnusable(f"{file}: others may read it; chmod 600 it, or move it away for a new one")
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except OSError as error:
        raise KeyUnusable(f"{file}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(f"{file}: this is no private key; move it away for a new one") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnusable(f"{file}: this is no Ed25519 key; move it away for a new one")
    return key


def public_text(key: Ed25519PrivateKey) -> str:
    """The public half, in base64."""
    return signing.write_base64(key.public_key().public_bytes_raw())


def sign(report: DrillReport, key: Ed25519PrivateKey) -> bytes:
    """The published file: canonical JSON with its digest, key and signature."""
    signature = signing.write_base64(key.sign(signed_text(report.digest())))
    return canonical(envelope(report, public_text(key), signature)) + b"\n"


def publish(report: DrillReport, state: Path) -> Path:
    """Sign a report and keep it under `reports` of the state folder. Returns the file. Raises KeyUnusable, OSError."""
    folder = state / "reports"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / f"drill-{report.run}-{report.started_ms}.json"
    _write(file, sign(report, drill_key(state)))
    return file


def verify(octets: bytes, trusted: str = "") -> Verified:
    """Look whether a published report is what was signed. trusted: the public key that it must be signed by, in base64;
    "": whichever is in it, which proves no more than that the file is whole. Raises ReportError for what is no
    report."""
    if len(octets) > MOST_OCTETS:
        raise ReportError(f"it has more than {MOST_OCTETS} octets")
    try:
        value: object = json.loads(octets)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"it is no JSON: {error}") from None
    report, said = read_envelope(value)
    problems = []
    digest = report.digest()
    if said["digest"] != digest:
        problems.append(f"the report was changed: its digest is {digest}, and the file says {said['digest'][:80]}")
    if not _signed(said["key"], said["signature"], digest):
        problems.append("the signature is not one of this report by the key in the file")
    if trusted and said["key"] != trusted.strip():
        problems.append(f"it is signed by another key than the one you trust: {said['key'][:80]}")
    return Verified(report, digest, said["key"], said["signature"], tuple(problems))


def _signed(key: str, signature: str, digest: str) -> bool:
    try:
        public = Ed25519PublicKey.from_public_bytes(signing.read_base64(key, signing.KEY_OCTETS))
        public.verify(signing.read_base64(signature, signing.SIGNATURE_OCTETS), signed_text(digest))
    except (signing.SigningError, InvalidSignature, ValueError):
        return False
    return True


def _make(state: Path, file: Path) -> None:
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    form = serialization.PrivateFormat.PKCS8
    _write(file, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    _write(file.with_suffix(".pub"), f"{public_text(key)}\n".encode())


def _write(file: Path, octets: bytes) -> None:
    """Whole or not at all, for its owner only."""
    begun = file.with_name(f".{file.name}.new")
    begun.unlink(missing_ok=True)
    descriptor = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(octets)
        out.flush()
        os.fsync(out.fileno())
    begun.replace(file)
