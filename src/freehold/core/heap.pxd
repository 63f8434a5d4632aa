# heap.pxd: one heap over all layers: which layer serves a size, accounting, and the C functions that everyone calls.
#
# Any thread, any time, with or without the GIL. A free never fails and never allocates.
# Does not: know what a block is for.
from libc.stdint cimport uint32_t, uint64_t

from freehold.core.large cimport LargeThread

cdef enum:
    HEAP_ID = 0                     # of the default heap, in owner words
    WORTH_A_THREAD = 0x400000       # bytes of small blocks mapped …
    WORTH_A_THREAD_IDLE = 0x100000  # … or of larger ones idle: from here on a reclaim thread is worth its while

cdef struct HeapStats:              # bytes unless said; jemalloc's names
    uint64_t allocated              # what callers hold, in the sizes that serve them
    uint64_t active                 # memory that holds it
    uint64_t dirty                  # idle and resident: reused at once, given back after the decay time
    uint64_t muzzy                  # idle, given back lazily
    uint64_t retained               # addresses kept, memory given back or never touched
    uint64_t metadata               # mapped for the heap's own use; the owner table, a sparse one, is not in it
    uint64_t mapped                 # active + dirty + muzzy + retained
    uint64_t cached                 # of dirty and active: in threads' caches
    uint64_t purged                 # given back to the OS so far
    uint64_t purge_calls            # counts from here on
    uint64_t os_failures            # calls that the OS refused
    uint64_t blocks                 # live
    uint64_t allocations
    uint64_t deallocations
    uint64_t bad_frees              # reported under FREEHOLD_ON_ERROR=report
    uint64_t ticks                  # of the reclaim thread

cdef int heap_boot() noexcept nogil                                   # 0 or the errno; idempotent
cdef void *heap_allocate(size_t size, size_t align) noexcept nogil    # align 0: 16; NULL and errno ENOMEM (EINVAL) when refused
cdef void *heap_allocate_line(size_t size) noexcept nogil              # aligned to 64 bytes
cdef void *heap_allocate_zeroed(size_t size, size_t align) noexcept nogil
cdef void *heap_reallocate(void *p, size_t size, size_t align) noexcept nogil  # NULL: p is as it was
cdef void heap_deallocate(void *p) noexcept nogil                     # NULL does nothing; a bad one aborts (or is reported)
cdef bint heap_take_back(void *p) noexcept nogil                      # deallocates what is the heap's; False: it is not
cdef void heap_deallocate_sized(void *p, size_t size) noexcept nogil  # the size is a hint and is not trusted
cdef size_t heap_usable_size(void *p) noexcept nogil                  # 0 if no block of ours starts there; aborts if it is freed
cdef bint heap_owns(void *p) noexcept nogil                           # any address at all; constant time, no lock
cdef void heap_read_stats(HeapStats *into) noexcept nogil             # costs no system call
cdef uint64_t heap_purge() noexcept nogil                             # everything idle, now; bytes
cdef int heap_check() noexcept nogil                                  # 0, or which law is broken
cdef void heap_configure(uint64_t decay_ns, bint huge_pages) noexcept nogil  # before heap_boot; decay NOWHERE: never

cdef bint heap_may_idle() noexcept nogil                              # it has grown so far that a reclaim thread is worth its while

cdef void *heap_allocate_slow(size_t size, size_t align, bint zero) noexcept nogil
cdef void heap_deallocate_slow(void *p) noexcept nogil

# inside heap
cdef extern from *:
    """
    __attribute__((noinline, cold)) void *fh_heap_allocate_slow(size_t size, size_t align, int zero);
    __attribute__((noinline, cold)) void fh_heap_deallocate_slow(void *p);
    FH_TLS void *fh_large_here;            /* what this thread keeps of large blocks */
    #define fh_large_get() ((struct LargeThread *)fh_large_here)
    #define fh_large_set(t) (fh_large_here = (t))
    static void fh_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void)) {
        pthread_atfork(before, in_parent, in_child);
    }
    """
    void at_fork "fh_at_fork"(void (*before)() noexcept nogil, void (*in_parent)() noexcept nogil, void (*in_child)() noexcept nogil) noexcept nogil
    LargeThread *large_here "fh_large_get"() noexcept nogil
    void large_set_here "fh_large_set"(LargeThread *t) noexcept nogil
    void set_errno "errno = "(int e) noexcept nogil
cdef inline bint heap_hit(size_t size, void **p) noexcept nogil
cdef void *heap_try(size_t size, size_t align, bint zero) noexcept nogil
cdef bint heap_tick(uint64_t now) noexcept nogil
cdef void heap_before_fork() noexcept nogil
cdef void heap_after_fork_in_parent() noexcept nogil
cdef void heap_after_fork_in_child() noexcept nogil
cdef void heap_add_small(HeapStats *s) noexcept nogil
cdef int heap_judge(uint64_t address, uint64_t owner, size_t *size) noexcept nogil
cdef void *heap_move(void *p, size_t old, size_t size, size_t align) noexcept nogil
cdef int heap_open() noexcept nogil
cdef int heap_open_large(bint huge_pages) noexcept nogil
cdef LargeThread *heap_thread() noexcept nogil
cdef void heap_thread_end() noexcept nogil
cdef void heap_add_runs(HeapStats *s) noexcept nogil
cdef void heap_add_large(HeapStats *s) noexcept nogil
cdef void heap_add_spans(HeapStats *s) noexcept nogil
