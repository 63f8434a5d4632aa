# primary.pxd: small blocks: one region of addresses per size class, out-of-line metadata, release of single pages.
#
# Each region has a lock; where a field says nothing else, its region's lock guards it. What an address means
# (class, block, state) is answered without a lock. What may become resident is taken from the budget first.
# Invariants, for each region: a block's number is below `made` once it was ever handed out; a block in the free array has the
# state BLOCK_FREE, and one with that state that is not in the array is *parked*: counted, and at `cursor` or beyond;
# made = in the array + parked + in caches + live (+ deferred).
# Does not: know threads (cache does), or when to give memory back (reclaim says).
# After: LLVM's SizeClassAllocator64.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from freehold.core.budget cimport Budget
from freehold.core.idle cimport Idle
from freehold.core.sizes cimport Sizes
from freehold.core.sync cimport Mutex

cdef enum:
    PRIMARY_CLASSES = 64            # room for; Sizes.small of them are used
    MAP_STEP = 0x10000              # memory becomes accessible in steps of 64 KiB
    HUGE_STEP = 0x200000            # … of 2 MiB once a region grows in huge pages
    HUGE_SHARE = 10                 # … while the unused ends of such regions, but one, are at most a tenth of what is mapped
    PURGE_SLICE = 0x100000          # purged under a region's lock at once, at most (or one huge page)
    STATES_SHIFT = 1088             # states of the first class begin so far into their range: see region_open
    STATES_APART = 320              # … and of each other class so much farther, inside a page
    SHUFFLED_BLOCKS = 64            # made and shuffled at once, at least
    SORT_LEAVES = 4096              # newest entries of a free array that go on being used while it is sorted
    SETTLE_SLICE = 8192             # entries moved under the lock at once after it, at most
    UNPARK_LOOKS = 0x40000          # states looked at for parked blocks before new ones are made
    FORGET_LEAST = 16384            # blocks: fewer are not worth it

cdef enum:                          # a block's state: one byte, out of line; atomic, relaxed
    BLOCK_NEW = 0                   # never made
    BLOCK_FREE = 1                  # in its region's free array, or parked
    BLOCK_CACHED = 2                # in a thread's cache
    BLOCK_LIVE = 3                  # with the caller
    BLOCK_DEFERRED = 4              # freed where no lock could be taken; the next who holds the lock collects it
    BLOCK_SAMPLED = 5               # with the caller, and in the heap profile

cdef enum:                          # the laws that primary_check and cache_check prove; keep `primary_law` in this order
    LAW_BELOW_MADE = 1
    LAW_FREE = 2
    LAW_FREE_COUNT = 3
    LAW_MAPPED = 4
    LAW_PURGED_COUNT = 5
    LAW_PURGED = 6
    LAW_CACHED = 7
    LAW_CACHED_COUNT = 8
    LAW_CHARGED = 9
    LAW_PARKED = 10

cdef struct Grown:                  # a range that becomes accessible step by step, away from `start`
    uint64_t start
    uint64_t mapped                 # bytes accessible so far

cdef struct Region:
    Mutex lock
    uint32_t index                  # the size class; this and the next five are constant
    uint64_t base                   # address of block 0
    uint64_t size                   # bytes of a block
    uint64_t multiplier             # offset // size = high word of offset * multiplier
    uint64_t capacity               # blocks at most: by room for blocks or by room in the free array
    uint64_t metadata_end           # metadata of block k ends k * metadata_size below
    uint8_t *states                 # one byte a block; the pointer is constant, and the next one
    uint64_t states_shift           # bytes from the beginning of their range
    uint32_t *free                  # the free array: block numbers, a stack; the pointer is constant
    uint64_t *purged                # one bit an OS page: given back and not handed out since; the pointer is constant
    uint64_t made                   # blocks made so far; read without the lock by anyone
    uint64_t top                    # entries in the free array
    uint64_t bottom                 # the lowest of them are being sorted by the releaser, and are nobody else's
    uint64_t parked                 # free blocks that are in no array: their pages were given back when it was sorted
    uint64_t cursor                 # none of them has a number below this
    uint64_t raced                  # 1 + a number that was found in the free array twice, to be told of; 0: none
    uint64_t purged_pages           # all of them below `charged`
    uint64_t charged                # bytes from block 0 that the budget counts, but for purged pages
    uint64_t books                  # bytes of array, states, bits and metadata that the budget counts
    uint64_t books_owed             # … counted still, and being given back
    Grown blocks
    Grown array
    Grown state_bytes
    Grown purged_bits
    Grown metadata                  # grows down
    bint huge                       # grows in huge pages
    bint advised                    # the huge-page advice stands on some of its blocks
    bint advice_taken_back          # … and does not on others
    uint64_t deferred               # blocks in that state; atomic
    Idle idle                       # of blocks in the free array
    uint64_t freed_bytes            # given to the free array since the last release
    uint64_t released_at            # ns
    uint64_t ended_allocations      # by threads that ended, and by those without a cache; atomic
    uint64_t releases
    uint64_t released_bytes         # in all
    uint64_t last_released_bytes
    uint64_t exhausted              # requests that found no room; atomic
    uint32_t is_exhausted           # … and so did the last one; atomic
    int refused                     # the errno of the OS, where it refused to map the next blocks

cdef struct PrimaryConfig:
    uint32_t region_bits            # 32 … 36
    uint32_t heap                   # id, for the owner table
    uint64_t metadata_size          # bytes a block, a multiple of 8, or 0
    bint shuffle
    bint huge_pages
    bint forgets                    # free blocks at a region's end, whose pages are gone, count as never made: see region_forget
    uint64_t release_interval_ns
    uint64_t cache_bytes            # a thread; 0: no caches
    Budget *budget                  # NULL: one of its own, without a limit
    int node                        # NUMA node of the blocks; -1: any
    bint sampled                    # for the heap profile: whoever allocates from it records what is BLOCK_SAMPLED
    bint gated                      # whoever uses it has passed a gate that a fork shuts: its locks are free then

cdef struct Primary:
    PrimaryConfig config            # constant
    const Sizes *sizes              # constant
    uint32_t classes                # constant
    uint64_t base                   # of region 0; constant
    uint64_t span                   # bytes of all regions; constant
    uint64_t blocks                 # of the space, taken; constant
    uint64_t page_size              # of the OS; constant
    uint64_t mapped                 # bytes of blocks accessible, all regions; atomic
    uint64_t metadata               # bytes of all else; atomic
    uint64_t huge_regions           # how many grow in huge pages; atomic
    uint64_t random                 # state of the shuffle; atomic
    Budget *budget                  # constant
    Budget own                      # where the config names none
    Primary *next                   # guarded by the caches' lock
    void *caches                    # guarded by the caches' lock
    Region region[PRIMARY_CLASSES]

cdef int primary_open(const PrimaryConfig *config, Primary **into) noexcept nogil   # 0 or the errno
cdef void primary_close(Primary *p) noexcept nogil                                  # whatever is live; no caches left
cdef uint64_t primary_take(Region *r, Primary *p, uint32_t *into, uint64_t n) noexcept nogil  # up to n blocks, as BLOCK_CACHED
cdef uint64_t primary_take_locked(Region *r, Primary *p, uint32_t *into, uint64_t n) noexcept nogil  # the caller holds the region's lock
cdef void region_unlock(Region *r) noexcept nogil                                   # after primary_take_locked: tells what it found
cdef void primary_vacate(Primary *p) noexcept nogil                                 # gives all memory back and keeps every state: what is live reads 0
cdef uint64_t primary_give(Region *r, uint32_t *numbers, uint64_t n, bint aged) noexcept nogil  # cached blocks back; how many, first in `numbers` now, were not
cdef uint64_t primary_give_locked(Region *r, uint32_t *numbers, uint64_t n, bint aged) noexcept nogil  # the caller holds the region's lock
cdef int primary_judge(Primary *p, uint64_t address, uint64_t *size_class) noexcept nogil     # FREE_OK if it is a live block's start
cdef uint8_t primary_retract(Primary *p, uint64_t address) noexcept nogil           # live → cached, for one of those who race to free it: what it was; 0: raced
cdef bint primary_is_sampled(Primary *p, uint64_t address) noexcept nogil            # a live block
cdef void primary_sample(Primary *p, uint64_t address) noexcept nogil                # … that its caller has not seen yet
cdef void primary_defer(Primary *p, uint64_t address) noexcept nogil                # a block marked as cached goes back without any lock
cdef Region *primary_region_of(Primary *p, uint64_t address) noexcept nogil         # NULL if in no region
cdef uint64_t primary_block_start(Primary *p, uint64_t address) noexcept nogil      # 0 if in no block made so far
cdef uint64_t primary_usable_size(Primary *p, uint64_t address) noexcept nogil      # 0 if in no block
cdef uint64_t primary_metadata(Primary *p, uint64_t address) noexcept nogil         # 0 if none
cdef bint primary_is_exhausted(Primary *p, uint32_t index) noexcept nogil            # the last request found no room
cdef int primary_refused(Primary *p, uint32_t index) noexcept nogil                  # the errno, if the OS refused to map the next blocks
cdef void primary_lock_all(Primary *p) noexcept nogil
cdef void primary_unlock_all(Primary *p) noexcept nogil
cdef void primary_reset(Primary *p, bint adopt) noexcept nogil                      # in a forked child; adopt: blocks in the state cached become free
cdef int primary_check(Primary *p, uint32_t *index, uint64_t *number) noexcept nogil  # 0, or which law is broken and where; takes the locks
cdef const char *primary_law(int broken) noexcept nogil
cdef uint64_t region_idle_blocks(Region *r) noexcept nogil                          # free blocks that a request would find; the caller holds the lock

cdef uint64_t primary_counted(Primary *p, uint64_t *books) noexcept nogil             # what of the budget is blocks, and what books

# inside primary
cdef inline uint8_t *primary_state(Primary *p, uint64_t address) noexcept nogil      # of the block that an address in a region lies in
cdef uint64_t primary_shadow_bytes(Primary *p, Region *r, uint64_t *states, uint64_t *purged) noexcept nogil
cdef void region_open(Primary *p, uint32_t i, uint64_t shadow) noexcept nogil
cdef uint64_t region_vacate(Primary *p, Region *r, uint64_t from_) noexcept nogil
cdef int region_make(Primary *p, Region *r, uint64_t n) noexcept nogil
cdef int grown_to(Primary *p, Grown *g, uint64_t need, uint64_t step, uint64_t *total) noexcept nogil
cdef int region_grow_blocks(Primary *p, Region *r, uint64_t need) noexcept nogil
cdef int region_grow_metadata(Primary *p, Region *r, uint64_t need) noexcept nogil
cdef uint64_t region_take_fresh(Primary *p, Region *r, uint32_t *into, uint64_t n) noexcept nogil
cdef uint64_t region_take_shuffled(Primary *p, Region *r, uint32_t *into, uint64_t n) noexcept nogil
cdef uint64_t region_batch(Region *r, uint64_t n) noexcept nogil
cdef bint region_unpark(Primary *p, Region *r, uint64_t n, uint64_t looks) noexcept nogil
cdef uint64_t region_find_parked(Region *r, uint64_t end, uint64_t wanted) noexcept nogil
cdef void region_shuffle(Primary *p, uint32_t *numbers, uint64_t n) noexcept nogil
cdef bint region_charge(Primary *p, Region *r, uint64_t count) noexcept nogil
cdef bint region_charge_books(Primary *p, Region *r, uint64_t count) noexcept nogil
cdef uint64_t region_books(Primary *p, Region *r, uint64_t count) noexcept nogil
cdef bint region_unpurge(Primary *p, Region *r, uint64_t number, uint64_t n) noexcept nogil
cdef void region_collect_deferred(Region *r) noexcept nogil
cdef uint64_t region_adopt(Region *r, uint8_t state) noexcept nogil
cdef void region_park_all(Region *r) noexcept nogil
cdef bint states_hold_free(uint64_t eight) noexcept nogil
cdef uint64_t states_count_free(Region *r, uint64_t end) noexcept nogil
cdef uint64_t states_next(Region *r, uint64_t i, uint64_t end, bint free) noexcept nogil
cdef int region_check(Primary *p, Region *r, uint64_t *number) noexcept nogil
cdef void grown_drop(Grown *g) noexcept nogil
