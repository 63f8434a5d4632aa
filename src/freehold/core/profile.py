"""The heap profile: begun, ended, written out.

Thread-safety: any thread, any time. One lock: while it is held no profile begins or ends, so what has been recorded
stays; recording goes on meanwhile.
Invariant: a dump is as consistent as each of its stacks: their sums are read one by one while blocks come and go.
Does not allocate, take the GIL, or wait for a thread that does: a dump may be written in the midst of an allocation,
which is where a new high-water mark is seen.
Follows: jemalloc's growth dumps; Go's heap profile; sysfs, whose readers stop nobody.
"""

import cython
from cython.cimports.freehold.core.caches import cache_shut_all
from cython.cimports.freehold.core.machine import (
    EINTR,
    EINVAL,
    O_CLOEXEC,
    close,
    errno,
    getpid,
    load32_relaxed,
    load64_acquire,
    load64_relaxed,
    memcpy,
    open,
    snprintf,
    strlen,
)
from cython.cimports.freehold.core.profile import (
    DUMP_GREW,
    ENAMETOOLONG,
    FRAME_WORDS,
    HEAP_WORDS,
    O_CREAT,
    O_EXCL,
    O_WRONLY,
    PROFILE_BUFFER,
    PROFILE_HEAD,
    PROFILE_MAGIC,
    PROFILE_PATH,
    PROFILE_PREFIX,
    PROFILE_VERSION,
    STACK_WORDS,
    ProfileHeaps,
    ProfileSink,
    heaps_hook,
    unlink,
    write,
)
from cython.cimports.freehold.core.sampling import (
    COUNT_ONE,
    Frame,
    Samples,
    Stack,
    Text,
    real_ns,
    sampling_begin,
    sampling_end,
    sampling_go_inside,
    sampling_grow,
    sampling_tables,
)
from cython.cimports.freehold.core.sync import (
    RANK_PROFILE,
    Mutex,
    fork_cover,
    mutex_init,
    mutex_lock,
    mutex_reset,
    mutex_unlock,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

the_profile_lock = cython.declare(Mutex)
the_profile_users = cython.declare(uint64_t)  # who want it; guarded by the lock, like all that follows
the_growth_number = cython.declare(uint64_t)  # of the next dump at a high-water mark
the_growth_prefix = cython.declare(cython.char[PROFILE_PREFIX])  # of its name
the_profile_sink = cython.declare(ProfileSink)
the_profile_heaps = cython.declare(ProfileHeaps)
the_heaps_hook = cython.declare(heaps_hook)  # constant after boot


def profile_boot(heaps: heaps_hook) -> cython.void:
    global the_heaps_hook
    the_heaps_hook = heaps
    mutex_init(cython.address(the_profile_lock), RANK_PROFILE)
    fork_cover(RANK_PROFILE, profile_fork_lock, profile_fork_unlock, profile_fork_reset)


def profile_fork_lock() -> cython.void:
    mutex_lock(cython.address(the_profile_lock))


def profile_fork_unlock() -> cython.void:
    mutex_unlock(cython.address(the_profile_lock))


def profile_fork_reset() -> cython.void:
    """A child goes on with the profile; its dumps are numbered from 0 under its own number."""
    global the_growth_number
    the_growth_number = 0
    mutex_reset(cython.address(the_profile_lock))


# ---- begun, ended ----


def profile_begin(interval: uint64_t) -> cython.int:
    global the_profile_users
    error: cython.int = 0
    mutex_lock(cython.address(the_profile_lock))
    if the_profile_users == 0:
        error = sampling_begin(interval)
        if not error:
            cache_shut_all()
    if not error:
        the_profile_users += 1
    mutex_unlock(cython.address(the_profile_lock))
    return error


def profile_end() -> cython.void:
    global the_profile_users
    mutex_lock(cython.address(the_profile_lock))
    if the_profile_users == 1:
        sampling_end()
        cache_shut_all()
    if the_profile_users:
        the_profile_users -= 1
    mutex_unlock(cython.address(the_profile_lock))


def profile_grow(step: uint64_t, prefix: cython.p_const_char) -> cython.int:
    error: cython.int = 0
    mutex_lock(cython.address(the_profile_lock))
    if the_profile_users == 0:
        error = EINVAL
    elif strlen(prefix) >= PROFILE_PREFIX:
        error = ENAMETOOLONG
    else:
        memcpy(the_growth_prefix, prefix, strlen(prefix) + 1)
        sampling_grow(step)
    mutex_unlock(cython.address(the_profile_lock))
    return error


# ---- written out ----


def profile_grew() -> cython.void:
    """In the thread whose allocation is the one too many. A file that can not be written is done without."""
    global the_growth_number, errno
    kept: cython.int = errno
    path = cython.declare(cython.char[PROFILE_PATH])
    mutex_lock(cython.address(the_profile_lock))
    snprintf(
        path,
        cython.sizeof(path),
        b"%s.%d.%lu.raw",
        cython.cast(cython.p_char, the_growth_prefix),
        getpid(),
        the_growth_number,
    )
    the_growth_number += 1
    mutex_unlock(cython.address(the_profile_lock))
    fd: cython.int = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    if fd >= 0:
        if profile_write(fd, DUMP_GREW) != 0:
            unlink(path)
        close(fd)
    errno = kept


def profile_write(fd: cython.int, reason: uint32_t) -> cython.int:
    error: cython.int = EINVAL
    mutex_lock(cython.address(the_profile_lock))
    inside: uint32_t = sampling_go_inside(1)
    t: cython.pointer[Samples] = sampling_tables()
    if t != cython.NULL:
        the_heaps_hook(cython.address(the_profile_heaps))
        the_profile_sink.fd = fd
        the_profile_sink.error = 0
        the_profile_sink.words = 0
        profile_write_tables(cython.address(the_profile_sink), t, reason)
        error = the_profile_sink.error
    sampling_go_inside(inside)
    mutex_unlock(cython.address(the_profile_lock))
    return error


def profile_write_tables(
    sink: cython.pointer[ProfileSink], t: cython.pointer[Samples], reason: uint32_t
) -> cython.void:
    """What a count admits was written before it: stacks are counted first, then what they are made of."""
    stacks: uint64_t = load64_acquire(cython.address(t.stacks))
    entries: uint64_t = load64_acquire(cython.address(t.entries))
    frames: uint64_t = load64_acquire(cython.address(t.frames))
    text: uint64_t = load64_acquire(cython.address(t.text_bytes))
    heaps: uint64_t = the_profile_heaps.count
    words: uint64_t = PROFILE_HEAD + FRAME_WORDS * frames + STACK_WORDS * stacks + entries + HEAP_WORDS * heaps
    profile_put(sink, PROFILE_MAGIC)
    profile_put(sink, PROFILE_VERSION)
    profile_put(sink, words * 8 + text)
    profile_put(sink, t.interval)
    profile_put(sink, t.began_ns)
    profile_put(sink, real_ns())
    profile_put(sink, getpid())
    profile_put(sink, reason)
    profile_put(sink, the_profile_heaps.live_bytes)
    profile_put(sink, load64_relaxed(cython.address(t.most_bytes)))
    profile_put(sink, load64_relaxed(cython.address(t.taken)))
    profile_put(sink, load64_relaxed(cython.address(t.dropped)))
    profile_put(sink, frames)
    profile_put(sink, stacks)
    profile_put(sink, entries)
    profile_put(sink, heaps)
    profile_put(sink, text)
    while sink.words < PROFILE_HEAD:
        profile_put(sink, 0)
    profile_write_frames(sink, t, frames)
    profile_write_stacks(sink, t, stacks)
    i: uint64_t = 0
    while i < entries:
        profile_put(sink, t.entry[i])
        i += 1
    profile_write_heaps(sink)
    profile_flush(sink)
    if not sink.error:
        sink.error = profile_write_all(sink.fd, t.characters, text)


def profile_write_frames(
    sink: cython.pointer[ProfileSink], t: cython.pointer[Samples], frames: uint64_t
) -> cython.void:
    i: uint64_t = 0
    while i < frames:
        f: cython.pointer[Frame] = cython.address(t.frame[i])
        file: cython.pointer[Text] = cython.address(t.text[f.file])
        function: cython.pointer[Text] = cython.address(t.text[f.function])
        profile_put(sink, cython.cast(uint64_t, f.line) << 32 | f.first_line)
        profile_put(sink, file.start)
        profile_put(sink, cython.cast(uint64_t, file.bytes) << 32 | function.bytes)
        profile_put(sink, function.start)
        i += 1


def profile_write_stacks(
    sink: cython.pointer[ProfileSink], t: cython.pointer[Samples], stacks: uint64_t
) -> cython.void:
    i: uint64_t = 0
    while i < stacks:
        s: cython.pointer[Stack] = cython.address(t.stack[i])
        profile_put_sum(sink, cython.address(s.live_count), cython.address(s.live_bytes))
        profile_put_sum(sink, cython.address(s.total_count), cython.address(s.total_bytes))
        profile_put_sum(sink, cython.address(s.peak_count), cython.address(s.peak_bytes))
        profile_put(sink, load32_relaxed(cython.address(s.heap)))
        profile_put(sink, s.source)
        profile_put(sink, s.depth)
        profile_put(sink, s.entry)
        i += 1


def profile_write_heaps(sink: cython.pointer[ProfileSink]) -> cython.void:
    i: uint64_t = 0
    while i < the_profile_heaps.count:
        profile_put(sink, the_profile_heaps.heap[i].id)
        k: uint64_t = 0
        while k < HEAP_WORDS - 1:
            profile_put(sink, the_profile_heaps.heap[i].name[k])
            k += 1
        i += 1


def profile_put_sum(
    sink: cython.pointer[ProfileSink], count: cython.pointer[uint64_t], bytes: cython.pointer[uint64_t]
) -> cython.void:
    profile_put(sink, (load64_relaxed(count) + COUNT_ONE // 2) // COUNT_ONE)
    profile_put(sink, load64_relaxed(bytes))


def profile_put(sink: cython.pointer[ProfileSink], word: uint64_t) -> cython.void:
    if sink.words == PROFILE_BUFFER:
        profile_flush(sink)
    sink.word[sink.words] = word
    sink.words += 1


def profile_flush(sink: cython.pointer[ProfileSink]) -> cython.void:
    if not sink.error:
        sink.error = profile_write_all(sink.fd, sink.word, sink.words * 8)
    sink.words = 0


def profile_write_all(fd: cython.int, source: cython.p_void, bytes: uint64_t) -> cython.int:
    done: uint64_t = 0
    while done < bytes:
        wrote: cython.Py_ssize_t = write(fd, cython.cast(cython.p_const_char, source) + done, bytes - done)
        if wrote < 0 and errno != EINTR:
            return errno
        done += wrote if wrote > 0 else 0
    return 0
