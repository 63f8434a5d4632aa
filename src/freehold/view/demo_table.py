"""The demo's table as text: one header, one row for each trouble and allocator, the same on a terminal and on a page.

Everything is read from the demo's document (see `freehold.cli.demo`). Memory is in MiB above what was resident before
the work, so that imports do not count. Does not: draw; the terminal and the page each do that in their own way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CAPTION", "HEADER", "Row", "mib", "rows", "totals"]

HEADER = ("trouble", "allocator", "time s", "faults", "peak", "2 s later", "live", "held", "allowed", "back")
CAPTION = "Memory in MiB above the start. held: resident 2 s after the work and not live."


@dataclass(frozen=True)
class Row:
    """One line of the table: its cells as they are shown, in the order of `HEADER`, and the verdict by itself."""

    cells: tuple[str, ...]
    given_back: bool


def mib(amount: int) -> str:
    """Return bytes as MiB, with one decimal below a thousand."""
    mebibytes = amount / (1 << 20)
    return f"{mebibytes:,.1f}" if mebibytes < 1000 else f"{mebibytes:,.0f}"


def rows(document: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows of *document*, in its order."""
    for result in document["results"]:
        baseline = result["baseline_bytes"]
        cells = (
            result["trouble"],
            result["allocator"],
            f"{result['seconds']:.2f}",
            f"{result['fault_count']:,}",
            mib(result["peak_bytes"] - baseline),
            mib(result["resident_bytes"] - baseline),
            mib(result["live_bytes"]),
            mib(result["held_bytes"]),
            mib(result["allowed_bytes"]),
            "yes" if result["given_back"] else "no",
        )
        yield Row(cells, result["given_back"])


def totals(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return for each allocator: troubles run and given back, seconds, bytes held."""
    sums: dict[str, dict[str, Any]] = {}
    for result in document["results"]:
        total = sums.setdefault(result["allocator"], {"run": 0, "given_back": 0, "seconds": 0.0, "held_bytes": 0})
        total["run"] += 1
        total["given_back"] += result["given_back"]
        total["seconds"] += result["seconds"]
        total["held_bytes"] += result["held_bytes"]
    return sums
