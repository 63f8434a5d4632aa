/* Threads that share blocks: three known patterns, written anew, for whatever malloc the process has.
 *
 * usage: threads PATTERN THREADS WORK AFTER_S
 * Prints `seconds cpu_seconds peak after`: the time of the work, and bytes above what was resident before it, AFTER_S
 * seconds after it was done. All that was allocated is free by then.
 *
 * hand-over  (larson): a thread replaces random blocks of its set, ends, and a new thread goes on with the set.
 * pipeline   (xmalloc): one half of the threads allocates batches, the other half frees them.
 * phases     (mstress): in each phase threads allocate blocks of mixed sizes, keep some for later phases, pass some on
 *            to each other through shared places, and end.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
    SET = 1000,            /* blocks of a chain in hand-over */
    GENERATION = 100000,   /* blocks that one thread of it replaces before it ends */
    BATCH = 1024,          /* blocks passed on at once in pipeline */
    QUEUE = 16,            /* batches that may wait there */
    PLACES = 1000,         /* shared places in phases */
    KEPT = 2000,           /* blocks that a thread keeps there for the next phase, at most */
    PHASE = 20000,         /* blocks that a thread allocates in a phase */
    THREADS_MOST = 64,
};

static unsigned threads;
static uint64_t work;

static uint64_t random_next(uint64_t *state) { /* splitmix64 */
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static void *must_allocate(size_t size) {
    uint64_t *p = malloc(size);
    if (p == NULL)
        abort();
    p[0] = size;
    return p;
}

static void start(pthread_t *thread, void *(*body)(void *), void *argument) {
    if (pthread_create(thread, NULL, body, argument) != 0)
        abort();
}

static void join_all(pthread_t *all, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        pthread_join(all[i], NULL);
}

/* ---- hand-over ---- */

typedef struct Chain {
    void *set[SET];
    uint64_t seed, left;
    pthread_mutex_t lock; /* of `left == 0`, for who waits for the end */
    pthread_cond_t ended;
} Chain;

static void *replace(void *argument) {
    Chain *chain = argument;
    uint64_t seed = chain->seed, count = chain->left < GENERATION ? chain->left : GENERATION;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t dice = random_next(&seed);
        void **slot = &chain->set[dice % SET];
        free(*slot);
        *slot = must_allocate(8 + (dice >> 32) % 993);
    }
    chain->seed = seed;
    pthread_mutex_lock(&chain->lock);
    chain->left -= count;
    int more = chain->left > 0;
    if (!more)
        pthread_cond_signal(&chain->ended);
    pthread_mutex_unlock(&chain->lock);
    if (more) {
        pthread_t next;
        start(&next, replace, chain);
        pthread_detach(next);
    }
    return NULL;
}

static void hand_over(void) {
    Chain *chains = calloc(threads, sizeof *chains);
    for (unsigned i = 0; i < threads; i++) {
        pthread_t first;
        chains[i].seed = i;
        chains[i].left = work / threads;
        pthread_mutex_init(&chains[i].lock, NULL);
        pthread_cond_init(&chains[i].ended, NULL);
        start(&first, replace, &chains[i]);
        pthread_detach(first);
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_mutex_lock(&chains[i].lock);
        while (chains[i].left > 0)
            pthread_cond_wait(&chains[i].ended, &chains[i].lock);
        pthread_mutex_unlock(&chains[i].lock);
        for (unsigned k = 0; k < SET; k++)
            free(chains[i].set[k]);
    }
    free(chains);
}

/* ---- pipeline ---- */

typedef struct Batch {
    void *block[BATCH];
} Batch;

static Batch *queue[QUEUE];
static unsigned queued, producing;
static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t queue_has = PTHREAD_COND_INITIALIZER, queue_takes = PTHREAD_COND_INITIALIZER;

static void *produce(void *argument) {
    uint64_t seed = (uintptr_t)argument, batches = work / BATCH / (threads / 2);
    for (uint64_t n = 0; n < batches; n++) {
        Batch *batch = must_allocate(sizeof *batch);
        for (unsigned i = 0; i < BATCH; i++)
            batch->block[i] = must_allocate(16u << random_next(&seed) % 6);
        pthread_mutex_lock(&queue_lock);
        while (queued == QUEUE)
            pthread_cond_wait(&queue_takes, &queue_lock);
        queue[queued++] = batch;
        pthread_cond_signal(&queue_has);
        pthread_mutex_unlock(&queue_lock);
    }
    pthread_mutex_lock(&queue_lock);
    if (--producing == 0)
        pthread_cond_broadcast(&queue_has);
    pthread_mutex_unlock(&queue_lock);
    return NULL;
}

static void *consume(void *unused) {
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&queue_lock);
        while (queued == 0 && producing > 0)
            pthread_cond_wait(&queue_has, &queue_lock);
        Batch *batch = queued > 0 ? queue[--queued] : NULL;
        pthread_cond_signal(&queue_takes);
        pthread_mutex_unlock(&queue_lock);
        if (batch == NULL)
            return NULL;
        for (unsigned i = 0; i < BATCH; i++)
            free(batch->block[i]);
        free(batch);
    }
}

static void pipeline(void) {
    pthread_t all[THREADS_MOST];
    producing = threads / 2;
    for (unsigned i = 0; i < threads; i++)
        start(&all[i], i % 2 ? consume : produce, (void *)(uintptr_t)i);
    join_all(all, threads);
}

/* ---- phases ---- */

typedef struct Kept {
    void *block[KEPT];
    uint64_t seed;
} Kept;

static _Atomic(void *) place[PLACES];

/* Most blocks are small; one in a hundred is some tens of KiB, one in ten thousand some hundreds. */
static size_t mixed_size(uint64_t dice) {
    size_t size = 16 + dice % 480;
    uint64_t rare = (dice >> 32) % 10000;
    return rare == 0 ? size * 1000 : rare < 100 ? size * 100 : rare < 1000 ? size * 8 : size;
}

static void *one_phase(void *argument) {
    Kept *kept = argument;
    uint64_t seed = kept->seed;
    void *passing[64] = {0};
    for (unsigned n = 0; n < PHASE; n++) {
        uint64_t dice = random_next(&seed), fate = random_next(&seed);
        void *p = must_allocate(mixed_size(dice));
        if (fate % 100 < 20) { /* lives for some phases */
            void **slot = &kept->block[(fate >> 8) % KEPT];
            free(*slot);
            *slot = p;
        } else if (fate % 100 < 35) { /* goes to whoever finds it */
            free(atomic_exchange(&place[(fate >> 8) % PLACES], p));
        } else { /* dies soon */
            void **slot = &passing[(fate >> 8) % 64];
            free(*slot);
            *slot = p;
        }
    }
    for (unsigned i = 0; i < 64; i++)
        free(passing[i]);
    kept->seed = seed;
    return NULL;
}

static void phases(void) {
    Kept *kept = calloc(threads, sizeof *kept);
    pthread_t all[THREADS_MOST];
    for (unsigned i = 0; i < threads; i++)
        kept[i].seed = i;
    for (uint64_t n = 0; n < work / PHASE / threads; n++) {
        for (unsigned i = 0; i < threads; i++)
            start(&all[i], one_phase, &kept[(i + n) % threads]);
        join_all(all, threads);
    }
    for (unsigned i = 0; i < threads; i++)
        for (unsigned k = 0; k < KEPT; k++)
            free(kept[i].block[k]);
    for (unsigned i = 0; i < PLACES; i++)
        free(place[i]);
    free(kept);
}

/* ---- measuring ---- */

static double seconds_of(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Bytes that /proc/self/<file> gives in KiB after `key`, read without malloc. */
static uint64_t proc_bytes(const char *file, const char *key) {
    static char text[8192];
    FILE *f = fopen(file, "r");
    if (f == NULL)
        return 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    char *found = strstr(text, key);
    return found ? strtoull(found + strlen(key), NULL, 10) << 10 : 0;
}

static uint64_t above(uint64_t now, uint64_t before) { return now > before ? now - before : 0; }

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } patterns[] = {{"hand-over", hand_over}, {"pipeline", pipeline}, {"phases", phases}};
    if (argc != 5)
        return 2;
    threads = (unsigned)atoi(argv[2]);
    work = strtoull(argv[3], NULL, 10);
    for (unsigned i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        if (strcmp(argv[1], patterns[i].name) != 0)
            continue;
        uint64_t before = proc_bytes("/proc/self/smaps_rollup", "Rss:");
        double wall = seconds_of(CLOCK_MONOTONIC), cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
        patterns[i].run();
        wall = seconds_of(CLOCK_MONOTONIC) - wall;
        cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
        uint64_t peak = proc_bytes("/proc/self/status", "VmHWM:");
        usleep((useconds_t)(atof(argv[4]) * 1e6));
        uint64_t after = proc_bytes("/proc/self/smaps_rollup", "Rss:");
        printf("%.6f %.6f %llu %llu\n", wall, cpu, (unsigned long long)above(peak, before), (unsigned long long)above(after, before));
        return 0;
    }
    return 2;
}
