"""What it costs to look: the live view at ten looks a second, and a picture of a heap of 64 GiB.

`freehold top` runs in a terminal of 80 by 24 and looks at one process, which rests or works; its processor time is what
the kernel counts, after it has drawn its screen for the first time. `freehold map` is timed as a whole command, from
its start to its end. The heap holds blocks of 8 MiB whose memory nobody has touched, and a few of each other kind.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.measure import Effort, Worker, workers
from benchmarks.peers import FREEHOLD, ROOT, python_environment, python_peers
from benchmarks.report import Benchmark, Cell, Row

TITLE = "Looking at a process"
BAR_TOP_PERCENT = 3.0  # of one core
BAR_MAP_S = 2.0
PROCESSES = 10  # in the list
SECONDS = {"smoke": 0.5, "quick": 5.0, "full": 20.0}
FIRST_S = {"smoke": 1.0, "quick": 4.0, "full": 4.0}  # until the first screen stands
GIB = {"smoke": 1, "quick": 64, "full": 64}
TICKS = os.sysconf("SC_CLK_TCK")

kept: list[object] = []

# ---- in the worker ----


def fill() -> int:
    """Hold arrays of many sizes in three heaps; return this process's number."""
    import numpy as np

    import freehold

    kept.extend(np.ones(n * n % 100_003) for n in range(2000))
    for n in range(2):
        heap = freehold.Heap(f"heap {n}", limit="1GiB")
        kept.append((heap, [heap.full(size, 1.0) for size in (10, 1000, 100_000, 300_000)]))
    return os.getpid()


def work() -> None:
    """Begin to make and drop arrays, five hundred a second, in a thread that never ends."""
    import numpy as np

    def run() -> None:
        while True:
            kept.append(np.ones(len(kept) ** 2 % 300_007))
            if len(kept) > 3000:
                del kept[2100:]
            time.sleep(0.002)

    threading.Thread(target=run, daemon=True).start()


def reserve(gib: int) -> int:
    """Hold so many GiB in blocks of 8 MiB that nobody touches; return how many bytes the heap holds."""
    import freehold

    heap = freehold.Heap("wide", decay="never")
    kept.append((heap, [heap.block(8 << 20) for _ in range(gib * 128)]))
    return heap.stats().current_bytes


# ---- in the driver ----


def _top_percent(pid: int | None, effort: Effort) -> float:
    """Return the share of a core that the live view takes, of one process or of all."""
    screen, terminal = pty.openpty()
    command = [sys.executable, "-m", "freehold", "top", *([] if pid is None else [str(pid)]), "--every", "0.1"]
    environment = python_environment() | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    top = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    try:
        _read(screen, FIRST_S[effort.name])
        before, began = _cpu_s(top.pid), time.monotonic()
        _read(screen, SECONDS[effort.name])
        return 100 * (_cpu_s(top.pid) - before) / (time.monotonic() - began)
    finally:
        top.kill()
        top.wait()
        os.close(terminal)
        os.close(screen)


def _read(screen: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([screen], [], [], left)[0]:
            os.read(screen, 65536)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _map_s(pid: int, kind: str, folder: str) -> float:
    command = [sys.executable, "-m", "freehold", "map", str(pid), "-f", "-o", f"{folder}/map.{kind}"]
    began = time.perf_counter()
    subprocess.run(command, env=python_environment(), cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - began


def _maps(worker: Worker, effort: Effort) -> list[Row]:
    pid = worker.call("bench_seeing.fill")
    held = worker.call("bench_seeing.reserve", gib=GIB[effort.name])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("svg", "html", "json"):
            cell = Cell([_map_s(pid, kind, folder) for _ in range(effort.rounds)])
            rows.append(Row(f"freehold map -o x.{kind}, {held >> 30} GiB held", "s", {FREEHOLD: cell}, BAR_MAP_S))
    return rows


def run(effort: Effort) -> Benchmark:
    peers = [peer for peer in python_peers() if peer.name == FREEHOLD]
    rows = []
    with workers(peers) as (worker,):
        pid = worker.call("bench_seeing.fill")
        time.sleep(min(2.0, SECONDS[effort.name]))  # what filling left idle is given back
        rows.append(Row("freehold top, at rest", "%", {FREEHOLD: Cell([_top_percent(pid, effort)])}, BAR_TOP_PERCENT))
        worker.call("bench_seeing.work")
        rows.append(Row("freehold top, at work", "%", {FREEHOLD: Cell([_top_percent(pid, effort)])}, BAR_TOP_PERCENT))
    with workers(peers * PROCESSES) as several:
        for worker in several:
            worker.call("bench_seeing.fill")
        cell = Cell([_top_percent(None, effort)])
        rows.append(Row(f"freehold top, the list of {PROCESSES}", "%", {FREEHOLD: cell}, BAR_TOP_PERCENT))
    with workers(peers) as (worker,):
        rows += _maps(worker, effort)
    return Benchmark("seeing", TITLE, rows)
