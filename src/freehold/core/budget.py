"""How much memory a heap may hold, and how much it does.

Thread-safety: any thread, no lock. What a request will make resident is taken here first, so a limit is never passed,
not even for a moment; where it is refused, nothing has happened yet.
Invariant: ``used <= limit``, but for what `budget_force` said was there already; ``books <= used`` between operations.
Does not give anything back to make room: the heap does, and asks again.
Follows: the reservation counters of the kernel's memory cgroups, and Dekker's rule for the limit: who lowers it writes
the limit and then reads what is used; who takes writes what is used and then reads the limit. Of two that race at
least one sees the other, as long as all four are sequentially consistent.
"""

import cython
from cython.cimports.freehold.core.budget import Budget
from cython.cimports.freehold.core.machine import (
    NOWHERE,
    add64_relaxed,
    fetch_add64,
    load64_relaxed,
    load64_seq_cst,
    should,
    store64_seq_cst,
    sub64_relaxed,
    sub64_seq_cst,
    swap64_if,
    swap64_if_seq_cst,
)
from cython.cimports.libc.stdint import uint64_t


def budget_open(b: cython.pointer[Budget], limit: uint64_t) -> cython.void:
    b.used = 0
    b.books = 0
    b.most = 0
    b.refused = 0
    b.limit = limit


def budget_take(b: cython.pointer[Budget], bytes: uint64_t) -> cython.bint:
    if bytes == 0:
        return True
    used: uint64_t = load64_seq_cst(cython.address(b.used))
    while True:
        limit: uint64_t = load64_seq_cst(cython.address(b.limit))
        if limit != NOWHERE and (used > limit or bytes > limit - used):  # no limit refuses nothing, whatever is counted
            break
        if swap64_if_seq_cst(cython.address(b.used), cython.address(used), used + bytes):
            limit = load64_seq_cst(cython.address(b.limit))
            if limit == NOWHERE or used + bytes <= limit:
                budget_rise(b, used + bytes)
                return True
            sub64_seq_cst(cython.address(b.used), bytes)  # lowered meanwhile: nobody has seen these bytes
            break
    budget_refuse(b)
    return False


def budget_refuse(b: cython.pointer[Budget]) -> cython.void:
    add64_relaxed(cython.address(b.refused), 1)


def budget_force(b: cython.pointer[Budget], bytes: uint64_t) -> cython.void:
    if bytes:
        budget_rise(b, fetch_add64(cython.address(b.used), bytes) + bytes)


def budget_rise(b: cython.pointer[Budget], used: uint64_t) -> cython.void:
    most: uint64_t = load64_relaxed(cython.address(b.most))
    while most < used and not swap64_if(cython.address(b.most), cython.address(most), used):
        pass


def budget_give(b: cython.pointer[Budget], bytes: uint64_t) -> cython.void:
    should(load64_relaxed(cython.address(b.used)) >= bytes, b"a budget gets back what was taken from it")
    if bytes:
        sub64_seq_cst(cython.address(b.used), bytes)


def budget_take_books(b: cython.pointer[Budget], bytes: uint64_t) -> cython.bint:
    if not budget_take(b, bytes):
        return False
    add64_relaxed(cython.address(b.books), bytes)
    return True


def budget_give_books(b: cython.pointer[Budget], bytes: uint64_t) -> cython.void:
    sub64_relaxed(cython.address(b.books), bytes)
    budget_give(b, bytes)


def budget_set_limit(b: cython.pointer[Budget], limit: uint64_t) -> cython.bint:
    """Set the limit, unless more is used. One thread at a time does."""
    before: uint64_t = load64_seq_cst(cython.address(b.limit))
    store64_seq_cst(cython.address(b.limit), limit)
    if load64_seq_cst(cython.address(b.used)) <= limit:
        return True
    store64_seq_cst(cython.address(b.limit), before)
    return False


def budget_settle(b: cython.pointer[Budget], used: uint64_t, books: uint64_t) -> cython.void:
    b.used = used
    b.books = books
    budget_rise(b, used)


def budget_used(b: cython.pointer[Budget]) -> uint64_t:
    return load64_relaxed(cython.address(b.used))


def budget_books(b: cython.pointer[Budget]) -> uint64_t:
    return load64_relaxed(cython.address(b.books))


def budget_limit(b: cython.pointer[Budget]) -> uint64_t:
    return load64_relaxed(cython.address(b.limit))


def budget_left(b: cython.pointer[Budget]) -> uint64_t:
    used: uint64_t = budget_used(b)
    limit: uint64_t = budget_limit(b)
    return limit - used if used < limit else 0


def budget_refusals(b: cython.pointer[Budget]) -> uint64_t:
    return load64_relaxed(cython.address(b.refused))
