# chance.pxd: random numbers, exponential intervals, and how probable it is that one begins a sample.
#
# Not thread-safe: a state is its owner's. No library of mathematics is linked: a few terms of a series are enough.
# Does not: seed a state; any that is not 0 will do.
from libc.stdint cimport uint64_t

cdef uint64_t chance_next(uint64_t *state) noexcept nogil                      # 64 random bits
cdef uint64_t chance_interval(uint64_t *state, uint64_t mean) noexcept nogil   # exponential, at least 1
cdef double chance_of(uint64_t size, uint64_t mean) noexcept nogil             # that so much ends an interval: 1 - exp(-size / mean)

# inside chance
cdef extern from *:
    """
    #define FH_LN_2 0.6931471805599453
    """
    double LN_2 "FH_LN_2"
cdef double chance_ln(uint64_t n) noexcept nogil                               # of n, 1 to 2^63
