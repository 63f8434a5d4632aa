# arenapurge.pxd: giving the memory of free blocks back, at once or after a delay.
#
# Any thread, any time; one thread purges at a time, others that try do nothing.
# Invariant: memory is taken only from blocks whose bits in `in_use` the purger itself has claimed.
# Does not: know the clock (it is told the time), or what a block was used for.
from freehold.core.arenabook cimport Arena, Arenas
from libc.stdint cimport uint64_t

cdef void arena_schedule(Arenas *s, Arena *a, uint64_t i, uint64_t n) noexcept nogil   # of blocks about to be given up: purge, now or later
cdef bint arenas_purge(Arenas *s, uint64_t now, bint force, bint visit_all) noexcept nogil  # whether anything was

# inside arenapurge
cdef void arena_put_off(Arenas *s, Arena *a) noexcept nogil
cdef bint arena_is_due(Arena *a, uint64_t now, bint force) noexcept nogil
cdef bint arena_purge(Arenas *s, Arena *a) noexcept nogil
cdef bint arena_purge_scheduled(Arenas *s, Arena *a, uint64_t i, uint64_t end) noexcept nogil
cdef bint arena_purge_run(Arenas *s, Arena *a, uint64_t i, uint64_t n) noexcept nogil
