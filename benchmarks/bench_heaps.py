"""What many heaps cost, at C level: a heap's whole life, a block in another heap than the default one, a fork with 64.

The bars: 200 us for a heap opened, used for 1,000 blocks and closed; three times a default heap's pair; 200 us that
freehold's own handlers add to a fork. Times are the thread's own. The last rows show whole forks, whose page tables the
kernel copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.c_programs import compiled, output_of
from benchmarks.peers import FREEHOLD, c_peers

if TYPE_CHECKING:
    from benchmarks.measure import Effort
    from benchmarks.report import Benchmark, Row

TITLE = "Many heaps at C level"
ROUNDS = {"smoke": 2, "quick": 15, "full": 51}
CYCLES = {"smoke": 5, "quick": 100, "full": 400}
CYCLE_BAR_US = 200.0
PAIR_BAR = 3.0  # of the default heap's time
FORK_BAR_US = 200.0


def measure(effort: Effort) -> dict[str, list[float]]:
    """Return each figure's rounds, as the C half tells them."""
    ours = [peer for peer in c_peers() if peer.name == FREEHOLD]
    if not ours:
        raise RuntimeError("freehold's library was not found: is it built?")
    with compiled("heaps") as program:
        lines = output_of(program, [], ROUNDS[effort.name], CYCLES[effort.name], f"freehold={ours[0].library}")
    return {name: [float(value) for value in values] for name, *values in (line.split() for line in lines)}


def run(effort: Effort) -> Benchmark:
    from benchmarks.report import Benchmark, Cell, Row

    told = measure(effort)

    def row(label: str, unit: str, figures: list[float], bar: float | None = None) -> Row:
        return Row(label, unit, {FREEHOLD: Cell(figures)}, bar)

    ratios = [a / b for a, b in zip(told["pair_other"], told["pair_default"], strict=True)]
    rows = [
        row("a heap opened and closed", "us", told["cycle"]),
        row("… and used for 1,000 blocks of 100 B", "us", told["cycle_of_1000"], CYCLE_BAR_US),
        row("allocate and free, default heap", "ns", told["pair_default"]),
        row("allocate and free, another heap", "ns", told["pair_other"]),
        row("another heap / default heap", "×", ratios, PAIR_BAR),
        row("freehold's part of a fork, default heap alone", "us", told["fork_0"]),
        row("freehold's part of a fork, 64 heaps", "us", told["fork_64"], FORK_BAR_US),
        row("a whole fork, default heap alone", "us", told["whole_fork_0"]),
        row("a whole fork, 64 heaps", "us", told["whole_fork_64"]),
    ]
    return Benchmark("heaps", TITLE, rows)
