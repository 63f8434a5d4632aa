"""Ranges with a life: handed out, idle, purged, and handed out again.

Thread-safety: any thread, any time. Of threads that race to free one extent, one wins. Where there are hooks, the lock
is let go while they run: what they work on is taken then, and nobody else's.
Invariants: idle memory is used before any that would have to be faulted in; a free needs no memory; an allocation that
fails has changed nothing, but for a region that came too late for it and is retained.
Does not find free pages among retained ones (pages does), nor decide when something goes back (extentpurge).
Follows: jemalloc's extents.
"""

import cython
from cython.cimports.freehold.core.budget import budget_give, budget_take
from cython.cimports.freehold.core.decay import decay_open
from cython.cimports.freehold.core.emap import (
    EMAP_BITS,
    EXTENT_ACTIVE,
    EXTENT_DIRTY,
    EXTENT_MUZZY,
    EXTENT_NO_CLASS,
    EXTENT_PAGE,
    EXTENT_SHIFT,
    EXTENT_TAKEN,
    EmapRegion,
    Extent,
    emap_at,
    emap_close,
    emap_enter,
    emap_find,
    emap_region,
    emap_take,
    extent_end,
)
from cython.cimports.freehold.core.eset import (
    Eset,
    eset_find,
    eset_first_is,
    eset_insert_before,
    eset_open,
    eset_put_back,
    eset_remove,
)
from cython.cimports.freehold.core.extentbook import (
    EXTENT_SHELVES,
    EXTENTS_CLOSED,
    ExtentConfig,
    Extents,
    ExtentView,
    extents_cut,
    extents_describe,
    extents_idle,
    extents_lock,
    extents_may_split,
    extents_retain,
    extents_shelf,
    extents_stock,
    extents_unlock,
    extents_unretain,
)
from cython.cimports.freehold.core.extentgrow import extents_drop_regions, extents_grow, extents_make_committed
from cython.cimports.freehold.core.extentpurge import extents_settle
from cython.cimports.freehold.core.extentview import extents_verify
from cython.cimports.freehold.core.fault import FREE_DOUBLE, FREE_INTERIOR, FREE_OK
from cython.cimports.freehold.core.machine import (
    ENOMEM,
    NOWHERE,
    bit,
    least,
    load32_acquire,
    memset,
    most,
    round_up,
    swap32_if,
)
from cython.cimports.freehold.core.pages import (
    pages_allocate_range,
    pages_close,
    pages_find,
    pages_free_scavenged,
    pages_open,
    pages_try_allocate,
)
from cython.cimports.freehold.core.sizes import sizes_default, sizes_index
from cython.cimports.freehold.core.sync import RANK_EXTENTS, mutex_init
from cython.cimports.freehold.core.vm import vm_map, vm_unmap_metadata
from cython.cimports.libc.stdint import uint32_t, uint64_t

# ---- opening and closing ----


def extents_open(
    config: cython.pointer[cython.const[ExtentConfig]], into: cython.pointer[cython.pointer[Extents]]
) -> cython.int:
    memory: uint64_t = 0
    bytes: uint64_t = round_up(cython.sizeof(Extents), 4096)
    error: cython.int = vm_map(bytes, cython.address(memory))
    if error:
        return error
    x: cython.pointer[Extents] = cython.cast(cython.pointer[Extents], memory)
    mutex_init(cython.address(x.lock), RANK_EXTENTS)
    x.config = config[0]
    x.bytes = bytes
    eset_open(cython.address(x.dirty), EXTENT_DIRTY)
    eset_open(cython.address(x.muzzy), EXTENT_MUZZY)
    decay_open(cython.address(x.dirty_decay), config.dirty_ns)
    decay_open(cython.address(x.muzzy_decay), config.muzzy_ns)
    i: cython.int
    for i in range(EXTENT_SHELVES):
        pages_open(cython.address(x.shelf[i]), EMAP_BITS, EXTENT_SHIFT, 0, False)
    into[0] = x
    return 0


def extents_enter(x: cython.pointer[Extents]) -> cython.bint:
    seen: uint32_t = load32_acquire(cython.address(x.users))
    while not seen & EXTENTS_CLOSED:
        if swap32_if(cython.address(x.users), cython.address(seen), seen + 1):
            return True
    return False


def extents_exit(x: cython.pointer[Extents]) -> cython.void:
    seen: uint32_t = load32_acquire(cython.address(x.users))
    while not swap32_if(cython.address(x.users), cython.address(seen), seen - 1):
        pass
    if seen == EXTENTS_CLOSED + 1:
        extents_end(x)


def extents_close(x: cython.pointer[Extents]) -> cython.bint:
    if not extents_enter(x):
        return False
    seen: uint32_t = load32_acquire(cython.address(x.users))
    while not seen & EXTENTS_CLOSED:
        if swap32_if(cython.address(x.users), cython.address(seen), seen | EXTENTS_CLOSED):
            extents_exit(x)
            return True
    extents_exit(x)
    return False


def extents_end(x: cython.pointer[Extents]) -> cython.void:
    """Nobody is inside, and nobody comes in any more."""
    resident: uint64_t = x.active_pages + x.dirty.pages + x.muzzy.pages
    extents_drop_regions(x)
    i: cython.int
    for i in range(EXTENT_SHELVES):
        pages_close(cython.address(x.shelf[i]))
    emap_close(cython.address(x.map))
    if x.config.budget != cython.NULL:
        budget_give(x.config.budget, resident << EXTENT_SHIFT)


def extents_dispose(x: cython.pointer[Extents]) -> cython.void:
    vm_unmap_metadata(cython.cast(uint64_t, x), x.bytes)


# ---- from idle to active and back ----


def extents_is_live(e: cython.pointer[Extent], birth: uint64_t) -> cython.bint:
    return e.birth == birth and e.state == EXTENT_ACTIVE


def extents_activate(x: cython.pointer[Extents], e: cython.pointer[Extent]) -> cython.void:
    e.state = EXTENT_ACTIVE
    e.size_class = sizes_index(sizes_default(), e.pages << EXTENT_SHIFT)
    x.active += 1
    x.active_pages += e.pages


def extents_deactivate(x: cython.pointer[Extents], e: cython.pointer[Extent]) -> cython.void:
    e.state = EXTENT_TAKEN
    e.size_class = EXTENT_NO_CLASS
    x.active -= 1
    x.active_pages -= e.pages


def extents_allocate(x: cython.pointer[Extents], size: uint64_t, zero: cython.bint) -> uint64_t:
    view = cython.declare(ExtentView)
    pages: uint64_t = (most(size, 1) + EXTENT_PAGE - 1) >> EXTENT_SHIFT
    if not zero:
        address: uint64_t = extents_take_again(x, pages)
        if address:
            return address
    if extents_obtain(x, pages, zero, cython.address(view)):
        return 0
    if zero and not view.zeroed:
        memset(cython.cast(cython.p_void, view.address), 0, size)
    return view.address


def extents_take_again(x: cython.pointer[Extents], pages: uint64_t) -> uint64_t:
    """What extents_obtain does, in fewer instructions, where an idle extent of just this size is the one to take."""
    address: uint64_t = 0
    extents_lock(x)
    e: cython.pointer[Extent] = eset_first_is(cython.address(x.dirty), pages)
    if cython.likely(e != cython.NULL and x.map.spares > x.active):
        eset_remove(cython.address(x.dirty), e)
        extents_activate(x, e)
        x.allocations += 1
        x.allocated_pages += pages
        address = e.address
        extents_verify(x)
    extents_unlock(x)
    return address


def extents_obtain(
    x: cython.pointer[Extents], pages: uint64_t, zero: cython.bint, into: cython.pointer[ExtentView]
) -> cython.int:
    if pages > bit(EMAP_BITS - EXTENT_SHIFT):
        return ENOMEM
    fresh: cython.bint = False
    extents_lock(x)
    e: cython.pointer[Extent] = extents_new(x, pages, zero, cython.address(fresh))
    if e != cython.NULL:
        extents_activate(x, e)
        x.allocations += 1
        x.allocated_pages += pages
        extents_describe(e, into)
        into.zeroed = fresh and extents_reads_zero(x, e)
    extents_verify(x)
    extents_unlock(x)
    return 0 if e != cython.NULL else ENOMEM


def extents_new(
    x: cython.pointer[Extents], pages: uint64_t, zero: cython.bint, fresh: cython.pointer[cython.bint]
) -> cython.pointer[Extent]:
    """Dirty, muzzy, retained, new: what is resident costs nothing, what is not counts against the budget first."""
    if not extents_stock(x, 2):
        return cython.NULL
    e: cython.pointer[Extent] = extents_take_idle(x, cython.address(x.dirty), pages)
    if e == cython.NULL:
        e = extents_take_idle(x, cython.address(x.muzzy), pages)
    if e != cython.NULL:
        return e
    fresh[0] = True
    if x.config.budget != cython.NULL and not budget_take(x.config.budget, pages << EXTENT_SHIFT):
        return cython.NULL
    e = extents_take_retained(x, pages, zero)
    if e == cython.NULL and x.config.budget != cython.NULL:
        budget_give(x.config.budget, pages << EXTENT_SHIFT)
    return e


def extents_take_idle(x: cython.pointer[Extents], s: cython.pointer[Eset], pages: uint64_t) -> cython.pointer[Extent]:
    """The extent of a set that fits best, cut to size. Those that a hook does not let be cut are passed over."""
    aside: cython.pointer[Extent] = cython.NULL  # linked by `left`
    e: cython.pointer[Extent] = eset_find(s, pages)
    while e != cython.NULL:
        newer: cython.pointer[Extent] = e.newer
        eset_remove(s, e)
        if e.pages == pages:
            break
        if extents_may_split(x, e, pages) and extents_stock(x, 2):
            extents_put_rest(x, s, extents_cut(x, e, pages), newer)
            break
        e.left = aside
        aside = e
        e = eset_find(s, pages)
    while aside != cython.NULL:
        next: cython.pointer[Extent] = aside.left
        eset_put_back(s, aside)
        aside = next
    return e


def extents_put_rest(
    x: cython.pointer[Extents], s: cython.pointer[Eset], rest: cython.pointer[Extent], newer: cython.pointer[Extent]
) -> cython.void:
    """What is left over of an idle extent keeps its age: its place is known, unless the lock was let go meanwhile."""
    if x.config.hooks.split == cython.NULL and x.config.hooks.merge == cython.NULL:
        eset_insert_before(s, rest, newer)
    else:
        eset_put_back(s, rest)


def extents_take_retained(x: cython.pointer[Extents], pages: uint64_t, zero: cython.bint) -> cython.pointer[Extent]:
    address: uint64_t = 0
    while not extents_take_pages(x, pages, cython.address(address)):
        if extents_grow(x, pages, zero) != 0:
            return cython.NULL
    if not extents_stock(x, 2):
        pages_free_scavenged(extents_shelf(x, address), address, pages)
        return cython.NULL
    e: cython.pointer[Extent] = extents_from_retained(x, address, pages)
    if extents_make_committed(x, e):
        return e
    extents_retain(x, e)
    return cython.NULL


def extents_take_pages(x: cython.pointer[Extents], pages: uint64_t, address: cython.pointer[uint64_t]) -> cython.bint:
    """The lowest run of free pages on any shelf."""
    scavenged: uint64_t = 0
    if x.config.maps_coalesce:
        return pages_try_allocate(cython.address(x.shelf[0]), pages, address, cython.address(scavenged))
    lowest: uint64_t = NOWHERE
    found: uint64_t = 0
    hint: uint64_t = 0
    i: cython.int
    for i in range(EXTENT_SHELVES):
        if pages_find(cython.address(x.shelf[i]), pages, cython.address(found), cython.address(hint)):
            lowest = least(lowest, found)
    address[0] = lowest
    if lowest == NOWHERE:
        return False
    return pages_allocate_range(extents_shelf(x, lowest), lowest, pages, cython.address(scavenged))


def extents_from_retained(x: cython.pointer[Extents], address: uint64_t, pages: uint64_t) -> cython.pointer[Extent]:
    """An extent, taken, of pages that were just taken from their shelf."""
    e: cython.pointer[Extent] = emap_take(cython.address(x.map))
    e.address = address
    e.pages = pages
    extents_unretain(x, e)
    emap_enter(cython.address(x.map), e)
    return e


def extents_reads_zero(x: cython.pointer[Extents], e: cython.pointer[cython.const[Extent]]) -> cython.bint:
    """Of what was retained: whether nothing but zeros was ever there, or it was purged."""
    at: uint64_t = e.address
    while at < extent_end(e):
        r: cython.pointer[EmapRegion] = emap_region(cython.address(x.map), at)
        if not r.zeroed:
            return False
        at = r.base + r.size
    return True


def extents_deallocate(x: cython.pointer[Extents], address: uint64_t, size: cython.pointer[uint64_t]) -> cython.int:
    reason: cython.int = FREE_OK
    size[0] = 0
    extents_lock(x)
    e: cython.pointer[Extent] = emap_at(cython.address(x.map), address)
    if e != cython.NULL and e.address == address and e.state == EXTENT_ACTIVE:
        size[0] = e.pages << EXTENT_SHIFT
        extents_release(x, e)
    else:
        e = emap_find(cython.address(x.map), address)
        inside: cython.bint = e != cython.NULL and e.state == EXTENT_ACTIVE
        reason = FREE_INTERIOR if inside or address & (EXTENT_PAGE - 1) else FREE_DOUBLE
    extents_unlock(x)
    if x.dirty_decay.time == 0:
        extents_settle(x)
    return reason


def extents_give(x: cython.pointer[Extents], e: cython.pointer[Extent], birth: uint64_t) -> cython.int:
    extents_lock(x)
    live: cython.bint = extents_is_live(e, birth)
    if live:
        extents_release(x, e)
    extents_unlock(x)
    extents_settle(x)
    return FREE_OK if live else FREE_DOUBLE


def extents_release(x: cython.pointer[Extents], e: cython.pointer[Extent]) -> cython.void:
    extents_deactivate(x, e)
    extents_idle(x, cython.address(x.dirty), e)
    extents_verify(x)


def extents_usable_size(x: cython.pointer[Extents], address: uint64_t) -> uint64_t:
    size: uint64_t = 0
    extents_lock(x)
    e: cython.pointer[Extent] = emap_at(cython.address(x.map), address)
    if e != cython.NULL and e.address == address and e.state == EXTENT_ACTIVE:
        size = e.pages << EXTENT_SHIFT
    extents_unlock(x)
    return size


def extents_read(
    x: cython.pointer[Extents], e: cython.pointer[Extent], birth: uint64_t, into: cython.pointer[ExtentView]
) -> cython.bint:
    extents_lock(x)
    is_there: cython.bint = e.birth == birth
    if is_there:
        extents_describe(e, into)
    extents_unlock(x)
    return is_there
