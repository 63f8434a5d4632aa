# fields.pxd: bitmaps that threads share, in fields of 64 bits: runs of bits are claimed and given back without a lock.
#
# Any thread, any time; nothing waits. Bit i is bit i % 64 of field i // 64; positions and lengths are in bits.
# Invariant: a run is claimed by one thread at most: whoever set the last of its bits while all were clear.
# Does not: know how long a bitmap is; callers pass its length.
# After: mimalloc's bitmaps with claims across fields.
from libc.stdint cimport uint64_t

cdef inline uint64_t fields_for(uint64_t bits) noexcept nogil:
    return (bits + 63) // 64

cdef bint fields_claim(uint64_t *field, uint64_t i, uint64_t n) noexcept nogil              # sets n clear bits, all or none
cdef bint fields_take(uint64_t *field, uint64_t i, uint64_t n) noexcept nogil               # clears n set bits, all or none
cdef uint64_t fields_claim_lowest(uint64_t *field, uint64_t length, uint64_t n) noexcept nogil  # the lowest run of n clear bits; NOWHERE
cdef uint64_t fields_claim_some(uint64_t *field, uint64_t i, uint64_t n) noexcept nogil     # clear bits from i on, in its field: how many; 0: bit i is set
cdef void fields_set(uint64_t *field, uint64_t i, uint64_t n) noexcept nogil                # whatever they were
cdef void fields_set_all(uint64_t *into, const uint64_t *source, uint64_t length) noexcept nogil  # the bits that `source` has
cdef void fields_clear(uint64_t *field, uint64_t i, uint64_t n) noexcept nogil
cdef uint64_t fields_next_set(const uint64_t *field, uint64_t i, uint64_t end) noexcept nogil    # the first at or after i; `end` if none
cdef uint64_t fields_next_clear(const uint64_t *field, uint64_t i, uint64_t end) noexcept nogil
cdef uint64_t fields_count(const uint64_t *field, uint64_t length) noexcept nogil           # set bits below `length`

# inside fields
cdef bint fields_swap(uint64_t *field, uint64_t bits, uint64_t expected) noexcept nogil
