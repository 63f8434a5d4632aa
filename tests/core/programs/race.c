/* race.c: two threads free the same blocks at the same time, under FREEHOLD_ON_ERROR=report. Once everything was flushed and
 * handed out again, each block must have been freed once and reported once. Prints the number of tries, and how many were told.
 *
 * usage: race ROUNDS BLOCKS */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int fh_heap_boot(void);
void *fh_heap_allocate(size_t size, size_t align);
void fh_heap_deallocate(void *p);
uint64_t fh_heap_purge(void);
int fh_heap_check(void);
void fh_heap_read_stats(uint64_t *into);
enum { BLOCKS_LIVE = 11, BAD_FREES = 14 };

static pthread_barrier_t start, end;
static void **blocks;
static long rounds, count;

static void *racer(void *argument) {
    (void)argument;
    for (long r = 0; r < rounds; r++) {
        pthread_barrier_wait(&start);
        for (long i = 0; i < count; i++) fh_heap_deallocate(blocks[i]);
        pthread_barrier_wait(&end);
    }
    return NULL;
}

static int by_address(const void *a, const void *b) {
    return (*(uintptr_t *)a > *(uintptr_t *)b) - (*(uintptr_t *)a < *(uintptr_t *)b);
}

/* Allocate so many blocks; whether one has two owners. */
static int hand_out(long n) {
    for (long i = 0; i < n; i++) blocks[i] = fh_heap_allocate(48, 0);
    qsort(blocks, (size_t)n, sizeof *blocks, by_address);
    for (long i = 1; i < n; i++) if (blocks[i] == blocks[i - 1]) return 1;
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3 || fh_heap_boot() != 0) return 2;
    rounds = atol(argv[1]), count = atol(argv[2]);
    blocks = calloc(4 * (size_t)count, sizeof *blocks);
    uint64_t stats[64];
    int out = dup(1), nothing = open("/dev/null", O_WRONLY);
    dup2(nothing, 2);                            /* a million lines */
    pthread_barrier_init(&start, NULL, 3);
    pthread_barrier_init(&end, NULL, 3);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, racer, NULL);
    for (long r = 0; r < rounds; r++) {
        if (hand_out(count)) { dprintf(out, "two owners in round %ld\n", r); return 1; }
        pthread_barrier_wait(&start);
        pthread_barrier_wait(&end);
        for (int i = 0; i < 2; i++) fh_heap_purge();  /* flush the caches of both */
    }
    if (hand_out(4 * count)) { dprintf(out, "two owners at the end\n"); return 1; }  /* more than were ever made */
    for (long i = 0; i < 4 * count; i++) fh_heap_deallocate(blocks[i]);
    fh_heap_read_stats(stats);
    if (fh_heap_check() != 0 || stats[BLOCKS_LIVE] != 0) {
        dprintf(out, "check=%d live=%llu\n", fh_heap_check(), (unsigned long long)stats[BLOCKS_LIVE]);
        return 1;
    }
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    dprintf(out, "tries=%ld told=%llu\n", rounds * count, (unsigned long long)stats[BAD_FREES]);
    return 0;
}
