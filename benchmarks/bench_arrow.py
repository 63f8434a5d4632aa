"""Frames of pandas with Arrow's strings: group-by, merge and sort, each process fresh; time, peak, and what stays.

freehold takes Arrow's default pool by `install()`. By default that is Arrow's own mimalloc, which no preload reaches;
so under a preloaded peer Arrow is told to use its `system` pool, which calls that peer's malloc.

The time is the processor's, of all threads, of the work and the drop of its result, without making the frames.
"""

from __future__ import annotations

import gc
import importlib.util
from dataclasses import replace
from statistics import median
from time import perf_counter, process_time, sleep

from benchmarks.measure import MIB, Effort, fresh, turned
from benchmarks.peers import DEFAULT, FREEHOLD, Peer, python_peers
from benchmarks.report import Benchmark, Cell, Row

TITLE = "pandas with Arrow's strings"
ROWS = 4_000_000  # at full size; half of it in the short form
KEYS = 50_000
BAR = 1.0  # ratio to the default
AFTER_SHARE, AFTER_BYTES = 0.03, 8 * MIB  # of the peak, and on top
WORKS = ("group-by", "merge", "sort")
SYSTEM = {"ARROW_DEFAULT_MEMORY_POOL": "system"}

# ---- in the worker ----


def frames(scale: float, wait_s: float) -> dict[str, float]:
    """Do all the works; return the milliseconds of each, and the memory *wait_s* after everything was dropped."""
    import numpy as np
    import pandas as pd

    from benchmarks import worker

    def table(rows: int) -> pd.DataFrame:
        random = np.random.default_rng(2026)
        strings = pd.StringDtype("pyarrow")
        numbers = random.integers(0, KEYS, rows)
        key = pd.Series([f"customer {i:08}" for i in range(KEYS)], dtype=strings).take(numbers)
        note = pd.Series([f"note {i}" * (i % 5) for i in range(1000)], dtype=strings).take(numbers % 1000)
        price = random.lognormal(2.5, 0.8, rows)
        return pd.DataFrame({"key": key.array, "note": note.array, "price": price})

    def once(rows: int) -> dict[str, float]:
        sales = table(rows)
        names = pd.Series([f"name of {i}" for i in range(KEYS)], dtype=pd.StringDtype("pyarrow"))
        customers = pd.DataFrame({"key": sales["key"].unique()[:KEYS]})
        customers["name"] = names.take(range(len(customers))).array
        works = {
            "group-by": lambda: sales.groupby("key", sort=False).agg({"price": "sum", "note": "max"}),
            "merge": lambda: sales.merge(customers, on="key", how="left"),
            "sort": lambda: sales.sort_values(["note", "key"], ignore_index=True),
        }
        took = {}
        for name, work in works.items():
            start, wall = process_time(), perf_counter()
            work()
            took[name], took[f"{name}, wall"] = (process_time() - start) * 1e3, (perf_counter() - wall) * 1e3
        return took

    once(2_000)  # what is imported late is not to count
    gc.enable()
    worker.begin()
    took = once(int(ROWS * scale))
    sleep(wait_s)
    took["peak"], took["after"] = worker.memory()
    return took


# ---- in the driver ----


def peers() -> list[Peer]:
    """Return the peers, those that are preloaded with Arrow on them; and Arrow on glibc."""
    found = python_peers()
    theirs = [replace(peer, environment=peer.environment | SYSTEM) if peer.environment else peer for peer in found]
    return [*theirs, Peer("glibc", SYSTEM)]


def run(effort: Effort) -> Benchmark:
    for package in ("pyarrow", "pandas"):
        if importlib.util.find_spec(package) is None:
            raise RuntimeError(f"there is no {package}")
    team = peers()
    results: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in team}
    for number in range(effort.rounds):
        wait_s = effort.after_s if number == effort.rounds - 1 else 0.0
        for peer in turned(team, number):
            results[peer.name].append(fresh(peer, "bench_arrow.frames", scale=effort.scale, wait_s=wait_s))
    rows = [
        Row(
            name,
            "ms",
            {
                peer: Cell([each[name] for each in runs], also={"wall": median(each[f"{name}, wall"] for each in runs)})
                for peer, runs in results.items()
            },
            BAR,
            against=DEFAULT,
        )
        for name in WORKS
    ]
    peaks = {peer: Cell([each["peak"] / MIB for each in runs]) for peer, runs in results.items()}
    after = {peer: Cell([runs[-1]["after"] / MIB]) for peer, runs in results.items()}  # the last round alone waited
    ours = peaks[FREEHOLD].value * AFTER_SHARE + AFTER_BYTES / MIB if FREEHOLD in peaks else None
    rows += [
        Row("peak", "MiB", peaks, 1.05, against=DEFAULT),
        Row(f"resident {effort.after_s:g} s after all was dropped", "MiB", after, ours),
    ]
    return Benchmark("arrow", TITLE, rows)
