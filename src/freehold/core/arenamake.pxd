# arenamake.pxd: how a set of arenas comes by them, and how it ends.
#
# Any thread, any time; closing: when nobody is inside the set, or will be.
# Invariant: an arena that is not added leaves nothing behind; ids are given in the order of adding, from 1.
# Does not: hand out blocks (arena does).
from freehold.core.arenabook cimport Arena, ArenaFailure, ArenaPolicy, Arenas
from libc.stdint cimport uint32_t, uint64_t

cdef struct ArenaShape:             # what a new arena is to be
    uint64_t size                   # bytes; of somebody else's memory: of the whole blocks in it
    uint64_t base                   # of somebody else's memory
    int node
    bint commit                     # now, as a whole; of somebody else's memory: it is
    bint zero                       # somebody else's memory reads 0
    bint large
    bint exclusive

cdef void arenas_open(Arenas *s, const ArenaPolicy *policy) noexcept nogil
cdef void arenas_close(Arenas *s) noexcept nogil                        # live or not; what we manage is only forgotten
cdef uint32_t arenas_reserve(Arenas *s, const ArenaShape *shape, ArenaFailure *why) noexcept nogil  # its id; 0: see why
cdef uint32_t arenas_manage(Arenas *s, const ArenaShape *shape, ArenaFailure *why) noexcept nogil
# pages of 1 GiB, one by one until the OS refuses or the time is up (ns; 0: any time); how many there are tells `got`
cdef uint32_t arenas_reserve_huge(Arenas *s, const ArenaShape *shape, uint64_t timeout, uint64_t *got, ArenaFailure *why) noexcept nogil
cdef void arenas_lock(Arenas *s) noexcept nogil                         # fork
cdef void arenas_unlock(Arenas *s) noexcept nogil
cdef void arenas_reset(Arenas *s) noexcept nogil

# inside arenamake
cdef enum:
    HUGE_SHIFT = 30
    HUGE_BLOCKS = 256               # in a page of 1 GiB
cdef Arena *arena_from_space(Arenas *s, const ArenaShape *shape, ArenaFailure *why) noexcept nogil
cdef int arenas_add(Arenas *s, Arena *a, uint32_t expected) noexcept nogil  # ARENA_…; expected: how many there must be, ARENAS_MOST + 1: any
cdef uint32_t arenas_add_or_end(Arenas *s, Arena *a, ArenaFailure *why) noexcept nogil
cdef bint arenas_overlap(Arenas *s, Arena *a) noexcept nogil
cdef uint64_t arena_map_huge(Arenas *s, const ArenaShape *shape, uint64_t base, uint64_t timeout, ArenaFailure *why) noexcept nogil
cdef void arena_end(Arenas *s, Arena *a) noexcept nogil
cdef void arena_give_back(uint64_t base, uint64_t blocks) noexcept nogil
cdef void arena_reset(Arena *a) noexcept nogil
