"""`python -m benchmarks.sources [names]`: what of a program's memory is on the heap, and what is not.

Each program in `source_programs` runs in a fresh process under `freehold run`, as it is, with Python's objects on the
heap, and with the library preloaded; the report says where its resident memory is at its end. The table is Markdown: it
is the one in docs/limits.md. A program whose libraries are missing is left out with a line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib import util
from pathlib import Path
from typing import Any

PROGRAMS = {
    "numpy": ("NumPy", ("numpy",)),
    "pandas": ("pandas + pyarrow", ("pandas", "pyarrow")),
    "sklearn": ("scikit-learn", ("sklearn",)),
    "torch": ("PyTorch, CPU", ("torch",)),
}
WAYS = {"`freehold run`": [], "`--objects=yes`": ["--objects=yes"], "`--preload`": ["--preload"]}
WAYS["both"] = [option for way in WAYS.values() for option in way]
COLUMNS = {
    "the heap, live": ("heap_live",),
    "idle": ("heap_idle",),
    "glibc's malloc": ("malloc",),
    "other anonymous": ("other",),
    "libraries and files": ("files",),
    "stacks, shared": ("stacks", "shared"),
}


def measured(name: str, options: list[str]) -> dict[str, Any]:
    """Return the report of the program called *name* under `freehold run` with *options*."""
    program = Path(__file__).with_name("source_programs") / f"with_{name}.py"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        command = [sys.executable, "-m", "freehold", "run", "-o", str(path), *options, str(program)]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # each would have its buffers
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env=one_thread)
        figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return figures


def row(title: str, way: str, parts: dict[str, int]) -> str:
    """Return the line of a table: the total in MiB, and the share of each part."""
    shares = [sum(parts[part] for part in column) / parts["total"] for column in COLUMNS.values()]
    return f"| {title} | {way} | {parts['total'] / (1 << 20):,.0f} | {' | '.join(f'{share:.0%}' for share in shares)} |"


def main() -> int:
    """Measure what the command line names, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sources", description="what is on the heap")
    parser.add_argument("names", nargs="*", help=f"all if none is named: {', '.join(PROGRAMS)}")
    names = parser.parse_args().names or list(PROGRAMS)
    unknown = set(names) - set(PROGRAMS)
    if unknown:
        parser.error(f"there is no program {', '.join(sorted(unknown))}; there are {', '.join(PROGRAMS)}")
    print(f"| program | with | resident, MiB | {' | '.join(COLUMNS)} |")
    print(f"| --- | --- | ---: |{' ---: |' * len(COLUMNS)}")
    for name in names:
        title, needed = PROGRAMS[name]
        missing = [library for library in needed if util.find_spec(library) is None]
        if missing:
            print(f"{title} is left out: {', '.join(missing)} is missing", file=sys.stderr)
            continue
        for way, options in WAYS.items():
            print(row(title, way, measured(name, options)["memory"]["at_end"]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
