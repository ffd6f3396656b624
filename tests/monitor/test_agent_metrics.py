"""What an agent tells Prometheus of its own work, and what it keeps to itself."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agentworld import NOW_MS, Collecting, FakeTime, Saw, acting, check, collecting, roster, settings
from probe_peers import DIALOGS, LOGIN, NAME, PASSWORD, RECIPIENT, Authority, Pair, check_of, dialog, make_secrets, peer
from prometheus_client import CollectorRegistry, generate_latest

from smartmail.cli.agent import probe_of, watch
from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckKind, CheckSpec
from smartmail.core.slots import MINUTE_MS
from smartmail.metrics import AgentMetrics
from smartmail.monitor import roundtrip
from smartmail.monitor.control import Target
from smartmail.monitor.roundtrip import LateArrival
from smartmail.monitor.settings import AgentSettings, SettingsError, load_settings, write_settings

TRIP = CheckSpec("a-trip", "mail", CheckKind.ROUND_TRIP, "mail.example.com", 587, ("london",))


@pytest.fixture
def metrics() -> AgentMetrics:
    return AgentMetrics(CollectorRegistry())


def scraped(metrics: AgentMetrics) -> dict[tuple[str, ...], float]:
    """(sample, label values in the order of the labels' names) -> value."""
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith("smartmail_agent_")
    }


@pytest.fixture
def home(tmp_path: Path) -> AgentSettings:
    return settings(tmp_path / "agent")


@pytest.fixture
async def collector(tmp_path: Path) -> AsyncIterator[Collecting]:
    (tmp_path / "collector").mkdir()
    async with collecting(tmp_path / "collector", time=FakeTime()) as collector:
        collector.put_roster(roster(check("imap"), check("pop3", kind=CheckKind.POP3S)))
        yield collector


class TestCounts:
    async def test_probes_by_kind_and_outcome_and_what_became_of_their_samples(
        self, collector: Collecting, home: AgentSettings, metrics: AgentMetrics
    ) -> None:
        async def probe(one: CheckSpec) -> Saw:
            return Saw(Outcome.REFUSED if one.name == "pop3" else Outcome.OK)

        time = collector.time
        async with acting(home, collector.client(collector.enrolled()), time, probe) as running:
            watch(metrics, running.agent, running.clock)
            await running.until(lambda: bool(running.agent.prober.book.rosters))
            assert ("smartmail_agent_clock_offset_seconds",) in scraped(metrics)
            await time.advance(5 * MINUTE_MS)
            await running.until(lambda: running.agent.sender.counts.samples >= 10, step_ms=500)
            await running.until(lambda: running.agent.waiting == 0, step_ms=500)
            seen = scraped(metrics)
            await running.ended()
        made = running.agent.sender.counts.samples
        probes = {key[1:]: value for key, value in seen.items() if key[0] == "smartmail_agent_probes_total"}
        assert set(probes) == {("tcp", "ok"), ("pop3s", "refused")}
        assert sum(probes.values()) >= made >= 10
        assert (
            seen["smartmail_agent_spooled_samples_total",] == seen["smartmail_agent_handed_in_samples_total",] == made
        )
        for nothing in ("lost_samples", "set_aside_samples", "missed_slots", "late_starts", "probe_faults"):
            assert seen[f"smartmail_agent_{nothing}_total",] == 0
        assert seen["smartmail_agent_waiting_samples",] == 0
        assert 0 <= seen["smartmail_agent_since_hand_in_seconds",] < 60

    async def test_without_a_collector_samples_wait_and_the_time_since_the_last_hand_in_grows(
        self, collector: Collecting, home: AgentSettings, metrics: AgentMetrics
    ) -> None:
        time = collector.time
        async with acting(home, collector.client(collector.enrolled()), time) as running:
            watch(metrics, running.agent, running.clock)
            await running.until(lambda: running.agent.sender.counts.samples > 0, step_ms=500)
            await collector.server.stop()
            handed_in = running.agent.sender.counts.samples
            await time.advance(10 * MINUTE_MS)
            await running.until(lambda: running.agent.counts.spooled >= handed_in + 18, step_ms=500)
            # A sample is in the spool, which has a thread of its own, an instant before it is counted.
            counts = running.agent.counts
            name = "smartmail_agent_waiting_samples"
            await running.until(lambda: scraped(metrics)[name,] == counts.spooled - handed_in, step_ms=1)
            seen = scraped(metrics)
        assert seen["smartmail_agent_since_hand_in_seconds",] >= 540
        assert seen["smartmail_agent_hand_in_failures_total",] > 0

    async def test_what_waits_is_known_again_after_a_restart(
        self, collector: Collecting, home: AgentSettings, metrics: AgentMetrics
    ) -> None:
        time = collector.time
        identity = collector.enrolled()
        async with acting(home, collector.client(identity), time) as running:
            await running.until(lambda: bool(running.agent.prober.book.rosters))
            await collector.server.stop()
            await time.advance(3 * MINUTE_MS)
            await running.until(lambda: running.agent.counts.spooled >= 4, step_ms=500)
            await running.ended()
        kept = running.agent.counts.spooled
        async with acting(home, collector.client(identity), time) as again:
            watch(metrics, again.agent, again.clock)
            await again.until(lambda: again.agent.waiting > 0)
            assert scraped(metrics)["smartmail_agent_waiting_samples",] == kept

    def test_before_the_first_answer_of_a_collector_there_is_no_offset(self, metrics: AgentMetrics) -> None:
        assert ("smartmail_agent_clock_offset_seconds",) not in scraped(metrics)
        metrics.offset_ms = lambda: -1500
        assert scraped(metrics)["smartmail_agent_clock_offset_seconds",] == -1.5


class TestWhatProbesSaw:
    @pytest.fixture
    def prepared(self, home: AgentSettings, authority: Authority) -> AgentSettings:
        secrets = home.folder / "secrets"
        secrets.mkdir(mode=0o700)
        make_secrets(secrets)
        return replace(home, secrets=secrets, probe_ca=authority.file)

    async def test_phases_by_kind_and_the_end_of_the_certificate_by_check(
        self, prepared: AgentSettings, good: Pair, metrics: AgentMetrics
    ) -> None:
        metrics.checks = lambda: {"a-check"}
        look: Callable[..., Any] = probe_of(prepared, lambda: NOW_MS, metrics)
        async with peer(dialog(DIALOGS[CheckKind.SUBMISSION]), good.server()) as server:
            seen = await look(check_of(CheckKind.SUBMISSION, server.port))
        assert seen.outcome is Outcome.OK
        told = scraped(metrics)
        for phase in ("connect", "tls", "banner", "auth", "command"):
            assert told["smartmail_agent_probe_phase_seconds_count", "submission", phase] == 1
        expiry = told["smartmail_agent_certificate_expiry_timestamp_seconds", "a-check"]
        assert expiry == seen.facts["certificate_expires"]

    async def test_nothing_of_a_secret_an_address_or_a_host_is_told(
        self, prepared: AgentSettings, good: Pair, metrics: AgentMetrics
    ) -> None:
        metrics.checks = lambda: {"a-check"}
        look = probe_of(prepared, lambda: NOW_MS, metrics)
        for kind in (CheckKind.IMAPS, CheckKind.SUBMISSION):
            async with peer(dialog(DIALOGS[kind]), good.server(), implicit=kind is CheckKind.IMAPS) as server:
                await look(check_of(kind, server.port))
        page = generate_latest(metrics.registry).decode()
        assert 'check="a-check"' in page
        for word in (PASSWORD, LOGIN, RECIPIENT, NAME, "127.0.0.1", "secret", str(prepared.folder)):
            assert word not in page

    async def test_without_probe_ca_the_systems_authorities_are_trusted_and_no_others(
        self, prepared: AgentSettings, good: Pair, metrics: AgentMetrics
    ) -> None:
        look = probe_of(replace(prepared, probe_ca=None), lambda: NOW_MS, metrics)
        async with peer(dialog(DIALOGS[CheckKind.SMTPS]), good.server(), implicit=True) as server:
            assert (await look(check_of(CheckKind.SMTPS, server.port))).outcome is Outcome.CERTIFICATE

    def test_a_round_trip_is_split_by_stage_for_each_check_of_its_own(self, metrics: AgentMetrics) -> None:
        metrics.checks = lambda: {"a-trip"}
        metrics.saw(TRIP, {"connect": 3, "submitted": 400, "relayed": 20_000, "delivered": 0, "seen": 900}, {})
        told = scraped(metrics)
        assert told["smartmail_agent_round_trip_stage_seconds_sum", "a-trip", "relayed"] == 20
        assert told["smartmail_agent_round_trip_stage_seconds_count", "a-trip", "seen"] == 1
        assert told["smartmail_agent_probe_phase_seconds_count", "round-trip", "connect"] == 1
        assert not [key for key in told if key[1:3] == ("round-trip", "relayed")]

    def test_of_a_check_that_is_gone_nothing_more_is_told(self, metrics: AgentMetrics) -> None:
        metrics.checks = lambda: {"a-trip"}
        metrics.saw(TRIP, {"seen": 900}, {"certificate_expires": 1_800_000_000})
        metrics.late["a-trip"] += 1
        assert any("a-trip" in key for key in scraped(metrics))
        metrics.checks = set
        assert not any("a-trip" in key for key in scraped(metrics))

    async def test_a_late_message_is_a_line_and_is_counted(
        self, prepared: AgentSettings, metrics: AgentMetrics, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[Callable[[LateArrival], None]] = []
        said: list[dict[str, object]] = []

        class Trips:
            def __init__(self, _: str, *, sink: None, on_late: Callable[[LateArrival], None]) -> None:
                told.append(on_late)

        monkeypatch.setattr(roundtrip, "RoundTrips", Trips)
        monkeypatch.setattr("smartmail.events.monitor.round_trip_late", lambda **fields: said.append(fields))
        probe_of(prepared, lambda: NOW_MS, metrics)
        told[0](LateArrival("a-trip", "london", NOW_MS, NOW_MS + 600_000, NOW_MS + 400_000))
        assert said == [{"check": "a-trip", "location": "london", "late_ms": 400_000, "sent_ms": NOW_MS}]
        metrics.checks = lambda: {"a-trip"}
        assert scraped(metrics)["smartmail_agent_round_trips_late_total", "a-trip"] == 1


class TestSettings:
    def test_what_is_written_is_read(self, home: AgentSettings) -> None:
        full = replace(home, probe_ca=Path("probe-ca.pem"), metrics=Target("127.0.0.1", 9328))
        write_settings(full)
        read = load_settings(home.folder)
        assert (read.probe_ca, read.metrics) == (home.folder / "probe-ca.pem", Target("127.0.0.1", 9328))

    def test_both_are_off_where_nothing_is_said(self, home: AgentSettings) -> None:
        write_settings(home)
        read = load_settings(home.folder)
        assert (read.probe_ca, read.metrics) == (None, None)

    @pytest.mark.parametrize(
        ("text", "found"),
        [("127.0.0.1:0", Target("127.0.0.1", 0)), ("[::1]:9328", Target("::1", 9328)), ("", None)],
    )
    def test_where_metrics_may_be(self, home: AgentSettings, text: str, found: Target | None) -> None:
        write_settings(home)
        file = home.folder / "agent.toml"
        file.write_text(file.read_text().replace('metrics = ""', f'metrics = "{text}"'))
        assert load_settings(home.folder).metrics == found

    @pytest.mark.parametrize("text", ["9328", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", ":9328", "127.0.0.1:-1"])
    def test_where_they_may_not(self, home: AgentSettings, text: str) -> None:
        write_settings(home)
        file = home.folder / "agent.toml"
        file.write_text(file.read_text().replace('metrics = ""', f'metrics = "{text}"'))
        with pytest.raises(SettingsError, match=r"metrics: .* is no address and port"):
            load_settings(home.folder)
