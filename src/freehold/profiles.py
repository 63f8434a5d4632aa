"""Heap profiles: which lines of a program hold its memory, as sampled stacks tell.

All figures are estimates of the truth, already scaled up from the samples, but for the process's own totals.

Thread-safety: everything here is a function of its arguments, or frozen.
Invariant: what a profile has by source, by heap and by line adds up to its stacks.
Does not: know the layout of a dump (`profile_dump` does), nor import what is compiled: any Python reads any profile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

from freehold import profile_dump
from freehold.profile_dump import REASONS, SOURCES, Amount, BadProfile, Frame, Stack

__all__ = ["FORMATS", "REASONS", "SOURCES", "Amount", "BadProfile", "Frame", "Line", "Profile", "Stack", "format_of"]

FORMATS = {
    ".html": "html",
    ".json": "speedscope",
    ".pb.gz": "pprof",
    ".txt": "collapsed",
    ".collapsed": "collapsed",
    ".raw": "raw",
}
"""How a file's name ends, and what is then in it."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a program: what it allocated *itself*, and what that and all it called did (*under*).

    *frame* is None for memory that threads without Python allocated.
    """

    frame: Frame | None
    itself: Amount
    under: Amount


@dataclass(frozen=True)
class Profile:
    """What a process's memory was allocated by, at one moment.

    Attributes:
        interval: bytes between two samples, on average.
        began: when profiling began.
        written: when this was written.
        pid: the process.
        reason: why it was written, one of `REASONS`.
        live_bytes: live in all heaps, exact: memory that was allocated before the profile began is in it.
        peak_bytes: the highest that was while profiling.
        samples: how many allocations were sampled.
        dropped: how many more found no room in the tables.
        stacks: each stack that allocated, with its estimates.
        heaps: the name of each heap.
        since: of a difference, when the earlier profile was written; else None.
    """

    interval: int
    began: datetime
    written: datetime
    pid: int
    reason: str
    live_bytes: int
    peak_bytes: int
    samples: int
    dropped: int
    stacks: tuple[Stack, ...]
    heaps: dict[int, str]
    since: datetime | None = None

    @classmethod
    def read(cls, source: str | os.PathLike[str] | bytes | bytearray | memoryview) -> Self:
        """Read a dump: a path, or its bytes.

        Raises:
            BadProfile: it is none, or is damaged; the text says how.
            OSError: the file can not be read.
        """
        if isinstance(source, (bytes, bytearray, memoryview)):
            return cls(**profile_dump.parse(bytes(source)))
        try:
            return cls(**profile_dump.parse(cls.content(source)))
        except BadProfile as problem:
            raise BadProfile(f"{os.fspath(source)}: {problem}") from None

    @staticmethod
    def content(path: str | os.PathLike[str]) -> bytes:
        """Return the bytes of the dump at *path*; of another file, however long, just its beginning."""
        with open(path, "rb") as file:
            return profile_dump.content(file)

    def encode(self, format: str, *, live: bool = True) -> bytes:
        """Return the profile in one of the formats: html, speedscope, pprof, collapsed, raw.

        Args:
            format: which.
            live: show first, or only where the format has one figure, what is live; else all that was allocated.

        Raises:
            ValueError: there is no such format, or a difference is to be a dump.
        """
        return writer(format)(self, live=live)

    def save(self, path: str | os.PathLike[str], format: str | None = None, *, live: bool = True) -> None:
        """Write the profile to *path*, as `encode` has it; without *format* as the name's ending says.

        Raises:
            ValueError: the name does not tell the format; nothing was written.
            OSError: the file could not be written; what there was of it is removed.
        """
        content = self.encode(format or format_of(os.fspath(path)), live=live)
        try:
            with open(path, "wb") as file:
                file.write(content)
        except OSError:
            if os.path.isfile(path):
                os.unlink(path)
            raise

    def total(self) -> Amount:
        """Return all stacks together."""
        return _Sums().add(None, self.stacks).of(None)

    def by_source(self) -> dict[str, Amount]:
        """Return what each source allocated, the one with most live bytes first."""
        return self._by(lambda stack: stack.source)

    def by_heap(self) -> dict[str, Amount]:
        """Return what was allocated from each heap, by its name, the one with most live bytes first."""
        return self._by(lambda stack: self.heaps[stack.heap])

    def _by(self, key: Callable[[Stack], str]) -> dict[str, Amount]:
        sums = _Sums()
        for stack in self.stacks:
            sums.add(key(stack), (stack,))
        found = [(name, sums.of(name)) for name in sums.rows]
        return dict(sorted(found, key=lambda item: (-item[1].live_bytes, -item[1].total_bytes)))

    def by_line(self, *, live: bool = True) -> list[Line]:
        """Return each line of the program that is in a stack, the one that allocated most itself first.

        A line that is in a stack twice counts once for it.
        """
        itself, under = _Sums(), _Sums()
        for stack in self.stacks:
            itself.add(stack.frames[0] if stack.frames else None, (stack,))
            for frame in set(stack.frames) or (None,):
                under.add(frame, (stack,))
        lines = [Line(frame, itself.of(frame), under.of(frame)) for frame in under.rows]
        return sorted(lines, key=lambda line: (-line.itself.bytes(live=live), -line.under.bytes(live=live)))

    def top(self, n: int = 10, *, live: bool = True) -> list[Line]:
        """Return the *n* lines that allocated most themselves."""
        return self.by_line(live=live)[:n]

    def at_peak(self) -> Profile:
        """Return the profile with what was live when most was, within some 3 %, in the place of what is live now."""
        stacks = (replace(x, live_bytes=x.peak_bytes, live_count=x.peak_count) for x in self.stacks)
        return replace(self, reason="peak", stacks=tuple(stacks))

    def minus(self, before: Profile) -> Profile:
        """Return what has grown, and shrunk, since an earlier profile: stacks of which something changed.

        Heaps are matched by name; figures may be negative.
        """
        change = _Sums()
        for profile, sign in ((self, 1), (before, -1)):
            for stack in profile.stacks:
                change.add((stack.frames, profile.heaps[stack.heap], stack.source), (stack,), sign)
        numbers = {name: i for i, name in enumerate(dict.fromkeys([*self.heaps.values(), *before.heaps.values()]))}
        stacks = (
            Stack(frames, numbers[heap], source, *figures)
            for (frames, heap, source), figures in change.rows.items()
            if any(figures)
        )
        return replace(
            self,
            live_bytes=self.live_bytes - before.live_bytes,
            peak_bytes=self.peak_bytes - before.peak_bytes,
            samples=self.samples - before.samples,
            dropped=self.dropped - before.dropped,
            stacks=tuple(stacks),
            heaps={i: name for name, i in numbers.items()},
            since=before.written,
        )


def writer(format: str) -> Callable[..., bytes]:
    """Return what writes a profile in one of the formats.

    Raises:
        ValueError: there is no such format.
    """
    if format == "html":
        from freehold.view.profile_html import as_html as write
    elif format == "speedscope":
        from freehold.view.profile_speedscope import as_speedscope as write
    elif format == "pprof":
        from freehold.view.profile_pprof import as_pprof as write
    elif format == "collapsed":
        from freehold.view.profile_collapsed import as_collapsed as write
    elif format == "raw":
        return lambda profile, **_: profile_dump.dump(profile)
    else:
        raise ValueError(f"format: expected one of {', '.join(sorted(set(FORMATS.values())))}, not {format!r}")
    return write


def endings() -> str:
    """Return the endings of names that tell a format, as one reads them."""
    *most, last = FORMATS
    return f"{', '.join(most)} or {last}"


def split(path: str) -> tuple[str, str]:
    """Return a path without its ending, and that; one that tells a format may have two parts."""
    ending = next((known for known in FORMATS if path.endswith(known)), os.path.splitext(path)[1])
    return path.removesuffix(ending), ending


def format_of(path: str) -> str:
    """Return the format that a file's name tells by its ending."""
    for ending, name in FORMATS.items():
        if path.endswith(ending):
            return name
    raise ValueError(f"{path}: expected a name that ends in {endings()}")


class _Sums:
    """Figures of stacks added up by what the caller likes: live bytes and count, total bytes and count."""

    def __init__(self) -> None:
        self.rows: dict[Any, list[int]] = {}

    def add(self, key: Any, stacks: Iterable[Stack], sign: int = 1) -> Self:
        row = self.rows.setdefault(key, [0, 0, 0, 0])
        for stack in stacks:
            row[0] += sign * stack.live_bytes
            row[1] += sign * stack.live_count
            row[2] += sign * stack.total_bytes
            row[3] += sign * stack.total_count
        return self

    def of(self, key: Any) -> Amount:
        return Amount(*self.rows.get(key, ()))
