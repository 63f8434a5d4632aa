# extentbook.pxd: what the parts of the extents share: their state, their lock, how they are cut, joined, put away and described.
#
# Any thread, any time: one lock (rank EXTENTS) for records, map and both sets, never held over a system call or a hook. Functions
# want it held unless they say otherwise; those marked `lets go` give it up in between. An extent that is EXTENT_TAKEN belongs to
# whoever took it.
# Does not: decide what is handed out (extent) or when it goes back (extentpurge).
# After: jemalloc's extents, with retained ranges in a page allocator.
from freehold.core.budget cimport Budget
from freehold.core.decay cimport Decay
from freehold.core.ehooks cimport ExtentHooks
from freehold.core.emap cimport Emap, EmapRegion, Extent
from freehold.core.eset cimport Eset
from freehold.core.pagebook cimport Pages
from freehold.core.sync cimport Mutex
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    EXTENT_BOOKS = 0x8000           # of a block of the space: what its records, map, bitmaps and summaries may make resident
    EXTENT_SHELVES = 3              # regions that touch stand on different ones where they must not be merged

cdef enum:                          # why two extents can not be one; keep the face's words in this order
    MERGE_OK = 0
    MERGE_NOT_NEIGHBOURS = 1
    MERGE_STATE = 2
    MERGE_COMMIT = 3
    MERGE_HEAD = 4
    MERGE_HOOK = 5
    MERGE_DEAD = 6                  # one of them is no extent any more

cdef struct ExtentConfig:
    uint64_t heap                   # id, for the owner table
    uint64_t dirty_ns               # decay times; NOWHERE: never
    uint64_t muzzy_ns
    Budget *budget                  # counts what is not retained, and EXTENT_BOOKS for each block; NULL: no limit
    int node                        # NUMA node of the regions; -1: any
    bint maps_coalesce              # the OS can purge and unmap across regions
    bint huge_pages                 # advise regions after the first one
    bint grows                      # regions become larger as there are more of them
    ExtentHooks hooks

cdef struct ExtentView:             # what is told of an extent
    Extent *extent                  # NULL: a retained range
    uint64_t birth
    uint64_t address
    uint64_t size                   # bytes
    uint64_t serial
    uint64_t turn
    uint32_t state
    uint32_t size_class
    bint is_head
    bint zeroed                     # just handed out: known to read 0

cdef struct Extents:
    Mutex lock
    ExtentConfig config             # constant
    uint64_t bytes                  # of this mapping; constant
    Eset dirty                      # guarded by lock, like all below
    Eset muzzy
    Decay dirty_decay
    Decay muzzy_decay
    Pages shelf[EXTENT_SHELVES]     # retained pages are free and scavenged here, all others in use; each has its own lock
    uint64_t serials                # given out so far
    uint64_t active                 # extents
    uint64_t active_pages
    uint64_t allocations            # so far
    uint64_t allocated_pages        # by them, so far
    uint64_t purged_bytes           # so far
    uint64_t refusals               # purges refused, so far
    uint64_t now                    # ns: the largest time ever told
    uint32_t away                   # threads that let the lock go while something was theirs
    uint32_t returned               # counts those that came back; waited on as a futex
    uint32_t users                  # calls under way that hold it open, and EXTENTS_CLOSED; atomic
    Emap map

cdef enum:
    EXTENTS_CLOSED = 0x80000000

cdef inline Eset *extents_set(Extents *x, uint32_t state) noexcept nogil:
    return &x.dirty if state == 2 else &x.muzzy
cdef inline Decay *extents_decay_of(Extents *x, Eset *s) noexcept nogil:
    return &x.dirty_decay if s == &x.dirty else &x.muzzy_decay

cdef void extents_lock(Extents *x) noexcept nogil
cdef void extents_unlock(Extents *x) noexcept nogil
cdef void extents_lock_all(Extents *x) noexcept nogil                 # fork: nobody is away
cdef void extents_unlock_all(Extents *x) noexcept nogil
cdef void extents_reset(Extents *x) noexcept nogil                    # in the child
cdef void extents_describe(const Extent *e, ExtentView *into) noexcept nogil
cdef bint extents_describe_retained(Extents *x, uint64_t address, ExtentView *into) noexcept nogil  # the range around an address

# For the other parts; the lock is held.
cdef void extents_leave(Extents *x) noexcept nogil                    # lets go, with something taken
cdef void extents_return(Extents *x) noexcept nogil
cdef bint extents_stock(Extents *x, uint64_t records) noexcept nogil  # lets go: so many spare records beyond those promised
cdef Extent *extents_cut(Extents *x, Extent *e, uint64_t pages) noexcept nogil  # what is left over, taken
cdef bint extents_may_split(Extents *x, Extent *e, uint64_t pages) noexcept nogil  # lets go where there is a hook
cdef int extents_mergeable(Extents *x, const Extent *a, const Extent *b) noexcept nogil
cdef bint extents_ask_merge(Extents *x, const Extent *a, uint64_t b, uint64_t size_b) noexcept nogil  # lets go where there is a hook
cdef void extents_join(Extents *x, Extent *a, Extent *b) noexcept nogil
cdef void extents_idle(Extents *x, Eset *s, Extent *e) noexcept nogil  # lets go where there is a hook: merged with its neighbours, the youngest
cdef void extents_retain(Extents *x, Extent *e) noexcept nogil
cdef void extents_unretain(Extents *x, Extent *e) noexcept nogil      # serial and head of a range that was retained
cdef Pages *extents_shelf(Extents *x, uint64_t address) noexcept nogil

# inside extentbook
cdef Extent *extents_idle_beside(Extents *x, Eset *s, Extent *e, bint below) noexcept nogil
