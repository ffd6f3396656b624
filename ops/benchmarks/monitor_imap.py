"""What the measured agent looks at: IMAP over TLS as far as a login needs it, and nothing behind it.

imap PORT CERTIFICATE KEY LOGIN PASSWORD
"""

import asyncio
import ssl
import sys
from typing import cast

import uvloop


class Session(asyncio.Protocol):
    """One customer: greeting, LOGIN, SELECT of an empty mailbox, LOGOUT."""

    expected = b""
    """LOGIN as it must come."""

    def __init__(self) -> None:
        self.transport: asyncio.WriteTransport
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is done."""
        self.transport = cast(asyncio.WriteTransport, transport)
        self.transport.write(b"* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] ready\r\n")

    def data_received(self, data: bytes) -> None:
        """Answer each whole line."""
        *lines, self.buffer = (self.buffer + data).split(b"\r\n")
        for line in lines:
            tag, _, command = line.partition(b" ")
            word = command.partition(b" ")[0].upper()
            self.transport.write(self.answer(tag, word, command))
            if word == b"LOGOUT":
                self.transport.close()

    def answer(self, tag: bytes, word: bytes, command: bytes) -> bytes:
        """What is said to a command."""
        if word == b"LOGIN":
            return tag + (b" OK logged in\r\n" if command == self.expected else b" NO wrong login\r\n")
        if word == b"SELECT":
            return b"* FLAGS (\\Seen)\r\n* 0 EXISTS\r\n* 0 RECENT\r\n" + tag + b" OK [READ-WRITE] selected\r\n"
        if word == b"LOGOUT":
            return b"* BYE until soon\r\n" + tag + b" OK logged out\r\n"
        return tag + b" BAD unknown\r\n"


async def serve(port: int, certificate: str, key: str) -> None:
    """Until killed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.get_running_loop().create_server(Session, "127.0.0.1", port, ssl=context, backlog=1024)
    await server.serve_forever()


def main(words: list[str]) -> None:
    """Serve what the words say."""
    port, certificate, key, login, password = words
    Session.expected = f'LOGIN "{login}" "{password}"'.encode()
    uvloop.run(serve(int(port), certificate, key))


if __name__ == "__main__":
    main(sys.argv[1:])
