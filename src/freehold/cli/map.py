"""`freehold map`: where a process's heap memory is, as a picture."""

from __future__ import annotations

import argparse
import os
import sys
import time

from freehold import published
from freehold.published import NotPublished
from freehold.view.watch import command_of

__all__ = ["add_arguments", "run"]

KINDS = (".svg", ".html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `freehold map` to *parser*."""
    parser.add_argument("pid", type=int, metavar="PID", help="the process")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="where the picture goes: .svg or .html")
    parser.add_argument("-f", "--force", action="store_true", help="overwrite FILE")


def run(args: argparse.Namespace) -> int:
    """Write the picture that *args* ask for; return the exit code."""
    if not args.output.endswith(KINDS):
        print(f"freehold map: -o {args.output}: expected a name that ends in {' or '.join(KINDS)}", file=sys.stderr)
        return 2
    if os.path.exists(args.output) and not args.force:
        print(f"freehold map: -o {args.output}: exists already; -f overwrites it", file=sys.stderr)
        return 2
    try:
        with published.find(args.pid) as page:
            seen = page.map()
    except NotPublished as problem:
        print(f"freehold map: {problem}", file=sys.stderr)
        return 1
    if seen is None:
        print(f"freehold map: process {args.pid} does not answer", file=sys.stderr)
        return 1
    return _write(args.output, seen, command_of(args.pid))


def _write(path: str, seen: published.Snapshot, command: str) -> int:
    """Write the picture; a file that could not be written whole is removed."""
    from freehold.view import heap_map

    draw = heap_map.as_html if path.endswith(".html") else heap_map.as_svg
    text = draw(seen, command, time.strftime("%Y-%m-%d %H:%M:%S"))
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as problem:
        print(f"freehold map: -o {path}: {problem.strerror}", file=sys.stderr)
        if os.path.isfile(path):
            os.unlink(path)
        return 1
    print(path)
    return 0
