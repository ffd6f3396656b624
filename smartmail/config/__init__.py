"""The configuration: one TOML file, read into frozen values; all that is wrong with it said at once.

values.py    addresses, networks, paths
zones.py     time zones, from the tzdata package
monitor.py   the monitor's part of the model
backup_*.py  the backup's part: its kinds of values, its model, its checks
backup.py    the backup's part -> the core's plan
model.py     every key, its default, its bounds and its documentation
checks.py    what no single value can tell
problems.py  errors in plain words
load.py      file + environment + credentials -> Config
sample.py    the commented sample, the reference and the JSON Schema, made from the model
"""

from smartmail.config.backup import backup_plan, locations
from smartmail.config.backup_model import BackupConfig, DrillConfig, JobConfig, RepositoryConfig
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
    "BackupConfig",
    "CheckConfig",
    "Config",
    "ConfigError",
    "ContentConfig",
    "DrillConfig",
    "JobConfig",
    "LimitConfig",
    "ListenerConfig",
    "Loaded",
    "LogConfig",
    "MaildropConfig",
    "MetricsConfig",
    "MonitorConfig",
    "Problem",
    "RepositoryConfig",
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
    "backup_plan",
    "env_name",
    "flatten",
    "is_loopback",
    "json_schema",
    "load",
    "locations",
    "parse_address",
    "read",
    "reference",
    "sample_toml",
    "toml_value",
]
