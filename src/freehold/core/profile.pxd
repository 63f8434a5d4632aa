# profile.pxd: the heap profile: begun, ended, written out.
#
# Any thread, any time, also from inside an allocation: it allocates nothing, and waits for nobody who may be allocating.
# Invariant: it goes on while anybody wants it, with the interval of whoever began it.
# Does not: choose or record samples (sampling does), or know which heaps there are (heaps does).
# After: jemalloc's profile and its dumps at new high-water marks; Go's heap profile.
from libc.stdint cimport uint32_t, uint64_t

from freehold.core.sampling cimport Samples

cdef enum:
    PROFILE_VERSION = 1             # of a dump; docs/profile.md has its layout
    PROFILE_INTERVAL = 0x80000      # bytes, mean
    PROFILE_HEAPS = 256             # whose names are told, at most
    PROFILE_BUFFER = 1024           # words written at once
    PROFILE_PREFIX = 512            # of the name of a file, with the NUL …
    PROFILE_PATH = 552              # … and of all of it
    PROFILE_HEAD = 24               # words of a dump's head, of a frame in it, and so on
    FRAME_WORDS = 4
    STACK_WORDS = 10
    HEAP_WORDS = 6

cdef enum:                          # why a dump was written
    DUMP_ASKED = 0
    DUMP_GREW = 1                   # what lives reached a new high-water mark
    DUMP_ENDED = 2                  # the program ends

cdef struct ProfileHeap:
    uint64_t id
    uint64_t name[5]                # UTF-8, ends with a NUL

cdef struct ProfileHeaps:           # what a dump says of the heaps
    uint64_t live_bytes             # of all of them, exact
    uint64_t count
    ProfileHeap heap[PROFILE_HEAPS]

ctypedef void (*heaps_hook)(ProfileHeaps *into) noexcept nogil

cdef void profile_boot(heaps_hook heaps) noexcept nogil
cdef int profile_begin(uint64_t interval) noexcept nogil               # 0 or the errno
cdef void profile_end() noexcept nogil                                 # as often as begun
cdef int profile_grow(uint64_t step, const char *prefix) noexcept nogil  # a dump to PREFIX.PID.NUMBER.raw at each step up; 0: none; or ENAMETOOLONG
cdef int profile_write(int fd, uint32_t reason) noexcept nogil         # 0 or the errno; EINVAL: there is no profile
cdef void profile_grew() noexcept nogil                                # sampling says so: write the dump

# inside profile
cdef struct ProfileSink:            # a file, and what is not yet written to it
    int fd
    int error                       # the errno of the first write that failed
    uint64_t words
    uint64_t word[PROFILE_BUFFER]
cdef extern from *:
    """
    #define FH_PROFILE_MAGIC 0x6C69666F72706866ull      /* "fhprofil" */
    """
    uint64_t PROFILE_MAGIC "FH_PROFILE_MAGIC"
    ssize_t write(int fd, const void *from_, size_t n) noexcept nogil
    int unlink(const char *path) noexcept nogil
    int O_WRONLY
    int O_CREAT
    int O_EXCL
    int ENAMETOOLONG
cdef void profile_fork_lock() noexcept nogil
cdef void profile_fork_unlock() noexcept nogil
cdef void profile_fork_reset() noexcept nogil
cdef void profile_write_tables(ProfileSink *sink, Samples *t, uint32_t reason) noexcept nogil
cdef void profile_put_sum(ProfileSink *sink, uint64_t *count, uint64_t *bytes) noexcept nogil
cdef void profile_put(ProfileSink *sink, uint64_t word) noexcept nogil
cdef void profile_flush(ProfileSink *sink) noexcept nogil
cdef void profile_write_frames(ProfileSink *sink, Samples *t, uint64_t frames) noexcept nogil
cdef void profile_write_stacks(ProfileSink *sink, Samples *t, uint64_t stacks) noexcept nogil
cdef void profile_write_heaps(ProfileSink *sink) noexcept nogil
cdef int profile_write_all(int fd, void *source, uint64_t bytes) noexcept nogil
