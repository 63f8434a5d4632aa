# hooks.pxd: what a host's allocator hooks call: new blocks from the heap while that is switched on; a block's address says where it
# goes back to.
#
# Any thread, any time, also before the host's interpreter lives and after it has died.
# Invariant: a block of the heap goes back to the heap, every other to whoever was there before, whatever the switch says.
# Does not: put itself into the host (cpython_domains.py does), or read the `ctx` it is called with.
from libc.stdint cimport uint64_t

cdef enum:                          # CPython's domains, numbered as its PyMemAllocatorDomain
    DOMAIN_RAW = 0
    DOMAIN_MEM = 1
    DOMAIN_OBJ = 2
    DOMAINS = 3

ctypedef void *(*MallocHook)(void *ctx, size_t size) noexcept nogil
ctypedef void *(*CallocHook)(void *ctx, size_t count, size_t size) noexcept nogil
ctypedef void *(*ReallocHook)(void *ctx, void *p, size_t size) noexcept nogil
ctypedef void (*FreeHook)(void *ctx, void *p) noexcept nogil
ctypedef void (*FreeSizedHook)(void *ctx, void *p, size_t size) noexcept nogil

cdef struct Allocator:              # laid out as CPython's PyMemAllocatorEx
    void *ctx
    MallocHook malloc
    CallocHook calloc
    ReallocHook realloc
    FreeHook free

cdef struct ArenaAllocator:         # laid out as CPython's PyObjectArenaAllocator
    void *ctx
    MallocHook malloc
    FreeSizedHook free

# Each domain's hooks, to be put where `before` was found: its ctx stays, so no caller ever sees a function with a ctx not its own.
cdef void hooks_wrap(unsigned domain, const Allocator *before, Allocator *hooks) noexcept nogil
cdef void hooks_wrap_arenas(const ArenaAllocator *before, ArenaAllocator *hooks) noexcept nogil
cdef void hooks_switch(bint on) noexcept nogil                        # new blocks of the domains
cdef void hooks_switch_arenas(bint on) noexcept nogil
cdef void *hook_raw_malloc(void *ctx, size_t size) noexcept nogil
cdef void *hook_raw_calloc(void *ctx, size_t count, size_t size) noexcept nogil
cdef void *hook_raw_realloc(void *ctx, void *p, size_t size) noexcept nogil
cdef void hook_raw_free(void *ctx, void *p) noexcept nogil
cdef void *hook_mem_malloc(void *ctx, size_t size) noexcept nogil
cdef void *hook_mem_calloc(void *ctx, size_t count, size_t size) noexcept nogil
cdef void *hook_mem_realloc(void *ctx, void *p, size_t size) noexcept nogil
cdef void hook_mem_free(void *ctx, void *p) noexcept nogil
cdef void *hook_obj_malloc(void *ctx, size_t size) noexcept nogil
cdef void *hook_obj_calloc(void *ctx, size_t count, size_t size) noexcept nogil
cdef void *hook_obj_realloc(void *ctx, void *p, size_t size) noexcept nogil
cdef void hook_obj_free(void *ctx, void *p) noexcept nogil
cdef void *hook_arena_malloc(void *ctx, size_t size) noexcept nogil
cdef void hook_arena_free(void *ctx, void *p, size_t size) noexcept nogil

# inside hooks
cdef extern from *:
    """
    __attribute__((noinline, cold)) static void *fh_hooks_malloc_slow(unsigned domain, size_t size);
    __attribute__((noinline, cold)) static void fh_hooks_free_slow(unsigned domain, void *p);
    """
cdef inline void *hooks_malloc(unsigned domain, size_t size) noexcept nogil
cdef inline void *hooks_calloc(unsigned domain, size_t count, size_t size) noexcept nogil
cdef inline void *hooks_realloc(unsigned domain, void *p, size_t size) noexcept nogil
cdef inline void hooks_free(unsigned domain, void *p) noexcept nogil
cdef void *hooks_malloc_slow(unsigned domain, size_t size) noexcept nogil
cdef void hooks_free_slow(unsigned domain, void *p) noexcept nogil
