"""Programs that build much data: a fresh process makes many arrays, writes all of them, and drops them.

The time is from the first array to the last drop, without starting Python or importing NumPy. A virtual machine's
host may take free memory back and give it again only at the first touch, which costs ten times what the allocator
does: right before the work each process touches as much memory and lets go of it (`wake_memory`), so that all run on
memory the host has given. The peak is held against the best peer's, and two seconds after the drop nearly everything
must be the system's again.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter, process_time, sleep

from benchmarks.measure import MIB, Effort, fresh, turned
from benchmarks.peers import FREEHOLD, python_peers
from benchmarks.report import Benchmark, Cell, Row

TITLE = "Building much data in a fresh process"
CASES = {
    "100,000 arrays of 8 KB": (100_000, 1_000),
    "50,000 arrays of 20 KB": (50_000, 2_500),
}  # arrays, float64 in each
TIME_BAR, PEAK_BAR = 0.6, 1.05  # ratios to the best peer
WAKE_SHARE = 1.3  # of what the arrays take
AFTER_SHARE, AFTER_BYTES = 0.03, 8 * MIB  # of the peak, and on top

# ---- in the worker ----


def wake_memory(nbytes: int) -> None:
    """Touch *nbytes* of the machine's free memory in the largest pages there are, and give them back."""
    import mmap

    with mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for start in range(0, nbytes, mmap.PAGESIZE):
            memory[start] = 1


def build(count: int, length: int, wait_s: float) -> dict[str, float]:
    """Return the milliseconds it took, what of them to drop, the processor time, and the memory *wait_s* later."""
    import numpy as np

    from benchmarks import worker

    wake_memory(int(count * length * 8 * WAKE_SHARE))
    worker.begin()
    start, processor = perf_counter(), process_time()
    arrays = []
    for _ in range(count):
        array = np.empty(length)
        array.fill(1.0)
        arrays.append(array)
    middle = perf_counter()
    del arrays, array
    end, processor = perf_counter(), process_time() - processor
    sleep(wait_s)
    peak, after = worker.memory()
    return {
        "ms": (end - start) * 1e3,
        "drop": (end - middle) * 1e3,
        "cpu": processor * 1e3,
        "peak": peak,
        "after": after,
    }


# ---- in the driver ----


def _rows(label: str, results: dict[str, list[dict[str, float]]]) -> list[Row]:
    time, processor, peak, after = {}, {}, {}, {}
    for name, runs in results.items():
        memory = (int(max(run["peak"] for run in runs)), int(runs[-1]["after"]))  # the last round alone waited
        time[name] = Cell([run["ms"] for run in runs], memory, {"drop": median(run["drop"] for run in runs)})
        processor[name] = Cell([run["cpu"] for run in runs])
        peak[name] = Cell([run["peak"] / MIB for run in runs])
        after[name] = Cell([runs[-1]["after"] / MIB])
    ours = peak.get(FREEHOLD)
    after_bar = AFTER_SHARE * ours.value + AFTER_BYTES / MIB if ours else None
    return [
        Row(f"{label}: build, touch, drop", "ms", time, TIME_BAR, against="best"),
        Row(f"{label}: processor time, all threads", "ms", processor, TIME_BAR, against="best"),
        Row(f"{label}: peak", "MiB", peak, PEAK_BAR, against="best"),
        Row(f"{label}: resident 2 s after", "MiB", after, after_bar),
    ]


def run(effort: Effort) -> Benchmark:
    peers = python_peers()
    rows = []
    for label, (count, length) in CASES.items():
        arguments = {"count": max(100, int(count * effort.scale)), "length": length, "wait_s": 0.0}
        results: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in peers}
        count_rounds = max(2, effort.rounds // 2)
        for number in range(count_rounds):
            arguments["wait_s"] = effort.after_s if number == count_rounds - 1 else 0.0
            for peer in turned(peers, number):
                results[peer.name].append(fresh(peer, "bench_building.build", **arguments))
        rows += _rows(label if effort.scale == 1 else f"{label} × {effort.scale:g}", results)
    return Benchmark("building", TITLE, rows)
