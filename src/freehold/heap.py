"""`Heap`: memory of one's own, with a name, a limit, a decay time, a place.

>>> with freehold.Heap("etl", limit="4GiB") as heap:
...     table = np.ones((1000, 1000))  # lives there, for life
>>> heap.stats().current_bytes

Thread-safety: every method may be called from any thread. ``with heap:`` is of the context (PEP 567) that runs it: of
this thread, this task; `run` and `executor` carry it elsewhere.
Invariants: an array outlives the ``with`` and the `Heap`; what it lives in is closed when nobody holds either.
Does not import NumPy before it is needed: `block` does without.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

from freehold import config, heap_stats, opening
from freehold._arguments import WORD, integer, power_of_two
from freehold.counting import Counting, Reading, reading_of
from freehold.errors import BlocksLive, Inconsistent, LimitError, OSRefused, OutOfMemory
from freehold.numpy_import import C_MODULES

if TYPE_CHECKING:
    from types import ModuleType, TracebackType

    from freehold.face.block import Block
    from freehold.heap_stats import HeapStats

__all__ = ["Heap", "HeapExecutor"]

HUGE_PAGES = {"never": 0, "auto": 1, "always": 2}
LEAST_CGROUP_ROOM = 1 << 20

_numbers = itertools.count(1)
# What each `with heap:` around the running code found, innermost last: the heap, NumPy's handler before, its refusals.
_entered: ContextVar[tuple[tuple[Heap, Any, int], ...]] = ContextVar("freehold.heap", default=())


class Heap:
    """A heap: arrays and blocks made in it live in its memory, are counted there, and stay below its limit.

    Args:
        name: what it is called in statistics and errors; None: ``heap-1``, ``heap-2`` …
        limit: bytes that it may hold resident, its own books included: an int, ``"1.5GiB"``, ``"50%"`` of the memory
            there is, or ``"cgroup"``: what the container leaves. None: no limit.
        numa_node: the node whose memory it takes; None: any.
        huge_pages: ``"auto"`` where they pay, ``"never"``, or ``"always"``.
        decay: how long idle memory is kept: seconds, ``"500ms"``, 0 (at once) or ``"never"``.
        secure: blocks in an order that is hard to predict, erased and held back when freed, and a guard page behind
            those above 128 KiB.
        on_limit: called with the heap and the bytes asked before a request is refused; True: try again.

    Raises:
        TypeError, ValueError: an argument is wrong; the text names it, the value, and what would be right.
        OSRefused: the operating system refuses addresses, or to bind memory to the node.

    Example:
        >>> heap = Heap("scratch", limit="64MiB")
        >>> array = heap.zeros(1000)
        >>> heap.stats().current_count
        1

    Thread-safety: any method, any thread.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        limit: int | str | None = None,
        numa_node: int | None = None,
        huge_pages: str = "auto",
        decay: float | str = "1s",
        secure: bool = False,
        on_limit: Callable[[Heap, int], object] | None = None,
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str or None, not {type(name).__name__}")
        if on_limit is not None and not callable(on_limit):
            raise TypeError(f"on_limit must be callable or None, not {type(on_limit).__name__}")
        if huge_pages not in HUGE_PAGES:
            raise ValueError(f"huge_pages={huge_pages!r} is not known: expected {', '.join(map(repr, HUGE_PAGES))}")
        if not isinstance(secure, bool):
            raise TypeError(f"secure must be a bool, not {type(secure).__name__}")
        bytes_limit = _limit(limit)
        node = _node(numa_node)
        decay_ms = config.parse_duration("decay", decay)
        self.name = name if name is not None else f"heap-{next(_numbers)}"
        self.secure = secure
        self.on_limit = on_limit
        self._core = _open(bytes_limit, decay_ms, node, HUGE_PAGES[huge_pages], secure)
        self._core.set_name(self.name.encode("utf-8", "replace"))
        self._handler: Any = None
        self._arrow_pool: Any = None
        if on_limit is not None:
            self._core.ask(_Asker(self))
        heap_stats.register(self, self._core)

    def __repr__(self) -> str:
        return f"<freehold.Heap {self.name!r}{', closed' if self.closed else ''}>"

    # ---- where arrays come from ----

    def __enter__(self) -> Self:
        """Have NumPy's arrays of this context made here, until the ``with`` ends."""
        self._require_open()
        from freehold.face import heap_face

        if self._handler is None:
            self._handler = self._core.capsule(f"freehold {self.name}".encode("ascii", "replace"))
        before = heap_face.swap_handler(_umath(), self._handler)
        _entered.set((*_entered.get(), (self, before, self._core.refusals)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        from freehold.face import heap_face

        *outer, (_, before, refusals) = _entered.get()
        _entered.set(tuple(outer))
        heap_face.swap_handler(_umath(), before)
        of_numpy = isinstance(problem, MemoryError) and not isinstance(problem, OutOfMemory)
        if of_numpy and not self.closed and self._core.refusals > refusals:  # for what this heap refused
            raise self._refusal(self._core.last_asked) from problem

    def run(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        """Return ``function(*arguments, **named)``, called with this heap as the one for arrays."""
        with self:
            return function(*arguments, **named)

    def executor(self, max_workers: int | None = None, **more: Any) -> HeapExecutor:
        """Return a `ThreadPoolExecutor` whose calls run with this heap as the one for arrays."""
        self._require_open()
        return HeapExecutor(self, max_workers, **more)

    def empty(self, shape: Any, dtype: Any = float, order: str = "C") -> Any:
        """Return a new array in this heap: ``numpy.empty``."""
        return self.run(import_module("numpy").empty, shape, dtype, order)

    def zeros(self, shape: Any, dtype: Any = float, order: str = "C") -> Any:
        """Return a new array of zeros in this heap: ``numpy.zeros``."""
        return self.run(import_module("numpy").zeros, shape, dtype, order)

    def full(self, shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> Any:
        """Return a new array of one value in this heap: ``numpy.full``."""
        return self.run(import_module("numpy").full, shape, fill_value, dtype, order)

    def array(self, source: Any, dtype: Any = None, **more: Any) -> Any:
        """Return a new array in this heap with what *source* holds: ``numpy.array``, which copies."""
        return self.run(import_module("numpy").array, source, dtype, **more)

    def block(self, nbytes: int, *, alignment: int = 64, zero: bool = False) -> Block:
        """Return *nbytes* bytes of this heap.

        Args:
            nbytes: how many, from 0 up.
            alignment: of their address, a power of two.
            zero: they read 0; else they hold anything.

        Raises:
            LimitError: they would take the heap beyond its limit.
        """
        self._require_open()
        from freehold.face.block import Block

        size = integer("nbytes", nbytes, 0, WORD // 2 - 1)
        align = power_of_two("alignment", alignment, 1, 1 << 30)
        address = self._core.allocate(size, align, bool(zero))
        if not address:
            raise self._refusal(size)
        return Block(self, self._core, address, size, align)

    def arrow_pool(self) -> Any:
        """Return a `pyarrow.MemoryPool` whose buffers live in this heap: counted there, and below its limit.

        Pass it to what takes a ``memory_pool``, or to ``pyarrow.set_memory_pool``. A request that is over the limit is
        an `ArrowMemoryError`, a `MemoryError`. Buffers may outlive the pool and the `Heap`.

        Raises:
            ImportError: there is no pyarrow.
            RuntimeError: this pyarrow is not one that freehold knows; the text says why.
        """
        self._require_open()
        from freehold import arrow_import

        if self._arrow_pool is None:
            self._arrow_pool = arrow_import.pool_of(self._core, self.name)
        return self._arrow_pool

    # ---- figures, and giving back ----

    def stats(self) -> HeapStats:
        """Return what the heap holds now. Costs no system call."""
        self._require_open()
        return heap_stats.of_heap(self.name, self._core.stats())

    def statistics(self) -> Counting:
        """Return a context manager that counts what is allocated in this heap within it, by any thread.

        Example:
            >>> with heap.statistics() as seen:
            ...     block = heap.block(1000)
            >>> seen.stats().total_count
            1
        """
        return Counting(self._reading)

    def _reading(self) -> Reading:
        self._require_open()
        read = self._core.stats()
        return reading_of(read, read["peak"])

    def purge(self) -> int:
        """Give everything idle in this heap back to the operating system now; return how many bytes that were."""
        self._require_open()
        return int(self._core.purge())

    def check(self) -> None:
        """Verify the heap's structures and sums.

        Raises:
            Inconsistent: they are broken.
        """
        self._require_open()
        broken = self._core.check()
        if broken:
            raise Inconsistent(invariant=f"law {broken} of heap {self.name!r}", values=self._core.stats())

    @property
    def limit(self) -> int | None:
        """The bytes that it may hold resident; None: no limit. Set it to change it.

        Raises:
            ValueError: more is in use, also after giving back what is idle; nothing has changed.
        """
        from freehold.face.heap_face import NO_LIMIT

        self._require_open()
        limit = self._core.stats()["limit"]
        return None if limit == NO_LIMIT else limit

    @limit.setter
    def limit(self, value: int | str | None) -> None:
        self._require_open()
        wanted = _limit(value)
        if not self._core.set_limit(wanted):
            used = self._core.stats()["used"]
            raise ValueError(f"limit={value!r} is {wanted} bytes, below the {used} bytes that heap {self.name!r} uses")

    # ---- the end ----

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return bool(self._core.closed)

    def close(self, force: bool = False) -> None:
        """Return everything to the operating system. Does nothing the second time.

        Args:
            force: also while blocks are live: their memory goes too (they read 0 from then on), their addresses are
                kept until the last of them is freed.

        Raises:
            BlocksLive: blocks are live, and it is not forced; nothing was closed.
        """
        if not isinstance(force, bool):
            raise TypeError(f"force must be a bool, not {type(force).__name__}")
        if self.closed:
            return
        done, blocks, held = self._core.close(force)
        if not done:
            raise BlocksLive(
                f"heap {self.name!r}: {blocks} blocks ({held} bytes) are still live", blocks=blocks, bytes=held
            )

    def _require_open(self) -> None:
        if self.closed:
            raise ValueError(f"heap {self.name!r} is closed")

    def _refusal(self, asked: int) -> Exception:
        """Return what to raise for a request that the core refused."""
        from freehold.face.heap_face import NO_LIMIT

        self._require_open()
        stats = self._core.stats()
        if stats["limit"] != NO_LIMIT and stats["refused"]:
            return LimitError(
                heap=self.name, asked=asked, live=stats["used"], limit=stats["limit"], largest=self._core.left()
            )
        return OutOfMemory(f"heap {self.name!r}: the operating system has no more memory", layer="heap", asked=asked)


class HeapExecutor(ThreadPoolExecutor):
    """A `ThreadPoolExecutor` whose calls run with a heap as the one for arrays."""

    def __init__(self, heap: Heap, max_workers: int | None = None, **more: Any) -> None:
        super().__init__(max_workers, **more)
        self.heap = heap

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Have ``heap.run(function, *arguments, **named)`` called by a worker."""
        return super().submit(self.heap.run, function, *arguments, **named)


class _Asker:
    """Asks a heap's `on_limit`, as long as there is the heap."""

    def __init__(self, heap: Heap) -> None:
        self.heap = weakref.ref(heap)

    def __call__(self, asked: int) -> bool:
        heap = self.heap()
        return heap is not None and heap.on_limit is not None and heap.on_limit(heap, asked) is True


def _umath() -> ModuleType:
    import_module("numpy")
    return next(sys.modules[name] for name in C_MODULES if name in sys.modules)


def _open(limit: int, decay_ms: float, node: int, huge_pages: int, secure: bool) -> Any:
    opening.open_heap()
    from freehold.face.heap_face import NO_LIMIT, Core

    decay_ns = NO_LIMIT if decay_ms == config.NEVER else max(1, int(decay_ms * 1e6))
    try:
        return Core(limit, decay_ns, node, huge_pages, secure)
    except OSError as problem:
        if limit < LEAST_CGROUP_ROOM:
            raise ValueError(f"limit={limit} is less than an empty heap's books: expected 1 MiB or more") from None
        raise OSRefused(errno=problem.errno or 0, call="reserve", layer="heap") from None


def _limit(value: int | str | None) -> int:
    """Return the bytes that a limit means."""
    from freehold.face.heap_face import NO_LIMIT

    if value is None:
        return NO_LIMIT
    if value == "cgroup":
        return _cgroup_room()
    size = config.parse_size("limit", value)
    if size == 0:
        raise ValueError(
            f'limit={value!r} leaves no room: expected bytes, text like "1.5GiB", "50%", "cgroup", or None'
        )
    return min(size, NO_LIMIT - 1)


def _cgroup_room() -> int:
    """Return what the container's limit leaves beside what this process has resident; where it has none, no limit."""
    from freehold.face.heap_face import NO_LIMIT
    from freehold.face.vm_face import Vm

    with Vm() as vm:
        facts = vm.facts()
    if facts["cgroup_limit"] is None:
        return NO_LIMIT
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * facts["page_size"]
    return int(max(LEAST_CGROUP_ROOM, facts["cgroup_limit"] - resident))


def _node(value: int | None) -> int:
    if value is None:
        return -1
    from freehold.face import heap_face
    from freehold.face.vm_face import Vm

    with Vm() as vm:
        nodes = vm.facts()["numa_nodes"]
    node = integer("numa_node", value, 0, max(nodes, 1) - 1)
    error = heap_face.can_bind(node)
    if error:
        raise OSRefused(errno=error, call="bind", layer="heap")
    return node
