# span.pxd: whole blocks of the space for one request: beyond the largest class, aligned beyond any, or with a guard behind it.
#
# Any thread, any time; no lock: who takes the first block's owner word away owns the span.
# Does not: keep anything. A span is mapped when it is handed out and unmapped when it comes back.
from libc.stdint cimport uint64_t

from freehold.core.budget cimport Budget

cdef enum:
    SPAN_GUARDS = 900               # guarded spans at once in a heap: each is two mappings more

cdef struct SpanHome:               # whose spans these are: one in each heap
    Budget *budget                  # constant
    uint64_t heap                   # id, for the owner table; constant
    int node                        # NUMA node; -1: any; constant
    bint huge_pages                 # constant
    uint64_t live                   # spans; this and the next four are atomic
    uint64_t live_bytes             # accessible
    uint64_t guarded                # of the live ones
    uint64_t allocations            # so far
    uint64_t allocated_bytes        # by them, so far

cdef uint64_t span_allocate(SpanHome *h, uint64_t size, uint64_t align, bint guard) noexcept nogil  # 0: refused
cdef int span_deallocate(SpanHome *h, uint64_t address, uint64_t owner) noexcept nogil  # FREE_ reason
cdef uint64_t span_size(uint64_t address) noexcept nogil                              # 0: no span begins there
cdef uint64_t span_next(SpanHome *h, uint64_t after) noexcept nogil                   # the heap's next live span; 0: none. Slow: looks at every block

# inside span
cdef uint64_t span_blocks(uint64_t note) noexcept nogil
cdef uint64_t span_bytes(uint64_t note) noexcept nogil
cdef uint64_t span_take(uint64_t size, uint64_t align, uint64_t bytes) noexcept nogil
