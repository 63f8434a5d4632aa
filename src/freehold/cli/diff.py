"""`freehold diff`: what has changed between two moments."""

from __future__ import annotations

import argparse
import json
import sys

from freehold.view import figures

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `freehold diff` to *parser*."""
    which = "a snapshot, what `freehold stats --json` printed, a report of `freehold run -o FILE.json`, or a PID: now"
    parser.add_argument("before", metavar="A", help=which)
    parser.add_argument("after", metavar="B", help="likewise")
    parser.add_argument("--json", action="store_true", help="as one JSON list")


def run(args: argparse.Namespace) -> int:
    """Print what *args* ask for; return the exit code: 0 also where something has changed."""
    try:
        before, after = figures.of(args.before), figures.of(args.after)
    except figures.CanNot as problem:
        print(f"freehold diff: {problem}", file=sys.stderr)
        return problem.code
    changes = after.compare_to(before)
    print(json.dumps([c.as_dict() for c in changes], indent=2) if args.json else figures.changes_text(changes))
    return 0
