/* early.c: a library whose constructor runs before main allocates, forks and starts a thread; with another one, preloaded
 * before it, whose constructor does the same before the heap was ever used. Built as a program and as a library. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char *kept;

static void *work(void *unused) {
    (void)unused;
    char *p = malloc(5000);
    memset(p, 1, 5000);
    free(p);
    return strdup("thread");
}

__attribute__((constructor(101))) static void begin(void) {
    kept = strdup("constructor");
    pid_t child = fork();
    if (child == 0) {
        char *p = realloc(kept, 100000);
        memset(p + 12, 2, 99988);
        int good = strcmp(p, "constructor") == 0;
        free(p);
        _exit(good ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    pthread_t thread;
    void *told = NULL;
    if (status != 0 || pthread_create(&thread, NULL, work, NULL) != 0)
        _exit(3);
    pthread_join(thread, &told);
    if (strcmp(told, "thread") != 0)
        _exit(4);
    free(told);
}

__attribute__((destructor)) static void end(void) { free(kept); }

int main(void) {
    puts(kept);
    return 0;
}
