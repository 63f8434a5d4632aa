# bin.pxd: this thread's blocks of one class: an array of their numbers, and the hit that takes or gives one.
#
# A cache belongs to one thread. Others may empty it while that thread is outside: see "claiming" in caches.py.
# Invariant: the numbers in slots[0 … count - 1] of a bin are blocks in state BLOCK_CACHED, in no other bin or array.
# Does not: find a cache (caches does), or say what to do where there is no hit (cache does).
# After: LLVM's SizeClassAllocator64LocalCache and tcmalloc's thread cache.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from freehold.core.primary cimport Primary, PRIMARY_CLASSES, Region

cdef enum:
    DIRECT_LIMIT = 1024             # sizes up to here find their bin by table …
    DIRECT_ENTRIES = 65             # … of one entry for each 16 bytes, and one for size 0
    CACHE_SLOTS_BYTES = 0x100000    # a bin has slots for 1 MiB of blocks …
    CACHE_SLOTS_LEAST = 4           # … at least for 4,
    CACHE_SLOTS_MOST = 4096         # and at most for 4,096
    CACHE_SLOTS_APART = 80          # … and so many more: a block stands there that is passed straight on; see cache_describe
    BIN_BITS = 6                    # log2 of a bin's bytes
    BINS_MASK = 0xFC0               # the bits of a bin's offset among all
    CACHE_FIRST_BYTES = 0x4000      # a bin first holds so much; one that is only filled, or only emptied, no more …
    CACHE_ONE_WAY = 128             # … or so many blocks

cdef struct Bin:                    # one cache line: all that a hit reads
    uint64_t word                   # allocations << 16 | count of blocks; written by the owner (or who claimed), read by all
    uint32_t *slots                 # block numbers, newest last
    uint64_t base                   # copies of what the region says, constant
    uint8_t *states
    uint64_t multiplier
    uint64_t made                   # the region's `made` when the owner last looked: lower numbers have a state to read
    uint64_t until                  # a hit takes a block while the word is below this: `due`, or 0; see "claiming"
    uint32_t size
    uint16_t ceiling                # … and puts one back while the count is below this: `most`, or 0
    uint16_t most                   # blocks at most; 0: empty and idle, the next use takes the slow path

cdef struct Cache:
    uint32_t claimed                # 1: somebody empties it from outside; atomic
    uint32_t bin_shift              # an offset in the primary, shifted so, begins with its bin's offset in `bin`; constant
    uint64_t base                   # copies of what the primary says, constant
    uint64_t classes
    Cache **here                    # the owner's thread-local pointer to this cache: `nobody` while the owner is inside; atomic
    Cache *itself                   # what `here` points at where the cache is no heap's
    Primary *primary                # constant while in use
    Cache *next                     # of the primary's caches; guarded by the caches' lock
    uint64_t owner                  # which thread; guarded by the caches' lock
    uint64_t reserved               # sum of most * size; written by the owner (or who claimed), read by all
    uint64_t bytes                  # of this mapping; constant
    uint64_t idle_ticks             # reclaimer: looks in a row that found nothing changed
    uint64_t epoch                  # of sampling, for which `due` was drawn; the owner's alone, as that is
    uint64_t to_a_line[4]           # so that each bin is one cache line
    Bin bin[PRIMARY_CLASSES]
    uint16_t direct[DIRECT_ENTRIES]  # where, from the cache's start, the bin for each 16 bytes of size lies; constant
    uint64_t seen[PRIMARY_CLASSES]  # each bin's `word` at the reclaimer's last look; guarded by the caches' lock
    uint64_t swept[PRIMARY_CLASSES]  # … when the owner last looked for idle bins
    uint64_t turned[PRIMARY_CLASSES]  # … when the owner last refilled it or made room in it; the owner's alone
    uint64_t due[PRIMARY_CLASSES]   # each bin's `word` from which on the next block is sampled; NOWHERE: none is
    uint16_t room[PRIMARY_CLASSES]  # each bin's slots; constant

# inside bin
cdef extern from *:
    """
    /* The cache of a thread that has none, or is inside its own: it has no block, no room and no class. */
    static uint64_t fh_nobody[1024] __attribute__((aligned(64)));
    FH_TLS void *fh_cache_here = fh_nobody; /* this thread's cache of the default heap */
    FH_TLS unsigned fh_cache_phase;        /* 0 no cache yet, 1 has one, 2 it was torn down */
    static pthread_key_t fh_thread_key;
    static void fh_thread_key_make(void (*end)(void *)) { if (pthread_key_create(&fh_thread_key, end) != 0) abort(); }
    static void fh_thread_key_set(void) { pthread_setspecific(fh_thread_key, &fh_cache_phase); }
    #define fh_cache_slot() ((struct Cache **)&fh_cache_here)
    #define fh_thread_id() ((uint64_t)(uintptr_t)&fh_cache_here)      /* its address is the thread's own while it lives */

    /* Entering and leaving: the owner's half of claiming. Plain stores and compiler barriers; TSan's build exchanges. */
    #if FH_TSAN
    #define fh_enter(slot) ((void)__atomic_exchange_n(slot, (struct Cache *)fh_nobody, __ATOMIC_SEQ_CST))
    #define fh_leave(slot, c) __atomic_store_n(slot, c, __ATOMIC_SEQ_CST)
    #define fh_is_claimed(c) __atomic_load_n(&(c)->claimed, __ATOMIC_SEQ_CST)
    #define fh_load_limit(p) __atomic_load_n(p, __ATOMIC_SEQ_CST)
    #define fh_store_limit(p, x) __atomic_store_n(p, x, __ATOMIC_SEQ_CST)
    #else
    #define fh_enter(slot) ({ __atomic_store_n(slot, (struct Cache *)fh_nobody, __ATOMIC_RELAXED); __atomic_signal_fence(__ATOMIC_SEQ_CST); })
    #define fh_leave(slot, c) ({ __atomic_signal_fence(__ATOMIC_SEQ_CST); __atomic_store_n(slot, c, __ATOMIC_RELEASE); })
    #define fh_is_claimed(c) __atomic_load_n(&(c)->claimed, __ATOMIC_ACQUIRE)
    #define fh_load_limit(p) (*(p))        /* one aligned word; as an atomic, it would not be an operand of the comparison */
    #define fh_store_limit(p, x) __atomic_store_n(p, x, __ATOMIC_RELAXED)
    #endif
    #define fh_load_here(slot) __atomic_load_n(slot, __ATOMIC_SEQ_CST)
    #define fh_mul_wide(a, b, low) ({ unsigned __int128 fh_w = (unsigned __int128)(a) * (b); *(low) = (uint64_t)fh_w; (uint64_t)(fh_w >> 64); })
    """
    unsigned cache_phase "fh_cache_phase"
    Cache *nobody "(struct Cache *)fh_nobody"
    Cache **cache_slot "fh_cache_slot"() noexcept nogil
    uint64_t thread_id "fh_thread_id"() noexcept nogil
    void thread_key_make "fh_thread_key_make"(void (*end)(void *) noexcept nogil) noexcept nogil
    void thread_key_set "fh_thread_key_set"() noexcept nogil
    void enter "fh_enter"(Cache **slot) noexcept nogil
    void leave "fh_leave"(Cache **slot, Cache *c) noexcept nogil
    bint is_claimed "fh_is_claimed"(Cache *c) noexcept nogil
    uint64_t load_ceiling "fh_load_limit"(const uint16_t *p) noexcept nogil
    void store_ceiling "fh_store_limit"(uint16_t *p, uint16_t x) noexcept nogil
    uint64_t load_until "fh_load_limit"(const uint64_t *p) noexcept nogil
    void store_until "fh_store_limit"(uint64_t *p, uint64_t x) noexcept nogil
    Cache *load_here "fh_load_here"(Cache **slot) noexcept nogil
    uint64_t mul_wide "fh_mul_wide"(uint64_t a, uint64_t b, uint64_t *low) noexcept nogil
cdef inline uint64_t bin_count(uint64_t word) noexcept nogil:
    return word & 0xFFFF
# the hot path, inlined into heap_allocate and heap_deallocate
cdef inline bint cache_allocate(uint64_t grains, void **p) noexcept nogil        # default heap: a hit for so many times 16 bytes, up to 1 KiB, or False
cdef inline bint cache_allocate_class(uint32_t index, void **p) noexcept nogil   # default heap: a hit in a class, or False
cdef inline bint cache_deallocate(void *address) noexcept nogil         # default heap: False unless done at once
cdef inline uint64_t cache_room(void *address) noexcept nogil            # default heap: of a live block whose class this thread uses, or 0
# the same at any seat: where a thread's pointer to its cache is; the default heap's is one fixed word
cdef inline bint hit_take(Cache **seat, uint64_t grains, void **p) noexcept nogil
cdef inline bint hit_take_class(Cache **seat, uint32_t index, void **p) noexcept nogil
cdef inline bint hit_pop(Cache **seat, Cache *c, Bin *b, void **p) noexcept nogil
cdef inline bint hit_give(Cache **seat, uint64_t address) noexcept nogil
cdef inline Bin *hit_bin(Cache *c, uint64_t address) noexcept nogil
cdef uint64_t cache_refill(Cache *c, uint32_t index) noexcept nogil
cdef void cache_make_room(Cache *c, uint32_t index) noexcept nogil
cdef bint cache_widen(Cache *c, uint32_t index, bint both_ways) noexcept nogil
cdef void cache_sweep(Cache *c) noexcept nogil
cdef void bin_open(Cache *c, uint32_t index, uint64_t most) noexcept nogil
cdef void cache_draw(Cache *c) noexcept nogil
cdef bint bin_is_due(Cache *c, uint32_t index) noexcept nogil
cdef void bin_give(Cache *c, uint32_t index, uint64_t n, bint aged) noexcept nogil
cdef uint64_t cache_empty(Cache *c, bint aged) noexcept nogil
