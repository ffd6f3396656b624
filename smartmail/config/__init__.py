"""The configuration: one TOML file, read into frozen values; all that is wrong with it said at once.

values.py    addresses, networks, paths
zones.py     time zones, from the tzdata package
monitor.py   the monitor's part of the model
model.py     every key, its default, its bounds and its documentation
checks.py    what no single value can tell
problems.py  errors in plain words
load.py      file + environment + credentials -> Config
sample.py    the commented sample, the reference and the JSON Schema, made from the model
"""

from smartmail.config.load import Loaded, env_name, flatten, load, read
from smartmail.config.model import (
    AuthConfig,
    Config,
    ContentConfig,
    LimitConfig,
    ListenerConfig,
    LogConfig,
    MaildropConfig,
    MetricsConfig,
    SenderConfig,
    ServerConfig,
    StoreConfig,
    TimeoutsConfig,
    TlsConfig,
    UpstreamConfig,
)
from smartmail.config.monitor import CheckConfig, MonitorConfig, TermsConfig, TrustConfig
from smartmail.config.problems import ConfigError, Problem, toml_value
from smartmail.config.sample import json_schema, reference, sample_toml
from smartmail.config.values import TcpAddress, UnixAddress, is_loopback, parse_address

__all__ = [
    "AuthConfig",
    "CheckConfig",
    "Config",
    "ConfigError",
    "ContentConfig",
    "LimitConfig",
    "ListenerConfig",
    "Loaded",
    "LogConfig",
    "MaildropConfig",
    "MetricsConfig",
    "MonitorConfig",
    "Problem",
    "SenderConfig",
    "ServerConfig",
    "StoreConfig",
    "TcpAddress",
    "TermsConfig",
    "TimeoutsConfig",
    "TlsConfig",
    "TrustConfig",
    "UnixAddress",
    "UpstreamConfig",
    "env_name",
    "flatten",
    "is_loopback",
    "json_schema",
    "load",
    "parse_address",
    "read",
    "reference",
    "sample_toml",
    "toml_value",
]
