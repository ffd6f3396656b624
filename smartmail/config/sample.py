"""The commented sample, the reference page and the JSON Schema: all three are the model, printed."""

import inspect
import textwrap
from enum import Enum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from smartmail.config.load import CREDENTIALS, env_name
from smartmail.config.model import Config
from smartmail.config.problems import section_of, toml_value

_WIDTH = 100

_HEAD = """\
Smart Mail. Every key is here with its default; take the # away before those you change.
Relative paths begin at this file's folder. `smartmail config check` tells all that is wrong with it.
"""


_SOURCES = f"""\
One TOML file: `--config PATH`, else `$SMARTMAIL_CONFIG`, else `smartmail.toml` in the working directory,
else the defaults below. Unknown keys are refused. Relative paths begin at the file's folder.

What counts, strongest first: the environment, the file, a systemd credential, the default. The variable
of a key is `SMARTMAIL_SECTION__KEY`, for example `{env_name("server", "hostname")}`; lists of tables
stand in the file only. Credentials (`LoadCredential=`):
{", ".join(f"`{section}.{key}`" for section, key in CREDENTIALS)}."""


def sample_toml() -> str:
    """A configuration file that says nothing but the defaults, with every key explained."""
    parts = [_comment(_HEAD), ""]
    defaults = Config()
    for name, info in Config.model_fields.items():
        model, many = section_of(info)
        if model is None:
            continue
        parts.append(_comment(_one_line(inspect.getdoc(model))))
        if many:
            parts += [_comment(_keys_text(model)), *_entries(name, model, getattr(defaults, name))]
        else:
            parts += [f"[{name}]", *(_key(key, field) for key, field in model.model_fields.items()), ""]
    return "\n".join(parts).rstrip() + "\n"


def _entries(name: str, model: type[BaseModel], defaults: tuple[BaseModel, ...]) -> list[str]:
    if not defaults:
        lines = [f"[[{name}]]"]
        lines += [f"{key} = {toml_value(_shown(field))}" for key, field in model.model_fields.items()]
        return [*(f"#{line}" for line in lines), ""]
    return [
        "\n".join(
            [f"[[{name}]]"]
            + [
                f"{key} = {toml_value(getattr(entry, key))}"
                for key, field in model.model_fields.items()
                if field.is_required() or getattr(entry, key) != field.default
            ]
            + [""]
        )
        for entry in defaults
    ]


def _key(name: str, field: FieldInfo) -> str:
    return f"{_comment(_one_line(field.description))}\n#{name} = {toml_value(_example(field))}"


def _keys_text(model: type[BaseModel]) -> str:
    fields = model.model_fields.items()
    return "\n".join(f"{key}: {_one_line(field.description)}{_default_text(field)}" for key, field in fields)


def _default_text(field: FieldInfo) -> str:
    return "" if field.is_required() else f" Default: {toml_value(field.default)}."


def _example(field: FieldInfo) -> object:
    return next(iter(field.examples or ()), None) if field.is_required() else field.default


def _shown(field: FieldInfo) -> object:
    """Of a table that is there as an example only: what makes it one."""
    return next(iter(field.examples or ()), field.default)


def _comment(text: str) -> str:
    lines: list[str] = []
    for line in text.strip().splitlines():
        lines += textwrap.wrap(line, _WIDTH, initial_indent="# ", subsequent_indent="# ") or ["#"]
    return "\n".join(lines)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the file, for editors."""
    schema = Config.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "smartmail.toml"
    return schema


def reference() -> str:
    """The reference page, in Markdown."""
    lines = [
        "# Configuration reference",
        "",
        "Made from the program by `smartmail config reference`; do not edit.",
        "",
        _SOURCES,
    ]
    for name, info in Config.model_fields.items():
        model, many = section_of(info)
        if model is None:
            continue
        title = f"[[{name}]]" if many else f"[{name}]"
        lines += ["", f"## {title}", "", _one_line(inspect.getdoc(model)), ""]
        lines += ["| Key | Value | Default | Meaning |", "|---|---|---|---|"]
        for key, field in model.model_fields.items():
            default = "needed" if field.is_required() else f"`{toml_value(field.default)}`"
            meaning = _one_line(field.description).replace("|", "\\|")
            lines.append(f"| `{key}` | {_kind(field)} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _kind(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    if get_origin(annotation) is Literal:
        return " ".join(f"`{word}`" for word in get_args(annotation) if word)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " ".join(f"`{member.value}`" for member in annotation)
    if get_origin(annotation) is tuple:
        return _kind_of_list(get_args(annotation)[0])
    if annotation is bool:
        return "`true` `false`"
    if annotation is int:
        low = next((rule.ge for rule in field.metadata if hasattr(rule, "ge")), 0)
        high = next((rule.le for rule in field.metadata if hasattr(rule, "le")), 0)
        return f"{low} to {high}"
    if annotation is SecretStr:
        return "text, secret"
    if get_origin(annotation) in (dict, UnionType, Union) and any(
        get_origin(one) is dict for one in _parts(annotation)
    ):
        return "table" if get_origin(annotation) is dict else "table, text"
    return "text" if annotation is str else "path"


def _parts(annotation: Any) -> tuple[Any, ...]:
    return (annotation, *get_args(annotation))


def _kind_of_list(element: Any) -> str:
    if get_origin(element) is Literal:
        return "of " + " ".join(f"`{word}`" for word in get_args(element))
    if get_origin(element) is tuple:
        return "lists of texts"
    return "texts" if str in _parts(element) else "networks"
