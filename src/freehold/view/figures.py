"""What `freehold stats` and `freehold diff` read and say: figures of heaps, whoever has them.

Thread-safety: functions of their arguments.
Does not: stop or slow a process; it is asked as `freehold top` asks it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from freehold import published
from freehold.published import NotPublished
from freehold.snapshots import Snapshot, of_published
from freehold.view.watch import command_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from freehold.snapshots import Change

__all__ = ["CanNot", "changes_text", "of", "stats_text"]


class CanNot(Exception):
    """There is nothing to show; the text says why, *code* is the exit code."""

    def __init__(self, problem: str, code: int) -> None:
        super().__init__(problem)
        self.code = code


def of(word: str) -> Snapshot:
    """Return what *word* names: the figures of the running process of that number, or those in the file of that name.

    Raises:
        CanNot: it names nothing that has figures.
    """
    return _of_process(int(word)) if word.isascii() and word.isdigit() else _of_file(word)


def _of_process(pid: int) -> Snapshot:
    try:
        with published.find(pid) as page:
            seen = page.fresh()
    except NotPublished as problem:
        raise CanNot(str(problem), 1) from None
    if seen is None:
        raise CanNot(f"process {pid} does not answer", 1)
    return of_published(seen, command_of(pid), time.time())


def _of_file(path: str) -> Snapshot:
    try:
        return Snapshot.load(path)
    except OSError as problem:
        raise CanNot(f"{path}: {problem.strerror}", 2) from None
    except ValueError as problem:
        raise CanNot(
            f"{path}: neither a snapshot, nor what `freehold stats --json` prints, nor a report of `freehold run -o "
            f"FILE.json`: {problem}",
            2,
        ) from None


def stats_text(seen: Snapshot) -> str:
    """Return the figures for people: all heaps together, then a line for each."""
    totals = {name: value for name, value in seen.stats.as_dict().items() if name != "heaps" and value is not None}
    width = max(map(len, totals))
    lines = [f"process {seen.pid}: {seen.command}"] if seen.pid is not None else []
    lines += [f"{name:<{width}}  {value:>20,}" for name, value in totals.items()]
    for heap in seen.stats.heaps:
        limit = "no limit" if heap.limit_bytes is None else f"limit {heap.limit_bytes:,}"
        lines.append(
            f"heap {heap.name}: {heap.current_bytes:,} bytes in {heap.current_count:,} blocks,"
            f" {heap.used_bytes:,} used, {limit}"
        )
    return "\n".join(lines)


def changes_text(changes: tuple[Change, ...]) -> str:
    """Return a table of what has changed, for people."""
    if not changes:
        return "nothing has changed"
    rows = [("heap", "figure", "before", "after", "difference")]
    rows += [(c.heap or "all", c.name, _number(c.before), _number(c.after), f"{c.difference:+,}") for c in changes]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join("  ".join(_aligned(row, widths)) for row in rows)


def _aligned(row: tuple[str, ...], widths: list[int]) -> Iterator[str]:
    """Yield the cells of a row: two texts, then numbers."""
    for i, width in enumerate(widths):
        yield row[i].ljust(width) if i < 2 else row[i].rjust(width)


def _number(value: int | None) -> str:
    return "none" if value is None else f"{value:,}"
