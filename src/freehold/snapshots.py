"""`snapshot()`: what all heaps hold at a moment, to be kept, saved, and compared with another.

>>> before = freehold.snapshot()
>>> tables = load()
>>> for change in freehold.snapshot().compare_to(before):
...     print(change)

Thread-safety: functions of their arguments; a `Snapshot` never changes.
Invariant: what `Snapshot.save` wrote, `Snapshot.load` reads, to the byte; it also reads what `freehold stats --json`
prints, and the reports of `freehold run`.
Does not: know which lines allocated what, or hold any object of the program.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from freehold.heap_stats import HeapStats
from freehold.stats import Stats, stats

if TYPE_CHECKING:
    from freehold import published

__all__ = ["Change", "NotASnapshot", "Snapshot", "of_published", "snapshot"]

MAY_BE_NONE = ("limit_bytes", "total_bytes")


class NotASnapshot(ValueError):
    """What was read is no snapshot; the text says what is wrong with it."""


@dataclass(frozen=True)
class Change:
    """One figure that is not what it was.

    Attributes:
        heap: whose it is; None: of all heaps together. Heaps of one name are told of together.
        name: which figure, as in `Stats` and `HeapStats`.
        before: what it was; None: there was no such heap, or no such figure (a limit).
        after: what it is; None likewise.
    """

    heap: str | None
    name: str
    before: int | None
    after: int | None

    @property
    def difference(self) -> int:
        """By how much it grew; what was not there counts as 0."""
        return (self.after or 0) - (self.before or 0)

    def __str__(self) -> str:
        told = ["none" if value is None else f"{value:,}" for value in (self.before, self.after)]
        return f"{self.heap or 'all heaps'}: {self.name} {self.difference:+,} ({told[0]} to {told[1]})"

    def as_dict(self) -> dict[str, Any]:
        """Return it by name."""
        return {
            "heap": self.heap, "name": self.name, "before": self.before, "after": self.after,
            "difference": self.difference,
        }  # fmt: skip


@dataclass(frozen=True)
class Snapshot:
    """What all heaps of a process held at one moment.

    Attributes:
        stats: the figures, of all heaps together and of each.
        time: when, in seconds since 1970; None: what was loaded does not say.
        pid: which process; None likewise.
        command: its command line, empty likewise.
    """

    stats: Stats
    time: float | None = None
    pid: int | None = None
    command: str = ""

    def compare_to(self, before: Snapshot) -> tuple[Change, ...]:
        """Return what has changed since *before*: all heaps together first, then each by name."""
        mine, its = _tables(self.stats), _tables(before.stats)
        return tuple(
            Change(heap, name, old.get(name), new.get(name))
            for heap in dict.fromkeys([*mine, *its])
            for old, new in [(its.get(heap, {}), mine.get(heap, {}))]
            for name in dict.fromkeys([*new, *old])
            if old.get(name) != new.get(name)
        )

    def as_dict(self) -> dict[str, Any]:
        """Return everything by name: whose it is and when, then the figures as `Stats.as_dict` has them."""
        return {"pid": self.pid, "command": self.command, "time": self.time} | self.stats.as_dict()

    def to_json(self) -> str:
        """Return everything as one JSON object."""
        return json.dumps(self.as_dict(), indent=2)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to the file *path*, as JSON."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Snapshot:
        """Read what `save` wrote, or what `freehold stats --json` printed, or a report of `freehold run -o FILE.json`.

        Raises:
            OSError: the file can not be read.
            ValueError: it is none of these; a `NotASnapshot` says what is missing.
        """
        with open(path, encoding="utf-8") as file:
            try:
                read = json.load(file)
            except RecursionError:
                raise NotASnapshot("it is nested too deep") from None
        return cls.from_dict(read)

    @classmethod
    def from_dict(cls, read: Any) -> Snapshot:
        """Return what `as_dict` made *read* from.

        Raises:
            NotASnapshot: it was made by something else.
        """
        if not isinstance(read, Mapping):
            raise NotASnapshot("it holds no JSON object")
        if "heap" in read and "current_bytes" not in read:  # a report
            if read["heap"] is None:
                raise NotASnapshot("the program that it reports of never used the heap")
            program = read.get("program")
            words = [str(word) for word in program] if isinstance(program, list) else []
            return cls(_stats_of(read["heap"]), command=" ".join(words))
        at, pid, command = read.get("time"), read.get("pid"), read.get("command", "")
        if not isinstance(at, (int, float, type(None))) or not isinstance(pid, (int, type(None))):
            raise NotASnapshot("time and pid must be numbers")
        return cls(_stats_of(read), at, pid, str(command))


def snapshot() -> Snapshot:
    """Return what all heaps of this process hold now. Costs no system call but the clock's.

    Figures read while other threads work are a moment apart.

    Thread-safety: any thread, any time.
    """
    return Snapshot(stats(), time.time(), os.getpid(), " ".join(sys.orig_argv))


def of_published(seen: published.Snapshot, command: str, when: float) -> Snapshot:
    """Return what a process published, in the words of `stats()`. Where there are very many heaps the last is a sum."""
    total = seen.total()
    return Snapshot(
        Stats(
            current_bytes=total.allocated,
            current_count=total.blocks,
            total_bytes=None,
            total_count=total.allocations,
            freed_count=total.allocations - total.blocks,
            active_bytes=total.active,
            dirty_bytes=total.dirty,
            muzzy_bytes=total.muzzy,
            retained_bytes=total.retained,
            metadata_bytes=seen.metadata,
            resident_bytes=total.active + total.dirty + total.muzzy + seen.metadata,
            mapped_bytes=total.mapped,
            purged_bytes=seen.purged,
            purge_count=seen.purge_calls,
            heaps=tuple(map(_heap_of_published, seen.heaps)),
        ),
        when,
        seen.pid,
        command,
    )


def _heap_of_published(heap: published.Heap) -> HeapStats:
    total = heap.total()
    return HeapStats(
        name=heap.name,
        current_bytes=total.allocated,
        current_count=total.blocks,
        total_bytes=None,
        total_count=total.allocations,
        freed_count=total.allocations - total.blocks,
        active_bytes=total.active,
        dirty_bytes=total.dirty,
        muzzy_bytes=total.muzzy,
        retained_bytes=total.retained,
        metadata_bytes=heap.metadata,
        mapped_bytes=total.mapped,
        used_bytes=heap.used,
        peak_bytes=heap.peak,
        limit_bytes=heap.limit,
        refused_count=heap.refused,
    )


# ---- comparing ----


def _tables(read: Stats) -> dict[str | None, dict[str, int | None]]:
    """Return the figures of all together, under None, and of the heaps by name."""
    tables: dict[str | None, dict[str, int | None]] = {None: dict(_figures(read, {"heaps"}))}
    for heap in read.heaps:
        table = tables.setdefault(heap.name, {})
        for name, value in _figures(heap, {"name"}):
            before = table.get(name)
            table[name] = value if before is None or value is None else before + value
    return tables


def _figures(of: Stats | HeapStats, but: set[str]) -> Iterator[tuple[str, int | None]]:
    for field in fields(of):
        if field.name not in but:
            yield field.name, getattr(of, field.name)


# ---- reading ----


def _stats_of(read: Any) -> Stats:
    heaps = read.get("heaps", []) if isinstance(read, Mapping) else None
    if not isinstance(heaps, list):
        raise NotASnapshot("heaps must be a list")
    named = _checked(read, Stats, "", {"heaps"})
    return Stats(**named, heaps=tuple(_heap_of(heap) for heap in heaps))


def _heap_of(read: Any) -> HeapStats:
    if not isinstance(read, Mapping) or not isinstance(read.get("name"), str):
        raise NotASnapshot("a heap has no name")
    return HeapStats(name=read["name"], **_checked(read, HeapStats, f"heap {read['name']!r}: ", {"name"}))


def _checked(read: Mapping[str, Any], kind: type[Stats | HeapStats], whose: str, but: set[str]) -> dict[str, Any]:
    """Return the figures that *kind* has, each a number; what else there is may be of a later version."""
    found = {}
    for field in fields(kind):
        if field.name in but:
            continue
        value = read.get(field.name)
        if not (isinstance(value, int) and not isinstance(value, bool)) and not (
            value is None and field.name in MAY_BE_NONE
        ):
            raise NotASnapshot(f"{whose}{field.name} is {'missing' if field.name not in read else 'no whole number'}")
        found[field.name] = value
    return found
