"""The large pools: rows L1 to L12, through `LargePools`; what only the heap asks of them, through the probe."""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from freehold.errors import (
    BadFree,
    BlocksLive,
    Disabled,
    InvalidSizeClass,
    OSRefused,
    OutOfBounds,
    OutOfMemory,
    UnsuitableAlignment,
)
from freehold.face.large_pools import LargeBlock, LargePools
from freehold.face.space_face import Space
from freehold.face.vm_face import Vm, fail

MIB = 1 << 20
SMALLEST = 1 << 21
LARGEST = 1 << 36
CLASSES = [1 << log2 for log2 in range(21, 37)]
KEYS = {
    "areas",
    "area_total_bytes",
    "free_regions",
    "clean_regions",
    "global_regions",
    "thread_regions",
    "allocations",
    "slow_path",
    "refill",
    "deallocations",
    "clear_eager",
    "clear_slow",
    "touched_bytes",
}
LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def pools() -> Iterator[LargePools]:
    with LargePools() as pools:
        yield pools


@pytest.fixture
def shared() -> Iterator[LargePools]:
    """Pools whose threads keep nothing: every block goes to the global queue, one at a time."""
    with LargePools(local_buffer_bytes=0) as pools:
        yield pools


def figures(pools: LargePools, size: int = SMALLEST) -> dict[str, int]:
    return pools.stats()[size]


def some(pools: LargePools, count: int, size: int = SMALLEST) -> list[LargeBlock]:
    return [pools.allocate(size) for _ in range(count)]


def free_all(pools: LargePools, blocks: list[LargeBlock]) -> None:
    for block in blocks:
        pools.free(block)


def write(block: LargeBlock, byte: int = 1) -> None:
    ctypes.memset(block.address, byte, block.capacity)


def reads_zero(block: LargeBlock) -> bool:
    return not any(ctypes.string_at(block.address, block.capacity))


def resident_bytes(address: int, size: int) -> int:
    """Ask the kernel how much of a range is in memory."""
    pages = size // mmap.PAGESIZE
    answer = (ctypes.c_ubyte * pages)()
    assert LIBC.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), answer) == 0
    return sum(page & 1 for page in answer) * mmap.PAGESIZE


def in_thread(work: Callable[[], Any]) -> Any:
    """Run `work` in a thread that ends, and return what it returned."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


class LivingThread:
    """A thread that does what it is told, and then lives on."""

    def __init__(self) -> None:
        self._asked = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._work: Callable[[], Any] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            self._asked.acquire()
            if self._work is None:
                return
            self._result = self._work()
            self._done.release()

    def __call__(self, work: Callable[[], Any]) -> Any:
        self._work = work
        self._asked.release()
        self._done.acquire()
        return self._result

    def end(self) -> None:
        self._work = None
        self._asked.release()
        self._thread.join()


@pytest.fixture
def other() -> Iterator[LivingThread]:
    thread = LivingThread()
    yield thread
    thread.end()


# ---- L1: classes ----


def test_L1_stats_tell_of_sixteen_powers_of_two(pools: LargePools) -> None:
    """The classes are 2^21 to 2^36, all of them in `stats()` from the start, every key present."""
    stats = pools.stats()

    assert CLASSES == list(stats)
    assert all(set(KEYS) == set(figures) for figures in stats.values())


@pytest.mark.parametrize(
    ("nbytes", "capacity"),
    [
        (MIB + 1, SMALLEST),
        (SMALLEST - 1, SMALLEST),
        (SMALLEST, SMALLEST),
        (SMALLEST + 1, 2 * SMALLEST),
        (3 * MIB, 4 * MIB),
        (100 * MIB, 128 * MIB),
        (LARGEST // 2 + 1, LARGEST),
        (LARGEST, LARGEST),
    ],
)
def test_L1_capacity_is_the_power_of_two_that_holds_the_request(pools: LargePools, nbytes: int, capacity: int) -> None:
    """A request is rounded up to a power of two, at least 2^21."""
    assert capacity == pools.allocate(nbytes).capacity


@pytest.mark.parametrize(
    ("nbytes", "log2"),
    [(1, 0), (2, 1), (3, 2), (4096, 12), (MIB - 1, 20), (MIB, 20), (LARGEST + 1, 37), (1 << 100, 100)],
)
def test_L1_sizes_without_a_class_are_refused_by_its_log2(pools: LargePools, nbytes: int, log2: int) -> None:
    """Up to 2^20 and above 2^36 there is no class; the error names the one that would be needed."""
    with pytest.raises(InvalidSizeClass) as caught:
        pools.allocate(nbytes)

    assert (log2, nbytes) == (caught.value.size_class, caught.value.asked)
    assert str(nbytes) in str(caught.value)
    assert str(log2) in str(caught.value)
    assert all(figures["allocations"] == 0 for figures in pools.stats().values())


@pytest.mark.parametrize("size", CLASSES)
def test_L1_blocks_are_aligned_to_their_size(pools: LargePools, size: int) -> None:
    """Any alignment up to the capacity is met, since a block's address is a multiple of its size."""
    block = pools.allocate(size, alignment=size)

    assert 0 == block.address % size


# ---- L2: where a request looks ----


def test_L2_own_queue_is_last_in_first_out(pools: LargePools) -> None:
    """A thread gets the block it freed last."""
    a, b, c = some(pools, 3)
    free_all(pools, [b, a, c])

    assert [c.address, a.address, b.address] == [block.address for block in some(pools, 3)]


def test_L2_global_queue_is_first_in_first_out(shared: LargePools) -> None:
    """Where nobody keeps anything, the block that has waited longest comes first."""
    a, b, c = some(shared, 3)
    shared.maintain(0)
    free_all(shared, [b, a, c])

    assert [b.address, a.address, c.address] == [block.address for block in some(shared, 3)]


def test_L2_used_blocks_come_before_clean_ones(shared: LargePools) -> None:
    """The clean queue is left alone while the used one has blocks."""
    a = shared.allocate(SMALLEST)
    assert 15 == figures(shared)["clean_regions"]
    shared.free(a)

    assert a.address == shared.allocate(SMALLEST).address
    assert 15 == figures(shared)["clean_regions"]


def test_L2_a_request_brings_half_a_buffer_along(pools: LargePools) -> None:
    """An empty thread takes local_buffer_bytes / size / 2 blocks at once: one is handed out, the rest it keeps."""
    some(pools, 2)  # the first one comes straight from the new area

    assert (7, 7) == (figures(pools)["thread_regions"], figures(pools)["clean_regions"])


def test_L2_a_batch_is_at_least_one_block() -> None:
    """A buffer too small for a block does not keep a thread from getting one."""
    with LargePools(local_buffer_bytes=1) as pools:
        some(pools, 2)

        assert (0, 14) == (figures(pools)["thread_regions"], figures(pools)["clean_regions"])


def test_L2_a_batch_keeps_its_order(pools: LargePools) -> None:
    """Blocks of one age come out of a thread's queue as they would have come out of the global one."""
    addresses = [block.address for block in some(pools, 16)]

    assert sorted(addresses) == addresses


def test_L2_thieves_take_the_oldest(pools: LargePools, other: LivingThread) -> None:
    """When all else is empty, another thread's oldest block is taken, the one it would use last."""
    blocks = some(pools, 16)
    mine = blocks[:3]
    other(lambda: free_all(pools, mine))
    pools.configure(local_buffer_bytes=SMALLEST)

    stolen = [pools.allocate(SMALLEST).address for _ in range(2)]

    assert [mine[0].address, mine[1].address] == stolen
    assert mine[2].address == other(lambda: pools.allocate(SMALLEST).address)
    assert 1 == figures(pools)["areas"]


def test_L2_of_several_threads_the_oldest_block_is_taken(pools: LargePools) -> None:
    """Thieves look at the age of blocks, whoever keeps them."""
    first, second = LivingThread(), LivingThread()
    blocks = some(pools, 16)
    pools.configure(local_buffer_bytes=SMALLEST)
    pools.maintain(1)
    second(lambda: pools.free(blocks[0]))
    pools.maintain(2)
    first(lambda: pools.free(blocks[1]))

    assert [blocks[0].address, blocks[1].address] == [block.address for block in some(pools, 2)]
    first.end()
    second.end()


# ---- L3: areas ----


@pytest.mark.parametrize(
    ("dampener", "capacities"),
    [(0, [16, 32, 64]), (1, [16, 32, 48, 72]), (2, [16, 32, 48, 64, 85]), ((1 << 64) - 1, [16, 32, 48, 64])],
)
def test_L3_areas_grow(dampener: int, capacities: list[int]) -> None:
    """An area is larger than the last by the larger of the first one and last // (dampener + 1) blocks."""
    with LargePools(growth_dampener=dampener) as pools:
        found: list[int] = []
        while len(found) < len(capacities):
            before = figures(pools)["area_total_bytes"]
            while figures(pools)["area_total_bytes"] == before:
                pools.allocate(SMALLEST)
            found.append((figures(pools)["area_total_bytes"] - before) // SMALLEST)
        pools.check()

        assert capacities == found
        assert len(capacities) == figures(pools)["areas"] == figures(pools)["refill"]


@pytest.mark.parametrize("size", CLASSES)
def test_L3_the_first_area_holds_32_mib_or_one_block(pools: LargePools, size: int) -> None:
    """Small blocks share an area; a block above 32 MiB has one of its own."""
    pools.allocate(size)

    assert max(32 * MIB, size) == figures(pools, size)["area_total_bytes"]


def test_L3_one_thread_at_a_time_refills() -> None:
    """Threads that all find nothing look again after waiting: sixteen requests share the first area."""
    with LargePools(local_buffer_bytes=0) as pools:
        together = threading.Barrier(16)

        def work() -> int:
            together.wait()
            return pools.allocate(SMALLEST).address

        results: list[int] = []
        threads = [threading.Thread(target=lambda: results.append(work())) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert 16 == len(set(results))
        assert (1, 1, 16) == tuple(figures(pools)[key] for key in ("areas", "refill", "allocations"))


def test_L3_slow_path_counts_requests_that_found_nothing(shared: LargePools) -> None:
    """Of 17 requests the first and the seventeenth find all queues empty."""
    some(shared, 17)

    assert (17, 2, 2) == tuple(figures(shared)[key] for key in ("allocations", "slow_path", "refill"))


# ---- L4: free ----


def test_L4_a_thread_keeps_local_buffer_bytes(pools: LargePools) -> None:
    """Blocks go to the own queue while it holds less than local_buffer_bytes / size, then to the used one."""
    free_all(pools, some(pools, 17))  # the last one empties the thread's queue

    assert (16, 1) == (figures(pools)["thread_regions"], figures(pools)["global_regions"])


def test_L4_a_block_larger_than_the_buffer_is_never_kept(pools: LargePools) -> None:
    """64 MiB do not fit into a buffer of 32."""
    pools.free(pools.allocate(64 * MIB))

    assert (0, 1) == tuple(figures(pools, 64 * MIB)[key] for key in ("thread_regions", "global_regions"))


def test_L4_eager_return_purges_what_goes_to_the_global_queue() -> None:
    """A block is given back at once and waits in the used queue all the same; the thread's own blocks stay warm."""
    with LargePools(eager_return=True, local_buffer_bytes=SMALLEST) as pools:
        kept, shared = some(pools, 2)
        write(kept)
        write(shared)
        free_all(pools, [kept, shared])

        assert (1, 1, 1) == tuple(figures(pools)[key] for key in ("thread_regions", "global_regions", "clear_eager"))
        assert SMALLEST == figures(pools)["touched_bytes"]
        assert (SMALLEST, 0) == tuple(resident_bytes(block.address, SMALLEST) for block in (kept, shared))
        pools.allocate(SMALLEST)
        again = pools.allocate(SMALLEST)
        assert (shared.address, True) == (again.address, again.clean)


@pytest.mark.debug
def test_L4_a_refused_eager_return_keeps_the_block_used() -> None:
    """A free never fails: the block waits, touched, and is not counted as cleared."""
    with LargePools(eager_return=True, local_buffer_bytes=0) as pools:
        block = pools.allocate(SMALLEST)
        with fail("purge_now"):
            pools.free(block)

        assert (1, 0, SMALLEST) == tuple(
            figures(pools)[key] for key in ("global_regions", "clear_eager", "touched_bytes")
        )
        assert not pools.allocate(SMALLEST).clean


# ---- L5: the background ----


def test_L5_a_pass_moves_used_blocks_to_clean(shared: LargePools) -> None:
    """Cleared blocks are not resident, and known to read 0."""
    blocks = some(shared, 3)
    for block in blocks:
        write(block)
    free_all(shared, blocks)

    assert 3 == shared.maintain(0)
    assert (0, 16, 3, 0) == tuple(
        figures(shared)[key] for key in ("global_regions", "clean_regions", "clear_slow", "touched_bytes")
    )
    assert [0, 0, 0] == [resident_bytes(block.address, SMALLEST) for block in blocks]


def test_L5_a_pass_clears_clear_bytes_of_each_class_oldest_first() -> None:
    """The budget is rounded up to blocks, and counts for each class on its own."""
    with LargePools(local_buffer_bytes=0, clear_bytes=2 * SMALLEST + 1, interval_ms=0) as pools:
        small = some(pools, 5)
        large = some(pools, 3, 4 * MIB)
        free_all(pools, small + large)

        assert 3 + 2 == pools.maintain(0)
        assert (2, 1) == (figures(pools)["global_regions"], figures(pools, 4 * MIB)["global_regions"])
        assert [block.address for block in small[3:]] == [block.address for block in some(pools, 2)]


def test_L5_clear_bytes_zero_clears_nothing() -> None:
    """No budget, no work."""
    with LargePools(local_buffer_bytes=0, clear_bytes=0) as pools:
        free_all(pools, some(pools, 2))

        assert 0 == pools.maintain(10**9)


def test_L5_a_pass_waits_for_the_interval(shared: LargePools) -> None:
    """The first call runs; the next that does comes interval_ms later, by a time that never goes back."""
    cleared = []
    for now in (0, 999, 500, 1000, 1999.5, 2000, 0):
        shared.free(shared.allocate(SMALLEST))
        cleared.append(shared.maintain(now))

    assert [1, 0, 0, 1, 0, 1, 0] == cleared


def test_L5_the_first_pass_runs_whatever_the_time(shared: LargePools) -> None:
    """An interval is one between two passes."""
    shared.free(shared.allocate(SMALLEST))

    assert 1 == shared.maintain(0)


def test_L5_blocks_in_a_living_threads_queue_decay(pools: LargePools, other: LivingThread) -> None:
    """After decay_ms idle a thread's blocks are cleared too, not before; nothing stays resident for ever."""
    blocks = some(pools, 16)
    pools.maintain(100)
    other(lambda: free_all(pools, blocks[:2]))
    pools.maintain(600)
    pools.free(blocks[2])
    pools.configure(interval_ms=0)

    assert [0, 2, 0, 1] == [pools.maintain(now) for now in (1099, 1100, 1599, 1600)]
    assert (0, 3, 3) == tuple(figures(pools)[key] for key in ("thread_regions", "clean_regions", "clear_slow"))


def test_L5_decaying_blocks_share_the_budget_with_used_ones() -> None:
    """Used blocks come first; what is left of clear_bytes goes to the oldest blocks of threads."""
    with LargePools(local_buffer_bytes=4 * SMALLEST, clear_bytes=5 * SMALLEST, decay_ms=0, interval_ms=0) as pools:
        blocks = some(pools, 16)
        free_all(pools, blocks[:7])  # four are kept, three are used

        assert 5 == pools.maintain(0)
        assert (2, 0) == (figures(pools)["thread_regions"], figures(pools)["global_regions"])
        assert [blocks[3].address, blocks[2].address] == [block.address for block in some(pools, 2)]


def test_L5_lazily_cleared_blocks_are_not_known_to_be_zero() -> None:
    """MADV_FREE leaves the pages counted until the system takes them: the block is neither clean nor untouched."""
    with LargePools(local_buffer_bytes=0, lazy_clear=True) as pools:
        before = Vm().stats()["purge_lazy"]["calls"]
        block = pools.allocate(SMALLEST)
        write(block)
        pools.free(block)

        assert 1 == pools.maintain(0)
        assert 1 == Vm().stats()["purge_lazy"]["calls"] - before
        assert (16, SMALLEST) == tuple(figures(pools)[key] for key in ("clean_regions", "touched_bytes"))
        some(pools, 15)
        again = pools.allocate(SMALLEST, zero=True)
        assert (block.address, False, True) == (again.address, again.clean, reads_zero(again))


def test_L5_the_configuration_changes_while_it_runs(shared: LargePools) -> None:
    """Each argument can be changed on its own; a wrong one changes nothing."""
    free_all(shared, some(shared, 4))
    with pytest.raises(ValueError, match="clear_bytes"):
        shared.configure(interval_ms=0, clear_bytes=-1)
    shared.configure(clear_bytes=1)

    assert [1, 0] == [shared.maintain(0), shared.maintain(1)]
    shared.configure(interval_ms=0)
    assert [1, 1] == [shared.maintain(1), shared.maintain(1)]


def test_L5_a_block_that_is_known_clean_is_moved_without_a_call(pools: LargePools) -> None:
    """What nobody touched needs no purge; it is counted as moved."""
    some(pools, 2)
    before = Vm().stats()["purge_now"]["calls"]

    assert 7 == pools.maintain(1000)
    assert before == Vm().stats()["purge_now"]["calls"]


@pytest.mark.debug
def test_L5_a_refused_purge_keeps_the_block_and_is_tried_again(shared: LargePools) -> None:
    """The refused block stays used and oldest; the others of the pass are cleared."""
    shared.configure(interval_ms=0)
    blocks = some(shared, 3)
    free_all(shared, blocks)
    with fail("purge_now"):
        assert 2 == shared.maintain(0)

    assert (1, 2, SMALLEST) == tuple(figures(shared)[key] for key in ("global_regions", "clear_slow", "touched_bytes"))
    shared.check()
    assert 1 == shared.maintain(0)


@pytest.mark.debug
def test_L5_a_threads_block_whose_purge_is_refused_becomes_a_used_one(pools: LargePools) -> None:
    """It is out of the thread's queue, and every thread may have it."""
    pools.free(pools.allocate(32 * MIB))
    with fail("purge_now"):
        assert 0 == pools.maintain(1000)

    assert (0, 1) == tuple(figures(pools, 32 * MIB)[key] for key in ("thread_regions", "global_regions"))


# ---- L6: huge pages ----


def test_L6_every_area_is_advised_huge(shared: LargePools) -> None:
    """One piece of advice an area."""
    before = Vm().stats()["advise_huge"]
    some(shared, 17)
    after = Vm().stats()["advise_huge"]

    assert (2, 96 * MIB) == (after["calls"] - before["calls"], after["bytes"] - before["bytes"])


@pytest.mark.debug
def test_L6_a_refusal_is_said_once(shared: LargePools, caplog: pytest.LogCaptureFixture) -> None:
    """The pools work without huge pages, and tell the logger `freehold` one time."""
    with fail("advise_huge", times=100, errno=errno.EINVAL), caplog.at_level(logging.WARNING, logger="freehold"):
        some(shared, 50)

    assert 1 == len(caplog.records)
    assert "huge" in caplog.records[0].getMessage()
    assert 3 == figures(shared)["areas"]


# ---- L7: prefetch ----


def test_L7_prefetch_asks_for_a_range(pools: LargePools) -> None:
    """A range inside the block reaches the OS, in bytes."""
    block = pools.allocate(SMALLEST)
    before = Vm().stats()["will_need"]["calls"]
    pools.prefetch(block, 0, SMALLEST)
    pools.prefetch(block, 1, SMALLEST // 8, 8)

    assert 2 == Vm().stats()["will_need"]["calls"] - before


@pytest.mark.parametrize(
    ("start", "stop", "itemsize", "offset", "length"),
    [
        (0, SMALLEST + 1, 1, 0, SMALLEST + 1),
        (SMALLEST, SMALLEST + 1, 1, SMALLEST, 1),
        (1, (SMALLEST >> 3) + 1, 8, 8, SMALLEST),
        (0, 1 << 61, 8, 0, 1 << 64),
        ((1 << 64) + 1, (1 << 64) + 2, 1, (1 << 64) + 1, 1),
    ],
)
def test_L7_out_of_bounds_tells_the_figures(
    pools: LargePools, start: int, stop: int, itemsize: int, offset: int, length: int
) -> None:
    """A range that ends beyond the block is refused, also one that would wrap at 2^64."""
    block = pools.allocate(SMALLEST)
    with pytest.raises(OutOfBounds) as caught:
        pools.prefetch(block, start, stop, itemsize)

    assert (offset, length, SMALLEST) == (caught.value.offset, caught.value.length, caught.value.capacity)


def test_L7_an_empty_range_is_nothing_wherever_it_is(pools: LargePools) -> None:
    """start == stop is no range, and an empty block has none."""
    block = pools.allocate(SMALLEST)
    before = Vm().stats()["will_need"]["calls"]
    pools.prefetch(block, 1 << 70, 1 << 70, 8)
    pools.prefetch(pools.allocate(0), 0, 5)

    assert before == Vm().stats()["will_need"]["calls"]


@pytest.mark.parametrize("arguments", [(2, 1), (-1, 1), (0, -1), (0, 1, 0), (0, 1, -8)])
def test_L7_impossible_ranges_are_refused(pools: LargePools, arguments: tuple[int, ...]) -> None:
    """A range ends after it starts, and nothing is negative."""
    block = pools.allocate(SMALLEST)
    with pytest.raises(ValueError, match=r"start|stop|itemsize"):
        pools.prefetch(block, *arguments)


def test_L7_prefetch_wants_a_block_that_is_handed_out(pools: LargePools) -> None:
    """A freed or foreign block is no place to read from."""
    block = pools.allocate(SMALLEST)
    pools.free(block)
    with pytest.raises(ValueError, match="block"):
        pools.prefetch(block, 0, 1)
    with pytest.raises(TypeError, match="block"):
        pools.prefetch((block.address, block.capacity, True), 0, 1)  # type: ignore[arg-type]


# ---- L8: errors, and nothing at all ----


def test_L8_zero_bytes_are_an_empty_block(pools: LargePools) -> None:
    """It has an address that is no memory, may be freed any number of times, and counts nowhere."""
    before = pools.stats()
    block = pools.allocate(0)
    pools.free(block)
    pools.free(block)
    pools.configure(enabled=False)
    pools.free(pools.allocate(0, alignment=LARGEST))

    assert 0 == block.capacity
    assert 0 != block.address
    assert Space().owner(block.address) is None
    assert before == pools.stats()


@pytest.mark.parametrize("alignment", [3, 6, -1, SMALLEST + 1, 2 * SMALLEST, LARGEST, 1 << 62, 1 << 100])
def test_L8_alignments_that_can_not_be_met_are_refused(pools: LargePools, alignment: int) -> None:
    """No power of two, or above the capacity: never; and nothing has changed."""
    with pytest.raises(UnsuitableAlignment) as caught:
        pools.allocate(SMALLEST, alignment=alignment)

    assert alignment == caught.value.alignment
    assert 0 == figures(pools)["allocations"]


def test_L8_no_room_is_out_of_memory() -> None:
    """When the space has no such run of addresses, the error tells what was asked; the request did reach the queues."""
    with LargePools() as pools:
        with pytest.raises(OutOfMemory) as caught:
            some(pools, 1 << 20, LARGEST - 1)
        counts = figures(pools, LARGEST)

        assert not isinstance(caught.value, OSRefused)
        assert ("large", LARGEST - 1, LARGEST) == (caught.value.layer, caught.value.asked, caught.value.size_class)
        assert str(LARGEST - 1) in str(caught.value)
        assert str(LARGEST) in str(caught.value)
        assert counts["area_total_bytes"] == LARGEST * (counts["free_regions"] + counts["allocations"] - 1)
        assert counts["areas"] == counts["refill"] < counts["slow_path"] + 1
        pools.check()


@pytest.mark.debug
@pytest.mark.parametrize(("call", "nth"), [("commit", 1), ("map", 1), ("map", 2)])
def test_L8_what_the_os_refuses_leaves_everything_as_it_was(call: str, nth: int) -> None:
    """An area is made whole or not at all: addresses, memory and records are given back, and the next request works."""
    with LargePools(local_buffer_bytes=0) as pools:
        pools.free(pools.allocate(4 * MIB))
        taken = Space().stats()["taken_bytes"]
        before = pools.stats()
        with fail(call, nth=nth, errno=errno.EAGAIN), pytest.raises(OSRefused) as caught:
            pools.allocate(SMALLEST)

        assert (errno.EAGAIN, call) == (caught.value.errno, caught.value.call)
        assert (SMALLEST, SMALLEST) == (caught.value.asked, caught.value.size_class)
        assert taken == Space().stats()["taken_bytes"]
        before[SMALLEST].update(allocations=1, slow_path=1)  # it reached the queues, and found nothing
        assert before == pools.stats()
        pools.check()
        pools.allocate(SMALLEST)


@pytest.mark.debug
def test_L8_a_thread_without_room_for_a_queue_is_served_all_the_same() -> None:
    """Its blocks come from and go to the global queues, until there is room."""
    with LargePools() as pools:
        with fail("map", times=1) as failing:
            block = pools.allocate(4 * MIB)
        pools.free(block)

        assert 1 == failing.failed
        assert (7, 1) == tuple(figures(pools, 4 * MIB)[key] for key in ("clean_regions", "thread_regions"))


def test_L8_errors_are_what_they_say() -> None:
    """Each can be caught as what the standard library would have raised."""
    assert issubclass(InvalidSizeClass, ValueError)
    assert issubclass(UnsuitableAlignment, ValueError)
    assert issubclass(Disabled, RuntimeError)
    assert issubclass(OutOfMemory, MemoryError)
    assert issubclass(OSRefused, OSError)


@pytest.mark.parametrize("value", ["1", 2.0, None, [4]])
def test_L8_what_is_no_int_is_a_type_error(pools: LargePools, value: Any) -> None:
    """Sizes, alignments and ranges are ints."""
    block = pools.allocate(SMALLEST)
    for call in (
        lambda: pools.allocate(value),
        lambda: pools.allocate(SMALLEST, alignment=value),
        lambda: pools.prefetch(block, value, 1),
        lambda: pools.prefetch(block, 0, value),
        lambda: pools.prefetch(block, 0, 1, value),
        lambda: pools.free(value),
        lambda: pools.free(block._replace(address=value)),
        lambda: LargePools(clear_bytes=value if value is not None else "none"),
    ):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("name", ["interval_ms", "clear_bytes", "growth_dampener", "local_buffer_bytes", "decay_ms"])
def test_L8_wrong_arguments_are_named(name: str) -> None:
    """A negative one is a ValueError, one of the wrong type a TypeError; both name it."""
    with pytest.raises(ValueError, match=name):
        LargePools(**{name: -1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=name):
        LargePools(**{name: "much"})  # type: ignore[arg-type]


@pytest.mark.parametrize("now", [-1, float("nan"), -0.5])
def test_L8_time_is_not_negative(pools: LargePools, now: float) -> None:
    """A time that is none raises and does not count."""
    with pytest.raises(ValueError, match="now_ms"):
        pools.maintain(now)
    with pytest.raises(ValueError, match="nbytes"):
        pools.allocate(-1)


def test_L8_infinite_times_mean_never() -> None:
    """An interval without end lets one pass run, a decay without end no block decay."""
    with LargePools(interval_ms=float("inf"), decay_ms=float("inf")) as pools:
        free_all(pools, some(pools, 20))  # a thread that keeps five frees twenty: sixteen fit

        assert [9, 0] == [pools.maintain(0), pools.maintain(10**12)]


# ---- L9: threads ----


def test_L9_a_block_is_freed_by_any_thread(pools: LargePools, other: LivingThread) -> None:
    """It goes to the queue of whoever freed it."""
    block = pools.allocate(SMALLEST)
    other(lambda: pools.free(block))

    assert block.address == other(lambda: pools.allocate(SMALLEST).address)
    other(lambda: pools.free(block))
    assert block.address != pools.allocate(SMALLEST).address


def test_L9_a_thread_that_ends_hands_its_blocks_to_all(pools: LargePools) -> None:
    """By the time join() returns they are in the used queue, and its counts in the totals."""
    in_thread(lambda: free_all(pools, some(pools, 5)))
    counts = figures(pools)

    assert (0, 9, 5, 5) == tuple(
        counts[key] for key in ("thread_regions", "global_regions", "allocations", "deallocations")
    )


def test_L9_many_threads_may_come_and_go(pools: LargePools) -> None:
    """What a thread that ended kept its blocks in serves the next one."""
    in_thread(lambda: free_all(pools, some(pools, 3)))
    before = Vm().stats()["map"]["calls"]
    for _ in range(50):
        in_thread(lambda: free_all(pools, some(pools, 3)))

    assert before == Vm().stats()["map"]["calls"]
    pools.check()


def test_L9_closing_while_threads_live_on_is_safe(other: LivingThread) -> None:
    """A thread that kept blocks ends after the pools are gone, or asks them for more."""
    pools = LargePools()
    other(lambda: free_all(pools, some(pools, 3)))
    pools.close()

    def ask_for_more() -> str:
        with pytest.raises(ValueError, match="closed") as caught:
            pools.allocate(SMALLEST)
        return str(caught.value)

    assert "closed" in other(ask_for_more)


def test_L9_pools_that_are_dropped_give_everything_back(other: LivingThread) -> None:
    """Without close() too, though a living thread kept blocks."""
    taken = Space().stats()["taken_bytes"]

    def use_and_drop() -> None:
        pools = LargePools()
        other(lambda: free_all(pools, some(pools, 3)))
        pools.allocate(SMALLEST)

    use_and_drop()
    other(lambda: None)  # it forgets what it was told to do

    assert taken == Space().stats()["taken_bytes"]


# ---- bad frees ----


def bad_free(pools: LargePools, block: LargeBlock) -> str:
    before = pools.stats()
    with pytest.raises(BadFree) as caught:
        pools.free(block)

    assert block.address == caught.value.address
    assert before == pools.stats()
    return caught.value.reason


def test_L9_bad_frees_are_told_apart_and_change_nothing(pools: LargePools) -> None:
    """Double, interior, forged, of other pools, of what nobody was ever given."""
    block, live = some(pools, 2)
    pools.free(block)
    with LargePools() as others:
        theirs = others.allocate(SMALLEST)

        assert "double" == bad_free(pools, block)
        assert "interior" == bad_free(pools, live._replace(address=live.address + 4096))
        assert "foreign" == bad_free(pools, live._replace(capacity=2 * SMALLEST))
        assert "foreign" == bad_free(pools, live._replace(capacity=0))
        assert "foreign" == bad_free(pools, live._replace(address=live.address + 12 * SMALLEST))
        assert "foreign" == bad_free(pools, theirs)
        assert "foreign" == bad_free(pools, LargeBlock(12345, SMALLEST, False))
        assert "foreign" == bad_free(pools, LargeBlock(0, 0, False))
        assert "foreign" == bad_free(pools, LargeBlock(-1, SMALLEST, False))
        assert "foreign" == bad_free(pools, LargeBlock(1 << 64, SMALLEST, False))
    pools.free(live)


def free_together(pools: LargePools, block: LargeBlock, together: threading.Barrier, reasons: list[str]) -> None:
    together.wait()
    try:
        pools.free(block)
    except BadFree as error:
        reasons.append(error.reason)


@pytest.mark.parametrize("eager", [False, True])
def test_L9_of_two_threads_that_free_one_block_one_is_told(eager: bool) -> None:
    """The state changes under the class's lock, so a double free is seen exactly."""
    with LargePools(local_buffer_bytes=0, eager_return=eager) as pools:
        for _ in range(200):
            block = pools.allocate(SMALLEST)
            together = threading.Barrier(2)
            reasons: list[str] = []
            threads = [threading.Thread(target=free_together, args=(pools, block, together, reasons)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert ["double"] == reasons
        assert (200, 200) == tuple(figures(pools)[key] for key in ("allocations", "deallocations"))


# ---- L10: statistics ----


def test_L10_statistics_balance(pools: LargePools) -> None:
    """All areas are blocks that are free or live, and free ones are clean, used or kept."""
    live = 0
    held: list[LargeBlock] = []
    for step in range(60):
        if step % 5 == 4:
            pools.free(held.pop(step % len(held)))
        else:
            held.append(pools.allocate(SMALLEST))
        live = len(held)
        counts = figures(pools)
        assert counts["area_total_bytes"] == SMALLEST * (counts["free_regions"] + live)
        assert counts["free_regions"] == sum(
            counts[key] for key in ("clean_regions", "global_regions", "thread_regions")
        )


def test_L10_reading_statistics_costs_no_system_call(pools: LargePools) -> None:
    """No vm call is made for them."""
    some(pools, 5)
    before = {name: call["calls"] for name, call in Vm().stats().items()}
    pools.stats()

    assert before == {name: call["calls"] for name, call in Vm().stats().items()}


def test_L10_statistics_are_a_new_dict_each_time(pools: LargePools) -> None:
    """Changing one changes nothing."""
    pools.stats()[SMALLEST]["areas"] = 99

    assert 0 == figures(pools)["areas"]


# ---- L11: on, off, and the end ----


def test_L11_disabled_pools_refuse_and_take_back(pools: LargePools) -> None:
    """Frees work while disabled; a request is not even counted; enabling is at once."""
    block = pools.allocate(SMALLEST)
    pools.configure(enabled=False)
    with pytest.raises(Disabled):
        pools.allocate(SMALLEST)
    with pytest.raises(InvalidSizeClass):
        pools.allocate(1)
    pools.free(block)

    assert (1, 1) == tuple(figures(pools)[key] for key in ("allocations", "deallocations"))
    pools.configure(enabled=True)
    assert block.address == pools.allocate(SMALLEST).address


def test_L11_pools_may_begin_disabled() -> None:
    """enabled=False from the start."""
    with LargePools(enabled=False) as pools, pytest.raises(Disabled):
        pools.allocate(SMALLEST)


def test_L11_close_unmaps_every_area() -> None:
    """Addresses, memory and records go back, and nobody owns the addresses any more."""
    taken = Space().stats()["taken_bytes"]
    pools = LargePools()
    block = pools.allocate(SMALLEST)
    pools.free(pools.allocate(LARGEST))
    write(block)
    assert (0xFFFF, "large") == Space().owner(block.address)
    pools.close(force=True)

    assert taken == Space().stats()["taken_bytes"]
    assert Space().owner(block.address) is None
    assert all(
        figures[key] == 0
        for figures in pools.stats().values()
        for key in ("areas", "area_total_bytes", "free_regions", "clean_regions", "touched_bytes")
    )


def test_L11_close_refuses_while_blocks_are_live(pools: LargePools) -> None:
    """It tells how many, and everything goes on."""
    blocks = [pools.allocate(SMALLEST), pools.allocate(4 * MIB)]
    with pytest.raises(BlocksLive) as caught:
        pools.close()

    assert (2, SMALLEST + 4 * MIB) == (caught.value.blocks, caught.value.bytes)
    free_all(pools, blocks)
    pools.close()


def test_L11_a_closed_object_refuses_everything(pools: LargePools) -> None:
    """close() may be called again; any other call but stats() raises ValueError."""
    block = pools.allocate(SMALLEST)
    pools.close(force=True)
    pools.close()
    for call in (
        lambda: pools.allocate(SMALLEST),
        lambda: pools.allocate(0),
        lambda: pools.prefetch(block, 0, 1),
        lambda: pools.maintain(0),
        lambda: pools.configure(enabled=True),
        pools.check,
        pools.__enter__,
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    with pytest.raises(BadFree) as caught:
        pools.free(block)
    assert "closed" == caught.value.reason


def test_L11_opening_and_closing_leaks_nothing() -> None:
    """Neither addresses nor metadata, over many cycles."""

    def cycle() -> None:
        with LargePools() as pools:
            free_all(pools, some(pools, 3))
            pools.allocate(8 * MIB)

    cycle()
    before = Space().stats()["taken_bytes"], metadata_bytes()
    for _ in range(100):
        cycle()

    assert before == (Space().stats()["taken_bytes"], metadata_bytes())


def metadata_bytes() -> int:
    calls = Vm().stats()
    return calls["map"]["bytes"] - calls["unmap"]["bytes"]


@pytest.mark.debug
def test_L11_a_refused_unmap_still_gives_the_memory_back() -> None:
    """If the OS will not take the addresses they stay taken, empty; nothing is fatal."""
    pools = LargePools()
    block = pools.allocate(SMALLEST)
    write(block)
    taken = Space().stats()["taken_bytes"]
    with fail("decommit"):
        pools.close(force=True)

    assert taken == Space().stats()["taken_bytes"]
    assert Space().owner(block.address) is None
    assert 0 == resident_bytes(block.address, SMALLEST)


# ---- L12: how far a block was touched ----


def test_L12_fresh_blocks_are_clean_and_stay_untouched(pools: LargePools) -> None:
    """A block known to read 0 serves zero=True without being touched: the largest costs nothing."""
    block = pools.allocate(LARGEST, zero=True)

    assert block.clean
    assert 0 == resident_bytes(block.address, 64 * MIB)


def test_L12_a_warm_block_that_must_read_zero_does(pools: LargePools) -> None:
    """It is purged rather than written, so that it stays lazy."""
    block = pools.allocate(SMALLEST)
    write(block, 255)
    pools.free(block)
    again = pools.allocate(SMALLEST, zero=True)

    assert (block.address, False) == (again.address, again.clean)
    assert 0 == resident_bytes(again.address, SMALLEST)
    assert reads_zero(again)


@pytest.mark.debug
def test_L12_zeroing_survives_a_refused_purge(pools: LargePools) -> None:
    """If the OS will not purge, the block is written."""
    block = pools.allocate(SMALLEST)
    write(block, 255)
    pools.free(block)
    with fail("purge_now"):
        assert reads_zero(pools.allocate(SMALLEST, zero=True))


def test_L12_touched_bytes_are_what_free_blocks_may_hold(pools: LargePools) -> None:
    """A block of which anything may have been written counts whole once it is free, until it is cleared."""
    block = pools.allocate(3 * MIB)
    assert 0 == figures(pools, 4 * MIB)["touched_bytes"]
    pools.free(block)
    assert 4 * MIB == figures(pools, 4 * MIB)["touched_bytes"]
    pools.maintain(1000)

    assert 0 == figures(pools, 4 * MIB)["touched_bytes"]
    some(pools, 7, 4 * MIB)
    again = pools.allocate(4 * MIB)
    assert (block.address, True) == (again.address, again.clean)
    assert reads_zero(again)


# ---- records ----


def test_L8_records_are_named_tuples(pools: LargePools) -> None:
    """A LargeBlock can be taken apart, replaced and pickled by name."""
    block = pools.allocate(SMALLEST)
    address, capacity, clean = block

    assert (address, capacity, clean) == (block.address, block.capacity, block.clean)
    assert ("address", "capacity", "clean") == LargeBlock._fields
    assert 5 == block._replace(address=5).address
    with pytest.raises(AttributeError):
        block.address = 5  # type: ignore[misc]
    assert block == LargeBlock(*pickle.loads(pickle.dumps(tuple(block))))


# ---- what the heap asks: ages everywhere, tails, resizing, blocks from addresses ----


@pytest.fixture
def probe() -> Iterator[Any]:
    from freehold.face.large_probe import LargeProbe

    probe = LargeProbe(decay_ns=100)
    yield probe
    assert 0 == probe.check()
    probe.close()


@pytest.mark.debug
def test_L12_a_smaller_request_leaves_a_dirty_tail_that_decays(probe: Any) -> None:
    """A block touched to 8 MiB and given out again for 5 has 3 MiB that are nobody's: purged after the decay time."""
    address, _ = probe.allocate(8 * MIB)
    ctypes.memset(address, 7, 8 * MIB)
    probe.deallocate(address)
    again, clean = probe.allocate(5 * MIB)

    assert (address, False) == (again, clean)
    assert (5 * MIB, 3 * MIB) == (probe.usable_size(address), probe.dirty_bytes())
    probe.maintain(99)
    assert 3 * MIB == probe.dirty_bytes()
    probe.maintain(100)
    assert 0 == probe.dirty_bytes()
    assert (5 * MIB, 0) == (resident_bytes(address, 5 * MIB), resident_bytes(address + 5 * MIB, 3 * MIB))
    assert b"\x07" == ctypes.string_at(address + 5 * MIB - 1, 1)


@pytest.mark.debug
def test_L12_a_block_is_touched_no_further_than_asked(probe: Any) -> None:
    """What was never anybody's is known to be zero, and is not counted as idle when the block comes back."""
    address, _ = probe.allocate(5 * MIB)
    assert 0 == probe.dirty_bytes()
    probe.deallocate(address)

    assert 5 * MIB == probe.dirty_bytes()


@pytest.mark.debug
def test_L12_where_huge_pages_serve_the_last_one_counts_whole() -> None:
    """A fault may map 2 MiB at once: what of that lies beyond the request is a tail too."""
    from freehold.face.large_probe import LargeProbe

    huge = Vm().facts()["huge_page_size"] if Vm().facts()["huge_page_mode"] != "never" else 0
    probe = LargeProbe(decay_ns=100, huge_pages=True)
    probe.allocate(5 * MIB)

    assert (MIB if huge == 2 * MIB else 0) == probe.dirty_bytes()
    probe.maintain(100)
    assert 0 == probe.dirty_bytes()
    probe.close()


@pytest.mark.debug
def test_L12_zeroing_cleans_the_tail_too(probe: Any) -> None:
    """A warm block that must read 0 is purged whole."""
    address, _ = probe.allocate(8 * MIB)
    ctypes.memset(address, 7, 8 * MIB)
    probe.deallocate(address)
    probe.allocate(5 * MIB, zero=True)

    assert 0 == probe.dirty_bytes()
    assert 0 == resident_bytes(address, 8 * MIB)


@pytest.mark.debug
def test_L12_a_refused_trim_keeps_the_tail_and_is_tried_again(probe: Any) -> None:
    """After another decay time."""
    address, _ = probe.allocate(8 * MIB)
    probe.deallocate(address)
    probe.allocate(5 * MIB)
    with fail("purge_now"):
        probe.maintain(100)
    assert 3 * MIB == probe.dirty_bytes()
    probe.maintain(199)
    assert 3 * MIB == probe.dirty_bytes()
    probe.maintain(200)

    assert 0 == probe.dirty_bytes()


@pytest.mark.debug
def test_L12_resizing_in_place_moves_the_tail(probe: Any) -> None:
    """A live block grows up to its capacity and shrinks; its tail is what is touched beyond."""
    address, _ = probe.allocate(5 * MIB)

    assert probe.resize_in_place(address, 7 * MIB)
    assert (7 * MIB, 0) == (probe.usable_size(address), probe.dirty_bytes())
    assert probe.resize_in_place(address, 6 * MIB + 1)
    assert (6 * MIB + mmap.PAGESIZE, MIB - mmap.PAGESIZE) == (probe.usable_size(address), probe.dirty_bytes())
    assert not probe.resize_in_place(address, 8 * MIB + 1)
    assert not probe.resize_in_place(address + 4096, MIB)
    probe.maintain(100)
    assert 0 == probe.dirty_bytes()
    probe.deallocate(address)
    assert not probe.resize_in_place(address, 5 * MIB)
    assert 6 * MIB + mmap.PAGESIZE == probe.dirty_bytes()


@pytest.mark.debug
def test_L5_in_the_heap_used_blocks_decay_by_age_too(probe: Any) -> None:
    """used_idle_ns holds a block back until it is that old; force does not ask."""
    blocks = [probe.allocate(SMALLEST)[0] for _ in range(3)]
    probe.deallocate(blocks[0])
    probe.note_time(50)
    probe.deallocate(blocks[1])

    assert [0, 1, 0, 1] == [probe.maintain(now) for now in (99, 100, 149, 150)]
    probe.deallocate(blocks[2])
    assert 1 == probe.maintain(150, force=True)


@pytest.mark.debug
def test_L12_force_clears_everything_idle(probe: Any) -> None:
    """Threads' queues and live tails included, whatever their age."""
    probe.begin_thread(1)
    kept, _ = probe.allocate(SMALLEST, thread=1)
    tail, _ = probe.allocate(8 * MIB)
    probe.deallocate(tail)
    probe.allocate(5 * MIB)
    probe.deallocate(kept, thread=1)
    assert SMALLEST + 3 * MIB == probe.dirty_bytes()
    probe.maintain(0, force=True)

    assert 0 == probe.dirty_bytes()
    probe.end_thread(1)


@pytest.mark.debug
def test_L1_the_block_of_an_address_is_found(probe: Any) -> None:
    """For every byte of a block, and for no other address."""
    address, _ = probe.allocate(3 * MIB)

    assert [address] * 3 == [probe.block_start(address + offset) for offset in (0, 1, 4 * MIB - 1)]
    assert [0, 0, 0] == [probe.block_start(wrong) for wrong in (0, address - 1, (1 << 64) - 1)]
    assert (1, 4 * MIB) == probe.live()


@pytest.mark.debug
def test_L9_without_a_thread_blocks_go_straight_to_all(probe: Any) -> None:
    """Who has no queue takes one block and keeps none."""
    probe.allocate(SMALLEST)
    address, _ = probe.allocate(SMALLEST)
    probe.deallocate(address)

    assert (0, 1, 14) == tuple(
        probe.stats()[SMALLEST][key] for key in ("thread_regions", "global_regions", "clean_regions")
    )


@pytest.mark.debug
def test_L9_a_threads_record_is_used_again(probe: Any) -> None:
    """Records are as many as threads were alive at once."""
    probe.begin_thread(1)
    probe.begin_thread(2)
    first = probe.thread_address(1)
    probe.end_thread(1)
    probe.begin_thread(3)

    assert first == probe.thread_address(3) != probe.thread_address(2)


@pytest.mark.debug
def test_H6_all_locks_are_taken_and_given_in_rank_order(probe: Any) -> None:
    """The witness sees no lock out of order; afterwards everything works, in a child too."""
    probe.lock_all()
    probe.unlock_all()
    probe.lock_all()
    probe.reset()

    assert 0 != probe.allocate(SMALLEST)[0]
