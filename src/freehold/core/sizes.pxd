# sizes.pxd: which size classes there are, and the arithmetic between sizes, classes and offsets.
#
# Thread-safe: a table is constant once made. Nothing here looks at memory.
# Invariant: size(index(s)) is the smallest class size >= s, for every s up to the largest class.
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    SIZES_NONE = 0xFFFFFFFF         # no class serves this
    SIZES_MOST = 512                # classes that a table has room for

cdef struct Sizes:                  # written once by sizes_make, then constant
    uint64_t minimum                # the smallest class, and the grain of the linear ones; a power of two
    uint64_t small_limit            # the largest small class; a power of two
    uint64_t large_minimum          # the smallest large class; a power of two
    uint64_t large_maximum
    uint32_t per_doubling           # classes in each doubling; a power of two
    uint32_t doubling_bits          # log2(per_doubling)
    uint32_t linear_bits            # log2(minimum * per_doubling): below that, all multiples of minimum
    uint32_t small                  # how many classes of each kind
    uint32_t middle
    uint32_t large
    uint32_t count
    uint64_t size[SIZES_MOST]
    uint64_t multiplier[SIZES_MOST]  # ceil(2^64 / size): offset // size is the high word of offset * multiplier

cdef void sizes_make(Sizes *t, uint64_t minimum, uint32_t per_doubling, uint64_t small_limit, uint64_t large_minimum, uint64_t large_maximum) noexcept nogil
cdef uint32_t sizes_index(const Sizes *t, uint64_t size) noexcept nogil        # SIZES_NONE above the largest
cdef uint32_t sizes_index_aligned(const Sizes *t, uint64_t size, uint64_t align) noexcept nogil
cdef uint64_t sizes_divide(const Sizes *t, uint32_t index, uint64_t offset) noexcept nogil
cdef const Sizes *sizes_default() noexcept nogil
cdef void sizes_boot() noexcept nogil                                          # makes the default table

# inside sizes
cdef uint32_t sizes_log2(uint64_t x) noexcept nogil
cdef uint64_t sizes_geometric(Sizes *t, uint32_t i) noexcept nogil
