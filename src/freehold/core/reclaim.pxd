# reclaim.pxd: one native thread per process that gives back what has been idle. It never touches Python.
#
# Any thread may poke at any time, also from a slow path that holds no lock. A tick lets forks pass where it calls fork_pass.
# Another process may ring: change a word that it shares with this one, and be answered, also while the thread sleeps.
# Invariant: when the tick has said that nothing is left to do, the thread sleeps without a timeout until it is poked.
from libc.stdint cimport uint32_t, uint64_t

ctypedef bint (*start_hook)() noexcept nogil                          # True: there may be something to give back
ctypedef bint (*tick_hook)(uint64_t now_ns) noexcept nogil            # True: something may still become idle, call again
ctypedef uint32_t *(*bell_hook)() noexcept nogil                      # the word that others change; NULL: there is none now
ctypedef void (*answer_hook)() noexcept nogil

cdef enum:
    RECLAIM_NEW = 0                 # no thread yet (also in a forked child)
    RECLAIM_POKED = 1               # something happened since the last tick
    RECLAIM_QUIET = 2               # nothing did
    RECLAIM_SLEEPING = 3            # nothing is left to do: the thread waits for a poke
    RECLAIM_PATIENCE = 10000        # looks, 20 us apart at least, at whether the thread has ended; a hundredth in a tick

cdef enum:                          # nanoseconds
    ANSWER_PAUSE = 10_000_000       # between two answers, at least: whoever rings on and on does not get more
    UNHURRIED = 1_000_000_000       # between ticks where nothing is ever given back, and the thread is there to answer

cdef void reclaim_boot(tick_hook tick, uint64_t interval_ns) noexcept nogil
cdef void reclaim_hasten(uint64_t interval_ns) noexcept nogil          # tick at least so often from now on
cdef void reclaim_start_when(start_hook worth) noexcept nogil         # before it is booted: no thread until this says True
cdef void reclaim_listen(bell_hook bell, answer_hook answer) noexcept nogil  # before it is booted; both called by the thread, under its lock
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
    /* Wait until one of two words is not what was seen: one of this process, one that others share. Linux 5.16. */
    #ifndef SYS_futex_waitv
    #define SYS_futex_waitv 449
    #endif
    static int fh_futex_wait_either(uint32_t *own, uint32_t seen, uint32_t *shared, uint32_t heard, uint64_t until_ns) {
        struct { uint64_t value, word; uint32_t flags, reserved; } words[2] = {
            { seen, (uintptr_t)own, 2 | 128, 0 },       /* FUTEX_32 | FUTEX_PRIVATE_FLAG */
            { heard, (uintptr_t)shared, 2, 0 } };
        struct timespec until = { (time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u) };
        long woken = syscall(SYS_futex_waitv, words, 2, 0, until_ns == UINT64_MAX ? NULL : &until, CLOCK_MONOTONIC);
        return woken >= 0 ? 0 : errno;
    }
    """
    enum:
        ETIMEDOUT
    uint32_t thread_number "fh_thread_number"() noexcept nogil
    bint thread_is_gone "fh_thread_is_gone"(uint32_t tid) noexcept nogil
    int start_thread "fh_start_thread"(void *(*run)(void *) noexcept nogil) noexcept nogil
    int futex_wait_either "fh_futex_wait_either"(uint32_t *own, uint32_t seen, uint32_t *shared, uint32_t heard, uint64_t until_ns) noexcept nogil
cdef bint reclaim_has_work() noexcept nogil
cdef void reclaim_look_for_bell() noexcept nogil
cdef void reclaim_wait(uint32_t *word, uint32_t seen, uint64_t until) noexcept nogil
cdef void reclaim_answer() noexcept nogil
cdef bint reclaim_is_rung() noexcept nogil
cdef void *reclaim_run(void *unused) noexcept nogil
