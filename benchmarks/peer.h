/* One allocator loaded from its file beside others, as the C benchmarks call it; clocks and resident memory.
 *
 * A peer is given as NAME=FILE (FILE empty: the C library). Its symbols stay local, so that several live in one process.
 * freehold's own functions take an alignment too; everyone else's are malloc and free.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct Peer {
    const char *name;
    void *(*allocate)(size_t size);                      /* NULL where allocate_aligned is there */
    void *(*allocate_aligned)(size_t size, size_t align);
    void (*deallocate)(void *p);
} Peer;

static void *must_find(void *library, const char *symbol) {
    void *found = dlsym(library, symbol);
    if (!found) {
        fprintf(stderr, "%s\n", dlerror());
        exit(2);
    }
    return found;
}

static inline Peer load_peer(const char *given) {
    char *file = strchr(given, '=');
    Peer peer = {.name = strndup(given, file - given)};
    if (!*++file) {
        peer.allocate = malloc;
        peer.deallocate = free;
        return peer;
    }
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(2);
    }
    int (*boot)(void) = dlsym(library, "fh_heap_boot");
    if (boot) {
        if (boot() != 0) {
            fprintf(stderr, "%s: does not boot\n", file);
            exit(2);
        }
        peer.allocate_aligned = must_find(library, "fh_heap_allocate");
        peer.deallocate = must_find(library, "fh_heap_deallocate");
    } else {
        peer.allocate = must_find(library, "malloc");
        peer.deallocate = must_find(library, "free");
    }
    return peer;
}

static inline void *peer_allocate(const Peer *peer, size_t size) {
    return peer->allocate ? peer->allocate(size) : peer->allocate_aligned(size, 0);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

/* A value in bytes that /proc/self/<file> gives in KiB after `key`. */
static uint64_t proc_bytes(const char *file, const char *key) {
    char line[256];
    uint64_t kib = 0;
    FILE *f = fopen(file, "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key)))
            kib = strtoull(line + strlen(key), NULL, 10);
    if (f)
        fclose(f);
    return kib << 10;
}

static inline uint64_t resident_bytes(void) { return proc_bytes("/proc/self/smaps_rollup", "Rss:"); }
static inline uint64_t peak_bytes(void) { return proc_bytes("/proc/self/status", "VmHWM:"); }
