"""What the heaps hold, in the words operators and Python users know.

Traffic has rmm's names (`current`, `total`), space has jemalloc's. They balance:
``mapped = active + dirty + muzzy + retained`` and ``current_count = total_count - freed_count``.

Thread-safety: any thread, any time; figures read while other threads work are a moment apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from freehold import heap_stats, opening
from freehold.counting import Counting, Reading, reading_of
from freehold.heap_stats import HeapStats

__all__ = ["HeapStats", "Stats", "purge", "statistics", "stats"]


@dataclass(frozen=True)
class Stats:
    """All heaps together at one moment. All sizes are bytes.

    Attributes:
        current_bytes: what callers hold, in the sizes that serve them.
        current_count: blocks that callers hold.
        total_bytes: handed out so far, in the same sizes; a block that grows where it is does not count again. None:
            these are another process's figures, and its page does not tell.
        total_count: blocks handed out so far.
        freed_count: blocks given back so far.
        active_bytes: memory that holds live blocks.
        dirty_bytes: idle and resident; reused at once, given back after the decay time.
        muzzy_bytes: idle, given back lazily.
        retained_bytes: addresses kept whose memory was given back.
        metadata_bytes: the heap's own books.
        resident_bytes: what of this is resident at most: active, dirty, muzzy and metadata.
        mapped_bytes: active, dirty, muzzy and retained.
        purged_bytes: given back to the operating system so far.
        purge_count: how many calls that took.
        heaps: each heap by itself, the default one first, then the open ones by name.
    """

    current_bytes: int
    current_count: int
    total_bytes: int | None
    total_count: int
    freed_count: int
    active_bytes: int
    dirty_bytes: int
    muzzy_bytes: int
    retained_bytes: int
    metadata_bytes: int
    resident_bytes: int
    mapped_bytes: int
    purged_bytes: int
    purge_count: int
    heaps: tuple[HeapStats, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self) | {"heaps": [heap.as_dict() for heap in self.heaps]}

    def to_json(self) -> str:
        """Return the figures as one JSON object."""
        return json.dumps(self.as_dict())


def stats() -> Stats:
    """Return what all heaps hold now. Costs no system call.

    Thread-safety: any thread, any time.
    """
    opening.open_heap()
    from freehold.face import process_heap

    return of_process(process_heap.read_stats(), heap_stats.each())


def of_process(read: Mapping[str, int], heaps: tuple[HeapStats, ...]) -> Stats:
    """Return all heaps' figures as the core tells them."""
    return Stats(
        current_bytes=read["allocated"],
        current_count=read["blocks"],
        total_bytes=read["total"],
        total_count=read["allocations"],
        freed_count=read["deallocations"],
        active_bytes=read["active"],
        dirty_bytes=read["dirty"],
        muzzy_bytes=read["muzzy"],
        retained_bytes=read["retained"],
        metadata_bytes=read["metadata"],
        resident_bytes=read["active"] + read["dirty"] + read["muzzy"] + read["metadata"],
        mapped_bytes=read["mapped"],
        purged_bytes=read["purged"],
        purge_count=read["purge_calls"],
        heaps=heaps,
    )


def statistics() -> Counting:
    """Return a context manager that counts what is allocated within it, in all heaps.

    It counts the process, not the thread: what other threads allocate meanwhile is in it. For one component alone, a
    `Heap` of its own has `Heap.statistics`. The peak is known where no other heap was ever opened: that of several
    together is not the sum of theirs.

    Example:
        >>> with freehold.statistics() as seen:
        ...     table = np.ones((1000, 1000))
        >>> seen.stats().current_count
        1

    Thread-safety: any thread, any number of them at once, one inside the other or not.
    """
    return Counting(_read)


def _read() -> Reading:
    opening.open_heap()
    from freehold.face import process_heap

    peak = process_heap.read_default_stats()["peak"] if heap_stats.is_alone() else None
    return reading_of(process_heap.read_stats(), peak)


def purge() -> int:
    """Give everything idle back to the operating system now, whatever the decay time; return how many bytes that were.

    Thread-safety: any thread, any time.
    """
    opening.open_heap()
    from freehold.face import process_heap

    return process_heap.purge()
