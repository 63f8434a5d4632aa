# cpython_domains.pxd: CPython's C interface, as far as its allocators go, and the loader's word on whose a function is.
from freehold.core.hooks cimport Allocator, ArenaAllocator

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <dlfcn.h>
    /* The core, which knows no Python, has structs of its own for these: laid out alike. */
    _Static_assert(sizeof(struct Allocator) == sizeof(PyMemAllocatorEx), "PyMemAllocatorEx has changed");
    _Static_assert(sizeof(struct ArenaAllocator) == sizeof(PyObjectArenaAllocator), "PyObjectArenaAllocator has changed");
    #define fh_get_allocator(domain, into) PyMem_GetAllocator((PyMemAllocatorDomain)(domain), (PyMemAllocatorEx *)(into))
    #define fh_set_allocator(domain, from) PyMem_SetAllocator((PyMemAllocatorDomain)(domain), (PyMemAllocatorEx *)(from))
    #define fh_get_arenas(into) PyObject_GetArenaAllocator((PyObjectArenaAllocator *)(into))
    #define fh_set_arenas(from) PyObject_SetArenaAllocator((PyObjectArenaAllocator *)(from))
    #ifdef Py_GIL_DISABLED
    #define FH_FREE_THREADED 1
    #else
    #define FH_FREE_THREADED 0
    #endif

    /* The file that a function lies in; NULL if it is the one that CPython's own lie in, and "" if nobody knows. */
    static const char *fh_foreign_file(void *function) {
        Dl_info its, own;
        if (!dladdr(function, &its) || !its.dli_fname) return "";
        if (dladdr((void *)PyMem_SetAllocator, &own) && own.dli_fbase == its.dli_fbase) return NULL;
        return its.dli_fname;
    }
    /* CPython's own name for what is in force. Its function is exported, but in no header that may be included. */
    static const char *fh_allocator_name(void) {
        const char *(*name)(void) = (const char *(*)(void))dlsym(RTLD_DEFAULT, "_PyMem_GetCurrentAllocatorName");
        return name ? name() : NULL;
    }
    """
    bint FREE_THREADED "FH_FREE_THREADED"
    void get_allocator "fh_get_allocator"(unsigned domain, Allocator *into) noexcept nogil
    void set_allocator "fh_set_allocator"(unsigned domain, Allocator *allocator) noexcept nogil
    void get_arenas "fh_get_arenas"(ArenaAllocator *into) noexcept nogil
    void set_arenas "fh_set_arenas"(ArenaAllocator *allocator) noexcept nogil
    const char *foreign_file "fh_foreign_file"(void *function) noexcept nogil
    const char *allocator_name "fh_allocator_name"() noexcept nogil

cdef struct DebugLayer:             # what the ctx of CPython's debug hooks points at, in every version since 3.4
    char domain                     # 'r', 'm', 'o'
    Allocator beneath
