# cache.pxd: blocks by way of this thread's cache, where there was no hit: filled, emptied, or done without.
#
# Any thread, any time, also from a signal handler.
# Does not: know any heap but the primary it is told.
# After: LLVM's SizeClassAllocator64LocalCache.
from libc.stdint cimport uint32_t, uint64_t

from freehold.core.bin cimport Cache
from freehold.core.primary cimport Primary, Region

cdef uint64_t cache_allocate_from(Primary *p, uint32_t index, uint64_t align) noexcept nogil  # any primary; 0 if exhausted
cdef int cache_deallocate_to(Primary *p, uint64_t address, uint64_t *size_class) noexcept nogil  # any primary; FREE_ reason, and of which size
cdef void cache_drain(Primary *p) noexcept nogil                      # the calling thread's
cdef Cache *cache_go_in(Primary *p) noexcept nogil                    # the calling thread's, until it goes out: it may hold regions' locks, a
cdef void cache_go_out(Cache *c) noexcept nogil                       # … signal handler does without the cache; NULL, if it has none, is let be
ctypedef void (*poke_hook)() noexcept nogil
cdef void cache_on_activity(poke_hook hook) noexcept nogil            # called on slow paths: something may become idle

# inside cache
cdef Cache *cache_enter_slow(Primary *p) noexcept nogil
cdef uint64_t cache_allocate_in(Cache *c, uint32_t index) noexcept nogil
cdef void cache_deallocate_in(Cache *c, uint64_t address) noexcept nogil
cdef uint32_t cache_next_class(Primary *p, uint32_t index, uint64_t align) noexcept nogil
cdef uint64_t cache_take_apart(Primary *p, Region *r) noexcept nogil
cdef uint64_t cache_allocate_apart(Primary *p, uint32_t index, uint64_t align) noexcept nogil
cdef void cache_deallocate_apart(Primary *p, uint64_t address) noexcept nogil
cdef void cache_exhausted(Region *r) noexcept nogil
