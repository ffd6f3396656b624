"""The command line behind `ops/bench`."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from . import backup, backup_report, monitor, monitor_report, relay, report
from .load import LoadFailed
from .peers import PEERS

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 110


def _peers(text: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    if unknown := sorted(names - set(relay.PEER_IDS)):
        raise argparse.ArgumentTypeError(f"no such peer: {', '.join(unknown)} (known: {', '.join(relay.PEER_IDS)})")
    return names


def _parts(text: str) -> frozenset[str]:
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    if unknown := sorted(names - set(monitor.PARTS)):
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(unknown)} (known: {', '.join(monitor.PARTS)})")
    # Credits are for a closed month, and the rows are held against its planes.
    return names | {"months"} if names & {"credits", "rows"} else names


def _checks(text: str) -> int:
    if not text.isdigit() or not 100 <= int(text) <= 60_000:
        raise argparse.ArgumentTypeError("a number from 100 to 60000")
    return int(text)


def _rounds(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 99:
        raise argparse.ArgumentTypeError("a number from 1 to 99")
    return int(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ops/bench", description="Measure against real peers, on this machine, in one run."
    )
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    one = names.add_parser("relay", help="the SMTP relay against HAProxy, nginx, Haraka, aiosmtpd and Postfix")
    one.add_argument("--json", action="store_true", help="one JSON object on stdout, progress on stderr")
    one.add_argument("--quick", action="store_true", help="shorter runs: under three minutes, rougher figures")
    one.add_argument("--rounds", type=_rounds, default=3, metavar="N", help="interleaved rounds (default 3)")
    one.add_argument(
        "--only", type=_peers, default=frozenset(relay.PEER_IDS), metavar="PEER,...",
        help=f"only these: {', '.join(relay.PEER_IDS)}",
    )  # fmt: skip
    two = names.add_parser("monitor", help="the monitor: months, credits, ingest, an agent; and a row for each sample")
    two.add_argument("--json", action="store_true", help="one JSON object on stdout, progress on stderr")
    two.add_argument("--quick", action="store_true", help="fewer rounds, one minute of the agent: rougher figures")
    two.add_argument("--checks", type=_checks, default=10_000, metavar="N", help="of the agent (default 10000)")
    two.add_argument(
        "--only", type=_parts, default=frozenset(monitor.PARTS), metavar="PART,...",
        help=f"only these: {', '.join(monitor.PARTS)}",
    )  # fmt: skip
    three = names.add_parser("backup", help="the backup against restic by itself and borgmatic; a mailbox brought back")
    three.add_argument("--json", action="store_true", help="one JSON object on stdout, progress on stderr")
    three.add_argument("--quick", action="store_true", help="50,000 messages in place of 500,000: rougher figures")
    three.add_argument("--rounds", type=_rounds, default=3, metavar="N", help="interleaved rounds (default 3)")
    return parser.parse_args()


def main() -> int:
    """0 when every bar is met, 1 when one is not, 130 when
    interrupted."""
    arguments = _arguments()
    progress = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        progress.print(text, style="dim", markup=False)

    try:
        bars = WORKS[arguments.name](arguments, say)
    except KeyboardInterrupt:
        progress.print("interrupted; everything started was ended", style="red")
        return 130
    return 0 if all(bar["met"] for bar in bars) else 1


def _relay(arguments: argparse.Namespace, say: relay.Say) -> list[dict[str, object]]:
    plan = relay.Plan.quick(arguments.rounds) if arguments.quick else relay.Plan(arguments.rounds)
    results, pinned = relay.run(ROOT, plan, arguments.only, say)
    about = report.machine(pinned, results.others_cores)
    shown = {peer.id: peer.title for peer in PEERS if peer.id in arguments.only}
    if arguments.json:
        print(report.as_json(results, tuple(shown), about))
    else:
        report.show(_console(), results, shown, about)
    return report.judged(results)


def _monitor(arguments: argparse.Namespace, say: relay.Say) -> list[dict[str, object]]:
    checks = arguments.checks
    plan = monitor.Plan.quick(checks) if arguments.quick else monitor.Plan(checks=checks)
    results, pinned = monitor.run(ROOT, plan, arguments.only, say)
    about = report.machine(pinned, results.others_cores)
    if arguments.json:
        print(monitor_report.as_json(results, about))
    else:
        monitor_report.show(_console(), results, about)
    return monitor_report.judged(results)


def _backup(arguments: argparse.Namespace, say: relay.Say) -> list[dict[str, object]]:
    try:
        plan = backup.Plan.of(quick=arguments.quick, rounds=arguments.rounds)
    except LoadFailed as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    results, pinned = backup.run(ROOT, plan, say)
    about = report.machine(pinned, results.others_cores)
    if arguments.json:
        print(backup_report.as_json(results, about))
    else:
        backup_report.show(_console(), results, about)
    return backup_report.judged(results)


WORKS = {"relay": _relay, "monitor": _monitor, "backup": _backup}


def _console() -> Console:
    """Into a file or a pipe the tables keep their width; a terminal has its own."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=WIDTH)


if __name__ == "__main__":
    sys.exit(main())
