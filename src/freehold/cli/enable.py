"""`freehold enable`: have every Python of this environment start on the freehold heap, until `freehold disable`."""

from __future__ import annotations

import argparse
import sys

from freehold import config, startup_file

__all__ = ["add_arguments", "run"]

OPTIONS = ("objects", "arrow", "decay", "huge_pages", "on_error", "publish", "log")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `freehold enable` to *parser*."""
    parser.add_argument("--dry-run", action="store_true", help="show what would be written, and write nothing")
    for name in OPTIONS:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="HOW", help=config.OPTIONS[name].help)
    parser.epilog = (
        "The options hold where the environment does not say otherwise. FREEHOLD=0 leaves one process alone."
    )


def run(args: argparse.Namespace) -> int:
    """Write the start-up file as *args* say; return the exit code."""
    options = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    try:
        for name, value in options.items():
            config.OPTIONS[name].parse(name, value)
    except ValueError as problem:
        print(f"freehold enable: {problem}", file=sys.stderr)
        return 2
    text, before = startup_file.content(options), startup_file.read()
    if args.dry_run:
        print(f"{'already there' if text == before else 'would write'}: {startup_file.path()}\n{text}", end="")
        return 0
    try:
        if text != before:
            startup_file.write(text)
    except startup_file.CanNot as problem:
        print(f"freehold enable: {problem}", file=sys.stderr)
        return 1
    print(f"{'already enabled' if text == before else 'enabled'}: {startup_file.path()}")
    return 0
