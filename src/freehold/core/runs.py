"""Blocks of some pages each, above 128 KiB and below 2 MiB.

Thread-safety: one lock; the page allocator below has its own.
Invariants: a run is live, kept whole, or not there; a chunk's owner word leads to its table of heads; ``dirty_pages``
are the free pages that are not scavenged.
Does not find free pages, nor purge them: the page allocator does both. Chunks that are wholly free and given back
return to the space.
Follows: Go's heap over its page allocator, whose spans these runs are, without the objects inside.
"""

import cython
from cython.cimports.freehold.core.arena import arenas_give, arenas_take
from cython.cimports.freehold.core.arenabook import ArenaFailure
from cython.cimports.freehold.core.fault import FREE_DOUBLE, FREE_INTERIOR, FREE_OK
from cython.cimports.freehold.core.idle import idle_fell, idle_tick
from cython.cimports.freehold.core.machine import NOWHERE, least, memset, most, round_up
from cython.cimports.freehold.core.pagebook import Pages, pages_lock, pages_reset, pages_unlock
from cython.cimports.freehold.core.pages import (
    pages_allocate_range,
    pages_free,
    pages_grow,
    pages_next_known,
    pages_open,
    pages_try_allocate,
)
from cython.cimports.freehold.core.runs import (
    RUN_CHUNK_PAGES,
    RUN_LENGTHS,
    RUN_PAGE_BYTES,
    RUN_PAGE_SHIFT,
    RUN_TABLE_BYTES,
    RUN_WARM,
    RUN_WARM_PAGES,
    Runs,
)
from cython.cimports.freehold.core.scavenge import pages_scavenge, pages_shrink
from cython.cimports.freehold.core.space import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    LAYER_PAGES,
    owner_note,
    owner_word,
    space_own,
    space_owner,
)
from cython.cimports.freehold.core.sync import RANK_RUNS, mutex_init, mutex_lock, mutex_reset, mutex_unlock
from cython.cimports.freehold.core.vm import vm_advise_huge, vm_advise_no_huge, vm_map
from cython.cimports.libc.stdint import uint16_t, uint64_t


def runs_open(heap: uint64_t, huge_pages: cython.bint, into: cython.pointer[cython.pointer[Runs]]) -> cython.int:
    at: uint64_t = 0
    bytes: uint64_t = round_up(cython.sizeof(Runs), 4096)
    error: cython.int = vm_map(bytes, cython.address(at))
    if error:
        return error
    r: cython.pointer[Runs] = cython.cast(cython.pointer[Runs], at)
    mutex_init(cython.address(r.lock), RANK_RUNS)
    r.heap = heap
    r.huge_pages = huge_pages
    pages_open(cython.address(r.pages), 48, RUN_PAGE_SHIFT, 2 << 20, True)
    into[0] = r
    return 0


def runs_head(address: uint64_t, owner: uint64_t) -> cython.pointer[uint16_t]:
    """Where the length of the run that begins at an address is kept; its chunk's owner word is known."""
    heads: cython.pointer[uint16_t] = cython.cast(cython.pointer[uint16_t], owner_note(owner) * RUN_TABLE_BYTES)
    return heads + ((address & (BLOCK_BYTES - 1)) >> RUN_PAGE_SHIFT)


# ---- allocate and deallocate ----


def runs_allocate(r: cython.pointer[Runs], size: uint64_t, zero: cython.bint) -> uint64_t:
    npages: uint64_t = (size + RUN_PAGE_BYTES - 1) >> RUN_PAGE_SHIFT
    address: uint64_t = 0
    scavenged: uint64_t = 0  # bytes of the run that read zero
    mutex_lock(cython.address(r.lock))
    found: cython.bint = runs_find(r, npages, cython.address(address), cython.address(scavenged))
    if found:
        runs_head(address, space_owner(address))[0] = cython.cast(uint16_t, npages)
        r.live += 1
        r.allocations += 1
        r.live_pages += npages
        r.dirty_pages -= npages - (scavenged >> RUN_PAGE_SHIFT)
        idle_fell(cython.address(r.idle), r.dirty_pages)
    mutex_unlock(cython.address(r.lock))
    if not found:
        return 0
    if zero and scavenged < npages << RUN_PAGE_SHIFT:
        memset(cython.cast(cython.p_void, address), 0, size)
    return address


def runs_find(
    r: cython.pointer[Runs], npages: uint64_t, address: cython.pointer[uint64_t], scavenged: cython.pointer[uint64_t]
) -> cython.bint:
    """The run of this length that was freed last, or the lowest free one, or one of newly taken chunks."""
    if npages < RUN_LENGTHS and r.warm[npages]:
        address[0] = r.warm[npages]
        r.warm[npages] = 0
        r.warm_pages -= npages
        return True
    pages: cython.pointer[Pages] = cython.address(r.pages)
    if pages_try_allocate(pages, npages, address, scavenged):
        return True
    if r.warm_pages:  # what is kept whole may be what is missing
        runs_cool(r, NOWHERE)
        if pages_try_allocate(pages, npages, address, scavenged):
            return True
    return runs_grow(r, npages) and pages_try_allocate(pages, npages, address, scavenged)


def runs_deallocate(
    r: cython.pointer[Runs], address: uint64_t, owner: uint64_t, size: cython.pointer[uint64_t]
) -> cython.int:
    """Take a run back; a free needs nothing that could be refused.

    One run of each length is kept whole for the next request: a loop of temporaries never reaches the page allocator.
    """
    if address & (RUN_PAGE_BYTES - 1):
        return FREE_INTERIOR
    mutex_lock(cython.address(r.lock))
    head: cython.pointer[uint16_t] = runs_head(address, owner)
    npages: uint64_t = head[0]
    live: cython.bint = npages > 0 and npages < RUN_WARM
    if live:
        r.live -= 1
        r.live_pages -= npages
        r.dirty_pages += npages
        if npages < RUN_LENGTHS and r.warm[npages] == 0 and r.warm_pages + npages <= RUN_WARM_PAGES:
            r.warm[npages] = address
            r.warm_turn[npages] = r.idle.turn
            r.warm_pages += npages
            head[0] = cython.cast(uint16_t, npages | RUN_WARM)
        else:
            head[0] = 0
            pages_free(cython.address(r.pages), address, npages)
    mutex_unlock(cython.address(r.lock))
    size[0] = (npages & ~cython.cast(uint64_t, RUN_WARM)) << RUN_PAGE_SHIFT
    return FREE_OK if live else FREE_DOUBLE


def runs_cool(r: cython.pointer[Runs], turn: uint64_t) -> cython.void:
    """Let go of the runs kept whole since before a tick."""
    n: uint64_t = 1
    while n < RUN_LENGTHS and r.warm_pages:
        if r.warm[n] and r.warm_turn[n] < turn:
            runs_head(r.warm[n], space_owner(r.warm[n]))[0] = 0
            pages_free(cython.address(r.pages), r.warm[n], n)
            r.warm[n] = 0
            r.warm_pages -= n
        n += 1


def runs_usable_size(r: cython.pointer[Runs], address: uint64_t, owner: uint64_t) -> uint64_t:
    if address & (RUN_PAGE_BYTES - 1):
        return 0
    mutex_lock(cython.address(r.lock))
    npages: uint64_t = runs_head(address, owner)[0]
    mutex_unlock(cython.address(r.lock))
    return npages << RUN_PAGE_SHIFT if npages < RUN_WARM else 0


def runs_resize(r: cython.pointer[Runs], address: uint64_t, owner: uint64_t, size: uint64_t) -> cython.bint:
    """Shrink by freeing the tail; grow if the pages that follow are free."""
    want: uint64_t = most(1, (size + RUN_PAGE_BYTES - 1) >> RUN_PAGE_SHIFT)
    scavenged: uint64_t = 0
    mutex_lock(cython.address(r.lock))
    head: cython.pointer[uint16_t] = runs_head(address, owner)
    npages: uint64_t = head[0]
    end: uint64_t = address + (npages << RUN_PAGE_SHIFT)
    done: cython.bint = npages > 0 and npages < RUN_WARM and want < RUN_WARM
    if done and want < npages:
        pages_free(cython.address(r.pages), address + (want << RUN_PAGE_SHIFT), npages - want)
        r.dirty_pages += npages - want
    elif done and want > npages:
        done = pages_allocate_range(cython.address(r.pages), end, want - npages, cython.address(scavenged))
        if done:
            r.dirty_pages -= want - npages - (scavenged >> RUN_PAGE_SHIFT)
            idle_fell(cython.address(r.idle), r.dirty_pages)
    if done:
        head[0] = cython.cast(uint16_t, want)
        r.live_pages += want - npages
    mutex_unlock(cython.address(r.lock))
    return done


# ---- chunks: from the space and back ----


def runs_grow(r: cython.pointer[Runs], npages: uint64_t) -> cython.bint:
    """Take chunks: one at first, then an eighth of what there is, up to 64 MiB; fewer where so many can not be had."""
    needed: uint64_t = (npages + RUN_CHUNK_PAGES - 1) // RUN_CHUNK_PAGES
    chunks: uint64_t = most(needed, least(r.chunks // 8, 16))
    why = cython.declare(ArenaFailure)
    base: uint64_t = arenas_take(chunks << BLOCK_SHIFT, 0, cython.address(why))
    if base == 0 and chunks > needed:
        chunks = needed
        base = arenas_take(chunks << BLOCK_SHIFT, 0, cython.address(why))
    if base == 0:
        return False
    i: uint64_t = 0
    while i < chunks:
        table: uint64_t = runs_take_table(r)
        if table == 0:
            break
        space_own(base + (i << BLOCK_SHIFT), 1, owner_word(r.heap, LAYER_PAGES, table // RUN_TABLE_BYTES))
        i += 1
    if i < chunks or pages_grow(cython.address(r.pages), base, chunks << BLOCK_SHIFT) != 0:
        runs_drop_chunks(r, base, chunks)
        return False
    if r.huge_pages and r.chunks > 0:  # a heap that has shown it grows
        vm_advise_huge(base, chunks << BLOCK_SHIFT)
        r.calm = False
    r.chunks += chunks
    return True


def runs_take_table(r: cython.pointer[Runs]) -> uint64_t:
    """A zeroed table of heads; 0 if the OS refuses."""
    if r.tables == cython.NULL:
        slab: uint64_t = 0
        if vm_map(64 * RUN_TABLE_BYTES, cython.address(slab)) != 0:
            return 0
        r.table_bytes += 64 * RUN_TABLE_BYTES
        i: uint64_t = 64
        while i > 0:
            i -= 1
            spare: cython.pointer[uint64_t] = cython.cast(cython.pointer[uint64_t], slab + i * RUN_TABLE_BYTES)
            spare[0] = cython.cast(uint64_t, r.tables)
            r.tables = spare
    table: cython.pointer[uint64_t] = r.tables
    r.tables = cython.cast(cython.pointer[uint64_t], table[0])
    table[0] = 0
    return cython.cast(uint64_t, table)


def runs_drop_chunks(r: cython.pointer[Runs], base: uint64_t, chunks: uint64_t) -> cython.void:
    """Give chunks back to the arenas, their tables (all zero: no run is live) to the spare ones. Under the lock."""
    i: uint64_t = 0
    while i < chunks:
        table: uint64_t = owner_note(space_owner(base + (i << BLOCK_SHIFT))) * RUN_TABLE_BYTES
        if table:
            cython.cast(cython.pointer[uint64_t], table)[0] = cython.cast(uint64_t, r.tables)
            r.tables = cython.cast(cython.pointer[uint64_t], table)
        i += 1
    arenas_give(base, chunks << BLOCK_SHIFT)


# ---- giving back ----


def runs_tick(r: cython.pointer[Runs], busy: cython.pointer[cython.bint]) -> uint64_t:
    mutex_lock(cython.address(r.lock))
    runs_cool(r, r.idle.turn)
    idle: uint64_t = idle_tick(cython.address(r.idle), r.dirty_pages)
    busy[0] = busy[0] or r.dirty_pages > idle
    mutex_unlock(cython.address(r.lock))
    return runs_give_back(r, idle << RUN_PAGE_SHIFT)


def runs_purge(r: cython.pointer[Runs]) -> uint64_t:
    mutex_lock(cython.address(r.lock))
    runs_cool(r, NOWHERE)
    mutex_unlock(cython.address(r.lock))
    return runs_give_back(r, NOWHERE >> 1)


def runs_give_back(r: cython.pointer[Runs], bytes: uint64_t) -> uint64_t:
    """Scavenge, highest addresses first, and return the chunks that are wholly given back."""
    if bytes == 0:
        return 0
    given_back: uint64_t = pages_scavenge(cython.address(r.pages), bytes, True)
    base: uint64_t = 0
    size: uint64_t = 0
    mutex_lock(cython.address(r.lock))
    r.dirty_pages -= least(r.dirty_pages, given_back >> RUN_PAGE_SHIFT)
    while pages_shrink(cython.address(r.pages), base, cython.address(base), cython.address(size)):
        r.chunks -= size >> BLOCK_SHIFT
        runs_drop_chunks(r, base, size >> BLOCK_SHIFT)
    mutex_unlock(cython.address(r.lock))
    if given_back and r.huge_pages:
        runs_take_back_advice(r)
    return given_back


def runs_take_back_advice(r: cython.pointer[Runs]) -> cython.void:
    """Keep the kernel from joining pages given back into huge ones again; chunks taken anew are advised anew."""
    base: uint64_t = 0
    limit: uint64_t = 0
    mutex_lock(cython.address(r.lock))
    while not r.calm and pages_next_known(cython.address(r.pages), limit, cython.address(base), cython.address(limit)):
        vm_advise_no_huge(base, limit - base)
    r.calm = True
    mutex_unlock(cython.address(r.lock))


# ---- fork ----


def runs_lock(r: cython.pointer[Runs]) -> cython.void:
    mutex_lock(cython.address(r.lock))
    pages_lock(cython.address(r.pages))


def runs_unlock(r: cython.pointer[Runs]) -> cython.void:
    pages_unlock(cython.address(r.pages))
    mutex_unlock(cython.address(r.lock))


def runs_reset(r: cython.pointer[Runs]) -> cython.void:
    pages_reset(cython.address(r.pages))
    mutex_reset(cython.address(r.lock))
