"""`freehold purge`: have a running process give everything idle back to the system now."""

from __future__ import annotations

import argparse
import json
import sys

from freehold import published
from freehold.published import NotPublished
from freehold.view.top_text import size

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `freehold purge` to *parser*."""
    parser.add_argument("pid", type=int, metavar="PID", help="the process")
    parser.add_argument("--json", action="store_true", help="say how much it was as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Ask the process that *args* name; return the exit code."""
    try:
        with published.find(args.pid) as page:
            given_back = page.purge()
    except NotPublished as problem:
        print(f"freehold purge: {problem}", file=sys.stderr)
        return 1
    if given_back is None:
        print(f"freehold purge: process {args.pid} does not answer", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps({"pid": args.pid, "given_back_bytes": given_back}))
    else:
        print(f"process {args.pid} gave back {size(given_back)} ({given_back:,} bytes)")
    return 0
