"""Which pages of some addresses are in use: the lowest run of n free pages, with or without memory behind them.

Thread-safety: one lock of rank PAGES; any thread, any time. It is never held over a system call.
Invariants: tables are mapped by pages_grow alone, all or nothing, before the lock is taken: allocating and freeing need
no memory, and a free never fails. What is handed out is the lowest run that fits.
Does not map the memory it hands out, or give it back (scavenge).
Follows: Go's page allocator.
"""

import cython
from cython.cimports.freehold.core.bits import bits_next_clear
from cython.cimports.freehold.core.fault import FREE_DOUBLE, FREE_INTERIOR, FREE_OK
from cython.cimports.freehold.core.machine import (
    CHECK,
    EEXIST,
    EINVAL,
    ENOMEM,
    NOWHERE,
    least,
    load64_relaxed,
    mask,
    memset,
    most,
    popcount,
    round_down,
    round_up,
)
from cython.cimports.freehold.core.pagebook import (
    MARK_FREE,
    MARK_SCAVENGED,
    MARK_USED,
    Mark,
    Pages,
    PagesCache,
    PagesClaim,
    PagesMap,
    PagesWrong,
    pages_abort,
    pages_claim,
    pages_claimed,
    pages_hint_address,
    pages_is_sound,
    pages_lock,
    pages_mark,
    pages_state,
    pages_unclaim,
    pages_unlock,
    pages_verify,
    pages_wait,
)
from cython.cimports.freehold.core.pagecache import pages_cache_unlink
from cython.cimports.freehold.core.pages import PagesStats
from cython.cimports.freehold.core.pagetree import (
    tree_find,
    tree_know,
    tree_lowest_free,
    tree_missing_bytes,
    tree_next_known,
    tree_next_unknown,
    tree_open,
    tree_read,
    tree_tract,
)
from cython.cimports.freehold.core.summary import summary_max
from cython.cimports.freehold.core.sync import RANK_PAGES, mutex_init, mutex_lock, mutex_unlock
from cython.cimports.freehold.core.tract import (
    CHUNK_PAGES,
    CHUNK_SHIFT,
    TRACT_CHUNKS,
    TRACT_SHIFT,
    TREE_LIES,
    PageTract,
    Summary,
    chunk_find,
    tract_knows,
    tract_leaf,
    tract_path_is_sound,
)
from cython.cimports.freehold.core.vm import vm_advise_huge, vm_facts, vm_map, vm_unmap_metadata
from cython.cimports.libc.stdint import uint32_t, uint64_t

# ---- opening and closing ----


def pages_open(
    p: cython.pointer[Pages],
    address_bits: uint32_t,
    page_shift: uint32_t,
    huge_page_size: uint64_t,
    backed: cython.bint,
) -> cython.void:
    memset(p, 0, cython.sizeof(Pages))
    mutex_init(cython.address(p.lock), RANK_PAGES)
    p.backed = backed
    p.address_bits = address_bits
    p.page_shift = page_shift
    p.huge_pages = huge_page_size >> page_shift
    p.hint = NOWHERE
    tree_open(cython.address(p.tree), address_bits - page_shift - TRACT_SHIFT)
    p.is_open = True


def pages_close(p: cython.pointer[Pages]) -> cython.void:
    """What comes later finds an allocator that knows nothing."""
    pages_lock(p)
    maps: cython.pointer[PagesMap] = p.maps
    while p.caches != cython.NULL:
        pages_cache_unlink(p, p.caches)
    tree_open(cython.address(p.tree), p.address_bits - p.page_shift - TRACT_SHIFT)
    p.is_open = False
    p.maps = cython.NULL
    p.hint = NOWHERE
    p.chunks = 0
    p.used_pages = 0
    p.scavenged_pages = 0
    p.metadata_bytes = 0
    pages_unlock(p)
    while maps != cython.NULL:
        next: cython.pointer[PagesMap] = maps.next
        vm_unmap_metadata(cython.cast(uint64_t, maps), maps.size)
        maps = next


# ---- growing: the only place where tables are mapped ----


def pages_grow(p: cython.pointer[Pages], base: uint64_t, size: uint64_t) -> cython.int:
    """Tables are mapped between two looks at what is missing; another thread may have brought it meanwhile."""
    memory: uint64_t = 0
    bytes: uint64_t = 0
    need: uint64_t = 0
    while True:
        mutex_lock(cython.address(p.lock))
        error: cython.int = pages_need(p, base, size, cython.address(need))
        fits: cython.bint = need == 0 or (need != NOWHERE and need + cython.sizeof(PagesMap) <= bytes)
        if not error and fits:
            pages_install(p, base, size, memory if need else 0, bytes)
        mutex_unlock(cython.address(p.lock))
        if error or fits:
            break
        error = pages_map_more(p, need, cython.address(memory), cython.address(bytes))
        if error:
            return error
    if memory and (error or need == 0):
        vm_unmap_metadata(memory, bytes)
    return error


def pages_need(p: cython.pointer[Pages], base: uint64_t, size: uint64_t, need: cython.pointer[uint64_t]) -> cython.int:
    """How many bytes of tables are missing to know a range, or why it can not be known."""
    chunk: uint64_t = base >> (p.page_shift + CHUNK_SHIFT)
    n: uint64_t = size >> (p.page_shift + CHUNK_SHIFT)
    if not p.is_open:
        return EINVAL
    known: uint64_t = tree_next_known(cython.address(p.tree), chunk)
    if known != NOWHERE and known < chunk + n:
        return EEXIST
    need[0] = tree_missing_bytes(cython.address(p.tree), chunk, n)
    return 0


def pages_map_more(
    p: cython.pointer[Pages], need: uint64_t, memory: cython.pointer[uint64_t], bytes: cython.pointer[uint64_t]
) -> cython.int:
    """Change a mapping for tables, if there is one, for one that is large enough."""
    if need == NOWHERE:
        return ENOMEM
    if memory[0]:
        vm_unmap_metadata(memory[0], bytes[0])
        memory[0] = 0
    bytes[0] = round_up(need + cython.sizeof(PagesMap), vm_facts().page_size)
    error: cython.int = vm_map(bytes[0], memory)
    if error:
        memory[0] = 0
    elif p.huge_metadata:
        vm_advise_huge(memory[0], bytes[0])
    return error


def pages_install(
    p: cython.pointer[Pages], base: uint64_t, size: uint64_t, memory: uint64_t, bytes: uint64_t
) -> cython.void:
    """Know a range, with a mapping for what tables are missing (0: none are)."""
    if memory:
        m: cython.pointer[PagesMap] = cython.cast(cython.pointer[PagesMap], memory)
        m.size = bytes
        m.next = p.maps
        p.maps = m
        p.metadata_bytes += bytes
        memory += cython.sizeof(PagesMap)
    n: uint64_t = size >> (p.page_shift + CHUNK_SHIFT)
    tree_know(cython.address(p.tree), base >> (p.page_shift + CHUNK_SHIFT), n, memory)
    p.chunks += n
    p.scavenged_pages += n * CHUNK_PAGES
    p.hint = least(p.hint, base >> p.page_shift)
    pages_verify(p)


def pages_huge_metadata(p: cython.pointer[Pages]) -> cython.bint:
    """Tables mapped later are advised as they are mapped."""
    claim = cython.declare(PagesClaim)  # of no pages: keeps pages_close from unmapping what is advised below
    pages_lock(p)
    m: cython.pointer[PagesMap] = cython.NULL if p.huge_metadata else p.maps
    p.huge_metadata = True
    pages_claim(p, cython.address(claim), 0, 0)
    pages_unlock(p)
    refused: cython.bint = False
    while m != cython.NULL:
        refused = vm_advise_huge(cython.cast(uint64_t, m), m.size) != 0 or refused
        m = m.next
    mutex_lock(cython.address(p.lock))
    p.huge_refused = p.huge_refused or refused
    refused = p.huge_refused
    pages_unclaim(p, cython.address(claim))
    pages_unlock(p)
    return not refused


# ---- allocating ----


def pages_search(p: cython.pointer[Pages], npages: uint64_t) -> uint64_t:
    """The lowest run of free pages; NOWHERE if there is none. Raises the hint where that costs nothing."""
    found: uint64_t = pages_search_hint(p, npages)
    if found == NOWHERE:
        found = tree_find(cython.address(p.tree), npages)
    if found == TREE_LIES() or (found == NOWHERE and CHECK and not pages_refusal_is_right(p)):
        pages_abort(p)
    return found


def pages_search_hint(p: cython.pointer[Pages], npages: uint64_t) -> uint64_t:
    """Look into the hint's chunk alone: no free page lies below the hint."""
    if p.hint == NOWHERE:
        return NOWHERE
    tract: cython.pointer[PageTract] = tree_tract(cython.address(p.tree), p.hint >> TRACT_SHIFT)
    chunk: uint64_t = (p.hint >> CHUNK_SHIFT) % TRACT_CHUNKS
    if CHECK and not tract_path_is_sound(tract, chunk):
        return TREE_LIES()
    if summary_max(tract_leaf(tract, chunk)) < npages:
        return NOWHERE
    used: cython.pointer[uint64_t] = tract.chunk[chunk].used
    base: uint64_t = round_down(p.hint, CHUNK_PAGES)
    first: uint64_t = bits_next_clear(used, p.hint - base, CHUNK_PAGES)
    found: uint64_t = chunk_find(used, first, npages) if first < CHUNK_PAGES else NOWHERE
    if found == NOWHERE:
        return TREE_LIES()
    p.hint = base + first
    return base + found


def pages_refusal_is_right(p: cython.pointer[Pages]) -> cython.bint:
    """Debug: nothing fits only if the summaries are right. Not asked of the very large, where it would take seconds."""
    wrong = cython.declare(PagesWrong)
    return p.chunks > 16 * TRACT_CHUNKS or pages_is_sound(p, cython.address(wrong))


def pages_use(p: cython.pointer[Pages], page: uint64_t, npages: uint64_t) -> uint64_t:
    """Mark a run of free pages used, and return how many were scavenged."""
    if pages_state(p, page, npages, False) != FREE_OK:
        pages_abort(p)
    scavenged: uint64_t = pages_mark(p, page, npages, MARK_USED)
    p.used_pages += npages
    p.scavenged_pages -= scavenged
    return scavenged


def pages_take(p: cython.pointer[Pages], npages: uint64_t, scavenged: cython.pointer[uint64_t]) -> uint64_t:
    page: uint64_t = pages_search(p, npages)
    if page == NOWHERE:
        return NOWHERE
    scavenged[0] = pages_use(p, page, npages) << p.page_shift
    if page == p.hint:  # past the run; but not out of its last chunk: what follows may be unknown
        p.hint = most(page, round_down(page + npages - 1, CHUNK_PAGES))
        p.hint = least(page + npages, p.hint | (CHUNK_PAGES - 1))
    elif page >> CHUNK_SHIFT != p.hint >> CHUNK_SHIFT:
        lowest: uint64_t = tree_lowest_free(cython.address(p.tree))
        p.hint = lowest if lowest < TREE_LIES() else p.hint
    pages_verify(p)
    return page


def pages_try_allocate(
    p: cython.pointer[Pages], npages: uint64_t, address: cython.pointer[uint64_t], scavenged: cython.pointer[uint64_t]
) -> cython.bint:
    mutex_lock(cython.address(p.lock))
    page: uint64_t = pages_take(p, npages, scavenged)
    mutex_unlock(cython.address(p.lock))
    address[0] = page << p.page_shift
    return page != NOWHERE


def pages_allocate(
    p: cython.pointer[Pages], npages: uint64_t, address: cython.pointer[uint64_t], scavenged: cython.pointer[uint64_t]
) -> cython.bint:
    mutex_lock(cython.address(p.lock))
    page: uint64_t = pages_take(p, npages, scavenged)
    while page == NOWHERE and p.claims != cython.NULL:
        pages_wait(p)
        page = pages_take(p, npages, scavenged)
    mutex_unlock(cython.address(p.lock))
    address[0] = page << p.page_shift
    return page != NOWHERE


def pages_allocate_range(
    p: cython.pointer[Pages], address: uint64_t, npages: uint64_t, scavenged: cython.pointer[uint64_t]
) -> cython.bint:
    page: uint64_t = address >> p.page_shift
    mutex_lock(cython.address(p.lock))
    while pages_claimed(p, page, npages):
        pages_wait(p)
    free: cython.bint = pages_state(p, page, npages, False) == FREE_OK
    if free:
        scavenged[0] = pages_use(p, page, npages) << p.page_shift
        pages_verify(p)
    mutex_unlock(cython.address(p.lock))
    return free


# ---- freeing ----


def pages_free(p: cython.pointer[Pages], address: uint64_t, npages: uint64_t) -> cython.int:
    return pages_free_as(p, address, npages, MARK_FREE)


def pages_free_scavenged(p: cython.pointer[Pages], address: uint64_t, npages: uint64_t) -> cython.int:
    return pages_free_as(p, address, npages, MARK_SCAVENGED)


def pages_free_as(p: cython.pointer[Pages], address: uint64_t, npages: uint64_t, how: Mark) -> cython.int:
    page: uint64_t = address >> p.page_shift
    if page << p.page_shift != address:
        return FREE_INTERIOR
    mutex_lock(cython.address(p.lock))
    state: cython.int = pages_state(p, page, npages, True)
    if state == FREE_OK and pages_set_aside(p, page, npages):
        state = FREE_DOUBLE
    if state == FREE_OK:
        pages_mark(p, page, npages, how)
        p.used_pages -= npages
        p.scavenged_pages += npages if how == MARK_SCAVENGED else 0
        p.hint = least(p.hint, page)
        pages_verify(p)
    mutex_unlock(cython.address(p.lock))
    return state


def pages_set_aside(p: cython.pointer[Pages], page: uint64_t, npages: uint64_t) -> cython.bint:
    """Whether a page of a run is marked used but nobody's: claimed, or in a cache."""
    if pages_claimed(p, page, npages):
        return True
    c: cython.pointer[PagesCache] = p.caches
    while c != cython.NULL:
        group: uint64_t = c.base >> p.page_shift
        if group < page + npages and page < group + 64:
            first: uint64_t = most(page, group) - group
            last: uint64_t = least(page + npages - group, 64)
            if load64_relaxed(cython.address(c.free)) & mask(last) & ~mask(first):
                return True
        c = c.next
    return False


# ---- reading ----


def pages_find(
    p: cython.pointer[Pages], npages: uint64_t, address: cython.pointer[uint64_t], hint: cython.pointer[uint64_t]
) -> cython.bint:
    mutex_lock(cython.address(p.lock))
    page: uint64_t = tree_find(cython.address(p.tree), npages)
    lowest: uint64_t = tree_lowest_free(cython.address(p.tree)) if page != NOWHERE else 0
    if page == TREE_LIES() or lowest == TREE_LIES():
        pages_abort(p)
    mutex_unlock(cython.address(p.lock))
    address[0] = page << p.page_shift
    hint[0] = lowest << p.page_shift
    return page != NOWHERE


def pages_search_address(p: cython.pointer[Pages]) -> uint64_t:
    mutex_lock(cython.address(p.lock))
    address: uint64_t = pages_hint_address(p)
    mutex_unlock(cython.address(p.lock))
    return address


def pages_next_known(
    p: cython.pointer[Pages], from_: uint64_t, base: cython.pointer[uint64_t], limit: cython.pointer[uint64_t]
) -> cython.bint:
    shift: uint32_t = p.page_shift + CHUNK_SHIFT
    mutex_lock(cython.address(p.lock))
    chunk: uint64_t = tree_next_known(cython.address(p.tree), from_ >> shift)
    if chunk != NOWHERE:
        base[0] = chunk << shift
        limit[0] = tree_next_unknown(cython.address(p.tree), chunk) << shift
    mutex_unlock(cython.address(p.lock))
    return chunk != NOWHERE


def pages_read_chunk(
    p: cython.pointer[Pages], chunk: uint64_t, used: cython.pointer[uint64_t], scavenged: cython.pointer[uint64_t]
) -> cython.bint:
    mutex_lock(cython.address(p.lock))
    tract: cython.pointer[PageTract] = tree_tract(cython.address(p.tree), chunk // TRACT_CHUNKS)
    known: cython.bint = tract_knows(tract, chunk % TRACT_CHUNKS)
    i: cython.int
    if known:
        for i in range(8):
            used[i] = tract.chunk[chunk % TRACT_CHUNKS].used[i]
            scavenged[i] = ~tract.chunk[chunk % TRACT_CHUNKS].resident[i]
    mutex_unlock(cython.address(p.lock))
    return known


def pages_read_summary(
    p: cython.pointer[Pages], level: uint32_t, index: uint64_t, into: cython.pointer[Summary]
) -> cython.void:
    mutex_lock(cython.address(p.lock))
    tree_read(cython.address(p.tree), level, index, into)
    mutex_unlock(cython.address(p.lock))


def pages_read_stats(p: cython.pointer[Pages], into: cython.pointer[PagesStats]) -> cython.void:
    mutex_lock(cython.address(p.lock))
    into.chunks = p.chunks
    into.pages = p.chunks * CHUNK_PAGES
    into.in_use_pages = p.used_pages
    into.free_pages = into.pages - p.used_pages
    into.scavenged_pages = p.scavenged_pages
    into.scavenged_background_bytes = p.background_bytes
    into.scavenged_eager_bytes = p.eager_bytes
    into.refusals = p.refusals
    into.metadata_bytes = p.metadata_bytes
    into.cached_pages = 0
    c: cython.pointer[PagesCache] = p.caches
    while c != cython.NULL:
        into.cached_pages += popcount(load64_relaxed(cython.address(c.free)))
        c = c.next
    mutex_unlock(cython.address(p.lock))
