"""The monitor's part of smartmail.toml: the collector, the checks, and what is promised."""

from datetime import date
from ipaddress import ip_address
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from smartmail.config.section import Section
from smartmail.config.values import (
    Day,
    HostName,
    HostOrAddress,
    ListenAddressOrOff,
    MonitorName,
    OptionalPath,
    Seconds,
    Switch,
    TcpAddress,
    WholeNumber,
    ZoneName,
    is_host_name,
    parse_address,
    wrong,
)
from smartmail.core.roster import CheckKind, CheckSpec
from smartmail.core.sla import Favour, Terms


def _ip_address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise wrong(f"{text!r} is no IP address", 'for example "192.0.2.25" or "2001:db8::25"') from None


def _resolver(text: str) -> str:
    if not text:
        return text
    try:
        ip_address(text)
    except ValueError:
        try:
            found = parse_address(text)
        except ValueError:
            found = None
        if not isinstance(found, TcpAddress) or not found.port:
            raise wrong(f"{text!r} is no address of a resolver", 'for example "127.0.0.1" or "[::1]:5353"') from None
        _ip_address(found.host)
    return text


def _domain_list(text: str) -> str:
    zone, found, entry = text.partition("=")
    if not is_host_name(zone) or (found and not is_host_name(entry)):
        raise wrong(f"{text!r} is no list", 'for example "dbl.example.org", or "zone=entry" with its test entry')
    return text


Text = Annotated[str, Field(max_length=200)]
IpAddress = Annotated[str, AfterValidator(_ip_address)]
ResolverAddress = Annotated[str, AfterValidator(_resolver)]
DomainList = Annotated[str, AfterValidator(_domain_list)]
Share = Annotated[WholeNumber, Field(ge=1, le=1_000_000)]
Minutes = Annotated[WholeNumber, Field(ge=0, le=527_040)]


class MonitorConfig(Section):
    """The collector of `smartmail monitor run`: agents at the locations hand in what they saw."""

    address: ListenAddressOrOff = "127.0.0.1:9326"
    """IP address and port of the collector (HTTPS). Empty: off."""
    certificate: OptionalPath = None
    """PEM file with the collector's certificate and its chain. Empty: a self-made one in data_dir."""
    key: OptionalPath = None
    """PEM file with its private key."""
    locations: tuple[MonitorName, ...] = ()
    """Where agents stand, for example ["berlin", "toronto", "here"]. Small letters, digits and -."""
    seal_seconds: Seconds = 300
    """Seconds between two sealings of the journal into compressed segments."""

    metrics_address: ListenAddressOrOff = "127.0.0.1:9327"
    """IP address and port of the monitor's own metrics for Prometheus. Empty: off."""

    @property
    def endpoint(self) -> TcpAddress | None:
        """`address` as (host, port); None when switched off."""
        return _tcp(self.address)

    @property
    def metrics_endpoint(self) -> TcpAddress | None:
        """`metrics_address` as (host, port); None when switched off."""
        return _tcp(self.metrics_address)


def _tcp(text: str) -> TcpAddress | None:
    found = parse_address(text) if text else None
    return found if isinstance(found, TcpAddress) else None


class CheckConfig(Section):
    """Something that agents look at every minute, as a customer would."""

    name: Annotated[MonitorName, Field(examples=["web-mail"])]
    """Name in reports, logs and metrics: small letters, digits and -; 40 at most. A name keeps its meaning for ever."""
    service: Annotated[MonitorName, Field(examples=["mail"])]
    """The service that it is a part of: what the SLA is measured on."""
    kind: Annotated[CheckKind, Field(examples=["https"])]
    """What is done."""
    host: Annotated[HostOrAddress, Field(examples=["mail.example.com"])]
    """Name or IP address of the server; for dns the domain."""
    port: Annotated[WholeNumber, Field(ge=0, le=65535)] = 0
    """TCP port; 0: the usual one of the kind."""
    locations: tuple[MonitorName, ...] = ()
    """Which locations do it; empty: all of monitor.locations."""
    sla: Switch = True
    """Does a failure cost the service its minute? false: it is measured and shown, no more."""
    secret: Text = ""
    """Name of the file in the agent's secrets folder that holds login and password, a line each."""
    tls_name: Text = ""
    """Name that the certificate must bear; empty: host."""
    starttls: Text = ""
    """certificate: the protocol before TLS (smtp, imap, pop3, sieve), empty for none. mx: "no" where the server has
    none."""
    recipient: Text = ""
    """mx, round-trip: an own mailbox."""
    sender: Text = ""
    """round-trip: the reverse-path; empty: the login."""
    token_secret: Text = ""
    """round-trip: name of the file whose second line is the key that messages are proved by, 16 octets or more."""
    way: Literal["", "submission", "smtps", "mx"] = ""
    """round-trip: how the message is sent; empty: submission."""
    outside: Literal["", "sender", "mailbox"] = ""
    """round-trip: which side belongs to a provider that is not ours, so that its failures are not our service's."""
    deadline: Text = ""
    """round-trip: seconds after which a message that is not there counts as failed, 780 at most; empty: 180."""
    receive: Text = ""
    """round-trip: "imap", or "intake" where the location's agent takes the message itself ([intake] of its agent.toml);
    empty: imap."""
    imap_host: Text = ""
    """round-trip: the IMAP server where the message is looked for; empty: host."""
    imap_port: Text = ""
    """round-trip: its port; empty: 993."""
    imap_starttls: Literal["", "yes"] = ""
    """round-trip: "yes" where TLS begins by STARTTLS, as on port 143."""
    imap_tls_name: Text = ""
    """round-trip: name that its certificate must bear; empty: imap_host."""
    imap_secret: Text = ""
    """round-trip: name of the file with its login; empty: secret."""
    junk: Text = ""
    """round-trip: the folder for unwanted mail, "-" where there is none; empty: Junk."""
    mailbox: Text = ""
    """imap, imaps: the folder that is selected; empty: INBOX."""
    auth: Text = ""
    """pop3s: "plain" for AUTH PLAIN in place of USER and PASS."""
    path: Text = ""
    """https: empty: /."""
    status: Text = ""
    """https: the status that is right; empty: 200."""
    text: Text = ""
    """https: words that the answer must hold."""
    mx: Text = ""
    """dns: the MX hosts there must be, separated by blanks."""
    dnssec: Text = ""
    """dns: "yes" where the zone is signed and the signatures must be fresh."""
    resolver: Text = ""
    """Address of the resolver to ask; empty: the location's own."""
    family: Text = ""
    """"4" or "6": only this; empty: what the name has."""
    warn_days: Text = ""
    """certificate: days before its end that are worth a warning; empty: 14."""
    warn_hours: Text = ""
    """dns: hours before the end of the zone's signatures that are worth a warning; empty: 48."""

    def spec(self, locations: tuple[str, ...]) -> CheckSpec:
        """The core's value. locations: all there are."""
        fixed = {"name", "service", "kind", "host", "port", "locations", "sla"}
        options = {key: value for key, value in self.model_dump(exclude=fixed).items() if value}
        where = self.locations or locations
        return CheckSpec(
            self.name, self.service, self.kind, self.host, self.port or USUAL_PORT[self.kind], where, self.sla, options
        )


USUAL_PORT = {
    CheckKind.MX: 25,
    CheckKind.SUBMISSION: 587,
    CheckKind.SMTPS: 465,
    CheckKind.IMAPS: 993,
    CheckKind.IMAP: 143,
    CheckKind.POP3S: 995,
    CheckKind.SIEVE: 4190,
    CheckKind.HTTPS: 443,
    CheckKind.DNS: 53,
    CheckKind.CERTIFICATE: 443,
    CheckKind.ROUND_TRIP: 587,
    CheckKind.TCP: 443,
}


class TrustConfig(Section):
    """A domain that is looked at each hour as other mail servers do. Advisory: no part of any SLA."""

    domain: Annotated[HostName, Field(examples=["example.com"])]
    """The domain."""
    selectors: tuple[HostName, ...] = ()
    """DKIM selectors that mail is signed with, for example ["s2026"]."""
    senders: tuple[IpAddress, ...] = ()
    """IP addresses that mail leaves from, besides those of the MX hosts: for their names and for block lists."""
    block_lists: tuple[HostName, ...] = ()
    """DNS block lists to ask for the addresses, by their zones. Nobody else is asked."""
    domain_lists: tuple[DomainList, ...] = ()
    """DNS block lists to ask for the domain: "zone", or "zone=entry" where its test entry is not "test"."""
    connect: Switch = True
    """Speak to the MX hosts' port 25, for the certificates they serve."""
    resolver: ResolverAddress = ""
    """The resolver to ask, "address" or "address:port"; empty: the system's. Block lists refuse public ones."""


class TermsConfig(Section):
    """What is promised, from a day on. Add a further one to change the terms; those in force are never edited."""

    version: Annotated[Text, Field(min_length=1, examples=["2026-01"])]
    """Name of these terms, printed on every report."""
    effective: Day = "2000-01-01"
    """They count from the first month on that begins on this day or later."""
    zone: ZoneName = "UTC"
    """Time zone of the month, for example "Europe/London"."""
    numerator: Share = 999
    """Up time promised, as a fraction: 999 of 1000."""
    denominator: Share = 1000
    """See numerator."""
    minimum_reporters: Annotated[WholeNumber, Field(ge=1, le=100)] = 2
    """Locations that must have seen a check up for its minute to be up; at most a majority of those configured."""
    notice_minutes: Minutes = 2880
    """How long before its start maintenance must be announced to be left out."""
    cap_minutes: Annotated[WholeNumber, Field(ge=-1, le=44_700)] = -1
    """Minutes of maintenance that a month leaves out at most; -1: no cap."""
    indeterminate: Literal["customer", "provider"] = "customer"
    """Who wins where the unknown minutes would decide."""
    credit_months: Annotated[WholeNumber, Field(ge=1, le=12)] = 1
    """Months added to each subscription for a month below the promise."""
    trial_credited: Switch = False
    """Are subscriptions on trial credited too?"""
    grace_minutes: Minutes = 4320
    """How long after its end a month may be closed: agents that were cut off hand in late."""
    restate_days: Annotated[WholeNumber, Field(ge=0, le=3660)] = 90
    """Days after its end within which a closed month may be restated."""

    def terms(self) -> Terms:
        """The core's value."""
        return Terms(
            self.version,
            date.fromisoformat(self.effective),
            self.zone,
            self.numerator,
            self.denominator,
            self.minimum_reporters,
            self.notice_minutes,
            None if self.cap_minutes < 0 else self.cap_minutes,
            Favour(self.indeterminate),
            self.credit_months,
            self.trial_credited,
            self.grace_minutes,
            self.restate_days,
        )
