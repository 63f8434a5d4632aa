/* forks.c: a process whose threads allocate and free forks again and again; each child does so too, frees what its parent
 * allocated, forks once more, and ends. Prints how many children ended well. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, HELD = 500 };
static _Atomic int stop;

static void churn(uint64_t seed, uint64_t rounds) {
    char *held[64] = {0};
    for (uint64_t n = seed; n < seed + rounds; n++) {
        char **slot = &held[n * 2654435761u % 64];
        size_t size = 1 + n * 40503u % (n % 50 ? 2000 : 300000);
        free(*slot);
        *slot = malloc(size);
        (*slot)[0] = (*slot)[size - 1] = 1;
    }
    for (unsigned i = 0; i < 64; i++)
        free(held[i]);
}

static void *work(void *argument) {
    for (uint64_t n = (uintptr_t)argument; !atomic_load_explicit(&stop, memory_order_relaxed); n += 100)
        churn(n, 100);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    pthread_t all[THREADS];
    char *held[HELD];
    int good = 0;
    for (unsigned i = 0; i < THREADS; i++)
        pthread_create(&all[i], NULL, work, (void *)(uintptr_t)i);
    for (int n = 0; n < atoi(argv[1]); n++) {
        for (unsigned i = 0; i < HELD; i++)
            held[i] = memset(malloc(1 + i * 7), (int)i, 1 + i * 7);
        pid_t child = fork();
        if (child == 0) {
            for (unsigned i = 0; i < HELD; i++) {
                if (held[i][i * 7] != (char)i)
                    _exit(1);
                free(held[i]);
            }
            churn(7, 2000);
            pid_t grandchild = fork();
            if (grandchild == 0) {
                churn(9, 200);
                _exit(0);
            }
            int status = 1;
            waitpid(grandchild, &status, 0);
            _exit(status != 0);
        }
        int status = 1;
        waitpid(child, &status, 0);
        good += status == 0;
        for (unsigned i = 0; i < HELD; i++)
            free(held[i]);
    }
    atomic_store(&stop, 1);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(all[i], NULL);
    printf("%d\n", good);
    return 0;
}
