# tract.pxd: the bitmaps of 2^21 pages, and the bottom of the tree of summaries over them.
#
# Not thread-safe: the caller holds the page allocator's lock. Pages and chunks are counted from the tract's first.
# A chunk is 512 pages; a tract is 4096 chunks with four levels of summaries of eight each.
# Does not: know its neighbours, map memory, lock, or count.
# After: the lower levels of Go's page allocator.
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    CHUNK_SHIFT = 9                 # log2 of the pages in a chunk
    CHUNK_PAGES = 512
    TRACT_SHIFT = 21                # log2 of the pages in a tract
    TRACT_CHUNKS = 4096
    TRACT_LEAF = 4                  # the level whose summaries are of one chunk; level 0: of the tract

cdef struct PageNode                # see pagetree

cdef struct Summary:                # of a stretch, in pages; see summary.pxd
    uint64_t start
    uint64_t max
    uint64_t end

cdef struct PageChunk:              # zeroed: known, free, scavenged
    uint64_t used[8]                # set bit = page in use
    uint64_t resident[8]            # set bit = page not scavenged; set for every page in use

cdef struct PageTract:
    PageNode *parent
    uint64_t place                  # address of the first page >> 21
    uint64_t known_chunks
    uint64_t releasable_words       # bit w: releasable[w] is not 0
    uint64_t padding[4]             # the summaries of eight neighbours share a cache line
    uint64_t unknown[64]            # set bit = chunk not known
    uint64_t releasable[64]         # set bit = chunk may have free pages that are not scavenged; clear: it has none
    uint64_t summary[8192]          # packed, ^ summary_free(level): zero is wholly free. Entry i of level l at 8^l + i
    PageChunk chunk[4096]           # of an unknown chunk: zeros

cdef struct TreeFault:              # a summary that is not what lies below it says
    int level                       # below 0: inside the tree, above the root
    uint64_t index
    Summary stored
    Summary recomputed

cdef struct TreeCounts:             # what the bitmaps say
    uint64_t chunks
    uint64_t used
    uint64_t scavenged

cdef struct Run:                    # of free pages, as a scan over eight children goes on
    uint64_t first                  # page, from the first child's first
    uint64_t length

cdef uint64_t erode(uint64_t bits, uint64_t n) noexcept nogil                                # where runs of n set bits begin; n from 1 to 64
cdef uint64_t chunk_find(const uint64_t *used, uint64_t first, uint64_t n) noexcept nogil   # lowest run of n free pages at or after first; NOWHERE
cdef uint64_t chunk_summary(const uint64_t *used) noexcept nogil                            # packed

cdef bint tract_knows(const PageTract *tract, uint64_t chunk) noexcept nogil                # the tract may be NULL
cdef void tract_fill_unknown(PageTract *tract) noexcept nogil                               # of a zeroed tract: no chunk is known
cdef uint64_t tract_leaf(const PageTract *tract, uint64_t chunk) noexcept nogil
cdef void tract_set_leaf(PageTract *tract, uint64_t chunk, uint64_t word) noexcept nogil    # packed; those above are stale until tract_refresh
cdef bint tract_refresh(PageTract *tract, uint64_t low, uint64_t high) noexcept nogil       # leaves low … high changed; true: so did the root
cdef uint64_t tract_find(PageTract *tract, uint64_t npages) noexcept nogil                  # lowest run, from address 0; there is one: else TREE_LIES
cdef uint64_t tract_last_releasable(const PageTract *tract, uint64_t chunk) noexcept nogil  # the highest marked chunk at or below; NOWHERE
cdef void summary_unpack(uint64_t word, Summary *into) noexcept nogil
# look at child j of a scan: 0: go on; 1: the run is long enough; 2: the lowest lies inside it
cdef int run_step(Run *run, int j, const Summary *s, uint64_t pages, uint64_t npages) noexcept nogil
cdef bint tract_path_is_sound(PageTract *tract, uint64_t chunk) noexcept nogil               # the summaries over one chunk
cdef const char *tract_check(PageTract *tract, TreeFault *fault, TreeCounts *counts) noexcept nogil  # the law broken, or NULL; adds to counts

cdef inline uint64_t TREE_LIES() noexcept nogil:
    """What a search finds where a summary promises more than lies below it."""
    return <uint64_t>-2

# inside tract
cdef uint64_t longest_inside(uint64_t word, uint64_t longest) noexcept nogil
cdef const unsigned long long *tract_children(const PageTract *tract, uint64_t at) noexcept nogil
cdef int scan_words(const unsigned long long *words, uint32_t level, uint64_t npages, Run *run) noexcept nogil
cdef void tract_blame(TreeFault *fault, const PageTract *tract, uint32_t level, uint64_t index, uint64_t recomputed) noexcept nogil
cdef const char *tract_check_chunk(const PageTract *tract, uint64_t chunk, TreeFault *fault, TreeCounts *counts) noexcept nogil
