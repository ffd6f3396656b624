"""A restic that plays: what each version prints and how it ends, and faults that are hard to get from a real one.

Run as `fake_restic.py SCRIPT ARGUMENT...`: SCRIPT is JSON, {"version", "record": a file, "steps": [[name, value]]}.
What it was given, and each signal it gets, is appended to the record, one JSON value a line.
"""

import json
import os
import signal
import subprocess
import sys
import time
from types import FrameType

STATUS = '{"message_type":"status","percent_done":0.5,"total_files":2,"files_done":1,"total_bytes":9,"bytes_done":%d}'
SUMMARY = (
    '{"message_type":"summary","files_new":2,"files_changed":0,"files_unmodified":0,"dirs_new":1,"dirs_changed":0,'
    '"dirs_unmodified":0,"data_blobs":2,"tree_blobs":2,"data_added":9,"total_files_processed":2,'
    '"total_bytes_processed":9,"total_duration":0.2,"snapshot_id":"%s"}'
)
LOCKED = (
    "unable to create lock in backend: repository is already locked exclusively "
    "by PID 4711 on mx2 by root (UID 0, GID 0)"
)
NO_CONFIG = "unable to open config file: stat /srv/repo/config: no such file or directory"
WARNING = "at least one source file could not be read"


def json_exit(code: int, text: str) -> str:
    """The last line of stderr from 0.17 on."""
    return json.dumps({"message_type": "exit_error", "code": code, "message": text})


def play(version: str, situation: str) -> list[tuple[str, object]]:
    """The steps of a situation as that version plays it."""
    old, typed = version < "0.15", version >= "0.17"
    item = (
        {"error": {"Op": "open", "Path": "/srv/a", "Err": 13}}
        if old
        else {"error": {"message": "open /srv/a: permission denied"}}
    )
    error = json.dumps({"message_type": "error", **item, "during": "archival", "item": "/srv/a"})
    summary = SUMMARY % ("e01d3999" if old else "e01d3999" * 8)
    faults = {"locked": (11, LOCKED), "no repository": (10, f"Fatal: {NO_CONFIG}"),
              "wrong password": (12, "Fatal: wrong password or no key found")}  # fmt: skip
    if situation == "ok":
        return [("out", STATUS % 1), ("out", STATUS % 9), ("out", summary), ("exit", 0)]
    if situation == "partial":
        last = json_exit(3, f"Warning: {WARNING}") if typed else f"Warning: {WARNING}"
        return [("err", error), ("out", summary), ("err", last), ("exit", 3)]
    if situation == "missing path":
        code = 3 if version >= "0.19" else 0
        return [("err", "/srv/b does not exist, skipping"), ("out", summary), ("exit", code)]
    code, text = faults[situation]
    return [("err", json_exit(code, text)), ("exit", code)] if typed else [("err", text), ("exit", 1)]


def record(file: str, value: object) -> None:
    """Append to the record: it is there when this returns."""
    with open(file, "a") as out:
        out.write(json.dumps(value) + "\n")


def main() -> None:
    """Play the script."""
    with open(sys.argv[1]) as file:
        script = json.load(file)
    if sys.argv[2:3] == ["version"]:
        print(f"restic {script['version']} compiled with go1.24.4 on linux/amd64")
        return
    note = script["record"]

    def on_signal(number: int, _: FrameType | None) -> None:
        record(note, {"signal": number})
        if number not in script.get("deaf", ()):
            os._exit(130 if number == signal.SIGINT else 143)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    record(note, {"argv": sys.argv[2:], "environment": dict(os.environ), "pid": os.getpid(), "session": os.getsid(0)})
    for name, value in script["steps"]:
        if name in ("out", "err"):
            print(value, file=sys.stdout if name == "out" else sys.stderr, flush=True)
        elif name == "flood":
            stream = os.open("/dev/stderr" if value[0] == "err" else "/dev/stdout", os.O_WRONLY)
            block = (value[1] + "\n").encode() * 1000
            for _ in range(value[2] // 1000):
                os.write(stream, block)
        elif name == "long line":
            sys.stdout.write("x" * value)
            sys.stdout.flush()
        elif name == "stdin":
            record(note, {"stdin": sys.stdin.read()})
        elif name == "child":
            # Holds the pipes after we have gone.
            child = subprocess.Popen([sys.executable, "-S", "-E", "-c", "import time; time.sleep(600)"])
            record(note, {"child": child.pid})
        elif name == "stutter":
            while True:
                print(value, flush=True)
                time.sleep(0.01)
        elif name == "hang":
            record(note, {"hangs": True})
            while True:
                signal.pause()
        elif name == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif name == "exit":
            sys.stdout.flush()
            os._exit(value)


if __name__ == "__main__":
    main()
