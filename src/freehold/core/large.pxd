# large.pxd: pools of large power-of-two blocks: a thread's own queue, then those of all, then those of other threads.
#
# Any thread, any time; a LargeThread by one thread at a time. No lock is held over a purge.
# Invariant: those of each pool (see pool.pxd). A free never fails and never allocates.
# Does not: read a clock (time is passed in), know which thread calls (it is passed its LargeThread), or start a thread.
# After: lgalloc.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from freehold.core.budget cimport Budget
from freehold.core.pool cimport Pool, PoolBlock, PoolFinding, PoolQueue, PoolStats

cdef enum:
    LARGE_POOLS = 16                # powers of two from the smallest large size

cdef enum:                          # why a request was not served; 0: it was
    LARGE_SERVED = 0
    LARGE_BAD_CLASS = 1             # no pool serves this size, ever
    LARGE_BAD_ALIGN = 2             # no power of two, or above the block's size
    LARGE_DISABLED = 3
    LARGE_NO_ROOM = 4               # the space has no such run of addresses
    LARGE_REFUSED = 5               # the OS said no: see `os_error` and `os_call`
    LARGE_OVER_LIMIT = 6            # the budget has no room

cdef struct LargeConfig:            # words, so that they may change while others read; atomic, relaxed
    uint64_t enabled                # 0: new requests are refused; frees are not
    uint64_t interval_ns            # between two passes of large_maintain, at least
    uint64_t clear_bytes            # per pool and pass, rounded up to blocks
    uint64_t eager_return           # 1: a block that goes to the used queue is purged at once
    uint64_t growth_dampener        # areas grow by 1 + 1/(n + 1)
    uint64_t local_buffer_bytes     # what a thread keeps of each size
    uint64_t decay_ns               # after so long idle a thread's blocks, and live blocks' tails, are purged
    uint64_t lazy_clear             # 1: clear through MADV_FREE: cheaper, and the block is not known to read 0
    uint64_t used_idle_ns           # a used block is cleared when it has been idle this long; 0: at the next pass
    uint64_t tail_decays            # 1: a live block's pages beyond what was asked are the pool's, and decay; constant
    uint64_t huge_pages             # 1: areas are advised huge; constant
    uint64_t exact                  # 1: a caller gets whole huge pages where they are, so that no touch is a surprise; constant
    Budget *budget                  # NULL: one of its own, without a limit; constant
    int64_t node                    # NUMA node of the areas; -1: any; constant

cdef struct LargeThread:            # what one thread keeps; made once, used again when that thread has ended
    LargeThread *next               # of the Large's; constant
    uint32_t in_use                 # atomic
    PoolQueue queue[LARGE_POOLS]    # each guarded by its pool's lock

cdef struct Large:
    uint64_t heap                   # whose owner words these are; constant
    LargeConfig config
    uint64_t now_ns                 # the latest time that was passed in; atomic
    uint64_t last_pass_ns           # of large_maintain; NOWHERE: none yet; atomic
    uint64_t threads                # LargeThreads, newest first, as a number: pushed by compare-and-swap, never removed
    uint64_t huge_refused           # the errno when huge pages were first refused; atomic
    uint64_t bytes                  # of this mapping; constant
    Budget own                      # where the config names none
    Pool pool[LARGE_POOLS]

cdef struct LargeRequest:
    uint64_t size                   # asked
    uint64_t align                  # asked: 0, or a power of two
    uint64_t zero                   # asked: 1: the block must read 0
    uint64_t capacity               # answer: bytes of the block
    uint64_t clean                  # answer: 1 if it was known to read 0, and so was not touched
    uint64_t dirty                  # answer: bytes from its start that may not have read 0
    uint64_t failure                # answer: LARGE_SERVED …
    int os_error                    # answer, if LARGE_REFUSED
    int os_call                     # … of VM_…

cdef int large_open(uint64_t heap, const LargeConfig *config, Large **into) noexcept nogil  # 0 or the errno
cdef void large_close(Large *large) noexcept nogil                    # unmaps everything; nobody is inside or will be
cdef void large_configure(Large *large, const LargeConfig *config) noexcept nogil  # what is not constant
cdef uint64_t large_note_time(Large *large, uint64_t now_ns) noexcept nogil  # time never goes back; the time it is now
cdef LargeThread *large_thread_open(Large *large) noexcept nogil      # for the calling thread to pass along; NULL: no memory
cdef void large_thread_end(Large *large, LargeThread *t) noexcept nogil  # its blocks go to all; once, by whoever opened it
cdef uint64_t large_allocate(Large *large, LargeThread *t, LargeRequest *q) noexcept nogil  # 0: see q.failure; t may be NULL
cdef int large_deallocate(Large *large, LargeThread *t, uint64_t address) noexcept nogil    # FREE_OK, or why not
cdef uint64_t large_block_start(Large *large, uint64_t address) noexcept nogil  # of the block around an address; 0: none of ours
cdef uint64_t large_usable_size(Large *large, uint64_t address) noexcept nogil  # of a live block, by its start; 0: it is none
cdef bint large_resize_in_place(Large *large, uint64_t address, uint64_t size) noexcept nogil  # False: nothing changed
cdef uint64_t large_maintain(Large *large, uint64_t now_ns, bint force) noexcept nogil  # blocks cleared; force: whatever their age
cdef uint64_t large_dirty_bytes(Large *large) noexcept nogil          # idle, may be resident
cdef uint64_t large_live(Large *large, uint64_t *bytes) noexcept nogil  # blocks handed out
cdef void large_read_stats(Large *large, uint32_t index, PoolStats *into) noexcept nogil  # costs no system call
cdef void large_vacate(Large *large) noexcept nogil                   # gives all memory back; what is live reads 0, and goes back as ever
cdef uint64_t large_books(Large *large) noexcept nogil                # what of the budget is records
cdef int large_huge_refused(Large *large) noexcept nogil              # the errno, or 0
cdef int large_check(Large *large, PoolFinding *finding) noexcept nogil  # POOL_SOUND, or the law that is broken
cdef void large_lock_all(Large *large) noexcept nogil                 # fork
cdef void large_unlock_all(Large *large) noexcept nogil
cdef void large_reset(Large *large) noexcept nogil

# inside large
cdef uint32_t large_pool_for(uint64_t size) noexcept nogil
cdef uint64_t large_fail(LargeRequest *q, uint64_t failure) noexcept nogil
cdef PoolBlock *large_take(Large *large, Pool *pool, PoolQueue *own, LargeRequest *q) noexcept nogil
cdef PoolBlock *large_fetch(Large *large, Pool *pool, PoolQueue *own) noexcept nogil
cdef bint large_hand_out(Large *large, Pool *pool, PoolBlock *b, LargeRequest *q) noexcept nogil
cdef void large_return_unserved(Pool *pool, PoolQueue *own, PoolBlock *b) noexcept nogil
cdef void large_zero(Large *large, Pool *pool, PoolBlock *b, LargeRequest *q) noexcept nogil
cdef PoolBlock *large_refill(Large *large, Pool *pool, PoolQueue *own, LargeRequest *q) noexcept nogil
cdef PoolBlock *large_grow(Large *large, Pool *pool, LargeRequest *q) noexcept nogil
cdef void large_advise(Large *large, uint64_t base, uint64_t size) noexcept nogil
cdef PoolBlock *large_find(Large *large, uint64_t address, Pool **into) noexcept nogil
cdef void large_accept(Large *large, Pool *pool, PoolQueue *own, PoolBlock *b) noexcept nogil
cdef void large_return_eagerly(Pool *pool, PoolBlock *b) noexcept nogil
cdef bint large_pass_is_due(Large *large, uint64_t now, bint force) noexcept nogil
cdef uint64_t large_maintain_pool(Large *large, Pool *pool, bint force) noexcept nogil
cdef uint64_t large_clear(Large *large, Pool *pool, uint32_t place, uint64_t age, uint64_t *budget) noexcept nogil
cdef PoolBlock *large_take_out(Large *large, Pool *pool, uint32_t place, uint64_t age) noexcept nogil
cdef int large_purge(Large *large, uint64_t address, uint64_t *touched) noexcept nogil
cdef void large_put_back(Pool *pool, PoolQueue *refused) noexcept nogil
cdef void large_trim_tails(Large *large, Pool *pool, uint64_t age) noexcept nogil
cdef void large_trim(Large *large, Pool *pool, PoolBlock *b, uint64_t start) noexcept nogil
cdef uint64_t large_now(Large *large) noexcept nogil
cdef uint64_t large_asked(Large *large, Pool *pool, uint64_t size) noexcept nogil
cdef uint64_t large_extent(Large *large, Pool *pool, uint64_t asked) noexcept nogil
