"""What named pieces of a program allocate, added up over their calls.

>>> @freehold.profiler()
... def load(path): ...
>>> with freehold.profiler("merge"):
...     merge(a, b)
>>> print(freehold.profiler_records().report())

The counters are the process's: what other threads allocate meanwhile is in the figures too, and a piece inside another
counts for both. For one component alone: a `Heap` of its own, and ``heap.statistics()``.

Thread-safety: any thread; a record is added to under a lock.
Does not: sample, or know lines. A piece costs two readings of the counters, some tens of microseconds.
Follows: rmm's profiler.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from freehold.stats import statistics

if TYPE_CHECKING:
    from freehold.counting import Counting, Statistics

__all__ = ["ProfilerRecord", "ProfilerRecords", "profiler", "profiler_records"]

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class ProfilerRecord:
    """What one name stands for, over all its calls. Sizes are bytes.

    Attributes:
        calls: how often it ran, and ended, also by an exception.
        current_bytes: what was held more at the ends than at the beginnings.
        total_bytes: handed out.
        total_count: blocks handed out.
        peak_bytes: the largest `Statistics.peak_bytes` of its calls; None: of none it is known.
        seconds: how long they took.
    """

    calls: int = 0
    current_bytes: int = 0
    total_bytes: int = 0
    total_count: int = 0
    peak_bytes: int | None = None
    seconds: float = 0.0

    def plus(self, call: Statistics) -> ProfilerRecord:
        """Return the record with one call more."""
        peaks = [peak for peak in (self.peak_bytes, call.peak_bytes) if peak is not None]
        return ProfilerRecord(
            self.calls + 1,
            self.current_bytes + call.current_bytes,
            self.total_bytes + call.total_bytes,
            self.total_count + call.total_count,
            max(peaks, default=None),
            self.seconds + call.seconds,
        )


class ProfilerRecords:
    """Records by name. Thread-safety: any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, ProfilerRecord] = {}

    def add(self, name: str, call: Statistics) -> None:
        """Add one call of *name*."""
        with self._lock:
            self._records[name] = self._records.get(name, ProfilerRecord()).plus(call)

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._records.clear()

    @property
    def records(self) -> dict[str, ProfilerRecord]:
        """The records by name, as they are now."""
        with self._lock:
            return dict(self._records)

    def report(self) -> str:
        """Return a table of them, what handed out most bytes first."""
        rows = sorted(self.records.items(), key=lambda item: (-item[1].total_bytes, item[0]))
        lines = [("calls", "bytes handed out", "bytes kept", "peak bytes", "blocks", "seconds", "name")]
        lines += [
            (
                f"{r.calls:,}", f"{r.total_bytes:,}", f"{r.current_bytes:,}",
                "not known" if r.peak_bytes is None else f"{r.peak_bytes:,}", f"{r.total_count:,}",
                f"{r.seconds:.3f}", name,
            )
            for name, r in rows
        ]  # fmt: skip
        widths = [max(len(line[i]) for line in lines) for i in range(6)]
        return "\n".join(
            "  ".join([*(cell.rjust(width) for cell, width in zip(line, widths, strict=False)), line[6]])
            for line in lines
        )


_records = ProfilerRecords()


def profiler_records() -> ProfilerRecords:
    """Return what `profiler` adds to unless it is told otherwise: all named pieces of this process, so far.

    Example:
        >>> print(freehold.profiler_records().report())

    Thread-safety: any thread, any time.
    """
    return _records


class profiler:  # noqa: N801  as rmm's: it is called like a function
    """A decorator, and a context manager, that adds what runs in it to the records of a name.

    Args:
        name: what it is called; None: a decorated function's module and qualified name.
        records: what it adds to; None: those of `profiler_records`.

    Example:
        >>> with freehold.profiler("merge"):
        ...     table = np.ones(1000)
        >>> freehold.profiler_records().records["merge"].calls
        1

    Thread-safety: a decorated function by any thread, also inside itself; one object in a ``with`` by one at a time.
    """

    def __init__(self, name: str | None = None, *, records: ProfilerRecords | None = None) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(
                f"name must be a str or None, not {type(name).__name__}: it is written @freehold.profiler()"
            )
        self.name = name
        self.records = _records if records is None else records
        self._open: list[Counting] = []

    def __enter__(self) -> Self:
        if self.name is None:
            raise ValueError("a `with` needs a name, as in `with freehold.profiler('load'):`")
        self._open.append(statistics().__enter__())
        return self

    def __exit__(self, *problem: object) -> None:
        counting = self._open.pop()
        counting.__exit__(*problem)
        self.records.add(str(self.name), counting.stats())

    def __call__(self, function: F) -> F:
        """Return *function*, each of whose calls is recorded.

        Raises:
            TypeError: it makes a generator, which runs when its caller does; a ``with`` inside says which part counts.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__qualname__} is a generator function: use a `with` inside it")
        name = self.name or f"{function.__module__}.{function.__qualname__}"
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def measured_later(*arguments: Any, **named: Any) -> Any:
                with profiler(name, records=self.records):
                    return await function(*arguments, **named)

            return cast("F", measured_later)

        @functools.wraps(function)
        def measured(*arguments: Any, **named: Any) -> Any:
            with profiler(name, records=self.records):
                return function(*arguments, **named)

        return cast("F", measured)
