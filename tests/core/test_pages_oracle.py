"""The page allocator against a model that keeps one set of page numbers for each thing it knows."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from freehold.errors import BadFree
from freehold.face.page_allocator import PageAllocator, PageCache

CHUNK_PAGES = 512
# Chunks where runs cross chunks, eighths of every level, and tracts of 2^21 pages; and the last of the address space.
PLACES = [0, 1, 2, 3, 7, 8, 9, 62, 63, 64, 511, 512, 4094, 4095, 4096, 4097, 8192, (1 << 15) - 1]


class Model:
    """Sets of page numbers: known, used, scavenged, and what caches hold."""

    def __init__(self, huge_pages: int) -> None:
        self.known: set[int] = set()
        self.used: set[int] = set()
        self.scavenged: set[int] = set()
        self.huge_pages = huge_pages

    def free(self) -> list[int]:
        return sorted(self.known - self.used)

    def lowest_run(self, npages: int) -> int | None:
        length, last = 0, -2
        for page in self.free():
            length = length + 1 if page == last + 1 else 1
            if length == npages:
                return page - npages + 1
            last = page
        return None

    def use(self, pages: range | set[int]) -> int:
        were = self.scavenged & set(pages)
        self.scavenged -= were
        self.used |= set(pages)
        return len(were)

    def scavenge(self, want: int) -> int:
        idle = self.known - self.used - self.scavenged
        taken = sorted(idle, reverse=True)[:want]
        if taken and self.huge_pages > 1:
            first = taken[-1] // self.huge_pages * self.huge_pages
            huge = set(range(first, first + self.huge_pages))
            if huge <= idle:
                taken = list(set(taken) | huge)
        self.scavenged |= set(taken)
        return len(taken)

    def ranges(self, chunks: set[int]) -> list[tuple[int, int]]:
        """Return chunks as merged (first, end)."""
        result: list[tuple[int, int]] = []
        for chunk in sorted(chunks):
            if result and result[-1][1] == chunk:
                result[-1] = (result[-1][0], chunk + 1)
            else:
                result.append((chunk, chunk + 1))
        return result


class PageMachine(RuleBasedStateMachine):
    runs = Bundle("runs")
    caches = Bundle("caches")

    @initialize(
        page_shift=st.sampled_from([0, 3, 13]),
        huge_pages=st.sampled_from([0, 2, 64, 256, 512]),
        places=st.lists(st.sampled_from(PLACES), min_size=1, max_size=4, unique=True),
    )
    def start(self, page_shift: int, huge_pages: int, places: list[int]) -> None:
        self.page = 1 << page_shift
        self.chunk = CHUNK_PAGES * self.page
        self.pages = PageAllocator(
            address_bits=page_shift + 9 + 15, page_size=self.page, huge_page_size=huge_pages * self.page
        )
        self.model = Model(huge_pages)
        self.cached: dict[int, tuple[PageCache, set[int], set[int]]] = {}
        for place in places:
            self.grow(place, 1)

    def teardown(self) -> None:
        if hasattr(self, "pages"):
            self.pages.check()
            self.pages.close()

    @rule(place=st.sampled_from(PLACES), n=st.integers(1, 3))
    def grow_more(self, place: int, n: int) -> None:
        self.grow(place, n)

    def grow(self, place: int, n: int) -> None:
        new = set(range(place * CHUNK_PAGES, (place + n) * CHUNK_PAGES))
        if new & self.model.known or place + n > 1 << 15:
            with pytest.raises(ValueError, match="size"):
                self.pages.grow(place * self.chunk, n * self.chunk)
            return
        self.pages.grow(place * self.chunk, n * self.chunk)
        self.model.known |= new
        self.model.scavenged |= new

    @rule(
        target=runs,
        npages=st.one_of(st.integers(1, 5), st.integers(1, 700), st.sampled_from([64, 511, 512, 513, 1024])),
    )
    def allocate(self, npages: int):
        first = self.model.lowest_run(npages)
        found = self.pages.find(npages)
        got = self.pages.allocate(npages)
        if first is None:
            assert found is None
            assert got is None
            return multiple()
        lowest = self.model.free()[0]
        assert found is not None
        assert first * self.page == found[0]
        assert found[1] <= lowest * self.page
        assert first != lowest or found[1] == found[0]
        scavenged = self.model.use(range(first, first + npages))
        assert (first * self.page, scavenged * self.page) == got
        return (first, npages)

    @rule(target=runs, chunk=st.sampled_from(PLACES), offset=st.integers(0, 511), npages=st.integers(1, 600))
    def allocate_range(self, chunk: int, offset: int, npages: int):
        first = chunk * CHUNK_PAGES + offset
        wanted = set(range(first, first + npages))
        if wanted <= self.model.known - self.model.used:
            scavenged = self.model.use(wanted)
            assert scavenged * self.page == self.pages.allocate_range(first * self.page, npages)
            return (first, npages)
        with pytest.raises(ValueError, match="unknown or in use"):
            self.pages.allocate_range(first * self.page, npages)
        return multiple()

    @rule(run=runs, start=st.integers(0, 700), n=st.integers(1, 700))
    def free(self, run: tuple[int, int], start: int, n: int) -> None:
        """Free a part of a run, or of what it was: some of it may be free again, or forgotten, or in a cache."""
        first = run[0] + start % run[1]
        npages = min(n, run[0] + run[1] - first)
        wanted = set(range(first, first + npages))
        aside = set().union(*(held for _, held, _ in self.cached.values()))
        reason = None
        if not wanted <= self.model.known:
            reason = "foreign"
        elif not wanted <= self.model.used - aside:
            reason = "double"
        if reason is None:
            self.pages.free(first * self.page, npages)
            self.model.used -= wanted
            return
        with pytest.raises(BadFree) as caught:
            self.pages.free(first * self.page, npages)
        assert reason == caught.value.reason

    @rule(nbytes=st.integers(0, 2000), part=st.integers(0, 7), background=st.booleans())
    def scavenge(self, nbytes: int, part: int, background: bool) -> None:
        asked = nbytes * self.page + part if nbytes else 0
        key = "scavenged_background_bytes" if background else "scavenged_eager_bytes"
        before = self.pages.stats()[key]
        released = self.model.scavenge(-(-asked // self.page)) * self.page
        assert released == self.pages.scavenge(asked, background=background)
        assert released == self.pages.stats()[key] - before

    @precondition(lambda self: len(self.model.known) > 3 * CHUNK_PAGES)
    @rule()
    def shrink(self) -> None:
        idle = self.model.scavenged - self.model.used
        gone = {
            page // CHUNK_PAGES
            for page in self.model.known
            if page % CHUNK_PAGES == 0 and idle.issuperset(range(page, page + CHUNK_PAGES))
        }
        expected = [(a * self.chunk, (b - a) * self.chunk) for a, b in self.model.ranges(gone)]
        assert expected == self.pages.shrink()
        pages = {page for chunk in gone for page in range(chunk * CHUNK_PAGES, (chunk + 1) * CHUNK_PAGES)}
        self.model.known -= pages
        self.model.scavenged -= pages

    @rule(target=caches)
    def cache(self):
        cache = self.pages.cache()
        free = self.model.free()
        if not free:
            assert (None, 0, 0, True) == (cache.base, cache.free, cache.scavenged, cache.empty)
            return multiple()
        group = free[0] // 64 * 64
        held = {page for page in range(group, group + 64) if page in self.model.known - self.model.used}
        scavenged = held & self.model.scavenged
        self.model.use(held)
        assert group * self.page == cache.base
        self.cached[id(cache)] = (cache, held, scavenged)
        return cache

    @rule(cache=caches, npages=st.integers(1, 66), target=runs)
    def allocate_from_cache(self, cache: PageCache, npages: int):
        _, held, scavenged = self.cached.get(id(cache), (None, set(), set()))
        starts = [page for page in sorted(held) if held.issuperset(range(page, page + npages))]
        got = cache.allocate(npages)
        if not starts:
            assert got is None
            return multiple()
        taken = set(range(starts[0], starts[0] + npages))
        assert (starts[0] * self.page, len(taken & scavenged) * self.page) == got
        held -= taken
        scavenged -= taken
        return (starts[0], npages)

    @rule(cache=caches)
    def flush(self, cache: PageCache) -> None:
        _, held, scavenged = self.cached.pop(id(cache), (None, set(), set()))
        cache.flush()
        cache.flush()
        assert cache.empty
        self.model.used -= held
        self.model.scavenged |= scavenged

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "pages"):
            return
        model, free = self.model, self.model.free()
        stats = self.pages.stats()
        held = sum(len(pages) for _, pages, _ in self.cached.values())
        assert (len(model.known), len(model.used), len(free), len(model.scavenged), held) == (
            stats["pages"],
            stats["in_use_pages"],
            stats["free_pages"],
            stats["scavenged_pages"],
            stats["cached_pages"],
        )
        chunks = {page // CHUNK_PAGES for page in model.known}
        known = [(a * self.chunk, b * self.chunk) for a, b in model.ranges(chunks)]
        assert known == self.pages.in_use
        hint = self.pages.search_address
        if not free:
            assert hint is None
        else:
            assert hint is not None
            assert hint <= free[0] * self.page
            assert hint // self.page in model.known
        for cache, pages, scavenged in self.cached.values():
            base = cache.base // self.page
            assert (sum(1 << page - base for page in pages), sum(1 << page - base for page in scavenged)) == (
                cache.free,
                cache.scavenged,
            )

    @rule(address=st.integers(0, 1 << 37))
    def first_known(self, address: int) -> None:
        above = [max(address, page * self.page) for page in self.model.known if (page + 1) * self.page > address]
        assert min(above, default=None) == self.pages.first_known(address)

    @rule(place=st.sampled_from(PLACES))
    def read_chunk(self, place: int) -> None:
        base = place * CHUNK_PAGES
        if base not in self.model.known:
            with pytest.raises(KeyError):
                self.pages.chunk(place)
            return
        expected = tuple(
            sum(1 << i for i in range(CHUNK_PAGES) if base + i in pages)
            for pages in (self.model.used, self.model.scavenged)
        )
        assert expected == self.pages.chunk(place)

    @rule(place=st.sampled_from(PLACES), level=st.integers(0, 4))
    def read_summary(self, place: int, level: int) -> None:
        pages = CHUNK_PAGES * 8 ** (4 - level)
        index = place * CHUNK_PAGES // pages
        free = [page - index * pages for page in self.model.free() if page // pages == index]
        runs: list[list[int]] = []
        for page in free:
            if runs and runs[-1][-1] == page - 1:
                runs[-1].append(page)
            else:
                runs.append([page])
        expected = (
            len(runs[0]) if runs and runs[0][0] == 0 else 0,
            max(map(len, runs), default=0),
            len(runs[-1]) if runs and runs[-1][-1] == pages - 1 else 0,
        )
        assert expected == self.pages.summary(level, index)


PageMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_P1_to_P9_agree_with_a_model_of_sets() -> None:
    """Whatever is done in whatever order, every answer is the model's."""
    run_state_machine_as_test(PageMachine)
