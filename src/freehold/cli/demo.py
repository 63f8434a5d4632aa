"""`freehold demo`: six reported troubles under the default allocator and under freehold, side by side.

Each runs in a fresh process. Shown on the terminal, written as one HTML page and, if asked for, as JSON: all three from
one document, so their numbers are the same. The exit code is 0 where freehold gave back everything it should, 1 where
it did not or a run failed, 2 where the demo could not start.

The document: `scale`, `rounds_count`, `made` (when), `machine` (name to text), `troubles` (name, title, story, reports,
program) and `results`, one for each trouble and allocator as `freehold.troubles.measure.Result.as_dict` gives them.
Does not: import NumPy or pandas here; the measured processes do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata, util
from itertools import count
from pathlib import Path
from typing import Any

from freehold.troubles import NAMES, Trouble, trouble
from freehold.troubles.measure import (
    DEFAULT,
    FREEHOLD,
    PEERS,
    Allocator,
    Result,
    Run,
    RunFailed,
    measure,
    peer,
    summarise,
)
from freehold.view import demo_page, demo_table

__all__ = ["add_arguments", "compare", "document", "run"]

QUICK_SCALE = 0.1
NEEDED = ("numpy", "pandas", "plotly")


class _CanNotStart(Exception):
    """The demo can not start as it was asked for; the message is for the user."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `freehold demo` to *parser*."""
    parser.add_argument("--only", metavar="NAME", action="append", help=f"run only this trouble: {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="inputs a tenth of full size")
    parser.add_argument("--rounds", metavar="N", default="1", help="run each N times; times are then medians")
    parser.add_argument(
        "--with",
        dest="peers",
        metavar="NAMES",
        default="",
        help=f"also run under these, comma-separated: {', '.join(PEERS)}",
    )
    parser.add_argument("--html", metavar="FILE", default="freehold-demo.html", help="the page (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write what was measured, with the curves, to FILE")


def run(args: argparse.Namespace) -> int:
    """Run the demo as *args* say; return the exit code."""
    try:
        _check_needed()
        troubles = _troubles(args.only)
        allocators = [DEFAULT, FREEHOLD, *_peers(args.peers)]
        rounds = _rounds(args.rounds)
        _check_writable(args.html, args.json)
    except _CanNotStart as problem:
        print(f"freehold demo: {problem}", file=sys.stderr)
        return 2
    try:
        shown = compare(troubles, allocators, scale=QUICK_SCALE if args.quick else 1.0, rounds=rounds)
    except RunFailed as problem:
        print(f"freehold demo: {problem}", file=sys.stderr)
        return 1
    write(shown, html=args.html, json_file=args.json)
    return 0 if all(result["given_back"] for result in shown["results"] if result["allocator"] == FREEHOLD.name) else 1


def compare(
    troubles: Sequence[Trouble], allocators: Sequence[Allocator], *, scale: float, rounds: int
) -> dict[str, Any]:
    """Measure *troubles* under *allocators*, with a progress bar on a terminal, and return the document.

    Raises:
        RunFailed: a process could not run its trouble.
    """
    runs: dict[tuple[Trouble, Allocator], list[Run]] = {}
    order = list(_order(troubles, allocators, rounds))
    with _progress(len(order) + 1) as begin:
        begin("once unmeasured")  # a host may supply memory slowly the first time it is touched
        measure(troubles[0], DEFAULT, scale=scale)
        for each, allocator in order:
            begin(f"{each.name} under {allocator.name}")
            runs.setdefault((each, allocator), []).append(measure(each, allocator, scale=scale))
    results = [summarise(each, allocator, runs[each, allocator]) for each in troubles for allocator in allocators]
    return document(troubles, results, scale=scale, rounds=rounds)


def document(troubles: Sequence[Trouble], results: Sequence[Result], *, scale: float, rounds: int) -> dict[str, Any]:
    """Return everything that is shown and written, as plain values."""
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "scale": scale,
        "rounds_count": rounds,
        "machine": _machine(),
        "troubles": [
            {
                "name": each.name,
                "title": each.title,
                "story": each.story,
                "reports": [{"name": str(report), "url": report.url} for report in each.reports],
                "program": each.program,
            }
            for each in troubles
        ],
        "results": [result.as_dict() for result in results],
    }


def write(shown: dict[str, Any], *, html: str, json_file: str | None) -> None:
    """Print the table of the document *shown*, and write the page and the JSON."""
    _print_table(shown)
    Path(html).write_text(demo_page.page(shown), encoding="utf-8")
    print(f"The same with the curves: {html}")
    if json_file:
        Path(json_file).write_text(json.dumps(shown, indent=1), encoding="utf-8")


def _order(
    troubles: Sequence[Trouble], allocators: Sequence[Allocator], rounds: int
) -> Iterator[tuple[Trouble, Allocator]]:
    """Every pair, trouble by trouble; the allocators change ends each round, so that none is always first."""
    for each in troubles:
        for number in range(rounds):
            yield from ((each, allocator) for allocator in (allocators if number % 2 == 0 else reversed(allocators)))


@contextmanager
def _progress(steps: int) -> Iterator[Callable[[str], None]]:
    """Give a function that says which step begins: on a bar where stderr is a terminal, else as a line."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    begun = count()
    if not console.is_terminal:
        yield lambda what: print(f"[{next(begun) + 1}/{steps}] {what}", file=sys.stderr, flush=True)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=steps)
        yield lambda what: bar.update(task, completed=next(begun), description=what)


def _print_table(shown: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=100)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0))
    for number, name in enumerate(demo_table.HEADER):
        table.add_column(name, justify="left" if number < 2 else "right", no_wrap=True)
    several = len(demo_table.totals(shown))
    for number, row in enumerate(demo_table.rows(shown), 1):
        colour = "green" if row.given_back else "red"
        table.add_row(
            *row.cells[:-1], f"[{colour}]{row.cells[-1]}[/]", end_section=several > 1 and number % several == 0
        )
    console.print(table)
    console.print(demo_table.CAPTION, style="dim", highlight=False)
    for name, total in demo_table.totals(shown).items():
        verdict = f"given back {total['given_back']} of {total['run']}"
        print(
            f"{name}: {verdict}, {demo_table.mib(total['held_bytes'])} MiB still held, {total['seconds']:.2f} s of work"
        )


def _check_needed() -> None:
    missing = [name for name in NEEDED if util.find_spec(name) is None]
    if missing:
        raise _CanNotStart(f"{', '.join(missing)} is missing: pip install freehold[demo]")


def _troubles(names: Sequence[str] | None) -> list[Trouble]:
    for name in names or ():
        if name not in NAMES:
            raise _CanNotStart(f"no trouble is called {name!r}: choose from {', '.join(NAMES)}")
    return [trouble(name) for name in NAMES if not names or name in names]


def _peers(names: str) -> list[Allocator]:
    found = []
    for name in filter(None, (name.strip() for name in names.split(","))):
        if name not in PEERS:
            raise _CanNotStart(f"no peer is called {name!r}: choose from {', '.join(PEERS)}")
        allocator = peer(name)
        if allocator is None:
            raise _CanNotStart(f"the library of {name} is not installed")
        found.append(allocator)
    return found


def _rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise _CanNotStart(f"--rounds must be a number of at least 1, not {text!r}")
    return int(text)


def _check_writable(*files: str | None) -> None:
    """Find out before the work, not after it, that a file can not be written."""
    for file in filter(None, files):
        folder = Path(file).absolute().parent
        if not os.access(file if Path(file).exists() else folder, os.W_OK) or Path(file).is_dir():
            raise _CanNotStart(f"can not write {file}")


def _machine() -> dict[str, str]:
    """Return what a reader needs to judge the numbers, name to text."""
    huge_pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    libc = " ".join(platform.libc_ver()) or "an unknown libc"
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.1f} GiB",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}, {libc}",
        "huge pages": huge_pages.read_text(encoding="ascii").strip() if huge_pages.exists() else "none",
        "Python": platform.python_version(),
        **{name: _version(name) for name in ("freehold", "numpy", "pandas")},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed as a package"
