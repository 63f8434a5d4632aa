# home.pxd: one heap: its layers, its budget, and which of them serves what.
#
# Any thread; who uses a heap but the default one has passed the gate (see heaps). Layers but the primary are made at first use.
# Invariant: what the budget counts is what the layers say: used = active + dirty + books.
# Does not: know the other heaps, find a heap from an address, or try again when a request is refused.
from libc.stdint cimport uint32_t, uint64_t

from freehold.core.budget cimport Budget
from freehold.core.extentbook cimport Extents
from freehold.core.large cimport Large, LargeThread
from freehold.core.primary cimport Primary
from freehold.core.span cimport SpanHome
from freehold.core.sync cimport Mutex

cdef enum:
    HEAP_ID = 0                     # of the default heap, in owner words
    HELD_BLOCKS = 256               # a secure heap holds back so many freed blocks at most,
    HELD_BYTES = 0x400000           # and 4 MiB of them
    HOME_NAME_WORDS = 5             # of a heap's name: so many times eight bytes, with the NUL

cdef enum:                          # huge pages for growing parts of a heap
    HEAP_HUGE_NEVER = 0
    HEAP_HUGE_AUTO = 1              # a region past its first 2 MiB, large blocks
    HEAP_HUGE_ALWAYS = 2            # extents, too, from the first on

cdef struct HeapConfig:
    uint64_t limit                  # bytes; NOWHERE: none
    uint64_t decay_ns               # how long idle memory is kept; NOWHERE: for ever
    int node                        # NUMA node; -1: any
    uint32_t huge_pages             # HEAP_HUGE_…
    bint secure                     # see docs/heaps.md

cdef struct Quarantine:                   # freed blocks of a secure heap that are not used again yet: a ring; guarded by the heap's lock
    uint64_t address[HELD_BLOCKS]
    uint64_t size[HELD_BLOCKS]
    uint64_t first                  # the oldest
    uint64_t blocks
    uint64_t bytes

cdef struct Heap:
    Mutex lock                      # while a layer is made; guards `held`
    uint64_t id                     # in owner words; constant
    HeapConfig config               # constant; the limit is the budget's
    Budget budget
    Primary *primary                # constant
    Extents *extents                   # NULL until first used; written under `lock`; atomic
    Large *large                    # the same
    LargeThread *shelf              # large blocks kept for all threads; the default heap has one for each thread instead
    SpanHome spans
    Quarantine held
    uint64_t base_books             # bytes of `books` for the heap and its layers themselves; written under `lock`
    uint64_t next_tick_ns           # written by the ticker
    uint32_t busy                   # the last tick left something to do; written by the ticker
    uint32_t visitors               # reclaim's, and a futex of who closes; atomic
    uint32_t orphan                 # closed while blocks were live; atomic
    uint64_t name[HOME_NAME_WORDS]  # text for whoever looks on, empty at first; each word atomic
    Heap *next                      # in the list of heaps; guarded by it

cdef int home_open(Heap *h, uint64_t id, const HeapConfig *config) noexcept nogil       # 0 or the errno
cdef void home_close(Heap *h) noexcept nogil                                            # whatever is live; nobody is inside, or will be
cdef void home_vacate(Heap *h) noexcept nogil                                           # what is live reads 0, and goes back as ever
cdef void *home_serve(Heap *h, LargeThread *t, uint64_t size, uint64_t align, bint zero) noexcept nogil  # one try
cdef int home_take_back(Heap *h, LargeThread *t, uint64_t address, uint64_t owner, uint64_t *size) noexcept nogil  # FREE_ reason
cdef int home_judge(Heap *h, uint64_t address, uint64_t owner, size_t *size) noexcept nogil   # FREE_OK if a live block starts there
cdef bint home_resize(Heap *h, uint64_t address, uint64_t owner, uint64_t size) noexcept nogil  # in place, or False
cdef void home_set_name(Heap *h, const char *name) noexcept nogil                       # as much of it as there is room for
cdef bint home_tick(Heap *h, uint64_t now) noexcept nogil                               # True while something may still become idle
cdef uint64_t home_purge(Heap *h) noexcept nogil                                        # everything idle, now; bytes
cdef uint64_t home_purge_quietly(Heap *h) noexcept nogil                                # … by a thread that has no cache and gets none
cdef int home_make_all(Heap *h) noexcept nogil                                          # every layer, now; 0 or the errno
cdef Extents *home_extents(Heap *h) noexcept nogil                                            # NULL: not made yet
cdef Large *home_large(Heap *h) noexcept nogil                                          # NULL: not made yet

# inside home
cdef uint32_t home_region_bits(uint64_t heaps) noexcept nogil
cdef int home_open_primary(Heap *h) noexcept nogil
cdef bint home_take_base(Heap *h, uint64_t bytes) noexcept nogil
cdef void home_give_base(Heap *h, uint64_t bytes) noexcept nogil
cdef Extents *home_need_extents(Heap *h) noexcept nogil
cdef Large *home_need_large(Heap *h) noexcept nogil
cdef int home_make_extents(Heap *h) noexcept nogil
cdef int home_make_large(Heap *h) noexcept nogil
cdef uint64_t home_serve_small(Heap *h, uint64_t size, uint64_t align) noexcept nogil
cdef uint64_t home_serve_large(Heap *h, LargeThread *t, uint64_t size, uint64_t align, bint zero) noexcept nogil
cdef int home_hold(Heap *h, uint64_t address, uint64_t owner, uint64_t *size) noexcept nogil
cdef bint home_holds(Heap *h, uint64_t address) noexcept nogil
cdef void home_let_all_go(Heap *h) noexcept nogil
cdef uint64_t home_purge_small(Heap *h) noexcept nogil
cdef uint64_t home_purge_rest(Heap *h) noexcept nogil
cdef void home_let_go(Heap *h, uint64_t blocks, uint64_t bytes) noexcept nogil
