"""How a set of arenas comes by them (from the space, from a caller, as huge pages), and how it ends.

Thread-safety: adding is one store under the set's lock, over no system call; everything before it concerns an arena
that nobody else knows.
Invariants: ids are given from 1, in the order of adding, and never again; known areas do not overlap; an arena that
could not be added leaves nothing behind.
Does not hand out blocks, nor take an arena out of a set before the set ends.
Follows: mimalloc's `mi_reserve_os_memory` and its relatives, in the process's one range of addresses.
"""

import cython
from cython.cimports.freehold.core.arenabook import (
    ARENA_COMMIT_AUTO,
    ARENA_OK,
    ARENA_OVERLAPS,
    ARENA_RACED,
    ARENA_TOO_MANY,
    ARENAS_MOST,
    MEMORY_EXTERNAL,
    MEMORY_HUGE,
    MEMORY_OS,
    Arena,
    ArenaFailure,
    ArenaPolicy,
    Arenas,
    arena_commit,
    arena_decommit,
    arena_describe,
    arena_forget,
    arena_refused,
    arena_unmap,
    arenas_contain,
    arenas_direct,
)
from cython.cimports.freehold.core.arenamake import HUGE_BLOCKS, HUGE_SHIFT, ArenaShape
from cython.cimports.freehold.core.fields import (
    fields_clear,
    fields_for,
    fields_next_clear,
    fields_next_set,
    fields_set,
    fields_set_all,
)
from cython.cimports.freehold.core.machine import (
    ENOMEM,
    load32_acquire,
    memset,
    now_ns,
    round_up,
    store32_release,
)
from cython.cimports.freehold.core.space import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    LAYER_ARENA,
    owner_word,
    space_base,
    space_decommit,
    space_give_back,
    space_is_reserved,
    space_own,
    space_size,
    space_take,
)
from cython.cimports.freehold.core.sync import RANK_ARENA, mutex_init, mutex_lock, mutex_reset, mutex_unlock
from cython.cimports.freehold.core.vm import (
    VM_MAP_HUGE,
    VM_RESERVE,
    vm_bind,
    vm_facts,
    vm_map_huge_at,
    vm_purge_now,
    vm_unmap_metadata,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t


def arenas_open(s: cython.pointer[Arenas], policy: cython.pointer[cython.const[ArenaPolicy]]) -> cython.void:
    memset(s, 0, cython.sizeof(Arenas))
    mutex_init(cython.address(s.lock), RANK_ARENA)
    s.policy = policy[0]
    if s.policy.eager_commit == ARENA_COMMIT_AUTO:
        s.policy.eager_commit = vm_facts().overcommit != 2 and space_is_reserved()
    s.owner = owner_word(policy.heap, LAYER_ARENA, 0)


# ---- new arenas ----


def arenas_reserve(
    s: cython.pointer[Arenas], shape: cython.pointer[cython.const[ArenaShape]], why: cython.pointer[ArenaFailure]
) -> uint32_t:
    a: cython.pointer[Arena] = arena_from_space(s, shape, why)
    return 0 if a == cython.NULL else arenas_add_or_end(s, a, why)


def arena_from_space(
    s: cython.pointer[Arenas], shape: cython.pointer[cython.const[ArenaShape]], why: cython.pointer[ArenaFailure]
) -> cython.pointer[Arena]:
    """An arena of newly taken addresses, in no set yet."""
    blocks: uint64_t = (shape.size + BLOCK_BYTES - 1) >> BLOCK_SHIFT
    base: uint64_t = 0
    if space_take(blocks, 1, cython.address(base)) != 0:
        arena_refused(why, VM_RESERVE, ENOMEM)
        return cython.NULL
    a: cython.pointer[Arena] = arena_describe(s, base, blocks, why)
    if a == cython.NULL:
        space_give_back(base, blocks)
        return cython.NULL
    a.kind = MEMORY_OS
    a.node = shape.node
    a.exclusive = shape.exclusive
    a.huge_advice = shape.large
    a.bind = s.policy.bind and shape.node >= 0
    space_own(base, blocks, s.owner)
    if shape.commit and not arena_commit(a, 0, blocks, why):
        arena_end(s, a)
        return cython.NULL
    return a


def arenas_manage(
    s: cython.pointer[Arenas], shape: cython.pointer[cython.const[ArenaShape]], why: cython.pointer[ArenaFailure]
) -> uint32_t:
    """Add somebody else's memory: whole blocks, aligned."""
    a: cython.pointer[Arena] = arena_describe(s, shape.base, shape.size >> BLOCK_SHIFT, why)
    if a == cython.NULL:
        return 0
    a.kind = MEMORY_EXTERNAL
    a.node = shape.node
    a.exclusive = shape.exclusive
    a.large = shape.large
    if shape.commit:
        fields_set(a.committed, 0, a.blocks)
    if not shape.zero:
        fields_set(a.dirty, 0, a.blocks)
    return arenas_add_or_end(s, a, why)


def arenas_add_or_end(
    s: cython.pointer[Arenas], a: cython.pointer[Arena], why: cython.pointer[ArenaFailure]
) -> uint32_t:
    """Add an arena, or undo it; its id."""
    why.reason = arenas_add(s, a, ARENAS_MOST + 1)
    if why.reason == ARENA_OK:
        return a.id
    arena_end(s, a)
    return 0


def arenas_add(s: cython.pointer[Arenas], a: cython.pointer[Arena], expected: uint32_t) -> cython.int:
    reason: cython.int = ARENA_OK
    mutex_lock(cython.address(s.lock))
    count: uint32_t = s.count
    if expected <= ARENAS_MOST and count != expected:
        reason = ARENA_RACED
    elif arenas_overlap(s, a):
        reason = ARENA_OVERLAPS
    elif count >= s.policy.most:
        reason = ARENA_TOO_MANY
    else:
        a.id = count + 1
        s.arena[count] = a
        store32_release(cython.address(s.count), count + 1)  # pairs with the acquire of every reader
    mutex_unlock(cython.address(s.lock))
    return reason


def arenas_overlap(s: cython.pointer[Arenas], a: cython.pointer[Arena]) -> cython.bint:
    """Of two ranges that overlap, one holds the other's beginning."""
    i: uint32_t = s.count
    while i > 0:
        i -= 1
        if s.arena[i].base - a.base < a.blocks << BLOCK_SHIFT:
            return True
    return arenas_contain(s, a.base)


# ---- huge pages ----


def arenas_reserve_huge(
    s: cython.pointer[Arenas],
    shape: cython.pointer[cython.const[ArenaShape]],
    timeout: uint64_t,
    got: cython.pointer[uint64_t],
    why: cython.pointer[ArenaFailure],
) -> uint32_t:
    """An arena of as many pages as the OS gives; what is left of the addresses goes back."""
    blocks: uint64_t = shape.size >> BLOCK_SHIFT
    base: uint64_t = 0
    got[0] = 0
    if space_take(blocks, HUGE_BLOCKS, cython.address(base)) != 0:
        arena_refused(why, VM_RESERVE, ENOMEM)
        return 0
    pages: uint64_t = arena_map_huge(s, shape, base, timeout, why)
    if pages < shape.size >> HUGE_SHIFT:
        space_give_back(base + (pages << HUGE_SHIFT), blocks - pages * HUGE_BLOCKS)
    if pages == 0:
        return 0
    blocks = pages * HUGE_BLOCKS
    a: cython.pointer[Arena] = arena_describe(s, base, blocks, why)
    if a == cython.NULL:
        if not space_is_reserved():
            space_decommit(base, blocks << BLOCK_SHIFT)
        space_give_back(base, blocks)
        return 0
    a.kind = MEMORY_HUGE
    a.node = shape.node
    a.exclusive = shape.exclusive
    a.large = True
    fields_set(a.committed, 0, blocks)
    space_own(base, blocks, s.owner)
    id: uint32_t = arenas_add_or_end(s, a, why)
    got[0] = pages if id else 0
    return id


def arena_map_huge(
    s: cython.pointer[Arenas],
    shape: cython.pointer[cython.const[ArenaShape]],
    base: uint64_t,
    timeout: uint64_t,
    why: cython.pointer[ArenaFailure],
) -> uint64_t:
    """Map pages of 1 GiB in a row; each may take the OS long, so the time is looked at after each."""
    began: uint64_t = now_ns()
    pages: uint64_t = 0
    while pages < shape.size >> HUGE_SHIFT:
        address: uint64_t = base + (pages << HUGE_SHIFT)
        huge: uint64_t = cython.cast(uint64_t, 1) << HUGE_SHIFT
        error: cython.int = vm_map_huge_at(address, huge, space_is_reserved())
        if error:
            arena_refused(why, VM_MAP_HUGE, error)
            break
        if s.policy.bind and shape.node >= 0:
            vm_bind(address, huge, shape.node)
        pages += 1
        if timeout and now_ns() - began > timeout:
            break
    return pages


# ---- the end ----


def arena_end(s: cython.pointer[Arenas], a: cython.pointer[Arena]) -> cython.void:
    """Unmap an arena that nobody uses any more; somebody else's memory is only forgotten."""
    if a.kind != MEMORY_EXTERNAL:
        space_own(a.base, a.blocks, 0)
        unmapped: cython.bint = True
        if not space_is_reserved():
            fields_set_all(a.committed, a.live, a.blocks)  # callers may have committed what they had
            unmapped = arena_unmap(a, a.committed, 0, a.blocks) == 0
        if unmapped:  # else the addresses stay taken: nothing may be placed over what is mapped
            space_give_back(a.base, a.blocks)
    arena_forget(s, a)


def arenas_close(s: cython.pointer[Arenas]) -> cython.void:
    i: uint32_t = load32_acquire(cython.address(s.count))
    while i > 0:
        i -= 1
        arena_end(s, s.arena[i])
    s.count = 0
    direct: cython.pointer[uint64_t] = arenas_direct(s)
    if direct == cython.NULL:
        return
    blocks: uint64_t = space_size() >> BLOCK_SHIFT
    at: uint64_t = fields_next_set(direct, 0, blocks)
    while at < blocks:
        end: uint64_t = fields_next_clear(direct, at, blocks)
        arena_give_back(space_base() + (at << BLOCK_SHIFT), end - at)
        at = fields_next_set(direct, end, blocks)
    vm_unmap_metadata(s.direct, round_up(fields_for(blocks) * 8, vm_facts().page_size))
    s.direct = 0


def arena_give_back(base: uint64_t, blocks: uint64_t) -> cython.void:
    """Give back what came straight from the space. Where the OS refuses, the addresses stay taken, without memory."""
    size: uint64_t = blocks << BLOCK_SHIFT
    space_own(base, blocks, 0)
    unmapped: cython.bint = space_is_reserved() or space_decommit(base, size) == 0
    if not unmapped or space_give_back(base, blocks) != 0:
        vm_purge_now(base, size)


# ---- fork ----


def arenas_lock(s: cython.pointer[Arenas]) -> cython.void:
    mutex_lock(cython.address(s.lock))


def arenas_unlock(s: cython.pointer[Arenas]) -> cython.void:
    mutex_unlock(cython.address(s.lock))


def arenas_reset(s: cython.pointer[Arenas]) -> cython.void:
    """In a forked child: what other threads had claimed and not handed out is free."""
    mutex_reset(cython.address(s.lock))
    store32_release(cython.address(s.purging), 0)
    i: uint32_t = 0
    while i < s.count:
        arena_reset(s.arena[i])
        i += 1


def arena_reset(a: cython.pointer[Arena]) -> cython.void:
    """A claimed block may be anything by now, so it is decommitted; where that is refused, it stays claimed."""
    i: uint64_t = fields_next_set(a.in_use, 0, a.blocks)
    while i < a.blocks:
        claimed: cython.bint = fields_next_set(a.live, i, i + 1) != i
        if claimed and (a.large or arena_decommit(a, i, 1) == 0):
            fields_clear(a.in_use, i, 1)
        i = fields_next_set(a.in_use, i + 1, a.blocks)
