# ehooks.pxd: where the memory of extents comes from and goes to: functions that a heap was given, or our own.
#
# Any thread; the caller holds no lock, since a hook may take as long as it likes and call back.
# Does not: know what an extent is.
# After: jemalloc's extent hooks.
from libc.stdint cimport uint64_t

# 0: refused.
ctypedef uint64_t (*extent_alloc_hook)(void *context, uint64_t size, uint64_t alignment, bint zero, bint commit) noexcept nogil
# free: address, size · commit, decommit, purge_lazy, purge_now: address, size, offset, length · split: address, size, size_a, size_b ·
# merge: address_a, size_a, address_b, size_b. False: refused.
ctypedef bint (*extent_hook)(void *context, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil

cdef struct ExtentHooks:            # NULL: the OS's; there splits and merges need nothing
    void *context                   # passed to each
    extent_alloc_hook alloc
    extent_hook free
    extent_hook commit
    extent_hook decommit
    extent_hook purge_lazy
    extent_hook purge_now
    extent_hook split
    extent_hook merge

cdef uint64_t ehooks_alloc(const ExtentHooks *h, uint64_t heap, uint64_t size, bint zero) noexcept nogil
cdef bint ehooks_free(const ExtentHooks *h, uint64_t heap, uint64_t base, uint64_t size) noexcept nogil
cdef bint ehooks_commit(const ExtentHooks *h, uint64_t heap, uint64_t base, uint64_t size) noexcept nogil
cdef bint ehooks_decommit(const ExtentHooks *h, uint64_t heap, uint64_t base, uint64_t size) noexcept nogil
cdef bint ehooks_purge_lazy(const ExtentHooks *h, uint64_t address, uint64_t size) noexcept nogil
cdef bint ehooks_purge_now(const ExtentHooks *h, uint64_t address, uint64_t size) noexcept nogil

# inside ehooks
cdef bint ehooks_is_ours(uint64_t heap, uint64_t base) noexcept nogil
