"""The laws of the page allocator, one by one. What they say together is in test_pages_oracle.py."""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import freehold
from freehold.errors import BadFree, Inconsistent, OSRefused
from freehold.face.page_allocator import PageAllocator
from freehold.face.vm_face import DEBUG, Vm, fail

PAGE = 8192
CHUNK = 512 * PAGE
TRACT_PAGES = 1 << 21
ALL = (1 << 512) - 1


@pytest.fixture
def pages() -> Iterator[PageAllocator]:
    """Return an allocator of the default shape, checked when the test is done with it."""
    with PageAllocator() as allocator:
        yield allocator
        allocator.check()


def grown(nchunks: int = 1, **shape: int) -> PageAllocator:
    """Return an allocator that knows the first chunks."""
    allocator = PageAllocator(**shape)
    allocator.grow(0, nchunks * allocator.chunk_size)
    return allocator


# ---- P1: shape ----


def test_P1_a_chunk_is_512_pages_of_8_KiB_and_48_bits_are_five_levels(pages: PageAllocator) -> None:
    """The defaults are Go's."""
    assert (CHUNK, (14, 3, 3, 3, 3)) == (pages.chunk_size, pages.levels)


@pytest.mark.parametrize(
    ("address_bits", "page_size"), [(48, 4096), (34, 8192), (57, 8192), (21, 1), (57, 1), (57, 1 << 36)]
)
def test_P1_levels_resolve_every_address_bit_above_a_chunk(address_bits: int, page_size: int) -> None:
    """The levels' bits and the chunk's add up to the address."""
    with PageAllocator(address_bits=address_bits, page_size=page_size, huge_page_size=0) as pages:
        assert address_bits == sum(pages.levels) + pages.chunk_size.bit_length() - 1


def test_P1_tables_are_mapped_as_needed(pages: PageAllocator) -> None:
    """A few hundred chunks cost less than 1.5 MiB of addresses, and nothing known costs nothing."""
    assert 0 == pages.stats()["metadata_bytes"]

    pages.grow(5 << 34, 300 * CHUNK)

    assert 0 < pages.stats()["metadata_bytes"] < 3 << 19


def test_P1_the_whole_of_48_bits_can_be_known_at_once() -> None:
    """256 TiB are grown, allocated from at both ends and scavenged without touching what is in between."""
    began = time.perf_counter()
    pages = PageAllocator()
    pages.grow(0, 1 << 48)
    last = pages.allocate_range((1 << 48) - PAGE, 1)
    first = pages.allocate(1)
    pages.free((1 << 48) - PAGE, 1)

    assert (PAGE, (0, PAGE), PAGE) == (last, first, pages.scavenge(1))
    assert time.perf_counter() - began < 5


# ---- P2: summaries ----


def test_P2_summaries_count_free_pages_at_start_longest_and_end(pages: PageAllocator) -> None:
    """Each level says of its stretch what its pages say."""
    pages.grow(0, 2 * CHUNK)
    pages.allocate_range(10 * PAGE, 1)
    pages.allocate_range(CHUNK + 500 * PAGE, 2)

    assert (10, 501, 501) == pages.summary(4, 0)
    assert (500, 500, 10) == pages.summary(4, 1)
    assert (10, 1001, 0) == pages.summary(3, 0) == pages.summary(2, 0) == pages.summary(1, 0) == pages.summary(0, 0)
    assert (0, 0, 0) == pages.summary(4, 2) == pages.summary(0, (1 << 14) - 1)


def test_P2_a_wholly_free_root_entry_counts_two_to_the_21_pages(pages: PageAllocator) -> None:
    """2^21 does not fit in 21 bits; it is said all the same, and one page less too."""
    pages.grow(0, TRACT_PAGES * PAGE)
    assert (TRACT_PAGES, TRACT_PAGES, TRACT_PAGES) == pages.summary(0, 0)

    pages.allocate(1)
    assert (0, TRACT_PAGES - 1, TRACT_PAGES - 1) == pages.summary(0, 0)


def plain_summary() -> ModuleType:
    """Return core/summary.py, run by Python uncompiled."""
    source = Path(__file__).parents[2] / "src" / "freehold" / "core" / "summary.py"
    spec = importlib.util.spec_from_file_location("plain_summary", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PLAIN = plain_summary()
CORE = ctypes.CDLL(str(Path(freehold.__file__).parent / "libfreehold.so"))


def compiled(name: str, *arguments: object) -> int:
    function = getattr(CORE, f"fh_{name}")
    function.restype = ctypes.c_uint64
    return function(*(ctypes.c_uint64(a) if isinstance(a, int) else a for a in arguments))


def of_bits(bits: str) -> tuple[int, int, int]:
    """Return the summary of pages written as a string, '.' being free."""
    runs = bits.split("x")
    return len(runs[0]), max(map(len, runs)), len(runs[-1])


@given(st.one_of(st.just((TRACT_PAGES,) * 3), st.tuples(*[st.integers(0, TRACT_PAGES - 1)] * 3)))
def test_P2_packing_is_undone_by_unpacking(counts: tuple[int, int, int]) -> None:
    """Three counts come back from their word, plain and compiled."""
    word = PLAIN.summary_pack(*counts)

    assert word == compiled("summary_pack", *counts)
    for name, count in zip(("start", "max", "end"), counts, strict=True):
        assert count == getattr(PLAIN, f"summary_{name}")(word) == compiled(f"summary_{name}", word)


@given(
    st.integers(1, 4),
    st.lists(st.sampled_from([".", "x", ".x", "x.", ".x.", "x.x", "..xx.x...x"]), min_size=8, max_size=8),
)
def test_P2_merging_eight_summaries_is_summing_up_their_pages(level: int, parts: list[str]) -> None:
    """What eight neighbours say together is what their pages say as one, plain and compiled."""
    pages = TRACT_PAGES >> 3 * level
    bits = [part if len(part) > 1 else part * 64 for part in parts]  # 64 signs stand for a stretch
    scale = pages // 64
    bits = [(part + part[-1] * 64)[:64] for part in bits]
    free = PLAIN.summary_free(level)
    words = [PLAIN.summary_pack(*(count * scale for count in of_bits(part))) ^ free for part in bits]
    expected = PLAIN.summary_pack(*(count * scale for count in of_bits("".join(bits))))

    assert expected == PLAIN.summary_merge(words, level)
    assert expected == compiled("summary_merge", (ctypes.c_uint64 * 8)(*words), level)


# ---- P3: lowest address first ----


def test_P3_allocates_the_lowest_run_that_fits(pages: PageAllocator) -> None:
    """First fit by address, whatever was freed last."""
    pages.grow(0, CHUNK)
    pages.allocate(512)
    for first, n in ((400, 9), (20, 4), (100, 8)):
        pages.free(first * PAGE, n)

    assert [100, 20, 400, 24 - 1] == [pages.allocate(n)[0] // PAGE for n in (8, 3, 9, 1)]


@pytest.mark.parametrize(
    "boundary", [512, 8 * 512, 64 * 512, 512 * 512, TRACT_PAGES, 8 * TRACT_PAGES, 64 * TRACT_PAGES]
)
def test_P3_runs_cross_the_boundaries_of_every_level(pages: PageAllocator, boundary: int) -> None:
    """A run that is free on both sides of a boundary is one run."""
    pages.grow(boundary * PAGE - CHUNK, 2 * CHUNK)
    pages.allocate_range(boundary * PAGE - CHUNK, 500)
    pages.allocate_range((boundary + 8) * PAGE, 504)

    assert None is pages.allocate(21)
    assert ((boundary - 12) * PAGE, 20 * PAGE) == pages.allocate(20)
    assert None is pages.allocate(1)


def test_P3_a_gap_of_unknown_memory_ends_a_run(pages: PageAllocator) -> None:
    """Nothing is handed out across what is not known."""
    pages.grow(0, CHUNK)
    pages.grow(2 * CHUNK, CHUNK)

    assert None is pages.allocate(513)


@pytest.mark.parametrize("npages", [TRACT_PAGES, TRACT_PAGES + 1, 3 * TRACT_PAGES - 5])
def test_P3_a_run_may_be_longer_than_a_root_entry(pages: PageAllocator, npages: int) -> None:
    """Counts above 2^21 are found, taken and freed."""
    pages.grow(CHUNK, 3 * TRACT_PAGES * PAGE)

    assert (CHUNK, npages * PAGE) == pages.allocate(npages)
    assert npages == pages.stats()["in_use_pages"]
    assert (CHUNK + npages * PAGE, PAGE) == pages.allocate(1)
    pages.free(CHUNK, npages + 1)
    assert (CHUNK, 3 * TRACT_PAGES * PAGE - (npages + 1) * PAGE) == pages.allocate(3 * TRACT_PAGES)


def test_P3_the_hint_lies_in_known_memory_and_below_every_free_page(pages: PageAllocator) -> None:
    """None, then at most the lowest new page, then never above a free page, and None when all are used."""
    assert None is pages.search_address
    pages.grow(7 * CHUNK, CHUNK)
    assert 7 * CHUNK == pages.search_address
    pages.grow(3 * CHUNK, CHUNK)
    assert 3 * CHUNK == pages.search_address
    pages.allocate(512)
    assert 3 * CHUNK <= pages.search_address <= 7 * CHUNK
    pages.allocate(512)
    assert None is pages.search_address
    pages.free(7 * CHUNK + PAGE, 1)
    assert 7 * CHUNK + PAGE >= pages.search_address


def test_P3_find_yields_the_tightest_hint_and_changes_nothing(pages: PageAllocator) -> None:
    """The hint is the lowest free page, also when the run lies far above it."""
    pages.grow(0, 2000 * CHUNK)
    pages.allocate(1999 * 512)
    pages.free(17 * PAGE, 3)
    before = pages.stats()

    assert (17 * PAGE, 17 * PAGE) == pages.find(3)
    assert (1999 * CHUNK, 17 * PAGE) == pages.find(4)
    assert None is pages.find(513)
    assert before == pages.stats()


# ---- P4: free ----


def test_P4_any_part_of_what_was_allocated_can_be_freed(pages: PageAllocator) -> None:
    """Runs keep no identity."""
    pages.grow(0, 3 * CHUNK)
    pages.allocate(700)
    pages.allocate(700)
    pages.free(600 * PAGE, 500)

    assert (600 * PAGE, 0) == pages.allocate(500)


@pytest.mark.parametrize(
    ("address", "npages", "reason"),
    [
        (PAGE // 2, 1, "misaligned"),
        (0, 4, "double"),
        (3 * PAGE, 1, "double"),
        (0, 513, "foreign"),
        (CHUNK, 1, "foreign"),
        (1 << 48, 1, "foreign"),
        (1 << 70, 1, "foreign"),
        (0, 1 << 80, "foreign"),
    ],
)
def test_P4_a_bad_free_says_why_and_changes_nothing(
    pages: PageAllocator, address: int, npages: int, reason: str
) -> None:
    """Every page must be known and in use."""
    pages.grow(0, CHUNK)
    pages.allocate(3)
    before = (pages.stats(), pages.chunk(0))

    with pytest.raises(BadFree) as caught:
        pages.free(address, npages)

    assert (reason, address) == (caught.value.reason, caught.value.address)
    assert before == (pages.stats(), pages.chunk(0))


def test_P4_a_page_waiting_in_a_cache_can_not_be_freed(pages: PageAllocator) -> None:
    """It is nobody's yet; once handed out it can."""
    pages.grow(0, CHUNK)
    cache = pages.cache()

    with pytest.raises(BadFree, match="double"):
        pages.free(0, 1)
    cache.allocate()
    pages.free(0, 1)


def test_P4_allocating_and_freeing_map_nothing(pages: PageAllocator) -> None:
    """What they may need is mapped by grow."""
    pages.grow(0, 5000 * CHUNK)
    with Vm() as vm:
        before = vm.stats()["map"]["calls"]
        pages.allocate(5000 * 512)
        pages.free(3 * PAGE, 4000 * 512)
        pages.cache().flush()
        pages.scavenge(1 << 40)
        pages.shrink()

        assert before == vm.stats()["map"]["calls"]


# ---- P5: grow ----


def test_P5_ranges_are_kept_merged_whatever_their_order(pages: PageAllocator) -> None:
    """Known ranges are sorted and joined where they touch, across every boundary."""
    places = [*range(4090, 4100), 20, 22, 21, (1 << 26) - 1]
    random.Random(5).shuffle(places)
    for place in places:
        pages.grow(place * CHUNK, CHUNK)

    expected = [(20, 23), (4090, 4100), ((1 << 26) - 1, 1 << 26)]
    assert [(a * CHUNK, b * CHUNK) for a, b in expected] == pages.in_use


def test_P5_the_first_known_address_at_or_after(pages: PageAllocator) -> None:
    """The address itself if it is known, else the next range's base, else None."""
    pages.grow(4096 * CHUNK, CHUNK)

    assert 4096 * CHUNK == pages.first_known(0)
    assert 4096 * CHUNK + 5 == pages.first_known(4096 * CHUNK + 5)
    assert None is pages.first_known(4097 * CHUNK)
    assert None is pages.first_known(1 << 90)


@pytest.mark.parametrize("page_size", [1, 4096, 1 << 20])
def test_P5_the_last_chunk_of_57_bits_is_as_good_as_any(page_size: int) -> None:
    """Nothing overflows at the end of the address space."""
    with PageAllocator(address_bits=57, page_size=page_size, huge_page_size=0) as pages:
        base = (1 << 57) - pages.chunk_size
        pages.grow(base, pages.chunk_size)

        assert (base, 512 * page_size) == pages.allocate(512)
        assert None is pages.search_address
        pages.free(base + 511 * page_size, 1)
        assert (base + 511 * page_size, base + 511 * page_size) == pages.find(1)
        assert page_size == pages.scavenge(1)
        pages.free(base, 511)
        pages.scavenge(1 << 60)
        assert [(base, 1 << 57)] == pages.in_use
        assert [(base, pages.chunk_size)] == pages.shrink()
        pages.check()


@pytest.mark.parametrize(
    ("base", "size"),
    [
        (0, 0),
        (PAGE, CHUNK),
        (0, PAGE),
        (-CHUNK, CHUNK),
        (0, -CHUNK),
        (1 << 48, CHUNK),
        ((1 << 48) - CHUNK, 2 * CHUNK),
        (0, 3 * CHUNK),
    ],
)
def test_P5_growing_by_what_is_no_new_range_is_refused(pages: PageAllocator, base: int, size: int) -> None:
    """Whole chunks, inside the address space, not known before."""
    pages.grow(CHUNK, CHUNK)
    before = pages.stats()

    with pytest.raises(ValueError, match=r"base|size"):
        pages.grow(base, size)
    assert before == pages.stats()


@pytest.mark.debug
def test_P5_a_grow_without_room_for_tables_changes_nothing(pages: PageAllocator) -> None:
    """All or nothing, and it works when there is room again."""
    pages.grow(0, CHUNK)
    before = pages.stats()
    with fail("map"), pytest.raises(OSRefused):
        pages.grow(4095 * CHUNK, 2 * CHUNK)
    assert (before, [(0, CHUNK)]) == (pages.stats(), pages.in_use)

    pages.grow(4095 * CHUNK, 2 * CHUNK)
    assert 3 == pages.stats()["chunks"]


def test_P5_a_range_too_large_for_tables_is_refused() -> None:
    """2^56 ids need more tables than addresses exist."""
    with PageAllocator(address_bits=57, page_size=1, huge_page_size=0) as pages:
        with pytest.raises(OSRefused):
            pages.grow(0, 1 << 56)
        assert 0 == pages.stats()["chunks"]


# ---- P6: scavenging ----


def test_P6_new_memory_counts_as_scavenged_and_allocation_says_how_much(pages: PageAllocator) -> None:
    """Allocating clears the bits; freeing does not set them."""
    pages.grow(0, CHUNK)
    assert (0, ALL) == pages.chunk(0)
    assert (0, 4 * PAGE) == pages.allocate(4)
    pages.free(0, 2)

    assert (0b1100, ALL & ~0b1111) == pages.chunk(0)
    assert 0 == pages.allocate_range(0, 2)
    pages.free(0, 4)
    assert (0, 2 * PAGE) == pages.allocate(6)


def test_P6_the_highest_pages_go_first(pages: PageAllocator) -> None:
    """From the top down, in as many steps as it takes."""
    pages.grow(0, 5000 * CHUNK)
    pages.allocate(5000 * 512)
    for place in (4999, 70, 0):
        pages.free(place * CHUNK + 100 * PAGE, 10)

    assert 12 * PAGE == pages.scavenge(12 * PAGE - 1)
    assert ((1 << 10) - 1) << 100 == pages.chunk(4999).scavenged
    assert 0b11 << 108 == pages.chunk(70).scavenged
    assert 18 * PAGE == pages.scavenge(1 << 60)
    assert 0 == pages.scavenge(1)


@pytest.mark.parametrize(("asked", "got"), [(1, 256), (256, 256), (257, 512), (300, 512)])
def test_P6_a_free_huge_page_is_not_split(pages: PageAllocator, asked: int, got: int) -> None:
    """More is released, by less than a huge page."""
    pages.grow(0, CHUNK)
    pages.allocate(512)
    pages.free(0, 512)

    assert got * PAGE == pages.scavenge(asked * PAGE)


def test_P6_a_huge_page_that_is_not_wholly_free_may_be_split(pages: PageAllocator) -> None:
    """There is nothing left to spare."""
    pages.grow(0, CHUNK)
    pages.allocate(512)
    pages.free(PAGE, 511)

    assert 256 * PAGE == pages.scavenge(1)
    assert PAGE == pages.scavenge(1)


def test_P6_background_and_eager_bytes_are_counted_apart(pages: PageAllocator) -> None:
    """Both only grow."""
    pages.grow(0, CHUNK)
    pages.allocate(100)
    pages.free(0, 100)
    pages.scavenge(PAGE)
    pages.scavenge(2 * PAGE, background=True)
    stats = pages.stats()

    assert (PAGE, 2 * PAGE) == (stats["scavenged_eager_bytes"], stats["scavenged_background_bytes"])


@pytest.fixture
def memory() -> Iterator[int]:
    """Return the address of four writable chunks, aligned."""
    with Vm() as vm:
        error, address = vm.reserve(4 * CHUNK, CHUNK)
        assert (0, 0) == (error, vm.commit(address, 4 * CHUNK))
        yield address
        vm.unmap(address, 4 * CHUNK)


def test_P6_backed_pages_read_zero_after_scavenging(memory: int) -> None:
    """What is free goes back to the OS; what is in use keeps its contents."""
    with PageAllocator(backed=True) as pages:
        pages.grow(memory, 4 * CHUNK)
        pages.allocate(4 * 512)
        ctypes.memset(memory, 7, 4 * CHUNK)
        pages.free(memory + CHUNK, 2 * 512 + 1)

        assert (2 * 512 + 1) * PAGE == pages.scavenge(1 << 40)
        seen = [ctypes.string_at(memory + at, PAGE) for at in (0, CHUNK - PAGE, CHUNK, 3 * CHUNK, 3 * CHUNK + PAGE)]
        assert [b"\7", b"\7", b"\0", b"\0", b"\7"] == [page[:1] for page in seen if page == page[:1] * PAGE]
        pages.check()


def test_P6_unbacked_addresses_are_never_touched(pages: PageAllocator) -> None:
    """There is nothing at these addresses, and nobody notices."""
    pages.grow(0, CHUNK)
    pages.allocate(512)
    pages.free(0, 512)
    with Vm() as vm:
        before = vm.stats()["purge_now"]["calls"]

        assert CHUNK == pages.scavenge(CHUNK)
        assert before == vm.stats()["purge_now"]["calls"]


@pytest.mark.debug
def test_P6_what_the_OS_refuses_stays_free_and_is_tried_again(memory: int) -> None:
    """The range goes back unscavenged; what lies below it is still released."""
    with PageAllocator(backed=True) as pages:
        pages.grow(memory, 4 * CHUNK)
        pages.allocate(4 * 512)
        pages.free(memory, 4 * 512)
        with fail("purge_now") as failing:
            assert 3 * CHUNK == pages.scavenge(4 * CHUNK)
        assert 1 == failing.failed
        assert (0, 0) == pages.chunk(memory // CHUNK + 3)
        assert CHUNK == pages.scavenge(1 << 40)
        assert 4 * 512 == pages.stats()["scavenged_pages"]
        pages.check()


def test_P6_allocation_waits_for_a_purge_rather_than_refuse(memory: int) -> None:
    """While one thread scavenges, another that needs every page gets them all."""
    with PageAllocator(backed=True) as pages:
        pages.grow(memory, 4 * CHUNK)
        stop = threading.Event()

        def scavenge() -> None:
            while not stop.is_set():
                pages.scavenge(1 << 40, background=True)

        thread = threading.Thread(target=scavenge)
        thread.start()
        try:
            for _ in range(300):
                address, _scavenged = pages.allocate(4 * 512)
                ctypes.memset(address + 3 * CHUNK, 1, PAGE)
                assert b"\1" * PAGE == ctypes.string_at(address + 3 * CHUNK, PAGE)
                pages.free(address, 4 * 512)
        finally:
            stop.set()
            thread.join()
        pages.check()


# ---- P7: metadata ----


def test_P7_closing_gives_every_table_back() -> None:
    """As many bytes are unmapped as were mapped."""
    with Vm() as vm:
        before = vm.stats()
        allocator = grown(10_000)
        metadata = allocator.stats()["metadata_bytes"]
        allocator.close()
        after = vm.stats()

    assert (
        metadata == after["map"]["bytes"] - before["map"]["bytes"] == after["unmap"]["bytes"] - before["unmap"]["bytes"]
    )


def test_P7_tables_are_advised_to_be_on_huge_pages_once(pages: PageAllocator) -> None:
    """Asking twice advises once; tables mapped later are advised as they come."""
    pages.grow(0, CHUNK)
    with Vm() as vm:
        calls = [vm.stats()["advise_huge"]["calls"]]
        results = []
        for _ in range(2):
            results.append(pages.huge_metadata())
            calls.append(vm.stats()["advise_huge"]["calls"])
        pages.grow(1 << 40, CHUNK)
        calls.append(vm.stats()["advise_huge"]["calls"])

    assert [1, 1, 2] == [n - calls[0] for n in calls[1:]]
    assert results[0] is results[1]


# ---- P8: shrink ----


def test_P8_only_wholly_free_and_wholly_scavenged_chunks_are_forgotten(pages: PageAllocator) -> None:
    """They come back merged, are unknown afterwards, and may be grown again."""
    pages.grow(0, 8 * CHUNK)
    pages.allocate(3 * 512)
    pages.free(CHUNK, 512)
    pages.scavenge(1)
    pages.free(0, 1)

    assert [(3 * CHUNK, 5 * CHUNK)] == pages.shrink()
    assert [(0, 3 * CHUNK)] == pages.in_use
    pages.scavenge(1 << 40)
    assert [(CHUNK, CHUNK)] == pages.shrink()
    with pytest.raises(KeyError):
        pages.chunk(1)
    assert [(0, CHUNK), (2 * CHUNK, 3 * CHUNK)] == pages.in_use
    pages.grow(CHUNK, CHUNK)
    assert (CHUNK, CHUNK) == pages.allocate(512)


def test_P8_forgetting_everything_leaves_an_empty_allocator() -> None:
    """As if nothing had ever been known, over tracts and nodes."""
    pages = grown(3 * 4096)
    assert [(0, 3 * 4096 * CHUNK)] == pages.shrink()

    assert ([], None, None, None) == (pages.in_use, pages.first_known(0), pages.search_address, pages.find(1))
    pages.check()
    pages.grow(4096 * CHUNK, 4096 * CHUNK)
    assert (4096 * CHUNK, 4096 * CHUNK) == pages.allocate(4096 * 512)
    pages.check()


# ---- P9: caches ----


def test_P9_a_cache_takes_the_free_pages_of_the_lowest_group_now(pages: PageAllocator) -> None:
    """They become in use with their scavenged bits cleared, and come back as they were."""
    pages.grow(0, CHUNK)
    pages.allocate(100)
    pages.free(70 * PAGE, 2)
    cache = pages.cache()

    assert (64 * PAGE, 0b11 << 6 | ((1 << 64) - (1 << 36)), False) == (cache.base, cache.free, cache.empty)
    assert (1 << 64) - (1 << 36) == cache.scavenged
    assert (2 + 28, 128) == (pages.stats()["cached_pages"], pages.stats()["in_use_pages"])
    assert (70 * PAGE, 0) == cache.allocate()
    assert (100 * PAGE, 2 * PAGE) == cache.allocate(2)
    assert None is cache.allocate(27)
    cache.flush()
    assert (98 + 3, 0) == (pages.stats()["in_use_pages"], pages.stats()["cached_pages"])
    assert (True, 0, 0) == (cache.empty, cache.free, cache.scavenged)
    pages.free(70 * PAGE, 1)
    pages.free(100 * PAGE, 2)


def test_P9_a_cache_of_a_full_allocator_is_empty(pages: PageAllocator) -> None:
    """It has no base and serves nothing."""
    cache = pages.cache()

    assert (None, 0, 0, True, None) == (cache.base, cache.free, cache.scavenged, cache.empty, cache.allocate())


def test_P9_a_dropped_cache_gives_its_pages_back(pages: PageAllocator) -> None:
    """Nothing leaks with the object."""
    pages.grow(0, CHUNK)
    cache = pages.cache()
    cache.allocate()
    del cache

    assert (1, 0) == (pages.stats()["in_use_pages"], pages.stats()["cached_pages"])


def test_P9_a_cache_outlives_its_allocator_harmlessly() -> None:
    """Its calls raise, and dropping it does nothing."""
    allocator = grown()
    cache = allocator.cache()
    allocator.close()

    with pytest.raises(ValueError, match="closed"):
        cache.allocate()
    with pytest.raises(ValueError, match="closed"):
        cache.flush()


def test_P9_threads_share_a_cache_without_sharing_pages() -> None:
    """Each page is handed out once, whoever asks, while others flush."""
    with grown(4) as pages:
        taken: list[list[int]] = [[] for _ in range(4)]
        for _ in range(40):
            cache = pages.cache()

            def work(mine: list[int], cache=cache) -> None:
                while (got := cache.allocate()) is not None:
                    mine.append(got[0])

            threads = [threading.Thread(target=work, args=(mine,)) for mine in taken]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            cache.flush()
        addresses = [address for mine in taken for address in mine]

        assert len(addresses) == len(set(addresses)) == pages.stats()["in_use_pages"]


# ---- P10: no memory behind it ----


def test_P10_pages_of_one_byte_number_anything() -> None:
    """Ids, blocks of a file, pages of a KV cache: ranges of integers."""
    with PageAllocator(address_bits=32, page_size=1, huge_page_size=0) as ids:
        ids.grow(1024, 512)

        assert [(1024, 1), (1025, 7), (1032, 1)] == [ids.allocate(n) for n in (1, 7, 1)]
        assert (20, 3, 3, 3, 3)[1:] == ids.levels[1:]


# ---- P11: inconsistencies ----


@pytest.mark.debug
@pytest.mark.parametrize(("level", "index"), [(0, 0), (1, 0), (2, 1), (3, 8), (4, 64), (4, 70)])
@pytest.mark.parametrize("triple", [(0, 0, 0), (3, 5, 2)])
def test_P11_check_names_the_summary_that_lies(level: int, index: int, triple: tuple[int, int, int]) -> None:
    """Level, index, what is stored, what it should be, and where a search would begin."""
    with PageAllocator() as pages:
        pages.grow(64 * CHUNK, 8 * CHUNK)
        true = pages.summary(level, index)
        pages.corrupt(level, index, triple)

        with pytest.raises(Inconsistent) as caught:
            pages.check()

        for part in (f"level {level}", f"index {index}", str(triple), str(tuple(true)), hex(64 * CHUNK)):
            assert part in str(caught.value)
        assert (triple, true) == (caught.value.values["stored"], caught.value.values["recomputed"])


@pytest.mark.debug
@pytest.mark.parametrize(
    ("level", "index", "triple"),
    [
        (4, 0, (0, 0, 0)),
        (4, 0, (5, 5, 5)),
        (3, 0, (0, 0, 0)),
        (1, 0, (1, 2, 3)),
        (0, 0, (0, 0, 0)),
        (0, 0, (1 << 21,) * 3),
    ],
)
def test_P11_allocate_meeting_a_lie_aborts_with_the_same_text(
    run_program: Callable, level: int, index: int, triple: tuple[int, int, int]
) -> None:
    """SIGABRT, and on stderr what check would have said."""
    result = run_program(f"""
        from freehold.face.page_allocator import PageAllocator
        pages = PageAllocator()
        pages.grow(0, 8 * pages.chunk_size)
        pages.corrupt({level}, {index}, {triple})
        try:
            pages.check()
        except AssertionError as error:
            print(error, flush=True)
        pages.allocate(1)
    """)

    assert -6 == result.returncode
    assert result.stdout.strip() != ""
    assert result.stdout.strip() in result.stderr


def test_P11_a_sound_allocator_passes(pages: PageAllocator) -> None:
    """`check` returns None."""
    pages.grow(0, CHUNK)

    assert None is pages.check()


def test_P11_only_a_debug_build_can_be_corrupted() -> None:
    """In the release build there is no way in."""
    with grown() as pages:
        if DEBUG:
            pages.corrupt(0, 0, (1, 2, 3))
            assert (1, 2, 3) == pages.summary(0, 0)
        else:
            with pytest.raises(RuntimeError):
                pages.corrupt(0, 0, (1, 2, 3))


# ---- G: what holds for every layer ----

CALLS: dict[str, Callable[[PageAllocator], object]] = {
    "grow": lambda p: p.grow(0, CHUNK),
    "chunk": lambda p: p.chunk(0),
    "summary": lambda p: p.summary(0, 0),
    "first_known": lambda p: p.first_known(0),
    "allocate": lambda p: p.allocate(1),
    "allocate_range": lambda p: p.allocate_range(0, 1),
    "free": lambda p: p.free(0, 1),
    "find": lambda p: p.find(1),
    "scavenge": lambda p: p.scavenge(1),
    "shrink": lambda p: p.shrink(),
    "huge_metadata": lambda p: p.huge_metadata(),
    "cache": lambda p: p.cache(),
    "stats": lambda p: p.stats(),
    "check": lambda p: p.check(),
    "corrupt": lambda p: p.corrupt(0, 0, (0, 0, 0)),
    "enter": lambda p: p.__enter__(),
    "in_use": lambda p: p.in_use,
    "levels": lambda p: p.levels,
    "chunk_size": lambda p: p.chunk_size,
    "search_address": lambda p: p.search_address,
}


@pytest.mark.parametrize("name", CALLS)
def test_G1_any_call_after_close_raises_ValueError(name: str) -> None:
    """`close` may be called twice, nothing else once."""
    allocator = grown()
    allocator.close()
    allocator.close()

    with pytest.raises(ValueError, match="closed"):
        CALLS[name](allocator)


class Storm:
    """A thread that does anything, at random but for its seed, until the allocator is closed under it."""

    owner: ClassVar[dict[int, Storm]] = {}

    def __init__(self, pages: PageAllocator, seed: int) -> None:
        self.pages, self.dice = pages, random.Random(seed)
        self.runs: list[tuple[int, int]] = []
        self.failure: Exception | None = None
        self.thread = threading.Thread(target=self.rage)

    def rage(self) -> None:
        actions = [self.allocate] * 9 + [self.free] * 8 + [self.scavenge, self.shrink, self.cache]
        try:
            while True:
                self.dice.choice(actions)()
        except Exception as error:
            self.failure = error

    def allocate(self) -> None:
        npages = self.dice.randint(1, 90)
        if (got := self.pages.allocate(npages)) is not None:
            for page in range(got[0], got[0] + npages * PAGE, PAGE):
                assert self is self.owner.setdefault(page, self)
            self.runs.append((got[0], npages))

    def free(self) -> None:
        if self.runs:
            address, npages = self.runs.pop(self.dice.randrange(len(self.runs)))
            for page in range(address, address + npages * PAGE, PAGE):
                del self.owner[page]
            self.pages.free(address, npages)

    def scavenge(self) -> None:
        self.pages.scavenge(self.dice.randrange(CHUNK), background=True)

    def shrink(self) -> None:
        for base, size in self.pages.shrink():
            self.pages.grow(base, size)

    def cache(self) -> None:
        self.pages.cache().allocate(2)
        self.pages.check()


def test_G1_threads_may_use_and_close_it_at_any_time() -> None:
    """Pages are handed out once, and closing under way is told as that."""
    pages = grown(8)
    storms = [Storm(pages, seed) for seed in range(4)]
    for storm in storms:
        storm.thread.start()
    time.sleep(1)
    pages.close()
    for storm in storms:
        storm.thread.join()

    assert ["this PageAllocator is closed"] * 4 == [str(storm.failure) for storm in storms]


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        ({"page_size": 3}, ValueError),
        ({"page_size": 0}, ValueError),
        ({"page_size": -8192}, ValueError),
        ({"page_size": 8192.0}, TypeError),
        ({"page_size": 1 << 37, "address_bits": 57}, ValueError),
        ({"address_bits": 33}, ValueError),
        ({"address_bits": 58}, ValueError),
        ({"address_bits": "48"}, TypeError),
        ({"huge_page_size": 3}, ValueError),
        ({"huge_page_size": 2 * CHUNK}, ValueError),
        ({"huge_page_size": None}, TypeError),
        ({"page_size": mmap.PAGESIZE // 2, "backed": True, "huge_page_size": 0}, ValueError),
    ],
)
def test_G2_a_wrong_shape_is_refused(shape: dict[str, object], error: type[Exception]) -> None:
    """Not an int: TypeError; out of range: ValueError; both name the argument."""
    with pytest.raises(error, match="|".join(shape)):
        PageAllocator(**shape)


@pytest.mark.parametrize("value", [0, -1])
def test_G2_no_pages_at_all_can_not_be_asked_for(pages: PageAllocator, value: int) -> None:
    """A number of pages is at least 1."""
    pages.grow(0, CHUNK)
    cache = pages.cache()
    for call in (
        pages.allocate,
        pages.find,
        cache.allocate,
        lambda n: pages.free(0, n),
        lambda n: pages.allocate_range(0, n),
    ):
        with pytest.raises(ValueError, match="npages"):
            call(value)
        with pytest.raises(TypeError):
            call(1.5)


@pytest.mark.parametrize("npages", [513, 1 << 63, 1 << 64, 1 << 200])
def test_G3_what_can_never_fit_is_None(pages: PageAllocator, npages: int) -> None:
    """However large the number."""
    pages.grow(0, CHUNK)

    assert (None, None, None) == (pages.allocate(npages), pages.find(npages), pages.cache().allocate(npages))


@pytest.mark.parametrize(("level", "index"), [(5, 0), (-1, 0), (0, 1 << 14), (4, 1 << 26), (2, -1)])
def test_G2_summaries_outside_a_level_are_IndexErrors(pages: PageAllocator, level: int, index: int) -> None:
    """There is no such entry."""
    with pytest.raises(IndexError):
        pages.summary(level, index)


@pytest.mark.parametrize("i", [0, -1, 1 << 26, 1 << 99])
def test_G2_unknown_chunks_are_KeyErrors(pages: PageAllocator, i: int) -> None:
    """Wherever they are."""
    with pytest.raises(KeyError):
        pages.chunk(i)
