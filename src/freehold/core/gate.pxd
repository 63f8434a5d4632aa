# gate.pxd: who may use a layer's object: many threads at once, or one alone.
#
# Thread-safe. For what Python drives: a call takes two atomic operations; whoever is shut out sleeps.
# Invariant: the word is GATE_SHUT plus the number of threads inside; once gate_shut has returned, that number is 0 until
# the gate is opened.
# Does not: recurse (a thread inside must not shut), or know a rank: nothing may be locked when it is entered or shut.
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    GATE_SHUT = 0x40000000

cdef struct Gate:
    uint32_t word                   # atomic
    uint64_t shutter                # the thread that shut it, by the caller's own numbers; 0: none; atomic

cdef bint gate_enter(Gate *g, uint64_t me) noexcept nogil      # waits while it is shut; False if this thread shut it
cdef void gate_leave(Gate *g) noexcept nogil
cdef bint gate_shut(Gate *g, uint64_t me) noexcept nogil       # waits until it is alone; False if this thread has shut it already
cdef bint gate_open(Gate *g, uint64_t me) noexcept nogil       # False if this thread has not shut it
cdef bint gate_is_mine(Gate *g, uint64_t me) noexcept nogil
cdef void gate_reset(Gate *g, uint64_t me) noexcept nogil      # in a forked child, where no other thread is
