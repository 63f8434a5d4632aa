"""parked: free blocks whose pages are given back, and that are in no free array until it runs empty."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from itertools import pairwise

import pytest
from c_programs import figures
from test_heaps import ran

from freehold.errors import BadFree, OSRefused
from freehold.face.primary_face import Primary
from freehold.face.vm_face import fail

PAGE = mmap.PAGESIZE
ARRAY = 7 << 29  # where the free array begins in a region of 2^32 bytes
LOOKS = 1 << 18  # states that are looked at before new blocks are made
SORT_LEAVES = 4096  # newest entries of an array that stay in use while the others are sorted
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def primary() -> Iterator[Primary]:
    with Primary(cache_bytes=0) as p:
        yield p


def resident(address: int, size: int) -> int:
    pages = (ctypes.c_ubyte * (size // PAGE))()
    assert 0 == libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages)
    return sum(page & 1 for page in pages) * PAGE


def sparse(primary: Primary, size: int, count: int, keep_one_in: int) -> tuple[list[int], list[int]]:
    """Make *count* blocks, free all but one in so many, and release: those that live, and those that do not."""
    blocks = [primary.allocate(size) for _ in range(count)]
    live, free = blocks[::keep_one_in], [b for k, b in enumerate(blocks) if k % keep_one_in]
    for block in live:
        ctypes.memset(block, 0xA5, size)
    for block in free:
        primary.free(block)
    primary.release()
    return live, free


def index_of(primary: Primary, size: int) -> int:
    return primary.classes.index(size)


@pytest.mark.parametrize("size", [16, 48, 64])
def test_R6_blocks_whose_pages_went_keep_a_byte_of_bookkeeping(primary: Primary, size: int) -> None:
    """Of 200,000 entries of the free array those stay whose blocks are on a page with one of the survivors."""
    blocks = [primary.allocate(size) for _ in range(200_000)]
    base, array = blocks[0], blocks[0] + ARRAY
    for k, block in enumerate(blocks):
        if k % 5000:
            primary.free(block)
    before = resident(array, 200_000 * 4 // PAGE * PAGE)
    primary.release()
    entries = 40 * 2 * (PAGE // size + 1)

    assert before >= 190 * PAGE
    assert resident(array, 200_000 * 4 // PAGE * PAGE) <= entries * 4 + PAGE
    assert 200_000 - 40 == primary.stats()["classes"][index_of(primary, size)]["free"]
    assert primary.owns(base + 199_999 * size)
    primary.check()


@pytest.mark.parametrize("backwards", [False, True])
def test_R6_all_that_was_made_is_forgotten_in_whatever_order_it_was_freed(backwards: bool) -> None:
    """Of a heap of 200,000 blocks, all free, nothing stays to be known of."""
    seen = ran(
        """
        h = heap.open_heap()
        blocks = [heap.allocate_in(h, 48, 16) for _ in range(200_000)]
        books = heap.stats_of(h)["metadata"]
        for p in blocks[::ORDER]: heap.deallocate(p)
        heap.purge_of(h)
        tell(less=books - heap.stats_of(h)["metadata"], check=heap.check_of(h))
    """,
        ORDER=-1 if backwards else 1,
    )

    assert 0 == seen["check"]
    assert seen["less"] >= 0.95 * 5 * 200_000


@pytest.mark.parametrize("size", [16, 112, 1024, 5120])
def test_R3_R6_every_parked_block_is_handed_out_once_before_a_new_one(primary: Primary, size: int) -> None:
    """Resident ones first, then the parked ones, lowest address first; what lives keeps its bytes."""
    live, free = sparse(primary, size, SORT_LEAVES, 500)
    again = [primary.allocate(size) for _ in free]

    assert set(free) == set(again)
    assert len(free) == len(set(again))
    pages = {b // PAGE for b in live} | {(b + size - 1) // PAGE for b in live}
    whole = [b for b in again if not {b // PAGE, (b + size - 1) // PAGE} & pages]
    assert sorted(whole) == whole
    assert max(again) < primary.allocate(size)
    assert all(b"\xa5" * size == ctypes.string_at(b, size) for b in live)
    primary.check()


def test_R6_parked_blocks_are_used_and_parked_again(primary: Primary) -> None:
    """Again and again, a part of them at a time: the same blocks, and the same memory goes back."""
    _, free = sparse(primary, 64, 50_000, 1000)
    for share in (1, 2, 3, 50):
        some = [primary.allocate(64) for _ in range(len(free) // share)]
        assert set(some) <= set(free)
        assert len(some) == len(set(some))
        primary.check()
        for block in some[::2]:
            primary.free(block)
        primary.release()
        primary.check()
        for block in some[1::2]:
            primary.free(block)
        primary.release()
        primary.check()

    assert len(free) == primary.stats()["classes"][index_of(primary, 64)]["free"]
    assert set(free) == {primary.allocate(64) for _ in free}


def test_R11_a_parked_block_freed_again_is_a_double_free(primary: Primary) -> None:
    """Wherever it is: parked, and brought back to the array but not handed out."""
    _, free = sparse(primary, 64, 20_000, 1000)
    first = primary.allocate(64)
    for block in [b for b in free if b != first]:
        with pytest.raises(BadFree) as error:
            primary.free(block)
        assert "double" == error.value.reason
    primary.check()


def test_R5_parked_blocks_come_back_in_another_order() -> None:
    """Of a region that shuffles: no block twice, neighbours are not side by side."""
    with Primary(shuffle=True, cache_bytes=0) as p:
        live, free = sparse(p, 64, 20_000, 1000)
        again = [p.allocate(64) for _ in free]

        assert len(free) == len(set(again) - set(live))
        following = sum(b - a == 64 for a, b in pairwise(again))
        assert following < len(again) // 20 + 2 * len(live) * PAGE // 64  # those on resident pages were sorted
        p.check()


def far_apart(primary: Primary) -> tuple[list[int], list[int]]:
    """A page of parked blocks, many live ones, and many pages of parked ones; no room for a block that is not made."""
    first = [primary.allocate(16) for _ in range(PAGE // 16)]
    for _ in range(2 * LOOKS):
        primary.allocate(16)
    last = [primary.allocate(16) for _ in range(4 * SORT_LEAVES)]
    for _ in range(SORT_LEAVES - PAGE // 16):
        primary.allocate(16)
    for block in first + last:
        primary.free(block)
    primary.release()
    return first, last


def test_R6_no_request_looks_at_all_states_under_the_lock(primary: Primary) -> None:
    """Those of the first page took so many looks; after as many in vain the next gets a new block; the next goes on from there, and nothing is lost."""
    first, last = far_apart(primary)
    assert first == [primary.allocate(16) for _ in first]
    new, *others = [primary.allocate(16) for _ in range(1 + len(last))]

    assert new > last[-1]
    assert last == others
    primary.check()


@pytest.mark.debug
def test_R6_R7_where_nothing_new_can_be_made_all_states_are_looked_at(primary: Primary) -> None:
    """The OS refuses memory: what is parked is found, however far away."""
    first, last = far_apart(primary)
    assert first == [primary.allocate(16) for _ in first]
    with fail("commit", times=1 << 30):
        assert last == [primary.allocate(16) for _ in last]
        with pytest.raises(OSRefused):
            primary.allocate(16)
    primary.check()


@pytest.mark.debug
def test_R6_without_memory_to_sort_in_nothing_is_lost(primary: Primary) -> None:
    """The pages go back all the same."""
    blocks = [primary.allocate(64) for _ in range(10_000)]
    for block in blocks:
        ctypes.memset(block, 1, 64)
        primary.free(block)
    with fail("map", times=1000):
        assert primary.release() >= 10_000 * 64 // PAGE * PAGE
    primary.check()

    assert set(blocks) == {primary.allocate(64) for _ in blocks}


@pytest.mark.parametrize("shuffle", [False, True])
def test_F22_R8_a_forked_child_has_what_was_parked(shuffle: bool) -> None:
    """It hands out the same blocks, none twice."""
    with Primary(shuffle=shuffle, cache_bytes=0) as p:
        live, free = sparse(p, 64, 20_000, 1000)

        def all_there() -> bool:
            p.check()
            again = {p.allocate(64) for _ in free}
            p.check()
            return len(free) == len(again - set(live)) and (shuffle or set(free) == again)

        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if all_there() else 2
            finally:
                os._exit(code)

        assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert all_there()


def test_H3_the_budget_has_back_what_parked_blocks_needed() -> None:
    """Of a heap filled to its limit: the books shrink, the sums hold, and nearly as many blocks fit in again."""
    seen = ran("""
        limit = 16 * MIB
        h = heap.open_heap(limit=limit)
        def fill():
            blocks = []
            while (p := heap.allocate_in(h, 16, 16)) is not None: blocks.append(p)
            return blocks
        def state():
            s = heap.stats_of(h)
            return s["used"] <= limit and balanced(s) and heap.check_of(h) == 0
        blocks = fill()
        books, sound, live = heap.stats_of(h)["metadata"], [state()], set(blocks[::5000])
        for p in blocks:
            if p not in live: heap.deallocate(p)
        heap.purge_of(h)
        less, sound = heap.stats_of(h)["metadata"], [*sound, state()]
        again = fill()
        sound.append(state())
        tell(sound=sound, share=less / books, live=len(live & set(again)), twice=len(again) - len(set(again)),
             fitted=(len(live) + len(again)) / len(blocks))
    """)

    assert {"sound": [True, True, True], "live": 0, "twice": 0} == {k: seen[k] for k in ("sound", "live", "twice")}
    assert seen["share"] < 0.5
    assert seen["fitted"] > 0.95


@pytest.mark.parametrize(("threads", "blocks", "keep"), [(2, 60_000, 5000), (2, 60_000, 300), (3, 20_000, 40)])
def test_R6_a_storm_of_waves_that_leave_survivors(threads: int, blocks: int, keep: int) -> None:
    """What lives keeps the region from forgetting: blocks are parked and come back, while two threads give back."""
    seen = figures("waves", threads, 2, blocks, keep)

    assert (0, 0, 0) == (seen["live"], seen["broken"], seen["bad"])
    assert seen["waves"] > 0
    assert seen["forks"] > 0
