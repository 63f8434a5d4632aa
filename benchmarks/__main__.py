"""`python -m benchmarks [names] [--quick | --effort smoke|quick|full] [--json FILE] [--list]`: run them, print tables.

The exit code is 0 unless a benchmark could not run; a bar that is missed is a figure, not an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import import_module
from pathlib import Path

from benchmarks import report
from benchmarks.measure import EFFORTS
from benchmarks.peers import missing

ORDER = [
    "temporaries",
    "building",
    "empty",
    "small",
    "waiting",
    "objects",
    "arrow",
    "threads",
    "mixed",
    "programs",
    "servers",
    "heaps",
    "install",
    "idle",
    "publishing",
    "seeing",
]


def names() -> list[str]:
    """Return all benchmarks: bench_NAME.py in this folder, the known ones first."""
    found = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
    return [name for name in ORDER if name in found] + [name for name in found if name not in ORDER]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="freehold against its peers, in the same run"
    )
    parser.add_argument("names", nargs="*", help="which ones; all if none is named")
    parser.add_argument("--effort", choices=EFFORTS, default="full", help="how much is done; default: full")
    parser.add_argument(
        "--quick", dest="effort", action="store_const", const="quick", help="the short form: --effort quick"
    )
    parser.add_argument("--json", metavar="FILE", help="write everything measured there")
    parser.add_argument("--list", action="store_true", help="say which there are, and end")
    given = parser.parse_args()
    unknown = set(given.names) - set(names())
    if unknown:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    return given


def main() -> int:
    given = arguments()
    if given.list:
        print("\n".join(names()))
        return 0
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 200)
    for line in missing():
        console.print(f"[yellow]left out[/yellow] {line}")
    results = {
        "machine": report.machine(),
        "effort": given.effort,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "benchmarks": [],
    }
    failed = []
    for name in given.names or names():
        try:
            benchmark = import_module(f"benchmarks.bench_{name}").run(EFFORTS[given.effort])
        except Exception as problem:  # the others still run; what went wrong is said at the end
            failed.append(f"{name}: {problem!r}")
            continue
        report.print_table(benchmark, console)
        results["benchmarks"].append(benchmark.as_dict())
        if given.json:
            Path(given.json).write_text(json.dumps(results, indent=1))
    for line in failed:
        console.print(f"[bold red]could not run[/bold red] {line}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
