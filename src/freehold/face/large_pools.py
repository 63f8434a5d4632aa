# cython: language_level=3
"""Large blocks as Python meets them: `LargePools`, which hands out `LargeBlock` records.

Thread-safety: every method may be called from any thread; the GIL is released around the core. A gate lets many calls
in at once; `close` shuts it, after the calls that are inside have left. What a thread keeps is handed over as it ends.
Invariants: a call that raises has changed nothing; ``area_total_bytes == size * (free_regions + live blocks)``.
Does not: read a clock (time is what `maintain` is told), start a thread, or know that somebody still looks at a block.
"""

import logging
import os
import threading
from typing import NamedTuple
from weakref import WeakSet

import cython
from cython.cimports.cpython.pythread import PyThread_get_thread_ident
from cython.cimports.freehold.core.fault import FREE_DOUBLE, FREE_INTERIOR, FREE_OK
from cython.cimports.freehold.core.gate import Gate, gate_enter, gate_leave, gate_open, gate_reset, gate_shut
from cython.cimports.freehold.core.heap import heap_boot
from cython.cimports.freehold.core.large import (
    LARGE_BAD_ALIGN,
    LARGE_BAD_CLASS,
    LARGE_DISABLED,
    LARGE_NO_ROOM,
    LARGE_POOLS,
    Large,
    LargeConfig,
    LargeRequest,
    LargeThread,
    large_allocate,
    large_check,
    large_close,
    large_configure,
    large_deallocate,
    large_huge_refused,
    large_live,
    large_maintain,
    large_open,
    large_read_stats,
    large_thread_end,
    large_thread_open,
    large_usable_size,
)
from cython.cimports.freehold.core.pool import POOL_SOUND, PoolFinding, PoolStats, pool_law
from cython.cimports.freehold.core.sizes import sizes_default
from cython.cimports.freehold.core.vm import vm_call_name, vm_will_need
from cython.cimports.libc.stdint import uint32_t, uint64_t

from freehold._arguments import WORD, any_integer, integer, nanoseconds
from freehold.errors import (
    BadFree,
    BlocksLive,
    Disabled,
    Inconsistent,
    InvalidSizeClass,
    OSRefused,
    OutOfBounds,
    OutOfMemory,
    UnsuitableAlignment,
)

heap_boot()

NO_HEAP = 0xFFFF  # the heap id that the owner table tells of these blocks
EMPTY = 1 << 62  # the address of every empty block: no memory can be there, and any alignment is met
logger = logging.getLogger("freehold")
alive = WeakSet()  # what a forked child has to tidy


class LargeBlock(NamedTuple):
    """A block that was handed out.

    Attributes:
        address: where it begins; of an empty block, no memory.
        capacity: its bytes: the size of its class; 0 for an empty block.
        clean: whether it was known to read 0 when it was handed out.
    """

    address: int
    capacity: int
    clean: bool


LargeBlock.__module__ = "freehold.layers"


@cython.cfunc
@cython.exceptval(check=False)
def this_thread() -> uint64_t:
    return cython.cast(uint64_t, PyThread_get_thread_ident())


@cython.cfunc
def at_least(least: object, name: object, value: object) -> object:
    """Return an int that may be as large as it likes."""
    number = any_integer(name, value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return number


@cython.cfunc
def truth(name: object, value: object) -> object:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {type(value).__name__}")
    return value


@cython.final
@cython.cclass
class Pools:
    """The core's pools, for as long as anybody may ask for them: the face, and what each thread keeps in them."""

    core: cython.pointer[Large]
    gate: Gate
    closed: cython.bint

    def __dealloc__(self):
        if self.core != cython.NULL:
            with cython.nogil:
                large_close(self.core)

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def enter(self) -> cython.int:
        """Come in; whoever does leaves through the gate."""
        me: uint64_t = this_thread()
        with cython.nogil:
            gate_enter(cython.address(self.gate), me)
        if self.closed:
            gate_leave(cython.address(self.gate))
            raise ValueError("these LargePools are closed")
        return 0


@cython.final
@cython.cclass
class Seat:
    """What one thread keeps in one `Pools`. Python drops it as the thread ends, before anybody's join() returns."""

    pools: Pools
    thread: cython.pointer[LargeThread]

    def __dealloc__(self):
        if self.thread == cython.NULL:
            return
        me: uint64_t = this_thread()
        with cython.nogil:
            # Not entered if this thread is about to close, and so is alone already.
            entered: cython.bint = gate_enter(cython.address(self.pools.gate), me)
            if not self.pools.closed:
                large_thread_end(self.pools.core, self.thread)
            if entered:
                gate_leave(cython.address(self.pools.gate))


@cython.final
@cython.cclass
class LargePools:
    """Blocks of 2 MiB to 64 GiB in powers of two, kept warm for reuse and cleared in the background.

    Args:
        enabled: whether `allocate` serves requests; `free` always works.
        interval_ms: how long `maintain` rests after a pass.
        clear_bytes: how much a pass clears of each class, rounded up to blocks.
        eager_return: give a block's memory back as soon as it goes to the global queue.
        growth_dampener: n: an area is 1 + 1/(n + 1) times as large as the one before, or more by the first one's size.
        local_buffer_bytes: what each thread keeps of each class.
        decay_ms: how long a block may wait idle in a thread's queue before `maintain` clears it.
        lazy_clear: clear by MADV_FREE: cheaper, but the memory counts as resident until the system takes it, and is not
            known to read 0.

    Example:
        >>> with LargePools() as pools:
        ...     block = pools.allocate(3 << 20)
        ...     block.capacity, block.clean
        ...     pools.free(block)
        (4194304, True)

    Thread-safety: any method, any thread. A block may be freed by any thread.
    """

    __weakref__ = cython.declare(object)
    _pools: Pools
    _config: LargeConfig
    _seats: object
    _last_stats: object
    _huge_said: cython.bint

    def __init__(
        self,
        *,
        enabled=True,
        interval_ms=1000,
        clear_bytes=32 << 20,
        eager_return=False,
        growth_dampener=0,
        local_buffer_bytes=32 << 20,
        decay_ms=1000,
        lazy_clear=False,
    ):
        if self._pools is not None:
            raise ValueError("LargePools are opened once")
        self._config.tail_decays = False  # who gets a block here gets all of it
        self._config.huge_pages = True
        self._config.used_idle_ns = 0
        self._config.exact = 0
        self._config.budget = cython.NULL
        self._config.node = -1
        self._change(
            enabled, interval_ms, clear_bytes, eager_return, growth_dampener, local_buffer_bytes, decay_ms, lazy_clear
        )
        pools: Pools = Pools()
        heap: uint64_t = NO_HEAP
        error: cython.int
        with cython.nogil:
            error = large_open(heap, cython.address(self._config), cython.address(pools.core))
        if error:
            raise OSRefused(errno=error, call="map", layer="large")
        self._seats = threading.local()
        self._pools = pools
        alive.add(self)

    @cython.cfunc
    def _change(
        self,
        enabled: object,
        interval_ms: object,
        clear_bytes: object,
        eager_return: object,
        growth_dampener: object,
        local_buffer_bytes: object,
        decay_ms: object,
        lazy_clear: object,
    ) -> object:
        """Change what is not None in the configuration: all of it, or on an error nothing."""
        config = cython.declare(LargeConfig)
        config = self._config
        if enabled is not None:
            config.enabled = truth("enabled", enabled)
        if interval_ms is not None:
            config.interval_ns = nanoseconds("interval_ms", interval_ms)
        if clear_bytes is not None:
            config.clear_bytes = integer("clear_bytes", clear_bytes)
        if eager_return is not None:
            config.eager_return = truth("eager_return", eager_return)
        if growth_dampener is not None:
            config.growth_dampener = integer("growth_dampener", growth_dampener)
        if local_buffer_bytes is not None:
            config.local_buffer_bytes = integer("local_buffer_bytes", local_buffer_bytes)
        if decay_ms is not None:
            config.decay_ns = nanoseconds("decay_ms", decay_ms)
        if lazy_clear is not None:
            config.lazy_clear = truth("lazy_clear", lazy_clear)
        self._config = config

    def configure(
        self,
        *,
        enabled=None,
        interval_ms=None,
        clear_bytes=None,
        eager_return=None,
        growth_dampener=None,
        local_buffer_bytes=None,
        decay_ms=None,
        lazy_clear=None,
    ) -> None:
        """Change any of the arguments of `LargePools`; what is not named stays."""
        pools: Pools = self._enter()
        try:
            self._change(
                enabled,
                interval_ms,
                clear_bytes,
                eager_return,
                growth_dampener,
                local_buffer_bytes,
                decay_ms,
                lazy_clear,
            )
            large_configure(pools.core, cython.address(self._config))
        finally:
            gate_leave(cython.address(pools.gate))

    # ---- in, out, and the end ----

    @cython.cfunc
    def _enter(self) -> Pools:
        pools: Pools = self._pools
        if pools is None:
            raise ValueError("these LargePools were never opened")
        pools.enter()
        return pools

    def __enter__(self):
        pools: Pools = self._enter()
        gate_leave(cython.address(pools.gate))
        return self

    def __exit__(self, *_):
        self.close(force=True)

    def close(self, force=False) -> None:
        """Unmap every area. Leaving a ``with`` block does so with `force`.

        Args:
            force: live blocks or not: their memory is gone.

        Raises:
            BlocksLive: blocks are live, and not `force`; nothing has changed.
        """
        pools: Pools = self._pools
        if pools is None:
            return
        me: uint64_t = this_thread()
        with cython.nogil:
            gate_shut(cython.address(pools.gate), me)
        try:
            if not pools.closed:
                self._close_alone(pools, bool(force))
        finally:
            gate_open(cython.address(pools.gate), me)

    @cython.cfunc
    def _close_alone(self, pools: Pools, force: cython.bint) -> object:
        bytes: uint64_t = 0
        blocks: uint64_t = large_live(pools.core, cython.address(bytes))
        if blocks and not force:
            raise BlocksLive(blocks=blocks, bytes=bytes)
        core: cython.pointer[Large] = pools.core
        last = self._read_stats(pools)
        for figures in last.values():
            for name in ("areas", "area_total_bytes", "touched_bytes"):
                figures[name] = 0
            for name in ("free_regions", "clean_regions", "global_regions", "thread_regions"):
                figures[name] = 0
        self._last_stats = last
        pools.closed = True
        pools.core = cython.NULL
        with cython.nogil:
            large_close(core)

    def _after_fork(self):
        """In a forked child: the threads that were inside are gone."""
        if self._pools is not None:
            gate_reset(cython.address(self._pools.gate), this_thread())

    @cython.cfunc
    @cython.exceptval(check=True)
    def _thread(self, pools: Pools) -> cython.pointer[LargeThread]:
        """Return what the calling thread keeps here; NULL where there is no memory for it."""
        seat: Seat = getattr(self._seats, "seat", None)
        if seat is None:
            seat = Seat()
            seat.pools = pools
            self._seats.seat = seat
        if seat.thread == cython.NULL:
            with cython.nogil:
                seat.thread = large_thread_open(pools.core)
        return seat.thread

    # ---- blocks ----

    def allocate(self, nbytes, *, alignment=0, zero=False) -> LargeBlock:
        """Hand out a block of at least `nbytes`; 0 bytes are an empty block, which may be freed.

        Args:
            nbytes: above 2^20, at most 2^36; the block's capacity is the power of two, at least 2^21.
            alignment: 0, or a power of two up to the capacity.
            zero: the block reads 0.

        Raises:
            InvalidSizeClass: no class serves this size.
            UnsuitableAlignment: no power of two, or above the capacity.
            Disabled: the pools are switched off.
            OutOfMemory: there is no room for another area.
            OSRefused: the OS did not give memory for one.
        """
        asked = any_integer("nbytes", nbytes)
        align = any_integer("alignment", alignment)
        if asked < 0:
            raise ValueError(f"nbytes must not be negative, but is {asked}")
        if align < 0 or align & (align - 1) or align >= EMPTY:
            raise UnsuitableAlignment(alignment=align)
        pools: Pools = self._enter()
        q = cython.declare(LargeRequest)
        address: uint64_t = 0
        refused: cython.int = 0
        try:
            if asked == 0:
                return LargeBlock(EMPTY, 0, True)
            q.size = min(asked, WORD - 1)
            q.align = align
            q.zero = bool(zero)
            t: cython.pointer[LargeThread] = self._thread(pools)
            with cython.nogil:
                address = large_allocate(pools.core, t, cython.address(q))
            refused = large_huge_refused(pools.core)
        finally:
            gate_leave(cython.address(pools.gate))
        if refused and not self._huge_said:
            self._huge_said = True
            logger.warning("large: the OS refuses huge pages: %s", os.strerror(refused))
        if address == 0:
            self._refuse(cython.address(q), asked, align)
        return LargeBlock(address, q.capacity, q.clean != 0)

    @cython.cfunc
    def _refuse(self, q: cython.pointer[LargeRequest], asked: object, align: object) -> object:
        log2 = (asked - 1).bit_length()
        if q.failure == LARGE_BAD_CLASS:
            raise InvalidSizeClass(size_class=log2, asked=asked)
        if q.failure == LARGE_BAD_ALIGN:
            raise UnsuitableAlignment(alignment=align)
        if q.failure == LARGE_DISABLED:
            raise Disabled("these LargePools are disabled")
        size = max(1 << log2, sizes_default().large_minimum)
        if q.failure == LARGE_NO_ROOM:
            raise OutOfMemory("no room for another area", layer="large", asked=asked, size_class=size)
        call = vm_call_name(q.os_call).decode()
        raise OSRefused(errno=q.os_error, call=call, layer="large", asked=asked, size_class=size)

    def free(self, block) -> None:
        """Give a block back, from any thread; also while disabled. An empty block may be freed any number of times.

        Raises:
            BadFree: not handed out now: free already ('double'), not the start of a block ('interior'), after `close`
                ('closed'), anything else ('foreign').
        """
        address = self._address(block)
        try:
            pools: Pools = self._enter()
        except ValueError:
            raise BadFree("these LargePools are closed", address=address, reason="closed") from None
        reason: cython.int = FREE_OK
        foreign: cython.bint = False
        try:
            if block.capacity == 0 and address == EMPTY:
                return
            foreign = not 0 <= address < WORD
            if not foreign:
                at: uint64_t = address
                size: uint64_t = large_usable_size(pools.core, at)
                foreign = size != 0 and size != block.capacity
            if not foreign:
                t: cython.pointer[LargeThread] = self._thread(pools)
                with cython.nogil:
                    reason = large_deallocate(pools.core, t, at)
        finally:
            gate_leave(cython.address(pools.gate))
        if foreign or reason != FREE_OK:
            text = "double" if reason == FREE_DOUBLE else "interior" if reason == FREE_INTERIOR else "foreign"
            raise BadFree(address=address, reason=text)

    @cython.cfunc
    def _address(self, block: object) -> object:
        if not isinstance(block, LargeBlock):
            raise TypeError(f"block must be a LargeBlock, not {type(block).__name__}")
        return any_integer("block.address", block.address)

    def prefetch(self, block, start, stop, itemsize=1) -> None:
        """Tell the OS that items `start` to `stop` of a block, of `itemsize` bytes each, will be read soon.

        A hint: if the OS does not take it, nothing is said. An empty range is no range, wherever it is.

        Raises:
            OutOfBounds: the range ends beyond the block.
        """
        address = self._address(block)
        first = at_least(0, "start", start)
        last = at_least(0, "stop", stop)
        size = at_least(1, "itemsize", itemsize)
        if last < first:
            raise ValueError(f"stop must not be below start, but {last} is below {first}")
        pools: Pools = self._enter()
        try:
            if last == first or block.capacity == 0:
                return
            capacity: uint64_t = large_usable_size(pools.core, address) if 0 <= address < WORD else 0
            if capacity == 0:
                raise ValueError(f"block is not handed out by these LargePools: {address:#x}")
            if last * size > capacity:
                raise OutOfBounds(offset=first * size, length=(last - first) * size, capacity=capacity)
            at: uint64_t = address + first * size
            length: uint64_t = (last - first) * size
            with cython.nogil:
                vm_will_need(at, length)
        finally:
            gate_leave(cython.address(pools.gate))

    # ---- the background's tick, and accounting ----

    def maintain(self, now_ms) -> int:
        """Clear what is idle, if `interval_ms` have passed since the last pass; return how many blocks were.

        Of each class up to `clear_bytes`: first blocks of the used queue, then those that have waited in a living
        thread's queue for `decay_ms`, oldest first; they go to the clean queue.

        Args:
            now_ms: the time. It never goes back: an earlier one is taken as the last one.
        """
        now: uint64_t = nanoseconds("now_ms", now_ms)
        pools: Pools = self._enter()
        cleared: uint64_t
        with cython.nogil:
            cleared = large_maintain(pools.core, now, False)
            gate_leave(cython.address(pools.gate))
        return cleared

    def stats(self) -> dict:
        """Return the figures of all classes, by block size. After `close`, what is mapped reads 0."""
        pools: Pools = self._pools
        if pools is not None and pools.closed:
            return {size: dict(figures) for size, figures in self._last_stats.items()}
        pools = self._enter()
        try:
            return self._read_stats(pools)
        finally:
            gate_leave(cython.address(pools.gate))

    @cython.cfunc
    def _read_stats(self, pools: Pools) -> object:
        s = cython.declare(PoolStats)
        result = {}
        i: uint32_t
        for i in range(LARGE_POOLS):
            with cython.nogil:
                large_read_stats(pools.core, i, cython.address(s))
            result[s.size] = {
                "areas": s.areas,
                "area_total_bytes": s.area_total_bytes,
                "free_regions": s.clean_regions + s.global_regions + s.thread_regions,
                "clean_regions": s.clean_regions,
                "global_regions": s.global_regions,
                "thread_regions": s.thread_regions,
                "allocations": s.allocations,
                "slow_path": s.slow_path,
                "refill": s.refill,
                "deallocations": s.deallocations,
                "clear_eager": s.clear_eager,
                "clear_slow": s.clear_slow,
                "touched_bytes": s.touched_bytes,
            }
        return result

    def check(self) -> None:
        """Walk every queue and count every block again.

        Raises:
            Inconsistent: a law is broken; it names the law, the class and the numbers.
        """
        pools: Pools = self._enter()
        finding = cython.declare(PoolFinding)
        law: cython.int
        with cython.nogil:
            law = large_check(pools.core, cython.address(finding))
            gate_leave(cython.address(pools.gate))
        if law != POOL_SOUND:
            raise Inconsistent(
                invariant=pool_law(law).decode(),
                values={"size class": finding.size, "told": finding.told, "found": finding.found},
            )


def tidy_child():
    for pools in alive:
        pools._after_fork()


os.register_at_fork(after_in_child=tidy_child)
