"""What it costs to be looked at: a process whose page is read ten times a second, against one that nobody reads.

The reclaim thread writes the page when a reader asks. Its own processor time is measured, as the kernel counts it, in a
process that rests; and what processor time a loop of allocations in that process takes with a reader and without one,
in pieces that alternate.
"""

from __future__ import annotations

import threading
import time
from statistics import median
from typing import Self

from benchmarks.measure import Effort, Worker, workers
from benchmarks.peers import FREEHOLD, python_peers
from benchmarks.report import Benchmark, Cell, Row

TITLE = "Being read ten times a second"
BAR_PERCENT = 0.5  # of one core
BAR_LOOP = 1.005
HZ = 10
SECONDS = {"smoke": 0.3, "quick": 5.0, "full": 20.0}
PIECE_S = {"smoke": 0.1, "quick": 0.5, "full": 1.0}
HEAPS = 16

kept: list[object] = []

# ---- in the worker ----


def fill(heaps: int) -> int:
    """Hold arrays of many sizes in so many heaps; return this process's number."""
    import os

    import numpy as np

    import freehold

    kept.extend(np.ones(n * n % 100_003) for n in range(2000))
    for n in range(heaps):
        heap = freehold.Heap(f"heap {n}", limit="1GiB")
        kept.append((heap, [heap.full(size, 1.0) for size in (10, 1000, 100_000, 300_000)]))
    return os.getpid()


def loop(count: int) -> float:
    """Make and drop arrays of three sizes, so many of each; return the processor seconds of this thread."""
    import numpy as np

    began = time.thread_time()
    for n in range(count):
        np.empty(n % 1000)
        np.empty(20_000)
        np.empty(300_000 + n % 7)
    return time.thread_time() - began


def reclaim_cpu_ns() -> int:
    """Return the processor time that the reclaim thread took so far."""
    import os

    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/comm") as name, open(f"/proc/self/task/{task}/schedstat") as spent:
            if name.read() == "freehold\n":
                return int(spent.read().split()[0])
    return 0


# ---- in the driver ----


class Reader:
    """Asks a process for figures so many times a second, in a thread, while it is entered."""

    def __init__(self, pid: int) -> None:
        from freehold import published

        self.page = published.find(pid)
        self.answers_s: list[float] = []
        self._end = threading.Event()

    def __enter__(self) -> Self:
        self._end.clear()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._end.wait(1 / HZ):
            began = time.perf_counter()
            if self.page.fresh(5) is None:
                raise RuntimeError("the process does not answer")
            self.answers_s.append(time.perf_counter() - began)


def _share(worker: Worker, seconds: float) -> float:
    """Return what the reclaim thread takes while so much time passes, in percent of a core."""
    before, began = worker.call("bench_publishing.reclaim_cpu_ns"), time.perf_counter()
    time.sleep(seconds)
    spent = worker.call("bench_publishing.reclaim_cpu_ns") - before
    return float(spent) / 1e7 / (time.perf_counter() - began)


def _loops(worker: Worker, reader: Reader, effort: Effort) -> tuple[list[float], list[float]]:
    """Return the seconds of equal pieces of work, read and unread in turn."""
    piece = PIECE_S[effort.name]
    count = max(1, round(2000 * piece / worker.call("bench_publishing.loop", count=2000)))
    read, unread = [], []
    for number in range(2 * effort.rounds):
        if (number + number // 2) % 2:  # unread, read, read, unread …
            with reader:
                read.append(worker.call("bench_publishing.loop", count=count))
        else:
            unread.append(worker.call("bench_publishing.loop", count=count))
    return read, unread


def run(effort: Effort) -> Benchmark:
    peers = [peer for peer in python_peers() if peer.name == FREEHOLD]
    rows = []
    for heaps in (0, HEAPS):
        with workers(peers) as (worker,):
            reader = Reader(worker.call("bench_publishing.fill", heaps=heaps))
            time.sleep(min(2.0, SECONDS[effort.name]))  # what filling left idle is given back
            of = f"{heaps + 1} heap{'s' if heaps else ''}"
            unread = _share(worker, SECONDS[effort.name])
            with reader:
                share = _share(worker, SECONDS[effort.name])
            also = {"unread": unread, "µs to answer": 1e6 * median(reader.answers_s)}
            rows.append(
                Row(f"the reclaim thread, at rest, {of}", "%", {FREEHOLD: Cell([share], also=also)}, BAR_PERCENT)
            )
            read, alone = _loops(worker, reader, effort)
            ratios = [a / b for a, b in zip(read, alone, strict=True)]
            rows.append(Row(f"a loop of allocations, read / unread, {of}", "×", {FREEHOLD: Cell(ratios)}, BAR_LOOP))
            reader.page.close()
    return Benchmark("publishing", TITLE, rows)
