"""Installs and uninstalls a thousand times while threads allocate; frees blocks of every state in every state (F35)."""

import random
import threading

import numpy as np

import freehold

CYCLES = 1000


def check(kept: list) -> None:
    for value, array in kept:
        assert (array == value).all(), "an array lost its contents"


def change(kept: list, seed: random.Random) -> None:
    """Make, drop, and resize arrays, whoever's they are."""
    value = seed.randrange(256)
    kept.append((value, np.full(seed.choice((1, 7, 100, 1000, 20_000)), value, np.uint8)))
    if len(kept) > 60:
        kept.pop(seed.randrange(len(kept)))
    i = seed.randrange(len(kept))
    value, array = kept[i]
    bigger = array.copy()
    del array
    kept[i] = (value, bigger)
    bigger.resize(len(bigger) // 2 + 1, refcheck=False)


def allocate(stop: threading.Event, number: int, failures: list) -> None:
    seed = random.Random(number)
    kept: list = []
    try:
        while not stop.is_set():
            change(kept, seed)
        check(kept)
    except BaseException as problem:
        failures.append(problem)


stop, failures = threading.Event(), []
threads = [threading.Thread(target=allocate, args=(stop, n, failures)) for n in range(3)]
for thread in threads:
    thread.start()
seed, kept = random.Random(99), []
change(kept, seed)
for _ in range(CYCLES):
    assert freehold.install().taken == ("numpy",)
    change(kept, seed)
    change(kept, seed)
    freehold.uninstall()
    change(kept, seed)
stop.set()
for thread in threads:
    thread.join()
check(kept)
assert not failures, failures
print("well")
