"""primary: small blocks through `Primary`, one law of R1 … R11 at a time."""

from __future__ import annotations

import ctypes
import gc
import inspect
import logging
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freehold.errors import BadFree, InvalidSizeClass, OSRefused, OutOfMemory, UnsuitableAlignment
from freehold.face.primary_face import Primary
from freehold.face.space_face import Space
from freehold.face.vm_face import fail

PAGE = mmap.PAGESIZE
KIB = 1 << 10
SIZES = (*range(16, 129, 16), *((4 + k % 4 + 1) << (5 + k // 4) for k in range(40)))
STATS = {
    "size", "capacity", "mapped_bytes", "allocations", "frees", "in_use", "free", "cached", "resident_bytes",
    "releases", "last_released_bytes", "exhausted",
}  # fmt: skip


@pytest.fixture
def primary() -> Iterator[Primary]:
    with Primary(cache_bytes=0) as p:
        yield p


def of(primary: Primary, size: int) -> dict[str, int]:
    """Return the statistics of one class."""
    found: dict[str, int] = primary.stats()["classes"][SIZES.index(size)]
    return found


def fill(address: int, byte: int, size: int) -> None:
    ctypes.memset(address, byte, size)


def run(work: Any, *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def exhaust(primary: Primary, size: int) -> list[int]:
    """Take every block of a class; the address of each."""
    capacity = of(primary, size)["capacity"] - of(primary, size)["in_use"]
    return [primary.allocate(size) for _ in range(capacity)]


# ---- R1, R2: regions ----


def test_R1_classes_are_the_small_ones_ascending(primary: Primary) -> None:
    """There are 48 classes: multiples of 16 up to 128, then four per doubling up to 128 KiB."""
    assert SIZES == primary.classes
    assert 48 == len(primary.classes)


def test_R1_each_class_has_its_own_region(primary: Primary) -> None:
    """The regions are equal powers of two, side by side, in the order of the classes."""
    first = [primary.allocate(size) for size in SIZES]

    assert [first[0] + (k << 32) for k in range(48)] == first


@pytest.mark.parametrize("bits", [bits for bits in (32, 34, 36) if 49 << bits <= Space().size // 2])
def test_R1_region_bits_say_how_far_apart_regions_are(bits: int) -> None:
    """Regions are 2^region_bits apart."""
    with Primary(region_bits=bits) as p:
        assert 1 << bits == p.allocate(32) - p.allocate(16)


def test_R1_memory_is_mapped_in_steps_of_64_KiB(primary: Primary) -> None:
    """Nothing is accessible at first; then whole steps of 64 KiB are."""
    assert 0 == primary.stats()["mapped_bytes"]

    primary.allocate(16)
    assert 64 * KIB == of(primary, 16)["mapped_bytes"]

    for _ in range(4 * KIB):
        primary.allocate(16)
    assert 128 * KIB == of(primary, 16)["mapped_bytes"]


def test_R1_the_space_knows_whose_blocks_they_are(primary: Primary) -> None:
    """The owner table names the layer."""
    owner = Space().owner(primary.allocate(100))

    assert owner is not None
    assert "primary" == owner[1]


@pytest.mark.parametrize("metadata", [0, 8, 64])
def test_R2_capacity_is_what_bounds_a_region_first(metadata: int) -> None:
    """Room for blocks with their metadata in seven eighths, or one 32-bit entry each in the last eighth."""
    with Primary(metadata_size=metadata) as p:
        expected = [min((7 << 29) // (size + metadata), (1 << 29) // 4) for size in SIZES]

        assert expected == [c["capacity"] for c in p.stats()["classes"]]


def test_R2_metadata_grows_down_from_the_free_array() -> None:
    """The metadata of block k ends k times its size below the last eighth of the region."""
    with Primary(metadata_size=16, cache_bytes=0) as p:
        blocks = [p.allocate(48) for _ in range(100)]
        for k, block in enumerate(blocks):
            p.metadata(block)[:] = bytes([k]) * 16
        end = blocks[0] + (7 << 29)

        assert b"".join(bytes([k]) * 16 for k in reversed(range(100))) == ctypes.string_at(end - 1600, 1600)


# ---- R3: allocating ----


@pytest.mark.parametrize("cache_bytes", [0, 2 << 20])
def test_R3_fresh_blocks_ascend(cache_bytes: int) -> None:
    """Without shuffle, new blocks of a class come side by side, ascending."""
    with Primary(cache_bytes=cache_bytes) as p:
        for size in SIZES:
            blocks = [p.allocate(size) for _ in range(200)]

            assert [blocks[0] + k * size for k in range(200)] == blocks


def test_R3_a_request_gets_the_smallest_class_that_holds_it(primary: Primary) -> None:
    """For every size up to 128 KiB."""
    for size in (*range(1, 2048), *(s + d for s in SIZES for d in (-1, 0, 1) if s + d <= 131072)):
        block = primary.allocate(size)

        assert min(s for s in SIZES if s >= size) == primary.usable_size(block)
        primary.free(block)


def test_R3_size_0_gets_a_block_of_its_own(primary: Primary) -> None:
    """Two of them differ, and both can be freed."""
    a, b = primary.allocate(0), primary.allocate(0)

    assert a != b
    assert 16 == primary.usable_size(a)
    primary.free(a)
    primary.free(b)


@pytest.mark.parametrize("alignment", [1 << k for k in range(18)])
def test_R3_alignment_is_kept(primary: Primary, alignment: int) -> None:
    """Every power of two up to 128 KiB, for sizes below and above it, 0 too."""
    for size in (0, 1, alignment - 1, alignment, alignment + 1, 3 * alignment, 100_000):
        if size > 131072:
            continue
        for _ in range(3):
            block = primary.allocate(size, alignment)

            assert 0 == block % alignment
            assert primary.usable_size(block) >= size


def test_R3_an_alignment_gets_the_smallest_class_that_is_a_multiple(primary: Primary) -> None:
    """Not simply the next power of two."""
    assert 96 == primary.usable_size(primary.allocate(65, 32))
    assert 64 == primary.usable_size(primary.allocate(33, 32))


def test_R3_what_can_never_be_served_says_so(primary: Primary) -> None:
    """Sizes and alignments above 128 KiB have errors of their own; nothing changes."""
    before = primary.stats()
    with pytest.raises(InvalidSizeClass) as size:
        primary.allocate(131073)
    with pytest.raises(InvalidSizeClass):
        primary.allocate(1 << 70)
    with pytest.raises(UnsuitableAlignment) as alignment:
        primary.allocate(16, 262144)

    assert 131073 == size.value.asked
    assert 262144 == alignment.value.alignment
    assert before == primary.stats()


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ((-1,), ValueError, "size"),
        ((1, 3), ValueError, "alignment"),
        ((1, -16), ValueError, "alignment"),
        ((1.0,), TypeError, "size"),
        (("1",), TypeError, "size"),
        ((1, 2.0), TypeError, "alignment"),
        ((None,), TypeError, "size"),
    ],
)
def test_G2_wrong_arguments_are_named(primary: Primary, arguments: Any, error: type[Exception], named: str) -> None:
    """Not an int is a TypeError, out of range a ValueError; both name the argument."""
    with pytest.raises(error, match=named):
        primary.allocate(*arguments)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("region_bits", 31, ValueError),
        ("region_bits", 37, ValueError),
        ("region_bits", 32.0, TypeError),
        ("metadata_size", 4, ValueError),
        ("metadata_size", -8, ValueError),
        ("cache_bytes", -1, ValueError),
        ("cache_bytes", "1", TypeError),
        ("release_interval_ms", -1, ValueError),
        ("release_interval_ms", float("nan"), ValueError),
        ("release_interval_ms", "1", TypeError),
    ],
)
def test_G2_wrong_parameters_are_named(name: str, value: Any, error: type[Exception]) -> None:
    """A Primary that can not be opened says why."""
    with pytest.raises(error, match=name):
        Primary(**{name: value})


def test_G1_a_closed_one_raises_and_closes_again() -> None:
    """Every call but close is a ValueError after close."""
    p = Primary(metadata_size=8)
    block = p.allocate(1)
    p.close()
    p.close()
    calls: list[Any] = [
        lambda: p.allocate(1), lambda: p.free(block), lambda: p.owns(block), lambda: p.block_start(block),
        lambda: p.size_class(block), lambda: p.usable_size(block), lambda: p.metadata(block), p.drain, p.release,
        p.lock_all, p.unlock_all, lambda: p.for_each(print), p.stats, p.check, lambda: p.classes, p.__enter__,
    ]  # fmt: skip

    for call in calls:
        with pytest.raises(ValueError, match="closed"):
            call()


def test_G1_its_public_names_are_these() -> None:
    """As the interface lists them."""
    names = {name for name, _ in inspect.getmembers(Primary) if not name.startswith("_")}

    assert {
        "allocate", "block_start", "check", "classes", "close", "drain", "for_each", "free", "lock_all", "metadata",
        "owns", "release", "size_class", "stats", "unlock_all", "usable_size",
    } == names  # fmt: skip


def test_R3_close_gives_all_addresses_back() -> None:
    """A thousand of them, with blocks live, leave nothing behind."""
    taken = Space().stats()["taken_bytes"]
    for _ in range(1000):
        p = Primary()
        fill(p.allocate(1000), 1, 1000)
        p.close()

    assert taken == Space().stats()["taken_bytes"]


def test_R3_dropped_without_close_gives_all_addresses_back() -> None:
    """The last reference closes."""
    taken = Space().stats()["taken_bytes"]
    p = Primary()
    p.allocate(1)
    del p
    gc.collect()

    assert taken == Space().stats()["taken_bytes"]


# ---- R4: what an address means ----


def test_R4_every_byte_of_a_block_is_owned_and_finds_its_start(primary: Primary) -> None:
    """Live or free; the class and size are found from any of them."""
    for size in SIZES:
        blocks = [primary.allocate(size) for _ in range(4)]
        primary.free(blocks[1])
        for block in blocks:
            for offset in {0, 1, 15, size // 2, size - 1}:
                assert primary.owns(block + offset)
                assert block == primary.block_start(block + offset)
                assert SIZES.index(size) == primary.size_class(block + offset)
                assert size == primary.usable_size(block + offset)


def test_R4_what_was_not_made_is_nobodys(primary: Primary) -> None:
    """Beyond the last block, metadata, free array, other regions, the rest of the world."""
    block = primary.allocate(112)
    region = block - block % (1 << 32) if block % (1 << 32) == 0 else block
    others = [
        block + 112,
        block - 1,
        region + (7 << 29) - 8,
        region + (7 << 29),
        region + (1 << 32),
        0,
        1,
        1 << 63,
        1 << 64,
        -1,
    ]
    others.append(id(primary))

    for address in others:
        assert not primary.owns(address)
        assert primary.block_start(address) is None
        assert primary.size_class(address) is None
        with pytest.raises(ValueError, match="no block"):
            primary.usable_size(address)


def test_R4_cached_blocks_are_owned() -> None:
    """Made so far: those that a cache took from the region, too."""
    with Primary() as p:
        block = p.allocate(64)
        cached = of(p, 64)["cached"]

        assert cached > 0
        assert p.owns(block + 64 * cached + 63)
        assert not p.owns(block + 64 * cached + 64)


def test_R4_metadata_is_zero_at_first_and_kept_across_reuse() -> None:
    """Whatever is written there stays, through free, release and reuse."""
    with Primary(metadata_size=24, cache_bytes=0) as p:
        blocks = [p.allocate(4096) for _ in range(64)]
        for k, block in enumerate(blocks):
            view = p.metadata(block)
            assert bytes(24) == bytes(view)
            assert (24, False, "B") == (view.nbytes, view.readonly, view.format)
            view[:] = bytes([k + 1]) * 24
            p.free(block)
        p.release()
        again = {p.allocate(4096) for _ in range(64)}

        assert again == set(blocks)
        assert [bytes([k + 1]) * 24 for k in range(64)] == [bytes(p.metadata(block)) for block in blocks]


def test_R4_metadata_of_nothing_is_refused(primary: Primary) -> None:
    """Foreign addresses, and a Primary that keeps none."""
    with pytest.raises(ValueError, match="metadata_size"):
        primary.metadata(primary.allocate(1))
    with Primary(metadata_size=8) as p, pytest.raises(ValueError, match="no block"):
        p.metadata(12345)


def test_R4_metadata_outlives_close_while_it_is_looked_at() -> None:
    """close never refuses; the mapping goes with the last view."""
    taken = Space().stats()["taken_bytes"]
    p = Primary(metadata_size=8)
    view = p.metadata(p.allocate(1))
    view[0] = 7
    p.close()

    assert 7 == view[0]
    assert Space().stats()["taken_bytes"] > taken
    del view
    assert taken == Space().stats()["taken_bytes"]


# ---- R5 ----


@pytest.mark.parametrize("cache_bytes", [0, 2 << 20])
def test_R5_shuffled_blocks_are_the_same_blocks_in_another_order(cache_bytes: int) -> None:
    """Unpredictable neighbours, no block twice."""
    with Primary(shuffle=True, cache_bytes=cache_bytes) as p, Primary(shuffle=True, cache_bytes=cache_bytes) as q:
        for size in (16, 48, 4096, 131072):
            blocks = [p.allocate(size) for _ in range(48)]
            others = [q.allocate(size) for _ in range(48)]

            assert 48 == len(set(blocks))
            assert sorted(blocks) != blocks
            assert [b - min(blocks) for b in blocks] != [b - min(others) for b in others]
            assert {p.block_start(b) for b in blocks} == set(blocks)
        p.check()


def test_R5_shuffling_never_costs_a_block() -> None:
    """A region gives all its capacity."""
    with Primary(shuffle=True, cache_bytes=0) as p:
        blocks = exhaust(p, 131072)

        assert of(p, 131072)["capacity"] == len(set(blocks))


# ---- R6: release ----


@pytest.mark.parametrize("size", [16, 48, 112, 1024, 1280, 4096, 5120, 8192, 20480, 131072])
def test_R6_pages_whose_blocks_are_all_free_go_back(primary: Primary, size: int) -> None:
    """One block a page, many, or straddling; every second run of blocks stays live and keeps its contents."""
    count = 1 << 20 if size == 16 else (4 << 20) // size
    blocks = [primary.allocate(size) for _ in range(min(count, 30_000))]
    for block in blocks:
        fill(block, 0xA5, size)
    run_of = max(1, 3 * PAGE // size)
    live = {b for k, b in enumerate(blocks) if k // run_of % 2}
    for block in blocks:
        if block not in live:
            primary.free(block)
    base, end = blocks[0], blocks[-1] + size
    touched = {page for b in live for page in range((b - base) // PAGE, (b + size - 1 - base) // PAGE + 1)}
    pages = -(-(end - base) // PAGE)

    assert (pages - len(touched)) * PAGE == primary.release(SIZES.index(size))
    assert len(touched) * PAGE == of(primary, size)["resident_bytes"]
    for block in live:
        assert b"\xa5" * size == ctypes.string_at(block, size)
    primary.check()


def test_R6_less_than_a_page_freed_gives_nothing_back() -> None:
    """Nothing is looked at before a page's worth was freed since the last release."""
    for cache_bytes in (0, 2 << 20):
        with Primary(cache_bytes=cache_bytes) as p:
            blocks = [p.allocate(64) for _ in range(200)]
            for block in blocks[:63]:
                p.free(block)
            assert 0 == p.release()

            p.free(blocks[63])
            assert PAGE <= p.release()  # a cache gives back what it never handed out, too

            for block in blocks[64:127]:
                p.free(block)
            assert 0 == p.release()


def test_R6_a_release_is_counted(primary: Primary) -> None:
    """How many, and how much the last one gave back."""
    blocks = [primary.allocate(PAGE) for _ in range(10)]
    for block in blocks:
        primary.free(block)

    assert 10 * PAGE == primary.release()
    assert (1, 10 * PAGE) == (of(primary, PAGE)["releases"], of(primary, PAGE)["last_released_bytes"])


def test_R6_released_memory_reads_zero_and_is_used_again(primary: Primary) -> None:
    """Blocks on released pages are handed out again."""
    blocks = [primary.allocate(PAGE) for _ in range(100)]
    for block in blocks:
        fill(block, 1, PAGE)
        primary.free(block)
    primary.release()
    again = [primary.allocate(PAGE) for _ in range(100)]

    assert set(blocks) == set(again)
    assert {bytes(PAGE)} == {ctypes.string_at(block, PAGE) for block in again}


def test_R6_resident_blocks_and_low_addresses_go_out_first(primary: Primary) -> None:
    """After a release: those whose pages stayed, ascending, then those whose pages went, ascending."""
    blocks = [primary.allocate(1024) for _ in range(64)]
    for block in blocks:
        fill(block, 1, 1024)
    live = set(blocks[::8])  # one in every second page
    free = [b for b in blocks if b not in live]
    for block in reversed(free):
        primary.free(block)
    primary.release()
    pages = {b // PAGE for b in live}
    resident = [b for b in free if b // PAGE in pages]
    released = [b for b in free if b // PAGE not in pages]

    assert resident + released == [primary.allocate(1024) for _ in free]


def test_R6_force_false_waits_for_the_interval() -> None:
    """By the layer's own time; a smaller now is the last one."""
    with Primary(release_interval_ms=1000, cache_bytes=0) as p:

        def free_a_page() -> None:
            p.free(p.allocate(PAGE))

        free_a_page()
        assert PAGE == p.release(force=False, now_ms=5000)
        free_a_page()
        assert 0 == p.release(force=False, now_ms=5999.9)
        assert 0 == p.release(force=False, now_ms=10)
        assert 0 == p.release(force=False)
        assert PAGE == p.release(force=False, now_ms=6000)
        free_a_page()
        assert PAGE == p.release()
        free_a_page()
        assert 0 == p.release(force=False, now_ms=6999)
        assert PAGE == p.release(force=False, now_ms=7000)


def test_R6_release_of_one_class_leaves_the_others(primary: Primary) -> None:
    """class_index picks one; a wrong one is named."""
    primary.free(primary.allocate(PAGE))
    primary.free(primary.allocate(8192))

    assert 8192 == primary.release(SIZES.index(8192))
    assert 0 == primary.release(SIZES.index(8192))
    assert PAGE == primary.release()
    with pytest.raises(ValueError, match="class_index"):
        primary.release(48)
    with pytest.raises(ValueError, match="now_ms"):
        primary.release(now_ms=-1)
    with pytest.raises(TypeError, match="now_ms"):
        primary.release(now_ms="1")  # type: ignore[arg-type]


@pytest.mark.debug
def test_R6_what_the_OS_refuses_to_take_is_kept_and_tried_again(primary: Primary) -> None:
    """A refused purge counts nothing as given back and loses nothing."""
    for block in [primary.allocate(PAGE) for _ in range(10)]:
        fill(block, 1, PAGE)
        primary.free(block)
    with fail("purge_now", times=1000):
        assert 0 == primary.release()
    assert 10 * PAGE == of(primary, PAGE)["resident_bytes"]
    primary.check()

    assert 10 * PAGE == primary.release()
    assert 0 == of(primary, PAGE)["resident_bytes"]


# ---- R7: exhaustion ----


def test_R7_an_exhausted_class_is_served_by_the_next_one_up_then_fails(
    primary: Primary, caplog: pytest.LogCaptureFixture
) -> None:
    """The error names the class asked; the warning comes once, and again only after the class recovered."""
    caplog.set_level(logging.WARNING, "freehold")
    blocks = exhaust(primary, 114688)

    assert 131072 == primary.usable_size(primary.allocate(114688))
    assert ["114688"] == [r.getMessage().split()[6] for r in caplog.records]
    primary.allocate(100_000)
    assert 1 == len(caplog.records)
    exhaust(primary, 131072)
    with pytest.raises(OutOfMemory) as error:
        primary.allocate(100_001)

    assert (114688, 100_001) == (error.value.size_class, error.value.asked)
    assert "114688" in str(error.value)
    assert "100001" in str(error.value)
    assert 1 == len(caplog.records)
    assert of(primary, 114688)["exhausted"] == 3
    primary.free(blocks.pop())
    primary.allocate(114688)
    with pytest.raises(OutOfMemory):
        primary.allocate(114688)
    assert 2 == len(caplog.records)
    primary.check()


def test_R7_a_refusal_changes_nothing_but_its_count(primary: Primary) -> None:
    """Statistics of success are as before; a free afterwards is served again."""
    blocks = exhaust(primary, 131072)
    before = of(primary, 131072)
    with pytest.raises(OutOfMemory) as error:
        primary.allocate(131072)

    assert 131072 == error.value.size_class
    assert {**before, "exhausted": 1} == of(primary, 131072)
    for block in blocks:
        primary.free(block)
    assert len(blocks) == of(primary, 131072)["free"]
    assert {primary.allocate(131072) for _ in blocks} == set(blocks)


def test_R7_the_next_class_up_keeps_the_alignment(primary: Primary) -> None:
    """Class 65536 is a multiple of 64 KiB; the next one that is too is 131072, not 81920."""
    exhaust(primary, 65536)

    block = primary.allocate(65536, 65536)
    assert 0 == block % 65536
    assert 131072 == primary.usable_size(block)
    assert 81920 == primary.usable_size(primary.allocate(65536))


def test_R7_blocks_in_the_caches_of_sleeping_threads_count() -> None:
    """Before refusing, what sleeping threads keep is taken."""
    with Primary() as p:
        blocks = [p.allocate(131072) for _ in range(of(p, 131072)["capacity"])]
        done, end = threading.Event(), threading.Event()

        def free_one() -> None:
            p.free(blocks[0])
            done.set()
            end.wait()

        thread = run(free_one)
        done.wait()
        assert 1 == of(p, 131072)["cached"]

        assert blocks[0] == p.allocate(131072)
        end.set()
        thread.join()
        p.check()


@pytest.mark.debug
def test_R7_the_OS_refusing_memory_is_told_apart(primary: Primary, caplog: pytest.LogCaptureFixture) -> None:
    """OSRefused, with errno and call; not exhausted; the next call succeeds."""
    before = primary.stats()
    with fail("commit", times=1000), pytest.raises(OSRefused) as error:
        primary.allocate(64)

    assert (12, "commit", 64) == (error.value.errno, error.value.call, error.value.size_class)
    assert before == primary.stats()
    assert [] == caplog.records
    primary.check()
    assert 64 == primary.usable_size(primary.allocate(64))


# ---- R8: all blocks ----


@pytest.mark.parametrize("cache_bytes", [0, 2 << 20])
def test_R8_for_each_sees_every_block_made_in_order(cache_bytes: int) -> None:
    """Live or not: classes ascending, addresses ascending."""
    with Primary(cache_bytes=cache_bytes) as p:
        for size in (64, 16, 4096):
            for block in [p.allocate(size) for _ in range(300)][::2]:
                p.free(block)
        seen: list[int] = []
        p.lock_all()
        p.for_each(seen.append)
        p.unlock_all()

        assert sorted(seen) == seen
        assert all(p.block_start(block) == block for block in seen)
        assert [c["in_use"] + c["free"] + c["cached"] for c in p.stats()["classes"]] == [
            sum(p.size_class(block) == k for block in seen) for k in range(48)
        ]


def test_R8_for_each_needs_the_lock_of_this_thread(primary: Primary) -> None:
    """Not another thread's; and what the callback raises comes out."""
    with pytest.raises(RuntimeError):
        primary.for_each(print)
    with pytest.raises(RuntimeError):
        primary.unlock_all()
    primary.allocate(1)
    primary.lock_all()
    errors: list[BaseException] = []

    def other() -> None:
        for call in (lambda: primary.for_each(print), primary.unlock_all):
            try:
                call()
            except RuntimeError as error:
                errors.append(error)

    run(other).join()
    assert 2 == len(errors)
    with pytest.raises(ZeroDivisionError):
        primary.for_each(lambda _: 1 // 0)
    primary.unlock_all()


@pytest.mark.parametrize("cache_bytes", [0, 2 << 20])
def test_R8_while_locked_this_thread_is_refused_and_others_wait(cache_bytes: int) -> None:
    """allocate and free of the locking thread raise; those of other threads, new ones too, wait for unlock_all."""
    with Primary(cache_bytes=cache_bytes) as p:
        mine, theirs = p.allocate(16), p.allocate(16)
        steps: list[str] = []
        ready, go = threading.Event(), threading.Event()

        def old_thread() -> None:
            p.allocate(32)  # has a cache by now
            ready.set()
            go.wait()
            p.free(theirs)
            steps.append("free")

        def new_thread() -> None:
            p.allocate(64)
            steps.append("allocate")

        threads = [run(old_thread)]
        ready.wait()
        p.lock_all()
        for call in (lambda: p.allocate(16), lambda: p.free(mine), p.drain, p.release, p.lock_all):
            with pytest.raises(RuntimeError):
                call()
        go.set()
        threads.append(run(new_thread))
        for thread in threads:
            thread.join(0.05)

        assert [] == steps
        assert 0 < len(p.stats()["classes"])
        p.check()
        p.unlock_all()
        for thread in threads:
            thread.join()
        assert {"free", "allocate"} == set(steps)
        p.free(mine)


def test_R8_a_fork_under_the_lock_leaves_both_usable() -> None:
    """What lock_all is for: parent and child unlock and go on."""
    with Primary() as p:
        blocks = [p.allocate(64) for _ in range(1000)]
        p.lock_all()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                p.unlock_all()
                for block in blocks:
                    p.free(block)
                p.allocate(64)
                p.check()
                status = 0
            finally:
                os._exit(status)
        p.unlock_all()

        assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert 1000 == of(p, 64)["in_use"]


# ---- R9: statistics ----


def test_R9_statistics_have_all_their_keys(primary: Primary) -> None:
    """Ints, for each class, and totals."""
    stats = primary.stats()

    assert {"classes", "mapped_bytes", "allocations", "frees", "metadata_bytes"} == set(stats)
    assert [STATS] * 48 == [set(c) for c in stats["classes"]]
    assert {int} == {type(x) for c in stats["classes"] for x in c.values()}
    assert list(SIZES) == [c["size"] for c in stats["classes"]]


@pytest.mark.parametrize("cache_bytes", [0, 100, 2 << 20])
def test_R9_statistics_balance(cache_bytes: int) -> None:
    """allocations - frees = in_use: what callers hold, not what caches hold."""
    with Primary(cache_bytes=cache_bytes) as p:
        blocks = [p.allocate(size) for size in (10, 100, 1000, 10_000, 100_000) for _ in range(37)]
        for block in blocks[::3]:
            p.free(block)
        stats = p.stats()

        assert len(blocks) == stats["allocations"]
        assert len(blocks[::3]) == stats["frees"]
        for c in stats["classes"]:
            assert c["in_use"] == c["allocations"] - c["frees"]
        assert len(blocks) - len(blocks[::3]) == sum(c["in_use"] for c in stats["classes"])
        p.drain()
        assert 0 == sum(c["cached"] for c in p.stats()["classes"])
        assert stats["allocations"] == p.stats()["allocations"]


def test_R9_resident_bytes_come_from_the_OS(primary: Primary) -> None:
    """What was touched, in whole pages."""
    blocks = [primary.allocate(16 * KIB) for _ in range(64)]
    assert 0 == of(primary, 16 * KIB)["resident_bytes"]

    for block in blocks[:10]:
        fill(block, 1, 16 * KIB)
    assert 160 * KIB == of(primary, 16 * KIB)["resident_bytes"]


# ---- R10, R11 ----


@pytest.mark.parametrize("cache_bytes", [0, 1, 4096, 1 << 20, 2 << 20])
def test_R10_a_cache_holds_no_more_than_its_bytes(cache_bytes: int) -> None:
    """Whatever is freed, in whatever classes."""
    with Primary(cache_bytes=cache_bytes) as p:
        for _ in range(3):
            blocks = [p.allocate(size) for size in SIZES for _ in range(max(4, (1 << 18) // size))]
            for block in blocks:
                p.free(block)
                del block
            assert sum(c["cached"] * c["size"] for c in p.stats()["classes"]) <= cache_bytes
        p.check()


def test_R10_a_block_may_be_freed_by_any_thread() -> None:
    """It is handed out again, once."""
    with Primary() as p:
        blocks = [p.allocate(48) for _ in range(1000)]
        run(lambda: [p.free(block) for block in blocks]).join()

        assert 0 == of(p, 48)["in_use"]
        again = [p.allocate(48) for _ in range(1000)]
        assert 1000 == len(set(again))
        p.check()


def test_R10_a_thread_that_ends_gives_its_cache_back() -> None:
    """Its blocks go to the regions, its counts to the totals."""
    with Primary() as p:
        run(lambda: [p.free(p.allocate(64)) for _ in range(100)]).join()
        while of(p, 64)["cached"]:
            pass

        assert (100, 100) == (of(p, 64)["allocations"], of(p, 64)["frees"])
        assert of(p, 64)["free"] > 0


def test_R10_release_drains_the_caches_of_sleeping_threads() -> None:
    """While they sleep; they go on afterwards."""
    with Primary() as p:
        slept, wake = threading.Event(), threading.Event()
        results: list[int] = []

        def sleeper() -> None:
            blocks = [p.allocate(PAGE) for _ in range(100)]
            for block in blocks:
                fill(block, 1, PAGE)
                p.free(block)
            slept.set()
            wake.wait()
            results.append(p.allocate(PAGE))

        thread = run(sleeper)
        slept.wait()
        assert of(p, PAGE)["cached"] > 0

        assert p.release() >= 100 * PAGE
        assert (0, 0) == (of(p, PAGE)["cached"], of(p, PAGE)["resident_bytes"])
        wake.set()
        thread.join()
        assert [True] == [p.owns(block) for block in results]
        p.check()


@pytest.mark.parametrize("cache_bytes", [0, 2 << 20])
def test_R11_bad_frees_are_told_apart_and_change_nothing(cache_bytes: int) -> None:
    """Double, interior, foreign: for every class; never made is foreign too."""
    with Primary(cache_bytes=cache_bytes) as p:
        for size in SIZES:
            live, gone = p.allocate(size), p.allocate(size)
            p.free(gone)
            before = of(p, size)
            made = before["in_use"] + before["free"] + before["cached"]
            cases = {gone: "double", live + 1: "interior", live + size - 1: "interior", gone + 8: "interior"}
            first = min(live, gone)
            cases[first + made * size] = "foreign"
            cases[first + (7 << 29)] = "foreign"
            for address, reason in cases.items():
                with pytest.raises(BadFree) as error:
                    p.free(address)
                assert (address, reason) == (error.value.address, error.value.reason)
            assert before == of(p, size)
        p.check()


def test_R11_addresses_of_others_are_foreign(primary: Primary) -> None:
    """Another Primary's block, the stack, NULL, non-canonical, not an address at all."""
    with Primary() as other:
        for address in (other.allocate(64), id(primary), 0, 0x1234, 1 << 63, (1 << 64) - 1, 1 << 64, -64):
            with pytest.raises(BadFree) as error:
                primary.free(address)
            assert "foreign" == error.value.reason
    with pytest.raises(TypeError, match="address"):
        primary.free(1.0)  # type: ignore[arg-type]


def test_R11_a_double_free_long_after_is_still_one() -> None:
    """600 other frees later, drained, released; until the block is handed out again."""
    with Primary() as p:
        block = p.allocate(48)
        p.free(block)
        for _ in range(600):
            p.free(p.allocate(64))
        p.drain()
        p.release()
        with pytest.raises(BadFree) as error:
            p.free(block)

        assert "double" == error.value.reason


@pytest.mark.parametrize("cache_bytes", [0, 2 << 20])
def test_R11_of_two_threads_that_race_to_free_one_block_one_succeeds(cache_bytes: int) -> None:
    """F6: always exactly one."""
    with Primary(cache_bytes=cache_bytes) as p:
        blocks = [p.allocate(48) for _ in range(3000)]
        lost: list[tuple[str, int]] = []
        start = threading.Barrier(2)

        def free_all() -> None:
            start.wait()
            for block in blocks:
                try:
                    p.free(block)
                except BadFree as error:
                    lost.append((error.reason, block))

        threads = [run(free_all) for _ in range(2)]
        for thread in threads:
            thread.join()

        assert [("double", block) for block in blocks] == sorted(lost)
        assert 0 == of(p, 48)["in_use"]
        assert 3000 == of(p, 48)["frees"]
        p.check()


def test_R11_user_memory_holds_nothing_of_ours() -> None:
    """F11: spray every byte of every block, live and free, then use them all."""
    with Primary(metadata_size=8) as p:
        blocks = [p.allocate(size) for size in SIZES[:40] for _ in range(20)]
        for block in blocks[::2]:
            p.free(block)
        for block in blocks:
            size = p.usable_size(block)
            ctypes.memmove(block, os.urandom(size), size)
        p.check()
        for block in blocks[1::2]:
            p.free(block)
        p.release()
        p.check()


def test_R1_few_mappings_whatever_the_history() -> None:
    """H10: no mapping for each object or page."""
    with Primary() as p:
        before = len(Path("/proc/self/maps").read_text().splitlines())
        for size in SIZES:
            blocks = [p.allocate(size) for _ in range(2000)]
            for block in blocks[::2]:
                p.free(block)
            p.release()

        assert len(Path("/proc/self/maps").read_text().splitlines()) - before < 1000
