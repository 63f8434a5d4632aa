"""Giving back the pages of free small blocks, and what keeps a region's free array in good order afterwards.

Thread-safety: free runs are looked for without a lock, and looked at again under the region's, slice by slice.
Invariant: a page is purged only while every block that touches it is BLOCK_FREE, decided and done in one hold of the
lock.
Does not know when to give back: reclaim's tick and the layer's callers say.
Follows: the page release of LLVM's SizeClassAllocator64, with block states in the place of its packed counters.
"""

import cython
from cython.cimports.freehold.core.bits import (
    bits_clear,
    bits_count,
    bits_get,
    bits_next_clear,
    bits_next_set,
    bits_set,
)
from cython.cimports.freehold.core.budget import budget_give, budget_give_books
from cython.cimports.freehold.core.fault import FREE_DOUBLE, fault_bad_free
from cython.cimports.freehold.core.idle import idle_tick
from cython.cimports.freehold.core.machine import (
    NOWHERE,
    clz,
    least,
    load8_relaxed,
    load64_relaxed,
    most,
    round_down,
    round_up,
    should,
    store64_release,
)
from cython.cimports.freehold.core.primary import (
    BLOCK_FREE,
    FORGET_LEAST,
    HUGE_STEP,
    MAP_STEP,
    PURGE_SLICE,
    SETTLE_SLICE,
    SORT_LEAVES,
    Grown,
    Primary,
    Region,
    region_books,
    region_collect_deferred,
    region_idle_blocks,
    region_unlock,
    states_next,
)
from cython.cimports.freehold.core.release import Sorting
from cython.cimports.freehold.core.sync import fork_pass, mutex_lock, mutex_unlock
from cython.cimports.freehold.core.vm import vm_advise_huge, vm_advise_no_huge, vm_map, vm_purge_now, vm_unmap_metadata
from cython.cimports.libc.stdint import uint32_t, uint64_t


def region_free_run(
    r: cython.pointer[Region], end: uint64_t, least_blocks: uint64_t, first: cython.pointer[uint64_t]
) -> uint64_t:
    """The highest run of at least `least_blocks` free blocks below `end`: [first, result); 0 if there is none."""
    while end > 0:
        last: uint64_t = states_next(r, end, 0, True)
        if last == 0:
            return 0
        end = states_next(r, last, 0, False)
        if last - end >= least_blocks:
            first[0] = end
            return last
    return 0


def primary_release_due(p: cython.pointer[Primary], index: uint32_t, now_ns: uint64_t) -> cython.bint:
    r: cython.pointer[Region] = cython.address(p.region[index])
    mutex_lock(cython.address(r.lock))
    due: cython.bint = r.releases == 0 or now_ns - r.released_at >= p.config.release_interval_ns
    mutex_unlock(cython.address(r.lock))
    return due


def primary_release(p: cython.pointer[Primary], index: uint32_t, now_ns: uint64_t, budget: uint64_t) -> uint64_t:
    """Give back pages whose blocks are all free, highest addresses first, until `budget` bytes are given back.

    Free runs are looked for without the lock; each is looked at again, and purged, in slices under it.
    """
    r: cython.pointer[Region] = cython.address(p.region[index])
    mutex_lock(cython.address(r.lock))
    if load64_relaxed(cython.address(r.deferred)):
        region_collect_deferred(r)
    worth: cython.bint = r.freed_bytes >= p.page_size
    if worth:
        r.freed_bytes = 0
    end: uint64_t = r.made
    mutex_unlock(cython.address(r.lock))
    if not worth:
        return 0
    least_blocks: uint64_t = most(1, p.page_size // r.size)
    given_back: uint64_t = 0
    first: uint64_t = 0
    while given_back < budget:
        last: uint64_t = region_free_run(r, end, least_blocks, cython.address(first))
        if last == 0:
            break
        given_back += region_purge_run(p, r, first, last, budget - given_back)
        end = first
    mutex_lock(cython.address(r.lock))
    if given_back >= budget:
        r.freed_bytes += p.page_size  # there may be more
    r.releases += 1
    r.released_at = now_ns
    r.released_bytes += given_back
    r.last_released_bytes = given_back
    mutex_unlock(cython.address(r.lock))
    if given_back:
        region_sort(p, r)
    return given_back


def region_purge_run(
    p: cython.pointer[Primary], r: cython.pointer[Region], first: uint64_t, last: uint64_t, budget: uint64_t
) -> uint64_t:
    """Purge the whole pages of free blocks first … last - 1, downwards, in slices; pages taken meanwhile are left.

    A slice is at most 1 MiB, or one huge page, which is given back as quickly as a small one while it is whole.
    """
    given_back: uint64_t = 0
    lowest: uint64_t = round_up(first * r.size, p.page_size) // p.page_size
    end: uint64_t = last * r.size // p.page_size
    mutex_lock(cython.address(r.lock))
    if last == r.made:  # the unused end of its last page belongs to nobody
        end = least(round_up(last * r.size, HUGE_STEP if r.huge else p.page_size), r.charged) // p.page_size
    mutex_unlock(cython.address(r.lock))
    while end > lowest and given_back < budget:
        mutex_lock(cython.address(r.lock))
        end = least(end, r.charged // p.page_size)  # another releaser may have had the region forget blocks
        if end <= lowest:
            mutex_unlock(cython.address(r.lock))
            break
        low: uint64_t = most(lowest, end - least(end, PURGE_SLICE // p.page_size))
        if r.huge:
            low = most(lowest, round_down(end - 1, HUGE_STEP // p.page_size))
        bottom: uint64_t = low * p.page_size // r.size  # the blocks that touch these pages
        top: uint64_t = least((end * p.page_size + r.size - 1) // r.size, r.made)
        used: uint64_t = states_next(r, top, bottom, False) if top > bottom else bottom
        safe: uint64_t = low if used == bottom else round_up(used * r.size, p.page_size) // p.page_size
        if safe < end:
            given_back += region_purge_slice(p, r, safe, end)
        mutex_unlock(cython.address(r.lock))
        fork_pass()
        end = low if used == bottom else (used - 1) * r.size // p.page_size
    return given_back


def region_purge_slice(
    p: cython.pointer[Primary], r: cython.pointer[Region], page: uint64_t, end: uint64_t
) -> uint64_t:
    """Purge those pages of [page, end) that are not purged yet. Under the lock; the OS may refuse, then they stay."""
    given_back: uint64_t = 0
    while page < end:
        page = bits_next_clear(r.purged, page, end)
        stop: uint64_t = bits_next_set(r.purged, page, end)
        if page == stop:
            break
        bytes: uint64_t = (stop - page) * p.page_size
        if vm_purge_now(r.base + page * p.page_size, bytes) == 0:
            bits_set(r.purged, page, stop - page)
            r.purged_pages += stop - page
            given_back += bytes
            budget_give(p.budget, bytes)
        else:
            r.freed_bytes += bytes  # the next release tries again
        page = stop
    if given_back and r.huge:
        region_advise(p, r)
    return given_back


def region_advise(p: cython.pointer[Primary], r: cython.pointer[Region]) -> cython.void:
    """Keep the kernel from joining pages we gave back into huge ones again, until all of the region is given back."""
    touched: uint64_t = least(round_up(r.made * r.size, HUGE_STEP), r.blocks.mapped) // p.page_size
    all_purged: cython.bint = r.purged_pages >= touched
    if r.advised and not all_purged:
        vm_advise_no_huge(r.base, r.blocks.mapped)
        r.advised = False
        r.advice_taken_back = True
    elif r.advice_taken_back and all_purged:
        vm_advise_huge(r.base, r.blocks.mapped)
        r.advised = True
        r.advice_taken_back = False


# ---- order: after a release resident blocks go out before purged ones, low addresses before high ----


def region_sort(p: cython.pointer[Primary], r: cython.pointer[Region]) -> cython.void:
    """Sort the free array, but for its newest entries, and park the blocks on purged pages, without holding the lock.

    The entries below ``bottom`` are the sorter's alone; the rest goes on being used above them. They are spread into a
    bitmap and read out again, low addresses on top. What is parked has no entry any more: its state says enough.
    """
    s = cython.declare(Sorting)
    mutex_lock(cython.address(r.lock))
    s.aside = r.top - SORT_LEAVES if r.top > SORT_LEAVES else r.top
    if r.bottom:  # somebody sorts already
        s.aside = 0
    s.made = r.made
    if s.aside > 0:
        r.bottom = s.aside
        if r.parked == 0:
            r.cursor = r.made
    mutex_unlock(cython.address(r.lock))
    if s.aside == 0:
        return
    s.at = s.aside
    s.parked = 0
    s.kept = 0
    s.cut = NOWHERE
    room: uint64_t = round_up((s.made + 63) // 64 * 8, MAP_STEP)
    present: uint64_t = 0
    mapped: cython.bint = vm_map(room, cython.address(present)) == 0
    s.present = cython.cast(cython.pointer[uint64_t], present) if mapped else cython.NULL
    if mapped:
        region_sort_aside(p, r, cython.address(s))
    owed: cython.bint = region_settle(p, r, cython.address(s))
    if mapped:
        vm_unmap_metadata(present, room)
    if owed:
        region_purge_books(p, r)


def sorting_saw(s: cython.pointer[Sorting], number: uint64_t) -> cython.bint:
    """Whether a number was seen before: it is in the array twice, see region_unlock. It has been now."""
    if s.present == cython.NULL or number >= s.made:
        return False
    seen: cython.bint = bits_get(s.present, number)
    bits_set(s.present, number, 1)
    return seen


def region_sort_aside(p: cython.pointer[Primary], r: cython.pointer[Region], s: cython.pointer[Sorting]) -> cython.void:
    i: uint64_t = 0
    raced: uint64_t = 0
    while i < s.aside:
        if cython.unlikely(sorting_saw(s, r.free[i])):
            fault_bad_free(FREE_DOUBLE, r.base + r.free[i] * r.size, r.size)
            raced += 1
        i += 1
    s.at = 0
    region_emit(p, r, s)
    should(s.at + s.parked + raced == s.aside, b"sorting keeps every free block")
    if p.config.forgets:
        s.cut = states_next(r, s.made, 0, False)


def region_emit(p: cython.pointer[Primary], r: cython.pointer[Region], s: cython.pointer[Sorting]) -> cython.void:
    """Write the numbers that are present to the array, descending; but park those of blocks on purged pages.

    Which pages are purged is read under the lock, for 4,096 blocks at a time.
    """
    word: uint64_t = (s.made + 63) // 64
    while word > 0:
        until: uint64_t = word - least(word, 64)
        mutex_lock(cython.address(r.lock))
        while word > until:
            word -= 1
            left: uint64_t = s.present[word]
            while left:
                top_bit: cython.int = 63 - clz(left)
                left ^= cython.cast(uint64_t, 1) << top_bit
                number: uint64_t = word * 64 + top_bit
                region_keep(p, r, s, number)
        mutex_unlock(cython.address(r.lock))


def region_keep(
    p: cython.pointer[Primary], r: cython.pointer[Region], s: cython.pointer[Sorting], number: uint64_t
) -> cython.void:
    """Write a number to the array, or park its block. Under the lock."""
    if region_may_park(p, r, number):
        s.parked += 1
        r.cursor = least(r.cursor, number)
    else:
        r.free[s.at] = cython.cast(uint32_t, number)
        s.at += 1
        s.kept = most(s.kept, number + 1)


def region_may_park(p: cython.pointer[Primary], r: cython.pointer[Region], number: uint64_t) -> cython.bint:
    """Whether the page that a block begins or ends on is purged. One that two threads freed at once may not be free."""
    first: uint64_t = number * r.size
    return (
        bits_get(r.purged, first // p.page_size) or bits_get(r.purged, (first + r.size - 1) // p.page_size)
    ) and load8_relaxed(cython.address(r.states[number])) == BLOCK_FREE


def region_settle(p: cython.pointer[Primary], r: cython.pointer[Region], s: cython.pointer[Sorting]) -> cython.bint:
    """The entries from ``at`` to ``aside`` are none any more: those above move down, or are parked, a slice at a time.

    After the last all are free to use. True if some of the books are owed to the budget.
    """
    settled: cython.bint = False
    owed: cython.bint = False
    while not settled:
        mutex_lock(cython.address(r.lock))
        i: uint64_t = least(r.top - s.aside, SETTLE_SLICE)
        while i > 0 and r.raced == 0:
            number: uint64_t = r.free[s.aside]
            if cython.unlikely(sorting_saw(s, number)):
                r.raced = number + 1
            else:
                region_keep(p, r, s, number)
            s.aside += 1
            i -= 1
        settled = s.aside == r.top
        r.bottom = 0 if settled else s.aside
        if settled:
            r.top = s.at
            r.parked += s.parked
            region_forget(p, r, most(s.cut, s.kept))
            owed = region_owe(p, r)
        region_unlock(r)
    return owed


def region_forget(p: cython.pointer[Primary], r: cython.pointer[Region], cut: uint64_t) -> cython.void:
    """Make the blocks from `cut` on blocks that were never made, if all are parked and their pages given back.

    Else a program that once held a hundred million blocks would keep a byte for each. None of them is in the array, and
    that the pages which they touch are purged proves that each is free. Under the lock.
    """
    if cut > r.made:
        return
    first: uint64_t = round_up(cut * r.size, p.page_size) // p.page_size
    end: uint64_t = r.charged // p.page_size
    cut = first * p.page_size // r.size
    if cut + FORGET_LEAST > r.made or bits_next_clear(r.purged, first, end) < end:
        return
    r.parked -= least(r.parked, r.made - cut)
    r.cursor = least(r.cursor, cut)
    store64_release(cython.address(r.made), cut)
    r.purged_pages -= bits_count(r.purged, first, end - first)
    bits_clear(r.purged, first, end - first)
    r.charged = first * p.page_size


def region_owe(p: cython.pointer[Primary], r: cython.pointer[Region]) -> cython.bint:
    """What the books need no more is owed to the budget from now on, until it is purged. Under the lock."""
    books: uint64_t = region_books(p, r, r.made)
    if books >= r.books:
        return False
    r.books_owed += r.books - books
    r.books = books
    return True


def region_purge_books(p: cython.pointer[Primary], r: cython.pointer[Region]) -> cython.void:
    region_purge_beyond(p, r, cython.address(r.array), 0, 4, False)
    region_purge_beyond(p, r, cython.address(r.state_bytes), r.states_shift, 1, True)
    region_purge_bits(p, r)
    mutex_lock(cython.address(r.lock))
    budget_give_books(p.budget, r.books_owed)
    r.books_owed = 0
    mutex_unlock(cython.address(r.lock))


def region_purge_beyond(
    p: cython.pointer[Primary],
    r: cython.pointer[Region],
    g: cython.pointer[Grown],
    used: uint64_t,
    unit: uint64_t,
    states: cython.bint,
) -> cython.void:
    """Give back what the free array, or the states, do not use of their memory; from the top, in slices."""
    end: uint64_t = NOWHERE
    more: cython.bint = True
    while more:
        mutex_lock(cython.address(r.lock))
        count: uint64_t = r.made if states else r.top
        start: uint64_t = round_up(used + count * unit, p.page_size)
        end = least(end, g.mapped)
        more = end > start
        if more:
            low: uint64_t = most(start, end - least(end, PURGE_SLICE))
            vm_purge_now(g.start + low, end - low)
            end = low
        mutex_unlock(cython.address(r.lock))


def region_purge_bits(p: cython.pointer[Primary], r: cython.pointer[Region]) -> cython.void:
    """Give back the bits of pages beyond those that the budget counts: they are clear."""
    mutex_lock(cython.address(r.lock))
    start: uint64_t = round_up(r.charged // p.page_size // 8 + 8, p.page_size)
    if start < r.purged_bits.mapped:
        vm_purge_now(r.purged_bits.start + start, r.purged_bits.mapped - start)
    mutex_unlock(cython.address(r.lock))


def primary_tick(p: cython.pointer[Primary], now_ns: uint64_t, busy: cython.pointer[cython.bint]) -> uint64_t:
    """A window of the decay time ends: give back, in each class, as much as was idle all through it."""
    given_back: uint64_t = 0
    i: uint32_t = 0
    while i < p.classes:
        r: cython.pointer[Region] = cython.address(p.region[i])
        mutex_lock(cython.address(r.lock))
        free: uint64_t = region_idle_blocks(r)
        idle: uint64_t = idle_tick(cython.address(r.idle), free) * r.size
        all_idle: cython.bint = idle == free * r.size
        idle -= least(idle, r.purged_pages * p.page_size)  # of what was idle, so much is given back already
        pending: cython.bint = r.freed_bytes >= p.page_size
        mutex_unlock(cython.address(r.lock))
        if pending:
            if all_idle or idle >= p.page_size:
                # All of it idle: no budget, the unused ends of pages go too.
                given_back += primary_release(p, i, now_ns, NOWHERE if all_idle else idle)
            mutex_lock(cython.address(r.lock))
            busy[0] = busy[0] or (r.freed_bytes >= p.page_size and free * r.size >= p.page_size)
            mutex_unlock(cython.address(r.lock))
        i += 1
    return given_back
