"""`freehold stats`: what the heaps hold: those of a running process, those in a file, or those of this very process."""

from __future__ import annotations

import argparse
import sys

from freehold.snapshots import snapshot
from freehold.view import figures

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `freehold stats` to *parser*."""
    parser.add_argument(
        "of",
        nargs="?",
        metavar="PID|FILE",
        help="a process; or a snapshot, what `freehold stats --json` printed, or a report of `freehold run`",
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object, which `freehold diff` can read")


def run(args: argparse.Namespace) -> int:
    """Print the figures as *args* say; return the exit code."""
    try:
        seen = snapshot() if args.of is None else figures.of(args.of)
    except figures.CanNot as problem:
        print(f"freehold stats: {problem}", file=sys.stderr)
        return problem.code
    print(seen.to_json() if args.json else figures.stats_text(seen))
    return 0
