# arrow_layout.pxd: what Arrow's library says of its memory pools. No header of Arrow's is needed.
#
# A pool is an object whose first word leads to its class's table of functions. Which of them stands where is looked up in the
# library, by names that say what each takes: a table with a function that is not known is refused.

cdef enum:                              # the functions of a pool that are known
    ALLOCATE = 0
    REALLOCATE = 1
    FREE = 2
    BYTES_ALLOCATED = 3
    MAX_MEMORY = 4
    TOTAL_BYTES_ALLOCATED = 5
    NUM_ALLOCATIONS = 6
    BACKEND_NAME = 7
    RELEASE_UNUSED = 8
    PRINT_STATS = 9                     # since pyarrow 18: those before do without
    KINDS = 10

    BEFORE = 2                          # words of a table before its functions: an offset, and the class's typeinfo
    DESTRUCTORS = 2                     # a table's first functions
    MOST_SLOTS = 32                     # functions of a table, at most

    STATUS_OUT_OF_MEMORY = 1            # arrow::StatusCode
    STATUS_INVALID = 4

cdef struct StdString:                  # std::string, as libstdc++ has had it since GCC 5 (__cxx11)
    char *text                          # `here`, where it is short
    size_t size                         # without the NUL
    char here[16]

ctypedef void (*MakeStatus)(void **at, int code, StdString *text) noexcept nogil    # a constructor of arrow::Status
ctypedef void *(*OperatorNew)(size_t size) noexcept nogil
ctypedef void (*OperatorDelete)(void *p) noexcept nogil
ctypedef void *(*DefaultPool)() noexcept nogil
ctypedef object (*BoxPool)(void *pool)

cdef struct Layout:
    int at[KINDS]                       # where in a table each function stands; -1: nowhere
    void *typeinfo                      # of arrow::MemoryPool
    MakeStatus make_status
    OperatorNew operator_new
    OperatorDelete operator_delete
    DefaultPool default_pool
    BoxPool box

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <dlfcn.h>
    #if defined(__GLIBC__)
    #include <link.h>
    #endif

    #if defined(__x86_64__) && defined(__linux__)
    #define FH_CALLS_ARE_KNOWN 1
    #else
    #define FH_CALLS_ARE_KNOWN 0
    #endif

    /* The bytes of the symbol that lies at an address; 0: unknown. */
    static size_t fh_symbol_bytes(void *at) {
    #if defined(__GLIBC__)
        Dl_info info;
        const ElfW(Sym) *symbol = NULL;
        if (dladdr1(at, &info, (void **)&symbol, RTLD_DL_SYMENT) && symbol) return symbol->st_size;
    #endif
        return 0;
    }
    """
    bint CALLS_ARE_KNOWN "FH_CALLS_ARE_KNOWN"
    int RTLD_LAZY
    int RTLD_NOLOAD
    void *dlopen(const char *file, int flags) nogil
    void *dlsym(void *handle, const char *name) nogil
    size_t symbol_bytes "fh_symbol_bytes"(void *at) noexcept nogil

cdef object look_at_table(Layout *layout, void *handle)
cdef void *find(void *handle, tuple names) except? NULL    # NULL: nothing has such a name
cdef void *need(void *handle, tuple names) except NULL
