/* heaps.c: a seeded storm over four heaps, two of which reach their limits: threads allocate, fill, check and free blocks of all
   sizes, pass half of them to each other, die and are made anew; children are forked in between.   heaps THREADS ROUNDS OPERATIONS SEED FORKS */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct { uint64_t limit, decay_ns; int node; uint32_t huge_pages; int secure; } Config;
int fh_heap_boot(void);
int fh_heaps_open(const Config *, void **);
int fh_heaps_close(void *, int, uint64_t *, uint64_t *);
void *fh_heap_allocate_in(void *, size_t, size_t);
void fh_heap_deallocate(void *);
void *fh_heap_of(void *);
int fh_heap_check(void);
void fh_heap_read_stats_of(void *, uint64_t *);

enum { HEAPS = 4, SLOTS = 128, MINE = 48, USED = 16 };
typedef struct { unsigned char *p; size_t size; unsigned char mark; int heap; } Block;
static Block *shared[SLOTS];
static void *heaps[HEAPS];
static const uint64_t limits[HEAPS] = {6u << 20, UINT64_MAX, 24u << 20, UINT64_MAX};
static long operations, seed;

static uint64_t next(uint64_t *s) { *s ^= *s << 13; *s ^= *s >> 7; *s ^= *s << 17; return *s; }
static size_t a_size(uint64_t *s) {
    unsigned bits = next(s) % 100 < 90 ? next(s) % 14 : next(s) % 22;
    return ((size_t)1 << bits) + next(s) % ((size_t)1 << bits);
}
static void die(const char *what) { fprintf(stderr, "%s\n", what); abort(); }
static void give(Block *b) {
    if (b == NULL) return;
    if (b->p[0] != b->mark || b->p[b->size - 1] != b->mark) die("a block changed");
    if (fh_heap_of(b->p) != heaps[b->heap]) die("a block is in another heap");
    fh_heap_deallocate(b->p);
    free(b);
}
static void *work(void *argument) {
    uint64_t s = (uint64_t)seed * 7919 + (uint64_t)(uintptr_t)argument * 104729 + 1;
    Block *mine[MINE] = {0};
    uint64_t stats[64];
    for (long i = 0; i < operations; i++) {
        int k = (int)(next(&s) % MINE), slot = (int)(next(&s) % SLOTS);
        if (mine[k] != NULL && next(&s) % 2) {
            mine[k] = __atomic_exchange_n(&shared[slot], mine[k], __ATOMIC_ACQ_REL);
            continue;
        }
        give(mine[k]);
        mine[k] = NULL;
        Block b = {NULL, a_size(&s), (unsigned char)next(&s), (int)(next(&s) % HEAPS)};
        b.p = fh_heap_allocate_in(heaps[b.heap], b.size, next(&s) % 8 ? 0 : 64);
        if (b.p == NULL) {
            if (limits[b.heap] == UINT64_MAX) die("refused without a limit");
            continue;
        }
        b.p[0] = b.p[b.size - 1] = b.mark;
        mine[k] = malloc(sizeof b);
        *mine[k] = b;
        if (i % 64 == 0) {
            fh_heap_read_stats_of(heaps[b.heap], stats);
            if (stats[USED] > limits[b.heap]) die("over the limit");
        }
    }
    for (int k = 0; k < MINE; k++) give(mine[k]);
    return NULL;
}
static int child(void) {
    operations = operations / 8 + 1;
    work((void *)99);
    for (int i = 0; i < SLOTS; i++) give(shared[i]);
    return 0;
}
int main(int argc, char **argv) {
    if (argc != 6 || fh_heap_boot() != 0) return 2;
    long threads = atol(argv[1]), rounds = atol(argv[2]), forks = atol(argv[5]);
    operations = atol(argv[3]);
    seed = atol(argv[4]);
    for (int i = 0; i < HEAPS; i++) {
        Config config = {limits[i], 20000000, -1, 1, 0};
        if (fh_heaps_open(&config, &heaps[i]) != 0) return 3;
    }
    for (long r = 0; r < rounds; r++) {
        pthread_t id[64];
        for (long t = 0; t < threads; t++) pthread_create(&id[t], NULL, work, (void *)(r * 64 + t));
        for (long f = 0; f < forks; f++) {
            pid_t pid = fork();
            if (pid == 0) _exit(child());
            int status = 0;
            waitpid(pid, &status, 0);
            if (status != 0) die("a child failed");
        }
        for (long t = 0; t < threads; t++) pthread_join(id[t], NULL);
        if (fh_heap_check() != 0) { fprintf(stderr, "check %d\n", fh_heap_check()); return 4; }
    }
    for (int i = 0; i < SLOTS; i++) give(shared[i]);
    if (fh_heap_check() != 0) { fprintf(stderr, "check at the end %d\n", fh_heap_check()); return 5; }
    for (int i = 0; i < HEAPS; i++) {
        uint64_t blocks = 0, bytes = 0;
        if (fh_heaps_close(heaps[i], 0, &blocks, &bytes) != 0) { fprintf(stderr, "live %d\n", (int)blocks); return 6; }
    }
    puts("clean=1");
    return 0;
}
