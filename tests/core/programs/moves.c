/* moves.c: threads that grow and shrink very large blocks, so that their pages move, while others free the blocks beside them and
 * give everything idle back.   usage: moves THREADS ROUNDS */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int fh_heap_boot(void);
void *fh_heap_allocate(size_t size, size_t align);
void *fh_heap_reallocate(void *p, size_t size, size_t align);
void fh_heap_deallocate(void *p);
uint64_t fh_heap_purge(void);
int fh_heap_check(void);
enum { STEP = 1 << 16, LEAST = 5 << 20, NEIGHBOURS = 4 };

static _Atomic int done;
static int rounds;

static void mark(char *p, size_t from, size_t to, uint64_t tag) {
    for (size_t at = from; at + 8 <= to; at += STEP) *(uint64_t *)(p + at) = tag + at;
}
static void verify(const char *p, size_t to, uint64_t tag) {
    for (size_t at = 0; at + 8 <= to; at += STEP)
        if (*(const uint64_t *)(p + at) != tag + at) { fprintf(stderr, "moves: %zu bytes on, a page is lost or shared\n", at); abort(); }
}

static void *grow(void *argument) {
    uint64_t seed = (uint64_t)(uintptr_t)argument, tag = seed << 48;
    for (int round = 0; round < rounds; round++) {
        size_t size = LEAST + (seed = seed * 6364136223846793005u + 1) % (8 << 20) / STEP * STEP;
        char *p = fh_heap_allocate(size, 0);
        mark(p, 0, size, tag);
        for (int step = 0; step < 4; step++) {
            size_t other = LEAST + (seed = seed * 6364136223846793005u + 1) % (40 << 20) / STEP * STEP;
            p = fh_heap_reallocate(p, other, 0);
            if (p == NULL) abort();
            if (other > size) mark(p, size, other, tag);
            size = other;
            verify(p, size, tag);
        }
        fh_heap_deallocate(p);
    }
    atomic_fetch_add(&done, 1);
    return NULL;
}

static void *neighbour(void *argument) {
    char *held[NEIGHBOURS] = {0};
    uint64_t seed = (uint64_t)(uintptr_t)argument;
    while (atomic_load(&done) < 2) {
        int i = (int)((seed = seed * 6364136223846793005u + 1) >> 33) % NEIGHBOURS;
        if (held[i] != NULL) { verify(held[i], LEAST, 7); fh_heap_deallocate(held[i]); held[i] = NULL; }
        else mark(held[i] = fh_heap_allocate(LEAST, 0), 0, LEAST, 7);
        if (seed >> 60 == 0) fh_heap_purge();
    }
    for (int i = 0; i < NEIGHBOURS; i++) fh_heap_deallocate(held[i]);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 3 || fh_heap_boot() != 0) return 2;
    int threads = atoi(argv[1]);
    rounds = atoi(argv[2]);
    pthread_t all[32];
    for (int i = 0; i < threads; i++) pthread_create(&all[i], NULL, i < 2 ? grow : neighbour, (void *)(uintptr_t)(i + 1));
    for (int i = 0; i < threads; i++) pthread_join(all[i], NULL);
    printf("broken=%d\n", fh_heap_check());
    return 0;
}
