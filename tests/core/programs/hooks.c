/* hooks.c: threads that allocate, resize, check and free through the hooks of all three domains, while the switch is turned.
 * Whoever was there before is the C library, behind functions that insist on their own ctx; the hooks are called with a wrong
 * one. Prints one line of figures; says so and aborts when a block has lost its bytes or came to the wrong owner.
 *
 * usage: hooks THREADS MILLISECONDS */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct Allocator {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t count, size_t size);
    void *(*realloc)(void *ctx, void *p, size_t size);
    void (*free)(void *ctx, void *p);
};
int fh_heap_boot(void);
int fh_heap_owns(void *p);
int fh_heap_check(void);
void fh_hooks_wrap(unsigned domain, const struct Allocator *before, struct Allocator *hooks);
void fh_hooks_switch(int on);

enum { DOMAINS = 3, KEPT = 200 };
static char own_ctx[DOMAINS];
static struct Allocator hooks[DOMAINS];
static _Atomic int stop;
static _Atomic uint64_t operations, ours, theirs;

static void insist(const char *what, int holds) {
    if (!holds) { fprintf(stderr, "hooks: %s\n", what); abort(); }
}

#define BEFORE(n) \
    static void *malloc_##n(void *ctx, size_t size) { insist("ctx", ctx == &own_ctx[n]); return malloc(size + !size); } \
    static void *calloc_##n(void *ctx, size_t count, size_t size) { insist("ctx", ctx == &own_ctx[n]); return calloc(count, size + !size); } \
    static void *realloc_##n(void *ctx, void *p, size_t size) { \
        insist("ctx", ctx == &own_ctx[n]); insist("resized a block of the heap's", !fh_heap_owns(p)); return realloc(p, size + !size); } \
    static void free_##n(void *ctx, void *p) { \
        insist("ctx", ctx == &own_ctx[n]); insist("freed a block of the heap's", !fh_heap_owns(p)); free(p); } \
    static const struct Allocator before_##n = { &own_ctx[n], malloc_##n, calloc_##n, realloc_##n, free_##n };
BEFORE(0)
BEFORE(1)
BEFORE(2)

static uint64_t roll(uint64_t *seed) {
    *seed ^= *seed << 13; *seed ^= *seed >> 7; *seed ^= *seed << 17;
    return *seed;
}

static size_t some_size(uint64_t *seed) {
    uint64_t kind = roll(seed) % 64;
    return kind < 50 ? roll(seed) % 600 : kind < 62 ? roll(seed) % 9000 : roll(seed) % 300000;
}

struct Kept { unsigned char *p; size_t size; unsigned char mark; };

static void verify(const struct Kept *k) {
    for (size_t i = 0; i < k->size; i += i < 64 ? 1 : 509) insist("a block lost its bytes", k->p[i] == k->mark);
    if (k->size) insist("a block lost its last byte", k->p[k->size - 1] == k->mark);
}

static void fill(struct Kept *k, uint64_t *seed) {
    void *wrong = &own_ctx[roll(seed) % DOMAINS];
    const struct Allocator *a = &hooks[roll(seed) % DOMAINS];
    k->size = some_size(seed);
    k->mark = (unsigned char)roll(seed);
    if (roll(seed) % 4) {
        k->p = a->malloc(wrong, k->size);
    } else {
        k->p = a->calloc(wrong, 1, k->size);
        for (size_t i = 0; k->p && i < k->size; i++) insist("calloc did not clear", k->p[i] == 0);
    }
    insist("out of memory", k->p != NULL);
    memset(k->p, k->mark, k->size);
    atomic_fetch_add_explicit(fh_heap_owns(k->p) ? &ours : &theirs, 1, memory_order_relaxed);
}

static void *work(void *argument) {
    uint64_t seed = 0x9E3779B97F4A7C15u * ((uintptr_t)argument + 1), done = 0;
    struct Kept kept[KEPT];
    memset(kept, 0, sizeof kept);
    while (!stop) {
        struct Kept *k = &kept[roll(&seed) % KEPT];
        const struct Allocator *a = &hooks[roll(&seed) % DOMAINS];  /* domains are mixed, as some extensions do */
        if (k->p == NULL) {
            fill(k, &seed);
        } else if (roll(&seed) % 3 == 0) {
            verify(k);
            size_t size = some_size(&seed);
            unsigned char *p = a->realloc(&own_ctx[roll(&seed) % DOMAINS], k->p, size);
            insist("out of memory", p != NULL);
            insist("a resized block changed sides", fh_heap_owns(p) == fh_heap_owns(k->p) || p != k->p);
            k->p = p;
            k->size = size < k->size ? size : k->size;
            verify(k);
        } else {
            verify(k);
            a->free(&own_ctx[roll(&seed) % DOMAINS], k->p);
            k->p = NULL;
        }
        done++;
    }
    for (int i = 0; i < KEPT; i++) if (kept[i].p) { verify(&kept[i]); hooks[i % DOMAINS].free(NULL, kept[i].p); }
    atomic_fetch_add(&operations, done);
    return NULL;
}

int main(int argc, char **argv) {
    long threads = argc > 2 ? atol(argv[1]) : 4, milliseconds = argc > 2 ? atol(argv[2]) : 500, turns = 0;
    pthread_t thread[64];
    if (threads > 64 || fh_heap_boot() != 0) return 2;
    fh_hooks_wrap(0, &before_0, &hooks[0]);
    fh_hooks_wrap(1, &before_1, &hooks[1]);
    fh_hooks_wrap(2, &before_2, &hooks[2]);
    for (int i = 0; i < DOMAINS; i++) insist("the ctx that was there stays", hooks[i].ctx == &own_ctx[i]);
    for (long i = 0; i < threads; i++) pthread_create(&thread[i], NULL, work, (void *)(uintptr_t)i);
    for (; turns < milliseconds; turns++) {
        fh_hooks_switch(turns % 2 == 0);
        usleep(1000);
    }
    stop = 1;
    for (long i = 0; i < threads; i++) pthread_join(thread[i], NULL);
    printf("operations=%lu ours=%lu theirs=%lu turns=%ld broken=%d\n", (unsigned long)operations, (unsigned long)ours,
           (unsigned long)theirs, turns, fh_heap_check());
    return 0;
}
