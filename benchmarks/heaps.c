/* heaps.c: what many heaps cost.   heaps ROUNDS CYCLES freehold=LIBRARY
   A line for each figure, its rounds behind it: `cycle` and `cycle_of_1000` (a heap opened, used for so many blocks of 100 bytes,
   closed; us), `pair_default`, `pair_other` (one allocate and free; ns), `fork_0`, `fork_64` (what freehold's own handlers add to a
   fork in the parent, with so many heaps; us), `whole_fork_0`, `whole_fork_64` (all of it). */
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct { uint64_t limit, decay_ns; int node; uint32_t huge_pages; int secure; } Config;
static int (*boot)(void);
static int (*open_heap)(const Config *, void **);
static int (*close_heap)(void *, int, uint64_t *, uint64_t *);
static void *(*allocate)(size_t, size_t);
static void *(*allocate_in)(void *, size_t, size_t);
static void (*deallocate)(void *);
enum { HEAPS = 64, BLOCKS = 1000, PAIRS = 100000, MOST = 256 };
static const Config plain = {UINT64_MAX, 1000000000u, -1, 1, 0};

static double now(void) {  /* of this thread's own time: others may want the processor too */
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}
static void *opened(void) {
    void *heap = NULL;
    if (open_heap(&plain, &heap) != 0) { fputs("a heap could not be opened\n", stderr); exit(1); }
    return heap;
}
static void closed(void *heap) {
    uint64_t blocks, bytes;
    if (close_heap(heap, 0, &blocks, &bytes) != 0) { fputs("a heap could not be closed\n", stderr); exit(1); }
}
static double cycle(long cycles, int n) {
    static void *block[BLOCKS];
    double begun = now();
    for (long c = 0; c < cycles; c++) {
        void *heap = opened();
        for (int i = 0; i < n; i++) memset(block[i] = allocate_in(heap, 100, 64), 1, 100);
        for (int i = 0; i < n; i++) deallocate(block[i]);
        closed(heap);
    }
    return (now() - begun) / (double)cycles / 1e3;
}
static double pair(void *heap) {
    double begun = now();
    for (int i = 0; i < PAIRS; i++) deallocate(heap ? allocate_in(heap, 64, 16) : allocate(64, 16));
    return (now() - begun) / PAIRS;
}
/* Handlers registered before and after freehold's run on either side of them: those before a fork in reverse order. */
static double outer_begun, inner_begun, inner_ended, outer_ended;
static void outer_before(void) { outer_begun = now(); }
static void inner_before(void) { inner_begun = now(); }
static void inner_after(void) { inner_ended = now(); }
static void outer_after(void) { outer_ended = now(); }
static void a_fork(double *own, double *whole) {
    pid_t pid = fork();
    if (pid == 0) _exit(0);
    waitpid(pid, NULL, 0);
    *whole = (outer_ended - outer_begun) / 1e3;
    *own = (inner_begun - outer_begun + outer_ended - inner_ended) / 1e3;
}
static void tell(const char *name, const double *figures, int rounds) {
    printf("%s", name);
    for (int r = 0; r < rounds; r++) printf(" %.2f", figures[r]);
    puts("");
}
int main(int argc, char **argv) {
    if (argc != 4 || strncmp(argv[3], "freehold=", 9) != 0) return 2;
    int rounds = atoi(argv[1]) < MOST ? atoi(argv[1]) : MOST;
    long cycles = atol(argv[2]);
    void *library = dlopen(argv[3] + 9, RTLD_NOW);
    if (library == NULL) { fprintf(stderr, "%s\n", dlerror()); return 1; }
    boot = (int (*)(void))dlsym(library, "fh_heap_boot");
    open_heap = (int (*)(const Config *, void **))dlsym(library, "fh_heaps_open");
    close_heap = (int (*)(void *, int, uint64_t *, uint64_t *))dlsym(library, "fh_heaps_close");
    allocate = (void *(*)(size_t, size_t))dlsym(library, "fh_heap_allocate");
    allocate_in = (void *(*)(void *, size_t, size_t))dlsym(library, "fh_heap_allocate_in");
    deallocate = (void (*)(void *))dlsym(library, "fh_heap_deallocate");
    pthread_atfork(inner_before, inner_after, NULL);
    if (boot() != 0) return 1;
    pthread_atfork(outer_before, outer_after, NULL);
    static double empty[MOST], full[MOST], first[MOST], other[MOST], bare[MOST], many[MOST];
    static double whole_bare[MOST], whole_many[MOST];
    void *heap = opened();
    for (int r = 0; r < rounds; r++) {
        empty[r] = cycle(cycles, 0);
        full[r] = cycle(cycles, BLOCKS);
        first[r] = pair(NULL);
        other[r] = pair(heap);
    }
    for (int r = 0; r < rounds; r++) a_fork(&bare[r], &whole_bare[r]);
    static void *heaps[HEAPS], *blocks[HEAPS][3];
    static const size_t sizes[3] = {100, 5000, 300000};
    for (int i = 0; i < HEAPS; i++) {
        heaps[i] = opened();
        for (int k = 0; k < 3; k++) memset(blocks[i][k] = allocate_in(heaps[i], sizes[k], 0), 1, sizes[k]);
    }
    for (int r = 0; r < rounds; r++) a_fork(&many[r], &whole_many[r]);
    tell("cycle", empty, rounds);
    tell("cycle_of_1000", full, rounds);
    tell("pair_default", first, rounds);
    tell("pair_other", other, rounds);
    tell("fork_0", bare, rounds);
    tell("fork_64", many, rounds);
    tell("whole_fork_0", whole_bare, rounds);
    tell("whole_fork_64", whole_many, rounds);
    return 0;
}
