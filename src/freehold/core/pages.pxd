# pages.pxd: which pages of some addresses are in use: address-ordered first fit, with or without memory behind them.
#
# Any thread, any time. Addresses and sizes are in bytes, multiples of the page; npages in pages.
# Does not: map the memory it hands out (whoever calls pages_grow does), or know what a page is used for.
# After: Go's page allocator.
from freehold.core.pagebook cimport Mark, Pages
from freehold.core.tract cimport Summary
from libc.stdint cimport uint32_t, uint64_t

cdef struct PagesStats:
    uint64_t chunks
    uint64_t pages
    uint64_t in_use_pages
    uint64_t free_pages
    uint64_t scavenged_pages
    uint64_t cached_pages
    uint64_t scavenged_background_bytes
    uint64_t scavenged_eager_bytes
    uint64_t refusals
    uint64_t metadata_bytes

cdef void pages_open(Pages *p, uint32_t address_bits, uint32_t page_shift, uint64_t huge_page_size, bint backed) noexcept nogil
cdef void pages_close(Pages *p) noexcept nogil                       # gives every table back; again: does nothing
cdef int pages_grow(Pages *p, uint64_t base, uint64_t size) noexcept nogil  # whole chunks; 0, EEXIST: known already, ENOMEM …: no room for tables
cdef bint pages_try_allocate(Pages *p, uint64_t npages, uint64_t *address, uint64_t *scavenged) noexcept nogil  # never waits
cdef bint pages_allocate(Pages *p, uint64_t npages, uint64_t *address, uint64_t *scavenged) noexcept nogil      # waits for purges before it refuses
cdef bint pages_allocate_range(Pages *p, uint64_t address, uint64_t npages, uint64_t *scavenged) noexcept nogil
cdef int pages_free(Pages *p, uint64_t address, uint64_t npages) noexcept nogil  # FREE_OK, _DOUBLE, _FOREIGN, or _INTERIOR: misaligned
cdef int pages_free_scavenged(Pages *p, uint64_t address, uint64_t npages) noexcept nogil  # the same; their memory is the OS's already
cdef bint pages_find(Pages *p, uint64_t npages, uint64_t *address, uint64_t *hint) noexcept nogil  # what pages_allocate would return
cdef uint64_t pages_search_address(Pages *p) noexcept nogil          # NOWHERE: no page is free
cdef bint pages_next_known(Pages *p, uint64_t from_, uint64_t *base, uint64_t *limit) noexcept nogil  # the known range that holds or follows an address
cdef bint pages_huge_metadata(Pages *p) noexcept nogil               # true: the OS took the advice
cdef bint pages_read_chunk(Pages *p, uint64_t chunk, uint64_t *used, uint64_t *scavenged) noexcept nogil  # eight words each; false: unknown
cdef void pages_read_summary(Pages *p, uint32_t level, uint64_t index, Summary *into) noexcept nogil
cdef void pages_read_stats(Pages *p, PagesStats *into) noexcept nogil

# inside pages
cdef int pages_need(Pages *p, uint64_t base, uint64_t size, uint64_t *need) noexcept nogil
cdef int pages_map_more(Pages *p, uint64_t need, uint64_t *memory, uint64_t *bytes) noexcept nogil
cdef void pages_install(Pages *p, uint64_t base, uint64_t size, uint64_t memory, uint64_t bytes) noexcept nogil
cdef uint64_t pages_search(Pages *p, uint64_t npages) noexcept nogil
cdef uint64_t pages_search_hint(Pages *p, uint64_t npages) noexcept nogil
cdef bint pages_refusal_is_right(Pages *p) noexcept nogil
cdef uint64_t pages_use(Pages *p, uint64_t page, uint64_t npages) noexcept nogil
cdef uint64_t pages_take(Pages *p, uint64_t npages, uint64_t *scavenged) noexcept nogil
cdef int pages_free_as(Pages *p, uint64_t address, uint64_t npages, Mark how) noexcept nogil
cdef bint pages_set_aside(Pages *p, uint64_t page, uint64_t npages) noexcept nogil
