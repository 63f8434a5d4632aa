"""Where a heap's memory is: ranges of addresses, each with what it holds by state, as many as there is room for.

Thread-safety: one thread, with a book of its own. No lock is held for longer than it takes to read one region's counts,
4 MiB of extents or 8 MiB of large blocks; so while others work, the ranges are a moment apart.
Invariant: ``active + dirty + muzzy + retained = size``, but for spans' whole blocks. When the book is full, neighbours
of one layer of one heap become one range, so that a large heap is told more coarsely; only of very many heaps is
anything left out, and that is counted.
Does not know where in a region of small blocks which state is: one range has the whole of it.
"""

import cython
from cython.cimports.freehold.core.account import HeapStats, account_add_class
from cython.cimports.freehold.core.bits import bits_count, bits_next_set
from cython.cimports.freehold.core.emap import (
    EXTENT_ACTIVE,
    EXTENT_MUZZY,
    EXTENT_SHIFT,
    EmapRegion,
    Extent,
    emap_at,
    emap_find,
    extent_end,
)
from cython.cimports.freehold.core.extentbook import Extents, extents_lock, extents_unlock
from cython.cimports.freehold.core.home import Heap, home_extents, home_large
from cython.cimports.freehold.core.large import LARGE_POOLS
from cython.cimports.freehold.core.machine import least, load64_acquire, load64_relaxed, memset, most
from cython.cimports.freehold.core.pages import pages_read_chunk
from cython.cimports.freehold.core.pool import Pool, PoolArea, PoolBlock, pool_blocks, pool_idle_bytes
from cython.cimports.freehold.core.ranges import RANGE_BYTES, Range, RangeBook
from cython.cimports.freehold.core.space import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    LAYER_EXTENT,
    LAYER_HUGE,
    LAYER_LARGE,
    LAYER_PRIMARY,
    owner_word,
)
from cython.cimports.freehold.core.sync import mutex_lock, mutex_unlock
from cython.cimports.libc.stdint import uint32_t, uint64_t


def ranges_of_heap(h: cython.pointer[Heap], book: cython.pointer[RangeBook]) -> cython.void:
    ranges_of_small(h, book)
    if home_extents(h) != cython.NULL:
        ranges_of_extents(h, book)
    i: uint32_t = 0
    while i < LARGE_POOLS and home_large(h) != cython.NULL:
        ranges_of_pool(cython.address(h.large.pool[i]), book, owner_word(h.id, LAYER_LARGE, i))
        i += 1
    spans = cython.declare(Range)
    memset(cython.address(spans), 0, cython.sizeof(Range))
    spans.owner = owner_word(h.id, LAYER_HUGE, 0)
    spans.active = load64_relaxed(cython.address(h.spans.live_bytes))
    spans.size = spans.active
    if spans.size:
        ranges_note(book, cython.address(spans))


def ranges_of_small(h: cython.pointer[Heap], book: cython.pointer[RangeBook]) -> cython.void:
    s = cython.declare(HeapStats)
    r = cython.declare(Range)
    i: uint32_t = 0
    while i < h.primary.classes:
        memset(cython.address(s), 0, cython.sizeof(HeapStats))
        account_add_class(h, i, cython.address(s))
        r.address = h.primary.region[i].base
        r.owner = owner_word(h.id, LAYER_PRIMARY, i)
        r.active = s.active
        r.dirty = s.dirty
        r.muzzy = s.muzzy
        r.retained = s.retained
        r.size = s.active + s.dirty + s.muzzy + s.retained
        if r.size:
            ranges_note(book, cython.address(r))
        i += 1


# ---- extents ----


def ranges_of_extents(h: cython.pointer[Heap], book: cython.pointer[RangeBook]) -> cython.void:
    """Region by region in the order of their age, chunk by chunk; regions may come and go in between."""
    r = cython.declare(Range)
    x: cython.pointer[Extents] = home_extents(h)
    serial: uint64_t = 1
    offset: uint64_t = 0
    extents_lock(x)
    serials: uint64_t = x.serials
    extents_unlock(x)
    while serial <= serials:
        r.owner = owner_word(h.id, LAYER_EXTENT, 0)
        if ranges_read_chunk(x, serial, offset, cython.address(r)):
            ranges_note(book, cython.address(r))
            offset += BLOCK_BYTES
        else:
            offset = 0
            serial = ranges_next_serial(x, serial)


def ranges_next_serial(x: cython.pointer[Extents], serial: uint64_t) -> uint64_t:
    """The serial number of the next younger region; beyond all if there is none."""
    extents_lock(x)
    r: cython.pointer[EmapRegion] = x.map.oldest
    while r != cython.NULL and r.serial <= serial:
        r = r.next
    next: uint64_t = x.serials + 1 if r == cython.NULL else r.serial
    extents_unlock(x)
    return next


def ranges_read_chunk(
    x: cython.pointer[Extents], serial: uint64_t, offset: uint64_t, into: cython.pointer[Range]
) -> cython.bint:
    """Count a chunk's pages by state; False if the region is gone, or ends before."""
    used = cython.declare(uint64_t[8])
    scavenged = cython.declare(uint64_t[8])
    extents_lock(x)
    r: cython.pointer[EmapRegion] = ranges_region(x, serial)
    there: cython.bint = r != cython.NULL and offset < r.size
    if there:
        there = pages_read_chunk(cython.address(x.shelf[r.shelf]), (r.base + offset) >> BLOCK_SHIFT, used, scavenged)
    if there:
        into.address = r.base + offset
        into.size = BLOCK_BYTES
        into.retained = BLOCK_BYTES - (bits_count(used, 0, 512) << EXTENT_SHIFT)
        ranges_read_used(x, used, into)
    extents_unlock(x)
    return there


def ranges_region(x: cython.pointer[Extents], serial: uint64_t) -> cython.pointer[EmapRegion]:
    r: cython.pointer[EmapRegion] = x.map.oldest
    while r != cython.NULL and r.serial != serial:
        r = r.next
    return r


def ranges_read_used(
    x: cython.pointer[Extents], used: cython.pointer[uint64_t], into: cython.pointer[Range]
) -> cython.void:
    """Whose the pages of a chunk are that are not retained. What somebody works on counts as dirty."""
    into.active = 0
    into.muzzy = 0
    into.dirty = 0
    end: uint64_t = into.address + BLOCK_BYTES
    page: uint64_t = bits_next_set(used, 0, 512)
    while page < 512:
        address: uint64_t = into.address + (page << EXTENT_SHIFT)
        e: cython.pointer[Extent] = emap_at(cython.address(x.map), address)
        if e == cython.NULL and page == 0:
            e = emap_find(cython.address(x.map), address)
        until: uint64_t = address + (cython.cast(uint64_t, 1) << EXTENT_SHIFT)
        if e != cython.NULL:
            until = least(end, extent_end(e))
        if e != cython.NULL and e.state == EXTENT_ACTIVE:
            into.active += until - address
        elif e != cython.NULL and e.state == EXTENT_MUZZY:
            into.muzzy += until - address
        else:
            into.dirty += until - address
        page = bits_next_set(used, (until - into.address) >> EXTENT_SHIFT, 512) if until < end else 512


# ---- large blocks ----


def ranges_of_pool(pool: cython.pointer[Pool], book: cython.pointer[RangeBook], owner: uint64_t) -> cython.void:
    areas: uint64_t = load64_acquire(cython.address(pool.published))
    i: uint64_t = 0
    while i < areas:
        ranges_of_area(pool, pool.area[i], book, owner)
        i += 1


def ranges_of_area(
    pool: cython.pointer[Pool], a: cython.pointer[PoolArea], book: cython.pointer[RangeBook], owner: uint64_t
) -> cython.void:
    """An area's records stay while its heap is there, and what is in one is guarded by the pool's lock."""
    r = cython.declare(Range)
    i: uint64_t = 0
    while i < a.blocks:
        r.address = a.base + i * pool.size
        r.size = 0
        r.owner = owner
        r.active = 0
        r.dirty = 0
        r.muzzy = 0
        stop: uint64_t = least(a.blocks, i + most(1, RANGE_BYTES // pool.size))
        mutex_lock(cython.address(pool.lock))
        while i < stop:
            b: cython.pointer[PoolBlock] = cython.address(pool_blocks(a)[i])
            r.size += pool.size
            r.dirty += pool_idle_bytes(b)
            r.active += b.touched - pool_idle_bytes(b)
            i += 1
        mutex_unlock(cython.address(pool.lock))
        r.retained = r.size - r.active - r.dirty
        ranges_note(book, cython.address(r))


# ---- the book ----


def ranges_note(book: cython.pointer[RangeBook], r: cython.pointer[cython.const[Range]]) -> cython.void:
    if book.count == book.room:
        ranges_join(book)
    if book.count == book.room:
        book.left_out += 1
        return
    book.range[book.count] = r[0]
    book.count += 1


def ranges_join(book: cython.pointer[RangeBook]) -> cython.void:
    """Make one of each two neighbours."""
    kept: uint64_t = 0
    i: uint64_t = 0
    while i < book.count:
        book.range[kept] = book.range[i]
        i += 1
        if i < book.count and ranges_touch(cython.address(book.range[kept]), cython.address(book.range[i])):
            range_add(cython.address(book.range[kept]), cython.address(book.range[i]))
            i += 1
        kept += 1
    book.count = kept


def ranges_touch(a: cython.pointer[cython.const[Range]], b: cython.pointer[cython.const[Range]]) -> cython.bint:
    return a.address != 0 and a.owner == b.owner and a.address + a.size == b.address


def range_add(sum: cython.pointer[Range], r: cython.pointer[cython.const[Range]]) -> cython.void:
    sum.size += r.size
    sum.active += r.active
    sum.dirty += r.dirty
    sum.muzzy += r.muzzy
    sum.retained += r.retained
