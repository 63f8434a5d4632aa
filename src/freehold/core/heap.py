"""One heap over all layers: which layer serves a size, accounting, and the C functions that everyone calls.

Thread-safety: everything may be called from any thread at any time, with or without the GIL, also across fork.
Invariants: what an address is, `space_owner` tells; ``mapped = active + dirty + muzzy + retained``.
Does not keep a header or list of its own: each layer finds its blocks from their addresses.
Before a request is refused, everything idle is given back and it is tried once more.
"""

import cython
from cython.cimports.freehold.core.cache import (
    DIRECT_LIMIT,
    ClassCounts,
    cache_adopt,
    cache_allocate,
    cache_allocate_class,
    cache_allocate_from,
    cache_boot,
    cache_deallocate,
    cache_deallocate_to,
    cache_drain,
    cache_drain_idle,
    cache_fork_lock,
    cache_fork_reset,
    cache_fork_unlock,
    cache_on_activity,
    cache_on_thread_end,
    cache_read_class,
    cache_thread_ended,
    cache_watch_thread,
)
from cython.cimports.freehold.core.fault import (
    FAULTS,
    FREE_DOUBLE,
    FREE_FOREIGN,
    FREE_OK,
    USED_FREED,
    fault_bad_free,
    fault_boot,
    fault_count,
)
from cython.cimports.freehold.core.heap import (
    HEAP_ID,
    WORTH_A_THREAD,
    WORTH_A_THREAD_IDLE,
    HeapStats,
    at_fork,
    large_here,
    large_set_here,
    set_errno,
)
from cython.cimports.freehold.core.idle import IDLE_WINDOWS
from cython.cimports.freehold.core.large import (
    LARGE_BAD_ALIGN,
    LARGE_POOLS,
    Large,
    LargeConfig,
    LargeRequest,
    LargeThread,
    large_allocate,
    large_deallocate,
    large_dirty_bytes,
    large_lock_all,
    large_maintain,
    large_note_time,
    large_open,
    large_read_stats,
    large_reset,
    large_resize_in_place,
    large_thread_end,
    large_thread_open,
    large_unlock_all,
    large_usable_size,
)
from cython.cimports.freehold.core.machine import (
    EINVAL,
    ENOMEM,
    NOWHERE,
    futex_wait,
    futex_wake,
    least,
    load32_acquire,
    load64_relaxed,
    memcpy,
    memset,
    most,
    now_ns,
    round_up,
    store32_release,
    swap32_if,
)
from cython.cimports.freehold.core.pool import POOL_CLEAN, POOL_KEPT, POOL_USED, Pool, PoolStats
from cython.cimports.freehold.core.primary import (
    Primary,
    PrimaryConfig,
    primary_check,
    primary_judge,
    primary_open,
)
from cython.cimports.freehold.core.reclaim import (
    reclaim_boot,
    reclaim_fork_lock,
    reclaim_fork_reset,
    reclaim_fork_unlock,
    reclaim_poke,
    reclaim_ticks,
)
from cython.cimports.freehold.core.release import primary_release, primary_tick
from cython.cimports.freehold.core.runs import (
    RUN_PAGE_BYTES,
    RUN_PAGE_SHIFT,
    Runs,
    runs_allocate,
    runs_deallocate,
    runs_lock,
    runs_open,
    runs_purge,
    runs_reset,
    runs_resize,
    runs_tick,
    runs_unlock,
    runs_usable_size,
)
from cython.cimports.freehold.core.sizes import sizes_boot, sizes_default, sizes_index
from cython.cimports.freehold.core.space import (
    BLOCK_SHIFT,
    LAYER_HUGE,
    LAYER_LARGE,
    LAYER_NONE,
    LAYER_PAGES,
    LAYER_PRIMARY,
    owner_layer,
    space_boot,
    space_lock,
    space_owner,
    space_reset,
    space_size,
    space_table_bytes,
    space_unlock,
)
from cython.cimports.freehold.core.span import (
    SpanStats,
    span_allocate,
    span_deallocate,
    span_read_stats,
    span_size,
)
from cython.cimports.freehold.core.sync import mutex_lock, mutex_unlock
from cython.cimports.freehold.core.vm import (
    VM_CALLS,
    VM_PURGE_LAZY,
    VM_PURGE_NOW,
    VmCall,
    vm_boot,
    vm_metadata_bytes,
    vm_read_stats,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

heap_state = cython.declare(uint32_t)  # 0 not booted, 1 booting, 2 booted; atomic
heap_decay_ns = cython.declare(uint64_t)  # 0: the default; constant after boot
heap_small_pages = cython.declare(cython.bint)  # huge pages are not wanted; constant after boot
the_primary = cython.declare(cython.pointer[Primary])  # constant after boot
the_small_limit = cython.declare(uint64_t)  # bytes; constant after boot
the_runs = cython.declare(cython.pointer[Runs])  # constant after boot
the_large = cython.declare(cython.pointer[Large])  # constant after boot

# ---- boot ----


def heap_configure(decay_ns: uint64_t, huge_pages: cython.bint) -> cython.void:
    global heap_decay_ns, heap_small_pages
    heap_decay_ns = decay_ns
    heap_small_pages = not huge_pages


def heap_boot() -> cython.int:
    seen: uint32_t = 0
    if not swap32_if(cython.address(heap_state), cython.address(seen), 1):
        while load32_acquire(cython.address(heap_state)) == 1:
            futex_wait(cython.address(heap_state), 1, -1)
        return 0 if load32_acquire(cython.address(heap_state)) == 2 else ENOMEM
    vm_boot()
    fault_boot()
    sizes_boot()
    error: cython.int = space_boot()
    if not error:
        error = cache_boot()
    if not error:
        error = heap_open()
    store32_release(cython.address(heap_state), 0 if error else 2)
    futex_wake(cython.address(heap_state), 1 << 30)
    return error


def heap_open() -> cython.int:
    global heap_decay_ns, the_small_limit
    second: uint64_t = 1_000_000_000
    if heap_decay_ns == 0:
        heap_decay_ns = second
    config = cython.declare(PrimaryConfig)
    config.heap = 0
    config.metadata_size = 0
    config.shuffle = False
    config.forgets = True
    config.huge_pages = not heap_small_pages
    config.release_interval_ns = heap_decay_ns
    config.cache_bytes = 2 << 20
    config.region_bits = 36 if space_size() >> 40 >= 8 else 32
    error: cython.int = primary_open(cython.address(config), cython.address(the_primary))
    if error:
        return error
    error = runs_open(HEAP_ID, config.huge_pages, cython.address(the_runs))
    if not error:
        error = heap_open_large(config.huge_pages)
    if error:
        return error
    the_small_limit = sizes_default().small_limit
    cache_adopt(the_primary)
    cache_on_thread_end(heap_thread_end)
    if heap_decay_ns != NOWHERE:
        reclaim_boot(heap_tick, heap_decay_ns // IDLE_WINDOWS)
        cache_on_activity(reclaim_poke)
    at_fork(heap_before_fork, heap_after_fork_in_parent, heap_after_fork_in_child)
    return 0


def heap_open_large(huge_pages: cython.bint) -> cython.int:
    config = cython.declare(LargeConfig)
    memset(cython.address(config), 0, cython.sizeof(LargeConfig))
    config.enabled = 1
    config.clear_bytes = NOWHERE >> 8  # age alone decides: one pass clears whatever is old enough
    config.local_buffer_bytes = 32 << 20
    config.decay_ns = heap_decay_ns
    config.used_idle_ns = heap_decay_ns
    config.tail_decays = 1
    config.huge_pages = huge_pages
    return large_open(HEAP_ID, cython.address(config), cython.address(the_large))


def heap_thread() -> cython.pointer[LargeThread]:
    """What this thread keeps of large blocks, made at first use; NULL where it has to do without."""
    if large_here() == cython.NULL and not cache_thread_ended():
        large_set_here(large_thread_open(the_large))
        cache_watch_thread()
    return large_here()


def heap_thread_end() -> cython.void:
    t: cython.pointer[LargeThread] = large_here()
    large_set_here(cython.NULL)
    if t != cython.NULL:
        large_thread_end(the_large, t)


# ---- allocate ----


def heap_allocate(size: cython.size_t, align: cython.size_t) -> cython.p_void:
    if align > 16:
        if cython.unlikely(
            align & (align - 1) or align > DIRECT_LIMIT or size > the_small_limit
        ):  # else rounding up could wrap
            return heap_allocate_slow(size, align, False)
        size = (size + (size == 0) + align - 1) & ~(align - 1)  # the class of a multiple of align is one (see sizes)
    p: cython.p_void
    if cython.likely(heap_hit(size, cython.address(p))):
        return p
    return heap_allocate_slow(size, align, False)


def heap_hit(size: cython.size_t, p: cython.pointer[cython.p_void]) -> cython.bint:
    """Take a block from this thread's cache; False if it has none."""
    if cython.likely(size <= DIRECT_LIMIT):
        return cache_allocate(size, p)
    return size <= the_small_limit and cache_allocate_class(sizes_index(sizes_default(), size), p)


def heap_allocate_line(size: cython.size_t) -> cython.p_void:
    """What heap_allocate(size, 64) does, in fewer instructions: for arrays, of which many are small."""
    rounded: cython.size_t = (size + (size == 0) + 63) & ~cython.cast(cython.size_t, 63)
    p: cython.p_void
    if cython.likely(rounded - 1 < DIRECT_LIMIT and cache_allocate(rounded, cython.address(p))):
        return p
    return heap_allocate(size, 64)


def heap_allocate_zeroed(size: cython.size_t, align: cython.size_t) -> cython.p_void:
    if size > the_small_limit:
        return heap_allocate_slow(size, align, True)
    p: cython.p_void = heap_allocate(size, align)
    if p != cython.NULL:
        memset(p, 0, size)
    return p


def heap_allocate_slow(size: cython.size_t, align: cython.size_t, zero: cython.bint) -> cython.p_void:
    if align & (align - 1):
        set_errno(EINVAL)
        return cython.NULL
    p: cython.p_void = cython.NULL
    too_large: cython.bint = size > space_size() or align > space_size()
    if not too_large:
        p = heap_try(size, most(align, 16), zero)
        if p == cython.NULL:
            heap_purge()
            p = heap_try(size, most(align, 16), zero)
    if p == cython.NULL:
        set_errno(ENOMEM)
        return cython.NULL
    reclaim_poke()
    return p


def heap_try(size: cython.size_t, align: cython.size_t, zero: cython.bint) -> cython.p_void:
    """One try at serving a request with the layer that its size says."""
    rounded: uint64_t = round_up(most(size, 1), align)
    p: cython.p_void = cython.NULL
    if rounded <= the_small_limit and align <= the_small_limit:
        p = cython.cast(cython.p_void, cache_allocate_from(the_primary, sizes_index(sizes_default(), rounded), align))
        if p != cython.NULL and zero:
            memset(p, 0, size)
        return p
    if size < sizes_default().large_minimum and align <= RUN_PAGE_BYTES:
        return cython.cast(cython.p_void, runs_allocate(the_runs, size, zero))
    if size <= sizes_default().large_maximum:
        request = cython.declare(LargeRequest)
        memset(cython.address(request), 0, cython.sizeof(LargeRequest))
        request.size = most(size, sizes_default().large_minimum) if align > RUN_PAGE_BYTES else size
        request.align = align
        request.zero = zero
        large_note_time(the_large, now_ns())
        p = cython.cast(cython.p_void, large_allocate(the_large, heap_thread(), cython.address(request)))
        if p != cython.NULL or request.failure != LARGE_BAD_ALIGN:
            return p
    return cython.cast(cython.p_void, span_allocate(HEAP_ID, size, align, not heap_small_pages))


# ---- deallocate ----


def heap_deallocate(p: cython.p_void) -> cython.void:
    if not cache_deallocate(p):
        heap_deallocate_slow(p)


def heap_take_back(p: cython.p_void) -> cython.bint:
    """For routers: what heap_deallocate does, where the address is the heap's; else False, and nothing."""
    if cython.likely(cache_deallocate(p)):
        return True
    if not heap_owns(p):
        return False
    heap_deallocate_slow(p)
    return True


def heap_deallocate_sized(p: cython.p_void, size: cython.size_t) -> cython.void:
    heap_deallocate(p)


def heap_deallocate_slow(p: cython.p_void) -> cython.void:
    if p == cython.NULL:
        return
    address: uint64_t = cython.cast(uint64_t, p)
    owner: uint64_t = space_owner(address)
    layer: uint32_t = owner_layer(owner)
    size_class: uint64_t = 0
    reason: cython.int = FREE_FOREIGN
    if layer == LAYER_PRIMARY or layer == LAYER_NONE:  # also where a region has addresses and nothing yet
        reason = cache_deallocate_to(the_primary, address, cython.address(size_class))
    elif layer == LAYER_PAGES:
        reason = runs_deallocate(the_runs, address, owner, cython.address(size_class))
    elif layer == LAYER_LARGE:
        size_class = large_usable_size(the_large, address)
        large_note_time(the_large, now_ns())
        reason = large_deallocate(the_large, heap_thread(), address)
    elif layer == LAYER_HUGE:
        size_class = span_size(address)
        reason = span_deallocate(address, owner)
    if reason != FREE_OK:
        fault_bad_free(reason, address, size_class)
    reclaim_poke()


# ---- reallocate, and what an address is ----


def heap_owns(p: cython.p_void) -> cython.bint:
    return space_owner(cython.cast(uint64_t, p)) != 0


def heap_judge(address: uint64_t, owner: uint64_t, size: cython.pointer[cython.size_t]) -> cython.int:
    """FREE_OK if a live block starts at an address, else why not; and the size of what is there, if known."""
    layer: uint32_t = owner_layer(owner)
    size_class: uint64_t = 0
    size[0] = 0
    if layer == LAYER_PRIMARY:
        reason: cython.int = primary_judge(the_primary, address, cython.address(size_class))
        size[0] = size_class
        return reason
    if layer == LAYER_PAGES:
        size[0] = runs_usable_size(the_runs, address, owner)
    elif layer == LAYER_LARGE:
        size[0] = large_usable_size(the_large, address)
    elif layer == LAYER_HUGE:
        size[0] = span_size(address)
    if layer == LAYER_NONE:
        return FREE_FOREIGN
    return FREE_OK if size[0] else FREE_DOUBLE


def heap_usable_size(p: cython.p_void) -> cython.size_t:
    address: uint64_t = cython.cast(uint64_t, p)
    size: cython.size_t = 0
    reason: cython.int = heap_judge(address, space_owner(address), cython.address(size))
    if reason == FREE_DOUBLE:
        fault_bad_free(USED_FREED, address, size)
    return size if reason == FREE_OK else 0


def heap_reallocate(p: cython.p_void, size: cython.size_t, align: cython.size_t) -> cython.p_void:
    """Resize in place where the layer can; else move. A block that would be half empty is moved to a smaller one."""
    if p == cython.NULL:
        return heap_allocate(size, align)
    address: uint64_t = cython.cast(uint64_t, p)
    owner: uint64_t = space_owner(address)
    layer: uint32_t = owner_layer(owner)
    old: cython.size_t = 0
    reason: cython.int = heap_judge(address, owner, cython.address(old))
    if reason != FREE_OK:
        fault_bad_free(USED_FREED if reason == FREE_DOUBLE else reason, address, old)
        return cython.NULL
    in_place: cython.bint = size <= old and size >= old // 2
    if not in_place and size > the_small_limit:
        if layer == LAYER_PAGES and size < sizes_default().large_minimum:
            in_place = runs_resize(the_runs, address, owner, size)
        elif layer == LAYER_LARGE and size >= sizes_default().large_minimum // 2:
            in_place = large_resize_in_place(the_large, address, size)
    return p if in_place else heap_move(p, old, size, align)


def heap_move(p: cython.p_void, old: cython.size_t, size: cython.size_t, align: cython.size_t) -> cython.p_void:
    new: cython.p_void = heap_allocate(size, align)
    if new != cython.NULL:
        memcpy(new, p, least(old, size))
        heap_deallocate(p)
    return new


# ---- giving back ----


def heap_tick(now: uint64_t) -> cython.bint:
    """A window of the decay time ends, for every layer, top to bottom. True while something may still become idle."""
    busy: cython.bint = False
    cache_drain_idle(the_primary, IDLE_WINDOWS, cython.address(busy))
    primary_tick(the_primary, now, cython.address(busy))
    runs_tick(the_runs, cython.address(busy))
    large_maintain(the_large, now, False)
    return busy or large_dirty_bytes(the_large) > 0


def heap_may_idle() -> cython.bint:
    """Approximate: a small program, of which there are many, shall not pay for a thread that has nothing to give.

    No lock is taken: this may be a signal handler, in a thread that holds it.
    """
    if load64_relaxed(cython.address(the_primary.mapped)) >= WORTH_A_THREAD:
        return True
    idle: uint64_t = load64_relaxed(cython.address(the_runs.dirty_pages)) << RUN_PAGE_SHIFT
    i: uint32_t = 0
    while i < LARGE_POOLS and idle < WORTH_A_THREAD_IDLE:
        pool: cython.pointer[Pool] = cython.address(the_large.pool[i])
        idle += load64_relaxed(cython.address(pool.idle[POOL_USED]))
        idle += load64_relaxed(cython.address(pool.idle[POOL_CLEAN]))
        idle += load64_relaxed(cython.address(pool.idle[POOL_KEPT]))
        i += 1
    return idle >= WORTH_A_THREAD_IDLE


def heap_purge() -> uint64_t:
    """Give back everything idle, now, whatever its age: what the caller's and sleeping threads' caches hold too."""
    busy: cython.bint = False
    given_back: uint64_t = 0
    now: uint64_t = now_ns()
    cache_drain(the_primary)
    cache_drain_idle(the_primary, 0, cython.address(busy))
    i: uint32_t = 0
    while i < the_primary.classes:
        given_back += primary_release(the_primary, i, now, NOWHERE)
        i += 1
    given_back += runs_purge(the_runs)
    idle: uint64_t = large_dirty_bytes(the_large)
    large_maintain(the_large, now, True)
    return given_back + idle - least(idle, large_dirty_bytes(the_large))


# ---- accounting ----


def heap_read_stats(into: cython.pointer[HeapStats]) -> cython.void:
    memset(into, 0, cython.sizeof(HeapStats))
    heap_add_small(into)
    heap_add_runs(into)
    heap_add_large(into)
    heap_add_spans(into)
    into.metadata = vm_metadata_bytes() - space_table_bytes() + load64_relaxed(cython.address(the_primary.metadata))
    into.mapped = into.active + into.dirty + into.muzzy + into.retained
    into.deallocations = into.allocations - into.blocks
    call = cython.declare(VmCall)
    i: cython.int = 0
    while i < VM_CALLS:
        vm_read_stats(i, cython.address(call))
        into.os_failures += call.failures
        if i == VM_PURGE_NOW or i == VM_PURGE_LAZY:
            into.purged += call.bytes
            into.purge_calls += call.calls
        i += 1
    i = FREE_DOUBLE
    while i < FAULTS:
        into.bad_frees += fault_count(i)
        i += 1
    into.ticks = reclaim_ticks()


def heap_add_small(s: cython.pointer[HeapStats]) -> cython.void:
    """The small blocks: each class's counts are read together, classes one after the other."""
    counts = cython.declare(ClassCounts)
    i: uint32_t = 0
    while i < the_primary.classes:
        size: uint64_t = the_primary.region[i].size
        cache_read_class(the_primary, i, cython.address(counts))
        made: uint64_t = counts.made * size
        live: uint64_t = counts.live * size
        touched: uint64_t = least(counts.mapped_bytes, round_up(made, the_primary.page_size))
        resident: uint64_t = touched - least(touched, counts.purged_bytes)
        dirty: uint64_t = least(resident, made - live - least(counts.purged_bytes, made - live))
        s.allocated += live
        s.blocks += counts.live
        s.allocations += counts.allocations
        s.cached += counts.cached * size
        s.dirty += dirty
        s.active += resident - dirty
        s.retained += counts.mapped_bytes - resident
        i += 1


def heap_add_runs(s: cython.pointer[HeapStats]) -> cython.void:
    mutex_lock(cython.address(the_runs.lock))
    live: uint64_t = the_runs.live_pages << RUN_PAGE_SHIFT
    dirty: uint64_t = the_runs.dirty_pages << RUN_PAGE_SHIFT
    known: uint64_t = the_runs.chunks << BLOCK_SHIFT
    s.allocated += live
    s.active += live
    s.dirty += dirty
    s.retained += known - least(known, live + dirty)
    s.blocks += the_runs.live
    s.allocations += the_runs.allocations
    mutex_unlock(cython.address(the_runs.lock))


def heap_add_large(s: cython.pointer[HeapStats]) -> cython.void:
    counts = cython.declare(PoolStats)
    i: uint32_t = 0
    while i < LARGE_POOLS:
        large_read_stats(the_large, i, cython.address(counts))
        live: uint64_t = counts.live * counts.size
        dirty: uint64_t = counts.touched_bytes + counts.tail_bytes
        s.allocated += live
        s.active += live - least(live, counts.tail_bytes)
        s.dirty += dirty
        s.retained += counts.area_total_bytes - least(counts.area_total_bytes, live + counts.touched_bytes)
        s.blocks += counts.live
        s.allocations += counts.allocations
        i += 1


def heap_add_spans(s: cython.pointer[HeapStats]) -> cython.void:
    counts = cython.declare(SpanStats)
    span_read_stats(cython.address(counts))
    s.allocated += counts.live_bytes
    s.active += counts.live_bytes
    s.blocks += counts.live
    s.allocations += counts.allocations


def heap_check() -> cython.int:
    index: uint32_t = 0
    number: uint64_t = 0
    return primary_check(the_primary, cython.address(index), cython.address(number))


# ---- fork: every lock, in rank order ----


def heap_before_fork() -> cython.void:
    reclaim_fork_lock()
    large_lock_all(the_large)
    runs_lock(the_runs)
    cache_fork_lock()
    space_lock()


def heap_after_fork_in_parent() -> cython.void:
    space_unlock()
    cache_fork_unlock()
    runs_unlock(the_runs)
    large_unlock_all(the_large)
    reclaim_fork_unlock()


def heap_after_fork_in_child() -> cython.void:
    space_reset()
    cache_fork_reset()
    runs_reset(the_runs)
    large_reset(the_large)
    reclaim_fork_reset()
