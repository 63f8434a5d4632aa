# cython: language_level=3
"""Areas of OS memory as Python meets them: `Arenas`, which hands out `ArenaBlock` records.

Thread-safety: every method may be called from any thread; the GIL is released around the core. A gate lets many calls
in at once; `close` and `check` shut it, after the calls that are inside have left.
Invariants: a call that raises has changed nothing; memory that is only managed stays its owner's, and a managed buffer
stays exported until `close`.
Does not: read a clock (time is what `free` and `purge` are told; a time limit on huge pages is the one exception), or
know that somebody still looks at a block.
"""

import math
import os
from typing import NamedTuple
from weakref import WeakSet

import cython
from cython.cimports.cpython.buffer import (
    Py_buffer,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cython.cimports.cpython.pythread import PyThread_get_thread_ident
from cython.cimports.freehold.core.arena import ArenaRequest, MemoryId, arena_allocate, arena_free
from cython.cimports.freehold.core.arenabook import (
    ARENA_COMMIT_AUTO,
    ARENA_NO_NODE,
    ARENA_OVERLAPS,
    ARENA_REFUSED,
    ARENA_TOO_MANY,
    ARENA_UNKNOWN,
    ARENAS_MOST,
    MEMORY_ARENA,
    MEMORY_NONE,
    MEMORY_OS,
    Arena,
    ArenaFailure,
    ArenaPolicy,
    ArenasStats,
    arena_draw,
    arenas_check,
    arenas_contain,
    arenas_find,
    arenas_live,
    arenas_note_time,
    arenas_read_stats,
    arenas_time,
)
from cython.cimports.freehold.core.arenabook import Arenas as ArenaSet
from cython.cimports.freehold.core.arenamake import (
    ArenaShape,
    arenas_close,
    arenas_manage,
    arenas_open,
    arenas_reserve,
    arenas_reserve_huge,
    arenas_reset,
)
from cython.cimports.freehold.core.arenapurge import arenas_purge
from cython.cimports.freehold.core.fault import FREE_DOUBLE, FREE_OK
from cython.cimports.freehold.core.gate import Gate, gate_enter, gate_leave, gate_open, gate_reset, gate_shut
from cython.cimports.freehold.core.heap import heap_boot
from cython.cimports.freehold.core.space import BLOCK_BYTES, BLOCK_SHIFT, space_is_reserved
from cython.cimports.freehold.core.vm import vm_call_name, vm_facts
from cython.cimports.libc.stdint import uint32_t, uint64_t

from freehold._arguments import WORD, any_integer, integer, nanoseconds, power_of_two, size_of
from freehold.errors import BadFree, BlocksLive, Inconsistent, OSRefused, OutOfMemory

heap_boot()

NO_HEAP = 0xFFFF  # the heap id that the owner table tells of these blocks
GIB = 1 << 30
KINDS = {MEMORY_ARENA: "arena", MEMORY_OS: "os"}
KIND_NUMBERS = {name: kind for kind, name in KINDS.items()}
LONGEST_NS = (1 << 62) - 1
alive = WeakSet()  # what a forked child has to tidy


class ArenaBlock(NamedTuple):
    """Blocks of 4 MiB that were handed out together, and their memory id.

    Attributes:
        address: where they begin.
        size: their bytes: the size asked for, rounded up to whole blocks.
        kind: ``'arena'``, or ``'os'``: straight from the OS.
        arena: the arena's id; None if straight from the OS.
        block_index: the first block's place in the arena; None if straight from the OS.
        exclusive: whether the arena serves only requests that name it.
        pinned: whether the memory is never decommitted.
        initially_committed: whether all of it could be written when it was handed out.
        initially_zero: whether all of it was known to read 0, once committed.
    """

    address: int
    size: int
    kind: str
    arena: int | None
    block_index: int | None
    exclusive: bool
    pinned: bool
    initially_committed: bool
    initially_zero: bool


class ArenaArea(NamedTuple):
    """Where an arena lies.

    Attributes:
        address: its first byte.
        size: its bytes.
    """

    address: int
    size: int


class HugeReserve(NamedTuple):
    """What came of asking for pages of 1 GiB.

    Attributes:
        arena: the id of the arena they are; None if there are none.
        pages: how many there are.
    """

    arena: int | None
    pages: int


for record in (ArenaBlock, ArenaArea, HugeReserve):
    record.__module__ = "freehold.layers"


@cython.cfunc
@cython.exceptval(check=False)
def this_thread() -> uint64_t:
    return cython.cast(uint64_t, PyThread_get_thread_ident())


@cython.cfunc
def number_of(name: object, value: object) -> object:
    """Return a number, int or float."""
    return value if isinstance(value, float) else any_integer(name, value)


@cython.cfunc
def purge_delay(delay_ms: object, multiplier: object) -> object:
    """Return the delay of purges in nanoseconds: -1 never, 0 at once."""
    delay = number_of("purge_delay_ms", delay_ms)
    times = number_of("purge_multiplier", multiplier)
    if not times >= 0:
        raise ValueError(f"purge_multiplier must not be negative, but is {times}")
    if math.isnan(delay):
        raise ValueError("purge_delay_ms must be a number, not nan")
    if delay < 0:
        return -1
    return min(nanoseconds("purge_delay_ms", delay * times), LONGEST_NS)


@cython.cfunc
def refusal(why: cython.pointer[ArenaFailure], asked: object) -> object:
    """Return the exception that says why something could not be had."""
    if why.reason == ARENA_REFUSED:
        call = vm_call_name(why.os_call).decode()
        return OSRefused(errno=why.os_error, call=call, layer="arena", asked=asked)
    if why.reason == ARENA_TOO_MANY:
        return OutOfMemory("no more arenas", layer="arena", asked=asked)
    if why.reason == ARENA_OVERLAPS:
        return ValueError("buffer_or_address overlaps an area that is known already")
    return OutOfMemory("no suitable run of free blocks", layer="arena", asked=asked)


@cython.final
@cython.cclass
class Export:
    """A buffer that its owner must not move or free while this lives."""

    view: Py_buffer
    held: cython.bint

    def __cinit__(self, exporter):
        try:
            PyObject_GetBuffer(exporter, cython.address(self.view), PyBUF_WRITABLE)
        except BufferError as error:
            raise ValueError(f"buffer_or_address must be writable and contiguous: {error}") from None
        self.held = True

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(cython.address(self.view))


@cython.final
@cython.cclass
class Arenas:
    """Areas of OS memory in blocks of 4 MiB, claimed without a lock.

    Args:
        reserve_size: what a new arena reserves when none has room; doubled after every eight arenas.
        max_arenas: how many there may be, at most 512.
        eager_commit: 1: new arenas are committed as a whole; 0: as needed; ``'auto'``: as a whole if the OS
            overcommits.
        purge_delay_ms: how long freed blocks keep their memory; 0: no time; negative: for ever.
        purge_multiplier: by what the delay is multiplied.
        limit_os_alloc: nothing comes straight from the OS.
        numa_nodes: pretend that there are so many nodes; the OS is then told of none.
        virtual_reserve: pretend that reserving addresses costs nothing, or that it does.

    Example:
        >>> with Arenas() as arenas:
        ...     id = arenas.reserve(16 << 20)
        ...     block = arenas.allocate(5 << 20)
        ...     block.size, block.arena == id, arenas.picture(id)
        (8388608, True, 'xx..')

    Thread-safety: any method, any thread. A block may be freed by any thread.
    """

    __weakref__ = cython.declare(object)
    _set: ArenaSet
    _gate: Gate
    _closed: cython.bint
    _nodes: cython.int
    _exports: list

    def __cinit__(
        self,
        *,
        reserve_size=1 << 30,
        max_arenas=512,
        eager_commit="auto",
        purge_delay_ms=10,
        purge_multiplier=10,
        limit_os_alloc=False,
        numa_nodes=None,
        virtual_reserve=None,
    ):
        self._closed = True
        self._exports = []
        policy = cython.declare(ArenaPolicy)
        policy.heap = NO_HEAP
        policy.reserve_bytes = size_of("reserve_size", reserve_size)
        policy.most = integer("max_arenas", max_arenas, 0, ARENAS_MOST)
        if eager_commit == "auto":
            policy.eager_commit = ARENA_COMMIT_AUTO
        else:
            policy.eager_commit = integer("eager_commit", eager_commit, 0, 1)
        policy.delay_ns = purge_delay(purge_delay_ms, purge_multiplier)
        policy.limit_os_alloc = bool(limit_os_alloc)
        policy.bind = numa_nodes is None
        self._nodes = vm_facts().numa_nodes if numa_nodes is None else integer("numa_nodes", numa_nodes, 1, 1024)
        policy.virtual_reserve = space_is_reserved() if virtual_reserve is None else bool(virtual_reserve)
        arenas_open(cython.address(self._set), cython.address(policy))
        self._closed = False
        alive.add(self)

    def __dealloc__(self):
        if not self._closed:
            arenas_close(cython.address(self._set))

    # ---- in, out, and the end ----

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def _enter(self) -> cython.int:
        """Come in; whoever does leaves through the gate."""
        me: uint64_t = this_thread()
        with cython.nogil:
            gate_enter(cython.address(self._gate), me)
        if self._closed:
            gate_leave(cython.address(self._gate))
            raise ValueError("these Arenas are closed")
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _leave(self) -> cython.void:
        gate_leave(cython.address(self._gate))

    def __enter__(self):
        self._enter()
        self._leave()
        return self

    def __exit__(self, *_):
        self.close(force=True)

    def close(self, force=False) -> None:
        """Unmap every arena; managed memory is only forgotten. Leaving a ``with`` block does so with `force`.

        Args:
            force: live blocks or not: their memory is gone.

        Raises:
            BlocksLive: blocks are live, and not `force`; nothing has changed.
        """
        me: uint64_t = this_thread()
        with cython.nogil:
            gate_shut(cython.address(self._gate), me)
        try:
            if not self._closed:
                live: uint64_t = arenas_live(cython.address(self._set))
                if live and not force:
                    raise BlocksLive(blocks=live, bytes=live << BLOCK_SHIFT)
                self._closed = True
                with cython.nogil:
                    arenas_close(cython.address(self._set))
        finally:
            gate_open(cython.address(self._gate), me)
        self._exports = []

    def _after_fork(self):
        """In a forked child: the threads that were inside are gone."""
        gate_reset(cython.address(self._gate), this_thread())
        if not self._closed:
            arenas_reset(cython.address(self._set))

    # ---- arenas ----

    @cython.cfunc
    def _node(self, numa_node: object) -> object:
        return integer("numa_node", numa_node, ARENA_NO_NODE, self._nodes - 1)

    def reserve(self, size, *, commit=False, allow_large=False, exclusive=False, numa_node=-1) -> int:
        """Reserve an arena; return its id.

        Args:
            size: its bytes, rounded up to whole blocks.
            commit: commit all of it now.
            allow_large: ask for transparent huge pages.
            exclusive: serve only requests that name it.
            numa_node: the node whose memory it prefers; -1: any.

        Raises:
            OSRefused: there are no such addresses, or the OS does not commit them.
            OutOfMemory: there are `max_arenas` already.
        """
        shape = cython.declare(ArenaShape)
        shape.size = size_of("size", size)
        shape.base = 0
        shape.node = self._node(numa_node)
        shape.commit = bool(commit)
        shape.zero = True
        shape.large = bool(allow_large)
        shape.exclusive = bool(exclusive)
        why = cython.declare(ArenaFailure)
        id: uint32_t
        self._enter()
        with cython.nogil:
            id = arenas_reserve(cython.address(self._set), cython.address(shape), cython.address(why))
            gate_leave(cython.address(self._gate))
        if id == 0:
            raise refusal(cython.address(why), shape.size)
        return id

    def manage(
        self, buffer_or_address, size=None, *, committed, zero, large=False, numa_node=-1, exclusive=False
    ) -> int:
        """Make an arena of memory that is somebody else's; return its id.

        Only the whole, aligned blocks of 4 MiB inside the range are used.

        Args:
            buffer_or_address: a writable buffer, kept exported until `close`; or where the memory begins.
            size: its bytes. A buffer's are known; of it, less may be used.
            committed: whether it may be written already.
            zero: whether it reads 0.
            large: it is of huge pages: for requests that allow them, and never decommitted.
            numa_node: the node that it lies on; -1: unknown.
            exclusive: serve only requests that name it.

        Raises:
            ValueError: no whole block lies in the range, or it overlaps a known area.
            OutOfMemory: there are `max_arenas` already.
        """
        export = None
        try:
            address = any_integer("buffer_or_address", buffer_or_address)
        except TypeError:
            export = self._export(buffer_or_address)
            address = cython.cast(uint64_t, cython.cast(Export, export).view.buf)
            longest = cython.cast(Export, export).view.len
            if longest == 0:
                raise ValueError("buffer_or_address must not be empty") from None
            length = longest if size is None else integer("size", size, 1, longest)
        else:
            integer("buffer_or_address", address)
            if size is None:
                raise TypeError("size is needed where buffer_or_address is an address")
            length = size_of("size", size)
        if large and not committed:
            raise ValueError("committed must be true of large pages")
        first = -(-address // BLOCK_BYTES) * BLOCK_BYTES
        last = (address + length) // BLOCK_BYTES * BLOCK_BYTES
        if first >= last or last >= WORD:
            raise ValueError(f"size leaves no whole block of {BLOCK_BYTES} bytes between {address:#x} and its end")
        return self._manage(first, last - first, committed, zero, large, numa_node, exclusive, export)

    @cython.cfunc
    def _export(self, exporter: object) -> object:
        try:
            return Export(exporter)
        except TypeError:
            raise TypeError(f"buffer_or_address must be a buffer or an int, not {type(exporter).__name__}") from None

    @cython.cfunc
    def _manage(
        self,
        base: object,
        size: object,
        committed: object,
        zero: object,
        large: object,
        numa_node: object,
        exclusive: object,
        export: object,
    ) -> object:
        shape = cython.declare(ArenaShape)
        shape.base = base
        shape.size = size
        shape.node = self._node(numa_node)
        shape.commit = bool(committed)
        shape.zero = bool(zero)
        shape.large = bool(large)
        shape.exclusive = bool(exclusive)
        why = cython.declare(ArenaFailure)
        id: uint32_t
        self._enter()
        with cython.nogil:
            id = arenas_manage(cython.address(self._set), cython.address(shape), cython.address(why))
        if id and export is not None:
            self._exports.append(export)
        self._leave()
        if id == 0:
            raise refusal(cython.address(why), size)
        return id

    def reserve_huge(self, pages, *, numa_node=-1, timeout_ms=0) -> HugeReserve:
        """Reserve an arena of pages of 1 GiB: as many as the OS gives, up to `pages`.

        Args:
            pages: how many.
            numa_node: the node they should lie on; -1: any.
            timeout_ms: after how long to be content with those there are; 0: never.

        Raises:
            OSRefused: the OS gave none.
            OutOfMemory: there are `max_arenas` already.
        """
        number = integer("pages", pages, 0, WORD // GIB // 2 - 1)
        node = self._node(numa_node)
        timeout = nanoseconds("timeout_ms", timeout_ms)
        return self._reserve_huge(number, node, timeout)

    @cython.cfunc
    def _reserve_huge(self, pages: object, node: object, timeout: object) -> object:
        shape = cython.declare(ArenaShape)
        shape.base = 0
        shape.size = pages * GIB
        shape.node = node
        shape.commit = True
        shape.zero = True
        shape.large = True
        shape.exclusive = False
        why = cython.declare(ArenaFailure)
        limit: uint64_t = timeout
        got: uint64_t = 0
        id: uint32_t = 0
        self._enter()
        with cython.nogil:
            if shape.size:
                id = arenas_reserve_huge(
                    cython.address(self._set),
                    cython.address(shape),
                    limit,
                    cython.address(got),
                    cython.address(why),
                )
            gate_leave(cython.address(self._gate))
        if id == 0 and shape.size:
            raise refusal(cython.address(why), shape.size)
        return HugeReserve(id or None, got)

    def reserve_huge_interleaved(self, pages, nodes=0, timeout_ms=0) -> list:
        """Reserve pages of 1 GiB evenly over nodes, what is left over on the first ones; return what each gave.

        Args:
            pages: how many, over all nodes.
            nodes: over how many nodes; 0: over all there are. Beyond those they begin again with the first.
            timeout_ms: after how long to be content with those there are; each node has its share. 0: never.

        Raises:
            OSRefused: the OS gave none on any node.
            OutOfMemory: there are `max_arenas` already.
        """
        number = integer("pages", pages, 0, WORD // GIB // 2 - 1)
        count = integer("nodes", nodes, 0, 1024) or self._nodes
        timeout = nanoseconds("timeout_ms", timeout_ms) // count
        if timeout_ms:
            timeout = max(timeout, 1)
        reserves = []
        refused = None
        for node in range(count):
            share = number // count + (node < number % count)
            try:
                reserves.append(self._reserve_huge(share, node % self._nodes, timeout))
            except OutOfMemory as error:
                refused = refused or error
                reserves.append(HugeReserve(None, 0))
        if refused is not None and not any(reserve.pages for reserve in reserves):
            raise refused
        return reserves

    # ---- blocks ----

    def allocate(self, size, *, alignment=0, commit=True, allow_large=False, arena=None, numa_node=-1) -> ArenaBlock:
        """Hand out the lowest free run of blocks in an arena that suits; in a new one, or straight from the OS.

        Args:
            size: bytes; rounded up to whole blocks.
            alignment: 0, or a power of two; above 4 MiB the memory comes straight from the OS.
            commit: make it ready to be written.
            allow_large: arenas of huge pages will do too.
            arena: the id of the one arena that may serve; None: any that is not exclusive.
            numa_node: arenas on this node come first; -1: no preference.

        Raises:
            ValueError: there is no such arena.
            OutOfMemory: the arena that is named has no room or does not suit; or under `limit_os_alloc`, none does.
            OSRefused: the OS does not give memory.
        """
        q = cython.declare(ArenaRequest)
        id = cython.declare(MemoryId)
        q.size = size_of("size", size)
        q.align = power_of_two("alignment", alignment) if integer("alignment", alignment) else 0
        q.arena = 0 if arena is None else min(integer("arena", arena, 1), ARENAS_MOST + 1)
        q.node = self._node(numa_node)
        q.commit = bool(commit)
        q.allow_large = bool(allow_large)
        address: uint64_t
        self._enter()
        with cython.nogil:
            address = arena_allocate(cython.address(self._set), cython.address(q), cython.address(id))
            gate_leave(cython.address(self._gate))
        if address == 0:
            if q.why.reason == ARENA_UNKNOWN:
                raise ValueError(f"arena must be the id of an arena, not {arena}")
            raise refusal(cython.address(q.why), q.size)
        return ArenaBlock(
            address,
            (q.size + BLOCK_BYTES - 1) >> BLOCK_SHIFT << BLOCK_SHIFT,
            KINDS[id.kind],
            id.arena if id.kind == MEMORY_ARENA else None,
            id.block if id.kind == MEMORY_ARENA else None,
            id.exclusive != 0,
            id.pinned != 0,
            id.committed != 0,
            id.zero != 0,
        )

    def free(self, block, committed_size=None, *, now=None) -> None:
        """Give blocks back, from any thread. Any run of live blocks of one arena will do, as with `_replace`.

        Args:
            block: what `allocate` returned.
            committed_size: how many of its bytes may be written still; None: all.
            now: the time in milliseconds, if it has advanced.

        Raises:
            BadFree: a block is not live ('double'); the arena or the block does not exist ('foreign'); after `close`
                ('closed').
        """
        if not isinstance(block, ArenaBlock):
            raise TypeError(f"block must be an ArenaBlock, not {type(block).__name__}")
        address = any_integer("block.address", block.address)
        size = any_integer("block.size", block.size)
        committed = size if committed_size is None else integer("committed_size", committed_size, 0, max(size, 0))
        time = None if now is None else nanoseconds("now", now)
        numbers = (address, size, block.arena or 0, block.block_index or 0)
        if not all(0 <= any_integer("block", number) < WORD // 2 for number in numbers):
            raise BadFree(address=address, reason="foreign")
        id = cython.declare(MemoryId)
        id.kind = KIND_NUMBERS.get(block.kind, MEMORY_NONE)
        id.arena = min(numbers[2], ARENAS_MOST + 1)
        id.block = numbers[3]
        try:
            self._enter()
        except ValueError:
            raise BadFree("these Arenas are closed", address=address, reason="closed") from None
        if time is not None:
            arenas_note_time(cython.address(self._set), time)
        at: uint64_t = address
        bytes: uint64_t = size
        still: uint64_t = committed
        reason: cython.int
        with cython.nogil:
            reason = arena_free(cython.address(self._set), at, bytes, cython.address(id), still)
            gate_leave(cython.address(self._gate))
        if reason != FREE_OK:
            raise BadFree(address=address, reason="double" if reason == FREE_DOUBLE else "foreign")

    def purge(self, force=False, visit_all=False, now=None) -> bool:
        """Give the memory of blocks back whose time has come; they are uncommitted then. Return whether any was.

        Args:
            force: whatever the time is.
            visit_all: every arena; else the first that has something to give.
            now: the time in milliseconds, if it has advanced.
        """
        time = None if now is None else nanoseconds("now", now)
        forced: cython.bint = bool(force)
        all: cython.bint = bool(visit_all)
        self._enter()
        told: uint64_t = arenas_time(cython.address(self._set)) if time is None else time
        purged: cython.bint
        with cython.nogil:
            purged = arenas_purge(cython.address(self._set), told, forced, all)
            gate_leave(cython.address(self._gate))
        return purged

    # ---- to look at ----

    @cython.cfunc
    @cython.exceptval(check=True)
    def _find(self, id: object) -> cython.pointer[Arena]:
        """Return a known arena. Who calls is inside, and leaves."""
        number = any_integer("id", id)
        a: cython.pointer[Arena] = cython.NULL
        if 1 <= number <= ARENAS_MOST:
            a = arenas_find(cython.address(self._set), number)
        if a == cython.NULL:
            raise KeyError(number)
        return a

    def area(self, id) -> ArenaArea:
        """Return where an arena lies: ``(address, size)``.

        Raises:
            KeyError: there is no such arena.
        """
        self._enter()
        try:
            a: cython.pointer[Arena] = self._find(id)
            return ArenaArea(a.base, a.blocks << BLOCK_SHIFT)
        finally:
            self._leave()

    def picture(self, id) -> str:
        """Return a character for each block of an arena, 'x' in use, '.' free, in lines of 64.

        Raises:
            KeyError: there is no such arena.
        """
        self._enter()
        try:
            a: cython.pointer[Arena] = self._find(id)
            drawn = bytearray(a.blocks)
            arena_draw(a, drawn)
        finally:
            self._leave()
        text = drawn.decode()
        return "\n".join(text[i : i + 64] for i in range(0, len(text), 64))

    def contains(self, address) -> bool:
        """Return whether an address lies in one of the arenas."""
        number = any_integer("address", address)
        self._enter()
        try:
            return 0 <= number < WORD and arenas_contain(cython.address(self._set), number)
        finally:
            self._leave()

    def stats(self) -> dict:
        """Return the figures of all arenas together."""
        s = cython.declare(ArenasStats)
        self._enter()
        with cython.nogil:
            arenas_read_stats(cython.address(self._set), cython.address(s))
            gate_leave(cython.address(self._gate))
        return {
            "arenas": s.arenas,
            "reserved_bytes": s.reserved_bytes,
            "committed_bytes": s.committed_bytes,
            "in_use_bytes": s.in_use_bytes,
            "os_direct_bytes": s.os_direct_bytes,
            "scheduled_bytes": s.scheduled_bytes,
            "purges": s.purges,
            "purged_bytes": s.purged_bytes,
            "metadata_bytes": s.metadata_bytes,
        }

    def check(self) -> None:
        """Compare the bitmaps of every arena with each other, alone.

        Raises:
            Inconsistent: a law is broken; it names the law and the arena.
        """
        me: uint64_t = this_thread()
        id: uint32_t = 0
        law: cython.p_const_char = cython.NULL
        with cython.nogil:
            gate_shut(cython.address(self._gate), me)
            if not self._closed:
                law = arenas_check(cython.address(self._set), cython.address(id))
            gate_open(cython.address(self._gate), me)
        if self._closed:
            raise ValueError("these Arenas are closed")
        if law != cython.NULL:
            raise Inconsistent(invariant=cython.cast(bytes, law).decode(), values={"arena": id})


def tidy_child():
    for arenas in alive:
        arenas._after_fork()


os.register_at_fork(after_in_child=tidy_child)
