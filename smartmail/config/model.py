"""What may stand in smartmail.toml, said once. The docstring under each key is its documentation: the
commented sample, the reference and the JSON Schema are made from them.

Frozen: a reload makes a new value, it never changes one.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

from smartmail.config.backup_model import BackupConfig, DrillConfig, JobConfig, RepositoryConfig
from smartmail.config.monitor import CheckConfig, MonitorConfig, TermsConfig, TrustConfig
from smartmail.config.section import Section
from smartmail.config.values import (
    HostName,
    ListenAddress,
    ListenAddressOrOff,
    NeededPath,
    NetworkField,
    OptionalPath,
    Seconds,
    Switch,
    TcpAddress,
    UnixAddress,
    UpstreamAddress,
    WholeNumber,
    parse_address,
)
from smartmail.core.limits import Limit, Mode, Scope, Unit
from smartmail.core.sla import Terms

MAX_MESSAGE_SIZE = 52_428_800
"""Octets: 50 MiB."""


class ServerConfig(Section):
    """Who we are, where our data is, and the bounds every session has."""

    hostname: HostName = "localhost"
    """Our name in the greeting, in EHLO to the upstream and in the self-made certificate."""
    data_dir: NeededPath = Path("var")
    """Folder of the database, the self-made certificate and the embedded maildrop. Made if it is missing."""
    max_message_size: Annotated[WholeNumber, Field(ge=1024, le=10_737_418_240)] = MAX_MESSAGE_SIZE
    """Largest message in octets, advertised as SIZE (RFC 1870)."""
    max_recipients: Annotated[WholeNumber, Field(ge=1, le=100_000)] = 1000
    """Recipients of one transaction; the next RCPT is answered 452 4.5.3. RFC 5321 asks for 100 at least."""
    max_sessions: Annotated[WholeNumber, Field(ge=1, le=1_000_000)] = 10_000
    """Sessions at the same time, over all listeners; the next connection is answered 421 4.3.2."""
    max_sessions_per_client: Annotated[WholeNumber, Field(ge=1, le=1_000_000)] = 100
    """Sessions at the same time from one client address (IPv6: from one /64)."""
    max_sessions_per_account: Annotated[WholeNumber, Field(ge=1, le=1_000_000)] = 50
    """Sessions at the same time that are logged in as one account."""
    max_errors: Annotated[WholeNumber, Field(ge=1, le=1000)] = 10
    """Refused commands of one session, after which it is closed with 421."""
    max_noops: Annotated[WholeNumber, Field(ge=1, le=10_000)] = 50
    """NOOP, RSET, VRFY and the like of one session without a transaction, after which it is closed with
    421."""
    drain_seconds: Annotated[WholeNumber, Field(ge=0, le=3600)] = 30
    """Seconds that running transactions get to finish when the relay stops."""
    min_data_rate: Annotated[WholeNumber, Field(ge=0, le=1_000_000)] = 100
    """Octets per second that a client must keep up while it sends a message; 0 asks for nothing."""
    greeting_delay_ms: Annotated[WholeNumber, Field(ge=0, le=30_000)] = 0
    """Milliseconds before the greeting; whoever talks in this time is refused with 554 (RFC 5321 section
    4.3.1)."""


class TimeoutsConfig(Section):
    """Seconds after which a silent peer is given up (RFC 5321 section 4.5.3.2)."""

    command: Seconds = 300
    """Waiting for the client's next command."""
    data_block: Seconds = 180
    """Waiting for the client's next piece of a message."""
    upstream_connect: Seconds = 30
    """Waiting for the connection to the upstream."""
    upstream_greeting: Seconds = 300
    """Waiting for the upstream's greeting and its replies to EHLO, STARTTLS, XCLIENT."""
    upstream_mail: Seconds = 300
    """Waiting for the upstream's reply to MAIL."""
    upstream_rcpt: Seconds = 300
    """Waiting for the upstream's reply to RCPT."""
    upstream_data: Seconds = 120
    """Waiting for the upstream's 354, and for it to take the next piece of a message."""
    upstream_dot: Seconds = 600
    """Waiting for the upstream's reply to the final dot. Too short a time makes duplicates (RFC 1047)."""


class ListenerConfig(Section):
    """A door that clients connect to."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", examples=["submission"])]
    """Name in logs and metrics: small letters, digits, - and _; 32 at most."""
    role: Annotated[Literal["submission", "relay"], Field(examples=["submission"])]
    """submission: customers log in to send (RFC 6409). relay: other mail servers deliver, without a login."""
    address: Annotated[ListenAddress, Field(examples=["127.0.0.1:2587"])]
    """IP address and port to listen on; port 0 takes any free one."""
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    """starttls: offered (on submission: needed before AUTH). implicit: from the first octet (RFC 8314).
    none: clear text; on submission only where nobody else can listen in, on a loopback address."""
    trusted_networks: tuple[NetworkField, ...] = ()
    """Relay only: clients of these networks may send to any address, without a login."""
    accept_incoming: Switch = False
    """Relay only: clients of all other networks may send to our own domains."""
    proxy_protocol_from: tuple[NetworkField, ...] = ()
    """Networks of load balancers: from these a PROXY v1 or v2 header is required, from all others it is
    refused."""

    @property
    def endpoint(self) -> TcpAddress:
        """`address` as (host, port)."""
        return _tcp(self.address)


class TlsConfig(Section):
    """The certificate of all listeners."""

    certificate: OptionalPath = None
    """PEM file with the certificate and its chain. Empty: a self-made one in data_dir. systemd credential:
    tls.certificate."""
    key: OptionalPath = None
    """PEM file with the private key, not encrypted, readable by nobody else. systemd credential: tls.key."""


class AuthConfig(Section):
    """Who checks passwords."""

    backend: Literal["local", "dovecot"] = "local"
    """local: our own accounts, argon2. dovecot: Dovecot's authentication socket, with every mechanism it
    offers."""
    socket: OptionalPath = None
    """UNIX socket of Dovecot's auth service, for example /var/spool/postfix/private/auth."""
    cache_seconds: Annotated[WholeNumber, Field(ge=0, le=3600)] = 60
    """Seconds that a proven password is remembered (as a keyed hash); 0 remembers nothing."""
    workers: Annotated[WholeNumber, Field(ge=1, le=64)] = 2
    """Threads that compute argon2."""
    max_waiting: Annotated[WholeNumber, Field(ge=1, le=100_000)] = 200
    """Logins that may wait for a worker; the next is answered 454 4.7.0."""


class UpstreamConfig(Section):
    """The mail server behind us: mail that we let through is handed to it."""

    protocol: Literal["smtp", "lmtp"] = "smtp"
    """The language it speaks."""
    address: UpstreamAddress = ""
    """"host:port", "[IPv6]:port" or "unix:/path". Empty: the embedded maildrop, where mail lands in a
    Maildir."""
    identity: Literal["auto", "xclient", "xforward", "none"] = "auto"
    """How the upstream learns who the client is. auto: XCLIENT if it offers that to us, else XFORWARD, else
    nothing. xclient, xforward: only that one."""
    tls: Literal["none", "opportunistic", "required"] = "none"
    """STARTTLS towards the upstream: never, if it is offered (certificate not checked), or always and
    checked."""
    max_connections: Annotated[WholeNumber, Field(ge=1, le=10_000)] = 200
    """Connections to the upstream at the same time; further transactions wait."""
    max_idle: Annotated[WholeNumber, Field(ge=0, le=10_000)] = 50
    """Connections kept open for the next transaction; 0 closes each after its use."""
    max_idle_seconds: Seconds = 60
    """Seconds after which an unused connection is closed. Keep it below the upstream's own timeout."""
    max_age_seconds: Annotated[WholeNumber, Field(ge=1, le=86_400)] = 300
    """Seconds after which a connection is not used again."""
    max_uses: Annotated[WholeNumber, Field(ge=1, le=1_000_000)] = 1000
    """Transactions after which a connection is not used again."""

    @property
    def endpoint(self) -> TcpAddress | UnixAddress | None:
        """`address` as (host, port) or socket path; None for the embedded maildrop."""
        return parse_address(self.address) if self.address else None


class MaildropConfig(Section):
    """The embedded upstream: a small SMTP server that writes Maildir. Used when upstream.address is empty."""

    directory: OptionalPath = None
    """Folder of the Maildirs. Empty: maildrop within data_dir."""
    address: ListenAddress = "127.0.0.1:0"
    """Loopback address and port it listens on; port 0 takes any free one."""
    max_message_size: Annotated[WholeNumber, Field(ge=1024, le=10_737_418_240)] = MAX_MESSAGE_SIZE
    """Largest message in octets. The maildrop holds a whole message in memory."""

    @property
    def endpoint(self) -> TcpAddress:
        """`address` as (host, port)."""
        return _tcp(self.address)


class StoreConfig(Section):
    """The database of accounts, events and counters."""

    url: SecretStr = SecretStr("")
    """SQLAlchemy URL. Empty: SQLite in data_dir. A URL with a password does not belong here: see url_file.
    systemd credential: store.url."""
    url_file: OptionalPath = None
    """File that holds the URL, readable by nobody else."""


class MetricsConfig(Section):
    """Metrics for Prometheus over HTTP."""

    address: ListenAddressOrOff = "127.0.0.1:9325"
    """IP address and port to listen on. Empty: off."""

    @property
    def endpoint(self) -> TcpAddress | None:
        """`address` as (host, port); None when switched off."""
        return _tcp(self.address) if self.address else None


class LogConfig(Section):
    """The operator's log, on standard error."""

    format: Literal["console", "json"] = "console"
    """console: for reading. json: one object a line."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least serious line that is written. Transactions and logins are info."""


class ContentConfig(Section):
    """Messages are never looked into; only what ends a line is minded."""

    bare_newlines: Literal["reject", "normalise"] = "reject"
    """A CR or LF alone is how messages are smuggled. reject: refuse the message with 550. normalise: put a
    blank in its place (in DATA; BDAT is refused all the same). Neither is ever passed on as it came."""


class SenderConfig(Section):
    """Which reverse-path a logged-in customer may use."""

    must_be_owned: Switch = True
    """Only the account's own address and its aliases."""
    allow_null: Switch = True
    """Also the null reverse-path <>, which read receipts and automatic replies use."""


class LimitConfig(Section):
    """A limit for everybody. Those of an account come from its plan, in the store."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", examples=["client-messages"])]
    """Name in logs, metrics and replies: small letters, digits, - and _; 32 at most."""
    scope: Annotated[Scope, Field(examples=["client"])]
    """Whose budget it is: each account, customer, domain, client address (IPv6: /64) or recipient domain has
    its own."""
    unit: Annotated[Unit, Field(examples=["messages"])]
    """What is counted."""
    quota: Annotated[WholeNumber, Field(ge=1, le=2**50, examples=[600])]
    """How many of the unit in each period."""
    period: Annotated[WholeNumber, Field(ge=1, le=31_622_400, examples=[3600])]
    """Seconds."""
    burst: Annotated[WholeNumber, Field(ge=0, le=2**50)] = 0
    """0: at most quota in any period. Above 0: quota in each period on average, and at most this many at
    once."""
    mode: Mode = Mode.ENFORCE
    """off: not looked at. shadow: counted and reported, refuses nothing. enforce: refuses."""

    def limit(self) -> Limit:
        """The core's value."""
        return Limit(self.name, self.scope, self.unit, self.quota, self.period, self.burst, self.mode)


def _embedded_listeners() -> tuple[ListenerConfig, ...]:
    loopback = {"trusted_networks": ("127.0.0.0/8", "::1/128"), "accept_incoming": True}
    return (
        ListenerConfig(name="submission", role="submission", address="127.0.0.1:2587"),
        ListenerConfig.model_validate(
            {"name": "relay", "role": "relay", "address": "127.0.0.1:2525", **loopback},
        ),
    )


class Config(Section):
    """The whole file. Without one, these defaults are the product in a nutshell: no root, no other server."""

    server: ServerConfig = Field(default_factory=ServerConfig)
    timeouts: TimeoutsConfig = Field(default_factory=TimeoutsConfig)
    listener: Annotated[tuple[ListenerConfig, ...], Field(max_length=64)] = Field(default_factory=_embedded_listeners)
    tls: TlsConfig = Field(default_factory=TlsConfig)
    auth: AuthConfig = Field(default_factory=AuthConfig)
    upstream: UpstreamConfig = Field(default_factory=UpstreamConfig)
    maildrop: MaildropConfig = Field(default_factory=MaildropConfig)
    store: StoreConfig = Field(default_factory=StoreConfig)
    metrics: MetricsConfig = Field(default_factory=MetricsConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    content: ContentConfig = Field(default_factory=ContentConfig)
    sender: SenderConfig = Field(default_factory=SenderConfig)
    limit: Annotated[tuple[LimitConfig, ...], Field(max_length=64)] = ()
    monitor: MonitorConfig = Field(default_factory=MonitorConfig)
    check: Annotated[tuple[CheckConfig, ...], Field(max_length=20_000)] = ()
    trust: Annotated[tuple[TrustConfig, ...], Field(max_length=256)] = ()
    terms: Annotated[tuple[TermsConfig, ...], Field(max_length=64)] = (TermsConfig(version="default"),)
    backup: BackupConfig = Field(default_factory=BackupConfig)
    drill: DrillConfig = Field(default_factory=DrillConfig)
    repository: Annotated[tuple[RepositoryConfig, ...], Field(max_length=256)] = ()
    job: Annotated[tuple[JobConfig, ...], Field(max_length=1024)] = ()

    @property
    def sla_terms(self) -> tuple[Terms, ...]:
        """What was promised when, as the core wants it."""
        return tuple(entry.terms() for entry in self.terms)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits for everybody, as the core wants them."""
        return tuple(entry.limit() for entry in self.limit)

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL: the configured one, or SQLite in data_dir. May hold a password: never log it."""
        return self.store.url.get_secret_value() or f"sqlite:///{self.server.data_dir / 'smartmail.db'}"

    @property
    def maildrop_directory(self) -> Path:
        """Where the embedded upstream puts mail."""
        return self.maildrop.directory or self.server.data_dir / "maildrop"


def _tcp(text: str) -> TcpAddress:
    address = parse_address(text)
    if not isinstance(address, TcpAddress):
        raise ValueError(f"{text!r} is no TCP address")
    return address
