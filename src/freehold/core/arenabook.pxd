# arenabook.pxd: what the parts of the arenas share: an arena and its bitmaps, a set of arenas, and what the OS does to a run.
#
# Any thread, any time. A set's `lock` is held while an arena is added, over no system call; nothing else takes it.
# Invariant: the bits of a block in `dirty`, `committed` and `purge` are changed by whoever claimed its bit in `in_use`, and by
# nobody else; `live` is set last when a block is handed out and cleared first when it comes back, so live <= in_use.
# Does not: choose an arena (arena does), make one (arenamake), or decide when to purge (arenapurge).
from freehold.core.sync cimport Mutex
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    ARENAS_MOST = 512               # in one set
    ARENA_ANY = 0                   # no arena has this id
    ARENA_NO_NODE = -1

cdef enum:                          # where memory comes from: the kind in a memory id, and of an arena
    MEMORY_NONE = 0
    MEMORY_OS = 1                   # straight from the space
    MEMORY_EXTERNAL = 2             # somebody else's
    MEMORY_STATIC = 3               # the library's own data
    MEMORY_ARENA = 4
    MEMORY_HUGE = 5                 # pages of 1 GiB

cdef enum:                          # why something could not be had; 0: it could
    ARENA_OK = 0
    ARENA_REFUSED = 1               # the OS did: see os_call and os_error
    ARENA_TOO_MANY = 2              # the set has all the arenas it may have
    ARENA_NO_ROOM = 3               # no suitable arena has so many free blocks in a row, and nothing else is allowed
    ARENA_UNKNOWN = 4               # no arena has that id
    ARENA_OVERLAPS = 5              # a range to manage, with a known area
    ARENA_RACED = 6                 # another thread added an arena meanwhile

cdef enum:                          # whether a new arena is committed as a whole
    ARENA_COMMIT_LATER = 0
    ARENA_COMMIT_NOW = 1
    ARENA_COMMIT_AUTO = 2           # if the OS overcommits

cdef struct ArenaFailure:
    int reason                      # ARENA_…
    int os_call                     # VM_…
    int os_error

cdef struct Arena:                  # all constant once it is in a set, but for the expiry and the bits
    uint64_t base
    uint64_t blocks
    uint64_t metadata_bytes         # of this record, with the bitmaps behind it
    uint32_t id
    int kind                        # MEMORY_OS, _EXTERNAL or _HUGE
    int node                        # ARENA_NO_NODE: nobody said
    bint exclusive                  # serves requests that name it, and no others
    bint large                      # huge pages that can not be split: for requests that allow it; never decommitted
    bint huge_advice                # transparent huge pages are asked for
    bint bind                       # the OS is told the node
    bint in_cell                    # this record lies in the static area
    uint64_t expiry                 # ns: from when on a purge is due; 0: nothing is scheduled; atomic
    uint64_t *in_use                # claimed; these five: atomic, one bit a block
    uint64_t *live                  # handed out
    uint64_t *dirty                 # may hold something else than zeros
    uint64_t *committed             # may be read and written, as far as we know
    uint64_t *purge                 # free, to be purged

cdef struct ArenaPolicy:            # constant
    uint64_t heap                   # id, for the owner table
    uint64_t reserve_bytes          # what a new arena reserves at first
    int64_t delay_ns                # < 0: never purge; 0: as soon as it is free
    uint32_t most                   # arenas
    int eager_commit                # ARENA_COMMIT_…
    bint limit_os_alloc             # nothing comes straight from the OS
    bint virtual_reserve            # addresses cost nothing to reserve
    bint bind                       # False: the nodes are a pretence

cdef struct Arenas:
    Mutex lock                      # guards `count` and `arena` against other writers
    ArenaPolicy policy
    uint32_t count                  # atomic; stored with release after the entry
    uint32_t purging                # 1 while a thread purges; atomic
    uint64_t now                    # ns: the largest time told; atomic
    uint64_t owner                  # what the owner table says of blocks that are not handed out; constant
    uint64_t direct                 # address of a bitmap, a bit a block of the space: handed out straight from it; 0: none was yet; atomic
    uint64_t direct_blocks          # atomic, relaxed, like all that follow: statistics only
    uint64_t metadata_bytes
    uint64_t purges                 # runs
    uint64_t purged_bytes
    Arena *arena[ARENAS_MOST]       # by id - 1

cdef struct ArenasStats:
    uint64_t arenas
    uint64_t reserved_bytes
    uint64_t committed_bytes
    uint64_t in_use_bytes
    uint64_t os_direct_bytes
    uint64_t scheduled_bytes
    uint64_t purges
    uint64_t purged_bytes
    uint64_t metadata_bytes

cdef inline uint64_t arena_address(Arena *a, uint64_t i) noexcept nogil:
    return a.base + (i << 22)       # BLOCK_SHIFT

cdef Arena *arenas_find(Arenas *s, uint64_t id) noexcept nogil                          # NULL: no such arena
cdef Arena *arenas_around(Arenas *s, uint64_t address) noexcept nogil                   # NULL: it lies in none
cdef uint64_t arenas_next(Arenas *s, uint64_t address) noexcept nogil                   # where the next one above begins; NOWHERE
cdef bint arenas_contain(Arenas *s, uint64_t address) noexcept nogil
cdef uint64_t arenas_live(Arenas *s) noexcept nogil                                     # blocks handed out
cdef void arenas_note_time(Arenas *s, uint64_t now) noexcept nogil                      # it never goes back
cdef uint64_t arenas_time(Arenas *s) noexcept nogil
cdef void arenas_read_stats(Arenas *s, ArenasStats *into) noexcept nogil
cdef const char *arenas_check(Arenas *s, uint32_t *id) noexcept nogil                    # nobody is inside: the law that is broken, and where; NULL: none is
cdef void arena_draw(Arena *a, char *into) noexcept nogil                               # a character a block: x in use, . free

# inside arenabook
cdef enum:
    ARENA_CELL_BYTES = 512          # the record of an arena of up to 2 GiB
    ARENA_CELLS = 64                # the static area: one word says which are taken
    ARENA_CELL_WORDS = 4096         # of all cells
cdef uint64_t *arenas_direct(Arenas *s) noexcept nogil                                  # NULL: nothing came straight from the OS yet
cdef Arena *arena_describe(Arenas *s, uint64_t base, uint64_t blocks, ArenaFailure *why) noexcept nogil  # NULL: refused
cdef void arena_forget(Arenas *s, Arena *a) noexcept nogil
cdef const char *arena_check(Arena *a) noexcept nogil
cdef uint64_t arena_cell_take() noexcept nogil
cdef void arena_cell_give(uint64_t cell) noexcept nogil
cdef void arena_refused(ArenaFailure *why, int call, int error) noexcept nogil
cdef bint arena_commit(Arena *a, uint64_t i, uint64_t n, ArenaFailure *why) noexcept nogil  # what is not yet; all or none
cdef int arena_commit_run(Arena *a, uint64_t i, uint64_t n) noexcept nogil
cdef void arena_uncommit(Arena *a, uint64_t i, uint64_t end) noexcept nogil
cdef int arena_decommit(Arena *a, uint64_t i, uint64_t n) noexcept nogil                # the whole run; 0 or the errno
cdef int arena_unmap(Arena *a, const uint64_t *which, uint64_t i, uint64_t end) noexcept nogil
cdef int arena_wipe(Arena *a, uint64_t i, uint64_t n) noexcept nogil
