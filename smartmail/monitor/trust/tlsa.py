"""TLSA records (RFC 6698, 7671, 7672) against the certificates that port 25 really serves."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from smartmail.monitor.trust.finding import Severity, TrustCheck, TrustFinding, finding
from smartmail.monitor.trust.hosts import MailHost
from smartmail.monitor.trust.lookup import Lookup
from smartmail.monitor.trust.served import Served

_DIGESTS = {1: hashlib.sha256, 2: hashlib.sha512}
_LENGTHS = {1: 32, 2: 64}


@dataclass(frozen=True, slots=True)
class Tlsa:
    """One TLSA record (RFC 6698 2.1)."""

    usage: int
    selector: int
    matching: int
    data: bytes

    @property
    def text(self) -> str:
        """As in a zone file, the data shortened."""
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()[:16]}…"


def usable(record: Tlsa) -> str:
    """Why an SMTP client ignores this record, or nothing."""
    if record.usage not in (2, 3):
        return "usage is not 2 or 3 (RFC 7672 3.1.3)"
    if record.selector not in (0, 1):
        return "the selector is not 0 or 1"
    if record.matching not in (0, 1, 2):
        return "the matching type is not 0, 1 or 2"
    if record.matching and len(record.data) != _LENGTHS[record.matching]:
        return f"the digest has {len(record.data)} octets"
    return ""


def association(certificate: bytes, selector: int, matching: int) -> bytes:
    """What a TLSA record of this kind holds for a certificate (DER). Raises ValueError where it cannot be read."""
    selected = certificate
    if selector == 1:
        key = x509.load_der_x509_certificate(certificate).public_key()
        selected = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _DIGESTS[matching](selected).digest() if matching else selected


def matches(record: Tlsa, chain: Sequence[bytes], host: str) -> bool:
    """Does a usable record hold for what is served? Usage 3: the server's own certificate, whatever its names and
    dates (RFC 7671 5.1). Usage 2: an authority in the chain, sent or (matching 0) in the record itself, each
    certificate issued by the next, and the name of the server's own (RFC 7671 5.2)."""
    try:
        if record.usage == 3:
            return bool(chain) and association(chain[0], record.selector, record.matching) == record.data
        certificates = [x509.load_der_x509_certificate(one) for one in chain]
        if not certificates or not _named(certificates[0], host):
            return False
        for index, one in enumerate(chain):
            if index and not _issued(certificates[index - 1], certificates[index]):
                return False
            if index and association(one, record.selector, record.matching) == record.data:
                return True
        if record.selector == 0 and record.matching == 0:
            return _issued(certificates[-1], x509.load_der_x509_certificate(record.data))
    except ValueError:
        return False
    return False


async def check_tlsa(host: MailHost, port: int, served: Sequence[Served], lookup: Lookup) -> list[TrustFinding]:
    """Compare the TLSA records of an MX host with what its addresses serve."""
    name = f"_{port}._tcp.{host.name}"
    answer = await lookup.ask(name, "TLSA")
    if answer.failed:
        remedy = "senders that do DANE will hold mail back: look at the zone's DNSSEC and its servers"
        return [finding(TrustCheck.TLSA, name, Severity.ERROR, str(answer.status), remedy)]
    if not answer.records:
        return [finding(TrustCheck.TLSA, name, Severity.OK, "no TLSA record: DANE is not used")]
    records = [Tlsa(r.usage, r.selector, r.mtype, bytes(r.cert)) for r in answer.records]  # type: ignore[attr-defined]
    found = []
    if not (answer.authenticated and host.authenticated):
        text = "the answer was not validated: without DNSSEC senders ignore TLSA records"
        remedy = "sign the zones of the domain and of the host, or ask a resolver that validates"
        found.append(finding(TrustCheck.TLSA, name, Severity.WARNING, text, remedy))
    ignored = [f"{record.text} is ignored: {why}" for record in records if (why := usable(record))]
    found += [finding(TrustCheck.TLSA, name, Severity.WARNING, text) for text in ignored]
    found += _against(name, [record for record in records if not usable(record)], served)
    return found


def _against(name: str, records: Sequence[Tlsa], served: Sequence[Served]) -> list[TrustFinding]:
    found = []
    if not records:
        remedy = "publish 3 1 1 of the key, before it is served"
        return [finding(TrustCheck.TLSA, name, Severity.PROBLEM, "no record that a sender can use", remedy)]
    for one in served:
        where = f"{one.host} [{one.address}]"
        if not one.chain:
            severity = Severity.ERROR if one.unreachable else Severity.PROBLEM
            found.append(finding(TrustCheck.TLSA, where, severity, one.trouble))
        elif hit := next((record for record in records if matches(record, one.chain, one.host)), None):
            found.append(finding(TrustCheck.TLSA, where, Severity.OK, f"the certificate served is that of {hit.text}"))
        else:
            wanted = association(one.chain[0], 1, 1).hex()
            text = f"no TLSA record matches the certificate served: senders that do DANE hold mail back ({name})"
            found.append(finding(TrustCheck.TLSA, where, Severity.PROBLEM, text, f"publish: 3 1 1 {wanted}"))
    return found


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _named(certificate: x509.Certificate, host: str) -> bool:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return False
    wanted = host.lower()
    # RFC 6125 6.4.3: a star is the whole left-most label and stands for exactly one.
    starred = f"*.{wanted.partition('.')[2]}"
    return any(name.lower() in (wanted, starred) for name in names.value.get_values_for_type(x509.DNSName))
