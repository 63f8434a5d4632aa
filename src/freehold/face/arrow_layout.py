# cython: language_level=3
"""What Arrow's library, as it is loaded in this process, says of its memory pools; and a pool of ours tried with it.

Thread-safety: under the GIL, and the lock of freehold.arrow_import.
Does not: trust a version, or call anything of the library but pyarrow's own functions.
"""

import cython
from cython.cimports.cpython.pycapsule import PyCapsule_GetName, PyCapsule_GetPointer
from cython.cimports.freehold.core.heap import heap_owns
from cython.cimports.freehold.face.arrow_layout import (
    ALLOCATE,
    BACKEND_NAME,
    BEFORE,
    BYTES_ALLOCATED,
    CALLS_ARE_KNOWN,
    DESTRUCTORS,
    FREE,
    KINDS,
    MAX_MEMORY,
    MOST_SLOTS,
    NUM_ALLOCATIONS,
    PRINT_STATS,
    REALLOCATE,
    RELEASE_UNUSED,
    RTLD_LAZY,
    RTLD_NOLOAD,
    TOTAL_BYTES_ALLOCATED,
    BoxPool,
    DefaultPool,
    Layout,
    MakeStatus,
    OperatorDelete,
    OperatorNew,
    dlopen,
    dlsym,
    symbol_bytes,
)
from cython.cimports.libc.stdint import uintptr_t

# Each function's names in the library, the likelier first, as g++ writes them: with what it takes.
NAMES = {
    ALLOCATE: (b"_ZN5arrow15ProxyMemoryPool8AllocateEllPPh",),
    REALLOCATE: (b"_ZN5arrow15ProxyMemoryPool10ReallocateElllPPh",),
    FREE: (b"_ZN5arrow15ProxyMemoryPool4FreeEPhll",),
    BYTES_ALLOCATED: (b"_ZNK5arrow15ProxyMemoryPool15bytes_allocatedEv",),
    MAX_MEMORY: (b"_ZNK5arrow15ProxyMemoryPool10max_memoryEv",),
    TOTAL_BYTES_ALLOCATED: (b"_ZNK5arrow15ProxyMemoryPool21total_bytes_allocatedEv",),
    NUM_ALLOCATIONS: (b"_ZNK5arrow15ProxyMemoryPool15num_allocationsEv",),
    BACKEND_NAME: (b"_ZNK5arrow15ProxyMemoryPool12backend_nameB5cxx11Ev",),
    RELEASE_UNUSED: (b"_ZN5arrow15ProxyMemoryPool13ReleaseUnusedEv", b"_ZN5arrow10MemoryPool13ReleaseUnusedEv"),
    PRINT_STATS: (b"_ZN5arrow15ProxyMemoryPool10PrintStatsEv", b"_ZN5arrow10MemoryPool10PrintStatsEv"),
}
TABLE = b"_ZTVN5arrow15ProxyMemoryPoolE"  # of the one class of pools whose functions have names in the library
TYPEINFO = b"_ZTIN5arrow10MemoryPoolE"
DEFAULT_POOL = b"_ZN5arrow19default_memory_poolEv"
STATUS = (  # arrow::Status(StatusCode, std::string), or with a const reference to the string: both are called alike
    b"_ZN5arrow6StatusC1ENS_10StatusCodeENSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
    b"_ZN5arrow6StatusC1ENS_10StatusCodeERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
)


def look(lib, into: uintptr_t) -> None:
    """Write into a `Layout` what pyarrow's C module, and the libraries that it was loaded with, say.

    Raises:
        RuntimeError: they are not as freehold knows them.
    """
    if not CALLS_ARE_KNOWN:
        raise RuntimeError("how its C++ returns objects is known on x86-64 alone")
    layout: cython.pointer[Layout] = cython.cast(cython.pointer[Layout], into)
    # A symbol is looked for in the module, and then in the libraries that it needs: those that are loaded already.
    handle: cython.p_void = dlopen(lib.__file__.encode(), RTLD_LAZY | RTLD_NOLOAD)
    if handle == cython.NULL:
        raise RuntimeError(f"{lib.__file__} is no library that is loaded")
    look_at_table(layout, handle)
    layout.typeinfo = need(handle, (TYPEINFO,))
    layout.make_status = cython.cast(MakeStatus, need(handle, STATUS))
    layout.operator_new = cython.cast(OperatorNew, need(handle, (b"_Znwm",)))
    layout.operator_delete = cython.cast(OperatorDelete, need(handle, (b"_ZdlPv",)))
    layout.default_pool = cython.cast(DefaultPool, need(handle, (DEFAULT_POOL,)))
    box: object = lib.__pyx_capi__["box_memory_pool"]
    layout.box = cython.cast(BoxPool, PyCapsule_GetPointer(box, PyCapsule_GetName(box)))


def look_at_table(layout: cython.pointer[Layout], handle: cython.p_void) -> object:
    """Note which function stands where. Every one must be known."""
    table: cython.pp_void = cython.cast(cython.pp_void, need(handle, (TABLE,)))
    slots: cython.int = cython.cast(cython.int, symbol_bytes(table) // cython.sizeof(cython.p_void)) - BEFORE
    if slots < 0:
        raise RuntimeError("this C library does not tell how long a memory pool's table is")
    if slots > MOST_SLOTS:
        raise RuntimeError(f"a memory pool's table has {slots} functions")
    places: set = set(range(DESTRUCTORS))
    kind: cython.int
    i: cython.int
    for kind in range(KINDS):
        function: cython.p_void = find(handle, NAMES[kind])
        layout.at[kind] = -1
        for i in range(DESTRUCTORS, slots):
            if function != cython.NULL and table[BEFORE + i] == function:
                layout.at[kind] = i
                places.add(i)
        if layout.at[kind] < 0 and kind != PRINT_STATS:
            raise RuntimeError(f"a memory pool's table has no {NAMES[kind][0].decode()}")
    if len(places) != slots:
        unknown: list = [i for i in range(slots) if i not in places]
        raise RuntimeError(f"a memory pool's table has functions that are not known: {unknown} of {slots}")
    return None


def find(handle: cython.p_void, names: tuple) -> cython.p_void:
    at: cython.p_void = cython.NULL
    for name in names:
        if at == cython.NULL:
            at = dlsym(handle, cython.cast(bytes, name))
    return at


def need(handle: cython.p_void, names: tuple) -> cython.p_void:
    at: cython.p_void = find(handle, names)
    if at == cython.NULL:
        raise RuntimeError(f"its library has no {names[0].decode()}")
    return at


def what_is_wrong(lib, pool) -> str:
    """Have Arrow's own code use a pool of ours; return an empty text if that does what it should."""
    if pool.backend_name != "freehold":
        return f"the pool's name is {pool.backend_name!r}"
    block: object = lib.allocate_buffer(1000, pool, resizable=True)
    if not owns(block.address):
        return "what is allocated is not on the heap"
    if pool.bytes_allocated() < 1000 or pool.max_memory() < 1000:
        return "what is allocated is not counted"
    block.resize(300_000)
    if not owns(block.address) or pool.bytes_allocated() < 300_000:
        return "what has grown is not on the heap"
    block = None
    if pool.bytes_allocated() != 0:
        return "what is freed is still counted"
    try:
        lib.allocate_buffer(1 << 61, pool)
    except MemoryError as refusal:
        return "" if "freehold" in str(refusal) else f"a refusal says {refusal}"
    return "what can not be was allocated"


def owns(address: uintptr_t) -> bool:
    """Return whether an address lies in memory of the heap."""
    return heap_owns(cython.cast(cython.p_void, address))
