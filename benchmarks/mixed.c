/* One thread and blocks of many sizes, for whatever malloc the process has.
 *
 * usage: mixed PATTERN OPERATIONS AFTER_S
 * Prints `seconds peak resident live after`: the time of the work, and bytes: resident at the highest, when it was done
 * and AFTER_S seconds later, above what was resident before it; and what of it the program still holds then.
 *
 * middle  16 places; in each operation one of them gets a block of 128 KiB to 2 MiB, touched, in place of its old one.
 * mix     1,500 places, some replaced far more often than others; sizes from 16 B to 8 MiB, all magnitudes alike.
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PLACES = 1500, MIDDLE_PLACES = 16, PAGE = 4096 };

static char *place[PLACES];
static size_t size_of[PLACES];

static double random_unit(uint64_t *state) { /* splitmix64 */
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static size_t size_between(double least, double most, uint64_t *state) { /* log-uniform */
    return (size_t)(least * exp(random_unit(state) * log(most / least)));
}

static void replace(unsigned i, size_t size) {
    free(place[i]);
    place[i] = malloc(size);
    if (place[i] == NULL)
        abort();
    size_of[i] = size;
    for (size_t at = 0; at < size; at += PAGE)
        place[i][at] = 1;
    place[i][size - 1] = 1;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t proc_bytes(const char *path, const char *name) {
    char line[256];
    uint64_t kib = 0;
    FILE *file = fopen(path, "r");
    if (file == NULL)
        abort();
    while (fgets(line, sizeof line, file) != NULL)
        if (strncmp(line, name, strlen(name)) == 0)
            kib = strtoull(line + strlen(name), NULL, 10);
    fclose(file);
    return kib << 10;
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    int middle = strcmp(argv[1], "middle") == 0;
    uint64_t operations = strtoull(argv[2], NULL, 10), state = 12345, live = 0;
    uint64_t before = proc_bytes("/proc/self/smaps_rollup", "Rss:");
    double start = seconds();
    for (uint64_t n = 0; n < operations; n++) {
        double u = random_unit(&state);
        if (middle)
            replace((unsigned)(u * MIDDLE_PLACES), size_between(128 << 10, 2 << 20, &state));
        else
            replace((unsigned)(u * u * u * PLACES), size_between(16, 8 << 20, &state));
    }
    double spent = seconds() - start;
    uint64_t peak = proc_bytes("/proc/self/status", "VmHWM:"), resident = proc_bytes("/proc/self/smaps_rollup", "Rss:");
    usleep((useconds_t)(atof(argv[3]) * 1e6));
    uint64_t after = proc_bytes("/proc/self/smaps_rollup", "Rss:");
    for (unsigned i = 0; i < PLACES; i++)
        live += size_of[i];
    printf("%.6f %llu %llu %llu %llu\n", spent, (unsigned long long)(peak - before), (unsigned long long)(resident - before),
           (unsigned long long)live, (unsigned long long)(after - before));
    return 0;
}
