"""Installs and uninstalls many times while threads make, resize and drop objects of every state (F35)."""

import random
import sys
import threading

import freehold

HOW = {"yes": True, "arena": "arena"}[sys.argv[1]]


def change(kept: list, seed: random.Random) -> None:
    value = seed.randrange(256)
    kept.append((value, bytearray([value]) * seed.choice((1, 7, 100, 600, 1000, 20_000))))
    kept.append((value, {str(i): [value] for i in range(5)}))
    if len(kept) > 60:
        kept.pop(seed.randrange(len(kept)))
    value, block = kept[seed.randrange(len(kept))]
    if isinstance(block, bytearray):
        if seed.random() < 0.5:
            block += bytes([value]) * len(block) if len(block) < 100_000 else b""
        else:
            del block[len(block) // 2 + 1 :]


def check(kept: list) -> None:
    for value, block in kept:
        if isinstance(block, bytearray):
            assert block == bytes([value]) * len(block), "a block lost its contents"
        else:
            assert block == {str(i): [value] for i in range(5)}


def allocate(stop: threading.Event, number: int, failures: list) -> None:
    seed, kept = random.Random(number), []
    try:
        while not stop.is_set():
            change(kept, seed)
        check(kept)
    except BaseException as problem:
        failures.append(problem)


sys.setswitchinterval(0.0002)  # the threads take turns often, and nobody waits long for one
stop, failures = threading.Event(), []
threads = [threading.Thread(target=allocate, args=(stop, n, failures)) for n in range(2)]
for thread in threads:
    thread.start()
seed, kept = random.Random(99), []
for _ in range(int(sys.argv[2])):
    first = freehold.install(objects=HOW)
    assert first == freehold.install(objects=HOW), "asking twice changes the answer"
    assert ("objects" if HOW is True else "arenas") in first.taken
    change(kept, seed)
    freehold.uninstall()
    change(kept, seed)
stop.set()
for thread in threads:
    thread.join()
check(kept)
assert not failures, failures
print("well")
