# cython: language_level=3
"""Arrow's memory pools on the heap: its default pool, redirected (`take`), and pools of other heaps (`open_pool`).

Thread-safety: the functions of a pool run on any thread at any time, with or without the GIL; all else under the GIL,
and under the lock of freehold.arrow_import.
Invariants: the default pool is redirected once, and never back: where *new* blocks come from, a flag says, and where a
block goes back to or grows, its address. A pool is never freed. Only tables whose every function is known are written.
Does not: include or link anything of Arrow's, import pyarrow, or trust a version where it can look.
"""

import cython
from cython.cimports.cpython.mem import PyMem_RawCalloc
from cython.cimports.freehold.core.account import HeapStats
from cython.cimports.freehold.core.heap import (
    heap_allocate_as,
    heap_allocate_in,
    heap_boot,
    heap_deallocate,
    heap_left,
    heap_of,
    heap_owns,
    heap_purge,
    heap_purge_of,
    heap_read_stats_of,
    heap_reallocate_as,
)
from cython.cimports.freehold.core.heaps import heaps_close
from cython.cimports.freehold.core.sampling import SOURCE_ARROW, sampling_source
from cython.cimports.freehold.face.arrow_layout import (
    ALLOCATE,
    BACKEND_NAME,
    BEFORE,
    BYTES_ALLOCATED,
    DESTRUCTORS,
    FREE,
    MAX_MEMORY,
    MOST_SLOTS,
    NUM_ALLOCATIONS,
    PRINT_STATS,
    REALLOCATE,
    RELEASE_UNUSED,
    STATUS_INVALID,
    STATUS_OUT_OF_MEMORY,
    TOTAL_BYTES_ALLOCATED,
    Layout,
    StdString,
)
from cython.cimports.freehold.face.arrow_pool import (
    LINE,
    SAFE_ALIGNMENT,
    Act,
    Allocate,
    BackendName,
    Counts,
    Figure,
    Free,
    Pool,
    Reallocate,
    Table,
    at_fork_in_child,
    count,
    count_more,
    counted,
    file_of,
    memcpy,
    no_bytes,
    publish,
    same_file,
    snprintf,
    strlen,
)
from cython.cimports.freehold.face.tenant import (
    MARK,
    tenant_enter,
    tenant_freed,
    tenant_is_shut,
    tenant_leave,
    tenant_took,
)
from cython.cimports.libc.stdint import int64_t, uint8_t, uint32_t, uint64_t, uintptr_t

from freehold.face import arrow_layout

the_layout = cython.declare(Layout)  # of Arrow's library
the_layout_is_known = cython.declare(cython.bint)  # and tried: the layout and both tables are constant from then on
the_pool = cython.declare(cython.p_void)  # Arrow's default one; NULL until it is taken; constant from then on
before = cython.declare(cython.pp_void)  # the functions that it had; constant once it is taken
the_default_is_active = cython.declare(cython.bint)  # new blocks are ours; written under the GIL, read by anyone
the_default_counts = cython.declare(Counts)
the_default_table = cython.declare(Table)  # constant once the pool is taken
the_stand_in = cython.declare(cython.pp_void)  # what the default pool's new functions are tried with
the_table = cython.declare(Table)  # of heaps' pools; constant once the layout is known
the_pools = cython.declare(cython.pointer[Pool])  # all there are, the last one first


# ---- what all functions of pools share: no Python, no GIL ----


def refuse(result: cython.pp_void, code: cython.int, text: cython.p_const_char) -> cython.p_void:
    """Make a Status that is no success, as Arrow's own code does: it copies the text, or takes it over."""
    string = cython.declare(StdString)
    n: cython.size_t = strlen(text)
    string.text = cython.cast(cython.p_char, the_layout.operator_new(n + 1))
    memcpy(string.text, text, n + 1)
    string.size = n
    cython.cast(cython.pointer[cython.size_t], string.here)[0] = n  # the room behind a text that is not short
    mine: cython.p_char = string.text
    the_layout.make_status(result, code, cython.address(string))
    if string.text == mine:
        the_layout.operator_delete(mine)
    return result


def refuse_size(result: cython.pp_void, size: int64_t, alignment: int64_t) -> cython.p_void:
    text = cython.declare(cython.char[128])
    if size < 0:
        return refuse(result, STATUS_INVALID, b"freehold: a negative size")
    if alignment <= 0 or alignment & (alignment - 1):
        snprintf(text, cython.sizeof(text), b"freehold: an alignment of %ld", alignment)
        return refuse(result, STATUS_INVALID, text)
    snprintf(text, cython.sizeof(text), b"freehold: the operating system has no more memory (asked %ld bytes)", size)
    return refuse(result, STATUS_OUT_OF_MEMORY, text)


def move_aligned(p: cython.p_void, old: cython.size_t, size: cython.size_t, alignment: cython.size_t) -> cython.p_void:
    """Resize a block: where it is, if it can be, and lies well enough. NULL: it could not be, and is as it was."""
    if cython.likely(cython.cast(uintptr_t, p) & (alignment - 1) == 0):
        return heap_reallocate_as(p, size, alignment, SOURCE_ARROW)
    source: uint32_t = sampling_source(SOURCE_ARROW)
    new: cython.p_void = heap_allocate_in(heap_of(p), size, alignment)
    sampling_source(source)
    if new != cython.NULL:
        memcpy(new, p, old if old < size else size)
        heap_deallocate(p)
    return new


# ---- Arrow's default pool ----


def default_allocate(
    result: cython.pp_void,
    pool: cython.p_void,
    size: int64_t,
    alignment: int64_t,
    out: cython.pointer[cython.pointer[uint8_t]],
) -> cython.p_void:
    """The way of nearly all: the switch, this thread's cache, and the counters, which lie side by side."""
    if cython.unlikely(not the_default_is_active):
        return cython.cast(Allocate, before[the_layout.at[ALLOCATE]])(result, the_pool, size, alignment, out)
    p: cython.p_void = cython.NULL
    if cython.likely(size > 0 and alignment == LINE):
        p = heap_allocate_as(size, LINE, SOURCE_ARROW)
    elif size == 0 and 0 < alignment <= SAFE_ALIGNMENT:
        p = no_bytes
    elif size >= 0 and alignment > 0:
        p = heap_allocate_as(size + (size == 0), alignment, SOURCE_ARROW)
    if cython.unlikely(p == cython.NULL):
        return refuse_size(result, size, alignment)
    out[0] = cython.cast(cython.pointer[uint8_t], p)
    count_more(cython.address(the_default_counts), size, before_figure(BYTES_ALLOCATED))
    result[0] = cython.NULL
    return result


def default_reallocate(
    result: cython.pp_void,
    pool: cython.p_void,
    old: int64_t,
    size: int64_t,
    alignment: int64_t,
    p: cython.pointer[cython.pointer[uint8_t]],
) -> cython.p_void:
    """A block grows where it is at home. What has no bytes yet, has no home: it begins where new blocks do."""
    ours: cython.bint = heap_owns(p[0])
    if not ours and old == 0:
        return default_begin(result, size, alignment, p)
    if not ours:
        return cython.cast(Reallocate, before[the_layout.at[REALLOCATE]])(result, the_pool, old, size, alignment, p)
    new: cython.p_void = cython.NULL
    if size > 0 and alignment > 0:
        new = move_aligned(p[0], old, size, alignment)
    elif size == 0:
        heap_deallocate(p[0])
        new = no_bytes
    if cython.unlikely(new == cython.NULL):
        return refuse_size(result, size, alignment)
    p[0] = cython.cast(cython.pointer[uint8_t], new)
    count_more(cython.address(the_default_counts), size - old, before_figure(BYTES_ALLOCATED))
    result[0] = cython.NULL
    return result


def default_begin(
    result: cython.pp_void, size: int64_t, alignment: int64_t, p: cython.pointer[cython.pointer[uint8_t]]
) -> cython.p_void:
    nothing: cython.pointer[uint8_t] = p[0]
    default_allocate(result, the_pool, size, alignment, p)
    if result[0] != cython.NULL:
        p[0] = nothing
    elif nothing != no_bytes:  # it was made by the pool before: let it count that
        default_free(the_pool, nothing, 0, alignment)
    return result


def default_free(pool: cython.p_void, p: cython.pointer[uint8_t], size: int64_t, alignment: int64_t) -> cython.void:
    if cython.likely(heap_owns(p)):
        heap_deallocate(p)
        count(cython.address(the_default_counts.bytes), -size)
    elif p != no_bytes and before != cython.NULL:
        cython.cast(Free, before[the_layout.at[FREE]])(the_pool, p, size, alignment)


def before_figure(kind: cython.int) -> int64_t:
    if before == cython.NULL:  # while it is tried: see _try
        return 0
    return cython.cast(Figure, before[the_layout.at[kind]])(the_pool)


def default_bytes(pool: cython.p_void) -> int64_t:
    return counted(cython.address(the_default_counts.bytes)) + before_figure(BYTES_ALLOCATED)


def default_most(pool: cython.p_void) -> int64_t:
    """Highest that both together were while new blocks were ours, or the other one alone before."""
    most: int64_t = counted(cython.address(the_default_counts.most))
    theirs: int64_t = before_figure(MAX_MEMORY)
    return most if most > theirs else theirs


def default_total(pool: cython.p_void) -> int64_t:
    return counted(cython.address(the_default_counts.total)) + before_figure(TOTAL_BYTES_ALLOCATED)


def default_number(pool: cython.p_void) -> int64_t:
    return counted(cython.address(the_default_counts.number)) + before_figure(NUM_ALLOCATIONS)


def default_name(result: cython.pointer[StdString], pool: cython.p_void) -> cython.p_void:
    if not the_default_is_active:
        return cython.cast(BackendName, before[the_layout.at[BACKEND_NAME]])(result, the_pool)
    return pool_name(result, cython.NULL)


def default_release(pool: cython.p_void) -> cython.void:
    if before != cython.NULL:
        cython.cast(Act, before[the_layout.at[RELEASE_UNUSED]])(the_pool)
    heap_purge()


# ---- the pool of a heap ----


def pool_allocate(
    result: cython.pp_void,
    pool: cython.pointer[Pool],
    size: int64_t,
    alignment: int64_t,
    out: cython.pointer[cython.pointer[uint8_t]],
) -> cython.p_void:
    if cython.unlikely(size < 0 or alignment <= 0 or alignment & (alignment - 1)):
        return refuse_size(result, size, alignment)
    if size == 0 and alignment <= SAFE_ALIGNMENT:
        out[0] = no_bytes
        count_more(cython.address(pool.counts), 0, 0)
        result[0] = cython.NULL
        return result
    if not tenant_enter(cython.address(pool.tenant)):
        return refuse_closed(result, pool)
    shut: cython.bint = False
    p: cython.p_void = pool_take(pool, cython.NULL, 0, size + (size == 0), alignment, cython.address(shut))
    if cython.unlikely(shut):
        return refuse_closed(result, pool)
    if cython.unlikely(p == cython.NULL):
        refuse_in_pool(result, pool, size)
    else:
        tenant_took(cython.address(pool.tenant))
        out[0] = cython.cast(cython.pointer[uint8_t], p)
        count_more(cython.address(pool.counts), size, 0)
        result[0] = cython.NULL
    tenant_leave(cython.address(pool.tenant))
    return result


def pool_reallocate(
    result: cython.pp_void,
    pool: cython.pointer[Pool],
    old: int64_t,
    size: int64_t,
    alignment: int64_t,
    p: cython.pointer[cython.pointer[uint8_t]],
) -> cython.p_void:
    if p[0] == no_bytes:
        return pool_allocate(result, pool, size, alignment, p)
    if size == 0 and alignment <= SAFE_ALIGNMENT:
        pool_free(pool, p[0], old, alignment)
        p[0] = no_bytes
        result[0] = cython.NULL
        return result
    if cython.unlikely(size <= 0 or alignment <= 0 or alignment & (alignment - 1)):
        return refuse_size(result, size, alignment)
    new: cython.p_void = p[0]
    shut: cython.bint = not tenant_enter(cython.address(pool.tenant))
    if cython.likely(not shut):
        new = pool_take(pool, p[0], old, size, alignment, cython.address(shut))
        if cython.likely(not shut):
            if cython.unlikely(new == cython.NULL):
                refuse_in_pool(result, pool, size)
            tenant_leave(cython.address(pool.tenant))
    if cython.unlikely(shut):  # what shrinks in a closed heap may stay as it is
        if size > old:
            return refuse_closed(result, pool)
        new = p[0]
    if new != cython.NULL:
        p[0] = cython.cast(cython.pointer[uint8_t], new)
        count_more(cython.address(pool.counts), size - old, 0)
        result[0] = cython.NULL
    return result


def pool_free(pool: cython.pointer[Pool], p: cython.pointer[uint8_t], size: int64_t, alignment: int64_t) -> cython.void:
    """Of a closed heap, too; the last one closes it where the Heap is gone already."""
    if p == no_bytes:
        return
    heap_deallocate(p)
    count(cython.address(pool.counts.bytes), -size)
    blocks: uint64_t = 0
    bytes: uint64_t = 0
    if cython.unlikely(tenant_freed(cython.address(pool.tenant))):
        heaps_close(pool.tenant.heap, True, cython.address(blocks), cython.address(bytes))


def pool_take(
    pool: cython.pointer[Pool],
    p: cython.p_void,
    old: cython.size_t,
    size: cython.size_t,
    alignment: cython.size_t,
    shut: cython.pointer[cython.bint],
) -> cython.p_void:
    """Allocate, or resize a block; ask `on_limit` where that is refused. For who has entered; *shut*: and is out."""
    new: cython.p_void = cython.NULL
    source: uint32_t = sampling_source(SOURCE_ARROW)
    again: cython.bint = True
    while again:
        if p == cython.NULL:
            new = heap_allocate_in(pool.tenant.heap, size, alignment)
        else:
            new = move_aligned(p, old, size, alignment)
        again = new == cython.NULL and pool.tenant.context.asks and pool_asks(pool, size, shut)
    sampling_source(source)
    return new


@cython.cfunc
@cython.exceptval(check=False)
@cython.with_gil
def pool_asks(pool: cython.pointer[Pool], size: cython.size_t, shut: cython.pointer[cython.bint]) -> cython.bint:
    """Whether to try again. Nobody waits meanwhile for who is asked: it is outside, and comes in again if it may.

    Under the GIL a Core lives whose tenant is not shut: its end begins with that.
    """
    if tenant_is_shut(cython.address(pool.tenant)):
        return False
    core: object = cython.cast(object, pool.tenant.context.core)
    tenant_leave(cython.address(pool.tenant))
    again: cython.bint = False
    try:
        again = core.refused(size)
    except Exception as problem:  # Arrow's code has nowhere to raise it
        import sys

        sys.excepthook(type(problem), problem, problem.__traceback__)
    core = None  # if this was the last to hold it, it ends here, and waits for nobody
    shut[0] = not tenant_enter(cython.address(pool.tenant))
    return again and not shut[0]


def refuse_in_pool(result: cython.pp_void, pool: cython.pointer[Pool], size: int64_t) -> cython.p_void:
    """Say what `LimitError` says. For who has entered."""
    stats = cython.declare(HeapStats)
    heap_read_stats_of(pool.tenant.heap, cython.address(stats))
    if stats.limit == ~cython.cast(uint64_t, 0) or not stats.refused:
        return refuse_size(result, size, LINE)
    text = cython.declare(cython.char[256])
    snprintf(
        text,
        cython.sizeof(text),
        b"freehold: heap '%s': asked %ld bytes, in use %lu, limit %lu, largest free run %lu",
        cython.cast(cython.p_char, pool.name),
        size,
        stats.used,
        stats.limit,
        heap_left(pool.tenant.heap),
    )
    return refuse(result, STATUS_OUT_OF_MEMORY, text)


def refuse_closed(result: cython.pp_void, pool: cython.pointer[Pool]) -> cython.p_void:
    text = cython.declare(cython.char[128])
    snprintf(text, cython.sizeof(text), b"freehold: heap '%s' is closed", cython.cast(cython.p_char, pool.name))
    return refuse(result, STATUS_OUT_OF_MEMORY, text)


def pool_bytes(pool: cython.pointer[Pool]) -> int64_t:
    return counted(cython.address(pool.counts.bytes))


def pool_most(pool: cython.pointer[Pool]) -> int64_t:
    return counted(cython.address(pool.counts.most))


def pool_total(pool: cython.pointer[Pool]) -> int64_t:
    return counted(cython.address(pool.counts.total))


def pool_number(pool: cython.pointer[Pool]) -> int64_t:
    return counted(cython.address(pool.counts.number))


def pool_name(result: cython.pointer[StdString], pool: cython.pointer[Pool]) -> cython.p_void:
    result.text = result.here
    result.size = 8
    memcpy(result.here, b"freehold", 9)
    return result


def pool_release(pool: cython.pointer[Pool]) -> cython.void:
    if tenant_enter(cython.address(pool.tenant)):
        heap_purge_of(pool.tenant.heap)
        tenant_leave(cython.address(pool.tenant))


def pool_stays(pool: cython.pointer[Pool]) -> cython.void:
    """Where a destructor is expected: a pool outlives everybody."""
    return


def pools_forked() -> cython.void:
    """In a forked child: the threads that were inside are not in it."""
    pool: cython.pointer[Pool] = the_pools
    while pool != cython.NULL:
        pool.tenant.inside &= MARK
        pool = pool.next


# ---- trying ----

FIRST_FOR_HEAPS = 17  # pyarrow's major versions that this was tried with
FIRST_FOR_DEFAULT = 20


@cython.cfunc
def _learn(lib, first: cython.int) -> object:
    """Look up, once, what Arrow's library looks like, and try a pool of ours in it.

    Raises:
        RuntimeError: it is not as freehold knows it.
    """
    global the_layout_is_known
    version = getattr(getattr(lib, "cpp_version_info", None), "major", 0)
    if version < first:
        raise RuntimeError(f"its version is {version}, and {first} the first that freehold knows")
    if the_layout_is_known:
        return None
    error: cython.int = heap_boot()
    if error:
        raise OSError(error, "the operating system refuses the heap its addresses")
    arrow_layout.look(lib, cython.cast(uintptr_t, cython.address(the_layout)))
    _fill_tables()
    _try(lib)
    the_layout_is_known = True
    return None


@cython.cfunc
def _fill_tables() -> object:
    """Write the functions' addresses where this library's code looks for them."""
    i: cython.size_t
    for i in range(MOST_SLOTS):
        the_default_table.functions[i] = cython.cast(cython.p_void, pool_stays)
        the_table.functions[i] = cython.cast(cython.p_void, pool_stays)
    the_default_table.before[1] = the_table.before[1] = the_layout.typeinfo
    _fill(ALLOCATE, cython.cast(cython.p_void, default_allocate), cython.cast(cython.p_void, pool_allocate))
    _fill(REALLOCATE, cython.cast(cython.p_void, default_reallocate), cython.cast(cython.p_void, pool_reallocate))
    _fill(FREE, cython.cast(cython.p_void, default_free), cython.cast(cython.p_void, pool_free))
    _fill(BYTES_ALLOCATED, cython.cast(cython.p_void, default_bytes), cython.cast(cython.p_void, pool_bytes))
    _fill(MAX_MEMORY, cython.cast(cython.p_void, default_most), cython.cast(cython.p_void, pool_most))
    _fill(TOTAL_BYTES_ALLOCATED, cython.cast(cython.p_void, default_total), cython.cast(cython.p_void, pool_total))
    _fill(NUM_ALLOCATIONS, cython.cast(cython.p_void, default_number), cython.cast(cython.p_void, pool_number))
    _fill(BACKEND_NAME, cython.cast(cython.p_void, default_name), cython.cast(cython.p_void, pool_name))
    _fill(RELEASE_UNUSED, cython.cast(cython.p_void, default_release), cython.cast(cython.p_void, pool_release))


@cython.cfunc
def _fill(kind: cython.int, of_default: cython.p_void, of_heap: cython.p_void) -> object:
    if the_layout.at[kind] >= 0:
        the_default_table.functions[the_layout.at[kind]] = of_default
        the_table.functions[the_layout.at[kind]] = of_heap
    return None


@cython.cfunc
def _try(lib) -> object:
    """Have Arrow's own code use an object with the default pool's new functions, which is not the default pool yet."""
    global the_stand_in, the_default_is_active
    the_stand_in = the_default_table.functions
    pool: object = the_layout.box(cython.address(the_stand_in))
    the_default_is_active = True  # nobody else calls these functions yet
    try:
        wrong = arrow_layout.what_is_wrong(lib, pool)
    finally:
        the_default_is_active = False
    the_default_counts.bytes = the_default_counts.most = the_default_counts.total = the_default_counts.number = 0
    if wrong:
        raise RuntimeError(f"the self-test failed: {wrong}")


# ---- Arrow's default pool ----


def take(lib) -> None:
    """Redirect Arrow's default pool to the heap, for good; *lib* is pyarrow's C module.

    Raises:
        RuntimeError: Arrow's library is not as freehold knows it; nothing was changed.
        OSError: the operating system refuses the heap its addresses.
    """
    global the_pool, before
    if the_pool != cython.NULL:
        return
    _learn(lib, FIRST_FOR_DEFAULT)
    pool: cython.p_void = the_layout.default_pool()
    functions: cython.pp_void = cython.cast(cython.pointer[cython.pp_void], pool)[0]
    if not same_file(functions, cython.cast(cython.p_void, the_layout.default_pool)):
        file = file_of(functions).decode("utf-8", "replace")
        raise RuntimeError(f"{file} has put functions of its own there: install first")
    memcpy(the_default_table.before, functions - BEFORE, BEFORE * cython.sizeof(cython.p_void))  # its class stays
    i: cython.int
    for i in range(DESTRUCTORS):
        the_default_table.functions[i] = functions[i]
    if the_layout.at[PRINT_STATS] >= 0:
        the_default_table.functions[the_layout.at[PRINT_STATS]] = functions[the_layout.at[PRINT_STATS]]
    before = functions
    the_pool = pool
    # Whoever calls it finds all the old functions, or all the new ones: the object leads to them through one word.
    publish(pool, the_default_table.functions)


def is_taken() -> bool:
    """Return whether Arrow's default pool calls the heap."""
    return the_pool != cython.NULL


def is_active() -> bool:
    """Return whether new blocks of Arrow's default pool come from the heap."""
    return the_default_is_active


def activate(on: cython.bint) -> None:
    """Say whether new blocks come from the heap (True) or from where they came before (False)."""
    global the_default_is_active
    the_default_is_active = on and the_pool != cython.NULL


def prove(lib) -> bool:
    """Return whether what pyarrow allocates now lies in the heap: not so where a program has set another pool."""
    return heap_owns(cython.cast(cython.p_void, cython.cast(uintptr_t, lib.allocate_buffer(1).address)))


def totals() -> tuple:
    """Return the bytes that Arrow's default pool has allocated so far: on the heap, and where it did before."""
    return counted(cython.address(the_default_counts.total)), before_figure(TOTAL_BYTES_ALLOCATED)


# ---- pools of heaps ----


def open_pool(lib, core, name: str) -> object:
    """Return a new ``pyarrow.MemoryPool`` of a heap; its C++ side is for ever.

    Args:
        lib: pyarrow's C module.
        core: the heap's `Core`, which the caller keeps alive as long as the result.
        name: the heap's.

    Raises:
        RuntimeError: Arrow's library is not as freehold knows it.
    """
    global the_pools
    _learn(lib, FIRST_FOR_HEAPS)
    pool: cython.pointer[Pool] = cython.cast(cython.pointer[Pool], PyMem_RawCalloc(1, cython.sizeof(Pool)))
    if pool == cython.NULL:
        raise MemoryError
    pool.functions = the_table.functions
    told: bytes = name.encode("utf-8", "replace")
    snprintf(pool.name, cython.sizeof(pool.name), b"%s", cython.cast(cython.p_char, told))
    core.lodge(cython.cast(uintptr_t, cython.address(pool.tenant)))
    if the_pools == cython.NULL:
        at_fork_in_child(pools_forked)
    pool.next = the_pools
    the_pools = pool
    return the_layout.box(pool)
