# decay.pxd: how many idle pages may stay, by how long ago pages became idle.
#
# Not thread-safe: the caller holds the lock of what decays. Times in nanoseconds, on a clock that is passed in.
# Law: what became idle x decay times ago may stay to the share s(1 - x), s(y) = 6 y^5 - 15 y^4 + 10 y^3; time goes in steps of a
# DECAY_STEPS-th of the decay time.
# Does not: know which pages they are, or what is still there.
# After: jemalloc's decay.
from libc.stdint cimport uint64_t

cdef enum:
    DECAY_STEPS = 200

cdef struct Decay:
    uint64_t time                   # ns; 0: nothing stays; NOWHERE: everything does. Constant
    uint64_t step                   # which one now lies in
    uint64_t fresh                  # pages that became idle since the last decay_advance
    uint64_t became[DECAY_STEPS]    # pages that became idle in step i, at i % DECAY_STEPS, for the last so many steps

cdef void decay_open(Decay *d, uint64_t time) noexcept nogil
cdef void decay_note(Decay *d, uint64_t pages) noexcept nogil         # they have become idle
cdef void decay_advance(Decay *d, uint64_t now) noexcept nogil        # time never goes back
cdef void decay_advance_late(Decay *d, uint64_t now) noexcept nogil   # the same; what is fresh became idle at the end of the time passed
cdef uint64_t decay_limit(Decay *d) noexcept nogil                    # pages that may stay now

# inside decay
cdef void decay_settle(Decay *d) noexcept nogil
cdef uint64_t decay_step(Decay *d, uint64_t now) noexcept nogil
cdef uint64_t decay_share(uint64_t steps_left) noexcept nogil
