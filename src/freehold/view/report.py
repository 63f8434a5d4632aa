"""The report at the end of `freehold run --report`: what the program took of time and memory, and what was given back.

Thread-safety: made by the main thread, at exit, after the other threads.
Does not: change the exit code, whatever happens; report on children; or report a program that ends by a signal or
`os._exit`.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Watch", "figures_as_text"]


class Watch:
    """Remembers where the program began, and reports when it ends.

    Args:
        on_stderr: print the report.
        path: also write it to this file: as JSON if it ends in ``.json``; an empty text: do not.
    """

    def __init__(self, *, on_stderr: bool, path: str) -> None:
        self.on_stderr = on_stderr
        self.path = path
        self.pid = os.getpid()
        self.begun = time.perf_counter()
        self.usage = resource.getrusage(resource.RUSAGE_SELF)

    def begin(self) -> None:
        """Report when the program ends."""
        atexit.register(self._end)

    def figures(self) -> dict[str, Any]:
        """Return what the program took until now. Sizes are bytes, times seconds."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        status = _status()
        return {
            "program": sys.orig_argv[1:],
            "wall_seconds": time.perf_counter() - self.begun,
            "cpu_seconds": usage.ru_utime + usage.ru_stime - self.usage.ru_utime - self.usage.ru_stime,
            "peak_resident_bytes": status["VmHWM"],
            "resident_bytes": status["VmRSS"],
            "minor_faults": usage.ru_minflt - self.usage.ru_minflt,
            "major_faults": usage.ru_majflt - self.usage.ru_majflt,
            **_heap(),
        }

    def _end(self) -> None:
        if os.getpid() != self.pid:  # a forked child that ends as if it were the program
            return
        try:
            figures = self.figures()
            if self.path:
                self._write(figures)
            if self.on_stderr and sys.stderr is not None:
                if sys.stdout is not None:
                    sys.stdout.flush()
                show(figures, sys.stderr)
        except Exception as problem:
            _say(f"freehold: no report: {type(problem).__name__}: {problem}\n")

    def _write(self, figures: dict[str, Any]) -> None:
        with open(self.path, "w") as file:
            file.write(
                json.dumps(figures, indent=2) + "\n" if self.path.endswith(".json") else figures_as_text(figures)
            )


def _say(text: str) -> None:
    try:
        sys.stderr.write(text)
    except Exception:  # nobody listens: then nobody is told
        return


def _status() -> dict[str, int]:
    """Return the sizes in /proc/self/status, in bytes."""
    with open("/proc/self/status") as file:
        pairs = (line.split(":", 1) for line in file)
        return {name: int(value.split()[0]) << 10 for name, value in pairs if value.endswith("kB\n")}


def _heap() -> dict[str, Any]:
    """Return what the heap gave back and holds, and why NumPy is not on it, if it is not."""
    from freehold import numpy_import

    if "freehold.face.process_heap" not in sys.modules:
        return {"given_back_bytes": 0, "heap": None, "not_taken": {"numpy": numpy_import.status()}}
    from freehold.stats import stats

    held = stats()
    why = numpy_import.status()
    return {"given_back_bytes": held.purged_bytes, "heap": held.as_dict(), "not_taken": {"numpy": why} if why else {}}


# ---- for people ----


def _bytes(n: int) -> str:
    if n < 1024:
        return f"{n} B"
    power = min((n.bit_length() - 1) // 10, 4)
    return f"{n / 1024**power:.1f} {'KMGT'[power - 1]}iB"


def rows(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Return *figures* as pairs of texts."""
    shown = [
        ("time", f"{figures['wall_seconds']:.2f} s, {figures['cpu_seconds']:.2f} s of CPU"),
        ("peak resident", _bytes(figures["peak_resident_bytes"])),
        ("resident at the end", _bytes(figures["resident_bytes"])),
        ("page faults", f"{figures['minor_faults']:,} minor, {figures['major_faults']:,} major"),
        ("given back", _bytes(figures["given_back_bytes"])),
    ]
    heap = figures["heap"]
    if heap is not None:
        shown += [
            ("heap: live", f"{_bytes(heap['current_bytes'])} in {heap['current_count']:,} blocks"),
            ("heap: handed out", f"{heap['total_count']:,} blocks"),
            ("heap: idle", f"{_bytes(heap['dirty_bytes'] + heap['muzzy_bytes'])} resident"),
        ]
    return shown + [(f"not on the heap: {name}", why) for name, why in figures["not_taken"].items()]


def figures_as_text(figures: dict[str, Any]) -> str:
    """Return the report as plain lines."""
    pairs = rows(figures)
    width = max(len(name) for name, _ in pairs)
    return "freehold\n" + "".join(f"  {name:<{width}}  {value}\n" for name, value in pairs)


def show(figures: dict[str, Any], file: TextIO) -> None:
    """Print the report: a table on a terminal, plain lines elsewhere."""
    if not file.isatty():
        file.write(figures_as_text(figures))
        return
    from rich.console import Console

    Console(file=file).print(_table(figures))


def _table(figures: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title="freehold", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in rows(figures):
        table.add_row(name, value)
    return table
