/* rest.c: builds much, writes it all, drops it, and does nothing more. Prints, two seconds later, what is resident beyond
 * the start and at the peak, in KiB; then whether the background thread falls asleep; and how often it has run.
 *
 * usage: rest SIZE COUNT KEEP WHO   (every KEEP-th block stays, 0: none; WHO frees: 0 the thread that made them, 1 another,
 *                                    2 another that then sleeps, 3 the maker, which then ends) */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fh_heap_boot(void);
void *fh_heap_allocate(size_t size, size_t align);
void fh_heap_deallocate(void *p);
int fh_heap_check(void);
int fh_reclaim_is_asleep(void);
uint64_t fh_reclaim_ticks(void);
void fh_heap_read_stats(uint64_t *into);
enum { DIRTY = 2, BLOCKS_LIVE = 11 };

static size_t size, count, keep;
static unsigned char **blocks;

static long resident_kib(void) {
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (statm == NULL || fscanf(statm, "%*d %ld", &pages) != 1) abort();
    fclose(statm);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void make(void) {
    for (size_t i = 0; i < count; i++) blocks[i] = memset(fh_heap_allocate(size, 0), (int)(i % 251) + 1, size);
}
static void drop(void) {
    for (size_t i = 0; i < count; i++) if (keep == 0 || i % keep) fh_heap_deallocate(blocks[i]);
}
static void *dropper(void *sleeps) { drop(); if (sleeps) pause(); return NULL; }
static void *both(void *unused) { make(); drop(); return unused; }

int main(int argc, char **argv) {
    if (argc != 5 || fh_heap_boot() != 0) return 2;
    size = strtoul(argv[1], NULL, 10), count = strtoul(argv[2], NULL, 10), keep = strtoul(argv[3], NULL, 10);
    int who = atoi(argv[4]);
    blocks = calloc(count, sizeof *blocks);
    memset(blocks, 1, count * sizeof *blocks);
    long start = resident_kib();
    pthread_t thread;
    if (who != 3) make();
    long peak = resident_kib();
    if (who == 0) drop();
    else pthread_create(&thread, NULL, who == 3 ? both : dropper, who == 2 ? blocks : NULL);
    if (who == 1 || who == 3) pthread_join(thread, NULL);
    if (who == 3) peak = start + (long)(size * count / 1024);
    usleep(who == 2 ? 2500000 : 2000000);
    long end = resident_kib();
    uint64_t stats[64];
    fh_heap_read_stats(stats);
    uint64_t dirty = stats[DIRTY], live = stats[BLOCKS_LIVE];
    for (int waits = 0; waits < 200 && !fh_reclaim_is_asleep(); waits++) usleep(100000);  /* a loaded machine is late */
    uint64_t ticks = fh_reclaim_ticks();
    usleep(600000);
    for (size_t i = 0; keep && i < count; i += keep)
        for (size_t k = 0; k < size; k += 64) if (blocks[i][k] != (unsigned char)(i % 251 + 1)) abort();
    printf("start=%ld peak=%ld end=%ld dirty=%llu live=%llu asleep=%d ticks=%llu later=%llu broken=%d\n", start, peak, end,
           (unsigned long long)dirty, (unsigned long long)live, fh_reclaim_is_asleep(), (unsigned long long)ticks,
           (unsigned long long)fh_reclaim_ticks(), fh_heap_check());
    return 0;
}
