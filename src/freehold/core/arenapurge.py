"""Giving the memory of free blocks back to the OS: at once, or after a delay that further frees prolong.

Thread-safety: any thread, any time. No lock: a flag lets one thread purge at a time, and a purge claims the blocks that
it works on in `in_use`, like an allocation.
Invariants: a scheduled block has its bit in `purge` set before the expiry is looked at, so that either the purge at
work sees the block or a later one is due; a purge that the OS refuses changes nothing and is tried again.
Does not read a clock, and does not wait for blocks that others hold: they are no longer idle.
Follows: mimalloc's delayed purge. Here runs are purged across fields, and known to read 0 afterwards.
"""

import cython
from cython.cimports.freehold.core.arenabook import (
    Arena,
    Arenas,
    arena_address,
    arena_decommit,
    arenas_note_time,
    arenas_time,
)
from cython.cimports.freehold.core.fields import (
    fields_claim_some,
    fields_clear,
    fields_next_clear,
    fields_next_set,
    fields_set,
)
from cython.cimports.freehold.core.machine import (
    add64_relaxed,
    exchange32,
    load32_acquire,
    load64_acquire,
    store32_release,
    swap64_if,
)
from cython.cimports.freehold.core.space import BLOCK_SHIFT
from cython.cimports.freehold.core.vm import vm_purge_now
from cython.cimports.libc.stdint import uint32_t, uint64_t


def arena_schedule(s: cython.pointer[Arenas], a: cython.pointer[Arena], i: uint64_t, n: uint64_t) -> cython.void:
    """Blocks the caller still holds will be free: purge them now, later or never, as the policy says."""
    if a.large or s.policy.delay_ns < 0:
        return
    if s.policy.delay_ns == 0:
        if not arena_purge_run(s, a, i, n):  # nothing is tried again: keep the range, not the memory
            vm_purge_now(arena_address(a, i), n << BLOCK_SHIFT)
        return
    fields_set(a.purge, i, n)
    arena_put_off(s, a)


def arena_put_off(s: cython.pointer[Arenas], a: cython.pointer[Arena]) -> cython.void:
    """The first free sets the expiry; each further one before it adds a tenth of the delay.

    It is written even where it stays: whoever resets it afterwards also sees the bits that were set before.
    """
    delay: uint64_t = cython.cast(uint64_t, s.policy.delay_ns)
    now: uint64_t = arenas_time(s)
    expiry: uint64_t = load64_acquire(cython.address(a.expiry))
    wanted: uint64_t = 0
    while True:
        if expiry == 0:
            wanted = now + delay
        elif now < expiry:
            wanted = expiry + delay // 10
        else:
            wanted = expiry
        if swap64_if(cython.address(a.expiry), cython.address(expiry), wanted):
            return


def arenas_purge(s: cython.pointer[Arenas], now: uint64_t, force: cython.bint, visit_all: cython.bint) -> cython.bint:
    arenas_note_time(s, now)
    if s.policy.delay_ns <= 0 or exchange32(cython.address(s.purging), 1) != 0:
        return False
    now = arenas_time(s)
    purged: cython.bint = False
    i: uint32_t = 0
    while i < load32_acquire(cython.address(s.count)) and (visit_all or not purged):
        if arena_is_due(s.arena[i], now, force) and arena_purge(s, s.arena[i]):
            purged = True
        i += 1
    store32_release(cython.address(s.purging), 0)
    return purged


def arena_is_due(a: cython.pointer[Arena], now: uint64_t, force: cython.bint) -> cython.bint:
    """Whether an arena's time has come; then its expiry is reset, and the next free sets a new one."""
    expiry: uint64_t = load64_acquire(cython.address(a.expiry))
    while expiry != 0 and (force or expiry <= now):
        if swap64_if(cython.address(a.expiry), cython.address(expiry), 0):
            return True
    return False


def arena_purge(s: cython.pointer[Arenas], a: cython.pointer[Arena]) -> cython.bint:
    """Purge every scheduled block that can be claimed. If any is left, another try is due after the delay."""
    purged: cython.bint = False
    i: uint64_t = fields_next_set(a.purge, 0, a.blocks)
    while i < a.blocks:
        end: uint64_t = fields_next_clear(a.purge, i, a.blocks)
        while i < end:
            claimed: uint64_t = fields_claim_some(a.in_use, i, end - i)
            if claimed == 0:
                i += 1
            else:
                if arena_purge_scheduled(s, a, i, i + claimed):
                    purged = True
                fields_clear(a.in_use, i, claimed)
                i += claimed
        i = fields_next_set(a.purge, end, a.blocks)
    if fields_next_set(a.purge, 0, a.blocks) < a.blocks:
        none: uint64_t = 0
        again: uint64_t = arenas_time(s) + cython.cast(uint64_t, s.policy.delay_ns)
        swap64_if(cython.address(a.expiry), cython.address(none), again)
    return purged


def arena_purge_scheduled(
    s: cython.pointer[Arenas], a: cython.pointer[Arena], i: uint64_t, end: uint64_t
) -> cython.bint:
    """Of a run that is claimed, purge what is scheduled still: some of it may have been in use meanwhile."""
    purged: cython.bint = False
    i = fields_next_set(a.purge, i, end)
    while i < end:
        stop: uint64_t = fields_next_clear(a.purge, i, end)
        if arena_purge_run(s, a, i, stop - i):
            purged = True
        i = fields_next_set(a.purge, stop, end)
    return purged


def arena_purge_run(s: cython.pointer[Arenas], a: cython.pointer[Arena], i: uint64_t, n: uint64_t) -> cython.bint:
    if arena_decommit(a, i, n) != 0:
        return False
    fields_clear(a.purge, i, n)
    add64_relaxed(cython.address(s.purges), 1)
    add64_relaxed(cython.address(s.purged_bytes), n << BLOCK_SHIFT)
    return True
