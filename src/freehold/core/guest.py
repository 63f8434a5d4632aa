"""This thread's small blocks of a heap that is not the default one: what cache's hits do, at another seat.

Thread-safety: a seat is its thread's alone; entering, leaving and claiming are those of cache.
Invariants: those of cache. An empty seat holds `nobody`, which has no block and no room.
Does not refill, make room, or say why it could not.
Follows: cache. The seat is a parameter here; there it is one fixed word, which costs less.
"""

import cython
from cython.cimports.freehold.core.cache import Bin, Cache, bin_count, enter, is_claimed, leave, mul_wide
from cython.cimports.freehold.core.machine import load8_relaxed, store8_relaxed, store64_relaxed
from cython.cimports.freehold.core.primary import BLOCK_CACHED, BLOCK_LIVE
from cython.cimports.freehold.core.seats import seats_here
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t


def guest_allocate(heap: uint64_t, size: cython.size_t, p: cython.pointer[cython.p_void]) -> cython.bint:
    if cython.unlikely(seats_here() == cython.NULL):
        return False
    seat: cython.pointer[cython.pointer[Cache]] = cython.cast(
        cython.pointer[cython.pointer[Cache]], seats_here() + heap
    )
    c: cython.pointer[Cache] = seat[0]
    b: cython.pointer[Bin] = cython.cast(cython.pointer[Bin], cython.cast(uint64_t, c) + c.direct[(size + 15) >> 4])
    return guest_hit(seat, c, b, p)


def guest_allocate_class(heap: uint64_t, index: uint32_t, p: cython.pointer[cython.p_void]) -> cython.bint:
    if cython.unlikely(seats_here() == cython.NULL):
        return False
    seat: cython.pointer[cython.pointer[Cache]] = cython.cast(
        cython.pointer[cython.pointer[Cache]], seats_here() + heap
    )
    return guest_hit(seat, seat[0], cython.address(seat[0].bin[index]), p)


def guest_hit(
    seat: cython.pointer[cython.pointer[Cache]],
    c: cython.pointer[Cache],
    b: cython.pointer[Bin],
    p: cython.pointer[cython.p_void],
) -> cython.bint:
    """Pop the newest block."""
    enter(seat)
    if cython.unlikely(is_claimed(c)):  # before anything that a claimer writes is read
        leave(seat, c)
        return False
    word: uint64_t = b.word
    count: uint64_t = bin_count(word)
    if cython.unlikely(count == 0):
        leave(seat, c)
        return False
    number: uint64_t = b.slots[count - 1]
    store64_relaxed(cython.address(b.word), word + 0xFFFF)  # one allocation more, one block fewer
    store8_relaxed(cython.address(b.states[number]), BLOCK_LIVE)
    p[0] = cython.cast(cython.p_void, b.base + number * b.size)
    leave(seat, c)
    return True


def guest_deallocate(heap: uint64_t, address: uint64_t) -> cython.bint:
    """Put a block back; by the one multiplication that cache_deallocate explains."""
    if cython.unlikely(seats_here() == cython.NULL):
        return False
    seat: cython.pointer[cython.pointer[Cache]] = cython.cast(
        cython.pointer[cython.pointer[Cache]], seats_here() + heap
    )
    c: cython.pointer[Cache] = seat[0]
    index: uint64_t = (address - c.base) >> c.region_bits
    if cython.unlikely(index >= c.classes):
        return False
    b: cython.pointer[Bin] = cython.address(c.bin[index])
    over: uint64_t = 0
    number: uint64_t = mul_wide(address - b.base, b.multiplier, cython.address(over))
    if cython.unlikely(over >= b.multiplier or number >= b.made):
        return False
    state: cython.pointer[uint8_t] = b.states + number
    if cython.unlikely(load8_relaxed(state) != BLOCK_LIVE):
        return False
    enter(seat)
    if cython.unlikely(is_claimed(c)):
        leave(seat, c)
        return False
    word: uint64_t = b.word
    count: uint64_t = bin_count(word)
    if cython.unlikely(count >= b.most):
        leave(seat, c)
        return False
    store8_relaxed(state, BLOCK_CACHED)
    b.slots[count] = cython.cast(uint32_t, number)
    store64_relaxed(cython.address(b.word), word + 1)
    leave(seat, c)
    return True
