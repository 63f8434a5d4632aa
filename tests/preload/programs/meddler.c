/* meddler.c: a library to preload before the heap's. Whatever the heap asks of libc while it boots allocates here, as some
 * libc may; what it was given is looked at and freed when the program ends. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *given[64];
static unsigned count;

static void meddle(void) {
    if (count + 6 > 64)
        return;
    char *small = malloc(100), *zeroed = calloc(3, 100), *aligned = aligned_alloc(256, 512), *page = valloc(10);
    if (!small || !zeroed || !aligned || (uintptr_t)aligned % 256 || !page || (uintptr_t)page % 4096)
        _exit(81);
    for (unsigned i = 0; i < 300; i++)
        if (zeroed[i])
            _exit(82);
    memset(small, 1, 100);
    small = realloc(small, 200);
    if (!small || small[99] != 1)
        _exit(83);
    free(page);
    given[count++] = memset(small, 1, 200);
    given[count++] = memset(zeroed, 1, 300);
    given[count++] = memset(aligned, 1, 512);
}

int __register_atfork(void (*a)(void), void (*b)(void), void (*c)(void), void *d) {
    meddle();
    int (*real)(void (*)(void), void (*)(void), void (*)(void), void *) = dlsym(RTLD_NEXT, "__register_atfork");
    return real(a, b, c, d);
}
int pthread_key_create(pthread_key_t *key, void (*end)(void *)) {
    meddle();
    int (*real)(pthread_key_t *, void (*)(void *)) = dlsym(RTLD_NEXT, "pthread_key_create");
    return real(key, end);
}
int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*body)(void *), void *argument) {
    meddle();
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = dlsym(RTLD_NEXT, "pthread_create");
    return real(thread, how, body, argument);
}

__attribute__((destructor)) static void end(void) {
    fprintf(stderr, "meddled %s\n", count >= 6 ? "often" : "hardly");
    for (unsigned i = 0; i < count; i++) {
        if (given[i][0] != 1 || given[i][199] != 1)
            _exit(84);
        free(given[i]);
    }
}
