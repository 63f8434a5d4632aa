"""The C face of the heap through ctypes: what a program linked against libfreehold.so calls.

A call releases the GIL, as a C program's would not know of one. Addresses are ints; NULL is None.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import freehold.face.vm_face

LIBRARY = Path(freehold.face.vm_face.__file__).parents[1] / "libfreehold.so"
STATS = (
    "allocated", "active", "dirty", "muzzy", "retained", "metadata", "mapped", "cached", "purged", "purge_calls",
    "os_failures", "blocks", "allocations", "deallocations", "bad_frees", "ticks",
    "used", "peak", "limit", "refused", "total", "exhausted",
)  # fmt: skip
PAGE = os.sysconf("SC_PAGESIZE")
MIB = 1 << 20

library = ctypes.CDLL(str(LIBRARY), use_errno=True)


def declare(name: str, result: object, *arguments: object) -> object:
    """Return a function of the library with its types."""
    function = getattr(library, f"fh_{name}")
    function.restype = result
    function.argtypes = arguments
    return function


boot = declare("heap_boot", ctypes.c_int)
allocate = declare("heap_allocate", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
allocate_zeroed = declare("heap_allocate_zeroed", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
reallocate = declare("heap_reallocate", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
deallocate = declare("heap_deallocate", None, ctypes.c_void_p)
usable_size = declare("heap_usable_size", ctypes.c_size_t, ctypes.c_void_p)
owns = declare("heap_owns", ctypes.c_bool, ctypes.c_void_p)
purge = declare("heap_purge", ctypes.c_uint64)
check = declare("heap_check", ctypes.c_int)
reclaim_is_asleep = declare("reclaim_is_asleep", ctypes.c_int)
reclaim_ticks = declare("reclaim_ticks", ctypes.c_uint64)
read_stats = declare("heap_read_stats", None, ctypes.c_void_p)
allocate_in = declare("heap_allocate_in", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
allocate_zeroed_in = declare(
    "heap_allocate_zeroed_in", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t
)
heap_of = declare("heap_of", ctypes.c_void_p, ctypes.c_void_p)
read_stats_of = declare("heap_read_stats_of", None, ctypes.c_void_p, ctypes.c_void_p)
purge_of = declare("heap_purge_of", ctypes.c_uint64, ctypes.c_void_p)
check_of = declare("heap_check_of", ctypes.c_int, ctypes.c_void_p)
set_limit = declare("heap_set_limit", ctypes.c_bool, ctypes.c_void_p, ctypes.c_uint64)
heaps_open = declare("heaps_open", ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
heaps_close = declare("heaps_close", ctypes.c_int, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p)
heaps_count = declare("heaps_count", ctypes.c_uint64)
boot()

NO_LIMIT = (1 << 64) - 1
BUSY = -1


class Config(ctypes.Structure):
    """With which settings a heap is opened: `HeapConfig`."""

    _fields_ = (
        ("limit", ctypes.c_uint64), ("decay_ns", ctypes.c_uint64), ("node", ctypes.c_int),
        ("huge_pages", ctypes.c_uint32), ("secure", ctypes.c_int),
    )  # fmt: skip


def open_heap(
    *, limit: int = NO_LIMIT, decay_ms: float | None = 1000, node: int = -1, huge_pages: int = 1, secure: bool = False
) -> int:
    """Open a heap and return it; with no decay time it never gives back by itself."""
    config = Config(limit, NO_LIMIT if decay_ms is None else int(decay_ms * 1e6), node, huge_pages, secure)
    heap = ctypes.c_void_p()
    error = heaps_open(ctypes.byref(config), ctypes.byref(heap))
    if error:
        raise OSError(error, os.strerror(error))
    return heap.value


def close_heap(heap: int, *, force: bool = False) -> tuple[int, int, int]:
    """Close a heap; return 0 or BUSY, and how many blocks and bytes were live."""
    blocks, size = ctypes.c_uint64(), ctypes.c_uint64()
    told = heaps_close(heap, force, ctypes.byref(blocks), ctypes.byref(size))
    return told, blocks.value, size.value


def stats_of(heap: int) -> dict[str, int]:
    """Return the figures of one heap."""
    figures = (ctypes.c_uint64 * 64)()
    read_stats_of(heap, figures)
    return dict(zip(STATS, figures, strict=False))


def stats() -> dict[str, int]:
    """Return the figures of the whole heap."""
    figures = (ctypes.c_uint64 * 64)()
    read_stats(figures)
    return dict(zip(STATS, figures, strict=False))


def resident_bytes() -> int:
    """Return this process's resident memory, from the OS."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def fill(address: int, byte: int, size: int) -> None:
    ctypes.memset(address, byte, size)


def read(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)
