"""aiosmtpd with a handler that accepts and forgets: the receiving half alone, on uvloop. Argument: the
port."""

import asyncio
import logging
import sys

import uvloop
from aiosmtpd.smtp import SMTP


class Null:
    """Accepts every message."""

    async def handle_DATA(self, server: object, session: object, envelope: object) -> str:
        """The reply after the final dot."""
        return "250 OK"


async def serve(port: int) -> None:
    """Listen on the loopback for ever."""
    handler = Null()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="bench.example.test", data_size_limit=52_428_800, loop=loop),
        "127.0.0.1",
        port,
        backlog=4096,
    )
    await server.serve_forever()


if __name__ == "__main__":
    logging.getLogger("mail.log").setLevel(logging.WARNING)
    uvloop.run(serve(int(sys.argv[1])))
