# extentgrow.pxd: the regions that extents lie in: obtained at once, from hooks or the space, and given back whole.
#
# Any thread, any time; the lock of the extents is held on entry and on leaving, and let go while a hook or the OS works.
# Does not: choose ranges inside a region (extent does).
# After: jemalloc's extent_grow_retained.
from freehold.core.emap cimport EmapRegion, Extent
from freehold.core.extentbook cimport Extents
from libc.stdint cimport uint32_t, uint64_t

cdef int extents_grow(Extents *x, uint64_t pages, bint zero) noexcept nogil  # a region for so many pages, all retained; 0 or the errno
cdef bint extents_make_committed(Extents *x, Extent *e) noexcept nogil  # of a taken extent the regions
cdef uint64_t extents_shrink(Extents *x) noexcept nogil               # takes the lock: regions wholly retained go back; bytes
cdef void extents_drop_regions(Extents *x) noexcept nogil             # when nobody uses it any more, without the lock: all go back
cdef void extents_vacate(Extents *x) noexcept nogil                   # takes the lock: every region's memory goes back, live or not
cdef void extents_calm(Extents *x, uint64_t address, uint64_t size) noexcept nogil  # single pages were purged: no huge pages there

# inside extentgrow
cdef uint64_t extents_obtain_region(Extents *x, uint64_t size, bint zero) noexcept nogil
cdef void extents_give_books(Extents *x, uint64_t size) noexcept nogil
cdef int extents_adopt(Extents *x, uint64_t base, uint64_t size, bint zero) noexcept nogil
cdef uint32_t extents_choose_shelf(Extents *x, uint64_t base, uint64_t size) noexcept nogil
cdef int extents_map_leaves(Extents *x, uint64_t base, uint64_t size) noexcept nogil
cdef EmapRegion *extents_claim_region(Extents *x, uint64_t serial) noexcept nogil
cdef void extents_keep_region(Extents *x, EmapRegion *r) noexcept nogil
cdef void extents_forget_region(Extents *x, EmapRegion *r) noexcept nogil
