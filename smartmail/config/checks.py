"""What no single value can tell: open relays, addresses taken twice, mail loops, keys that others may read.

Looks at files (that they exist, whose they are), never at the network.
"""

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from smartmail.config.backup_checks import backup_findings
from smartmail.config.model import Config, ListenerConfig
from smartmail.config.problems import Finding, Loc
from smartmail.config.values import Network, TcpAddress, UnixAddress, is_loopback
from smartmail.core.roster import CheckKind

WIDEST_V4 = 8
WIDEST_V6 = 7
"""Shortest prefixes that are still somebody's network: 10.0.0.0/8 (RFC 1918), fc00::/7 (RFC 4193)."""

RESERVED = "control"
"""The name of no check: agents' looks at their control targets bear it."""

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


def findings(config: Config, origins: Mapping[str, str]) -> Iterator[Finding]:
    """Everything wrong with a configuration whose single values are right.

    `origins`: where each value that is no default came from, by key path.
    """
    if not config.listener:
        hint = "leave the list out to have the two of the embedded default"
        yield Finding((("listener",),), "there must be one at least", hint)
    for index, listener in enumerate(config.listener):
        yield from _listener(index, listener)
    yield from _twice(config)
    yield from _names(config)
    yield from _upstream(config, origins)
    yield from _certificate(config)
    yield from _auth(config)
    yield from _store(config, origins)
    yield from _monitor(config)
    yield from backup_findings(config)
    if config.server.data_dir.exists() and not config.server.data_dir.is_dir():
        yield Finding((("server", "data_dir"),), f"{config.server.data_dir} is a file, not a folder")


def _listener(index: int, listener: ListenerConfig) -> Iterator[Finding]:
    def at(key: str) -> Loc:
        return ("listener", index, key)

    for key in ("trusted_networks", "proxy_protocol_from"):
        for network in getattr(listener, key):
            if _too_wide(network):
                what = "an open relay" if key == "trusted_networks" else "no proof of anything"
                reason = f"{network} is far more than any network of yours: {what}"
                yield Finding((at(key),), reason, "list your own networks only")
    if listener.role == "submission":
        if listener.tls == "none" and not is_loopback(listener.endpoint.host):
            reason = "passwords would cross the network in clear text"
            yield Finding((at("tls"), at("role"), at("address")), reason, 'tls = "starttls" or "implicit"')
        for key in ("trusted_networks", "accept_incoming"):
            if getattr(listener, key):
                reason = "means nothing on a submission listener, where everybody logs in"
                yield Finding((at(key), at("role")), reason, 'leave it out, or role = "relay"')
    elif not listener.trusted_networks and not listener.accept_incoming:
        reason = "nobody may use this relay listener"
        hint = 'trusted_networks = ["192.0.2.0/24"], or accept_incoming = true for mail to our own domains'
        locs = (("listener", index), at("role"), at("trusted_networks"), at("accept_incoming"))
        yield Finding(locs, reason, hint)


def _too_wide(network: Network) -> bool:
    return network.prefixlen < (WIDEST_V4 if network.version == 4 else WIDEST_V6)


def _doors(config: Config) -> Iterator[tuple[Loc, TcpAddress]]:
    """Every address we listen on."""
    for index, listener in enumerate(config.listener):
        yield ("listener", index, "address"), listener.endpoint
    if config.metrics.endpoint:
        yield ("metrics", "address"), config.metrics.endpoint
    if config.monitor.endpoint:
        yield ("monitor", "address"), config.monitor.endpoint
    if config.monitor.metrics_endpoint:
        yield ("monitor", "metrics_address"), config.monitor.metrics_endpoint
    if config.backup.metrics_endpoint:
        yield ("backup", "metrics_address"), config.backup.metrics_endpoint
    if config.upstream.endpoint is None:
        yield ("maildrop", "address"), config.maildrop.endpoint


def _twice(config: Config) -> Iterator[Finding]:
    doors = [(loc, address) for loc, address in _doors(config) if address.port]
    for index, (loc, address) in enumerate(doors):
        for earlier, other in doors[:index]:
            if _same_door(address, other):
                reason = f"{address} is taken by {_name(earlier)}"
                yield Finding((loc, earlier), reason, "give each its own port")
                break


def _same_door(one: TcpAddress, other: TcpAddress) -> bool:
    """Would binding both fail? A wildcard takes its whole family; asyncio binds :: for IPv6 only."""
    if one.port != other.port:
        return False
    return any(
        a == b or ((a in _WILDCARDS or b in _WILDCARDS) and (":" in a) == (":" in b))
        for a in _hosts(one.host)
        for b in _hosts(other.host)
    )


def _hosts(host: str) -> tuple[str, ...]:
    return ("127.0.0.1", "::1") if host == "localhost" else (host,)


def _name(loc: Loc) -> str:
    return f"listener[{loc[1]}]" if loc[0] == "listener" else str(loc[0])


def _names(config: Config) -> Iterator[Finding]:
    for section, names in (
        ("listener", [entry.name for entry in config.listener]),
        ("limit", [entry.name for entry in config.limit]),
        ("check", [entry.name for entry in config.check]),
        ("repository", [entry.name for entry in config.repository]),
        ("job", [entry.name for entry in config.job]),
    ):
        for index, name in enumerate(names):
            if name in names[:index]:
                first = names.index(name)
                locs: tuple[Loc, ...] = ((section, index, "name"), (section, first, "name"))
                reason = f'{section}[{first}] is called "{name}" already'
                yield Finding(locs, reason, "give each its own name")


def _upstream(config: Config, origins: Mapping[str, str]) -> Iterator[Finding]:
    upstream, address = config.upstream, ("upstream", "address")
    match upstream.endpoint:
        case None:
            yield from _embedded(config, origins)
        case UnixAddress():
            if upstream.tls != "none":
                reason = "a UNIX socket has no STARTTLS"
                hint = 'tls = "none": the mail never leaves the machine'
                yield Finding((("upstream", "tls"), address), reason, hint)
        case TcpAddress() as endpoint:
            for index, listener in enumerate(config.listener):
                if _loops(endpoint, listener, config.server.hostname):
                    reason = f'this is our own listener "{listener.name}": mail would go round in a loop'
                    hint = 'the address of the mail server behind us, for example "127.0.0.1:10025"'
                    yield Finding((address, ("listener", index, "address")), reason, hint)


def _loops(upstream: TcpAddress, listener: ListenerConfig, hostname: str) -> bool:
    if upstream.port != listener.endpoint.port:
        return False
    if listener.endpoint.host in _WILDCARDS:
        return is_loopback(upstream.host) or upstream.host in (*_WILDCARDS, hostname)
    if upstream.host in _WILDCARDS:
        return is_loopback(listener.endpoint.host)
    return bool(set(_hosts(upstream.host)) & set(_hosts(listener.endpoint.host)))


def _embedded(config: Config, origins: Mapping[str, str]) -> Iterator[Finding]:
    if config.upstream.protocol == "lmtp":
        reason = "lmtp needs an upstream address; the embedded maildrop speaks SMTP"
        hint = 'for example address = "unix:/run/dovecot/lmtp"'
        yield Finding((("upstream", "protocol"), ("upstream", "address")), reason, hint)
    if config.upstream.tls == "required":
        reason = "the embedded maildrop has no STARTTLS; it is within this process"
        yield Finding((("upstream", "tls"), ("upstream", "address")), reason, 'tls = "none"')
    if not is_loopback(config.maildrop.endpoint.host):
        reason = "the embedded maildrop takes mail from anybody: it listens on a loopback address only"
        yield Finding((("maildrop", "address"),), reason, 'address = "127.0.0.1:0"')
    public = [entry.address for entry in config.listener if not is_loopback(entry.endpoint.host)]
    if public and "upstream.address" not in origins:
        reason = f"no upstream is named, so mail from {public[0]} would end in the embedded maildrop"
        hint = 'address = "127.0.0.1:10025", or address = "" if you do mean the maildrop'
        listeners: list[Loc] = [("listener", index, "address") for index in range(len(config.listener))]
        locs: tuple[Loc, ...] = (("upstream", "address"), *listeners)
        yield Finding(locs, reason, hint)


def _certificate(config: Config) -> Iterator[Finding]:
    certificate, key = config.tls.certificate, config.tls.key
    locs: tuple[Loc, Loc] = (("tls", "certificate"), ("tls", "key"))
    if certificate and not key:
        hint = 'key = "/etc/smartmail/tls.key"'
        yield Finding((locs[1], locs[0]), "there is a certificate but no key", hint)
    if key and not certificate:
        hint = 'certificate = "/etc/smartmail/tls.pem"'
        yield Finding(locs, "there is a key but no certificate", hint)
    trouble = False
    if certificate and (found := _file_trouble(certificate)):
        trouble = True
        yield Finding((locs[0],), *found)
    if key and (found := secret_file_trouble(key)):
        trouble = True
        yield Finding((locs[1],), *found)
    if certificate and key and not trouble and (reason := _pair_trouble(certificate, key)):
        yield Finding(locs, reason, "both in PEM, the certificate before its chain, the key not encrypted")


def _pair_trouble(certificate: Path, key: Path) -> str:
    import ssl

    try:
        # Without the password given here, OpenSSL would ask for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the key does not belong to the certificate"
        return "certificate and key cannot be used together: not PEM, or the key is encrypted"
    except OSError as error:
        return f"certificate and key cannot be read: {error.strerror}"
    return ""


def _auth(config: Config) -> Iterator[Finding]:
    if config.auth.backend == "dovecot" and not config.auth.socket:
        reason, hint = 'backend = "dovecot" needs the path of its socket', '"/var/spool/postfix/private/auth"'
        yield Finding((("auth", "socket"), ("auth", "backend")), reason, hint)
    if config.auth.backend == "local" and config.auth.socket:
        reason = 'a socket means nothing with backend = "local"'
        yield Finding((("auth", "socket"), ("auth", "backend")), reason, 'leave it out, or backend = "dovecot"')


def _store(config: Config, origins: Mapping[str, str]) -> Iterator[Finding]:
    url = config.store.url.get_secret_value()
    if not url:
        return
    origin = origins.get("store.url")
    loc: Loc = ("store", "url_file" if origin == "url_file" else "url")
    scheme, colon, rest = url.partition("://")
    if not colon or scheme.partition("+")[0] not in ("sqlite", "postgresql"):
        hint = 'for example "sqlite:////var/lib/smartmail/smartmail.db" or "postgresql://mail@db/smartmail"'
        yield Finding((loc,), "is no SQLAlchemy URL of SQLite or PostgreSQL", hint)
    user = rest.partition("/")[0].rpartition("@")[0]
    if origin == "file" and (":" in user or "password=" in rest):
        hint = 'put the URL into a file of its own: url_file = "/etc/smartmail/store.url"'
        yield Finding((loc,), "holds a password, in a file that many may read", hint)


def secret_file_trouble(path: Path) -> tuple[str, str] | None:
    """(reason, hint) if the file cannot be read or everybody may read it, else None."""
    if found := _file_trouble(path):
        return found
    mode = path.stat().st_mode
    if stat.S_IMODE(mode) & stat.S_IRWXO:
        return f"everybody may read or change {path} (mode {stat.S_IMODE(mode):04o})", f"chmod o= {path}"
    return None


def _file_trouble(path: Path) -> tuple[str, str] | None:
    try:
        if not path.is_file():
            return f"there is no file {path}", "relative paths begin at the configuration file's folder"
        with path.open("rb"):
            return None
    except OSError as error:
        return (
            f"{path} cannot be read: {error.strerror}",
            "check its owner and mode, and those of its folders",
        )


_NEEDS_LOGIN = (
    CheckKind.SUBMISSION,
    CheckKind.SMTPS,
    CheckKind.IMAP,
    CheckKind.IMAPS,
    CheckKind.POP3S,
    CheckKind.SIEVE,
    CheckKind.ROUND_TRIP,
)


def _monitor(config: Config) -> Iterator[Finding]:
    for index, check in enumerate(config.check):
        unknown = [place for place in check.locations if place not in config.monitor.locations]
        if unknown:
            reason = f"{', '.join(unknown)}: no such location"
            yield Finding((("check", index, "locations"), ("monitor", "locations")), reason, "see monitor.locations")
        if check.name == RESERVED:
            reason = f'"{RESERVED}" is what each location\'s look at its own control targets is stored as'
            yield Finding((("check", index, "name"),), reason, "give it another name")
        if check.kind is CheckKind.ROUND_TRIP and not check.token_secret:
            reason = "round-trip proves its messages by a key, and token_secret names none"
            locs: tuple[Loc, ...] = (("check", index, "token_secret"), ("check", index, "kind"))
            yield Finding(locs, reason, 'token_secret = "tokens"')
        if check.kind in _NEEDS_LOGIN and not check.secret:
            reason = f"{check.kind.value} logs in, and secret names no login"
            yield Finding((("check", index, "secret"), ("check", index, "kind")), reason, 'secret = "probe"')
        if check.kind in (CheckKind.MX, CheckKind.ROUND_TRIP) and not check.recipient:
            reason = f"{check.kind.value} needs a recipient of ours"
            yield Finding((("check", index, "recipient"),), reason, 'recipient = "probe@example.com"')
    if (config.monitor.certificate is None) != (config.monitor.key is None):
        reason = "certificate and key go together"
        yield Finding((("monitor", "certificate"), ("monitor", "key")), reason, "set both, or neither")
    yield from _terms(config)
    yield from _trust(config)


def _trust(config: Config) -> Iterator[Finding]:
    domains = [entry.domain.lower() for entry in config.trust]
    for index, domain in enumerate(domains):
        if domain in domains[:index]:
            first = domains.index(domain)
            locs: tuple[Loc, ...] = (("trust", index, "domain"), ("trust", first, "domain"))
            yield Finding(locs, f'trust[{first}] is of "{domain}" already', "put both into one")


def _terms(config: Config) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, terms in enumerate(config.terms):
        if terms.numerator > terms.denominator:
            reason = f"{terms.numerator}/{terms.denominator} is more than all"
            yield Finding((("terms", index, "numerator"), ("terms", index, "denominator")), reason)
        if terms.version in seen:
            reason = f'terms[{seen[terms.version]}] has the version "{terms.version}" already'
            yield Finding((("terms", index, "version"),), reason, "each version is its own")
        seen.setdefault(terms.version, index)
