"""Blocks of 4 MiB: from an arena that suits, from a new one where none has room, or straight from the OS.

Thread-safety: any thread, any time; nothing waits. Blocks are claimed in atomic bitmaps; of threads that find no room
at once, one adds an arena and the others look again.
Invariants: a refused request has changed nothing; a free that is wrong is told so and changes nothing; a block's bit in
`live` is set while a caller has it.
Does not remember who has a block, read a clock, or purge what is not told to be idle.
Follows: mimalloc's arenas; the lowest run of an arena is what is handed out.
"""

import cython
from cython.cimports.freehold.core.arena import ArenaRequest, MemoryId
from cython.cimports.freehold.core.arenabook import (
    ARENA_COMMIT_LATER,
    ARENA_NO_NODE,
    ARENA_NO_ROOM,
    ARENA_OK,
    ARENA_RACED,
    ARENA_UNKNOWN,
    ARENAS_MOST,
    MEMORY_ARENA,
    MEMORY_EXTERNAL,
    MEMORY_OS,
    Arena,
    ArenaFailure,
    ArenaPolicy,
    Arenas,
    arena_address,
    arena_commit,
    arena_refused,
    arena_unmap,
    arenas_around,
    arenas_direct,
    arenas_find,
    arenas_next,
)
from cython.cimports.freehold.core.arenamake import (
    ArenaShape,
    arena_end,
    arena_from_space,
    arena_give_back,
    arenas_add,
    arenas_open,
)
from cython.cimports.freehold.core.arenapurge import arena_schedule
from cython.cimports.freehold.core.fault import FREE_DOUBLE, FREE_FOREIGN, FREE_OK
from cython.cimports.freehold.core.fields import (
    fields_claim_lowest,
    fields_clear,
    fields_for,
    fields_next_clear,
    fields_next_set,
    fields_set,
    fields_take,
)
from cython.cimports.freehold.core.machine import (
    ENOMEM,
    NOWHERE,
    add64_relaxed,
    least,
    load32_acquire,
    memset,
    most,
    round_down,
    round_up,
    sub64_relaxed,
    swap64_if,
)
from cython.cimports.freehold.core.space import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    space_base,
    space_commit,
    space_decommit,
    space_give_back,
    space_is_reserved,
    space_is_taken,
    space_own,
    space_size,
    space_take,
    space_taken_bytes,
)
from cython.cimports.freehold.core.vm import (
    VM_COMMIT,
    VM_MAP,
    VM_RESERVE,
    vm_advise_huge,
    vm_bind,
    vm_facts,
    vm_map,
    vm_purge_now,
    vm_unmap_metadata,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

the_arenas = cython.declare(Arenas)  # opened at boot


def arena_blocks(size: uint64_t) -> uint64_t:
    return (size >> BLOCK_SHIFT) + (size & (BLOCK_BYTES - 1) != 0)


# ---- the process's own set ----


def arenas_boot() -> cython.int:
    if the_arenas.policy.most:
        return 0
    policy = cython.declare(ArenaPolicy)
    memset(cython.address(policy), 0, cython.sizeof(ArenaPolicy))
    policy.reserve_bytes = cython.cast(uint64_t, 1) << 30
    policy.most = ARENAS_MOST
    policy.eager_commit = ARENA_COMMIT_LATER
    policy.virtual_reserve = space_is_reserved()
    policy.bind = True
    arenas_open(cython.address(the_arenas), cython.address(policy))
    return arena_direct_map(cython.address(the_arenas))


def arenas_home() -> cython.pointer[Arenas]:
    return cython.address(the_arenas)


def arenas_take(size: uint64_t, align: uint64_t, why: cython.pointer[ArenaFailure]) -> uint64_t:
    q = cython.declare(ArenaRequest)
    id = cython.declare(MemoryId)
    memset(cython.address(q), 0, cython.sizeof(ArenaRequest))
    q.size = size
    q.align = align
    q.node = ARENA_NO_NODE
    q.commit = True
    address: uint64_t = arena_allocate(cython.address(the_arenas), cython.address(q), cython.address(id))
    why[0] = q.why
    if address and not id.zero and vm_purge_now(address, size) != 0:  # it came back when the OS refused to decommit it
        memset(cython.cast(cython.p_void, address), 0, size)
    return address


def arenas_give(address: uint64_t, size: uint64_t) -> cython.int:
    """Neighbours may come from several arenas, and straight from the OS: each part goes where it is from."""
    s: cython.pointer[Arenas] = cython.address(the_arenas)
    end: uint64_t = address + size
    id = cython.declare(MemoryId)
    memset(cython.address(id), 0, cython.sizeof(MemoryId))
    while address < end:
        a: cython.pointer[Arena] = arenas_around(s, address)
        part: uint64_t = end - address
        id.kind = MEMORY_OS
        if a != cython.NULL:
            id.kind = MEMORY_ARENA
            id.arena = a.id
            id.block = (address - a.base) >> BLOCK_SHIFT
            part = least(part, (a.blocks - id.block) << BLOCK_SHIFT)
        else:
            part = least(part, arenas_next(s, address) - address)
        reason: cython.int = arena_free(s, address, part, cython.address(id), part)
        if reason != FREE_OK:
            return reason
        address += part
    return FREE_OK


# ---- allocate ----


def arena_allocate(
    s: cython.pointer[Arenas], q: cython.pointer[ArenaRequest], id: cython.pointer[MemoryId]
) -> uint64_t:
    q.why.reason = ARENA_OK
    memset(id, 0, cython.sizeof(MemoryId))
    while q.align <= BLOCK_BYTES:
        count: uint32_t = load32_acquire(cython.address(s.count))
        if q.arena > count:
            q.why.reason = ARENA_UNKNOWN
            return 0
        address: uint64_t = arena_search(s, count, q, id)
        if address == 0 and q.why.reason == ARENA_OK and q.arena == 0:
            address = arena_grow(s, count, q, id)
            if q.why.reason == ARENA_RACED:
                q.why.reason = ARENA_OK
                continue
        if address or q.why.reason != ARENA_OK:
            return address
        break
    if q.arena or s.policy.limit_os_alloc:
        q.why.reason = ARENA_NO_ROOM
        return 0
    return arena_direct(s, q, id)


def arena_search(
    s: cython.pointer[Arenas], count: uint32_t, q: cython.pointer[ArenaRequest], id: cython.pointer[MemoryId]
) -> uint64_t:
    """Claim in the arena that is named; or in any that suits: first those near to the node, then the others."""
    if q.arena:
        a: cython.pointer[Arena] = s.arena[q.arena - 1]
        return arena_claim(a, q, id) if arena_suits(a, q) else 0
    rounds: uint32_t = 1 if q.node == ARENA_NO_NODE else 2  # whoever names none is near to all
    round: uint32_t = 0
    while round < rounds:
        i: uint32_t = 0
        while i < count:
            a = s.arena[i]
            if arena_suits(a, q) and arena_is_near(a, q.node) == (round == 0):
                address: uint64_t = arena_claim(a, q, id)
                if address or q.why.reason != ARENA_OK:
                    return address
            i += 1
        round += 1
    return 0


def arena_suits(a: cython.pointer[Arena], q: cython.pointer[cython.const[ArenaRequest]]) -> cython.bint:
    return (not a.exclusive or q.arena == a.id) and (not a.large or q.allow_large)


def arena_is_near(a: cython.pointer[Arena], node: cython.int) -> cython.bint:
    return node == ARENA_NO_NODE or a.node == ARENA_NO_NODE or a.node == node


def arena_claim(a: cython.pointer[Arena], q: cython.pointer[ArenaRequest], id: cython.pointer[MemoryId]) -> uint64_t:
    """Take the lowest run of an arena; 0 if it has none, or, with a reason, if the OS refuses to commit it."""
    n: uint64_t = arena_blocks(q.size)
    i: uint64_t = fields_claim_lowest(a.in_use, a.blocks, n)
    if i == NOWHERE:
        return 0
    if q.commit and not arena_commit(a, i, n, cython.address(q.why)):
        fields_clear(a.in_use, i, n)
        return 0
    fields_clear(a.purge, i, n)
    id.kind = MEMORY_ARENA
    id.arena = a.id
    id.block = i
    id.exclusive = a.exclusive
    id.pinned = a.large
    id.committed = fields_next_clear(a.committed, i, i + n) == i + n
    if not id.committed and a.kind == MEMORY_OS and not space_is_reserved():
        arena_even_out(a, i, n)
    id.zero = fields_next_set(a.dirty, i, i + n) == i + n
    fields_set(a.dirty, i, n)
    fields_set(a.live, i, n)
    return arena_address(a, i)


def arena_even_out(a: cython.pointer[Arena], i: uint64_t, n: uint64_t) -> cython.void:
    """Where nothing is reserved a caller can commit only what is not: none of the run may be."""
    if arena_unmap(a, a.committed, i, i + n) == 0:
        fields_clear(a.committed, i, n)


# ---- a new arena, or none ----


def arena_grow(
    s: cython.pointer[Arenas], count: uint32_t, q: cython.pointer[ArenaRequest], id: cython.pointer[MemoryId]
) -> uint64_t:
    """Add an arena that has served the request already; 0 without a reason: it is not possible."""
    shape = cython.declare(ArenaShape)
    why = cython.declare(ArenaFailure)
    memset(cython.address(shape), 0, cython.sizeof(ArenaShape))
    shape.size = arenas_growth(s, count, q.size)
    shape.node = q.node
    shape.commit = s.policy.eager_commit != 0
    shape.large = q.allow_large
    if shape.size == 0:
        return 0
    a: cython.pointer[Arena] = arena_from_space(s, cython.address(shape), cython.address(why))
    if a == cython.NULL:
        return 0
    address: uint64_t = arena_claim(a, q, id)
    reason: cython.int = q.why.reason if address == 0 else arenas_add(s, a, count)
    if reason != ARENA_OK:
        arena_end(s, a)
        memset(id, 0, cython.sizeof(MemoryId))
        q.why.reason = reason
        return 0
    id.arena = a.id
    return address


def arenas_growth(s: cython.pointer[Arenas], count: uint32_t, size: uint64_t) -> uint64_t:
    """The size of the next arena: larger after each eight, never more than an eighth of what is left; 0: none."""
    eighth: uint64_t = round_down((space_size() - space_taken_bytes()) // 8, BLOCK_BYTES)
    if count >= s.policy.most or size > eighth:
        return 0
    reserve: uint64_t = s.policy.reserve_bytes if s.policy.virtual_reserve else s.policy.reserve_bytes // 4
    doublings: uint32_t = count // 8
    while doublings > 0 and reserve < eighth:
        reserve *= 2
        doublings -= 1
    return most(least(reserve, eighth), size)


# ---- straight from the OS ----


def arena_direct(s: cython.pointer[Arenas], q: cython.pointer[ArenaRequest], id: cython.pointer[MemoryId]) -> uint64_t:
    blocks: uint64_t = arena_blocks(q.size)
    address: uint64_t = 0
    error: cython.int = arena_direct_map(s)
    if error:
        arena_refused(cython.address(q.why), VM_MAP, error)
        return 0
    if space_take(blocks, q.align >> BLOCK_SHIFT, cython.address(address)) != 0:
        arena_refused(cython.address(q.why), VM_RESERVE, ENOMEM)
        return 0
    if q.commit:
        error = space_commit(address, blocks << BLOCK_SHIFT)
        if error:
            space_give_back(address, blocks)
            arena_refused(cython.address(q.why), VM_COMMIT, error)
            return 0
        if q.allow_large:
            vm_advise_huge(address, blocks << BLOCK_SHIFT)
        if q.node >= 0 and s.policy.bind:
            vm_bind(address, blocks << BLOCK_SHIFT, q.node)
    id.kind = MEMORY_OS
    id.committed = q.commit
    id.zero = True
    space_own(address, blocks, s.owner)
    add64_relaxed(cython.address(s.direct_blocks), blocks)
    fields_set(arenas_direct(s), (address - space_base()) >> BLOCK_SHIFT, blocks)
    return address


def arena_direct_map(s: cython.pointer[Arenas]) -> cython.int:
    """Map the bitmap of what came straight from the OS, a bit for each block of the space, before it is needed."""
    if arenas_direct(s) != cython.NULL:
        return 0
    at: uint64_t = 0
    none: uint64_t = 0
    bytes: uint64_t = round_up(fields_for(space_size() >> BLOCK_SHIFT) * 8, vm_facts().page_size)
    error: cython.int = vm_map(bytes, cython.address(at))
    if error:
        return error
    if swap64_if(cython.address(s.direct), cython.address(none), at):
        add64_relaxed(cython.address(s.metadata_bytes), bytes)
    else:
        vm_unmap_metadata(at, bytes)
    return 0


# ---- free ----


def arena_free(
    s: cython.pointer[Arenas],
    address: uint64_t,
    size: uint64_t,
    id: cython.pointer[cython.const[MemoryId]],
    committed: uint64_t,
) -> cython.int:
    n: uint64_t = arena_blocks(size)
    if id.kind == MEMORY_OS:
        return arena_free_direct(s, address, n)
    a: cython.pointer[Arena] = arenas_find(s, id.arena) if id.kind == MEMORY_ARENA else cython.NULL
    i: uint64_t = id.block
    if a == cython.NULL or i >= a.blocks or n == 0 or n > a.blocks - i or address != arena_address(a, i):
        return FREE_FOREIGN
    if not fields_take(a.live, i, n):
        return FREE_DOUBLE
    known: cython.bint = True
    if not a.large:
        if committed < size:  # which part, nobody says: all of it is committed anew when it is handed out
            known = arena_uncommit_unknown(a, i, n)
        elif a.kind == MEMORY_OS and not space_is_reserved():
            known = arena_unmap_unknown(a, i, n)
    if a.kind != MEMORY_EXTERNAL:
        space_own(address, n, s.owner)
    if known:  # else nothing may ever be placed there again: the blocks stay claimed
        arena_schedule(s, a, i, n)
        fields_clear(a.in_use, i, n)
    return FREE_OK


def arena_uncommit_unknown(a: cython.pointer[Arena], i: uint64_t, n: uint64_t) -> cython.bint:
    """Of a run some is committed, nobody says what."""
    unmap: cython.bint = a.kind == MEMORY_OS and not space_is_reserved()
    if unmap and space_decommit(arena_address(a, i), n << BLOCK_SHIFT) != 0:
        return False
    fields_clear(a.committed, i, n)
    return True


def arena_unmap_unknown(a: cython.pointer[Arena], i: uint64_t, n: uint64_t) -> cython.bint:
    """Where nothing is reserved: unmap what the caller had committed by itself, so that it can be committed again."""
    at: uint64_t = fields_next_clear(a.committed, i, i + n)
    while at < i + n:
        end: uint64_t = fields_next_set(a.committed, at, i + n)
        if space_decommit(arena_address(a, at), (end - at) << BLOCK_SHIFT) != 0:
            return False
        at = fields_next_clear(a.committed, end, i + n)
    return True


def arena_free_direct(s: cython.pointer[Arenas], address: uint64_t, n: uint64_t) -> cython.int:
    offset: uint64_t = address - space_base()  # wraps for addresses below: then it is too large
    i: uint64_t = offset >> BLOCK_SHIFT
    all: uint64_t = space_size() >> BLOCK_SHIFT
    if i >= all or offset & (BLOCK_BYTES - 1) or n == 0 or n > all - i:
        return FREE_FOREIGN
    if arenas_direct(s) == cython.NULL or not fields_take(arenas_direct(s), i, n):
        return FREE_FOREIGN if space_is_taken(address, 1) else FREE_DOUBLE  # taken: by now it is somebody else's
    sub64_relaxed(cython.address(s.direct_blocks), n)
    arena_give_back(address, n)
    return FREE_OK
