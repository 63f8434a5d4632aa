# pool.pxd: the blocks of one large size: where each of them is, and in what order they are taken.
#
# Not thread-safe: the caller holds the pool's lock; what is constant may be read without it.
# Invariants: blocks = live + used + clean + kept; a block waits in at most one queue, and in none while it is `taken`.
# Does not: map or purge anything (area and large do).
# After: lgalloc's queues, with ages.
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from freehold.core.budget cimport Budget
from freehold.core.sync cimport Mutex

cdef enum:                          # where a block is: each is counted in exactly one place
    POOL_LIVE = 0                   # handed out
    POOL_USED = 1                   # in the global queue of blocks as they came back
    POOL_CLEAN = 2                  # in the global queue of cleared and new blocks
    POOL_KEPT = 3                   # in a thread's queue
    POOL_PLACES = 4

cdef enum:                          # what pool_check finds broken; keep `pool_law` in this order
    POOL_SOUND = 0
    POOL_LAW_TOTAL = 1
    POOL_LAW_COUNTS = 2
    POOL_LAW_IDLE = 3
    POOL_LAW_QUEUES = 4
    POOL_LAW_AGES = 5
    POOL_LAW_TOUCHED = 6

cdef struct PoolQueue
cdef struct PoolBlock:              # one per block, in its area's mapping, away from user memory; guarded by the pool's lock
    PoolBlock *older                # in its queue; NULL: it is the oldest
    PoolBlock *newer
    PoolQueue *queue                # where it waits; NULL: nowhere
    uint64_t address                # constant
    uint64_t idle_since             # ns: when it, or its tail, became idle
    uint64_t touched                # bytes from its start that may be resident or not zero; 0: known to read 0
    uint64_t asked                  # bytes from its start that are the caller's, while live; OS pages
    uint32_t place                  # POOL_LIVE …
    uint16_t taken                  # 1: somebody purges it, outside the lock, and will put it where `place` says
    uint16_t handed_out             # 1: it was, at least once

cdef struct PoolQueue:              # guarded by the pool's lock
    PoolBlock *oldest               # the end of thieves and of clearing
    PoolBlock *newest               # the end where blocks arrive
    uint64_t length                 # blocks
    PoolQueue *next                 # a thread's queue that is not empty: in the pool's list of them
    PoolQueue *previous

cdef struct PoolArea:               # constant; followed by its PoolBlocks
    uint64_t base
    uint64_t blocks                 # of the pool
    uint64_t span                   # of the space: blocks of 4 MiB
    uint64_t metadata_bytes         # of this mapping

cdef struct PoolStats:              # regions and events; bytes where the name says so
    uint64_t size                   # bytes of a block
    uint64_t areas
    uint64_t area_total_bytes
    uint64_t live                   # blocks handed out
    uint64_t clean_regions
    uint64_t global_regions
    uint64_t thread_regions
    uint64_t allocations            # requests that reached the queues
    uint64_t slow_path              # … and found them all empty
    uint64_t refill                 # areas added
    uint64_t deallocations
    uint64_t clear_eager            # blocks purged as they came back
    uint64_t clear_slow             # blocks moved to the clean queue in the background
    uint64_t touched_bytes          # of free blocks: may be resident
    uint64_t tail_bytes             # of live blocks, beyond what was asked: may be resident
    uint64_t counted_bytes          # of all blocks: may be resident; what the budget counts
    uint64_t refused                # purges that the OS refused: the block stayed as it was

cdef struct Pool:
    Mutex refill                    # one thread at a time adds an area
    Mutex lock                      # guards everything below but the last three
    uint64_t size                   # bytes of a block; constant
    PoolQueue used                  # first in, first out
    PoolQueue clean
    PoolQueue tails                 # live blocks whose tail may be resident, oldest hand-out first
    PoolQueue *kept_first           # the threads' queues that are not empty
    PoolQueue *kept_last
    uint64_t count[POOL_PLACES]     # blocks in each place
    uint64_t idle[POOL_PLACES]      # bytes there that may be resident and are nobody's
    uint64_t blocks                 # in all areas
    uint64_t touched                # sum over all blocks: so much the budget counts
    Budget *budget                  # constant
    PoolStats stats                 # the events; the rest of it is filled in when read
    PoolArea **area                 # AREA_MOST of them; NULL before the first; written under `refill`
    uint64_t published              # areas that may be looked up; written under `refill`, read by anyone; atomic
    uint64_t last_blocks            # blocks of the last area; under `refill`

cdef struct PoolFinding:            # what pool_check found: in which pool, and the two numbers that should be equal
    uint64_t size
    uint64_t told
    uint64_t found

cdef inline PoolBlock *pool_blocks(PoolArea *a) noexcept nogil:
    return <PoolBlock *>(a + 1)

cdef void pool_open(Pool *pool, uint64_t size, Budget *budget) noexcept nogil
cdef void pool_unlock(Pool *pool) noexcept nogil                      # ends an operation; at check level 2 all laws hold now
cdef void pool_add(Pool *pool, PoolArea *a) noexcept nogil            # an area's blocks, chained and clean
cdef PoolBlock *pool_oldest(Pool *pool, uint32_t place, PoolQueue *but) noexcept nogil  # that waits there; of threads' queues, in any `but` one
cdef void pool_move(Pool *pool, PoolBlock *b, uint32_t place) noexcept nogil
cdef void pool_note(Pool *pool, PoolBlock *b, uint64_t touched, uint64_t asked) noexcept nogil  # more: the caller has taken it; less: the budget gets it back
cdef void pool_watch_tail(Pool *pool, PoolBlock *b, uint64_t now) noexcept nogil
cdef void pool_push(PoolQueue *q, PoolBlock *b) noexcept nogil        # as the newest
cdef void pool_insert_after(PoolQueue *q, PoolBlock *older, PoolBlock *b) noexcept nogil
cdef void pool_keep(Pool *pool, PoolQueue *own, PoolBlock *older, PoolBlock *b) noexcept nogil
cdef PoolBlock *pool_older_than(PoolQueue *own, PoolBlock *b) noexcept nogil
cdef void pool_detach(Pool *pool, PoolBlock *b) noexcept nogil
cdef uint64_t pool_idle_bytes(PoolBlock *b) noexcept nogil            # of what may be resident, what is nobody's; under the lock
cdef void pool_read_stats(Pool *pool, PoolStats *into) noexcept nogil  # takes the lock
cdef int pool_check(Pool *pool, PoolFinding *finding) noexcept nogil  # POOL_SOUND, or the law that is broken
cdef const char *pool_law(int law) noexcept nogil

# inside pool
cdef void pool_count(Pool *pool, PoolBlock *b) noexcept nogil
cdef void pool_uncount(Pool *pool, PoolBlock *b) noexcept nogil
cdef void pool_list(Pool *pool, PoolQueue *q) noexcept nogil
cdef void pool_unlist(Pool *pool, PoolQueue *q) noexcept nogil
cdef int pool_check_blocks(Pool *pool, PoolFinding *finding) noexcept nogil
cdef int pool_check_queue(PoolQueue *q, bint by_age, PoolFinding *finding) noexcept nogil
cdef int pool_broken(int law, PoolFinding *finding, uint64_t told, uint64_t found) noexcept nogil
