"""An SMTP sink that reads content at a fixed rate per connection. Arguments: port, octets per second."""

import asyncio
import socket
import sys
from typing import cast

RECEIVE_BUFFER = 262_144
CAPABILITIES = b"250-sink.example.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 0\r\n250 ENHANCEDSTATUSCODES\r\n"


class SlowSink(asyncio.Protocol):
    """One connection: answers every command, and stops reading for as long as what it just read should
    have taken."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.buffer = bytearray()
        self.in_content = False
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(b"220 sink.example.test ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        """Commands at once, content at the rate."""
        if self.in_content:
            self.content(data)
            return
        self.buffer += data
        while (end := self.buffer.find(b"\r\n")) >= 0:
            verb = bytes(self.buffer[:4]).upper()
            del self.buffer[: end + 2]
            self.command(verb)
            if verb == b"DATA":
                break
        if self.in_content and self.buffer:
            rest = bytes(self.buffer)
            self.buffer.clear()
            self.content(rest)

    def command(self, verb: bytes) -> None:
        """One reply."""
        if verb == b"EHLO":
            self.transport.write(CAPABILITIES)
        elif verb == b"DATA":
            self.in_content, self.tail = True, b"\r\n"
            self.transport.write(b"354 go on\r\n")
        elif verb == b"QUIT":
            self.transport.write(b"221 2.0.0 bye\r\n")
            self.transport.close()
        else:
            self.transport.write(b"250 2.0.0 ok\r\n")

    def content(self, data: bytes) -> None:
        """Throw away; after the dot accept, else rest."""
        self.tail = (self.tail + data[-5:])[-5:]
        if self.tail == b"\r\n.\r\n":
            self.in_content = False
            self.transport.write(b"250 2.0.0 taken\r\n")
            return
        self.transport.pause_reading()
        asyncio.get_running_loop().call_later(len(data) / self.rate, self.resume)

    def resume(self) -> None:
        """Read on, if the connection is still there."""
        if not self.transport.is_closing():
            self.transport.resume_reading()


async def serve(port: int, rate: float) -> None:
    """Listen on the loopback for ever."""
    listener = socket.socket()
    # Small buffers, so that the relay in front soon feels how slow we are.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    server = await asyncio.get_running_loop().create_server(lambda: SlowSink(rate), sock=listener, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2])))
