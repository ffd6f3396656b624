"""Writes of one turn of the loop: together, in order, and nothing kept that is large."""

import asyncio
from collections.abc import Callable
from typing import cast

from smartmail.relay.outbox import LARGE, MANY, Outbox


class Wire(asyncio.Transport):
    """Notes what is done to it."""

    def __init__(self, log: list[bytes]) -> None:
        super().__init__()
        self.log = log
        self.closing = False
        self.on_write: Callable[[], None] | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.log.append(bytes(data))
        if self.on_write is not None:
            self.on_write()

    def close(self) -> None:
        self.closing = True
        self.log.append(b"(closed)")

    def is_closing(self) -> bool:
        return self.closing


async def test_all_of_a_turn_goes_out_at_its_end_in_order() -> None:
    log: list[bytes] = []
    one, other, outbox = Wire(log), Wire(log), Outbox(asyncio.get_running_loop())
    outbox.write(one, b"1")
    outbox.write(other, b"2")
    outbox.write(one, b"3")
    outbox.close(one)
    assert log == []
    await asyncio.sleep(0)
    assert log == [b"1", b"2", b"3", b"(closed)"]


async def test_much_goes_out_at_once_behind_what_waits() -> None:
    log: list[bytes] = []
    wire, outbox = Wire(log), Outbox(asyncio.get_running_loop())
    outbox.write(wire, b"first")
    outbox.write(wire, b"x" * (LARGE + 1))
    assert [len(octets) for octets in log] == [5, LARGE + 1]
    outbox.write(wire, b"last")
    await asyncio.sleep(0)
    assert log[2:] == [b"last"]


async def test_many_writes_do_not_wait_for_more() -> None:
    log: list[bytes] = []
    wire, outbox = Wire(log), Outbox(asyncio.get_running_loop())
    for _ in range(MANY + 1):
        outbox.write(wire, b"x")
    assert len(log) == MANY
    await asyncio.sleep(0)
    assert len(log) == MANY + 1


async def test_nothing_is_said_on_a_connection_that_has_been_cut() -> None:
    log: list[bytes] = []
    wire, outbox = Wire(log), Outbox(asyncio.get_running_loop())
    outbox.write(wire, b"late")
    wire.closing = True
    await asyncio.sleep(0)
    assert log == []


async def test_what_a_write_gives_rise_to_goes_out_next() -> None:
    log: list[bytes] = []
    wire, outbox = Wire(log), Outbox(asyncio.get_running_loop())

    def answer() -> None:
        wire.on_write = None
        outbox.write(cast(asyncio.Transport, wire), b"then")

    wire.on_write = answer
    outbox.write(wire, b"first")
    outbox.write(wire, b"second")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert log == [b"first", b"second", b"then"]
