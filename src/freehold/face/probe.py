# cython: language_level=3
"""The insides of the core's floor, for tests: bitmaps, locks and their witness, raw blocks of the space.

Thread-safety: as the functions beneath; every call that may wait releases the GIL.
Does not: check arguments. Built in debug and sanitizer flavours alone.
"""

import cython
from cython.cimports.cpython.bytes import PyBytes_AsString
from cython.cimports.freehold.core.bits import (
    bits_all_clear,
    bits_all_set,
    bits_clear,
    bits_count,
    bits_find_clear,
    bits_get,
    bits_next_clear,
    bits_next_set,
    bits_set,
)
from cython.cimports.freehold.core.budget import Budget, budget_open
from cython.cimports.freehold.core.extent import (
    extents_allocate,
    extents_close,
    extents_deallocate,
    extents_dispose,
    extents_open,
)
from cython.cimports.freehold.core.extentbook import EXTENT_BOOKS, ExtentConfig, Extents
from cython.cimports.freehold.core.extentpurge import extents_purge
from cython.cimports.freehold.core.extentshape import extents_resize_at
from cython.cimports.freehold.core.heap import heap_boot
from cython.cimports.freehold.core.sizes import Sizes, sizes_default, sizes_divide
from cython.cimports.freehold.core.space import (
    owner_heap,
    owner_layer,
    owner_note,
    owner_word,
    space_commit,
    space_decommit,
    space_give_back,
    space_own,
    space_owner,
    space_take,
)
from cython.cimports.freehold.core.sync import (
    Mutex,
    locks_held,
    locks_none,
    mutex_init,
    mutex_lock,
    mutex_reset,
    mutex_try,
    mutex_unlock,
    rank_name,
)
from cython.cimports.freehold.core.vm import (
    vm_cgroup_limit,
    vm_commit_at,
    vm_map,
    vm_metadata_bytes,
    vm_remap,
    vm_reserve_at,
    vm_unmap_metadata,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memset

heap_boot()

NOWHERE = (1 << 64) - 1

# ---- bits: `words` is the address of an array of 64-bit words ----


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def at(words: uint64_t) -> cython.pointer[uint64_t]:
    return cython.cast(cython.pointer[uint64_t], words)


def get_bit(words: uint64_t, i: uint64_t) -> bool:
    return bits_get(at(words), i)


def set_bits(words: uint64_t, i: uint64_t, n: uint64_t) -> None:
    bits_set(at(words), i, n)


def clear_bits(words: uint64_t, i: uint64_t, n: uint64_t) -> None:
    bits_clear(at(words), i, n)


def all_set(words: uint64_t, i: uint64_t, n: uint64_t) -> bool:
    return bits_all_set(at(words), i, n)


def all_clear(words: uint64_t, i: uint64_t, n: uint64_t) -> bool:
    return bits_all_clear(at(words), i, n)


def count_bits(words: uint64_t, i: uint64_t, n: uint64_t) -> int:
    return bits_count(at(words), i, n)


def next_set(words: uint64_t, i: uint64_t, length: uint64_t) -> int:
    return bits_next_set(at(words), i, length)


def next_clear(words: uint64_t, i: uint64_t, length: uint64_t) -> int:
    return bits_next_clear(at(words), i, length)


def find_clear(words: uint64_t, i: uint64_t, length: uint64_t, n: uint64_t, align: uint64_t) -> int:
    return bits_find_clear(at(words), i, length, n, align)


# ---- locks ----


@cython.final
@cython.cclass
class Lock:
    """One mutex of the core, with its rank."""

    _mutex: Mutex

    def __init__(self, rank: uint32_t):
        mutex_init(cython.address(self._mutex), rank)

    @property
    def address(self) -> int:
        return cython.cast(uint64_t, cython.address(self._mutex))

    def lock(self) -> None:
        with cython.nogil:
            mutex_lock(cython.address(self._mutex))

    def try_lock(self) -> bool:
        return mutex_try(cython.address(self._mutex))

    def unlock(self) -> None:
        mutex_unlock(cython.address(self._mutex))

    def reset(self) -> None:
        mutex_reset(cython.address(self._mutex))

    def add_under_lock(self, counter: uint64_t, times: uint64_t) -> None:
        """Add 1 to the word at `counter`, without atomics, `times` times, each under the lock."""
        with cython.nogil:
            for _ in range(times):
                mutex_lock(cython.address(self._mutex))
                at(counter)[0] += 1
                mutex_unlock(cython.address(self._mutex))


def held() -> int:
    return locks_held()


def none_held(where: bytes) -> None:
    locks_none(PyBytes_AsString(where))


def name_of_rank(rank: uint32_t) -> str:
    return rank_name(rank).decode()


# ---- sizes ----


def wrong_quotients(index: uint32_t, first: uint64_t, last: uint64_t) -> int:
    """Return how many multiples of a default class from `first` to `last`, or their predecessors, divide wrongly."""
    t: cython.pointer[cython.const[Sizes]] = sizes_default()
    size: uint64_t = t.size[index]
    k: uint64_t = first // size + 1
    wrong: uint64_t = 0
    with cython.nogil:
        while k * size <= last:
            wrong += sizes_divide(t, index, k * size) != k or sizes_divide(t, index, k * size - 1) != k - 1
            k += 1
    return wrong


# ---- raw blocks of the space ----


def take(blocks: uint64_t, align_blocks: uint64_t) -> tuple:
    address: uint64_t = 0
    error: cython.int = space_take(blocks, align_blocks, cython.address(address))
    return error, address


def give_back(address: uint64_t, blocks: uint64_t) -> int:
    error: cython.int
    with cython.nogil:
        error = space_give_back(address, blocks)
    return error


def commit(address: uint64_t, size: uint64_t) -> int:
    return space_commit(address, size)


def decommit(address: uint64_t, size: uint64_t) -> int:
    return space_decommit(address, size)


def own(address: uint64_t, blocks: uint64_t, heap: uint64_t, layer: uint64_t, note: uint64_t) -> None:
    with cython.nogil:
        space_own(address, blocks, owner_word(heap, layer, note))


def disown(address: uint64_t, blocks: uint64_t) -> None:
    space_own(address, blocks, 0)


def owner(address: uint64_t) -> tuple:
    word: uint64_t = space_owner(address)
    return owner_heap(word), owner_layer(word), owner_note(word)


def read_owner(address: uint64_t, first: uint64_t, second: uint64_t, times: uint64_t) -> int:
    """Return how many of `times` readings found neither nobody nor heap `first` or `second` with that note."""
    wrong: uint64_t = 0
    word: uint64_t
    with cython.nogil:
        for _ in range(times):
            word = space_owner(address)
            wrong += word != 0 and word != owner_word(first, 1, first) and word != owner_word(second, 1, second)
    return wrong


# ---- extents under a limit ----


@cython.final
@cython.cclass
class LimitedExtents:
    """Extents that belong to a budget, by the functions that the heap calls."""

    _budget: Budget
    _extents: cython.pointer[Extents]

    def __init__(self, limit: uint64_t):
        config = cython.declare(ExtentConfig)
        memset(cython.address(config), 0, cython.sizeof(ExtentConfig))
        budget_open(cython.address(self._budget), limit + EXTENT_BOOKS)  # of a region of one block
        config.heap = 0xFFFC
        config.node = -1
        config.dirty_ns = ~cython.cast(uint64_t, 0)
        config.maps_coalesce = True
        config.budget = cython.address(self._budget)
        if extents_open(cython.address(config), cython.address(self._extents)) != 0:
            raise MemoryError

    @property
    def used(self) -> int:
        """What the budget counts but for books."""
        return self._budget.used - self._budget.books

    def allocate(self, size: uint64_t) -> int:
        return extents_allocate(self._extents, size, False)

    def deallocate(self, address: uint64_t) -> int:
        size: uint64_t = 0
        return extents_deallocate(self._extents, address, cython.address(size))

    def resize(self, address: uint64_t, size: uint64_t) -> bool:
        return extents_resize_at(self._extents, address, size)

    def purge(self) -> int:
        return extents_purge(self._extents)

    def close(self) -> int:
        """Return what the budget still counts afterwards."""
        extents_close(self._extents)
        extents_dispose(self._extents)
        return self._budget.used


# ---- mappings and facts ----


def cgroup_limit(membership: bytes, mount: bytes) -> int:
    return vm_cgroup_limit(PyBytes_AsString(membership), PyBytes_AsString(mount))


def reserve_at(address: uint64_t, size: uint64_t) -> int:
    return vm_reserve_at(address, size)


def commit_at(address: uint64_t, size: uint64_t) -> int:
    return vm_commit_at(address, size)


def map_metadata(size: uint64_t) -> tuple:
    address: uint64_t = 0
    error: cython.int = vm_map(size, cython.address(address))
    return error, address


def unmap_metadata(address: uint64_t, size: uint64_t) -> int:
    return vm_unmap_metadata(address, size)


def metadata_bytes() -> int:
    return vm_metadata_bytes()


def remap(source: uint64_t, to: uint64_t, size: uint64_t) -> int:
    return vm_remap(source, to, size)
