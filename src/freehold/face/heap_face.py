# cython: language_level=3
"""A heap as Python holds it: `Core`, and the memory handler through which NumPy's arrays come to live there (NEP 49).

Thread-safety: every method under the GIL; those that may take long release it, and closing waits for them. The hooks
run on any thread; NumPy calls those that take memory with the GIL held.
Invariants: whoever has a block of the heap holds its `Core`: arrays through their handler's capsule, `Block` itself. So
a heap that nobody holds has no block; but for those of a tenant (see tenant.pxd), to which it is left then.
Does not parse options or name what is wrong with them (freehold.heap does).
"""

import time

import cython
from cython.cimports.cpython.mem import PyMem_Free, PyMem_Malloc
from cython.cimports.cpython.pycapsule import (
    PyCapsule_GetContext,
    PyCapsule_GetPointer,
    PyCapsule_New,
    PyCapsule_SetContext,
)
from cython.cimports.cpython.ref import Py_DECREF, Py_INCREF
from cython.cimports.freehold.core.account import HeapStats
from cython.cimports.freehold.core.heap import (
    heap_allocate_in,
    heap_allocate_zeroed_in,
    heap_boot,
    heap_check_of,
    heap_deallocate,
    heap_left,
    heap_owns,
    heap_purge_of,
    heap_read_stats_of,
    heap_reallocate_as,
    heap_set_limit,
    heap_usable_size,
)
from cython.cimports.freehold.core.heaps import heaps_close, heaps_open
from cython.cimports.freehold.core.home import HeapConfig, home_set_name
from cython.cimports.freehold.core.sampling import SOURCE_BLOCK, SOURCE_NUMPY, sampling_source
from cython.cimports.freehold.core.vm import vm_bind, vm_facts, vm_map, vm_populate, vm_unmap_metadata
from cython.cimports.freehold.face.heap_face import NUMPY_SET_HANDLER, Context, SetHandler
from cython.cimports.freehold.face.numpy_handler import (
    FIRST_WITH_HANDLERS,
    NUMPY_FEATURE_VERSION,
    NUMPY_GET_HANDLER,
    FeatureVersion,
    GetHandler,
    NumpyHandler,
)
from cython.cimports.freehold.face.tenant import (
    Tenant,
    tenant_inherits,
    tenant_is_inside,
    tenant_live,
    tenant_open,
    tenant_shut,
    tenant_wait,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t, uintptr_t
from cython.cimports.libc.string import memset, strncpy

NO_LIMIT = (1 << 64) - 1
ALIGNMENT = cython.declare(cython.const[cython.size_t], 64)


@cython.final
@cython.cclass
class Core:
    """One heap.

    Args:
        limit: bytes, or `NO_LIMIT`.
        decay_ns: how long idle memory is kept; 2^64 - 1: for ever.
        numa_node: -1: any.
        huge_pages: 0 never, 1 where they pay, 2 everywhere.
        secure: see docs/heaps.md.
    """

    __weakref__ = cython.declare(object)
    _context: Context
    _ask: object
    _inside: cython.int
    _closing: cython.bint
    _tenant: cython.pointer[Tenant]
    refusals = cython.declare(cython.ulonglong, visibility="readonly")
    last_asked = cython.declare(cython.ulonglong, visibility="readonly")

    def __cinit__(
        self, limit: uint64_t, decay_ns: uint64_t, numa_node: cython.int, huge_pages: cython.int, secure: cython.bint
    ):
        error: cython.int = heap_boot()
        config = cython.declare(HeapConfig)
        config.limit = limit
        config.decay_ns = decay_ns
        config.node = numa_node
        config.huge_pages = huge_pages
        config.secure = secure
        self._context.core = cython.cast(cython.p_void, self)
        if not error:
            with cython.nogil:
                error = heaps_open(cython.address(config), cython.address(self._context.heap))
        if error:
            self._context.heap = cython.NULL
            raise OSError(error, "no heap could be opened")

    def __dealloc__(self):
        if self._context.heap == cython.NULL:
            return
        if self._tenant != cython.NULL:
            tenant_shut(self._tenant)  # before anything that lets go of the GIL
            alone: cython.bint
            with cython.nogil:
                alone = tenant_wait(self._tenant)
            if not alone or tenant_inherits(self._tenant):
                return
        self._end(True)

    @cython.cfunc
    def _end(self, force: cython.bint) -> tuple:
        blocks: uint64_t = 0
        bytes: uint64_t = 0
        told: cython.int
        with cython.nogil:
            told = heaps_close(self._context.heap, force, cython.address(blocks), cython.address(bytes))
        if told == 0:
            self._context.heap = cython.NULL
        return told == 0, blocks, bytes

    @property
    def closed(self) -> bool:
        return self._context.heap == cython.NULL

    def set_name(self, name: bytes) -> None:
        """Say what others who look at this process's heaps see it called."""
        home_set_name(self._context.heap, name)

    def ask(self, callback) -> None:
        """Have `callback(asked)` asked before a request is refused: true: try again."""
        self._ask = callback
        self._context.asks = callback is not None

    def close(self, force: cython.bint) -> tuple:
        """Return whether it is closed now, and how many blocks and bytes were live."""
        while self._inside or self._closing:  # another thread purges, reads, or closes
            time.sleep(0.0005)
        if self._context.heap == cython.NULL:
            return True, 0, 0
        if self._tenant != cython.NULL and tenant_live(self._tenant) and not force:
            stats: dict = self.stats()
            return False, stats["blocks"], stats["allocated"]
        self._closing = True
        if self._tenant != cython.NULL:
            tenant_shut(self._tenant)
            while tenant_is_inside(self._tenant):
                time.sleep(0.0005)
        told: tuple = self._end(force)
        if self._tenant != cython.NULL and not told[0]:
            tenant_open(self._tenant)
        self._closing = False
        return told

    def lodge(self, address: uintptr_t) -> None:
        """Have a `Tenant` that stays for ever take memory here; it is told when the heap ends."""
        self._tenant = cython.cast(cython.pointer[Tenant], address)
        self._tenant.heap = self._context.heap
        self._tenant.context = cython.address(self._context)

    # ---- blocks ----

    def allocate(self, size: cython.size_t, alignment: cython.size_t, zero: cython.bint) -> int:
        """Return the address of a new block; 0: refused, also after asking."""
        p: cython.p_void = core_take(cython.address(self._context), size, alignment, zero, SOURCE_BLOCK)
        return cython.cast(uintptr_t, p)

    def resize(self, address: uintptr_t, size: cython.size_t, alignment: cython.size_t) -> int:
        """Return where a block of the heap is now; 0: refused, and it is where it was."""
        p: cython.p_void = core_move(
            cython.address(self._context), cython.cast(cython.p_void, address), size, alignment, SOURCE_BLOCK
        )
        return cython.cast(uintptr_t, p)

    def refused(self, asked: cython.size_t) -> bool:
        """Note a refusal and ask whether to try again."""
        again: bool = self._ask is not None and bool(self._ask(asked))
        if not again:
            self.refusals += 1
            self.last_asked = asked
        return again

    # ---- figures ----

    def stats(self) -> dict:
        stats = cython.declare(HeapStats)
        self._enter()
        with cython.nogil:
            heap_read_stats_of(self._context.heap, cython.address(stats))
        self._inside -= 1
        return stats

    def purge(self) -> int:
        """Give everything idle back now; return how many bytes that were."""
        self._enter()
        given_back: uint64_t
        with cython.nogil:
            given_back = heap_purge_of(self._context.heap)
        self._inside -= 1
        return given_back

    def check(self) -> int:
        """Return 0, or the number of the law that is broken."""
        self._enter()
        broken: cython.int
        with cython.nogil:
            broken = heap_check_of(self._context.heap)
        self._inside -= 1
        return broken

    def set_limit(self, limit: uint64_t) -> bool:
        """Set the limit; False, and nothing changes, if more is in use."""
        self._enter()
        done: cython.bint
        with cython.nogil:
            done = heap_set_limit(self._context.heap, limit)
        self._inside -= 1
        return done

    def left(self) -> int:
        """Return the bytes to the limit."""
        self._enter()
        self._inside -= 1
        return heap_left(self._context.heap)

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def _enter(self) -> cython.int:
        if self._context.heap == cython.NULL:
            raise ValueError("the heap is closed")
        self._inside += 1
        return 0

    # ---- NumPy ----

    def capsule(self, name: bytes):
        """Return a memory handler for NumPy whose arrays live here; it holds this object."""
        handler: cython.pointer[NumpyHandler] = cython.cast(
            cython.pointer[NumpyHandler], PyMem_Malloc(cython.sizeof(NumpyHandler))
        )
        if handler == cython.NULL:
            raise MemoryError
        memset(handler, 0, cython.sizeof(NumpyHandler))
        strncpy(handler.name, name, 126)
        handler.version = 1
        handler.ctx = cython.address(self._context)
        handler.malloc = core_malloc
        handler.calloc = core_calloc
        handler.realloc = core_realloc
        handler.free = core_free
        capsule: object = PyCapsule_New(handler, "mem_handler", core_forget)
        PyCapsule_SetContext(capsule, cython.cast(cython.p_void, self))
        Py_INCREF(self)
        return capsule


@cython.cfunc
@cython.exceptval(check=False)
def core_forget(capsule: object) -> cython.void:
    """The last array that lived there is gone, and so is whoever else had the handler."""
    PyMem_Free(PyCapsule_GetPointer(capsule, "mem_handler"))
    Py_DECREF(cython.cast(object, PyCapsule_GetContext(capsule)))


# ---- the hooks ----


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def core_take(
    context: cython.pointer[Context],
    size: cython.size_t,
    alignment: cython.size_t,
    zero: cython.bint,
    source: uint32_t,
) -> cython.p_void:
    before: uint32_t = sampling_source(source)
    p: cython.p_void = cython.NULL
    again: cython.bint = context.heap != cython.NULL
    while again:
        if zero:
            p = heap_allocate_zeroed_in(context.heap, size, alignment)
        else:
            p = heap_allocate_in(context.heap, size, alignment)
        again = p == cython.NULL and core_refused(context, size) and context.heap != cython.NULL
    sampling_source(before)
    return p


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def core_move(
    context: cython.pointer[Context],
    p: cython.p_void,
    size: cython.size_t,
    alignment: cython.size_t,
    source: uint32_t,
) -> cython.p_void:
    new: cython.p_void = heap_reallocate_as(p, size, alignment, source)
    while new == cython.NULL and context.heap != cython.NULL and core_refused(context, size):
        new = heap_reallocate_as(p, size, alignment, source)
    return new


@cython.cfunc
@cython.exceptval(check=False)
@cython.with_gil
def core_refused(context: cython.pointer[Context], size: cython.size_t) -> cython.bint:
    """Whether to try again; what the callback raises is for `sys.unraisablehook`, and means no."""
    try:
        return cython.cast(Core, context.core).refused(size)
    except Exception as problem:
        import sys

        sys.excepthook(type(problem), problem, problem.__traceback__)
        return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def core_malloc(ctx: cython.p_void, size: cython.size_t) -> cython.p_void:
    return core_take(cython.cast(cython.pointer[Context], ctx), size, ALIGNMENT, False, SOURCE_NUMPY)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def core_calloc(ctx: cython.p_void, count: cython.size_t, size: cython.size_t) -> cython.p_void:
    if size != 0 and count > ~cython.cast(cython.size_t, 0) // size:
        return cython.NULL
    return core_take(cython.cast(cython.pointer[Context], ctx), count * size, ALIGNMENT, True, SOURCE_NUMPY)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def core_realloc(ctx: cython.p_void, p: cython.p_void, size: cython.size_t) -> cython.p_void:
    if p == cython.NULL:
        return core_malloc(ctx, size)
    if not heap_owns(p):  # no array of this handler has such data
        return cython.NULL
    return core_move(cython.cast(cython.pointer[Context], ctx), p, size + (size == 0), ALIGNMENT, SOURCE_NUMPY)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def core_free(ctx: cython.p_void, p: cython.p_void, size: cython.size_t) -> cython.void:
    heap_deallocate(p)


# ---- for whoever has a block ----


def deallocate(address: uintptr_t) -> None:
    heap_deallocate(cython.cast(cython.p_void, address))


def usable_size(address: uintptr_t) -> int:
    return heap_usable_size(cython.cast(cython.p_void, address))


def populate(address: uint64_t, size: uint64_t) -> int:
    """Have the OS pages around a range resident now; return 0 or the errno."""
    page: uint64_t = vm_facts().page_size
    start: uint64_t = address & ~(page - 1)
    end: uint64_t = (address + size + page - 1) & ~(page - 1)
    error: cython.int = 0
    with cython.nogil:
        if end > start:
            error = vm_populate(start, end - start)
    return error


def can_bind(numa_node: cython.int) -> int:
    """Return 0, or the errno with which the OS refuses to bind memory to a node."""
    at: uint64_t = 0
    error: cython.int = vm_map(vm_facts().page_size, cython.address(at))
    if not error:
        error = vm_bind(at, vm_facts().page_size, numa_node)
        vm_unmap_metadata(at, vm_facts().page_size)
    return error


def swap_handler(umath, capsule):
    """Set the memory handler of this context; return the one before."""
    table: cython.pp_void = cython.cast(cython.pp_void, PyCapsule_GetPointer(umath._ARRAY_API, cython.NULL))
    if cython.cast(FeatureVersion, table[NUMPY_FEATURE_VERSION])() < FIRST_WITH_HANDLERS:
        raise RuntimeError("this NumPy is too old: it has no memory handlers (1.22 has)")
    return cython.cast(SetHandler, table[NUMPY_SET_HANDLER])(capsule)


def current_handler(umath):
    """Return the memory handler of this context."""
    table: cython.pp_void = cython.cast(cython.pp_void, PyCapsule_GetPointer(umath._ARRAY_API, cython.NULL))
    return cython.cast(GetHandler, table[NUMPY_GET_HANDLER])()
