"""How many idle pages may stay: a smooth curve from all of them to none over the decay time.

Not thread-safe: the caller holds the lock of what decays.
Invariants: ``became`` holds the last DECAY_STEPS steps and nothing older. The limit is exact: shares are whole numbers
over DECAY_ONE, rounded down once, at the end.
Does not know what was purged or taken again since: a page counts each time that it becomes idle, so that memory in use
by a loop stays warm, and is gone a decay time after the loop.
Follows: jemalloc's decay, with its smootherstep.
"""

import cython
from cython.cimports.freehold.core.decay import DECAY_STEPS, Decay
from cython.cimports.freehold.core.machine import NOWHERE, least, memset, most
from cython.cimports.libc.stdint import uint64_t

DECAY_ONE = cython.declare(cython.const[uint64_t], 160_000_000_000)  # DECAY_STEPS ** 5 / 2: the share of all
DECAY_MOST = cython.declare(cython.const[uint64_t], 1 << 26)  # pages counted of one step: more would not fit


def decay_open(d: cython.pointer[Decay], time: uint64_t) -> cython.void:
    memset(d, 0, cython.sizeof(Decay))
    d.time = time


def decay_note(d: cython.pointer[Decay], pages: uint64_t) -> cython.void:
    d.fresh += pages


def decay_advance(d: cython.pointer[Decay], now: uint64_t) -> cython.void:
    decay_settle(d)
    step: uint64_t = most(d.step, decay_step(d, now))
    passed: uint64_t = least(step - d.step, DECAY_STEPS)
    while passed > 0:
        d.became[(step - passed + 1) % DECAY_STEPS] = 0
        passed -= 1
    d.step = step


def decay_advance_late(d: cython.pointer[Decay], now: uint64_t) -> cython.void:
    """For a clock that is only told of now and then, and may have stood still for long when pages became idle."""
    fresh: uint64_t = d.fresh
    d.fresh = 0
    decay_advance(d, now)
    d.fresh = fresh
    decay_settle(d)


def decay_settle(d: cython.pointer[Decay]) -> cython.void:
    became: cython.pointer[uint64_t] = cython.address(d.became[d.step % DECAY_STEPS])
    became[0] = least(became[0] + least(d.fresh, DECAY_MOST), DECAY_MOST)
    d.fresh = 0


def decay_step(d: cython.pointer[Decay], now: uint64_t) -> uint64_t:
    if d.time == 0 or d.time == NOWHERE:
        return 0
    return now // d.time * DECAY_STEPS + now % d.time * DECAY_STEPS // d.time  # now * STEPS // time, without overflow


def decay_share(steps_left: uint64_t) -> uint64_t:
    """What is left of DECAY_ONE: s(steps_left / DECAY_STEPS), exactly."""
    k: uint64_t = steps_left
    return k * k * k * (3 * k * k + 200_000 - 1_500 * k)


def decay_limit(d: cython.pointer[Decay]) -> uint64_t:
    if d.time == 0:
        return 0
    if d.time == NOWHERE:
        return NOWHERE
    decay_settle(d)
    pages: uint64_t = 0
    rest: uint64_t = 0  # over DECAY_ONE
    age: uint64_t = 0
    while age < least(DECAY_STEPS, d.step + 1):
        became: uint64_t = d.became[(d.step - age) % DECAY_STEPS]
        if became:
            share: uint64_t = became * decay_share(DECAY_STEPS - age)
            pages += share // DECAY_ONE
            rest += share % DECAY_ONE
        age += 1
    return pages + rest // DECAY_ONE
