"""`freehold stats`: what the heaps hold: those in a report of `freehold run -o`, or those of this very process."""

from __future__ import annotations

import argparse
import json
from typing import Any

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `freehold stats` to *parser*."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="a report, as `freehold run -o FILE.json` writes it")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the figures as *args* say; return the exit code."""
    figures: dict[str, Any]
    if args.file is None:
        from freehold.stats import stats

        figures = stats().as_dict()
    else:
        try:
            with open(args.file) as file:
                figures = json.load(file)["heap"] or {}
        except (OSError, ValueError, KeyError, TypeError) as problem:
            print(f"freehold stats: {args.file} is no report of `freehold run -o FILE.json`: {problem}")
            return 2
    print(json.dumps(figures, indent=2) if args.json else "\n".join(lines(figures)))
    return 0


def lines(figures: dict[str, Any]) -> list[str]:
    """Return the figures for people: all heaps together, then a line for each."""
    totals = {name: value for name, value in figures.items() if name != "heaps"}
    width = max(map(len, totals), default=0)
    found = [f"{name:<{width}}  {value:>20,}" for name, value in totals.items()]
    for heap in figures.get("heaps", ()):
        limit = "no limit" if heap["limit_bytes"] is None else f"limit {heap['limit_bytes']:,}"
        found.append(
            f"heap {heap['name']}: {heap['current_bytes']:,} bytes in {heap['current_count']:,} blocks,"
            f" {heap['used_bytes']:,} used, {limit}"
        )
    return found
