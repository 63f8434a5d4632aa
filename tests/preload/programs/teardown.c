/* teardown.c: threads allocate and free in the destructors of their keys, three rounds of them, after the heap's own ran.
 * Prints the blocks live in the heap above what was live before the first thread. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS_LIVE = 11, ROUNDS = 3 };

static pthread_key_t key;

static void destroy(void *value) {
    uintptr_t round = *(uintptr_t *)value;
    void *blocks[200];
    free(value);
    for (unsigned i = 0; i < 200; i++)
        blocks[i] = memset(malloc(1 + i * 37), 1, 1 + i * 37);
    for (unsigned i = 0; i < 200; i++)
        free(blocks[i]);
    if (round < ROUNDS) {
        uintptr_t *next = malloc(sizeof *next);
        *next = round + 1;
        pthread_setspecific(key, next);
    }
}

static void *work(void *unused) {
    uintptr_t *first = malloc(sizeof *first);
    *first = 1;
    pthread_setspecific(key, first);
    free(malloc(100));
    return unused;
}

static uint64_t live(void) {
    uint64_t stats[32];
    void (*fh_heap_read_stats)(uint64_t *) = dlsym(RTLD_DEFAULT, "fh_heap_read_stats");
    fh_heap_read_stats(stats);
    return stats[BLOCKS_LIVE];
}

int main(void) {
    pthread_key_create(&key, destroy);
    uint64_t before = 0;
    for (unsigned n = 0; n < 400; n++) {
        pthread_t thread;
        pthread_create(&thread, NULL, work, NULL);
        pthread_join(thread, NULL);
        if (n == 199)
            before = live();
    }
    printf("%lld\n", (long long)(live() - before));
    return 0;
}
