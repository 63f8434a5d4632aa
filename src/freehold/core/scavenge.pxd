# scavenge.pxd: what a page allocator does not use goes back: pages to the OS, chunks to whoever grew it.
#
# Any thread, any time. No lock is held while the OS works.
# Does not: know when to give back; its callers keep the time.
# After: Go's scavenger.
from freehold.core.pagebook cimport Pages
from libc.stdint cimport uint64_t

cdef uint64_t pages_scavenge(Pages *p, uint64_t nbytes, bint background) noexcept nogil  # bytes released, highest first
cdef bint pages_shrink(Pages *p, uint64_t from_, uint64_t *base, uint64_t *size) noexcept nogil  # forget the lowest range of free, scavenged chunks at or after
cdef bint pages_shrink_range(Pages *p, uint64_t base, uint64_t size) noexcept nogil  # forget these chunks, if all are known, free and scavenged

# inside scavenge
cdef enum:
    PAGES_PURGE_SLICE = 0x400000    # bytes purged in one system call
cdef uint64_t pages_release(Pages *p, uint64_t ceiling, uint64_t want, bint background, uint64_t *total) noexcept nogil
cdef void pages_count_release(Pages *p, uint64_t n, bint background) noexcept nogil
cdef int pages_purge(Pages *p, uint64_t page, uint64_t npages) noexcept nogil
cdef uint64_t pages_pick(Pages *p, uint64_t ceiling, uint64_t want, uint64_t *page) noexcept nogil
cdef uint64_t pages_cut(Pages *p, const uint64_t *free, uint64_t first, uint64_t end) noexcept nogil
cdef uint64_t bits_last_run(const uint64_t *words, uint64_t below, uint64_t *first) noexcept nogil
cdef bint pages_may_forget(Pages *p, uint64_t chunk) noexcept nogil
cdef void pages_forget(Pages *p, uint64_t chunk, uint64_t n) noexcept nogil
