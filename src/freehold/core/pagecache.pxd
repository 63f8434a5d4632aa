# pagecache.pxd: the free pages of one group of 64, set aside, and handed out without the lock.
#
# Any thread, any time. Its owner keeps a PagesCache where it stays until it is flushed.
# Does not: refill itself.
# After: Go's page cache.
from freehold.core.pagebook cimport Pages, PagesCache
from libc.stdint cimport uint64_t

cdef void pages_cache_fill(Pages *p, PagesCache *c) noexcept nogil   # all free pages of the lowest group that has any; c is blank or flushed
cdef bint pages_cache_allocate(PagesCache *c, uint64_t npages, uint64_t *address, uint64_t *scavenged) noexcept nogil  # no lock
cdef void pages_cache_flush(PagesCache *c) noexcept nogil            # gives the rest back; before c goes away
cdef void pages_cache_unlink(Pages *p, PagesCache *c) noexcept nogil  # the lock is held; c is flushed for good

# inside pagecache
cdef void pages_give_back(Pages *p, uint64_t group, uint64_t free, uint64_t scavenged) noexcept nogil
cdef Pages *pages_cache_owner(PagesCache *c) noexcept nogil
