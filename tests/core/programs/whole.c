/* whole.c: a seeded storm over the whole heap: threads that allocate, resize, fill, check and free blocks of all sizes, pass half of
   them to each other through shared slots, and die and are made anew.   whole THREADS ROUNDS OPERATIONS SEED [FORKS] */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int fh_heap_boot(void);
void *fh_heap_allocate(size_t, size_t);
void *fh_heap_allocate_zeroed(size_t, size_t);
void *fh_heap_reallocate(void *, size_t, size_t);
void fh_heap_deallocate(void *);
size_t fh_heap_usable_size(void *);
uint64_t fh_heap_purge(void);
int fh_heap_check(void);

typedef struct { unsigned char *p; size_t size; unsigned char mark; } Block;
enum { SLOTS = 256, MINE = 64 };
static Block *shared[SLOTS];
static long operations, seed;

static uint64_t next(uint64_t *s) { *s ^= *s << 13; *s ^= *s >> 7; *s ^= *s << 17; return *s; }

/* sizes are log-uniform from 1 byte to 8 MiB, most of them small */
static size_t a_size(uint64_t *s) {
    unsigned bits = next(s) % 100 < 90 ? next(s) % 14 : next(s) % 24;
    return ((size_t)1 << bits) + next(s) % ((size_t)1 << bits);
}
static void fill(Block *b) {
    memset(b->p, b->mark, b->size < 64 ? b->size : 64);
    b->p[b->size - 1] = b->mark;
}
static void check(Block *b, const char *when) {
    size_t n = b->size < 64 ? b->size : 64;
    for (size_t i = 0; i < n; i++)
        if (b->p[i] != b->mark) { fprintf(stderr, "%s: byte %zu of %zu changed\n", when, i, b->size); abort(); }
    if (b->p[b->size - 1] != b->mark) { fprintf(stderr, "%s: last byte of %zu changed\n", when, b->size); abort(); }
}
static Block *make(uint64_t *s) {
    Block *b = malloc(sizeof *b);
    b->size = a_size(s);
    b->mark = (unsigned char)next(s);
    size_t align = next(s) % 4 ? 0 : (size_t)1 << (next(s) % 13);
    int zero = next(s) % 8 == 0;
    b->p = zero ? fh_heap_allocate_zeroed(b->size, align) : fh_heap_allocate(b->size, align);
    if (!b->p || (align && (uintptr_t)b->p % align) || fh_heap_usable_size(b->p) < b->size) { fprintf(stderr, "bad block\n"); abort(); }
    if (zero)
        for (size_t i = 0; i < b->size; i += b->size > 4096 ? 511 : 1)
            if (b->p[i]) { fprintf(stderr, "byte %zu of %zu is not zero\n", i, b->size); abort(); }
    fill(b);
    return b;
}
static void resize(Block *b, uint64_t *s) {
    size_t size = a_size(s), kept = size < b->size ? size : b->size;
    unsigned char *p = fh_heap_reallocate(b->p, size, 0);
    if (!p) abort();
    for (size_t i = 0; i < kept && i < 64 && i < b->size; i++)
        if (p[i] != b->mark) { fprintf(stderr, "byte %zu lost in resizing %zu to %zu\n", i, b->size, size); abort(); }
    b->p = p;
    b->size = size;
    fill(b);
}
static void drop(Block *b) {
    check(b, "free");
    fh_heap_deallocate(b->p);
    free(b);
}
static void *run(void *arg) {
    uint64_t s = (uint64_t)(uintptr_t)arg * 0x9E3779B97F4A7C15u + (uint64_t)seed + 1;
    Block *mine[MINE] = {0};
    for (long i = 0; i < operations; i++) {
        unsigned k = next(&s) % MINE;
        if (!mine[k]) mine[k] = make(&s);
        else if (next(&s) % 8 == 0) resize(mine[k], &s);
        else if (next(&s) % 2) { drop(mine[k]); mine[k] = NULL; }
        else mine[k] = __atomic_exchange_n(&shared[next(&s) % SLOTS], mine[k], __ATOMIC_ACQ_REL);
        if (next(&s) % 20000 == 0) fh_heap_purge();
    }
    for (unsigned k = 0; k < MINE; k++)
        if (mine[k]) drop(mine[k]);
    return NULL;
}
static void child(void) {
    run((void *)977);
    _exit(fh_heap_check() ? 3 : 0);
}
int main(int argc, char **argv) {
    if (argc < 5 || fh_heap_boot()) return 2;
    int threads = atoi(argv[1]), rounds = atoi(argv[2]), forks = argc > 5 ? atoi(argv[5]) : 0;
    operations = atol(argv[3]);
    seed = atol(argv[4]);
    for (int r = 0; r < rounds; r++) {
        pthread_t t[64];
        for (int i = 0; i < threads; i++) pthread_create(&t[i], NULL, run, (void *)(uintptr_t)(r * 64 + i + 1));
        for (int f = 0; f < forks; f++) {
            pid_t pid = fork();
            int status = 0;
            if (pid == 0) { operations = operations / 10 + 1; child(); }
            waitpid(pid, &status, 0);
            if (status) { fprintf(stderr, "a forked child ended with %#x\n", status); abort(); }
        }
        for (int i = 0; i < threads; i++) pthread_join(t[i], NULL);
        if (fh_heap_check()) { fprintf(stderr, "law %d is broken\n", fh_heap_check()); abort(); }
    }
    for (int i = 0; i < SLOTS; i++)
        if (shared[i]) drop(shared[i]);
    puts("clean=1");
    return 0;
}
