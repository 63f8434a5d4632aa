"""Several 4 MiB blocks of the arenas for one request: beyond the largest class, or aligned beyond any.

Thread-safety: the first block's owner word says that a span is live; taking that word away is one atomic step, so of
two threads that free a span one is told that it was free already.
Does not keep anything: a span is rare, and its first touch costs more than mapping it.
Follows: every allocator's path of last resort.
"""

import cython
from cython.cimports.freehold.core.arena import arenas_give, arenas_take
from cython.cimports.freehold.core.arenabook import ArenaFailure
from cython.cimports.freehold.core.fault import FREE_DOUBLE, FREE_INTERIOR, FREE_OK
from cython.cimports.freehold.core.machine import add64_relaxed, load64_relaxed, most, sub64_relaxed
from cython.cimports.freehold.core.space import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    LAYER_HUGE,
    owner_note,
    owner_word,
    space_disown,
    space_own,
    space_owner,
)
from cython.cimports.freehold.core.span import SpanStats
from cython.cimports.freehold.core.vm import vm_advise_huge
from cython.cimports.libc.stdint import uint64_t

span_counts = cython.declare(SpanStats)


def span_allocate(heap: uint64_t, size: uint64_t, align: uint64_t, huge_pages: cython.bint) -> uint64_t:
    blocks: uint64_t = most(1, (size + BLOCK_BYTES - 1) >> BLOCK_SHIFT)
    why = cython.declare(ArenaFailure)
    address: uint64_t = arenas_take(blocks << BLOCK_SHIFT, align, cython.address(why))
    if address == 0:
        return 0
    if huge_pages:
        vm_advise_huge(address, blocks << BLOCK_SHIFT)
    space_own(address + BLOCK_BYTES, blocks - 1, owner_word(heap, LAYER_HUGE, 0))
    space_own(address, 1, owner_word(heap, LAYER_HUGE, blocks))  # the first block knows how many there are
    add64_relaxed(cython.address(span_counts.live), 1)
    add64_relaxed(cython.address(span_counts.live_bytes), blocks << BLOCK_SHIFT)
    add64_relaxed(cython.address(span_counts.allocations), 1)
    return address


def span_deallocate(address: uint64_t, owner: uint64_t) -> cython.int:
    blocks: uint64_t = owner_note(owner)
    if blocks == 0 or address & (BLOCK_BYTES - 1):
        return FREE_INTERIOR
    if space_disown(address, 1, owner) != 0:
        return FREE_DOUBLE
    space_own(address + BLOCK_BYTES, blocks - 1, 0)
    sub64_relaxed(cython.address(span_counts.live), 1)
    sub64_relaxed(cython.address(span_counts.live_bytes), blocks << BLOCK_SHIFT)
    arenas_give(address, blocks << BLOCK_SHIFT)
    return FREE_OK


def span_size(address: uint64_t) -> uint64_t:
    return 0 if address & (BLOCK_BYTES - 1) else owner_note(space_owner(address)) << BLOCK_SHIFT


def span_read_stats(into: cython.pointer[SpanStats]) -> cython.void:
    into.live = load64_relaxed(cython.address(span_counts.live))
    into.live_bytes = load64_relaxed(cython.address(span_counts.live_bytes))
    into.allocations = load64_relaxed(cython.address(span_counts.allocations))
