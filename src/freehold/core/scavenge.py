"""Giving back what a page allocator does not use: free pages to the OS, and free chunks to whoever grew it.

Thread-safety: any thread, any time. A run is claimed, purged without the lock, and put back as scavenged.
Invariant: the search for pages only goes down, so that every call ends; what the OS refuses stays free and resident.
Does not know when to give back: its callers keep the time.
Follows: Go's scavenger; that chunks are forgotten is ours.
"""

import cython
from cython.cimports.freehold.core.bits import bits_all_clear, bits_all_set, bits_get
from cython.cimports.freehold.core.machine import NOWHERE, clz, least, mask, round_down
from cython.cimports.freehold.core.pagebook import (
    MARK_FREE,
    MARK_SCAVENGED,
    MARK_USED,
    Pages,
    PagesClaim,
    pages_claim,
    pages_mark,
    pages_unclaim,
    pages_verify,
)
from cython.cimports.freehold.core.pagetree import (
    PageTree,
    tree_forget,
    tree_highest_releasable,
    tree_lowest_free,
    tree_next_known,
    tree_tract,
    tree_unmark_releasable,
)
from cython.cimports.freehold.core.scavenge import PAGES_PURGE_SLICE
from cython.cimports.freehold.core.summary import summary_free
from cython.cimports.freehold.core.sync import mutex_lock, mutex_unlock
from cython.cimports.freehold.core.tract import (
    CHUNK_PAGES,
    CHUNK_SHIFT,
    TRACT_CHUNKS,
    TRACT_LEAF,
    PageChunk,
    PageTract,
    tract_knows,
    tract_leaf,
)
from cython.cimports.freehold.core.vm import vm_purge_now
from cython.cimports.libc.stdint import uint32_t, uint64_t

# ---- scavenging: free pages go back to the OS, from the top down ----


def pages_scavenge(p: cython.pointer[Pages], nbytes: uint64_t, background: cython.bint) -> uint64_t:
    want: uint64_t = (nbytes >> p.page_shift) + (nbytes & mask(p.page_shift) != 0)
    total: uint64_t = 0  # pages
    ceiling: uint64_t = NOWHERE  # what lies above was looked at; it only falls, so that this ends
    while total < want and ceiling > 0:
        ceiling = pages_release(p, ceiling, want - total, background, cython.address(total))
    return total << p.page_shift


def pages_release(
    p: cython.pointer[Pages],
    ceiling: uint64_t,
    want: uint64_t,
    background: cython.bint,
    total: cython.pointer[uint64_t],
) -> uint64_t:
    """Release the highest run of free resident pages below a page; return where it began, 0 if there was none."""
    claim = cython.declare(PagesClaim)
    page: uint64_t = 0
    error: cython.int = 0
    mutex_lock(cython.address(p.lock))
    n: uint64_t = pages_pick(p, ceiling, want, cython.address(page))
    if n > 0 and p.backed:
        pages_mark(p, page, n, MARK_USED)
        pages_claim(p, cython.address(claim), page, n)
        mutex_unlock(cython.address(p.lock))
        error = pages_purge(p, page, n)
        mutex_lock(cython.address(p.lock))
        pages_unclaim(p, cython.address(claim))
    if n > 0:
        pages_mark(p, page, n, MARK_FREE if error else MARK_SCAVENGED)
        p.hint = least(p.hint, page)
        pages_count_release(p, 0 if error else n, background)
        total[0] += 0 if error else n
        pages_verify(p)
    mutex_unlock(cython.address(p.lock))
    return page


def pages_count_release(p: cython.pointer[Pages], n: uint64_t, background: cython.bint) -> cython.void:
    p.scavenged_pages += n
    if n == 0:
        p.refusals += 1
    elif background:
        p.background_bytes += n << p.page_shift
    else:
        p.eager_bytes += n << p.page_shift


def pages_purge(p: cython.pointer[Pages], page: uint64_t, npages: uint64_t) -> cython.int:
    address: uint64_t = page << p.page_shift
    limit: uint64_t = (page + npages) << p.page_shift
    while address < limit:
        size: uint64_t = least(limit - address, PAGES_PURGE_SLICE)
        error: cython.int = vm_purge_now(address, size)
        if error:
            return error
        address += size
    return 0


def pages_pick(p: cython.pointer[Pages], ceiling: uint64_t, want: uint64_t, page: cython.pointer[uint64_t]) -> uint64_t:
    """The highest run of free resident pages that lies below a page and in one chunk, as far as wanted; 0: none."""
    free = cython.declare(uint64_t[8])
    while ceiling > 0:
        chunk: uint64_t = tree_highest_releasable(cython.address(p.tree), (ceiling - 1) >> CHUNK_SHIFT)
        if chunk == NOWHERE:
            return 0
        tract: cython.pointer[PageTract] = tree_tract(cython.address(p.tree), chunk // TRACT_CHUNKS)
        c: cython.pointer[PageChunk] = cython.address(tract.chunk[chunk % TRACT_CHUNKS])
        base: uint64_t = chunk << CHUNK_SHIFT
        any: uint64_t = 0
        i: cython.int
        for i in range(8):
            free[i] = c.resident[i] & ~c.used[i]
            any |= free[i]
        if any == 0:
            tree_unmark_releasable(tract, chunk % TRACT_CHUNKS)  # its pages have been allocated since
        first: uint64_t = 0
        end: uint64_t = bits_last_run(free, least(ceiling - base, CHUNK_PAGES), cython.address(first))
        if end > 0:
            if end - first > want:
                first = pages_cut(p, free, first=end - want, end=end)
            page[0] = base + first
            return end - first
        ceiling = base
    return 0


def pages_cut(
    p: cython.pointer[Pages], free: cython.pointer[cython.const[uint64_t]], first: uint64_t, end: uint64_t
) -> uint64_t:
    """Where a run that is cut at `first` should begin: below, if that spares a huge page from being split."""
    if p.huge_pages < 2:
        return first
    huge: uint64_t = round_down(first, p.huge_pages)
    return huge if huge + p.huge_pages <= end and bits_all_set(free, huge, p.huge_pages) else first


def bits_last_run(
    words: cython.pointer[cython.const[uint64_t]], below: uint64_t, first: cython.pointer[uint64_t]
) -> uint64_t:
    """The end of the last run of set bits below a bit, and where it begins; 0: none."""
    end: uint64_t = below
    while end > 0 and not bits_get(words, end - 1):
        word: uint64_t = words[(end - 1) // 64] & mask((end - 1) % 64 + 1)
        end = round_down(end - 1, 64) + (64 - clz(word) if word else 0)
    at: uint64_t = end
    while at > 0 and bits_get(words, at - 1):
        word = ~words[(at - 1) // 64] & mask((at - 1) % 64 + 1)
        at = round_down(at - 1, 64) + (64 - clz(word) if word else 0)
    first[0] = at
    return end


# ---- shrinking: free chunks without memory are forgotten ----


def pages_shrink(
    p: cython.pointer[Pages], from_: uint64_t, base: cython.pointer[uint64_t], size: cython.pointer[uint64_t]
) -> cython.bint:
    t: cython.pointer[PageTree] = cython.address(p.tree)
    shift: uint32_t = p.page_shift + CHUNK_SHIFT
    mutex_lock(cython.address(p.lock))
    chunk: uint64_t = tree_next_known(t, (from_ + mask(shift)) >> shift)
    while chunk != NOWHERE and not pages_may_forget(p, chunk):
        chunk = tree_next_known(t, chunk + 1)
    if chunk != NOWHERE:
        n: uint64_t = 1
        while pages_may_forget(p, chunk + n):
            n += 1
        pages_forget(p, chunk, n)
        base[0] = chunk << shift
        size[0] = n << shift
    mutex_unlock(cython.address(p.lock))
    return chunk != NOWHERE


def pages_shrink_range(p: cython.pointer[Pages], base: uint64_t, size: uint64_t) -> cython.bint:
    shift: uint32_t = p.page_shift + CHUNK_SHIFT
    n: uint64_t = 0
    mutex_lock(cython.address(p.lock))
    while n < size >> shift and pages_may_forget(p, (base >> shift) + n):
        n += 1
    if n == size >> shift:
        pages_forget(p, base >> shift, n)
    mutex_unlock(cython.address(p.lock))
    return n == size >> shift


def pages_may_forget(p: cython.pointer[Pages], chunk: uint64_t) -> cython.bint:
    """Whether a chunk is known, wholly free and wholly scavenged."""
    tract: cython.pointer[PageTract] = tree_tract(cython.address(p.tree), chunk // TRACT_CHUNKS)
    i: uint64_t = chunk % TRACT_CHUNKS
    if not tract_knows(tract, i) or tract_leaf(tract, i) != summary_free(TRACT_LEAF):
        return False
    return bits_all_clear(tract.chunk[i].resident, 0, CHUNK_PAGES)


def pages_forget(p: cython.pointer[Pages], chunk: uint64_t, n: uint64_t) -> cython.void:
    t: cython.pointer[PageTree] = cython.address(p.tree)
    tree_forget(t, chunk, n)
    p.chunks -= n
    p.scavenged_pages -= n * CHUNK_PAGES
    if p.hint >= chunk << CHUNK_SHIFT:  # it may point into what is gone
        p.hint = tree_lowest_free(t)
        known: uint64_t = tree_next_known(t, 0)
        if p.hint == NOWHERE and known != NOWHERE:
            p.hint = known << CHUNK_SHIFT
    pages_verify(p)
