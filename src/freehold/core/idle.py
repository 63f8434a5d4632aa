"""How much of something (free blocks, free pages) has been idle all through the decay time.

Not thread-safe: the caller holds the lock of what is counted.
A level that rises and falls is watched for its lowest point. What lay below the lowest point of the last decay time was
not needed in all that time; the rest was, and stays warm. A loop that frees and takes again never ages; one that stops,
does.
Follows: tcmalloc's low-water marks and Go's retained-heap goal, with jemalloc's decay time.
"""

import cython
from cython.cimports.freehold.core.idle import IDLE_WINDOWS, Idle
from cython.cimports.freehold.core.machine import least
from cython.cimports.libc.stdint import uint64_t


def idle_fell(i: cython.pointer[Idle], level: uint64_t) -> cython.void:
    i.lowest = least(i.lowest, level)


def idle_add(i: cython.pointer[Idle], amount: uint64_t) -> cython.void:
    i.lowest += amount
    w: cython.int = 0
    while w < IDLE_WINDOWS:
        i.before[w] += amount
        w += 1


def idle_tick(i: cython.pointer[Idle], level: uint64_t) -> uint64_t:
    i.before[i.turn % IDLE_WINDOWS] = least(i.lowest, level)
    i.turn += 1
    i.lowest = level
    idle: uint64_t = level
    w: cython.int = 0
    while w < IDLE_WINDOWS:
        idle = least(idle, i.before[w])
        w += 1
    return idle
