"""Where the memory of extents comes from and goes to: functions that a heap was given, or blocks of the arenas.

Thread-safety: any thread; nothing is locked here, and the caller holds no lock.
Invariant: what a given function brought, our own never take away: they refuse what is not a block they took.
Does not remember what it brought: the owner table does.
Follows: jemalloc's extent hooks.
"""

import cython
from cython.cimports.freehold.core.arena import arenas_give, arenas_take
from cython.cimports.freehold.core.arenabook import ArenaFailure
from cython.cimports.freehold.core.ehooks import ExtentHooks
from cython.cimports.freehold.core.fault import FREE_OK
from cython.cimports.freehold.core.space import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    LAYER_EXTENT,
    owner_word,
    space_commit,
    space_decommit,
    space_own,
    space_owner,
)
from cython.cimports.freehold.core.vm import vm_purge_lazy, vm_purge_now
from cython.cimports.libc.stdint import uint64_t


def ehooks_alloc(
    h: cython.pointer[cython.const[ExtentHooks]], heap: uint64_t, size: uint64_t, zero: cython.bint
) -> uint64_t:
    """Memory, committed, that begins at a multiple of 4 MiB; 0: refused."""
    if h.alloc != cython.NULL:
        return h.alloc(h.context, size, BLOCK_BYTES, zero, True)
    why = cython.declare(ArenaFailure)
    base: uint64_t = arenas_take(size, 0, cython.address(why))
    if base:
        space_own(base, size >> BLOCK_SHIFT, owner_word(heap, LAYER_EXTENT, 0))
    return base


def ehooks_is_ours(heap: uint64_t, base: uint64_t) -> cython.bint:
    return space_owner(base) == owner_word(heap, LAYER_EXTENT, 0)


def ehooks_free(
    h: cython.pointer[cython.const[ExtentHooks]], heap: uint64_t, base: uint64_t, size: uint64_t
) -> cython.bint:
    if h.free != cython.NULL:
        return h.free(h.context, base, size, 0, 0)
    return ehooks_is_ours(heap, base) and arenas_give(base, size) == FREE_OK


def ehooks_commit(
    h: cython.pointer[cython.const[ExtentHooks]], heap: uint64_t, base: uint64_t, size: uint64_t
) -> cython.bint:
    if h.commit != cython.NULL:
        return h.commit(h.context, base, size, 0, size)
    return ehooks_is_ours(heap, base) and space_commit(base, size) == 0


def ehooks_decommit(
    h: cython.pointer[cython.const[ExtentHooks]], heap: uint64_t, base: uint64_t, size: uint64_t
) -> cython.bint:
    if h.decommit != cython.NULL:
        return h.decommit(h.context, base, size, 0, size)
    return ehooks_is_ours(heap, base) and space_decommit(base, size) == 0


def ehooks_purge_lazy(h: cython.pointer[cython.const[ExtentHooks]], address: uint64_t, size: uint64_t) -> cython.bint:
    if h.purge_lazy != cython.NULL:
        return h.purge_lazy(h.context, address, size, 0, size)
    return vm_purge_lazy(address, size) == 0


def ehooks_purge_now(h: cython.pointer[cython.const[ExtentHooks]], address: uint64_t, size: uint64_t) -> cython.bint:
    if h.purge_now != cython.NULL:
        return h.purge_now(h.context, address, size, 0, size)
    return vm_purge_now(address, size) == 0
