"""Where a process's resident memory is, by what it is for; the parts add up to the whole.

    resident = heap live + heap idle + malloc + objects and the rest + files + shared + stacks

`of_process` reads /proc/PID/smaps, in which the system says of each mapping how much of it is resident.
Thread-safety: functions of their arguments. The process goes on meanwhile: figures of different mappings are a moment
apart.
Invariants: each mapping is counted once; what no rule knows is `other`. So the parts always add up.
Does not: know what an anonymous mapping outside the heap holds; glibc's are recognised by their form, and stacks by
the page before them that nobody may touch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["PARTS", "Mapping", "Parts", "mappings", "of_process", "split"]

PARTS = {
    "heap_live": "the heap, live",
    "heap_idle": "the heap, idle",
    "malloc": "glibc's malloc",
    "other": "other anonymous memory",
    "files": "libraries and files",
    "shared": "shared memory",
    "stacks": "stacks",
}
"""The parts by name, and what people are told."""
ARENA_BYTES = 64 << 20  # what glibc reserves for a thread's malloc, at a multiple of itself
GUARD_BYTES = 64 << 10  # at most: what stands before a thread's stack
_SHARED = ("/dev/shm/", "/memfd:", "/SYSV", "/dev/zero")  # noqa: S108  these are how mappings are called
_NOTHING = range(0)


class Mapping(NamedTuple):
    """One mapping: its addresses, what may be done with it, what is mapped, and how much of it is resident."""

    start: int
    end: int
    mode: str
    name: str
    resident: int

    @property
    def size(self) -> int:
        """How many addresses it has."""
        return self.end - self.start


@dataclass(frozen=True)
class Parts:
    """The resident bytes of a process by part; they add up to *total*.

    Attributes:
        heap_live: of the heaps' addresses what is neither idle nor given back: blocks as far as they were touched, and
            what sizes round up.
        heap_idle: of them what is nobody's, as the heaps say.
        malloc: what glibc's malloc grew: the program break, and threads' arenas.
        other: all other anonymous memory: Python's small objects, glibc's blocks that have a mapping each, and the
            heaps' own books.
    """

    total: int
    heap_live: int
    heap_idle: int
    malloc: int
    other: int
    files: int
    shared: int
    stacks: int

    def as_dict(self) -> dict[str, int]:
        """Return the parts by name, with the total."""
        return dict(vars(self))


def of_process(pid: int, space: range = _NOTHING, idle: int = 0) -> Parts:
    """Return the parts of process *pid*.

    Args:
        pid: the process.
        space: the addresses of its heaps.
        idle: what of them is dirty or muzzy, as the heaps say.

    Raises:
        OSError: it has ended, or is not ours to look into.
    """
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as file:
        return split(mappings(file), space, idle)


def mappings(lines: Iterable[str]) -> Iterator[Mapping]:
    """Yield the mappings that the *lines* of a file ``smaps`` tell of, in the order of their addresses."""
    head: list[str] = []
    for line in lines:
        if line.startswith("Rss:"):
            start, _, end = head[0].partition("-")
            name = head[5].strip() if len(head) > 5 else ""
            yield Mapping(int(start, 16), int(end, 16), head[1], name, int(line.split()[1]) << 10)
        elif "0" <= line[0] <= "9" or "a" <= line[0] <= "f":
            head = line.split(None, 5)


def split(found: Iterable[Mapping], space: range = _NOTHING, idle: int = 0) -> Parts:
    """Return the parts that the mappings *found* add up to; see `of_process`."""
    sums = dict.fromkeys(("heap", "malloc", "other", "files", "shared", "stacks"), 0)
    before = arena = Mapping(0, 0, "---p", "", 0)
    for each in found:
        if each.start % ARENA_BYTES == 0:
            arena = each
        if before.resident and _completes_arena(arena, before, each, space):
            sums["other"] -= before.resident
            sums["malloc"] += before.resident
        sums[_part(each, before, space)] += each.resident
        before = each
    heap = sums.pop("heap")
    heap_idle = min(idle, heap)
    return Parts(total=heap + sum(sums.values()), heap_live=heap - heap_idle, heap_idle=heap_idle, **sums)


def _completes_arena(arena: Mapping, used: Mapping, rest: Mapping, space: range) -> bool:
    """Return whether *used* and *rest* are a thread's arena: what it uses, and what it has reserved."""
    return (
        arena is used
        and rest.start == used.end
        and rest.end % ARENA_BYTES == 0
        and (used.mode, used.name, rest.mode, rest.name) == ("rw-p", "", "---p", "")
        and rest.end - used.start == ARENA_BYTES
        and used.start not in space
    )


def _part(each: Mapping, before: Mapping, space: range) -> str:
    if each.start in space:
        return "heap"
    if each.name == "[heap]":
        return "malloc"
    if each.name.startswith("[stack") or "pthread stack" in each.name or _is_stack(each, before):
        return "stacks"
    if each.mode.endswith("s") or each.name.startswith(_SHARED):
        return "shared" if not each.name or each.name.startswith(_SHARED) else "files"
    if each.name.startswith("[anon") or not each.name:
        return "other"
    return "files"


def _is_stack(each: Mapping, before: Mapping) -> bool:
    return (
        not each.name
        and each.mode.startswith("rw")
        and before.end == each.start
        and before.mode == "---p"
        and not before.name
        and before.size <= GUARD_BYTES
    )
