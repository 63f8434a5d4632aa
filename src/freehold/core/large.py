"""Pools of large power-of-two blocks: a thread's own queue, then those of all, then those of other threads.

Thread-safety: everything may be called from any thread at any time; a LargeThread by one thread at a time. The queues
of a size are behind one lock: a request here is at least a megabyte, and touching that costs a thousand times more.
Invariants: those of each pool; who purges a block has taken it out of every queue before, so that no lock is held over
a purge and nobody is given a block that is being purged.
A free never fails and never allocates: a block's record is made with its area.
Does not read a clock, start a thread, or know which thread calls.
Follows: lgalloc (queues, batches, areas that grow, background clearing), with ages, and records of how far a block was
touched.
"""

import cython
from cython.cimports.freehold.core.area import (
    AreaAttempt,
    area_books,
    area_find,
    area_index,
    area_map,
    area_number,
    area_publish,
    area_unmap_all,
)
from cython.cimports.freehold.core.budget import (
    Budget,
    budget_force,
    budget_left,
    budget_open,
    budget_refuse,
    budget_take,
)
from cython.cimports.freehold.core.fault import FREE_DOUBLE, FREE_FOREIGN, FREE_INTERIOR, FREE_NEVER, FREE_OK
from cython.cimports.freehold.core.large import (
    LARGE_BAD_ALIGN,
    LARGE_BAD_CLASS,
    LARGE_DISABLED,
    LARGE_NO_ROOM,
    LARGE_OVER_LIMIT,
    LARGE_POOLS,
    LARGE_REFUSED,
    LARGE_SERVED,
    Large,
    LargeConfig,
    LargeRequest,
    LargeThread,
)
from cython.cimports.freehold.core.machine import (
    NOWHERE,
    clz,
    least,
    load64_acquire,
    load64_relaxed,
    memset,
    most,
    round_up,
    should,
    store32_release,
    store64_relaxed,
    swap32_if,
    swap64_if,
)
from cython.cimports.freehold.core.pool import (
    POOL_CLEAN,
    POOL_KEPT,
    POOL_LIVE,
    POOL_SOUND,
    POOL_USED,
    Pool,
    PoolBlock,
    PoolFinding,
    PoolQueue,
    PoolStats,
    pool_add,
    pool_blocks,
    pool_check,
    pool_detach,
    pool_insert_after,
    pool_keep,
    pool_move,
    pool_note,
    pool_older_than,
    pool_oldest,
    pool_open,
    pool_push,
    pool_read_stats,
    pool_unlock,
    pool_watch_tail,
)
from cython.cimports.freehold.core.sizes import sizes_default
from cython.cimports.freehold.core.space import LAYER_LARGE, owner_heap, owner_layer, owner_note, space_owner
from cython.cimports.freehold.core.sync import mutex_lock, mutex_reset, mutex_unlock
from cython.cimports.freehold.core.vm import (
    HUGE_NEVER,
    vm_advise_huge,
    vm_bind,
    vm_facts,
    vm_map,
    vm_purge_lazy,
    vm_purge_now,
    vm_unmap_metadata,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

# ---- open ----


def large_open(
    heap: uint64_t, config: cython.pointer[cython.const[LargeConfig]], into: cython.pointer[cython.pointer[Large]]
) -> cython.int:
    should(sizes_default().large == LARGE_POOLS, b"there is a pool for each large size")
    bytes: uint64_t = round_up(cython.sizeof(Large), vm_facts().page_size)
    at: uint64_t = 0
    error: cython.int = vm_map(bytes, cython.address(at))
    if error:
        return error
    large: cython.pointer[Large] = cython.cast(cython.pointer[Large], at)
    large.heap = heap
    large.bytes = bytes
    large.last_pass_ns = NOWHERE
    large.config.tail_decays = config.tail_decays
    large.config.huge_pages = config.huge_pages
    large.config.exact = config.exact
    large.config.node = config.node
    budget_open(cython.address(large.own), NOWHERE)
    budget: cython.pointer[Budget] = config.budget if config.budget != cython.NULL else cython.address(large.own)
    large.config.budget = budget
    large_configure(large, config)
    i: uint32_t = 0
    while i < LARGE_POOLS:
        pool_open(cython.address(large.pool[i]), sizes_default().large_minimum << i, budget)
        i += 1
    into[0] = large
    return 0


def large_configure(large: cython.pointer[Large], config: cython.pointer[cython.const[LargeConfig]]) -> cython.void:
    store64_relaxed(cython.address(large.config.enabled), config.enabled)
    store64_relaxed(cython.address(large.config.interval_ns), config.interval_ns)
    store64_relaxed(cython.address(large.config.clear_bytes), config.clear_bytes)
    store64_relaxed(cython.address(large.config.eager_return), config.eager_return)
    store64_relaxed(cython.address(large.config.growth_dampener), config.growth_dampener)
    store64_relaxed(cython.address(large.config.local_buffer_bytes), config.local_buffer_bytes)
    store64_relaxed(cython.address(large.config.decay_ns), config.decay_ns)
    store64_relaxed(cython.address(large.config.lazy_clear), config.lazy_clear)
    store64_relaxed(cython.address(large.config.used_idle_ns), config.used_idle_ns)


def large_note_time(large: cython.pointer[Large], now_ns: uint64_t) -> uint64_t:
    seen: uint64_t = large_now(large)
    while seen < now_ns:
        if swap64_if(cython.address(large.now_ns), cython.address(seen), now_ns):
            return now_ns
    return seen


def large_now(large: cython.pointer[Large]) -> uint64_t:
    return load64_relaxed(cython.address(large.now_ns))


def large_thread_open(large: cython.pointer[Large]) -> cython.pointer[LargeThread]:
    """Use the record of a thread that has ended, or make one."""
    first: uint64_t = load64_acquire(cython.address(large.threads))
    t: cython.pointer[LargeThread] = cython.cast(cython.pointer[LargeThread], first)
    while t != cython.NULL:
        free: uint32_t = 0
        if swap32_if(cython.address(t.in_use), cython.address(free), 1):
            return t
        t = t.next
    at: uint64_t = 0
    if vm_map(round_up(cython.sizeof(LargeThread), vm_facts().page_size), cython.address(at)) != 0:
        return cython.NULL
    t = cython.cast(cython.pointer[LargeThread], at)
    t.in_use = 1
    t.next = cython.cast(cython.pointer[LargeThread], first)
    while not swap64_if(cython.address(large.threads), cython.address(first), at):
        t.next = cython.cast(cython.pointer[LargeThread], first)
    return t


# ---- allocate ----


def large_pool_for(size: uint64_t) -> uint32_t:
    """Which pool serves a size: none serves up to half the smallest block, or above the largest."""
    minimum: uint64_t = sizes_default().large_minimum
    if size <= minimum // 2 or size > sizes_default().large_maximum:
        return LARGE_POOLS
    return 0 if size <= minimum else clz(minimum) - clz(size - 1) + 1


def large_fail(q: cython.pointer[LargeRequest], failure: uint64_t) -> uint64_t:
    q.failure = failure
    return 0


def large_allocate(
    large: cython.pointer[Large], t: cython.pointer[LargeThread], q: cython.pointer[LargeRequest]
) -> uint64_t:
    i: uint32_t = large_pool_for(q.size)
    q.failure = LARGE_SERVED
    if i == LARGE_POOLS:
        return large_fail(q, LARGE_BAD_CLASS)
    pool: cython.pointer[Pool] = cython.address(large.pool[i])
    if q.align & (q.align - 1) or q.align > pool.size:
        return large_fail(q, LARGE_BAD_ALIGN)
    if not load64_relaxed(cython.address(large.config.enabled)):
        return large_fail(q, LARGE_DISABLED)
    own: cython.pointer[PoolQueue] = cython.NULL if t == cython.NULL else cython.address(t.queue[i])
    mutex_lock(cython.address(pool.lock))
    pool.stats.allocations += 1
    b: cython.pointer[PoolBlock] = large_take(large, pool, own, q)
    if b == cython.NULL:
        pool.stats.slow_path += 1
    pool_unlock(pool)
    if b == cython.NULL and q.failure != LARGE_OVER_LIMIT:
        b = large_refill(large, pool, own, q)
    if b == cython.NULL:
        return 0
    q.failure = LARGE_SERVED
    q.capacity = pool.size
    if q.zero and not q.clean:
        large_zero(large, pool, b, q)
    return b.address


def large_take(
    large: cython.pointer[Large],
    pool: cython.pointer[Pool],
    own: cython.pointer[PoolQueue],
    q: cython.pointer[LargeRequest],
) -> cython.pointer[PoolBlock]:
    """Under the lock: hand out the newest of the thread's own, else the oldest of all others'.

    NULL: there is none, or the budget has no room for what would be touched of it.
    """
    b: cython.pointer[PoolBlock] = cython.NULL
    if own != cython.NULL and own.length > 0:
        b = own.newest
    else:
        b = large_fetch(large, pool, own)
    if b != cython.NULL and not large_hand_out(large, pool, b, q):
        large_return_unserved(pool, own, b)
        large_fail(q, LARGE_OVER_LIMIT)
        return cython.NULL
    return b


def large_return_unserved(
    pool: cython.pointer[Pool], own: cython.pointer[PoolQueue], b: cython.pointer[PoolBlock]
) -> cython.void:
    """A block that was taken out of its queue for a request, and not handed out, waits again."""
    if b.queue != cython.NULL:
        return
    if b.place == POOL_KEPT:
        pool_keep(pool, own, pool_older_than(own, b), b)
    else:
        pool_insert_after(
            cython.address(pool.used) if b.place == POOL_USED else cython.address(pool.clean), cython.NULL, b
        )


def large_fetch(
    large: cython.pointer[Large], pool: cython.pointer[Pool], own: cython.pointer[PoolQueue]
) -> cython.pointer[PoolBlock]:
    """Find a block for a thread that has none: used, else clean, else another thread's; and bring some more along."""
    place: uint32_t = POOL_USED
    while place <= POOL_KEPT and pool_oldest(pool, place, own) == cython.NULL:
        place += 1
    if place > POOL_KEPT:
        return cython.NULL
    b: cython.pointer[PoolBlock] = pool_oldest(pool, place, own)
    if own == cython.NULL:
        return b
    pool_detach(pool, b)  # so that the rest of the batch is what comes after it
    batch: uint64_t = load64_relaxed(cython.address(large.config.local_buffer_bytes)) // pool.size // 2
    while batch > 1:
        more: cython.pointer[PoolBlock] = pool_oldest(pool, place, own)
        if more == cython.NULL:
            break
        pool_detach(pool, more)
        pool_move(pool, more, POOL_KEPT)
        pool_keep(pool, own, pool_older_than(own, more), more)
        batch -= 1
    return b


def large_hand_out(
    large: cython.pointer[Large],
    pool: cython.pointer[Pool],
    b: cython.pointer[PoolBlock],
    q: cython.pointer[LargeRequest],
) -> cython.bint:
    asked: uint64_t = large_asked(large, pool, q.size)
    touched: uint64_t = most(b.touched, large_extent(large, pool, asked))
    if not budget_take(pool.budget, touched - b.touched):
        return False
    q.dirty = b.touched
    q.clean = b.touched == 0
    pool_detach(pool, b)
    pool_move(pool, b, POOL_LIVE)
    pool_note(pool, b, touched, asked)
    pool_watch_tail(pool, b, large_now(large))
    b.handed_out = 1
    return True


def large_zero(
    large: cython.pointer[Large],
    pool: cython.pointer[Pool],
    b: cython.pointer[PoolBlock],
    q: cython.pointer[LargeRequest],
) -> cython.void:
    """Make a block read 0 that is live, and not yet anybody's: give its pages back, so that it stays lazy."""
    if vm_purge_now(b.address, q.dirty) != 0:
        memset(cython.cast(cython.p_void, b.address), 0, least(q.dirty, large_asked(large, pool, q.size)))
        return
    mutex_lock(cython.address(pool.lock))
    # A purge of everything may have taken the tail meanwhile: what the budget does not count is not counted again.
    pool_note(pool, b, least(b.touched, large_extent(large, pool, b.asked)), b.asked)
    pool_watch_tail(pool, b, large_now(large))
    pool_unlock(pool)


# ---- refill ----


def large_refill(
    large: cython.pointer[Large],
    pool: cython.pointer[Pool],
    own: cython.pointer[PoolQueue],
    q: cython.pointer[LargeRequest],
) -> cython.pointer[PoolBlock]:
    """All was empty: one thread at a time adds an area, after looking again. NULL: it can not, and tells why."""
    mutex_lock(cython.address(pool.refill))
    mutex_lock(cython.address(pool.lock))
    b: cython.pointer[PoolBlock] = large_take(large, pool, own, q)
    pool_unlock(pool)
    if b == cython.NULL and q.failure != LARGE_OVER_LIMIT:
        b = large_grow(large, pool, q)
    mutex_unlock(cython.address(pool.refill))
    return b


def large_grow(
    large: cython.pointer[Large], pool: cython.pointer[Pool], q: cython.pointer[LargeRequest]
) -> cython.pointer[PoolBlock]:
    """Add an area, unless its first block is over the limit; hand that out, and let all threads have the rest."""
    if budget_left(pool.budget) < large_extent(large, pool, large_asked(large, pool, q.size)):
        budget_refuse(pool.budget)
        large_fail(q, LARGE_OVER_LIMIT)
        return cython.NULL
    attempt = cython.declare(AreaAttempt)
    area_map(pool, load64_relaxed(cython.address(large.config.growth_dampener)), cython.address(attempt))
    if attempt.area == cython.NULL:
        large_fail(q, LARGE_OVER_LIMIT if attempt.over_limit else LARGE_REFUSED if attempt.os_error else LARGE_NO_ROOM)
        q.os_error = attempt.os_error
        q.os_call = attempt.os_call
        return cython.NULL
    if large.config.huge_pages:
        large_advise(large, attempt.area.base, attempt.area.blocks * pool.size)
    if large.config.node >= 0:
        vm_bind(attempt.area.base, attempt.area.blocks * pool.size, cython.cast(cython.int, large.config.node))
    area_publish(pool, attempt.area, large.heap, pool - cython.address(large.pool[0]), large_now(large))
    b: cython.pointer[PoolBlock] = pool_blocks(attempt.area)
    mutex_lock(cython.address(pool.lock))
    pool_add(pool, attempt.area)
    if not large_hand_out(large, pool, b, q):
        large_fail(q, LARGE_OVER_LIMIT)
        b = cython.NULL
    pool_unlock(pool)
    return b


def large_advise(large: cython.pointer[Large], base: uint64_t, size: uint64_t) -> cython.void:
    """Ask for huge pages. A refusal is remembered, for whoever can say so, and changes nothing else."""
    refused: cython.int = vm_advise_huge(base, size)
    none: uint64_t = 0
    if refused:
        swap64_if(cython.address(large.huge_refused), cython.address(none), refused)


# ---- what an address is, and how much of a block is whose ----


def large_find(
    large: cython.pointer[Large], address: uint64_t, into: cython.pointer[cython.pointer[Pool]]
) -> cython.pointer[PoolBlock]:
    """The record of the block around any address at all; NULL if none of ours is there. Takes no lock."""
    owner: uint64_t = space_owner(address)
    if owner_layer(owner) != LAYER_LARGE or owner_heap(owner) != large.heap:
        return cython.NULL
    into[0] = cython.address(large.pool[area_index(owner_note(owner))])
    return area_find(into[0], area_number(owner_note(owner)), address)


def large_block_start(large: cython.pointer[Large], address: uint64_t) -> uint64_t:
    pool: cython.pointer[Pool] = cython.NULL
    b: cython.pointer[PoolBlock] = large_find(large, address, cython.address(pool))
    return 0 if b == cython.NULL else b.address


def large_usable_size(large: cython.pointer[Large], address: uint64_t) -> uint64_t:
    pool: cython.pointer[Pool] = cython.NULL
    b: cython.pointer[PoolBlock] = large_find(large, address, cython.address(pool))
    if b == cython.NULL or b.address != address:
        return 0
    mutex_lock(cython.address(pool.lock))
    usable: uint64_t = b.asked if b.place == POOL_LIVE else 0
    mutex_unlock(cython.address(pool.lock))
    return usable


def large_resize_in_place(large: cython.pointer[Large], address: uint64_t, size: uint64_t) -> cython.bint:
    """Let a live block hold `size` bytes, if its capacity does, and nobody is purging what it would grow into."""
    pool: cython.pointer[Pool] = cython.NULL
    b: cython.pointer[PoolBlock] = large_find(large, address, cython.address(pool))
    if b == cython.NULL or b.address != address or size > pool.size:
        return False
    asked: uint64_t = large_asked(large, pool, most(size, 1))
    mutex_lock(cython.address(pool.lock))
    fits: cython.bint = b.place == POOL_LIVE and not (b.taken and asked > b.asked)
    touched: uint64_t = most(b.touched, large_extent(large, pool, asked))
    fits = fits and budget_take(pool.budget, touched - b.touched)
    if fits:
        pool_note(pool, b, touched, asked)
        pool_watch_tail(pool, b, large_now(large))
    pool_unlock(pool)
    return fits


def large_asked(large: cython.pointer[Large], pool: cython.pointer[Pool], size: uint64_t) -> uint64_t:
    """What of a block is the caller's who asked for `size` of it: all, or the pages asked for where tails decay."""
    if not large.config.tail_decays:
        return pool.size
    pages: uint64_t = round_up(size, vm_facts().page_size)
    return large_extent(large, pool, pages) if large.config.exact else pages


def large_extent(large: cython.pointer[Large], pool: cython.pointer[Pool], asked: uint64_t) -> uint64_t:
    """How far a block may become resident when its first `asked` bytes are touched: a fault may map a huge page."""
    huge: uint64_t = vm_facts().huge_page_size
    if not large.config.huge_pages or vm_facts().huge_page_mode == HUGE_NEVER or huge == 0 or huge > pool.size:
        return asked
    return round_up(asked, huge)


# ---- deallocate ----


def large_deallocate(large: cython.pointer[Large], t: cython.pointer[LargeThread], address: uint64_t) -> cython.int:
    pool: cython.pointer[Pool] = cython.NULL
    b: cython.pointer[PoolBlock] = large_find(large, address, cython.address(pool))
    if b == cython.NULL:
        return FREE_FOREIGN
    if b.address != address:
        return FREE_INTERIOR
    own: cython.pointer[PoolQueue] = cython.NULL
    if t != cython.NULL:
        own = cython.address(t.queue[pool - cython.address(large.pool[0])])
    reason: cython.int = FREE_OK
    mutex_lock(cython.address(pool.lock))
    if b.place != POOL_LIVE:
        reason = FREE_DOUBLE if b.handed_out else FREE_NEVER
    else:
        pool.stats.deallocations += 1
        # A tail that was purged before the caller touched the page it shares may have come with that huge page.
        touched: uint64_t = most(b.touched, large_extent(large, pool, b.asked))
        budget_force(pool.budget, touched - b.touched)
        pool_note(pool, b, touched, b.asked)
        large_accept(large, pool, own, b)
    pool_unlock(pool)
    return reason


def large_accept(
    large: cython.pointer[Large],
    pool: cython.pointer[Pool],
    own: cython.pointer[PoolQueue],
    b: cython.pointer[PoolBlock],
) -> cython.void:
    """Under the lock, which an eager return drops meanwhile: let a block that came back wait where it belongs."""
    room: uint64_t = load64_relaxed(cython.address(large.config.local_buffer_bytes)) // pool.size
    pool_detach(pool, b)
    b.idle_since = large_now(large)
    if b.taken:  # its tail is being purged: whoever does so puts it into the queue
        pool_move(pool, b, POOL_USED)
    elif own != cython.NULL and own.length < room:
        pool_move(pool, b, POOL_KEPT)
        pool_keep(pool, own, own.newest, b)
    else:
        pool_move(pool, b, POOL_USED)
        if load64_relaxed(cython.address(large.config.eager_return)):
            large_return_eagerly(pool, b)
        pool_push(cython.address(pool.used), b)


def large_return_eagerly(pool: cython.pointer[Pool], b: cython.pointer[PoolBlock]) -> cython.void:
    b.taken = 1
    touched: uint64_t = b.touched
    pool_unlock(pool)
    error: cython.int = vm_purge_now(b.address, touched)
    mutex_lock(cython.address(pool.lock))
    b.taken = 0
    if error:
        pool.stats.refused += 1
    else:
        pool.stats.clear_eager += 1
        pool_note(pool, b, 0, b.asked)


def large_thread_end(large: cython.pointer[Large], t: cython.pointer[LargeThread]) -> cython.void:
    i: uint32_t = 0
    while i < LARGE_POOLS:
        pool: cython.pointer[Pool] = cython.address(large.pool[i])
        mutex_lock(cython.address(pool.lock))
        while t.queue[i].length > 0:
            b: cython.pointer[PoolBlock] = t.queue[i].oldest
            pool_detach(pool, b)
            pool_move(pool, b, POOL_USED)
            pool_push(cython.address(pool.used), b)
        pool_unlock(pool)
        i += 1
    store32_release(cython.address(t.in_use), 0)


# ---- giving back ----


def large_maintain(large: cython.pointer[Large], now_ns: uint64_t, force: cython.bint) -> uint64_t:
    now: uint64_t = large_note_time(large, now_ns)
    if not large_pass_is_due(large, now, force):
        return 0
    cleared: uint64_t = 0
    i: uint32_t = 0
    while i < LARGE_POOLS:
        if load64_acquire(cython.address(large.pool[i].published)):
            cleared += large_maintain_pool(large, cython.address(large.pool[i]), force)
        i += 1
    return cleared


def large_pass_is_due(large: cython.pointer[Large], now: uint64_t, force: cython.bint) -> cython.bint:
    """Of several threads that ask at one time, one is told yes."""
    last: uint64_t = load64_relaxed(cython.address(large.last_pass_ns))
    interval: uint64_t = load64_relaxed(cython.address(large.config.interval_ns))
    if not force and last != NOWHERE and now - least(now, last) < interval:
        return False
    return swap64_if(cython.address(large.last_pass_ns), cython.address(last), now) or force


def large_maintain_pool(large: cython.pointer[Large], pool: cython.pointer[Pool], force: cython.bint) -> uint64_t:
    clear_bytes: uint64_t = load64_relaxed(cython.address(large.config.clear_bytes))
    decay: uint64_t = load64_relaxed(cython.address(large.config.decay_ns))
    used_idle: uint64_t = load64_relaxed(cython.address(large.config.used_idle_ns))
    budget: uint64_t = clear_bytes // pool.size + (clear_bytes % pool.size != 0)
    if force:
        decay = 0
        used_idle = 0
        budget = NOWHERE
    cleared: uint64_t = large_clear(large, pool, POOL_USED, used_idle, cython.address(budget))
    cleared += large_clear(large, pool, POOL_KEPT, decay, cython.address(budget))
    large_trim_tails(large, pool, decay)
    return cleared


def large_clear(
    large: cython.pointer[Large],
    pool: cython.pointer[Pool],
    place: uint32_t,
    age: uint64_t,
    budget: cython.pointer[uint64_t],
) -> uint64_t:
    """Move blocks that are idle for `age` from a place to the clean queue, oldest first, purging each on its way."""
    cleared: uint64_t = 0
    refused = cython.declare(PoolQueue)
    memset(cython.address(refused), 0, cython.sizeof(PoolQueue))
    mutex_lock(cython.address(pool.lock))
    left: uint64_t = least(budget[0], pool.count[place])  # what others free meanwhile is for the next pass
    while left > 0:
        b: cython.pointer[PoolBlock] = large_take_out(large, pool, place, age)
        if b == cython.NULL:
            break
        left -= 1
        budget[0] -= 1
        touched: uint64_t = b.touched
        pool_unlock(pool)
        error: cython.int = large_purge(large, b.address, cython.address(touched))
        mutex_lock(cython.address(pool.lock))
        if error:
            pool.stats.refused += 1
            pool_move(pool, b, POOL_USED)
            pool_push(cython.address(refused), b)
            continue
        b.taken = 0
        cleared += 1
        pool.stats.clear_slow += 1
        pool_note(pool, b, touched, b.asked)
        pool_move(pool, b, POOL_CLEAN)
        pool_push(cython.address(pool.clean), b)
    large_put_back(pool, cython.address(refused))
    pool_unlock(pool)
    return cleared


def large_take_out(
    large: cython.pointer[Large], pool: cython.pointer[Pool], place: uint32_t, age: uint64_t
) -> cython.pointer[PoolBlock]:
    """Under the lock: make the oldest block of a place the caller's to purge; NULL if it is not that old."""
    b: cython.pointer[PoolBlock] = pool_oldest(pool, place, cython.NULL)
    if b == cython.NULL or large_now(large) - b.idle_since < age:
        return cython.NULL
    pool_detach(pool, b)
    b.taken = 1
    return b


def large_purge(large: cython.pointer[Large], address: uint64_t, touched: cython.pointer[uint64_t]) -> cython.int:
    """Purge what was touched of a block, if anything; tell how much of it may still be resident."""
    if touched[0] == 0:
        return 0
    if load64_relaxed(cython.address(large.config.lazy_clear)):
        return vm_purge_lazy(address, touched[0])
    error: cython.int = vm_purge_now(address, touched[0])
    if not error:
        touched[0] = 0
    return error


def large_put_back(pool: cython.pointer[Pool], refused: cython.pointer[PoolQueue]) -> cython.void:
    """Under the lock: let blocks that the OS did not purge be the first ones the next pass tries."""
    while refused.length > 0:
        b: cython.pointer[PoolBlock] = refused.newest
        pool_detach(pool, b)
        b.taken = 0
        pool_insert_after(cython.address(pool.used), cython.NULL, b)


def large_trim_tails(large: cython.pointer[Large], pool: cython.pointer[Pool], age: uint64_t) -> cython.void:
    """Purge live blocks' tails that have been idle for `age`, oldest first."""
    mutex_lock(cython.address(pool.lock))
    left: uint64_t = pool.tails.length
    while left > 0 and pool.tails.length > 0 and large_now(large) - pool.tails.oldest.idle_since >= age:
        left -= 1
        large_trim(large, pool, pool.tails.oldest, pool.tails.oldest.asked)
    pool_unlock(pool)


def large_trim(
    large: cython.pointer[Large], pool: cython.pointer[Pool], b: cython.pointer[PoolBlock], start: uint64_t
) -> cython.void:
    """Under the lock, dropped meanwhile: purge a live block from `start` on. It may shrink or be freed, not grow."""
    size: uint64_t = b.touched - start
    pool_detach(pool, b)
    b.taken = 1
    pool_unlock(pool)
    error: cython.int = vm_purge_now(b.address + start, size)
    mutex_lock(cython.address(pool.lock))
    b.taken = 0
    if error:
        pool.stats.refused += 1
    elif b.place == POOL_LIVE:
        pool_note(pool, b, start, b.asked)
    if b.place == POOL_LIVE:
        pool_watch_tail(pool, b, large_now(large))
    else:
        pool_push(cython.address(pool.used), b)


# ---- accounting ----


def large_dirty_bytes(large: cython.pointer[Large]) -> uint64_t:
    stats = cython.declare(PoolStats)
    dirty: uint64_t = 0
    i: uint32_t = 0
    while i < LARGE_POOLS:
        large_read_stats(large, i, cython.address(stats))
        dirty += stats.touched_bytes + stats.tail_bytes
        i += 1
    return dirty


def large_live(large: cython.pointer[Large], bytes: cython.pointer[uint64_t]) -> uint64_t:
    stats = cython.declare(PoolStats)
    blocks: uint64_t = 0
    bytes[0] = 0
    i: uint32_t = 0
    while i < LARGE_POOLS:
        large_read_stats(large, i, cython.address(stats))
        blocks += stats.live
        bytes[0] += stats.live * stats.size
        i += 1
    return blocks


def large_read_stats(large: cython.pointer[Large], index: uint32_t, into: cython.pointer[PoolStats]) -> cython.void:
    pool_read_stats(cython.address(large.pool[index]), into)


def large_huge_refused(large: cython.pointer[Large]) -> cython.int:
    return cython.cast(cython.int, load64_relaxed(cython.address(large.huge_refused)))


def large_check(large: cython.pointer[Large], finding: cython.pointer[PoolFinding]) -> cython.int:
    law: cython.int = POOL_SOUND
    i: uint32_t = 0
    while i < LARGE_POOLS and law == POOL_SOUND:
        mutex_lock(cython.address(large.pool[i].lock))
        law = pool_check(cython.address(large.pool[i]), finding)
        mutex_unlock(cython.address(large.pool[i].lock))
        i += 1
    return law


def large_vacate(large: cython.pointer[Large]) -> cython.void:
    i: uint32_t = 0
    while i < LARGE_POOLS:
        pool: cython.pointer[Pool] = cython.address(large.pool[i])
        mutex_lock(cython.address(pool.lock))
        a: uint64_t = load64_acquire(cython.address(pool.published))
        while a > 0:
            a -= 1
            k: uint64_t = 0
            while k < pool.area[a].blocks:
                b: cython.pointer[PoolBlock] = pool_blocks(pool.area[a]) + k
                if b.place == POOL_LIVE and b.touched and not b.taken:
                    large_trim(large, pool, b, 0)
                k += 1
        pool_unlock(pool)
        i += 1


def large_books(large: cython.pointer[Large]) -> uint64_t:
    bytes: uint64_t = 0
    i: uint32_t = 0
    while i < LARGE_POOLS:
        mutex_lock(cython.address(large.pool[i].refill))
        bytes += area_books(cython.address(large.pool[i]))
        mutex_unlock(cython.address(large.pool[i].refill))
        i += 1
    return bytes


# ---- fork, and the end ----


def large_lock_all(large: cython.pointer[Large]) -> cython.void:
    i: uint32_t = 0
    while i < LARGE_POOLS:
        mutex_lock(cython.address(large.pool[i].refill))
        i += 1
    i = 0
    while i < LARGE_POOLS:
        mutex_lock(cython.address(large.pool[i].lock))
        i += 1


def large_unlock_all(large: cython.pointer[Large]) -> cython.void:
    i: uint32_t = LARGE_POOLS
    while i > 0:
        i -= 1
        mutex_unlock(cython.address(large.pool[i].lock))
        mutex_unlock(cython.address(large.pool[i].refill))


def large_reset(large: cython.pointer[Large]) -> cython.void:
    """In a forked child. What another thread was purging then stays taken: a block or two, never handed out again."""
    i: uint32_t = 0
    while i < LARGE_POOLS:
        mutex_reset(cython.address(large.pool[i].lock))
        mutex_reset(cython.address(large.pool[i].refill))
        i += 1


def large_close(large: cython.pointer[Large]) -> cython.void:
    i: uint32_t = 0
    while i < LARGE_POOLS:
        area_unmap_all(cython.address(large.pool[i]))
        i += 1
    t: cython.pointer[LargeThread] = cython.cast(
        cython.pointer[LargeThread], load64_acquire(cython.address(large.threads))
    )
    while t != cython.NULL:
        next: cython.pointer[LargeThread] = t.next
        vm_unmap_metadata(cython.cast(uint64_t, t), round_up(cython.sizeof(LargeThread), vm_facts().page_size))
        t = next
    vm_unmap_metadata(cython.cast(uint64_t, large), large.bytes)
