"""The pages against the code, on both sides: what a page names exists, and what exists is on a page."""

import ast
import importlib
import inspect
import logging
import pkgutil
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

import smartmail.core
import smartmail.relay
from smartmail import events
from smartmail.cli import NOUNS, load_noun, sample
from smartmail.config import Config
from smartmail.core.limits import Charge, Limit, Refusal, Scope, Unit
from smartmail.core.policy import Reason, Verdict, over_limit
from smartmail.core.reply import Reply
from smartmail.core.transfer import FATES, Fate, Loss, Phase
from smartmail.events import backup as backup_events
from smartmail.events import monitor as monitor_events
from smartmail.metrics import STAGES, AgentMetrics, BackupMetrics, MonitorMetrics, RelayMetrics
from smartmail.relay.session import TOO_MANY_LOGINS
from smartmail.store.events import EventRow

ROOT = Path(__file__).parent.parent
CODE = ROOT / "smartmail"
DOCS = ROOT / "ops" / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
NAMES = [page.name for page in PAGES]
OF_OTHER_FILES = {"Unit", "intake"}
"""Tables that pages show of a systemd unit and of an agent.toml."""


# reading pages


@cache
def text_of(page: str) -> str:
    """A page by its file name."""
    return next(path for path in PAGES if path.name == page).read_text()


def table(page: str, *columns: str) -> list[list[str]]:
    """The rows, cell by cell, of every table of a page whose head begins with these columns."""
    rows: list[list[str]] = []
    inside = False
    for line in text_of(page).splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" |")] if line.startswith("|") else []
        cells = [cell.lstrip("| ").strip() for cell in cells]
        if not cells:
            inside = False
        elif cells[: len(columns)] == list(columns):
            inside = True
        elif inside and set(cells[0]) - set("-|"):
            rows.append(cells)
    return rows


def spans(text: str) -> list[str]:
    """Every `code span`, and every line of a code block."""
    blocks, rest = code_blocks(text)
    return [*re.findall(r"`([^`\n]+)`", rest), *(line.strip() for block in blocks for line in block.splitlines())]


def code_blocks(text: str) -> tuple[list[str], str]:
    """Fenced and indented blocks with continued lines joined, and the text without them."""
    fenced = re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)
    rest = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.M | re.S)
    indented = re.findall(r"(?:^ {4,}\S.*\n)+", rest, re.M)
    rest = re.sub(r"^ {4,}\S.*\n", "", rest, flags=re.M)
    return [block.replace("\\\n", " ") for block in [*fenced, *indented]], rest


# links and paths


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_resolves(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link.partition("#")[0]).exists()]
    assert not missing


@pytest.mark.parametrize("page", NAMES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    named = {word for span in spans(text_of(page)) for word in re.findall(r"(?<![\w./-])(?:[\w-]+/)+\w+\.py\b", span)}
    assert not {name for name in named if not (CODE / name).is_file() and not (ROOT / name).is_file()}


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"ops/docs/([\w.-]+)\)", text_of("README.md")))
    assert {path.name for path in DOCS.glob("*.md")} <= linked


def test_the_map_of_the_readme_names_every_part() -> None:
    parts = {path.name for path in CODE.iterdir() if path.is_dir() and (path / "__init__.py").is_file()}
    said = " ".join(row[0] for row in table("README.md", "Folder"))
    assert {part for part in parts if f"{part}/" not in said} == set()


@pytest.mark.parametrize("page", ["README.md", "message-flow.md"])
def test_every_function_that_the_way_of_a_mail_names_is_in_a_file_named_beside_it(page: str) -> None:
    for paragraph in re.split(r"\n\s*\n|\n(?=[|-])", text_of(page)):
        files = [CODE / name for name in re.findall(r"`([\w/]+\.py)`", paragraph)]
        sources = [path.read_text() for path in files if path.is_file()]
        names = re.findall(r"`(_\w+|[A-Z]\w*[a-z]\w*(?:\.\w+)?|FATES|STEPS)`", paragraph)
        assert not sources or not [name for name in names if not any(defines(source, name) for source in sources)]


def defines(source: str, name: str) -> bool:
    """Does a module define `name`, or `Class.method`?"""
    patterns = [rf"^\s*(?:async )?(?:def|class) {part}\b|^{part}\b.*=" for part in name.split(".")]
    return all(re.search(pattern, source, re.M) for pattern in patterns)


def test_every_case_of_the_page_of_cases_is_in_a_test() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    cases = [row[0] for row in table("cases.md", "Case")]
    assert cases == [f"{number:02d}" for number in range(1, 41)]
    assert [case for case in cases if f"case_{case}" not in tests] == []


# the README's own promises


def test_the_commands_of_the_readme_exist() -> None:
    named = set(re.findall(r"^ {4}((?:ops|\.ci)/\w+)", text_of("README.md"), re.M)) | {".ci/run"}
    assert named >= {"ops/run", "ops/test"}
    for name in named:
        assert (ROOT / name).stat().st_mode & 0o111, name
    assert "--fast" in (ROOT / "ops" / "test").read_text()
    assert "--demo" in options(load_noun("serve"))


def test_the_readme_names_the_addresses_of_the_embedded_default() -> None:
    config = Config()
    addresses = [*(str(one.endpoint) for one in config.listener), str(config.metrics.endpoint)]
    said = {row[1] for row in table("README.md", "What", "Where")}
    assert not set(addresses) - said


def test_the_readme_logs_in_as_the_sample_account() -> None:
    readme = text_of("README.md")
    assert f"--auth-user {sample.SAMPLE_LOGIN}" in readme
    assert f'login = "{sample.SAMPLE_LOGIN}"' in readme
    assert f"var/{sample.SAMPLE_FILE}" in readme


# configuration


@cache
def config_keys() -> frozenset[str]:
    """Every section, and every "section.key"."""
    found = set()
    for section, info in Config.model_fields.items():
        found.add(section)
        models = [one for one in (info.annotation, *nested(info.annotation)) if isinstance(one, type)]
        for model in models:
            if issubclass(model, BaseModel):
                found |= {f"{section}.{key}" for key in model.model_fields}
    return frozenset(found)


def nested(annotation: Any) -> Iterator[Any]:
    """All that a type is made of."""
    for inner in get_args(annotation):
        yield inner
        yield from nested(inner)


@pytest.mark.parametrize("page", NAMES)
def test_every_configuration_key_that_a_page_names_exists(page: str) -> None:
    sections = "|".join(key for key in config_keys() if "." not in key)
    said = "\n".join(spans(text_of(page)))
    named = set(re.findall(rf"(?<![\w./])(?:{sections})\.[a-z_]+(?![\w.(/])", said))
    named = {name for name in named if not re.search(r"\.(py|md|toml|key|events?)$", name)}
    named |= set(re.findall(r"^\[{1,2}([a-z]+)\]{1,2}$", said, re.M)) - OF_OTHER_FILES
    assert not named - config_keys()


def test_the_reference_holds_every_configuration_key() -> None:
    config = text_of("config.md")
    for key in config_keys():
        section, _, name = key.partition(".")
        part = re.split(rf"^## \[{{1,2}}{section}\]{{1,2}}$", config, flags=re.M)[1].split("\n## ")[0]
        assert not name or f"| `{name}` |" in part, key


def test_toml_in_a_page_is_toml_with_keys_that_exist() -> None:
    blocks = [block for path in PAGES for block in re.findall(r"^```toml\n(.*?)^```$", path.read_text(), re.M | re.S)]
    assert blocks
    for block in blocks:
        for section, entry in tomllib.loads(block).items():
            tables = entry if isinstance(entry, list) else [entry]
            assert {f"{section}.{key}" for one in tables for key in one} <= config_keys()


# the command line


@cache
def commands() -> Mapping[str, Any]:
    """ "noun" or "noun verb" -> its command."""
    found = {}
    for noun in NOUNS:
        command = load_noun(noun)
        verbs = getattr(command, "commands", {})
        found |= {f"{noun} {verb}": one for verb, one in verbs.items()} if verbs else {noun: command}
    return found


def options(command: Any) -> set[str]:
    """Every option of a command, long and short."""
    return {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}


def calls(page: str) -> Iterator[tuple[str, str, str]]:
    """(noun, verb or "", the rest) of each `smartmail ...` in a page's code."""
    for span in spans(text_of(page)):
        for call in re.split(r"(?<![\w@/])(?:\S*/)?smartmail (?=[a-z-])", f" {span}")[1:]:
            words = re.sub(r"^--config \S+ ", "", call).split()
            noun, verb = [*words, "", ""][:2]
            if noun in NOUNS or re.fullmatch(r"[a-z]+", noun):
                yield noun, verb, call


@pytest.mark.parametrize("page", NAMES)
def test_every_command_that_a_page_names_exists_with_its_options(page: str) -> None:
    for noun, verb, call in calls(page):
        name = f"{noun} {verb}" if f"{noun} {verb}" in commands() else noun
        if name == noun and noun in NOUNS and noun not in commands():
            assert verb in ("", "|") or not re.fullmatch(r"[a-z]+", verb), call
            continue
        assert name in commands(), call
        said = set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", call.partition("#")[0])) - {"--config"}
        assert said <= options(commands()[name]), call


def test_every_command_is_on_a_page() -> None:
    said = {(noun, verb) for page in NAMES for noun, verb, _ in calls(page)}
    names = {name for noun, verb in said for name in (noun, f"{noun} {verb}")}
    assert not set(commands()) - names


# metrics


@cache
def declared_metrics() -> Mapping[str, tuple[str, ...]]:
    """Name as scraped -> labels: those of smartmail.metrics, and those that the wiring list adds."""
    found: dict[str, tuple[str, ...]] = {"smartmail_build_info": ("version",)}
    for declared in (RelayMetrics, MonitorMetrics, AgentMetrics, BackupMetrics):
        for family in declared(CollectorRegistry()).collect():
            suffix = "_total" if family.type == "counter" else ""
            found[family.name + suffix] = tuple(getattr(family, "_labelnames", ()))
    wiring = [(CODE / "cli" / name).read_text() for name in ("serve.py", "collecting.py", "agent.py")]
    for node in (node for text in wiring for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.keyword) and node.arg in ("gauges", "counters"):
            constants = [str(one.value) for one in ast.walk(node) if isinstance(one, ast.Constant)]
            suffix = "_total" if node.arg == "counters" else ""
            found |= {name + suffix: () for name in constants if name.startswith("smartmail_")}
    return found


def test_every_metric_is_on_its_page_with_its_labels_and_no_other_is() -> None:
    documented = {row[0].strip("`"): tuple(re.findall(r"`(\w+)`", row[1])) for row in table("metrics.md", "Metric")}
    assert documented == declared_metrics()


@pytest.mark.parametrize("page", NAMES)
def test_every_metric_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"\bsmartmail_[a-z_]+[a-z]\b", text_of(page)))
    assert not {name for name in named if name not in declared_metrics()}


def test_the_page_of_metrics_names_every_stage_and_verdict() -> None:
    page = text_of("metrics.md")
    assert not [word for word in (*STAGES, *Verdict) if f"`{word}`" not in page]


# events


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def failure() -> OSError:
    """A fault that shows every field a fault has."""
    try:
        raise OSError(5, "broken") from ValueError("why")
    except OSError as error:
        return error


def value_for(annotation: object) -> object:
    """Something that is written, for a parameter of this type."""
    texts = {name: "x" for name, kind in EventRow.__annotations__.items() if kind is str}
    row = EventRow(at_ns=1, recipients=(("x", 250, "ok"),), **{**texts, "upstream_reply": "y"}).line()
    kinds: Mapping[object, object] = {
        str: "x",
        int: 1,
        bool: False,
        Sequence[str]: ("x",),
        BaseException: failure(),
        Mapping[str, events.Field]: row,
    }
    return kinds.get(annotation, {"exception": failure()})


def emitted(name: str) -> Any:
    """The record that an event's function makes."""
    pages = (events, monitor_events, backup_events)
    function = next(getattr(page, name) for page in pages if hasattr(page, name))
    positional, named = [], {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[parameter.name] = value_for(parameter.annotation)
        else:
            positional.append(value_for(parameter.annotation))
    kept, logger = Kept(), logging.getLogger("smartmail")
    level, propagates = logger.level, logger.propagate
    logger.addHandler(kept)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        function(*positional, **named)
    finally:
        logger.removeHandler(kept)
        logger.setLevel(level)
        logger.propagate = propagates
    return kept.records[0]


def event_functions() -> set[str]:
    """Every function of the operator's log."""
    trees = [ast.parse((CODE / "events" / name).read_text()) for name in ("__init__.py", "monitor.py", "backup.py")]
    functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions if not node.name.startswith("_")} - {"configure"}


def written_events() -> set[str]:
    """Those that something calls."""
    sources = [path.read_text() for path in CODE.rglob("*.py") if path.parent.name != "events"]
    return {
        name
        for name in event_functions()
        if any(re.search(rf"\b_?(?:events|lines)\.{name}\b", text) for text in sources)
    }


def test_every_event_is_on_its_page_and_no_other_is() -> None:
    documented = {row[0].strip("`") for row in table("events.md", "Event")}
    unwritten = re.search(r"^Worded, and not written yet: (.*)$", text_of("events.md"), re.M)
    assert documented == {*written_events(), "library"}
    named = set(re.findall(r"`(\w+)`", unwritten[1])) if unwritten else set()
    assert named == event_functions() - written_events()


def test_every_event_has_the_level_and_the_fields_of_its_page() -> None:
    for name, level, _, fields in table("events.md", "Event"):
        if name != "`library`":
            record = emitted(name.strip("`"))
            assert record.event == name.strip("`")
            assert record.levelname.lower() in level.split(", "), name
            assert set(re.findall(r"`(\w+)`", fields)) == set(record.fields), name


def test_every_field_of_an_event_row_is_on_the_page() -> None:
    documented = {word for row in table("events.md", "Field") for word in re.findall(r"`(\w+)`", row[0])}
    assert documented == {"id", *EventRow._fields}


@pytest.mark.parametrize(("column", "words"), [("Verdict", Verdict), ("Reason", Reason)])
def test_every_verdict_and_reason_is_on_the_page(column: str, words: type[Verdict | Reason]) -> None:
    documented = [word for row in table("events.md", column) for word in re.findall(r"`(\w+)`", row[0])]
    assert sorted(documented) == sorted(words)


# replies


def replies_in(value: object) -> Iterator[Reply]:
    """Every reply that a module-level value holds."""
    if isinstance(value, Reply):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from replies_in(inner)
    elif isinstance(reply := getattr(value, "reply", None), Reply):
        yield reply


def said_by_us() -> set[tuple[str, str, str]]:
    """(code, enhanced code, text) of every reply that is written down in the code."""
    found = set()
    for package in (smartmail.core, smartmail.relay):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for name, value in vars(importlib.import_module(module.name)).items():
                if not name.startswith("__"):
                    found |= {(str(one.code), one.enhanced, one.text) for one in replies_in(value)}
    return found


REACHED = ("450", "4.7.1", "Limit reached: Q UNITS in PERIOD (NAME); try again in TIME")
TOO_MUCH = ("550", "5.7.1", "This message alone is more than the limit of Q UNITS allows (NAME)")
FAULT = "Internal error; the operator finds it under reference REFERENCE"
MADE = {REACHED, TOO_MUCH, ("451", "4.3.0", FAULT), ("454", "4.7.0", TOO_MANY_LOGINS.text)}
"""Those that are made when they are said."""


def test_every_reply_of_ours_is_on_its_page_and_no_other_is() -> None:
    documented = [(row[0], row[1], row[2]) for row in table("errors.md", "Code", "Enhanced", "Text")]
    assert len(documented) == len(set(documented))
    assert set(documented) == said_by_us() | MADE


@pytest.mark.parametrize(("wait", "documented"), [(5000, REACHED), (0, TOO_MUCH)])
def test_the_reply_of_a_limit_reads_as_on_the_page(wait: int, documented: tuple[str, str, str]) -> None:
    limit = Limit("per-day", Scope.ACCOUNT, Unit.RECIPIENTS, 500, 86400)
    decision = over_limit(Refusal(Charge(limit, "a:1", 1), wait))
    assert decision.reply is not None
    code, enhanced, text = documented
    filled = {"Q UNITS": "500 recipients", "PERIOD": "1 day", "(NAME)": "(per-day)", "TIME": "2 hours"}
    for word, value in filled.items():
        text = text.replace(word, value)
    assert str(decision.reply) == f"{code} {enhanced} {text}"


def test_the_reply_to_a_fault_of_ours_reads_as_on_the_page() -> None:
    assert FAULT.replace("REFERENCE", "{reference}") in (CODE / "relay" / "server.py").read_text()


# what happens when a side is lost


def fate_cells(fate: Fate) -> tuple[str, ...]:
    """Reply, outcome and charge as the table writes them."""
    if fate.finish:
        return "-", "as the upstream answers", "as the upstream answers"
    said = "-" if fate.reply is None else f"{fate.reply.code} {fate.reply.enhanced}"
    return said, f"{fate.verdict}, {fate.reason}", str(fate.charge)


def test_the_page_of_the_way_of_a_mail_holds_the_table_of_losses() -> None:
    documented = {(row[0], row[1]): tuple(row[2:]) for row in table("message-flow.md", "How far it was")}
    expected = {}
    for phase, losses in FATES.items():
        how_far = str(phase) if phase is Phase.DOT_SENT else "before the dot"
        for loss in Loss:
            cells = fate_cells(losses[loss])
            assert expected.setdefault((how_far, str(loss)), cells) == cells
    assert documented == expected
