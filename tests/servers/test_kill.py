"""Kill -9 of the relay, of the upstream, of the client, and a cut link, at every protocol step under load.

The oracle is support.load.check: every message that got 250 is in the upstream exactly once; none that got 4xx
or 5xx is, but for those the relay counted as ambiguous.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support import load as load_program
from support import scripted as scripted_program
from support.load import Record, check, load, read_record
from support.mailservers import Dovecot, Postfix, messages
from support.processes import PATIENCE, eventually
from support.relayserver import Relay
from support.scripted import TRANSACTION, Do, Link, ScriptedUpstream, Step, at, kept

MakeRelay = Callable[..., Awaitable[Relay]]
MakeUpstream = Callable[..., Awaitable[ScriptedUpstream]]
SENDERS, EACH = 6, 25
NTH = 40
"""Of all messages, the one at which it happens: others are in every state of their own then."""
CLIENT_STEPS = (Step.CONNECT, Step.EHLO, *TRANSACTION)


def ambiguous(relay: Relay) -> int:
    """How many messages the relay itself says it cannot know about."""
    return int(relay.metric("smartmail_relay_transactions_total", verdict="ambiguous"))


def times(step: Step, ordinary: int) -> int:
    """The how-manieth occurrence to choose: connections are few, they are reused."""
    return 3 if step in (Step.CONNECT, Step.EHLO) else ordinary


async def idle(relay: Relay) -> None:
    """Wait until no session and no reservation of a limit is open."""

    def rested() -> bool:
        return relay.metric("smartmail_relay_sessions_open") == 0

    await asyncio.to_thread(eventually, rested, "the relay to be idle")


@pytest.mark.parametrize(
    ("replies", "in_upstream", "counted"),
    [
        ({"a": "250 ok"}, {}, 0),
        ({"a": "250 ok"}, {"a": 2}, 0),
        ({"a": ""}, {"a": 2}, 0),
        ({"a": "451 4.4.2 lost"}, {"a": 1}, 0),
        ({"a": "451 4.4.2 lost", "b": "550 no"}, {"a": 1, "b": 1}, 1),
        ({"a": "250 ok"}, {"a": 1, "b": 1}, 0),
    ],
    ids=["lost", "twice", "twice unanswered", "refused but kept", "one too many", "from nowhere"],
)
def test_the_oracle_notices(replies: dict[str, str], in_upstream: dict[str, int], counted: int) -> None:
    with pytest.raises(AssertionError):
        check(Record(replies), Counter(in_upstream), counted)


@pytest.mark.parametrize("step", [Step.CONNECT, Step.EHLO, *TRANSACTION])
async def test_kill_9_of_the_relay(step: Step, make_relay: MakeRelay, make_upstream: MakeUpstream) -> None:
    upstream = await make_upstream()
    relay = await make_relay(upstream.port)
    victim = relay.process
    assert victim is not None

    def kill(reached: Step, number: int) -> None:
        if reached is step and number == times(step, NTH):
            os.kill(victim.pid, signal.SIGKILL)

    upstream.script = kill
    record = Record()
    work = asyncio.create_task(load(relay.relay, SENDERS, EACH, record, "before"))
    await asyncio.to_thread(victim.popen.wait, PATIENCE)
    await work
    upstream.script = lambda step, number: None
    await asyncio.to_thread(relay.start)
    again = Record()
    await load(relay.relay, SENDERS, 3, again, "after")
    assert len(again.accepted) == SENDERS * 3, "the relay works again"
    record.replies |= again.replies
    check(record, kept(upstream.listing), ambiguous=0)


@pytest.mark.parametrize("step", CLIENT_STEPS)
async def test_kill_9_of_the_client(
    step: Step, make_relay: MakeRelay, make_upstream: MakeUpstream, tmp_path: Path
) -> None:
    upstream = await make_upstream()
    relay = await make_relay(upstream.port)
    path = tmp_path / "record"
    argv = [sys.executable, load_program.__file__, str(relay.relay), str(path), str(EACH)]
    client = await asyncio.create_subprocess_exec(*argv, step, str(times(step, NTH)))
    record = Record()
    others = asyncio.create_task(load(relay.relay, 2, EACH, record))
    assert await asyncio.wait_for(client.wait(), PATIENCE) == -signal.SIGKILL
    await others
    assert len(record.accepted) == 2 * EACH, "nobody else notices"
    await idle(relay)
    record.replies |= read_record(path).replies
    check(record, kept(upstream.listing), ambiguous(relay))
    if step is Step.CONTENT:
        unfinished = [mark for mark, reply in record.replies.items() if not reply]
        assert unfinished


@pytest.mark.parametrize("step", [Step.CONNECT, Step.EHLO, *TRANSACTION])
async def test_kill_9_of_the_upstream(step: Step, make_relay: MakeRelay, tmp_path: Path) -> None:
    listing = tmp_path / "kept"

    async def start(port: int, *fault: str) -> tuple[asyncio.subprocess.Process, int]:
        argv = [sys.executable, scripted_program.__file__, str(listing), str(port), *fault]
        process = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
        assert process.stdout is not None
        return process, int((await process.stdout.readline()).split()[1])

    doomed, port = await start(0, step, str(times(step, NTH)))
    relay = await make_relay(port, upstream={"max_idle": 0} if step in (Step.CONNECT, Step.EHLO) else {})
    record = Record()
    work = asyncio.create_task(load(relay.relay, SENDERS, EACH, record, "before"))
    assert await asyncio.wait_for(doomed.wait(), PATIENCE) == -signal.SIGKILL
    replacement, _ = await start(port)
    try:
        await work
        again = Record()
        await load(relay.relay, SENDERS, 3, again, "after")
        assert len(again.accepted) == SENDERS * 3, "the relay finds the upstream again"
        record.replies |= again.replies
        assert not [mark for mark, reply in record.replies.items() if reply[:1] not in ("2", "4")]
        check(record, kept(listing), ambiguous(relay))
    finally:
        replacement.kill()
        await replacement.wait()


@pytest.mark.parametrize("step", [*Link.TOKENS, Step.CONNECT])
async def test_a_cut_of_the_link_to_the_upstream(
    step: Step, make_relay: MakeRelay, make_upstream: MakeUpstream
) -> None:
    upstream = await make_upstream()
    link = await Link(upstream.port, step, times(step, NTH)).start()
    relay = await make_relay(link.port, upstream={"max_idle": 0} if step in (Step.CONNECT, Step.EHLO) else {})
    record = Record()
    await load(relay.relay, SENDERS, EACH, record)
    assert link.cut.is_set()
    assert all(record.replies.values()), "every client got a reply to every message"
    refused = {mark: reply for mark, reply in record.replies.items() if not reply.startswith("250")}
    assert len(refused) <= 1, "the cut costs the one message it hits, at most"
    assert all(reply.startswith("451 4.4.") for reply in refused.values()), refused
    check(record, kept(upstream.listing), ambiguous(relay))
    if step is Step.KEPT:
        assert ambiguous(relay) == 1
        assert list(refused.values()) == [reply for reply in refused.values() if "4.4.2" in reply]
    if step is Step.DOT:
        assert sum(kept(upstream.listing).values()) == SENDERS * EACH - 1
    await link.close()


@pytest.mark.parametrize("how", [Do.CLOSE, Do.RESET])
@pytest.mark.parametrize("step", TRANSACTION)
async def test_an_upstream_that_ends_one_session_and_lives_on(
    step: Step, how: Do, make_relay: MakeRelay, make_upstream: MakeUpstream
) -> None:
    upstream = await make_upstream(at(step, NTH, how))
    relay = await make_relay(upstream.port)
    record = Record()
    await load(relay.relay, SENDERS, EACH, record)
    refused = {mark: reply for mark, reply in record.replies.items() if not reply.startswith("250")}
    assert len(refused) <= 1
    assert all(re.match(r"451 4\.4\.\d", reply) for reply in refused.values()), refused
    check(record, kept(upstream.listing), ambiguous(relay))


async def test_kill_9_of_the_relay_before_a_real_postfix(
    make_relay: MakeRelay, postfix: Postfix, dovecot: Dovecot
) -> None:
    relay = await make_relay(postfix.port)
    record = Record()
    victim = relay.process
    assert victim is not None
    answered = 0

    def kill(reached: Step) -> None:
        nonlocal answered
        answered += reached is Step.KEPT
        if reached is Step.DOT and answered >= NTH:
            victim.signal(signal.SIGKILL)

    record.on_step = kill
    name = f"relay{os.getpid()}"
    await load(relay.relay, SENDERS, EACH, record, name)
    assert victim.popen.poll() == -signal.SIGKILL
    await asyncio.to_thread(postfix.wait_empty)
    check(record, in_mailbox(dovecot, name), ambiguous=0)


async def test_kill_9_of_the_client_before_a_real_postfix(
    make_relay: MakeRelay, postfix: Postfix, dovecot: Dovecot, tmp_path: Path
) -> None:
    relay = await make_relay(postfix.port)
    path = tmp_path / "record"
    argv = [sys.executable, load_program.__file__, str(relay.relay), str(path), str(EACH)]
    before = in_mailbox(dovecot, "killed")
    client = await asyncio.create_subprocess_exec(*argv, Step.DOT, str(NTH))
    assert await asyncio.wait_for(client.wait(), PATIENCE) == -signal.SIGKILL
    await idle(relay)
    await asyncio.to_thread(postfix.wait_empty)
    check(read_record(path), in_mailbox(dovecot, "killed") - before, ambiguous(relay))


@pytest.mark.parametrize("step", [Step.CONTENT, Step.DOT, Step.KEPT])
async def test_a_cut_of_the_link_to_a_real_postfix(
    step: Step, make_relay: MakeRelay, postfix: Postfix, dovecot: Dovecot
) -> None:
    link = await Link(postfix.port, step, NTH).start()
    relay = await make_relay(link.port)
    record = Record()
    name = f"cut-{step}-{os.getpid()}"
    await load(relay.relay, SENDERS, EACH, record, name)
    assert link.cut.is_set()
    await asyncio.to_thread(postfix.wait_empty)
    check(record, in_mailbox(dovecot, name), ambiguous(relay))
    await link.close()


def in_mailbox(dovecot: Dovecot, name: str) -> Counter[str]:
    """How often each mark that starts with `name` is in the load's mailbox."""
    found: Counter[str] = Counter()
    for message in messages(dovecot.maildir("bob@example.com")):
        if match := re.search(rb"^X-Mark: (\S+)\r$", message, re.MULTILINE):
            mark = match[1].decode()
            if mark.startswith(f"{name}-"):
                found[mark] += 1
    return found
