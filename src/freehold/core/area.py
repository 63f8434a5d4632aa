"""What a pool maps at once: addresses, memory, and a record for each block.

Thread-safety: mapping is under the pool's `refill` lock. A look-up takes no lock: `published` is stored, with release,
after the directory's entry, and the owner words after that.
Invariants: each area of a pool is larger than the one before it, unless the space had no room for that; blocks are
aligned to their size; an area that could not be made whole left nothing behind.
Does not give an area back before all are: its addresses stay, its blocks' memory is purged.
Follows: lgalloc's areas that grow, in the process's one range of addresses.
"""

import cython
from cython.cimports.freehold.core.area import AREA_FIRST_BYTES, AREA_MOST, AREA_OVER_LIMIT, AreaAttempt, area_note
from cython.cimports.freehold.core.arena import arenas_give, arenas_take
from cython.cimports.freehold.core.arenabook import ArenaFailure
from cython.cimports.freehold.core.budget import budget_give_books, budget_take_books
from cython.cimports.freehold.core.machine import (
    NOWHERE,
    least,
    load64_acquire,
    load64_relaxed,
    most,
    round_up,
    store64_release,
)
from cython.cimports.freehold.core.pool import POOL_CLEAN, Pool, PoolArea, PoolBlock, pool_blocks
from cython.cimports.freehold.core.space import BLOCK_BYTES, BLOCK_SHIFT, LAYER_LARGE, owner_word, space_own
from cython.cimports.freehold.core.vm import VM_MAP, VM_RESERVE, vm_facts, vm_map, vm_unmap_metadata
from cython.cimports.libc.stdint import uint64_t


def area_map(pool: cython.pointer[Pool], growth_dampener: uint64_t, into: cython.pointer[AreaAttempt]) -> cython.void:
    first: uint64_t = most(1, AREA_FIRST_BYTES // pool.size)
    divisor: uint64_t = least(growth_dampener, NOWHERE - 1) + 1
    blocks: uint64_t = pool.last_blocks + most(first, pool.last_blocks // divisor)
    into.area = cython.NULL
    into.os_error = 0
    into.over_limit = False
    base: uint64_t = area_take(pool, first, cython.address(blocks), into)
    if base == 0:
        return
    a: cython.pointer[PoolArea] = cython.NULL
    into.os_call = VM_MAP
    into.os_error = area_make_directory(pool)
    if not into.os_error:
        into.os_error = area_describe(pool, base, blocks, cython.address(a))
    if not into.os_error:
        pool.last_blocks = blocks
        into.area = a
        return
    if into.os_error == AREA_OVER_LIMIT:
        into.os_error = 0
        into.over_limit = True
    arenas_give(base, area_span(pool, blocks) << BLOCK_SHIFT)


def area_take(
    pool: cython.pointer[Pool], first: uint64_t, blocks: cython.pointer[uint64_t], into: cython.pointer[AreaAttempt]
) -> uint64_t:
    """Take memory for an area; where there is no room for one that has grown, for one of the first size. 0: none."""
    why = cython.declare(ArenaFailure)
    if load64_relaxed(cython.address(pool.published)) == AREA_MOST:
        return 0
    align: uint64_t = most(pool.size, 2 * BLOCK_BYTES)  # straight from the OS: an area that is closed is unmapped
    base: uint64_t = arenas_take(area_span(pool, blocks[0]) << BLOCK_SHIFT, align, cython.address(why))
    if base == 0 and why.os_call == VM_RESERVE:
        blocks[0] = first
        base = arenas_take(area_span(pool, first) << BLOCK_SHIFT, align, cython.address(why))
    if base == 0 and why.os_call != VM_RESERVE:
        into.os_call = why.os_call
        into.os_error = why.os_error
    return base


def area_span(pool: cython.pointer[Pool], blocks: uint64_t) -> uint64_t:
    """Blocks of the space for so many blocks of a pool; of the last one a half may stay unused."""
    return round_up(blocks * pool.size, BLOCK_BYTES) >> BLOCK_SHIFT


def area_make_directory(pool: cython.pointer[Pool]) -> cython.int:
    if pool.area != cython.NULL:
        return 0
    at: uint64_t = 0
    error: cython.int = area_map_books(pool, AREA_MOST * cython.sizeof(cython.p_void), cython.address(at))
    if not error:
        pool.area = cython.cast(cython.pointer[cython.pointer[PoolArea]], at)
    return error


def area_describe(
    pool: cython.pointer[Pool], base: uint64_t, blocks: uint64_t, into: cython.pointer[cython.pointer[PoolArea]]
) -> cython.int:
    """Map an area's records."""
    bytes: uint64_t = cython.sizeof(PoolArea) + blocks * cython.sizeof(PoolBlock)
    bytes = round_up(bytes, vm_facts().page_size)
    at: uint64_t = 0
    error: cython.int = area_map_books(pool, bytes, cython.address(at))
    if error:
        return error
    a: cython.pointer[PoolArea] = cython.cast(cython.pointer[PoolArea], at)
    a.base = base
    a.blocks = blocks
    a.span = area_span(pool, blocks)
    a.metadata_bytes = bytes
    into[0] = a
    return 0


def area_map_books(pool: cython.pointer[Pool], bytes: uint64_t, at: cython.pointer[uint64_t]) -> cython.int:
    """Map memory for records: 0, the errno, or AREA_OVER_LIMIT."""
    if not budget_take_books(pool.budget, bytes):
        return AREA_OVER_LIMIT
    error: cython.int = vm_map(bytes, at)
    if error:
        budget_give_books(pool.budget, bytes)
    return error


def area_books(pool: cython.pointer[Pool]) -> uint64_t:
    bytes: uint64_t = 0 if pool.area == cython.NULL else AREA_MOST * cython.sizeof(cython.p_void)
    i: uint64_t = load64_acquire(cython.address(pool.published))
    while i > 0:
        i -= 1
        bytes += pool.area[i].metadata_bytes
    return bytes


def area_publish(
    pool: cython.pointer[Pool], a: cython.pointer[PoolArea], heap: uint64_t, index: uint64_t, now: uint64_t
) -> cython.void:
    """Chain an area's blocks for the clean queue, and let its addresses be looked up. Nobody was given one yet."""
    b: cython.pointer[PoolBlock] = pool_blocks(a)
    i: uint64_t = 0
    while i < a.blocks:
        b[i].address = a.base + i * pool.size
        b[i].idle_since = now
        b[i].place = POOL_CLEAN
        b[i].queue = cython.address(pool.clean)
        b[i].older = cython.address(b[i - 1]) if i > 0 else cython.NULL
        b[i].newer = cython.address(b[i + 1]) if i + 1 < a.blocks else cython.NULL
        i += 1
    number: uint64_t = load64_relaxed(cython.address(pool.published))
    pool.area[number] = a
    store64_release(cython.address(pool.published), number + 1)
    space_own(a.base, a.span, owner_word(heap, LAYER_LARGE, area_note(index, number)))


def area_find(pool: cython.pointer[Pool], number: uint64_t, address: uint64_t) -> cython.pointer[PoolBlock]:
    if number >= load64_acquire(cython.address(pool.published)):
        return cython.NULL
    a: cython.pointer[PoolArea] = pool.area[number]
    i: uint64_t = (address - a.base) // pool.size  # wraps for an address below: then it is too large
    return pool_blocks(a) + i if i < a.blocks else cython.NULL


def area_unmap_all(pool: cython.pointer[Pool]) -> cython.void:
    """Nobody is inside the pool, or will be."""
    left: uint64_t = load64_acquire(cython.address(pool.published))
    while left > 0:
        left -= 1
        a: cython.pointer[PoolArea] = pool.area[left]
        arenas_give(a.base, a.span << BLOCK_SHIFT)
        vm_unmap_metadata(cython.cast(uint64_t, a), a.metadata_bytes)
    if pool.area != cython.NULL:
        vm_unmap_metadata(cython.cast(uint64_t, pool.area), AREA_MOST * cython.sizeof(cython.p_void))
