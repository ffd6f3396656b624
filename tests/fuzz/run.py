"""Fuzz one parser, guided by coverage: python tests/fuzz/run.py TARGET --seconds 60

Reads and extends the corpus in tests/fuzz/corpus/TARGET. An input that breaks the invariant is written there too, as
crash-..., so that `test_fuzz.py` fails until it is mended. --tidy instead drops the inputs that reach nothing new.
"""

import argparse
import shutil
import sys
import tempfile
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
    parser.add_argument("--tidy", action="store_true", help="drop the inputs that reach nothing new")
    given = parser.parse_args()
    corpus = HERE / "corpus" / given.target
    corpus.mkdir(parents=True, exist_ok=True)
    options = [f"-dict={HERE / 'tokens.dict'}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=1024"]
    if given.tidy:
        fuller = Path(tempfile.mkdtemp(prefix=f"fuzz-{given.target}-"))
        shutil.copytree(corpus, fuller, dirs_exist_ok=True)
        shutil.rmtree(corpus)
        corpus.mkdir()
        options += ["-merge=1", str(corpus), str(fuller)]
    else:
        found = given.keep or corpus
        found.mkdir(parents=True, exist_ok=True)
        options += [f"-max_total_time={given.seconds}", f"-runs={given.runs}", f"-artifact_prefix={found}/"]
        options += [f"-seed={given.seed}"] if given.seed else []
        options += list(dict.fromkeys([str(found), str(corpus)]))
    atheris.Setup([sys.argv[0], *options], TARGETS[given.target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
