"""The page allocator in C: nanoseconds a call over 64 MiB … 256 TiB of addresses. The bar: flat within a factor of 2.

All addresses are known, but for `far away` and `release`, where only the two ends are, and the only run that fits lies
at the upper one. There is no memory behind the pages: the tables are all that is touched.

    python benchmarks/bench_pages.py [--rounds N] [--operations N]       the plain table, by itself
    python -m benchmarks pages                                           among the others
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.c_programs import compiled, output_of
from benchmarks.peers import FREEHOLD, c_peers

if TYPE_CHECKING:
    from benchmarks.measure import Effort
    from benchmarks.report import Benchmark

TITLE = "The page allocator at C level, over more and more addresses (ns a call)"
BAR = 2.0  # the slowest size to the fastest
ROUNDS = {"smoke": 2, "quick": 15, "full": 51}
OPERATIONS = {"smoke": 300, "quick": 10_000, "full": 30_000}
UNITS = ("MiB", "GiB", "TiB")

Table = dict[str, dict[int, list[float]]]  # by operation and log2 of the addresses: nanoseconds by round


def measure(rounds: int, operations: int) -> Table:
    """Run the C half on this checkout's library."""
    ours = [peer for peer in c_peers() if peer.name == FREEHOLD]
    if not ours:
        raise RuntimeError("freehold's library was not found: is it built?")
    table: Table = {}
    with compiled("pages") as program:
        for line in output_of(program, [], rounds, operations, f"freehold={ours[0].library}"):
            name, bits, *values = line.split()
            table.setdefault(name.replace("_", " "), {})[int(bits)] = [float(value) for value in values]
    return table


def size_name(bits: int) -> str:
    """Return 2^bits bytes as people say it."""
    return f"{1 << bits % 10} {UNITS[bits // 10 - 2]}"


def spread(by_size: dict[int, list[float]]) -> list[float]:
    """Return, round by round, how much slower the slowest size is than the fastest."""
    slowest = max(by_size.values(), key=median)
    fastest = min(by_size.values(), key=median)
    return [a / b for a, b in zip(slowest, fastest, strict=True)]


def run(effort: Effort) -> Benchmark:
    from benchmarks.report import Benchmark, Cell, Row

    rows = []
    for name, by_size in measure(ROUNDS[effort.name], OPERATIONS[effort.name]).items():
        rows += [Row(f"{name}, {size_name(bits)}", "ns", {FREEHOLD: Cell(values)}) for bits, values in by_size.items()]
        rows.append(Row(f"{name}, slowest / fastest", "×", {FREEHOLD: Cell(spread(by_size))}, BAR))
    return Benchmark("pages", TITLE, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument("--rounds", type=int, default=ROUNDS["quick"], help="of each operation at each size")
    parser.add_argument("--operations", type=int, default=OPERATIONS["quick"], help="calls in a round")
    given = parser.parse_args()
    table = measure(given.rounds, given.operations)
    sizes = list(next(iter(table.values())))
    print(f"{TITLE}; the median of {given.rounds} rounds")
    print(f"{'':14}" + "".join(f"{size_name(bits):>10}" for bits in sizes) + f"{'spread':>10}")
    for name, by_size in table.items():
        figures = "".join(f"{median(by_size[bits]):10.0f}" for bits in sizes)
        print(f"{name:14}{figures}{median(spread(by_size)):9.2f}×")


if __name__ == "__main__":
    main()
