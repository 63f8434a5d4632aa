"""One native thread per process that gives back what has been idle.

Thread-safety: any thread may poke; one thread ticks. A tick holds the reclaim lock, and gives it up between steps
where a fork waits for it.
Invariants: the thread sleeps without a timeout exactly while the word is RECLAIM_SLEEPING, and the first poke wakes it;
it begins while the word is RECLAIM_NEW and nobody has it rest.
Bell: a word shared with other processes. While it is what it was, nobody asks; one that was changed is answered, in a
tick or out of one, at most a hundred times a second. Where the kernel can not wait for two words at once (before 5.16),
every tick answers, and a thread that sleeps does not.
Does not know what there is to give back, or to answer: the heap's tick does. Starts at the first poke; in a forked
child, again.
Follows: jemalloc's background threads, of which one is enough here.
"""

import cython
from cython.cimports.freehold.core.machine import (
    EAGAIN,
    EINTR,
    NOWHERE,
    add32_release,
    add64_relaxed,
    exchange32,
    futex_wait,
    futex_wake,
    least,
    load32_acquire,
    load32_relaxed,
    load64_relaxed,
    now_ns,
    store32_release,
    store64_relaxed,
    swap32_if,
)
from cython.cimports.freehold.core.reclaim import (
    ANSWER_PAUSE,
    ETIMEDOUT,
    RECLAIM_NEW,
    RECLAIM_PATIENCE,
    RECLAIM_POKED,
    RECLAIM_QUIET,
    RECLAIM_SLEEPING,
    UNHURRIED,
    answer_hook,
    bell_hook,
    futex_wait_either,
    start_hook,
    start_thread,
    thread_is_gone,
    thread_number,
    tick_hook,
)
from cython.cimports.freehold.core.sync import (
    RANK_RECLAIM,
    Mutex,
    fork_cover,
    fork_ticker,
    mutex_init,
    mutex_lock,
    mutex_reset,
    mutex_unlock,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

reclaim_word = cython.declare(uint32_t)  # one of RECLAIM_…; atomic
reclaim_pause = cython.declare(uint32_t)  # what the thread waits on between ticks; 1: it is not to wait; atomic
reclaim_resting = cython.declare(uint32_t)  # how many want no thread just now; atomic
reclaim_missed = cython.declare(uint32_t)  # 1: there was a thread, or a poke, while it was to rest; atomic
reclaim_ticking = cython.declare(uint32_t)  # 1: the thread is in a tick, or answers; atomic
reclaim_tid = cython.declare(uint32_t)  # the thread's number, or the last one's; 0: there was none; atomic
reclaim_count = cython.declare(uint64_t)  # ticks; atomic, relaxed: statistics only
the_tick = cython.declare(tick_hook)  # constant after boot
the_interval_ns = cython.declare(uint64_t)  # 0: nothing is ever given back by itself; atomic
the_start_hook = cython.declare(start_hook)  # NULL: the first poke starts the thread; constant after boot
the_reclaim_lock = cython.declare(Mutex)
the_bell_hook = cython.declare(bell_hook)  # NULL: nobody is answered; this and the next one are constant after boot
the_answer_hook = cython.declare(answer_hook)
the_bell = cython.declare(cython.pointer[uint32_t])  # NULL: there is none; this and the next three are the thread's own
the_bell_heard = cython.declare(uint32_t)  # what it was when it was last answered
answered_ns = cython.declare(uint64_t)  # when that was
bell_is_deaf = cython.declare(cython.bint)  # the kernel can not wait for it


def reclaim_boot(tick: tick_hook, interval_ns: uint64_t) -> cython.void:
    global the_tick, the_interval_ns
    mutex_init(cython.address(the_reclaim_lock), RANK_RECLAIM)
    fork_cover(RANK_RECLAIM, reclaim_fork_lock, reclaim_fork_unlock, reclaim_fork_reset)
    the_tick = tick
    the_interval_ns = interval_ns


def reclaim_hasten(interval_ns: uint64_t) -> cython.void:
    seen: uint64_t = load64_relaxed(cython.address(the_interval_ns))
    if seen == 0 or interval_ns < seen:
        store64_relaxed(cython.address(the_interval_ns), interval_ns)


def reclaim_start_when(worth: start_hook) -> cython.void:
    global the_start_hook
    the_start_hook = worth


def reclaim_listen(bell: bell_hook, answer: answer_hook) -> cython.void:
    global the_bell_hook, the_answer_hook
    the_bell_hook = bell
    the_answer_hook = answer


def reclaim_poke() -> cython.void:
    word: uint32_t = load32_relaxed(cython.address(reclaim_word))
    if word == RECLAIM_POKED:
        return
    if word == RECLAIM_NEW and the_start_hook != cython.NULL and not the_start_hook():
        return
    if word == RECLAIM_NEW and load32_acquire(cython.address(reclaim_resting)):
        store32_release(cython.address(reclaim_missed), 1)
        return
    before: uint32_t = exchange32(cython.address(reclaim_word), RECLAIM_POKED)
    if before == RECLAIM_SLEEPING:
        futex_wake(cython.address(reclaim_word), 1)
    elif before == RECLAIM_NEW and (not reclaim_has_work() or start_thread(reclaim_run) != 0):
        store32_release(cython.address(reclaim_word), RECLAIM_NEW)  # no thread to be had now: the next poke tries again


def reclaim_has_work() -> cython.bint:
    return load64_relaxed(cython.address(the_interval_ns)) != 0 or the_bell_hook != cython.NULL


def reclaim_run(unused: cython.p_void) -> cython.p_void:
    store32_release(cython.address(reclaim_tid), thread_number())
    mutex_lock(cython.address(the_reclaim_lock))
    reclaim_look_for_bell()
    mutex_unlock(cython.address(the_reclaim_lock))
    while True:
        interval: uint64_t = load64_relaxed(cython.address(the_interval_ns))
        reclaim_wait(cython.address(reclaim_pause), 0, now_ns() + (interval if interval else UNHURRIED))
        if load32_acquire(cython.address(reclaim_resting)):
            store32_release(cython.address(reclaim_missed), 1)
            store32_release(cython.address(reclaim_word), RECLAIM_NEW)
            return cython.NULL
        exchange32(cython.address(reclaim_word), RECLAIM_QUIET)
        mutex_lock(cython.address(the_reclaim_lock))
        fork_ticker(cython.address(the_reclaim_lock))
        store32_release(cython.address(reclaim_ticking), 1)
        more: cython.bint = the_tick(now_ns())
        store32_release(cython.address(reclaim_ticking), 0)
        fork_ticker(cython.NULL)
        reclaim_look_for_bell()
        mutex_unlock(cython.address(the_reclaim_lock))
        add64_relaxed(cython.address(reclaim_count), 1)
        if bell_is_deaf:
            reclaim_answer()
        quiet: uint32_t = RECLAIM_QUIET
        if not more and swap32_if(cython.address(reclaim_word), cython.address(quiet), RECLAIM_SLEEPING):
            while load32_acquire(cython.address(reclaim_word)) == RECLAIM_SLEEPING:
                reclaim_wait(cython.address(reclaim_word), RECLAIM_SLEEPING, NOWHERE)


def reclaim_look_for_bell() -> cython.void:
    """Under the lock. A program may have closed what others find it by; a forked child has none yet."""
    global the_bell
    if the_bell_hook != cython.NULL:
        the_bell = the_bell_hook()


def reclaim_wait(word: cython.pointer[uint32_t], seen: uint32_t, until: uint64_t) -> cython.void:
    """Wait until a word is not what was seen, somebody wakes it, or a time; answer whoever rings meanwhile."""
    global bell_is_deaf
    error: cython.int = 0
    while load32_acquire(word) == seen and error != ETIMEDOUT:
        now: uint64_t = now_ns()
        if now >= until:
            return
        if the_bell == cython.NULL or bell_is_deaf:
            error = futex_wait(word, seen, -1 if until == NOWHERE else until - now)
        elif not reclaim_is_rung():
            error = futex_wait_either(word, seen, the_bell, the_bell_heard, until)
            bell_is_deaf = error != 0 and error != EAGAIN and error != EINTR and error != ETIMEDOUT
        elif now < answered_ns + ANSWER_PAUSE:
            futex_wait(word, seen, least(answered_ns + ANSWER_PAUSE, until) - now)
        else:
            reclaim_answer()


def reclaim_is_rung() -> cython.bint:
    return load32_acquire(the_bell) != the_bell_heard


def reclaim_answer() -> cython.void:
    global the_bell_heard, answered_ns
    mutex_lock(cython.address(the_reclaim_lock))
    fork_ticker(cython.address(the_reclaim_lock))
    if the_bell != cython.NULL:
        the_bell_heard = load32_acquire(the_bell)
        store32_release(cython.address(reclaim_ticking), 1)
        the_answer_hook()
        store32_release(cython.address(reclaim_ticking), 0)
    fork_ticker(cython.NULL)
    mutex_unlock(cython.address(the_reclaim_lock))
    answered_ns = now_ns()


def reclaim_rest() -> cython.void:
    """The thread ends, and is waited for until the kernel has forgotten it; one in a long tick, not for long."""
    add32_release(cython.address(reclaim_resting), 1)
    left: uint64_t = RECLAIM_PATIENCE
    while left > 0:
        left -= least(left, RECLAIM_PATIENCE // 100 if load32_acquire(cython.address(reclaim_ticking)) else 1)
        store32_release(cython.address(reclaim_pause), 1)
        futex_wake(cython.address(reclaim_pause), 1)
        sleeping: uint32_t = RECLAIM_SLEEPING
        if swap32_if(cython.address(reclaim_word), cython.address(sleeping), RECLAIM_POKED):
            futex_wake(cython.address(reclaim_word), 1)
        if load32_acquire(cython.address(reclaim_word)) == RECLAIM_NEW and thread_is_gone(
            load32_acquire(cython.address(reclaim_tid))
        ):
            break
        futex_wait(cython.address(reclaim_resting), load32_acquire(cython.address(reclaim_resting)), 20_000)


def reclaim_resume() -> cython.void:
    seen: uint32_t = load32_acquire(cython.address(reclaim_resting))
    while seen and not swap32_if(cython.address(reclaim_resting), cython.address(seen), seen - 1):
        pass
    if seen == 1:
        store32_release(cython.address(reclaim_pause), 0)


def reclaim_catch_up() -> cython.void:
    if not load32_acquire(cython.address(reclaim_resting)) and exchange32(cython.address(reclaim_missed), 0):
        reclaim_poke()


def reclaim_ticks() -> uint64_t:
    return load64_relaxed(cython.address(reclaim_count))


def reclaim_is_asleep() -> cython.bint:
    word: uint32_t = load32_acquire(cython.address(reclaim_word))
    return word == RECLAIM_SLEEPING or word == RECLAIM_NEW


def reclaim_fork_lock() -> cython.void:
    mutex_lock(cython.address(the_reclaim_lock))


def reclaim_fork_unlock() -> cython.void:
    mutex_unlock(cython.address(the_reclaim_lock))


def reclaim_fork_reset() -> cython.void:
    """In the child there is no thread, and nobody who knows of a bell; the next poke starts one."""
    global the_bell
    the_bell = cython.NULL
    mutex_reset(cython.address(the_reclaim_lock))
    store32_release(cython.address(reclaim_resting), 0)
    store32_release(cython.address(reclaim_missed), 0)
    store32_release(cython.address(reclaim_pause), 0)
    store32_release(cython.address(reclaim_tid), 0)
    store32_release(cython.address(reclaim_ticking), 0)
    store32_release(cython.address(reclaim_word), RECLAIM_NEW)
