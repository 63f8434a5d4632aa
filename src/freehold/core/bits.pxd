# bits.pxd: runs in bitmaps. A bitmap is an array of 64-bit words; bit i is bit i % 64 of word i // 64.
#
# Not thread-safe: the caller holds what guards the bitmap. Positions and lengths are in bits.
# Does not: know how long a bitmap is; callers pass its length.
from libc.stdint cimport uint64_t

cdef bint bits_get(const uint64_t *words, uint64_t i) noexcept nogil
cdef void bits_set(uint64_t *words, uint64_t i, uint64_t n) noexcept nogil
cdef void bits_clear(uint64_t *words, uint64_t i, uint64_t n) noexcept nogil
cdef bint bits_all_set(const uint64_t *words, uint64_t i, uint64_t n) noexcept nogil
cdef bint bits_all_clear(const uint64_t *words, uint64_t i, uint64_t n) noexcept nogil
cdef uint64_t bits_count(const uint64_t *words, uint64_t i, uint64_t n) noexcept nogil           # set bits in i … i+n-1
cdef uint64_t bits_next_set(const uint64_t *words, uint64_t i, uint64_t length) noexcept nogil   # the first at or after i; `length` if none
cdef uint64_t bits_next_clear(const uint64_t *words, uint64_t i, uint64_t length) noexcept nogil
# lowest run of n clear bits at or after i that begins at a multiple of align; NOWHERE if none
cdef uint64_t bits_find_clear(const uint64_t *words, uint64_t i, uint64_t length, uint64_t n, uint64_t align) noexcept nogil
