"""The operator's log: fixed lines that nothing from outside can forge, and that never hold anybody up."""

import asyncio
import inspect
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartmail import events
from smartmail.events.lines import MAX_ITEMS, MAX_VALUE, EventRecord, console_line, from_library, json_line, safe

MARK = "kLm93xContentMark"

type_of_log = Callable[..., tuple[events.Sink, Callable[[], list[str]]]]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[type_of_log]:
    """log(style, ...) sends the log to a file; returns the sink and a function that gives the lines so far."""
    root, ours = logging.getLogger(), logging.getLogger("smartmail")
    levels = root.level, ours.level
    sinks: list[events.Sink] = []

    def start(style: str = "json", **options: object) -> tuple[events.Sink, Callable[[], list[str]]]:
        path = tmp_path / f"{len(sinks)}.log"
        sink = events.configure(style=style, stream=FileIO(str(path), "w"), **options)
        sinks.append(sink)

        def lines() -> list[str]:
            assert sink.drain(10)
            return path.read_text("utf-8").split("\n")[:-1]

        return sink, lines

    yield start
    for sink in sinks:
        root.removeHandler(sink)
        sink.close()
        sink._stream.close()
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def sample_of(function: Callable[..., None]) -> dict[str, object]:
    """Keyword arguments for an event, each with a value that can be found again."""
    samples: dict[object, object] = {int: 7, str: "a value", events.Sequence[str]: ("one", "two")}
    return {name: samples[parameter.annotation] for name, parameter in inspect.signature(function).parameters.items()}


EVENTS = sorted(
    name
    for name, function in vars(events).items()
    if inspect.isfunction(function)
    and function.__module__ == "smartmail.events"
    and not name.startswith("_")
    and name not in ("configure", "transaction", "internal_error", "loop_fault")
)


class TestWording:
    @pytest.mark.parametrize("name", EVENTS)
    def test_each_event_is_one_line_under_its_own_name_with_all_its_fields(self, name: str, log: type_of_log) -> None:
        _, lines = log(level="debug")
        arguments = sample_of(getattr(events, name))
        getattr(events, name)(**arguments)
        read = [json.loads(line) for line in lines()]
        assert {line["event"] for line in read} == {name}
        assert all(line["message"] and line["time"].endswith("Z") for line in read)
        values = [str(value) for value in read[0].values()]
        for value in arguments.values():
            assert any(
                str(item) in text for text in values for item in (value if isinstance(value, tuple) else [value])
            )

    def test_every_event_has_its_documentation(self) -> None:
        assert len(EVENTS) >= 15
        assert all(inspect.getdoc(getattr(events, name)) for name in EVENTS)

    @pytest.mark.parametrize(
        ("verdict", "level", "text"),
        [
            ("accepted", "info", "mail accepted"),
            ("deferred", "info", "mail deferred"),
            ("rejected", "info", "mail rejected"),
            ("aborted", "info", "mail aborted"),
            ("ambiguous", "warning", "mail handed over, but the upstream never said so"),
        ],
    )
    def test_a_transaction_is_one_line_whatever_its_verdict(
        self, verdict: str, level: str, text: str, log: type_of_log
    ) -> None:
        _, lines = log()
        events.transaction({"verdict": verdict, "sender": "a@example.com", "recipients": ("b@example.com",), "size": 0})
        (line,) = map(json.loads, lines())
        assert (line["event"], line["level"], line["message"]) == ("transaction", level, text)
        assert (line["sender"], line["recipients"], line["size"]) == ("a@example.com", ["b@example.com"], 0)

    def test_every_verdict_of_the_core_has_its_text(self, log: type_of_log) -> None:
        from smartmail.core.policy import Verdict

        _, lines = log()
        for verdict in Verdict:
            events.transaction({"verdict": verdict})
        texts = [json.loads(line)["message"] for line in lines()]
        assert "mail" not in texts
        assert len(set(texts)) == len(Verdict)

    def test_a_refused_configuration_tells_each_problem(self, log: type_of_log) -> None:
        _, lines = log("console")
        events.config_refused(config="smartmail.toml", problems=("one", "two"))
        assert [line.rpartition(" ")[2] for line in lines()] == ["problem=one", "problem=two"]

    def test_console_form(self) -> None:
        fields = {"client": "192.0.2.1", "empty": "", "none": None, "list": (), "zero": 0, "to": ("a", "b"), "t": "x y"}
        record = EventRecord(logging.WARNING, "name", "the text", fields)
        record.created = 1_800_000_000.1239
        assert console_line(record) == (
            '2027-01-15T08:00:00.123Z WARNING name: the text client=192.0.2.1 zero=0 to=a,b t="x y"'
        )

    def test_json_form(self) -> None:
        record = EventRecord(logging.INFO, "name", "the text", {"event": "forged", "to": ("a", "b"), "n": 5, "e": ""})
        record.created = 1_800_000_000.0
        assert json.loads(json_line(record)) == {
            "time": "2027-01-15T08:00:00.000Z",
            "level": "info",
            "event": "name",
            "message": "the text",
            "to": ["a", "b"],
            "n": 5,
        }

    def test_level(self, log: type_of_log) -> None:
        _, lines = log(level="warning")
        events.upstream_up(address="127.0.0.1:25")
        events.upstream_down(address="127.0.0.1:25", reason="connection refused")
        assert [json.loads(line)["event"] for line in lines()] == ["upstream_down"]


INJECTIONS = {
    "line feed": "a\n2027-01-15T08:00:00.000Z INFO    transaction: mail accepted",
    "carriage return": "a\rforged",
    "CRLF": "a\r\n{}",
    "NUL": "a\0b",
    "terminal escape": "a\x1b[2J\x1b[31m",
    "C1 control": "a\x9b31m\x85b",
    "line separator": "a\u2028b\u2029c",
    "bidirectional override": "a\u202eb\u2066c",
    "zero width": "a\u200bb\ufeffc",
    "lone surrogate": "a\udcffb",
    "quote and field": 'a" verdict=accepted x="',
}


class TestLogInjection:
    @pytest.mark.parametrize("style", ["json", "console"])
    @pytest.mark.parametrize("text", INJECTIONS.values(), ids=INJECTIONS.keys())
    def test_a_login_cannot_forge_or_hide_a_line(self, style: str, text: str, log: type_of_log) -> None:
        _, lines = log(style)
        events.login_failed(client="192.0.2.1", login=text)
        events.transaction({"verdict": "rejected", "recipients": (text, text)})
        written = lines()
        assert len(written) == 2
        assert all(line.isprintable() for line in written)
        if style == "json":
            assert [json.loads(line)["event"] for line in written] == ["login_failed", "transaction"]

    def test_a_quoted_value_cannot_end_its_quotes(self) -> None:
        line = console_line(EventRecord(logging.INFO, "e", "t", {"login": 'a" verdict=accepted x="'}))
        assert line.endswith('login="a\\" verdict=accepted x=\\""')

    @settings(deadline=None)
    @given(st.text())
    def test_safe_text_is_printable_and_plain_text_stays(self, text: str) -> None:
        assert safe(text).isprintable()
        if text.isprintable() and len(text) <= MAX_VALUE:
            assert safe(text) == text

    @settings(deadline=None)
    @given(st.text(), st.text(), st.lists(st.text()))
    def test_any_fields_make_one_line_each(self, one: str, two: str, many: list[str]) -> None:
        record = EventRecord(logging.INFO, "e", "t", {"one": one, "two": two, "many": many})
        assert console_line(record).isprintable()
        assert json_line(record).isprintable()
        assert set(json.loads(json_line(record))) <= {"time", "level", "event", "message", "one", "two", "many"}

    def test_a_long_value_is_cut(self) -> None:
        line = json.loads(json_line(EventRecord(logging.INFO, "e", "t", {"login": "x" * 100_000})))
        assert line["login"] == "x" * MAX_VALUE + "..."

    def test_many_recipients_are_counted_not_listed(self) -> None:
        to = [f"{number}@example.com" for number in range(1000)]
        line = json.loads(json_line(EventRecord(logging.INFO, "e", "t", {"to": to})))
        assert line["to"] == [*to[:MAX_ITEMS], f"and {1000 - MAX_ITEMS} more"]


class TestNeverContent:
    def test_octets_are_counted_not_written(self, log: type_of_log) -> None:
        _, lines = log()
        events.transaction({"verdict": "accepted", "slip": f"Subject: {MARK}".encode(), "list": [MARK.encode()]})  # type: ignore[list-item]
        (line,) = lines()
        assert MARK not in line
        assert json.loads(line)["slip"] == f"<{len(MARK) + 9} octets>"

    def test_a_fault_of_ours_names_its_place_and_type_but_not_its_text(self, log: type_of_log) -> None:
        def parse(octets: bytes) -> None:
            raise ValueError(f"cannot read {octets!r}")

        _, lines = log()
        try:
            try:
                parse(MARK.encode())
            except ValueError as error:
                raise LookupError(MARK) from error
        except LookupError as error:
            events.internal_error("R-1", error, session="s1")
        (line,) = lines()
        assert MARK not in line
        told = json.loads(line)
        assert (told["reference"], told["error"], told["cause"]) == ("R-1", "LookupError", "ValueError")
        assert "test_events.py:" in told["at"]

    def test_the_systems_own_words_are_written(self, log: type_of_log) -> None:
        _, lines = log()
        events.internal_error("R-2", OSError(28, "No space left on device"))
        assert json.loads(lines()[0])["system"] == "No space left on device"

    async def test_a_fault_that_nothing_caught_does_not_print_the_callbacks_arguments(self, log: type_of_log) -> None:
        _, lines = log()
        done = asyncio.Event()

        def callback(octets: bytes) -> None:
            done.set()
            raise RuntimeError(f"bad {octets!r}")

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(events.loop_fault)
        loop.call_soon(callback, MARK.encode())
        await done.wait()
        await asyncio.sleep(0)
        (line,) = lines()
        assert MARK not in line
        assert json.loads(line)["event"] == "loop_fault"

    def test_a_librarys_exception_text_is_left_out(self, log: type_of_log) -> None:
        _, lines = log()
        try:
            raise ValueError(MARK)
        except ValueError:
            logging.getLogger("some.library").exception("while handling %s", MARK)
        (line,) = lines()
        assert MARK not in line
        assert json.loads(line)["error"] == "ValueError"

    def test_libraries_are_heard_from_warning_upwards_only(self, log: type_of_log) -> None:
        _, lines = log(level="debug")
        library = logging.getLogger("a.library")
        library.debug("received %s", MARK)
        library.info("received %s", MARK)
        library.warning("first line\nsecond line")
        (line,) = map(json.loads, lines())
        assert (line["event"], line["logger"], line["text"]) == ("library", "a.library", "first line")

    def test_a_librarys_record_keeps_its_time(self) -> None:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "said %s", ("this",), None)
        assert from_library(record).created == record.created


class TestNobodyWaits:
    def test_a_stalled_reader_costs_lines_not_time_and_the_loss_is_counted(self) -> None:
        reader, writer = os.pipe()
        capacity = 50
        root = logging.getLogger()
        level = root.level
        # A pipe holds 64 KiB: more than that, and the writer thread is stuck in its write.
        sink = events.configure(style="json", stream=FileIO(writer, "w"), capacity=capacity)
        try:
            sent = 2000
            for _ in range(sent):
                events.login_failed(client="192.0.2.1", login="x" * MAX_VALUE)
            assert sink.dropped > 0
            got: list[bytes] = []
            thread = threading.Thread(target=lambda: got.extend(iter(lambda: os.read(reader, 65536), b"")))
            thread.start()
            assert sink.drain(10)
            events.upstream_up(address="after")
            events.upstream_down(address="after", reason="")
            assert sink.drain(10)
        finally:
            root.removeHandler(sink)
            root.setLevel(level)
            sink.close()
            sink._stream.close()
        thread.join(10)
        os.close(reader)
        lines = [json.loads(line) for line in b"".join(got).splitlines()]
        lost = sum(line["count"] for line in lines if line["event"] == "log_lines_dropped")
        kept = sum(line["event"] == "login_failed" for line in lines)
        assert lost == sink.dropped
        assert lost + kept == sent

    def test_close_does_not_wait_for_a_stalled_reader_for_ever(self) -> None:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        stream = FileIO(writer, "w")
        sink = events.Sink(stream, json_line)
        for _ in range(500):
            sink.emit(EventRecord(logging.INFO, "e", "t", {"login": "x" * MAX_VALUE}))
        sink.close()
        assert not sink._thread.is_alive()
        assert sink.dropped > 0
        os.close(reader)
        stream.close()

    def test_a_broken_pipe_is_counted_and_survived(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        stream = FileIO(writer, "w")
        sink = events.Sink(stream, json_line)
        sink.emit(EventRecord(logging.INFO, "e", "t", {}))
        assert sink.drain(10)
        assert sink.dropped == 1
        sink.close()
        stream.close()

    def test_many_threads_lose_no_line(self, log: type_of_log) -> None:
        _, lines = log()
        threads = [
            threading.Thread(target=lambda: [events.upstream_up(address="a") for _ in range(500)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(lines()) == 2000

    def test_configured_again_the_former_log_is_finished_and_left_alone(self, log: type_of_log) -> None:
        _, first = log()
        events.upstream_up(address="first")
        _, second = log("console")
        events.upstream_up(address="second")
        assert [json.loads(line)["address"] for line in first()] == ["first"]
        (line,) = second()
        assert line.endswith("upstream_up: upstream is up address=second")

    def test_before_it_is_configured_lines_go_where_python_sends_them(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "smartmail"):
            events.upstream_down(address="127.0.0.1:25", reason="gone")
        assert [(one.levelname, one.getMessage()) for one in caplog.records] == [("WARNING", "upstream is down")]
