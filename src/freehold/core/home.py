"""One heap: its layers, its budget, and which of them serves what.

Thread-safety: any thread; a layer is made under the heap's lock and read without it. Nobody uses a heap that is being
closed.
Invariants: what the budget counts is what the layers say; a layer that could not be made leaves nothing behind.
Does not know the other heaps, find a heap from an address, or try again when a request is refused.
Follows: mimalloc's heaps, whose memory goes as a whole, with a limit that is never passed.
"""

import cython
from cython.cimports.freehold.core.bin import Cache
from cython.cimports.freehold.core.budget import budget_give_books, budget_open, budget_take_books
from cython.cimports.freehold.core.cache import (
    cache_allocate_from,
    cache_deallocate_to,
    cache_drain,
    cache_go_in,
    cache_go_out,
)
from cython.cimports.freehold.core.caches import cache_drain_idle, cache_register, cache_unregister
from cython.cimports.freehold.core.emap import EXTENT_PAGE
from cython.cimports.freehold.core.extent import (
    extents_allocate,
    extents_close,
    extents_deallocate,
    extents_dispose,
    extents_open,
    extents_usable_size,
)
from cython.cimports.freehold.core.extentbook import ExtentConfig, Extents
from cython.cimports.freehold.core.extentgrow import extents_vacate
from cython.cimports.freehold.core.extentpurge import extents_give_back, extents_tick
from cython.cimports.freehold.core.extentshape import extents_resize_at
from cython.cimports.freehold.core.fault import FREE_DOUBLE, FREE_FOREIGN, FREE_OK
from cython.cimports.freehold.core.home import (
    HEAP_HUGE_ALWAYS,
    HEAP_HUGE_NEVER,
    HEAP_ID,
    HELD_BLOCKS,
    HELD_BYTES,
    HOME_NAME_WORDS,
    Heap,
    HeapConfig,
    Quarantine,
)
from cython.cimports.freehold.core.idle import IDLE_WINDOWS
from cython.cimports.freehold.core.large import (
    LARGE_BAD_ALIGN,
    Large,
    LargeConfig,
    LargeRequest,
    LargeThread,
    large_allocate,
    large_close,
    large_deallocate,
    large_dirty_bytes,
    large_maintain,
    large_note_time,
    large_open,
    large_resize_in_place,
    large_thread_open,
    large_usable_size,
    large_vacate,
)
from cython.cimports.freehold.core.machine import (
    ENOMEM,
    NOWHERE,
    least,
    load64_acquire,
    memcpy,
    memset,
    most,
    now_ns,
    round_up,
    store64_relaxed,
    store64_release,
    strlen,
)
from cython.cimports.freehold.core.primary import (
    Primary,
    PrimaryConfig,
    primary_close,
    primary_judge,
    primary_open,
    primary_vacate,
)
from cython.cimports.freehold.core.release import primary_release, primary_tick
from cython.cimports.freehold.core.sizes import sizes_default, sizes_index
from cython.cimports.freehold.core.space import (
    LAYER_EXTENT,
    LAYER_HUGE,
    LAYER_LARGE,
    LAYER_NONE,
    LAYER_PRIMARY,
    owner_layer,
    space_owner,
    space_size,
)
from cython.cimports.freehold.core.span import (
    span_allocate,
    span_deallocate,
    span_next,
    span_size,
)
from cython.cimports.freehold.core.sync import RANK_HEAP, fork_pass, mutex_init, mutex_lock, mutex_unlock
from cython.cimports.freehold.core.vm import vm_facts, vm_purge_now
from cython.cimports.libc.stdint import uint32_t, uint64_t

# ---- open and close ----


def home_open(h: cython.pointer[Heap], id: uint64_t, config: cython.pointer[cython.const[HeapConfig]]) -> cython.int:
    """Open a heap in memory that is all zero."""
    mutex_init(cython.address(h.lock), RANK_HEAP)
    h.id = id
    h.config = config[0]
    budget_open(cython.address(h.budget), config.limit)
    h.spans.budget = cython.address(h.budget)
    h.spans.heap = id
    h.spans.node = config.node
    h.spans.huge_pages = config.huge_pages != HEAP_HUGE_NEVER
    if not home_take_base(h, cython.sizeof(Heap) + cython.sizeof(Primary)):
        return ENOMEM
    return home_open_primary(h)


def home_set_name(h: cython.pointer[Heap], name: cython.p_const_char) -> cython.void:
    """Whoever reads it meanwhile may find parts of two names; the last byte is always 0."""
    words = cython.declare(uint64_t[HOME_NAME_WORDS])
    memset(words, 0, HOME_NAME_WORDS * 8)
    memcpy(words, name, least(strlen(name), HOME_NAME_WORDS * 8 - 1))
    i: uint32_t = 0
    while i < HOME_NAME_WORDS:
        store64_relaxed(cython.address(h.name[i]), words[i])
        i += 1


def home_open_primary(h: cython.pointer[Heap]) -> cython.int:
    """The default heap has the largest regions; a hundred others fit beside it. Where they do not, they get smaller."""
    config = cython.declare(PrimaryConfig)
    is_default: cython.bint = h.id == HEAP_ID
    config.heap = cython.cast(uint32_t, h.id)
    config.metadata_size = 0
    config.shuffle = h.config.secure
    config.forgets = True
    config.huge_pages = h.config.huge_pages != HEAP_HUGE_NEVER
    config.release_interval_ns = h.config.decay_ns
    config.budget = cython.address(h.budget)
    config.node = h.config.node
    config.gated = not is_default
    config.sampled = True
    config.cache_bytes = 2 << 20
    if not is_default:  # a cache is on the heap's own bill
        config.cache_bytes = most(16 << 10, least(512 << 10, h.config.limit // 64))
    if h.config.secure:  # a block goes through what is held back, and is not the next one handed out
        config.cache_bytes = 0
    config.region_bits = home_region_bits(2 if is_default else 128)
    error: cython.int = primary_open(cython.address(config), cython.address(h.primary))
    while error and config.region_bits > 22:
        config.region_bits -= 1
        error = primary_open(cython.address(config), cython.address(h.primary))
    if not error:
        cache_register(h.primary)
    return error


def home_region_bits(heaps: uint64_t) -> uint32_t:
    """The longest regions with which so many heaps fit into the space."""
    bits: uint32_t = 36 if space_size() >> 40 >= 8 else 32
    while bits > 22 and (cython.cast(uint64_t, sizes_default().small) << bits) * heaps > space_size():
        bits -= 1
    return bits


def home_take_base(h: cython.pointer[Heap], bytes: uint64_t) -> cython.bint:
    """Have the budget count what the heap and its layers are themselves."""
    bytes = round_up(bytes, vm_facts().page_size)
    if not budget_take_books(cython.address(h.budget), bytes):
        return False
    h.base_books += bytes
    return True


def home_give_base(h: cython.pointer[Heap], bytes: uint64_t) -> cython.void:
    bytes = round_up(bytes, vm_facts().page_size)
    budget_give_books(cython.address(h.budget), bytes)
    h.base_books -= bytes


def home_close(h: cython.pointer[Heap]) -> cython.void:
    address: uint64_t = span_next(cython.address(h.spans), 0)
    while address:
        span_deallocate(cython.address(h.spans), address, space_owner(address))
        address = span_next(cython.address(h.spans), address)
    if h.large != cython.NULL:
        large_close(h.large)
    if h.extents != cython.NULL:
        extents_close(h.extents)
        extents_dispose(h.extents)
    cache_unregister(h.primary)
    primary_close(h.primary)


def home_vacate(h: cython.pointer[Heap]) -> cython.void:
    primary_vacate(h.primary)
    if home_extents(h) != cython.NULL:
        extents_vacate(h.extents)
    if home_large(h) != cython.NULL:
        large_vacate(h.large)
    address: uint64_t = span_next(cython.address(h.spans), 0)
    while address:
        vm_purge_now(address, span_size(address))
        address = span_next(cython.address(h.spans), address)


# ---- layers, made at first use ----


def home_extents(h: cython.pointer[Heap]) -> cython.pointer[Extents]:
    return cython.cast(
        cython.pointer[Extents], load64_acquire(cython.cast(cython.pointer[uint64_t], cython.address(h.extents)))
    )


def home_need_extents(h: cython.pointer[Heap]) -> cython.pointer[Extents]:
    """Make the layer if it is not there; NULL: it is refused."""
    if cython.unlikely(home_extents(h) == cython.NULL):
        mutex_lock(cython.address(h.lock))
        if h.extents == cython.NULL:
            home_make_extents(h)
        mutex_unlock(cython.address(h.lock))
    return home_extents(h)


def home_make_extents(h: cython.pointer[Heap]) -> cython.int:
    """Under the heap's lock. Only the default heap's budget does not mind that a huge page is more than was asked."""
    if not home_take_base(h, cython.sizeof(Extents)):
        return ENOMEM
    config = cython.declare(ExtentConfig)
    memset(cython.address(config), 0, cython.sizeof(ExtentConfig))
    config.heap = h.id
    config.dirty_ns = h.config.decay_ns
    config.budget = cython.address(h.budget)
    config.node = h.config.node
    config.maps_coalesce = True
    config.grows = True
    config.huge_pages = h.config.huge_pages == HEAP_HUGE_ALWAYS or (
        h.id == HEAP_ID and h.config.huge_pages != HEAP_HUGE_NEVER
    )
    made: cython.pointer[Extents] = cython.NULL
    error: cython.int = extents_open(cython.address(config), cython.address(made))
    if error:
        home_give_base(h, cython.sizeof(Extents))
    else:
        store64_release(cython.cast(cython.pointer[uint64_t], cython.address(h.extents)), cython.cast(uint64_t, made))
    return error


def home_large(h: cython.pointer[Heap]) -> cython.pointer[Large]:
    return cython.cast(
        cython.pointer[Large], load64_acquire(cython.cast(cython.pointer[uint64_t], cython.address(h.large)))
    )


def home_need_large(h: cython.pointer[Heap]) -> cython.pointer[Large]:
    """Make the layer if it is not there; NULL: it is refused."""
    if cython.unlikely(home_large(h) == cython.NULL):
        mutex_lock(cython.address(h.lock))
        if h.large == cython.NULL:
            home_make_large(h)
        mutex_unlock(cython.address(h.lock))
    return home_large(h)


def home_make_large(h: cython.pointer[Heap]) -> cython.int:
    """Under the heap's lock."""
    if not home_take_base(h, cython.sizeof(Large) + cython.sizeof(LargeThread)):
        return ENOMEM
    config = cython.declare(LargeConfig)
    memset(cython.address(config), 0, cython.sizeof(LargeConfig))
    config.enabled = 1
    config.clear_bytes = NOWHERE >> 8  # age alone decides: one pass clears whatever is old enough
    config.local_buffer_bytes = 32 << 20 if h.id == HEAP_ID else 1 << 34
    config.decay_ns = h.config.decay_ns
    config.used_idle_ns = h.config.decay_ns
    config.tail_decays = 1
    config.huge_pages = h.config.huge_pages != HEAP_HUGE_NEVER
    config.exact = h.id != HEAP_ID
    config.budget = cython.address(h.budget)
    config.node = h.config.node
    made: cython.pointer[Large] = cython.NULL
    error: cython.int = large_open(h.id, cython.address(config), cython.address(made))
    if error:
        home_give_base(h, cython.sizeof(Large) + cython.sizeof(LargeThread))
        return error
    if h.id != HEAP_ID:
        h.shelf = large_thread_open(made)
    store64_release(cython.cast(cython.pointer[uint64_t], cython.address(h.large)), cython.cast(uint64_t, made))
    return 0


def home_make_all(h: cython.pointer[Heap]) -> cython.int:
    mutex_lock(cython.address(h.lock))
    error: cython.int = home_make_extents(h)
    if not error:
        error = home_make_large(h)
    mutex_unlock(cython.address(h.lock))
    return error


# ---- which layer serves a request ----


def home_serve(
    h: cython.pointer[Heap], t: cython.pointer[LargeThread], size: uint64_t, align: uint64_t, zero: cython.bint
) -> cython.p_void:
    rounded: uint64_t = round_up(most(size, 1), align)
    address: uint64_t = 0
    if rounded <= sizes_default().small_limit and align <= sizes_default().small_limit:
        address = home_serve_small(h, rounded, align)
        if address and zero:
            memset(cython.cast(cython.p_void, address), 0, size)
        # A small region that is full is no reason to refuse, where it is not the budget that is.
        if address or h.id == HEAP_ID or h.config.secure:
            return cython.cast(cython.p_void, address)
    if h.config.secure:
        address = span_allocate(cython.address(h.spans), size, align, True)
    elif size < sizes_default().large_minimum and align <= EXTENT_PAGE:
        extents: cython.pointer[Extents] = home_need_extents(h)
        address = 0 if extents == cython.NULL else extents_allocate(extents, size, zero)
    else:
        address = home_serve_large(h, t, size, align, zero)
    return cython.cast(cython.p_void, address)


def home_serve_small(h: cython.pointer[Heap], size: uint64_t, align: uint64_t) -> uint64_t:
    return cache_allocate_from(h.primary, sizes_index(sizes_default(), size), align)


def home_serve_large(
    h: cython.pointer[Heap], t: cython.pointer[LargeThread], size: uint64_t, align: uint64_t, zero: cython.bint
) -> uint64_t:
    large: cython.pointer[Large] = home_need_large(h)
    if large == cython.NULL:
        return 0
    if size <= sizes_default().large_maximum:
        request = cython.declare(LargeRequest)
        memset(cython.address(request), 0, cython.sizeof(LargeRequest))
        request.size = most(size, sizes_default().large_minimum) if align > EXTENT_PAGE else size
        request.align = align
        request.zero = zero
        large_note_time(large, now_ns())
        address: uint64_t = large_allocate(large, t if h.shelf == cython.NULL else h.shelf, cython.address(request))
        if address or request.failure != LARGE_BAD_ALIGN:
            return address
    return span_allocate(cython.address(h.spans), size, align, False)


def home_take_back(
    h: cython.pointer[Heap],
    t: cython.pointer[LargeThread],
    address: uint64_t,
    owner: uint64_t,
    size: cython.pointer[uint64_t],
) -> cython.int:
    layer: uint32_t = owner_layer(owner)
    if layer == LAYER_PRIMARY or layer == LAYER_NONE:  # also where a region has addresses and nothing yet
        if h.config.secure:
            return home_hold(h, address, owner, size)
        return cache_deallocate_to(h.primary, address, size)
    if layer == LAYER_EXTENT:
        return extents_deallocate(h.extents, address, size)
    if layer == LAYER_LARGE:
        size[0] = large_usable_size(h.large, address)
        large_note_time(h.large, now_ns())
        return large_deallocate(h.large, t if h.shelf == cython.NULL else h.shelf, address)
    if layer == LAYER_HUGE:
        size[0] = span_size(address)
        return span_deallocate(cython.address(h.spans), address, owner)
    return FREE_FOREIGN


def home_judge(
    h: cython.pointer[Heap], address: uint64_t, owner: uint64_t, size: cython.pointer[cython.size_t]
) -> cython.int:
    """FREE_OK if a live block starts at an address, else why not; and the size of what is there, if known."""
    layer: uint32_t = owner_layer(owner)
    size_class: uint64_t = 0
    size[0] = 0
    if layer == LAYER_PRIMARY:
        reason: cython.int = primary_judge(h.primary, address, cython.address(size_class))
        size[0] = size_class
        return reason
    if layer == LAYER_EXTENT:
        size[0] = extents_usable_size(h.extents, address)
    elif layer == LAYER_LARGE:
        size[0] = large_usable_size(h.large, address)
    elif layer == LAYER_HUGE:
        size[0] = span_size(address)
    if layer == LAYER_NONE:
        return FREE_FOREIGN
    return FREE_OK if size[0] else FREE_DOUBLE


def home_resize(h: cython.pointer[Heap], address: uint64_t, owner: uint64_t, size: uint64_t) -> cython.bint:
    layer: uint32_t = owner_layer(owner)
    if layer == LAYER_EXTENT and size < sizes_default().large_minimum:
        return extents_resize_at(h.extents, address, size)
    if layer == LAYER_LARGE and size >= sizes_default().large_minimum // 2:
        return large_resize_in_place(h.large, address, size)
    return False


# ---- what a secure heap holds back ----


def home_hold(
    h: cython.pointer[Heap], address: uint64_t, owner: uint64_t, size: cython.pointer[uint64_t]
) -> cython.int:
    """Erase a freed block and keep it for a while: what still points there reads zeros, and a second free is seen."""
    held: cython.pointer[Quarantine] = cython.address(h.held)
    mutex_lock(cython.address(h.lock))
    reason: cython.int = primary_judge(h.primary, address, size)
    if reason == FREE_OK and home_holds(h, address):
        reason = FREE_DOUBLE
    if reason == FREE_OK:
        memset(cython.cast(cython.p_void, address), 0, size[0])
        home_let_go(h, HELD_BLOCKS - 1, HELD_BYTES)
        at: uint64_t = (held.first + held.blocks) % HELD_BLOCKS
        held.address[at] = address
        held.size[at] = size[0]
        held.blocks += 1
        held.bytes += size[0]
    mutex_unlock(cython.address(h.lock))
    return reason


def home_holds(h: cython.pointer[Heap], address: uint64_t) -> cython.bint:
    i: uint64_t = 0
    while i < h.held.blocks:
        if h.held.address[(h.held.first + i) % HELD_BLOCKS] == address:
            return True
        i += 1
    return False


def home_let_go(h: cython.pointer[Heap], blocks: uint64_t, bytes: uint64_t) -> cython.void:
    """Let the oldest be used again, until so many are left at most. Under the lock."""
    held: cython.pointer[Quarantine] = cython.address(h.held)
    size: uint64_t = 0
    while held.blocks > blocks or held.bytes > bytes:
        cache_deallocate_to(h.primary, held.address[held.first], cython.address(size))
        held.bytes -= held.size[held.first]
        held.blocks -= 1
        held.first = (held.first + 1) % HELD_BLOCKS


# ---- giving back ----


def home_tick(h: cython.pointer[Heap], now: uint64_t) -> cython.bint:
    """A window of the decay time ends, for every layer, top to bottom; a fork that waits goes first."""
    busy: cython.bint = False
    cache_drain_idle(h.primary, IDLE_WINDOWS, cython.address(busy))
    fork_pass()
    primary_tick(h.primary, now, cython.address(busy))
    fork_pass()
    if home_extents(h) != cython.NULL:
        extents_tick(h.extents, now, cython.address(busy))
        fork_pass()
    if home_large(h) != cython.NULL:
        large_maintain(h.large, now, False)
        fork_pass()
        busy = busy or large_dirty_bytes(h.large) > 0
    return busy


def home_purge(h: cython.pointer[Heap]) -> uint64_t:
    """Give back everything idle, now, whatever its age: what the caller's and sleeping threads' caches hold too."""
    home_let_all_go(h)
    cache_drain(h.primary)
    inside: cython.pointer[Cache] = cache_go_in(h.primary)  # a signal handler must not wait for the locks held here
    given_back: uint64_t = home_purge_small(h)
    cache_go_out(inside)
    return given_back + home_purge_rest(h)


def home_purge_quietly(h: cython.pointer[Heap]) -> uint64_t:
    """Do the same as a thread that no signal interrupts, and that needs no caches: it gets none by this."""
    home_let_all_go(h)
    return home_purge_small(h) + home_purge_rest(h)


def home_let_all_go(h: cython.pointer[Heap]) -> cython.void:
    if h.config.secure:
        mutex_lock(cython.address(h.lock))
        home_let_go(h, 0, 0)
        mutex_unlock(cython.address(h.lock))


def home_purge_small(h: cython.pointer[Heap]) -> uint64_t:
    busy: cython.bint = False
    given_back: uint64_t = 0
    now: uint64_t = now_ns()
    cache_drain_idle(h.primary, 0, cython.address(busy))
    i: uint32_t = 0
    while i < h.primary.classes:
        given_back += primary_release(h.primary, i, now, NOWHERE)
        i += 1
    return given_back


def home_purge_rest(h: cython.pointer[Heap]) -> uint64_t:
    given_back: uint64_t = 0
    if home_extents(h) != cython.NULL:
        given_back += extents_give_back(h.extents)
    if home_large(h) != cython.NULL:
        idle: uint64_t = large_dirty_bytes(h.large)
        large_maintain(h.large, now_ns(), True)
        given_back += idle - least(idle, large_dirty_bytes(h.large))
    return given_back
