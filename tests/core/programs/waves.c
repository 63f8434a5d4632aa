/* waves.c: threads that make very many small blocks of one class, verify and free them, wave after wave, while others give
 * everything idle back: regions grow, empty, forget what they made, and grow again.
 *
 * usage: waves THREADS SECONDS BLOCKS */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fh_heap_boot(void);
void *fh_heap_allocate(size_t size, size_t align);
void fh_heap_deallocate(void *p);
uint64_t fh_heap_purge(void);
int fh_heap_check(void);
void fh_heap_read_stats(uint64_t *into);
enum { BLOCKS_LIVE = 11 };

static _Atomic int stop;
static _Atomic uint64_t tags = 1, waves, purges;
static uint64_t count;

static void *work(void *argument) {
    uint64_t seed = (uint64_t)(uintptr_t)argument, **blocks = calloc(count, sizeof *blocks);
    while (!atomic_load(&stop)) {
        uint64_t n = count / 2 + (seed = seed * 6364136223846793005u + 1) % (count / 2);
        for (uint64_t i = 0; i < n; i++) {
            blocks[i] = fh_heap_allocate(48, 0);
            blocks[i][0] = blocks[i][5] = atomic_fetch_add_explicit(&tags, 1, memory_order_relaxed);
        }
        if (seed % 3 == 0) usleep(2000);
        for (uint64_t i = 0; i < n; i++) {
            if (blocks[i][0] != blocks[i][5] || blocks[i][0] == 0) { fprintf(stderr, "waves: block %p has two owners\n", (void *)blocks[i]); abort(); }
            blocks[i][0] = 0;
            fh_heap_deallocate(blocks[i]);
        }
        atomic_fetch_add(&waves, 1);
        if (seed % 4 == 0) usleep(5000);
    }
    free(blocks);
    return NULL;
}

static void *purge(void *argument) {
    (void)argument;
    while (!atomic_load(&stop)) { fh_heap_purge(); atomic_fetch_add(&purges, 1); usleep(500); }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4 || fh_heap_boot() != 0) return 2;
    int threads = atoi(argv[1]), n = 0;
    count = strtoull(argv[3], NULL, 10);
    pthread_t all[32];
    for (int i = 0; i < threads; i++) pthread_create(&all[n++], NULL, work, (void *)(uintptr_t)(i * 77 + 1));
    for (int i = 0; i < 2; i++) pthread_create(&all[n++], NULL, purge, NULL);
    usleep((useconds_t)(atof(argv[2]) * 1e6));
    atomic_store(&stop, 1);
    while (n > 0) pthread_join(all[--n], NULL);
    fh_heap_purge();
    uint64_t stats[64];
    fh_heap_read_stats(stats);
    printf("waves=%llu purges=%llu live=%llu broken=%d\n", (unsigned long long)waves, (unsigned long long)purges,
           (unsigned long long)stats[BLOCKS_LIVE], fh_heap_check());
    return 0;
}
