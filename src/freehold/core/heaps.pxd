# heaps.pxd: all heaps there are: opening, closing, the reclaim thread's round of them, fork.
#
# Any thread. The table is read without a lock by who is inside the gate, or has a block of the heap; the list has a lock.
# Invariant: a heap is in the table and in the list, or in neither; it leaves both while nobody is inside the gate.
# Does not: serve requests.
from libc.stdint cimport uint32_t, uint64_t

from freehold.core.account cimport HeapStats
from freehold.core.home cimport Heap, HeapConfig
from freehold.core.profile cimport ProfileHeaps

cdef enum:
    HEAP_BUSY = -1                  # heaps_close: blocks are live, and it was not to be forced
    WORTH_A_THREAD = 0x400000       # bytes held, books aside: from here on a reclaim thread is worth its while

cdef int heaps_boot(const HeapConfig *config) noexcept nogil                            # the default heap; 0 or the errno
cdef int heaps_open(const HeapConfig *config, Heap **into) noexcept nogil               # 0 or the errno
cdef int heaps_close(Heap *h, bint force, uint64_t *blocks, uint64_t *bytes) noexcept nogil  # 0 or HEAP_BUSY; what was live
cdef Heap *heaps_default() noexcept nogil
cdef Heap *heaps_find(uint64_t id) noexcept nogil                                       # NULL: there is none
cdef void heaps_enter(Heap *h) noexcept nogil                                           # before a slow path in it …
cdef void heaps_leave(Heap *h) noexcept nogil                                           # … and after
cdef uint64_t heaps_purge() noexcept nogil                                              # everything idle in all of them, now; bytes
cdef void heaps_read_stats(HeapStats *into) noexcept nogil                              # of all together
cdef uint64_t heaps_count() noexcept nogil
cdef bint heaps_may_idle() noexcept nogil                                               # they hold so much that a reclaim thread is worth its while

# inside heaps
cdef extern from *:
    """
    static void fh_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void)) {
        pthread_atfork(before, in_parent, in_child);
    }
    """
    void at_fork "fh_at_fork"(void (*before)() noexcept nogil, void (*in_parent)() noexcept nogil, void (*in_child)() noexcept nogil) noexcept nogil
cdef void heaps_cover_fork() noexcept nogil
cdef uint64_t heaps_interval(uint64_t decay_ns) noexcept nogil
cdef uint64_t heaps_bytes() noexcept nogil
cdef uint64_t heaps_take_id() noexcept nogil
cdef void heaps_drop_id(uint64_t id) noexcept nogil
cdef int heaps_make(const HeapConfig *config, Heap **into) noexcept nogil
cdef bint heaps_unlink(Heap *h, bint force, uint64_t *blocks, uint64_t *bytes) noexcept nogil
cdef void heaps_finish(Heap *h) noexcept nogil
cdef Heap *heaps_visit_next(uint64_t after) noexcept nogil
cdef void heaps_visit_end(Heap *h) noexcept nogil
cdef void heaps_publish() noexcept nogil
cdef void heaps_profile_on_demand() noexcept nogil
cdef bint heaps_profile_over(uint64_t now) noexcept nogil
cdef void heaps_write_profile() noexcept nogil
cdef void heaps_describe(ProfileHeaps *into) noexcept nogil
cdef uint64_t heaps_publish_each(bint ranges) noexcept nogil
cdef uint64_t heaps_purge_visiting() noexcept nogil
cdef bint heaps_tick(uint64_t now) noexcept nogil
cdef bint heaps_tick_one(Heap *h, uint64_t now) noexcept nogil
cdef bint heaps_bury(Heap *h) noexcept nogil
cdef void heaps_fork_lock() noexcept nogil
cdef void heaps_fork_unlock() noexcept nogil
cdef void heaps_fork_reset() noexcept nogil
cdef void heaps_fork_lock_home() noexcept nogil
cdef void heaps_fork_unlock_home() noexcept nogil
cdef void heaps_fork_reset_home() noexcept nogil
cdef void heaps_fork_lock_large() noexcept nogil
cdef void heaps_fork_unlock_large() noexcept nogil
cdef void heaps_fork_reset_large() noexcept nogil
cdef void heaps_fork_lock_arenas() noexcept nogil
cdef void heaps_fork_unlock_arenas() noexcept nogil
cdef void heaps_fork_reset_arenas() noexcept nogil
cdef void heaps_fork_lock_extents() noexcept nogil
cdef void heaps_fork_unlock_extents() noexcept nogil
cdef void heaps_fork_reset_extents() noexcept nogil
