"""Whole programs made of Python objects: time, peak, and what stays resident, each run in a fresh process.

The processes of one round run one after the other, in another order each round; ratios are taken within a round. The
time is the processor's, of all threads (so the background thread counts), of the work and the drop of what it made,
without starting Python or preparing input. In the last rows one object in
5,000 of a million is kept: what is resident two seconds after the others were dropped.
"""

from __future__ import annotations

import gc
import sys
from math import exp, log
from statistics import median
from time import perf_counter, process_time, sleep
from typing import Any

from benchmarks.measure import MIB, Effort, fresh, turned
from benchmarks.object_programs import PROGRAMS
from benchmarks.peers import DEFAULT, FREEHOLD, Peer, install_works
from benchmarks.report import Benchmark, Cell, Row

TITLE = "Programs made of Python objects"
ARENAS = "freehold, arenas"
MIMALLOC = "PYTHONMALLOC=mimalloc"
EACH_BAR, MEAN_BAR = 1.03, 1.0  # ratios to the default
AFTER_SHARE, AFTER_BYTES = 0.03, 8 * MIB  # of the peak, and on top
KEEP_ONE_IN = 5_000

# ---- in the worker ----


def program(name: str, scale: float, wait_s: float) -> dict[str, float]:
    """Run a program; return the milliseconds it took, with the drop, and the memory *wait_s* later."""
    from benchmarks import worker

    work = PROGRAMS[name](scale)
    gc.enable()
    worker.begin()
    start, wall = process_time(), perf_counter()
    result = work()
    del result
    end, wall = process_time(), perf_counter() - wall
    sleep(wait_s)
    peak, after = worker.memory()
    return {"ms": (end - start) * 1e3, "wall": wall * 1e3, "peak": peak, "after": after}


def kept(kind: str, scale: float, wait_s: float) -> dict[str, float]:
    """Make a million objects, keep one in 5,000; return the memory *wait_s* later."""
    from benchmarks import worker

    make: Any = {"dicts": lambda i: {"id": i, "next": i + 1}, "strings": lambda i: f"string number {i}"}[kind]
    worker.begin()
    start, wall = process_time(), perf_counter()
    made = [make(i) for i in range(int(1_000_000 * scale))]
    rest = made[::KEEP_ONE_IN]
    del made
    end, wall = process_time(), perf_counter() - wall
    sleep(wait_s)
    peak, after = worker.memory()
    live = sum(map(sys.getsizeof, rest))
    return {"ms": (end - start) * 1e3, "wall": wall * 1e3, "peak": peak, "after": after, "live": live}


# ---- in the driver ----


def peers() -> list[Peer]:
    """Return Python's own allocator, ours in both ways, and 3.13's mimalloc where there is one."""
    ours = (
        []
        if install_works()
        else [Peer(FREEHOLD, install=True, objects="yes"), Peer(ARENAS, install=True, objects="arena")]
    )
    theirs = [Peer(DEFAULT)]
    if sys.version_info >= (3, 13):
        theirs.append(Peer(MIMALLOC, {"PYTHONMALLOC": "mimalloc"}))
    return ours + theirs


def _rounds(function: str, effort: Effort, **arguments: Any) -> dict[str, list[dict[str, float]]]:
    team = peers()
    results: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in team}
    rounds = max(2, effort.rounds)
    for number in range(rounds):
        wait_s = effort.after_s if number == rounds - 1 else 0.0
        for peer in turned(team, number):
            answer = fresh(peer, f"bench_objects.{function}", scale=effort.scale, wait_s=wait_s, **arguments)
            results[peer.name].append(answer)
    return results


def _cells(results: dict[str, list[dict[str, float]]]) -> dict[str, Cell]:
    cells = {}
    for name, runs in results.items():
        memory = (int(max(run["peak"] for run in runs)), int(runs[-1]["after"]))  # the last round alone waited
        cells[name] = Cell([run["ms"] for run in runs], memory, {"wall": median(run["wall"] for run in runs)})
    return cells


def _means(rows: list[Row]) -> Row:
    """Return, for each peer, the geometric mean over all programs of its ratio to the default."""
    cells = {}
    for name in rows[0].cells:
        ratios = [
            median(
                mine / theirs for mine, theirs in zip(row.cells[name].rounds, row.cells[DEFAULT].rounds, strict=True)
            )
            for row in rows
        ]
        cells[name] = Cell([exp(sum(map(log, ratios)) / len(ratios))], also={"worst": max(ratios)})
    return Row("all of them: geometric mean of the ratios", "× default", cells, MEAN_BAR)


def _kept_rows(kind: str, results: dict[str, list[dict[str, float]]]) -> list[Row]:
    after = {name: Cell([runs[-1]["after"] / MIB]) for name, runs in results.items()}
    ours = results.get(FREEHOLD, [{"peak": 0, "live": 0}])[-1]
    bar = (AFTER_SHARE * ours["peak"] + AFTER_BYTES + ours["live"]) / MIB
    return [
        Row(f"{kind}, one in {KEEP_ONE_IN:,} kept: build and drop", "ms", _cells(results), EACH_BAR, against=DEFAULT),
        Row(f"{kind}, one in {KEEP_ONE_IN:,} kept: resident 2 s after", "MiB", after, bar),
    ]


def run(effort: Effort) -> Benchmark:
    timed, memory = [], []
    for name in PROGRAMS:
        results = _rounds("program", effort, name=name)
        timed.append(Row(name, "ms", _cells(results), EACH_BAR, against=DEFAULT))
        if FREEHOLD in results and max(run["peak"] for run in results[FREEHOLD]) > 50 * MIB:
            cells = {peer: Cell([runs[-1]["after"] / MIB]) for peer, runs in results.items()}
            bar = (AFTER_SHARE * max(run["peak"] for run in results[FREEHOLD]) + AFTER_BYTES) / MIB
            memory.append(Row(f"{name}: resident 2 s after the drop", "MiB", cells, bar))
    for kind in ("dicts", "strings"):
        memory += _kept_rows(kind, _rounds("kept", effort, kind=kind))
    return Benchmark("objects", TITLE, [*timed, _means(timed), *memory])
