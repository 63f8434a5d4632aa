# arena.pxd: blocks of 4 MiB for whoever asks: from an arena that suits, from a new one, or straight from the OS.
#
# Any thread, any time; nothing waits, and no lock is held over a system call.
# Invariant: a request that is refused has changed nothing but what it says about why.
# Does not: remember who has which block, or purge by itself (`arenas_purge` does, when told the time).
# After: mimalloc's arenas.
from freehold.core.arenabook cimport Arena, ArenaFailure, Arenas
from libc.stdint cimport uint32_t, uint64_t

cdef struct ArenaRequest:
    uint64_t size                   # bytes; rounded up to whole blocks
    uint64_t align                  # a power of two; above a block: straight from the OS
    uint32_t arena                  # this one and no other; ARENA_ANY
    int node                        # near to this one if possible; ARENA_NO_NODE
    bint commit
    bint allow_large                # pages of 1 GiB will do too
    ArenaFailure why                # of a refusal

cdef struct MemoryId:               # what a block's holder keeps of it, to free it by
    int kind                        # MEMORY_ARENA or MEMORY_OS
    uint32_t arena                  # id; 0: straight from the OS
    uint64_t block                  # the first block's place in the arena
    bint exclusive                  # of an arena for requests that name it
    bint pinned                     # never decommitted
    bint committed                  # all of it may be written, from the start
    bint zero                       # all of it reads 0 once it is committed

cdef uint64_t arena_allocate(Arenas *s, ArenaRequest *q, MemoryId *id) noexcept nogil  # address; 0: see q.why
# FREE_OK, _DOUBLE or _FOREIGN; of `size` bytes the caller says `committed` still are; any run of live blocks will do
cdef int arena_free(Arenas *s, uint64_t address, uint64_t size, const MemoryId *id, uint64_t committed) noexcept nogil

# The process's own set, which the layers above share. What they free has been idle long enough: its memory goes back at once.
cdef int arenas_boot() noexcept nogil                                  # 0 or the errno; idempotent
cdef Arenas *arenas_home() noexcept nogil
cdef uint64_t arenas_take(uint64_t size, uint64_t align, ArenaFailure *why) noexcept nogil  # committed, reads 0; 0: see why
cdef int arenas_give(uint64_t address, uint64_t size) noexcept nogil   # whole blocks, all of them taken; FREE_…

# inside arena
cdef uint64_t arena_search(Arenas *s, uint32_t count, ArenaRequest *q, MemoryId *id) noexcept nogil
cdef bint arena_suits(Arena *a, const ArenaRequest *q) noexcept nogil
cdef bint arena_is_near(Arena *a, int node) noexcept nogil
cdef uint64_t arena_claim(Arena *a, ArenaRequest *q, MemoryId *id) noexcept nogil
cdef uint64_t arena_grow(Arenas *s, uint32_t count, ArenaRequest *q, MemoryId *id) noexcept nogil
cdef uint64_t arenas_growth(Arenas *s, uint32_t count, uint64_t size) noexcept nogil
cdef uint64_t arena_direct(Arenas *s, ArenaRequest *q, MemoryId *id) noexcept nogil
cdef int arena_direct_map(Arenas *s) noexcept nogil
cdef int arena_free_direct(Arenas *s, uint64_t address, uint64_t n) noexcept nogil
cdef void arena_even_out(Arena *a, uint64_t i, uint64_t n) noexcept nogil
cdef bint arena_uncommit_unknown(Arena *a, uint64_t i, uint64_t n) noexcept nogil
cdef bint arena_unmap_unknown(Arena *a, uint64_t i, uint64_t n) noexcept nogil
cdef uint64_t arena_blocks(uint64_t size) noexcept nogil
