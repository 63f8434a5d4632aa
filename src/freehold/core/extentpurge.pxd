# extentpurge.pxd: what is idle goes back, oldest first: dirty to muzzy, to retained.
#
# Any thread, any time; functions take the lock of the extents. An extent is taken, purged without the lock, and put where it
# belongs then.
# Does not: read a clock.
# After: jemalloc's pac.
from freehold.core.emap cimport Extent
from freehold.core.eset cimport Eset
from freehold.core.extentbook cimport Extents
from libc.stdint cimport uint64_t

cdef uint64_t extents_decay(Extents *x, uint64_t now) noexcept nogil  # what the curves let go; bytes purged
cdef uint64_t extents_purge(Extents *x) noexcept nogil                # everything idle, now; bytes
cdef uint64_t extents_give_back(Extents *x) noexcept nogil            # the same, and the regions that are wholly retained then
cdef uint64_t extents_tick(Extents *x, uint64_t now, bint *busy) noexcept nogil  # the heap's: what became idle since the last one did so now
cdef uint64_t extents_settle(Extents *x) noexcept nogil               # what may not stay at all; bytes

# inside extentpurge
cdef uint64_t extents_decay_both(Extents *x) noexcept nogil
cdef uint64_t extents_reduce(Extents *x, Eset *s, bint all) noexcept nogil
cdef bint extents_over(Extents *x, Eset *s, uint64_t aside, bint all) noexcept nogil
cdef uint64_t extents_let_go(Extents *x, Eset *s, Extent *e, bint all) noexcept nogil
