"""Who may use a layer's object: many threads at once, or one alone.

Thread-safety: that is what it is for.
Invariant: one word holds both whether the gate is shut and how many are inside, so that neither can change unseen by
the other.
Does not use the locks of the core: who shuts a gate may run any code, Python's too, until it opens it again.
Follows: the readers' count with a writer's bit of Courtois, Heymans and Parnas, the writer first.
"""

import cython
from cython.cimports.freehold.core.gate import GATE_SHUT, Gate
from cython.cimports.freehold.core.machine import (
    exchange32,
    futex_wait,
    futex_wake,
    load32_acquire,
    load64_relaxed,
    should,
    store32_release,
    store64_relaxed,
    swap32_if,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t


def gate_enter(g: cython.pointer[Gate], me: uint64_t) -> cython.bint:
    seen: uint32_t = load32_acquire(cython.address(g.word))
    while True:
        if seen & GATE_SHUT:
            if gate_is_mine(g, me):
                return False
            futex_wait(cython.address(g.word), seen, -1)
            seen = load32_acquire(cython.address(g.word))
        elif swap32_if(cython.address(g.word), cython.address(seen), seen + 1):
            return True


def gate_leave(g: cython.pointer[Gate]) -> cython.void:
    seen: uint32_t = load32_acquire(cython.address(g.word))
    while not swap32_if(cython.address(g.word), cython.address(seen), seen - 1):
        pass
    should(seen & ~GATE_SHUT != 0, b"who leaves a gate has entered it")
    if seen == GATE_SHUT + 1:
        futex_wake(cython.address(g.word), 1 << 30)


def gate_shut(g: cython.pointer[Gate], me: uint64_t) -> cython.bint:
    if gate_is_mine(g, me):
        return False
    seen: uint32_t = load32_acquire(cython.address(g.word))
    while True:
        if seen & GATE_SHUT:  # somebody else has
            futex_wait(cython.address(g.word), seen, -1)
            seen = load32_acquire(cython.address(g.word))
        elif swap32_if(cython.address(g.word), cython.address(seen), seen | GATE_SHUT):
            break
    store64_relaxed(cython.address(g.shutter), me)
    seen = load32_acquire(cython.address(g.word))
    while seen != GATE_SHUT:
        futex_wait(cython.address(g.word), seen, -1)
        seen = load32_acquire(cython.address(g.word))
    return True


def gate_open(g: cython.pointer[Gate], me: uint64_t) -> cython.bint:
    if not gate_is_mine(g, me):
        return False
    store64_relaxed(cython.address(g.shutter), 0)
    exchange32(cython.address(g.word), 0)
    futex_wake(cython.address(g.word), 1 << 30)
    return True


def gate_is_mine(g: cython.pointer[Gate], me: uint64_t) -> cython.bint:
    return load64_relaxed(cython.address(g.shutter)) == me


def gate_reset(g: cython.pointer[Gate], me: uint64_t) -> cython.void:
    store32_release(cython.address(g.word), GATE_SHUT if gate_is_mine(g, me) else 0)
    if not gate_is_mine(g, me):
        store64_relaxed(cython.address(g.shutter), 0)
