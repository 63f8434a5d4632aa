/* How long an allocation waits while much memory is given back.
 *
 * usage: waiting BLOCKS SIZE SECONDS AFTER_S NAME=FILE      (FILE `-`: nobody allocates, what the machine itself makes a thread wait)
 * One thread allocates BLOCKS blocks and then frees them all at once; another goes on allocating and freeing blocks of the
 * same size all the while and for SECONDS after, more of them than a thread keeps for itself, and times each allocation.
 * Time that the thread stood ready to run, while others had the cores, is not the allocator's and is taken off (schedstat).
 * Prints `name allocations total_ns p50 p99 p9999 longest peak after`, then `long` and every time above 20 µs, in nanoseconds.
 */
#include "peer.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>

enum { BATCH = 6000, EXACT_NS = 20000, LONG_MOST = 1 << 20 };

static Peer peer;
static size_t size;
static atomic_int phase; /* 0 warming up, 1 counting, 2 over */
static uint64_t exact[EXACT_NS], allocations, total_ns;
static uint32_t long_ns[LONG_MOST];
static uint64_t long_count;

static void *nowhere(size_t n) {
    static uint64_t place[512];
    return place;
}
static void forget(void *p) {}

/* Nanoseconds that this thread stood ready to run without running, since the last call. */
static uint64_t ready_ns(void) {
    static int file = -1;
    static uint64_t last;
    char text[96] = "";
    if (file < 0)
        file = open("/proc/thread-self/schedstat", O_RDONLY);
    if (file < 0 || pread(file, text, sizeof text - 1, 0) <= 0)
        return 0;
    char *second = strchr(text, ' ');
    uint64_t now = second ? strtoull(second, NULL, 10) : 0, since = now - last;
    last = now;
    return since;
}

static void count(uint64_t ns) {
    allocations++;
    if (ns >= EXACT_NS) {
        uint64_t ready = ready_ns();
        ns = ns > ready ? ns - ready : 0;
    }
    if (ns < EXACT_NS)
        exact[ns]++;
    else if (long_count < LONG_MOST)
        long_ns[long_count++] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

static void *go_on_allocating(void *unused) {
    static void *held[BATCH];
    uint64_t start = 0;
    int now;
    while ((now = atomic_load_explicit(&phase, memory_order_acquire)) != 2) {
        if (now == 1 && !start)
            start = now_ns();
        ready_ns();
        for (int i = 0; i < BATCH; i++) {
            uint64_t before = now_ns();
            void **p = peer_allocate(&peer, size);
            uint64_t ns = now_ns() - before;
            *p = p;
            held[i] = p;
            if (now == 1)
                count(ns);
        }
        for (int i = 0; i < BATCH; i++)
            peer.deallocate(held[i]);
    }
    total_ns = now_ns() - start;
    return NULL;
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The time that `share` of all allocations did not exceed. */
static uint64_t quantile(double share) {
    uint64_t rank = (uint64_t)(share * (double)allocations), seen = 0;
    for (uint64_t ns = 0; ns < EXACT_NS; ns++) {
        seen += exact[ns];
        if (seen > rank)
            return ns;
    }
    return rank - seen < long_count ? long_ns[rank - seen] : long_ns[long_count - 1];
}

int main(int argc, char **argv) {
    uint64_t blocks = strtoull(argv[1], NULL, 10);
    size = strtoull(argv[2], NULL, 10);
    if (!strcmp(strchr(argv[5], '='), "=-")) {
        peer = (Peer){.name = strndup(argv[5], strlen(argv[5]) - 2), .allocate = nowhere, .deallocate = forget};
    } else {
        peer = load_peer(argv[5]);
    }
    void ***all = malloc(blocks * sizeof *all);
    memset(all, 1, blocks * sizeof *all); /* the table itself is resident before anything is counted */
    uint64_t before = resident_bytes();
    for (uint64_t i = 0; i < blocks; i++) {
        all[i] = peer_allocate(&peer, size);
        *all[i] = all[i];
    }
    pthread_t thread;
    pthread_create(&thread, NULL, go_on_allocating, NULL);
    usleep(100000);
    atomic_store_explicit(&phase, 1, memory_order_release);
    for (uint64_t i = 0; i < blocks; i++)
        peer.deallocate(all[i]);
    usleep((useconds_t)(atof(argv[3]) * 1e6));
    atomic_store_explicit(&phase, 2, memory_order_release);
    pthread_join(thread, NULL);
    uint64_t peak = peak_bytes();
    usleep((useconds_t)(atof(argv[4]) * 1e6));
    uint64_t after = resident_bytes();
    qsort(long_ns, long_count, sizeof *long_ns, compare);
    uint64_t longest = 0;
    for (uint64_t ns = 0; ns < EXACT_NS; ns++)
        if (exact[ns])
            longest = ns;
    if (long_count)
        longest = long_ns[long_count - 1];
    printf("%s %llu %llu %llu %llu %llu %llu %llu %llu\nlong", peer.name, (unsigned long long)allocations, (unsigned long long)total_ns,
           (unsigned long long)quantile(0.5), (unsigned long long)quantile(0.99), (unsigned long long)quantile(0.9999),
           (unsigned long long)longest, (unsigned long long)(peak - before), (unsigned long long)(after > before ? after - before : 0));
    for (uint64_t i = 0; i < long_count; i++)
        printf(" %u", long_ns[i]);
    printf("\n");
    return 0;
}
