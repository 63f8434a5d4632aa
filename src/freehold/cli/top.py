"""`freehold top`: the processes on the heap, or one of them, as they are now.

Live in the terminal with Textual (`pip install 'freehold[top]'`); `--once` and `--json` need nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.util import find_spec

from freehold.published import NotPublished
from freehold.view import top_text
from freehold.view.watch import Sample, Watch, Watches

__all__ = ["add_arguments", "run"]

HINT = "freehold top: the live view needs Textual: pip install 'freehold[top]'; --once and --json do without"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `freehold top` to *parser*."""
    parser.add_argument("pid", nargs="?", type=int, metavar="PID", help="look into this process; without it: list all")
    parser.add_argument("--once", action="store_true", help="print what is now, and end")
    parser.add_argument("--json", action="store_true", help="the same as one JSON object (a list of them without PID)")
    parser.add_argument("--sort", choices=list(top_text.SORTS), default="resident", help="what the list is sorted by")
    parser.add_argument("--every", metavar="SECONDS", type=float, default=0.5, help="how often it looks; default: 0.5")


def run(args: argparse.Namespace) -> int:
    """Show what *args* ask for; return the exit code."""
    if not 0.05 <= args.every <= 3600:
        print(f"freehold top: --every {args.every:g}: expected seconds from 0.05 to 3600", file=sys.stderr)
        return 2
    try:
        if args.once or args.json:
            return _once(args)
        if find_spec("textual") is None:
            print(HINT, file=sys.stderr)
            return 2
        from freehold.view.top_app import TopApp

        TopApp(pid=args.pid, sort=args.sort, every_s=args.every).run()
    except NotPublished as problem:
        print(f"freehold top: {problem}", file=sys.stderr)
        return 1
    return 0


def _once(args: argparse.Namespace) -> int:
    """Print one look. Rates need two samples, a moment apart."""
    samples = _samples(args.pid)
    if args.json:
        read = [sample.as_dict() for sample in samples]
        print(json.dumps(read if args.pid is None else read[0], indent=2))
    elif args.pid is None:
        print(top_text.list_text(samples, args.sort))
    else:
        print(top_text.process_text(samples[0]))
    return 0


def _samples(pid: int | None) -> list[Sample]:
    if pid is None:
        watches = Watches()
        watches.look()
        time.sleep(0.1)
        samples = watches.look()
        watches.close()
        return samples
    watch = Watch(pid)
    watch.look()
    time.sleep(0.1)
    watch.look()
    watch.close()
    if watch.last is None:
        raise NotPublished(f"process {pid} does not answer, and has published nothing yet")
    return [watch.last]
