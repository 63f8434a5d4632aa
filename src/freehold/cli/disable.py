"""`freehold disable`: take back what `freehold enable` did."""

from __future__ import annotations

import argparse
import sys

from freehold import startup_file

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `freehold disable` to *parser*."""
    parser.add_argument("--dry-run", action="store_true", help="show what would be removed, and remove nothing")


def run(args: argparse.Namespace) -> int:
    """Remove the start-up file; return the exit code."""
    if not startup_file.read():
        print(f"not enabled: there is no {startup_file.path()}")
        return 0
    if args.dry_run:
        print(f"would remove: {startup_file.path()}")
        return 0
    try:
        startup_file.remove()
    except startup_file.CanNot as problem:
        print(f"freehold disable: {problem}", file=sys.stderr)
        return 1
    print(f"disabled: {startup_file.path()} is removed")
    return 0
