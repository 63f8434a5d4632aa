"""The process's one range of addresses: 4 MiB blocks, and a table that says who owns each.

Thread-safety: `space_take` and `space_give_back` hold one lock; an owner word is written by whoever took the block and
read by anyone without a lock (release / acquire).
Invariants: a block with an owner is taken; taken blocks = set bits of the map; no block below the_lowest_free is free.
Where the OS refuses so large a reservation (RLIMIT_AS), the range is only *intended*: memory is mapped at its place
when it is committed and unmapped when it is decommitted; where somebody else mapped something first, committing fails,
and what they mapped is left alone. Nothing above notices.
Does not: commit for callers, or know what is inside a block.
Follows: Go's reserved address space, and tcmalloc's page map cut down to one level.
"""

import cython
from cython.cimports.freehold.core.bits import (
    bits_all_clear,
    bits_all_set,
    bits_clear,
    bits_find_clear,
    bits_next_clear,
    bits_set,
)
from cython.cimports.freehold.core.machine import (
    EEXIST,
    EINVAL,
    ENOMEM,
    NOWHERE,
    least,
    load64_acquire,
    load64_relaxed,
    round_up,
    should,
    store64_relaxed,
    store64_release,
)
from cython.cimports.freehold.core.space import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    LAYER_ARENA,
    LAYER_EXTENT,
    LAYER_HUGE,
    LAYER_LARGE,
    LAYER_PAGES,
    LAYER_PRIMARY,
    LAYER_SPACE,
)
from cython.cimports.freehold.core.sync import RANK_SPACE, Mutex, mutex_init, mutex_lock, mutex_reset, mutex_unlock
from cython.cimports.freehold.core.vm import (
    vm_commit,
    vm_commit_at,
    vm_decommit,
    vm_facts,
    vm_map,
    vm_reserve,
    vm_reserve_at,
    vm_unmap,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

the_base = cython.declare(uint64_t)  # constant after boot
the_size = cython.declare(uint64_t)  # bytes; constant after boot
the_blocks = cython.declare(uint64_t)  # the_size in blocks
the_range_is_reserved = cython.declare(cython.bint)  # constant after boot
the_owners = cython.declare(cython.pointer[uint64_t])  # one word a block; atomic
the_taken = cython.declare(cython.pointer[uint64_t])  # one bit a block; guarded by the_space_lock
the_lowest_free = cython.declare(uint64_t)  # no free block lies below; guarded by the_space_lock
the_taken_blocks = cython.declare(uint64_t)  # guarded by the_space_lock; read relaxed
the_space_lock = cython.declare(Mutex)


def space_boot() -> cython.int:
    if the_base:
        return 0
    mutex_init(cython.address(the_space_lock), RANK_SPACE)
    tib: uint64_t = cython.cast(uint64_t, 1) << 40
    gib: uint64_t = cython.cast(uint64_t, 1) << 30
    size: uint64_t = 32 * tib
    base: uint64_t = 0
    reserved: cython.bint = False
    most: uint64_t = vm_facts().rlimit_as // 2  # a reservation counts against RLIMIT_AS: it leaves half to others
    while size >= 8 * gib and not reserved:
        if size <= most and vm_reserve(size, BLOCK_BYTES, cython.address(base)) == 0:
            reserved = True
        else:
            size //= 2
    if not reserved:
        size = tib
        base = space_look_for_room(size)
        if base == 0:
            return ENOMEM
    error: cython.int = space_adopt(base, size, reserved)
    if error and reserved:
        vm_unmap(base, size)
    return error


def space_look_for_room(size: uint64_t) -> uint64_t:
    """Return an address from which `size` bytes seem unused, far from where the OS places things by itself."""
    base: uint64_t = cython.cast(uint64_t, 1) << 44
    while base < cython.cast(uint64_t, 1) << 46:
        if vm_reserve_at(base, BLOCK_BYTES) == 0:
            vm_unmap(base, BLOCK_BYTES)
            return base
        base += size
    return 0


def space_adopt(base: uint64_t, size: uint64_t, reserved: cython.bint) -> cython.int:
    global the_base, the_size, the_blocks, the_range_is_reserved, the_owners, the_taken
    blocks: uint64_t = size >> BLOCK_SHIFT
    map_bytes: uint64_t = round_up(blocks // 8, vm_facts().page_size)
    table: uint64_t = 0
    error: cython.int = vm_map(blocks * 8 + map_bytes, cython.address(table))
    if error:
        return error
    the_owners = cython.cast(cython.pointer[uint64_t], table)
    the_taken = cython.cast(cython.pointer[uint64_t], table + blocks * 8)
    the_size = size
    the_blocks = blocks
    the_range_is_reserved = reserved
    the_base = base
    return 0


def space_table_bytes() -> uint64_t:
    return the_blocks * 8


def space_is_reserved() -> cython.bint:
    return the_range_is_reserved


def space_base() -> uint64_t:
    return the_base


def space_size() -> uint64_t:
    return the_size


# ---- taking and giving back ----


def space_take(blocks: uint64_t, align_blocks: uint64_t, address: cython.pointer[uint64_t]) -> cython.int:
    global the_lowest_free
    if blocks == 0 or blocks > the_blocks:
        return ENOMEM
    align: uint64_t = align_blocks if align_blocks else 1
    # Alignment is of the address, not of the place in the map: shift both by where the range begins.
    shift: uint64_t = (the_base >> BLOCK_SHIFT) & (align - 1)
    mutex_lock(cython.address(the_space_lock))
    at: uint64_t = space_find(the_lowest_free, blocks, align, shift)
    if at != NOWHERE:
        bits_set(the_taken, at, blocks)
        store64_relaxed(cython.address(the_taken_blocks), the_taken_blocks + blocks)
        the_lowest_free = bits_next_clear(the_taken, the_lowest_free, the_blocks)
    mutex_unlock(cython.address(the_space_lock))
    if at == NOWHERE:
        return ENOMEM
    address[0] = the_base + (at << BLOCK_SHIFT)
    return 0


def space_find(i: uint64_t, blocks: uint64_t, align: uint64_t, shift: uint64_t) -> uint64_t:
    """The lowest run of free blocks at or after i whose address is aligned."""
    while True:
        at: uint64_t = bits_find_clear(the_taken, i, the_blocks, blocks, 1)
        if at == NOWHERE or align == 1:
            return at
        aligned: uint64_t = round_up(at + shift, align) - shift
        if aligned == at:
            return at
        if aligned + blocks > the_blocks:
            return NOWHERE
        if bits_all_clear(the_taken, aligned, blocks):
            return aligned
        i = aligned


def space_give_back(address: uint64_t, blocks: uint64_t) -> cython.int:
    """Free taken blocks, decommitted. If the OS refuses to decommit, they stay taken and the error is returned.

    Where nothing is reserved the caller has decommitted what it had committed: the rest may be somebody else's.
    The lock is not held over the system call, so whoever took the blocks gives them back once.
    """
    global the_lowest_free
    if not space_is_taken(address, blocks):
        return EINVAL
    should(space_is_ownerless(address, blocks), b"blocks given back have no owner")
    at: uint64_t = (address - the_base) >> BLOCK_SHIFT
    error: cython.int = vm_decommit(address, blocks << BLOCK_SHIFT) if the_range_is_reserved else 0
    if error:
        return error
    mutex_lock(cython.address(the_space_lock))
    bits_clear(the_taken, at, blocks)
    store64_relaxed(cython.address(the_taken_blocks), the_taken_blocks - blocks)
    the_lowest_free = least(the_lowest_free, at)
    mutex_unlock(cython.address(the_space_lock))
    return 0


def space_commit(address: uint64_t, size: uint64_t) -> cython.int:
    if the_range_is_reserved:
        return vm_commit(address, size)
    error: cython.int = vm_commit_at(address, size)
    if error == EEXIST:  # somebody else's mapping: whoever asked for this range asks for another
        error = ENOMEM
    return error


def space_decommit(address: uint64_t, size: uint64_t) -> cython.int:
    return vm_decommit(address, size) if the_range_is_reserved else vm_unmap(address, size)


# ---- who owns an address ----


def space_own(address: uint64_t, blocks: uint64_t, owner: uint64_t) -> cython.void:
    i: uint64_t = (address - the_base) >> BLOCK_SHIFT
    should(i < the_blocks and blocks <= the_blocks - i, b"owned blocks lie inside the space")
    while blocks > 0:
        store64_release(cython.address(the_owners[i]), owner)
        i += 1
        blocks -= 1


def space_disown(address: uint64_t, blocks: uint64_t, owner: uint64_t) -> uint64_t:
    """Take blocks inside the space from their owner; of two threads that try, one finds them gone."""
    i: uint64_t = (address - the_base) >> BLOCK_SHIFT
    should(i < the_blocks and blocks <= the_blocks - i, b"disowned blocks lie inside the space")
    end: uint64_t = i + blocks
    mutex_lock(cython.address(the_space_lock))
    while i < end and load64_relaxed(cython.address(the_owners[i])) == owner:
        i += 1
    if i == end:
        space_own(address, blocks, 0)
    mutex_unlock(cython.address(the_space_lock))
    return 0 if i == end else the_base + (i << BLOCK_SHIFT)


def space_owner(address: uint64_t) -> uint64_t:
    offset: uint64_t = address - the_base  # wraps for addresses below: then it is too large
    if offset >= the_size:
        return 0
    return load64_acquire(cython.address(the_owners[offset >> BLOCK_SHIFT]))


def space_is_ownerless(address: uint64_t, blocks: uint64_t) -> cython.bint:
    i: uint64_t = (address - the_base) >> BLOCK_SHIFT
    end: uint64_t = i + blocks
    while i < end and load64_relaxed(cython.address(the_owners[i])) == 0:
        i += 1
    return i == end


def space_is_taken(address: uint64_t, blocks: uint64_t) -> cython.bint:
    offset: uint64_t = address - the_base
    if offset >= the_size or offset & (BLOCK_BYTES - 1) or blocks == 0 or blocks > the_blocks - (offset >> BLOCK_SHIFT):
        return False
    mutex_lock(cython.address(the_space_lock))
    taken: cython.bint = bits_all_set(the_taken, offset >> BLOCK_SHIFT, blocks)
    mutex_unlock(cython.address(the_space_lock))
    return taken


def space_taken_bytes() -> uint64_t:
    return load64_relaxed(cython.address(the_taken_blocks)) << BLOCK_SHIFT


def layer_name(layer: uint32_t) -> cython.p_const_char:
    if layer == LAYER_SPACE:
        return b"space"
    if layer == LAYER_PRIMARY:
        return b"primary"
    if layer == LAYER_PAGES:
        return b"pages"
    if layer == LAYER_LARGE:
        return b"large"
    if layer == LAYER_HUGE:
        return b"huge"
    if layer == LAYER_ARENA:
        return b"arena"
    if layer == LAYER_EXTENT:
        return b"extent"
    return b"none"


# ---- fork ----


def space_lock() -> cython.void:
    mutex_lock(cython.address(the_space_lock))


def space_unlock() -> cython.void:
    mutex_unlock(cython.address(the_space_lock))


def space_reset() -> cython.void:
    mutex_reset(cython.address(the_space_lock))
