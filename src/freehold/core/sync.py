"""Locks of one word with ranks, and a witness that sees them taken out of order.

Thread-safety: that is what it is for. A lock is never destroyed; a forked child resets those it needs.
Invariant: a lock waited for comes after every lock its thread holds, in (rank, address); the debug build aborts on the
first that does not. A lock that is only tried may come anywhere.
Does not: recurse, time out, or serve readers apart from writers.
Follows: the three-state futex lock of Drepper's "Futexes are tricky", and jemalloc's witness.
"""

import cython
from cython.cimports.freehold.core.machine import (
    CHECK,
    abort,
    add32_release,
    compiler_barrier,
    exchange32,
    futex_wait,
    futex_wake,
    load32_acquire,
    load32_relaxed,
    must,
    store32_release,
    swap32_if,
    tell,
)
from cython.cimports.freehold.core.sync import (
    MOST_HELD,
    RANK_ARENA,
    RANK_CACHES,
    RANK_EXTENTS,
    RANK_HEAP,
    RANK_HEAPS,
    RANK_INSTALL,
    RANK_LARGE,
    RANK_LARGE_REFILL,
    RANK_LEAF,
    RANK_PAGES,
    RANK_PROFILE,
    RANK_RECLAIM,
    RANK_REGION,
    RANK_SAMPLES,
    RANK_SPACE,
    RANKS,
    ForkSteps,
    Held,
    Mutex,
    fork_hook,
    held_here,
    ticker_here,
    ticker_set,
)
from cython.cimports.libc.stdint import uint32_t, uintptr_t

the_fork_steps = cython.declare(ForkSteps[RANKS])  # by rank; written at boot
forks_waiting = cython.declare(uint32_t)  # threads between asking for the locks and having forked; atomic, a futex


def mutex_init(m: cython.pointer[Mutex], rank: uint32_t) -> cython.void:
    m.word = 0
    m.rank = rank


def mutex_lock(m: cython.pointer[Mutex]) -> cython.void:
    if CHECK:
        witness_take(m)
    mutex_lock_unseen(m)


def mutex_lock_unseen(m: cython.pointer[Mutex]) -> cython.void:
    free: uint32_t = 0
    if not swap32_if(cython.address(m.word), cython.address(free), 1):
        mutex_lock_slow(m)


def mutex_lock_slow(m: cython.pointer[Mutex]) -> cython.void:
    spins: cython.int = 100  # a critical section is short: look a while before asking the kernel
    while spins > 0:
        free: uint32_t = 0
        if load32_relaxed(cython.address(m.word)) == 0 and swap32_if(cython.address(m.word), cython.address(free), 1):
            return
        spins -= 1
    while exchange32(cython.address(m.word), 2) != 0:
        futex_wait(cython.address(m.word), 2, -1)


def mutex_try(m: cython.pointer[Mutex]) -> cython.bint:
    free: uint32_t = 0
    if not swap32_if(cython.address(m.word), cython.address(free), 1):
        return False
    if CHECK:
        witness_note(m)  # a lock that is only tried can not deadlock: any order will do
    return True


def mutex_unlock(m: cython.pointer[Mutex]) -> cython.void:
    if CHECK:
        witness_drop(m)
    mutex_unlock_unseen(m)


def mutex_unlock_unseen(m: cython.pointer[Mutex]) -> cython.void:
    if exchange32(cython.address(m.word), 0) == 2:
        futex_wake(cython.address(m.word), 1)


def mutex_reset(m: cython.pointer[Mutex]) -> cython.void:
    if CHECK:
        witness_forget(m)  # if it was this thread's
    store32_release(cython.address(m.word), 0)


def rank_name(rank: uint32_t) -> cython.p_const_char:
    if rank == RANK_INSTALL:
        return b"install"
    if rank == RANK_RECLAIM:
        return b"reclaim"
    if rank == RANK_PROFILE:
        return b"profile"
    if rank == RANK_HEAPS:
        return b"heaps"
    if rank == RANK_HEAP:
        return b"heap"
    if rank == RANK_LARGE_REFILL:
        return b"large refill"
    if rank == RANK_LARGE:
        return b"large"
    if rank == RANK_EXTENTS:
        return b"extents"
    if rank == RANK_PAGES:
        return b"pages"
    if rank == RANK_CACHES:
        return b"caches"
    if rank == RANK_REGION:
        return b"region"
    if rank == RANK_ARENA:
        return b"arena"
    if rank == RANK_SPACE:
        return b"space"
    if rank == RANK_SAMPLES:
        return b"samples"
    if rank == RANK_LEAF:
        return b"leaf"
    return b"unranked"


# ---- fork: the list of locks is the list of ranks ----


def fork_cover(rank: uint32_t, before: fork_hook, in_parent: fork_hook, in_child: fork_hook) -> cython.void:
    steps: cython.pointer[ForkSteps] = cython.address(the_fork_steps[rank])
    steps.before = before
    steps.in_parent = in_parent
    steps.in_child = in_child


def fork_nothing() -> cython.void:
    pass


def fork_uncovered() -> uint32_t:
    rank: uint32_t = 1
    while rank < RANKS and the_fork_steps[rank].before != cython.NULL:
        rank += 1
    return rank if rank < RANKS else 0


def fork_before() -> cython.void:
    add32_release(cython.address(forks_waiting), 1)
    rank: uint32_t = 1
    while rank < RANKS:
        the_fork_steps[rank].before()
        rank += 1


def fork_in_parent() -> cython.void:
    rank: uint32_t = RANKS
    while rank > 1:
        rank -= 1
        the_fork_steps[rank].in_parent()
    if add32_release(cython.address(forks_waiting), cython.cast(uint32_t, -1)) == 1:
        futex_wake(cython.address(forks_waiting), 1 << 30)


def fork_in_child() -> cython.void:
    store32_release(cython.address(forks_waiting), 0)
    ticker_set(cython.NULL)
    rank: uint32_t = RANKS
    while rank > 1:
        rank -= 1
        the_fork_steps[rank].in_child()


def fork_ticker(m: cython.pointer[Mutex]) -> cython.void:
    ticker_set(m)


def fork_pass() -> cython.void:
    m: cython.pointer[Mutex] = ticker_here()
    seen: uint32_t = load32_relaxed(cython.address(forks_waiting))
    if seen == 0 or m == cython.NULL:
        return
    mutex_unlock(m)
    while seen:
        futex_wait(cython.address(forks_waiting), seen, -1)
        seen = load32_acquire(cython.address(forks_waiting))
    mutex_lock(m)


# ---- the witness: debug builds ----


def witness_take(m: cython.pointer[Mutex]) -> cython.void:
    """Remember a lock about to be taken; it must come after every lock held, tried ones too."""
    h: cython.pointer[Held] = held_here()
    i: cython.uint = 0
    while i < h.n:
        other: cython.pointer[Mutex] = cython.cast(cython.pointer[Mutex], h.lock[i])
        in_order: cython.bint = other.rank < m.rank or (
            other.rank == m.rank and cython.cast(uintptr_t, other) < cython.cast(uintptr_t, m)
        )
        if not in_order:
            tell(
                b"freehold: fatal: lock '%s' taken while holding lock '%s'\n", rank_name(m.rank), rank_name(other.rank)
            )
            abort()
        i += 1
    witness_note(m)


def witness_note(m: cython.pointer[Mutex]) -> cython.void:
    h: cython.pointer[Held] = held_here()
    must(h.n < MOST_HELD, b"a thread holds more than 128 locks")
    h.lock[h.n] = m
    compiler_barrier()
    h.n += 1
    compiler_barrier()
    h.lock[h.n - 1] = m  # again: a signal handler may have come between, and used the place for a lock of its own


def witness_forget(m: cython.pointer[Mutex]) -> cython.bint:
    """Forget a lock, whatever the order; False if this thread does not hold it."""
    h: cython.pointer[Held] = held_here()
    i: cython.uint = h.n
    while i > 0 and h.lock[i - 1] != cython.cast(cython.p_void, m):
        i -= 1
    if i == 0:
        return False
    while i < h.n:
        h.lock[i - 1] = h.lock[i]
        i += 1
    h.n -= 1
    return True


def witness_drop(m: cython.pointer[Mutex]) -> cython.void:
    if not witness_forget(m):
        tell(b"freehold: fatal: lock '%s' released by a thread that does not hold it\n", rank_name(m.rank))
        abort()


def locks_held() -> cython.int:
    if not CHECK:
        return 0
    return held_here().n


def locks_none(where: cython.p_const_char) -> cython.void:
    if CHECK and held_here().n > 0:
        last: cython.pointer[Mutex] = cython.cast(cython.pointer[Mutex], held_here().lock[held_here().n - 1])
        tell(b"freehold: fatal: lock '%s' held on entering or leaving %s\n", rank_name(last.rank), where)
        abort()
