/* The page allocator at C level, over more and more addresses.
 *
 * usage: pages ROUNDS OPERATIONS NAME=FILE      (FILE: libfreehold.so)
 * Prints `operation log2(addresses) nanoseconds…`, one figure for each round, per operation. No memory lies behind the pages.
 */
#include "peer.h"

enum { PAGE = 8192, CHUNK = 512 * PAGE, ENDS = 8 * CHUNK, LIVE = 256 };
typedef union Pages { char room[4096]; uint64_t aligned; } Pages; /* more than the struct of pagebook.pxd */

static void (*open_)(Pages *, uint32_t bits, uint32_t shift, uint64_t huge, int backed);
static void (*close_)(Pages *);
static int (*grow)(Pages *, uint64_t base, uint64_t size);
static int (*allocate)(Pages *, uint64_t npages, uint64_t *address, uint64_t *scavenged);
static int (*free_)(Pages *, uint64_t address, uint64_t npages);
static uint64_t (*scavenge)(Pages *, uint64_t bytes, int background);

static Pages pages;
static uint64_t taken, ignored;

static uint64_t take(uint64_t n) {
    if (!allocate(&pages, n, &taken, &ignored))
        exit(3);
    return taken;
}

/* Each works on an allocator made for it, and returns how many calls it made. */
static long one_page(long n) {
    for (long i = 0; i < n; i += 2)
        free_(&pages, take(1), 1);
    return n;
}
static long twenty_pages(long n) {
    for (long i = 0; i < n; i += 2)
        free_(&pages, take(20), 20);
    return n;
}
static long mixed(long n) {
    static uint64_t address[LIVE], length[LIVE];
    uint64_t dice = 88172645463325252u;
    for (long i = 0; i < n; i += 2) {
        dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
        int j = dice % LIVE;
        if (length[j])
            free_(&pages, address[j], length[j]);
        length[j] = 1 + (dice >> 32) % 16;
        address[j] = take(length[j]);
    }
    for (int j = 0; j < LIVE; j++) {
        if (length[j])
            free_(&pages, address[j], length[j]);
        length[j] = 0;
    }
    return n + LIVE;
}
static long far_away(long n) { /* two pages fit at the upper end alone; the lower one has holes of one page */
    for (long i = 0; i < n; i += 2)
        free_(&pages, take(2), 2);
    return n;
}
static long release(long n) { /* the same page, resident and free, is given back each time */
    for (long i = 0; i < n; i += 3) {
        free_(&pages, take(2), 2);
        scavenge(&pages, 1, 1);
    }
    return n;
}

static void make_holes(void) {
    for (long i = 0; i < ENDS / PAGE; i++)
        take(1);
    for (long i = 0; i < ENDS / PAGE; i += 2)
        free_(&pages, i * PAGE, 1);
}

static const struct { const char *name; long (*work)(long); int ends; } operations[] = {
    {"one_page", one_page, 0}, {"twenty_pages", twenty_pages, 0}, {"mixed", mixed, 0},
    {"far_away", far_away, 1}, {"release", release, 1},
};

int main(int argc, char **argv) {
    int rounds = atoi(argv[1]);
    long n = atol(argv[2]);
    void *library = dlopen(strchr(argv[3], '=') + 1, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return fprintf(stderr, "%s\n", dlerror()), 2;
    ((int (*)(void))must_find(library, "fh_heap_boot"))();
    *(void **)&open_ = must_find(library, "fh_pages_open");
    *(void **)&close_ = must_find(library, "fh_pages_close");
    *(void **)&grow = must_find(library, "fh_pages_grow");
    *(void **)&allocate = must_find(library, "fh_pages_try_allocate");
    *(void **)&free_ = must_find(library, "fh_pages_free");
    *(void **)&scavenge = must_find(library, "fh_pages_scavenge");
    for (size_t o = 0; o < sizeof operations / sizeof *operations; o++)
        for (int bits = 26; bits <= 48; bits += bits == 26 ? 4 : 6) {
            uint64_t size = 1ull << bits;
            open_(&pages, 48, 13, 2 << 20, 0);
            if (operations[o].ends) {
                if (grow(&pages, 0, ENDS) || grow(&pages, size - ENDS, ENDS))
                    return 4;
                make_holes();
            } else if (grow(&pages, 0, size))
                return 4;
            printf("%s %d", operations[o].name, bits);
            operations[o].work(n);
            for (int r = 0; r < rounds; r++) {
                uint64_t began = now_ns();
                long calls = operations[o].work(n);
                printf(" %.2f", (double)(now_ns() - began) / calls);
            }
            printf("\n");
            close_(&pages);
        }
    return 0;
}
