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
    load64_relaxed,
    mask,
    memmove,
    most,
    round_down,
    round_up,
    should,
    store64_release,
)
from cython.cimports.freehold.core.primary import (
    FORGET_ENTRIES,
    FORGET_LEAST,
    HUGE_STEP,
    MAP_STEP,
    PURGE_SLICE,
    SORT_LEAVES,
    Grown,
    Primary,
    Region,
    region_books,
    region_collect_deferred,
    states_next,
)
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
    """Sort the free array, but for its newest entries, without holding the lock.

    The entries below ``bottom`` are the sorter's alone; the rest goes on being used above them. They are spread into a
    bitmap and read out again: purged blocks to the bottom of the stack, resident ones above, each with low addresses on
    top.
    """
    mutex_lock(cython.address(r.lock))
    aside: uint64_t = r.top - SORT_LEAVES if r.top > SORT_LEAVES else r.top
    if r.bottom:  # somebody sorts already
        aside = 0
    made: uint64_t = r.made
    if aside > 0:
        r.bottom = aside
    mutex_unlock(cython.address(r.lock))
    room: uint64_t = round_up((made + 63) // 64 * 8, MAP_STEP)
    present: uint64_t = 0
    forgot: cython.bint = False
    if aside and vm_map(room, cython.address(present)) == 0:
        forgot = region_sort_aside(p, r, cython.cast(cython.pointer[uint64_t], present), aside, made)
        vm_unmap_metadata(present, room)
    if forgot:  # `bottom` may be another sorter's by now
        region_purge_beyond(p, r, cython.address(r.array), 0, 4, False)
        region_purge_beyond(p, r, cython.address(r.state_bytes), r.states_shift, 1, True)
        region_purge_bits(p, r)
        mutex_lock(cython.address(r.lock))
        budget_give_books(p.budget, r.books_owed)
        r.books_owed = 0
        mutex_unlock(cython.address(r.lock))
    elif aside:
        mutex_lock(cython.address(r.lock))
        r.bottom = 0
        mutex_unlock(cython.address(r.lock))


def region_sort_aside(
    p: cython.pointer[Primary],
    r: cython.pointer[Region],
    present: cython.pointer[uint64_t],
    aside: uint64_t,
    made: uint64_t,
) -> cython.bint:
    """Sort the entries below `aside`; True if that ended in some being gone, and in giving the entries free."""
    i: uint64_t = 0
    raced: uint64_t = 0
    while i < aside:
        if cython.unlikely(bits_get(present, r.free[i])):  # see region_unlock
            fault_bad_free(FREE_DOUBLE, r.base + r.free[i] * r.size, r.size)
            raced += 1
        bits_set(present, r.free[i], 1)
        i += 1
    cut: uint64_t = made
    if p.config.forgets:  # the blocks from `cut` on seem to be free: to be looked at again under the lock
        cut = states_next(r, made, 0, False)
        if made - cut < FORGET_LEAST:
            cut = made
    kept: uint64_t = region_emit(p, r, present, cut, True, 0)
    kept = region_emit(p, r, present, cut, False, kept)
    at: uint64_t = region_emit(p, r, present, made, False, kept)
    should(at + raced == aside, b"sorting keeps every free block")
    if raced:
        region_close_gap(r, at, aside)
        return True
    return cut < made and region_forget(p, r, cut, made, aside, kept)


def region_close_gap(r: cython.pointer[Region], at: uint64_t, aside: uint64_t) -> cython.void:
    """The entries from `at` to `aside` are none any more; give those below free."""
    mutex_lock(cython.address(r.lock))
    memmove(r.free + at, r.free + aside, (r.top - aside) * 4)
    r.top -= aside - at
    r.bottom = 0
    mutex_unlock(cython.address(r.lock))


def region_forget(
    p: cython.pointer[Primary],
    r: cython.pointer[Region],
    cut: uint64_t,
    made: uint64_t,
    aside: uint64_t,
    kept: uint64_t,
) -> cython.bint:
    """Make the blocks from `cut` on blocks that were never made, if all are free and their pages given back.

    Else a program that once held a hundred million blocks would keep five bytes for each. Their entries are those from
    `kept` to `aside`, and some above.
    """
    mutex_lock(cython.address(r.lock))
    first: uint64_t = round_up(cut * r.size, p.page_size) // p.page_size
    end: uint64_t = most(first, r.charged // p.page_size)
    above: uint64_t = 0
    i: uint64_t = aside
    while i < r.top and r.top - aside <= FORGET_ENTRIES:
        above += r.free[i] >= cut
        i += 1
    agreed: cython.bint = (
        r.made == made and aside - kept + above == made - cut and bits_next_clear(r.purged, first, end) >= end
    )
    if agreed:
        i = aside
        while i < r.top:  # those above that stay move down
            if r.free[i] < cut:
                r.free[kept] = r.free[i]
                kept += 1
            i += 1
        r.top = kept
        r.bottom = 0
        store64_release(cython.address(r.made), cut)
        r.purged_pages -= bits_count(r.purged, first, end - first)
        bits_clear(r.purged, first, end - first)
        r.charged = least(r.charged, first * p.page_size)
        owed: uint64_t = region_books(p, r, made) - region_books(p, r, cut)
        r.books_owed += owed
        r.books -= owed
    mutex_unlock(cython.address(r.lock))
    return agreed


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


def region_emit(
    p: cython.pointer[Primary],
    r: cython.pointer[Region],
    present: cython.pointer[uint64_t],
    made: uint64_t,
    only_purged: cython.bint,
    at: uint64_t,
) -> uint64_t:
    """Move numbers below `made` that are present (with their first page purged) to the array, descending, from `at`.

    Which pages are purged is read under the lock, for 4,096 blocks at a time.
    """
    word: uint64_t = (made + 63) // 64
    while word > 0:
        until: uint64_t = word - least(word, 64)
        mutex_lock(cython.address(r.lock))
        while word > until:
            word -= 1
            left: uint64_t = present[word]
            if word * 64 + 64 > made:
                left &= mask(cython.cast(cython.uint, made - word * 64))
            while left:
                top_bit: cython.int = 63 - clz(left)
                left ^= cython.cast(uint64_t, 1) << top_bit
                number: uint64_t = word * 64 + top_bit
                if not only_purged or bits_get(r.purged, number * r.size // p.page_size):
                    present[word] ^= cython.cast(uint64_t, 1) << top_bit
                    r.free[at] = cython.cast(uint32_t, number)
                    at += 1
        mutex_unlock(cython.address(r.lock))
    return at


def primary_tick(p: cython.pointer[Primary], now_ns: uint64_t, busy: cython.pointer[cython.bint]) -> uint64_t:
    """A window of the decay time ends: give back, in each class, as much as was idle all through it."""
    given_back: uint64_t = 0
    i: uint32_t = 0
    while i < p.classes:
        r: cython.pointer[Region] = cython.address(p.region[i])
        mutex_lock(cython.address(r.lock))
        free: uint64_t = r.top - r.bottom
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
