/* What tests/test_python_frames.py calls in C: the hooks without the GIL, from C's own threads, and with allocations counted. */
#include <Python.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

struct RawFrame { uint64_t code, place, name, first; };
struct FrameText { uint32_t line, first_line, file_bytes, function_bytes; char file[512], function[256]; };
typedef uint32_t (*walk_hook)(struct RawFrame *into, uint32_t most);
typedef void (*name_hook)(const struct RawFrame *frame, struct FrameText *into);

enum { MOST = 128 };
static walk_hook walk;
static name_hook name;
static atomic_long walks;
static atomic_long shown;                               /* walks that told a frame, of threads that walk for ever */

void walker_begin(walk_hook w, name_hook n) { walk = w; name = n; }
long walker_walks(void) { return walks; }
long walker_shown(void) { return shown; }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Walk and name once; the depth, or -1 where a frame has no text. */
static int look(void) {
    struct RawFrame into[MOST];
    struct FrameText text;
    int count = (int)walk(into, MOST);
    for (int i = 0; i < count; i++) {
        name(&into[i], &text);
        if (!text.function_bytes) return -1;
    }
    walks++;
    return count;
}

/* Walk again and again for some seconds; the number of walks that told another depth. */
long walker_spin(double seconds, int depth) {
    long wrong = 0;
    for (double end = now() + seconds; now() < end;)
        for (int i = 0; i < 100; i++) wrong += look() != depth;
    return wrong;
}

/* The same for ever, whatever it tells: for threads that are there when the interpreter ends. */
void walker_spin_for_ever(void) { for (;;) shown += look() != 0; }

/* Nanoseconds of a walk, the least of some rounds. */
double walker_time(int rounds, int times) {
    struct RawFrame into[MOST];
    double least = 1e9;
    for (int r = 0; r < rounds; r++) {
        double begin = now();
        for (int i = 0; i < times; i++) walk(into, MOST);
        double took = (now() - begin) * 1e9 / times;
        if (took < least) least = took;
    }
    return least;
}

/* ---- allocations, counted in Python's three domains, and by the C library's own figures ---- */
static PyMemAllocatorEx below[3];
static long calls;
static void *count_malloc(void *ctx, size_t n) { PyMemAllocatorEx *a = ctx; calls++; return a->malloc(a->ctx, n); }
static void *count_calloc(void *ctx, size_t m, size_t n) { PyMemAllocatorEx *a = ctx; calls++; return a->calloc(a->ctx, m, n); }
static void *count_realloc(void *ctx, void *p, size_t n) { PyMemAllocatorEx *a = ctx; calls++; return a->realloc(a->ctx, p, n); }
static void count_free(void *ctx, void *p) { PyMemAllocatorEx *a = ctx; calls++; a->free(a->ctx, p); }

/* With the GIL, and no other thread: calls of an allocator in 1,000 walks with their names, and bytes that changed hands. */
long walker_allocations(int *depth) {
    for (int d = 0; d < 3; d++) {
        PyMemAllocatorEx over = { &below[d], count_malloc, count_calloc, count_realloc, count_free };
        PyMem_GetAllocator((PyMemAllocatorDomain)d, &below[d]);
        PyMem_SetAllocator((PyMemAllocatorDomain)d, &over);
    }
    PyMem_Free(PyMem_Malloc(1));                        /* the count counts: 2 */
    size_t before = mallinfo2().uordblks;
    for (int i = 0; i < 1000; i++) *depth = look();
    long changed = (long)(mallinfo2().uordblks - before);
    for (int d = 0; d < 3; d++) PyMem_SetAllocator((PyMemAllocatorDomain)d, &below[d]);
    return calls + changed;
}

/* ---- C's own threads: they look before, in and after a life in Python ---- */
struct Life { PyObject *call; long wrong; };
static void *live(void *argument) {
    struct Life *life = argument;
    if (look() != 0) life->wrong++;                     /* no state yet */
    PyGILState_STATE state = PyGILState_Ensure();
    if (look() != 0) life->wrong++;                     /* a state without frames */
    PyObject *answer = PyObject_CallNoArgs(life->call);
    if (answer != Py_True) life->wrong++;
    Py_XDECREF(answer);
    PyGILState_Release(state);
    if (look() != 0) life->wrong++;                     /* the state is gone */
    return NULL;
}

/* Without the GIL: so many threads after another, `abreast` at a time; how much was wrong. */
long walker_lives(PyObject *call, int rounds, int abreast) {
    long wrong = 0;
    for (int r = 0; r < rounds; r++) {
        pthread_t threads[16];
        struct Life lives[16];
        for (int i = 0; i < abreast; i++) {
            lives[i] = (struct Life){ call, 0 };
            if (pthread_create(&threads[i], NULL, live, &lives[i])) return -1;
        }
        for (int i = 0; i < abreast; i++) {
            pthread_join(threads[i], NULL);
            wrong += lives[i].wrong;
        }
    }
    return wrong;
}

#ifdef WALKER_EMBEDS
/* A program that Python lives in several times. In each life, and between them, the thread walks. */
int main(int argc, char **argv) {
    int lives = argc > 1 ? atoi(argv[1]) : 1;
    for (int life = 0; life < lives; life++) {
        Py_Initialize();
        if (PyRun_SimpleString(
                "from freehold.face import python_frames\n"
                "python_frames.install_hooks()\n"
                "walk, name = python_frames.hooks()\n"
                "assert [told[2] for told in (lambda: python_frames.walk())()] == ['<lambda>', '<module>']\n")) return 1;
        PyObject *main_module = PyImport_AddModule("__main__");
        walk = (walk_hook)(uintptr_t)PyLong_AsUnsignedLongLong(PyObject_GetAttrString(main_module, "walk"));
        name = (name_hook)(uintptr_t)PyLong_AsUnsignedLongLong(PyObject_GetAttrString(main_module, "name"));
        if (look() != 0) return 2;
        PyThreadState *state = PyEval_SaveThread();
        if (look() != 0) return 3;
        PyEval_RestoreThread(state);
        if (Py_FinalizeEx()) return 4;
        if (look() != 0) return 5;
    }
    puts("well");
    return 0;
}
#endif
