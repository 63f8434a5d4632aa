# seats.pxd: where a thread finds its cache of each heap but the default one: a table by heap id.
#
# A table belongs to one thread, which reads it without a lock; making, ending and forking: under the caches' lock.
# Invariant: a seat is `empty` (what that is, the cache says) unless the thread has a cache of that heap and is not inside it.
# Does not: know what a cache is.
# After: the thread-local "current heap" tables of mimalloc's heaps.
from libc.stdint cimport uint64_t

cdef enum:
    SEATS = 1022                    # heap ids are below this; with two words more, a table is two OS pages

cdef struct SeatTable:
    SeatTable *next                 # all there are; constant
    uint64_t owner                  # which thread; 0: none, to be used again
    void *seat[SEATS]               # by heap id; written by the owner, and by who closes a heap

cdef void seats_make(uint64_t thread, void *empty) noexcept nogil     # this thread's table; where there is no memory it has none
cdef void seats_end() noexcept nogil                                  # this thread ends; its caches are gone
cdef void seats_fork(uint64_t thread) noexcept nogil                  # in a forked child: the other threads are gone

# inside seats
cdef extern from *:
    """
    FH_TLS void **fh_seats_of_this_thread;
    #define fh_seats_get() fh_seats_of_this_thread
    #define fh_seats_set(s) (fh_seats_of_this_thread = (s))
    """
    void **seats_here "fh_seats_get"() noexcept nogil
    void seats_set_here "fh_seats_set"(void **seats) noexcept nogil
