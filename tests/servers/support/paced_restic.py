#!/usr/bin/python3 -IS
"""The real restic, that can be made to wait at a chosen point for the test, by two FIFOs beside this file.

`pace` beside it says where, once: a time (before, held, after) and words that the command line must have. At it the
process ids (this one's and restic's) go into the FIFO `reached`, and it goes on when something comes out of `go`.
held: restic itself is stopped while its lock is in a repository."""

import os
import signal
import subprocess
import sys
import time

FOLDER = os.path.dirname(os.path.realpath(__file__))
ARGV = ["/usr/bin/restic", *sys.argv[1:]]


def wanted():
    try:
        with open(f"{FOLDER}/pace") as file:
            when, *words = file.read().split()
    except FileNotFoundError:
        return ""
    if not all(word in ARGV or f"--tag={word}" in ARGV for word in words):
        return ""
    os.unlink(f"{FOLDER}/pace")
    return when


def locks():
    return {
        name
        for repository in ("onsite", "offsite")
        if os.path.isdir(f"{FOLDER}/{repository}/locks")
        for name in os.listdir(f"{FOLDER}/{repository}/locks")
        if "-tmp-" not in name
    }


def waits(child):
    with open(f"{FOLDER}/reached", "w") as file:
        file.write(f"{os.getpid()} {child}")
    with open(f"{FOLDER}/go") as file:
        file.read()


signal.signal(signal.SIGINT, signal.SIG_DFL)
when = wanted()
if when == "before":
    waits(0)
if when in ("", "before"):
    os.execv(ARGV[0], ARGV)
known = locks()
child = subprocess.Popen(ARGV)


def hand_on(number, frame):
    child.send_signal(signal.SIGCONT)
    child.send_signal(number)
    code = child.wait()
    os._exit(code if code > 0 else 130)


signal.signal(signal.SIGINT, hand_on)
signal.signal(signal.SIGTERM, hand_on)
if when == "held":
    while child.poll() is None and not locks() - known:
        time.sleep(0.001)
    child.send_signal(signal.SIGSTOP)
    assert child.poll() is None and locks() - known, "restic was too quick"
    waits(child.pid)
    child.send_signal(signal.SIGCONT)
else:
    child.wait()
    waits(child.pid)
code = child.wait()
sys.exit(code if code >= 0 else 128 - code)
