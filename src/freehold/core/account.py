"""What heaps hold, by jemalloc's names, and the proof that it adds up.

Thread-safety: any thread, any time; each layer's figures are read under its locks, one layer after the other.
Invariants: ``mapped = active + dirty + muzzy + retained``, ``used = active + dirty + metadata``.
Does not count anything itself: the layers do, the thread caches do, the budget does.
Follows: jemalloc's statistics, where the sums are part of the interface.
"""

import cython
from cython.cimports.freehold.core.account import (
    ACCOUNT_LAW_BOOKS,
    ACCOUNT_LAW_POOLS,
    ACCOUNT_LAW_USED,
    HeapStats,
)
from cython.cimports.freehold.core.bin import Cache
from cython.cimports.freehold.core.budget import (
    budget_books,
    budget_limit,
    budget_refusals,
    budget_settle,
    budget_used,
)
from cython.cimports.freehold.core.cache import cache_go_in, cache_go_out
from cython.cimports.freehold.core.caches import ClassCounts, cache_books, cache_read_class
from cython.cimports.freehold.core.emap import EXTENT_SHIFT
from cython.cimports.freehold.core.extentbook import EXTENT_BOOKS, extents_lock, extents_unlock
from cython.cimports.freehold.core.extentview import ExtentStats, extents_read_stats
from cython.cimports.freehold.core.fault import FAULTS, FREE_DOUBLE, fault_count
from cython.cimports.freehold.core.home import Heap, home_extents, home_large
from cython.cimports.freehold.core.large import LARGE_POOLS, large_books, large_check, large_read_stats
from cython.cimports.freehold.core.machine import futex_wait, least, load64_relaxed, memset
from cython.cimports.freehold.core.pool import PoolFinding, PoolStats
from cython.cimports.freehold.core.primary import primary_check, primary_counted
from cython.cimports.freehold.core.reclaim import reclaim_ticks
from cython.cimports.freehold.core.space import space_table_bytes
from cython.cimports.freehold.core.sync import mutex_lock, mutex_unlock
from cython.cimports.freehold.core.vm import (
    VM_CALLS,
    VM_PURGE_LAZY,
    VM_PURGE_NOW,
    VmCall,
    vm_metadata_bytes,
    vm_read_stats,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t


def account_read(h: cython.pointer[Heap], into: cython.pointer[HeapStats]) -> cython.void:
    memset(into, 0, cython.sizeof(HeapStats))
    account_add_small(h, into)
    if home_extents(h) != cython.NULL:
        account_add_extents(h, into)
    if home_large(h) != cython.NULL:
        account_add_large(h, into)
    account_add_spans(h, into)
    account_take_held(h, into)
    into.metadata = budget_books(cython.address(h.budget))
    into.mapped = into.active + into.dirty + into.muzzy + into.retained
    into.deallocations = into.allocations - into.blocks
    into.used = budget_used(cython.address(h.budget))
    into.peak = load64_relaxed(cython.address(h.budget.most))
    into.limit = budget_limit(cython.address(h.budget))
    into.refused = budget_refusals(cython.address(h.budget))


def account_add(sum: cython.pointer[HeapStats], one: cython.pointer[cython.const[HeapStats]]) -> cython.void:
    """Add up what adds up."""
    sum.allocated += one.allocated
    sum.active += one.active
    sum.dirty += one.dirty
    sum.muzzy += one.muzzy
    sum.retained += one.retained
    sum.metadata += one.metadata
    sum.mapped += one.mapped
    sum.cached += one.cached
    sum.blocks += one.blocks
    sum.allocations += one.allocations
    sum.deallocations += one.deallocations
    sum.total += one.total
    sum.exhausted += one.exhausted
    sum.used += one.used
    sum.refused += one.refused


def account_add_process(sum: cython.pointer[HeapStats]) -> cython.void:
    call = cython.declare(VmCall)
    i: cython.int = 0
    while i < VM_CALLS:
        vm_read_stats(i, cython.address(call))
        sum.os_failures += call.failures
        if i == VM_PURGE_NOW or i == VM_PURGE_LAZY:
            sum.purged += call.bytes
            sum.purge_calls += call.calls
        i += 1
    i = FREE_DOUBLE
    while i < FAULTS:
        sum.bad_frees += fault_count(i)
        i += 1
    sum.ticks = reclaim_ticks()
    sum.metadata += vm_metadata_bytes() - space_table_bytes()


# ---- layer by layer ----


def account_add_small(h: cython.pointer[Heap], s: cython.pointer[HeapStats]) -> cython.void:
    """The small blocks: each class's counts are read together, classes one after the other."""
    inside: cython.pointer[Cache] = cache_go_in(h.primary)  # a signal handler must not wait for the locks held here
    i: uint32_t = 0
    while i < h.primary.classes:
        account_add_class(h, i, s)
        i += 1
    cache_go_out(inside)


def account_add_class(h: cython.pointer[Heap], index: uint32_t, s: cython.pointer[HeapStats]) -> cython.void:
    counts = cython.declare(ClassCounts)
    size: uint64_t = h.primary.region[index].size
    cache_read_class(h.primary, index, cython.address(counts))
    made: uint64_t = counts.made * size
    live: uint64_t = counts.live * size
    resident: uint64_t = counts.charged_bytes - counts.purged_bytes
    dirty: uint64_t = least(resident, made - live - least(counts.purged_bytes, made - live)) if live else resident
    s.allocated += live
    s.blocks += counts.live
    s.allocations += counts.allocations
    s.total += counts.allocations * size
    s.exhausted += load64_relaxed(cython.address(h.primary.region[index].exhausted))
    s.cached += counts.cached * size
    s.dirty += dirty
    s.active += resident - dirty
    s.retained += counts.mapped_bytes - resident


def account_add_extents(h: cython.pointer[Heap], s: cython.pointer[HeapStats]) -> cython.void:
    counts = cython.declare(ExtentStats)
    extents_read_stats(h.extents, cython.address(counts))
    s.allocated += counts.active_pages << EXTENT_SHIFT
    s.active += counts.active_pages << EXTENT_SHIFT
    s.dirty += counts.dirty_pages << EXTENT_SHIFT
    s.muzzy += counts.muzzy_pages << EXTENT_SHIFT
    s.retained += counts.retained_pages << EXTENT_SHIFT
    s.blocks += counts.active
    s.allocations += counts.allocations
    s.total += counts.allocated_pages << EXTENT_SHIFT


def account_add_large(h: cython.pointer[Heap], s: cython.pointer[HeapStats]) -> cython.void:
    i: uint32_t = 0
    while i < LARGE_POOLS:
        account_add_pool(h, i, s)
        i += 1


def account_add_pool(h: cython.pointer[Heap], index: uint32_t, s: cython.pointer[HeapStats]) -> cython.void:
    counts = cython.declare(PoolStats)
    large_read_stats(h.large, index, cython.address(counts))
    dirty: uint64_t = counts.touched_bytes + counts.tail_bytes
    s.allocated += counts.live * counts.size
    s.active += counts.counted_bytes - dirty
    s.dirty += dirty
    s.retained += counts.area_total_bytes - counts.counted_bytes
    s.blocks += counts.live
    s.allocations += counts.allocations
    s.total += counts.allocations * counts.size


def account_add_spans(h: cython.pointer[Heap], s: cython.pointer[HeapStats]) -> cython.void:
    bytes: uint64_t = load64_relaxed(cython.address(h.spans.live_bytes))
    s.allocated += bytes
    s.active += bytes
    s.blocks += load64_relaxed(cython.address(h.spans.live))
    s.allocations += load64_relaxed(cython.address(h.spans.allocations))
    s.total += load64_relaxed(cython.address(h.spans.allocated_bytes))


def account_take_held(h: cython.pointer[Heap], s: cython.pointer[HeapStats]) -> cython.void:
    """What a secure heap holds back is no caller's any more."""
    if not h.config.secure:
        return
    mutex_lock(cython.address(h.lock))
    s.allocated -= least(s.allocated, h.held.bytes)
    s.dirty += least(s.active, h.held.bytes)
    s.active -= least(s.active, h.held.bytes)
    s.blocks -= least(s.blocks, h.held.blocks)
    mutex_unlock(cython.address(h.lock))


def account_live(h: cython.pointer[Heap], bytes: cython.pointer[uint64_t]) -> uint64_t:
    s = cython.declare(HeapStats)
    account_read(h, cython.address(s))
    bytes[0] = s.allocated
    return s.blocks


# ---- the proof ----


def account_check(h: cython.pointer[Heap]) -> cython.int:
    inside: cython.pointer[Cache] = cache_go_in(h.primary)  # as in account_add_small
    broken: cython.int = account_check_layers(h)
    unbalanced: cython.int = 0 if broken else account_check_budget(h)
    pause: uint32_t = 0
    tries: cython.int = 200
    while unbalanced and tries > 0:  # the reclaim thread may be between a layer's figure and the budget's
        futex_wait(cython.address(pause), 0, 1_000_000)  # nobody wakes this
        unbalanced = account_check_budget(h)
        tries -= 1
    cache_go_out(inside)
    return broken if broken else unbalanced


def account_check_layers(h: cython.pointer[Heap]) -> cython.int:
    index: uint32_t = 0
    number: uint64_t = 0
    broken: cython.int = primary_check(h.primary, cython.address(index), cython.address(number))
    if broken:
        return broken
    finding = cython.declare(PoolFinding)
    if home_large(h) != cython.NULL:
        broken = large_check(h.large, cython.address(finding))
    return ACCOUNT_LAW_POOLS + broken if broken else 0


def account_check_budget(h: cython.pointer[Heap]) -> cython.int:
    s = cython.declare(HeapStats)
    account_read(h, cython.address(s))
    counted: uint64_t = 0
    books: uint64_t = account_books(h, cython.address(counted))
    if books != s.metadata:
        return ACCOUNT_LAW_BOOKS
    held: uint64_t = s.active + s.dirty + s.muzzy
    return 0 if s.used == held + books and held >= counted else ACCOUNT_LAW_USED


def account_books(h: cython.pointer[Heap], counted: cython.pointer[uint64_t]) -> uint64_t:
    """What the layers say they keep for themselves; and what the primary counts of its blocks."""
    books: uint64_t = 0
    counted[0] = primary_counted(h.primary, cython.address(books))
    books += cache_books(h.primary)
    mutex_lock(cython.address(h.lock))
    books += h.base_books
    mutex_unlock(cython.address(h.lock))
    if home_extents(h) != cython.NULL:
        extents_lock(h.extents)
        books += h.extents.map.chunks * EXTENT_BOOKS
        extents_unlock(h.extents)
    if home_large(h) != cython.NULL:
        books += large_books(h.large)
    return books


def account_settle(h: cython.pointer[Heap]) -> cython.void:
    """In a forked child: a thread that is gone may have taken from the budget what no layer has noted yet."""
    s = cython.declare(HeapStats)
    account_read(h, cython.address(s))
    counted: uint64_t = 0
    books: uint64_t = account_books(h, cython.address(counted))
    budget_settle(cython.address(h.budget), s.active + s.dirty + s.muzzy + books, books)
