"""How a heap profile's places and figures are written as text, the same in every picture and table.

Thread-safety: functions of their arguments.
Invariant: what is returned is one line without control characters, whatever a program calls its files and functions.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from freehold.view.top_text import size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from freehold.profiles import Frame, Profile

__all__ = ["NATIVE", "ROOTS", "SOURCE_NAMES", "change", "clean", "facts", "growth", "place", "short", "signed_size"]

NATIVE = "[no Python]"
"""The place of what threads allocated that ran no Python."""
SOURCE_NAMES = {
    "numpy": "NumPy arrays",
    "arrow": "Arrow",
    "obj": "Python objects",
    "mem": "Python containers",
    "raw": "Python, raw",
    "malloc": "C and C++",
    "block": "blocks by name",
    "other": "other",
}
UNPRINTABLE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
ROOTS = re.compile(r".*/(?:site-packages|dist-packages|lib/python3\.\d+)/")


def clean(text: str) -> str:
    """Return *text* as one line that neither a terminal nor a page takes for a command."""
    return UNPRINTABLE.sub("\ufffd", text)


def short(file: str) -> str:
    """Return a file without what says only where Python or the project is: libraries from their name on."""
    file = ROOTS.sub("", file)
    return file if not file.startswith("/") else "/".join(file.split("/")[-3:])


def place(frame: Frame | None) -> str:
    """Return a frame as `function (file:line)`, with the file as `short` has it."""
    if frame is None:
        return NATIVE
    return clean(f"{frame.function} ({short(frame.file)}:{frame.line})")


def signed_size(count: int) -> str:
    """Return bytes, which may be fewer than none, with a binary unit."""
    return size(count) if count >= 0 else f"-{size(-count)}"


def change(count: int) -> str:
    """Return bytes more or less as such."""
    return f"+{size(count)}" if count > 0 else signed_size(count)


def growth(profile: Profile) -> Profile:
    """Return of a difference what has grown, for pictures: they can show no memory that is less than none."""
    from dataclasses import replace

    if profile.since is None:
        return profile
    figures = ("live_bytes", "live_count", "total_bytes", "total_count")
    stacks = (replace(x, **{name: max(0, getattr(x, name)) for name in figures}) for x in profile.stacks)
    return replace(profile, stacks=tuple(stack for stack in stacks if stack.live_bytes or stack.total_bytes))


def facts(profile: Profile) -> Iterator[tuple[str, str]]:
    """Yield what a reader should know beside the picture, as name and value."""
    write = size if profile.since is None else change
    reason = {"asked": "when asked", "peak": "at a new peak", "exit": "at exit"}[profile.reason]
    yield "process", str(profile.pid)
    yield "written", f"{profile.written.astimezone():%Y-%m-%d %H:%M:%S}, {reason}"
    if profile.since is None:
        yield "profiled for", _duration((profile.written - profile.began).total_seconds())
    else:
        yield "growth since", f"{profile.since.astimezone():%Y-%m-%d %H:%M:%S}"
    yield "live in all heaps, exact", write(profile.live_bytes)
    yield "peak", write(profile.peak_bytes)
    yield "a sample each", size(profile.interval)
    yield "samples", f"{profile.samples:,}"
    yield "dropped", f"{profile.dropped:,}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{max(0, seconds):.1f} s"
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds) % 60} s"
