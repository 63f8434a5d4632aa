# cython: language_level=3
"""Small blocks as Python meets them: `Primary`.

Thread-safety: every method may be called from any thread; the GIL is released around the core. A gate lets many calls
in at once; `lock_all` and `close` shut it, after the calls that are inside have left.
Invariants: a call that raises has changed nothing; ``allocations - frees == in_use``.
Does not: read a clock (time is what callers pass), or serve the process's heap, whose primary is another.
"""

import logging
import os
from weakref import WeakSet

import cython
from cython.cimports.cpython.buffer import Py_buffer, PyBuffer_FillInfo
from cython.cimports.cpython.pythread import PyThread_get_thread_ident
from cython.cimports.freehold.core.cache import cache_allocate_from, cache_deallocate_to, cache_drain
from cython.cimports.freehold.core.caches import (
    ClassCounts,
    cache_check,
    cache_drain_idle,
    cache_read_class,
    cache_register,
    cache_unregister,
)
from cython.cimports.freehold.core.fault import FREE_DOUBLE, FREE_INTERIOR, FREE_OK
from cython.cimports.freehold.core.gate import (
    Gate,
    gate_enter,
    gate_is_mine,
    gate_leave,
    gate_open,
    gate_reset,
    gate_shut,
)
from cython.cimports.freehold.core.heap import heap_boot
from cython.cimports.freehold.core.primary import (
    PRIMARY_CLASSES,
    PrimaryConfig,
    Region,
    primary_block_start,
    primary_close,
    primary_is_exhausted,
    primary_law,
    primary_metadata,
    primary_open,
    primary_refused,
    primary_region_of,
    primary_usable_size,
)
from cython.cimports.freehold.core.primary import Primary as Core
from cython.cimports.freehold.core.release import primary_release, primary_release_due
from cython.cimports.freehold.core.sizes import sizes_default, sizes_index, sizes_index_aligned
from cython.cimports.freehold.core.vm import vm_resident
from cython.cimports.libc.stdint import uint32_t, uint64_t

from freehold._arguments import WORD, any_integer, integer
from freehold.errors import BadFree, Inconsistent, InvalidSizeClass, OSRefused, OutOfMemory, UnsuitableAlignment

heap_boot()

NO_HEAP = 0xFFFF  # the heap id that the owner table tells of these blocks
LONGEST_MS = (1 << 63) // 1_000_000
logger = logging.getLogger("freehold")
alive = WeakSet()  # what a forked child has to tidy


@cython.cfunc
@cython.exceptval(check=False)
def this_thread() -> uint64_t:
    return cython.cast(uint64_t, PyThread_get_thread_ident())


@cython.cfunc
def nanoseconds(name: object, value: object) -> object:
    """Return a time in milliseconds, int or float, as whole nanoseconds."""
    if isinstance(value, float):
        if not 0 <= value <= LONGEST_MS:
            raise ValueError(f"{name} must be from 0 to {LONGEST_MS} ms, not {value}")
        return int(value * 1_000_000)
    return integer(name, value, 0, LONGEST_MS) * 1_000_000


@cython.final
@cython.cclass
class Primary:
    """Small blocks: one region of addresses per size class, out-of-line metadata, thread caches, page release.

    Args:
        region_bits: log2 of a region's bytes, 32 to 36.
        metadata_size: bytes kept beside each block, a multiple of 8; see `metadata`.
        shuffle: hand new blocks out in an order that is hard to predict.
        release_interval_ms: how long ``release(force=False)`` leaves a class alone after it was released.
        cache_bytes: how much each thread may keep for itself; 0: no thread caches.

    Example:
        >>> with Primary() as primary:
        ...     address = primary.allocate(100)
        ...     primary.usable_size(address), primary.block_start(address + 50) == address
        (112, True)

    Thread-safety: any method, any thread. A block may be freed by any thread.
    """

    __weakref__ = cython.declare(object)
    _core: cython.pointer[Core]
    _gate: Gate
    _now: uint64_t
    _views: uint64_t
    _closed: cython.bint
    _said: object
    _frees: uint64_t[PRIMARY_CLASSES]

    def __cinit__(self):
        self._closed = True

    def __init__(
        self, *, region_bits=32, metadata_size=0, shuffle=False, release_interval_ms=1000, cache_bytes=2 << 20
    ):
        if self._said is not None:
            raise ValueError("a Primary is opened once")
        config = cython.declare(PrimaryConfig)
        config.region_bits = integer("region_bits", region_bits, 32, 36)
        config.heap = NO_HEAP
        config.metadata_size = integer("metadata_size", metadata_size, 0, 1 << 20)
        if config.metadata_size % 8:
            raise ValueError(f"metadata_size must be a multiple of 8, not {metadata_size}")
        config.shuffle = bool(shuffle)
        config.huge_pages = False
        config.forgets = False  # `owns` is for every block ever made
        config.release_interval_ns = nanoseconds("release_interval_ms", release_interval_ms)
        config.budget = cython.NULL
        config.node = -1
        config.gated = False
        config.cache_bytes = integer("cache_bytes", cache_bytes, 0, 1 << 40)
        core: cython.pointer[Core] = cython.NULL
        error: cython.int
        with cython.nogil:
            error = primary_open(cython.address(config), cython.address(core))
        if error:
            raise OutOfMemory("no room for the regions", layer="primary", asked=48 << config.region_bits)
        cache_register(core)
        self._core = core
        self._said = set()
        self._closed = False
        alive.add(self)

    def __dealloc__(self):
        if self._core != cython.NULL:
            self._destroy()

    def __enter__(self):
        self._enter()
        gate_leave(cython.address(self._gate))
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Give everything back, whatever is live. Metadata that is still being looked at stays until it is not."""
        me: uint64_t = this_thread()
        with cython.nogil:
            gate_shut(cython.address(self._gate), me)
        self._closed = True
        self._destroy_unless_viewed()
        gate_open(cython.address(self._gate), me)

    @cython.cfunc
    def _destroy_unless_viewed(self) -> object:
        if self._closed and self._views == 0 and self._core != cython.NULL:
            self._destroy()

    @cython.cfunc
    def _destroy(self) -> object:
        core: cython.pointer[Core] = self._core
        self._core = cython.NULL
        with cython.nogil:
            cache_unregister(core)
            primary_close(core)

    def _after_fork(self):
        """In a forked child: the threads that were inside are gone."""
        gate_reset(cython.address(self._gate), this_thread())

    # ---- in and out ----

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def _enter(self) -> cython.int:
        """Come in to change something; waits while another thread has locked all."""
        me: uint64_t = this_thread()
        entered: cython.bint
        with cython.nogil:
            entered = gate_enter(cython.address(self._gate), me)
        if not entered:
            raise RuntimeError("this thread has locked all blocks")
        if self._closed:
            gate_leave(cython.address(self._gate))
            raise ValueError("this Primary is closed")
        return 0

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def _look(self) -> cython.int:
        """Come in to look; the thread that has locked all may. Returns whether to leave again."""
        if gate_is_mine(cython.address(self._gate), this_thread()):
            return 0
        self._enter()
        return 1

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def _be_alone(self) -> cython.int:
        """Wait until nobody else is inside. Returns whether to open the gate again."""
        me: uint64_t = this_thread()
        shut: cython.bint
        with cython.nogil:
            shut = gate_shut(cython.address(self._gate), me)
        if self._closed:
            gate_open(cython.address(self._gate), me)
            raise ValueError("this Primary is closed")
        return shut

    # ---- blocks ----

    def allocate(self, size, alignment=0) -> int:
        """Take a block of at least `size` bytes, and return its address. Size 0 gets a block of its own.

        Raises:
            InvalidSizeClass: `size` is above the largest class.
            UnsuitableAlignment: `alignment` is above the largest class.
            OutOfMemory: the region of the class is exhausted, and the next one up too.
            OSRefused: the OS did not give memory for a new block.
        """
        self._enter()
        try:
            index: uint32_t = self._class_for(size, alignment)
            align: uint64_t = alignment
            address: uint64_t
            busy: cython.bint = False
            with cython.nogil:
                address = cache_allocate_from(self._core, index, align)
                if address == 0 and cache_drain_idle(self._core, 0, cython.address(busy)):  # what sleeping threads keep
                    address = cache_allocate_from(self._core, index, align)
            full: cython.bint = self._is_full(index)
            refused: cython.int = 0 if address or full else primary_refused(self._core, index)
        finally:
            gate_leave(cython.address(self._gate))
        if full:
            self._say(index)
        if address:
            return address
        size_class = sizes_default().size[index]
        if refused:
            raise OSRefused(errno=refused, call="commit", layer="primary", asked=int(size), size_class=size_class)
        raise OutOfMemory("the region is exhausted", layer="primary", asked=int(size), size_class=size_class)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _class_for(self, size: object, alignment: object) -> uint32_t:
        """Return the index of the class that serves a request."""
        asked = any_integer("size", size)
        if asked < 0:
            raise ValueError(f"size must not be negative, not {asked}")
        align = any_integer("alignment", alignment)
        if align < 0 or align & (align - 1):
            raise ValueError(f"alignment must be 0 or a power of two, not {align}")
        if asked > sizes_default().small_limit:
            needed: uint32_t = sizes_index(sizes_default(), min(asked, WORD - 1))
            known: cython.bint = needed < sizes_default().count
            raise InvalidSizeClass(size_class=sizes_default().size[needed] if known else None, asked=asked)
        if align > sizes_default().small_limit:
            raise UnsuitableAlignment(alignment=align)
        return sizes_index_aligned(sizes_default(), asked, align)

    @cython.cfunc
    def _is_full(self, index: uint32_t) -> cython.bint:
        """Whether the last request of a class found it exhausted; forgets that it was said if not."""
        if primary_is_exhausted(self._core, index):
            return True
        if self._said:
            self._said.discard(index)
        return False

    @cython.cfunc
    def _say(self, index: uint32_t) -> object:
        """Warn once that a class is exhausted."""
        if index not in self._said:
            self._said.add(index)
            logger.warning("primary: the region of size class %d is exhausted", sizes_default().size[index])

    def free(self, address) -> None:
        """Give a block back.

        Raises:
            BadFree: not a live block: free already ('double'), inside of one ('interior'), anything else ('foreign').
        """
        self._enter()
        reason: cython.int
        try:
            number = any_integer("address", address)
            if not 0 <= number < WORD:
                raise BadFree(address=number, reason="foreign")
            at: uint64_t = number
            size_class: uint64_t = 0
            with cython.nogil:
                reason = cache_deallocate_to(self._core, at, cython.address(size_class))
        finally:
            gate_leave(cython.address(self._gate))
        if reason != FREE_OK:
            text = "double" if reason == FREE_DOUBLE else "interior" if reason == FREE_INTERIOR else "foreign"
            raise BadFree(address=number, reason=text)

    def drain(self) -> None:
        """Empty the calling thread's cache into the regions."""
        self._enter()
        with cython.nogil:
            cache_drain(self._core)
            gate_leave(cython.address(self._gate))

    # ---- what an address means ----

    @property
    def classes(self) -> tuple:
        """The size classes, ascending."""
        leave: cython.bint = self._look()
        i: uint32_t
        sizes = tuple([self._core.region[i].size for i in range(self._core.classes)])
        if leave:
            gate_leave(cython.address(self._gate))
        return sizes

    @cython.cfunc
    @cython.exceptval(check=True)
    def _start(self, address: object) -> uint64_t:
        """Return where the block around an address starts, 0 if there is none; the caller is inside."""
        number = any_integer("address", address)
        if not 0 <= number < WORD:
            return 0
        return primary_block_start(self._core, number)

    @cython.cfunc
    @cython.exceptval(check=True)
    def _known(self, address: object) -> uint64_t:
        """Return where the block around an address starts; the caller is inside."""
        start: uint64_t = self._start(address)
        if start == 0:
            raise ValueError(f"address {int(address):#x} is in no block of this Primary")
        return start

    def owns(self, address) -> bool:
        """Return whether an address lies in a block made so far: live, cached or free."""
        return self.block_start(address) is not None

    def block_start(self, address):
        """Return the address of the block that an address lies in, or None."""
        leave: cython.bint = self._look()
        try:
            start: uint64_t = self._start(address)
        finally:
            if leave:
                gate_leave(cython.address(self._gate))
        return start if start else None

    def size_class(self, address):
        """Return the index into `classes` of the block that an address lies in, or None."""
        leave: cython.bint = self._look()
        try:
            start: uint64_t = self._start(address)
            return primary_region_of(self._core, start).index if start else None
        finally:
            if leave:
                gate_leave(cython.address(self._gate))

    def usable_size(self, address) -> int:
        """Return the bytes of the block that an address lies in.

        Raises:
            ValueError: in no block made so far.
        """
        leave: cython.bint = self._look()
        try:
            return primary_usable_size(self._core, self._known(address))
        finally:
            if leave:
                gate_leave(cython.address(self._gate))

    def metadata(self, address) -> memoryview:
        """Return the `metadata_size` bytes kept beside a block: zero at first, then whatever was written there.

        Raises:
            ValueError: in no block made so far, or there is no metadata.
        """
        leave: cython.bint = self._look()
        try:
            start: uint64_t = self._known(address)
            if self._core.config.metadata_size == 0:
                raise ValueError("metadata_size is 0: this Primary keeps no metadata")
            m: Metadata = Metadata()
            m._owner = self
            m._data = cython.cast(cython.p_void, primary_metadata(self._core, start))
            m._bytes = self._core.config.metadata_size
            return memoryview(m)
        finally:
            if leave:
                gate_leave(cython.address(self._gate))

    # ---- giving back ----

    def release(self, class_index=None, force=True, *, now_ms=None) -> int:
        """Give pages on which every block is free back to the OS, and return how many bytes.

        The caches of the calling thread, and of those not at work here, are drained first.

        Args:
            class_index: one class, or None for all.
            force: whatever the time; else only classes whose last release is `release_interval_ms` ago.
            now_ms: the time, if it has moved on.
        """
        self._enter()
        try:
            first: uint32_t = 0
            end: uint32_t = self._core.classes
            if class_index is not None:
                first = integer("class_index", class_index, 0, end - 1)
                end = first + 1
            if now_ms is not None:
                self._now = max(self._now, cython.cast(uint64_t, nanoseconds("now_ms", now_ms)))
            now: uint64_t = self._now
            forced: cython.bint = bool(force)
            busy: cython.bint = False
            given_back: uint64_t = 0
            with cython.nogil:
                cache_drain(self._core)
                cache_drain_idle(self._core, 0, cython.address(busy))
                while first < end:
                    if forced or primary_release_due(self._core, first, now):
                        given_back += self._release_class(first, now)
                    first += 1
            return given_back
        finally:
            gate_leave(cython.address(self._gate))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _release_class(self, index: uint32_t, now: uint64_t) -> uint64_t:
        """Release a class if callers have freed a page's worth since; what a cache never gave out is not freed."""
        before = cython.declare(ClassCounts)
        after = cython.declare(ClassCounts)
        cache_read_class(self._core, index, cython.address(before))
        freed: uint64_t = before.allocations - before.live
        if (freed - self._frees[index]) * self._core.region[index].size < self._core.page_size:
            return 0
        given_back: uint64_t = primary_release(self._core, index, now, ~cython.cast(uint64_t, 0))
        cache_read_class(self._core, index, cython.address(after))
        # Where pages' worth is left, the OS refused it: the next release tries again.
        if after.releases != before.releases and after.unreleased_bytes < self._core.page_size:
            self._frees[index] = freed
        return given_back

    # ---- all blocks ----

    def lock_all(self) -> None:
        """Keep every other thread out, and this one from allocating and freeing, until `unlock_all`.

        Raises:
            RuntimeError: this thread has locked already.
        """
        if not self._be_alone():
            raise RuntimeError("this thread has locked all blocks already")

    def unlock_all(self) -> None:
        """Undo `lock_all`.

        Raises:
            RuntimeError: this thread has not locked.
        """
        if self._closed:
            raise ValueError("this Primary is closed")
        if not gate_open(cython.address(self._gate), this_thread()):
            raise RuntimeError("this thread has not locked all blocks")

    def for_each(self, callback) -> None:
        """Call ``callback(address)`` for every block made so far, live or not: classes and addresses ascending.

        Raises:
            RuntimeError: this thread has not called `lock_all`.
        """
        if self._closed:
            raise ValueError("this Primary is closed")
        if not gate_is_mine(cython.address(self._gate), this_thread()):
            raise RuntimeError("for_each needs lock_all by this thread first")
        i: uint32_t
        for i in range(self._core.classes):
            address: uint64_t = self._core.region[i].base
            end: uint64_t = address + self._core.region[i].made * self._core.region[i].size
            while address < end:
                callback(address)
                if self._closed or not gate_is_mine(cython.address(self._gate), this_thread()):
                    raise RuntimeError("the callback of for_each must not unlock or close")
                address += self._core.region[i].size

    # ---- accounting ----

    def stats(self) -> dict:
        """Return the figures of each class, ascending, and their totals, all of one moment."""
        opens: cython.bint = self._be_alone()
        try:
            i: uint32_t
            classes = [self._class_stats(i) for i in range(self._core.classes)]
            metadata: uint64_t = self._core.metadata
        finally:
            if opens:
                gate_open(cython.address(self._gate), this_thread())
        return {
            "classes": classes,
            "mapped_bytes": sum([c["mapped_bytes"] for c in classes]),
            "allocations": sum([c["allocations"] for c in classes]),
            "frees": sum([c["frees"] for c in classes]),
            "metadata_bytes": metadata,
        }

    @cython.cfunc
    def _class_stats(self, index: uint32_t) -> object:
        r: cython.pointer[Region] = cython.address(self._core.region[index])
        n = cython.declare(ClassCounts)
        resident: uint64_t
        with cython.nogil:
            cache_read_class(self._core, index, cython.address(n))
            resident = vm_resident(r.base, r.blocks.mapped)
        return {
            "size": r.size,
            "capacity": r.capacity,
            "mapped_bytes": r.blocks.mapped,
            "allocations": n.allocations,
            "frees": n.allocations - n.live,
            "in_use": n.live,
            "free": n.free,
            "cached": n.cached,
            "resident_bytes": resident,
            "releases": r.releases,
            "last_released_bytes": r.last_released_bytes,
            "exhausted": r.exhausted,
        }

    def check(self) -> None:
        """Walk every structure.

        Raises:
            Inconsistent: a law is broken; it names the law, the class and the number that broke it.
        """
        opens: cython.bint = self._be_alone()
        index: uint32_t = 0
        number: uint64_t = 0
        broken: cython.int
        with cython.nogil:
            broken = cache_check(self._core, cython.address(index), cython.address(number))
        if opens:
            gate_open(cython.address(self._gate), this_thread())
        if broken:
            raise Inconsistent(
                invariant=primary_law(broken).decode(),
                values={"size class": sizes_default().size[index], "number": number},
            )


@cython.final
@cython.cclass
class Metadata:
    """The bytes beside one block, for a memoryview to look at; the mapping stays while one does."""

    _owner: Primary
    _data: cython.p_void
    _bytes: uint64_t

    def __getbuffer__(self, view: cython.pointer[Py_buffer], flags: cython.int):
        self._owner._views += 1
        PyBuffer_FillInfo(view, self, self._data, self._bytes, False, flags)

    def __releasebuffer__(self, view: cython.pointer[Py_buffer]):
        self._owner._views -= 1
        self._owner._destroy_unless_viewed()


def tidy_child():
    for primary in alive:
        primary._after_fork()


os.register_at_fork(after_in_child=tidy_child)
