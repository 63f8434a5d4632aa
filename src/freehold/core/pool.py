"""The blocks of one large size: where each of them is, and in what order they are taken.

Not thread-safe: the caller holds the pool's lock.
Invariants: ``blocks = live + used + clean + kept``, and each place counts its idle bytes; a free block that is not
`taken` waits in exactly one queue; a thread's queue, and the tails, do not get older from oldest to newest.
Does not map or purge anything: a block that somebody purges is `taken`, in no queue, and still counted in its place.
Follows: lgalloc's queues (a thread's own last in first out, the global ones first in first out), with ages.
"""

import cython
from cython.cimports.freehold.core.budget import Budget, budget_give
from cython.cimports.freehold.core.machine import CHECK, abort, least, memset, tell
from cython.cimports.freehold.core.pool import (
    POOL_CLEAN,
    POOL_KEPT,
    POOL_LAW_AGES,
    POOL_LAW_COUNTS,
    POOL_LAW_IDLE,
    POOL_LAW_QUEUES,
    POOL_LAW_TOTAL,
    POOL_LAW_TOUCHED,
    POOL_LIVE,
    POOL_PLACES,
    POOL_SOUND,
    POOL_USED,
    Pool,
    PoolArea,
    PoolBlock,
    PoolFinding,
    PoolQueue,
    PoolStats,
    pool_blocks,
)
from cython.cimports.freehold.core.sync import RANK_LARGE, RANK_LARGE_REFILL, mutex_init, mutex_lock, mutex_unlock
from cython.cimports.libc.stdint import uint32_t, uint64_t


def pool_open(pool: cython.pointer[Pool], size: uint64_t, budget: cython.pointer[Budget]) -> cython.void:
    pool.size = size
    pool.budget = budget
    mutex_init(cython.address(pool.refill), RANK_LARGE_REFILL)
    mutex_init(cython.address(pool.lock), RANK_LARGE)


# ---- where a block is, and how much of it is whose ----


def pool_oldest(
    pool: cython.pointer[Pool], place: uint32_t, but: cython.pointer[PoolQueue]
) -> cython.pointer[PoolBlock]:
    """The oldest block that waits in a place; of threads' queues, in any `but` one. NULL if none does."""
    if place == POOL_USED:
        return pool.used.oldest
    if place == POOL_CLEAN:
        return pool.clean.oldest
    b: cython.pointer[PoolBlock] = cython.NULL
    q: cython.pointer[PoolQueue] = pool.kept_first
    while q != cython.NULL:
        if q != but and (b == cython.NULL or q.oldest.idle_since < b.idle_since):
            b = q.oldest
        q = q.next
    return b


def pool_add(pool: cython.pointer[Pool], a: cython.pointer[PoolArea]) -> cython.void:
    """Append an area's blocks, chained already, to the clean queue: as one, since there may be many thousands."""
    first: cython.pointer[PoolBlock] = pool_blocks(a)
    first.older = pool.clean.newest
    if pool.clean.newest != cython.NULL:
        pool.clean.newest.newer = first
    else:
        pool.clean.oldest = first
    pool.clean.newest = cython.address(first[a.blocks - 1])
    pool.clean.length += a.blocks
    pool.count[POOL_CLEAN] += a.blocks
    pool.blocks += a.blocks
    pool.stats.areas += 1
    pool.stats.refill += 1


def pool_idle_bytes(b: cython.pointer[PoolBlock]) -> uint64_t:
    """Bytes of a block that may be resident and are nobody's."""
    return b.touched - least(b.touched, b.asked) if b.place == POOL_LIVE else b.touched


def pool_count(pool: cython.pointer[Pool], b: cython.pointer[PoolBlock]) -> cython.void:
    pool.count[b.place] += 1
    pool.idle[b.place] += pool_idle_bytes(b)


def pool_uncount(pool: cython.pointer[Pool], b: cython.pointer[PoolBlock]) -> cython.void:
    pool.count[b.place] -= 1
    pool.idle[b.place] -= pool_idle_bytes(b)


def pool_move(pool: cython.pointer[Pool], b: cython.pointer[PoolBlock], place: uint32_t) -> cython.void:
    """Count a block in another place; its queue is the caller's affair."""
    pool_uncount(pool, b)
    b.place = place
    pool_count(pool, b)


def pool_note(
    pool: cython.pointer[Pool], b: cython.pointer[PoolBlock], touched: uint64_t, asked: uint64_t
) -> cython.void:
    """Note how far a block was touched, and how much of it is the caller's."""
    pool_uncount(pool, b)
    if touched < b.touched:
        budget_give(pool.budget, b.touched - touched)
    pool.touched += touched - b.touched
    b.touched = touched
    b.asked = asked
    pool_count(pool, b)


def pool_watch_tail(pool: cython.pointer[Pool], b: cython.pointer[PoolBlock], now: uint64_t) -> cython.void:
    """Let a live block wait for its tail to be purged, if it has one; else for nothing."""
    has_tail: cython.bint = b.touched > b.asked
    if has_tail and b.queue == cython.NULL and not b.taken:
        b.idle_since = now
        pool_push(cython.address(pool.tails), b)
    elif not has_tail:
        pool_detach(pool, b)


# ---- queues ----


def pool_push(q: cython.pointer[PoolQueue], b: cython.pointer[PoolBlock]) -> cython.void:
    pool_insert_after(q, q.newest, b)


def pool_insert_after(
    q: cython.pointer[PoolQueue], older: cython.pointer[PoolBlock], b: cython.pointer[PoolBlock]
) -> cython.void:
    """Let a block wait right after another one; after none: as the oldest."""
    newer: cython.pointer[PoolBlock] = q.oldest if older == cython.NULL else older.newer
    b.queue = q
    b.older = older
    b.newer = newer
    if older == cython.NULL:
        q.oldest = b
    else:
        older.newer = b
    if newer == cython.NULL:
        q.newest = b
    else:
        newer.older = b
    q.length += 1


def pool_keep(
    pool: cython.pointer[Pool],
    own: cython.pointer[PoolQueue],
    older: cython.pointer[PoolBlock],
    b: cython.pointer[PoolBlock],
) -> cython.void:
    """Let a block wait in a thread's queue, right after another one."""
    if own.length == 0:
        pool_list(pool, own)
    pool_insert_after(own, older, b)


def pool_older_than(own: cython.pointer[PoolQueue], b: cython.pointer[PoolBlock]) -> cython.pointer[PoolBlock]:
    """After whom a block of a batch waits: by age; among equals so that the owner takes the batch in its order."""
    older: cython.pointer[PoolBlock] = own.newest
    while older != cython.NULL and older.idle_since >= b.idle_since:
        older = older.older
    return older


def pool_detach(pool: cython.pointer[Pool], b: cython.pointer[PoolBlock]) -> cython.void:
    """Take a block out of the queue it waits in, if any."""
    q: cython.pointer[PoolQueue] = b.queue
    if q == cython.NULL:
        return
    if b.older == cython.NULL:
        q.oldest = b.newer
    else:
        b.older.newer = b.newer
    if b.newer == cython.NULL:
        q.newest = b.older
    else:
        b.newer.older = b.older
    b.queue = cython.NULL
    q.length -= 1
    if b.place == POOL_KEPT and q.length == 0:
        pool_unlist(pool, q)


def pool_list(pool: cython.pointer[Pool], q: cython.pointer[PoolQueue]) -> cython.void:
    """A thread's queue gets its first block."""
    q.next = cython.NULL
    q.previous = pool.kept_last
    if pool.kept_last == cython.NULL:
        pool.kept_first = q
    else:
        pool.kept_last.next = q
    pool.kept_last = q


def pool_unlist(pool: cython.pointer[Pool], q: cython.pointer[PoolQueue]) -> cython.void:
    """A thread's queue has become empty."""
    if q.previous == cython.NULL:
        pool.kept_first = q.next
    else:
        q.previous.next = q.next
    if q.next == cython.NULL:
        pool.kept_last = q.previous
    else:
        q.next.previous = q.previous


# ---- accounting, and the invariants ----


def pool_read_stats(pool: cython.pointer[Pool], into: cython.pointer[PoolStats]) -> cython.void:
    mutex_lock(cython.address(pool.lock))
    into[0] = pool.stats
    into.size = pool.size
    into.area_total_bytes = pool.blocks * pool.size
    into.live = pool.count[POOL_LIVE]
    into.clean_regions = pool.count[POOL_CLEAN]
    into.global_regions = pool.count[POOL_USED]
    into.thread_regions = pool.count[POOL_KEPT]
    into.touched_bytes = pool.idle[POOL_USED] + pool.idle[POOL_CLEAN] + pool.idle[POOL_KEPT]
    into.tail_bytes = pool.idle[POOL_LIVE]
    into.counted_bytes = pool.touched
    mutex_unlock(cython.address(pool.lock))


def pool_check(pool: cython.pointer[Pool], finding: cython.pointer[PoolFinding]) -> cython.int:
    """Count all blocks again, and walk every queue."""
    finding.size = pool.size
    all: uint64_t = pool.count[POOL_LIVE] + pool.count[POOL_USED] + pool.count[POOL_CLEAN] + pool.count[POOL_KEPT]
    if all != pool.blocks:
        return pool_broken(POOL_LAW_TOTAL, finding, pool.blocks, all)
    law: cython.int = pool_check_blocks(pool, finding)
    if law == POOL_SOUND:
        law = pool_check_queue(cython.address(pool.used), False, finding)
    if law == POOL_SOUND:
        law = pool_check_queue(cython.address(pool.clean), False, finding)
    if law == POOL_SOUND:
        law = pool_check_queue(cython.address(pool.tails), True, finding)
    q: cython.pointer[PoolQueue] = pool.kept_first
    while q != cython.NULL and law == POOL_SOUND:
        law = pool_check_queue(q, True, finding)
        q = q.next
    return law


def pool_check_blocks(pool: cython.pointer[Pool], finding: cython.pointer[PoolFinding]) -> cython.int:
    """Each place has the blocks and idle bytes that are counted there; a free block that nobody took out waits."""
    count = cython.declare(uint64_t[POOL_PLACES])
    idle = cython.declare(uint64_t[POOL_PLACES])
    memset(count, 0, cython.sizeof(count))
    memset(idle, 0, cython.sizeof(idle))
    touched: uint64_t = 0
    left: uint64_t = pool.stats.areas
    while left > 0:
        left -= 1
        a: cython.pointer[PoolArea] = pool.area[left]
        i: uint64_t = 0
        while i < a.blocks:
            b: cython.pointer[PoolBlock] = pool_blocks(a) + i
            count[b.place] += 1
            idle[b.place] += pool_idle_bytes(b)
            touched += b.touched
            if b.place != POOL_LIVE and not b.taken and b.queue == cython.NULL:
                return pool_broken(POOL_LAW_QUEUES, finding, b.address, b.place)
            i += 1
    place: uint32_t = 0
    while place < POOL_PLACES:
        if count[place] != pool.count[place]:
            return pool_broken(POOL_LAW_COUNTS, finding, pool.count[place], count[place])
        if idle[place] != pool.idle[place]:
            return pool_broken(POOL_LAW_IDLE, finding, pool.idle[place], idle[place])
        place += 1
    return POOL_SOUND if touched == pool.touched else pool_broken(POOL_LAW_TOUCHED, finding, pool.touched, touched)


def pool_check_queue(
    q: cython.pointer[PoolQueue], by_age: cython.bint, finding: cython.pointer[PoolFinding]
) -> cython.int:
    """A queue's blocks point at it and at each other, are as many as it says, and wait by age where they should."""
    older: cython.pointer[PoolBlock] = cython.NULL
    b: cython.pointer[PoolBlock] = q.oldest
    length: uint64_t = 0
    while b != cython.NULL:
        if b.queue != q or b.older != older:
            return pool_broken(POOL_LAW_QUEUES, finding, b.address, length)
        if by_age and older != cython.NULL and older.idle_since > b.idle_since:
            return pool_broken(POOL_LAW_AGES, finding, older.idle_since, b.idle_since)
        length += 1
        older = b
        b = b.newer
    if length != q.length or q.newest != older:
        return pool_broken(POOL_LAW_QUEUES, finding, q.length, length)
    return POOL_SOUND


def pool_broken(law: cython.int, finding: cython.pointer[PoolFinding], told: uint64_t, found: uint64_t) -> cython.int:
    finding.told = told
    finding.found = found
    return law


def pool_law(law: cython.int) -> cython.p_const_char:
    if law == POOL_LAW_COUNTS:
        return b"the blocks in each place are as many as it counts"
    if law == POOL_LAW_TOTAL:
        return b"live, used, clean and kept blocks are all there are"
    if law == POOL_LAW_QUEUES:
        return b"a free block waits in one queue, and a queue's links and length agree"
    if law == POOL_LAW_IDLE:
        return b"the bytes that may be resident are those of the blocks"
    if law == POOL_LAW_TOUCHED:
        return b"what the budget counts is what blocks may have touched"
    if law == POOL_LAW_AGES:
        return b"a thread's queue and the tails wait by age"
    return b"sound"


def pool_unlock(pool: cython.pointer[Pool]) -> cython.void:
    """Drop the lock; at check level 2 abort unless all laws hold."""
    if CHECK >= 2:
        finding = cython.declare(PoolFinding)
        law: cython.int = pool_check(pool, cython.address(finding))
        if law != POOL_SOUND:
            tell(
                b"freehold: fatal: large pool of %llu: %s (told %llu, found %llu)\n",
                cython.cast(cython.ulonglong, finding.size),
                pool_law(law),
                cython.cast(cython.ulonglong, finding.told),
                cython.cast(cython.ulonglong, finding.found),
            )
            abort()
    mutex_unlock(cython.address(pool.lock))
