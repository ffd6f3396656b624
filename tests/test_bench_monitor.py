"""The arithmetic and the form of `ops/bench monitor`; what it measures is not measured here."""

import json
import sqlite3
import sys
from pathlib import Path

import pytest

OPS = Path(__file__).resolve().parents[1] / "ops"
sys.path.insert(0, str(OPS))

from benchmarks.load import LoadFailed  # noqa: E402
from benchmarks.monitor import Plan, rates, rounds_of  # noqa: E402
from benchmarks.monitor_agent import Minutes, lateness  # noqa: E402
from benchmarks.monitor_collector import SETTINGS  # noqa: E402
from benchmarks.monitor_data import LOCATIONS, NoisyMonth, crowd  # noqa: E402
from benchmarks.monitor_imap import Session  # noqa: E402
from benchmarks.monitor_report import BARS, Results, Row, as_json, judged, shown, significant  # noqa: E402
from benchmarks.monitor_rows import INDICES, QUESTION, TABLES, Told  # noqa: E402

from smartmail.config import load  # noqa: E402
from smartmail.core.maintenance import check  # noqa: E402
from smartmail.core.sample import decode_batch, encode_batch  # noqa: E402
from smartmail.core.slots import ON_TIME_MS  # noqa: E402

REACHED = {
    "close_month_s": 0.2,
    "credits_100k_s": 9.0,
    "ingest_per_s": 80_000.0,
    "plane_bytes": 11_176.0,
    "raw_bytes_per_sample": 1.7,
    "recompute_vs_rows": 4000.0,
    "checks_per_minute": 10_000.0,
    "on_time_per_mille": 999.0,
}


def test_every_bar_has_its_name_and_its_bound() -> None:
    bounds = {bar.id: (bar.bound, bar.at_least) for bar in BARS}
    assert bounds == {
        "close_month_s": (2, False),
        "credits_100k_s": (10, False),
        "ingest_per_s": (50_000, True),
        "plane_bytes": (12_000, False),
        "raw_bytes_per_sample": (4, False),
        "recompute_vs_rows": (500, True),
        "checks_per_minute": (10_000, True),
        "on_time_per_mille": (999, True),
    }


def test_bars_that_are_reached_are_met() -> None:
    assert all(bar["met"] for bar in judged(Results(values=dict(REACHED))))


@pytest.mark.parametrize("missing", sorted(REACHED))
def test_a_bar_without_a_value_is_null_and_not_met(missing: str) -> None:
    bars = {bar["id"]: bar for bar in judged(Results(values={k: v for k, v in REACHED.items() if k != missing}))}
    assert bars[missing]["value"] is None
    assert bars[missing]["met"] is False
    assert sum(bool(bar["met"]) for bar in bars.values()) == len(BARS) - 1


def test_the_json_object_has_name_machine_rows_and_bars() -> None:
    results = Results(values=dict(REACHED), faults={"agent": "no"})
    results.add(Row.median("close_month", "close a month", "s", [0.3, 0.1234567, 0.2]))
    value = json.loads(as_json(results, {"processor": "x"}))
    assert value["name"] == "monitor"
    assert value["machine"] == {"processor": "x"}
    assert value["rows"] == [
        {"id": "close_month", "title": "close a month", "value": 0.2, "unit": "s", "rounds": [0.3, 0.12346, 0.2]}
    ]
    assert {bar["id"] for bar in value["bars"]} == set(REACHED)
    assert value["faults"] == {"agent": "no"}


@pytest.mark.parametrize(
    ("value", "text"), [(0.20244, "0.202"), (5.744, "5.74"), (11_176.0, "11,176"), (372_494.3, "372,494"), (12.0, "12")]
)
def test_figures_are_shown_with_the_digits_that_say_something(value: float, text: str) -> None:
    assert shown(value) == text
    assert significant(value) == pytest.approx(value, rel=1e-4)


def test_an_ingest_that_lost_a_sample_is_no_figure() -> None:
    good = {"samples": 10_000, "sent": 10_000, "seconds": 0.1}
    assert rates(rounds_of({"rounds": [good, good]})) == [100_000.0, 100_000.0]
    with pytest.raises(LoadFailed, match="10000 samples were handed in, 9999 were taken"):
        rounds_of({"rounds": [good, {**good, "samples": 9_999}]})
    with pytest.raises(LoadFailed):
        rounds_of({})


def test_a_slot_without_a_probe_is_not_on_time_and_the_share_is_floored() -> None:
    on_time = [0] * 9_989 + [ON_TIME_MS]
    found = Minutes(10_000, [9_991], [*on_time, ON_TIME_MS + 1], [], {})
    assert found.on_time_per_mille == 999
    assert Minutes(10_000, [10_000], [5] * 10_000, [], {}).on_time_per_mille == 1000
    assert Minutes(10_000, [9_989], on_time[:-1], [], {}).on_time_per_mille == 998


@pytest.mark.parametrize(
    ("started", "late"), [(120_000 + 49_400, 0), (120_000 + 50_400, 1_000), (180_000 + 2_400, 13_000), (109_398, -2)]
)
def test_a_start_is_measured_from_the_slot_before_it_but_for_a_clock_put_right(started: int, late: int) -> None:
    assert lateness(started, 49_400) == late


def test_the_quick_plan_still_has_a_whole_minute_of_ten_thousand_checks() -> None:
    assert (Plan.quick().minutes, Plan.quick().checks) == (1, 10_000)


def test_the_month_of_the_benchmark_is_october_in_london_and_its_servicing_counts() -> None:
    month = NoisyMonth()
    assert month.span.minutes == 31 * 1440 + 60
    assert len(month.roster.checks) * len(LOCATIONS) == 60
    check([], month.servicing)


def test_a_crowd_is_five_thousand_checks_of_one_minute_and_always_the_same() -> None:
    one, other = crowd("a", "here", 1000, 0), crowd("a", "here", 1000, 1)
    assert decode_batch(encode_batch(one)) == one == crowd("a", "here", 1000, 0)
    names = {sample.check for sample in one.samples} | {sample.check for sample in other.samples}
    assert len(one.samples) == len(other.samples) == 5_000
    assert len(names) == 10_000
    assert {sample.started_ms // 60_000 for sample in one.samples} == {1000}


def test_the_question_to_the_rows_knows_quorum_silence_and_minutes_without_any_row() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(TABLES + INDICES)
    # One check from three locations: (minute, statuses); 2 is neither up nor down.
    seen = [("00:00", (1, 1, 1)), ("00:01", (0, 0, 1)), ("00:02", (1, 0)), ("00:03", (1, 1, 0)), ("00:04", (2, 2, 1))]
    for minute, statuses in seen:
        for place, status in enumerate(statuses, 1):
            connection.execute(
                "INSERT INTO heartbeat (monitor_id, status, time) VALUES (?, ?, ?)",
                (place, status, f"2026-10-01 {minute}:10.000"),
            )
    values = {"checks": 1, "locations": 3, "reporters": 2, "first": "2026-10-01 00:00:00", "end": "2026-10-01 00:06:00"}
    assert connection.execute(QUESTION, values).fetchone() == (1, 2, 2, 5)
    connection.close()


def test_availability_from_the_rows_is_cut_off_and_counts_unknown_as_down() -> None:
    assert Told(down=75, up=44_625, unknown=0).availability == "99.832"
    assert Told(down=0, up=999, unknown=1).availability == "99.900"
    assert Told(down=0, up=10, unknown=0).availability == "100.000"


def test_the_mail_server_of_the_benchmark_takes_the_right_login_only() -> None:
    session = Session()
    session.expected = b'LOGIN "a" "b"'
    assert session.answer(b"A1", b"LOGIN", b'LOGIN "a" "b"') == b"A1 OK logged in\r\n"
    assert session.answer(b"A1", b"LOGIN", b'LOGIN "a" "c"') == b"A1 NO wrong login\r\n"
    assert session.answer(b"A2", b"SELECT", b'SELECT "INBOX"').endswith(b"A2 OK [READ-WRITE] selected\r\n")


def test_the_collector_of_the_benchmark_has_a_configuration_that_holds(tmp_path: Path) -> None:
    file = tmp_path / "smartmail.toml"
    file.write_text(SETTINGS.format(home=tmp_path, port=9326))
    config = load(file)
    assert config.monitor.endpoint is not None
    assert config.monitor.metrics_endpoint is None
    assert config.check == ()
