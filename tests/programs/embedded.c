/* A program that Python is embedded in, initialised and finalised ten times; raw blocks outlive the interpreters (F32). */
#include <Python.h>

static const char *program =
    "import freehold, sys\n"
    "taken = freehold.install(objects=True).taken\n"
    "assert 'objects' in taken, taken\n"
    "sys.kept = [{str(i): i} for i in range(20000)]\n"
    "from freehold.face import process_heap\n"
    "assert process_heap.owns(id(bytes(3000)))\n";

int main(void) {
    enum { LIVES = 10 };
    void *kept[LIVES];
    for (int i = 0; i < LIVES; i++) {
        Py_Initialize();
        if (PyRun_SimpleString(program) != 0) return 2;
        kept[i] = PyMem_RawMalloc(1000 + i);
        if (Py_FinalizeEx() < 0) return 3;
        if (i % 2) PyMem_RawFree(kept[i]);
    }
    for (int i = 0; i < LIVES; i += 2) PyMem_RawFree(kept[i]);
    puts("well");
    return 0;
}
