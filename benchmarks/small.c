/* Pairs of allocate and free of small blocks, all peers in this process, in alternating rounds.
 *
 * usage: small ROUNDS PAIRS AFTER_S NAME=FILE ...
 * For each pattern and size: a line `batch order size name ns ns ns …`, one value per round, in nanoseconds per pair.
 * With one peer, at the end: `memory PEAK AFTER` in bytes above what the process had before, AFTER that many seconds later.
 *
 * A batch of blocks is allocated, its first word written, and freed, last first or in an order shuffled beforehand.
 */
#include "peer.h"

enum { MOST = 1000, PEERS_MOST = 16 };

static const size_t sizes[] = {16, 32, 64, 128, 256, 512, 1024};
static const struct Pattern {
    const char *order;
    uint32_t batch;
} patterns[] = {{"lifo", 1}, {"lifo", 32}, {"random", 32}, {"lifo", 1000}, {"random", 1000}};

static void *blocks[MOST];
static uint32_t shuffled[MOST];

static uint64_t random_next(uint64_t *state) { /* splitmix64 */
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* The two loops differ in the call alone: an allocator's own signature, never a cast one. */
#define PAIRS_LOOP(NAME, CALL)                                                                            \
    __attribute__((noinline)) static void NAME(const Peer *peer, size_t size, uint32_t batch, uint64_t batches) { \
        for (uint64_t n = 0; n < batches; n++) {                                                          \
            for (uint32_t i = 0; i < batch; i++) {                                                        \
                void **p = CALL;                                                                          \
                *p = p;                                                                                   \
                blocks[i] = p;                                                                            \
            }                                                                                             \
            for (uint32_t i = 0; i < batch; i++)                                                          \
                peer->deallocate(blocks[shuffled[i]]);                                                    \
        }                                                                                                 \
    }
PAIRS_LOOP(pairs_plain, peer->allocate(size))
PAIRS_LOOP(pairs_aligned, peer->allocate_aligned(size, 0))

static void order(const struct Pattern *pattern) {
    uint64_t seed = 1;
    for (uint32_t i = 0; i < pattern->batch; i++)
        shuffled[i] = pattern->batch - 1 - i;
    if (pattern->order[0] == 'r')
        for (uint32_t i = pattern->batch - 1; i > 0; i--) {
            uint32_t j = random_next(&seed) % (i + 1), kept = shuffled[i];
            shuffled[i] = shuffled[j];
            shuffled[j] = kept;
        }
}

static double pair_ns(const Peer *peer, size_t size, uint32_t batch, uint64_t pairs) {
    void (*work)(const Peer *, size_t, uint32_t, uint64_t) = peer->allocate ? pairs_plain : pairs_aligned;
    uint64_t batches = pairs / batch + 1;
    work(peer, size, batch, batches / 8 + 1); /* brings its lines back into the cache after the others */
    uint64_t start = now_ns();
    work(peer, size, batch, batches);
    return (double)(now_ns() - start) / (double)(batches * batch);
}

int main(int argc, char **argv) {
    static double ns[PEERS_MOST][256];
    Peer peers[PEERS_MOST];
    int rounds = atoi(argv[1]), count = argc - 4;
    uint64_t pairs = strtoull(argv[2], NULL, 10), before = resident_bytes();
    for (int i = 0; i < count; i++)
        peers[i] = load_peer(argv[4 + i]);
    for (size_t k = 0; k < sizeof patterns / sizeof *patterns; k++) {
        order(&patterns[k]);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (int r = 0; r < rounds; r++)
                for (int i = 0; i < count; i++) {
                    int p = (r & 1 ? r % count + count - i : r + i) % count; /* the next one begins, and goes the other way round */
                    ns[p][r] = pair_ns(&peers[p], sizes[s], patterns[k].batch, pairs);
                }
            for (int p = 0; p < count; p++) {
                printf("%u %s %zu %s", patterns[k].batch, patterns[k].order, sizes[s], peers[p].name);
                for (int r = 0; r < rounds; r++)
                    printf(" %.3f", ns[p][r]);
                printf("\n");
            }
        }
    }
    if (count == 1) {
        uint64_t peak = peak_bytes();
        usleep((useconds_t)(atof(argv[3]) * 1e6));
        uint64_t after = resident_bytes();
        printf("memory %llu %llu\n", (unsigned long long)(peak > before ? peak - before : 0),
               (unsigned long long)(after > before ? after - before : 0));
    }
    return 0;
}
