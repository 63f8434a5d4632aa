"""Taking a heap profile of this process: for a while, or of a whole program.

Thread-safety: everything here may be called from any thread; what is recorded is of all threads.
Does not: choose or record anything (the core does), or show what was recorded (`freehold.profiles` does).
Follows: `memray run` and its Tracker; Go's net/http/pprof; jemalloc's prof_dump and prof_gdump.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from freehold import config, opening

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from freehold.profiles import Profile

__all__ = ["INTERVAL", "Profiling", "begin_program", "begin_report", "dump_of_program", "profile"]

INTERVAL = "512KiB"
ASKED, ENDED = 0, 2  # why a dump was written, as the core has it


class Profiling:
    """A profile being taken, from `freehold.profile()`; a context manager.

    Attributes:
        interval: bytes between two samples, in the mean.
        profile: what was recorded until the end; None before that.
    """

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self.profile: Profile | None = None

    def __enter__(self) -> Self:
        opening.open_heap()
        from freehold.face import heap_profile

        heap_profile.begin(self.interval)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from freehold.face import heap_profile

        try:
            self.profile = self.take()
        finally:
            heap_profile.end()

    def take(self) -> Profile:
        """Return what was recorded so far. The other threads go on meanwhile.

        Raises:
            RuntimeError: nothing is being recorded: this is outside the `with`.
        """
        from freehold.profiles import Profile

        return Profile.read(_dump(ASKED))


def profile(interval: int | str = INTERVAL) -> Profiling:
    """Sample what is allocated in the heaps, by all threads, while a `with` lasts.

    Each byte has the same chance to be sampled, so what the samples stand for is an unbiased estimate: of what lives,
    and of all that was allocated, by the lines of Python that asked for it. Where several profiles overlap, they are
    one: with the interval, and from the beginning, of the first.

    >>> with freehold.profile() as taken:
    ...     work()
    >>> taken.profile.save("profile.html")

    Args:
        interval: bytes between two samples in the mean, as `freehold.Heap` takes sizes; at least 1. At the default a
            GiB gives some 2,000 samples.

    Raises:
        ValueError: *interval* is no size, or 0.
        MemoryError: (on entering) the operating system refuses the tables.
    """
    return Profiling(_interval(interval))


def _interval(value: int | str) -> int:
    size = config.parse_size("interval", value)
    if size == 0:
        raise ValueError(f"interval={value!r}: expected at least 1 byte")
    return size


def _dump(reason: int) -> bytes:
    """Return the core's own record of the profile."""
    from freehold.face import heap_profile

    with os.fdopen(os.memfd_create("freehold.profile"), "rb") as file:
        heap_profile.write(file.fileno(), reason)
        file.seek(0)
        return file.read()


# ---- of a whole program ----


def begin_program(path: str, *, interval: int, growth: int, its_own: bool) -> None:
    """Profile this process from now on, and write that to *path* when it ends.

    Args:
        path: of the file, whose ending tells the format; or ``yes``: one named after the program.
        interval: bytes between two samples, in the mean.
        growth: write a dump beside it whenever so many bytes more are live than ever before; 0: do not.
        its_own: the file is named for this process. Others, its children, have their number in the names of theirs.
    """
    from freehold import profiles

    opening.open_heap()
    from freehold.face import heap_profile

    heap_profile.begin(max(interval, 1))
    stem, ending = profiles.split(f"freehold-{_program()}.html" if path == "yes" else path)
    profiles.writer(profiles.format_of(ending))  # imported now: at exit that could cost an interrupt its exit code
    if growth:
        heap_profile.grow(growth, os.fsencode(stem.removesuffix(f".{os.getpid()}")))
    atexit.register(_write_at_end, stem, ending, os.getpid() if its_own else 0)


def begin_report() -> None:
    """Sample this process from when its heap is opened on, for the report that another one makes of it."""

    def begin() -> None:
        from freehold.face import heap_profile

        heap_profile.begin(config.parse_size("interval", INTERVAL))

    opening.when_open(begin)


def dump_of_program() -> bytes:
    """Return what was sampled of this program, as the core has it; nothing, if its heap was not opened."""
    return _dump(ENDED) if "freehold.face.heap_profile" in sys.modules else b""


def _program() -> str:
    """Return what the program is called."""
    words = [word for word in sys.orig_argv[1:] if not word.startswith("-")]
    return os.path.splitext(os.path.basename(words[0]))[0] if words else "python"


def _write_at_end(stem: str, ending: str, named_for: int) -> None:
    """Whatever goes wrong, the program ends as it would have. A child of which nothing was sampled writes nothing."""
    from freehold.profiles import Profile

    is_named_for = os.getpid() == named_for
    try:
        taken = Profile.read(_dump(ENDED))
        if taken.samples or is_named_for:
            path = f"{stem}{ending}" if is_named_for else f"{stem}.{os.getpid()}{ending}"
            taken.save(path)
            if is_named_for:
                _say(f"freehold: the heap profile is in {path}\n")
    except Exception as problem:
        _say(f"freehold: no heap profile: {type(problem).__name__}: {problem}\n")


def _say(text: str) -> None:
    with contextlib.suppress(Exception):  # nobody listens: then nobody is told
        sys.stderr.write(text)
