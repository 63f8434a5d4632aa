"""Installs and uninstalls a thousand times while threads allocate; frees Arrow's buffers of every state in every state (F35)."""

import random
import threading

import pyarrow as pa

import freehold

CYCLES = 1000


def check(kept: list) -> None:
    for value, buffer in kept:
        assert set(memoryview(buffer).cast("B")[:64:7]) <= {value}, "a buffer lost its contents"


def change(kept: list, seed: random.Random) -> None:
    """Make, drop, and resize buffers, whoever's they are."""
    value, size = seed.randrange(256), seed.choice((1, 7, 100, 1000, 20_000, 300_000))
    buffer = pa.allocate_buffer(size, resizable=True)
    memoryview(buffer).cast("B")[:] = bytes([value]) * size
    kept.append((value, buffer))
    if len(kept) > 40:
        kept.pop(seed.randrange(len(kept)))
    value, buffer = kept[seed.randrange(len(kept))]
    buffer.resize(max(1, len(buffer) // 2))
    size = len(buffer)
    buffer.resize(size * 2 + 1)
    memoryview(buffer).cast("B")[size:] = bytes([value]) * (size + 1)


def allocate(stop: threading.Event, number: int, failures: list) -> None:
    seed = random.Random(number)
    kept: list = []
    try:
        while not stop.is_set():
            change(kept, seed)
        check(kept)
    except BaseException as problem:
        failures.append(problem)


start = pa.default_memory_pool().bytes_allocated()
stop, failures = threading.Event(), []
threads = [threading.Thread(target=allocate, args=(stop, n, failures)) for n in range(2)]
for thread in threads:
    thread.start()
seed, kept = random.Random(99), []
change(kept, seed)
for _ in range(CYCLES):
    assert "arrow" in freehold.install().taken
    change(kept, seed)
    freehold.uninstall()
    change(kept, seed)
stop.set()
for thread in threads:
    thread.join()
check(kept)
assert not failures, failures
kept.clear()
assert start == pa.default_memory_pool().bytes_allocated(), "something was counted on the wrong side"
print("well")
