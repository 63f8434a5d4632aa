"""What the background thread costs a process that does nothing: processor time, and how often anything wakes.

All peers' processes idle at the same time: once having only started, once after work whose memory is long given back.
"""

from __future__ import annotations

from time import process_time, sleep

from benchmarks.measure import MIB, Effort, Worker, workers
from benchmarks.peers import python_peers
from benchmarks.report import Benchmark, Cell, Row

TITLE = "Doing nothing (% of one core)"
BAR_PERCENT = 0.1
SETTLE_S = 4.0  # the default decay, and what comes after it
WORK_BYTES = 256 * MIB

# ---- in the worker ----


def work(nbytes: int) -> None:
    """Make and drop small and large arrays."""
    import numpy as np

    from benchmarks import worker

    worker.begin()
    for length in (100, 10_000, 1_000_000):
        arrays = [np.ones(length) for _ in range(nbytes // (3 * 8 * length) + 1)]
        del arrays


def _switches() -> int:
    """Return how often all threads of this process went to sleep so far."""
    import os

    total = 0
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/status") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("voluntary"))
    return total


def idle(seconds: float) -> tuple[float, float]:
    """Return the share of a core that all threads took, in percent, and how often a second any went to sleep again."""
    switches, start = _switches(), process_time()
    sleep(seconds)
    return (process_time() - start) / seconds * 100, (_switches() - switches) / seconds


# ---- in the driver ----


def _row(team: list[Worker], what: str, seconds: float, memory: bool) -> Row:
    for worker in team:
        worker.send("bench_idle.idle", seconds=seconds)
    cells = {}
    for worker in team:
        share, wakes = worker.receive()
        cells[worker.peer.name] = Cell([share], also={"wakes/s": wakes})
    if memory:
        for worker in team:
            cells[worker.peer.name].memory = tuple(worker.call("worker.memory"))
    return Row(what, "%", cells, BAR_PERCENT)


def run(effort: Effort) -> Benchmark:
    with workers(python_peers()) as team:
        for worker in team:
            worker.call("worker.begin")
        sleep(min(SETTLE_S, effort.idle_s))
        rows = [_row(team, f"installed, {effort.idle_s:g} s", effort.idle_s, memory=True)]
        for worker in team:
            worker.call("bench_idle.work", nbytes=int(WORK_BYTES * effort.scale))
        sleep(min(SETTLE_S, effort.idle_s))
        rows.append(_row(team, f"after work, {effort.idle_s:g} s", effort.idle_s, memory=True))
    return Benchmark("idle", TITLE, rows, ["memory: peak → at the end of idling"])
