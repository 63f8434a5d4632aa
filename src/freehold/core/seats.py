"""Where a thread finds its cache of each heap but the default one: a table by heap id.

Thread-safety: a table is its thread's; the list of tables has the caches' lock.
Invariants: a table is never unmapped, and used again when its thread has ended: as many as there were threads at once.
Does not know what a cache is, or when a heap closes.
Follows: the page-sized per-thread tables of every runtime with many heaps.
"""

import cython
from cython.cimports.freehold.core.machine import round_up
from cython.cimports.freehold.core.seats import SEATS, SeatTable, seats_here, seats_set_here
from cython.cimports.freehold.core.vm import vm_facts, vm_map
from cython.cimports.libc.stdint import uint64_t

the_tables = cython.declare(cython.pointer[SeatTable])  # newest first; guarded by the caches' lock


def seats_make(thread: uint64_t, empty: cython.p_void) -> cython.void:
    global the_tables
    t: cython.pointer[SeatTable] = the_tables
    while t != cython.NULL and t.owner != 0:
        t = t.next
    if t == cython.NULL:
        at: uint64_t = 0
        if vm_map(round_up(cython.sizeof(SeatTable), vm_facts().page_size), cython.address(at)) != 0:
            return
        t = cython.cast(cython.pointer[SeatTable], at)
        t.next = the_tables
        the_tables = t
    t.owner = thread
    i: uint64_t = 0
    while i < SEATS:
        t.seat[i] = empty
        i += 1
    seats_set_here(t.seat)


def seats_end() -> cython.void:
    t: cython.pointer[SeatTable] = the_tables
    while t != cython.NULL:
        if t.seat == seats_here():
            t.owner = 0
        t = t.next
    seats_set_here(cython.NULL)


def seats_fork(thread: uint64_t) -> cython.void:
    t: cython.pointer[SeatTable] = the_tables
    while t != cython.NULL:
        if t.owner != thread:
            t.owner = 0
        t = t.next
