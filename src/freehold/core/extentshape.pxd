# extentshape.pxd: other shapes for extents in use: longer, shorter, two of one, one of two.
#
# Any thread, any time. Sizes in bytes are rounded up to pages of 8 KiB; `birth` tells which extent of a record is meant.
# Does not: move anything.
# After: jemalloc's expansion and shrinking in place.
from freehold.core.emap cimport Extent
from freehold.core.extentbook cimport Extents, ExtentView
from libc.stdint cimport uint32_t, uint64_t

cdef bint extents_resize_at(Extents *x, uint64_t address, uint64_t size) noexcept nogil  # in place, or False
cdef bint extents_resize(Extents *x, Extent *e, uint64_t birth, uint64_t pages) noexcept nogil
cdef int extents_split(Extents *x, Extent *e, uint64_t birth, uint64_t pages, ExtentView *rest) noexcept nogil  # 0, ENOMEM, EINVAL: refused
cdef int extents_merge(Extents *x, const ExtentView *a, const ExtentView *b) noexcept nogil

# inside extentshape
cdef bint extents_reform(Extents *x, Extent *e, uint64_t pages) noexcept nogil
cdef bint extents_shorten(Extents *x, Extent *e, uint64_t pages) noexcept nogil
cdef bint extents_lengthen(Extents *x, Extent *e, uint64_t more) noexcept nogil
cdef bint extents_lengthen_into_idle(Extents *x, Extent *e, Extent *next, uint64_t more) noexcept nogil
cdef bint extents_lengthen_into_retained(Extents *x, Extent *e, uint64_t more) noexcept nogil
cdef int extents_merge_same(Extents *x, Extent *low, Extent *high) noexcept nogil
cdef void extents_take(Extents *x, Extent *e) noexcept nogil
cdef void extents_put(Extents *x, Extent *e, uint32_t state) noexcept nogil
