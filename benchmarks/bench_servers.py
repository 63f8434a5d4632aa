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
LIVE_BAR = 3.0  # % of what is live, above it
HELD_BAR = 3.0  # % of the peak, where nothing is live …
HELD_FREE = 8 * MIB  # … above this
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

    def above_live_percent(self) -> float:
        """Return what is resident later above what is live and what was there before, in percent of what is live."""
        return 100 * (self.later - self.before - self.live) / max(1, self.live)

    def kept_percent(self) -> float:
        """Return what is resident in the end above what was before, and 8 MiB, in percent of the peak's growth."""
        return 100 * max(0, self.dropped - self.before - HELD_FREE) / max(1, self.peak - self.before)


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


def _processor(name: str, runs: dict[str, list[Served]]) -> Row:
    return Row(name, "µs", {peer: Cell([served.processor_us for served in rounds]) for peer, rounds in runs.items()})


def _peak(name: str, runs: dict[str, list[Served]]) -> Row:
    cells = {}
    for peer, rounds in runs.items():
        also = {"before": median(served.before for served in rounds) / MIB}
        cells[peer] = Cell([served.peak / MIB for served in rounds], also=also)
    return Row(f"{name}: peak", "MiB", cells, against=MIMALLOC if MIMALLOC in cells else "best")


def _above_live(name: str, runs: dict[str, list[Served]]) -> Row:
    cells = {}
    for peer, rounds in runs.items():
        figures = {
            "at once, MiB": median(served.at_once for served in rounds),
            "later, MiB": median(served.later for served in rounds),
            "live, MiB": median(served.live for served in rounds),
        }
        also = {what: figure / MIB for what, figure in figures.items()}
        cells[peer] = Cell([served.above_live_percent() for served in rounds], also=also)
    return Row(f"{name}: above what is live, 2 s after the load", "% of live", cells)


def _kept(name: str, since: str, runs: dict[str, list[Served]]) -> Row:
    cells = {}
    for peer, rounds in runs.items():
        also = {"MiB": median(served.dropped for served in rounds) / MIB}
        cells[peer] = Cell([served.kept_percent() for served in rounds], also=also)
    return Row(f"{name}: kept of the peak, 2 s after {since}", "% of peak", cells)


def _mean(what: str, rows: list[Row], bar: float) -> Row:
    """Return the mean of percentages, which may be none: there is no geometric one."""
    cells = {peer: Cell([fmean(row.cells[peer].value for row in rows)]) for peer in rows[0].cells}
    return Row(what, rows[0].unit, cells, bar)


def _measured(kind: type[Server], effort: Effort) -> dict[str, list[Served]]:
    """Return each peer's rounds."""
    peers = preloaded_peers()
    runs: dict[str, list[Served]] = {peer.name: [] for peer in peers}
    for number in range(ROUNDS[effort.name]):
        for peer in turned(peers, number):
            runs[peer.name].append(_served(kind, peer, effort))
    return runs


def run(effort: Effort) -> Benchmark:
    times, processors, peaks, live, kept = [], [], [], [], []
    notes = ["Debian's redis-server is linked with jemalloc: that is its `default`"]
    for kind in SERVERS:
        if kind.why_not():
            notes.append(f"left out: {kind.name}: this machine lacks {kind.why_not()}")
            continue
        runs = _measured(kind, effort)
        times.append(_time(kind.name, runs))
        processors.append(_processor(kind.name, runs))
        peaks.append(_peak(kind.name, runs))
        live += [_above_live(kind.name, runs)] if kind.holds_data else []
        kept.append(_kept(kind.name, "all was dropped" if kind.holds_data else "the load", runs))
    if not times:
        return Benchmark("servers", TITLE, [], notes)
    means = [
        mean_row("geometric mean of time, × mimalloc's", "×", times, BAR),
        mean_row("geometric mean of processor time, × mimalloc's", "×", processors, None),
        mean_row("geometric mean of the peak, × mimalloc's", "×", peaks, PEAK_BAR),
        _mean("mean of what is kept of the peak, above 8 MiB", kept, HELD_BAR),
    ]
    if live:
        means.append(_mean("mean of what is held above what is live", live, LIVE_BAR))
    return Benchmark("servers", TITLE, [*times, *peaks, *live, *kept, *means], notes)
