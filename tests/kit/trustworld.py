"""A small world of mail for the trust checks, all on loopback: zones, an HTTPS server, certificates."""

import asyncio
import datetime
import ipaddress
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

Zone = dict[str, dict[str, list[str]]]
"""Name (no dot at the end) -> type -> records as in a zone file."""


@dataclass
class Nameserver:
    """Answers for every name in `zone`; NXDOMAIN for the rest. A name in `broken` gets that reply code, -1: silence."""

    zone: Zone = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    validated: bool = False
    """Sets AD, as a resolver does that has validated."""
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    port: int = 0

    def add(self, name: str, kind: str, *records: str) -> None:
        """Put records into the zone, in the place of those of this kind."""
        self.zone.setdefault(name, {})[kind] = list(records)

    def text(self, name: str, text: str) -> None:
        """Put one TXT record into the zone, in strings of 200 characters."""
        parts = [text[at : at + 200] for at in range(0, len(text), 200)]
        self.add(name, "TXT", " ".join(f'"{part}"' for part in parts))

    def reply(self, wire: bytes, limit: int = 65535) -> bytes | None:
        """The answer to a query; cut, with TC set, where it is longer than `limit` octets."""
        response = self._response(wire)
        if response is None:
            return None
        try:
            return response.to_wire(max_size=limit)
        except dns.exception.TooBig:
            response.answer.clear()
            response.flags |= dns.flags.TC
            return response.to_wire()

    def _response(self, wire: bytes) -> dns.message.Message | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, kind = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked[name, kind] += 1
        response = dns.message.make_response(query, recursion_available=True)
        trouble = next((code for end, code in self.broken.items() if name == end or name.endswith("." + end)), None)
        if trouble == -1:
            return None
        if trouble is not None:
            response.set_rcode(dns.rcode.Rcode(trouble))
            return response
        if self.validated:
            response.flags |= dns.flags.AD
        if records := self.zone.get(name, {}).get(kind):
            response.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *records))
        elif name not in self.zone and not any(known.endswith("." + name) for known in self.zone):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return response


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: Nameserver) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if (reply := self._server.reply(data, 1232)) is not None:
            self._transport.sendto(reply, addr)


@asynccontextmanager
async def nameserver() -> AsyncIterator[Nameserver]:
    """A name server on 127.0.0.1, UDP and TCP on one port."""
    server = Nameserver()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            reply = server.reply(await reader.readexactly(length))
            if reply is not None:
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
        finally:
            writer.close()

    tcp = await asyncio.start_server(stream, "127.0.0.1", 0)
    server.port = tcp.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(server), ("127.0.0.1", server.port))
    try:
        yield server
    finally:
        udp.close()
        tcp.close()
        await tcp.wait_closed()


@dataclass(frozen=True)
class Identity:
    """A certificate with its key. `chain`: DER, itself first, its issuers after it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[bytes, ...]

    def server_context(self, directory: Path) -> ssl.SSLContext:
        """For a server that serves the whole chain."""
        path = directory / f"{self.certificate.serial_number:x}.pem"
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        served = [x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in self.chain]
        path.write_bytes(b"".join([key, *served]))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(path)
        return context

    def roots(self) -> ssl.SSLContext:
        """For a client that trusts this authority alone."""
        context = ssl.create_default_context(cadata=self.certificate.public_bytes(Encoding.PEM).decode())
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


def identity(name: str, issuer: Identity | None = None, *, days: int = 30, authority: bool = False) -> Identity:
    """Make a certificate for a name, by `issuer` or by itself; negative `days`: it has expired."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=60))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_general(name)]), critical=False)
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    return Identity(built, key, (built.public_bytes(Encoding.DER), *(issuer.chain if issuer else ())))


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass
class Web:
    """An HTTPS server that gives every request the same answer."""

    status: str = "200 OK"
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "text/plain"})
    body: bytes = b""
    port: int = 0
    requests: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def web(context: ssl.SSLContext) -> AsyncIterator[Web]:
    """An HTTPS server on 127.0.0.1."""
    served = Web()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            served.requests.append(await reader.readuntil(b"\r\n\r\n"))
            headers = {"Content-Length": str(len(served.body)), "Connection": "close", **served.headers}
            lines = [f"HTTP/1.1 {served.status}", *(f"{key}: {value}" for key, value in headers.items()), "", ""]
            writer.write("\r\n".join(lines).encode() + served.body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # a client that does not like our certificate
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        await server.wait_closed()
