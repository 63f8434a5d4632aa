"""The C functions that everyone calls: requests, served by the default heap or by another one.

Thread-safety: everything may be called from any thread at any time, with or without the GIL, also across fork.
Invariants: what an address is, and whose, `space_owner` tells; a block stays in its heap when it is resized.
Does not keep a header or list of its own: each layer finds its blocks from their addresses.
Before a request is refused, everything idle is given back, in this heap or where it is the OS that refuses in all of
them, and it is tried once more.
"""

import cython
from cython.cimports.freehold.core.account import HeapStats, account_check, account_read
from cython.cimports.freehold.core.arena import arenas_boot
from cython.cimports.freehold.core.bin import DIRECT_LIMIT, cache_allocate, cache_allocate_class, cache_deallocate
from cython.cimports.freehold.core.budget import budget_left, budget_refusals, budget_set_limit
from cython.cimports.freehold.core.caches import cache_boot, cache_on_thread_end, cache_thread_ended, cache_watch_thread
from cython.cimports.freehold.core.fault import (
    FREE_DOUBLE,
    FREE_FOREIGN,
    FREE_OK,
    USED_FREED,
    fault_bad_free,
    fault_boot,
)
from cython.cimports.freehold.core.guest import guest_allocate, guest_allocate_class, guest_deallocate
from cython.cimports.freehold.core.heap import MOVE_LEAST, MOVES_MOST, large_here, large_set_here, other_free, set_errno
from cython.cimports.freehold.core.heaps import (
    heaps_boot,
    heaps_default,
    heaps_enter,
    heaps_find,
    heaps_leave,
    heaps_purge,
    heaps_read_stats,
)
from cython.cimports.freehold.core.home import (
    HEAP_HUGE_AUTO,
    HEAP_HUGE_NEVER,
    HEAP_ID,
    Heap,
    HeapConfig,
    home_judge,
    home_purge,
    home_resize,
    home_serve,
    home_take_back,
)
from cython.cimports.freehold.core.large import LargeThread, large_thread_end, large_thread_open
from cython.cimports.freehold.core.machine import (
    EINVAL,
    ENOMEM,
    NOWHERE,
    add64_relaxed,
    futex_wait,
    futex_wake,
    least,
    load32_acquire,
    memcpy,
    memset,
    most,
    round_down,
    store32_release,
    swap32_if,
)
from cython.cimports.freehold.core.primary import primary_is_sampled, primary_sample
from cython.cimports.freehold.core.profile import profile_grew
from cython.cimports.freehold.core.reclaim import reclaim_poke
from cython.cimports.freehold.core.sampling import (
    SOURCE_NUMPY,
    sampling_boot,
    sampling_draws,
    sampling_forget,
    sampling_is_on,
    sampling_knows_some,
    sampling_record,
    sampling_source,
)
from cython.cimports.freehold.core.seats import SEATS
from cython.cimports.freehold.core.sizes import sizes_boot, sizes_default, sizes_index
from cython.cimports.freehold.core.space import (
    LAYER_PRIMARY,
    owner_heap,
    owner_layer,
    space_boot,
    space_owner,
    space_size,
)
from cython.cimports.freehold.core.vm import vm_boot, vm_facts, vm_remap
from cython.cimports.libc.stdint import uint32_t, uint64_t

heap_state = cython.declare(uint32_t)  # 0 not booted, 1 booting, 2 booted; atomic
heap_decay_ns = cython.declare(uint64_t)  # 0: the default; constant after boot
heap_small_pages = cython.declare(cython.bint)  # huge pages are not wanted; constant after boot
the_small_limit = cython.declare(uint64_t)  # bytes; constant after boot
heap_moves = cython.declare(uint64_t)  # tried so far; atomic

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
    sampling_boot()
    sizes_boot()
    error: cython.int = space_boot()
    if not error:
        error = arenas_boot()
    if not error:
        error = cache_boot()
    if not error:
        error = heap_open_default()
    store32_release(cython.address(heap_state), 0 if error else 2)
    futex_wake(cython.address(heap_state), 1 << 30)
    return error


def heap_open_default() -> cython.int:
    global the_small_limit
    second: uint64_t = 1_000_000_000
    config = cython.declare(HeapConfig)
    config.limit = NOWHERE
    config.decay_ns = heap_decay_ns if heap_decay_ns else second
    config.node = -1
    config.huge_pages = HEAP_HUGE_NEVER if heap_small_pages else HEAP_HUGE_AUTO
    config.secure = False
    error: cython.int = heaps_boot(cython.address(config))
    if not error:
        the_small_limit = sizes_default().small_limit
        cache_on_thread_end(heap_thread_end)
    return error


def heap_thread() -> cython.pointer[LargeThread]:
    """What this thread keeps of the default heap's large blocks, made at first use; NULL where it has to do without."""
    if large_here() == cython.NULL and not cache_thread_ended():
        large_set_here(large_thread_open(heaps_default().large))
        cache_watch_thread()
    return large_here()


def heap_thread_end() -> cython.void:
    t: cython.pointer[LargeThread] = large_here()
    large_set_here(cython.NULL)
    if t != cython.NULL:
        large_thread_end(heaps_default().large, t)


# ---- allocate ----


def heap_allocate(size: cython.size_t, align: cython.size_t) -> cython.p_void:
    p: cython.p_void
    if cython.unlikely(align & ~cython.cast(cython.size_t, 16)):  # neither 0 nor 16
        return heap_allocate_aligned(size, align)
    if cython.likely(heap_hit(size, cython.address(p))):
        return p
    return heap_allocate_slow(size, align, False)


def heap_hit(size: cython.size_t, p: cython.pointer[cython.p_void]) -> cython.bint:
    """Take a block from this thread's cache; False if it has none."""
    if cython.likely(size <= DIRECT_LIMIT):
        return cache_allocate((size + 15) >> 4, p)
    return size <= the_small_limit and cache_allocate_class(sizes_index(sizes_default(), size), p)


def heap_allocate_aligned(size: cython.size_t, align: cython.size_t) -> cython.p_void:
    if align & (align - 1) or align > DIRECT_LIMIT or size > the_small_limit:  # else rounding up could wrap
        return heap_allocate_slow(size, align, False)
    p: cython.p_void
    rounded: cython.size_t = (size + (size == 0) + align - 1) & ~(align - 1)
    if cython.likely(heap_hit(rounded, cython.address(p))):  # the class of a multiple of align is one (see sizes)
        return p
    return heap_allocate_slow(rounded, align, False)


def heap_allocate_line(size: cython.size_t) -> cython.p_void:
    """What heap_allocate(size, 64) does, in fewer instructions: for NumPy's arrays, of which many are small."""
    p: cython.p_void
    if cython.likely(size - 1 < DIRECT_LIMIT and cache_allocate((size + 63) >> 6 << 2, cython.address(p))):
        return p
    return heap_allocate_as(size, 64, SOURCE_NUMPY)


def heap_allocate_as(size: cython.size_t, align: cython.size_t, source: uint32_t) -> cython.p_void:
    before: uint32_t = sampling_source(source)
    p: cython.p_void = heap_allocate(size, align)
    sampling_source(before)
    return p


def heap_allocate_zeroed_as(size: cython.size_t, align: cython.size_t, source: uint32_t) -> cython.p_void:
    before: uint32_t = sampling_source(source)
    p: cython.p_void = heap_allocate_zeroed(size, align)
    sampling_source(before)
    return p


def heap_reallocate_as(p: cython.p_void, size: cython.size_t, align: cython.size_t, source: uint32_t) -> cython.p_void:
    before: uint32_t = sampling_source(source)
    new: cython.p_void = heap_reallocate(p, size, align)
    sampling_source(before)
    return new


def heap_allocate_zeroed(size: cython.size_t, align: cython.size_t) -> cython.p_void:
    if size > the_small_limit:
        return heap_allocate_slow(size, align, True)
    p: cython.p_void = heap_allocate(size, align)
    if p != cython.NULL:
        memset(p, 0, size)
    return p


def heap_allocate_slow(size: cython.size_t, align: cython.size_t, zero: cython.bint) -> cython.p_void:
    return heap_request(heaps_default(), size, align, zero)


def heap_request(
    h: cython.pointer[Heap], size: cython.size_t, align: cython.size_t, zero: cython.bint
) -> cython.p_void:
    """What a hit could not do. After a refusal it is tried again with less that is idle: here, then everywhere."""
    if align & (align - 1):
        set_errno(EINVAL)
        return cython.NULL
    p: cython.p_void = cython.NULL
    refusals: uint64_t = budget_refusals(cython.address(h.budget))
    if size <= space_size() and align <= space_size():
        p = heap_try(h, size, align, zero)
        if p == cython.NULL:
            heap_purge_of(h)
            p = heap_try(h, size, align, zero)
        if p == cython.NULL and refusals == budget_refusals(cython.address(h.budget)):
            heaps_purge()
            p = heap_try(h, size, align, zero)
    if p == cython.NULL:
        set_errno(ENOMEM)
        return cython.NULL
    if cython.unlikely(sampling_is_on()):
        heap_sample(h, cython.cast(uint64_t, p))
    reclaim_poke()
    return p


def heap_sample(h: cython.pointer[Heap], address: uint64_t) -> cython.void:
    """Record a block in the heap profile if it is one that chance chose: its bin's, or this thread's, by its bytes."""
    owner: uint64_t = space_owner(address)
    bytes: cython.size_t = 0
    heap_judge(address, owner, cython.address(bytes))
    sampled: cython.bint
    if owner_layer(owner) == LAYER_PRIMARY and h.primary.config.cache_bytes:
        sampled = primary_is_sampled(h.primary, address)
    else:
        sampled = sampling_draws(bytes)
        if sampled and owner_layer(owner) == LAYER_PRIMARY:
            primary_sample(h.primary, address)
    if sampled and sampling_record(address, bytes, h.id):
        profile_grew()


def heap_try(h: cython.pointer[Heap], size: cython.size_t, align: cython.size_t, zero: cython.bint) -> cython.p_void:
    heaps_enter(h)
    p: cython.p_void = home_serve(h, heap_thread_of(h), size, most(align, 16), zero)
    heaps_leave(h)
    return p


def heap_thread_of(h: cython.pointer[Heap]) -> cython.pointer[LargeThread]:
    return heap_thread() if h.id == HEAP_ID else cython.NULL


# ---- in a heap that is named ----


def heap_allocate_in(h: cython.pointer[Heap], size: cython.size_t, align: cython.size_t) -> cython.p_void:
    if h.id == HEAP_ID:
        return heap_allocate(size, align)
    p: cython.p_void = cython.NULL
    rounded: cython.size_t = size
    if align > 16:
        if cython.unlikely(align & (align - 1) or align > DIRECT_LIMIT or size > the_small_limit):
            return heap_request(h, size, align, False)
        rounded = (size + (size == 0) + align - 1) & ~(align - 1)
    if cython.likely(rounded <= DIRECT_LIMIT):
        if cython.likely(guest_allocate(h.id, rounded, cython.address(p))):
            return p
    elif rounded <= the_small_limit:
        index: uint32_t = sizes_index(sizes_default(), rounded)
        if guest_allocate_class(h.id, index, cython.address(p)):
            return p
    return heap_request(h, size, align, False)


def heap_allocate_zeroed_in(h: cython.pointer[Heap], size: cython.size_t, align: cython.size_t) -> cython.p_void:
    if size > the_small_limit:
        return heap_request(h, size, align, True)
    p: cython.p_void = heap_allocate_in(h, size, align)
    if p != cython.NULL:
        memset(p, 0, size)
    return p


# ---- deallocate ----


def heap_deallocate(p: cython.p_void) -> cython.void:
    if not cache_deallocate(p):
        heap_deallocate_slow(p)


def heap_take_back(p: cython.p_void, size: cython.size_t, other: other_free) -> cython.void:
    """For routers, as their last act, so that they need no frame: what heap_deallocate does, if the address is ours."""
    if cython.unlikely(not cache_deallocate(p)):
        if heap_owns(p):
            heap_deallocate_slow(p)
        else:
            other(p, size)


def heap_deallocate_sized(p: cython.p_void, size: cython.size_t) -> cython.void:
    heap_deallocate(p)


def heap_deallocate_slow(p: cython.p_void) -> cython.void:
    if p == cython.NULL:
        return
    address: uint64_t = cython.cast(uint64_t, p)
    owner: uint64_t = space_owner(address)
    if owner_heap(owner) != HEAP_ID and heap_deallocate_guest(address, owner):
        return
    h: cython.pointer[Heap] = heaps_find(owner_heap(owner))
    size_class: uint64_t = 0
    reason: cython.int = FREE_FOREIGN
    if cython.unlikely(sampling_knows_some() and owner_layer(owner) != LAYER_PRIMARY):
        sampling_forget(address)
    if h != cython.NULL:
        heaps_enter(h)
        reason = home_take_back(h, heap_thread_of(h), address, owner, cython.address(size_class))
        heaps_leave(h)
    if reason != FREE_OK:
        fault_bad_free(reason, address, size_class)
    reclaim_poke()


def heap_deallocate_guest(address: uint64_t, owner: uint64_t) -> cython.bint:
    return (
        owner_layer(owner) == LAYER_PRIMARY
        and owner_heap(owner) < SEATS
        and guest_deallocate(owner_heap(owner), address)
    )


# ---- reallocate, and what an address is ----


def heap_owns(p: cython.p_void) -> cython.bint:
    return space_owner(cython.cast(uint64_t, p)) != 0


def heap_of(p: cython.p_void) -> cython.pointer[Heap]:
    owner: uint64_t = space_owner(cython.cast(uint64_t, p))
    return heaps_find(owner_heap(owner)) if owner else cython.NULL


def heap_judge(address: uint64_t, owner: uint64_t, size: cython.pointer[cython.size_t]) -> cython.int:
    h: cython.pointer[Heap] = heaps_find(owner_heap(owner))
    size[0] = 0
    if h == cython.NULL:
        return FREE_FOREIGN
    heaps_enter(h)
    reason: cython.int = home_judge(h, address, owner, size)
    heaps_leave(h)
    return reason


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
    old: cython.size_t = 0
    reason: cython.int = heap_judge(address, owner, cython.address(old))
    if reason != FREE_OK:
        fault_bad_free(USED_FREED if reason == FREE_DOUBLE else reason, address, old)
        return cython.NULL
    in_place: cython.bint = size <= old and size >= old // 2
    h: cython.pointer[Heap] = heaps_find(owner_heap(owner))
    if not in_place and size > the_small_limit:
        heaps_enter(h)
        in_place = home_resize(h, address, owner, size)
        heaps_leave(h)
        if cython.unlikely(in_place and sampling_is_on()):  # for the profile it is another block
            sampling_forget(address)
            heap_sample(h, address)
    return p if in_place else heap_move(h, p, old, size, align)


def heap_move(
    h: cython.pointer[Heap], p: cython.p_void, old: cython.size_t, size: cython.size_t, align: cython.size_t
) -> cython.p_void:
    new: cython.p_void = heap_allocate_in(h, size, align)
    if new != cython.NULL:
        if not heap_move_pages(cython.cast(uint64_t, p), cython.cast(uint64_t, new), least(old, size)):
            memcpy(new, p, least(old, size))
        heap_deallocate(p)
    return new


def heap_move_pages(source: uint64_t, to: uint64_t, size: uint64_t) -> cython.bint:
    """Move the contents of a very large block without a copy; False: nothing was moved.

    What is moved stays a mapping of its own, beside those around it, so that it is done only so many times. The source
    keeps its addresses and counts as touched until it is purged, or used again.
    """
    page: uint64_t = vm_facts().page_size
    if size < MOVE_LEAST or (source | to) & (page - 1):
        return False
    if add64_relaxed(cython.address(heap_moves), 1) >= MOVES_MOST:
        return False
    whole: uint64_t = round_down(size, page)
    if vm_remap(source, to, whole) != 0:
        return False
    memcpy(cython.cast(cython.p_void, to + whole), cython.cast(cython.p_void, source + whole), size - whole)
    return True


# ---- giving back, accounting, limits ----


def heap_purge() -> uint64_t:
    return heaps_purge()


def heap_purge_of(h: cython.pointer[Heap]) -> uint64_t:
    heaps_enter(h)
    given_back: uint64_t = home_purge(h)
    heaps_leave(h)
    return given_back


def heap_read_stats(into: cython.pointer[HeapStats]) -> cython.void:
    heaps_read_stats(into)


def heap_read_stats_of(h: cython.pointer[Heap], into: cython.pointer[HeapStats]) -> cython.void:
    heaps_enter(h)
    account_read(h, into)
    heaps_leave(h)


def heap_check() -> cython.int:
    broken: cython.int = 0
    id: uint64_t = HEAP_ID
    while id < SEATS and not broken:
        h: cython.pointer[Heap] = heaps_find(id)
        if h != cython.NULL:
            broken = heap_check_of(h)
        id += 1
    return broken


def heap_check_of(h: cython.pointer[Heap]) -> cython.int:
    heaps_enter(h)
    broken: cython.int = account_check(h)
    heaps_leave(h)
    return broken


def heap_set_limit(h: cython.pointer[Heap], limit: uint64_t) -> cython.bint:
    """What is idle goes first, where it stands in the way."""
    if budget_set_limit(cython.address(h.budget), limit):
        return True
    heap_purge_of(h)
    return budget_set_limit(cython.address(h.budget), limit)


def heap_left(h: cython.pointer[Heap]) -> uint64_t:
    return budget_left(cython.address(h.budget))
