"""One thread and blocks of many sizes: the middle sizes alone, and all magnitudes with lifetimes of all lengths.

Each peer serves an ordinary C program (mixed.c) as its process's malloc: preloaded, in a process of its own in every
round. What fragmentation costs is what is resident beside what the program holds: when the work is done, and two
seconds later, which a peer that gives nothing back unasked does not change.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.c_programs import compiled
from benchmarks.measure import Effort, turned
from benchmarks.peers import Peer, c_environment, preloaded_peers
from benchmarks.report import Benchmark, Cell, Row

TITLE = "Blocks of many sizes, as a C program under each malloc"
MIDDLE, MIX = 100_000, 1_000_000  # operations; smaller efforts do fewer
FRAGMENTATION_BAR = 1.15  # resident per live byte
TIME_BAR = 1.0  # of the best peer's
ROUNDS = {"smoke": 1, "quick": 3, "full": 7}
Figures = dict[str, list[list[float]]]


def _rounds(program: Path, peers: list[Peer], pattern: str, operations: int, effort: Effort) -> Figures:
    """Return for each peer and round: seconds, then the bytes at the peak, resident, live, and resident later."""
    found: Figures = {peer.name: [] for peer in peers}
    for number in range(ROUNDS[effort.name]):
        for peer in turned(peers, number):
            environment = {name: value for name, value in c_environment(peer).items() if name != "GLIBC_TUNABLES"}
            command = [str(program), pattern, str(operations), str(effort.after_s)]
            run = subprocess.run(command, env=environment, capture_output=True, text=True)
            if run.returncode != 0:
                raise RuntimeError(f"{' '.join(command)} under {peer.name}: exit code {run.returncode}: {run.stderr}")
            found[peer.name].append([float(word) for word in run.stdout.split()])
    return found


def _time(what: str, figures: Figures, bar: float | None) -> Row:
    cells = {}
    for name, rounds in figures.items():
        memory = (int(max(figure[1] for figure in rounds)), int(rounds[-1][4]))
        cells[name] = Cell([figure[0] * 1e3 for figure in rounds], memory)
    return Row(what, "ms", cells, bar, against="best")


def _fragmentation(figures: Figures) -> Row:
    cells = {}
    for name, rounds in figures.items():
        cells[name] = Cell([later / live for *_, live, later in rounds])
        cells[name].also = {"at once, ×": sum(figure[2] / figure[3] for figure in rounds) / len(rounds)}
    return Row("all sizes: resident per live byte, 2 s later", "×", cells, FRAGMENTATION_BAR)


def run(effort: Effort) -> Benchmark:
    peers = preloaded_peers()
    with compiled("mixed") as program:
        middle = _rounds(program, peers, "middle", int(MIDDLE * effort.scale), effort)
        mix = _rounds(program, peers, "mix", int(MIX * effort.scale), effort)
    rows = [_time("128 KiB to 2 MiB", middle, TIME_BAR), _time("16 B to 8 MiB", mix, None), _fragmentation(mix)]
    return Benchmark("mixed", TITLE, rows, [])
