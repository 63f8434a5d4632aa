"""What a host's allocator hooks call: CPython's domains, routed between the heap and whoever was there before.

Thread-safety: any thread, with or without the GIL, before and after the interpreter's life. What is kept of those
before is written once, before a hook is seen by anybody.
Invariants: hooks are permanent. `hooks_switch` says where *new* blocks come from; where a block goes back to and is
resized, its address says.
Does not read a hook's ``ctx``: CPython copies {ctx, functions} in several stores while other threads call, so a
function may be handed the ctx of another. Each domain has functions of its own instead.
Follows: NumPy's handler (numpy_handler.py), and the routers of tracing tools; the ways are as short as the heap's own.
"""

import cython
from cython.cimports.freehold.core.bin import DIRECT_LIMIT, cache_allocate, cache_deallocate, cache_room
from cython.cimports.freehold.core.heap import (
    heap_allocate_as,
    heap_allocate_zeroed_as,
    heap_deallocate,
    heap_deallocate_slow,
    heap_owns,
    heap_reallocate_as,
    set_errno,
)
from cython.cimports.freehold.core.hooks import (
    DOMAIN_MEM,
    DOMAIN_OBJ,
    DOMAIN_RAW,
    DOMAINS,
    Allocator,
    ArenaAllocator,
)
from cython.cimports.freehold.core.machine import ENOMEM, load64_relaxed, store64_relaxed
from cython.cimports.freehold.core.sampling import SOURCE_OBJ, SOURCE_RAW
from cython.cimports.libc.stdint import uint64_t

the_before = cython.declare(Allocator[DOMAINS])  # constant once a domain's hooks are seen
the_arenas_before = cython.declare(ArenaAllocator)  # likewise
the_hit_limit = cython.declare(uint64_t)  # new blocks up to here come from the cache; 0: none from the heap; atomic
the_arenas_are_ours = cython.declare(uint64_t)  # 1: new ones are; atomic


def hooks_switch(on: cython.bint) -> cython.void:
    store64_relaxed(cython.address(the_hit_limit), DIRECT_LIMIT if on else 0)


def hooks_switch_arenas(on: cython.bint) -> cython.void:
    store64_relaxed(cython.address(the_arenas_are_ours), 1 if on else 0)


# ---- for all domains, inlined into the hooks of each ----


def hooks_malloc(domain: cython.uint, size: cython.size_t) -> cython.p_void:
    p: cython.p_void
    # One comparison tells whether new blocks are ours and whether the cache may serve this one; 0 takes the slow way.
    if cython.likely(
        size - 1 < load64_relaxed(cython.address(the_hit_limit)) and cache_allocate((size + 15) >> 4, cython.address(p))
    ):
        return p
    return hooks_malloc_slow(domain, size)


def hooks_malloc_slow(domain: cython.uint, size: cython.size_t) -> cython.p_void:
    if load64_relaxed(cython.address(the_hit_limit)):
        return heap_allocate_as(size, 16, SOURCE_RAW + domain)
    return the_before[domain].malloc(the_before[domain].ctx, size)


def hooks_calloc(domain: cython.uint, count: cython.size_t, size: cython.size_t) -> cython.p_void:
    if not load64_relaxed(cython.address(the_hit_limit)):
        return the_before[domain].calloc(the_before[domain].ctx, count, size)
    if cython.unlikely(size != 0 and count > ~cython.cast(cython.size_t, 0) // size):
        set_errno(ENOMEM)
        return cython.NULL
    return heap_allocate_zeroed_as(count * size, 16, SOURCE_RAW + domain)


def hooks_realloc(domain: cython.uint, p: cython.p_void, size: cython.size_t) -> cython.p_void:
    """Stay where half of the room or more is used; else move, as heap_reallocate does."""
    if p == cython.NULL:
        return hooks_malloc(domain, size)
    room: cython.size_t = cache_room(p)
    if cython.likely(size <= room and size >= room // 2 and room != 0):
        return p
    if room != 0 or heap_owns(p):
        return heap_reallocate_as(p, size + (size == 0), 16, SOURCE_RAW + domain)
    return the_before[domain].realloc(the_before[domain].ctx, p, size)


def hooks_free(domain: cython.uint, p: cython.p_void) -> cython.void:
    if cython.unlikely(not cache_deallocate(p)):
        hooks_free_slow(domain, p)


def hooks_free_slow(domain: cython.uint, p: cython.p_void) -> cython.void:
    if heap_owns(p):
        heap_deallocate_slow(p)
    else:
        the_before[domain].free(the_before[domain].ctx, p)


# ---- the hooks ----


def hook_raw_malloc(ctx: cython.p_void, size: cython.size_t) -> cython.p_void:
    return hooks_malloc(DOMAIN_RAW, size)


def hook_raw_calloc(ctx: cython.p_void, count: cython.size_t, size: cython.size_t) -> cython.p_void:
    return hooks_calloc(DOMAIN_RAW, count, size)


def hook_raw_realloc(ctx: cython.p_void, p: cython.p_void, size: cython.size_t) -> cython.p_void:
    return hooks_realloc(DOMAIN_RAW, p, size)


def hook_raw_free(ctx: cython.p_void, p: cython.p_void) -> cython.void:
    hooks_free(DOMAIN_RAW, p)


def hook_mem_malloc(ctx: cython.p_void, size: cython.size_t) -> cython.p_void:
    return hooks_malloc(DOMAIN_MEM, size)


def hook_mem_calloc(ctx: cython.p_void, count: cython.size_t, size: cython.size_t) -> cython.p_void:
    return hooks_calloc(DOMAIN_MEM, count, size)


def hook_mem_realloc(ctx: cython.p_void, p: cython.p_void, size: cython.size_t) -> cython.p_void:
    return hooks_realloc(DOMAIN_MEM, p, size)


def hook_mem_free(ctx: cython.p_void, p: cython.p_void) -> cython.void:
    hooks_free(DOMAIN_MEM, p)


def hook_obj_malloc(ctx: cython.p_void, size: cython.size_t) -> cython.p_void:
    return hooks_malloc(DOMAIN_OBJ, size)


def hook_obj_calloc(ctx: cython.p_void, count: cython.size_t, size: cython.size_t) -> cython.p_void:
    return hooks_calloc(DOMAIN_OBJ, count, size)


def hook_obj_realloc(ctx: cython.p_void, p: cython.p_void, size: cython.size_t) -> cython.p_void:
    return hooks_realloc(DOMAIN_OBJ, p, size)


def hook_obj_free(ctx: cython.p_void, p: cython.p_void) -> cython.void:
    hooks_free(DOMAIN_OBJ, p)


def hook_arena_malloc(ctx: cython.p_void, size: cython.size_t) -> cython.p_void:
    if load64_relaxed(cython.address(the_arenas_are_ours)):
        return heap_allocate_as(size, 16, SOURCE_OBJ)
    return the_arenas_before.malloc(the_arenas_before.ctx, size)


def hook_arena_free(ctx: cython.p_void, p: cython.p_void, size: cython.size_t) -> cython.void:
    if heap_owns(p):
        heap_deallocate(p)
    else:
        the_arenas_before.free(the_arenas_before.ctx, p, size)


# ---- putting them in ----


def hooks_wrap(
    domain: cython.uint, before: cython.pointer[cython.const[Allocator]], hooks: cython.pointer[Allocator]
) -> cython.void:
    the_before[domain] = before[0]
    hooks.ctx = before.ctx
    if domain == DOMAIN_RAW:
        hooks.malloc, hooks.calloc = hook_raw_malloc, hook_raw_calloc
        hooks.realloc, hooks.free = hook_raw_realloc, hook_raw_free
    elif domain == DOMAIN_MEM:
        hooks.malloc, hooks.calloc = hook_mem_malloc, hook_mem_calloc
        hooks.realloc, hooks.free = hook_mem_realloc, hook_mem_free
    else:
        hooks.malloc, hooks.calloc = hook_obj_malloc, hook_obj_calloc
        hooks.realloc, hooks.free = hook_obj_realloc, hook_obj_free


def hooks_wrap_arenas(
    before: cython.pointer[cython.const[ArenaAllocator]], hooks: cython.pointer[ArenaAllocator]
) -> cython.void:
    global the_arenas_before
    the_arenas_before = before[0]
    hooks.ctx = before.ctx
    hooks.malloc, hooks.free = hook_arena_malloc, hook_arena_free
