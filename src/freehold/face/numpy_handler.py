"""NumPy's default memory handler, made to call the heap.

Thread-safety: the hooks run on any thread at any time, with or without the GIL; `take` and `activate` under the GIL.
Invariants: the handler is written once, and never written back. Where *new* blocks come from, a flag says; where a
block goes back to, its address says. So blocks made before, during and after may be freed and resized in any state.
Does not: touch a handler that somebody else has set in a context (NEP 49), read any `ctx`, or trust the size that free
is given.
"""

import cython
from cython.cimports.cpython.buffer import Py_buffer, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.pycapsule import PyCapsule_GetPointer
from cython.cimports.freehold.core.heap import (
    heap_allocate_line,
    heap_allocate_zeroed_as,
    heap_boot,
    heap_owns,
    heap_reallocate_as,
    heap_take_back,
)
from cython.cimports.freehold.core.sampling import SOURCE_NUMPY
from cython.cimports.freehold.face.numpy_handler import (
    FIRST_WITH_HANDLERS,
    NUMPY_FEATURE_VERSION,
    NUMPY_GET_HANDLER,
    FeatureVersion,
    GetHandler,
    NumpyHandler,
    Visit,
    pthread_create,
    pthread_join,
    pthread_t,
    publish,
)
from cython.cimports.libc.errno import ENOMEM, errno  # noqa: F401 - ruff does not see `global errno` use it
from cython.cimports.libc.string import strcmp

ALIGNMENT = cython.declare(cython.const[cython.size_t], 64)

the_handler = cython.declare(cython.pointer[NumpyHandler])  # NULL until taken; constant from then on
the_hooks_are_active = cython.declare(
    cython.bint
)  # new blocks are ours; one word, written under the GIL, read by anyone
before = cython.declare(NumpyHandler)  # what the handler said; constant once it is taken


# ---- the hooks: no Python, no GIL; as few instructions as can be ----


def hook_malloc(ctx: cython.p_void, size: cython.size_t) -> cython.p_void:
    if cython.likely(the_hooks_are_active):
        return heap_allocate_line(size)
    return before.malloc(before.ctx, size)


def hook_calloc(ctx: cython.p_void, count: cython.size_t, size: cython.size_t) -> cython.p_void:
    if cython.unlikely(not the_hooks_are_active):
        return before.calloc(before.ctx, count, size)
    if cython.unlikely(size != 0 and count > ~cython.cast(cython.size_t, 0) // size):
        global errno
        errno = ENOMEM
        return cython.NULL
    return heap_allocate_zeroed_as(count * size, ALIGNMENT, SOURCE_NUMPY)


def hook_realloc(ctx: cython.p_void, p: cython.p_void, size: cython.size_t) -> cython.p_void:
    if p == cython.NULL:
        return hook_malloc(ctx, size)
    if heap_owns(p):
        return heap_reallocate_as(p, size + (size == 0), ALIGNMENT, SOURCE_NUMPY)
    return before.realloc(before.ctx, p, size)


def hook_free(ctx: cython.p_void, p: cython.p_void, size: cython.size_t) -> cython.void:
    heap_take_back(p, size, free_before)


def free_before(p: cython.p_void, size: cython.size_t) -> cython.void:
    before.free(before.ctx, p, size)


# ---- taking the handler ----


def take(umath) -> None:
    """Point the handler in force in this context at the heap, for good. In an empty context that is the default one.

    Args:
        umath: NumPy's C module, ``numpy._core._multiarray_umath``.

    Raises:
        RuntimeError: this handler is not one that may be written; nothing was changed.
        OSError: the operating system refuses the heap its addresses.
    """
    global the_handler, before
    if the_handler != cython.NULL:
        return
    table: cython.pp_void = cython.cast(cython.pp_void, PyCapsule_GetPointer(umath._ARRAY_API, cython.NULL))
    if cython.cast(FeatureVersion, table[NUMPY_FEATURE_VERSION])() < FIRST_WITH_HANDLERS:
        raise RuntimeError("this NumPy is too old: it has no memory handlers (1.22 has)")
    capsule: object = cython.cast(GetHandler, table[NUMPY_GET_HANDLER])()
    handler: cython.pointer[NumpyHandler] = cython.cast(
        cython.pointer[NumpyHandler], PyCapsule_GetPointer(capsule, "mem_handler")
    )
    if handler.version != 1:
        raise RuntimeError(f"this NumPy's memory handler has version {handler.version}, not 1")
    if strcmp(handler.name, b"default_allocator") != 0:
        raise RuntimeError(f"the memory handler is {handler.name.decode('utf-8', 'replace')!r}, not NumPy's own")
    error: cython.int = heap_boot()
    if error:
        raise OSError(error, "the operating system refuses the heap its addresses")
    before = handler[0]
    the_handler = handler
    # Whatever may give our blocks back must be there before the first of them is.
    publish(cython.address(handler.free), cython.cast(cython.p_void, hook_free))
    publish(cython.address(handler.realloc), cython.cast(cython.p_void, hook_realloc))
    publish(cython.address(handler.calloc), cython.cast(cython.p_void, hook_calloc))
    publish(cython.address(handler.malloc), cython.cast(cython.p_void, hook_malloc))


def is_taken() -> bool:
    """Return whether NumPy's default handler calls the heap."""
    return the_handler != cython.NULL


def is_active() -> bool:
    """Return whether new blocks come from the heap."""
    return the_hooks_are_active


def activate(on: cython.bint) -> None:
    """Say whether new blocks come from the heap (True) or from where they came before (False)."""
    global the_hooks_are_active
    the_hooks_are_active = on


# ---- the proof ----


def prove(umath) -> bool:
    """Return whether an array made on a new thread lies in the heap. The thread has ended when this returns.

    Raises:
        OSError: no thread could be started.
    """
    empty: object = umath.empty
    visit = cython.declare(Visit)
    visit.empty = cython.cast(cython.p_void, empty)
    visit.owned = False
    thread = cython.declare(pthread_t)
    error: cython.int = 0
    with cython.nogil:
        error = pthread_create(cython.address(thread), cython.NULL, visit_thread, cython.address(visit))
        if not error:
            pthread_join(thread, cython.NULL)
    if error:
        raise OSError(error, "no thread could be started")
    return visit.owned


def visit_thread(argument: cython.p_void) -> cython.p_void:
    visit: cython.pointer[Visit] = cython.cast(cython.pointer[Visit], argument)
    with cython.gil:
        try:
            visit.owned = array_is_owned(cython.cast(object, visit.empty)(1024))
        except Exception:
            visit.owned = False
    return cython.NULL


def array_is_owned(array) -> cython.bint:
    view = cython.declare(Py_buffer)
    PyObject_GetBuffer(array, cython.address(view), PyBUF_SIMPLE)
    owned: cython.bint = heap_owns(view.buf)
    PyBuffer_Release(cython.address(view))
    return owned
