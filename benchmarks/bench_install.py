"""What it costs to have freehold: importing it, installing it, and the start of a process under each peer.

Every figure is from fresh processes, one after the other in turn, in a folder without a pyproject.toml.
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from time import perf_counter

from benchmarks.measure import Effort, turned
from benchmarks.peers import DEFAULT, FREEHOLD, Peer, python_environment, python_peers
from benchmarks.report import Benchmark, Cell, Row

TITLE = "Importing, installing, starting (ms)"
IMPORT_BAR_MS, INSTALL_BAR_MS = 10.0, 20.0
RSS = "print(*[int(l.split()[1]) * 1024 for l in open('/proc/self/status') if l.startswith(('VmHWM', 'VmRSS'))])"
CLOCK = (
    "from time import perf_counter as t, process_time as u; a, b = t(), u(); {}; "
    "print((t() - a) * 1e3, (u() - b) * 1e3)"
)
IMPORT = CLOCK.format("import freehold")
INSTALL_FIRST = "import freehold; " + CLOCK.format("freehold.install(objects=False)")
INSTALL = "import numpy; " + INSTALL_FIRST


def _output(program: str, peer: Peer) -> list[float]:
    environment, command = python_environment() | peer.environment, [sys.executable, "-c", program]
    run = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=True)
    return [float(word) for word in run.stdout.split()]


def _started(peer: Peer) -> tuple[float, int, int]:
    """Return the milliseconds of a whole process that imports NumPy, its peak and what was resident at its end."""
    first = "import freehold; freehold.install(objects=False); " if peer.install else ""
    start = perf_counter()
    peak, now = _output(f"{first}import numpy; {RSS}", peer)
    return (perf_counter() - start) * 1e3, int(peak), int(now)


def run(effort: Effort) -> Benchmark:
    peers = python_peers()
    rows = []
    ours = next((peer for peer in peers if peer.name == FREEHOLD), None)
    if ours:
        for what, program, bar in (
            ("import freehold", IMPORT, IMPORT_BAR_MS),
            ("freehold.install(), NumPy already there", INSTALL, INSTALL_BAR_MS),
            ("freehold.install(), NumPy not yet", INSTALL_FIRST, INSTALL_BAR_MS),
        ):
            _output(program, ours)  # the first one compiles what is not yet
            results = [_output(program, ours) for _ in range(effort.rounds)]
            cell = Cell([wall for wall, _ in results], also={"cpu": median(processor for _, processor in results)})
            rows.append(Row(what, "ms", {FREEHOLD: cell}, bar))
    runs: dict[str, list[tuple[float, int, int]]] = {peer.name: [] for peer in peers}
    for number in range(effort.rounds):
        for peer in turned(peers, number):
            runs[peer.name].append(_started(peer))
    cells = {name: Cell([r[0] for r in results], (results[-1][1], results[-1][2])) for name, results in runs.items()}
    rows.append(Row("a process that imports NumPy, start to end", "ms", cells, against=DEFAULT))
    return Benchmark("install", TITLE, rows, ["memory of a process: peak → at its end"])
