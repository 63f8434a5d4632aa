"""What can be read of extents: which one an address lies in, lists, figures, and the check of it all.

Thread-safety: functions take the lock of the extents unless they say otherwise.
Invariants, which `extents_check` proves: each page of a region belongs to one extent, whose first and last page lead to
it, or is free on its shelf; the sets are sound; all pages are counted.
Does not change anything. What somebody works on at the moment is in no state, and told of by nobody.
"""

import cython
from cython.cimports.freehold.core.emap import (
    EXTENT_ACTIVE,
    EXTENT_DIRTY,
    EXTENT_MUZZY,
    EXTENT_PAGE,
    EXTENT_RETAINED,
    EXTENT_SHIFT,
    EXTENT_STATES,
    EXTENT_TAKEN,
    EmapRegion,
    Extent,
    emap_at,
    emap_find,
    extent_end,
)
from cython.cimports.freehold.core.eset import EsetWrong, eset_is_sound
from cython.cimports.freehold.core.extentbook import (
    EXTENT_SHELVES,
    Extents,
    ExtentView,
    extents_describe,
    extents_describe_retained,
    extents_lock,
    extents_set,
    extents_unlock,
)
from cython.cimports.freehold.core.extentview import ExtentStats, ExtentWrong
from cython.cimports.freehold.core.machine import CHECK, abort, getpid, load64_relaxed, memset, tell
from cython.cimports.freehold.core.pagebook import Pages
from cython.cimports.freehold.core.pages import PagesStats, pages_read_chunk, pages_read_stats
from cython.cimports.freehold.core.space import BLOCK_SHIFT
from cython.cimports.libc.stdint import uint32_t, uint64_t

# ---- addresses and lists ----


def extents_lookup(x: cython.pointer[Extents], address: uint64_t, into: cython.pointer[ExtentView]) -> cython.bint:
    extents_lock(x)
    e: cython.pointer[Extent] = emap_find(cython.address(x.map), address)
    found: cython.bint = e != cython.NULL and e.state != EXTENT_TAKEN
    if found:
        extents_describe(e, into)
    elif e == cython.NULL:
        found = extents_describe_retained(x, address, into)
    extents_unlock(x)
    return found


def extents_list(
    x: cython.pointer[Extents], state: uint32_t, into: cython.pointer[ExtentView], room: uint64_t
) -> uint64_t:
    """Retained ranges come by the age of their regions, then by address."""
    n: uint64_t = 0
    view = cython.declare(ExtentView)
    extents_lock(x)
    if state == EXTENT_RETAINED:
        r: cython.pointer[EmapRegion] = x.map.oldest
        while r != cython.NULL:
            address: uint64_t = r.base
            while extents_next_retained(x, r, address, cython.address(view)):
                if n < room:
                    into[n] = view
                n += 1
                address = view.address + view.size
            r = r.next
    else:
        e: cython.pointer[Extent] = extents_set(x, state).oldest
        while e != cython.NULL:
            if n < room:
                extents_describe(e, cython.address(into[n]))
            n += 1
            e = e.newer
    extents_unlock(x)
    return n


def extents_next_retained(
    x: cython.pointer[Extents], r: cython.pointer[EmapRegion], address: uint64_t, into: cython.pointer[ExtentView]
) -> cython.bint:
    """The first retained range of a region at or after the end of another, or of an extent. Under the lock."""
    while address < r.base + r.size:
        e: cython.pointer[Extent] = emap_find(cython.address(x.map), address)
        if e != cython.NULL:
            address = extent_end(e)
        elif extents_describe_retained(x, address, into):
            return True
        else:  # pages that somebody is taking
            address += EXTENT_PAGE
    return False


def extents_is_retained(x: cython.pointer[Extents], address: uint64_t, size: uint64_t) -> cython.bint:
    view = cython.declare(ExtentView)
    end: uint64_t = address + size
    extents_lock(x)
    while address < end and extents_describe_retained(x, address, cython.address(view)):
        address = view.address + view.size
    extents_unlock(x)
    return address >= end


def extents_read_stats(x: cython.pointer[Extents], into: cython.pointer[ExtentStats]) -> cython.void:
    pages = cython.declare(PagesStats)
    extents_lock(x)
    into.active = x.active
    into.active_pages = x.active_pages
    into.dirty_pages = load64_relaxed(cython.address(x.dirty.pages))
    into.muzzy_pages = load64_relaxed(cython.address(x.muzzy.pages))
    into.regions = x.map.regions
    into.allocations = x.allocations
    into.allocated_pages = x.allocated_pages
    into.purged_bytes = x.purged_bytes
    into.refusals = x.refusals
    into.metadata_bytes = x.map.metadata_bytes + x.bytes
    into.retained_pages = 0
    i: cython.int
    for i in range(EXTENT_SHELVES):
        pages_read_stats(cython.address(x.shelf[i]), cython.address(pages))
        into.retained_pages += pages.free_pages
        into.metadata_bytes += pages.metadata_bytes
    extents_unlock(x)


# ---- checking ----


def extents_check(x: cython.pointer[Extents], wrong: cython.pointer[ExtentWrong]) -> cython.bint:
    extents_lock(x)
    sound: cython.bint = extents_is_sound(x, wrong)
    extents_unlock(x)
    return sound


def extents_verify(x: cython.pointer[Extents]) -> cython.void:
    wrong = cython.declare(ExtentWrong)
    if CHECK < 2 or x.map.chunks > 4 or extents_is_sound(x, cython.address(wrong)):
        return
    tell(
        b"freehold: fatal: extents: %s: at %p, expected %llu, found %llu pid=%d\n",
        wrong.law,
        cython.cast(cython.p_void, wrong.address),
        cython.cast(cython.ulonglong, wrong.expected),
        cython.cast(cython.ulonglong, wrong.found),
        getpid(),
    )
    abort()


def extents_is_sound(x: cython.pointer[Extents], wrong: cython.pointer[ExtentWrong]) -> cython.bint:
    pages = cython.declare(uint64_t[EXTENT_STATES])  # found, by state
    of_set = cython.declare(EsetWrong)
    memset(pages, 0, EXTENT_STATES * cython.sizeof(uint64_t))
    memset(wrong, 0, cython.sizeof(ExtentWrong))
    s: cython.int
    for s in range(EXTENT_DIRTY, EXTENT_MUZZY + 1):
        if not eset_is_sound(extents_set(x, s), cython.address(of_set)):
            return not extents_differ(wrong, of_set.law, of_set.expected, of_set.found)
    r: cython.pointer[EmapRegion] = x.map.oldest
    while r != cython.NULL:
        if not extents_walk(x, r, pages, wrong):
            return False
        r = r.next
    if extents_differ(wrong, b"active pages are counted", pages[EXTENT_ACTIVE], x.active_pages):
        return False
    if extents_differ(wrong, b"dirty pages are in their set", pages[EXTENT_DIRTY], x.dirty.pages):
        return False
    return not extents_differ(wrong, b"muzzy pages are in their set", pages[EXTENT_MUZZY], x.muzzy.pages)


def extents_walk(
    x: cython.pointer[Extents],
    r: cython.pointer[EmapRegion],
    pages: cython.pointer[uint64_t],
    wrong: cython.pointer[ExtentWrong],
) -> cython.bint:
    """Go over a region: what begins there, and what is retained."""
    view = cython.declare(ExtentView)
    words = cython.declare(uint64_t[16])
    shelf: cython.pointer[Pages] = cython.address(x.shelf[r.shelf])
    if not pages_read_chunk(shelf, r.base >> BLOCK_SHIFT, words, words + 8):
        return True  # it is being made known
    address: uint64_t = r.base
    before: cython.pointer[Extent] = emap_find(cython.address(x.map), r.base)
    if before != cython.NULL and before.address < r.base:
        address = extent_end(before)
    while address < r.base + r.size:
        e: cython.pointer[Extent] = emap_at(cython.address(x.map), address)
        wrong.address = address
        if e == cython.NULL:
            if not extents_describe_retained(x, address, cython.address(view)):
                return not extents_differ(wrong, b"a page is an extent's or free", True, False)
            address = view.address + view.size
        elif e.address != address or emap_at(cython.address(x.map), extent_end(e) - EXTENT_PAGE) != e:
            return not extents_differ(wrong, b"the ends of an extent lead to it", e.address, address)
        elif extents_describe_retained(x, address, cython.address(view)):
            return not extents_differ(
                wrong, b"an extent's pages are in use on their shelf", e.pages, view.size >> EXTENT_SHIFT
            )
        else:
            pages[e.state] += e.pages
            address = extent_end(e)
    return True


def extents_differ(
    wrong: cython.pointer[ExtentWrong], law: cython.p_const_char, expected: uint64_t, found: uint64_t
) -> cython.bint:
    wrong.law = law
    wrong.expected = expected
    wrong.found = found
    return expected != found
