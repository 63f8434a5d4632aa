"""What was allocated between two moments, as the heaps count it.

Thread-safety: a `Counting` may be read by any thread; it is entered and left by one. Any number may be open at once,
one inside the other or side by side: each only remembers what the counters were.
Invariant: ``current_count = total_count - freed_count``, also of differences.
Does not: count anything itself, or slow an allocation; what it does costs two readings of the counters.
Follows: rmm's statistics, in their words.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

__all__ = ["Counting", "Reading", "Statistics", "reading_of"]


class Reading(NamedTuple):
    """The counters at one moment. *peak_bytes* is the highest `used_bytes` ever; None: nobody counts it."""

    current_bytes: int
    current_count: int
    total_bytes: int
    total_count: int
    used_bytes: int
    peak_bytes: int | None


@dataclass(frozen=True)
class Statistics:
    """What was allocated between two moments, all figures as differences. Sizes are bytes.

    Attributes:
        current_bytes: what callers hold more than before, in the sizes that serve them; negative: less.
        current_count: blocks that they hold more than before.
        total_bytes: handed out, also what was given back since; a block that grows where it is does not count again.
        total_count: blocks handed out.
        freed_count: blocks given back.
        used_bytes: growth of what may be resident: active, idle and the heap's books.
        peak_bytes: how far that had grown at its highest. The counters keep the highest ever of a heap, so this is
            known, exactly, where that was passed; None: it was not, or these are several heaps together.
        seconds: how long it was.
    """

    current_bytes: int
    current_count: int
    total_bytes: int
    total_count: int
    freed_count: int
    used_bytes: int
    peak_bytes: int | None
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


class Counting:
    """A context manager: `stats` says what was allocated since it was entered, or while it was.

    Args:
        read: returns the counters now; `ValueError` where what they count is no more.
    """

    def __init__(self, read: Callable[[], Reading]) -> None:
        self._read = read
        self._begin: tuple[float, Reading] | None = None
        self._end: tuple[float, Reading] | None = None

    def __enter__(self) -> Self:
        self._end = None
        reading = self._read()
        self._begin = time.perf_counter(), reading
        return self

    def __exit__(self, *_: object) -> None:
        now = time.perf_counter()
        with suppress(ValueError):  # closed inside: what is raised there is told, and `stats` tells the rest
            self._end = now, self._read()

    def stats(self) -> Statistics:
        """Return what was allocated until now, or until the ``with`` ended.

        Raises:
            ValueError: it was never entered, or the heap that it counts is closed.
        """
        if self._begin is None:
            raise ValueError(
                "nothing is counted yet: it has to be entered, as in `with freehold.statistics() as seen:`"
            )
        return _between(*self._begin, *(self._end or (time.perf_counter(), self._read())))


def reading_of(read: Mapping[str, int], peak: int | None) -> Reading:
    """Return the counters as the core tells them."""
    return Reading(read["allocated"], read["blocks"], read["total"], read["allocations"], read["used"], peak)


def _between(began: float, before: Reading, ended: float, after: Reading) -> Statistics:
    """Return the differences. A peak that was passed was passed in between; of one that was not nobody knows."""
    peak = None
    if before.peak_bytes is not None and after.peak_bytes is not None and after.peak_bytes > before.peak_bytes:
        peak = after.peak_bytes - before.used_bytes
    current = after.current_count - before.current_count
    total = after.total_count - before.total_count
    return Statistics(
        current_bytes=after.current_bytes - before.current_bytes,
        current_count=current,
        total_bytes=after.total_bytes - before.total_bytes,
        total_count=total,
        freed_count=total - current,
        used_bytes=after.used_bytes - before.used_bytes,
        peak_bytes=peak,
        seconds=ended - began,
    )
