"""The demo's second part: three locations watch a mail server through the last minutes of a month, on a fast clock.

`python -m smartmail.cli.watching`: a `Watch` as JSON on standard input. Everything is real but the clock: a relay in a
process of its own, the collector over HTTPS, three agents that enrol, probe, spool and hand in, the month's close, the
credits and the report. The server hangs for two minutes, and one location loses its net for two others. Exit code 0
when the month comes out as it must.
"""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from smartmail import events
from smartmail.cli.collecting import Monitor
from smartmail.cli.common import ExitCode
from smartmail.cli.demo import Watch
from smartmail.cli.guide import head, make_console
from smartmail.cli.people import make_host
from smartmail.config import Config
from smartmail.core.ledger import shift_paid, verify
from smartmail.core.live import LiveMonth
from smartmail.core.minutes import Verdict
from smartmail.core.months import Month
from smartmail.core.outcome import Outcome
from smartmail.core.roster import CheckSpec
from smartmail.core.signing import token_digest
from smartmail.events import monitor as lines
from smartmail.monitor.agent import Agent, AgentParts
from smartmail.monitor.client import Collectors, Identity, new_key, read_key, tls_context
from smartmail.monitor.clock import CorrectedClock
from smartmail.monitor.control import Target
from smartmail.monitor.control import connect as reach
from smartmail.monitor.probes import PROBES, Observation, make_context
from smartmail.monitor.probes.context import SecretSource
from smartmail.monitor.settings import KEY_FILE, AgentSettings, write_whole
from smartmail.report.command import file_name
from smartmail.report.gather import Wanted, gather
from smartmail.report.outputs import Form, write
from smartmail.report.pdf import PdfUnavailable
from smartmail.report.terminal import show
from smartmail.store import agents, customers, subscriptions
from smartmail.store.ledger import entries
from smartmail.store.plans import STANDARD
from smartmail.store.records import Act

PACE: Final = 30
"""How many times as fast as ours the demo's clock runs: a minute takes 2 s."""
PROBE_MS: Final = 1500
"""Patience of a probe: 45 of the demo's seconds."""
MINUTES: Final = 16
"""Watched before the month ends."""
OUTAGE: Final = range(5, 7)
CUT_OFF: Final = range(10, 12)
PLACES: Final = ("london", "toronto", "osaka")
LOGIN: Final = "login"
"""A name by which all three begin within the first ten seconds of a minute: so each gives up before the server, which
hangs until the minute ends, goes on and answers after all."""
HOST_SECONDS: Final = 30
_MARKS: Final = {Verdict.UP: ("up", "green"), Verdict.DOWN: ("DOWN", "bold red"), Verdict.UNKNOWN: ("?", "yellow")}


class FastTime:
    """A clock that runs PACE times as fast, from `start_ms` on. All agents and the collector share it."""

    def __init__(self, start_ms: int) -> None:
        self._start_ms = start_ms
        self._began = time.monotonic_ns()

    def wall_ms(self) -> int:
        """Epoch milliseconds, as the demo has it."""
        return self._start_ms + self.steady_ms()

    def steady_ms(self) -> int:
        """Since the start."""
        return (time.monotonic_ns() - self._began) * PACE // 10**6

    async def sleep_ms(self, milliseconds: int) -> None:
        """So many of the demo's."""
        await asyncio.sleep(max(0, milliseconds) / 1000 / PACE)


@dataclass(slots=True)
class Place:
    """A location. connected: has it a net?"""

    name: str
    folder: Path
    connected: bool = True

    async def reach(self, host: str, port: int) -> None:
        """Connect, as far as there is a net."""
        if not self.connected:
            raise OSError("network is unreachable")
        await reach(host, port)


@dataclass(slots=True)
class Scene:
    """The demo's month. first: its first watched minute."""

    folder: Path
    console: Console
    month: Month
    first: int
    clock: FastTime
    host: "Host"
    wrong: list[str] = field(default_factory=list)

    async def play(self) -> None:
        """All of it: watch, close, credit, report."""
        places = [Place(name, self.folder / name) for name in PLACES]
        async with Monitor(self._config(), now_ms=self.clock.wall_ms, pace=PACE) as monitor:
            make_customers(monitor, self.first)
            async with AsyncExitStack() as stack:
                for place in places:
                    await self._start_agent(monitor, place, stack)
                await self._watch(monitor, places)
            await asyncio.to_thread(self._close, monitor)

    def _config(self) -> Config:
        where = {"service": "mail", "host": "127.0.0.1", "tls_name": "localhost"}
        terms = {"version": "demo", "zone": "UTC", "grace_minutes": 0, "restate_days": 1}
        return Config.model_validate(
            {
                "server": {"data_dir": str(self.folder)},
                "monitor": {"address": "127.0.0.1:0", "metrics_address": "", "locations": list(PLACES)},
                "check": [
                    {**where, "name": LOGIN, "kind": "submission", "port": self.host.submission} | {"secret": "probe"},
                    {**where, "name": "mx", "kind": "mx", "port": self.host.relay, "recipient": self.host.login},
                ],
                "terms": [terms],
            }
        )

    async def _start_agent(self, monitor: Monitor, place: Place, stack: AsyncExitStack) -> None:
        """Enrol an agent by a token, and run it until the stack ends."""
        url, clock = f"https://127.0.0.1:{monitor.port}", CorrectedClock(self.clock)
        secrets_folder = place.folder / "secrets"
        secrets_folder.mkdir(parents=True, mode=0o700)
        write_whole(secrets_folder / "probe", f"{self.host.login}\n{self.host.password}\n".encode())
        _, pem, public = new_key()
        write_whole(place.folder / KEY_FILE, pem)
        token, now = f"{place.name}.{os.urandom(16).hex()}", self.clock.wall_ms()
        with monitor.database.write() as connection:
            agents.add_token(
                connection, token_digest(token), place.name, made_by="demo", made_ms=now, expires_ms=now + 3_600_000
            )
        name, tls = f"{place.name}-1", tls_context(monitor.authority)
        async with Collectors([url], tls, clock.steady_ms) as stranger:
            await stranger.enrol(token, name, place.name, public)
        identity = Identity(name, read_key(place.folder / KEY_FILE))
        collectors = await stack.enter_async_context(Collectors([url], tls, clock.steady_ms, identity))
        settings = AgentSettings(place.folder, name, place.name, (url,), control=(Target("127.0.0.1", monitor.port),))
        parts = AgentParts(clock, collectors, self._probe(place, secrets_folder), lines, place.reach)
        stop = asyncio.Event()
        task = asyncio.create_task(Agent(settings, parts).run(stop))
        stack.push_async_callback(_ended, task, stop)

    def _probe(self, place: Place, secrets_folder: Path) -> Callable[[CheckSpec], Awaitable[Observation]]:
        whole = make_context(SecretSource(secrets_folder), ca_file=self.host.authority, now_ms=self._real_ms)
        context = replace(whole, timeout_ms=PROBE_MS)

        async def probe(check: CheckSpec) -> Observation:
            if not place.connected:
                return Observation(Outcome.UNREACHABLE, 0, {}, "network is unreachable")
            return await PROBES[check.kind](check, context)

        return probe

    @staticmethod
    def _real_ms() -> int:
        # Certificates live in our time.
        return time.time_ns() // 10**6

    async def _watch(self, monitor: Monitor, places: list[Place]) -> None:
        """Minute by minute until three minutes into the next month, when all samples are in."""
        told = 0
        for minute in range(MINUTES + 3):
            # Just before the minute begins, so that no probe is under way.
            await self.clock.sleep_ms((self.first + minute) * 60_000 - 1_000 - self.clock.wall_ms())
            self._happen(minute, places)
            told = self._tell(await monitor.look(), told)

    def _happen(self, minute: int, places: list[Place]) -> None:
        toronto = places[1]
        if minute == OUTAGE.start:
            self._say("now the mail server hangs (SIGSTOP)", "bold red")
            self.host.pause()
        elif minute == OUTAGE.stop:
            self._say("now the mail server goes on", "bold green")
            self.host.resume()
        elif minute == CUT_OFF.start:
            self._say(f"now {toronto.name} loses its net: its control target is out of reach", "bold yellow")
            toronto.connected = False
        elif minute == CUT_OFF.stop:
            self._say(f"now {toronto.name} has its net back", "bold green")
            toronto.connected = True

    def _tell(self, live: tuple[LiveMonth, ...], told: int) -> int:
        """Print the minutes judged since, each with what every location saw. Returns how many are told now."""
        for one in live:
            for minute in range(self.first + told, one.until):
                verdict = one.record.assessment.verdict_at(minute)
                if verdict is None or verdict not in _MARKS:
                    continue
                word, style = _MARKS[verdict]
                votes = [self._vote(one, minute, place) for place in PLACES]
                self.console.print(
                    Text.assemble(f"  {_clock(minute)}  ", (f"{word:<5}", style), "  ", "  ".join(votes)),
                    soft_wrap=True,
                )
            told = max(told, one.until - self.first)
        return told

    @staticmethod
    def _vote(live: LiveMonth, minute: int, place: str) -> str:
        evidence = live.record.evidence
        bit = 1 << (minute - evidence.span.first)
        if evidence.silenced.get(place, 0) & bit:
            return f"{place} abstains"
        seen = [
            f"{check} fails"
            for check, votes in sorted(evidence.streams.items())
            if place in votes and votes[place].down & bit
        ]
        return f"{place}: {', '.join(seen) or 'ok'}"

    def _close(self, monitor: Monitor) -> None:
        """Freeze the month, credit, verify, write the report."""
        head(self.console, f"{self.month} is over", "closed, credited, reported")
        months, act = monitor.months, Act("demo", "", self.clock.wall_ms() * 10**6)
        monitor.samples.seal()
        revision = months.close("mail", self.month, act)
        order = months.credit_order(self.month, act)
        decisions = [one for batch in months.credits(order, apply=True) for one in batch]
        again = [one for batch in months.credits(order, apply=True) for one in batch]
        made = gather(monitor.database, Wanted("mail", str(self.month)), monitor.samples.failures)
        show(made, self.console)
        granted = [one for one in decisions if one.reason.value == "granted"]
        judged = months.judge("mail", self.month, act.at_ns // 10**6).assessment
        self._expect("down minutes", judged.down_minutes, len(OUTAGE))
        self._expect("minutes that nobody can tell of", judged.unknown_minutes, 0)
        self._expect("subscriptions credited", len(granted), 2)
        self._expect("credited again by a second run", sum(one.reason.value == "granted" for one in again), 0)
        with monitor.database.read() as connection:
            self._expect("faults in the ledger's chain", len(verify(entries(connection))), 0)
        self._expect("revision", revision.number, 1)
        head(self.console, "The report")
        for form in (Form.HTML, Form.PDF, Form.JSON):
            file = self.folder / file_name(made, form)
            try:
                file.write_bytes(write(made, form))
            except PdfUnavailable as error:
                self.console.print(f"no PDF: {error.message}; {error.hint}", soft_wrap=True)
                continue
            self.console.print(Text(str(_near(file)), "yellow"), soft_wrap=True)

    def _expect(self, what: str, found: int, wanted: int) -> None:
        if found != wanted:
            self.wrong.append(f"{what}: {found}, expected {wanted}")

    def _say(self, text: str, style: str) -> None:
        self.console.print(Text(f"  {_clock(self.clock.wall_ms() // 60_000 + 1)}  {text}", style), soft_wrap=True)


class Host:
    """The mail server that is watched: a relay with its embedded upstream, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.submission, self.relay = _free_ports(2)
        self.login = "probe@watched.example"
        self.password = os.urandom(12).hex()
        self.authority = folder / "data" / "self-made.pem"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make its account, start it, and return when it takes connections. Raises OSError."""
        data = self.folder / "data"
        data.mkdir(parents=True)
        config = self.folder / "host.toml"
        config.write_text(
            f'[server]\ndata_dir = "{data}"\nmin_data_rate = 0\n[metrics]\naddress = ""\n'
            f'[[listener]]\nname = "submission"\nrole = "submission"\naddress = "127.0.0.1:{self.submission}"\n'
            f'[[listener]]\nname = "relay"\nrole = "relay"\naddress = "127.0.0.1:{self.relay}"\n'
            "accept_incoming = true\n"
        )
        make_host(f"sqlite:///{data / 'smartmail.db'}", self.login, self.password)
        with (self.folder / "host.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "smartmail", "--config", str(config), "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + HOST_SECONDS
        while not (self._answers(self.submission) and self._answers(self.relay)):
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise OSError(f"the watched server does not start: see {self.folder / 'host.log'}")
            time.sleep(0.05)

    @staticmethod
    def _answers(port: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
        except OSError:
            return False

    def pause(self) -> None:
        """It takes connections and says nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on where it was."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it."""
        self.resume()
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


def make_customers(monitor: Monitor, minute: int) -> None:
    """Two who pay, and one whose subscription was closed for spam: it forfeits."""
    act = Act("demo", "sent spam", (minute - 1) * 60 * 10**9)
    with monitor.database.write() as connection:
        made = {}
        for name, anchor in (("Anna's bakery", 31), ("Brno Bikes", 5), ("Cheap Pills", 12)):
            customer = customers.add_customer(connection, name, "", act)
            subscription = customers.add_subscription(connection, customer, STANDARD, anchor, act)
            paid = shift_paid(datetime.fromtimestamp(minute * 60, UTC).date(), 1, anchor)
            subscriptions.change_subscription(connection, subscription, subscriptions.Change(paid_through=paid), act)
            made[name] = subscription
        subscriptions.close_subscription(connection, made["Cheap Pills"], subscriptions.ClosedFor.ABUSE, act)


def _free_ports(count: int) -> list[int]:
    found = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in found]
    for one in found:
        one.close()
    return ports


async def _ended(task: "asyncio.Task[None]", stop: asyncio.Event) -> None:
    stop.set()
    await task


def _clock(minute: int) -> str:
    return datetime.fromtimestamp(minute * 60, UTC).strftime("%d %b %H:%M")


def _near(path: Path) -> Path:
    with suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def month_before(now: datetime) -> Month:
    """The last month that is over."""
    return Month(now.year, now.month).previous()


def main() -> int:
    """Play it. Returns the exit code."""
    watch = Watch(**json.loads(sys.stdin.read()))
    console, folder = make_console(), Path(watch.folder).absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    with (folder / "monitor.log").open("wb", buffering=0) as stream:
        log = events.configure(stream=stream)
        host = Host(folder / "host")
        wrong: list[str] = []
        try:
            host.start()
            wrong = _play(folder, console, host)
        except (OSError, ExceptionGroup) as error:
            wrong = [f"the scene broke off: {error}"]
        finally:
            host.stop()
            log.close()
    for one in wrong:
        console.print(Text(f"not as it should be: {one}", "bold red"), soft_wrap=True)
    if not wrong:
        console.print(Text("The month came out as it must.", "green"))
        json_file = next(iter(sorted(folder.glob("*.json"))), folder)
        head(console, "Look closer")
        console.print(Text(f"{watch.command} sla verify-report {_near(json_file)}", "yellow"), soft_wrap=True)
    return ExitCode.FOUND_BAD if wrong else ExitCode.OK


def _play(folder: Path, console: Console, host: Host) -> list[str]:
    month = month_before(datetime.now(UTC))
    after = month.next()
    first = int(datetime(after.year, after.month, 1, tzinfo=UTC).timestamp()) // 60 - MINUTES
    head(console, "The monitor", f"three locations, the last {MINUTES} minutes of {month}, {PACE} times as fast")
    clock = FastTime(first * 60_000 - 60_000)
    scene = Scene(folder, console, month, first, clock, host)
    asyncio.run(scene.play())
    return scene.wrong


def _end(_signal: int, _frame: object) -> None:
    raise SystemExit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
