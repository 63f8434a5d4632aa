# budget.pxd: how much memory a heap may hold, and how much it does.
#
# Any thread; no lock. Law: used <= limit after every budget_take that said yes, whatever threads race.
# Does not: know what the bytes are for, or give anything back to make room.
from libc.stdint cimport uint64_t

cdef struct Budget:
    uint64_t used                   # bytes that may be resident; atomic
    uint64_t most                   # the highest `used` so far; atomic
    uint64_t limit                  # bytes; NOWHERE: none. Atomic
    uint64_t refused                # requests, so far; atomic, relaxed: statistics only

cdef void budget_open(Budget *b, uint64_t limit) noexcept nogil
cdef bint budget_take(Budget *b, uint64_t bytes) noexcept nogil       # False: over the limit, and nothing is taken
cdef void budget_force(Budget *b, uint64_t bytes) noexcept nogil      # what is resident already: never refused
cdef void budget_give(Budget *b, uint64_t bytes) noexcept nogil
cdef bint budget_set_limit(Budget *b, uint64_t limit) noexcept nogil  # False, and nothing changes: more is used
cdef uint64_t budget_left(Budget *b) noexcept nogil                   # bytes that a request may still take

# inside budget
cdef void budget_rise(Budget *b, uint64_t used) noexcept nogil
