"""The regions that extents lie in: obtained at once, from a hook or the space, and given back whole.

Thread-safety: the lock of the extents is let go while a hook or the OS works; what is worked on is taken before.
Invariants: serial numbers rise with the order in which regions were obtained; everything that extents in a region will
ever need of tables is mapped before the first of them is handed out. Where maps do not coalesce, regions that touch
stand on different shelves, so that no run of free pages leads from one to the other.
Does not choose ranges inside a region.
Follows: jemalloc's growing of retained memory; regions become larger as there are more of them, as Go's heap does.
"""

import cython
from cython.cimports.freehold.core.budget import budget_give_books, budget_take_books
from cython.cimports.freehold.core.ehooks import ehooks_alloc, ehooks_commit, ehooks_decommit, ehooks_free
from cython.cimports.freehold.core.emap import (
    EMAP_BITS,
    EXTENT_SHIFT,
    EmapRegion,
    Extent,
    emap_add_leaf,
    emap_add_region,
    emap_is_free,
    emap_is_whole,
    emap_leaf_bytes,
    emap_link_region,
    emap_missing_leaf,
    emap_region,
    emap_region_bytes,
    emap_remove_region,
    emap_unlink_region,
    extent_end,
)
from cython.cimports.freehold.core.extentbook import (
    EXTENT_BOOKS,
    EXTENT_SHELVES,
    Extents,
    extents_leave,
    extents_lock,
    extents_return,
    extents_unlock,
)
from cython.cimports.freehold.core.machine import EEXIST, ENOMEM, NOWHERE, bit, least, most, round_up, should
from cython.cimports.freehold.core.pages import pages_grow
from cython.cimports.freehold.core.scavenge import pages_shrink_range
from cython.cimports.freehold.core.space import BLOCK_BYTES, BLOCK_SHIFT
from cython.cimports.freehold.core.vm import (
    vm_advise_huge,
    vm_advise_no_huge,
    vm_bind,
    vm_map,
    vm_purge_now,
    vm_unmap_metadata,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

# ---- growing ----


def extents_grow(x: cython.pointer[Extents], pages: uint64_t, zero: cython.bint) -> cython.int:
    """Obtain a region: the blocks needed; where regions grow an eighth of what there is, up to 64 MiB, if it is had."""
    needed: uint64_t = round_up(pages << EXTENT_SHIFT, BLOCK_BYTES)
    size: uint64_t = needed
    if x.config.grows:
        size = most(needed, least(x.map.chunks // 8, 16) << BLOCK_SHIFT)
    extents_leave(x)
    base: uint64_t = extents_obtain_region(x, size, zero)
    if base == 0 and size > needed:
        size = needed
        base = extents_obtain_region(x, size, zero)
    error: cython.int = ENOMEM if base == 0 else extents_adopt(x, base, size, zero)
    if base != 0 and error:
        if error != EEXIST:
            ehooks_free(cython.address(x.config.hooks), x.config.heap, base, size)
        extents_give_books(x, size)
    extents_return(x)
    return error


def extents_obtain_region(x: cython.pointer[Extents], size: uint64_t, zero: cython.bint) -> uint64_t:
    """Its books are taken from the budget first. 0: refused."""
    if x.config.budget != cython.NULL and not budget_take_books(x.config.budget, (size >> BLOCK_SHIFT) * EXTENT_BOOKS):
        return 0
    base: uint64_t = ehooks_alloc(cython.address(x.config.hooks), x.config.heap, size, zero)
    if base == 0:
        extents_give_books(x, size)
    return base


def extents_give_books(x: cython.pointer[Extents], size: uint64_t) -> cython.void:
    if x.config.budget != cython.NULL:
        budget_give_books(x.config.budget, (size >> BLOCK_SHIFT) * EXTENT_BOOKS)


def extents_adopt(x: cython.pointer[Extents], base: uint64_t, size: uint64_t, zero: cython.bint) -> cython.int:
    """Make a region known, or change nothing. Without the lock; what was obtained is this thread's alone."""
    end: uint64_t = base + size
    if base & (BLOCK_BYTES - 1) or end > bit(EMAP_BITS) or end < base:
        return ENOMEM
    memory: uint64_t = 0
    bytes: uint64_t = emap_region_bytes(size)
    error: cython.int = vm_map(bytes, cython.address(memory))
    if error:
        return error
    r: cython.pointer[EmapRegion] = cython.cast(cython.pointer[EmapRegion], memory)
    r.base = base
    r.size = size
    r.committed = True
    r.zeroed = zero or x.config.hooks.alloc == cython.NULL
    r.metadata_bytes = bytes
    error = extents_map_leaves(x, base, size)  # on success the lock is held
    if not error and not emap_is_free(cython.address(x.map), base, size):
        extents_unlock(x)
        error = EEXIST  # a hook gave out what is ours already: it is not given back
    if error:
        vm_unmap_metadata(memory, bytes)
        return error
    r.advised = x.config.huge_pages and x.map.chunks > 0  # a heap that has shown it grows
    advise: cython.bint = r.advised
    x.serials += 1
    r.serial = x.serials
    r.shelf = extents_choose_shelf(x, base, size)
    emap_add_region(cython.address(x.map), r)
    extents_unlock(x)
    if advise:
        vm_advise_huge(base, size)
    if x.config.node >= 0:
        vm_bind(base, size, x.config.node)
    error = pages_grow(cython.address(x.shelf[r.shelf]), base, size)
    if error:
        extents_lock(x)
        emap_unlink_region(cython.address(x.map), r)
        emap_remove_region(cython.address(x.map), r)
        extents_unlock(x)
        vm_unmap_metadata(memory, bytes)
    return error


def extents_map_leaves(x: cython.pointer[Extents], base: uint64_t, size: uint64_t) -> cython.int:
    """Returns with the lock held where it succeeds."""
    extents_lock(x)
    at: uint64_t = emap_missing_leaf(cython.address(x.map), base, size)
    while at != NOWHERE:
        memory: uint64_t = 0
        extents_unlock(x)
        error: cython.int = vm_map(emap_leaf_bytes(), cython.address(memory))
        if error:
            return error
        extents_lock(x)
        next: uint64_t = emap_missing_leaf(cython.address(x.map), base, size)
        if next == at:
            emap_add_leaf(cython.address(x.map), at, memory)
            next = emap_missing_leaf(cython.address(x.map), base, size)
        else:  # another thread brought it meanwhile
            extents_unlock(x)
            vm_unmap_metadata(memory, emap_leaf_bytes())
            extents_lock(x)
        at = next
    return 0


def extents_choose_shelf(x: cython.pointer[Extents], base: uint64_t, size: uint64_t) -> uint32_t:
    """One on which no neighbour stands: of three there is always one."""
    if x.config.maps_coalesce:
        return 0
    below: cython.pointer[EmapRegion] = emap_region(cython.address(x.map), base - 1)
    above: cython.pointer[EmapRegion] = emap_region(cython.address(x.map), base + size)
    taken: uint64_t = 0
    if below != cython.NULL:
        taken |= bit(below.shelf)
    if above != cython.NULL:
        taken |= bit(above.shelf)
    shelf: uint32_t = 0
    while taken >> shelf & 1 and shelf < EXTENT_SHELVES - 1:
        shelf += 1
    return shelf


def extents_make_committed(x: cython.pointer[Extents], e: cython.pointer[Extent]) -> cython.bint:
    """Regions that were decommitted are committed whole, before a range of them is used."""
    at: uint64_t = e.address
    while at < extent_end(e):
        r: cython.pointer[EmapRegion] = emap_region(cython.address(x.map), at)
        if not r.committed:
            extents_leave(x)
            done: cython.bint = ehooks_commit(cython.address(x.config.hooks), x.config.heap, r.base, r.size)
            extents_return(x)
            if not done and not r.committed:
                return False
            r.committed = True
        at = r.base + r.size
    return True


# ---- giving back ----


def extents_shrink(x: cython.pointer[Extents]) -> uint64_t:
    """A region is taken whole, so that nobody else can use it, and offered; refused, it is decommitted if it can be.

    What is given back may be handed out again, to another thread of ours too, before we are told that it is gone: its
    pages are forgotten before it is offered, and whoever obtains it takes its addresses over.
    """
    given_back: uint64_t = 0
    extents_lock(x)
    r: cython.pointer[EmapRegion] = extents_claim_region(x, 0)
    while r != cython.NULL:
        serial: uint64_t = r.serial
        extents_leave(x)
        gone: cython.bint = ehooks_free(cython.address(x.config.hooks), x.config.heap, r.base, r.size)
        decommitted: cython.bint = (
            not gone and r.committed and ehooks_decommit(cython.address(x.config.hooks), x.config.heap, r.base, r.size)
        )
        extents_return(x)
        if gone or not emap_is_whole(cython.address(x.map), r):
            given_back += r.size
            extents_forget_region(x, r)
        else:
            r.committed = r.committed and not decommitted
            extents_keep_region(x, r)
        r = extents_claim_region(x, serial)
    extents_unlock(x)
    return given_back


def extents_claim_region(x: cython.pointer[Extents], serial: uint64_t) -> cython.pointer[EmapRegion]:
    """Take the oldest region younger than a serial number that is wholly retained: its shelf does not know it then."""
    r: cython.pointer[EmapRegion] = x.map.oldest
    while r != cython.NULL:
        may_go: cython.bint = r.serial > serial and not r.pinned
        if may_go and pages_shrink_range(cython.address(x.shelf[r.shelf]), r.base, r.size):
            emap_unlink_region(cython.address(x.map), r)
            r.leaving = True
            return r
        r = r.next
    return cython.NULL


def extents_keep_region(x: cython.pointer[Extents], r: cython.pointer[EmapRegion]) -> cython.void:
    """It was claimed and refused. Tables stay where they were known: no memory is needed."""
    error: cython.int = pages_grow(cython.address(x.shelf[r.shelf]), r.base, r.size)
    should(not error, b"a region that was known can be known again")
    r.leaving = False
    emap_link_region(cython.address(x.map), r)


def extents_forget_region(x: cython.pointer[Extents], r: cython.pointer[EmapRegion]) -> cython.void:
    """It was claimed, and is gone."""
    emap_remove_region(cython.address(x.map), r)
    extents_leave(x)
    extents_give_books(x, r.size)
    vm_unmap_metadata(cython.cast(uint64_t, r), r.metadata_bytes)
    extents_return(x)


def extents_drop_regions(x: cython.pointer[Extents]) -> cython.void:
    while x.map.oldest != cython.NULL:
        r: cython.pointer[EmapRegion] = x.map.oldest
        emap_unlink_region(cython.address(x.map), r)
        ehooks_free(cython.address(x.config.hooks), x.config.heap, r.base, r.size)
        extents_give_books(x, r.size)
        vm_unmap_metadata(cython.cast(uint64_t, r), r.metadata_bytes)


def extents_vacate(x: cython.pointer[Extents]) -> cython.void:
    """What is live stays counted until it is freed."""
    extents_lock(x)
    r: cython.pointer[EmapRegion] = x.map.oldest
    while r != cython.NULL:
        serial: uint64_t = r.serial
        r.pinned = True
        extents_unlock(x)
        vm_purge_now(r.base, r.size)
        extents_lock(x)
        r.pinned = False
        r = x.map.oldest
        while r != cython.NULL and r.serial <= serial:
            r = r.next
    extents_unlock(x)


def extents_calm(x: cython.pointer[Extents], address: uint64_t, size: uint64_t) -> cython.void:
    """Keep the kernel from joining pages given back into huge ones again; regions obtained anew are advised anew."""
    at: uint64_t = address
    while at < address + size:
        r: cython.pointer[EmapRegion] = emap_region(cython.address(x.map), at)
        at = r.base + r.size
        if r.advised:
            r.advised = False
            base: uint64_t = r.base
            bytes: uint64_t = r.size
            extents_leave(x)
            vm_advise_no_huge(base, bytes)
            extents_return(x)
