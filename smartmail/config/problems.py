"""What is wrong with a configuration, in plain words: where, why, and what to write instead."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from smartmail.config.model import Config

Loc = tuple[str | int, ...]
"""Where a value stands, as pydantic says it: ("listener", 1, "tls")."""

_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong. `file` is a path, or "environment"; `line` is 0 where unknown; `key` counts from 0:
    "listener[1].tls"."""

    file: str
    key: str
    reason: str
    hint: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        key = f" {self.key}:" if self.key else ""
        return f"{where}:{key} {self.reason}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check finds. `locs`: the values it comes from; the first is where it is reported."""

    locs: tuple[Loc, ...]
    reason: str
    hint: str = ""


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds all that is wrong, never only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


def key_path(loc: Sequence[str | int]) -> str:
    """("listener", 1, "tls") -> "listener[1].tls"."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def toml_value(value: object) -> str:
    """A value as TOML. Secrets come out as "***" (or empty)."""
    if value is None:
        return '""'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, SecretStr):
        return '"***"' if value.get_secret_value() else '""'
    if isinstance(value, Enum):
        return toml_value(value.value)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + " }" if value else "{}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, str | Path | IPv4Network | IPv6Network):
        return json.dumps(str(value), ensure_ascii=False)
    raise TypeError(f"no TOML for {type(value).__name__}")


def section_of(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """The model behind a top-level field, and whether it is a list of tables."""
    annotation: Any = field.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    models = (arg for arg in get_args(annotation) if isinstance(arg, type) and issubclass(arg, BaseModel))
    inner = next(models, None)
    return inner, inner is not None


def fields_at(loc: Sequence[str | int]) -> Mapping[str, FieldInfo]:
    """The keys known in the table at `loc`; empty where no table can be."""
    fields: Mapping[str, FieldInfo] = Config.model_fields
    for part in loc:
        if isinstance(part, int):
            continue
        found = fields.get(part)
        model = section_of(found)[0] if found else None
        fields = model.model_fields if model else {}
    return fields


def example(name: str, field: FieldInfo) -> str:
    """A line that would be right, or "" where there is none to give."""
    if section_of(field)[0]:
        return ""
    value = next(iter(field.examples or ()), None) or field.default
    return "" if value in (None, ()) or isinstance(value, SecretStr) else f"{name} = {toml_value(value)}"


def closest(word: str, known: Sequence[str]) -> str:
    """The known word most like `word`, or ""."""
    return next(iter(get_close_matches(word.lower(), known, n=1, cutoff=0.6)), "")


def explain(error: ErrorDetails) -> tuple[str, str]:
    """One of pydantic's errors as (reason, hint)."""
    loc, value, context = error["loc"], error["input"], error.get("ctx", {})
    name = str(loc[-1]) if loc else ""
    field = fields_at(loc[:-1]).get(name)
    shown = "" if name == "url" else f", not {_shown(value)}"
    hint = f"for example {line}" if field and (line := example(name, field)) else ""
    match error["type"]:
        case "smartmail":
            return str(context["reason"]), str(context["hint"])
        case "extra_forbidden":
            return _unknown(name, loc, value)
        case "missing":
            return "is missing and has no default", hint
        case "int_type" | "int_parsing" | "int_from_float":
            return f"must be a whole number{shown}", hint
        case "bool_type" | "bool_parsing":
            return f"must be true or false, without quotes{shown}", hint
        case "string_type":
            return f"must be text in quotes{shown}", hint
        case "path_type":
            return f"must be a path in quotes{shown}", hint
        case "greater_than_equal":
            return f"must be at least {context['ge']}{shown}", hint
        case "less_than_equal":
            return f"must be at most {context['le']}{shown}", hint
        case "literal_error" | "enum":
            return _not_in_list(value, str(context["expected"]))
        case "string_pattern_mismatch":
            return f"may hold small letters, digits, - and _ only, 32 at most{shown}", hint
        case "model_type" | "model_attributes_type" | "tuple_type" | "too_long":
            return _shape(error)
    return error["msg"], hint


def _unknown(name: str, loc: Loc, value: object) -> tuple[str, str]:
    known = list(fields_at(loc[:-1]))
    if len(loc) == 1 and isinstance(value, dict | list):
        near = closest(name, known)
        return "unknown section", f"did you mean {near}?" if near else f"known: {', '.join(known)}"
    if near := closest(name, known):
        return "unknown key", f"did you mean {near}?"
    if elsewhere := [key for key in Config.model_fields if name in fields_at((key,))]:
        return "unknown key", f"it belongs to [{elsewhere[0]}]"
    return "unknown key", f"known here: {', '.join(known)}"


def _not_in_list(value: object, expected: str) -> tuple[str, str]:
    words = [word.strip("' ") for word in expected.replace(" or ", ", ").split(",")]
    near = closest(value, words) if isinstance(value, str) else ""
    listed = ", ".join(f'"{word}"' for word in words)
    return f"must be one of {listed}, not {_shown(value)}", f'did you mean "{near}"?' if near else ""


_NETWORKS = '["192.0.2.0/24"]'
_LISTS = {
    "locations": '["berlin", "toronto"]',
    "selectors": '["s2026"]',
    "senders": '["192.0.2.25"]',
    "block_lists": '["list.example.org"]',
    "domain_lists": '["list.example.org"]',
    "times": '["02:00"]',
    "check_times": '["05:00"]',
    "weekdays": '["mon", "thu"]',
    "check_weekdays": '["sat"]',
    "paths": '["/srv/vmail"]',
    "mounted": '["/srv"]',
    "excludes": '["*.tmp"]',
    "users": '["*@example.com"]',
    "options": '["rest.connections=8"]',
}
"""Examples of lists of plain values, by key; the others are networks."""


def _shape(error: ErrorDetails) -> tuple[str, str]:
    loc, value = error["loc"], error["input"]
    name = str(loc[0]) if loc else ""
    field = Config.model_fields.get(name)
    model, many = section_of(field) if field else (None, False)
    is_table = len(loc) == 1 or (len(loc) == 2 and isinstance(loc[1], int))
    if not (model and is_table):
        hint = f"for example {loc[-1]} = {_LISTS.get(str(loc[-1]), _NETWORKS)}"
        return f"must be a list in square brackets, not {_shown(value)}", hint
    if error["type"] == "too_long":
        return f"there are more than {error.get('ctx', {}).get('max_length', 64)}", ""
    if many:
        return f"must be a list of tables, not {_shown(value)}", f"write [[{name}]], with two brackets"
    return f"must be a table, not {_shown(value)}", f"write [{name}]"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    text = toml_value(value) if isinstance(value, bool | int | str) else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
