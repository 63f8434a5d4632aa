# budget.pxd: how much memory a heap may hold, and how much it does.
#
# Any thread; no lock. Law: used <= limit after every budget_take that said yes, whatever threads race, also while the limit
# is being lowered (docs/models/limit.pml).
# Does not: know what the bytes are for, or give anything back to make room.
from libc.stdint cimport uint64_t

cdef struct Budget:
    uint64_t used                   # bytes that may be resident; atomic
    uint64_t books                  # of them, the heap's own; atomic
    uint64_t most                   # the highest `used` so far; atomic
    uint64_t limit                  # bytes; NOWHERE: none. Atomic
    uint64_t refused                # requests, so far; atomic, relaxed: statistics only

cdef void budget_open(Budget *b, uint64_t limit) noexcept nogil
cdef bint budget_take(Budget *b, uint64_t bytes) noexcept nogil       # False: over the limit, and nothing is taken
cdef void budget_force(Budget *b, uint64_t bytes) noexcept nogil      # what is resident already: never refused
cdef void budget_give(Budget *b, uint64_t bytes) noexcept nogil
cdef bint budget_take_books(Budget *b, uint64_t bytes) noexcept nogil  # the same for what a heap keeps for itself
cdef void budget_give_books(Budget *b, uint64_t bytes) noexcept nogil
cdef bint budget_set_limit(Budget *b, uint64_t limit) noexcept nogil  # False, and nothing changes: more is used
cdef void budget_settle(Budget *b, uint64_t used, uint64_t books) noexcept nogil  # so much it is; one thread alone
cdef uint64_t budget_used(Budget *b) noexcept nogil
cdef uint64_t budget_books(Budget *b) noexcept nogil
cdef uint64_t budget_limit(Budget *b) noexcept nogil
cdef uint64_t budget_left(Budget *b) noexcept nogil                   # bytes that a request may still take
cdef void budget_refuse(Budget *b) noexcept nogil                     # count a request that was not even tried
cdef uint64_t budget_refusals(Budget *b) noexcept nogil

# inside budget
cdef void budget_rise(Budget *b, uint64_t used) noexcept nogil
