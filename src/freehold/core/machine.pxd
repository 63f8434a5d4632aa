# machine.pxd: the compiler, the processor and the kernel. The only file of the core with C text in it.
#
# Thread-safety: every function here is safe from any thread; the atomics say their memory order in their names.
# Does not: allocate, keep state (but for two words per thread), or touch Python.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <linux/futex.h>
    #include <linux/membarrier.h>
    #include <pthread.h>
    #include <signal.h>
    #include <stdarg.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <sys/resource.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    #ifndef FH_CHECK
    #define FH_CHECK 0                 /* 0: release; 1: debug; 2: whole structures after each operation */
    #endif
    #ifndef MADV_POPULATE_WRITE
    #define MADV_POPULATE_WRITE 23
    #endif
    #ifndef MREMAP_DONTUNMAP
    #define MREMAP_DONTUNMAP 4
    #endif
    #ifndef MAP_FIXED_NOREPLACE
    #define MAP_FIXED_NOREPLACE 0x100000
    #endif
    #if defined(__SANITIZE_THREAD__)
    #define FH_TSAN 1
    #else
    #define FH_TSAN 0
    #endif
    #if defined(__SANITIZE_ADDRESS__)
    #include <sanitizer/asan_interface.h>
    #define fh_poison(p, n) ASAN_POISON_MEMORY_REGION((void *)(p), n)
    #define fh_unpoison(p, n) ASAN_UNPOISON_MEMORY_REGION((void *)(p), n)
    #else
    #define fh_poison(p, n) ((void)0)
    #define fh_unpoison(p, n) ((void)0)
    #endif

    /* The last words: one line on stderr by write(2), no allocation, then SIGABRT. */
    static void fh_say(const char *text, size_t n) {
        while (n > 0) {
            ssize_t wrote = write(2, text, n);
            if (wrote <= 0) return;
            text += wrote; n -= (size_t)wrote;
        }
    }
    __attribute__((cold, noinline, format(printf, 1, 2)))
    static void fh_tell(const char *form, ...) {
        char line[1024];
        va_list values;
        va_start(values, form);
        int n = vsnprintf(line, sizeof line, form, values);
        va_end(values);
        if (n > (int)sizeof line - 1) n = sizeof line - 1;
        if (n > 0) fh_say(line, (size_t)n);
    }
    __attribute__((cold, noinline))
    static void fh_die(const char *where, const char *why) {
        fh_tell("freehold: fatal: %s (%s) pid=%d\\n", why, where, (int)getpid());
        abort();
    }
    #define FH_STR2(x) #x
    #define FH_STR(x) FH_STR2(x)
    #define FH_MUST(holds, why) (__builtin_expect(!!(holds), 1) ? (void)0 : fh_die(__FILE__ ":" FH_STR(__LINE__), why))
    #define FH_SHOULD(holds, why) (FH_CHECK ? FH_MUST(holds, why) : (void)0)

    static inline uint64_t fh_mul_high(uint64_t a, uint64_t b) { return (uint64_t)(((unsigned __int128)a * b) >> 64); }
    static inline uint64_t fh_now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }

    /* Waiting on a word. The kernel compares and sleeps in one step. */
    static int fh_futex_wait(uint32_t *word, uint32_t seen, int64_t timeout_ns) {
        struct timespec t = { timeout_ns / 1000000000, timeout_ns % 1000000000 };
        return syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, timeout_ns < 0 ? NULL : &t, NULL, 0) == 0 ? 0 : errno;
    }
    static void fh_futex_wake(uint32_t *word, int n) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0); }

    /* The barrier that one thread imposes on all the others (see cache). TSan does not know it: its build exchanges. */
    static int fh_membarrier_register(void) {
    #if FH_TSAN
        return 0;
    #else
        return (int)syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
    #endif
    }
    static void fh_membarrier(void) {
    #if !FH_TSAN
        syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
    #endif
    }
    static inline void fh_compiler_barrier(void) {
    #if !FH_TSAN
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
    #endif
    }

    /* Two words of each thread. Initial-exec: no call, no lazy allocation; the room for them is a few bytes (F42). */
    #define FH_TLS static __thread __attribute__((tls_model("initial-exec")))
    """
    enum:
        CHECK "FH_CHECK"
        TSAN "FH_TSAN"
        O_CLOEXEC
        PROT_NONE
        PROT_READ
        PROT_WRITE
        MAP_PRIVATE
        MAP_SHARED
        MAP_ANONYMOUS
        MAP_NORESERVE
        MAP_FIXED
        MAP_FIXED_NOREPLACE
        MAP_HUGETLB
        MADV_FREE
        MADV_DONTNEED
        MADV_HUGEPAGE
        MADV_NOHUGEPAGE
        MADV_POPULATE_WRITE
        MADV_WILLNEED
        MADV_DONTDUMP
        MADV_DODUMP
        ENOMEM
        EINVAL
        EEXIST
        EAGAIN
        EINTR
        ENOSYS
        SC_PAGESIZE "_SC_PAGESIZE"
        RLIMIT_AS
        SYS_MMAP "SYS_mmap"
        SYS_MBIND "SYS_mbind"
        SYS_MREMAP "SYS_mremap"
        MREMAP_MAYMOVE
        MREMAP_FIXED
        MREMAP_DONTUNMAP
    int errno
    uint64_t NOWHERE "UINT64_MAX"       # no such position, no such address
    void die "fh_die"(const char *where, const char *why) noexcept nogil
    void tell "fh_tell"(const char *form, ...) noexcept nogil
    void abort() noexcept nogil
    void must "FH_MUST"(bint holds, const char *why) noexcept nogil      # always on: a caller's crime
    void should "FH_SHOULD"(bint holds, const char *why) noexcept nogil  # our own invariants: debug builds
    uint64_t mul_high "fh_mul_high"(uint64_t a, uint64_t b) noexcept nogil
    uint64_t now_ns "fh_now_ns"() noexcept nogil
    int futex_wait "fh_futex_wait"(uint32_t *word, uint32_t seen, int64_t timeout_ns) noexcept nogil
    void futex_wake "fh_futex_wake"(uint32_t *word, int n) noexcept nogil
    int membarrier_register "fh_membarrier_register"() noexcept nogil
    void membarrier "fh_membarrier"() noexcept nogil
    void compiler_barrier "fh_compiler_barrier"() noexcept nogil
    void poison "fh_poison"(uint64_t p, uint64_t n) noexcept nogil
    void unpoison "fh_unpoison"(uint64_t p, uint64_t n) noexcept nogil
    int getpid() noexcept nogil
    long sysconf(int name) noexcept nogil
    long syscall(long number, ...) noexcept nogil
    int munmap(void *p, size_t n) noexcept nogil
    int mprotect(void *p, size_t n, int protection) noexcept nogil
    int madvise(void *p, size_t n, int advice) noexcept nogil
    int mincore(void *p, size_t n, unsigned char *resident) noexcept nogil
    int open(const char *path, int flags, ...) noexcept nogil
    int close(int fd) noexcept nogil
    ssize_t read(int fd, void *into, size_t n) noexcept nogil
    void memset(void *p, int byte, size_t n) noexcept nogil
    void memcpy(void *to, const void *source, size_t n) noexcept nogil
    void memmove(void *to, const void *source, size_t n) noexcept nogil
    int memcmp(const void *a, const void *b, size_t n) noexcept nogil
    void *memchr(const void *p, int byte, size_t n) noexcept nogil
    int snprintf(char *into, size_t n, const char *form, ...) noexcept nogil
    size_t strlen(const char *text) noexcept nogil
    int strncmp(const char *a, const char *b, size_t n) noexcept nogil
    char *strchr(const char *text, int c) noexcept nogil
    char *strrchr(const char *text, int c) noexcept nogil
    char *strstr(const char *text, const char *part) noexcept nogil
    char *getenv(const char *name) noexcept nogil
    unsigned long long strtoull(const char *text, char **end, int base) noexcept nogil
    struct rlimit:
        uint64_t rlim_cur
        uint64_t rlim_max
    int getrlimit(int what, rlimit *r) noexcept nogil


cdef extern from *:
    """
    #define fh_load_relaxed(p) __atomic_load_n(p, __ATOMIC_RELAXED)
    #define fh_load_acquire(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
    #define fh_store_relaxed(p, x) __atomic_store_n(p, x, __ATOMIC_RELAXED)
    #define fh_store_release(p, x) __atomic_store_n(p, x, __ATOMIC_RELEASE)
    #define fh_store_seq_cst(p, x) __atomic_store_n(p, x, __ATOMIC_SEQ_CST)
    #define fh_load_seq_cst(p) __atomic_load_n(p, __ATOMIC_SEQ_CST)
    #define fh_swap_if_seq_cst(p, seen, want) __atomic_compare_exchange_n(p, seen, want, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
    #define fh_sub_seq_cst(p, x) __atomic_fetch_sub(p, x, __ATOMIC_SEQ_CST)
    #define fh_exchange(p, x) __atomic_exchange_n(p, x, __ATOMIC_ACQ_REL)
    #define fh_fetch_add(p, x) __atomic_fetch_add(p, x, __ATOMIC_ACQ_REL)
    #define fh_add_relaxed(p, x) __atomic_fetch_add(p, x, __ATOMIC_RELAXED)
    #define fh_sub_relaxed(p, x) __atomic_fetch_sub(p, x, __ATOMIC_RELAXED)
    #define fh_add_release(p, x) __atomic_fetch_add(p, x, __ATOMIC_RELEASE)
    #define fh_fetch_or(p, x) __atomic_fetch_or(p, x, __ATOMIC_ACQ_REL)
    #define fh_fetch_and(p, x) __atomic_fetch_and(p, x, __ATOMIC_ACQ_REL)
    #define fh_swap_if(p, seen, want) __atomic_compare_exchange_n(p, seen, want, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
    """
    uint64_t load64_relaxed "fh_load_relaxed"(const uint64_t *p) noexcept nogil
    uint64_t load64_acquire "fh_load_acquire"(const uint64_t *p) noexcept nogil
    void store64_relaxed "fh_store_relaxed"(uint64_t *p, uint64_t x) noexcept nogil
    void store64_release "fh_store_release"(uint64_t *p, uint64_t x) noexcept nogil
    uint64_t load64_seq_cst "fh_load_seq_cst"(const uint64_t *p) noexcept nogil
    void store64_seq_cst "fh_store_seq_cst"(uint64_t *p, uint64_t x) noexcept nogil
    bint swap64_if_seq_cst "fh_swap_if_seq_cst"(uint64_t *p, uint64_t *seen, uint64_t want) noexcept nogil
    uint64_t sub64_seq_cst "fh_sub_seq_cst"(uint64_t *p, uint64_t x) noexcept nogil
    uint64_t add64_relaxed "fh_add_relaxed"(uint64_t *p, uint64_t x) noexcept nogil
    uint64_t sub64_relaxed "fh_sub_relaxed"(uint64_t *p, uint64_t x) noexcept nogil
    uint64_t fetch_add64 "fh_fetch_add"(uint64_t *p, uint64_t x) noexcept nogil
    uint64_t fetch_or64 "fh_fetch_or"(uint64_t *p, uint64_t x) noexcept nogil
    uint64_t fetch_and64 "fh_fetch_and"(uint64_t *p, uint64_t x) noexcept nogil
    bint swap64_if "fh_swap_if"(uint64_t *p, uint64_t *seen, uint64_t want) noexcept nogil
    uint32_t add32_release "fh_add_release"(uint32_t *p, uint32_t x) noexcept nogil
    uint32_t load32_relaxed "fh_load_relaxed"(const uint32_t *p) noexcept nogil
    uint32_t load32_acquire "fh_load_acquire"(const uint32_t *p) noexcept nogil
    void store32_relaxed "fh_store_relaxed"(uint32_t *p, uint32_t x) noexcept nogil
    void store32_release "fh_store_release"(uint32_t *p, uint32_t x) noexcept nogil
    void store32_seq_cst "fh_store_seq_cst"(uint32_t *p, uint32_t x) noexcept nogil
    uint32_t exchange32 "fh_exchange"(uint32_t *p, uint32_t x) noexcept nogil
    bint swap32_if "fh_swap_if"(uint32_t *p, uint32_t *seen, uint32_t want) noexcept nogil
    uint8_t load8_relaxed "fh_load_relaxed"(const uint8_t *p) noexcept nogil
    void store8_relaxed "fh_store_relaxed"(uint8_t *p, uint8_t x) noexcept nogil
    uint8_t exchange8 "fh_exchange"(uint8_t *p, uint8_t x) noexcept nogil
    bint swap8_if "fh_swap_if"(uint8_t *p, uint8_t *seen, uint8_t want) noexcept nogil
    int ctz "__builtin_ctzll"(uint64_t x) noexcept nogil
    int clz "__builtin_clzll"(uint64_t x) noexcept nogil
    int popcount "__builtin_popcountll"(uint64_t x) noexcept nogil

cdef inline uint64_t bit(unsigned i) noexcept nogil:
    return (<uint64_t>1) << i

cdef inline uint64_t mask(unsigned n) noexcept nogil:
    """The lowest n bits; n from 0 to 64."""
    return ~(<uint64_t>0) if n >= 64 else ((<uint64_t>1) << n) - 1

cdef inline uint64_t round_up(uint64_t x, uint64_t to) noexcept nogil:
    """x rounded up to a multiple of a power of two."""
    return (x + to - 1) & ~(to - 1)

cdef inline uint64_t round_down(uint64_t x, uint64_t to) noexcept nogil:
    return x & ~(to - 1)

cdef inline uint64_t least(uint64_t a, uint64_t b) noexcept nogil:
    return a if a < b else b

cdef inline uint64_t most(uint64_t a, uint64_t b) noexcept nogil:
    return a if a > b else b
