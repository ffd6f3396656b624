"""SPF (RFC 7208), DMARC (RFC 7489 and its successor) and TLS-RPT (RFC 8460) by checkdmarc; DKIM keys (RFC 6376)."""

import asyncio
import base64
import binascii
import importlib
import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from smartmail.monitor.trust.finding import Severity, TrustCheck, TrustFinding, finding
from smartmail.monitor.trust.lookup import Lookup, Status

_FLOOR_BITS: Final = 1024
_WANTED_BITS: Final = 2048
"""RFC 8301 3.2: verifiers need not take less than the first; signers should use the second."""
_ED25519_OCTETS: Final = 32

NOT_INSTALLED: Final = "checkdmarc is not installed: the record cannot be read"
INSTALL: Final = "install smartmail[deliverability]"

_importing: Final = threading.Lock()

Reader = Callable[..., Mapping[str, Any]]


async def check_spf(domain: str, lookup: Lookup) -> list[TrustFinding]:
    """Is there one SPF record that holds, within its ten lookups, and ends by refusing others?"""
    answer = await lookup.ask(domain, "TXT")
    if answer.failed:
        return [finding(TrustCheck.SPF, domain, Severity.ERROR, str(answer.status), "ask another resolver")]
    result = await _read("spf", "check_spf", domain, lookup)
    if result is None:
        return [finding(TrustCheck.SPF, domain, Severity.ERROR, NOT_INSTALLED, INSTALL)]
    found = _warnings(TrustCheck.SPF, domain, result)
    if not result["valid"]:
        remedy = "publish one TXT record: v=spf1 mx -all, with whatever else may send for the domain"
        return [finding(TrustCheck.SPF, domain, Severity.PROBLEM, str(result.get("error")), remedy), *found]
    ends = str((result.get("parsed") or {}).get("all") or "")
    if ends == "pass":
        text, remedy = "everybody may send for the domain (+all)", "end the record in -all or ~all"
        return [finding(TrustCheck.SPF, domain, Severity.PROBLEM, text, remedy), *found]
    if ends not in ("fail", "softfail"):
        text, remedy = "the record says nothing about other senders", "end the record in -all or ~all"
        return [finding(TrustCheck.SPF, domain, Severity.WARNING, text, remedy), *found]
    text = f"{result.get('record')} ({result.get('dns_lookups')} of 10 lookups)"
    return [finding(TrustCheck.SPF, domain, Severity.OK, text), *found]


async def check_dmarc(domain: str, lookup: Lookup) -> list[TrustFinding]:
    """Is there a DMARC policy for the domain, and does it ask for anything?"""
    answer = await lookup.ask(f"_dmarc.{domain}", "TXT")
    if answer.failed:
        return [finding(TrustCheck.DMARC, domain, Severity.ERROR, str(answer.status), "ask another resolver")]
    result = await _read("dmarc", "check_dmarc", domain, lookup)
    if result is None:
        return [finding(TrustCheck.DMARC, domain, Severity.ERROR, NOT_INSTALLED, INSTALL)]
    found = _warnings(TrustCheck.DMARC, domain, result)
    if not result["valid"]:
        remedy = f"publish a TXT record at _dmarc.{domain}: v=DMARC1; p=quarantine; rua=mailto:..."
        return [finding(TrustCheck.DMARC, domain, Severity.PROBLEM, str(result.get("error")), remedy), *found]
    policy = str(result["tags"]["p"]["value"])
    if policy == "none":
        text, remedy = "the policy asks for nothing (p=none)", "p=quarantine once the reports look right"
        return [finding(TrustCheck.DMARC, domain, Severity.WARNING, text, remedy), *found]
    if "rua" not in result["tags"]:
        text, remedy = f"p={policy}, but nobody gets the reports", "add rua=mailto:..."
        return [finding(TrustCheck.DMARC, domain, Severity.WARNING, text, remedy), *found]
    return [finding(TrustCheck.DMARC, domain, Severity.OK, f"p={policy}, at {result['location']}"), *found]


async def check_tls_rpt(domain: str, lookup: Lookup) -> list[TrustFinding]:
    """Do senders know where to report a TLS that failed?"""
    name = f"_smtp._tls.{domain}"
    answer = await lookup.ask(name, "TXT")
    if answer.failed:
        return [finding(TrustCheck.TLS_RPT, name, Severity.ERROR, str(answer.status), "ask another resolver")]
    remedy = f"publish a TXT record at {name}: v=TLSRPTv1; rua=mailto:..."
    if answer.none:
        return [finding(TrustCheck.TLS_RPT, name, Severity.WARNING, "no record: TLS failures are not reported", remedy)]
    result = await _read("smtp_tls_reporting", "check_smtp_tls_reporting", domain, lookup)
    if result is None:
        return [finding(TrustCheck.TLS_RPT, name, Severity.ERROR, NOT_INSTALLED, INSTALL)]
    found = _warnings(TrustCheck.TLS_RPT, name, result)
    if not result["valid"]:
        return [finding(TrustCheck.TLS_RPT, name, Severity.PROBLEM, str(result.get("error")), remedy), *found]
    return [finding(TrustCheck.TLS_RPT, name, Severity.OK, "TLS failures are reported"), *found]


async def check_dkim(domain: str, selector: str, lookup: Lookup) -> list[TrustFinding]:
    """Is there a key at this selector that verifiers take?"""
    name = f"{selector}._domainkey.{domain}"
    answer, texts = await lookup.texts(name)
    if answer.failed:
        severity = Severity.PROBLEM if answer.status == Status.BAD_NAME else Severity.ERROR
        return [finding(TrustCheck.DKIM, name, severity, str(answer.status))]
    if len(texts) != 1:
        text = "no key: signatures with this selector fail" if not texts else f"{len(texts)} records instead of one"
        return [finding(TrustCheck.DKIM, name, Severity.PROBLEM, text, "publish the selector's key as one TXT record")]
    severity, text, remedy = _judge_key(texts[0])
    return [finding(TrustCheck.DKIM, name, severity, text, remedy)]


def _judge_key(record: str) -> tuple[Severity, str, str]:
    """What a key record (RFC 6376 3.6.1) is worth: severity, text, remedy."""
    again = "publish the record as the signer printed it"
    tags: dict[str, str] = {}
    for part in record.rstrip("; \t").split(";"):
        key, found, value = part.partition("=")
        if not found or key.strip() in tags:
            return Severity.PROBLEM, f"no tag list: {part.strip()[:40]!r} is no tag, or comes twice", again
        tags[key.strip()] = "".join(value.split())
    if tags.get("v", "DKIM1") != "DKIM1" or "p" not in tags:
        return Severity.PROBLEM, "no DKIM key record (v=DKIM1; p=...)", again
    if not tags["p"]:
        return Severity.PROBLEM, "the key was revoked (p=)", "sign with another selector"
    try:
        key_octets = base64.b64decode(tags["p"], validate=True)
    except (binascii.Error, ValueError):
        return Severity.PROBLEM, "the key is not base64", again
    severity, text, remedy = _judge_octets(tags.get("k", "rsa"), key_octets)
    if severity == Severity.OK and "y" in tags.get("t", "").split(":"):
        return Severity.WARNING, f"{text}, but in test mode (t=y): it protects nothing", "take out t=y"
    return severity, text, remedy


def _judge_octets(kind: str, octets: bytes) -> tuple[Severity, str, str]:
    if kind == "ed25519":
        if len(octets) == _ED25519_OCTETS:
            return Severity.OK, "an Ed25519 key", ""
        return Severity.PROBLEM, f"an Ed25519 key of {len(octets)} octets", "publish the 32 octets of the key itself"
    if kind != "rsa":
        return Severity.PROBLEM, f"an unknown kind of key: {kind[:20]}", "use rsa or ed25519"
    try:
        key = load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm):
        return Severity.PROBLEM, "the key cannot be read", "publish the record as the signer printed it"
    if not isinstance(key, RSAPublicKey):
        return Severity.PROBLEM, "the key is no RSA key", "say which kind it is (k=)"
    bits = key.key_size
    if bits < _FLOOR_BITS:
        return Severity.PROBLEM, f"an RSA key of {bits} bits: verifiers ignore it", "make a new one of 2048 bits"
    if bits < _WANTED_BITS:
        return Severity.WARNING, f"an RSA key of {bits} bits", "make a new one of 2048 bits"
    return Severity.OK, f"an RSA key of {bits} bits", ""


async def _read(module: str, function: str, domain: str, lookup: Lookup) -> Mapping[str, Any] | None:
    """Call checkdmarc in a thread; None where it is not installed."""
    try:
        reader: Reader = getattr(await asyncio.to_thread(checkdmarc, module), function)
    except ModuleNotFoundError:
        return None
    return await asyncio.to_thread(reader, domain, resolver=lookup.blocking)


def checkdmarc(module: str) -> ModuleType:
    """A module of checkdmarc, its memory of answers emptied. Half a second of imports: call it in a thread.

    Raises ModuleNotFoundError where it is not installed.
    """
    # Its modules import each other: two threads that begin at different ends see half of them.
    with _importing:
        importlib.import_module("checkdmarc")
        # It remembers answers for half an hour, whoever gave them.
        importlib.import_module("checkdmarc.utils").DNS_CACHE.clear()
        return importlib.import_module(f"checkdmarc.{module}")


def _warnings(check: TrustCheck, subject: str, result: Mapping[str, Any]) -> list[TrustFinding]:
    return [finding(check, subject, Severity.WARNING, str(text)) for text in result.get("warnings") or ()]
