/* Runs a command and says what it took: a small process starts it, so that its peak is not that of who wants to know.
 *
 * usage: timed LIBRARY COMMAND [ARGUMENT ...]
 * LIBRARY (empty: none) is preloaded into the command alone. Its output is dropped.
 * Prints `seconds cpu_seconds peak`: the peak of it or its largest child, in bytes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double seconds(struct timeval t) { return (double)t.tv_sec + (double)t.tv_usec * 1e-6; }

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    double begun = now();
    pid_t child = fork();
    if (child == 0) {
        if (*argv[1])
            setenv("LD_PRELOAD", argv[1], 1);
        int nowhere = open("/dev/null", O_WRONLY);
        dup2(nowhere, 1);
        execvp(argv[2], argv + 2);
        _exit(127);
    }
    int status = -1;
    struct rusage used;
    if (wait4(child, &status, 0, &used) != child || status != 0) {
        fprintf(stderr, "%s: status %d\n", argv[2], status);
        return 1;
    }
    printf("%.6f %.6f %ld\n", now() - begun, seconds(used.ru_utime) + seconds(used.ru_stime), used.ru_maxrss * 1024);
    return 0;
}
