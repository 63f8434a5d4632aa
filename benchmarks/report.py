"""What comes out: cells, rows, benchmarks; a table for people, JSON for programs.

A row's figure is freehold's. Where the bar is a ratio it is held against the best peer (or a named one) of the same
rounds, otherwise the figure itself is held against the bar.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.measure import MIB, interval
from benchmarks.peers import CONTROLS, FREEHOLD, LIBRARIES, find_library, freehold_library

Memory = tuple[int, int]  # peak and two seconds after, bytes above what was there before the work


@dataclass
class Cell:
    """One peer's figures in one row."""

    rounds: list[float]
    memory: Memory | None = None
    also: dict[str, float] = field(default_factory=dict)  # named asides, shown behind the figure

    @property
    def value(self) -> float:
        return median(self.rounds)


@dataclass
class Row:
    """One thing measured, for all peers in the same rounds."""

    what: str
    unit: str
    cells: dict[str, Cell]
    bar: float | None = None
    against: str = ""  # "": the figure itself; "best": the best peer; otherwise that peer

    @property
    def figure(self) -> float | None:
        return self.cells[FREEHOLD].value if FREEHOLD in self.cells else None

    @property
    def peer(self) -> str:
        """The peer the figure is held against, or the best one for the eye."""
        others = {name: cell for name, cell in self.cells.items() if name not in (FREEHOLD, *CONTROLS)}
        if self.against in others:
            return self.against
        return min(others, key=lambda name: others[name].value) if others else ""

    @property
    def ratios(self) -> list[float]:
        """The paired ratios to `peer`, round by round."""
        if self.figure is None or not self.peer:
            return []
        theirs = self.cells[self.peer].rounds
        return [mine / other for mine, other in zip(self.cells[FREEHOLD].rounds, theirs, strict=False) if other]

    @property
    def judged(self) -> list[float]:
        """The values that the bar is for, round by round."""
        return self.ratios if self.against else self.cells[FREEHOLD].rounds if FREEHOLD in self.cells else []

    @property
    def met(self) -> bool | None:
        return None if self.bar is None or not self.judged else median(self.judged) <= self.bar

    def as_dict(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "unit": self.unit,
            "figure": self.figure,
            "peer": self.peer or None,
            "ratio": median(self.ratios) if self.ratios else None,
            "bar": self.bar,
            "bar_is": ("ratio to the best peer" if self.against == "best" else f"ratio to {self.against}")
            if self.against
            else "figure",
            "interval": list(interval(self.judged)) if self.judged else None,
            "met": self.met,
            "peers": {
                name: {
                    "value": cell.value,
                    "rounds": cell.rounds,
                    "peak_bytes": cell.memory[0] if cell.memory else None,
                    "after_bytes": cell.memory[1] if cell.memory else None,
                }
                | cell.also
                for name, cell in self.cells.items()
            },
        }


@dataclass
class Benchmark:
    """A table: what was measured, how, and what came out."""

    name: str
    title: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "notes": self.notes,
            "rows": [row.as_dict() for row in self.rows],
        }


def number(value: float) -> str:
    """Three digits that count, without an exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - len(str(int(abs(value)))) + 1) if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"


def _memory(memory: Memory | None) -> str:
    return f"\n[dim]{memory[0] / MIB:.0f} → {memory[1] / MIB:.0f} MiB[/dim]" if memory else ""


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    asides = "".join(f"\n[dim]{name} {number(value)}[/dim]" for name, value in cell.also.items())
    return f"{number(cell.value)}{asides}{_memory(cell.memory)}"


def _met(row: Row) -> str:
    low_high = interval(row.judged) if row.judged else None
    spread = f"\n[dim]{number(low_high[0])} … {number(low_high[1])}[/dim]" if low_high else ""
    return {True: "[green]yes[/green]", False: "[bold red]no[/bold red]", None: "–"}[row.met] + spread


def print_table(benchmark: Benchmark, console: Any) -> None:
    from rich.table import Table

    names: list[str] = []
    for row in benchmark.rows:
        names += [name for name in row.cells if name not in names]
    table = Table(title=benchmark.title, title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("unit")
    for name in names:
        table.add_column(name, justify="right", style="bold" if name == FREEHOLD else "")
    for heading in ("held against", "ratio", "bar", "met"):
        table.add_column(heading, justify="left" if heading == "held against" else "right")
    for row in benchmark.rows:
        ratio = number(median(row.ratios)) if row.ratios else "–"
        bar = "–" if row.bar is None else ("ratio ≤ " if row.against else "≤ ") + number(row.bar)
        table.add_row(
            row.what, row.unit, *(_cell(row.cells.get(name)) for name in names), row.peer, ratio, bar, _met(row)
        )
    console.print(table)
    for note in benchmark.notes:
        console.print(f"[dim]· {note}[/dim]")
    console.print()


def machine() -> dict[str, Any]:
    """What it ran on, to stand beside the figures."""
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "freehold": freehold_library(),
        "peers": {name: os.path.realpath(find_library(name)) for name in LIBRARIES if find_library(name)},
        "huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
    }


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return "unknown"
