"""TLS contexts for listeners and for the upstream, and the self-made certificate of the embedded default.

`cryptography` is imported only while a certificate is made: it costs megabytes that a relay keeps for its
life.
"""

import errno
import os
import re
import secrets
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cryptography import x509

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption only (RFC 9325 section 4.2). TLS 1.3 has no
others."""

SELF_MADE = "self-made.pem"
_VALID = timedelta(days=397)
_RENEW_BEFORE = timedelta(days=30)
_MARK = re.compile(r"smartmail self-made certificate for (\S+) until (\d+)\n")


class TlsError(Exception):
    """A certificate or key is of no use. file: which; reason: why, in an operator's words."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


def load_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The context of a listener: TLS 1.2 and 1.3, session tickets, no compression, no renegotiation, no ALPN.

    certificate: PEM, the server's own first, then its chain. key: PEM, unencrypted. Raises TlsError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    # One ticket of TLS 1.3 per handshake instead of two: a mail client opens one connection at a time.
    context.num_tickets = 1
    for file in (certificate, key):
        try:
            with file.open("rb"):
                pass
        except OSError as error:
            raise TlsError(file, f"cannot be read: {error.strerror}") from None
    try:
        context.load_cert_chain(certificate, key, password=_NoPassword(key))
    except ssl.SSLError as error:
        raise _explained(error, certificate, key) from None
    return context


class _NoPassword:
    """Called by OpenSSL for an encrypted key, which else would ask on the terminal."""

    def __init__(self, key: Path) -> None:
        self._key = key

    def __call__(self) -> str:
        raise TlsError(self._key, "is encrypted; the relay starts without anybody to ask for a password")


def _explained(error: ssl.SSLError, certificate: Path, key: Path) -> TlsError:
    reason = error.reason or ""
    if reason == "KEY_VALUES_MISMATCH":
        return TlsError(key, f"does not belong to the certificate in {certificate}")
    if "KEY_TOO_SMALL" in reason or "MD_TOO_WEAK" in reason:
        return TlsError(certificate, f"is too weak for this system's TLS policy ({reason})")
    probe = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        probe.load_verify_locations(certificate)
    except ssl.SSLError:
        return TlsError(certificate, "holds no certificate in PEM form")
    return TlsError(key, f"holds no private key in PEM form that fits ({reason or error})")


@dataclass(slots=True)
class ServerTls:
    """The certificate in force. `context` is for new handshakes; sessions keep the one they began with."""

    certificate: Path
    key: Path
    context: ssl.SSLContext

    @classmethod
    def load(cls, certificate: Path, key: Path) -> "ServerTls":
        """Read both files. Raises TlsError."""
        return cls(certificate, key, load_context(certificate, key))

    def reload(self, certificate: Path, key: Path) -> None:
        """Take renewed or other files. Raises TlsError and keeps all as it was when they are of no use."""
        # Loading into the context in use could leave it with the new certificate and the old key.
        context = load_context(certificate, key)
        self.certificate, self.key, self.context = certificate, key, context


def client_context(security: Literal["opportunistic", "required"], ca_file: Path | None = None) -> ssl.SSLContext:
    """The context towards an upstream. opportunistic: encrypted, nothing verified (RFC 7435). required: chain
    and host name verified against ca_file, else the system's authorities. Raises TlsError for a bad
    ca_file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if security == "opportunistic":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        try:
            context.load_verify_locations(ca_file)
        except ssl.SSLError:
            raise TlsError(ca_file, "holds no certificate in PEM form") from None
        except OSError as error:
            raise TlsError(ca_file, f"cannot be read: {error.strerror}") from None
    return context


def self_made(data_dir: Path, hostname: str, now: datetime | None = None) -> tuple[Path, Path]:
    """The (certificate, key) files of a self-signed ECDSA P-256 certificate for `hostname`, made if need be.

    It is kept while it is for this name, valid for 30 more days and intact. Both are one file of mode 0600,
    so that a crash or a second process leaves no certificate with another's key. Raises TlsError if it cannot
    be written.
    """
    now = now or datetime.now(UTC)
    file = data_dir / SELF_MADE
    if not hostname.isascii():
        hostname = hostname.encode("idna").decode()
    if not _still_good(file, hostname, now):
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            _write_whole(file, _make(hostname, now))
        except OSError as error:
            raise TlsError(file, f"cannot be written: {error.strerror}") from None
    return file, file


def _still_good(file: Path, hostname: str, now: datetime) -> bool:
    try:
        mark = _MARK.match(file.read_text("ascii", "replace"))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise TlsError(file, f"cannot be read: {error.strerror}") from None
    if mark is None or mark[1] != hostname or int(mark[2]) < (now + _RENEW_BEFORE).timestamp():
        return False
    try:
        load_context(file, file)
    except TlsError:
        return False
    return True


def _write_whole(file: Path, content: bytes) -> None:
    """All of it or nothing, readable by the owner only from the first moment."""
    part = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def _make(hostname: str, now: datetime) -> bytes:
    """A line about what follows (which saves reading certificates at each start), the key, the
    certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])
    until = now + _VALID
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A client's clock may be behind ours.
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName(_names(hostname)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    mark = f"smartmail self-made certificate for {hostname} until {int(until.timestamp())}\n"
    return mark.encode() + private + certificate.public_bytes(serialization.Encoding.PEM)


def _names(hostname: str) -> "list[x509.GeneralName]":
    """The host's own name, and those by which it is tried out on the spot."""
    from cryptography import x509

    texts = dict.fromkeys([hostname.strip("[]"), "localhost", "127.0.0.1", "::1"])
    names: list[x509.GeneralName] = []
    for text in texts:
        try:
            names.append(x509.IPAddress(ip_address(text)))
        except ValueError:
            names.append(x509.DNSName(text))
    return names
