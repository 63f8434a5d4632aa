/* loaded.c: loads the library as an extension module's dependency is, and then a C++ library; nothing may be the heap's.
 *
 * usage: loaded LIBRARY (local|global) CPP_LIBRARY */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(holds) ((holds) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #holds), exit(1)))

int main(int argc, char **argv) {
    MUST(argc == 4);
    void *early = malloc(100);
    int scope = strcmp(argv[2], "global") == 0 ? RTLD_GLOBAL : RTLD_LOCAL;
    void *library = dlopen(argv[1], RTLD_NOW | scope), *cpp = dlopen(argv[3], RTLD_LAZY);
    MUST(library && cpp);
    int (*boot)(void) = dlsym(library, "fh_heap_boot"), (*owns)(void *) = dlsym(library, "fh_heap_owns");
    int (*serves)(void) = dlsym(library, "fh_family_serves");
    void *(*give_one)(void) = dlsym(cpp, "give_one");
    void (*delete_array)(void *) = dlsym(cpp, "_ZdaPv");
    MUST(boot() == 0 && !serves());
    void *one = give_one(), *late = malloc(100);
    MUST(!owns(one) && !owns(late));
    delete_array(one);
    free(early);
    free(late);
    void *(*free_sized)(void *, size_t) = dlsym(library, "free_sized");
    free_sized(malloc(10), 10);
    return ((int (*)(void))dlsym(cpp, "run_all"))();
}
