# family.pxd: the malloc family and C++'s operators, by the names that every program calls them by.
#
# Any thread, any time: before libc is up, inside the boot of the heap, in constructors, after a thread's destructors ran.
# Zero sizes, alignments and errno are glibc's. A free never fails, and leaves errno alone.
# Does not: replace anything where the library is merely loaded: the first in the process's order of symbols is the malloc.
# After: what jemalloc, mimalloc and tcmalloc export.
from libc.stdint cimport uint64_t

cdef enum:
    EARLY_BYTES = 0x8000            # for requests that come while the heap boots
    EARLY_HEADER = 16               # before each of those blocks: its size

cdef void *family_malloc(size_t size) noexcept nogil
cdef void *family_calloc(size_t count, size_t size) noexcept nogil
cdef void *family_realloc(void *p, size_t size) noexcept nogil
cdef void *family_reallocarray(void *p, size_t count, size_t size) noexcept nogil
cdef void family_free(void *p) noexcept nogil
cdef void *family_aligned_alloc(size_t align, size_t size) noexcept nogil     # EINVAL unless align is a power of two
cdef void *family_memalign(size_t align, size_t size) noexcept nogil          # align is rounded up to a power of two
cdef int family_posix_memalign(void **into, size_t align, size_t size) noexcept nogil
cdef void *family_valloc(size_t size) noexcept nogil
cdef void *family_pvalloc(size_t size) noexcept nogil
cdef size_t family_usable_size(void *p) noexcept nogil
cdef int family_trim(size_t keep) noexcept nogil                              # 1 if anything was given back
cdef void *family_new(size_t size) noexcept nogil
cdef void *family_new_nothrow(size_t size, void *nothrow) noexcept nogil
cdef void *family_new_aligned(size_t size, size_t align) noexcept nogil
cdef void *family_new_aligned_nothrow(size_t size, size_t align, void *nothrow) noexcept nogil
cdef void family_delete(void *p) noexcept nogil
cdef void family_delete_array(void *p) noexcept nogil
cdef bint family_serves() noexcept nogil                                      # the process's malloc is this one

# inside family
cdef extern from *:
    """
    #include <dlfcn.h>
    #include <link.h>
    #include <sys/auxv.h>

    /* The names that programs know the functions by. tools/join_core.py exports each name that FH_ALSO gives. */
    #define FH_ALSO(name, function) \\
        __asm__(".globl " #name "\\n.type " #name ", %function\\n.set " #name ", fh_family_" #function);
    FH_ALSO(malloc, malloc)
    FH_ALSO(calloc, calloc)
    FH_ALSO(realloc, realloc)
    FH_ALSO(reallocarray, reallocarray)
    FH_ALSO(free, free)
    FH_ALSO(cfree, free)
    FH_ALSO(free_sized, free)
    FH_ALSO(free_aligned_sized, free)
    FH_ALSO(aligned_alloc, aligned_alloc)
    FH_ALSO(memalign, memalign)
    FH_ALSO(posix_memalign, posix_memalign)
    FH_ALSO(valloc, valloc)
    FH_ALSO(pvalloc, pvalloc)
    FH_ALSO(malloc_usable_size, usable_size)
    FH_ALSO(malloc_trim, trim)
    FH_ALSO(__libc_malloc, malloc)                          /* glibc's other names for them */
    FH_ALSO(__libc_calloc, calloc)
    FH_ALSO(__libc_realloc, realloc)
    FH_ALSO(__libc_reallocarray, reallocarray)
    FH_ALSO(__libc_free, free)
    FH_ALSO(__libc_memalign, memalign)
    FH_ALSO(__libc_valloc, valloc)
    FH_ALSO(__libc_pvalloc, pvalloc)
    FH_ALSO(__posix_memalign, posix_memalign)
    FH_ALSO(_Znwm, new)                                     /* operator new(size_t) */
    FH_ALSO(_Znam, new)                                     /* … new[] */
    FH_ALSO(_ZnwmRKSt9nothrow_t, new_nothrow)
    FH_ALSO(_ZnamRKSt9nothrow_t, new_nothrow)
    FH_ALSO(_ZnwmSt11align_val_t, new_aligned)
    FH_ALSO(_ZnamSt11align_val_t, new_aligned)
    FH_ALSO(_ZnwmSt11align_val_tRKSt9nothrow_t, new_aligned_nothrow)
    FH_ALSO(_ZnamSt11align_val_tRKSt9nothrow_t, new_aligned_nothrow)
    FH_ALSO(_ZdlPv, delete)                                 /* operator delete(void *) */
    FH_ALSO(_ZdlPvm, delete)                                /* … with the size */
    FH_ALSO(_ZdlPvRKSt9nothrow_t, delete)
    FH_ALSO(_ZdaPv, delete_array)                           /* … delete[] */
    FH_ALSO(_ZdaPvm, delete_array)
    FH_ALSO(_ZdaPvRKSt9nothrow_t, delete_array)
    FH_ALSO(_ZdlPvSt11align_val_t, free)                    /* … aligned: C++ itself calls free for them */
    FH_ALSO(_ZdlPvmSt11align_val_t, free)
    FH_ALSO(_ZdlPvSt11align_val_tRKSt9nothrow_t, free)
    FH_ALSO(_ZdaPvSt11align_val_t, free)
    FH_ALSO(_ZdaPvmSt11align_val_t, free)
    FH_ALSO(_ZdaPvSt11align_val_tRKSt9nothrow_t, free)

    static unsigned char fh_early[0x8000] __attribute__((aligned(64)));
    __attribute__((noinline, cold)) static void *fh_family_malloc_slow(size_t size);
    FH_TLS unsigned fh_family_boots;       /* this thread is opening the heap */

    /* Where ld.so itself lies: until libc is there it allocates behind its own data. */
    static void fh_loader_range(uint64_t *start, uint64_t *end) {
        const ElfW(Ehdr) *head = (const ElfW(Ehdr) *)getauxval(AT_BASE);
        *start = *end = (uint64_t)(uintptr_t)head;
        if (head == NULL) return;
        const ElfW(Phdr) *part = (const ElfW(Phdr) *)((const char *)head + head->e_phoff);
        for (int i = 0; i < head->e_phnum; i++)
            if (part[i].p_type == PT_LOAD && *start + part[i].p_vaddr + part[i].p_memsz > *end)
                *end = *start + part[i].p_vaddr + part[i].p_memsz;
    }

    /* A function of the process by its name: NULL where what is found is `not_this`, or nothing is. */
    static void *fh_process_function(const char *name, const void *not_this) {
        void *found = dlsym(RTLD_DEFAULT, name);
        return found == not_this ? NULL : found;
    }
    /* A function of the C++ runtime that is loaded, whoever loaded it. */
    static void *fh_runtime_function(const char *name) {
        static const char *const runtimes[] = {"libstdc++.so.6", "libc++abi.so.1", "libc++.so.1"};
        for (unsigned i = 0; i < sizeof runtimes / sizeof *runtimes; i++) {
            void *runtime = dlopen(runtimes[i], RTLD_LAZY | RTLD_NOLOAD);
            void *found = runtime ? dlsym(runtime, name) : NULL;
            if (found) return found;
        }
        return NULL;
    }
    #define fh_call_new(f, size) (((void *(*)(size_t))(f))(size))
    #define fh_call_new_with(f, size, word) (((void *(*)(size_t, uintptr_t))(f))(size, (uintptr_t)(word)))
    #define fh_call_new_with_both(f, size, align, tag) (((void *(*)(size_t, size_t, const void *))(f))(size, align, tag))
    #define fh_call_free(f, p) (((void (*)(void *))(f))(p))
    #define fh_overflows(a, b, into) __builtin_mul_overflow(a, b, into)
    """
    unsigned family_boots "fh_family_boots"
    unsigned char *early "fh_early"
    void loader_range "fh_loader_range"(uint64_t *start, uint64_t *end) noexcept nogil
    void *process_function "fh_process_function"(const char *name, const void *not_this) noexcept nogil
    void *runtime_function "fh_runtime_function"(const char *name) noexcept nogil
    void *call_new "fh_call_new"(void *f, size_t size) noexcept nogil
    void *call_new_with "fh_call_new_with"(void *f, size_t size, size_t word) noexcept nogil
    void *call_new_with_both "fh_call_new_with_both"(void *f, size_t size, size_t align, void *tag) noexcept nogil
    void call_free "fh_call_free"(void *f, void *p) noexcept nogil
    bint overflows "fh_overflows"(size_t a, size_t b, size_t *into) noexcept nogil
cdef void *family_malloc_slow "fh_family_malloc_slow"(size_t size) noexcept nogil
cdef void *family_allocate(size_t size, size_t align, bint zero) noexcept nogil
cdef void *family_allocate_first(size_t size, size_t align, bint zero) noexcept nogil
cdef void family_free_slow(void *p) noexcept nogil
cdef bint family_take_stranger(void *p) noexcept nogil
cdef size_t family_stranger_size(void *p) noexcept nogil
cdef bint family_open() noexcept nogil
cdef void *early_allocate(size_t size, size_t align) noexcept nogil
cdef bint early_owns(void *p) noexcept nogil
cdef bint loader_owns(void *p, uint64_t *end) noexcept nogil
cdef void family_look_around() noexcept nogil
cdef void *family_new_slow(size_t size) noexcept nogil
cdef void *family_new_elsewhere(size_t size) noexcept nogil
cdef void *family_new_aligned_elsewhere(size_t size, size_t align) noexcept nogil
cdef void family_delete_slow(void *p, const char *name) noexcept nogil
