"""NumPy's temporaries: an array that is made, used and dropped, against the same work in memory already owned.

The ratio is taken inside one process: `np.add(a, b)` to `np.add(a, b, out=warm)`, and `a*b + c - a` to the same three
operations into warm arrays, as many as NumPy uses: two, or one where it works in its temporaries in place (from 256
KiB on). Whether it may do so, NumPy finds out by walking the stack: some 4 µs per expression that no allocator can
save. `t = a*b; t += c; t -= a` is the same arithmetic without that walk: what is left is the allocator's part. Every
element is written by the operation itself. A peer that keeps everything gets 1.0 for nothing, so what is
resident two seconds after all arrays are dropped stands below each figure.
"""

from __future__ import annotations

from itertools import repeat
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.measure import MIB, Effort, available_bytes, memory_after, repeats_for, rounds_of, workers
from benchmarks.peers import python_peers
from benchmarks.report import Benchmark, Cell, Row

TITLE = "NumPy temporaries, new against warm memory (×; peak → 2 s after)"
SIZES = [64 << 10, 256 << 10, *(n * MIB for n in (1, 4, 16, 64, 256))]
BARS = {"add": 1.03, "expression": 1.05, "in_place": 1.05}
LABELS = {"add": "np.add(a, b)", "expression": "a*b + c - a", "in_place": "t = a*b; t += c; t -= a"}
ARRAYS = 6  # alive at once, at most
IN_PLACE_BYTES = 256 << 10  # NumPy's NPY_MIN_ELIDE_BYTES
PIECE_S = 0.0005  # short: a piece that the scheduler cuts in two is an outlier, and the median does not see it
LEAST_PIECES, MOST_PIECES = 3, 20  # in a row

# ---- in the worker ----

arrays: list[Any] = []


def prepare(size: int) -> None:
    import numpy as np

    from benchmarks import worker

    worker.begin()
    arrays[:] = [np.full(size // 8, value) for value in (1.5, 2.5, 3.5, 0.0)]
    arrays.append(arrays[-1] if size >= IN_PLACE_BYTES else np.zeros(size // 8))


def drop() -> None:
    arrays.clear()


def add(times: int) -> tuple[float, float]:
    """Return the seconds for *times* additions into new arrays, and into a warm one."""
    import numpy as np

    a, b, _, warm, _ = arrays
    function = np.add
    start = perf_counter()
    for _ in repeat(None, times):
        function(a, b)
    middle = perf_counter()
    for _ in repeat(None, times):
        function(a, b, out=warm)
    return middle - start, perf_counter() - middle


def expression(times: int) -> tuple[float, float]:
    import numpy as np

    a, b, c, warm, second = arrays
    start = perf_counter()
    for _ in repeat(None, times):
        a * b + c - a
    middle = perf_counter()
    for _ in repeat(None, times):
        np.multiply(a, b, out=warm)
        np.add(warm, c, out=second)
        np.subtract(second, a, out=warm)
    return middle - start, perf_counter() - middle


def in_place(times: int) -> tuple[float, float]:
    """The expression as those write it who know NumPy well: the same arithmetic, one new array, no stack walk."""
    import numpy as np

    a, b, c, warm, _ = arrays
    start = perf_counter()
    for _ in repeat(None, times):
        t = a * b
        t += c
        t -= a
        del t
    middle = perf_counter()
    for _ in repeat(None, times):
        np.multiply(a, b, out=warm)
        np.add(warm, c, out=warm)
        np.subtract(warm, a, out=warm)
    return middle - start, perf_counter() - middle


def pieces(form: str, times: int, pairs: int) -> list[tuple[float, float]]:
    """Alternate *pairs* times between the two forms; return the microseconds per operation of each, piece by piece."""
    work = {"add": add, "expression": expression, "in_place": in_place}[form]
    timed = (work(times) for _ in range(pairs))
    return [(new / times * 1e6, warm / times * 1e6) for new, warm in timed]


# ---- in the driver ----


def _row(what: str, bar: float, results: dict[str, list[Any]]) -> Row:
    cells = {}
    for name, pairs in results.items():
        new, warm = zip(*(pair for of_round in pairs for pair in of_round), strict=True)
        cell = Cell([n / w for n, w in zip(new, warm, strict=True)])
        cell.also = {"new, µs": median(new), "warm, µs": median(warm)}
        cells[name] = cell
    return Row(what, "×", cells, bar)


def run(effort: Effort) -> Benchmark:
    rows = []
    notes = []
    with workers(python_peers()) as team:
        for size in SIZES:
            label = f"{size >> 10} KiB" if size < MIB else f"{size // MIB} MiB"
            if size > effort.largest_bytes or size * ARRAYS * len(team) > available_bytes() // 2:
                notes.append(f"{label}: left out (above this effort's largest size, or this machine's memory)")
                continue
            for worker in team:
                worker.call("bench_temporaries.prepare", size=size)
            done = []
            for form, bar in BARS.items():
                once = (
                    min(sum(pair) for pair in team[0].call("bench_temporaries.pieces", form=form, times=1, pairs=5))
                    / 1e6
                )
                times = repeats_for(once, PIECE_S)
                pairs = min(MOST_PIECES, LEAST_PIECES + repeats_for(once * times, effort.slice_s * 10))
                arguments = {"form": form, "times": times, "pairs": pairs}
                rounds_of(team, 1, "bench_temporaries.pieces", **arguments)  # settles what adapts
                results = rounds_of(team, effort.rounds, "bench_temporaries.pieces", **arguments)
                done.append(_row(f"{LABELS[form]}, {label}", bar, results))
            for worker in team:
                worker.call("bench_temporaries.drop")
            memory = memory_after(team, effort)
            for row in done:
                for name, cell in row.cells.items():
                    cell.memory = memory[name]
            rows += done
    return Benchmark("temporaries", TITLE, rows, notes)
