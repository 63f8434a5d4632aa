# cython: subinterpreters_compatible=own_gil
"""The process's one heap, as Python asks about it: figures, whose an address is, and giving back.

Thread-safety: everything may be called from any thread; the GIL is released where the heap may take its time.
Does not: hand out memory (numpy_handler does), or open the heap before somebody asks for it.
"""

import cython
from cython.cimports.freehold.core.account import HeapStats
from cython.cimports.freehold.core.family import family_serves
from cython.cimports.freehold.core.heap import (
    heap_boot,
    heap_configure,
    heap_owns,
    heap_purge,
    heap_read_stats,
    heap_read_stats_of,
    heap_usable_size,
)
from cython.cimports.freehold.core.heaps import heaps_default
from cython.cimports.freehold.core.reclaim import reclaim_catch_up, reclaim_rest, reclaim_resume
from cython.cimports.freehold.face.lives import until_the_end
from cython.cimports.freehold.face.process_heap import (
    M_MMAP_THRESHOLD,
    M_TRIM_THRESHOLD,
    Py_AddPendingCall,
    libc_can_be_told,
    mallopt,
)
from cython.cimports.libc.stdint import uint64_t, uintptr_t

__life__ = until_the_end()  # of this module in this interpreter


def configure(decay_ms: cython.double, huge_pages: cython.bint) -> None:
    """Say how the heap is to be opened; once it is open this changes nothing.

    Args:
        decay_ms: how long idle memory is kept, at least a millisecond; negative: for ever.
        huge_pages: whether growing parts may use them.
    """
    decay_ns: uint64_t = ~cython.cast(uint64_t, 0)
    if decay_ms >= 0:
        decay_ns = cython.cast(uint64_t, max(decay_ms, 1.0) * 1e6)
    heap_configure(decay_ns, huge_pages)


def open() -> None:
    """Open the heap, if it is not open yet.

    Raises:
        OSError: the operating system refuses it its addresses.
    """
    error: cython.int = heap_boot()
    if error:
        raise OSError(error, "the operating system refuses the heap its addresses")


def serves_malloc() -> bool:
    """Return whether this process's malloc is the heap's: its library was preloaded, and nobody's stands before it."""
    return family_serves()


def read_stats() -> dict:
    """Return the heap's figures by the names of `HeapStats`; all are read at about the same time, without a lock."""
    open()
    stats = cython.declare(HeapStats)
    with cython.nogil:
        heap_read_stats(cython.address(stats))
    return stats


def read_default_stats() -> dict:
    """Return the figures of the default heap alone."""
    open()
    stats = cython.declare(HeapStats)
    with cython.nogil:
        heap_read_stats_of(heaps_default(), cython.address(stats))
    return stats


def purge() -> int:
    """Give everything idle back to the operating system now; return how many bytes that were."""
    open()
    purged: uint64_t = 0
    with cython.nogil:
        purged = heap_purge()
    return purged


def rest() -> None:
    """End the thread that gives memory back, until `resume` was called as often."""
    with cython.nogil:
        reclaim_rest()


def resume() -> None:
    """Have the thread that gives memory back start again when it is needed.

    Where it was at work, that is before the main thread's next instruction in Python.
    """
    reclaim_resume()
    if Py_AddPendingCall(catch_up, cython.NULL) != 0:
        reclaim_catch_up()


def catch_up(unused: cython.p_void) -> cython.int:
    reclaim_catch_up()
    return 0


def owns(address: uintptr_t) -> bool:
    """Return whether *address*, any at all, lies in memory of the heap."""
    open()
    return heap_owns(cython.cast(cython.p_void, address))


def usable_size(address: uintptr_t) -> int:
    """Return how many bytes the live block at *address* can hold."""
    open()
    return heap_usable_size(cython.cast(cython.p_void, address))


def have_libc_give_back(threshold: cython.int) -> bool:
    """Have glibc's malloc, which C libraries go on using, return free memory at its heap's end from *threshold* on.

    Left alone, glibc raises that threshold to twice the largest block ever freed, up to 64 MiB (mallopt(3)).

    Args:
        threshold: bytes; also the size from which a block gets a mapping of its own.

    Returns:
        Whether the C library could be told.
    """
    if not libc_can_be_told():
        return False
    return mallopt(M_TRIM_THRESHOLD, threshold) != 0 and mallopt(M_MMAP_THRESHOLD, threshold) != 0
