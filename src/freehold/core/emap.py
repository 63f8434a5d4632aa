"""The records of extents, and which addresses are whose: two levels of tables over 48 bits of address.

Not thread-safe: the caller holds the lock of the extents.
Invariants: a page leads to the record of the extent that begins or ends there, else to none; a chunk belongs to one
region or to nobody; regions are linked by age.
Does not map memory for itself: its caller does so without the lock, and hands it over.
Follows: jemalloc's emap, whose boundaries are enough to merge and to free.
"""

import cython
from cython.cimports.freehold.core.emap import (
    EMAP_LEAF_SHIFT,
    EMAP_LEAVES,
    EMAP_PLACES,
    EMAP_SLAB_BYTES,
    EMAP_TABLE_BYTES,
    EXTENT_DEAD,
    EXTENT_NO_CLASS,
    EXTENT_PAGE,
    EXTENT_SHIFT,
    EXTENT_TAKEN,
    Emap,
    EmapPlace,
    EmapRegion,
    EmapSlab,
    Extent,
    emap_at,
    emap_place,
    extent_end,
)
from cython.cimports.freehold.core.machine import NOWHERE, round_down, should
from cython.cimports.freehold.core.space import BLOCK_BYTES, BLOCK_SHIFT
from cython.cimports.freehold.core.vm import vm_unmap_metadata
from cython.cimports.libc.stdint import uint64_t

# ---- from an address to an extent ----


def emap_region(m: cython.pointer[Emap], address: uint64_t) -> cython.pointer[EmapRegion]:
    place: cython.pointer[EmapPlace] = emap_place(m, address)
    return place.region if place != cython.NULL else cython.NULL


def emap_find(m: cython.pointer[Emap], address: uint64_t) -> cython.pointer[Extent]:
    page: uint64_t = round_down(address, EXTENT_PAGE)
    while emap_region(m, page) != cython.NULL:
        e: cython.pointer[Extent] = emap_at(m, page)
        if e != cython.NULL:
            return e if e.address <= address < extent_end(e) else cython.NULL
        if page == 0:
            break
        page -= EXTENT_PAGE
    return cython.NULL


def emap_entry(m: cython.pointer[Emap], address: uint64_t) -> cython.pointer[cython.pointer[Extent]]:
    place: cython.pointer[EmapPlace] = emap_place(m, address)
    return cython.address(place.extent[(address >> EXTENT_SHIFT) % 512])


def emap_enter(m: cython.pointer[Emap], e: cython.pointer[Extent]) -> cython.void:
    emap_entry(m, e.address)[0] = e
    emap_entry(m, extent_end(e) - EXTENT_PAGE)[0] = e


def emap_leave(m: cython.pointer[Emap], e: cython.pointer[Extent]) -> cython.void:
    emap_entry(m, e.address)[0] = cython.NULL
    emap_entry(m, extent_end(e) - EXTENT_PAGE)[0] = cython.NULL


# ---- records ----


def emap_take(m: cython.pointer[Emap]) -> cython.pointer[Extent]:
    e: cython.pointer[Extent] = m.spare
    should(e != cython.NULL, b"a record was set aside")
    m.spare = e.older
    m.spares -= 1
    m.births += 1
    e.birth = m.births
    e.state = EXTENT_TAKEN
    e.size_class = EXTENT_NO_CLASS
    return e


def emap_give(m: cython.pointer[Emap], e: cython.pointer[Extent]) -> cython.void:
    e.state = EXTENT_DEAD
    e.birth = 0
    e.older = m.spare
    m.spare = e
    m.spares += 1


def emap_add_slab(m: cython.pointer[Emap], memory: uint64_t) -> cython.void:
    slab: cython.pointer[EmapSlab] = cython.cast(cython.pointer[EmapSlab], memory)
    slab.next = m.slabs
    m.slabs = slab
    m.metadata_bytes += EMAP_SLAB_BYTES
    at: uint64_t = memory + EMAP_SLAB_BYTES - cython.sizeof(Extent)
    while at >= memory + cython.sizeof(EmapSlab):
        emap_give(m, cython.cast(cython.pointer[Extent], at))
        at -= cython.sizeof(Extent)


# ---- leaves and regions ----


def emap_leaf_bytes() -> uint64_t:
    return EMAP_PLACES * cython.sizeof(EmapPlace)


def emap_missing_leaf(m: cython.pointer[Emap], base: uint64_t, size: uint64_t) -> uint64_t:
    i: uint64_t = base >> EMAP_LEAF_SHIFT
    while i <= (base + size - 1) >> EMAP_LEAF_SHIFT:
        if m.leaf[i] == cython.NULL:
            return i << EMAP_LEAF_SHIFT
        i += 1
    return NOWHERE


def emap_add_leaf(m: cython.pointer[Emap], address: uint64_t, memory: uint64_t) -> cython.void:
    m.leaf[address >> EMAP_LEAF_SHIFT] = cython.cast(cython.pointer[EmapPlace], memory)
    m.metadata_bytes += emap_leaf_bytes()


def emap_region_bytes(size: uint64_t) -> uint64_t:
    return EMAP_TABLE_BYTES * ((size >> BLOCK_SHIFT) + 1)


def emap_is_free(m: cython.pointer[Emap], base: uint64_t, size: uint64_t) -> cython.bint:
    at: uint64_t = base
    while at < base + size:
        r: cython.pointer[EmapRegion] = emap_region(m, at)
        if r != cython.NULL and not r.leaving:
            return False
        at += BLOCK_BYTES
    return True


def emap_is_whole(m: cython.pointer[Emap], r: cython.pointer[EmapRegion]) -> cython.bint:
    at: uint64_t = r.base
    while at < r.base + r.size:
        if emap_region(m, at) != r:
            return False
        at += BLOCK_BYTES
    return True


def emap_add_region(m: cython.pointer[Emap], r: cython.pointer[EmapRegion]) -> cython.void:
    n: uint64_t = r.size >> BLOCK_SHIFT
    i: uint64_t = 0
    while i < n:
        place: cython.pointer[EmapPlace] = emap_place(m, r.base + (i << BLOCK_SHIFT))
        table: uint64_t = cython.cast(uint64_t, r) + (i + 1) * EMAP_TABLE_BYTES
        place.extent = cython.cast(cython.pointer[cython.pointer[Extent]], table)
        place.region = r
        i += 1
    emap_link_region(m, r)
    m.metadata_bytes += r.metadata_bytes


def emap_remove_region(m: cython.pointer[Emap], r: cython.pointer[EmapRegion]) -> cython.void:
    at: uint64_t = r.base
    while at < r.base + r.size:
        place: cython.pointer[EmapPlace] = emap_place(m, at)
        if place.region == r:
            place.extent = cython.NULL
            place.region = cython.NULL
        at += BLOCK_BYTES
    m.metadata_bytes -= r.metadata_bytes


def emap_link_region(m: cython.pointer[Emap], r: cython.pointer[EmapRegion]) -> cython.void:
    older: cython.pointer[EmapRegion] = m.newest
    while older != cython.NULL and older.serial > r.serial:
        older = older.previous
    r.previous = older
    r.next = m.oldest if older == cython.NULL else older.next
    if r.next == cython.NULL:
        m.newest = r
    else:
        r.next.previous = r
    if older == cython.NULL:
        m.oldest = r
    else:
        older.next = r
    m.regions += 1
    m.chunks += r.size >> BLOCK_SHIFT


def emap_unlink_region(m: cython.pointer[Emap], r: cython.pointer[EmapRegion]) -> cython.void:
    if r.previous == cython.NULL:
        m.oldest = r.next
    else:
        r.previous.next = r.next
    if r.next == cython.NULL:
        m.newest = r.previous
    else:
        r.next.previous = r.previous
    m.regions -= 1
    m.chunks -= r.size >> BLOCK_SHIFT


def emap_close(m: cython.pointer[Emap]) -> cython.void:
    slab: cython.pointer[EmapSlab] = m.slabs
    while slab != cython.NULL:
        next: cython.pointer[EmapSlab] = slab.next
        vm_unmap_metadata(cython.cast(uint64_t, slab), EMAP_SLAB_BYTES)
        slab = next
    i: uint64_t = 0
    while i < EMAP_LEAVES:
        if m.leaf[i] != cython.NULL:
            vm_unmap_metadata(cython.cast(uint64_t, m.leaf[i]), emap_leaf_bytes())
            m.leaf[i] = cython.NULL
        i += 1
    m.slabs = cython.NULL
    m.spare = cython.NULL
    m.spares = 0
    m.metadata_bytes = 0
