"""All heaps there are: opening, closing, the reclaim thread's round of them, fork.

Thread-safety: whoever works in a heap but the default one passes a gate, which closing and forking shut: no thread is
in the midst of anything then, all those heaps' locks are free, and a fork neither takes them nor writes to their pages.
A hit in a thread's cache passes no gate. The reclaim thread does not either: it marks the heap that it visits, lets
forks pass between two steps, and whoever closes a heap waits for it.
Invariants: a heap is in the table and in the list, or in neither; ids are used again.
Does not serve requests.
Follows: jemalloc's list of arenas and its handlers of fork, without a lock of each arena in them.
"""

import cython
from cython.cimports.freehold.core.account import (
    HeapStats,
    account_add,
    account_add_process,
    account_live,
    account_read,
    account_settle,
)
from cython.cimports.freehold.core.arena import arenas_home
from cython.cimports.freehold.core.arenamake import arenas_lock, arenas_reset, arenas_unlock
from cython.cimports.freehold.core.bin import thread_id
from cython.cimports.freehold.core.budget import Budget, budget_books, budget_used
from cython.cimports.freehold.core.cache import cache_on_activity
from cython.cimports.freehold.core.caches import cache_adopt, cache_all_outside
from cython.cimports.freehold.core.extentbook import extents_lock_all, extents_reset, extents_unlock_all
from cython.cimports.freehold.core.gate import Gate, gate_enter, gate_leave, gate_open, gate_shut
from cython.cimports.freehold.core.heaps import HEAP_BUSY, WORTH_A_THREAD, at_fork
from cython.cimports.freehold.core.home import (
    HEAP_ID,
    HOME_NAME_WORDS,
    Heap,
    HeapConfig,
    home_close,
    home_make_all,
    home_open,
    home_purge,
    home_purge_quietly,
    home_tick,
    home_vacate,
)
from cython.cimports.freehold.core.idle import IDLE_WINDOWS
from cython.cimports.freehold.core.large import large_lock_all, large_reset, large_unlock_all
from cython.cimports.freehold.core.machine import (
    EAGAIN,
    NOWHERE,
    add32_release,
    close,
    futex_wait,
    futex_wake,
    least,
    load32_acquire,
    load64_acquire,
    load64_relaxed,
    memset,
    most,
    must,
    now_ns,
    round_up,
    store32_release,
    store64_release,
)
from cython.cimports.freehold.core.profile import (
    DUMP_ASKED,
    PROFILE_HEAPS,
    PROFILE_INTERVAL,
    ProfileHeap,
    ProfileHeaps,
    profile_begin,
    profile_boot,
    profile_end,
    profile_write,
)
from cython.cimports.freehold.core.publish import (
    publish_begin,
    publish_bell,
    publish_boot,
    publish_end,
    publish_forget,
    publish_heap,
    publish_is_wanted,
    publish_note_purge,
    publish_profile,
    publish_profile_file,
    publish_profile_over,
    publish_ranges,
    publish_takes_map,
    publish_takes_profile,
    publish_takes_purge,
)
from cython.cimports.freehold.core.reclaim import reclaim_boot, reclaim_hasten, reclaim_listen, reclaim_poke
from cython.cimports.freehold.core.sampling import sampling_forget_heap, sampling_tables
from cython.cimports.freehold.core.seats import SEATS
from cython.cimports.freehold.core.space import space_lock, space_reset, space_unlock
from cython.cimports.freehold.core.sync import (
    RANK_ARENA,
    RANK_EXTENTS,
    RANK_HEAP,
    RANK_HEAPS,
    RANK_INSTALL,
    RANK_LARGE,
    RANK_LARGE_REFILL,
    RANK_LEAF,
    RANK_PAGES,
    RANK_SPACE,
    Mutex,
    fork_before,
    fork_cover,
    fork_in_child,
    fork_in_parent,
    fork_nothing,
    fork_pass,
    fork_uncovered,
    mutex_init,
    mutex_lock,
    mutex_reset,
    mutex_unlock,
)
from cython.cimports.freehold.core.vm import vm_facts, vm_map, vm_unmap_metadata
from cython.cimports.libc.stdint import uint32_t, uint64_t

the_default_heap = cython.declare(Heap)
the_heaps_lock = cython.declare(Mutex)
the_heaps = cython.declare(cython.pointer[Heap])  # by id; guarded by the_heaps_lock
the_heap_of = cython.declare(uint64_t[SEATS])  # each heap by its id, as a number; 0: none; atomic
the_ids_taken = cython.declare(cython.bint[SEATS])  # guarded by the_heaps_lock
the_gate = cython.declare(Gate)
the_demand_ns = cython.declare(uint64_t)  # when a profile that a reader asked for ends; 0: none. The reclaim thread's

# ---- boot ----


def heaps_boot(config: cython.pointer[cython.const[HeapConfig]]) -> cython.int:
    mutex_init(cython.address(the_heaps_lock), RANK_HEAPS)
    publish_boot()
    profile_boot(heaps_describe)
    if publish_is_wanted():
        reclaim_listen(publish_bell, heaps_publish)
    reclaim_boot(heaps_tick, heaps_interval(config.decay_ns))
    h: cython.pointer[Heap] = cython.address(the_default_heap)
    error: cython.int = home_open(h, HEAP_ID, config)
    if not error:
        error = home_make_all(h)
    if error:
        return error
    cache_adopt(h.primary)
    the_ids_taken[HEAP_ID] = True
    the_heap_of[HEAP_ID] = cython.cast(uint64_t, h)
    global the_heaps
    the_heaps = h
    cache_on_activity(reclaim_poke)
    heaps_cover_fork()
    return 0


def heaps_cover_fork() -> cython.void:
    """Say for each rank how its locks are held across a fork. Those of the default heap; the gate is for all others."""
    fork_cover(RANK_INSTALL, fork_nothing, fork_nothing, fork_nothing)  # the faces': Python holds the GIL when it forks
    fork_cover(RANK_HEAPS, heaps_fork_lock, heaps_fork_unlock, heaps_fork_reset)
    fork_cover(RANK_HEAP, heaps_fork_lock_home, heaps_fork_unlock_home, heaps_fork_reset_home)
    fork_cover(RANK_LARGE_REFILL, heaps_fork_lock_large, heaps_fork_unlock_large, heaps_fork_reset_large)
    fork_cover(RANK_LARGE, fork_nothing, fork_nothing, fork_nothing)  # with those of the refills
    fork_cover(RANK_EXTENTS, heaps_fork_lock_extents, heaps_fork_unlock_extents, heaps_fork_reset_extents)
    fork_cover(RANK_PAGES, fork_nothing, fork_nothing, fork_nothing)  # with the extents
    fork_cover(RANK_ARENA, heaps_fork_lock_arenas, heaps_fork_unlock_arenas, heaps_fork_reset_arenas)
    fork_cover(RANK_SPACE, space_lock, space_unlock, space_reset)
    fork_cover(RANK_LEAF, fork_nothing, fork_nothing, fork_nothing)  # tests alone have one
    must(fork_uncovered() == 0, b"each rank of locks says how it is held across a fork")
    at_fork(fork_before, fork_in_parent, fork_in_child)


def heaps_interval(decay_ns: uint64_t) -> uint64_t:
    """How often to look for what has been idle so long; 0: never."""
    return 0 if decay_ns == NOWHERE else most(decay_ns // IDLE_WINDOWS, 1_000_000)


def heaps_default() -> cython.pointer[Heap]:
    return cython.address(the_default_heap)


def heaps_may_idle() -> cython.bint:
    """Approximate: a small program, of which there are many, shall not pay for a thread that has nothing to give.

    No lock is taken: this may be a signal handler, in a thread that holds it.
    """
    others: uint64_t = load64_relaxed(cython.cast(cython.pointer[uint64_t], cython.address(the_default_heap.next)))
    b: cython.pointer[Budget] = cython.address(the_default_heap.budget)
    return others != 0 or budget_used(b) - least(budget_used(b), budget_books(b)) >= WORTH_A_THREAD


# ---- who is there, and who is inside ----


def heaps_find(id: uint64_t) -> cython.pointer[Heap]:
    if id >= SEATS:
        return cython.NULL
    return cython.cast(cython.pointer[Heap], load64_acquire(cython.address(the_heap_of[id])))


def heaps_count() -> uint64_t:
    count: uint64_t = 0
    mutex_lock(cython.address(the_heaps_lock))
    h: cython.pointer[Heap] = the_heaps
    while h != cython.NULL:
        count += 1
        h = h.next
    mutex_unlock(cython.address(the_heaps_lock))
    return count


def heaps_enter(h: cython.pointer[Heap]) -> cython.void:
    if h.id != HEAP_ID:
        gate_enter(cython.address(the_gate), thread_id())


def heaps_leave(h: cython.pointer[Heap]) -> cython.void:
    if h.id != HEAP_ID:
        gate_leave(cython.address(the_gate))


# ---- open and close ----


def heaps_take_id() -> uint64_t:
    """The lowest free id; 0, the default heap's, if there is none."""
    mutex_lock(cython.address(the_heaps_lock))
    id: uint64_t = 1
    while id < SEATS and the_ids_taken[id]:
        id += 1
    if id < SEATS:
        the_ids_taken[id] = True
    mutex_unlock(cython.address(the_heaps_lock))
    return id if id < SEATS else 0


def heaps_drop_id(id: uint64_t) -> cython.void:
    mutex_lock(cython.address(the_heaps_lock))
    the_ids_taken[id] = False
    mutex_unlock(cython.address(the_heaps_lock))


def heaps_open(
    config: cython.pointer[cython.const[HeapConfig]], into: cython.pointer[cython.pointer[Heap]]
) -> cython.int:
    gate_enter(cython.address(the_gate), thread_id())
    error: cython.int = heaps_make(config, into)
    gate_leave(cython.address(the_gate))
    if not error and config.decay_ns != NOWHERE:
        reclaim_hasten(heaps_interval(config.decay_ns))
    return error


def heaps_make(
    config: cython.pointer[cython.const[HeapConfig]], into: cython.pointer[cython.pointer[Heap]]
) -> cython.int:
    id: uint64_t = heaps_take_id()
    if id == 0:
        return EAGAIN
    at: uint64_t = 0
    error: cython.int = vm_map(heaps_bytes(), cython.address(at))
    if error:
        heaps_drop_id(id)
        return error
    h: cython.pointer[Heap] = cython.cast(cython.pointer[Heap], at)
    error = home_open(h, id, config)
    if error:
        vm_unmap_metadata(at, heaps_bytes())
        heaps_drop_id(id)
        return error
    mutex_lock(cython.address(the_heaps_lock))
    link: cython.pointer[cython.pointer[Heap]] = cython.address(the_heaps)
    while link[0] != cython.NULL and link[0].id < id:
        link = cython.address(link[0].next)
    h.next = link[0]
    link[0] = h
    store64_release(cython.address(the_heap_of[id]), at)
    mutex_unlock(cython.address(the_heaps_lock))
    into[0] = h
    return 0


def heaps_close(
    h: cython.pointer[Heap], force: cython.bint, blocks: cython.pointer[uint64_t], bytes: cython.pointer[uint64_t]
) -> cython.int:
    """Return everything of a heap that nobody allocates from any more.

    Forced while blocks are live, it gives their memory back and keeps their addresses, until the last one is freed.
    """
    me: uint64_t = thread_id()
    gate_shut(cython.address(the_gate), me)
    gone: cython.bint = heaps_unlink(h, force, blocks, bytes)
    gate_open(cython.address(the_gate), me)
    if not gone and not force:
        return HEAP_BUSY
    gate_enter(cython.address(the_gate), me)
    if not gone:
        home_vacate(h)
    gate_leave(cython.address(the_gate))
    if gone:
        heaps_finish(h)
    else:
        reclaim_poke()
    return 0


def heaps_unlink(
    h: cython.pointer[Heap], force: cython.bint, blocks: cython.pointer[uint64_t], bytes: cython.pointer[uint64_t]
) -> cython.bint:
    """With the gate shut: take a heap out of table and list; False if blocks are live, or a thread is in its cache."""
    blocks[0] = account_live(h, bytes)
    if blocks[0] or not cache_all_outside(h.primary):
        if force:
            store32_release(cython.address(h.orphan), 1)
        return False
    mutex_lock(cython.address(the_heaps_lock))
    link: cython.pointer[cython.pointer[Heap]] = cython.address(the_heaps)
    while link[0] != h:
        link = cython.address(link[0].next)
    link[0] = h.next
    store64_release(cython.address(the_heap_of[h.id]), 0)
    mutex_unlock(cython.address(the_heaps_lock))
    return True


def heaps_finish(h: cython.pointer[Heap]) -> cython.void:
    """Nobody finds it any more. Waiting for the reclaim thread is outside the gate: it may be waiting for a fork."""
    seen: uint32_t = load32_acquire(cython.address(h.visitors))
    while seen:
        futex_wait(cython.address(h.visitors), seen, -1)
        seen = load32_acquire(cython.address(h.visitors))
    id: uint64_t = h.id
    gate_enter(cython.address(the_gate), thread_id())
    if sampling_tables() != cython.NULL:
        sampling_forget_heap(id)
    home_close(h)
    vm_unmap_metadata(cython.cast(uint64_t, h), heaps_bytes())
    heaps_drop_id(id)
    gate_leave(cython.address(the_gate))


def heaps_bytes() -> uint64_t:
    return round_up(cython.sizeof(Heap), vm_facts().page_size)


# ---- the reclaim thread's round ----


def heaps_visit_next(after: uint64_t) -> cython.pointer[Heap]:
    """The heap with the next id, marked as visited; NULL: there is none."""
    mutex_lock(cython.address(the_heaps_lock))
    h: cython.pointer[Heap] = the_heaps
    while h != cython.NULL and h.id <= after:
        h = h.next
    if h != cython.NULL:
        add32_release(cython.address(h.visitors), 1)
    mutex_unlock(cython.address(the_heaps_lock))
    return h


def heaps_visit_end(h: cython.pointer[Heap]) -> cython.void:
    """Whoever closes the heap may go on. It is not touched after that: a futex may be woken where nothing is."""
    add32_release(cython.address(h.visitors), cython.cast(uint32_t, -1))
    futex_wake(cython.address(h.visitors), 1)


def heaps_tick(now: uint64_t) -> cython.bint:
    """One round of all heaps. True while something may still become idle."""
    busy: cython.bint = heaps_tick_one(cython.address(the_default_heap), now)
    h: cython.pointer[Heap] = heaps_visit_next(HEAP_ID)
    while h != cython.NULL:
        id: uint64_t = h.id
        if load32_acquire(cython.address(h.orphan)) and heaps_bury(h):
            pass
        else:
            busy = heaps_tick_one(h, now) or busy
            heaps_visit_end(h)
        fork_pass()
        h = heaps_visit_next(id)
    return heaps_profile_over(now) or busy


def heaps_tick_one(h: cython.pointer[Heap], now: uint64_t) -> cython.bint:
    """A heap whose decay time is longer than another's has its window end less often."""
    interval: uint64_t = heaps_interval(h.config.decay_ns)
    if interval == 0:
        return False
    if now + interval // 8 >= h.next_tick_ns:
        h.next_tick_ns = now + interval
        h.busy = home_tick(h, now)
    return h.busy != 0 or load32_acquire(cython.address(h.orphan)) != 0


def heaps_bury(h: cython.pointer[Heap]) -> cython.bint:
    """Finish an orphan whose last block was freed; False if it has some. Its one visitor is the caller."""
    blocks: uint64_t = 0
    bytes: uint64_t = 0
    if account_live(h, cython.address(bytes)):
        return False
    me: uint64_t = thread_id()
    gate_shut(cython.address(the_gate), me)
    gone: cython.bint = heaps_unlink(h, False, cython.address(blocks), cython.address(bytes))
    gate_open(cython.address(the_gate), me)
    if gone:
        heaps_visit_end(h)
        heaps_finish(h)
    return gone


def heaps_publish() -> cython.void:
    """Give back what is idle if a reader of the page asks for it; then publish every heap."""
    if publish_takes_purge():
        publish_note_purge(heaps_purge_visiting())
    heaps_profile_on_demand()
    publish_begin()
    count: uint64_t = heaps_publish_each(False)
    if publish_takes_map():
        heaps_publish_each(True)
    publish_end(count, now_ns())


def heaps_profile_on_demand() -> cython.void:
    """A reader asks for the profile: there is one, or one begins now for a while, and is written when that is over."""
    global the_demand_ns
    ms: uint64_t = 0
    publish_profile_over()
    if publish_takes_profile(cython.address(ms)) and not the_demand_ns:
        if ms and profile_begin(PROFILE_INTERVAL) == 0:
            the_demand_ns = now_ns() + ms * 1_000_000
        else:
            heaps_write_profile()
    heaps_profile_over(now_ns())


def heaps_profile_over(now: uint64_t) -> cython.bint:
    """Whether one that was asked for goes on."""
    global the_demand_ns
    if the_demand_ns and now >= the_demand_ns:
        the_demand_ns = 0
        heaps_write_profile()
        profile_end()
    return the_demand_ns != 0


def heaps_write_profile() -> cython.void:
    fd: cython.int = publish_profile_file()
    if fd >= 0 and profile_write(fd, DUMP_ASKED) != 0:
        close(fd)
        fd = -1
    publish_profile(fd)


def heaps_describe(into: cython.pointer[ProfileHeaps]) -> cython.void:
    """What a dump of the profile says of them."""
    all = cython.declare(HeapStats)
    heaps_read_stats(cython.address(all))
    into.live_bytes = all.allocated
    into.count = 0
    mutex_lock(cython.address(the_heaps_lock))
    h: cython.pointer[Heap] = the_heaps
    while h != cython.NULL and into.count < PROFILE_HEAPS:
        one: cython.pointer[ProfileHeap] = cython.address(into.heap[into.count])
        one.id = h.id
        i: uint32_t = 0
        while i < HOME_NAME_WORDS:
            one.name[i] = load64_relaxed(cython.address(h.name[i]))
            i += 1
        into.count += 1
        h = h.next
    mutex_unlock(cython.address(the_heaps_lock))


def heaps_publish_each(ranges: cython.bint) -> uint64_t:
    """A record for each heap, or what ranges it has; return how many heaps there are."""
    count: uint64_t = 0
    h: cython.pointer[Heap] = cython.address(the_default_heap)
    while h != cython.NULL:
        id: uint64_t = h.id
        if ranges:
            publish_ranges(h)
        else:
            publish_heap(h)
        if id != HEAP_ID:
            heaps_visit_end(h)
        count += 1
        fork_pass()
        h = heaps_visit_next(id)
    return count


def heaps_purge_visiting() -> uint64_t:
    """What heaps_purge does, for the reclaim thread, which lets forks pass between two heaps."""
    given_back: uint64_t = home_purge_quietly(cython.address(the_default_heap))
    fork_pass()
    h: cython.pointer[Heap] = heaps_visit_next(HEAP_ID)
    while h != cython.NULL:
        id: uint64_t = h.id
        given_back += home_purge_quietly(h)
        heaps_visit_end(h)
        fork_pass()
        h = heaps_visit_next(id)
    return given_back


def heaps_purge() -> uint64_t:
    """Everything idle in all heaps, now. A heap is not closed while somebody is inside the gate."""
    given_back: uint64_t = home_purge(cython.address(the_default_heap))
    id: uint64_t = HEAP_ID + 1
    while id < SEATS:
        if heaps_find(id) != cython.NULL:
            gate_enter(cython.address(the_gate), thread_id())
            h: cython.pointer[Heap] = heaps_find(id)
            if h != cython.NULL:
                given_back += home_purge(h)
            gate_leave(cython.address(the_gate))
        id += 1
    return given_back


def heaps_read_stats(into: cython.pointer[HeapStats]) -> cython.void:
    one = cython.declare(HeapStats)
    memset(into, 0, cython.sizeof(HeapStats))
    into.limit = NOWHERE
    gate_enter(cython.address(the_gate), thread_id())
    mutex_lock(cython.address(the_heaps_lock))
    h: cython.pointer[Heap] = the_heaps
    while h != cython.NULL:
        account_read(h, cython.address(one))
        account_add(into, cython.address(one))
        into.metadata += load64_acquire(cython.address(h.primary.metadata)) - one.metadata
        into.peak = most(into.peak, one.peak)
        h = h.next
    mutex_unlock(cython.address(the_heaps_lock))
    gate_leave(cython.address(the_gate))
    account_add_process(into)


# ---- fork ----


def heaps_fork_lock() -> cython.void:
    gate_shut(cython.address(the_gate), thread_id())
    mutex_lock(cython.address(the_heaps_lock))


def heaps_fork_unlock() -> cython.void:
    mutex_unlock(cython.address(the_heaps_lock))
    gate_open(cython.address(the_gate), thread_id())


def heaps_fork_reset() -> cython.void:
    """In the child: the reclaim thread is gone, from where it let the fork pass, and the published page is not ours."""
    publish_forget()
    h: cython.pointer[Heap] = the_heaps
    while h != cython.NULL:
        if load32_acquire(cython.address(h.visitors)):
            store32_release(cython.address(h.visitors), 0)
        h = h.next
    mutex_reset(cython.address(the_heaps_lock))
    account_settle(cython.address(the_default_heap))  # nobody was inside the others: the gate was shut
    gate_open(cython.address(the_gate), thread_id())


def heaps_fork_lock_home() -> cython.void:
    mutex_lock(cython.address(the_default_heap.lock))


def heaps_fork_unlock_home() -> cython.void:
    mutex_unlock(cython.address(the_default_heap.lock))


def heaps_fork_reset_home() -> cython.void:
    mutex_reset(cython.address(the_default_heap.lock))


def heaps_fork_lock_large() -> cython.void:
    large_lock_all(the_default_heap.large)


def heaps_fork_unlock_large() -> cython.void:
    large_unlock_all(the_default_heap.large)


def heaps_fork_reset_large() -> cython.void:
    large_reset(the_default_heap.large)


def heaps_fork_lock_arenas() -> cython.void:
    arenas_lock(arenas_home())


def heaps_fork_unlock_arenas() -> cython.void:
    arenas_unlock(arenas_home())


def heaps_fork_reset_arenas() -> cython.void:
    arenas_reset(arenas_home())


def heaps_fork_lock_extents() -> cython.void:
    extents_lock_all(the_default_heap.extents)


def heaps_fork_unlock_extents() -> cython.void:
    extents_unlock_all(the_default_heap.extents)


def heaps_fork_reset_extents() -> cython.void:
    extents_reset(the_default_heap.extents)
