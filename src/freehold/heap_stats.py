"""What one heap holds, and which heaps there are.

Thread-safety: any thread, any time; figures read while other threads work are a moment apart.
Invariants: ``mapped = active + dirty + muzzy + retained`` and ``used = active + dirty + metadata``.
Does not: open or close anything.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["HeapStats", "each", "is_alone", "of_heap", "readings", "register"]

_alive: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()  # the core of every Heap that somebody holds
_opened = 0  # so far


@dataclass(frozen=True)
class HeapStats:
    """One heap at one moment. All sizes are bytes.

    Attributes:
        name: the heap's name; the process's own is ``default``.
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
        mapped_bytes: active, dirty, muzzy and retained.
        used_bytes: what its limit is on: active, dirty and metadata.
        peak_bytes: the highest `used_bytes` so far.
        limit_bytes: its limit; None: it has none.
        refused_count: how often something was over the limit so far, also where it was served after giving back.
    """

    name: str
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
    mapped_bytes: int
    used_bytes: int
    peak_bytes: int
    limit_bytes: int | None
    refused_count: int

    def as_dict(self) -> dict[str, int | str | None]:
        """Return the figures by name."""
        return asdict(self)

    def to_json(self) -> str:
        """Return the figures as one JSON object."""
        return json.dumps(self.as_dict())


def of_heap(name: str, read: Mapping[str, int]) -> HeapStats:
    """Return a heap's figures as the core tells them."""
    return HeapStats(
        name=name,
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
        mapped_bytes=read["mapped"],
        used_bytes=read["used"],
        peak_bytes=read["peak"],
        limit_bytes=None if read["limit"] == (1 << 64) - 1 else read["limit"],
        refused_count=read["refused"],
    )


def register(heap: Any, core: Any) -> None:
    """Have a heap listed as long as it is open and somebody holds it."""
    global _opened
    _opened += 1
    _alive[heap] = core


def is_alone() -> bool:
    """Return whether the default heap is the only one that there ever was."""
    return _opened == 0


def each() -> tuple[HeapStats, ...]:
    """Return the figures of every heap: the default one first, then the open ones by name."""
    return tuple(of_heap(name, read) for name, read in readings())


def readings() -> Iterator[tuple[str, Mapping[str, int]]]:
    """Yield each heap's name and what the core tells of it, in the same order."""
    from freehold.face import process_heap

    yield "default", process_heap.read_default_stats()
    for name, core in sorted(((heap.name, core) for heap, core in _alive.items()), key=lambda pair: str(pair[0])):
        with suppress(ValueError):  # it is closed
            yield name, core.stats()
