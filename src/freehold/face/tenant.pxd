# tenant.pxd: who takes memory of a heap without holding its Core: an Arrow pool, of which buffers know the address alone.
#
# Any thread, with or without the GIL; the Core's side under the GIL.
# Invariant: a Core waits for its tenant before it closes the heap, and before it ends. So who is inside may use the heap, and
# `context` until it finds the tenant shut. A Core that ends while the tenant's blocks are live leaves the heap to them: the
# last free closes it.
# Does not: know what a block is for.
from libc.stdint cimport uint64_t

from freehold.core.home cimport Heap as CoreHeap
from freehold.face.heap_face cimport Context

cdef extern from *:
    """
    #include <unistd.h>
    #define FH_TENANT_MARK (1ull << 63)     /* of `inside`: shut; of `live`: the last free closes the heap */
    #define fh_tenant_add(p, x) __atomic_fetch_add(p, x, __ATOMIC_ACQ_REL)
    #define fh_tenant_or(p, x) __atomic_fetch_or(p, x, __ATOMIC_ACQ_REL)
    #define fh_tenant_and(p, x) __atomic_fetch_and(p, x, __ATOMIC_ACQ_REL)
    #define fh_tenant_load(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
    """
    uint64_t MARK "FH_TENANT_MARK"
    uint64_t fetch_add "fh_tenant_add"(uint64_t *p, uint64_t x) noexcept nogil
    uint64_t fetch_or "fh_tenant_or"(uint64_t *p, uint64_t x) noexcept nogil
    uint64_t fetch_and "fh_tenant_and"(uint64_t *p, uint64_t x) noexcept nogil
    uint64_t load "fh_tenant_load"(uint64_t *p) noexcept nogil
    int usleep(unsigned microseconds) noexcept nogil

cdef struct Tenant:
    CoreHeap *heap                  # constant; gone once it is closed
    Context *context                # the Core's; for who is inside
    uint64_t inside                 # allocations under way, and MARK; atomic
    uint64_t live                   # blocks, and MARK; atomic

# ---- the tenant's side ----

cdef inline bint tenant_enter(Tenant *t) noexcept nogil:
    """Begin to allocate. False: the heap is closed, or is being closed."""
    if fetch_add(&t.inside, 1) & MARK:
        fetch_add(&t.inside, <uint64_t>-1)
        return False
    return True

cdef inline void tenant_leave(Tenant *t) noexcept nogil:
    fetch_add(&t.inside, <uint64_t>-1)

cdef inline bint tenant_is_shut(Tenant *t) noexcept nogil:
    """Under the GIL, for who is inside: the Core has begun to end, and must not be touched."""
    return load(&t.inside) & MARK != 0

cdef inline void tenant_took(Tenant *t) noexcept nogil:
    """Count a block that was handed out, before leaving."""
    fetch_add(&t.live, 1)

cdef inline bint tenant_freed(Tenant *t) noexcept nogil:
    """Count a block that was freed. True: it was the last one, and the caller closes the heap."""
    return fetch_add(&t.live, <uint64_t>-1) == (MARK | 1)

# ---- the Core's side ----

cdef inline void tenant_shut(Tenant *t) noexcept nogil:
    fetch_or(&t.inside, MARK)

cdef inline void tenant_open(Tenant *t) noexcept nogil:
    fetch_and(&t.inside, ~MARK)

cdef inline bint tenant_is_inside(Tenant *t) noexcept nogil:
    return load(&t.inside) & ~MARK != 0

cdef inline bint tenant_wait(Tenant *t) noexcept nogil:
    """Without the GIL, which who is inside may want. False: somebody does not come out; where the interpreter ends, who
    waits for the GIL may be stopped there for ever."""
    cdef int tries = 0
    while load(&t.inside) & ~MARK and tries < 20_000:
        usleep(100)
        tries += 1
    return tries < 20_000

cdef inline uint64_t tenant_live(Tenant *t) noexcept nogil:
    return load(&t.live) & ~MARK

cdef inline bint tenant_inherits(Tenant *t) noexcept nogil:
    """Leave the heap, which is shut and empty of allocations, to the last free. False: no block is live, so that there is none."""
    return fetch_or(&t.live, MARK) != 0
