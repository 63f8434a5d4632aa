# eset.pxd: idle extents in one state, to be found by size and left by age. One type for dirty and for muzzy ones.
#
# Not thread-safe: the caller holds the lock of the extents; `pages` may be read without it.
# Invariants: bit b of `filled` is set exactly while bin b is not empty; `pages` is the sum over all extents here; the list from
# `oldest` on has rising turns.
# Does not: split, merge, or talk to the OS.
# After: jemalloc's eset.
from freehold.core.emap cimport Extent
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    ESET_BINS = 192                 # four for each doubling of pages, from 1 on: more than an address space needs

cdef struct Eset:
    uint32_t state               # of what is in it; constant
    uint64_t pages                  # atomic, written under the lock
    uint64_t count                  # extents
    uint64_t turn                   # of the next one to join as the youngest
    Extent *oldest
    Extent *newest
    uint64_t filled[3]
    Extent *bin[ESET_BINS]          # the root of a tree, in order of serial, then address; heavier extents are above lighter ones

cdef struct EsetWrong:              # what eset_is_sound found, and the two numbers that should be equal
    const char *law
    uint64_t expected
    uint64_t found

cdef uint64_t eset_bin(uint64_t pages) noexcept nogil                 # the largest bin that is not larger
cdef void eset_open(Eset *s, uint32_t state) noexcept nogil
cdef Extent *eset_find(Eset *s, uint64_t pages) noexcept nogil        # that fits best; NULL: none does
cdef Extent *eset_first_is(Eset *s, uint64_t pages) noexcept nogil    # a quick answer for a loop of one size; NULL: ask eset_find
cdef void eset_insert(Eset *s, Extent *e) noexcept nogil              # as the youngest
cdef void eset_insert_before(Eset *s, Extent *e, Extent *newer) noexcept nogil  # of turn e.turn; newer NULL: the youngest
cdef void eset_put_back(Eset *s, Extent *e) noexcept nogil            # where its turn says
cdef void eset_remove(Eset *s, Extent *e) noexcept nogil              # it is taken then
cdef bint eset_is_sound(Eset *s, EsetWrong *wrong) noexcept nogil     # walks everything

# inside eset
cdef bint eset_before(const Extent *a, const Extent *b) noexcept nogil
cdef uint64_t eset_weight(const Extent *e) noexcept nogil
cdef void eset_sum_up(Extent *e) noexcept nogil
cdef Extent *eset_first(Extent *root, uint64_t pages) noexcept nogil
cdef void eset_part(Extent *root, const Extent *at, Extent **low, Extent **high) noexcept nogil
cdef Extent *eset_plant(Extent *root, Extent *e) noexcept nogil
cdef Extent *eset_unite(Extent *low, Extent *high) noexcept nogil
cdef Extent *eset_pluck(Extent *root, Extent *e) noexcept nogil
cdef uint64_t eset_walk(Eset *s, uint64_t bin, Extent *e, EsetWrong *wrong) noexcept nogil
