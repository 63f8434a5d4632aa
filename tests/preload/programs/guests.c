/* guests.c: under the library, fills and frees a heap of its own while the default one stays tiny; prints MiB at the peak and after. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct config { uint64_t limit, decay_ns; int node; uint32_t huge_pages; int secure; };
int fh_heap_boot(void);
int fh_heaps_open(const struct config *config, void **into);
void *fh_heap_allocate_in(void *heap, size_t size, size_t align);
enum { BLOCKS = 4000, SIZE = 8000 };

static long resident_mib(void) {
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL || fscanf(f, "%*d %ld", &pages) != 1) abort();
    fclose(f);
    return pages >> 8;
}

int main(void) {
    char *volatile first = malloc(1);  /* the library settles itself at the first request */
    free(first);
    struct config config = {UINT64_MAX, 500000000, -1, 0, 0};
    void *heap, *blocks[BLOCKS];
    if (fh_heap_boot() != 0 || fh_heaps_open(&config, &heap) != 0) return 2;
    for (int i = 0; i < BLOCKS; i++) blocks[i] = memset(fh_heap_allocate_in(heap, SIZE, 0), 1, SIZE);
    long peak = resident_mib();
    for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
    usleep(2000000);
    printf("%ld %ld\n", peak, resident_mib());
    return 0;
}
