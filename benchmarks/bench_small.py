"""Small blocks at C level: pairs of allocate and free, 16 bytes to 1 KiB, in batches of 1, 32 and 1,000.

All peers live in one process and take turns (see small.c). Memory is measured in a second run with each alone. The
last rows are the price of telling a double free: the same core without what tells it (see double_free.py).
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import double_free
from benchmarks.c_programs import compiled, output_of
from benchmarks.peers import FREEHOLD, MIMALLOC, Peer, c_peers
from benchmarks.report import Benchmark, Cell, Memory, Row

if TYPE_CHECKING:
    from benchmarks.measure import Effort

TITLE = "Small blocks at C level: one allocate and one free (ns)"
BAR = 0.9  # of mimalloc's time
PRICE_BAR_NS = 1.0  # of telling a double free
PROCESSES = {"smoke": 1, "quick": 4, "full": 12}  # where code and data come to lie is luck that lasts as long as one
ROUNDS = {"smoke": 3, "quick": 15, "full": 25}  # in each, of short pieces: one that the scheduler cuts is an outlier
PAIRS = {"smoke": 2_000, "quick": 20_000, "full": 40_000}

Table = dict[tuple[str, str, str], dict[str, list[float]]]  # by batch, order and size: each peer's nanoseconds by round


def _table(program: Path, peers: list[Peer], effort: Effort) -> Table:
    """Run the program in several processes, all peers in each; put their rounds together."""
    table: Table = {}
    for _ in range(PROCESSES[effort.name]):
        for line in output_of(program, peers, ROUNDS[effort.name], PAIRS[effort.name], effort.after_s):
            batch, order, size, name, *values = line.split()
            row = table.setdefault((batch, order, size), {})
            row.setdefault(name.replace("_", " "), []).extend(float(value) for value in values)
    return table


def _memory(line: str) -> Memory:
    _, peak, after = line.split()
    return int(peak), int(after)


def _pattern(batch: str, order: str) -> str:
    return "one at a time" if batch == "1" else f"{int(batch):,} at a time, {order}"


def _rows(table: Table, alone: dict[str, Memory], peers: list[Peer]) -> list[Row]:
    against = MIMALLOC if any(peer.name == MIMALLOC for peer in peers) else "best"
    rows = []
    for (batch, order, size), values in table.items():
        cells = {name: Cell(rounds, alone[name]) for name, rounds in values.items()}
        rows.append(Row(f"{size} B, {_pattern(batch, order)}", "ns", cells, BAR, against=against))
    return rows


def _price_rows(program: Path, effort: Effort) -> list[Row]:
    """Return, by pattern, the nanoseconds that telling a double free adds, over all sizes."""
    with double_free.builds() as builds:
        table = _table(program, builds, effort)
    prices: dict[str, list[float]] = {}
    for (batch, order, _), values in table.items():
        told, not_told = values[double_free.WITH], values[double_free.WITHOUT]
        differences = [a - b for a, b in zip(told, not_told, strict=True)]
        prices.setdefault(_pattern(batch, order), []).extend(differences)
    return [
        Row(f"telling a double free, {pattern}", "ns", {FREEHOLD: Cell(values)}, PRICE_BAR_NS)
        for pattern, values in prices.items()
    ]


def run(effort: Effort) -> Benchmark:
    peers = c_peers()
    pairs = PAIRS[effort.name]
    notes = []
    with compiled("small") as program:
        table = _table(program, peers, effort)
        alone = {peer.name: _memory(output_of(program, [peer], 1, pairs, effort.after_s)[-1]) for peer in peers}
        rows = _rows(table, alone, peers)
        try:
            rows += _price_rows(program, effort)
        except (OSError, ValueError, subprocess.CalledProcessError, RuntimeError) as problem:
            notes.append(f"the price of telling a double free was not measured: {problem}")
    return Benchmark("small", TITLE, rows, notes)
