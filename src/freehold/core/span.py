"""Whole 4 MiB blocks of the arenas for one request: beyond the largest class, aligned beyond any, or guarded.

Thread-safety: the first block's owner word says that a span is live; taking that word away is one atomic step, so of
two threads that free a span one is told that it was free already.
Invariant: the first block's note is the accessible OS pages, times two, plus one for a guard: at least one page behind
them that is not accessible.
Does not keep anything: a span is rare, and its first touch costs more than mapping it.
Follows: every allocator's path of last resort.
"""

import cython
from cython.cimports.freehold.core.arena import arenas_give, arenas_take
from cython.cimports.freehold.core.arenabook import ArenaFailure
from cython.cimports.freehold.core.budget import budget_give, budget_take
from cython.cimports.freehold.core.fault import FREE_DOUBLE, FREE_INTERIOR, FREE_OK
from cython.cimports.freehold.core.machine import add64_relaxed, load64_relaxed, most, round_up, sub64_relaxed
from cython.cimports.freehold.core.space import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    LAYER_HUGE,
    owner_heap,
    owner_layer,
    owner_note,
    owner_word,
    space_base,
    space_decommit,
    space_disown,
    space_own,
    space_owner,
    space_size,
)
from cython.cimports.freehold.core.span import SPAN_GUARDS, SpanHome
from cython.cimports.freehold.core.vm import vm_advise_huge, vm_bind, vm_facts
from cython.cimports.libc.stdint import uint64_t


def span_blocks(note: uint64_t) -> uint64_t:
    """How many blocks of the space a span takes whose note this is."""
    pages: uint64_t = (note >> 1) + (note & 1)
    return (pages * vm_facts().page_size + BLOCK_BYTES - 1) >> BLOCK_SHIFT


def span_bytes(note: uint64_t) -> uint64_t:
    return (note >> 1) * vm_facts().page_size


def span_allocate(h: cython.pointer[SpanHome], size: uint64_t, align: uint64_t, guard: cython.bint) -> uint64_t:
    guarded: cython.bint = guard and load64_relaxed(cython.address(h.guarded)) < SPAN_GUARDS
    unit: uint64_t = most(vm_facts().page_size, vm_facts().huge_page_size if h.huge_pages and not guarded else 0)
    bytes: uint64_t = round_up(most(size, 1), unit)
    note: uint64_t = bytes // vm_facts().page_size * 2 + guarded
    blocks: uint64_t = span_blocks(note)
    if not budget_take(h.budget, bytes):
        return 0
    address: uint64_t = span_take(blocks << BLOCK_SHIFT, align, bytes if guarded else blocks << BLOCK_SHIFT)
    if address == 0:
        budget_give(h.budget, bytes)
        return 0
    if h.huge_pages and not guarded:
        vm_advise_huge(address, bytes)
    if h.node >= 0:
        vm_bind(address, bytes, h.node)
    space_own(address + BLOCK_BYTES, blocks - 1, owner_word(h.heap, LAYER_HUGE, 0))
    space_own(address, 1, owner_word(h.heap, LAYER_HUGE, note))  # the first block knows how much there is
    add64_relaxed(cython.address(h.live), 1)
    add64_relaxed(cython.address(h.live_bytes), bytes)
    add64_relaxed(cython.address(h.guarded), guarded)
    add64_relaxed(cython.address(h.allocations), 1)
    add64_relaxed(cython.address(h.allocated_bytes), bytes)
    return address


def span_take(size: uint64_t, align: uint64_t, bytes: uint64_t) -> uint64_t:
    """Whole blocks, of which what lies beyond `bytes` can not be touched."""
    why = cython.declare(ArenaFailure)
    address: uint64_t = arenas_take(size, align, cython.address(why))
    if address and bytes < size and space_decommit(address + bytes, size - bytes) != 0:
        arenas_give(address, size)
        return 0
    return address


def span_deallocate(h: cython.pointer[SpanHome], address: uint64_t, owner: uint64_t) -> cython.int:
    note: uint64_t = owner_note(owner)
    if note == 0 or address & (BLOCK_BYTES - 1):
        return FREE_INTERIOR
    if space_disown(address, 1, owner) != 0:
        return FREE_DOUBLE
    space_own(address + BLOCK_BYTES, span_blocks(note) - 1, 0)
    sub64_relaxed(cython.address(h.live), 1)
    sub64_relaxed(cython.address(h.live_bytes), span_bytes(note))
    sub64_relaxed(cython.address(h.guarded), note & 1)
    arenas_give(address, span_blocks(note) << BLOCK_SHIFT)
    budget_give(h.budget, span_bytes(note))
    return FREE_OK


def span_size(address: uint64_t) -> uint64_t:
    return 0 if address & (BLOCK_BYTES - 1) else span_bytes(owner_note(space_owner(address)))


def span_next(h: cython.pointer[SpanHome], after: uint64_t) -> uint64_t:
    address: uint64_t = after + BLOCK_BYTES if after else space_base()
    if load64_relaxed(cython.address(h.live)) == 0:
        return 0
    while address - space_base() < space_size():
        owner: uint64_t = space_owner(address)
        if owner_layer(owner) == LAYER_HUGE and owner_heap(owner) == h.heap and owner_note(owner):
            return address
        address += BLOCK_BYTES
    return 0
