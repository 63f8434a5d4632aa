# process_heap.pxd: what glibc can be told about its own heap. Weak: where the C library is another, it is not there.
cdef extern from *:
    """
    #ifndef M_TRIM_THRESHOLD
    #define M_TRIM_THRESHOLD -1
    #define M_MMAP_THRESHOLD -3
    #endif
    extern int mallopt(int what, int value) __attribute__((weak));
    static int fh_libc_can_be_told(void) { return mallopt != 0; }
    """
    int M_TRIM_THRESHOLD
    int M_MMAP_THRESHOLD
    int mallopt(int what, int value) nogil
    bint libc_can_be_told "fh_libc_can_be_told"() nogil

cdef extern from "Python.h":
    int Py_AddPendingCall(int (*function)(void *) noexcept, void *argument) noexcept
cdef int catch_up(void *unused) noexcept                # a pending call
