/* signals.c: a signal handler that allocates and frees interrupts threads that allocate and free, again and again.
 *
 * usage: signals THREADS PURGERS SECONDS. Purgers allocate and free too, then give everything back and count it. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int fh_heap_boot(void);
void *fh_heap_allocate(size_t size, size_t align);
void fh_heap_deallocate(void *p);
int fh_heap_check(void);
uint64_t fh_heap_purge(void);
void fh_heap_read_stats(uint64_t *into);
enum { BLOCKS_LIVE = 11 };

static _Atomic int stop;
static _Atomic uint64_t handled, operations, purges;

static void handler(int number) {
    (void)number;
    void *blocks[16];
    for (unsigned i = 0; i < 16; i++) {
        size_t size = i % 4 ? 16 + i * 40 : 4096 + i * 100;
        blocks[i] = fh_heap_allocate(size, 0);
        if (blocks[i] == NULL) abort();
        memset(blocks[i], 0xEE, size);
    }
    for (unsigned i = 0; i < 16; i++) fh_heap_deallocate(blocks[i]);
    atomic_fetch_add(&handled, 1);
}

static void *work(void *argument) {
    unsigned n = (unsigned)(uintptr_t)argument * 7919;
    unsigned char *held[1000] = {0};
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        unsigned char **slot = &held[n * 2654435761u % 1000];
        size_t size = 16 + n % 700;
        if (*slot) {
            if ((*slot)[0] != (*slot)[15]) { fprintf(stderr, "signals: block %p has two owners\n", (void *)*slot); abort(); }
            fh_heap_deallocate(*slot);
        }
        *slot = memset(fh_heap_allocate(size, 0), (int)(n & 0x7F), 16);
        n++;
    }
    for (int i = 0; i < 1000; i++) if (held[i]) fh_heap_deallocate(held[i]);
    atomic_fetch_add(&operations, n);
    return NULL;
}

static void *purge(void *argument) {
    (void)argument;
    uint64_t n = 0, stats[64];
    void *held[500];
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        for (unsigned i = 0; i < 500; i++) held[i] = fh_heap_allocate(16 + i % 16 * 40, 0);
        for (unsigned i = 0; i < 500; i++) fh_heap_deallocate(held[i]);
        fh_heap_purge();
        fh_heap_read_stats(stats);
        if (fh_heap_check()) abort();
        n++;
    }
    atomic_fetch_add(&purges, n);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4 || fh_heap_boot() != 0) return 2;
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    int threads = atoi(argv[1]) + atoi(argv[2]);
    pthread_t all[16];
    for (int i = 0; i < threads; i++)
        pthread_create(&all[i], NULL, i < atoi(argv[1]) ? work : purge, (void *)(uintptr_t)(i + 1));
    struct timespec pause = {0, 20000};
    time_t until = time(NULL) + atoi(argv[3]) + 1;
    for (unsigned i = 0; time(NULL) < until; i++) {
        pthread_kill(all[i % (unsigned)threads], SIGUSR1);
        if (i % 4 == 0) nanosleep(&pause, NULL);
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < threads; i++) pthread_join(all[i], NULL);
    uint64_t stats[64];
    fh_heap_read_stats(stats);
    printf("handled=%llu operations=%llu purges=%llu live=%llu broken=%d\n", (unsigned long long)handled,
           (unsigned long long)operations, (unsigned long long)purges, (unsigned long long)stats[BLOCKS_LIVE],
           fh_heap_check());
    return 0;
}
