/* waves.c: threads that make very many small blocks of one class, verify and free them, wave after wave, while others give
 * everything idle back: regions grow, empty, forget what they made, and grow again. One block in so many lives until the
 * wave after, so that a region is not forgotten but parked; and the process forks: its children go on from there.
 *
 * usage: waves THREADS SECONDS BLOCKS KEEP   (KEEP: one in so many; 0: none, and no forks) */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
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
static uint64_t count, keep;

static uint64_t *make(void) {
    uint64_t *block = fh_heap_allocate(48, 0);
    block[0] = block[5] = atomic_fetch_add_explicit(&tags, 1, memory_order_relaxed);
    return block;
}

static void drop(uint64_t *block) {
    if (block[0] != block[5] || block[0] == 0) { fprintf(stderr, "waves: block %p has two owners\n", (void *)block); abort(); }
    block[0] = 0;
    fh_heap_deallocate(block);
}

static void wave(uint64_t **blocks, uint64_t n, uint64_t **kept, uint64_t seed) {
    uint64_t stay = 0;
    for (uint64_t i = 0; i < n; i++) blocks[i] = make();
    if (seed % 3 == 0) usleep(2000);
    for (uint64_t i = 0; i < count && kept[i]; i++) { drop(kept[i]); kept[i] = NULL; }
    for (uint64_t i = 0; i < n; i++) {
        if (keep && (i + seed) % keep == 0) kept[stay++] = blocks[i];
        else drop(blocks[i]);
    }
}

static void *work(void *argument) {
    uint64_t seed = (uint64_t)(uintptr_t)argument;
    uint64_t **blocks = calloc(count, sizeof *blocks), **kept = calloc(count, sizeof *kept);
    while (!atomic_load(&stop)) {
        seed = seed * 6364136223846793005u + 1;
        wave(blocks, count / 2 + (seed >> 33) % (count / 2), kept, seed >> 33);
        atomic_fetch_add(&waves, 1);
        if ((seed >> 33) % 4 == 0) usleep(5000);
    }
    for (uint64_t i = 0; i < count && kept[i]; i++) drop(kept[i]);
    free(blocks);
    free(kept);
    return NULL;
}

/* In a child: as many blocks as a wave has, none of which anybody else may have, and the proof of the structure. */
static int child(void) {
    alarm(60);
    uint64_t **blocks = calloc(count, sizeof *blocks);
    for (int round = 0; round < 2; round++) {
        for (uint64_t i = 0; i < count; i++) blocks[i] = make();
        for (uint64_t i = 0; i < count; i++) drop(blocks[i]);
        fh_heap_purge();
    }
    return fh_heap_check();
}

static int forked(void) {
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) _exit(child());
    waitpid(pid, &status, 0);
    if (status != 0) fprintf(stderr, "waves: a child ended with status %#x\n", status);
    return status != 0;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void *purge(void *argument) {
    (void)argument;
    while (!atomic_load(&stop)) { fh_heap_purge(); atomic_fetch_add(&purges, 1); usleep(500); }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 5 || fh_heap_boot() != 0) return 2;
    int threads = atoi(argv[1]), n = 0, forks = 0, bad = 0;
    count = strtoull(argv[3], NULL, 10);
    keep = strtoull(argv[4], NULL, 10);
    pthread_t all[32];
    for (int i = 0; i < threads; i++) pthread_create(&all[n++], NULL, work, (void *)(uintptr_t)(i * 77 + 1));
    for (int i = 0; i < 2; i++) pthread_create(&all[n++], NULL, purge, NULL);
    for (double end = now() + atof(argv[2]); now() < end; usleep(30000))
        if (keep) { bad += forked(); forks++; }
    atomic_store(&stop, 1);
    while (n > 0) pthread_join(all[--n], NULL);
    fh_heap_purge();
    uint64_t stats[64];
    fh_heap_read_stats(stats);
    printf("waves=%llu purges=%llu forks=%d bad=%d live=%llu broken=%d\n", (unsigned long long)waves,
           (unsigned long long)purges, forks, bad, (unsigned long long)stats[BLOCKS_LIVE], fh_heap_check());
    return 0;
}
