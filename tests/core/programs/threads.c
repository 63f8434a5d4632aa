/* threads.c: many short threads, each of which ends with full caches, and allocates and frees in the destructors of its
 * thread-specific data too, after the heap's own destructor has run. Prints how much memory is resident, in KiB, after a
 * tenth of them and after all.
 *
 * usage: threads COUNT */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fh_heap_boot(void);
void *fh_heap_allocate(size_t size, size_t align);
void *fh_heap_reallocate(void *p, size_t size, size_t align);
void fh_heap_deallocate(void *p);
int fh_heap_check(void);
void fh_heap_read_stats(uint64_t *into);
enum { BLOCKS_LIVE = 11 };

static pthread_key_t before, after;

static void destroy(pthread_key_t key, uint64_t *left) {
    uint64_t rounds = left[0];
    void *blocks[40];
    for (int i = 0; i < 40; i++) {
        blocks[i] = fh_heap_allocate((size_t)16 << (i % 10), i % 2 ? 64 : 0);
        if (blocks[i] == NULL || (i % 2 && (uintptr_t)blocks[i] % 64)) abort();
        memset(blocks[i], 1, (size_t)16 << (i % 10));
    }
    for (int i = 0; i < 40; i++) fh_heap_deallocate(blocks[i]);
    fh_heap_deallocate(left);
    if (rounds > 1) {                            /* set again: the C library comes back, up to four times */
        left = fh_heap_allocate(64, 0);
        left[0] = rounds - 1;
        pthread_setspecific(key, left);
    }
}
static void destroy_before(void *left) { destroy(before, left); }
static void destroy_after(void *left) { destroy(after, left); }

static void *work(void *argument) {
    pthread_key_t keys[2] = {before, after};
    for (int i = 0; i < 2; i++) {
        uint64_t *left = fh_heap_allocate(64, 0);
        left[0] = 3;
        pthread_setspecific(keys[i], left);
    }
    void *blocks[200];
    for (int i = 0; i < 200; i++) blocks[i] = memset(fh_heap_allocate((size_t)16 << (i % 8), 0), 1, 16);
    for (int i = 0; i < 200; i++) fh_heap_deallocate(blocks[i]);
    return argument;
}

static long resident_kib(void) {
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (statm == NULL || fscanf(statm, "%*d %ld", &pages) != 1) abort();
    fclose(statm);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    pthread_key_create(&before, destroy_before);
    if (fh_heap_boot() != 0) return 2;
    pthread_key_create(&after, destroy_after);
    int count = atoi(argv[1]);
    long early = 0;
    for (int i = 0; i < count; i += 4) {
        pthread_t threads[4];
        for (int k = 0; k < 4; k++) if (pthread_create(&threads[k], NULL, work, NULL) != 0) abort();
        for (int k = 0; k < 4; k++) pthread_join(threads[k], NULL);
        if (i / 4 == count / 40) early = resident_kib();
    }
    uint64_t stats[64];
    fh_heap_read_stats(stats);
    printf("early=%ld late=%ld live=%llu broken=%d\n", early, resident_kib(), (unsigned long long)stats[BLOCKS_LIVE], fh_heap_check());
    return 0;
}
