# span.pxd: several 4 MiB blocks of the space for one request: beyond the largest class, or aligned beyond any.
#
# Any thread, any time; no lock: who takes the first block's owner word away owns the span.
# Does not: keep anything. A span is mapped when it is handed out and unmapped when it comes back.
from libc.stdint cimport uint64_t

cdef struct SpanStats:              # atomic, relaxed: statistics only
    uint64_t live                   # spans
    uint64_t live_bytes
    uint64_t allocations            # so far

cdef uint64_t span_allocate(uint64_t heap, uint64_t size, uint64_t align, bint huge_pages) noexcept nogil  # 0: refused
cdef int span_deallocate(uint64_t address, uint64_t owner) noexcept nogil             # FREE_ reason
cdef uint64_t span_size(uint64_t address) noexcept nogil                              # 0: no span begins there
cdef void span_read_stats(SpanStats *into) noexcept nogil
