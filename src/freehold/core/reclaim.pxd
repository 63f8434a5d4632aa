# reclaim.pxd: one native thread per process that gives back what has been idle. It never touches Python.
#
# Any thread may poke at any time, also from a slow path that holds no lock. A tick lets forks pass where it calls fork_pass.
# Invariant: when the tick has said that nothing is left to do, the thread sleeps without a timeout until it is poked.
from libc.stdint cimport uint32_t, uint64_t

ctypedef bint (*start_hook)() noexcept nogil                          # True: there may be something to give back
ctypedef bint (*tick_hook)(uint64_t now_ns) noexcept nogil            # True: something may still become idle, call again

cdef enum:
    RECLAIM_NEW = 0                 # no thread yet (also in a forked child)
    RECLAIM_POKED = 1               # something happened since the last tick
    RECLAIM_QUIET = 2               # nothing did
    RECLAIM_SLEEPING = 3            # nothing is left to do: the thread waits for a poke
    RECLAIM_PATIENCE = 10000        # looks, 20 us apart at least, at whether the thread has ended; a hundredth in a tick

cdef void reclaim_boot(tick_hook tick, uint64_t interval_ns) noexcept nogil
cdef void reclaim_hasten(uint64_t interval_ns) noexcept nogil          # tick at least so often from now on
cdef void reclaim_start_when(start_hook worth) noexcept nogil         # before it is booted: no thread until this says True
cdef void reclaim_poke() noexcept nogil                               # something may become idle; starts or wakes the thread
cdef void reclaim_rest() noexcept nogil                               # no thread until as many have called the next one
cdef void reclaim_resume() noexcept nogil                             # the next poke may start it again
cdef void reclaim_catch_up() noexcept nogil                           # poke, where there was a thread or a poke meanwhile
cdef uint64_t reclaim_ticks() noexcept nogil                          # so far, a count
cdef bint reclaim_is_asleep() noexcept nogil
cdef void reclaim_fork_lock() noexcept nogil                          # waits for a tick in progress
cdef void reclaim_fork_unlock() noexcept nogil
cdef void reclaim_fork_reset() noexcept nogil

# inside reclaim
cdef extern from *:
    """
    /* Started with every signal blocked, so that no handler of the program ever runs on it. */
    static int fh_start_thread(void *(*run)(void *)) {
        sigset_t all, before;
        pthread_attr_t attributes;
        pthread_t thread;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        pthread_attr_setstacksize(&attributes, 256 * 1024);
        int error = pthread_create(&thread, &attributes, run, NULL);
        pthread_attr_destroy(&attributes);
        if (error == 0) pthread_setname_np(thread, "freehold");
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        return error;
    }
    #define fh_thread_number() ((uint32_t)syscall(SYS_gettid))
    static int fh_thread_is_gone(uint32_t tid) { return tid == 0 || syscall(SYS_tgkill, getpid(), tid, 0) != 0; }
    """
    uint32_t thread_number "fh_thread_number"() noexcept nogil
    bint thread_is_gone "fh_thread_is_gone"(uint32_t tid) noexcept nogil
    int start_thread "fh_start_thread"(void *(*run)(void *) noexcept nogil) noexcept nogil
cdef void *reclaim_run(void *unused) noexcept nogil
