"""The hourly trust checks: each domain at its own time, one look at once, changes told, and none of it in any SLA."""

import ast
import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from agentworld import NOW_MS, Lines
from hypothesis import given
from hypothesis import strategies as st
from trustworld import Nameserver, nameserver

from smartmail.cli.collecting import Monitor
from smartmail.config import Config, TrustConfig
from smartmail.core.outcome import Outcome
from smartmail.core.sample import Batch, Sample, encode_batch
from smartmail.monitor import trust_runner
from smartmail.monitor.trust.dnsbl import BlockList, ListKind
from smartmail.monitor.trust.finding import Severity, TrustCheck, TrustFinding
from smartmail.monitor.trust.report import TrustReport
from smartmail.monitor.trust_runner import (
    APART_MS,
    FIRST_WITHIN_MS,
    HOUR_MS,
    TrustRunner,
    held,
    looker,
    next_place,
    place_ms,
    request_of,
)

SPF_BAD = TrustFinding(TrustCheck.SPF, "example.com", Severity.PROBLEM, "no record", "publish one")
SPF_OPEN = TrustFinding(TrustCheck.SPF, "example.com", Severity.PROBLEM, "everybody may send", "end it in -all")
SPF_OK = TrustFinding(TrustCheck.SPF, "example.com", Severity.OK, "v=spf1 -all")
SPF_ERROR = TrustFinding(TrustCheck.SPF, "example.com", Severity.ERROR, "no answer in time")
LISTED = TrustFinding(TrustCheck.DNSBL, "192.0.2.25", Severity.PROBLEM, "is on zen.example (127.0.0.2)")
LISTED_TOO = TrustFinding(TrustCheck.DNSBL, "192.0.2.25", Severity.PROBLEM, "is on bl.example (127.0.0.9)")
LIST_ERROR = TrustFinding(TrustCheck.DNSBL, "zen.example", Severity.ERROR, "the list refuses")
TLSA_BAD = TrustFinding(TrustCheck.TLSA, "mx.example.com [192.0.2.1]", Severity.PROBLEM, "no TLSA record matches")
MX_ERROR = TrustFinding(TrustCheck.MX, "example.com", Severity.ERROR, "MX: no answer in time")


@dataclass
class World:
    """A runner whose looks are answered by the test."""

    now: int = NOW_MS
    found: dict[str, tuple[TrustFinding, ...] | Exception] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None
    lines: Lines = field(default_factory=Lines)

    def __post_init__(self) -> None:
        self.runner = TrustRunner(self.look, lambda: self.now, self.lines)  # type: ignore[arg-type]

    async def look(self, entry: TrustConfig) -> TrustReport:
        self.asked.append(entry.domain)
        if self.gate is not None:
            await self.gate.wait()
        found = self.found.get(entry.domain, ())
        if isinstance(found, Exception):
            raise found
        return TrustReport(entry.domain, found)

    def watch(self, *domains: str) -> None:
        self.runner.watch([TrustConfig(domain=one) for one in domains])

    async def hour(self, *found: TrustFinding | Exception) -> None:
        """An hour later, all that is due has been looked at; of example.com this was found."""
        self.now += HOUR_MS
        broken = next((one for one in found if isinstance(one, Exception)), None)
        self.found["example.com"] = broken or tuple(one for one in found if isinstance(one, TrustFinding))
        await asyncio.gather(*self.runner.begin())

    def said(self) -> list[tuple[str, str]]:
        """(event, what was found) of each line since the last call."""
        said = [(event, str(fields.get("found", fields.get("error")))) for event, fields in self.lines.said]
        self.lines.said.clear()
        return said


@pytest.fixture
def world() -> World:
    world = World()
    world.watch("example.com")
    return world


class TestWhen:
    @given(st.from_regex(r"[a-z]{1,12}\.(com|net)", fullmatch=True), st.integers(0, 2**42))
    def test_a_domain_has_one_place_in_each_hour(self, domain: str, after_ms: int) -> None:
        at = next_place(domain, after_ms)
        assert 0 < at - after_ms <= HOUR_MS
        assert at % HOUR_MS == place_ms(domain)
        assert next_place(domain, at) == at + HOUR_MS

    def test_the_places_are_spread_over_the_hour(self) -> None:
        quarters = [place_ms(f"d{number}.example") * 4 // HOUR_MS for number in range(400)]
        assert all(60 < quarters.count(one) < 140 for one in range(4))

    def test_case_does_not_matter(self) -> None:
        assert place_ms("Example.COM") == place_ms("example.com")

    async def test_a_new_domain_is_looked_at_within_a_minute_and_then_each_hour(self, world: World) -> None:
        begun = []
        for _ in range(0, 3 * HOUR_MS, 1000):
            if tasks := world.runner.begin():
                begun.append(world.now)
                await asyncio.gather(*tasks)
            world.now += 1000
        first, second, third, *_ = begun
        assert first - NOW_MS <= FIRST_WITHIN_MS
        assert APART_MS <= second - first <= HOUR_MS + APART_MS
        assert abs(third - second - HOUR_MS) <= 1000
        assert second // 1000 % 3600 == -(-place_ms("example.com") // 1000) % 3600

    async def test_domains_do_not_all_come_at_once(self, world: World) -> None:
        world.watch(*(f"d{number}.example" for number in range(40)))
        assert len({world.runner.next_ms(f"d{number}.example") for number in range(40)}) > 20

    async def test_never_two_looks_at_one_domain(self, world: World) -> None:
        world.gate = asyncio.Event()
        world.now += HOUR_MS
        (task,) = world.runner.begin()
        for _ in range(5):
            world.now += HOUR_MS
            assert world.runner.begin() == []
        world.gate.set()
        await task
        assert world.asked == ["example.com"]
        world.now += FIRST_WITHIN_MS
        assert len(world.runner.begin()) == 1
        await world.runner.stop()

    async def test_a_few_domains_at_once_and_the_others_wait(self, world: World) -> None:
        world.gate = asyncio.Event()
        world.watch(*(f"d{number}.example" for number in range(20)))
        world.now += HOUR_MS
        tasks = world.runner.begin()
        for _ in range(5):
            await asyncio.sleep(0)
        assert (len(tasks), len(world.asked)) == (20, trust_runner.AT_ONCE)
        world.gate.set()
        await asyncio.gather(*tasks)
        assert len(world.asked) == 20

    async def test_a_clock_that_is_set_back_leaves_no_domain_alone(self, world: World) -> None:
        world.now += HOUR_MS
        await asyncio.gather(*world.runner.begin())
        world.now -= 1000 * HOUR_MS
        world.runner.begin()
        assert world.runner.next_ms("example.com") - world.now <= HOUR_MS + APART_MS

    async def test_it_runs_until_it_is_cancelled_and_ends_the_looks_with_it(self, world: World) -> None:
        world.gate = asyncio.Event()
        world.now += HOUR_MS
        task = asyncio.create_task(world.runner.run())
        while not world.asked:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert world.runner.results == {}
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def test_it_hears_at_once_of_what_is_to_be_watched(self) -> None:
        world = World()
        task = asyncio.create_task(world.runner.run())
        await asyncio.sleep(0)
        world.now += HOUR_MS
        world.watch("example.com")
        world.now += FIRST_WITHIN_MS
        while not world.asked:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class TestWhatIsTold:
    async def test_something_is_told_once_and_again_when_it_is_gone(self, world: World) -> None:
        await world.hour(SPF_BAD)
        assert world.said() == [("trust_finding", "no record")]
        await world.hour(SPF_BAD)
        assert world.said() == []
        await world.hour(SPF_OK)
        assert world.said() == [("trust_resolved", "no record")]
        await world.hour(SPF_OK)
        assert world.said() == []

    async def test_a_line_says_all_that_an_operator_needs(self, world: World) -> None:
        await world.hour(SPF_BAD)
        assert world.lines.of("trust_finding") == [
            {
                "domain": "example.com",
                "check": "spf",
                "severity": "problem",
                "subject": "example.com",
                "found": "no record",
                "remedy": "publish one",
            }
        ]

    async def test_what_changed_is_one_line(self, world: World) -> None:
        await world.hour(SPF_BAD)
        world.said()
        await world.hour(SPF_OPEN)
        assert world.said() == [("trust_finding", "everybody may send")]

    async def test_an_address_on_two_lists_that_leaves_one(self, world: World) -> None:
        await world.hour(LISTED, LISTED_TOO)
        world.said()
        await world.hour(LISTED_TOO)
        assert world.said() == [("trust_resolved", LISTED.text)]

    @pytest.mark.parametrize(
        ("before", "found"),
        [
            (SPF_BAD, SPF_ERROR),
            (LISTED, LIST_ERROR),
            (TLSA_BAD, MX_ERROR),
            (LISTED, MX_ERROR),
            (TLSA_BAD, TrustFinding(TrustCheck.TLSA, "mx.example.com", Severity.ERROR, "no answer in time")),
            (SPF_BAD, TrustFinding(TrustCheck.ALL, "example.com", Severity.ERROR, "broke off")),
        ],
    )
    async def test_who_could_not_look_resolves_nothing(
        self, world: World, before: TrustFinding, found: TrustFinding
    ) -> None:
        await world.hour(before)
        world.said()
        await world.hour(found)
        assert world.said() == [("trust_finding", found.text)]
        assert before in world.runner.results["example.com"].findings
        await world.hour(SPF_OK)
        assert {event for event, _ in world.said()} == {"trust_resolved"}
        assert world.runner.results["example.com"].open == ()

    @pytest.mark.parametrize(
        ("before", "error"),
        [
            (LISTED_TOO, LIST_ERROR),
            (SPF_BAD, LIST_ERROR),
            (SPF_BAD, MX_ERROR),
            (TLSA_BAD, TrustFinding(TrustCheck.TLSA, "x.example.com", Severity.ERROR, "no answer in time")),
            (
                TrustFinding(TrustCheck.PTR, "192.0.2.25", Severity.PROBLEM, "no name"),
                TrustFinding(TrustCheck.PTR, "192.0.2.2", Severity.ERROR, "no answer in time"),
            ),
        ],
    )
    def test_an_error_elsewhere_holds_nothing(self, before: TrustFinding, error: TrustFinding) -> None:
        assert held("example.com", [before], [error]) == []

    async def test_a_look_that_breaks_off_is_a_finding_and_a_line_with_the_fault(self, world: World) -> None:
        await world.hour(SPF_BAD)
        checked = world.runner.checked_seconds()
        world.said()
        await world.hour(RuntimeError("a bug"))
        assert [event for event, _ in world.said()] == ["trust_fault", "trust_finding"]
        result = world.runner.results["example.com"]
        assert [(one.check, one.severity) for one in result.open] == [
            (TrustCheck.ALL, Severity.ERROR),
            (TrustCheck.SPF, Severity.PROBLEM),
        ]
        assert "a bug" not in result.findings[0].text
        assert world.runner.checked_seconds() == checked

    @pytest.mark.parametrize("error", [TimeoutError(), OSError("the system names no resolver")])
    async def test_what_the_net_does_is_no_fault_of_ours(self, world: World, error: OSError) -> None:
        await world.hour(error)
        assert [event for event, _ in world.said()] == ["trust_finding"]
        (one,) = world.runner.results["example.com"].findings
        assert (one.check, one.severity) == (TrustCheck.ALL, Severity.ERROR)

    async def test_one_that_breaks_off_keeps_no_other_from_its_look(self, world: World) -> None:
        world.watch("example.com", "example.net")
        world.found["example.net"] = (SPF_OK,)
        await world.hour(RuntimeError())
        assert world.runner.results["example.net"].findings == (SPF_OK,)

    async def test_a_domain_that_is_watched_no_more_is_forgotten(self, world: World) -> None:
        await world.hour(SPF_BAD)
        world.watch("example.net")
        assert world.runner.results == {} == world.runner.counts()

    async def test_a_reload_that_changes_nothing_changes_nothing(self, world: World) -> None:
        await world.hour(SPF_BAD)
        due = world.runner.next_ms("example.com")
        world.watch("example.com")
        assert world.runner.next_ms("example.com") == due
        assert world.runner.results["example.com"].findings == (SPF_BAD,)

    async def test_a_domain_that_is_configured_otherwise_is_looked_at_soon_and_the_look_under_way_forgotten(
        self, world: World
    ) -> None:
        world.gate = asyncio.Event()
        world.now += HOUR_MS
        world.found["example.com"] = (SPF_BAD,)
        (task,) = world.runner.begin()
        await asyncio.sleep(0)
        world.runner.watch([TrustConfig(domain="example.com", selectors=("s1",))])
        world.gate.set()
        await task
        assert world.runner.results == {}
        assert world.runner.next_ms("example.com") - world.now <= FIRST_WITHIN_MS


class TestMetrics:
    async def test_each_check_that_was_made_has_all_severities(self, world: World) -> None:
        await world.hour(SPF_OK, LISTED, LISTED_TOO)
        assert world.runner.counts() == {
            ("example.com", "spf", "ok"): 1,
            ("example.com", "spf", "warning"): 0,
            ("example.com", "spf", "problem"): 0,
            ("example.com", "spf", "error"): 0,
            ("example.com", "dnsbl", "ok"): 0,
            ("example.com", "dnsbl", "warning"): 0,
            ("example.com", "dnsbl", "problem"): 2,
            ("example.com", "dnsbl", "error"): 0,
        }
        assert world.runner.checked_seconds() == {"example.com": world.now // 1000}


class TestFromTheConfiguration:
    def test_a_request(self) -> None:
        entry = TrustConfig(
            domain="example.com",
            selectors=("s1",),
            senders=("192.0.2.25", "2001:db8::25"),
            block_lists=("zen.example",),
            domain_lists=("dbl.example", "uri.example=point.example"),
            connect=False,
        )
        request = request_of(entry)
        assert (request.domain, request.selectors, request.connect) == ("example.com", ("s1",), False)
        assert [str(one) for one in request.senders] == ["192.0.2.25", "2001:db8::25"]
        assert request.lists == (
            BlockList("zen.example"),
            BlockList("dbl.example", ListKind.DOMAINS),
            BlockList("uri.example", ListKind.DOMAINS, "point.example"),
        )

    @pytest.fixture
    async def zone(self) -> AsyncIterator[Nameserver]:
        async with nameserver() as server:
            server.add("example.com", "MX", "0 .")
            server.text("example.com", "v=spf1 +all")
            yield server

    async def test_the_real_look_asks_the_resolver_that_is_configured(self, zone: Nameserver) -> None:
        entry = TrustConfig(domain="example.com", resolver=f"127.0.0.1:{zone.port}", connect=False)
        report = await looker("mail.example.com")(entry)
        assert ("spf", "problem") in {(one.check.value, one.severity.value) for one in report.findings}


class TestAdvisory:
    """No trust check can touch a figure of the SLA."""

    CONFIG: Mapping[str, Any] = {
        "monitor": {"address": "", "metrics_address": "", "locations": ["berlin"]},
        "check": [{"name": "imap", "service": "mail", "kind": "tcp", "host": "mail.example.com"}],
    }

    async def test_the_worst_report_changes_no_octet_of_the_database_and_no_minute(self, tmp_path: Path) -> None:
        now = [NOW_MS]
        config = Config.model_validate({**self.CONFIG, "server": {"data_dir": tmp_path}})
        async with Monitor(config, now_ms=lambda: now[0]) as monitor:
            minutes = range(NOW_MS + 60_000, NOW_MS + 600_000, 60_000)
            seen = tuple(Sample("imap", at, Outcome.OK, 7) for at in minutes)
            batch = Batch("berlin-1", "berlin", 1, minutes[-1], 0, seen)
            now[0] += HOUR_MS
            await asyncio.wrap_future(monitor.samples.put(encode_batch(batch), batch, now[0]))
            (before,) = await monitor.look()
            rows = dump(tmp_path / "smartmail.db")

            async def worst(entry: TrustConfig) -> TrustReport:
                found = (TrustFinding(check, entry.domain, Severity.PROBLEM, "all wrong") for check in TrustCheck)
                return TrustReport(entry.domain, tuple(found))

            monitor.trust._look = worst
            monitor.trust.watch([TrustConfig(domain="example.com")])
            now[0] += FIRST_WITHIN_MS
            await asyncio.gather(*monitor.trust.begin())
            while not monitor.trust.results:  # its own task was first
                await asyncio.sleep(0.001)
            assert len(monitor.trust.results["example.com"].open) == len(TrustCheck)
            now[0] -= FIRST_WITHIN_MS
            (after,) = await monitor.look()
            assert (after.record, after.budget, after.verdict) == (before.record, before.budget, before.verdict)
            assert dump(tmp_path / "smartmail.db") == rows
            scraped = {
                (sample.labels.get("domain"), sample.labels.get("check"), sample.labels.get("severity")): sample.value
                for metric in monitor.metrics.collect()
                for sample in metric.samples
                if metric.name == "smartmail_trust_findings"
            }
            assert scraped["example.com", "spf", "problem"] == 1

    def test_the_trust_checks_can_reach_neither_samples_nor_minutes_nor_the_store(self) -> None:
        folder = Path(trust_runner.__file__).parent
        files = [folder / "trust_runner.py", *(folder / "trust").glob("*.py")]
        imported = {
            name
            for file in files
            for node in ast.walk(ast.parse(file.read_text()))
            for name in imports(node)
            if name.startswith("smartmail.")
        }
        allowed = ("smartmail.config", "smartmail.monitor.trust", "smartmail.monitor.probes.resolver")
        assert imported
        assert not {name for name in imported if not name.startswith(allowed)}


def imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [one.name for one in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def dump(file: Path) -> list[str]:
    with sqlite3.connect(file) as connection:
        rows = list(connection.iterdump())
    connection.close()
    return rows
