"""MTA-STS (RFC 8461): the record, the policy over HTTPS, and whether the live MX hosts keep it."""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from smartmail.monitor.trust.finding import Severity, TrustCheck, TrustFinding, finding
from smartmail.monitor.trust.lookup import Address, Lookup
from smartmail.monitor.trust.served import Served
from smartmail.monitor.trust.spf_dkim_dmarc import INSTALL, NOT_INSTALLED, checkdmarc

_MAX_POLICY: Final = 65536
"""Octets (RFC 8461 3.2 suggests 64 KB)."""
_PATH: Final = "/.well-known/mta-sts.txt"
_DAY: Final = 86400
_HTTP_OK: Final = 200


@dataclass(frozen=True, slots=True)
class HttpsSettings:
    """How to fetch a policy. roots None: the system's."""

    port: int = 443
    timeout_ms: int = 10_000
    roots: ssl.SSLContext | None = None


class PolicyError(Exception):
    """The policy cannot be had; the text is for the operator."""


class LookupFailed(Exception):
    """The address of the policy's host cannot be asked for: our side, or the zone's servers."""


async def check_mta_sts(
    domain: str, hosts: Sequence[str], served: Sequence[Served], lookup: Lookup, settings: HttpsSettings
) -> list[TrustFinding]:
    """Compare the policy of a domain with its MX hosts. served: what their port 25 serves, empty: not looked at."""
    name = f"_mta-sts.{domain}"
    answer, texts = await lookup.texts(name)
    if answer.failed:
        return [finding(TrustCheck.MTA_STS, name, Severity.ERROR, str(answer.status), "ask another resolver")]
    records = [text for text in texts if text.startswith("v=STSv1")]
    if not records:
        text, remedy = "no policy: TLS to this domain can be stripped", "publish an MTA-STS policy, or TLSA records"
        return [finding(TrustCheck.MTA_STS, name, Severity.WARNING, text, remedy)]
    if len(records) > 1:
        text = "more than one record: senders act as if there were none"
        return [finding(TrustCheck.MTA_STS, name, Severity.PROBLEM, text, "leave one")]
    try:
        mta_sts = await asyncio.to_thread(checkdmarc, "mta_sts")
    except ModuleNotFoundError:
        return [finding(TrustCheck.MTA_STS, domain, Severity.ERROR, NOT_INSTALLED, INSTALL)]
    host = f"mta-sts.{domain}"
    try:
        mta_sts.parse_mta_sts_record(records[0])
        text = await fetch_policy(host, lookup, settings)
        parsed = mta_sts.parse_mta_sts_policy(text)
    except mta_sts.MTASTSError as error:
        return [finding(TrustCheck.MTA_STS, domain, Severity.PROBLEM, str(error), "see RFC 8461 section 3")]
    except PolicyError as error:
        remedy = f"serve https://{host}{_PATH} with a certificate for that name"
        return [finding(TrustCheck.MTA_STS, host, Severity.PROBLEM, str(error), remedy)]
    except LookupFailed as error:
        return [finding(TrustCheck.MTA_STS, host, Severity.ERROR, str(error), "ask another resolver")]
    found = [finding(TrustCheck.MTA_STS, host, Severity.WARNING, str(text)) for text in parsed["warnings"]]
    return [*_judge(domain, parsed["policy"], hosts), *_judge_served(parsed["policy"], served), *found]


async def fetch_policy(host: str, lookup: Lookup, settings: HttpsSettings) -> str:
    """The text of a policy, from the first address that answers. Certificates are checked, redirects not followed
    (RFC 8461 3.3). Raises PolicyError or LookupFailed."""
    answer, addresses = await lookup.addresses(host)
    if not addresses:
        if answer.failed:
            raise LookupFailed(f"its address: {answer.status}")
        raise PolicyError("the policy host has no address")
    trouble = ""
    # trust_env: neither a proxy nor a .netrc of this machine has a say in what senders elsewhere see.
    client = httpx2.AsyncClient(
        verify=settings.roots or ssl.create_default_context(),
        timeout=settings.timeout_ms / 1000,
        follow_redirects=False,
        trust_env=False,
    )
    async with client:
        for address in addresses:
            try:
                return await _fetch(client, host, address, settings.port)
            except httpx2.ConnectError as error:
                trouble = f"cannot connect to [{address}]: {error}"
            except (httpx2.HTTPError, OSError) as error:
                trouble = f"fetching from [{address}] failed: {str(error) or type(error).__name__}"
    raise PolicyError(trouble)


async def _fetch(client: httpx2.AsyncClient, host: str, address: Address, port: int) -> str:
    literal = f"[{address}]" if address.version == 6 else str(address)
    request = client.build_request(
        "GET",
        f"https://{literal}:{port}{_PATH}",
        headers={"Host": host, "Accept": "text/plain", "Accept-Encoding": "identity"},
        extensions={"sni_hostname": host},
    )
    response = await client.send(request, stream=True)
    try:
        if response.status_code != _HTTP_OK:
            raise PolicyError(f"[{address}] answers with status {response.status_code}")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "text/plain":
            raise PolicyError(f"[{address}] serves {kind[:40] or 'no type'} instead of text/plain")
        body = b""
        async for part in response.aiter_raw():
            body += part
            if len(body) > _MAX_POLICY:
                raise PolicyError(f"[{address}] serves more than {_MAX_POLICY} octets")
    finally:
        await response.aclose()
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError(f"[{address}] serves no UTF-8") from error


def covers(pattern: str, host: str) -> bool:
    """Does an mx pattern of a policy cover a host? A star is the whole left-most label (RFC 8461 4.1)."""
    pattern, host = pattern.lower().rstrip("."), host.lower().rstrip(".")
    if pattern.startswith("*."):
        label, _, rest = host.partition(".")
        return bool(label) and rest == pattern[2:]
    return pattern == host


def _judge(domain: str, policy: Mapping[str, Any], hosts: Sequence[str]) -> list[TrustFinding]:
    mode, patterns, max_age = str(policy["mode"]), [str(one) for one in policy["mx"]], int(policy["max_age"])
    found = []
    strict = Severity.PROBLEM if mode == "enforce" else Severity.WARNING
    if mode != "none":
        for host in hosts:
            if not any(covers(pattern, host) for pattern in patterns):
                text, remedy = f"the policy does not cover this MX host (mode {mode})", f"add mx: {host}"
                found.append(finding(TrustCheck.MTA_STS, host, strict, text, remedy))
        for pattern in patterns:
            if hosts and not any(covers(pattern, host) for host in hosts):
                text = f"no MX host is covered by mx: {pattern}"
                found.append(finding(TrustCheck.MTA_STS, domain, Severity.WARNING, text, "take it out"))
    if max_age < _DAY:
        text = f"the policy expires after {max_age} s: a sender that comes more rarely has none"
        found.append(finding(TrustCheck.MTA_STS, domain, Severity.WARNING, text, "max_age: 604800 or more"))
    if mode != "enforce":
        text = f"mode {mode}: senders deliver without TLS all the same"
        found.append(finding(TrustCheck.MTA_STS, domain, Severity.WARNING, text, "mode: enforce once all is well"))
    if not found:
        text = f"mode {mode}, covers {', '.join(hosts) or 'no host'}, for {max_age // _DAY} days"
        found.append(finding(TrustCheck.MTA_STS, domain, Severity.OK, text))
    return found


def _judge_served(policy: Mapping[str, Any], served: Sequence[Served]) -> list[TrustFinding]:
    """RFC 8461 4.2: a trusted chain and the host's name, after STARTTLS."""
    if policy["mode"] == "none":
        return []
    strict = Severity.PROBLEM if policy["mode"] == "enforce" else Severity.WARNING
    found = []
    for one in served:
        where = f"{one.host} [{one.address}]"
        if one.trouble:
            severity = Severity.ERROR if one.unreachable else strict
            found.append(finding(TrustCheck.MTA_STS, where, severity, one.trouble))
        elif one.refused:
            text = f"the certificate served does not keep the policy: {one.refused}"
            found.append(finding(TrustCheck.MTA_STS, where, strict, text, "serve a certificate for the host's name"))
    return found
