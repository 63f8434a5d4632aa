# extent.pxd: ranges with a life: handed out, idle, purged, and handed out again.
#
# Any thread, any time. Sizes in bytes are rounded up to pages of 8 KiB. No lock is held over a system call or a hook.
# Invariants: a free never fails and never allocates; an allocation that fails has changed nothing.
# Does not: read a clock (time is passed in), or find free pages (pages does).
# After: jemalloc's extents.
from freehold.core.emap cimport Extent
from freehold.core.eset cimport Eset
from freehold.core.extentbook cimport ExtentConfig, Extents, ExtentView
from libc.stdint cimport uint32_t, uint64_t

cdef int extents_open(const ExtentConfig *config, Extents **into) noexcept nogil  # 0 or the errno
cdef bint extents_enter(Extents *x) noexcept nogil                    # False: closed. Who enters, exits
cdef void extents_exit(Extents *x) noexcept nogil                     # of the last one, after it was closed: gives everything back
cdef bint extents_close(Extents *x) noexcept nogil                    # who is inside goes on; nobody enters. False: it was closed
cdef void extents_dispose(Extents *x) noexcept nogil                  # closed, and nobody will ask again: the object itself

# For the heap.
cdef uint64_t extents_allocate(Extents *x, uint64_t size, bint zero) noexcept nogil  # address, or 0
cdef int extents_deallocate(Extents *x, uint64_t address, uint64_t *size) noexcept nogil  # FREE_ reason, and the bytes that were live
cdef uint64_t extents_usable_size(Extents *x, uint64_t address) noexcept nogil  # 0: no live extent begins there

# For whoever knows extents by their records: `birth` tells which extent of a record is meant.
cdef int extents_obtain(Extents *x, uint64_t pages, bint zero, ExtentView *into) noexcept nogil  # 0 or the errno
cdef int extents_give(Extents *x, Extent *e, uint64_t birth) noexcept nogil  # FREE_ reason
cdef bint extents_read(Extents *x, Extent *e, uint64_t birth, ExtentView *into) noexcept nogil  # False: it is no more

# For extentshape; the lock is held.
cdef bint extents_is_live(Extent *e, uint64_t birth) noexcept nogil
cdef void extents_activate(Extents *x, Extent *e) noexcept nogil
cdef void extents_deactivate(Extents *x, Extent *e) noexcept nogil
cdef Extent *extents_from_retained(Extents *x, uint64_t address, uint64_t pages) noexcept nogil
cdef void extents_put_rest(Extents *x, Eset *s, Extent *rest, Extent *newer) noexcept nogil

# inside extent
cdef void extents_end(Extents *x) noexcept nogil
cdef uint64_t extents_take_again(Extents *x, uint64_t pages) noexcept nogil
cdef Extent *extents_new(Extents *x, uint64_t pages, bint zero, bint *fresh) noexcept nogil
cdef Extent *extents_take_idle(Extents *x, Eset *s, uint64_t pages) noexcept nogil
cdef Extent *extents_take_retained(Extents *x, uint64_t pages, bint zero) noexcept nogil
cdef bint extents_take_pages(Extents *x, uint64_t pages, uint64_t *address) noexcept nogil
cdef bint extents_reads_zero(Extents *x, const Extent *e) noexcept nogil
cdef void extents_release(Extents *x, Extent *e) noexcept nogil
