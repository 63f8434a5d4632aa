"""What the parts of the extents share: lock, records set aside, cutting and joining, where idle ranges are put.

Thread-safety: one lock; functions want it held unless they take it themselves. Whoever lets it go in between has taken
what it works on, and counts as away; a fork waits for those to return.
Invariants: for each active extent a spare record is promised, so that its tail can be given up without allocating; an
extent never crosses from one region to another where maps do not coalesce; each page of a region is an extent's and in
use on its shelf, or nobody's and free there.
Does not decide what is handed out (extent), or when it goes back (extentpurge).
Follows: jemalloc's extent and ecache; is_head, serial numbers and the rules of merging are its own.
"""

import cython
from cython.cimports.freehold.core.bits import bits_get, bits_next_set
from cython.cimports.freehold.core.decay import decay_note
from cython.cimports.freehold.core.emap import (
    EMAP_SLAB_BYTES,
    EXTENT_ACTIVE,
    EXTENT_DEAD,
    EXTENT_NO_CLASS,
    EXTENT_PAGE,
    EXTENT_RETAINED,
    EXTENT_SHIFT,
    EmapRegion,
    Extent,
    emap_add_slab,
    emap_at,
    emap_enter,
    emap_give,
    emap_leave,
    emap_region,
    emap_take,
    extent_end,
)
from cython.cimports.freehold.core.eset import Eset, eset_insert, eset_put_back, eset_remove
from cython.cimports.freehold.core.extentbook import (
    EXTENT_SHELVES,
    MERGE_DEAD,
    MERGE_HEAD,
    MERGE_NOT_NEIGHBOURS,
    MERGE_OK,
    MERGE_STATE,
    Extents,
    ExtentView,
    extents_decay_of,
)
from cython.cimports.freehold.core.fault import FREE_OK
from cython.cimports.freehold.core.machine import (
    futex_wait,
    futex_wake,
    least,
    memset,
    round_down,
    should,
    store32_release,
)
from cython.cimports.freehold.core.pagebook import Pages, pages_lock, pages_reset, pages_unlock
from cython.cimports.freehold.core.pages import pages_free_scavenged, pages_read_chunk
from cython.cimports.freehold.core.space import BLOCK_BYTES, BLOCK_SHIFT
from cython.cimports.freehold.core.sync import mutex_lock, mutex_reset, mutex_unlock
from cython.cimports.freehold.core.vm import vm_map
from cython.cimports.libc.stdint import uint32_t, uint64_t

# ---- the lock ----


def extents_lock(x: cython.pointer[Extents]) -> cython.void:
    mutex_lock(cython.address(x.lock))


def extents_unlock(x: cython.pointer[Extents]) -> cython.void:
    mutex_unlock(cython.address(x.lock))


def extents_leave(x: cython.pointer[Extents]) -> cython.void:
    x.away += 1
    extents_unlock(x)


def extents_return(x: cython.pointer[Extents]) -> cython.void:
    extents_lock(x)
    x.away -= 1
    store32_release(cython.address(x.returned), x.returned + 1)
    futex_wake(cython.address(x.returned), 1 << 30)


def extents_lock_all(x: cython.pointer[Extents]) -> cython.void:
    extents_lock(x)
    while x.away > 0:
        seen: uint32_t = x.returned
        extents_unlock(x)
        futex_wait(cython.address(x.returned), seen, -1)
        extents_lock(x)
    i: cython.int
    for i in range(EXTENT_SHELVES):
        pages_lock(cython.address(x.shelf[i]))


def extents_unlock_all(x: cython.pointer[Extents]) -> cython.void:
    i: cython.int
    for i in range(EXTENT_SHELVES):
        pages_unlock(cython.address(x.shelf[i]))
    extents_unlock(x)


def extents_reset(x: cython.pointer[Extents]) -> cython.void:
    i: cython.int
    for i in range(EXTENT_SHELVES):
        pages_reset(cython.address(x.shelf[i]))
    mutex_reset(cython.address(x.lock))


# ---- records: set aside before they are needed ----


def extents_stock(x: cython.pointer[Extents], records: uint64_t) -> cython.bint:
    while x.map.spares < x.active + records:
        memory: uint64_t = 0
        extents_leave(x)
        error: cython.int = vm_map(EMAP_SLAB_BYTES, cython.address(memory))
        extents_return(x)
        if error:
            return x.map.spares >= x.active + records
        emap_add_slab(cython.address(x.map), memory)
    return True


# ---- cutting and joining ----


def extents_may_split(x: cython.pointer[Extents], e: cython.pointer[Extent], pages: uint64_t) -> cython.bint:
    """Whether an extent that is taken may be cut after so many pages."""
    if x.config.hooks.split == cython.NULL:
        return True
    size: uint64_t = e.pages << EXTENT_SHIFT
    first: uint64_t = pages << EXTENT_SHIFT
    extents_leave(x)
    allowed: cython.bint = x.config.hooks.split(x.config.hooks.context, e.address, size, first, size - first)
    extents_return(x)
    return allowed


def extents_cut(x: cython.pointer[Extents], e: cython.pointer[Extent], pages: uint64_t) -> cython.pointer[Extent]:
    rest: cython.pointer[Extent] = emap_take(cython.address(x.map))
    emap_leave(cython.address(x.map), e)
    rest.address = e.address + (pages << EXTENT_SHIFT)
    rest.pages = e.pages - pages
    rest.serial = e.serial
    rest.turn = e.turn
    rest.is_head = False
    if x.config.maps_coalesce:  # only then a region may begin inside an extent
        region: cython.pointer[EmapRegion] = emap_region(cython.address(x.map), rest.address)
        rest.is_head = region.base == rest.address
    e.pages = pages
    emap_enter(cython.address(x.map), e)
    emap_enter(cython.address(x.map), rest)
    return rest


def extents_mergeable(
    x: cython.pointer[Extents], a: cython.pointer[cython.const[Extent]], b: cython.pointer[cython.const[Extent]]
) -> cython.int:
    """Whether the second of two may be joined to the first. What has a record is committed: that never parts them."""
    if a.state == EXTENT_DEAD or b.state == EXTENT_DEAD:
        return MERGE_DEAD
    if extent_end(a) != b.address:
        return MERGE_NOT_NEIGHBOURS
    if a.state != b.state:
        return MERGE_STATE
    if b.is_head and not x.config.maps_coalesce:
        return MERGE_HEAD
    should(x.config.maps_coalesce or a.serial == b.serial, b"extents of one region have its serial number")
    return MERGE_OK


def extents_ask_merge(
    x: cython.pointer[Extents], a: cython.pointer[cython.const[Extent]], b: uint64_t, size_b: uint64_t
) -> cython.bint:
    if x.config.hooks.merge == cython.NULL:
        return True
    size_a: uint64_t = a.pages << EXTENT_SHIFT
    extents_leave(x)
    allowed: cython.bint = x.config.hooks.merge(x.config.hooks.context, a.address, size_a, b, size_b)
    extents_return(x)
    return allowed


def extents_join(x: cython.pointer[Extents], a: cython.pointer[Extent], b: cython.pointer[Extent]) -> cython.void:
    emap_leave(cython.address(x.map), a)
    emap_leave(cython.address(x.map), b)
    a.pages += b.pages
    a.serial = least(a.serial, b.serial)
    emap_enter(cython.address(x.map), a)
    emap_give(cython.address(x.map), b)


# ---- idle: dirty or muzzy ----


def extents_idle(x: cython.pointer[Extents], s: cython.pointer[Eset], e: cython.pointer[Extent]) -> cython.void:
    """Put a taken extent into a set, merged with its neighbours there. A neighbour is asked about once."""
    decay_note(extents_decay_of(x, s), e.pages)
    refused_low: cython.bint = False
    refused_high: cython.bint = False
    while True:
        other: cython.pointer[Extent] = cython.NULL if refused_low else extents_idle_beside(x, s, e, True)
        below: cython.bint = other != cython.NULL
        if other == cython.NULL and not refused_high:
            other = extents_idle_beside(x, s, e, False)
        if other == cython.NULL:
            break
        eset_remove(s, other)
        low: cython.pointer[Extent] = other if below else e
        high: cython.pointer[Extent] = e if below else other
        if extents_ask_merge(x, low, high.address, high.pages << EXTENT_SHIFT):
            extents_join(x, low, high)
            e = low
        else:
            eset_put_back(s, other)
            refused_low = refused_low or below
            refused_high = refused_high or not below
    eset_insert(s, e)


def extents_idle_beside(
    x: cython.pointer[Extents], s: cython.pointer[Eset], e: cython.pointer[Extent], below: cython.bint
) -> cython.pointer[Extent]:
    """The neighbour of a taken extent that is in this set and may be merged with it; or NULL."""
    other: cython.pointer[Extent]
    head: cython.pointer[Extent] = e
    if below:
        other = emap_at(cython.address(x.map), e.address - EXTENT_PAGE)
    else:
        other = emap_at(cython.address(x.map), extent_end(e))
        head = other
    if other == cython.NULL or other.state != s.state or (head.is_head and not x.config.maps_coalesce):
        return cython.NULL
    should(x.config.maps_coalesce or e.serial == other.serial, b"extents of one region have its serial number")
    return other


# ---- retained: free and scavenged pages ----


def extents_shelf(x: cython.pointer[Extents], address: uint64_t) -> cython.pointer[Pages]:
    return cython.address(x.shelf[emap_region(cython.address(x.map), address).shelf])


def extents_retain(x: cython.pointer[Extents], e: cython.pointer[Extent]) -> cython.void:
    """A taken extent whose memory the OS has becomes free pages."""
    emap_leave(cython.address(x.map), e)
    state: cython.int = pages_free_scavenged(extents_shelf(x, e.address), e.address, e.pages)
    should(state == FREE_OK, b"an extent's pages are in use on its shelf")
    emap_give(cython.address(x.map), e)


def extents_unretain(x: cython.pointer[Extents], e: cython.pointer[Extent]) -> cython.void:
    region: cython.pointer[EmapRegion] = emap_region(cython.address(x.map), e.address)
    e.is_head = region.base == e.address
    e.serial = region.serial
    while extent_end(e) > region.base + region.size:  # into the next one
        region = emap_region(cython.address(x.map), region.base + region.size)
        e.serial = least(e.serial, region.serial)


# ---- describing ----


def extents_describe(e: cython.pointer[cython.const[Extent]], into: cython.pointer[ExtentView]) -> cython.void:
    into.extent = cython.cast(cython.pointer[Extent], e)
    into.birth = e.birth
    into.address = e.address
    into.size = e.pages << EXTENT_SHIFT
    into.serial = e.serial
    into.turn = e.turn
    into.state = e.state
    into.size_class = e.size_class if e.state == EXTENT_ACTIVE else EXTENT_NO_CLASS
    into.is_head = e.is_head
    into.zeroed = False


def extents_describe_retained(
    x: cython.pointer[Extents], address: uint64_t, into: cython.pointer[ExtentView]
) -> cython.bint:
    """All free pages in a row around an address, in one region; False if its page is not free."""
    used = cython.declare(uint64_t[8])
    scavenged = cython.declare(uint64_t[8])
    region: cython.pointer[EmapRegion] = emap_region(cython.address(x.map), address)
    if region == cython.NULL:
        return False
    shelf: cython.pointer[Pages] = cython.address(x.shelf[region.shelf])
    first: uint64_t = round_down(address, EXTENT_PAGE)
    if not pages_read_chunk(shelf, first >> BLOCK_SHIFT, used, scavenged):
        return False  # the region is being made known
    if bits_get(used, (first >> EXTENT_SHIFT) % 512):
        return False
    end: uint64_t = first
    while end < region.base + region.size:
        pages_read_chunk(shelf, end >> BLOCK_SHIFT, used, scavenged)
        stop: uint64_t = bits_next_set(used, (end >> EXTENT_SHIFT) % 512, 512)
        end = round_down(end, BLOCK_BYTES) + (stop << EXTENT_SHIFT)
        if stop < 512:
            break
    while first > region.base:
        before: uint64_t = first - EXTENT_PAGE
        pages_read_chunk(shelf, before >> BLOCK_SHIFT, used, scavenged)
        if bits_get(used, (before >> EXTENT_SHIFT) % 512):
            break
        first = before
    memset(into, 0, cython.sizeof(ExtentView))
    into.address = first
    into.size = end - first
    into.serial = region.serial
    into.state = EXTENT_RETAINED
    into.size_class = EXTENT_NO_CLASS
    into.is_head = first == region.base
    return True
