/* burst.c: allocates 200 MB in blocks of mixed sizes, in as many threads as asked, keeps one block in 5,000, frees the rest.
 *
 * usage: burst THREADS SECONDS
 * Prints `peak after threads`: bytes resident at the peak and SECONDS after, and how many threads the process has then. */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TOTAL = 200000000, MOST = 400000 };
static unsigned threads;
static void *kept[1000];
static pthread_barrier_t full, empty;

static void *work(void *argument) {
    unsigned me = (unsigned)(uintptr_t)argument, n = 0;
    void **blocks = calloc(MOST, sizeof *blocks);
    for (size_t bytes = 0; bytes < TOTAL / threads && n < MOST; n++) {
        size_t size = 16 + (n * 2654435761u >> 12) % 1000;
        if (n % 1000 == 0)
            size *= 300;
        blocks[n] = memset(malloc(size), 1, size);
        bytes += size;
    }
    pthread_barrier_wait(&full);
    pthread_barrier_wait(&empty);
    for (unsigned i = 0; i < n; i++)
        if (i % 5000 == 1)
            kept[(i / 5000 * threads + me) % 1000] = blocks[i];
        else
            free(blocks[i]);
    free(blocks);
    return NULL;
}

static uint64_t resident(void) {
    char text[4096] = "";
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = 0;
    return strtoull(strstr(text, "Rss:") + 4, NULL, 10) << 10;
}

static int count_threads(void) {
    int count = 0;
    DIR *folder = opendir("/proc/self/task");
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        count += entry->d_name[0] != '.';
    closedir(folder);
    return count;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    threads = (unsigned)atoi(argv[1]);
    pthread_t all[64];
    pthread_barrier_init(&full, NULL, threads + 1);
    pthread_barrier_init(&empty, NULL, threads + 1);
    for (unsigned i = 0; i < threads; i++)
        pthread_create(&all[i], NULL, work, (void *)(uintptr_t)i);
    pthread_barrier_wait(&full);
    uint64_t peak = resident();
    pthread_barrier_wait(&empty);
    for (unsigned i = 0; i < threads; i++)
        pthread_join(all[i], NULL);
    usleep((useconds_t)(atof(argv[2]) * 1e6));
    printf("%llu %llu %d\n", (unsigned long long)peak, (unsigned long long)resident(), count_threads());
    return 0;
}
