"""Where the memory of extents comes from and goes to: functions that a heap was given, or blocks of the space.

Thread-safety: any thread; nothing is locked here, and the caller holds no lock.
Invariant: what a given function brought, our own never take away: they refuse what is not a block they took.
Does not remember what it brought: the owner table does.
Follows: jemalloc's extent hooks.
"""

import cython
from cython.cimports.freehold.core.ehooks import ExtentHooks
from cython.cimports.freehold.core.space import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    LAYER_EXTENT,
    owner_word,
    space_commit,
    space_decommit,
    space_give_back,
    space_is_reserved,
    space_own,
    space_owner,
    space_take,
)
from cython.cimports.freehold.core.vm import vm_purge_lazy, vm_purge_now
from cython.cimports.libc.stdint import uint64_t


def ehooks_alloc(
    h: cython.pointer[cython.const[ExtentHooks]], heap: uint64_t, size: uint64_t, zero: cython.bint
) -> uint64_t:
    """Memory, committed, that begins at a multiple of 4 MiB; 0: refused."""
    if h.alloc != cython.NULL:
        return h.alloc(h.context, size, BLOCK_BYTES, zero, True)
    base: uint64_t = 0
    blocks: uint64_t = size >> BLOCK_SHIFT
    if space_take(blocks, 1, cython.address(base)) != 0:
        return 0
    if space_commit(base, size) != 0:
        space_give_back(base, blocks)
        return 0
    space_own(base, blocks, owner_word(heap, LAYER_EXTENT, 0))
    return base


def ehooks_is_ours(heap: uint64_t, base: uint64_t) -> cython.bint:
    return space_owner(base) == owner_word(heap, LAYER_EXTENT, 0)


def ehooks_free(
    h: cython.pointer[cython.const[ExtentHooks]], heap: uint64_t, base: uint64_t, size: uint64_t
) -> cython.bint:
    if h.free != cython.NULL:
        return h.free(h.context, base, size, 0, 0)
    if not ehooks_is_ours(heap, base):
        return False
    if not space_is_reserved() and space_decommit(base, size) != 0:
        return False
    space_own(base, size >> BLOCK_SHIFT, 0)
    if space_give_back(base, size >> BLOCK_SHIFT) == 0:
        return True
    space_own(base, size >> BLOCK_SHIFT, owner_word(heap, LAYER_EXTENT, 0))
    return False


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
