"""The large pools under threads: seeded storms in which threads die, free each other's blocks, and all is cleared."""

from __future__ import annotations

import ctypes
import random
import threading
from typing import Any

import pytest

from freehold.errors import BadFree
from freehold.face.large_pools import LargeBlock, LargePools

MIB = 1 << 20
SIZES = [2 * MIB, 3 * MIB, 8 * MIB]


class Storm:
    """Threads that allocate, mark, hand on and free blocks of a few sizes, and look at what they are given.

    A block that two had at once shows by its marks; one that is `clean` must read 0 where marks are.
    """

    def __init__(self, pools: LargePools, seed: int) -> None:
        self.pools = pools
        self.seed = seed
        self.lock = threading.Lock()
        self.shared: list[tuple[LargeBlock, int]] = []
        self.wrong: list[str] = []
        self.stop = threading.Event()

    @staticmethod
    def marks(block: LargeBlock) -> list[ctypes.c_uint64]:
        places = (0, block.capacity // 2, block.capacity - 8)
        return [ctypes.c_uint64.from_address(block.address + place) for place in places]

    def take(self, rng: random.Random, name: int) -> tuple[LargeBlock, int]:
        zero = rng.random() < 0.2
        block = self.pools.allocate(rng.choice(SIZES), zero=zero)
        marks = self.marks(block)
        if (block.clean or zero) and any(mark.value for mark in marks):
            self.wrong.append(f"{block} should read 0")
        for mark in marks:
            mark.value = name
        return block, name

    def give(self, block: LargeBlock, name: int) -> None:
        if any(mark.value != name for mark in self.marks(block)):
            self.wrong.append(f"{block} of {name} was written by another")
        self.pools.free(block)

    def work(self, number: int, steps: int) -> None:
        rng = random.Random(self.seed * 1000 + number)
        mine: list[tuple[LargeBlock, int]] = []
        for step in range(steps):
            if len(mine) < 6 and rng.random() < 0.55:
                mine.append(self.take(rng, number << 32 | step + 1))
            elif mine:
                held = mine.pop(rng.randrange(len(mine)))
                if rng.random() < 0.3:
                    with self.lock:  # somebody else will free it
                        self.shared.append(held)
                        held = self.shared.pop(rng.randrange(len(self.shared)))
                self.give(*held)
        for held in mine:
            self.give(*held)

    def lives(self, number: int, lives: int, steps: int) -> None:
        """One thread after the other, each with its own queues."""
        for life in range(lives):
            thread = threading.Thread(target=self.work, args=(number * 100 + life, steps))
            thread.start()
            thread.join()

    def maintain(self) -> None:
        now = 0
        while not self.stop.is_set():
            now += 1
            self.pools.maintain(now)
            if now % 50 == 0:
                self.pools.check()

    def look(self) -> None:
        while not self.stop.is_set():
            for size, figures in self.pools.stats().items():
                live = figures["allocations"] - figures["deallocations"]
                total = size * (figures["free_regions"] + live)
                # A request that has found nothing yet counts, and holds no block: at most one a thread.
                if not 0 <= total - figures["area_total_bytes"] <= 8 * size:
                    self.wrong.append(f"{size}: {figures}")

    def run(self, threads: int, lives: int, steps: int) -> None:
        helpers = [threading.Thread(target=self.maintain) for _ in range(2)] + [threading.Thread(target=self.look)]
        workers = [threading.Thread(target=self.lives, args=(n, lives, steps)) for n in range(1, threads + 1)]
        for thread in helpers + workers:
            thread.start()
        for thread in workers:
            thread.join()
        self.stop.set()
        for thread in helpers:
            thread.join()
        for held in self.shared:
            self.give(*held)


CONFIGURATIONS = {
    "as it is": {},
    "little is kept": {"local_buffer_bytes": 4 * MIB, "decay_ms": 0},
    "eager": {"eager_return": True, "local_buffer_bytes": 4 * MIB},
    "lazy": {"lazy_clear": True, "local_buffer_bytes": 0},
}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_L9_a_storm_of_dying_threads_gives_no_block_to_two(configuration: str, seed: int) -> None:
    """While threads die, steal, free what others took, and two more clear: blocks are whole, and the figures add up."""
    with LargePools(interval_ms=0, **CONFIGURATIONS[configuration]) as pools:  # type: ignore[arg-type]
        storm = Storm(pools, seed)
        storm.run(threads=4, lives=5, steps=120)
        pools.check()

        assert [] == storm.wrong
        for figures in pools.stats().values():
            assert figures["allocations"] == figures["deallocations"]
            assert 0 == figures["thread_regions"]


def test_L9_a_storm_of_double_frees_is_counted_exactly() -> None:
    """Of all threads that free one block, one succeeds, whatever else goes on."""
    with LargePools(interval_ms=0, decay_ms=0) as pools:
        blocks = [pools.allocate(2 * MIB) for _ in range(64)]
        freed: list[int] = []
        reasons: list[str] = []

        def work(seed: int) -> None:
            mine = blocks[:]
            random.Random(seed).shuffle(mine)
            for block in mine:
                try:
                    pools.free(block)
                except BadFree as error:
                    reasons.append(error.reason)
                else:
                    freed.append(block.address)
                pools.maintain(0)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pools.check()

        assert sorted(block.address for block in blocks) == sorted(freed)
        assert ["double"] * 3 * 64 == reasons


def test_L11_pools_are_closed_while_others_call_them() -> None:
    """Whoever calls during or after close() is served, or told that they are closed."""
    for _ in range(20):
        pools = LargePools(interval_ms=0)
        unexpected: list[BaseException] = []

        def work(pools: LargePools = pools, unexpected: list[BaseException] = unexpected) -> None:
            try:
                for now in range(200):
                    pools.free(pools.allocate(2 * MIB))
                    pools.maintain(now)
                    pools.stats()
            except ValueError as error:
                if "closed" not in str(error):
                    unexpected.append(error)
            except BaseException as error:
                unexpected.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        pools.close(force=True)
        for thread in threads:
            thread.join()

        assert [] == unexpected


class Trimming:
    """Threads that resize, write and free blocks whose tails are being purged all the time."""

    def __init__(self, probe: Any) -> None:
        self.probe = probe
        self.stop = threading.Event()
        self.wrong: list[str] = []

    def trim(self) -> None:
        now = 0
        while not self.stop.is_set():
            now += 1
            self.probe.maintain(now)

    def work(self, number: int) -> None:
        rng = random.Random(number)
        self.probe.begin_thread(number)
        for step in range(400):
            self.use(rng, number, number << 32 | step + 1)
        self.probe.end_thread(number)

    def use(self, rng: random.Random, number: int, value: int) -> None:
        """Write both ends of a block whenever it has got a new size, and look at them afterwards."""
        size = rng.randrange(2 * MIB + 1, 4 * MIB)
        address, _ = self.probe.allocate(size, thread=number)
        for _ in range(1 + rng.randrange(3)):
            ends = [ctypes.c_uint64.from_address(address + place) for place in (0, size - 8 & -8)]
            for end in ends:
                end.value = value
            self.probe.stats()
            if any(end.value != value for end in ends):
                self.wrong.append(f"{address:#x} of {size} bytes lost what was written")
            grown = rng.randrange(2 * MIB, 4 * MIB)
            if self.probe.resize_in_place(address, grown):
                size = grown
        self.probe.deallocate(address, thread=number)

    def run(self) -> None:
        trimmers = [threading.Thread(target=self.trim) for _ in range(2)]
        workers = [threading.Thread(target=self.work, args=(number,)) for number in range(1, 4)]
        for thread in trimmers + workers:
            thread.start()
        for thread in workers:
            thread.join()
        self.stop.set()
        for thread in trimmers:
            thread.join()


@pytest.mark.debug
def test_L12_tails_are_trimmed_while_blocks_are_freed_and_resized() -> None:
    """The purge of a live block's tail never takes what its owner has, nor what the next owner gets."""
    from freehold.face.large_probe import LargeProbe

    probe = LargeProbe(decay_ns=0)
    trimming = Trimming(probe)
    trimming.run()

    assert [] == trimming.wrong
    assert 0 == probe.check()
    assert (0, 0) == probe.live()
    probe.close()
