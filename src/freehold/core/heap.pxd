# heap.pxd: the C functions that everyone calls: requests, served by the default heap or by another one.
#
# Any thread, any time, with or without the GIL. A free never fails and never allocates.
# Does not: know what a block is for, or open and close heaps (heaps does).
from libc.stdint cimport uint32_t, uint64_t

from freehold.core.account cimport HeapStats
from freehold.core.home cimport Heap
from freehold.core.large cimport LargeThread

cdef enum:
    MOVE_LEAST = 0x400000           # bytes from which on a block is moved by its pages …
    MOVES_MOST = 400                # … so many times in a process: each may leave four mappings more

cdef int heap_boot() noexcept nogil                                   # 0 or the errno; idempotent
cdef void *heap_allocate(size_t size, size_t align) noexcept nogil    # align 0: 16; NULL and errno ENOMEM (EINVAL) when refused
cdef void *heap_allocate_line(size_t size) noexcept nogil              # NumPy's: aligned to 64 bytes
cdef void *heap_allocate_zeroed(size_t size, size_t align) noexcept nogil
cdef void *heap_reallocate(void *p, size_t size, size_t align) noexcept nogil  # NULL: p is as it was
cdef void heap_deallocate(void *p) noexcept nogil                     # NULL does nothing; a bad one aborts (or is reported)
ctypedef void (*other_free)(void *p, size_t size) noexcept nogil
cdef void heap_take_back(void *p, size_t size, other_free other) noexcept nogil  # deallocates what is the heap's, or calls `other`
cdef void heap_deallocate_sized(void *p, size_t size) noexcept nogil  # the size is a hint and is not trusted
cdef size_t heap_usable_size(void *p) noexcept nogil                  # 0 if no block of ours starts there; aborts if it is freed
cdef bint heap_owns(void *p) noexcept nogil                           # any address at all; constant time, no lock
cdef void heap_read_stats(HeapStats *into) noexcept nogil             # of all heaps; costs no system call
cdef uint64_t heap_purge() noexcept nogil                             # everything idle, now; bytes
# The same, and who asks for it is known (SOURCE_…), should the block be sampled.
cdef void *heap_allocate_as(size_t size, size_t align, uint32_t source) noexcept nogil
cdef void *heap_allocate_zeroed_as(size_t size, size_t align, uint32_t source) noexcept nogil
cdef void *heap_reallocate_as(void *p, size_t size, size_t align, uint32_t source) noexcept nogil
cdef int heap_check() noexcept nogil                                  # 0, or which law is broken, in any heap

# In a heap that heaps_open gave (or the default one). A block is freed, resized and asked about as any other, by its address.
cdef void *heap_allocate_in(Heap *h, size_t size, size_t align) noexcept nogil
cdef void *heap_allocate_zeroed_in(Heap *h, size_t size, size_t align) noexcept nogil
cdef Heap *heap_of(void *p) noexcept nogil                            # whose memory an address is in; NULL: no heap's
cdef void heap_read_stats_of(Heap *h, HeapStats *into) noexcept nogil
cdef uint64_t heap_purge_of(Heap *h) noexcept nogil
cdef int heap_check_of(Heap *h) noexcept nogil
cdef bint heap_set_limit(Heap *h, uint64_t limit) noexcept nogil      # False, and nothing changes: more is in use
cdef uint64_t heap_left(Heap *h) noexcept nogil                       # bytes to the limit

cdef void heap_configure(uint64_t decay_ns, bint huge_pages) noexcept nogil  # before heap_boot; decay NOWHERE: never

cdef void *heap_allocate_slow(size_t size, size_t align, bint zero) noexcept nogil
cdef void heap_deallocate_slow(void *p) noexcept nogil

# inside heap
cdef extern from *:
    """
    __attribute__((noinline, cold)) void *fh_heap_allocate_slow(size_t size, size_t align, int zero);
    __attribute__((noinline, cold)) void fh_heap_deallocate_slow(void *p);
    FH_TLS void *fh_large_here;            /* what this thread keeps of the default heap's large blocks */
    #define fh_large_get() ((struct LargeThread *)fh_large_here)
    #define fh_large_set(t) (fh_large_here = (t))
    """
    LargeThread *large_here "fh_large_get"() noexcept nogil
    void large_set_here "fh_large_set"(LargeThread *t) noexcept nogil
    void set_errno "errno = "(int e) noexcept nogil
cdef int heap_open_default() noexcept nogil
cdef inline bint heap_hit(size_t size, void **p) noexcept nogil
cdef void *heap_allocate_aligned(size_t size, size_t align) noexcept nogil
cdef LargeThread *heap_thread() noexcept nogil
cdef LargeThread *heap_thread_of(Heap *h) noexcept nogil
cdef void heap_thread_end() noexcept nogil
cdef void *heap_request(Heap *h, size_t size, size_t align, bint zero) noexcept nogil
cdef void heap_sample(Heap *h, uint64_t address) noexcept nogil
cdef void *heap_try(Heap *h, size_t size, size_t align, bint zero) noexcept nogil
cdef bint heap_deallocate_guest(uint64_t address, uint64_t owner) noexcept nogil
cdef int heap_judge(uint64_t address, uint64_t owner, size_t *size) noexcept nogil
cdef void *heap_move(Heap *h, void *p, size_t old, size_t size, size_t align) noexcept nogil
cdef bint heap_move_pages(uint64_t source, uint64_t to, uint64_t size) noexcept nogil
