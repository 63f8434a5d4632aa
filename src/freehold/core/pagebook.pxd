# pagebook.pxd: what the parts of a page allocator share: its state, its lock, its marks, and the check of all of it.
#
# Any thread, any time: one lock (rank PAGES) per allocator, never held over a system call. Addresses and sizes are in bytes,
# multiples of the page; page and npages count pages. A run that a purge is working on is claimed: in use for everybody else.
# Does not: choose pages (pages, pagecache) or give them back (scavenge).
# After: Go's page allocator.
from freehold.core.pagetree cimport PageTree
from freehold.core.sync cimport Mutex
from freehold.core.tract cimport PageTract, Summary, TreeFault
from libc.stdint cimport uint32_t, uint64_t

cdef enum Mark:
    MARK_USED = 0
    MARK_FREE = 1                   # resident
    MARK_SCAVENGED = 2              # free, not resident

cdef struct PagesMap:               # one mapping for tables; at its own beginning
    PagesMap *next                  # older; constant
    uint64_t size                   # bytes; constant
    uint64_t padding[6]             # what follows begins on a cache line

cdef struct PagesClaim:             # a run being purged; on the purger's stack, guarded by lock
    PagesClaim *next
    uint64_t page
    uint64_t npages

cdef struct Pages

cdef struct PagesCache:             # free pages of one group of 64, set aside; belongs to whoever filled it
    Pages *pages                    # NULL: empty from the start, or flushed; written under the allocator's lock
    PagesCache *next                # of the allocator's caches; guarded by its lock
    uint64_t base                   # address of the group; constant while filled
    uint32_t page_shift             # constant while filled
    uint64_t free                   # bit i: page i can be handed out; atomic
    uint64_t scavenged              # bit i: page i is scavenged; within free; atomic

cdef struct Pages:
    Mutex lock
    bint backed                     # constant: scavenging gives memory back to the OS
    uint32_t is_open                # guarded by lock
    uint32_t address_bits           # constant
    uint32_t page_shift             # constant
    uint64_t huge_pages             # pages in a huge page; at most 1: do not round to them; constant
    PageTree tree                   # guarded by lock, like all below
    uint64_t hint                   # page: no free one below; in a known chunk; NOWHERE: nothing known
    PagesMap *maps                  # newest first
    PagesClaim *claims
    PagesCache *caches
    uint32_t claims_ended           # counts; waited on as a futex
    bint huge_metadata              # tables are advised to be on huge pages
    bint huge_refused               # the OS refused that advice at least once
    uint64_t chunks                 # known
    uint64_t used_pages             # cached ones too; not those of claims
    uint64_t scavenged_pages
    uint64_t background_bytes       # scavenged so far, in the background
    uint64_t eager_bytes            # scavenged so far, otherwise
    uint64_t refusals               # purges the OS refused; their pages stay free and resident
    uint64_t metadata_bytes

cdef struct PagesWrong:             # what pages_check found
    const char *law
    bint counted                    # a law of this module: expected and actual; else of the tree: fault
    TreeFault fault
    uint64_t expected
    uint64_t actual
    uint64_t search_address         # NOWHERE: none

cdef void pages_lock(Pages *p) noexcept nogil                        # fork: no purge is under way while this is held
cdef void pages_unlock(Pages *p) noexcept nogil
cdef void pages_reset(Pages *p) noexcept nogil
cdef bint pages_check(Pages *p, PagesWrong *wrong) noexcept nogil    # false: wrong says what
cdef void pages_wrong_text(const PagesWrong *wrong, char *text, size_t room) noexcept nogil
cdef bint pages_corrupt(Pages *p, uint32_t level, uint64_t index, const Summary *summary) noexcept nogil  # tests of check; false: nothing known there

# For the other parts; the lock is held.
cdef void pages_claim(Pages *p, PagesClaim *claim, uint64_t page, uint64_t npages) noexcept nogil
cdef void pages_unclaim(Pages *p, PagesClaim *claim) noexcept nogil
cdef void pages_wait(Pages *p) noexcept nogil
cdef bint pages_claimed(Pages *p, uint64_t page, uint64_t npages) noexcept nogil
cdef int pages_state(Pages *p, uint64_t page, uint64_t npages, bint used) noexcept nogil
cdef uint64_t pages_mark(Pages *p, uint64_t page, uint64_t npages, Mark how) noexcept nogil
cdef void pages_refresh(Pages *p, uint64_t page) noexcept nogil
cdef uint64_t pages_hint_address(Pages *p) noexcept nogil
cdef bint pages_is_sound(Pages *p, PagesWrong *wrong) noexcept nogil
cdef void pages_abort(Pages *p) noexcept nogil
cdef void pages_verify(Pages *p) noexcept nogil

# inside pagebook
cdef uint64_t pages_claimed_pages(Pages *p) noexcept nogil
cdef uint64_t chunk_mark(PageTract *tract, uint64_t chunk, uint64_t first, uint64_t n, Mark how) noexcept nogil
cdef bint pages_differ(PagesWrong *wrong, const char *law, uint64_t expected, uint64_t actual) noexcept nogil
cdef bint pages_hint_is_sound(Pages *p, PagesWrong *wrong) noexcept nogil
