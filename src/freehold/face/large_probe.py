# cython: language_level=3
"""The insides of the large pools, for tests: what the heap calls, and the face does not.

Thread-safety: as the functions beneath; every call that may wait releases the GIL.
Does not: check arguments, or keep anybody from closing what is in use. Built in debug and sanitizer flavours alone.
"""

import cython
from cython.cimports.freehold.core.heap import heap_boot
from cython.cimports.freehold.core.large import (
    LARGE_POOLS,
    Large,
    LargeConfig,
    LargeRequest,
    LargeThread,
    large_allocate,
    large_block_start,
    large_check,
    large_close,
    large_deallocate,
    large_dirty_bytes,
    large_live,
    large_lock_all,
    large_maintain,
    large_note_time,
    large_open,
    large_read_stats,
    large_reset,
    large_resize_in_place,
    large_thread_end,
    large_thread_open,
    large_unlock_all,
    large_usable_size,
)
from cython.cimports.freehold.core.pool import PoolFinding, PoolStats
from cython.cimports.libc.stdint import uint32_t, uint64_t

heap_boot()


@cython.final
@cython.cclass
class LargeProbe:
    """One `Large`, configured as the heap does: tails decay, ages count. A thread is a number from 1; 0: none."""

    _large: cython.pointer[Large]
    _threads: cython.pointer[LargeThread][16]

    def __cinit__(self, decay_ns=100, huge_pages=False, local_buffer_bytes=32 << 20):
        config = cython.declare(LargeConfig)
        config.enabled = 1
        config.interval_ns = 0
        config.clear_bytes = ~cython.cast(uint64_t, 0)
        config.eager_return = 0
        config.growth_dampener = 0
        config.local_buffer_bytes = local_buffer_bytes
        config.decay_ns = decay_ns
        config.lazy_clear = 0
        config.used_idle_ns = decay_ns
        config.tail_decays = 1
        config.huge_pages = huge_pages
        config.exact = 0
        config.budget = cython.NULL
        config.node = -1
        if large_open(0xFFFE, cython.address(config), cython.address(self._large)) != 0:
            raise MemoryError

    def close(self):
        if self._large != cython.NULL:
            with cython.nogil:
                large_close(self._large)
            self._large = cython.NULL

    def begin_thread(self, number: cython.int):
        self._threads[number] = large_thread_open(self._large)

    def end_thread(self, number: cython.int):
        with cython.nogil:
            large_thread_end(self._large, self._threads[number])
        self._threads[number] = cython.NULL

    def thread_address(self, number: cython.int):
        return cython.cast(uint64_t, self._threads[number])

    def allocate(self, size: uint64_t, thread: cython.int = 0, align: uint64_t = 0, zero: cython.bint = False):
        """Return the address and whether it was known to be clean, or the reason why not."""
        q = cython.declare(LargeRequest)
        q.size = size
        q.align = align
        q.zero = zero
        address: uint64_t
        with cython.nogil:
            address = large_allocate(self._large, self._threads[thread], cython.address(q))
        return (address, q.clean != 0) if address else int(q.failure)

    def deallocate(self, address: uint64_t, thread: cython.int = 0):
        reason: cython.int
        with cython.nogil:
            reason = large_deallocate(self._large, self._threads[thread], address)
        return reason

    def note_time(self, now: uint64_t):
        return large_note_time(self._large, now)

    def maintain(self, now: uint64_t, force: cython.bint = False):
        cleared: uint64_t
        with cython.nogil:
            cleared = large_maintain(self._large, now, force)
        return cleared

    def block_start(self, address: uint64_t):
        return large_block_start(self._large, address)

    def usable_size(self, address: uint64_t):
        return large_usable_size(self._large, address)

    def resize_in_place(self, address: uint64_t, size: uint64_t):
        return large_resize_in_place(self._large, address, size)

    def dirty_bytes(self):
        return large_dirty_bytes(self._large)

    def live(self):
        bytes: uint64_t = 0
        blocks: uint64_t = large_live(self._large, cython.address(bytes))
        return blocks, bytes

    def stats(self):
        s = cython.declare(PoolStats)
        i: uint32_t
        result = {}
        for i in range(LARGE_POOLS):
            large_read_stats(self._large, i, cython.address(s))
            result[s.size] = dict(s)
        return result

    def check(self):
        finding = cython.declare(PoolFinding)
        return large_check(self._large, cython.address(finding))

    def lock_all(self):
        with cython.nogil:
            large_lock_all(self._large)

    def unlock_all(self):
        large_unlock_all(self._large)

    def reset(self):
        large_reset(self._large)
