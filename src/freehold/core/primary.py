"""Small blocks: one region of addresses per size class, out-of-line metadata, release of single pages.

Thread-safety: a region's lock guards it; block states are single bytes, written relaxed by whoever owns the block.
Invariants (``primary_check`` walks them): a number in the free array is below ``made``, is there once, and its state is
BLOCK_FREE; ``parked`` others have that state, none below ``cursor``; with blocks cached, live and deferred they are all
that are made.
Does not know threads or clocks. Everything about a block is found from its address: no header, no list through free
memory.
Follows: LLVM's SizeClassAllocator64. Where that recounts its free array to find empty pages, the bytes of state serve
here: a page is free when every block that touches it is BLOCK_FREE, and eight of them are compared at once. The free
array holds block numbers: the seed's compact pointers, in units of the class instead of 16 bytes, so that they index
the states too.
"""

import cython
from cython.cimports.freehold.core.bits import bits_clear, bits_count, bits_next_set, bits_set
from cython.cimports.freehold.core.budget import budget_give, budget_open, budget_take, budget_take_books
from cython.cimports.freehold.core.fault import (
    FREE_DOUBLE,
    FREE_FOREIGN,
    FREE_INTERIOR,
    FREE_NEVER,
    FREE_OK,
    fault_bad_free,
)
from cython.cimports.freehold.core.idle import idle_add, idle_fell
from cython.cimports.freehold.core.machine import (
    ENOMEM,
    NOWHERE,
    TSAN,
    add64_relaxed,
    futex_wait,
    least,
    load8_relaxed,
    load32_relaxed,
    load64_acquire,
    load64_relaxed,
    memmove,
    most,
    mul_high,
    now_ns,
    round_down,
    round_up,
    should,
    store8_relaxed,
    store64_release,
    sub64_relaxed,
    swap8_if,
)
from cython.cimports.freehold.core.primary import (
    BLOCK_CACHED,
    BLOCK_DEFERRED,
    BLOCK_FREE,
    BLOCK_LIVE,
    BLOCK_NEW,
    BLOCK_SAMPLED,
    HUGE_SHARE,
    HUGE_STEP,
    LAW_BELOW_MADE,
    LAW_CACHED,
    LAW_CACHED_COUNT,
    LAW_CHARGED,
    LAW_FREE,
    LAW_FREE_COUNT,
    LAW_MAPPED,
    LAW_PARKED,
    LAW_PURGED,
    LAW_PURGED_COUNT,
    MAP_STEP,
    PRIMARY_CLASSES,
    PURGE_SLICE,
    SHUFFLED_BLOCKS,
    STATES_APART,
    STATES_SHIFT,
    UNPARK_LOOKS,
    Grown,
    Primary,
    PrimaryConfig,
    Region,
)
from cython.cimports.freehold.core.sizes import sizes_default
from cython.cimports.freehold.core.space import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    LAYER_PRIMARY,
    owner_word,
    space_commit,
    space_decommit,
    space_give_back,
    space_is_reserved,
    space_own,
    space_take,
)
from cython.cimports.freehold.core.sync import (
    RANK_REGION,
    mutex_init,
    mutex_lock,
    mutex_lock_unseen,
    mutex_reset,
    mutex_unlock,
    mutex_unlock_unseen,
)
from cython.cimports.freehold.core.vm import vm_advise_huge, vm_bind, vm_facts, vm_map, vm_purge_now, vm_unmap_metadata
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t

# ---- open and close ----


def primary_open(
    config: cython.pointer[cython.const[PrimaryConfig]], into: cython.pointer[cython.pointer[Primary]]
) -> cython.int:
    at: uint64_t = 0
    error: cython.int = vm_map(round_up(cython.sizeof(Primary), MAP_STEP), cython.address(at))
    if error:
        return error
    p: cython.pointer[Primary] = cython.cast(cython.pointer[Primary], at)
    p.config = config[0]
    budget_open(cython.address(p.own), NOWHERE)
    p.budget = config.budget if config.budget != cython.NULL else cython.address(p.own)
    p.sizes = sizes_default()
    p.classes = p.sizes.small
    p.page_size = vm_facts().page_size
    p.random = at ^ now_ns()
    p.span = cython.cast(uint64_t, p.classes) << config.region_bits
    should(p.classes <= PRIMARY_CLASSES, b"a primary has room for all small classes")
    shadow: uint64_t = 0  # bytes of states and purged bits, all classes
    i: uint32_t = 0
    while i < p.classes:
        p.region[i].index = i
        p.region[i].size = p.sizes.size[i]
        p.region[i].multiplier = p.sizes.multiplier[i]
        shadow += primary_shadow_bytes(p, cython.address(p.region[i]), cython.NULL, cython.NULL)
        i += 1
    p.blocks = (p.span + round_up(shadow, BLOCK_BYTES)) >> BLOCK_SHIFT
    error = space_take(p.blocks, 1, cython.address(p.base))
    if error:
        vm_unmap_metadata(at, round_up(cython.sizeof(Primary), MAP_STEP))
        return error
    shadow = p.base + p.span
    i = 0
    while i < p.classes:
        region_open(p, i, shadow)
        shadow += primary_shadow_bytes(p, cython.address(p.region[i]), cython.NULL, cython.NULL)
        i += 1
    into[0] = p
    return 0


def primary_shadow_bytes(
    p: cython.pointer[Primary],
    r: cython.pointer[Region],
    states: cython.pointer[uint64_t],
    purged: cython.pointer[uint64_t],
) -> uint64_t:
    """How many bytes of addresses a region's states and purged bits may ever need; sets its capacity."""
    region: uint64_t = cython.cast(uint64_t, 1) << p.config.region_bits
    array: uint64_t = region // 8
    r.capacity = least((region - array) // (r.size + p.config.metadata_size), array // 4)
    r.states_shift = (STATES_SHIFT + r.index * STATES_APART) % 4096
    state_room: uint64_t = round_up(r.states_shift + r.capacity, MAP_STEP)
    purged_room: uint64_t = round_up(region // p.page_size // 8, MAP_STEP)
    if states != cython.NULL:
        states[0] = state_room
        purged[0] = purged_room
    return state_room + purged_room


def region_open(p: cython.pointer[Primary], i: uint32_t, shadow: uint64_t) -> cython.void:
    r: cython.pointer[Region] = cython.address(p.region[i])
    region: uint64_t = cython.cast(uint64_t, 1) << p.config.region_bits
    state_room: uint64_t = 0
    purged_room: uint64_t = 0
    primary_shadow_bytes(p, r, cython.address(state_room), cython.address(purged_room))
    mutex_init(cython.address(r.lock), RANK_REGION)
    r.base = p.base + i * region
    r.blocks.start = r.base
    r.array.start = r.base + region - region // 8
    r.metadata_end = r.array.start
    r.state_bytes.start = shadow
    r.purged_bits.start = shadow + state_room
    r.free = cython.cast(cython.pointer[uint32_t], r.array.start)
    # A block and its state at the same place in their pages would look like one address to a processor that compares
    # twelve bits of a load with those of earlier stores: 8 ns more for a loop over one block (Zen 4, 2026-11).
    # And states of all classes at the same place would share a few sets of its first cache.
    r.states = cython.cast(cython.pointer[uint8_t], r.state_bytes.start + r.states_shift)
    r.purged = cython.cast(cython.pointer[uint64_t], r.purged_bits.start)


def primary_close(p: cython.pointer[Primary]) -> cython.void:
    i: uint32_t = 0
    while i < p.classes:
        r: cython.pointer[Region] = cython.address(p.region[i])
        space_own(r.base, (r.blocks.mapped + BLOCK_BYTES - 1) >> BLOCK_SHIFT, 0)
        if not space_is_reserved():  # then each range was mapped by itself, and only that is ours to unmap
            grown_drop(cython.address(r.blocks))
            grown_drop(cython.address(r.array))
            grown_drop(cython.address(r.state_bytes))
            grown_drop(cython.address(r.purged_bits))
            r.metadata.start = r.metadata_end - r.metadata.mapped
            grown_drop(cython.address(r.metadata))
        i += 1
    # A refused unmapping keeps the addresses for good: nothing else may be placed over what the OS still maps.
    space_give_back(p.base, p.blocks)
    vm_unmap_metadata(cython.cast(uint64_t, p), round_up(cython.sizeof(Primary), MAP_STEP))


def primary_vacate(p: cython.pointer[Primary]) -> cython.void:
    """For a heap that is closed while blocks are live: nobody is told of any more, and each goes back as ever."""
    i: uint32_t = 0
    while i < p.classes:
        from_: uint64_t = 0
        while from_ != NOWHERE:
            from_ = region_vacate(p, cython.address(p.region[i]), from_)
        i += 1


def region_vacate(p: cython.pointer[Primary], r: cython.pointer[Region], from_: uint64_t) -> uint64_t:
    """Purge a slice, whatever is in it; return where the next one begins, or NOWHERE."""
    mutex_lock(cython.address(r.lock))
    end: uint64_t = least(from_ + PURGE_SLICE, r.charged)
    if from_ < end and vm_purge_now(r.base + from_, end - from_) == 0:
        first: uint64_t = from_ // p.page_size
        pages: uint64_t = (end - from_) // p.page_size
        here: uint64_t = pages - bits_count(r.purged, first, pages)
        bits_set(r.purged, first, pages)
        r.purged_pages += here
        budget_give(p.budget, here * p.page_size)
    mutex_unlock(cython.address(r.lock))
    return end if from_ < end else NOWHERE


def primary_counted(p: cython.pointer[Primary], books: cython.pointer[uint64_t]) -> uint64_t:
    blocks: uint64_t = 0
    books[0] = 0
    i: uint32_t = 0
    while i < p.classes:
        r: cython.pointer[Region] = cython.address(p.region[i])
        mutex_lock(cython.address(r.lock))
        blocks += r.charged - r.purged_pages * p.page_size
        books[0] += r.books + r.books_owed
        mutex_unlock(cython.address(r.lock))
        i += 1
    return blocks


# ---- growing ----


def grown_drop(g: cython.pointer[Grown]) -> cython.void:
    if g.mapped:
        space_decommit(g.start, g.mapped)


def grown_to(
    p: cython.pointer[Primary],
    g: cython.pointer[Grown],
    need: uint64_t,
    step: uint64_t,
    total: cython.pointer[uint64_t],
) -> cython.int:
    """Make the first `need` bytes accessible. What a failing caller had mapped stays for the next one."""
    if need <= g.mapped:
        return 0
    end: uint64_t = round_up(need, step)
    error: cython.int = space_commit(g.start + g.mapped, end - g.mapped)
    if error:
        return error
    add64_relaxed(total, end - g.mapped)
    g.mapped = end
    return 0


def region_grow_blocks(p: cython.pointer[Primary], r: cython.pointer[Region], need: uint64_t) -> cython.int:
    """Map blocks; past its first 2 MiB a region grows in whole huge pages, if the heap can afford their unused ends."""
    before: uint64_t = r.blocks.mapped
    if need <= before:
        return 0
    if not r.huge and p.config.huge_pages and before >= HUGE_STEP:
        unused: uint64_t = load64_relaxed(cython.address(p.huge_regions)) * HUGE_STEP  # at most, at the others' ends
        affordable: cython.bint = unused * HUGE_SHARE <= load64_relaxed(cython.address(p.mapped))
        if affordable:
            add64_relaxed(cython.address(p.huge_regions), 1)
            r.huge = True
    step: uint64_t = MAP_STEP
    if r.huge:  # longer steps as it grows: fewer system calls, and nothing is resident before it is touched
        step = HUGE_STEP
        need = most(need, least(before + before // 8, before + 32 * HUGE_STEP))
    region: uint64_t = cython.cast(uint64_t, 1) << p.config.region_bits
    need = least(need, r.capacity * r.size)
    if round_up(need, step) > region - region // 8 - r.metadata.mapped:
        step = MAP_STEP
    error: cython.int = grown_to(p, cython.address(r.blocks), need, step, cython.address(p.mapped))
    if error:
        return error
    if r.huge and step == HUGE_STEP:
        start: uint64_t = round_up(r.base + before, HUGE_STEP)
        if start < r.base + r.blocks.mapped:
            vm_advise_huge(start, r.base + r.blocks.mapped - start)
            r.advised = True
    if p.config.node >= 0:
        vm_bind(r.base + before, r.blocks.mapped - before, p.config.node)
    first: uint64_t = round_up(before, BLOCK_BYTES)  # 4 MiB blocks that the region enters
    if first < r.blocks.mapped:
        count: uint64_t = (r.blocks.mapped - first + BLOCK_BYTES - 1) >> BLOCK_SHIFT
        space_own(r.base + first, count, owner_word(p.config.heap, LAYER_PRIMARY, r.index))
    return 0


def region_grow_metadata(p: cython.pointer[Primary], r: cython.pointer[Region], need: uint64_t) -> cython.int:
    if need <= r.metadata.mapped:
        return 0
    end: uint64_t = round_up(need, MAP_STEP)
    error: cython.int = space_commit(r.metadata_end - end, end - r.metadata.mapped)
    if error:
        return error
    add64_relaxed(cython.address(p.metadata), end - r.metadata.mapped)
    r.metadata.mapped = end
    return 0


def region_make(p: cython.pointer[Primary], r: cython.pointer[Region], n: uint64_t) -> cython.int:
    """Make n more blocks, with room for each in the free array and in the budget, or none.

    `refused` becomes the errno if it is the OS that refuses.
    """
    count: uint64_t = r.made + n
    other: cython.pointer[uint64_t] = cython.address(p.metadata)
    pages: uint64_t = (count * r.size + HUGE_STEP) // p.page_size  # purged bits reach to the end of the last huge page
    r.refused = (
        grown_to(p, cython.address(r.array), count * 4, MAP_STEP, other)
        or grown_to(p, cython.address(r.state_bytes), r.states_shift + count, MAP_STEP, other)
        or grown_to(p, cython.address(r.purged_bits), pages // 8 + 8, MAP_STEP, other)
        or region_grow_metadata(p, r, count * p.config.metadata_size)
        or region_grow_blocks(p, r, count * r.size)
    )
    if r.refused:
        return r.refused
    if not region_charge(p, r, count):
        return ENOMEM
    store64_release(cython.address(r.made), count)
    return 0


def region_charge(p: cython.pointer[Primary], r: cython.pointer[Region], count: uint64_t) -> cython.bint:
    """Take what `count` blocks may make resident from the budget; False, and nothing, if that is over the limit."""
    unit: uint64_t = HUGE_STEP if r.huge else p.page_size
    charged: uint64_t = most(r.charged, least(round_up(count * r.size, unit), r.blocks.mapped))
    if not region_charge_books(p, r, count):
        return False
    if not budget_take(p.budget, charged - r.charged):
        return False
    r.charged = charged
    return True


def region_charge_books(p: cython.pointer[Primary], r: cython.pointer[Region], count: uint64_t) -> cython.bint:
    books: uint64_t = most(r.books, region_books(p, r, count))
    if not budget_take_books(p.budget, books - r.books):
        return False
    r.books = books
    return True


def region_books(p: cython.pointer[Primary], r: cython.pointer[Region], count: uint64_t) -> uint64_t:
    """What the books of so many blocks may make resident: those that are parked have no entry in the array."""
    bits: uint64_t = count * r.size // p.page_size // 8 + 8
    return (
        round_up((count - r.parked) * 4, p.page_size)
        + round_up(r.states_shift + count, p.page_size)
        + round_up(bits, p.page_size)
        + round_up(count * p.config.metadata_size, p.page_size)
    )


# ---- batches ----


def primary_take(
    r: cython.pointer[Region], p: cython.pointer[Primary], into: cython.pointer[uint32_t], n: uint64_t
) -> uint64_t:
    """Take up to n blocks: free ones first, then new ones. The caller hands them out from the end of `into`."""
    pause: uint32_t = 0
    while True:
        mutex_lock(cython.address(r.lock))
        got: uint64_t = primary_take_locked(r, p, into, n)
        settled: cython.bint = r.bottom == 0
        region_unlock(r)
        if got or settled:
            return got
        futex_wait(
            cython.address(pause), 0, 50_000
        )  # the free ones are being sorted: nobody wakes this, it is a short sleep


def primary_take_locked(
    r: cython.pointer[Region], p: cython.pointer[Primary], into: cython.pointer[uint32_t], n: uint64_t
) -> uint64_t:
    if load64_relaxed(cython.address(r.deferred)):
        region_collect_deferred(r)
    if r.top == 0 and r.parked:
        region_unpark(p, r, n, UNPARK_LOOKS)
    wanted: uint64_t = least(n, r.top - r.bottom)
    states: cython.pointer[uint8_t] = r.states  # a byte may alias anything: what is constant is read once
    top: cython.pointer[uint32_t] = r.free + r.top
    got: uint64_t = 0
    raced: cython.bint = False
    while got < wanted:  # the array's top goes out first: it becomes the end of `into`
        number: uint32_t = (top - got - 1)[0]
        raced = load8_relaxed(states + number) != BLOCK_FREE  # it was here twice
        if cython.unlikely(raced):
            r.raced = number + 1
            break
        if r.purged_pages and not region_unpurge(p, r, number, 1):
            break
        got += 1
        into[wanted - got] = number
        store8_relaxed(states + number, BLOCK_CACHED)
    r.top -= got + raced
    if got < wanted:
        memmove(into, into + (wanted - got), got * 4)
    idle_fell(cython.address(r.idle), region_idle_blocks(r))
    if got == 0 and p.config.shuffle:
        got = region_take_shuffled(p, r, into, n)
    if got == 0:
        got = region_take_fresh(p, r, into, n)
    if got == 0 and n > 1:
        got = region_take_fresh(p, r, into, 1)
    if got == 0 and r.top == 0 and region_unpark(p, r, n, r.made):
        got = primary_take_locked(r, p, into, n)
    return got


def region_unlock(r: cython.pointer[Region]) -> cython.void:
    """Let go of the lock, and tell of a block that was found in the array twice.

    Two threads freed it at one time, and one saw it live while the other gave it back already: both were believed.
    """
    raced: uint64_t = r.raced
    r.raced = 0
    mutex_unlock(cython.address(r.lock))
    if cython.unlikely(raced != 0):
        fault_bad_free(FREE_DOUBLE, r.base + (raced - 1) * r.size, r.size)


def region_take_fresh(
    p: cython.pointer[Primary], r: cython.pointer[Region], into: cython.pointer[uint32_t], n: uint64_t
) -> uint64_t:
    first: uint64_t = r.made
    if first + n > r.capacity:
        return 0
    if r.purged_pages and not region_unpurge(p, r, first, n):  # the end of the last page made may be given back
        return 0
    if region_make(p, r, n) != 0:
        return 0
    i: uint64_t = 0
    while i < n:  # descending, so that the caller hands out ascending addresses
        into[n - 1 - i] = cython.cast(uint32_t, first + i)
        store8_relaxed(cython.address(r.states[first + i]), BLOCK_CACHED)
        i += 1
    return n


def region_take_shuffled(
    p: cython.pointer[Primary], r: cython.pointer[Region], into: cython.pointer[uint32_t], n: uint64_t
) -> uint64_t:
    """Make many blocks, put them into the free array in an order that is hard to predict, and take n from there."""
    first: uint64_t = r.made
    count: uint64_t = least(region_batch(r, n), r.capacity - first)
    if count == 0 or (r.purged_pages and not region_unpurge(p, r, first, count)) or region_make(p, r, count) != 0:
        return 0
    i: uint64_t = 0
    while i < count:
        r.free[r.top + i] = cython.cast(uint32_t, first + i)
        store8_relaxed(cython.address(r.states[first + i]), BLOCK_FREE)
        i += 1
    region_shuffle(p, cython.address(r.free[r.top]), count)
    r.top += count
    return primary_take_locked(r, p, into, n)


def region_batch(r: cython.pointer[Region], n: uint64_t) -> uint64_t:
    """How many blocks go into the array where n are needed of it."""
    return most(n, most(SHUFFLED_BLOCKS, MAP_STEP // r.size))


def region_unpark(p: cython.pointer[Primary], r: cython.pointer[Region], n: uint64_t, looks: uint64_t) -> cython.bint:
    """Put parked blocks into the array, which is empty: so each block in the state free is one.

    False if none is found among so many states, or if the budget has no room for their entries.
    """
    wanted: uint64_t = least(r.parked, region_batch(r, n))
    r.parked -= wanted
    if wanted == 0 or not region_charge_books(p, r, r.made):
        r.parked += wanted
        return False
    end: uint64_t = least(r.made, r.cursor + looks)
    found: uint64_t = region_find_parked(r, end, wanted)
    r.parked += wanted - found
    if r.cursor == r.made:  # then that was all; what is missing was freed by two threads at once, and is in a cache
        r.parked = 0
    if p.config.shuffle:
        region_shuffle(p, r.free, found)
    r.top = found
    return found > 0


def region_find_parked(r: cython.pointer[Region], end: uint64_t, wanted: uint64_t) -> uint64_t:
    """Write the numbers of free blocks from the cursor on to the array, the lowest on top; how many."""
    found: uint64_t = 0
    i: uint64_t = r.cursor
    while i < end and found < wanted:
        eight: cython.bint = i % 8 == 0 and end - i >= 8 and not TSAN
        if eight and not states_hold_free(load64_relaxed(cython.cast(cython.pointer[uint64_t], r.states + i))):
            i += 8
            continue
        if load8_relaxed(cython.address(r.states[i])) == BLOCK_FREE:
            found += 1
            r.free[wanted - found] = cython.cast(uint32_t, i)
        i += 1
    r.cursor = i
    if found < wanted:
        memmove(r.free, r.free + (wanted - found), found * 4)
    return found


def region_shuffle(p: cython.pointer[Primary], numbers: cython.pointer[uint32_t], n: uint64_t) -> cython.void:
    """Fisher and Yates, with a generator of Vigna's: neighbours are not predictable from one another."""
    while n > 1:
        x: uint64_t = add64_relaxed(cython.address(p.random), cython.cast(uint64_t, 0x9E3779B97F4A7C15))
        x = (x ^ (x >> 30)) * cython.cast(uint64_t, 0xBF58476D1CE4E5B9)
        x = (x ^ (x >> 27)) * cython.cast(uint64_t, 0x94D049BB133111EB)
        j: uint64_t = mul_high(x ^ (x >> 31), n)
        n -= 1
        swap: uint32_t = numbers[n]
        numbers[n] = numbers[j]
        numbers[j] = swap


def primary_give(
    r: cython.pointer[Region], numbers: cython.pointer[uint32_t], n: uint64_t, aged: cython.bint
) -> uint64_t:
    """Put cached blocks into the free array: there is room for every block ever made, so this never fails.

    Blocks that are not in the state they must be in were freed twice by two threads at once: they are left out, and
    returned, as how many of the first numbers they are now.
    """
    mutex_lock(cython.address(r.lock))
    twice: uint64_t = primary_give_locked(r, numbers, n, aged)
    mutex_unlock(cython.address(r.lock))
    return twice


def primary_give_locked(
    r: cython.pointer[Region], numbers: cython.pointer[uint32_t], n: uint64_t, aged: cython.bint
) -> uint64_t:
    twice: uint64_t = 0
    top: cython.pointer[uint32_t] = r.free + r.top
    states: cython.pointer[uint8_t] = r.states  # a byte may alias anything: what is constant is read once
    given: uint64_t = 0
    i: uint64_t = 0
    while i < n:
        number: uint32_t = numbers[i]
        if load8_relaxed(states + number) == BLOCK_CACHED:
            store8_relaxed(states + number, BLOCK_FREE)
            top[given] = number
            given += 1
        else:
            numbers[twice] = number
            twice += 1
        i += 1
    r.top += given
    r.freed_bytes += given * r.size
    if aged:
        idle_add(cython.address(r.idle), given)
    return twice


def region_unpurge(p: cython.pointer[Primary], r: cython.pointer[Region], number: uint64_t, n: uint64_t) -> cython.bint:
    """The pages of n blocks will be resident again: with all of a huge page, where the kernel is advised so.

    False, and nothing, where the budget has no room for them.
    """
    start: uint64_t = number * r.size
    end: uint64_t = start + n * r.size
    if r.huge and r.advised:
        start = round_down(start, HUGE_STEP)
        end = round_up(end, HUGE_STEP)
    first: uint64_t = start // p.page_size
    last: uint64_t = (least(end, r.charged) + p.page_size - 1) // p.page_size
    purged: uint64_t = bits_count(r.purged, first, last - first) if last > first else 0
    if purged == 0:
        return True
    if not budget_take(p.budget, purged * p.page_size):
        return False
    r.purged_pages -= purged
    bits_clear(r.purged, first, last - first)
    return True


def region_collect_deferred(r: cython.pointer[Region]) -> cython.void:
    """Put into the array what was freed where no lock could be taken. Rare: looking at all states is good enough."""
    sub64_relaxed(cython.address(r.deferred), region_adopt(r, BLOCK_DEFERRED))


def region_adopt(r: cython.pointer[Region], state: uint8_t) -> uint64_t:
    """Put all blocks in a state that belongs to nobody any more into the array; how many."""
    each: uint64_t = cython.cast(uint64_t, 0x0101010101010101)
    found: uint64_t = 0
    i: uint64_t = r.made
    while i > 0:
        if i % 8 == 0 and not TSAN:  # eight at once
            word: uint64_t = load64_relaxed(cython.cast(cython.pointer[uint64_t], r.states + i - 8))
            if word == each * BLOCK_LIVE or word == each * BLOCK_FREE:
                i -= 8
                continue
        i -= 1
        if load8_relaxed(cython.address(r.states[i])) == state:
            store8_relaxed(cython.address(r.states[i]), BLOCK_FREE)
            r.free[r.top] = cython.cast(uint32_t, i)
            r.top += 1
            found += 1
    r.freed_bytes += found * r.size
    return found


# ---- what an address means: no lock ----


def primary_region_of(p: cython.pointer[Primary], address: uint64_t) -> cython.pointer[Region]:
    offset: uint64_t = address - p.base
    if offset >= p.span:
        return cython.NULL
    return cython.address(p.region[offset >> p.config.region_bits])


def primary_block_start(p: cython.pointer[Primary], address: uint64_t) -> uint64_t:
    r: cython.pointer[Region] = primary_region_of(p, address)
    if r == cython.NULL:
        return 0
    number: uint64_t = mul_high(address - r.base, r.multiplier)
    if number >= load64_acquire(cython.address(r.made)):
        return 0
    return r.base + number * r.size


def primary_usable_size(p: cython.pointer[Primary], address: uint64_t) -> uint64_t:
    start: uint64_t = primary_block_start(p, address)
    return primary_region_of(p, address).size if start else 0


def primary_metadata(p: cython.pointer[Primary], address: uint64_t) -> uint64_t:
    start: uint64_t = primary_block_start(p, address)
    if start == 0 or p.config.metadata_size == 0:
        return 0
    r: cython.pointer[Region] = primary_region_of(p, address)
    number: uint64_t = mul_high(address - r.base, r.multiplier)
    return r.metadata_end - (number + 1) * p.config.metadata_size


def primary_judge(p: cython.pointer[Primary], address: uint64_t, size_class: cython.pointer[uint64_t]) -> cython.int:
    r: cython.pointer[Region] = primary_region_of(p, address)
    size_class[0] = 0
    if r == cython.NULL:
        return FREE_FOREIGN
    size_class[0] = r.size
    number: uint64_t = mul_high(address - r.base, r.multiplier)
    if number >= load64_acquire(cython.address(r.made)):
        return FREE_NEVER
    if address != r.base + number * r.size:
        return FREE_INTERIOR
    state: uint8_t = load8_relaxed(cython.address(r.states[number]))
    return FREE_OK if state == BLOCK_LIVE or state == BLOCK_SAMPLED else FREE_DOUBLE


def primary_state(p: cython.pointer[Primary], address: uint64_t) -> cython.pointer[uint8_t]:
    r: cython.pointer[Region] = primary_region_of(p, address)
    return r.states + mul_high(address - r.base, r.multiplier)


def primary_retract(p: cython.pointer[Primary], address: uint64_t) -> uint8_t:
    state: cython.pointer[uint8_t] = primary_state(p, address)
    was: uint8_t = load8_relaxed(state)
    while was == BLOCK_LIVE or was == BLOCK_SAMPLED:
        if swap8_if(state, cython.address(was), BLOCK_CACHED):
            return was
    return BLOCK_NEW


def primary_is_sampled(p: cython.pointer[Primary], address: uint64_t) -> cython.bint:
    return load8_relaxed(primary_state(p, address)) == BLOCK_SAMPLED


def primary_sample(p: cython.pointer[Primary], address: uint64_t) -> cython.void:
    store8_relaxed(primary_state(p, address), BLOCK_SAMPLED)


def primary_defer(p: cython.pointer[Primary], address: uint64_t) -> cython.void:
    r: cython.pointer[Region] = primary_region_of(p, address)
    number: uint64_t = mul_high(address - r.base, r.multiplier)
    store8_relaxed(cython.address(r.states[number]), BLOCK_DEFERRED)
    add64_relaxed(cython.address(r.deferred), 1)


# ---- runs of states ----


def states_hold_free(eight: uint64_t) -> cython.bint:
    """Whether one of eight states is free: they become zero bytes, and borrow."""
    each: uint64_t = cython.cast(uint64_t, 0x0101010101010101)
    x: uint64_t = eight ^ (each * BLOCK_FREE)
    return (x - each) & ~x & (each << 7) != 0


def states_next(r: cython.pointer[Region], i: uint64_t, end: uint64_t, free: cython.bint) -> uint64_t:
    """Going down from block i: the largest j <= i for which block j - 1 is (not) free; `end` if there is none."""
    each: uint64_t = cython.cast(uint64_t, 0x0101010101010101)
    while i > end:
        if i % 8 == 0 and i - end >= 8 and not TSAN:  # eight states at once
            word: uint64_t = load64_relaxed(cython.cast(cython.pointer[uint64_t], r.states + i - 8))
            none: cython.bint = not states_hold_free(word) if free else word == each * BLOCK_FREE
            if none:
                i -= 8
                continue
        if (load8_relaxed(cython.address(r.states[i - 1])) == BLOCK_FREE) == free:
            return i
        i -= 1
    return end


def primary_is_exhausted(p: cython.pointer[Primary], index: uint32_t) -> cython.bint:
    return load32_relaxed(cython.address(p.region[index].is_exhausted)) != 0


def primary_refused(p: cython.pointer[Primary], index: uint32_t) -> cython.int:
    r: cython.pointer[Region] = cython.address(p.region[index])
    mutex_lock(cython.address(r.lock))
    error: cython.int = r.refused
    mutex_unlock(cython.address(r.lock))
    return error


# ---- fork, and proof ----


def primary_lock_all(p: cython.pointer[Primary]) -> cython.void:
    i: uint32_t = 0
    while i < p.classes:
        mutex_lock_unseen(cython.address(p.region[i].lock))
        i += 1


def primary_unlock_all(p: cython.pointer[Primary]) -> cython.void:
    i: uint32_t = p.classes
    while i > 0:
        i -= 1
        mutex_unlock_unseen(cython.address(p.region[i].lock))


def primary_reset(p: cython.pointer[Primary], adopt: cython.bint) -> cython.void:
    """In a forked child: the states tell what is free, whatever a thread that is gone was in the middle of."""
    i: uint32_t = p.classes
    while i > 0:
        i -= 1
        r: cython.pointer[Region] = cython.address(p.region[i])
        if r.bottom:  # a sort: its half of the array is as it left it
            region_park_all(r)
        if adopt:
            region_adopt(r, BLOCK_CACHED)
        mutex_reset(cython.address(r.lock))


def region_park_all(r: cython.pointer[Region]) -> cython.void:
    """Believe nothing but the states."""
    r.bottom = 0
    r.top = 0
    r.cursor = 0
    r.parked = states_count_free(r, r.made)


def states_count_free(r: cython.pointer[Region], end: uint64_t) -> uint64_t:
    free: uint64_t = 0
    k: uint64_t = 0
    while k < end:
        free += load8_relaxed(cython.address(r.states[k])) == BLOCK_FREE
        k += 1
    return free


def region_idle_blocks(r: cython.pointer[Region]) -> uint64_t:
    return r.top - r.bottom + r.parked


def primary_law(broken: cython.int) -> cython.p_const_char:
    if broken == LAW_BELOW_MADE:
        return b"a number in the free array is below made"
    if broken == LAW_FREE:
        return b"a number in the free array has the state free"
    if broken == LAW_FREE_COUNT:
        return b"as many blocks have the state free as the free array holds and as are parked"
    if broken == LAW_MAPPED:
        return b"blocks, states and free array are mapped as far as blocks are made"
    if broken == LAW_PURGED_COUNT:
        return b"purged pages are counted"
    if broken == LAW_PURGED:
        return b"a purged page holds no part of a block that is not free"
    if broken == LAW_CHARGED:
        return b"the budget counts the pages of all blocks made, and no purged one"
    if broken == LAW_PARKED:
        return b"no block below the cursor is parked"
    if broken == LAW_CACHED:
        return b"a number in a cache has the state cached"
    if broken == LAW_CACHED_COUNT:
        return b"as many blocks have the state cached as the caches hold"
    return b"sound"


def primary_check(
    p: cython.pointer[Primary], index: cython.pointer[uint32_t], number: cython.pointer[uint64_t]
) -> cython.int:
    broken: cython.int = 0
    i: uint32_t = 0
    while i < p.classes and not broken:
        r: cython.pointer[Region] = cython.address(p.region[i])
        index[0] = i
        mutex_lock(cython.address(r.lock))
        if r.bottom == 0:
            broken = region_check(p, r, number)
        mutex_unlock(cython.address(r.lock))
        i += 1
    return broken


def region_check(p: cython.pointer[Primary], r: cython.pointer[Region], number: cython.pointer[uint64_t]) -> cython.int:
    below: uint64_t = 0  # entries of blocks below the cursor
    k: uint64_t = 0
    while k < r.top:
        number[0] = r.free[k]
        if r.free[k] >= r.made:
            return LAW_BELOW_MADE
        if load8_relaxed(cython.address(r.states[r.free[k]])) != BLOCK_FREE:
            return LAW_FREE
        below += r.free[k] < r.cursor
        k += 1
    number[0] = states_count_free(r, r.made)
    if number[0] != r.top + r.parked:
        return LAW_FREE_COUNT
    number[0] = r.cursor
    if r.cursor > r.made or below != states_count_free(r, r.cursor):
        return LAW_PARKED
    if r.made == 0:
        return 0
    if (
        r.made * r.size > r.blocks.mapped
        or r.made + r.states_shift > r.state_bytes.mapped
        or r.made * 4 > r.array.mapped
    ):
        return LAW_MAPPED
    number[0] = r.charged
    if r.charged < r.made * r.size or r.charged > r.blocks.mapped or r.purged_pages * p.page_size > r.charged:
        return LAW_CHARGED
    pages: uint64_t = least(r.purged_bits.mapped * 8, r.blocks.mapped // p.page_size)
    if bits_count(r.purged, 0, pages) != r.purged_pages:
        return LAW_PURGED_COUNT
    page: uint64_t = bits_next_set(r.purged, 0, pages)
    while page < pages:
        number[0] = page
        bottom: uint64_t = page * p.page_size // r.size
        top: uint64_t = least(((page + 1) * p.page_size + r.size - 1) // r.size, r.made)
        if top > bottom and states_next(r, top, bottom, False) != bottom:
            return LAW_PURGED
        page = bits_next_set(r.purged, page + 1, pages)
    return 0
