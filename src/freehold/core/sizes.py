"""Size classes: a table made at start-up, and the arithmetic between sizes, classes and offsets.

Thread-safety: a table is constant once made.
Invariants: ``size(index(s))`` is the smallest class size that is at least s. The high word of offset · multiplier is
``offset // size`` as long as offset · error < 2^64, where error = multiplier · size - 2^64 < size: it then never
carries into the quotient. In the default table that serves all offsets up to 2^43: classes from 2^21 on are powers of
two, and have no error.
Does not look at memory. No other module knows where a class begins or ends.
Follows: jemalloc's ``sc`` (geometry at boot) and ``div`` (division by multiplication).
"""

import cython
from cython.cimports.freehold.core.machine import clz, mul_high
from cython.cimports.freehold.core.sizes import SIZES_NONE, Sizes
from cython.cimports.libc.stdint import uint32_t, uint64_t

sizes_the_default = cython.declare(Sizes)


def sizes_log2(x: uint64_t) -> uint32_t:
    """The position of the highest set bit of x > 0."""
    return 63 - clz(x)


def sizes_geometric(t: cython.pointer[Sizes], i: uint32_t) -> uint64_t:
    """The size of class i, counted through small and middle classes."""
    if i < t.per_doubling:
        return t.minimum * (i + 1)
    doubling: uint32_t = i // t.per_doubling - 1
    step: uint64_t = t.minimum << doubling
    return (t.per_doubling + i % t.per_doubling + 1) * step


def sizes_make(
    t: cython.pointer[Sizes],
    minimum: uint64_t,
    per_doubling: uint32_t,
    small_limit: uint64_t,
    large_minimum: uint64_t,
    large_maximum: uint64_t,
) -> cython.void:
    t.minimum = minimum
    t.per_doubling = per_doubling
    t.small_limit = small_limit
    t.large_minimum = large_minimum
    t.large_maximum = large_maximum
    t.doubling_bits = sizes_log2(per_doubling)
    t.linear_bits = sizes_log2(minimum * per_doubling)
    t.small = 0
    i: uint32_t = 0
    while sizes_geometric(t, i) < large_minimum:
        t.size[i] = sizes_geometric(t, i)
        if t.size[i] <= small_limit:
            t.small += 1
        i += 1
    t.middle = i - t.small
    size: uint64_t = large_minimum
    while size <= large_maximum and size >= large_minimum:
        t.size[i] = size
        size <<= 1
        i += 1
    t.large = i - t.small - t.middle
    t.count = i
    all_bits: uint64_t = ~cython.cast(uint64_t, 0)
    i = 0
    while i < t.count:  # ceil(2^64 / size), without a number of 65 bits
        t.multiplier[i] = all_bits // t.size[i] + 1
        i += 1


def sizes_index(t: cython.pointer[cython.const[Sizes]], size: uint64_t) -> uint32_t:
    x: uint64_t = size - (size > 0)  # size 0 is served as 1
    if x >= t.size[t.small + t.middle - 1]:
        if x >= t.large_maximum:
            return SIZES_NONE
        if x < t.large_minimum:
            return t.small + t.middle
        return t.small + t.middle + sizes_log2(x) + 1 - sizes_log2(t.large_minimum)
    if x >> t.linear_bits == 0:
        return cython.cast(uint32_t, x >> (t.linear_bits - t.doubling_bits))
    top: uint32_t = sizes_log2(x)
    within: uint32_t = cython.cast(uint32_t, x >> (top - t.doubling_bits)) & (t.per_doubling - 1)
    return ((top - t.linear_bits + 1) << t.doubling_bits) + within


def sizes_index_aligned(t: cython.pointer[cython.const[Sizes]], size: uint64_t, align: uint64_t) -> uint32_t:
    """The smallest class that is at least size and a multiple of align (a power of two, or 0 for none).

    Size rounded up to align is a multiple of both align and its doubling's step, or a multiple of align between two
    steps; either way the class it falls into is the smallest whose size is a multiple of align.
    """
    if align > t.minimum:
        if size > ~cython.cast(uint64_t, 0) - align:
            return SIZES_NONE
        size = (size + (size == 0) + align - 1) & ~(align - 1)
    return sizes_index(t, size)


def sizes_divide(t: cython.pointer[cython.const[Sizes]], index: uint32_t, offset: uint64_t) -> uint64_t:
    return mul_high(offset, t.multiplier[index])


def sizes_default() -> cython.pointer[cython.const[Sizes]]:
    return cython.address(sizes_the_default)


def sizes_boot() -> cython.void:
    kib: uint64_t = 1 << 10
    mib: uint64_t = 1 << 20
    sizes_make(cython.address(sizes_the_default), 16, 4, 128 * kib, 2 * mib, 64 * kib * mib)
