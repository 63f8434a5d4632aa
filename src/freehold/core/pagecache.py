"""Caches of pages: the free ones of a group of 64, set aside at once and then handed out without the lock.

Thread-safety: any thread; a page is taken by one compare-and-swap. Filling and flushing take the allocator's lock.
Invariants: `scavenged` lies within `free`; what is in a cache is marked used in its allocator.
Does not free pages it handed out: pages_free does.
Follows: Go's per-processor page cache.
"""

import cython
from cython.cimports.freehold.core.machine import (
    NOWHERE,
    ctz,
    fetch_and64,
    least,
    load64_acquire,
    mask,
    memset,
    most,
    popcount,
    round_down,
    store64_release,
    swap64_if,
)
from cython.cimports.freehold.core.pagebook import Pages, PagesCache, pages_abort, pages_refresh
from cython.cimports.freehold.core.pagetree import tree_lowest_free, tree_mark_releasable, tree_tract
from cython.cimports.freehold.core.sync import mutex_lock, mutex_unlock
from cython.cimports.freehold.core.tract import (
    CHUNK_PAGES,
    CHUNK_SHIFT,
    TRACT_CHUNKS,
    TRACT_SHIFT,
    TREE_LIES,
    PageChunk,
    PageTract,
    erode,
)
from cython.cimports.libc.stdint import uint64_t


def pages_cache_fill(p: cython.pointer[Pages], c: cython.pointer[PagesCache]) -> cython.void:
    memset(c, 0, cython.sizeof(PagesCache))
    mutex_lock(cython.address(p.lock))
    page: uint64_t = tree_lowest_free(cython.address(p.tree))
    if page == TREE_LIES():
        pages_abort(p)
    if page != NOWHERE:
        tract: cython.pointer[PageTract] = tree_tract(cython.address(p.tree), page >> TRACT_SHIFT)
        chunk: cython.pointer[PageChunk] = cython.address(tract.chunk[(page >> CHUNK_SHIFT) % TRACT_CHUNKS])
        word: uint64_t = page % CHUNK_PAGES // 64
        c.page_shift = p.page_shift
        c.base = round_down(page, 64) << p.page_shift
        c.free = ~chunk.used[word]
        c.scavenged = ~chunk.resident[word]  # what is not resident is free
        c.next = p.caches
        c.pages = p
        p.caches = c
        chunk.used[word] = ~cython.cast(uint64_t, 0)
        chunk.resident[word] = ~cython.cast(uint64_t, 0)
        p.used_pages += popcount(c.free)
        p.scavenged_pages -= popcount(c.scavenged)
        p.hint = most(p.hint, page | 63)
        pages_refresh(p, page)
    mutex_unlock(cython.address(p.lock))


def pages_cache_allocate(
    c: cython.pointer[PagesCache],
    npages: uint64_t,
    address: cython.pointer[uint64_t],
    scavenged: cython.pointer[uint64_t],
) -> cython.bint:
    if npages == 0 or npages > 64:
        return False
    free: uint64_t = load64_acquire(cython.address(c.free))
    while True:
        starts: uint64_t = erode(free, npages)
        if starts == 0:
            return False
        run: uint64_t = mask(npages) << ctz(starts)
        if swap64_if(cython.address(c.free), cython.address(free), free & ~run):
            break
    # The bits of the run are this thread's now: nobody else touches them in `scavenged`.
    were: uint64_t = fetch_and64(cython.address(c.scavenged), ~run) & run
    address[0] = c.base + (cython.cast(uint64_t, ctz(run)) << c.page_shift)
    scavenged[0] = cython.cast(uint64_t, popcount(were)) << c.page_shift
    return True


def pages_cache_flush(c: cython.pointer[PagesCache]) -> cython.void:
    p: cython.pointer[Pages] = pages_cache_owner(c)
    if p == cython.NULL:
        return
    mutex_lock(cython.address(p.lock))
    if pages_cache_owner(c) != cython.NULL:
        rest: uint64_t = fetch_and64(cython.address(c.free), 0)
        were: uint64_t = fetch_and64(cython.address(c.scavenged), ~rest) & rest
        pages_cache_unlink(p, c)
        if rest:
            pages_give_back(p, c.base >> p.page_shift, rest, were)
    mutex_unlock(cython.address(p.lock))


def pages_give_back(p: cython.pointer[Pages], group: uint64_t, free: uint64_t, scavenged: uint64_t) -> cython.void:
    """Free some pages of a group of 64, some of those scavenged."""
    tract: cython.pointer[PageTract] = tree_tract(cython.address(p.tree), group >> TRACT_SHIFT)
    index: uint64_t = (group >> CHUNK_SHIFT) % TRACT_CHUNKS
    word: uint64_t = group % CHUNK_PAGES // 64
    tract.chunk[index].used[word] &= ~free
    tract.chunk[index].resident[word] &= ~scavenged
    if free & ~scavenged:
        tree_mark_releasable(tract, index)
    p.used_pages -= popcount(free)
    p.scavenged_pages += popcount(scavenged)
    p.hint = least(p.hint, group + ctz(free))
    pages_refresh(p, group)


def pages_cache_owner(c: cython.pointer[PagesCache]) -> cython.pointer[Pages]:
    word: uint64_t = load64_acquire(cython.cast(cython.pointer[uint64_t], cython.address(c.pages)))
    return cython.cast(cython.pointer[Pages], word)


def pages_cache_unlink(p: cython.pointer[Pages], c: cython.pointer[PagesCache]) -> cython.void:
    link: cython.pointer[cython.pointer[PagesCache]] = cython.address(p.caches)
    while link[0] != c:
        link = cython.address(link[0].next)
    link[0] = c.next
    store64_release(cython.cast(cython.pointer[uint64_t], cython.address(c.pages)), 0)
