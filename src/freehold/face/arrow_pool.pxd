# arrow_pool.pxd: the functions of Arrow's memory pools, as its compiled code calls them, and a heap's pool.
#
# Two results are objects of C++, `arrow::Status` (one word) and `std::string`: whoever calls passes where they are to be made,
# before the pool. That is so on x86-64, where the address of such a result is simply the first argument, and is returned.
from libc.stdint cimport int64_t, uint8_t

from freehold.face.arrow_layout cimport BEFORE, MOST_SLOTS, StdString
from freehold.face.tenant cimport Tenant

cdef enum:
    SAFE_ALIGNMENT = 4096               # of the address that stands for no bytes at all
    LINE = 64                           # the alignment that Arrow asks for unless told otherwise

ctypedef void *(*Allocate)(void **result, void *pool, int64_t size, int64_t alignment, uint8_t **out) noexcept nogil
ctypedef void *(*Reallocate)(void **result, void *pool, int64_t old, int64_t size, int64_t alignment, uint8_t **p) noexcept nogil
ctypedef void (*Free)(void *pool, uint8_t *p, int64_t size, int64_t alignment) noexcept nogil
ctypedef int64_t (*Figure)(void *pool) noexcept nogil
ctypedef void *(*BackendName)(StdString *result, void *pool) noexcept nogil
ctypedef void (*Act)(void *pool) noexcept nogil

cdef struct Counts:                     # what a pool is asked for; atomic, each by itself
    int64_t bytes
    int64_t most
    int64_t total
    int64_t number

cdef struct Table:                      # of functions, as in a library
    void *before[BEFORE]
    void *functions[MOST_SLOTS]

cdef struct Pool:                       # of one heap; never freed, as buffers and whoever has it boxed know its address
    void **functions                    # C++ wants them first
    Tenant tenant
    Counts counts
    char name[64]                       # the heap's, as UTF-8, cut where it is longer
    Pool *next                          # of all there are; written under the GIL

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <dlfcn.h>
    #include <pthread.h>
    #include <stdio.h>
    #include <string.h>

    /* Whether two addresses lie in the same file. */
    static int fh_same_file(void *a, void *b) {
        Dl_info of_a, of_b;
        return dladdr(a, &of_a) && dladdr(b, &of_b) && of_a.dli_fbase == of_b.dli_fbase;
    }
    static const char *fh_file_of(void *at) {
        Dl_info info;
        return dladdr(at, &info) && info.dli_fname ? info.dli_fname : "?";
    }
    static void fh_publish(void *at, void *value) {     /* one aligned word: a reader sees the old one or the new one */
        __atomic_store_n((void **)at, value, __ATOMIC_RELEASE);
    }
    #define fh_count(p, x) __atomic_fetch_add(p, x, __ATOMIC_RELAXED)
    #define fh_counted(p) __atomic_load_n(p, __ATOMIC_RELAXED)
    #define fh_raise_to(p, x) do { \\
        int64_t seen_ = fh_counted(p); \\
        while (seen_ < (x) && !__atomic_compare_exchange_n(p, &seen_, x, 1, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) ; \\
    } while (0)
    static char fh_no_bytes[64] __attribute__((aligned(4096)));
    static void fh_pools_forked(void (*in_child)(void)) { pthread_atfork(NULL, NULL, in_child); }
    """
    bint same_file "fh_same_file"(void *a, void *b) noexcept nogil
    const char *file_of "fh_file_of"(void *at) noexcept nogil
    void publish "fh_publish"(void *at, void *value) noexcept nogil
    int64_t count "fh_count"(int64_t *p, int64_t x) noexcept nogil
    int64_t counted "fh_counted"(int64_t *p) noexcept nogil
    void raise_to "fh_raise_to"(int64_t *p, int64_t x) noexcept nogil
    uint8_t *no_bytes "(uint8_t *)fh_no_bytes"
    void at_fork_in_child "fh_pools_forked"(void (*in_child)() noexcept nogil) noexcept nogil
    int snprintf(char *into, size_t n, const char *form, ...) noexcept nogil
    void *memcpy(void *to, const void *source, size_t n) noexcept nogil
    size_t strlen(const char *text) noexcept nogil

cdef inline void count_more(Counts *counts, int64_t more, int64_t beside) noexcept nogil:
    """Count bytes that came (or went, if negative); a pool's peak has `beside` in it, too."""
    cdef int64_t bytes = count(&counts.bytes, more) + more
    if more > 0:
        count(&counts.total, more)
        raise_to(&counts.most, bytes + beside)
    if more >= 0:
        count(&counts.number, 1)

# what is common
cdef void *refuse(void **result, int code, const char *text) noexcept nogil
cdef void *refuse_size(void **result, int64_t size, int64_t alignment) noexcept nogil
cdef void *refuse_closed(void **result, Pool *pool) noexcept nogil
cdef void *refuse_in_pool(void **result, Pool *pool, int64_t size) noexcept nogil
cdef void *move_aligned(void *p, size_t old, size_t size, size_t alignment) noexcept nogil

# Arrow's default pool
cdef void *default_allocate(void **result, void *pool, int64_t size, int64_t alignment, uint8_t **out) noexcept nogil
cdef void *default_reallocate(void **result, void *pool, int64_t old, int64_t size, int64_t alignment, uint8_t **p) noexcept nogil
cdef void *default_begin(void **result, int64_t size, int64_t alignment, uint8_t **p) noexcept nogil
cdef void default_free(void *pool, uint8_t *p, int64_t size, int64_t alignment) noexcept nogil
cdef int64_t default_bytes(void *pool) noexcept nogil
cdef int64_t default_most(void *pool) noexcept nogil
cdef int64_t default_total(void *pool) noexcept nogil
cdef int64_t default_number(void *pool) noexcept nogil
cdef void *default_name(StdString *result, void *pool) noexcept nogil
cdef void default_release(void *pool) noexcept nogil
cdef int64_t before_figure(int kind) noexcept nogil

# a heap's pool
cdef void *pool_allocate(void **result, Pool *pool, int64_t size, int64_t alignment, uint8_t **out) noexcept nogil
cdef void *pool_reallocate(void **result, Pool *pool, int64_t old, int64_t size, int64_t alignment, uint8_t **p) noexcept nogil
cdef void pool_free(Pool *pool, uint8_t *p, int64_t size, int64_t alignment) noexcept nogil
cdef int64_t pool_bytes(Pool *pool) noexcept nogil
cdef int64_t pool_most(Pool *pool) noexcept nogil
cdef int64_t pool_total(Pool *pool) noexcept nogil
cdef int64_t pool_number(Pool *pool) noexcept nogil
cdef void *pool_name(StdString *result, Pool *pool) noexcept nogil
cdef void pool_release(Pool *pool) noexcept nogil
cdef void pool_stays(Pool *pool) noexcept nogil
cdef void *pool_take(Pool *pool, void *p, size_t old, size_t size, size_t alignment, bint *shut) noexcept nogil
cdef void pools_forked() noexcept nogil
