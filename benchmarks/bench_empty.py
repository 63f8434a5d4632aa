"""`np.empty(n)` and drop, n from 1 to 8,192 elements of 8 bytes: the smallest thing NumPy does with memory.

Default NumPy keeps seven blocks of each size below 1,024 bytes for itself and is the one to equal. Nothing is touched
here: the array lives for no longer than the call. A second default process shows what two equal peers differ by on
this machine.
"""

from __future__ import annotations

from itertools import repeat
from time import perf_counter

from benchmarks.measure import Effort, memory_after, repeats_for, rounds_of, workers
from benchmarks.peers import CONTROL, DEFAULT, FREEHOLD, python_peers
from benchmarks.report import Benchmark, Cell, Row

TITLE = "np.empty(n) and drop (ns)"
LENGTHS = [1, 2, 3, 4, 8, 16, 32, 64, 100, 127, 128, 256, 512, 1000, 1024, 2048, 4096, 8192]
FEW = [1, 64, 1024, 8192]
BAR = 1.0
PIECE_S = 0.0003  # short: a piece that the scheduler cuts in two is an outlier, and the median does not see it
PROCESSES = {
    "smoke": 1,
    "quick": 5,
    "full": 15,
}  # per peer: where a process's code and data come to lie is luck that lasts

# ---- in the worker ----


def empty_and_drop(lengths: list[int], times: int) -> list[float]:
    """Return the nanoseconds for one array of each length."""
    import numpy as np

    empty = np.empty
    results = []
    for length in lengths:
        start = perf_counter()
        for _ in repeat(None, times):
            empty(length)
        results.append((perf_counter() - start) * 1e9 / times)
    return results


# ---- in the driver ----


def run(effort: Effort) -> Benchmark:
    lengths = FEW if effort.name == "smoke" else LENGTHS
    times = repeats_for(100e-9, PIECE_S)
    rounds: dict[str, list[list[float]]] = {}
    memory = {}
    for _ in range(PROCESSES[effort.name]):
        with workers(python_peers(control=True)) as team:
            for worker in team:
                worker.call("bench_empty.empty_and_drop", lengths=lengths, times=times)
                worker.call("worker.begin")
            results = rounds_of(team, effort.rounds * 2, "bench_empty.empty_and_drop", lengths=lengths, times=times)
            for name, values in results.items():
                rounds.setdefault(name, []).extend(values)
            memory = memory_after(team, effort)
    rows = []
    for i, length in enumerate(lengths):
        cells = {name: Cell([values[i] for values in all_rounds], memory[name]) for name, all_rounds in rounds.items()}
        rows.append(Row(f"n = {length:,}", "ns", cells, BAR, against=DEFAULT))
    notes = [
        f"the two default processes differ by {_noise(rows):.1%} (median over n); smaller differences mean nothing"
    ]
    return Benchmark("empty", TITLE, rows, notes if FREEHOLD in rounds or CONTROL in rounds else [])


def _noise(rows: list[Row]) -> float:
    gaps = sorted(abs(row.cells[CONTROL].value / row.cells[DEFAULT].value - 1) for row in rows)
    return gaps[len(gaps) // 2]
