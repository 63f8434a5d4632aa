"""How much memory a heap may hold, and how much it does.

Thread-safety: any thread, no lock. What a request will make resident is taken here first, so a limit is never passed,
not even for a moment; where it is refused, nothing has happened yet.
Invariant: ``used <= limit``, but for what `budget_force` said was there already.
Does not give anything back to make room: the heap does, and asks again.
Follows: the reservation counters of the kernel's memory cgroups.
"""

import cython
from cython.cimports.freehold.core.budget import Budget
from cython.cimports.freehold.core.machine import (
    add64_relaxed,
    fetch_add64,
    load64_acquire,
    load64_relaxed,
    should,
    store64_release,
    sub64_relaxed,
    swap64_if,
)
from cython.cimports.libc.stdint import uint64_t


def budget_open(b: cython.pointer[Budget], limit: uint64_t) -> cython.void:
    b.used = 0
    b.most = 0
    b.refused = 0
    b.limit = limit


def budget_take(b: cython.pointer[Budget], bytes: uint64_t) -> cython.bint:
    used: uint64_t = load64_acquire(cython.address(b.used))
    while True:
        # Read anew in each round: a limit set meanwhile holds for this request too.
        limit: uint64_t = load64_acquire(cython.address(b.limit))
        if used > limit or bytes > limit - used:
            add64_relaxed(cython.address(b.refused), 1)
            return False
        if swap64_if(cython.address(b.used), cython.address(used), used + bytes):
            budget_rise(b, used + bytes)
            return True


def budget_force(b: cython.pointer[Budget], bytes: uint64_t) -> cython.void:
    budget_rise(b, fetch_add64(cython.address(b.used), bytes) + bytes)


def budget_rise(b: cython.pointer[Budget], used: uint64_t) -> cython.void:
    most: uint64_t = load64_relaxed(cython.address(b.most))
    while most < used and not swap64_if(cython.address(b.most), cython.address(most), used):
        pass


def budget_give(b: cython.pointer[Budget], bytes: uint64_t) -> cython.void:
    should(load64_relaxed(cython.address(b.used)) >= bytes, b"a budget gets back what was taken from it")
    sub64_relaxed(cython.address(b.used), bytes)


def budget_left(b: cython.pointer[Budget]) -> uint64_t:
    used: uint64_t = load64_relaxed(cython.address(b.used))
    limit: uint64_t = load64_relaxed(cython.address(b.limit))
    return limit - used if used < limit else 0


def budget_set_limit(b: cython.pointer[Budget], limit: uint64_t) -> cython.bint:
    """Set the limit, unless more is used. A request that races with this is judged by the one or the other."""
    before: uint64_t = load64_acquire(cython.address(b.limit))
    store64_release(cython.address(b.limit), limit)
    if load64_acquire(cython.address(b.used)) <= limit:
        return True
    store64_release(cython.address(b.limit), before)
    return False
