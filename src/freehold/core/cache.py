"""Blocks by way of this thread's cache, where there was no hit; or straight from the region, where it has no cache.

Thread-safety: everything may be called from any thread, also from a signal handler that interrupts the same function.
Invariant: a region's lock is waited for only from inside this thread's cache, so that a handler, which finds nobody
there, takes no lock that its thread may hold.
Does not hold what it takes or gives: bins do.
Follows: LLVM's SizeClassAllocator64LocalCache.
"""

import cython
from cython.cimports.freehold.core.bin import (
    Bin,
    Cache,
    bin_count,
    bin_give,
    bin_is_due,
    bin_open,
    cache_draw,
    cache_empty,
    cache_make_room,
    cache_refill,
    enter,
    is_claimed,
    leave,
)
from cython.cimports.freehold.core.cache import poke_hook
from cython.cimports.freehold.core.caches import cache_default, cache_default_primary, cache_find, cache_is_listed
from cython.cimports.freehold.core.fault import FREE_DOUBLE, FREE_OK
from cython.cimports.freehold.core.machine import (
    add64_relaxed,
    futex_wait,
    load32_acquire,
    load32_relaxed,
    load64_acquire,
    load64_relaxed,
    mul_high,
    store8_relaxed,
    store32_relaxed,
    store64_relaxed,
)
from cython.cimports.freehold.core.primary import (
    BLOCK_LIVE,
    BLOCK_NEW,
    BLOCK_SAMPLED,
    Primary,
    Region,
    primary_defer,
    primary_give_locked,
    primary_judge,
    primary_region_of,
    primary_retract,
    primary_take_locked,
    region_unlock,
)
from cython.cimports.freehold.core.sampling import sampling_epoch, sampling_forget
from cython.cimports.freehold.core.sync import mutex_lock, mutex_try, mutex_unlock
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t

the_poke_hook = cython.declare(poke_hook)  # constant after boot


def cache_on_activity(hook: poke_hook) -> cython.void:
    global the_poke_hook
    the_poke_hook = hook


# ---- a request that is no hit ----


def cache_allocate_from(p: cython.pointer[Primary], index: uint32_t, align: uint64_t) -> uint64_t:
    """Take a block of a class, or of the next one up that suits `align` where its region is exhausted."""
    tries: cython.int = 2
    while tries > 0 and index < p.classes:
        r: cython.pointer[Region] = cython.address(p.region[index])
        c: cython.pointer[Cache] = cache_enter_slow(p)
        address: uint64_t
        if c == cython.NULL:
            address = cache_allocate_apart(p, index, align)
        else:
            address = cache_allocate_in(c, index)
            leave(c.here, c)
        if address:
            if load32_relaxed(cython.address(r.is_exhausted)):
                store32_relaxed(cython.address(r.is_exhausted), 0)
            if the_poke_hook != cython.NULL:
                the_poke_hook()
            return address
        cache_exhausted(r)
        index = cache_next_class(p, index, align)
        tries -= 1
    return 0


def cache_next_class(p: cython.pointer[Primary], index: uint32_t, align: uint64_t) -> uint32_t:
    index += 1
    while index < p.classes and align and p.region[index].size & (align - 1):
        index += 1
    return index


def cache_deallocate_to(
    p: cython.pointer[Primary], address: uint64_t, size_class: cython.pointer[uint64_t]
) -> cython.int:
    """Take back a block, or return why it is none; `size_class` gets the block size that the address points to."""
    reason: cython.int = primary_judge(p, address, size_class)
    if reason != FREE_OK:
        return reason
    was: uint8_t = primary_retract(p, address)
    if was == BLOCK_NEW:  # another thread was quicker
        return FREE_DOUBLE
    if cython.unlikely(was == BLOCK_SAMPLED):
        sampling_forget(address)
    c: cython.pointer[Cache] = cache_enter_slow(p)
    if c == cython.NULL:
        cache_deallocate_apart(p, address)
    else:
        cache_deallocate_in(c, address)
        leave(c.here, c)
    if the_poke_hook != cython.NULL:
        the_poke_hook()
    return FREE_OK


def cache_enter_slow(p: cython.pointer[Primary]) -> cython.pointer[Cache]:
    """Go into this thread's cache, waiting while it is claimed; NULL where the thread has to do without one."""
    while True:
        c: cython.pointer[Cache] = cache_default() if p == cache_default_primary() else cache_find(p)
        if c == cython.NULL:
            return cython.NULL
        enter(c.here)
        if not is_claimed(c):
            if cython.unlikely(c.epoch != sampling_epoch()):
                cache_draw(c)
            return c
        leave(c.here, c)
        while load32_acquire(cython.address(c.claimed)):
            futex_wait(cython.address(c.claimed), 1, -1)


def cache_allocate_in(c: cython.pointer[Cache], index: uint32_t) -> uint64_t:
    """Allocate through an entered cache, refilling it."""
    b: cython.pointer[Bin] = cython.address(c.bin[index])
    sampled: cython.bint = bin_is_due(c, index)
    bin_open(c, index, b.most)
    if bin_count(b.word) == 0 and cache_refill(c, index) == 0:
        return 0
    number: uint32_t = b.slots[bin_count(b.word) - 1]
    store64_relaxed(cython.address(b.word), b.word + 0xFFFF)
    store8_relaxed(cython.address(b.states[number]), BLOCK_SAMPLED if sampled else BLOCK_LIVE)
    return b.base + cython.cast(uint64_t, number) * b.size


def cache_deallocate_in(c: cython.pointer[Cache], address: uint64_t) -> cython.void:
    """Put a block marked as cached into an entered cache, making room in it."""
    index: uint32_t = primary_region_of(c.primary, address).index
    b: cython.pointer[Bin] = cython.address(c.bin[index])
    bin_open(c, index, b.most)
    b.made = load64_acquire(cython.address(c.primary.region[index].made))
    number: uint64_t = mul_high(address - b.base, b.multiplier)
    if bin_count(b.word) >= b.most:
        cache_make_room(c, index)
    b.slots[bin_count(b.word)] = cython.cast(uint32_t, number)
    store64_relaxed(cython.address(b.word), b.word + 1)
    if b.most == 0:  # no room may be kept for this class: straight on
        bin_give(c, index, 1, False)


# ---- without a cache ----


def cache_allocate_apart(p: cython.pointer[Primary], index: uint32_t, align: uint64_t) -> uint64_t:
    """Allocate without a cache: the primary has none, the thread's is torn down, or this is a signal handler.

    In a handler the thread may hold the lock of one region, for ever: so try, and go on to the next class.
    """
    if p != cache_default_primary():  # no handler uses it
        mutex_lock(cython.address(p.region[index].lock))
        return cache_take_apart(p, cython.address(p.region[index]))
    i: uint32_t = index
    while not mutex_try(cython.address(p.region[i].lock)):
        i = cache_next_class(p, i, align)
        if i >= p.classes or i > index + 3:
            i = index
    return cache_take_apart(p, cython.address(p.region[i]))


def cache_take_apart(p: cython.pointer[Primary], r: cython.pointer[Region]) -> uint64_t:
    """Take one block from a locked region, and unlock it."""
    number: uint32_t = 0
    got: uint64_t = primary_take_locked(r, p, cython.address(number), 1)
    if got:
        store8_relaxed(cython.address(r.states[number]), BLOCK_LIVE)
        add64_relaxed(cython.address(r.ended_allocations), 1)
    region_unlock(r)
    return r.base + cython.cast(uint64_t, number) * r.size if got else 0


def cache_deallocate_apart(p: cython.pointer[Primary], address: uint64_t) -> cython.void:
    """Give a block marked as cached back without a cache."""
    r: cython.pointer[Region] = primary_region_of(p, address)
    number: uint32_t = cython.cast(uint32_t, mul_high(address - r.base, r.multiplier))
    if p != cache_default_primary():
        mutex_lock(cython.address(r.lock))
    elif not mutex_try(cython.address(r.lock)):
        primary_defer(p, address)
        return
    primary_give_locked(r, cython.address(number), 1, False)
    mutex_unlock(cython.address(r.lock))


def cache_exhausted(r: cython.pointer[Region]) -> cython.void:
    """Count a request that found no room for a block, as long as it is not the OS that refuses."""
    if load64_relaxed(cython.address(r.made)) >= r.capacity:
        add64_relaxed(cython.address(r.exhausted), 1)
        store32_relaxed(cython.address(r.is_exhausted), 1)


# ---- from inside ----


def cache_drain(p: cython.pointer[Primary]) -> cython.void:
    c: cython.pointer[Cache] = cache_go_in(p)
    if c != cython.NULL:
        cache_empty(c, False)
    cache_go_out(c)


def cache_go_in(p: cython.pointer[Primary]) -> cython.pointer[Cache]:
    """Enter this thread's cache: the default heap's in any case, another primary's where it has one; else NULL."""
    if p == cache_default_primary() or cache_is_listed(p):
        return cache_enter_slow(p)
    return cython.NULL


def cache_go_out(c: cython.pointer[Cache]) -> cython.void:
    if c != cython.NULL:
        leave(c.here, c)
