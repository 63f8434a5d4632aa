/* crimes.c: what no program may do. usage: crimes NAME; prints the address that the crime is committed on. */
#define _GNU_SOURCE
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static void (*volatile give_back)(void *) = free;
static void *(*volatile resize)(void *, size_t) = realloc;
static size_t (*volatile usable_size)(void *) = malloc_usable_size;
static char not_from_malloc[64];

static char *tell(char *p) {
    printf("%p\n", (void *)p);
    fflush(stdout);
    return p;
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    const char *crime = argv[1];
    char *p = malloc(100), *large = malloc(300000), *huge = malloc(5000000);
    if (!strcmp(crime, "double free")) {
        give_back(tell(p));
        give_back(p);
    } else if (!strcmp(crime, "double free of a large block")) {
        give_back(tell(huge));
        give_back(huge);
    } else if (!strcmp(crime, "interior")) {
        give_back(tell(p + 16));
    } else if (!strcmp(crime, "interior of a run")) {
        give_back(tell(large + 8192));
    } else if (!strcmp(crime, "static")) {
        give_back(tell(not_from_malloc));
    } else if (!strcmp(crime, "stack")) {
        char here[64];
        give_back(tell(here));
    } else if (!strcmp(crime, "mapping")) {
        give_back(tell(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
    } else if (!strcmp(crime, "realloc of a freed block")) {
        give_back(tell(p));
        resize(p, 1000);
    } else if (!strcmp(crime, "realloc of a foreign one")) {
        resize(tell(not_from_malloc), 1000);
    } else if (!strcmp(crime, "size of a freed block")) {
        give_back(tell(p));
        usable_size(p);
    } else {
        return 2;
    }
    puts("went on");
    return 0;
}
