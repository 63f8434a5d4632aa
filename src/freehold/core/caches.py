"""The caches of all threads: made, found, torn down, emptied from outside, counted.

Thread-safety: the lists of caches, one for each primary, have one lock. A cache is its thread's, but for claiming.
Invariants: a cache is in its primary's list from when it is made until its thread ends or its primary is closed.
Does not serve two heaps by one cache: the default heap's is found by a thread-local pointer, another heap's in the
thread's table of seats, any other primary's by search.

Claiming. Blocks in the cache of a thread that sleeps must not stay for ever, and a hit must not take a lock. So the
owner brackets each use: it points its thread-local pointer at `nobody`, and puts the pointer back when done. On the
slow path it looks in between whether it is ``claimed``. A hit does not: it compares its bin's word with `until`, or
its count with the ceiling, as it would if nobody ever claimed. Whoever wants the cache sets ``claimed``, imposes a
memory barrier on all threads (membarrier), and looks at the owner's pointer: if it is there, the owner is on no slow
path, and will wait before the next. Then the claimer shuts all bins, which fails every hit that begins later, imposes a
second barrier, and looks again: if the pointer is there, no hit is in progress either. Whenever it is away, the claimer
gives up. Only the owner opens a bin, where it next takes the slow path. It pays two plain stores; the claimer pays for
the barriers, once a tick.
A signal handler that allocates while its thread is inside finds the pointer at `nobody`, and is served from the regions
by try-locks alone. Where membarrier is missing, caches are never claimed: at most ``cache_bytes`` a sleeping thread
stay resident.

Follows: tcmalloc's thread caches; the asymmetric barrier of Dice's.
"""

import cython
from cython.cimports.freehold.core.bin import (
    BIN_BITS,
    BINS_MASK,
    CACHE_SLOTS_APART,
    CACHE_SLOTS_BYTES,
    CACHE_SLOTS_LEAST,
    CACHE_SLOTS_MOST,
    DIRECT_ENTRIES,
    Bin,
    Cache,
    bin_count,
    cache_empty,
    cache_phase,
    leave,
    load_here,
    nobody,
    store_ceiling,
    store_until,
    thread_id,
    thread_key_make,
    thread_key_set,
)
from cython.cimports.freehold.core.budget import budget_give_books, budget_take_books
from cython.cimports.freehold.core.caches import ClassCounts, thread_end_hook
from cython.cimports.freehold.core.machine import (
    add64_relaxed,
    futex_wake,
    least,
    load8_relaxed,
    load64_relaxed,
    membarrier,
    membarrier_register,
    most,
    round_up,
    should,
    store8_relaxed,
    store32_release,
    store32_seq_cst,
    store64_relaxed,
)
from cython.cimports.freehold.core.primary import (
    BLOCK_CACHED,
    BLOCK_LIVE,
    LAW_CACHED,
    LAW_CACHED_COUNT,
    PRIMARY_CLASSES,
    Primary,
    Region,
    primary_check,
    primary_lock_all,
    primary_reset,
    primary_unlock_all,
)
from cython.cimports.freehold.core.seats import SEATS, seats_end, seats_fork, seats_make
from cython.cimports.freehold.core.sizes import sizes_index
from cython.cimports.freehold.core.sync import (
    RANK_CACHES,
    RANK_REGION,
    Mutex,
    fork_cover,
    fork_nothing,
    mutex_init,
    mutex_lock,
    mutex_reset,
    mutex_unlock,
)
from cython.cimports.freehold.core.vm import vm_map, vm_unmap_metadata
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t

the_caches_lock = cython.declare(Mutex)
the_primaries = cython.declare(cython.pointer[Primary])  # all, by address; guarded by the_caches_lock
the_default_primary = cython.declare(cython.pointer[Primary])  # constant once adopted
the_spare_caches = cython.declare(cython.pointer[Cache])  # of ended threads, empty; guarded by the_caches_lock
the_spare_count = cython.declare(uint64_t)  # guarded by the_caches_lock
caches_can_be_claimed = cython.declare(cython.bint)  # constant after boot
the_thread_end_hook = cython.declare(thread_end_hook)  # constant after boot


def cache_boot() -> cython.int:
    global caches_can_be_claimed
    mutex_init(cython.address(the_caches_lock), RANK_CACHES)
    fork_cover(RANK_CACHES, cache_fork_lock, cache_fork_unlock, cache_fork_reset)
    fork_cover(RANK_REGION, fork_nothing, fork_nothing, fork_nothing)
    caches_can_be_claimed = membarrier_register() == 0
    thread_key_make(cache_thread_end)
    return 0


def cache_adopt(p: cython.pointer[Primary]) -> cython.void:
    global the_default_primary
    the_default_primary = p


def cache_default_primary() -> cython.pointer[Primary]:
    return the_default_primary


def cache_on_thread_end(hook: thread_end_hook) -> cython.void:
    global the_thread_end_hook
    the_thread_end_hook = hook


# ---- a thread's cache: made, found, torn down ----


def cache_slots(size: uint64_t, cache_bytes: uint64_t) -> uint16_t:
    if size > cache_bytes:
        return 0
    n: uint64_t = most(CACHE_SLOTS_LEAST, least(CACHE_SLOTS_BYTES // size, CACHE_SLOTS_MOST))
    return cython.cast(uint16_t, least(n, cache_bytes // size))


def cache_make(p: cython.pointer[Primary], here: cython.pointer[cython.pointer[Cache]]) -> cython.pointer[Cache]:
    """Make a cache for this thread and list it; NULL if the OS refuses. Under the caches' lock."""
    global the_spare_caches, the_spare_count
    c: cython.pointer[Cache] = cython.NULL
    if p == the_default_primary and the_spare_caches != cython.NULL:
        c = the_spare_caches
        the_spare_caches = c.next
        the_spare_count -= 1
    else:
        slots: uint64_t = 0
        i: uint32_t = 0
        while i < p.classes:
            slots += cache_slots(p.region[i].size, p.config.cache_bytes) + CACHE_SLOTS_APART
            i += 1
        at: uint64_t = 0
        bytes: uint64_t = round_up(cython.sizeof(Cache) + slots * 4, 4096)
        bytes = round_up(bytes, p.page_size)
        if not budget_take_books(p.budget, bytes):
            return cython.NULL
        if vm_map(bytes, cython.address(at)) != 0:
            budget_give_books(p.budget, bytes)
            return cython.NULL
        c = cython.cast(cython.pointer[Cache], at)
        c.bytes = bytes
        cache_describe(c, p)
    c.itself = c
    c.here = here if here != cython.NULL else cython.address(c.itself)
    c.owner = thread_id()
    c.next = cython.cast(cython.pointer[Cache], p.caches)
    p.caches = c
    return c


def cache_describe(c: cython.pointer[Cache], p: cython.pointer[Primary]) -> cython.void:
    c.primary = p
    should(cython.sizeof(Bin) == 1 << BIN_BITS and BINS_MASK == (PRIMARY_CLASSES - 1) << BIN_BITS, b"a bin is one line")
    c.bin_shift = p.config.region_bits - BIN_BITS
    c.base = p.base
    c.classes = p.classes
    # Slots of all bins at the same place in their pages would share a few sets of the processor's first cache.
    slots: cython.pointer[uint32_t] = cython.cast(
        cython.pointer[uint32_t], cython.cast(uint64_t, c) + cython.sizeof(Cache)
    )
    i: uint32_t = 0
    while i < p.classes:
        b: cython.pointer[Bin] = cython.address(c.bin[i])
        r: cython.pointer[Region] = cython.address(p.region[i])
        b.slots = slots
        b.base = r.base
        b.states = r.states
        b.multiplier = r.multiplier
        b.size = cython.cast(uint32_t, r.size)
        c.room[i] = cache_slots(r.size, p.config.cache_bytes)
        slots += c.room[i] + CACHE_SLOTS_APART
        i += 1
    i = 0
    while i < DIRECT_ENTRIES:
        b = cython.address(c.bin[sizes_index(p.sizes, i * 16)])
        c.direct[i] = cython.cast(uint16_t, cython.cast(uint64_t, b) - cython.cast(uint64_t, c))
        i += 1


def cache_default() -> cython.pointer[Cache]:
    """This thread's cache of the default heap, made at first use; NULL inside an operation and after its end."""
    global cache_phase
    c: cython.pointer[Cache] = cache_slot()[0]
    if c != nobody:
        return c
    if cache_phase != 0:
        return cython.NULL
    cache_phase = 2  # a signal handler that comes now does without
    mutex_lock(cython.address(the_caches_lock))
    c = cache_make(the_default_primary, cache_slot())
    mutex_unlock(cython.address(the_caches_lock))
    cache_phase = 0 if c == cython.NULL else 1
    if c != cython.NULL:
        thread_key_set()
        leave(cache_slot(), c)
    return c


def cache_seat(p: cython.pointer[Primary]) -> cython.pointer[cython.pointer[Cache]]:
    """Under the lock: where this thread finds its cache of another heap; NULL for a primary that is no heap's."""
    if p.config.heap >= SEATS:
        return cython.NULL
    if seats_here() == cython.NULL:
        seats_make(thread_id(), nobody)
        if seats_here() == cython.NULL:
            return cython.NULL
    return cython.cast(cython.pointer[cython.pointer[Cache]], seats_here() + p.config.heap)


def cache_find(p: cython.pointer[Primary]) -> cython.pointer[Cache]:
    """This thread's cache of some other primary, made at first use; NULL inside an operation of it."""
    if p.config.cache_bytes == 0 or cache_phase == 2:
        return cython.NULL
    mutex_lock(cython.address(the_caches_lock))
    c: cython.pointer[Cache] = cython.cast(cython.pointer[Cache], p.caches)
    while c != cython.NULL and c.owner != thread_id():
        c = c.next
    if c == cython.NULL:
        here: cython.pointer[cython.pointer[Cache]] = cache_seat(p)
        if here != cython.NULL or p.config.heap >= SEATS:
            c = cache_make(p, here)
            thread_key_set()
        if c != cython.NULL:
            leave(c.here, c)
    elif c.here[0] == nobody:
        c = cython.NULL
    mutex_unlock(cython.address(the_caches_lock))
    return c


def cache_is_listed(p: cython.pointer[Primary]) -> cython.bint:
    """Whether this thread has a cache of a primary."""
    mutex_lock(cython.address(the_caches_lock))
    c: cython.pointer[Cache] = cython.cast(cython.pointer[Cache], p.caches)
    while c != cython.NULL and c.owner != thread_id():
        c = c.next
    mutex_unlock(cython.address(the_caches_lock))
    return c != cython.NULL


def cache_retire(c: cython.pointer[Cache]) -> cython.void:
    """Empty a cache that is in no list any more, and put it away. Under the caches' lock."""
    cache_empty(c, False)
    cache_put_away(c)


def cache_put_away(c: cython.pointer[Cache]) -> cython.void:
    """Keep or unmap a cache whose blocks are no longer its own; its counts go to the regions. Under the lock."""
    global the_spare_caches, the_spare_count
    i: uint32_t = 0
    while i < c.classes:
        add64_relaxed(cython.address(c.primary.region[i].ended_allocations), c.bin[i].word >> 16)
        c.bin[i].word = 0
        c.bin[i].most = 0
        c.bin[i].ceiling = 0
        i += 1
    store64_relaxed(cython.address(c.reserved), 0)
    c.epoch = 0  # what was drawn was for counts that are gone
    c.owner = 0
    if c.primary == the_default_primary and the_spare_count < 8:
        c.next = the_spare_caches
        the_spare_caches = c
        the_spare_count += 1
    else:
        budget_give_books(c.primary.budget, c.bytes)
        vm_unmap_metadata(cython.cast(uint64_t, c), c.bytes)


def cache_thread_end(unused: cython.p_void) -> cython.void:
    """The thread ends: its blocks go back to the regions. What it still allocates after this goes there directly."""
    global cache_phase
    cache_phase = 2
    leave(cache_slot(), nobody)
    mutex_lock(cython.address(the_caches_lock))
    p: cython.pointer[Primary] = the_primaries
    while p != cython.NULL:
        link: cython.pointer[cython.pointer[Cache]] = cython.cast(
            cython.pointer[cython.pointer[Cache]], cython.address(p.caches)
        )
        while link[0] != cython.NULL:
            c: cython.pointer[Cache] = link[0]
            if c.owner == thread_id():
                link[0] = c.next
                cache_retire(c)
            else:
                link = cython.address(c.next)
        p = p.next
    seats_end()
    mutex_unlock(cython.address(the_caches_lock))
    if the_thread_end_hook != cython.NULL:
        the_thread_end_hook()


def cache_watch_thread() -> cython.void:
    thread_key_set()


def cache_thread_ended() -> cython.bint:
    return cache_phase == 2


def cache_register(p: cython.pointer[Primary]) -> cython.void:
    global the_primaries
    mutex_lock(cython.address(the_caches_lock))
    link: cython.pointer[cython.pointer[Primary]] = cython.address(the_primaries)
    while link[0] != cython.NULL and cython.cast(uint64_t, link[0]) < cython.cast(uint64_t, p):
        link = cython.address(link[0].next)
    p.next = link[0]
    link[0] = p
    mutex_unlock(cython.address(the_caches_lock))


def cache_unregister(p: cython.pointer[Primary]) -> cython.void:
    """The caller sees to it that no thread uses the primary any more."""
    global the_primaries
    mutex_lock(cython.address(the_caches_lock))
    link: cython.pointer[cython.pointer[Primary]] = cython.address(the_primaries)
    while link[0] != p:
        link = cython.address(link[0].next)
    link[0] = p.next
    while p.caches != cython.NULL:
        c: cython.pointer[Cache] = cython.cast(cython.pointer[Cache], p.caches)
        p.caches = c.next
        leave(c.here, nobody)
        cache_retire(c)
    mutex_unlock(cython.address(the_caches_lock))


# ---- claiming ----


def cache_claim(c: cython.pointer[Cache]) -> cython.bint:
    """Take a cache from its owner if it is outside. Under the caches' lock."""
    store32_seq_cst(cython.address(c.claimed), 1)
    membarrier()
    taken: cython.bint = load_here(c.here) != nobody  # then it is on no slow path, and opens no bin from here on
    if taken:
        cache_shut(c)
        membarrier()
        taken = load_here(c.here) != nobody  # nor in a hit that began before
    if not taken:
        cache_unclaim(c)
    return taken


def cache_shut(c: cython.pointer[Cache]) -> cython.void:
    """Send the owner to the slow path, whichever bin it uses next."""
    i: uint32_t = 0
    while i < c.classes:
        store_until(cython.address(c.bin[i].until), 0)
        store_ceiling(cython.address(c.bin[i].ceiling), 0)
        i += 1


def cache_shut_all() -> cython.void:
    """Send every thread to the slow path, whichever bin it allocates from next: what is sampled is drawn anew there."""
    mutex_lock(cython.address(the_caches_lock))
    p: cython.pointer[Primary] = the_primaries
    while p != cython.NULL:
        c: cython.pointer[Cache] = cython.cast(cython.pointer[Cache], p.caches)
        while c != cython.NULL:
            i: uint32_t = 0
            while i < c.classes:
                store_until(cython.address(c.bin[i].until), 0)
                i += 1
            c = c.next
        p = p.next
    mutex_unlock(cython.address(the_caches_lock))


def cache_unclaim(c: cython.pointer[Cache]) -> cython.void:
    store32_release(cython.address(c.claimed), 0)
    futex_wake(cython.address(c.claimed), 1)


def cache_drain_idle(p: cython.pointer[Primary], after_ticks: uint64_t, busy: cython.pointer[cython.bint]) -> uint64_t:
    """Empty the caches of threads that did nothing with them in the last `after_ticks` looks; this is one look."""
    blocks: uint64_t = 0
    if not caches_can_be_claimed:
        return 0
    mutex_lock(cython.address(the_caches_lock))
    c: cython.pointer[Cache] = cython.cast(cython.pointer[Cache], p.caches)
    while c != cython.NULL:
        changed: cython.bint = False
        # Also a cache that is empty now: while it has room, what its owner frees is not seen on any slow path.
        holds: cython.bint = load64_relaxed(cython.address(c.reserved)) > 0
        i: uint32_t = 0
        while i < c.classes:
            word: uint64_t = load64_relaxed(cython.address(c.bin[i].word))
            changed = changed or word != c.seen[i]
            c.seen[i] = word
            i += 1
        c.idle_ticks = 0 if changed else c.idle_ticks + 1
        if holds and c.idle_ticks >= after_ticks and c.owner != thread_id() and cache_claim(c):
            blocks += cache_empty(c, after_ticks > 0)
            cache_unclaim(c)
        elif holds:
            busy[0] = True
        c = c.next
    mutex_unlock(cython.address(the_caches_lock))
    return blocks


# ---- counting and checking ----


def cache_all_outside(p: cython.pointer[Primary]) -> cython.bint:
    """Whether no thread is in its cache of a primary of which no block is live, so that none will be again."""
    outside: cython.bint = True
    mutex_lock(cython.address(the_caches_lock))
    c: cython.pointer[Cache] = cython.cast(cython.pointer[Cache], p.caches)
    while c != cython.NULL and outside:
        if c.owner != thread_id():
            outside = caches_can_be_claimed and cache_claim(c)
            if outside:
                cache_unclaim(c)
        c = c.next
    mutex_unlock(cython.address(the_caches_lock))
    return outside


def cache_books(p: cython.pointer[Primary]) -> uint64_t:
    """Bytes of a primary's caches, those put away too: so much the budget counts for them."""
    bytes: uint64_t = 0
    mutex_lock(cython.address(the_caches_lock))
    c: cython.pointer[Cache] = cython.cast(cython.pointer[Cache], p.caches)
    while c != cython.NULL:
        bytes += c.bytes
        c = c.next
    c = the_spare_caches if p == the_default_primary else cython.NULL
    while c != cython.NULL:
        bytes += c.bytes
        c = c.next
    mutex_unlock(cython.address(the_caches_lock))
    return bytes


def cache_sum(
    p: cython.pointer[Primary], index: uint32_t, allocations: cython.pointer[uint64_t], cached: cython.pointer[uint64_t]
) -> cython.void:
    allocations[0] = load64_relaxed(cython.address(p.region[index].ended_allocations))
    cached[0] = 0
    c: cython.pointer[Cache] = cython.cast(cython.pointer[Cache], p.caches)
    while c != cython.NULL:
        word: uint64_t = load64_relaxed(cython.address(c.bin[index].word))
        allocations[0] += word >> 16
        cached[0] += bin_count(word)
        c = c.next


def cache_read_class(p: cython.pointer[Primary], index: uint32_t, into: cython.pointer[ClassCounts]) -> cython.void:
    """Count the blocks of a class. Threads that are in the midst of a hit may be off by that block."""
    r: cython.pointer[Region] = cython.address(p.region[index])
    mutex_lock(cython.address(the_caches_lock))
    mutex_lock(cython.address(r.lock))
    cache_sum(p, index, cython.address(into.allocations), cython.address(into.cached))
    into.made = r.made
    into.free = r.top + r.parked + load64_relaxed(cython.address(r.deferred))
    into.releases = r.releases
    into.unreleased_bytes = r.freed_bytes
    # A batch on its way between region and cache is in neither: it counts as cached as far as that can be told.
    into.live = least(into.made - least(into.made, into.free + into.cached), into.allocations)
    into.cached = into.made - least(into.made, into.free + into.live)
    into.mapped_bytes = r.blocks.mapped
    into.charged_bytes = r.charged
    into.purged_bytes = r.purged_pages * p.page_size
    mutex_unlock(cython.address(r.lock))
    mutex_unlock(cython.address(the_caches_lock))


def cache_check(
    p: cython.pointer[Primary], index: cython.pointer[uint32_t], number: cython.pointer[uint64_t]
) -> cython.int:
    broken: cython.int = primary_check(p, index, number)
    i: uint32_t = 0
    while i < p.classes and not broken:
        index[0] = i
        mutex_lock(cython.address(the_caches_lock))
        mutex_lock(cython.address(p.region[i].lock))
        broken = cache_check_class(p, cython.address(p.region[i]), number)
        mutex_unlock(cython.address(p.region[i].lock))
        mutex_unlock(cython.address(the_caches_lock))
        i += 1
    return broken


def cache_check_class(
    p: cython.pointer[Primary], r: cython.pointer[Region], number: cython.pointer[uint64_t]
) -> cython.int:
    cached: uint64_t = 0
    c: cython.pointer[Cache] = cython.cast(cython.pointer[Cache], p.caches)
    while c != cython.NULL:
        b: cython.pointer[Bin] = cython.address(c.bin[r.index])
        i: uint64_t = 0
        while i < bin_count(b.word):
            number[0] = b.slots[i]
            if number[0] >= r.made or load8_relaxed(cython.address(r.states[number[0]])) != BLOCK_CACHED:
                return LAW_CACHED
            i += 1
        cached += bin_count(b.word)
        c = c.next
    k: uint64_t = 0
    while k < r.made:
        cached -= load8_relaxed(cython.address(r.states[k])) == BLOCK_CACHED
        k += 1
    number[0] = cached
    return LAW_CACHED_COUNT if cached else 0


# ---- fork ----


def cache_fork_lock() -> cython.void:
    """Hold the list of caches and every region of every primary: in the order of their addresses, as the list is.

    Not those of primaries behind a gate: it is shut, so nobody holds their locks, and no page of theirs is written to.
    """
    mutex_lock(cython.address(the_caches_lock))
    p: cython.pointer[Primary] = the_primaries
    while p != cython.NULL:
        if not p.config.gated:
            primary_lock_all(p)
        p = p.next


def cache_fork_unlock() -> cython.void:
    p: cython.pointer[Primary] = the_primaries
    while p != cython.NULL:
        if not p.config.gated:
            primary_unlock_all(p)
        p = p.next
    mutex_unlock(cython.address(the_caches_lock))


def cache_fork_reset() -> cython.void:
    """In the child: the other threads are gone, at whatever point of a hit or of giving a batch they were.

    So nothing that their caches say is believed. The states are: a block that is cached and not in this thread's own
    cache becomes free. What a thread was just being handed stays live, and nobody's.
    """
    p: cython.pointer[Primary] = the_primaries
    while p != cython.NULL:
        left: cython.bint = cache_put_away_others(p)
        if left or not p.config.gated:
            cache_mark(cython.cast(cython.pointer[Cache], p.caches), BLOCK_LIVE)
            primary_reset(p, left)
            cache_mark(cython.cast(cython.pointer[Cache], p.caches), BLOCK_CACHED)
        p = p.next
    seats_fork(thread_id())
    mutex_reset(cython.address(the_caches_lock))


def cache_put_away_others(p: cython.pointer[Primary]) -> cython.bint:
    """Unlist every cache but this thread's; whether there was any."""
    found: cython.bint = False
    link: cython.pointer[cython.pointer[Cache]] = cython.cast(
        cython.pointer[cython.pointer[Cache]], cython.address(p.caches)
    )
    while link[0] != cython.NULL:
        c: cython.pointer[Cache] = link[0]
        if c.owner == thread_id():
            link = cython.address(c.next)
        else:
            link[0] = c.next
            cache_put_away(c)
            found = True
    return found


def cache_mark(c: cython.pointer[Cache], state: uint8_t) -> cython.void:
    """Set the state of every block in a cache, if there is one."""
    i: uint32_t = 0
    while c != cython.NULL and i < c.classes:
        b: cython.pointer[Bin] = cython.address(c.bin[i])
        k: uint64_t = 0
        while k < bin_count(b.word):
            store8_relaxed(cython.address(b.states[b.slots[k]]), state)
            k += 1
        i += 1
