# extents_face.pxd: what the face needs that only a header can say.
from libc.stdint cimport uint64_t

# Called by the core from any thread, without the GIL; an exception counts as a refusal.
cdef uint64_t hook_alloc(void *context, uint64_t size, uint64_t alignment, bint zero, bint commit) noexcept nogil
cdef bint hook_free(void *context, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil
cdef bint hook_commit(void *context, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil
cdef bint hook_decommit(void *context, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil
cdef bint hook_purge_lazy(void *context, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil
cdef bint hook_purge_now(void *context, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil
cdef bint hook_split(void *context, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil
cdef bint hook_merge(void *context, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil
