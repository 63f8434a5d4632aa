"""The arenas: rows A1 to A11, through `Arenas`. What they say together is in test_arena_oracle.py."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from c_programs import figures, preloaded

from freehold.errors import BadFree, BlocksLive, OSRefused, OutOfMemory
from freehold.face.arenas_face import ArenaBlock, Arenas, HugeReserve
from freehold.face.space_face import Space
from freehold.face.vm_face import Vm, fail

pytestmark = pytest.mark.usefixtures("quiet")

MIB = 1 << 20
BLOCK = 4 * MIB
GIB = 1 << 30
KEYS = {
    "arenas",
    "reserved_bytes",
    "committed_bytes",
    "in_use_bytes",
    "os_direct_bytes",
    "scheduled_bytes",
    "purges",
    "purged_bytes",
    "metadata_bytes",
}


@pytest.fixture
def arenas() -> Iterator[Arenas]:
    """Return arenas that commit as needed, checked when the test is done with them."""
    with Arenas(eager_commit=0) as arenas:
        yield arenas
        arenas.check()


def read(block: ArenaBlock, n: int = 16, at: int = 0) -> bytes:
    return ctypes.string_at(block.address + at, n)


def write(block: ArenaBlock) -> None:
    """Write into each block of a run."""
    for at in range(0, block.size, BLOCK):
        ctypes.memset(block.address + at, 0xA5, 64)


def reads_zero(block: ArenaBlock) -> bool:
    return all(read(block, 64, at) == bytes(64) for at in range(0, block.size, BLOCK))


# ---- A1: claims ----


def test_A1_a_claim_is_of_the_lowest_run_and_may_cross_fields(arenas: Arenas) -> None:
    """A run may begin at any bit and end in another field."""
    arena = arenas.reserve(200 * BLOCK)
    filler = arenas.allocate(60 * BLOCK, arena=arena, commit=False)
    across = arenas.allocate(70 * BLOCK, arena=arena, commit=False)
    arenas.free(filler)
    late = arenas.allocate(61 * BLOCK, arena=arena, commit=False)
    early = arenas.allocate(60 * BLOCK, arena=arena, commit=False)

    assert (60, 130, 0) == (across.block_index, late.block_index, early.block_index)
    assert across.address == arenas.area(arena)[0] + 60 * BLOCK


def test_A1_leftover_bits_are_never_handed_out(arenas: Arenas) -> None:
    """An arena of 70 blocks hands out 70."""
    arena = arenas.reserve(70 * BLOCK)
    blocks = [arenas.allocate(1, arena=arena, commit=False) for _ in range(70)]

    assert list(range(70)) == [block.block_index for block in blocks]
    with pytest.raises(OutOfMemory):
        arenas.allocate(1, arena=arena)
    with pytest.raises(OutOfMemory):
        arenas.allocate(71 * BLOCK, arena=arena)


def test_A1_threads_that_claim_across_fields_never_share_a_bit() -> None:
    """Claims, searches and partial claims of four threads overlap for long; a run taken by two is one's."""
    got = figures("claims", 4, 200_000, 7)

    assert (0, 0, 0) == (got["shared"], got["left"], got["still"])
    assert got["wanted"] == got["took"]
    assert min(got["claimed"], got["refused"]) > 1000


def test_A1_a_storm_of_threads_is_given_disjoint_blocks() -> None:
    """Threads allocate, write, free and purge in one arena: what one wrote stays while it has the block."""
    arenas, errors = Arenas(eager_commit=0, purge_delay_ms=1, purge_multiplier=1), []
    arena = arenas.reserve(150 * BLOCK)

    def work(seed: int) -> None:
        choose, held = random.Random(seed), []
        for step in range(400):
            try:
                if held and choose.random() < 0.5:
                    block, mark = held.pop(choose.randrange(len(held)))
                    if read(block, 1) != mark or read(block, 1, block.size - BLOCK) != mark:
                        errors.append((block, mark))
                    arenas.free(block, now=step)
                else:
                    block = arenas.allocate(choose.randint(1, 20) * BLOCK, arena=arena)
                    if block.initially_zero and not reads_zero(block):
                        errors.append((block, "zero"))
                    mark = bytes([seed * 50 + step % 50 + 1])
                    ctypes.memset(block.address, mark[0], 1)
                    ctypes.memset(block.address + block.size - BLOCK, mark[0], 1)
                    held.append((block, mark))
            except OutOfMemory:
                pass
            if step % 7 == 0:
                arenas.purge(force=step % 14 == 0, visit_all=True, now=step)
        for block, _ in held:
            arenas.free(block, now=400)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    arenas.check()
    assert [] == errors
    assert 0 == arenas.stats()["in_use_bytes"]
    assert set("\n.") == set(arenas.picture(arena))
    arenas.close()


# ---- A2: memory ids ----


def test_A2_a_block_tells_where_it_is_from(arenas: Arenas) -> None:
    """Kind, arena, place, exclusive, pinned, committed, zero."""
    arena = arenas.reserve(4 * BLOCK, exclusive=True)
    arenas.allocate(1, arena=arena)
    block = arenas.allocate(BLOCK + 1, arena=arena)

    assert ("arena", arena, 1, True, False, True, True) == block[2:]
    assert 2 * BLOCK == block.size
    assert "freehold.layers" == type(block).__module__


def test_A2_straight_from_the_OS_has_no_arena(arenas: Arenas) -> None:
    block = arenas.allocate(1, alignment=2 * BLOCK)

    assert ("os", None, None, False, False, True, True) == block[2:]
    assert (BLOCK, 0) == (block.size, block.address % (2 * BLOCK))
    assert reads_zero(block)


def test_A2_the_owner_table_knows_the_arenas() -> None:
    """Blocks in use or not, in an arena or straight from the OS; nobody when they are gone."""
    arenas = Arenas()
    arena = arenas.reserve(2 * BLOCK)
    base = arenas.area(arena)[0]
    direct = arenas.allocate(1, alignment=2 * BLOCK)

    assert ["arena"] * 2 == [Space().owner(address)[1] for address in (base + BLOCK, direct.address)]
    arenas.free(direct)
    assert Space().owner(direct.address) is None
    arenas.close()
    assert Space().owner(base) is None


# ---- A3: which arena suits ----


def test_A3_an_exclusive_arena_serves_only_who_names_it(arenas: Arenas) -> None:
    exclusive = arenas.reserve(4 * BLOCK, exclusive=True)
    common = arenas.reserve(4 * BLOCK)

    assert common == arenas.allocate(1).arena
    assert exclusive == arenas.allocate(1, arena=exclusive).arena
    assert common == arenas.allocate(1, arena=common).arena


def test_A3_a_named_arena_serves_or_nobody_does(arenas: Arenas) -> None:
    """No growth, no other arena, nothing straight from the OS; an alignment it can not have is a refusal too."""
    small, _large = arenas.reserve(BLOCK), arenas.reserve(8 * BLOCK)
    before = arenas.stats()

    for wrong in ({"size": 2 * BLOCK}, {"size": 1, "alignment": 2 * BLOCK}):
        with pytest.raises(OutOfMemory) as caught:
            arenas.allocate(**wrong, arena=small)
        assert ("arena", wrong["size"]) == (caught.value.layer, caught.value.asked)
        assert str(wrong["size"]) in str(caught.value)
    for unknown in (3, 513, 1 << 70):
        with pytest.raises(ValueError, match="arena must be"):
            arenas.allocate(1, arena=unknown)
    assert before == arenas.stats()


def test_A3_near_arenas_come_first_then_the_others() -> None:
    with Arenas(numa_nodes=3, eager_commit=0) as arenas:
        far, near, anywhere = (arenas.reserve(2 * BLOCK, numa_node=node) for node in (0, 1, -1))
        order = [arenas.allocate(BLOCK, numa_node=1).arena for _ in range(6)]

        assert [near, near, anywhere, anywhere, far, far] == order
        grown = arenas.allocate(BLOCK, numa_node=2)
        assert 4 == grown.arena
        assert [4, 4] == [arenas.allocate(BLOCK, numa_node=node).arena for node in (2, 0)]


def test_A3_without_a_node_the_order_is_that_of_the_ids() -> None:
    with Arenas(numa_nodes=2, eager_commit=0) as arenas:
        ids = [arenas.reserve(BLOCK, numa_node=node) for node in (1, 0)]

        assert ids == [arenas.allocate(1).arena for _ in ids]


def test_A3_huge_pages_serve_only_who_allows_them(arenas: Arenas) -> None:
    room = mmap.mmap(-1, 3 * BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    large = arenas.manage(room, committed=True, zero=True, large=True)

    with pytest.raises(OutOfMemory):
        arenas.allocate(1, arena=large)
    assert large != arenas.allocate(1).arena
    block = arenas.allocate(1, allow_large=True)
    assert (large, True) == (block.arena, block.pinned)


# ---- A4: commit on demand ----


def test_A4_memory_is_committed_when_it_is_asked_for(arenas: Arenas) -> None:
    arena = arenas.reserve(4 * BLOCK)
    lazy = arenas.allocate(BLOCK, commit=False)
    eager = arenas.allocate(BLOCK)

    assert (False, True) == (lazy.initially_committed, eager.initially_committed)
    assert BLOCK == arenas.stats()["committed_bytes"]
    write(eager)
    assert 0 == Vm().commit(lazy.address, lazy.size)
    write(lazy)
    assert arena == lazy.arena


def test_A4_a_partly_committed_run_is_completed(arenas: Arenas) -> None:
    """What is committed already keeps its contents."""
    arena = arenas.reserve(4 * BLOCK)
    arenas.allocate(BLOCK, commit=False)
    middle = arenas.allocate(BLOCK)
    write(middle)
    arenas.free(middle)
    arenas.free(ArenaBlock(*arenas.area(arena)._replace(size=BLOCK), "arena", arena, 0, *[False] * 4), 0)

    run = arenas.allocate(3 * BLOCK, arena=arena)

    assert (0, True, False) == (run.block_index, run.initially_committed, run.initially_zero)
    assert 3 * BLOCK == arenas.stats()["committed_bytes"]
    assert b"\xa5" * 16 == read(run, at=BLOCK)
    write(run)


def test_A4_who_frees_says_how_much_is_committed(arenas: Arenas) -> None:
    """Of a run that is not all committed, all is committed anew when it is handed out again."""
    arenas.reserve(4 * BLOCK)
    block = arenas.allocate(2 * BLOCK)
    write(block)
    assert 0 == Vm().decommit(block.address + BLOCK, BLOCK)
    arenas.free(block, BLOCK)

    assert 0 == arenas.stats()["committed_bytes"]
    again = arenas.allocate(2 * BLOCK)
    assert (block.address, True, False) == (again.address, again.initially_committed, again.initially_zero)
    write(again)


def test_A4_a_caller_who_never_committed_may_say_nothing(arenas: Arenas) -> None:
    """`committed_size` left out is no promise that breaks the next block."""
    arenas.reserve(BLOCK)
    lazy = arenas.allocate(BLOCK, commit=False)
    arenas.free(lazy)
    block = arenas.allocate(BLOCK)

    assert lazy.address == block.address
    write(block)


@pytest.mark.parametrize("wrong", [-1, 2 * BLOCK + 1])
def test_A4_more_than_all_can_not_be_committed(arenas: Arenas, wrong: int) -> None:
    block = arenas.allocate(2 * BLOCK)
    with pytest.raises(ValueError, match="committed_size"):
        arenas.free(block, wrong)
    arenas.free(block)


@pytest.mark.debug
def test_A4_a_refused_commit_leaves_everything_as_it_was(arenas: Arenas) -> None:
    """Whichever of the runs to be committed is refused, and also in an arena that is new."""
    arena = arenas.reserve(5 * BLOCK)
    blocks = [arenas.allocate(BLOCK, arena=arena, commit=bool(i % 2)) for i in range(5)]
    for block in blocks:
        arenas.free(block)
    before, picture = arenas.stats(), arenas.picture(arena)

    for nth in (1, 2, 3):
        with fail("commit", nth=nth, errno=errno.EAGAIN) as failing, pytest.raises(OSRefused) as caught:
            arenas.allocate(5 * BLOCK, arena=arena)
        assert ("commit", errno.EAGAIN, "arena", 5 * BLOCK) == (
            caught.value.call,
            caught.value.errno,
            caught.value.layer,
            caught.value.asked,
        )
        assert (before, picture, 1) == (arenas.stats(), arenas.picture(arena), failing.failed)
        arenas.check()
    with fail("commit"), pytest.raises(OSRefused):
        arenas.allocate(6 * BLOCK)
    assert before == arenas.stats()
    write(arenas.allocate(5 * BLOCK, arena=arena))


@pytest.mark.debug
def test_A4_a_commit_that_can_not_be_undone_is_kept_in_the_books(arenas: Arenas) -> None:
    arena = arenas.reserve(3 * BLOCK)
    for block in [arenas.allocate(BLOCK, arena=arena, commit=i == 1) for i in range(3)]:
        arenas.free(block)

    with fail("commit", nth=2), fail("decommit"), pytest.raises(OSRefused):
        arenas.allocate(3 * BLOCK, arena=arena)

    assert 2 * BLOCK == arenas.stats()["committed_bytes"]
    write(arenas.allocate(3 * BLOCK, arena=arena))


# ---- A5: known zero ----


def test_A5_memory_never_used_is_known_zero(arenas: Arenas) -> None:
    """A run is known zero only if every block of it is."""
    arena = arenas.reserve(4 * BLOCK)
    first = arenas.allocate(BLOCK)
    assert first.initially_zero
    assert reads_zero(first)
    write(first)
    arenas.free(first)

    again = arenas.allocate(2 * BLOCK)
    fresh = arenas.allocate(BLOCK)

    assert (False, True) == (again.initially_zero, fresh.initially_zero)
    assert arena == fresh.arena


def test_A5_what_was_purged_is_known_zero_again(arenas: Arenas) -> None:
    arenas.reserve(2 * BLOCK)
    block = arenas.allocate(2 * BLOCK)
    write(block)
    arenas.free(block)
    arenas.purge(force=True)
    again = arenas.allocate(2 * BLOCK)

    assert again.initially_zero
    assert reads_zero(again)


# ---- A6: growth ----


def test_A6_an_arena_is_reserved_when_none_fits(arenas: Arenas) -> None:
    """At least what is asked; 1 GiB if that is more."""
    small, large = arenas.allocate(BLOCK), arenas.allocate(GIB + 1, commit=False)

    assert [(1, GIB), (2, GIB + BLOCK)] == [(b.arena, arenas.area(b.arena)[1]) for b in (small, large)]


def test_A6_sizes_double_after_each_eight_arenas() -> None:
    with Arenas(reserve_size=2 * BLOCK, eager_commit=0) as arenas:
        sizes: list[int] = []
        while len(sizes) < 25:
            block = arenas.allocate(2 * BLOCK << (len(sizes) // 8), commit=False)
            assert block.kind == "arena"
            sizes.append(arenas.area(block.arena)[1] // BLOCK)

        assert [2] * 8 + [4] * 8 + [8] * 8 + [16] == sizes


@pytest.mark.parametrize(("pretence", "reserved"), [(False, GIB // 4), (True, GIB), (None, GIB)])
def test_A6_a_quarter_where_reserving_costs(pretence: bool | None, reserved: int) -> None:
    with Arenas(virtual_reserve=pretence, eager_commit=0) as arenas:
        assert reserved == arenas.area(arenas.allocate(1).arena)[1]


def test_A6_never_more_than_an_eighth_of_what_is_left() -> None:
    """An arena that grows stops at an eighth; a request for more than that comes straight from the OS."""
    left = Space().stats()["free_bytes"]
    with Arenas(reserve_size=left // 2, eager_commit=0) as arenas:
        block = arenas.allocate(1, commit=False)
        assert left // 8 >= arenas.area(block.arena)[1] > left // 8 - BLOCK
        assert "os" == arenas.allocate(left // 7, commit=False).kind


@pytest.mark.parametrize("eager_commit", [0, 1, "auto"])
def test_A6_new_arenas_are_committed_as_told(eager_commit: Any) -> None:
    with Arenas(reserve_size=8 * BLOCK, eager_commit=eager_commit) as arenas:
        arenas.allocate(BLOCK)
        whole = eager_commit == 1 or (eager_commit == "auto" and Vm().facts()["overcommit"] != 2)

        assert (8 if whole else 1) * BLOCK == arenas.stats()["committed_bytes"]


def test_A6_where_no_arena_can_be_had_memory_comes_straight_from_the_OS() -> None:
    with Arenas(max_arenas=1, reserve_size=BLOCK) as arenas:
        first, second = arenas.allocate(BLOCK), arenas.allocate(BLOCK)
        assert ("arena", "os") == (first.kind, second.kind)
        assert BLOCK == arenas.stats()["os_direct_bytes"]
        with pytest.raises(OutOfMemory) as caught:
            arenas.reserve(BLOCK)
        assert not isinstance(caught.value, OSRefused)
        arenas.free(second)
        assert 0 == arenas.stats()["os_direct_bytes"]


def test_A6_under_limit_os_alloc_nothing_comes_straight_from_the_OS() -> None:
    with Arenas(max_arenas=1, reserve_size=BLOCK, limit_os_alloc=True) as arenas:
        arenas.allocate(BLOCK)
        for wanted in ({}, {"alignment": 2 * BLOCK}):
            with pytest.raises(OutOfMemory) as caught:
                arenas.allocate(BLOCK, **wanted)
            assert BLOCK == caught.value.asked


def test_A6_five_hundred_and_twelve_arenas_are_the_most() -> None:
    with Arenas() as arenas:
        assert list(range(1, 513)) == [arenas.reserve(1) for _ in range(512)]
        with pytest.raises(OutOfMemory):
            arenas.reserve(1)
        assert 512 == arenas.stats()["arenas"]


@pytest.mark.debug
def test_A6_an_arena_that_can_not_be_committed_is_no_arena() -> None:
    """The request is then served straight from the OS; an arena asked for by name is refused."""
    with Arenas(eager_commit=1, reserve_size=8 * BLOCK) as arenas:
        taken = Space().stats()["taken_bytes"]
        with fail("commit"):
            assert "os" == arenas.allocate(BLOCK).kind
        with fail("commit"), pytest.raises(OSRefused):
            arenas.reserve(BLOCK, commit=True)
        assert 0 == arenas.stats()["arenas"]
        assert taken + BLOCK == Space().stats()["taken_bytes"]
        assert 1 == arenas.allocate(BLOCK).arena


def test_A6_threads_that_find_no_room_at_once_add_one_arena() -> None:
    arenas, start, blocks = Arenas(reserve_size=64 * BLOCK, eager_commit=0), threading.Barrier(8), []

    def work() -> None:
        start.wait()
        blocks.append(arenas.allocate(BLOCK, commit=False))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {1} == {block.arena for block in blocks}
    assert set(range(8)) == {block.block_index for block in blocks}
    arenas.close(force=True)


# ---- A7: delayed purge ----


def test_A7_a_purge_is_due_after_the_delay_times_the_multiplier() -> None:
    with Arenas(purge_delay_ms=10, purge_multiplier=3, eager_commit=0) as arenas:
        block = arenas.allocate(2 * BLOCK)
        arenas.free(block, now=100)

        assert 2 * BLOCK == arenas.stats()["scheduled_bytes"]
        assert [False, True, False] == [arenas.purge(now=now) for now in (129.9, 130, 1000)]
        stats = arenas.stats()
        assert (0, 0, 1, 2 * BLOCK) == tuple(
            stats[key] for key in ("scheduled_bytes", "committed_bytes", "purges", "purged_bytes")
        )


def test_A7_each_further_free_puts_it_off_by_a_tenth() -> None:
    """Until it is due: a free after that does not."""
    with Arenas(eager_commit=0) as arenas:
        blocks = [arenas.allocate(BLOCK) for _ in range(5)]
        for now, block in zip((0, 50, 50), blocks, strict=False):  # due at 100, 110, 120
            arenas.free(block, now=now)
        assert not arenas.purge(now=119)
        arenas.free(blocks[3], now=119)
        assert not arenas.purge(now=129)
        arenas.free(blocks[4], now=130)
        assert arenas.purge()
        assert 5 * BLOCK == arenas.stats()["purged_bytes"]


def test_A7_without_a_delay_memory_goes_back_at_once() -> None:
    """And nothing is ever scheduled."""
    with Arenas(purge_delay_ms=0, eager_commit=0) as arenas:
        block = arenas.allocate(BLOCK)
        write(block)
        arenas.free(block)
        assert (0, 0, 1) == tuple(arenas.stats()[key] for key in ("committed_bytes", "scheduled_bytes", "purges"))
        assert not arenas.purge(force=True, visit_all=True)
        assert reads_zero(arenas.allocate(BLOCK))


def test_A7_with_a_negative_delay_memory_never_goes_back() -> None:
    with Arenas(purge_delay_ms=-1, eager_commit=0) as arenas:
        block = arenas.allocate(BLOCK)
        write(block)
        arenas.free(block, now=5)
        assert not arenas.purge(force=True, visit_all=True, now=1 << 40)
        assert (BLOCK, 0) == tuple(arenas.stats()[key] for key in ("committed_bytes", "scheduled_bytes"))
        assert b"\xa5" * 16 == read(arenas.allocate(BLOCK))


def test_A7_a_block_in_use_again_is_not_purged(arenas: Arenas) -> None:
    arenas.reserve(4 * BLOCK)
    blocks = [arenas.allocate(BLOCK) for _ in range(3)]
    for block in blocks:
        write(block)
        arenas.free(block)
    again = arenas.allocate(BLOCK)

    assert arenas.purge(force=True)
    assert b"\xa5" * 16 == read(again)
    assert (2 * BLOCK, BLOCK) == tuple(arenas.stats()[key] for key in ("purged_bytes", "committed_bytes"))


def test_A7_one_arena_at_a_time_unless_all_are_wanted(arenas: Arenas) -> None:
    ids = [arenas.reserve(BLOCK) for _ in range(4)]
    for arena in ids:
        arenas.free(arenas.allocate(1, arena=arena))

    assert arenas.purge(force=True)
    assert 3 * BLOCK == arenas.stats()["scheduled_bytes"]
    assert arenas.purge(force=True, visit_all=True)
    assert 0 == arenas.stats()["scheduled_bytes"]
    assert not arenas.purge(force=True, visit_all=True)


def test_A7_runs_across_fields_are_purged_whole(arenas: Arenas) -> None:
    arenas.reserve(130 * BLOCK)
    block = arenas.allocate(130 * BLOCK)
    write(block)
    arenas.free(block)

    assert arenas.purge(force=True)
    assert 130 * BLOCK == arenas.stats()["purged_bytes"]
    again = arenas.allocate(130 * BLOCK)
    assert again.initially_zero
    assert reads_zero(again)


@pytest.mark.debug
def test_A7_what_could_not_be_purged_is_tried_again(arenas: Arenas) -> None:
    block = arenas.allocate(BLOCK)
    write(block)
    arenas.free(block)

    with fail("decommit") as failing:
        assert not arenas.purge(now=100)
    assert 1 == failing.failed
    assert (BLOCK, BLOCK) == tuple(arenas.stats()[key] for key in ("scheduled_bytes", "committed_bytes"))
    assert [False, True] == [arenas.purge(now=now) for now in (199, 200)]


def test_A7_the_memory_really_goes_back(arenas: Arenas) -> None:
    """The OS says so."""

    def resident() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * mmap.PAGESIZE

    block = arenas.allocate(16 * BLOCK)
    ctypes.memset(block.address, 1, block.size)
    full = resident()
    arenas.free(block)
    arenas.purge(force=True)

    assert full - resident() > 15 * BLOCK


# ---- A8: wrong frees ----


def test_A8_freeing_twice_is_told_and_changes_nothing(arenas: Arenas) -> None:
    """A part that is free suffices, also when the block around it is live."""
    kept, gone = arenas.allocate(2 * BLOCK), arenas.allocate(2 * BLOCK)
    arenas.free(gone)
    before = arenas.stats(), arenas.picture(1)

    for wrong in (gone, gone._replace(size=BLOCK), kept._replace(size=4 * BLOCK), kept._replace(size=GIB)):
        with pytest.raises(BadFree) as caught:
            arenas.free(wrong)
        assert ("double", wrong.address) == (caught.value.reason, caught.value.address)
    assert before == (arenas.stats(), arenas.picture(1))


def test_A8_what_does_not_exist_is_foreign(arenas: Arenas) -> None:
    block = arenas.allocate(BLOCK)
    other = Arenas()
    direct = other.allocate(BLOCK, alignment=2 * BLOCK)
    before = arenas.stats(), arenas.picture(1)

    for wrong in (
        block._replace(arena=2),
        block._replace(arena=1 << 80),
        block._replace(arena=None),
        block._replace(block_index=256),
        block._replace(block_index=-1),
        block._replace(block_index=1),
        block._replace(address=block.address + BLOCK),
        block._replace(size=GIB + BLOCK),
        block._replace(size=0),
        block._replace(size=-BLOCK),
        block._replace(size=1 << 70),
        block._replace(kind="external"),
        block._replace(kind="os"),
        direct,
        direct._replace(address=0),
        direct._replace(address=(1 << 64) - BLOCK),
        direct._replace(address=-1),
        direct._replace(address=direct.address + 4096),
    ):
        with pytest.raises(BadFree) as caught:
            arenas.free(wrong)
        assert "foreign" == caught.value.reason, wrong
    assert before == (arenas.stats(), arenas.picture(1))
    arenas.free(block)
    other.close(force=True)


def test_A8_freeing_twice_what_came_straight_from_the_OS_is_told(arenas: Arenas) -> None:
    block = arenas.allocate(3 * BLOCK, alignment=2 * BLOCK)
    arenas.free(block)

    with pytest.raises(BadFree) as caught:
        arenas.free(block)
    assert "double" == caught.value.reason


def test_A8_what_is_no_block_is_a_wrong_argument(arenas: Arenas) -> None:
    block = arenas.allocate(BLOCK)
    with pytest.raises(TypeError, match="block"):
        arenas.free(block.address)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="address"):
        arenas.free(block._replace(address="x"))
    with pytest.raises(TypeError, match="committed_size"):
        arenas.free(block, 1.5)  # type: ignore[arg-type]
    assert BLOCK == arenas.stats()["in_use_bytes"]


def test_A8_of_threads_that_free_the_same_block_one_succeeds() -> None:
    arenas, start, outcomes = Arenas(eager_commit=0), threading.Barrier(4), []

    def work() -> None:
        for block in blocks:
            start.wait()
            try:
                arenas.free(block)
                outcomes.append("freed")
            except BadFree as error:
                outcomes.append(error.reason)

    blocks = [arenas.allocate(70 * BLOCK, commit=False) for _ in range(100)]
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (100, 300) == (outcomes.count("freed"), outcomes.count("double"))
    arenas.check()
    arenas.close()


# ---- A9: external memory ----


def room(blocks: int, shared: bool = False) -> mmap.mmap:
    """Return memory with at least so many whole, aligned blocks in it."""
    flags = (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE) | mmap.MAP_ANONYMOUS
    return mmap.mmap(-1, (blocks + 1) * BLOCK, flags=flags)


def test_A9_whole_aligned_blocks_of_a_buffer_are_used(arenas: Arenas) -> None:
    memory = room(3)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    arena = arenas.manage(memory, committed=True, zero=True)
    address, size = arenas.area(arena)

    assert 0 == address % BLOCK == size % BLOCK
    assert start <= address < start + BLOCK
    assert start + len(memory) - BLOCK < address + size <= start + len(memory)
    block = arenas.allocate(size, arena=arena)
    assert ("arena", True, True, False) == (
        block.kind,
        block.initially_committed,
        block.initially_zero,
        block.pinned,
    )
    write(block)
    assert memory[address - start] == 0xA5


def test_A9_a_buffer_is_exported_until_close() -> None:
    memory = room(1)
    with Arenas() as arenas:
        arenas.manage(memory, committed=True, zero=False)
        with pytest.raises(BufferError):
            memory.close()
    memory.close()


def test_A9_managed_memory_stays_its_owners() -> None:
    """After a purge and after close it can still be read."""
    memory = room(1)
    with Arenas() as arenas:
        arena = arenas.manage(memory, committed=True, zero=False)
        block = arenas.allocate(1, arena=arena)
        assert not block.initially_zero
        write(block)
        arenas.free(block)
        assert arenas.purge(force=True)
        assert 0 == sum(memory[:: mmap.PAGESIZE])
    memory[0] = 1
    memory.close()


@pytest.mark.parametrize("shared", [False, True])
def test_A9_memory_that_remembers_is_cleared_by_a_purge(arenas: Arenas, shared: bool) -> None:
    """The pages of a shared mapping keep their contents whatever the OS is told."""
    arena = arenas.manage(room(2, shared), committed=True, zero=True)
    block = arenas.allocate(2 * BLOCK, arena=arena)
    ctypes.memset(block.address, 7, block.size)
    arenas.free(block)
    assert arenas.purge(force=True)
    again = arenas.allocate(2 * BLOCK, arena=arena)

    assert again.initially_zero
    assert bytes(again.size) == read(again, again.size)


def test_A9_uncommitted_memory_is_committed_on_demand() -> None:
    vm, arenas = Vm(), Arenas()
    _, address = vm.reserve(4 * BLOCK, BLOCK)
    arena = arenas.manage(address, 4 * BLOCK, committed=False, zero=True)
    block = arenas.allocate(2 * BLOCK, arena=arena)

    assert (address, 2 * BLOCK) == (block.address, arenas.stats()["committed_bytes"])
    write(block)
    arenas.free(block)
    arenas.purge(force=True)
    write(arenas.allocate(4 * BLOCK, arena=arena))
    arenas.close(force=True)
    assert 0 == vm.unmap(address, 4 * BLOCK)


def test_A9_huge_pages_are_pinned(arenas: Arenas) -> None:
    """They are never decommitted; and if they are not committed, they are not huge pages."""
    memory = room(2)
    with pytest.raises(ValueError, match="committed"):
        arenas.manage(memory, committed=False, zero=True, large=True)
    arena = arenas.manage(memory, committed=True, zero=True, large=True)
    block = arenas.allocate(BLOCK, arena=arena, allow_large=True)
    assert block.pinned
    arenas.free(block)
    assert 0 == arenas.stats()["scheduled_bytes"]
    assert not arenas.purge(force=True)


def test_A9_wrong_ranges_are_refused(arenas: Arenas) -> None:
    memory = room(4)
    arena = arenas.manage(memory, committed=True, zero=True)
    address, size = arenas.area(arena)
    own, _ = arenas.area(arenas.reserve(2 * BLOCK))
    before = arenas.stats()

    for start, length in [
        (address, size),
        (address - BLOCK, 2 * BLOCK),
        (address + size - BLOCK, 2 * BLOCK),
        (own, BLOCK),
    ]:
        with pytest.raises(ValueError, match="overlaps"):
            arenas.manage(start, length, committed=True, zero=True)
    for start, length in [(address + 1, BLOCK), (1 << 40, 4096), ((1 << 64) - BLOCK, 8 * BLOCK)]:
        with pytest.raises(ValueError, match="size"):
            arenas.manage(start, length, committed=True, zero=True)
    with pytest.raises(ValueError, match="writable"):
        arenas.manage(bytes(2 * BLOCK), committed=True, zero=True)
    with pytest.raises(ValueError, match="size"):
        arenas.manage(room(1), 9 * BLOCK, committed=True, zero=True)
    with pytest.raises(TypeError, match="size"):
        arenas.manage(1 << 40, committed=True, zero=True)
    with pytest.raises(TypeError, match="buffer_or_address"):
        arenas.manage("here", 1, committed=True, zero=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="buffer_or_address"):
        arenas.manage(-1, 1, committed=True, zero=True)
    assert before == arenas.stats()


# ---- A10: huge pages ----


def test_A10_no_pages_asked_are_no_arena(arenas: Arenas) -> None:
    assert HugeReserve(None, 0) == arenas.reserve_huge(0)
    assert [HugeReserve(None, 0)] * 3 == arenas.reserve_huge_interleaved(0, nodes=3)


@pytest.mark.debug
def test_A10_none_got_is_a_refusal_and_leaves_nothing() -> None:
    with Arenas(numa_nodes=2) as arenas:
        before = arenas.stats(), Space().stats()
        with fail("map_huge", times=9, errno=errno.ENOMEM):
            with pytest.raises(OSRefused) as caught:
                arenas.reserve_huge(3)
            assert ("map_huge", errno.ENOMEM, 3 * GIB) == (caught.value.call, caught.value.errno, caught.value.asked)
            with pytest.raises(OSRefused):
                arenas.reserve_huge_interleaved(3, nodes=2)
        assert before == (arenas.stats(), Space().stats())


def faked(program: str, **environment: object) -> str:
    """Run a program on a system that has some huge pages; return what it prints."""
    preload = " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(preloaded("huge_pages"))]))
    done = subprocess.run(
        [sys.executable, "-c", "from freehold.layers import *\n" + textwrap.dedent(program)],
        env={**os.environ, "LD_PRELOAD": preload, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def test_A10_partial_success_is_told_and_the_pages_are_one_arena() -> None:
    out = faked(
        """
        arenas = Arenas()
        taken = Space().stats()["taken_bytes"]
        print(*arenas.reserve_huge(5), Space().stats()["taken_bytes"] - taken >> 30)
        block = arenas.allocate(300 << 22, allow_large=True)
        print(*block[1:])
        import ctypes
        ctypes.memset(block.address + (299 << 22), 1, 1)
        arenas.free(block)
        print(arenas.purge(force=True), arenas.area(1).address % (1 << 30), arenas.stats()["committed_bytes"] >> 30)
        print(arenas.allocate(1).arena)
        arenas.close(force=True)
        print(Space().stats()["taken_bytes"] - taken)
        """,
        FAKE_PAGES=3,
    )

    assert out.splitlines() == [
        "1 3 3",
        f"{300 * BLOCK} arena 1 0 False True True True",
        "False 0 3",
        "2",
        "0",
    ]


def test_A10_interleaved_evenly_what_is_left_over_on_the_first() -> None:
    out = faked(
        """
        arenas = Arenas(numa_nodes=4)
        print([tuple(r) for r in arenas.reserve_huge_interleaved(7, nodes=3)])
        print([tuple(r) for r in arenas.reserve_huge_interleaved(9)])
        """,
        FAKE_PAGES=11,
    )

    assert out.splitlines() == ["[(1, 3), (2, 2), (3, 2)]", "[(4, 3), (5, 1), (None, 0), (None, 0)]"]


def test_A10_the_time_limit_is_looked_at_after_each_page() -> None:
    """At least one page is got, whatever the limit; each here takes 200 ms."""
    out = faked(
        "arenas = Arenas(); print(*[arenas.reserve_huge(4, timeout_ms=ms).pages for ms in (1, 300, 0)])",
        FAKE_PAGES=99,
        FAKE_NS=200_000_000,
    )

    one, two, all_of_them = map(int, out.split())
    assert (1, True, 4) == (one, 1 <= two <= 2, all_of_them)


@pytest.mark.parametrize("wrong", [{"pages": -1}, {"pages": 1, "numa_node": -2}, {"pages": 1, "timeout_ms": -1}])
def test_A10_wrong_arguments(arenas: Arenas, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=list(wrong)[-1]):
        arenas.reserve_huge(**wrong)


# ---- A11: to look at, and the end ----


def test_A11_the_picture_has_a_line_for_each_field(arenas: Arenas) -> None:
    arena = arenas.reserve(66 * BLOCK)
    arenas.allocate(2 * BLOCK, commit=False)
    middle = arenas.allocate(61 * BLOCK, commit=False)
    arenas.allocate(2 * BLOCK, commit=False)
    arenas.free(middle)

    assert "xx" + "." * 61 + "x\nx." == arenas.picture(arena)


def test_A11_contains_and_area_know_the_arenas(arenas: Arenas) -> None:
    arena = arenas.reserve(2 * BLOCK)
    address, size = arenas.area(arena)

    assert [False, True, True, False] == [
        arenas.contains(at) for at in (address - 1, address, address + size - 1, address + size)
    ]
    assert [False] * 3 == [arenas.contains(at) for at in (0, -1, 1 << 64)]
    for unknown in (0, 2, -1, 513, 1 << 70):
        with pytest.raises(KeyError):
            arenas.area(unknown)
        with pytest.raises(KeyError):
            arenas.picture(unknown)


def test_A11_close_refuses_while_blocks_are_live(arenas: Arenas) -> None:
    """In an arena or straight from the OS; with force they are gone."""
    taken = Space().stats()["taken_bytes"]
    mine = Arenas(eager_commit=0)
    block, direct = mine.allocate(3 * BLOCK), mine.allocate(2 * BLOCK, alignment=2 * BLOCK)

    with pytest.raises(BlocksLive) as caught:
        mine.close()
    assert (5, 5 * BLOCK) == (caught.value.blocks, caught.value.bytes)
    write(block)
    mine.free(block)
    with pytest.raises(BlocksLive):
        mine.close()
    write(direct)
    mine.close(force=True)
    mine.close()
    assert taken == Space().stats()["taken_bytes"]


def test_A11_after_close_only_close_works() -> None:
    arenas = Arenas()
    block = arenas.allocate(1)
    arenas.close(force=True)

    for call in (
        lambda: arenas.allocate(1),
        lambda: arenas.reserve(1),
        lambda: arenas.manage(1 << 40, BLOCK, committed=True, zero=True),
        lambda: arenas.reserve_huge(1),
        lambda: arenas.reserve_huge_interleaved(1),
        arenas.purge,
        lambda: arenas.picture(1),
        lambda: arenas.area(1),
        lambda: arenas.contains(1),
        arenas.stats,
        arenas.check,
        arenas.__enter__,
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    with pytest.raises(BadFree) as caught:
        arenas.free(block)
    assert "closed" == caught.value.reason


def test_A11_metadata_comes_from_the_static_area_first() -> None:
    """Nothing is mapped for small arenas; a closed set gives its cells back."""

    def maps() -> int:
        return Vm().stats()["map"]["calls"]

    before = maps()
    for _ in range(200):
        with Arenas() as arenas:
            arenas.reserve(GIB)
            assert 0 < arenas.stats()["metadata_bytes"] <= 512
    assert before == maps()
    with Arenas() as arenas:
        arenas.reserve(100 * GIB)
        assert arenas.stats()["metadata_bytes"] % mmap.PAGESIZE == 0
    assert before + 1 == maps()


@pytest.mark.debug
def test_A11_an_arena_without_metadata_is_refused(arenas: Arenas) -> None:
    """Also one to manage; nothing is left behind."""
    taken, before = Space().stats(), arenas.stats()
    with fail("map", times=2) as failing:
        with pytest.raises(OSRefused) as caught:
            arenas.reserve(100 * GIB)
        assert "map" == caught.value.call
        with pytest.raises(OSRefused):
            arenas.manage(1 << 45, 100 * GIB, committed=False, zero=True)
    assert 2 == failing.failed
    with fail("map"), pytest.raises(OSRefused):
        arenas.allocate(1, alignment=2 * BLOCK)
    assert (taken, before) == (Space().stats(), arenas.stats())


def test_A11_stats_have_every_key_and_agree_with_the_picture(arenas: Arenas) -> None:
    arena = arenas.reserve(3 * BLOCK)
    arenas.allocate(2 * BLOCK)
    stats = arenas.stats()

    assert KEYS == set(stats)
    assert all(type(value) is int for value in stats.values())
    assert (1, 3 * BLOCK, 2 * BLOCK, 2 * BLOCK) == tuple(
        stats[key] for key in ("arenas", "reserved_bytes", "committed_bytes", "in_use_bytes")
    )
    assert 2 == arenas.picture(arena).count("x")


def test_A11_a_dropped_set_is_closed() -> None:
    taken = Space().stats()["taken_bytes"]
    Arenas().allocate(BLOCK)

    assert taken == Space().stats()["taken_bytes"]


# ---- arguments, forks, refusals ----


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"reserve_size": 0}, ValueError),
        ({"reserve_size": 1.5}, TypeError),
        ({"max_arenas": 513}, ValueError),
        ({"max_arenas": -1}, ValueError),
        ({"eager_commit": 2}, ValueError),
        ({"eager_commit": "no"}, TypeError),
        ({"purge_delay_ms": "1"}, TypeError),
        ({"purge_delay_ms": float("nan")}, ValueError),
        ({"purge_multiplier": -1}, ValueError),
        ({"numa_nodes": 0}, ValueError),
    ],
)
def test_A_wrong_options_are_told_apart(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(arguments))):
        Arenas(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"size": 0}, ValueError),
        ({"size": -1}, ValueError),
        ({"size": "1"}, TypeError),
        ({"size": 1, "alignment": 3}, ValueError),
        ({"size": 1, "alignment": -4}, ValueError),
        ({"size": 1, "arena": 0}, ValueError),
        ({"size": 1, "arena": "1"}, TypeError),
        ({"size": 1, "numa_node": -2}, ValueError),
        ({"size": 1, "numa_node": 4096}, ValueError),
    ],
)
def test_A_wrong_requests_are_told_apart(arenas: Arenas, arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=list(arguments)[-1]):
        arenas.allocate(**arguments)
    assert 0 == arenas.stats()["in_use_bytes"]


@pytest.mark.parametrize("alignment", [0, 1, 4096, BLOCK, 2 * BLOCK, 64 * BLOCK])
def test_A_alignment_is_met(arenas: Arenas, alignment: int) -> None:
    arenas.allocate(1, commit=False)
    block = arenas.allocate(1, alignment=alignment, commit=False)

    assert 0 == block.address % (alignment or 1)
    assert ("os" if alignment > BLOCK else "arena") == block.kind


def test_A_what_the_space_can_not_hold_is_refused(arenas: Arenas) -> None:
    before = arenas.stats()
    for call in (lambda: arenas.reserve(1 << 62), lambda: arenas.allocate(1 << 62)):
        with pytest.raises(OSRefused) as caught:
            call()
        assert (errno.ENOMEM, "reserve", 1 << 62) == (caught.value.errno, caught.value.call, caught.value.asked)
    assert before["arenas"] == arenas.stats()["arenas"]


def test_A_a_forked_child_goes_on(run_program: Any) -> None:
    """What other threads were about to do in the parent does not hold blocks in the child."""
    done = run_program(
        """
        import os, threading, time
        from freehold.layers import Arenas
        arenas = Arenas(eager_commit=0, purge_delay_ms=1, purge_multiplier=1)
        arena = arenas.reserve(100 << 22)
        kept = arenas.allocate(3 << 22, arena=arena)
        stop = []
        def churn(seed):
            while not stop:
                arenas.free(arenas.allocate(seed << 22, arena=arena), now=0)
                arenas.purge(force=True, visit_all=True)
        threads = [threading.Thread(target=churn, args=(i,)) for i in (5, 6, 7)]
        for thread in threads: thread.start()
        bad = 0
        for _ in range(30):
            pid = os.fork()
            if pid == 0:
                blocks = arenas.picture(arena).count("x") - 3
                ok = 0 <= blocks <= 18
                rest = arenas.allocate(40 << 22, arena=arena)
                arenas.free(rest)
                arenas.purge(force=True)
                arenas.free(kept)
                arenas.check()
                os._exit(0 if ok else 3)
            bad += os.waitpid(pid, 0)[1] != 0
        stop.append(1)
        for thread in threads: thread.join()
        arenas.check()
        print(bad)
        """
    )

    assert (0, "0\n", "") == (done.returncode, done.stdout, done.stderr)


def test_A_without_a_reservation_arenas_work_the_same(run_program: Any) -> None:
    """Where the OS refuses to reserve much, blocks are mapped one by one."""
    done = run_program(
        """
        import ctypes
        from freehold.layers import Arenas, Vm
        def touch(block): ctypes.memset(block.address, 5, 1); ctypes.memset(block.address + block.size - 1, 5, 1)
        for delay in (0, 10):
            arenas = Arenas(purge_delay_ms=delay)
            arena = arenas.reserve(8 << 22)
            for wish in (True, False, True, False):
                block = arenas.allocate(3 << 22, arena=arena, commit=wish)
                if not block.initially_committed:
                    assert Vm().commit(block.address, block.size) != 0  # nothing is mapped there
                else:
                    touch(block)
                arenas.free(block, None if wish else 0)
                arenas.purge(force=True)
            first = arenas.allocate(1 << 22, arena=arena); touch(first); arenas.free(first, 0)
            whole = arenas.allocate(8 << 22, arena=arena); touch(whole)
            arenas.check()
            grown = arenas.allocate(1); touch(grown)
            assert arenas.area(grown.arena).size == 1 << 28, arenas.area(grown.arena)
            direct = arenas.allocate(1, alignment=1 << 23); touch(direct); arenas.free(direct)
            again = arenas.allocate(1, alignment=1 << 23); touch(again)
            arenas.close(force=True)
        """,
        address_limit=3 << 30,
    )

    assert (0, "") == (done.returncode, done.stderr)
