# release.pxd: giving back the pages of free small blocks, and sorting a region's free array afterwards.
#
# Any thread, any time; takes each region's lock in turn, for a slice at a time.
# Does not: know when to give back.
# After: LLVM's SizeClassAllocator64, its ReleaseToOS.
from libc.stdint cimport uint32_t, uint64_t

from freehold.core.primary cimport Grown, Primary, Region

cdef uint64_t primary_release(Primary *p, uint32_t index, uint64_t now_ns, uint64_t budget) noexcept nogil  # bytes given back
cdef bint primary_release_due(Primary *p, uint32_t index, uint64_t now_ns) noexcept nogil
cdef uint64_t primary_tick(Primary *p, uint64_t now_ns, bint *busy) noexcept nogil  # gives back what was idle for the decay time

# inside release
cdef uint64_t region_free_run(Region *r, uint64_t end, uint64_t least_blocks, uint64_t *first) noexcept nogil
cdef uint64_t region_purge_run(Primary *p, Region *r, uint64_t first, uint64_t last, uint64_t budget) noexcept nogil
cdef uint64_t region_purge_slice(Primary *p, Region *r, uint64_t page, uint64_t end) noexcept nogil
cdef void region_advise(Primary *p, Region *r) noexcept nogil
cdef struct Sorting:                # one pass over a region's free array; the sorter's own
    uint64_t made                   # when it began; what has been made since is not in its part
    uint64_t aside                  # entries below this are the sorter's
    uint64_t at                     # … and below this, sorted
    uint64_t parked                 # … and so many are to be entries no more
    uint64_t kept                   # all numbers that stay in the array are below this
    uint64_t *present               # one bit a block: it is in the array; NULL where the OS refused the memory
    uint64_t cut                    # all blocks from here on were free when the array was sorted; NOWHERE: not to be forgotten
cdef void region_sort(Primary *p, Region *r) noexcept nogil
cdef void region_sort_aside(Primary *p, Region *r, Sorting *s) noexcept nogil
cdef void region_emit(Primary *p, Region *r, Sorting *s) noexcept nogil
cdef bint sorting_saw(Sorting *s, uint64_t number) noexcept nogil
cdef void region_keep(Primary *p, Region *r, Sorting *s, uint64_t number) noexcept nogil
cdef bint region_may_park(Primary *p, Region *r, uint64_t number) noexcept nogil
cdef bint region_settle(Primary *p, Region *r, Sorting *s) noexcept nogil
cdef void region_forget(Primary *p, Region *r, uint64_t cut) noexcept nogil
cdef bint region_owe(Primary *p, Region *r) noexcept nogil
cdef void region_purge_books(Primary *p, Region *r) noexcept nogil
cdef void region_purge_beyond(Primary *p, Region *r, Grown *g, uint64_t used, uint64_t unit, bint states) noexcept nogil
cdef void region_purge_bits(Primary *p, Region *r) noexcept nogil
