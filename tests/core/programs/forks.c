/* forks.c: a process whose threads allocate, free and give back forks again and again; every child must be whole: it
 * allocates in every class, frees what its parent made, and proves the heap's structure.
 *
 * usage: forks THREADS FORKS */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int fh_heap_boot(void);
void *fh_heap_allocate(size_t size, size_t align);
void fh_heap_deallocate(void *p);
uint64_t fh_heap_purge(void);
int fh_heap_check(void);

enum { HELD = 2000, PARENTS = 500 };
static _Atomic int stop;
static void *parents[PARENTS];

static size_t size_of(unsigned n) { return 16 + (n * 2654435761u >> 8) % (n % 16 ? 512 : 100000); }

static void *work(void *argument) {
    unsigned n = (unsigned)(uintptr_t)argument * 7919;
    void *held[HELD] = {0};
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        for (int i = 0; i < HELD; i++, n++) {
            if (held[n % HELD]) fh_heap_deallocate(held[n % HELD]);
            held[n % HELD] = n % 3 ? fh_heap_allocate(size_of(n), 0) : NULL;
        }
    }
    for (int i = 0; i < HELD; i++) if (held[i]) fh_heap_deallocate(held[i]);
    return NULL;
}

static void *purge(void *argument) {
    (void)argument;
    while (!atomic_load(&stop)) { fh_heap_purge(); usleep(300); }
    return NULL;
}

static int child(void) {
    alarm(20);
    for (int i = 0; i < PARENTS; i++) fh_heap_deallocate(parents[i]);
    void *blocks[400];
    for (unsigned i = 0; i < 400; i++) {
        size_t size = (size_t)16 << (i % 14);
        blocks[i] = fh_heap_allocate(size, 0);
        if (blocks[i] == NULL) return 3;
        memset(blocks[i], (int)i, size);
    }
    for (int i = 0; i < 400; i++) fh_heap_deallocate(blocks[i]);
    fh_heap_purge();
    return fh_heap_check();
}

int main(int argc, char **argv) {
    if (argc != 3 || fh_heap_boot() != 0) return 2;
    int threads = atoi(argv[1]), forks = atoi(argv[2]), n = 0, bad = 0;
    pthread_t all[32];
    for (unsigned i = 0; i < PARENTS; i++) parents[i] = fh_heap_allocate(size_of(i), 0);
    for (int i = 0; i < threads; i++) pthread_create(&all[n++], NULL, work, (void *)(uintptr_t)(i + 1));
    pthread_create(&all[n++], NULL, purge, NULL);
    for (int i = 0; i < forks; i++) {
        pid_t pid = fork();
        if (pid == 0) _exit(child());
        int status = 0;
        waitpid(pid, &status, 0);
        if (status != 0) { bad++; fprintf(stderr, "forks: child %d ended with status %#x\n", i, status); }
    }
    atomic_store(&stop, 1);
    while (n > 0) pthread_join(all[--n], NULL);
    for (int i = 0; i < PARENTS; i++) fh_heap_deallocate(parents[i]);
    int broken = fh_heap_check();
    printf("forks=%d bad=%d broken=%d\n", forks, bad, broken);
    return bad || broken;
}
