# guest.pxd: this thread's small blocks of a heap that is not the default one: what cache's hits do, at another seat.
#
# A hit touches no lock and writes no line that another thread writes.
# Does not: refill, make room, or say why it could not: False, and nothing has changed.
from libc.stdint cimport uint32_t, uint64_t

from freehold.core.bin cimport Cache

# inside guest
cdef inline bint guest_allocate(uint64_t heap, size_t size, void **p) noexcept nogil          # up to DIRECT_LIMIT bytes
cdef inline bint guest_allocate_class(uint64_t heap, uint32_t index, void **p) noexcept nogil
cdef inline bint guest_deallocate(uint64_t heap, uint64_t address) noexcept nogil
cdef inline Cache **guest_seat(uint64_t heap) noexcept nogil
