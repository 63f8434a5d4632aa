// A system that has some pages of 1 GiB, to be preloaded: FAKE_PAGES tells how many, FAKE_NS how long each takes.
// They are ordinary addresses: nobody touches more than a little of them. Built as a shared library.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

long syscall(long number, ...) {
    static long (*real)(long, ...);
    static long given;
    va_list rest;
    long a[6];
    if (real == NULL) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    va_start(rest, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_mmap && (a[3] & MAP_HUGETLB) != 0) {
        const char *pages = getenv("FAKE_PAGES"), *ns = getenv("FAKE_NS");
        struct timespec pause = {0, ns == NULL ? 0 : atol(ns)};
        nanosleep(&pause, NULL);
        if (given >= (pages == NULL ? 0 : atol(pages))) { errno = ENOMEM; return -1; }
        given++;
        a[3] = (a[3] & ~((long)MAP_HUGETLB | (63l << 26))) | MAP_NORESERVE;
    }
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
