"""Servers of others under each malloc: the time of a request, the most they took, and what they keep of it afterwards.

In each round every peer serves once, in a fresh process, and gets the same load. Its memory is looked at right after
the load and two seconds later, and for a server that holds data once more two seconds after it was told to drop it.
What a server says of its data is what it is held against. Servers that this machine does not have are left out.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from time import sleep

from benchmarks.bench_programs import BAR, PEAK_BAR, mean_row
from benchmarks.measure import MIB, Effort, peak_bytes, resident_bytes, turned
from benchmarks.peers import MIMALLOC, Peer, preloaded_peers
from benchmarks.report import Benchmark, Cell, Row
from benchmarks.servers import SERVERS, Server

TITLE = "Servers of others under each malloc"
HELD_BAR = 3.0  # % of the peak, above what is live …
HELD_FREE = 8 * MIB  # … and above this
ROUNDS = {"smoke": 1, "quick": 3, "full": 9}


@dataclass(frozen=True)
class Served:
    """What one server did in one round; bytes are what is resident, of the whole process."""

    request_us: float
    processor_us: float  # of the server, for each request
    before: int
    peak: int
    at_once: int
    later: int
    live: int  # in blocks, by its own account, above what it had before
    dropped: int  # two seconds after it dropped all

    def held_percent(self, resident: int, live: int) -> float:
        """Return what is resident above *live* and what was there before, in percent of the peak's growth."""
        return 100 * max(0, resident - self.before - live - HELD_FREE) / max(1, self.peak - self.before)


def _served(kind: type[Server], peer: Peer, effort: Effort) -> Served:
    with tempfile.TemporaryDirectory(prefix="freehold-bench-") as folder, kind(peer, Path(folder)) as server:
        before, live, processor = resident_bytes(server.pid), server.live_bytes(), server.processor_s()
        requests, seconds = server.load(effort.scale)
        at_once, processor = resident_bytes(server.pid), server.processor_s() - processor
        sleep(effort.after_s)
        later, live = resident_bytes(server.pid), server.live_bytes() - live
        peak = peak_bytes(server.pid)
        if kind.holds_data:
            server.drop()
            sleep(effort.after_s)
        each = 1e6 / requests
        dropped = resident_bytes(server.pid)
    return Served(seconds * each, processor * each, before, peak, at_once, later, live, dropped)


def _time(name: str, runs: dict[str, list[Served]]) -> Row:
    cells = {}
    for peer, rounds in runs.items():
        also = {"processor, µs": median(served.processor_us for served in rounds)}
        cells[peer] = Cell([served.request_us for served in rounds], also=also)
    return Row(f"{name}: a request", "µs", cells, against=MIMALLOC if MIMALLOC in cells else "best")


def _peak(name: str, runs: dict[str, list[Served]]) -> Row:
    cells = {}
    for peer, rounds in runs.items():
        also = {"before": median(served.before for served in rounds) / MIB}
        cells[peer] = Cell([served.peak / MIB for served in rounds], also=also)
    return Row(f"{name}: peak", "MiB", cells, against=MIMALLOC if MIMALLOC in cells else "best")


def _after_load(name: str, runs: dict[str, list[Served]]) -> Row:
    cells = {}
    for peer, rounds in runs.items():
        cells[peer] = Cell([served.held_percent(served.later, served.live) for served in rounds])
        figures = {
            "at once, MiB": median(served.at_once for served in rounds),
            "later, MiB": median(served.later for served in rounds),
            "live, MiB": median(served.live for served in rounds),
        }
        cells[peer].also = {what: figure / MIB for what, figure in figures.items()}
    return Row(f"{name}: held above what is live, 2 s after the load", "% of peak", cells)


def _dropped(name: str, runs: dict[str, list[Served]]) -> Row:
    cells = {}
    for peer, rounds in runs.items():
        held = [served.held_percent(served.dropped, 0) for served in rounds]
        cells[peer] = Cell(held, also={"MiB": median(served.dropped for served in rounds) / MIB})
    return Row(f"{name}: held 2 s after all was dropped", "% of peak", cells)


def _mean_held(rows: list[Row]) -> Row:
    cells = {peer: Cell([fmean(row.cells[peer].value for row in rows)]) for peer in rows[0].cells}
    return Row("mean of what is held, above 8 MiB", "% of peak", cells, HELD_BAR)


def _measured(kind: type[Server], effort: Effort) -> dict[str, list[Served]]:
    """Return each peer's rounds."""
    peers = preloaded_peers()
    runs: dict[str, list[Served]] = {peer.name: [] for peer in peers}
    for number in range(ROUNDS[effort.name]):
        for peer in turned(peers, number):
            runs[peer.name].append(_served(kind, peer, effort))
    return runs


def run(effort: Effort) -> Benchmark:
    times, peaks, held = [], [], []
    notes = ["what `default` is, the server says: Debian's redis-server is linked with jemalloc"]
    for kind in SERVERS:
        if kind.why_not():
            notes.append(f"left out: {kind.name}: this machine lacks {kind.why_not()}")
            continue
        runs = _measured(kind, effort)
        times.append(_time(kind.name, runs))
        peaks.append(_peak(kind.name, runs))
        held.append(_after_load(kind.name, runs))
        if kind.holds_data:
            held.append(_dropped(kind.name, runs))
    if not times:
        return Benchmark("servers", TITLE, [], notes)
    means = [
        mean_row("geometric mean of time, × mimalloc's", "×", times, BAR),
        mean_row("geometric mean of the peak, × mimalloc's", "×", peaks, PEAK_BAR),
        _mean_held(held),
    ]
    return Benchmark("servers", TITLE, [*times, *peaks, *held, *means], notes)
