"""What the parts of the arenas share: the record of an arena, its bitmaps, and what the OS does to a run of its blocks.

Thread-safety: bits are atomic; whoever claimed a block's bit in `in_use` alone changes its bits in `dirty`, `committed`
and `purge`. An arena is found without a lock: `count` is stored, with release, after the entry.
Invariants: live <= in_use; a block whose dirty bit is clear reads 0 once it is committed; an arena stays where it is
for as long as its set is open.
Does not choose, make or purge arenas.
Follows: mimalloc's arenas. Theirs tell a live block by the bit that a purge claims too; `live` makes every wrong free
visible, also during a purge, and lets a forked child find out what other threads had claimed.
"""

import cython
from cython.cimports.freehold.core.arenabook import (
    ARENA_CELL_BYTES,
    ARENA_CELL_WORDS,
    ARENA_CELLS,
    ARENA_REFUSED,
    MEMORY_EXTERNAL,
    MEMORY_OS,
    Arena,
    ArenaFailure,
    Arenas,
    ArenasStats,
    arena_address,
)
from cython.cimports.freehold.core.fields import (
    fields_claim_lowest,
    fields_clear,
    fields_count,
    fields_for,
    fields_next_clear,
    fields_next_set,
    fields_set,
)
from cython.cimports.freehold.core.machine import (
    NOWHERE,
    add64_relaxed,
    least,
    load32_acquire,
    load64_acquire,
    load64_relaxed,
    mask,
    memcmp,
    memset,
    round_up,
    sub64_relaxed,
    swap64_if,
)
from cython.cimports.freehold.core.space import BLOCK_SHIFT, space_commit, space_decommit, space_is_reserved
from cython.cimports.freehold.core.vm import (
    VM_COMMIT,
    VM_MAP,
    vm_advise_huge,
    vm_bind,
    vm_commit,
    vm_facts,
    vm_map,
    vm_purge_now,
    vm_unmap_metadata,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

arena_cells = cython.declare(uint64_t[ARENA_CELL_WORDS])  # the static area; a cell is its taker's
arena_cells_taken = cython.declare(uint64_t)  # one bit a cell; atomic

# ---- a set ----


def arenas_find(s: cython.pointer[Arenas], id: uint64_t) -> cython.pointer[Arena]:
    if id == 0 or id > load32_acquire(cython.address(s.count)):
        return cython.NULL
    return s.arena[id - 1]


def arenas_direct(s: cython.pointer[Arenas]) -> cython.pointer[uint64_t]:
    return cython.cast(cython.pointer[uint64_t], load64_acquire(cython.address(s.direct)))


def arenas_around(s: cython.pointer[Arenas], address: uint64_t) -> cython.pointer[Arena]:
    i: uint32_t = load32_acquire(cython.address(s.count))
    while i > 0:
        i -= 1
        if address - s.arena[i].base < s.arena[i].blocks << BLOCK_SHIFT:  # wraps below: then it is too large
            return s.arena[i]
    return cython.NULL


def arenas_next(s: cython.pointer[Arenas], address: uint64_t) -> uint64_t:
    next: uint64_t = NOWHERE
    i: uint32_t = load32_acquire(cython.address(s.count))
    while i > 0:
        i -= 1
        if s.arena[i].base > address:
            next = least(next, s.arena[i].base)
    return next


def arenas_contain(s: cython.pointer[Arenas], address: uint64_t) -> cython.bint:
    return arenas_around(s, address) != cython.NULL


def arenas_live(s: cython.pointer[Arenas]) -> uint64_t:
    live: uint64_t = load64_relaxed(cython.address(s.direct_blocks))
    i: uint32_t = load32_acquire(cython.address(s.count))
    while i > 0:
        i -= 1
        live += fields_count(s.arena[i].live, s.arena[i].blocks)
    return live


def arenas_note_time(s: cython.pointer[Arenas], now: uint64_t) -> cython.void:
    seen: uint64_t = load64_relaxed(cython.address(s.now))
    while seen < now and not swap64_if(cython.address(s.now), cython.address(seen), now):
        pass


def arenas_time(s: cython.pointer[Arenas]) -> uint64_t:
    return load64_relaxed(cython.address(s.now))


def arenas_read_stats(s: cython.pointer[Arenas], into: cython.pointer[ArenasStats]) -> cython.void:
    memset(into, 0, cython.sizeof(ArenasStats))
    into.arenas = load32_acquire(cython.address(s.count))
    i: uint32_t = 0
    while i < into.arenas:
        a: cython.pointer[Arena] = s.arena[i]
        into.reserved_bytes += a.blocks << BLOCK_SHIFT
        into.committed_bytes += fields_count(a.committed, a.blocks) << BLOCK_SHIFT
        into.in_use_bytes += fields_count(a.live, a.blocks) << BLOCK_SHIFT
        into.scheduled_bytes += fields_count(a.purge, a.blocks) << BLOCK_SHIFT
        i += 1
    into.os_direct_bytes = load64_relaxed(cython.address(s.direct_blocks)) << BLOCK_SHIFT
    into.purges = load64_relaxed(cython.address(s.purges))
    into.purged_bytes = load64_relaxed(cython.address(s.purged_bytes))
    into.metadata_bytes = load64_relaxed(cython.address(s.metadata_bytes))


def arena_draw(a: cython.pointer[Arena], into: cython.p_char) -> cython.void:
    i: uint64_t = 0
    while i < a.blocks:
        into[i] = 120 if fields_next_set(a.live, i, i + 1) == i else 46
        i += 1


def arenas_check(s: cython.pointer[Arenas], id: cython.pointer[uint32_t]) -> cython.p_const_char:
    law: cython.p_const_char = cython.NULL
    i: uint32_t = 0
    while i < load32_acquire(cython.address(s.count)) and law == cython.NULL:
        id[0] = i + 1
        law = arena_check(s.arena[i])
        i += 1
    return law


def arena_check(a: cython.pointer[Arena]) -> cython.p_const_char:
    scheduled: cython.bint = False
    i: uint64_t = 0
    while i < fields_for(a.blocks):
        beyond: uint64_t = ~mask(least(a.blocks - i * 64, 64))
        if (a.in_use[i] | a.dirty[i] | a.committed[i]) & beyond:
            return b"no bit is set beyond the last block"
        if a.live[i] & ~a.in_use[i]:
            return b"a live block is in use"
        if a.live[i] & ~a.dirty[i]:
            return b"a live block may be dirty"
        if a.purge[i] & a.in_use[i]:
            return b"a block to be purged is not in use"
        if a.purge[i]:
            scheduled = True
        i += 1
    if scheduled and a.expiry == 0:
        return b"what is to be purged has an expiry"
    return cython.NULL


# ---- an arena's record ----


def arena_cell_take() -> uint64_t:
    """A cell of the static area; 0: all are taken."""
    i: uint64_t = fields_claim_lowest(cython.address(arena_cells_taken), ARENA_CELLS, 1)
    if i >= ARENA_CELLS:
        return 0
    return cython.cast(uint64_t, cython.address(arena_cells[0])) + i * ARENA_CELL_BYTES


def arena_cell_give(cell: uint64_t) -> cython.void:
    i: uint64_t = (cell - cython.cast(uint64_t, cython.address(arena_cells[0]))) // ARENA_CELL_BYTES
    fields_clear(cython.address(arena_cells_taken), i, 1)


def arena_describe(
    s: cython.pointer[Arenas], base: uint64_t, blocks: uint64_t, why: cython.pointer[ArenaFailure]
) -> cython.pointer[Arena]:
    """Make the record of an arena that is in no set yet: nothing in use, committed or dirty."""
    fields: uint64_t = fields_for(blocks)
    bytes: uint64_t = cython.sizeof(Arena) + 5 * fields * 8
    at: uint64_t = arena_cell_take() if bytes <= ARENA_CELL_BYTES else 0
    in_cell: cython.bint = at != 0
    if not in_cell:
        bytes = round_up(bytes, vm_facts().page_size)
        error: cython.int = vm_map(bytes, cython.address(at))
        if error:
            arena_refused(why, VM_MAP, error)
            return cython.NULL
    memset(cython.cast(cython.p_void, at), 0, cython.sizeof(Arena) + 5 * fields * 8)
    a: cython.pointer[Arena] = cython.cast(cython.pointer[Arena], at)
    a.base = base
    a.blocks = blocks
    a.metadata_bytes = bytes
    a.in_cell = in_cell
    a.in_use = cython.cast(cython.pointer[uint64_t], at + cython.sizeof(Arena))
    a.live = a.in_use + fields
    a.dirty = a.live + fields
    a.committed = a.dirty + fields
    a.purge = a.committed + fields
    add64_relaxed(cython.address(s.metadata_bytes), bytes)
    return a


def arena_forget(s: cython.pointer[Arenas], a: cython.pointer[Arena]) -> cython.void:
    sub64_relaxed(cython.address(s.metadata_bytes), a.metadata_bytes)
    if a.in_cell:
        arena_cell_give(cython.cast(uint64_t, a))
    else:
        vm_unmap_metadata(cython.cast(uint64_t, a), a.metadata_bytes)


def arena_refused(why: cython.pointer[ArenaFailure], call: cython.int, error: cython.int) -> cython.void:
    why.reason = ARENA_REFUSED
    why.os_call = call
    why.os_error = error


# ---- a run of blocks, claimed by the caller ----


def arena_commit(a: cython.pointer[Arena], i: uint64_t, n: uint64_t, why: cython.pointer[ArenaFailure]) -> cython.bint:
    """Commit what of a run is not; what is keeps its contents."""
    end: uint64_t = i + n
    at: uint64_t = fields_next_clear(a.committed, i, end)
    if at == end:
        return True
    while at < end:
        stop: uint64_t = fields_next_set(a.committed, at, end)
        error: cython.int = arena_commit_run(a, at, stop - at)
        if error:
            arena_uncommit(a, i, at)
            arena_refused(why, VM_COMMIT, error)
            return False
        at = fields_next_clear(a.committed, stop, end)
    fields_set(a.committed, i, n)
    return True


def arena_commit_run(a: cython.pointer[Arena], i: uint64_t, n: uint64_t) -> cython.int:
    address: uint64_t = arena_address(a, i)
    size: uint64_t = n << BLOCK_SHIFT
    if a.kind == MEMORY_EXTERNAL:
        return vm_commit(address, size)
    error: cython.int = space_commit(address, size)
    if not error and a.bind:  # anew each time: decommitted addresses have forgotten it
        vm_bind(address, size, a.node)
    if not error and a.huge_advice:
        vm_advise_huge(address, size)
    return error


def arena_uncommit(a: cython.pointer[Arena], i: uint64_t, end: uint64_t) -> cython.void:
    """Undo what arena_commit did before it failed: the runs whose bits are clear."""
    at: uint64_t = fields_next_clear(a.committed, i, end)
    while at < end:
        stop: uint64_t = fields_next_set(a.committed, at, end)
        if a.kind == MEMORY_OS and space_decommit(arena_address(a, at), (stop - at) << BLOCK_SHIFT) != 0:
            fields_set(a.committed, at, stop - at)  # then it is what it is
        at = fields_next_clear(a.committed, stop, end)


def arena_decommit(a: cython.pointer[Arena], i: uint64_t, n: uint64_t) -> cython.int:
    """Give a run's memory back. Afterwards it is uncommitted, and known to read 0 where that is so.

    Callers may have committed blocks that we know nothing of, so the OS is told the whole run. Where nothing is
    reserved it can not be: others may have mapped something there. Then `arena_free` has unmapped such blocks.
    """
    error: cython.int
    if a.kind == MEMORY_EXTERNAL:
        error = arena_wipe(a, i, n)
    elif space_is_reserved():
        error = space_decommit(arena_address(a, i), n << BLOCK_SHIFT)
        if not error:
            fields_clear(a.dirty, i, n)
    else:
        error = arena_unmap(a, a.committed, i, i + n)
        if not error:
            fields_clear(a.dirty, i, n)
    if not error:
        fields_clear(a.committed, i, n)
    return error


def arena_unmap(
    a: cython.pointer[Arena], which: cython.pointer[cython.const[uint64_t]], i: uint64_t, end: uint64_t
) -> cython.int:
    """Unmap the blocks of a run whose bits are set in `which`, where nothing is reserved."""
    error: cython.int = 0
    at: uint64_t = fields_next_set(which, i, end)
    while at < end and not error:
        stop: uint64_t = fields_next_clear(which, at, end)
        error = space_decommit(arena_address(a, at), (stop - at) << BLOCK_SHIFT)
        at = fields_next_set(which, stop, end)
    return error


def arena_wipe(a: cython.pointer[Arena], i: uint64_t, n: uint64_t) -> cython.int:
    """Give back somebody else's memory, which stays mapped; where it is shared and remembers, clear it by hand."""
    error: cython.int = vm_purge_now(arena_address(a, i), n << BLOCK_SHIFT)
    end: uint64_t = i + n
    at: uint64_t = fields_next_set(a.committed, i, end)
    while at < end and not error:  # other blocks may not be readable
        stop: uint64_t = fields_next_clear(a.committed, at, end)
        p: cython.p_char = cython.cast(cython.p_char, arena_address(a, at))
        size: uint64_t = (stop - at) << BLOCK_SHIFT
        if p[0] != 0 or memcmp(p, p + 1, size - 1) != 0:
            memset(p, 0, size)
        fields_clear(a.dirty, at, stop - at)
        at = fields_next_set(a.committed, stop, end)
    return error
