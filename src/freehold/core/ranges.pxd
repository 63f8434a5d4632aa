# ranges.pxd: where a heap's memory is: ranges of addresses, each with what it holds by state, as many as there is room for.
#
# One thread, with a book of its own; each range is read under its layer's lock, 4 or 8 MiB at a time.
# Law: where nobody else is at work, the ranges of a heap and a layer add up to what `account` says of it; what a secure heap holds
# back is active here, and dirty there.
# Does not: know where in a region of small blocks which state is, or where spans are.
from libc.stdint cimport uint32_t, uint64_t

from freehold.core.emap cimport EmapRegion
from freehold.core.extentbook cimport Extents
from freehold.core.home cimport Heap
from freehold.core.pool cimport Pool, PoolArea

cdef enum:
    RANGE_BYTES = 0x800000          # of a pool's blocks, read under its lock at once; at least a block

cdef struct Range:                  # bytes
    uint64_t address                # 0: not told (spans)
    uint64_t size
    uint64_t owner                  # as in the space's table: heap, layer, and the size class or pool
    uint64_t active
    uint64_t dirty
    uint64_t muzzy
    uint64_t retained

cdef struct RangeBook:
    Range *range
    uint64_t room                   # entries
    uint64_t count
    uint64_t left_out               # ranges that found no room, also after neighbours were joined

cdef void ranges_of_heap(Heap *h, RangeBook *book) noexcept nogil

# inside ranges
cdef void ranges_of_small(Heap *h, RangeBook *book) noexcept nogil
cdef void ranges_of_extents(Heap *h, RangeBook *book) noexcept nogil
cdef bint ranges_read_chunk(Extents *x, uint64_t serial, uint64_t offset, Range *into) noexcept nogil
cdef void ranges_read_used(Extents *x, uint64_t *used, Range *into) noexcept nogil
cdef uint64_t ranges_next_serial(Extents *x, uint64_t serial) noexcept nogil
cdef EmapRegion *ranges_region(Extents *x, uint64_t serial) noexcept nogil
cdef void ranges_of_pool(Pool *pool, RangeBook *book, uint64_t owner) noexcept nogil
cdef void ranges_of_area(Pool *pool, PoolArea *a, RangeBook *book, uint64_t owner) noexcept nogil
cdef void ranges_note(RangeBook *book, const Range *r) noexcept nogil
cdef bint ranges_touch(const Range *a, const Range *b) noexcept nogil
cdef void ranges_join(RangeBook *book) noexcept nogil
cdef void range_add(Range *sum, const Range *r) noexcept nogil
