/* handler.c: a signal handler that allocates and frees interrupts threads that allocate and free.
 *
 * usage: handler THREADS SECONDS
 * Every block is written and looked at again: one that two hold at once ends the program. */
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

static _Atomic int stop;
static _Atomic uint64_t handled;

static void handler(int number) {
    (void)number;
    void *blocks[16];
    for (unsigned i = 0; i < 16; i++) {
        size_t size = i % 4 ? 16 + i * 40 : 4096 + i * 100;
        blocks[i] = i % 2 ? malloc(size) : calloc(1, size);
        if (blocks[i] == NULL)
            abort();
        memset(blocks[i], 0xEE, size);
    }
    for (unsigned i = 0; i < 16; i++)
        free(blocks[i]);
    atomic_fetch_add(&handled, 1);
}

static void *work(void *argument) {
    unsigned n = (unsigned)(uintptr_t)argument * 7919;
    unsigned char *held[1000] = {0};
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        unsigned char **slot = &held[n * 2654435761u % 1000];
        size_t size = 16 + n % 700;
        if (*slot && (*slot)[0] != (*slot)[15])
            abort();
        *slot = memset(realloc(*slot, size), (int)(n & 0x7F), 16);
        n++;
    }
    for (int i = 0; i < 1000; i++)
        free(held[i]);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    int threads = atoi(argv[1]);
    pthread_t all[16];
    for (int i = 0; i < threads; i++)
        pthread_create(&all[i], NULL, work, (void *)(uintptr_t)i);
    struct timespec end, now, pause = {0, 50000};
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += atoi(argv[2]);
    do {
        for (int i = 0; i < threads; i++)
            pthread_kill(all[i], SIGUSR1);
        nanosleep(&pause, NULL);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec);
    atomic_store(&stop, 1);
    for (int i = 0; i < threads; i++)
        pthread_join(all[i], NULL);
    printf("%llu\n", (unsigned long long)atomic_load(&handled));
    return 0;
}
