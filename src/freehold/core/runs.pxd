# runs.pxd: blocks of some pages each (above 128 KiB, below 2 MiB), taken from one page allocator over 4 MiB chunks.
#
# Any thread, any time. The lock guards every field that says nothing else; where a run begins is kept beside each chunk.
# Invariant: head[i] of a chunk is the length in pages of the run that begins at page i, with RUN_WARM set if the run is free and
# kept whole for the next request of its length; 0 where no run begins.
# Does not: find free pages (pages does), or know the clock.
from libc.stdint cimport uint16_t, uint64_t

from freehold.core.budget cimport Budget
from freehold.core.idle cimport Idle
from freehold.core.pagebook cimport Pages
from freehold.core.sync cimport Mutex

cdef enum:
    RUN_PAGE_SHIFT = 13             # pages of 8 KiB
    RUN_PAGE_BYTES = 0x2000
    RUN_CHUNK_PAGES = 512           # a chunk is one 4 MiB block of the space
    RUN_TABLE_BYTES = 1024          # the heads of a chunk: 512 numbers of 16 bits
    RUN_SLAB_TABLES = 64            # mapped at once; the first one links the slabs
    RUN_BOOKS = 0x4000              # of a chunk: what its table, bitmaps and summaries may make resident
    RUN_WARM = 0x8000               # in a head: free, kept whole
    RUN_LENGTHS = 257               # runs of up to 256 pages are kept, one of each length,
    RUN_WARM_PAGES = 2048           # and 16 MiB in all

cdef struct Runs:
    Mutex lock
    uint64_t heap                   # id, for the owner table; constant
    Budget *budget                  # counts live and dirty pages, and RUN_BOOKS for each chunk; constant
    int node                        # NUMA node of the chunks; -1: any; constant
    bint huge_pages                 # constant
    Pages pages                     # has its own lock
    uint64_t chunks                 # known to `pages`
    bint calm                       # the huge-page advice was taken back from all chunks there are
    uint64_t live                   # runs
    uint64_t live_pages
    uint64_t dirty_pages            # free and perhaps resident
    uint64_t allocations            # so far
    uint64_t *tables                # spare tables of heads, linked through their first word
    uint64_t table_bytes            # mapped for tables
    uint64_t slabs                  # the newest slab of tables, as a number: each one's first word is the one before
    Idle idle                       # of dirty_pages
    uint64_t warm[RUN_LENGTHS]      # the run of so many pages freed last, or 0
    uint64_t warm_turn[RUN_LENGTHS]  # tick in which it was freed
    uint64_t warm_pages             # in all of them; counted in dirty_pages

cdef int runs_open(uint64_t heap, bint huge_pages, Budget *budget, int node, Runs **into) noexcept nogil  # 0 or the errno
cdef void runs_close(Runs *r) noexcept nogil                                          # whatever is live
cdef void runs_vacate(Runs *r) noexcept nogil                                         # gives all memory back; what is live reads 0, and goes back as ever
cdef uint64_t runs_allocate(Runs *r, uint64_t size, bint zero) noexcept nogil         # address, or 0: the OS or the space refuse
cdef int runs_deallocate(Runs *r, uint64_t address, uint64_t owner, uint64_t *size) noexcept nogil  # FREE_ reason, and the run's bytes
cdef uint64_t runs_usable_size(Runs *r, uint64_t address, uint64_t owner) noexcept nogil            # 0: no live run begins there
cdef bint runs_resize(Runs *r, uint64_t address, uint64_t owner, uint64_t size) noexcept nogil      # in place, or False
cdef uint64_t runs_tick(Runs *r, bint *busy) noexcept nogil                           # gives back what was idle for the decay time; bytes
cdef uint64_t runs_purge(Runs *r) noexcept nogil                                      # all that is idle, now
cdef void runs_lock(Runs *r) noexcept nogil                                           # fork
cdef void runs_unlock(Runs *r) noexcept nogil
cdef void runs_reset(Runs *r) noexcept nogil

# inside runs
cdef uint16_t *runs_head(uint64_t address, uint64_t owner) noexcept nogil
cdef bint runs_find(Runs *r, uint64_t npages, uint64_t *address, uint64_t *scavenged) noexcept nogil
cdef bint runs_find_within(Runs *r, uint64_t npages, uint64_t *address, uint64_t *scavenged) noexcept nogil
cdef bint runs_take_chunks(Runs *r, uint64_t chunks, uint64_t *base) noexcept nogil
cdef void runs_cool(Runs *r, uint64_t turn) noexcept nogil
cdef bint runs_grow(Runs *r, uint64_t npages) noexcept nogil
cdef uint64_t runs_take_table(Runs *r) noexcept nogil
cdef void runs_drop_chunks(Runs *r, uint64_t base, uint64_t chunks) noexcept nogil
cdef uint64_t runs_give_back(Runs *r, uint64_t bytes) noexcept nogil
cdef void runs_take_back_advice(Runs *r) noexcept nogil
