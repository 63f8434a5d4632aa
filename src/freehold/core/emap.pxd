# emap.pxd: the records of extents, and which addresses are whose.
#
# Not thread-safe: the caller holds the lock of the extents, also while it reads. Addresses and sizes in bytes unless said.
# Invariant: of an extent's pages the first and the last lead to its record, the others to none.
# Does not: map memory (its caller does, without the lock), or know when an extent changes its state.
# After: jemalloc's emap and edata.
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    EXTENT_SHIFT = 13               # pages of 8 KiB
    EXTENT_PAGE = 0x2000
    EXTENT_STATES = 6               # how many there are
    EXTENT_NO_CLASS = 0xFFFFFFFF    # the size class of what is not live
    EMAP_BITS = 48                  # addresses lie below 2 to this power
    EMAP_LEAF_SHIFT = 35            # bytes that a leaf covers, as a power of two
    EMAP_LEAVES = 0x2000
    EMAP_PLACES = 0x2000            # chunks of 4 MiB in a leaf
    EMAP_SLAB_BYTES = 0x10000       # records are mapped so many bytes at a time
    EMAP_TABLE_BYTES = 0x1000       # what a chunk's pages lead to: 512 pointers

cdef enum:                          # keep `extents_law`'s and the face's words in this order
    EXTENT_DEAD = 0                 # a spare record
    EXTENT_ACTIVE = 1
    EXTENT_DIRTY = 2
    EXTENT_MUZZY = 3
    EXTENT_RETAINED = 4             # has no record: it is told of, never kept
    EXTENT_TAKEN = 5                # in no state: whoever took it works on it

cdef struct Extent:                 # type-stable: a record is used again, and unmapped at the end alone
    uint64_t address
    uint64_t pages                  # never 0
    uint64_t serial                 # of its region; of several, the smallest
    uint32_t state
    uint32_t size_class             # of a live extent's size; else EXTENT_NO_CLASS
    bint is_head                    # begins at the beginning of a region
    uint64_t birth                  # which extent this record is: no two have the same
    uint64_t turn                   # idle: when it joined its set; sets are left in this order
    Extent *older                   # idle: in its set; spare or put aside: the next one
    Extent *newer
    Extent *left                    # idle: in its bin's tree
    Extent *right
    uint64_t largest                # idle: pages of the largest extent at or below it in that tree

cdef struct EmapRegion:             # what was obtained at once; at the beginning of a mapping, followed by its tables
    EmapRegion *next                # younger
    EmapRegion *previous
    uint64_t base
    uint64_t size                   # multiple of 4 MiB
    uint64_t serial                 # constant
    uint32_t shelf                  # which page allocator has its retained pages; constant
    bint committed
    bint zeroed                     # what was never used of it reads 0; constant
    bint advised                    # to be on huge pages
    bint pinned                     # somebody works on its memory without the lock: it stays
    bint leaving                    # offered to whom it came from, who may hand it out again before it says so
    uint64_t metadata_bytes         # of this mapping; constant

cdef struct EmapPlace:              # one chunk of 4 MiB
    Extent **extent                 # for each page; NULL: the chunk is not ours
    EmapRegion *region

cdef struct EmapSlab:               # a mapping for records; at its own beginning
    EmapSlab *next

cdef struct Emap:
    Extent *spare
    uint64_t spares
    uint64_t births                 # extents there ever were
    EmapSlab *slabs
    EmapRegion *oldest
    EmapRegion *newest
    uint64_t regions
    uint64_t chunks
    uint64_t metadata_bytes         # slabs, leaves and regions' tables
    EmapPlace *leaf[EMAP_LEAVES]

cdef inline EmapPlace *emap_place(Emap *m, uint64_t address) noexcept nogil:
    """The place of a chunk; NULL where no leaf is."""
    cdef EmapPlace *leaf = m.leaf[address >> EMAP_LEAF_SHIFT] if address >> EMAP_BITS == 0 else NULL
    return leaf + (address >> 22) % EMAP_PLACES if leaf != NULL else NULL
cdef inline Extent *emap_at(Emap *m, uint64_t address) noexcept nogil:
    """The extent that begins or ends on the page of an address."""
    cdef EmapPlace *place = emap_place(m, address)
    return place.extent[(address >> EXTENT_SHIFT) % 512] if place != NULL and place.extent != NULL else NULL
cdef inline uint64_t extent_end(const Extent *e) noexcept nogil:
    return e.address + (e.pages << EXTENT_SHIFT)

cdef EmapRegion *emap_region(Emap *m, uint64_t address) noexcept nogil  # NULL: not ours
cdef Extent *emap_find(Emap *m, uint64_t address) noexcept nogil      # that any address lies in; walks back to its first page
cdef void emap_enter(Emap *m, Extent *e) noexcept nogil               # its ends lead to it
cdef void emap_leave(Emap *m, Extent *e) noexcept nogil
cdef Extent *emap_take(Emap *m) noexcept nogil                        # a spare record, taken; there is one
cdef void emap_give(Emap *m, Extent *e) noexcept nogil
cdef void emap_add_slab(Emap *m, uint64_t memory) noexcept nogil      # EMAP_SLAB_BYTES, zeroed
cdef uint64_t emap_leaf_bytes() noexcept nogil
cdef uint64_t emap_missing_leaf(Emap *m, uint64_t base, uint64_t size) noexcept nogil  # an address that has none; NOWHERE
cdef void emap_add_leaf(Emap *m, uint64_t address, uint64_t memory) noexcept nogil
cdef uint64_t emap_region_bytes(uint64_t size) noexcept nogil         # of the mapping that a region needs
cdef bint emap_is_free(Emap *m, uint64_t base, uint64_t size) noexcept nogil  # nothing of it is a region's that stays
cdef bint emap_is_whole(Emap *m, EmapRegion *r) noexcept nogil        # all of it still leads to it
cdef void emap_add_region(Emap *m, EmapRegion *r) noexcept nogil      # all leaves are there; takes from one that leaves
cdef void emap_remove_region(Emap *m, EmapRegion *r) noexcept nogil   # what still leads to it; no extent is in it
cdef void emap_unlink_region(Emap *m, EmapRegion *r) noexcept nogil
cdef void emap_link_region(Emap *m, EmapRegion *r) noexcept nogil     # by age
cdef void emap_close(Emap *m) noexcept nogil                          # unmaps slabs and leaves; no region is left

# inside emap
cdef Extent **emap_entry(Emap *m, uint64_t address) noexcept nogil
