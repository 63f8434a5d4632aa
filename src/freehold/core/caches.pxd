# caches.pxd: the caches of all threads: made, found, torn down, emptied from outside, counted, and what fork makes of them.
#
# Any thread; one lock guards the lists of caches.
# Does not: take or give a block for its caller.
# After: tcmalloc's thread caches; the asymmetric barrier of Dice's.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from freehold.core.bin cimport Cache
from freehold.core.primary cimport Primary, Region

cdef struct ClassCounts:            # blocks, read at one moment; made = live + free + cached
    uint64_t made
    uint64_t live
    uint64_t free
    uint64_t cached
    uint64_t allocations            # so far
    uint64_t releases               # so far
    uint64_t unreleased_bytes       # given back to the region since the last one
    uint64_t mapped_bytes           # of blocks, made or not
    uint64_t charged_bytes          # of them, those that may have been touched
    uint64_t purged_bytes           # of those, given back and not handed out since

cdef int cache_boot() noexcept nogil
cdef void cache_adopt(Primary *p) noexcept nogil                      # the default heap's primary: its caches are found by a thread-local
cdef void cache_register(Primary *p) noexcept nogil                   # it may have caches, and fork knows it, from here on
cdef void cache_unregister(Primary *p) noexcept nogil                 # empties and frees all its caches
cdef uint64_t cache_drain_idle(Primary *p, uint64_t after_ticks, bint *busy) noexcept nogil  # of threads that did nothing in so many looks; blocks
cdef void cache_shut_all() noexcept nogil                              # of all primaries: what is sampled next is drawn anew
cdef bint cache_all_outside(Primary *p) noexcept nogil                # no thread is in its cache; none of the blocks is live
cdef uint64_t cache_books(Primary *p) noexcept nogil                  # bytes of its caches themselves
cdef void cache_read_class(Primary *p, uint32_t index, ClassCounts *into) noexcept nogil
cdef int cache_check(Primary *p, uint32_t *index, uint64_t *number) noexcept nogil  # as primary_check, and the caches: nobody else may be at work
cdef void cache_watch_thread() noexcept nogil                         # the hook below is called when this thread ends
cdef bint cache_thread_ended() noexcept nogil                         # this thread's default cache was torn down
cdef void cache_fork_lock() noexcept nogil                            # the caches and all regions of all primaries
cdef void cache_fork_unlock() noexcept nogil
cdef void cache_fork_reset() noexcept nogil
ctypedef void (*thread_end_hook)() noexcept nogil
cdef void cache_on_thread_end(thread_end_hook hook) noexcept nogil    # called in the ending thread after its caches are gone
cdef Primary *cache_default_primary() noexcept nogil                  # NULL: none was adopted yet

# inside caches
cdef uint16_t cache_slots(uint64_t size, uint64_t cache_bytes) noexcept nogil
cdef bint cache_is_listed(Primary *p) noexcept nogil
cdef Cache *cache_make(Primary *p, Cache **here) noexcept nogil
cdef Cache **cache_seat(Primary *p) noexcept nogil
cdef Cache *cache_find(Primary *p) noexcept nogil
cdef Cache *cache_default() noexcept nogil
cdef bint cache_claim(Cache *c) noexcept nogil
cdef void cache_shut(Cache *c) noexcept nogil
cdef void cache_unclaim(Cache *c) noexcept nogil
cdef void cache_retire(Cache *c) noexcept nogil
cdef void cache_put_away(Cache *c) noexcept nogil
cdef bint cache_put_away_others(Primary *p) noexcept nogil
cdef void cache_mark(Cache *c, uint8_t state) noexcept nogil
cdef void cache_thread_end(void *unused) noexcept nogil
cdef void cache_sum(Primary *p, uint32_t index, uint64_t *allocations, uint64_t *cached) noexcept nogil
cdef int cache_check_class(Primary *p, Region *r, uint64_t *number) noexcept nogil
cdef void cache_describe(Cache *c, Primary *p) noexcept nogil
