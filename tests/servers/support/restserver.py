"""rclone's REST server for a folder, and a link that is slow."""

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.processes import answers, eventually, free_port

CHUNK = 16_384


@contextmanager
def rclone(folder: Path, *flags: str) -> Iterator[str]:
    """`rclone serve restic` of a folder: the URL it is at."""
    binary = shutil.which("rclone")
    assert binary, "missing for the tests: Debian's rclone"
    env = {"HOME": str(folder.parent), "PATH": "/usr/bin:/bin", "RCLONE_CONFIG": str(folder.parent / "none.conf")}
    port = free_port()
    argv = [binary, "serve", "restic", "--addr", f"127.0.0.1:{port}", *flags, str(folder)]
    process = subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(answers(port, process), "rclone to serve")
        yield f"{'https' if '--cert' in flags else 'http'}://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def slow_link(port: int, octets_s: int) -> Iterator[int]:
    """A port that leads to another one, at so many octets a second each way."""
    listener = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = [listener]

    def carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK):
                time.sleep(len(data) / octets_s)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                ends.append(near)
                far = socket.create_connection(("127.0.0.1", port))
                ends.append(far)
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=carry, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        for one in ends:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
