# numpy_handler.pxd: what NumPy's C interface looks like, as far as memory goes (NEP 49; no NumPy headers are needed).
from libc.stdint cimport uint8_t

cdef enum:                          # places in NumPy's table of C functions, the same in every version since 1.22
    NUMPY_FEATURE_VERSION = 211
    NUMPY_GET_HANDLER = 305
    FIRST_WITH_HANDLERS = 0x0f      # the feature version of NumPy 1.22

ctypedef unsigned int (*FeatureVersion)() noexcept
ctypedef object (*GetHandler)()     # the handler in force in this context: a capsule, named "mem_handler"
ctypedef void *(*Malloc)(void *ctx, size_t size) noexcept nogil
ctypedef void *(*Calloc)(void *ctx, size_t count, size_t size) noexcept nogil
ctypedef void *(*Realloc)(void *ctx, void *p, size_t size) noexcept nogil
ctypedef void (*Free)(void *ctx, void *p, size_t size) noexcept nogil

cdef struct NumpyHandler:           # NumPy's PyDataMem_Handler
    char name[127]                  # ends in NUL
    uint8_t version                 # 1
    void *ctx
    Malloc malloc
    Calloc calloc
    Realloc realloc
    Free free

cdef struct Visit:                  # what a proving thread is told, and tells
    void *empty                     # borrowed: the C module's function `empty`
    bint owned                      # the array it made lies in the heap

cdef extern from *:
    """
    #include <pthread.h>
    static void fh_publish(void *at, void *function) {  /* one aligned word: a reader sees the old one or the new one */
        __atomic_store_n((void **)at, function, __ATOMIC_RELEASE);
    }
    """
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t *thread, void *attributes, void *(*body)(void *) noexcept nogil, void *argument) nogil
    int pthread_join(pthread_t thread, void **result) nogil
    void publish "fh_publish"(void *at, void *function) noexcept nogil

cdef void *hook_malloc(void *ctx, size_t size) noexcept nogil
cdef void *hook_calloc(void *ctx, size_t count, size_t size) noexcept nogil
cdef void *hook_realloc(void *ctx, void *p, size_t size) noexcept nogil
cdef void hook_free(void *ctx, void *p, size_t size) noexcept nogil
cdef void free_before(void *p, size_t size) noexcept nogil
cdef void *visit_thread(void *argument) noexcept nogil
cdef bint array_is_owned(object array)
