# sync.pxd: locks, their ranks, and the list of them that fork needs.
#
# A lock is one word and a rank; taking it uncontended is one compare-and-swap, no system call. Not recursive.
# Rank: a thread waits for locks in ascending rank; among equals (the regions of a heap) in ascending address. The debug build
# keeps what each thread holds and aborts, naming both locks, when one is taken out of order.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:                          # the ranks, outermost first; keep `rank_name` in this order
    RANK_INSTALL = 1                # faces: install and uninstall
    RANK_RECLAIM = 2                # the background thread's state
    RANK_PROFILE = 3                # the heap profile: begun, ended, written out
    RANK_HEAPS = 4                  # the list of heaps
    RANK_HEAP = 5                   # a heap's layers being made; what it holds back
    RANK_LARGE_REFILL = 6           # one thread at a time maps a new area
    RANK_LARGE = 7                  # the queues of one large class
    RANK_EXTENTS = 8                # the extents of a heap
    RANK_PAGES = 9                  # a page allocator; a heap's three in order of address
    RANK_CACHES = 10                # the list of thread caches
    RANK_REGION = 11                # one region of a primary; many, in order of address
    RANK_ARENA = 12                 # which arenas a set of them has
    RANK_SPACE = 13                 # which blocks of the reservation are taken
    RANK_SAMPLES = 14               # the heap profile's tables
    RANK_LEAF = 15                  # nothing is taken under it
    RANKS = 16

cdef struct Mutex:
    uint32_t word                   # 0 free, 1 held, 2 held and waited for; atomic
    uint32_t rank                   # constant after mutex_init

cdef void mutex_init(Mutex *m, uint32_t rank) noexcept nogil
cdef void mutex_lock(Mutex *m) noexcept nogil
cdef bint mutex_try(Mutex *m) noexcept nogil
cdef void mutex_lock_unseen(Mutex *m) noexcept nogil    # the witness is not told: for fork, which takes more than it has room for
cdef void mutex_unlock_unseen(Mutex *m) noexcept nogil
cdef void mutex_unlock(Mutex *m) noexcept nogil
cdef void mutex_reset(Mutex *m) noexcept nogil        # in a forked child: free again, whoever held it
cdef const char *rank_name(uint32_t rank) noexcept nogil

# Fork: for each rank, whoever has its locks says how they are held across a fork. `fork_before` goes through the ranks in order.
ctypedef void (*fork_hook)() noexcept nogil
cdef void fork_cover(uint32_t rank, fork_hook before, fork_hook in_parent, fork_hook in_child) noexcept nogil
cdef void fork_nothing() noexcept nogil               # a hook: the locks of this rank are covered with those of another
cdef uint32_t fork_uncovered() noexcept nogil         # the first rank that nobody covers; 0: none
cdef void fork_before() noexcept nogil
cdef void fork_in_parent() noexcept nogil
cdef void fork_in_child() noexcept nogil
cdef void fork_ticker(Mutex *m) noexcept nogil        # this thread holds m for long, and lets forks pass; NULL: no longer
cdef void fork_pass() noexcept nogil                  # holding nothing else: if a fork waits for this thread, let it pass first
cdef int locks_held() noexcept nogil                  # by this thread; 0 always in release builds
cdef void locks_none(const char *where) noexcept nogil  # debug: abort unless this thread holds none

# inside sync
cdef struct ForkSteps:
    fork_hook before
    fork_hook in_parent
    fork_hook in_child

cdef extern from *:
    """
    FH_TLS void *fh_ticker;           /* the lock that this thread gives up where a fork waits; most have none */
    #define fh_ticker_get() ((struct Mutex *)fh_ticker)
    #define fh_ticker_set(m) (fh_ticker = (m))
    #define FH_MOST_HELD 128
    typedef struct { unsigned n; void *lock[FH_MOST_HELD]; } FhHeld;  /* debug: what this thread holds, in order taken */
    #if FH_CHECK
    static __thread FhHeld fh_held;
    #define fh_held_here() (&fh_held)
    #else
    #define fh_held_here() ((FhHeld *)0)
    #endif
    """
    enum:
        MOST_HELD "FH_MOST_HELD"
    ctypedef struct Held "FhHeld":
        unsigned n
        void **lock
    Held *held_here "fh_held_here"() noexcept nogil
    Mutex *ticker_here "fh_ticker_get"() noexcept nogil
    void ticker_set "fh_ticker_set"(Mutex *m) noexcept nogil
cdef void mutex_lock_slow(Mutex *m) noexcept nogil
cdef void witness_take(Mutex *m) noexcept nogil
cdef bint witness_forget(Mutex *m) noexcept nogil
cdef void witness_drop(Mutex *m) noexcept nogil
cdef void witness_note(Mutex *m) noexcept nogil
