# idle.pxd: how much of something has been idle all through the decay time.
#
# Not thread-safe: the caller holds the lock of what is counted.
# Law: idle_tick returns the least level seen during the last IDLE_WINDOWS windows: what was never needed in that time.
from libc.stdint cimport uint64_t

cdef enum:
    IDLE_WINDOWS = 4                # the decay time is cut into so many; a tick ends one

cdef struct Idle:
    uint64_t lowest                 # the lowest level in the window that runs
    uint64_t before[IDLE_WINDOWS]   # and in those before it, oldest overwritten
    uint64_t turn                   # ticks so far

cdef void idle_fell(Idle *i, uint64_t level) noexcept nogil      # the level went down to `level`
cdef void idle_add(Idle *i, uint64_t amount) noexcept nogil      # something joins that has been idle all along
cdef uint64_t idle_tick(Idle *i, uint64_t level) noexcept nogil  # a window ends at this level
