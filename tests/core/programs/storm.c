/* storm.c: threads that allocate, write, check and free small blocks of the process heap, pass them to each other and die,
 * while others give everything idle back. Prints one line of figures; says so and aborts when a block has two owners.
 *
 * usage: storm THREADS SECONDS PURGERS LIFE   (LIFE: rounds after which a thread ends and another begins; 0: never) */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int fh_heap_boot(void);
void *fh_heap_allocate(size_t size, size_t align);
void *fh_heap_reallocate(void *p, size_t size, size_t align);
void fh_heap_deallocate(void *p);
size_t fh_heap_usable_size(void *p);
uint64_t fh_heap_purge(void);
int fh_heap_check(void);

enum { MINE = 256, SHARED = 256 };
static _Atomic(uint64_t *) shared[SHARED];      /* blocks on their way from one thread to another */
static _Atomic uint64_t tags = 1, operations, threads_made, purges;
static _Atomic int stop;
static int life;

static uint64_t roll(uint64_t *seed) {
    *seed ^= *seed << 13; *seed ^= *seed >> 7; *seed ^= *seed << 17;
    return *seed;
}

/* A block of n words carries its tag in its first word and last word, and its length in the second. */
static void sign(uint64_t *block, uint64_t words) {
    uint64_t tag = atomic_fetch_add_explicit(&tags, 1, memory_order_relaxed);
    block[1] = words;
    block[words - 1] = words == 2 ? words : tag;
    block[0] = tag;
}

static void verify(const uint64_t *block) {
    uint64_t words = block[1];
    if (words < 2 || words > 1 << 17 || block[words - 1] != (words == 2 ? words : block[0])) {
        fprintf(stderr, "storm: block %p has two owners\n", (const void *)block);
        abort();
    }
}

static uint64_t *make(uint64_t *seed) {
    uint64_t kind = roll(seed) % 64;
    uint64_t words = kind < 56 ? 2 + roll(seed) % 60 : kind < 63 ? 2 + roll(seed) % 1000 : 2 + roll(seed) % 15000;
    uint64_t align = roll(seed) % 8 ? 0 : 64;
    uint64_t *block = fh_heap_allocate(words * 8, align);
    if (block == NULL || fh_heap_usable_size(block) < words * 8 || (align && (uintptr_t)block % align)) abort();
    sign(block, words);
    return block;
}

static void drop(uint64_t *block) {
    verify(block);
    block[0] = 0;                               /* whoever else has it will see that */
    fh_heap_deallocate(block);
}

static void *work(void *argument) {
    uint64_t seed = (uint64_t)(uintptr_t)argument * 0x9E3779B97F4A7C15u + 1, done = 0;
    uint64_t *mine[MINE] = {0};
    for (int round = 0; !atomic_load_explicit(&stop, memory_order_relaxed) && (life == 0 || round < life); round++) {
        for (int i = 0; i < 64; i++, done++) {
            uint64_t **slot = &mine[roll(&seed) % MINE];
            if (*slot) { drop(*slot); *slot = NULL; }
            else *slot = make(&seed);
        }
        _Atomic(uint64_t *) *place = &shared[roll(&seed) % SHARED];
        uint64_t *theirs = atomic_exchange(place, make(&seed));
        if (theirs) drop(theirs);
        if (roll(&seed) % 512 == 0) usleep(roll(&seed) % 3000);
    }
    for (int i = 0; i < MINE; i++) if (mine[i]) drop(mine[i]);
    atomic_fetch_add(&operations, done);
    return NULL;
}

static void *replace(void *argument) {           /* keeps one worker alive, each on a thread of its own */
    uint64_t number = (uint64_t)(uintptr_t)argument;
    while (!atomic_load(&stop)) {
        pthread_t thread;
        uint64_t n = atomic_fetch_add(&threads_made, 1);
        if (pthread_create(&thread, NULL, work, (void *)(uintptr_t)(number * 1000003 + n + 1)) != 0) abort();
        pthread_join(thread, NULL);
    }
    return NULL;
}

static void *purge(void *argument) {
    (void)argument;
    while (!atomic_load(&stop)) {
        fh_heap_purge();
        atomic_fetch_add(&purges, 1);
        if (atomic_load(&purges) % 16 == 0) usleep(200);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 5 || fh_heap_boot() != 0) return 2;
    int threads = atoi(argv[1]), purgers = atoi(argv[3]), n = 0;
    life = atoi(argv[4]);
    pthread_t all[64];
    for (int i = 0; i < threads; i++) pthread_create(&all[n++], NULL, replace, (void *)(uintptr_t)(i + 1));
    for (int i = 0; i < purgers; i++) pthread_create(&all[n++], NULL, purge, NULL);
    usleep((useconds_t)(atof(argv[2]) * 1e6));
    atomic_store(&stop, 1);
    while (n > 0) pthread_join(all[--n], NULL);
    for (int i = 0; i < SHARED; i++) { uint64_t *left = atomic_exchange(&shared[i], NULL); if (left) drop(left); }
    int broken = fh_heap_check();
    printf("operations=%llu threads=%llu purges=%llu broken=%d\n", (unsigned long long)operations,
           (unsigned long long)threads_made, (unsigned long long)purges, broken);
    return broken != 0;
}
