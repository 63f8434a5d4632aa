# account.pxd: what heaps hold, by jemalloc's names, and the proof that it adds up.
#
# Any thread, any time. Figures read while other threads work are a moment apart.
# Law: mapped = active + dirty + muzzy + retained; used = active + dirty + metadata, in each heap.
# Does not: cost a system call, or a counter that several threads write on a hot path.
from libc.stdint cimport uint32_t, uint64_t

from freehold.core.home cimport Heap

cdef struct HeapStats:              # bytes unless said; jemalloc's names
    uint64_t allocated              # what callers hold, in the sizes that serve them
    uint64_t active                 # memory that holds it
    uint64_t dirty                  # idle and resident: reused at once, given back after the decay time
    uint64_t muzzy                  # idle, given back lazily
    uint64_t retained               # addresses kept, memory given back or never touched
    uint64_t metadata               # for the heap's own use; the owner table, a sparse one, is not in it
    uint64_t mapped                 # active + dirty + muzzy + retained
    uint64_t cached                 # of dirty and active: in threads' caches
    uint64_t purged                 # given back to the OS so far; this and the next two: by the whole process
    uint64_t purge_calls            # counts from here on
    uint64_t os_failures            # calls that the OS refused
    uint64_t blocks                 # live
    uint64_t allocations
    uint64_t deallocations
    uint64_t bad_frees              # reported under FREEHOLD_ON_ERROR=report; by the whole process
    uint64_t ticks                  # of the reclaim thread; of the whole process
    uint64_t used                   # bytes: what the budget counts, active + dirty + metadata
    uint64_t peak                   # bytes: the highest that ever was
    uint64_t limit                  # bytes; NOWHERE: none
    uint64_t refused                # requests that were over the limit
    uint64_t total                  # bytes handed out so far, in the sizes that serve them; not what grows in place
    uint64_t exhausted              # requests that found the addresses of their size class used up

cdef enum:                          # laws beyond those of the primary (1 …) and the large pools (100 …)
    ACCOUNT_LAW_POOLS = 100
    ACCOUNT_LAW_USED = 200          # what the budget counts is what the layers say
    ACCOUNT_LAW_BOOKS = 201         # … and so are the books

cdef void account_read(Heap *h, HeapStats *into) noexcept nogil
cdef void account_add(HeapStats *sum, const HeapStats *one) noexcept nogil
cdef void account_add_process(HeapStats *sum) noexcept nogil          # what is known of the process alone
cdef void account_add_class(Heap *h, uint32_t index, HeapStats *s) noexcept nogil  # one layer, or a part of it, each; like all
cdef void account_add_extents(Heap *h, HeapStats *s) noexcept nogil                # but account_read without limit, used, mapped.
cdef void account_add_pool(Heap *h, uint32_t index, HeapStats *s) noexcept nogil
cdef void account_add_spans(Heap *h, HeapStats *s) noexcept nogil
cdef void account_take_held(Heap *h, HeapStats *s) noexcept nogil                  # from the small blocks' figures
cdef void account_settle(Heap *h) noexcept nogil                      # in a forked child: the budget counts what the layers say
cdef uint64_t account_live(Heap *h, uint64_t *bytes) noexcept nogil   # blocks with callers
cdef int account_check(Heap *h) noexcept nogil                        # 0, or which law is broken

# inside account
cdef void account_add_small(Heap *h, HeapStats *s) noexcept nogil
cdef void account_add_large(Heap *h, HeapStats *s) noexcept nogil
cdef uint64_t account_books(Heap *h, uint64_t *counted) noexcept nogil
cdef int account_check_layers(Heap *h) noexcept nogil
cdef int account_check_budget(Heap *h) noexcept nogil
