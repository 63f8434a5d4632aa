// claims THREADS ROUNDS SEED: threads claim runs of bits across fields, by all three ways, and give them back.
// A bit that two hold at once, or that is left over, is told. Then pairs of threads take the same run: one may have it.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

extern int fh_fields_claim(uint64_t *field, uint64_t i, uint64_t n);
extern int fh_fields_take(uint64_t *field, uint64_t i, uint64_t n);
extern uint64_t fh_fields_claim_lowest(uint64_t *field, uint64_t length, uint64_t n);
extern uint64_t fh_fields_claim_some(uint64_t *field, uint64_t i, uint64_t n);
extern void fh_fields_set(uint64_t *field, uint64_t i, uint64_t n);
extern void fh_fields_clear(uint64_t *field, uint64_t i, uint64_t n);
extern uint64_t fh_fields_count(const uint64_t *field, uint64_t length);

enum { BITS = 300, FIELDS = 5 };

static uint64_t field[FIELDS];
static uint32_t holder[BITS];
static uint64_t shared, claimed, refused, took;
static unsigned rounds, seed;
static pthread_barrier_t together;

static uint64_t next(uint64_t *state) {
    *state ^= *state << 13; *state ^= *state >> 7; *state ^= *state << 17;
    return *state;
}

static void *claim(void *argument) {
    uint32_t me = (uint32_t)(uintptr_t)argument;
    uint64_t state = seed * 7919u + me * 104729u + 1;
    for (unsigned round = 0; round < rounds; round++) {
        uint64_t n = next(&state) % 100 + 1, at = next(&state) % (BITS - n);
        switch (next(&state) % 3) {
        case 0: at = fh_fields_claim_lowest(field, BITS, n); break;
        case 1: n = fh_fields_claim_some(field, at, n); if (n == 0) at = UINT64_MAX; break;
        default: if (!fh_fields_claim(field, at, n)) at = UINT64_MAX;
        }
        __atomic_fetch_add(at == UINT64_MAX ? &refused : &claimed, 1, __ATOMIC_RELAXED);
        if (at == UINT64_MAX) continue;
        for (uint64_t i = at; i < at + n; i++)
            if (__atomic_exchange_n(&holder[i], me, __ATOMIC_RELAXED) != 0) __atomic_fetch_add(&shared, 1, __ATOMIC_RELAXED);
        for (uint64_t i = at; i < at + n; i++)
            if (__atomic_exchange_n(&holder[i], 0, __ATOMIC_RELAXED) != me) __atomic_fetch_add(&shared, 1, __ATOMIC_RELAXED);
        fh_fields_clear(field, at, n);
    }
    return NULL;
}

static void *take(void *argument) {
    int first = argument == NULL;
    for (unsigned round = 0; round < rounds / 100; round++) {
        uint64_t at = round % 64, n = 65 + round % 100;
        if (first) fh_fields_set(field, at, n);
        pthread_barrier_wait(&together);
        __atomic_fetch_add(&took, fh_fields_take(field, at, n), __ATOMIC_RELAXED);
        pthread_barrier_wait(&together);
    }
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t thread[16];
    unsigned threads = argc > 1 ? (unsigned)atoi(argv[1]) : 4;
    rounds = argc > 2 ? (unsigned)atoi(argv[2]) : 100000;
    seed = argc > 3 ? (unsigned)atoi(argv[3]) : 1;
    for (uintptr_t i = 0; i < threads; i++) pthread_create(&thread[i], NULL, claim, (void *)(i + 1));
    for (unsigned i = 0; i < threads; i++) pthread_join(thread[i], NULL);
    uint64_t left = fh_fields_count(field, BITS);
    pthread_barrier_init(&together, NULL, 2);
    for (uintptr_t i = 0; i < 2; i++) pthread_create(&thread[i], NULL, take, (void *)i);
    for (unsigned i = 0; i < 2; i++) pthread_join(thread[i], NULL);
    printf("claimed=%lu refused=%lu shared=%lu left=%lu took=%lu wanted=%u still=%lu\n", claimed, refused, shared, left,
           took, rounds / 100, fh_fields_count(field, BITS));
    return 0;
}
