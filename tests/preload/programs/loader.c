/* loader.c: what ld.so allocated before there was a malloc may be freed and resized by who gets hold of it. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

void (*volatile give_back)(void *) = free;
void *(*volatile resize)(void *, size_t) = realloc;

int main(void) {
    char *of_the_loader = (char *)getauxval(AT_BASE) + 64;
    char *moved = resize(of_the_loader, 128);
    int good = moved != NULL && moved != of_the_loader && memcmp(moved, of_the_loader, 128) == 0;
    give_back(moved);
    give_back(of_the_loader);
    puts(good ? "good" : "bad");
    return !good;
}
