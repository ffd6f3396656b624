"""The certificates that a mail server really serves on its SMTP port, after STARTTLS (RFC 3207)."""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from smartmail.monitor.trust.finding import Severity, TrustCheck, TrustFinding, finding
from smartmail.monitor.trust.hosts import MailHost
from smartmail.monitor.trust.lookup import Address

_MAX_LINES: Final = 100


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """How to come: the port, the name to give in EHLO, the time for a whole conversation, whom to trust."""

    port: int = 25
    helo: str = "localhost"
    timeout_ms: int = 20_000
    roots: ssl.SSLContext | None = None
    """None: the system's."""


@dataclass(frozen=True, slots=True)
class Served:
    """What one address serves. chain: DER, the server's own first. trouble: why there is no certificate. refused: what
    the PKIX check of chain and name says against it, or nothing."""

    host: str
    address: Address
    port: int
    chain: tuple[bytes, ...] = ()
    trouble: str = ""
    unreachable: bool = False
    """There is no certificate because nobody could be spoken to: this says nothing about its TLS."""
    refused: str = ""


class _NoTlsError(Exception):
    """The server does not offer or do STARTTLS; the text is for the operator."""


async def served_by(host: MailHost, settings: SmtpSettings) -> tuple[Served, ...]:
    """What each address of a host serves."""
    return tuple(await asyncio.gather(*(_served(host.name, address, settings) for address in host.addresses)))


def check_served(served: Sequence[Served]) -> list[TrustFinding]:
    """What is wrong with the TLS of MX hosts, whatever policies ask for. Nothing where all is well."""
    found = []
    for one in served:
        where = f"{one.host} [{one.address}]"
        if one.trouble:
            severity = Severity.ERROR if one.unreachable else Severity.WARNING
            found.append(finding(TrustCheck.MX, where, severity, one.trouble))
        elif one.refused:
            text = f"the certificate served on port {one.port} would not be trusted: {one.refused}"
            found.append(finding(TrustCheck.MX, where, Severity.WARNING, text, "serve one for the host's name"))
    return found


async def _served(host: str, address: Address, settings: SmtpSettings) -> Served:
    trusted = settings.roots or ssl.create_default_context()
    refused = ""
    try:
        async with asyncio.timeout(settings.timeout_ms / 1000):
            try:
                chain = await _handshake(host, address, settings, trusted)
            except ssl.SSLCertVerificationError as error:
                refused = error.verify_message
                # Nothing is sent through it: the certificate shall be seen just because it is not trusted.
                anyone = ssl.create_default_context()
                anyone.check_hostname = False
                anyone.verify_mode = ssl.CERT_NONE
                chain = await _handshake(host, address, settings, anyone)
    except _NoTlsError as error:
        return Served(host, address, settings.port, trouble=str(error))
    except ssl.SSLError as error:
        return Served(
            host, address, settings.port, trouble=f"the TLS handshake failed: {error.reason or 'no reason given'}"
        )
    except TimeoutError:
        return Served(host, address, settings.port, trouble="no answer in time", unreachable=True)
    except ValueError as error:
        return Served(host, address, settings.port, trouble=f"no name to ask a certificate for: {error}")
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        return Served(
            host, address, settings.port, trouble=f"cannot speak to port {settings.port}: {reason}", unreachable=True
        )
    return Served(host, address, settings.port, chain, refused=refused)


async def _handshake(host: str, address: Address, settings: SmtpSettings, context: ssl.SSLContext) -> tuple[bytes, ...]:
    reader, writer = await asyncio.open_connection(str(address), settings.port, limit=8192)
    try:
        await _expect(reader, 220, "the greeting")
        writer.write(f"EHLO {settings.helo}\r\n".encode("ascii", "replace"))
        offered = await _expect(reader, 250, "EHLO")
        if "STARTTLS" not in (line.strip().upper() for line in offered):
            raise _NoTlsError("STARTTLS is not offered")
        writer.write(b"STARTTLS\r\n")
        await _expect(reader, 220, "STARTTLS")
        await writer.start_tls(context, server_hostname=host)
        return _chain(writer.get_extra_info("ssl_object"))
    finally:
        writer.transport.abort()


async def _expect(reader: asyncio.StreamReader, code: int, what: str) -> list[str]:
    """Read a reply; its lines without the code. Raises _NoTlsError when it is another one."""
    lines: list[str] = []
    for _ in range(_MAX_LINES):
        line = (await reader.readuntil(b"\n")).decode("utf-8", "replace").rstrip()
        lines.append(line[4:])
        if line[:3] != str(code):
            raise _NoTlsError(f"{what} was answered with {line[:80]}")
        if line[3:4] != "-":
            return lines
    raise _NoTlsError(f"{what}: an endless reply")


def _chain(tls: Any) -> tuple[bytes, ...]:
    """Every certificate sent, as DER. Public from Python 3.13 on; before, one level deeper."""
    if hasattr(tls, "get_unverified_chain"):
        return tuple(tls.get_unverified_chain())
    return tuple(ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in tls._sslobj.get_unverified_chain() or ())
