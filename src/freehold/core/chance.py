"""Random numbers, exponential intervals, and how probable it is that one of them ends within a size.

Not thread-safe: a state is its owner's.
Invariant: an interval is memoryless, so the sizes that end one are a Poisson sample of all bytes: of a block of s bytes
1 - exp(-s / mean), whatever came before it.
Does not link a library of mathematics: the core has none. What a series gives here is right to 1 in 10 million.
Follows: the byte sampling of tcmalloc and of Go's heap profile; Marsaglia's xorshift, Vigna's xorshift64*.
"""

import cython
from cython.cimports.freehold.core.chance import LN_2
from cython.cimports.freehold.core.machine import clz, most
from cython.cimports.libc.stdint import uint64_t


def chance_next(state: cython.pointer[uint64_t]) -> uint64_t:
    x: uint64_t = state[0]
    x ^= x >> 12
    x ^= x << 25
    x ^= x >> 27
    state[0] = x
    return x * cython.cast(uint64_t, 0x2545F4914F6CDD1D)


def chance_interval(state: cython.pointer[uint64_t], mean: uint64_t) -> uint64_t:
    """Draw: -ln(u) times the mean, u one of 2^53 numbers above 0 up to 1; 36.7 means at most."""
    n: uint64_t = (chance_next(state) >> 11) + 1
    length: cython.double = (53 * LN_2 - chance_ln(n)) * mean
    return most(1, cython.cast(uint64_t, length + 0.5))


def chance_ln(n: uint64_t) -> cython.double:
    """The exponent's share, and the rest, 1 to 2, by the series of atanh((m - 1) / (m + 1)): terms fall by nine."""
    power: cython.int = 63 - clz(n)
    m: cython.double = cython.cast(cython.double, n) / cython.cast(cython.double, cython.cast(uint64_t, 1) << power)
    s: cython.double = (m - 1) / (m + 1)
    t: cython.double = s * s
    sum: cython.double = 1 / 15.0
    k: cython.int = 13
    while k > 0:
        sum = sum * t + 1 / cython.cast(cython.double, k)
        k -= 2
    return power * LN_2 + 2 * s * sum


def chance_of(size: uint64_t, mean: uint64_t) -> cython.double:
    """Halve the ratio until four terms of the series suffice, then go back: 1 - (1 - p)^2 is twice as far."""
    x: cython.double = cython.cast(cython.double, size) / cython.cast(cython.double, mean)
    if x > 40:
        return 1
    doublings: cython.int = 0
    while x > 1 / 32.0:
        x /= 2
        doublings += 1
    p: cython.double = x * (1 - x / 2 * (1 - x / 3 * (1 - x / 4)))
    while doublings > 0:
        p = p * (2 - p)
        doublings -= 1
    return p
