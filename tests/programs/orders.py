"""Installs, uninstalls, starts and stops tracemalloc in the order of its arguments, with live blocks of each state (F36)."""

import sys
import tracemalloc
import warnings

import freehold

HOW = {"yes": True, "arena": "arena"}[sys.argv[1]]
SIZES = (1, 20, 500, 600, 5000, 200_000, 3_000_000)


def traced_at_least(wanted: int) -> None:
    if tracemalloc.is_tracing():
        before = tracemalloc.get_traced_memory()[0]
        block = bytes(wanted)
        assert tracemalloc.get_traced_memory()[0] - before >= wanted
        del block


def blocks(number: int) -> list:
    made = [bytearray(size) for size in SIZES for _ in range(30 if size < 10_000 else 3)]
    made += [{str(i): [i]} for i in range(2000)] + [str(i) * 3 for i in range(number, 3000)]
    return made


def change(kept: list, step: int) -> None:
    """Free some blocks of every age, and resize others."""
    for i in range(step, len(kept), 3):
        if isinstance(kept[i], bytearray):
            kept[i] += b"x" * len(kept[i])
        elif i % 2:
            kept[i] = None


steps = {
    "install": lambda: freehold.install(objects=HOW),
    "uninstall": freehold.uninstall,
    "start": lambda: tracemalloc.start(3),
    "stop": tracemalloc.stop,
}
warnings.simplefilter("ignore")
kept = blocks(0)
for step, name in enumerate(sys.argv[2:]):
    steps[name]()
    traced_at_least(100_000)
    kept += blocks(step)
    change(kept, step)
del kept
print("well")
