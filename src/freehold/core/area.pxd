# area.pxd: what a pool maps at once: addresses, memory, and a record for each block.
#
# Mapping and unmapping: under the pool's `refill` lock. Looking up: any thread, any address, no lock.
# Invariant: a block of the space owned by (heap, large, note) lies in area `number` of pool `index` of the note.
# Does not: know which blocks are free (pool does).
from libc.stdint cimport uint64_t

from freehold.core.pool cimport Pool, PoolArea, PoolBlock

cdef enum:
    AREA_MOST = 2048                # of one pool; each is larger than the one before, so the space is full long before
    AREA_OVER_LIMIT = -1            # in the place of an errno: the budget has no room
    AREA_FIRST_BYTES = 0x2000000    # the first one of a pool: 32 MiB worth, or one block

cdef struct AreaAttempt:
    PoolArea *area                  # NULL: it failed
    int os_error                    # 0: no run of addresses is that long, or the budget has no room
    bint over_limit                 # the budget has no room for the records
    int os_call                     # VM_…: which call was refused

cdef inline uint64_t area_note(uint64_t index, uint64_t number) noexcept nogil:
    return number << 8 | index
cdef inline uint64_t area_index(uint64_t note) noexcept nogil:
    return note & 0xFF
cdef inline uint64_t area_number(uint64_t note) noexcept nogil:
    return note >> 8

cdef void area_map(Pool *pool, uint64_t growth_dampener, AreaAttempt *into) noexcept nogil  # all, or nothing is left behind
cdef void area_publish(Pool *pool, PoolArea *a, uint64_t heap, uint64_t index, uint64_t now) noexcept nogil
cdef PoolBlock *area_find(Pool *pool, uint64_t number, uint64_t address) noexcept nogil  # NULL: not in that area
cdef void area_unmap_all(Pool *pool) noexcept nogil
cdef uint64_t area_books(Pool *pool) noexcept nogil                   # bytes of its records and directory; under `refill`, or alone

# inside area
cdef uint64_t area_take(Pool *pool, uint64_t first, uint64_t *blocks, AreaAttempt *into) noexcept nogil
cdef uint64_t area_span(Pool *pool, uint64_t blocks) noexcept nogil
cdef int area_make_directory(Pool *pool) noexcept nogil
cdef int area_describe(Pool *pool, uint64_t base, uint64_t blocks, PoolArea **into) noexcept nogil
cdef int area_map_books(Pool *pool, uint64_t bytes, uint64_t *at) noexcept nogil
