"""This thread's small blocks of a heap that is not the default one: cache's hits at another seat.

Thread-safety: a seat is its thread's alone; entering, leaving and claiming are those of cache.
Invariants: those of cache. An empty seat holds `nobody`, which has no block and no room.
Does not refill, make room, or say why it could not.
Follows: cache. The seat is looked up here; there it is one fixed word, which costs less.
"""

import cython
from cython.cimports.freehold.core.bin import Cache, hit_give, hit_take, hit_take_class
from cython.cimports.freehold.core.seats import seats_here
from cython.cimports.libc.stdint import uint32_t, uint64_t


def guest_seat(heap: uint64_t) -> cython.pointer[cython.pointer[Cache]]:
    """Where this thread's cache of a heap would be; only where it has any seats."""
    return cython.cast(cython.pointer[cython.pointer[Cache]], seats_here() + heap)


def guest_allocate(heap: uint64_t, size: cython.size_t, p: cython.pointer[cython.p_void]) -> cython.bint:
    return seats_here() != cython.NULL and hit_take(guest_seat(heap), (size + 15) >> 4, p)


def guest_allocate_class(heap: uint64_t, index: uint32_t, p: cython.pointer[cython.p_void]) -> cython.bint:
    return seats_here() != cython.NULL and hit_take_class(guest_seat(heap), index, p)


def guest_deallocate(heap: uint64_t, address: uint64_t) -> cython.bint:
    return seats_here() != cython.NULL and hit_give(guest_seat(heap), address)
