"""The report at the end of `freehold run --report`: what a program took, and where its memory was.

A report is one dictionary of plain values, and everything shown is read from it: the lines on stderr, the ``.json``
that holds it as it is, and the page. docs/seeing.md has its names.

Thread-safety: functions of their arguments.
Does not: measure anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from .profile_text import SOURCE_NAMES
from .sources import PARTS

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["KINDS", "Row", "figures_as_text", "in_bytes", "notes", "rows", "show", "write"]

KINDS = (".json", ".txt", ".html")
"""The names of files that a report can be written to."""

TOP = 5
"""How many lines of the program are told."""


class Row(NamedTuple):
    """A line of the report: what it tells, of freehold, and of the default allocator where that was run."""

    name: str
    freehold: str
    default: str = ""


def in_bytes(n: int) -> str:
    """Return *n* bytes for people."""
    if n < 1024:
        return f"{n} B"
    power = min((n.bit_length() - 1) // 10, 4)
    return f"{n / 1024**power:.1f} {'KMGT'[power - 1]}iB"


MEASURED: dict[str, Callable[[dict[str, Any]], str]] = {
    "time": lambda one: f"{one['wall_seconds']:.2f} s, {one['cpu_seconds']:.2f} s of CPU",
    "peak resident": lambda one: in_bytes(one["peak_resident_bytes"]),
    "resident at the end": lambda one: in_bytes(one["resident_bytes"]),
    "page faults": lambda one: f"{one['minor_faults']:,} minor, {one['major_faults']:,} major",
}
"""What is measured of a program whatever serves its memory."""


def rows(figures: dict[str, Any]) -> list[Row]:
    """Return *figures* as lines: what was measured, where the memory is at the end, and what the heaps say."""
    default = figures["compared"]["default"] if figures["compared"] else None
    shown = [Row(name, tell(figures), tell(default) if default else "") for name, tell in MEASURED.items()]
    return shown + _parts(figures, default) + _of_the_heap(figures)


def _parts(figures: dict[str, Any], default: dict[str, Any] | None) -> list[Row]:
    """Return how the memory resident at the end is made up."""
    ours = figures["memory"]["at_end"]
    theirs = default["memory"]["at_end"] if default else None
    found = []
    for part, name in PARTS.items():
        if (ours and ours[part]) or (theirs and theirs[part]):
            found.append(Row(f"in {name}", _share(ours, part), _share(theirs, part)))
    return found


def _share(parts: dict[str, int] | None, part: str) -> str:
    if not parts or not parts[part]:
        return ""
    return f"{in_bytes(parts[part])}, {parts[part] / parts['total']:.0%}"


def _of_the_heap(figures: dict[str, Any]) -> list[Row]:
    shown = [Row("given back", in_bytes(figures["given_back_bytes"]))]
    heap = figures["heap"]
    if heap is not None:
        shown += [
            Row("heap: live", f"{in_bytes(heap['current_bytes'])} in {heap['current_count']:,} blocks"),
            Row("heap: handed out", f"{heap['total_count']:,} blocks"),
            Row("heap: idle", f"{in_bytes(heap['dirty_bytes'] + heap['muzzy_bytes'])} resident"),
        ]
        refused = sum(one["refused_count"] for one in heap["heaps"])
        if refused:
            shown.append(Row("heap: over a limit", f"{refused:,} times"))
    return shown + [Row(f"not on the heap: {name}", why) for name, why in figures["not_taken"].items()]


def _lines(figures: dict[str, Any]) -> list[Row]:
    """Return what is told in lines: all rows, then who asked for the memory that was live when most was, and where."""
    profile = figures["profile"]
    if profile is None:
        return rows(figures)
    sources = [(name, amount["peak_bytes"]) for name, amount in profile["sources"].items() if amount["peak_bytes"]]
    shown = [Row(f"at the peak: {SOURCE_NAMES[name]}", in_bytes(amount)) for name, amount in sources]
    for line in profile["lines"][:TOP]:
        place = f" ({line['file']}:{line['line']})" if line["file"] else ""
        shown.append(Row("at the peak, line", f"{in_bytes(line['peak_bytes'])}  {line['function']}{place}"))
    return rows(figures) + shown


def notes(figures: dict[str, Any]) -> list[str]:
    """Return what has to be known to read the figures, in sentences."""
    found = []
    if figures["ended"] != "by itself":
        found.append(
            "The program ended without a word, by a signal or os._exit: these are the figures of a moment before."
        )
    if not figures["compared"]:
        return found
    default, output = figures["compared"]["default"], figures["compared"]["output"]
    if default["exit_code"]:
        found.append(f"Under the default allocator it ended with {_ending(default)}.")
    elif default["ended"] != "by itself":
        found.append("Under the default allocator it ended by os._exit: its figures are of a moment before.")
    if not output["compared"]:
        found.append(f"What it wrote was not compared: {output['why']}.")
    elif output["same"]:
        found.append("What it wrote to stdout was the same both times.")
    else:
        found.append(
            f"What it wrote to stdout differs from byte {output['differs_at']:,} on; "
            f"under the default allocator it was {output['kept']}."
        )
    return found


def _ending(default: dict[str, Any]) -> str:
    code = default["exit_code"]
    how = f"exit code {code}" if code > 0 else f"signal {-code}"
    return f"{how}: {default['complaint']}" if default["complaint"] else how


def write(figures: dict[str, Any], path: str) -> None:
    """Write the report to *path*, as what its name ends in."""
    if path.endswith(".html"):
        from .report_page import page

        text = page(figures)
    elif path.endswith(".json"):
        text = json.dumps(figures, indent=2) + "\n"
    else:
        text = figures_as_text(figures)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


# ---- for people ----


def figures_as_text(figures: dict[str, Any]) -> str:
    """Return the report as plain lines."""
    shown = _lines(figures)
    width = max(len(row.name) for row in shown)
    lines = ["freehold"]
    if figures["compared"]:
        beside = max(len(row.default) for row in shown)
        lines += [f"  {'':<{width}}  {'default':<{beside}}  freehold"]
        lines += [f"  {row.name:<{width}}  {row.default:<{beside}}  {row.freehold}" for row in shown]
    else:
        lines += [f"  {row.name:<{width}}  {row.freehold}" for row in shown]
    return "\n".join([*(line.rstrip() for line in lines), *(f"  {note}" for note in notes(figures))]) + "\n"


def show(figures: dict[str, Any], file: TextIO) -> None:
    """Print the report: a table on a terminal, plain lines elsewhere."""
    if not file.isatty():
        file.write(figures_as_text(figures))
        file.flush()
        return
    from rich.console import Console

    console = Console(file=file)
    console.print(_table(figures))
    for note in notes(figures):
        console.print(note, markup=False, highlight=False)


def _table(figures: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="freehold", title_justify="left", show_header=bool(figures["compared"]))
    table.add_column(style="bold")
    if figures["compared"]:
        table.add_column("default")
    table.add_column("freehold")
    for row in _lines(figures):
        cells = [row.name, row.default, row.freehold] if figures["compared"] else [row.name, row.freehold]
        table.add_row(*map(Text, cells))
    return table
