"""Each byte parser against its corpus, against mutations of it, and briefly against a fuzzer guided by coverage."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from zlib import crc32

import pytest

HERE = Path(__file__).resolve().parent
MUTATIONS = {"session": 800}
"""Inputs of a mutation run; 3,000 where nothing is said."""
RUNS = {"session": 1500, "data_content": 3000, "dovecot_lines": 5000, "proxy_header": 5000, "upstream_reply": 5000}
"""Inputs of a guided run; 20,000 where nothing is said."""

sys.path.insert(0, str(HERE))
TARGETS: dict[str, Callable[[bytes], None]] = runpy.run_path(str(HERE / "targets.py"))["TARGETS"]
sys.path.remove(str(HERE))

TOKENS = [
    bytes(line.strip()[1:-1], "ascii").decode("unicode_escape").encode("latin-1")
    for line in (HERE / "tokens.dict").read_text().splitlines()
    if line.startswith('"')
]


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((HERE / "corpus" / name).iterdir())]


def mutate(seeds: list[bytes], random: Random) -> bytes:
    """One to four changes: an octet or token put in, a piece taken out, doubled, or grafted from another seed."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.randint(1, 4)):
        at = random.randint(0, len(data))
        end = min(len(data), at + random.randint(1, 12))
        match random.randrange(6):
            case 0:
                data[at:at] = random.choice(TOKENS)
            case 1:
                data[at:at] = bytes([random.randrange(256)])
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end]
            case 4:
                other = random.choice(seeds)
                start = random.randint(0, len(other))
                data[at:end] = other[start : start + random.randint(1, 40)]
            case _:
                data[at:end] = bytes(octet ^ (1 << random.randrange(8)) for octet in data[at:end])
    return bytes(data[:4096])


def test_each_target_has_a_corpus_and_states_its_invariant() -> None:
    assert {path.name for path in (HERE / "corpus").iterdir()} == set(TARGETS)
    assert all(corpus(name) and target.__doc__ for name, target in TARGETS.items())


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_corpus(name: str) -> None:
    for data in [b"", *corpus(name)]:
        TARGETS[name](data)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_mutations(name: str) -> None:
    seeds, random = corpus(name), Random(crc32(name.encode()))
    for _ in range(MUTATIONS.get(name, 3000)):
        data = mutate(seeds, random)
        try:
            TARGETS[name](data)
        except BaseException as error:
            error.add_note(f"input: {data!r}")
            raise


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TARGETS))
def test_guided_by_coverage(name: str, tmp_path: Path) -> None:
    bounds = [f"--runs={RUNS.get(name, 20_000)}", "--seconds=60", "--seed=1", f"--keep={tmp_path}"]
    done = subprocess.run([sys.executable, HERE / "run.py", name, *bounds], capture_output=True, check=False)
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    crashes = [path.read_bytes() for path in tmp_path.glob("crash-*")]
    assert done.returncode == 0 and not crashes, f"inputs: {crashes!r}\n{output[-6000:]}"
    assert "Done " in output
