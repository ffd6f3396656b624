"""Fuzz one parser, guided by coverage: python tests/fuzz/run.py TARGET --seconds 60

Reads and extends the corpus in tests/fuzz/corpus/TARGET. An input that breaks the invariant is written there too, as
crash-..., so that `test_fuzz.py` fails until it is mended. To keep the corpus small, fuzz with --keep FOLDER and then
take over with --merge FOLDER what reaches something new.
"""

import argparse
import sys
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
with atheris.instrument_imports(include=["smartmail.core"]):
    from targets import TARGETS


def main() -> None:
    """Parse the command line and hand over to libFuzzer, which exits by itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1, help="stop after so many inputs")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--keep", type=Path, help="write what is found here, not into the corpus")
    parser.add_argument("--merge", type=Path, help="do not fuzz; take over from here what reaches something new")
    given, further = parser.parse_known_args()
    corpus = HERE / "corpus" / given.target
    found = given.keep or corpus
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    options = [f"-dict={HERE / 'tokens.dict'}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=1024"]
    if given.merge:
        options += ["-merge=1", str(corpus), str(given.merge)]
    else:
        options += [f"-max_total_time={given.seconds}", f"-runs={given.runs}", f"-artifact_prefix={found}/"]
        options += [f"-seed={given.seed}"] if given.seed else []
        options += dict.fromkeys([str(found), str(corpus)])
    # For a merge libFuzzer starts this anew by its first argument, with options of its own instead of ours.
    again = f"{sys.executable} {__file__} {given.target}"
    atheris.Setup([again, *(further or options)], TARGETS[given.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
