"""From a file, the environment and credentials to one Config, or to everything that is wrong with them.

What counts, strongest first: the environment (SMARTMAIL_SERVER__HOSTNAME), the file, a systemd credential,
the default.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from smartmail.config import checks
from smartmail.config.model import Config
from smartmail.config.problems import (
    ConfigError,
    Loc,
    Problem,
    closest,
    explain,
    fields_at,
    key_path,
    section_of,
)

MAX_FILE_SIZE = 16_777_216
"""Octets: 10,000 checks fit in."""
CREDENTIALS: Mapping[tuple[str, str], bool] = {
    ("store", "url"): True,
    ("tls", "certificate"): False,
    ("tls", "key"): False,
}
"""Keys that a systemd credential "section.key" may give; True: by its content, False: by its path."""

_PREFIX = "SMARTMAIL_"
_HEADER = re.compile(r"\s*(\[\[|\[)\s*([\w.\-\"' ]+?)\s*\]")
_KEY = re.compile(r"\s*([\w.\-\"']+)\s*=")
_POSITION = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where each value came from: "default", "file", "environment", "credential" or
    "url_file", by key path. `file` is None where there is none."""

    config: Config
    file: Path | None
    origins: Mapping[str, str]


@dataclass(slots=True)
class _Draft:
    """What has been read so far."""

    file: str
    base: Path
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    faulty: set[str] = field(default_factory=set)
    """Key paths with a problem: no check builds on them."""

    def add(self, loc: Loc, reason: str, hint: str = "") -> None:
        """Note a problem with the value at `loc`, under the name of where it came from."""
        key = key_path(loc)
        self.faulty.add(key)
        origin = self.origins.get(key, "file")
        if origin in ("environment", "credential"):
            name = env_name(str(loc[0]), str(loc[-1])) if origin == "environment" else key
            self.problems.append(Problem(origin, name, reason, hint))
            return
        parents = (key_path(loc[:length]) for length in range(len(loc), 0, -1))
        line = next((self.lines[near] for near in parents if near in self.lines), 0)
        self.problems.append(Problem(self.file, key, reason, hint, line))


def load(path: Path | None) -> Config:
    """Read the configuration: `path`, or the embedded default for None. Relative paths begin at its folder.

    Raises ConfigError with every problem found, those of the environment included.
    """
    return read(path, os.environ).config


def read(path: Path | None, environ: Mapping[str, str]) -> Loaded:
    """As `load`, with the environment given, and the origin of each value returned."""
    base = path.absolute().parent if path else Path.cwd()
    draft = _Draft(file=str(path) if path else "embedded default", base=base)
    if path:
        _parse(draft, _text(path))
    _overlay_environment(draft, environ)
    _overlay_secrets(draft, environ)
    config = _validate(draft)
    if config is not None:
        faulty = frozenset(draft.faulty)
        for finding in checks.findings(config, draft.origins):
            if not any(_touches(key, faulty) for key in map(key_path, finding.locs)):
                draft.add(finding.locs[0], finding.reason, finding.hint)
    if draft.problems or config is None:
        raise ConfigError(sorted(draft.problems, key=lambda one: (one.file != draft.file, one.file, one.line)))
    origins = {key: draft.origins.get(key, "default") for key, _ in flatten(config)}
    return Loaded(config, path, origins)


def env_name(section: str, key: str) -> str:
    """The environment variable that overrides a key: SMARTMAIL_SERVER__HOSTNAME."""
    return f"{_PREFIX}{section}__{key}".upper()


def flatten(config: Config) -> Iterator[tuple[str, object]]:
    """Every value with its key path, in the order of the model. Secrets stay SecretStr."""
    for name in Config.model_fields:
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from ((f"{name}.{key}", getattr(value, key)) for key in type(value).model_fields)
        else:
            for index, entry in enumerate(value):
                yield from ((f"{name}[{index}].{key}", getattr(entry, key)) for key in type(entry).model_fields)


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            hint = f"perhaps {path / 'smartmail.toml'}"
            raise ConfigError([Problem(str(path), "", "is a folder, not a file", hint)])
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_SIZE + 1)
    except FileNotFoundError:
        hint = "smartmail config sample prints one to begin with"
        raise ConfigError([Problem(str(path), "", "there is no such file", hint)]) from None
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
        raise ConfigError([Problem(str(path), "", reason, "check its owner and mode")]) from None
    if len(raw) > MAX_FILE_SIZE:
        raise ConfigError([Problem(str(path), "", f"is larger than {MAX_FILE_SIZE} octets")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(str(path), "", "is not UTF-8 text", "save it as UTF-8", line)]) from None


def _parse(draft: _Draft, text: str) -> None:
    try:
        draft.data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        found = _POSITION.search(str(error))
        line = int(found[1]) if found and found[1] else text.count("\n") + 1
        reason = f"is not TOML: {_POSITION.sub('', str(error))[:200]}"
        hint = "text stands in double quotes, a table is [name], a list of tables [[name]]"
        raise ConfigError([Problem(draft.file, "", reason, hint, line)]) from None
    draft.lines = find_lines(text)
    draft.origins = dict.fromkeys(_written(draft.data), "file")


def find_lines(text: str) -> dict[str, int]:
    """The line of each table and key, by key path. A plain scan: multi-line strings may fool it."""
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = header[2].replace('"', "").replace("'", "").replace(" ", "")
            if header[1] == "[[":
                counts[table] = counts.get(table, -1) + 1
                lines.setdefault(table, number)
                table = f"{table}[{counts[table]}]"
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            name = key[1].replace('"', "").replace("'", "")
            lines.setdefault(f"{table}.{name}" if table else name, number)
    return lines


def _written(value: object, loc: Loc = ()) -> Iterator[str]:
    yield key_path(loc)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _written(inner, (*loc, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _written(inner, (*loc, index))


def _overlay_environment(draft: _Draft, environ: Mapping[str, str]) -> None:
    known = {
        env_name(section, key): (section, key)
        for section, info in Config.model_fields.items()
        if section_of(info)[0] and not section_of(info)[1]
        for key in fields_at((section,))
    }
    for name, raw in sorted(environ.items()):
        # Without two underscores it is no setting: Kubernetes sets SMARTMAIL_PORT for a service "smartmail".
        if not name.startswith(_PREFIX) or "__" not in name:
            continue
        if name not in known:
            # Without the prefix, which is alike in all of them.
            near = closest(name[len(_PREFIX) :], [word[len(_PREFIX) :].lower() for word in known]).upper()
            hint = (
                f"did you mean {_PREFIX}{near}?"
                if near
                else "the form is SMARTMAIL_SECTION__KEY; lists of tables: file only"
            )
            draft.problems.append(Problem("environment", name, "no setting has this name", hint))
            continue
        section, key = known[name]
        if isinstance(table := draft.data.setdefault(section, {}), dict):
            table[key] = _from_environment(raw)
            draft.origins[f"{section}.{key}"] = "environment"


def _from_environment(raw: str) -> str | int | bool:
    if re.fullmatch(r"-?[0-9]{1,18}", raw):
        return int(raw)
    return {"true": True, "false": False}.get(raw, raw)


def _overlay_secrets(draft: _Draft, environ: Mapping[str, str]) -> None:
    store = draft.data.get("store", {})
    if isinstance(store, dict) and isinstance(named := store.get("url_file"), str) and named:
        if "url" in store:
            draft.add(("store", "url_file"), "store.url is set too", "keep one of the two")
        else:
            _take_url(draft, draft.base / named, "url_file")
    folder = environ.get("CREDENTIALS_DIRECTORY")
    for (section, key), by_content in CREDENTIALS.items() if folder else ():
        credential = Path(folder or "", f"{section}.{key}")
        table = draft.data.setdefault(section, {})
        if not isinstance(table, dict) or table.get(key) or table.get(f"{key}_file") or not credential.is_file():
            continue
        if by_content:
            _take_url(draft, credential, key)
        else:
            table[key] = str(credential)
        draft.origins[f"{section}.{key}"] = "credential"


def _take_url(draft: _Draft, path: Path, key: str) -> None:
    if trouble := checks.secret_file_trouble(path):
        draft.add(("store", key), *trouble)
        return
    try:
        draft.data["store"]["url"] = path.read_text("utf-8").strip()
    except UnicodeDecodeError:
        draft.add(("store", key), f"{path} is not UTF-8 text", "it holds one line, the URL")
        return
    draft.origins["store.url"] = key


def _validate(draft: _Draft) -> Config | None:
    """Note every error; return what is left when the faulty values are put aside, for the checks that look at
    several values. None when nothing can be made of it."""
    for name, info in Config.model_fields.items():
        if section_of(info)[0] and not section_of(info)[1]:
            # A section that is not there still has a data_dir to be made absolute.
            draft.data.setdefault(name, {})
    context = {"base": draft.base}
    try:
        return Config.model_validate(draft.data, context=context)
    except ValidationError as found:
        errors = found.errors(include_url=False)
    for error in errors:
        loc = error["loc"]
        reason, hint = explain({**error, "loc": loc})
        draft.add(loc, reason, hint)
        if error["type"] == "extra_forbidden" and hint.startswith("did you mean "):
            # The misspelt key was meant: what is wrong because it is missing is not a second problem.
            draft.faulty.add(key_path((*loc[:-1], hint.removeprefix("did you mean ").rstrip("?"))))
        _put_aside(draft.data, loc)
    try:
        return Config.model_validate(draft.data, context=context)
    except ValidationError:
        return None


def _put_aside(data: dict[str, Any], loc: Loc) -> None:
    """Take the value at `loc` out, or put an example in its place where it is needed."""
    # A list of plain values goes whole: its other elements would move up.
    depth = 3 if len(loc) > 1 and isinstance(loc[1], int) else 2
    *parents, last = loc[:depth]
    here: Any = data
    for part in parents:
        here = here[part]
    info = fields_at(loc[: depth - 1]).get(str(last))
    if isinstance(here, list):
        here[int(last)] = {key: field.examples[0] for key, field in fields_at(loc[:1]).items() if field.examples}
    elif isinstance(here, dict) and info and info.is_required():
        here[str(last)] = info.examples[0] if info.examples else None
    elif isinstance(here, dict):
        here.pop(str(last), None)


def _touches(key: str, faulty: frozenset[str]) -> bool:
    return any(
        key == bad or key.startswith((f"{bad}.", f"{bad}[")) or bad.startswith((f"{key}.", f"{key}[")) for bad in faulty
    )
