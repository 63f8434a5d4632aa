# pagetree.pxd: the tree over the tracts of a page allocator: what is known, what is free, what can be released.
#
# Not thread-safe: the caller holds the page allocator's lock. Pages and chunks are counted from address 0.
# Above the tracts stand nodes of eight, as many levels as the addresses need. Tracts and nodes exist only where something was
# ever known.
# Does not: map memory (its caller does, see `tree_missing_bytes`), lock, or count.
# After: Go's page allocator; what is sparse there by untouched memory is sparse here by pointers.
from freehold.core.tract cimport PageTract, Summary, TreeFault
from libc.stdint cimport uint32_t, uint64_t

cdef struct PageNode:
    PageNode *parent                # NULL at the top
    uint64_t place                  # which of the nodes of its height, by address
    uint32_t height                 # 0: its children are tracts
    uint32_t known                  # bit j: child j has known chunks
    uint32_t releasable             # bit j: child j has set bits in `releasable`
    void *child[8]                  # PageNode or PageTract; NULL: nothing was ever known there
    Summary sum[8]                  # of the children; zeros where NULL
    uint64_t padding[4]             # a whole number of cache lines

cdef struct PageTree:
    PageNode *top                   # NULL until something is known
    PageTract *recent               # the tract looked up last, or NULL
    uint32_t heights                # levels of nodes
    Summary whole                   # of everything

cdef void tree_open(PageTree *t, uint32_t root_bits) noexcept nogil                         # 2^root_bits tracts at most
cdef uint64_t tree_missing_bytes(PageTree *t, uint64_t chunk, uint64_t n) noexcept nogil    # what tree_know would need; NOWHERE: too much
cdef void tree_know(PageTree *t, uint64_t chunk, uint64_t n, uint64_t memory) noexcept nogil  # unknown chunks become known, free, scavenged
cdef void tree_forget(PageTree *t, uint64_t chunk, uint64_t n) noexcept nogil               # free, scavenged chunks become unknown

cdef PageTract *tree_tract(PageTree *t, uint64_t place) noexcept nogil                      # NULL: nothing was ever known there
cdef void tree_refresh(PageTree *t, PageTract *tract, uint64_t low, uint64_t high) noexcept nogil  # leaves low … high changed
cdef void tree_read(PageTree *t, uint32_t level, uint64_t index, Summary *into) noexcept nogil
cdef void tree_write(PageTree *t, PageTract *tract, uint32_t level, uint64_t index, const Summary *from_) noexcept nogil  # tests of check only

cdef uint64_t tree_find(PageTree *t, uint64_t npages) noexcept nogil                        # lowest run; NOWHERE: none; TREE_LIES: a summary is wrong
cdef uint64_t tree_lowest_free(PageTree *t) noexcept nogil                                  # a page; NOWHERE: none
cdef uint64_t tree_next_known(PageTree *t, uint64_t chunk) noexcept nogil                   # at or after; NOWHERE: none
cdef uint64_t tree_next_unknown(PageTree *t, uint64_t chunk) noexcept nogil                 # at or after
cdef void tree_mark_releasable(PageTract *tract, uint64_t chunk) noexcept nogil
cdef void tree_unmark_releasable(PageTract *tract, uint64_t chunk) noexcept nogil
cdef uint64_t tree_highest_releasable(PageTree *t, uint64_t chunk) noexcept nogil           # at or below; NOWHERE: none
cdef const char *tree_check_nodes(PageTree *t, TreeFault *fault) noexcept nogil

# inside pagetree
cdef bint same_summary(const Summary *a, const Summary *b) noexcept nogil
cdef PageNode *tree_node(PageTree *t, uint32_t height, uint64_t place) noexcept nogil
cdef uint64_t tree_add_nodes(PageTree *t, uint64_t low, uint64_t high, uint64_t memory) noexcept nogil
cdef PageTract *tree_add_tract(PageTree *t, uint64_t place, uint64_t memory, bint whole) noexcept nogil
cdef void tree_know_in_tract(PageTree *t, PageTract *tract, uint64_t low, uint64_t n) noexcept nogil
cdef void tree_forget_in_tract(PageTree *t, PageTract *tract, uint64_t low, uint64_t n) noexcept nogil
cdef void tree_merge_node(const PageNode *node, Summary *into) noexcept nogil
cdef void tree_refresh_nodes(PageTree *t, PageTract *tract) noexcept nogil
cdef int scan_node(const PageNode *node, uint64_t npages, Run *run) noexcept nogil
cdef const char *tree_check_node(const PageNode *node, TreeFault *fault) noexcept nogil
