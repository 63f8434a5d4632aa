# publish.pxd: the published page: what this process's heaps hold, where other processes of its owner can read it.
#
# One thread writes, the reclaim thread, under its lock; readers are other processes, and never stop or slow it. The words in
# `Knock` are theirs: whatever stands there is only compared with what stood there before.
# Invariant: `sequence` is odd while the body is being written; the body is whole where it was the same even number before and
# after it was read, and `checksum` is the sum of its words. docs/page.md has the layout byte by byte.
# Does not: decide when (reclaim does, when somebody rings), or know the list of heaps (heaps does).
# After: the sequence locks of the kernel's vDSO; Java's hsperfdata, without its file.
from libc.stdint cimport uint32_t, uint64_t

from freehold.core.account cimport HeapStats
from freehold.core.home cimport Heap
from freehold.core.ranges cimport RangeBook
from freehold.core.vm cimport VmCall

cdef enum:
    PAGE_VERSION = 1                # of the layout
    PAGE_BYTES = 0x10000            # of the file; what is never written takes no memory
    PAGE_HEAPS = 64                 # records; from the last one on heaps are summed
    PAGE_CALLS = 16                 # room for the OS calls of `vm`
    PAGE_LAYERS = 4
    PAGE_OPEN_TRIES = 16            # after so many failures it is let be

cdef enum:                          # the layers, as they are published
    PAGE_SMALL = 0
    PAGE_EXTENT = 1
    PAGE_LARGE = 2
    PAGE_HUGE = 3

cdef enum:                          # of a heap
    PAGE_IS_SECURE = 1
    PAGE_IS_BUSY = 2                # something in it is still going idle, or being given back
    PAGE_IS_SUM = 4                 # the record is the sum of several heaps

cdef struct PageHead:               # 64 bytes
    char magic[8]                   # "freehold"
    uint32_t version
    uint32_t bytes                  # of the page
    uint64_t sequence               # atomic
    uint64_t checksum               # of the body, its words added up
    uint64_t body_bytes             # in use, from the process's record on
    uint64_t pid                    # who writes it, by its own numbers
    uint64_t opened_ns              # CLOCK_MONOTONIC
    uint64_t space                  # the first address of the space, a multiple of 4 MiB; the lowest byte: which power of two its size is

cdef struct Knock:                  # 64 bytes, written by readers
    uint32_t bell                   # changed: publish now
    uint32_t purge                  # changed: give everything idle back first
    uint32_t map                    # changed: publish where the memory is, too
    uint32_t profile                # changed: write the heap profile into a file of this process, and publish its number
    uint32_t profile_ms             # … after so long, if there is no profile yet; 0: then there is none
    uint32_t profile_done           # changed: the file is not needed any more
    uint32_t spare[8]
    uint64_t profile_file           # not theirs: how many profiles were written << 32 | number of the file; 0: there was none to write

cdef struct PublishedProcess:       # words; bytes where nothing else is said
    uint64_t now_ns                 # when it was published, by CLOCK_MONOTONIC
    uint64_t heaps                  # how many there are
    uint64_t records                # … and how many records of them follow
    uint64_t ticks                  # of the reclaim thread
    uint64_t purges                 # done because a reader asked
    uint64_t purges_bytes           # … and what they gave back
    uint64_t metadata               # mapped for books, shared ones too
    uint64_t purged                 # given back to the OS so far
    uint64_t purge_calls
    uint64_t os_failures
    uint64_t bad_frees
    uint64_t ranges                 # that follow the heaps, if a reader asked for them
    uint64_t ranges_left_out        # for which there was no room
    uint64_t calls                  # how many entries of the next field are used
    VmCall call[PAGE_CALLS]         # in the order of VM_…

cdef struct PublishedLayer:
    uint64_t allocated              # as in HeapStats, like the rest
    uint64_t active
    uint64_t dirty
    uint64_t muzzy
    uint64_t retained
    uint64_t cached
    uint64_t blocks
    uint64_t allocations

cdef struct PublishedHeap:
    uint64_t id
    uint64_t flags                  # PAGE_IS_…
    uint64_t limit                  # 2^64 - 1: none
    uint64_t used
    uint64_t peak
    uint64_t refused
    uint64_t metadata               # what of its books may be resident
    uint64_t decay_ns               # 2^64 - 1: never
    uint64_t count                  # of heaps in this record
    uint64_t name[5]                # UTF-8, ends with a NUL; empty: it has none
    PublishedLayer layer[PAGE_LAYERS]

cdef struct Page:
    PageHead head
    Knock knock
    PublishedProcess process
    PublishedHeap heap[PAGE_HEAPS]  # as many as there are; the ranges follow them

cdef void publish_boot() noexcept nogil                                # reads FREEHOLD_PUBLISH, as fault does its word
cdef void publish_hide(bint wish) noexcept nogil                       # what the environment says, where more than one word of it does; before boot
cdef bint publish_is_wanted() noexcept nogil

# The reclaim thread, under its lock.
cdef uint32_t *publish_bell() noexcept nogil                           # makes the page, if there is none that others can find; NULL: none to be had
cdef bint publish_takes_purge() noexcept nogil                         # True, once, when a reader asks for one
cdef void publish_note_purge(uint64_t bytes) noexcept nogil
cdef void publish_begin() noexcept nogil
cdef void publish_heap(Heap *h) noexcept nogil
cdef bint publish_takes_map() noexcept nogil                           # True, once, when a reader asks for ranges; the heaps are written
cdef void publish_ranges(Heap *h) noexcept nogil                       # of each heap
cdef bint publish_takes_profile(uint64_t *ms) noexcept nogil            # True, once, when a reader asks for one
cdef int publish_profile_file() noexcept nogil                         # a new file to write it to; -1: none to be had
cdef void publish_profile(int fd) noexcept nogil                       # it is written; -1: there is none
cdef void publish_profile_over() noexcept nogil                        # close it, if its reader is done
cdef void publish_end(uint64_t heaps, uint64_t now) noexcept nogil
cdef void publish_forget() noexcept nogil                              # in a forked child: the page is the parent's

# inside publish
cdef extern from *:
    """
    #include <sys/stat.h>
    #ifndef F_ADD_SEALS
    #define F_ADD_SEALS 1033
    #define F_SEAL_SEAL 1
    #define F_SEAL_SHRINK 2
    #define F_SEAL_GROW 4
    #endif
    #ifndef MADV_DONTFORK
    #define MADV_DONTFORK 10
    #endif
    /* A file by a high number: the low ones are for whoever opens the next file and expects a certain one. */
    static int fh_page_high(int low) {
        struct rlimit most;
        if (low < 0) return -1;
        int least = getrlimit(RLIMIT_NOFILE, &most) == 0 && most.rlim_cur < 400 ? (int)most.rlim_cur / 2 : 200;
        int fd = fcntl(low, F_DUPFD_CLOEXEC, least);
        close(low);
        return fd;
    }
    /* A file without a name, which ends with its last user; nobody can cut it short. -1: there is none to be had. */
    static int fh_page_file(uint64_t bytes) {
        int fd = fh_page_high((int)syscall(SYS_memfd_create, "freehold.page", 3u));    /* MFD_CLOEXEC | MFD_ALLOW_SEALING */
        if (fd < 0) return -1;
        if (fchmod(fd, 0600) || ftruncate(fd, (off_t)bytes) ||
            fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
            close(fd);
            return -1;
        }
        return fd;
    }
    /* A file for a profile: nobody but its owner can open it. */
    static int fh_page_profile(void) {
        int fd = fh_page_high((int)syscall(SYS_memfd_create, "freehold.profile", 1u));
        if (fd >= 0 && fchmod(fd, 0600)) { close(fd); return -1; }
        return fd;
    }
    /* Which file a number stands for; 0: none. */
    static uint64_t fh_page_inode(int fd) {
        struct stat found;
        return fd >= 0 && fstat(fd, &found) == 0 ? (uint64_t)found.st_ino ^ (uint64_t)found.st_dev << 48 : 0;
    }
    /* Not by way of vm: it counts the calls that heaps need. NULL: refused. */
    static void *fh_page_map(int fd, uint64_t bytes) {
        void *page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (page == MAP_FAILED) return NULL;
        madvise(page, bytes, MADV_DONTFORK);
        return page;
    }
    """
    int page_file "fh_page_file"(uint64_t bytes) noexcept nogil
    int page_profile "fh_page_profile"() noexcept nogil
    uint64_t page_inode "fh_page_inode"(int fd) noexcept nogil
    void *page_map "fh_page_map"(int fd, uint64_t bytes) noexcept nogil
cdef void publish_open() noexcept nogil
cdef void publish_close_profile() noexcept nogil
cdef void publish_close() noexcept nogil
cdef void publish_first(Heap *h, PublishedHeap *into) noexcept nogil
cdef void publish_process(uint64_t heaps, uint64_t now) noexcept nogil
cdef void publish_layer(PublishedLayer *into, const HeapStats *s) noexcept nogil
cdef void publish_layers(Heap *h, PublishedHeap *into) noexcept nogil
