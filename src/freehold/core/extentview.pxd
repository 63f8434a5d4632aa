# extentview.pxd: what can be read of extents: which one an address lies in, lists, figures, and the check of it all.
#
# Any thread, any time; functions take the lock of the extents unless they say otherwise.
# Does not: change anything.
from freehold.core.emap cimport EmapRegion
from freehold.core.extentbook cimport Extents, ExtentView
from libc.stdint cimport uint32_t, uint64_t

cdef struct ExtentStats:
    uint64_t active                 # extents
    uint64_t active_pages
    uint64_t dirty_pages
    uint64_t muzzy_pages
    uint64_t retained_pages
    uint64_t regions
    uint64_t allocations            # so far
    uint64_t allocated_pages        # by them, so far
    uint64_t purged_bytes           # so far
    uint64_t refusals               # purges refused, so far
    uint64_t metadata_bytes

cdef struct ExtentWrong:            # what extents_check found: which law, where, and the two numbers that should be equal
    const char *law
    uint64_t address
    uint64_t expected
    uint64_t found

cdef bint extents_lookup(Extents *x, uint64_t address, ExtentView *into) noexcept nogil  # False: nobody's, or in no state
cdef uint64_t extents_list(Extents *x, uint32_t state, ExtentView *into, uint64_t room) noexcept nogil  # idle, oldest first; how many there are
cdef bint extents_is_retained(Extents *x, uint64_t address, uint64_t size) noexcept nogil  # all of a range
cdef void extents_read_stats(Extents *x, ExtentStats *into) noexcept nogil
cdef bint extents_check(Extents *x, ExtentWrong *wrong) noexcept nogil
cdef void extents_verify(Extents *x) noexcept nogil                   # debug level 2, under the lock: abort if anything is wrong, while that is quick

# inside extentview
cdef bint extents_next_retained(Extents *x, EmapRegion *r, uint64_t address, ExtentView *into) noexcept nogil
cdef bint extents_is_sound(Extents *x, ExtentWrong *wrong) noexcept nogil
cdef bint extents_walk(Extents *x, EmapRegion *r, uint64_t *pages, ExtentWrong *wrong) noexcept nogil
cdef bint extents_differ(ExtentWrong *wrong, const char *law, uint64_t expected, uint64_t found) noexcept nogil
