"""Runs each transcript of this folder against the real relay. README.md says how one is written."""

import asyncio
import codecs
import re
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import uvloop
from upstream import CAPABILITIES, Override
from world import PATIENCE, STANDINGS, Client, Setup, World, account, auth_plain, running

from smartmail.core.limits import Limit, Mode, Scope, Unit
from smartmail.relay.route import Identify

HERE = Path(__file__).parent
TRANSCRIPTS = sorted(HERE.glob("*.smtp"))


class TranscriptError(ValueError):
    """The transcript itself is wrong."""


@dataclass
class Script:
    """One transcript: what the world is made of, and the steps, each with its line number."""

    setup: Setup = field(default_factory=lambda: Setup(accounts=[]))
    steps: list[tuple[int, str, str]] = field(default_factory=list)


def parse(text: str) -> Script:
    """The directives before the first step make the world; all from there on are steps."""
    script = Script()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        word, rest = _split(line)
        if word in _MAKING and not script.steps:
            _MAKING[word](script.setup, rest)
        elif word in _STEPS:
            script.steps.append((number, word, rest))
        else:
            raise TranscriptError(f"line {number}: no such word: {word}")
    if not any(word == "kept" for _, word, _ in script.steps):
        raise TranscriptError('say how many mails the upstream kept: "kept 1"')
    return script


def _split(line: str) -> tuple[str, str]:
    """Of "S: 250 Ok" and "account a@b closed" alike: the word, and the rest without the one blank between."""
    word, _, rest = line.partition(" ")
    return word, rest


# what the world is made of


def _listener(setup: Setup, rest: str) -> None:
    setup.listeners = tuple(rest.split())


def _account(setup: Setup, rest: str) -> None:
    address, *words = rest.split()
    aliases = frozenset(word for word in words if "@" in word)
    standing = next((word for word in words if word in STANDINGS), "")
    setup.accounts.append(account(len(setup.accounts) + 1, address, standing, aliases=aliases))


def _domain(setup: Setup, rest: str) -> None:
    setup.domains += rest.split()


def _limit(setup: Setup, rest: str) -> None:
    # limit account messages 2 per 3600 [shadow] [burst 5]
    scope, unit, quota, _, period, *more = rest.split()
    burst = int(more[more.index("burst") + 1]) if "burst" in more else 0
    mode = Mode.SHADOW if "shadow" in more else Mode.ENFORCE
    name = f"{scope}-{unit}".replace("_", "-")
    setup.limits += (Limit(name, Scope(scope), Unit(unit), int(quota), int(period), burst, mode),)


def _upstream(setup: Setup, rest: str) -> None:
    """See README.md: offers, lmtp, away, tls, or what is said at a step."""
    words = shlex.split(rest, posix=False)
    upstream = setup.upstream
    match words:
        case ["offers", *keywords]:
            upstream.capabilities = (*CAPABILITIES, *keywords) if keywords[0] == "also" else tuple(keywords)
            upstream.capabilities = tuple(one.replace("_", " ") for one in upstream.capabilities if one != "also")
        case ["lmtp"]:
            upstream.lmtp = True
        case ["away"]:
            setup.reachable = False
        case _:
            upstream.overrides.append(_override(rest))


def _override(rest: str) -> Override:
    found = re.fullmatch(r"(once )?(\w+) (?:about (\S+) )?(.+)", rest)
    if found is None:
        raise TranscriptError(f"upstream {rest}")
    once, step, about, says = found.groups("")
    return Override(step, says, about, 1 if once else -1)


def _rule(setup: Setup, rest: str) -> None:
    name, value = rest.split()
    if name in ("max_size", "max_errors", "max_noops", "normalise"):
        setup.terms = replace(setup.terms, **{name: int(value)})
    elif name in ("per_network", "per_account", "total"):
        setup.caps = replace(setup.caps, **{name: int(value)})
    else:
        setup.rules = replace(setup.rules, **{name: int(value)})


def _identify(setup: Setup, rest: str) -> None:
    setup.identify = Identify(rest)


_MAKING: dict[str, Callable[[Setup, str], None]] = {
    "listener": _listener,
    "account": _account,
    "domain": _domain,
    "limit": _limit,
    "upstream": _upstream,
    "rule": _rule,
    "identify": _identify,
}


# the steps


class Player:
    """Plays one transcript."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clients: dict[str, Client] = {}
        self.name = ""
        self.commands = 0
        self.messages = 0
        self.rows = 0
        self.drain: asyncio.Task[int] | None = None

    async def client(self) -> Client:
        """The one that speaks now; connected when it is first needed."""
        if self.name not in self.clients:
            self.clients[self.name] = await self.world.client()
        return self.clients[self.name]

    async def other(self, rest: str) -> None:
        """client NAME [LISTENER]: from here on another connection speaks."""
        self.name, *listener = rest.split()
        if self.name not in self.clients:
            self.clients[self.name] = await self.world.client(*listener)

    async def say(self, rest: str) -> None:
        """C: a line."""
        await (await self.client()).send(rest.encode() + b"\r\n")

    async def raw(self, rest: str) -> None:
        """raw TEXT: octets as they are, with Python's escapes; "*N" behind a blank at the end repeats them."""
        text, _, times = rest.partition(" *")
        octets = codecs.decode(text, "unicode_escape").encode("latin-1")
        await (await self.client()).send(octets * int(times or 1))

    async def hear(self, rest: str) -> None:
        """S: exactly this line."""
        line = await (await self.client()).line()
        assert line == rest

    async def hear_like(self, rest: str) -> None:
        """S~ a line that the expression matches from end to end."""
        line = await (await self.client()).line()
        assert re.fullmatch(rest, line), f"{line!r} is not like {rest!r}"

    async def hear_code(self, rest: str) -> None:
        """S* CODE: a whole reply, whatever it says."""
        code, text = await (await self.client()).reply()
        assert code == int(rest), f"{text!r}, not {rest}"

    async def closed(self, rest: str) -> None:
        """The server has closed the connection and said nothing more."""
        assert await (await self.client()).ended() == b""

    async def hello(self, rest: str) -> None:
        """hello: the greeting and EHLO."""
        await self.hear_code("220")
        await self.say("EHLO client.example")
        await self.hear_code("250")

    async def tls(self, rest: str) -> None:
        """tls: STARTTLS, the handshake, EHLO anew."""
        client = await self.client()
        await client.ask("STARTTLS", 220)
        await client.start_tls()
        await client.ask("EHLO client.example", 250)

    async def login(self, rest: str) -> None:
        """login ADDRESS: from the greeting to a successful AUTH."""
        await self.hello("")
        if self.world.setup.listeners[0] == "submission":
            await self.tls("")
        await (await self.client()).ask(auth_plain(rest), 235)

    async def auth(self, rest: str) -> None:
        """auth ADDRESS [PASSWORD]: AUTH PLAIN; what is answered comes next."""
        address, _, password = rest.partition(" ")
        await self.say(auth_plain(address, password) if password else auth_plain(address))

    async def handshake(self, rest: str) -> None:
        """handshake: of TLS, and nothing else."""
        await (await self.client()).start_tls()

    async def hang_up(self, rest: str) -> None:
        """The client is gone without a word."""
        (await self.client()).hang_up()
        await _until(lambda: not self.world.relay.sessions)

    async def half_close(self, rest: str) -> None:
        """The client sends no more, and still reads."""
        (await self.client()).writer.write_eof()

    async def got(self, rest: str) -> None:
        """U: the next command that the upstream got."""
        upstream = self.world.upstream
        await upstream.until(lambda: len(upstream.commands) > self.commands)
        line = upstream.commands[self.commands]
        self.commands += 1
        if rest.startswith("~ "):
            assert re.fullmatch(rest[2:], line), f"{line!r} is not like {rest!r}"
        else:
            assert line == rest

    async def got_like(self, rest: str) -> None:
        """U~ the next command that the upstream got is like this."""
        await self.got(f"~ {rest}")

    async def got_nothing(self, rest: str) -> None:
        """quiet: the upstream got no further command."""
        assert self.world.upstream.commands[self.commands :] == []

    async def message(self, rest: str) -> None:
        """M: TEXT: the content of the next mail that was kept, with Python's escapes."""
        upstream = self.world.upstream
        await upstream.until(lambda: len(upstream.kept) > self.messages)
        wanted = codecs.decode(rest, "unicode_escape").encode("latin-1")
        assert upstream.kept[self.messages].content == wanted
        self.messages += 1

    async def kept(self, rest: str) -> None:
        """kept N: so many mails did the upstream keep, all in all."""
        assert len(self.world.upstream.kept) == int(rest)

    async def row(self, rest: str) -> None:
        """row VERDICT REASON [FIELD=VALUE ...]: the next event row."""
        verdict, reason, *fields = rest.split()
        await _until(lambda: len(self.world.rows) > self.rows)
        found = self.world.rows[self.rows]
        self.rows += 1
        assert (found.verdict, found.reason) == (verdict, reason)
        for one in fields:
            name, _, value = one.partition("=")
            assert _shown(getattr(found, name)) == value, f"{name} of the row"

    async def no_row(self, rest: str) -> None:
        """rows N: so many event rows, all in all."""
        assert len(self.world.rows) == int(rest)

    async def change(self, rest: str) -> None:
        """account ADDRESS STANDING, in mid-dialog: it is other from here on."""
        address, standing = rest.split()
        found = self.world.services.directory.by_login(address)
        assert found is not None
        billing, conduct = STANDINGS[standing]
        self.world.change(replace(found.account, billing=billing, conduct=conduct))

    async def sweep(self, rest: str) -> None:
        """sweep SECONDS: as if they had passed with nothing heard."""
        session = self.world.session()
        session.sweep(session.heard + int(rest))

    async def start_drain(self, rest: str) -> None:
        """The relay begins to shut down."""
        self.drain = asyncio.create_task(self.world.relay.drain(PATIENCE))
        await asyncio.sleep(0)

    async def drained(self, rest: str) -> None:
        """drained N: it is shut down; so many sessions had to be cut."""
        assert self.drain is not None
        assert await self.drain == int(rest)

    async def reading(self, rest: str) -> None:
        """upstream-reads yes|no."""
        reading = self.world.upstream.reading
        reading.set() if rest == "yes" else reading.clear()

    async def reached(self, rest: str) -> None:
        """reached STEP [N]: the upstream has come to this step, for the Nth time."""
        step, *number = rest.split()
        upstream = self.world.upstream
        await upstream.until(lambda: upstream.reached[step] >= int((number or [1])[0]))

    async def goes_on(self, rest: str) -> None:
        """What the upstream held back is said now."""
        self.world.upstream.going.set()

    async def unasked(self, rest: str) -> None:
        """unasked TEXT: the upstream says a line that nobody waits for."""
        connections = self.world.services.pool.size[0]
        await self.world.upstream.say_unasked(rest.encode() + b"\r\n")
        await _until(lambda: self.world.services.pool.size[0] < connections)

    async def override(self, rest: str) -> None:
        """upstream STEP REPLY, in mid-dialog: from here on it says this, whatever it said before."""
        self.world.upstream.overrides.insert(0, _override(rest))

    async def usage(self, rest: str) -> None:
        """used KEY N: units committed to the first limit for this key."""
        key, number = rest.split()
        services = self.world.services
        found = services.counters.usage(services.rules.limits[0], key, services.clock.now_ns())
        assert (found.used, found.reserved) == (int(number), 0)


def _shown(value: object) -> str:
    """As a transcript spells a field: recipients "address:code:reason", a comma between."""
    return ",".join(":".join(map(str, one)) for one in value) if isinstance(value, list) else str(value)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.001)


Step = Callable[[Player, str], Awaitable[None]]
_STEPS: dict[str, Step] = {
    "C:": Player.say,
    "S:": Player.hear,
    "S~": Player.hear_like,
    "S*": Player.hear_code,
    "U:": Player.got,
    "U~": Player.got_like,
    "M:": Player.message,
    "raw": Player.raw,
    "client": Player.other,
    "hello": Player.hello,
    "tls": Player.tls,
    "handshake": Player.handshake,
    "login": Player.login,
    "auth": Player.auth,
    "closed": Player.closed,
    "hang-up": Player.hang_up,
    "half-close": Player.half_close,
    "quiet": Player.got_nothing,
    "kept": Player.kept,
    "row": Player.row,
    "rows": Player.no_row,
    "used": Player.usage,
    "account": Player.change,
    "sweep": Player.sweep,
    "drain": Player.start_drain,
    "drained": Player.drained,
    "upstream": Player.override,
    "upstream-reads": Player.reading,
    "upstream-goes-on": Player.goes_on,
    "reached": Player.reached,
    "unasked": Player.unasked,
}


async def play(script: Script) -> None:
    """Play it all; an error names the line."""
    async with running(script.setup) as world:
        player = Player(world)
        for number, word, rest in script.steps:
            try:
                await _STEPS[word](player, rest)
            except (AssertionError, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                said = f"upstream got {world.upstream.commands}, rows {[row[10:20] for row in world.rows]}"
                pytest.fail(f"line {number}: {word} {rest}\n{type(error).__name__}: {error}\n{said}", pytrace=False)
            except Exception as error:
                raise TranscriptError(f"line {number}: {word} {rest}") from error


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda path: path.stem)
def test_dialog(transcript: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_played(transcript.read_text()))


async def _played(text: str) -> None:
    await asyncio.wait_for(play(parse(text)), 30)


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 60


@pytest.mark.parametrize(
    "text", ["C: HELO x", "kept 0\nfoo bar", "hello\nlistener relay\nkept 0", "upstream x\nkept 0"]
)
def test_a_transcript_that_is_wrong_says_so(text: str) -> None:
    with pytest.raises(TranscriptError):
        parse(text)
