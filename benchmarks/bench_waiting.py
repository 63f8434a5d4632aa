"""How long allocations wait while ten million small blocks, freed at once, are given back.

Each peer runs in a process of its own (waiting.c). The first row counts allocations: what 99.99 % of them did not
exceed. A thread that is stuck makes few of them, so the second row counts time: arriving at a random instant, how
long a wait do 99.99 % of arrivals not exceed? Time in which the thread could have run but had no core is taken off.
*nobody* makes the same loop without an allocator: what remains is what the machine itself makes a thread wait.
"""

from __future__ import annotations

from benchmarks.c_programs import compiled, output_of
from benchmarks.measure import Effort, turned
from benchmarks.peers import NOBODY, Peer, c_peers
from benchmarks.report import Benchmark, Cell, Row

TITLE = "Waiting for an allocation while 10 million blocks are given back (µs)"
BLOCKS = 10_000_000
BLOCK_BYTES = 64
SECONDS = 3.0  # after the last free: the release comes within
BAR_US = 1000.0
SHARE = 1e-4  # 100 % − 99.99 %
ROUNDS = {"smoke": 1, "quick": 2, "full": 5}


def instant_wait_ns(long_ns: list[int], total_ns: int) -> float:
    """Return the wait that all but SHARE of the arrivals at random instants do not exceed.

    An arrival waits longer than x while an allocation has more than x to go: for ``time - x`` of each longer one.

    Args:
        long_ns: the long times, in ascending order.
        total_ns: how long it went on.
    """
    budget = SHARE * total_ns
    beyond, count = 0, 0
    for time in reversed(long_ns):
        if beyond - count * time > budget:
            break
        beyond += time
        count += 1
    return max(0.0, (beyond - budget) / count) if count else 0.0


def _one(lines: list[str]) -> dict[str, float]:
    _, allocations, total, p50, p99, p9999, longest, peak, after = lines[0].split()
    long_ns = [int(text) for text in lines[1].split()[1:]]
    return {
        "p9999": int(p9999) / 1e3,
        "instant": instant_wait_ns(long_ns, int(total)) / 1e3,
        "longest": int(longest) / 1e3,
        "p50, ns": int(p50),
        "p99, ns": int(p99),
        "above 1 ms": sum(time > 1_000_000 for time in long_ns),
        "allocations": int(allocations),
        "peak": int(peak),
        "after": int(after),
    }


def _row(what: str, key: str, runs: dict[str, list[dict[str, float]]], bar: float | None, asides: list[str]) -> Row:
    cells = {}
    for name, results in runs.items():
        memory = (
            None if name == NOBODY else (int(max(r["peak"] for r in results)), int(max(r["after"] for r in results)))
        )
        also = {aside: sorted(r[aside] for r in results)[len(results) // 2] for aside in asides}
        cells[name] = Cell([r[key] for r in results], memory, also)
    return Row(what, "µs", cells, bar)


def run(effort: Effort) -> Benchmark:
    peers = [*c_peers(), Peer(NOBODY, library="-")]
    blocks = int(BLOCKS * effort.scale)
    seconds = SECONDS if effort.scale >= 0.1 else 0.3
    runs: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in peers}
    with compiled("waiting") as program:
        for number in range(ROUNDS[effort.name]):
            for peer in turned(peers, number):
                runs[peer.name].append(_one(output_of(program, [peer], blocks, BLOCK_BYTES, seconds, effort.after_s)))
    rows = [
        _row(
            f"99.99 % of allocations, {blocks:,} × {BLOCK_BYTES} B freed", "p9999", runs, BAR_US, ["p50, ns", "p99, ns"]
        ),
        _row("99.99 % of arrivals at a random instant", "instant", runs, BAR_US, []),
        _row("the longest", "longest", runs, None, ["above 1 ms"]),
    ]
    return Benchmark("waiting", TITLE, rows)
