"""What it costs to be profiled: the same work inside `freehold.profile()` and outside it, in one process.

Pieces of some milliseconds alternate, off, on, on, off, so that whatever the machine does, it does to both; entering
and leaving are not timed. NumPy's temporaries and empty arrays, and Python's own objects, which come from the heap
here. All of it is done some calls deep, since a sample walks the stack: at the default of one in 512 KiB, a temporary
of that size is a sample each time, or nearly.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from statistics import median
from time import thread_time

from benchmarks.measure import MIB, Effort, repeats_for, rounds_of, workers
from benchmarks.peers import FREEHOLD, Peer, install_works
from benchmarks.report import Benchmark, Cell, Row

TITLE = "Being profiled, against not (×)"
BAR = 1.005
DEPTH = 20  # calls between the worker's loop and the work
PIECE_S = 0.004
PAIRS = {"smoke": 2, "quick": 10, "full": 40}  # of a round
OBJECTS = {"objects of 32 B": "pairs", "objects of 80 B … 1 KiB": "texts"}
LENGTHS = [1, 64, 1024, 8192]
SIZES = [64 << 10, 256 << 10, *(n * MIB for n in (1, 4, 16))]
BARRED = range(64 << 10, MIB + 1)  # the sizes of temporaries that the bar is for

# ---- in the worker ----


def pairs(_: int) -> Callable[[int], None]:
    """Return what makes and drops small objects that no free list keeps."""

    def work(times: int) -> None:
        for n in repeat(1 << 70, times):
            n + n, n - 1, n * 3

    return work


def texts(_: int) -> Callable[[int], None]:
    """Return what makes and drops objects of a cache line to a kibibyte."""

    def work(times: int) -> None:
        for n in repeat(900, times):
            bytes(n), bytes(50), bytes(300)

    return work


def empty(length: int) -> Callable[[int], None]:
    """Return what makes and drops an array that nobody touches."""
    import numpy as np

    def work(times: int) -> None:
        make = np.empty
        for n in repeat(length, times):
            make(n)

    return work


def temporary(size: int) -> Callable[[int], None]:
    """Return what adds two arrays into a new one, and drops it."""
    import numpy as np

    a, b = np.full(size // 8, 1.5), np.full(size // 8, 2.5)

    def work(times: int) -> None:
        add = np.add
        for left in repeat(a, times):
            add(left, b)

    return work


def _deep(calls: int, work: Callable[[int], None], times: int) -> float:
    """Return the processor seconds of the work, that many calls further down."""
    if calls:
        return _deep(calls - 1, work, times)
    began = thread_time()
    work(times)
    return thread_time() - began


def _profiled(work: Callable[[int], None], times: int) -> float:
    import freehold

    with freehold.profile():
        return _warm(work, times)


def _warm(work: Callable[[int], None], times: int) -> float:
    """Time it once it has run: the first sample of a stack, which writes it down, is not what many cost."""
    _deep(DEPTH, work, times)
    return _deep(DEPTH, work, times)


def pieces(kind: str, size: int, many: int) -> list[tuple[float, float]]:
    """Return the nanoseconds for one repetition, profiled and not, of so many pairs of pieces."""
    work = {"pairs": pairs, "texts": texts, "empty": empty, "temporary": temporary}[kind](size)
    _deep(DEPTH, work, 10)
    times = repeats_for(min(_deep(DEPTH, work, 10) for _ in range(5)) / 10, PIECE_S)
    timed = []
    for _ in range(many):
        before = _warm(work, times)
        on = _profiled(work, times) + _profiled(work, times)
        timed.append((on / times / 2 * 1e9, (before + _warm(work, times)) / times / 2 * 1e9))
    return timed


# ---- in the driver ----


def _cases(effort: Effort) -> list[tuple[str, str, int, float | None]]:
    """Return of each row its words, what is done and with which size, and the bar."""
    cases: list[tuple[str, str, int, float | None]] = [(words, kind, 0, None) for words, kind in OBJECTS.items()]
    cases += [(f"np.empty({n:,})", "empty", n, None) for n in LENGTHS]
    for size in SIZES:
        if size <= effort.largest_bytes:
            label = f"{size >> 10} KiB" if size < MIB else f"{size // MIB} MiB"
            cases.append((f"np.add(a, b), {label}", "temporary", size, BAR if size in BARRED else None))
    return cases


def run(effort: Effort) -> Benchmark:
    why = install_works()
    if why:
        return Benchmark("profiling", TITLE, [], [why])
    rows = []
    with workers([Peer(FREEHOLD, install=True, objects="yes")]) as team:
        for words, kind, size, bar in _cases(effort):
            arguments = {"kind": kind, "size": size, "many": PAIRS[effort.name]}
            rounds = rounds_of(team, effort.rounds, "bench_profiling.pieces", **arguments)[FREEHOLD]
            on, off = zip(*(pair for of_round in rounds for pair in of_round), strict=True)
            cell = Cell([a / b for a, b in zip(on, off, strict=True)])
            cell.also = {"profiled, ns": median(on), "not, ns": median(off)}
            rows.append(Row(words, "×", {FREEHOLD: cell}, bar))
    return Benchmark("profiling", TITLE, rows)
