"""Threads that share blocks: random blocks handed on to successors, producers and consumers, mixed lifetimes in phases.

Each peer serves an ordinary C program (threads.c) that calls malloc and free, as its process's malloc: preloaded. In
each round every peer runs each pattern once, in a process of its own. Memory is from one more run.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from benchmarks.c_programs import compiled
from benchmarks.measure import Effort, turned
from benchmarks.peers import MIMALLOC, Peer, c_environment, preloaded_peers
from benchmarks.report import Benchmark, Cell, Memory, Row

TITLE = "Threads that share blocks, as C programs under each malloc (ms)"
BAR = 1.0  # of mimalloc's time
THREADS = (2, 8)
PATTERNS = {  # operations: a second's work for the slowest, about
    "hand-over": (8_000_000, "random blocks replaced and handed on (larson)"),
    "pipeline": (6_000_000, "producers and consumers (xmalloc)"),
    "phases": (4_000_000, "mixed lifetimes in threads that end (mstress)"),
}
ROUNDS = {"smoke": 1, "quick": 7, "full": 21}


def _once(program: Path, peer: Peer, pattern: str, threads: int, work: int, after_s: float) -> tuple[float, ...]:
    """Return seconds, seconds of processor time, and bytes at the peak and after."""
    command = [str(program), pattern, str(threads), str(work), str(after_s)]
    environment = {name: value for name, value in c_environment(peer).items() if name != "GLIBC_TUNABLES"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} under {peer.name}: exit code {run.returncode}: {run.stderr.strip()}")
    return tuple(float(word) for word in run.stdout.split())


def _row(program: Path, peers: list[Peer], pattern: str, threads: int, effort: Effort) -> Row:
    work = int(PATTERNS[pattern][0] * effort.scale)
    rounds: dict[str, list[tuple[float, ...]]] = {peer.name: [] for peer in peers}
    for number in range(ROUNDS[effort.name]):
        for peer in turned(peers, number):
            rounds[peer.name].append(_once(program, peer, pattern, threads, work, 0))
    cells = {}
    for peer in peers:
        figures = rounds[peer.name]
        last = _once(program, peer, pattern, threads, work, effort.after_s)
        memory: Memory = (int(max(last[2], *(figure[2] for figure in figures))), int(last[3]))
        processor = sorted(figure[1] for figure in figures)[len(figures) // 2]
        cells[peer.name] = Cell([figure[0] * 1e3 for figure in figures], memory, {"processor, ms": processor * 1e3})
    against = MIMALLOC if MIMALLOC in cells else "best"
    return Row(f"{PATTERNS[pattern][1]}, {threads} threads", "ms", cells, BAR, against=against)


def run(effort: Effort) -> Benchmark:
    peers = preloaded_peers()
    with compiled("threads") as program:
        rows = [_row(program, peers, pattern, threads, effort) for pattern in PATTERNS for threads in THREADS]
    notes = [f"{os.cpu_count()} cores; with more threads than cores, time is also the scheduler's"]
    return Benchmark("threads", TITLE, rows, notes)
