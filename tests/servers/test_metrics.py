"""The metrics page of a relay that has carried mail, as Prometheus sees it."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable

from support.load import Record, load
from support.processes import PATIENCE, need
from support.relayserver import Relay
from support.scripted import ScriptedUpstream, Step, at


async def test_promtool_finds_nothing_to_mend(
    make_relay: Callable[..., Awaitable[Relay]], make_upstream: Callable[..., Awaitable[ScriptedUpstream]]
) -> None:
    need("promtool")
    upstream = await make_upstream(at(Step.RCPT, 2, b"550 5.1.1 No\r\n"))
    relay = await make_relay(upstream.port)
    record = Record()
    await load(relay.relay, 2, 3, record)
    assert len(record.accepted) == 5
    page = await asyncio.to_thread(relay.metrics)
    assert "alice" not in page and "example.com" not in page and "127.0.0.1" not in page, "no address is a label"
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
