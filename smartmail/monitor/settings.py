"""An agent's own settings: a folder that `smartmail agent enrol` fills.

agent.toml   what stands here
agent.key    the private key, 0600
ca.pem       whom to trust for the collector, where enrol was given one
probe-ca.pem whom probes trust, where enrol was given one
roster.json  the rosters as last heard
spool.db     samples that no collector has yet
secrets/     one file each for what probes log in with
"""

import json
import os
import secrets
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from smartmail.core.roster import NAME
from smartmail.monitor.control import Target, parse_target

SETTINGS_FILE: Final = "agent.toml"
KEY_FILE: Final = "agent.key"
CA_FILE: Final = "ca.pem"
PROBE_CA_FILE: Final = "probe-ca.pem"
ROSTER_FILE: Final = "roster.json"
SECRETS: Final = "secrets"
_KEYS: Final = frozenset(
    {"name", "location", "collectors", "ca", "probe_ca", "key", "secrets", "control", "metrics", "intake"}
)


class SettingsError(Exception):
    """The settings cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class IntakeAt:
    """Where this location takes the messages of its round trips itself (receive = "intake"). addresses: who may be
    written to. secret: name of the file whose password proves messages, as the checks' token_secret."""

    at: Target
    addresses: tuple[str, ...]
    secret: str


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """One agent. ca: whom it trusts for the collector, probe_ca: whom its probes trust; None: the system's authorities.
    metrics: where it tells Prometheus (port 0: any free one), None: nowhere. Paths are absolute or as given by the
    folder."""

    folder: Path
    name: str
    location: str
    collectors: tuple[str, ...]
    ca: Path | None = None
    key: Path = Path(KEY_FILE)
    secrets: Path = Path(SECRETS)
    control: tuple[Target, ...] = ()
    probe_ca: Path | None = None
    metrics: Target | None = None
    intake: IntakeAt | None = None

    @property
    def roster_file(self) -> Path:
        """Where the rosters are kept."""
        return self.folder / ROSTER_FILE


def check_collector(url: str) -> str:
    """https://host[:port] without more, as it is to be used. Raises SettingsError."""
    try:
        parts = urlsplit(url.rstrip("/"))
        fits = parts.scheme == "https" and parts.hostname and parts.username is None and parts.port != 0
    except ValueError:
        fits = False
    if not fits or parts.path or parts.query or parts.fragment:
        raise SettingsError(f"{url!r} is no collector: write https://host or https://host:port")
    return f"https://{parts.netloc}"


def load_settings(folder: Path) -> AgentSettings:
    """Read agent.toml. Raises SettingsError."""
    file = folder / SETTINGS_FILE
    try:
        value = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{file} is not there: no agent was enrolled in this folder") from None
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{file}: {error}") from error
    try:
        return _settings(folder, value)
    except (KeyError, TypeError, ValueError, SettingsError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise SettingsError(f"{file}: {what}") from None


def write_settings(settings: AgentSettings) -> None:
    """Write agent.toml. Raises OSError."""
    lines = [
        "# Written by `smartmail agent enrol`; read when the agent starts. Paths are relative to this folder.",
        f"name = {_text(settings.name)}",
        f"location = {_text(settings.location)}",
        f"collectors = [{', '.join(map(_text, settings.collectors))}]",
        f"key = {_text(str(settings.key))}",
        f"secrets = {_text(str(settings.secrets))}",
        "# Hosts apart from what is monitored, host:port. None of them reachable: this location abstains.",
        f"control = [{', '.join(_text(str(one)) for one in settings.control)}]",
        "# Metrics for Prometheus over HTTP, for example 127.0.0.1:9328. Empty: off.",
        f"metrics = {_text(str(settings.metrics or ''))}",
    ]
    if settings.ca is not None:
        lines.append(f"ca = {_text(str(settings.ca))}")
    if settings.probe_ca is not None:
        lines += [
            "# Whom probes trust, instead of the system's authorities.",
            f"probe_ca = {_text(str(settings.probe_ca))}",
        ]
    if settings.intake is not None:
        listed = ", ".join(map(_text, settings.intake.addresses))
        lines += [
            "[intake]",
            f"address = {_text(str(settings.intake.at))}",
            f"addresses = [{listed}]",
            f"token_secret = {_text(settings.intake.secret)}",
        ]
    write_whole(settings.folder / SETTINGS_FILE, "\n".join((*lines, "")).encode())


def write_whole(file: Path, content: bytes, mode: int = 0o600) -> None:
    """All of it or nothing, on the disk when this returns. Raises OSError."""
    part = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
        folder = os.open(file.parent, os.O_RDONLY)  # else the new name may be lost with the power
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def _settings(folder: Path, value: dict[str, object]) -> AgentSettings:
    if unknown := sorted(value.keys() - _KEYS):
        raise SettingsError(f"unknown keys: {', '.join(unknown)}")
    name, location = _string(value["name"]), _string(value["location"])
    for what, text in (("name", name), ("location", location)):
        if not NAME.match(text):
            raise SettingsError(f"{what}: small letters, digits and -, 40 at most")
    collectors = tuple(check_collector(url) for url in _strings(value["collectors"]))
    if not collectors:
        raise SettingsError("collectors: at least one")
    ca = folder / _string(value["ca"]) if "ca" in value else None
    return AgentSettings(
        folder,
        name,
        location,
        collectors,
        ca,
        folder / _string(value.get("key", KEY_FILE)),
        folder / _string(value.get("secrets", SECRETS)),
        tuple(parse_target(one) for one in _strings(value.get("control", []))),
        folder / _string(value["probe_ca"]) if "probe_ca" in value else None,
        _listening("metrics", _string(value.get("metrics", ""))),
        _intake(value["intake"]) if "intake" in value else None,
    )


def _intake(value: object) -> IntakeAt:
    if not isinstance(value, dict) or value.keys() != {"address", "addresses", "token_secret"}:
        raise SettingsError("intake: a table with address, addresses and token_secret")
    at = _listening("intake", _string(value["address"]))
    addresses, secret = tuple(_strings(value["addresses"])), _string(value["token_secret"])
    if at is None or not addresses or not NAME.match(secret):
        raise SettingsError("intake: needs an address to listen on, addresses of ours, and the name of a secret")
    return IntakeAt(at, addresses, secret)


def _listening(what: str, text: str) -> Target | None:
    """port 0 is any free one."""
    host, found, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not text:
        return None
    if not found or not host or not (port.isascii() and port.isdecimal()) or int(port) > 65_535:
        raise SettingsError(f"{what}: {text!r} is no address and port, as in 127.0.0.1:9328")
    return Target(host, int(port))


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise SettingsError(f"{value!r} should be a text")
    return value


def _strings(value: object) -> list[str]:
    if not isinstance(value, list):
        raise SettingsError(f"{value!r} should be a list of texts")
    return [_string(one) for one in value]


def _text(value: str) -> str:
    """A TOML basic string: the escapes of JSON are among its own."""
    return json.dumps(value)
