"""The self-made certificate of a collector that was given none.

Agents get the certificate's own file as their authority: no other server can then pass for the collector.
"""

import os
import secrets
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography import x509

CERTIFICATE_FILE: Final = "collector.crt"
"""Public: to be copied to every agent (`smartmail agent enrol --ca`)."""
KEY_FILE: Final = "collector.key"
_VALID: Final = timedelta(days=3650)
"""Agents hold a copy, so it must outlive many of their restarts."""
_RENEW_BEFORE: Final = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """PEM files."""

    certificate: Path
    key: Path


def server_context(pair: KeyPair) -> ssl.SSLContext:
    """TLS 1.2 and 1.3 with this certificate. Raises OSError (ssl.SSLError is one) for files of no use."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(pair.certificate, pair.key)
    return context


def self_made(folder: Path, hostname: str, now: datetime | None = None) -> KeyPair:
    """A self-signed certificate for `hostname` (and for localhost) in `folder`, made if there is none that fits.

    hostname: a name or an address. Raises OSError when it cannot be written.
    """
    now = now or datetime.now(UTC)
    pair = KeyPair(folder / CERTIFICATE_FILE, folder / KEY_FILE)
    if not _fits(pair, hostname, now):
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = _make(hostname, now)
        # The key first: a certificate is never there without it, and one that does not fit it is made anew.
        _write(pair.key, key, 0o600)
        _write(pair.certificate, certificate, 0o644)
    return pair


def _fits(pair: KeyPair, hostname: str, now: datetime) -> bool:
    from cryptography import x509

    try:
        server_context(pair)
        certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    wanted = [str(name.value) for name in _names(hostname)]
    return certificate.not_valid_after_utc > now + _RENEW_BEFORE and {str(name.value) for name in names} >= set(wanted)


def _make(hostname: str, now: datetime) -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # An agent's clock may be far behind before it has asked us for the time.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName(_names(hostname)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def _names(hostname: str) -> "list[x509.GeneralName]":
    from cryptography import x509

    names: list[x509.GeneralName] = []
    for text in dict.fromkeys([hostname.strip("[]"), "localhost", "127.0.0.1", "::1"]):
        try:
            names.append(x509.IPAddress(ip_address(text)))
        except ValueError:
            names.append(x509.DNSName(text if text.isascii() else text.encode("idna").decode()))
    return names


def _write(file: Path, content: bytes, mode: int) -> None:
    """All of it or nothing."""
    part = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
