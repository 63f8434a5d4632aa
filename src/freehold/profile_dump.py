"""Dumps of heap profiles: a file of little-endian 64-bit words, then text.

Head, frames, stacks, lists of frames, heaps, text: docs/profile.md has the layout.

Thread-safety: everything here is a function of its arguments, or frozen.
Invariant: whatever a file claims is compared with what is there before it is used, and reading takes time and memory in
proportion to the file, whoever wrote it.
Does not: know what the figures mean.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freehold.profiles import Profile

__all__ = ["REASONS", "SOURCES", "Amount", "BadProfile", "Frame", "Stack", "content", "dump", "parse"]

MAGIC, VERSION = b"fhprofil", 1
HEAD = struct.Struct("<8s23Q")
FRAME, STACK, HEAP = struct.Struct("<4Q"), struct.Struct("<10Q"), struct.Struct("<Q40s")
MOST_FILE, MOST_FUNCTION = 512, 256  # bytes of text; what was longer has been cut
SOURCES = ("other", "numpy", "raw", "mem", "obj", "arrow", "malloc", "block")
REASONS = ("asked", "peak", "exit")
LOW = (1 << 32) - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BadProfile(ValueError):
    """A file is no heap profile that can be read; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A place in a program: *line* is where it was, *first_line* where its function begins."""

    file: str
    line: int
    function: str
    first_line: int = 0


@dataclass(frozen=True, slots=True)
class Amount:
    """How much memory: live when the profile was written, and allocated in all since it began."""

    live_bytes: int = 0
    live_count: int = 0
    total_bytes: int = 0
    total_count: int = 0

    def bytes(self, *, live: bool = True) -> int:
        """Return the bytes that are live, or all that were allocated."""
        return self.live_bytes if live else self.total_bytes

    def count(self, *, live: bool = True) -> int:
        """Return the blocks that are live, or all that were allocated."""
        return self.live_count if live else self.total_count


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that allocated, and how much. *frames* has the innermost first; it is empty where no Python ran.

    *heap* is a key of the profile's `heaps`, *source* one of `SOURCES`: who asked for the memory. Peak is what
    the stack had live when all together had most, within some 3 %.
    """

    frames: tuple[Frame, ...]
    heap: int
    source: str
    live_bytes: int = 0
    live_count: int = 0
    total_bytes: int = 0
    total_count: int = 0
    peak_bytes: int = 0
    peak_count: int = 0

    @property
    def amount(self) -> Amount:
        """Its live and total figures as one."""
        return Amount(self.live_bytes, self.live_count, self.total_bytes, self.total_count)


# ---- reading a dump ----


def content(file: IO[bytes]) -> bytes:
    """Return as much of a file as its head says that it has; of what is no dump, however long, the head."""
    head = file.read(HEAD.size)
    if len(head) < HEAD.size or not head.startswith(MAGIC):
        return head
    parts, left = [head], HEAD.unpack(head)[2] - len(head) + 1  # one byte more, to see that there is none
    while left > 0 and (part := file.read(min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def parse(content: bytes) -> dict[str, Any]:
    """Return the fields of the profile that *content* is, by name.

    Raises:
        BadProfile: it is none, or is damaged; the text says how.
    """
    words = _head(content)
    frame_count, stack_count, list_count, heap_count, text_bytes = words[12:17]
    at_stacks = HEAD.size + FRAME.size * frame_count
    at_lists = at_stacks + STACK.size * stack_count
    at_heaps = at_lists + 8 * list_count
    at_text = at_heaps + HEAP.size * heap_count
    if at_text + text_bytes != len(content):
        raise BadProfile(f"damaged: its tables need {at_text + text_bytes} bytes, the file has {len(content)}")
    frames = _frames(content[HEAD.size : at_stacks], content[at_text:])
    lists = struct.unpack(f"<{list_count}Q", content[at_lists:at_heaps])
    stacks = _stacks(content[at_stacks:at_lists], frames, lists)
    heaps = {id_: _name(id_, name) for id_, name in HEAP.iter_unpack(content[at_heaps:at_text])}
    for stack in stacks:
        heaps.setdefault(stack.heap, _name(stack.heap, b""))
    return {
        "interval": words[3],
        "began": _time(words[4]),
        "written": _time(words[5]),
        "pid": words[6],
        "reason": REASONS[words[7]],
        "live_bytes": words[8],
        "peak_bytes": words[9],
        "samples": words[10],
        "dropped": words[11],
        "stacks": tuple(stacks),
        "heaps": heaps,
    }


def _head(content: bytes) -> tuple[Any, ...]:
    """Return the words of the head, once they fit what is there."""
    if not content.startswith(MAGIC):
        short = len(content) < len(MAGIC) and MAGIC.startswith(content)
        raise BadProfile("empty" if not content else "truncated" if short else "not a heap profile")
    if len(content) < HEAD.size:
        raise BadProfile(f"truncated: it has {len(content)} bytes, and the head alone is {HEAD.size}")
    words = HEAD.unpack_from(content)
    if words[1] != VERSION:
        raise BadProfile(f"a profile of version {words[1]}; this freehold reads version {VERSION}")
    if words[2] > len(content):
        raise BadProfile(f"truncated: it has {len(content)} of {words[2]} bytes")
    if words[2] < len(content):
        raise BadProfile(f"damaged: more follows its {words[2]} bytes")
    if words[7] >= len(REASONS):
        raise BadProfile(f"damaged: it was written for reason {words[7]}, and there are {len(REASONS)}")
    return words


def _frames(table: bytes, text: bytes) -> list[Frame]:
    frames = []
    for i, (lines, file_at, sizes, function_at) in enumerate(FRAME.iter_unpack(table)):
        file_bytes, function_bytes = sizes >> 32, sizes & LOW
        if file_bytes > MOST_FILE or function_bytes > MOST_FUNCTION:
            raise BadProfile(f"damaged: frame {i} has names of {file_bytes} and {function_bytes} bytes")
        if max(file_at + file_bytes, function_at + function_bytes) > len(text):
            raise BadProfile(f"damaged: the names of frame {i} lie outside the text")
        file = text[file_at : file_at + file_bytes].decode("utf-8", "replace")
        function = text[function_at : function_at + function_bytes].decode("utf-8", "replace")
        frames.append(Frame(file, lines >> 32, function, lines & LOW))
    return frames


def _stacks(table: bytes, frames: list[Frame], lists: tuple[int, ...]) -> list[Stack]:
    """Return the stacks. No two have an entry of the lists in common, so together they are no longer than those."""
    stacks, left = [], len(lists)
    for i, words in enumerate(STACK.iter_unpack(table)):
        live_count, live_bytes, total_count, total_bytes, peak_count, peak_bytes, heap, source, depth, first = words
        left -= depth
        if first + depth > len(lists) or left < 0:
            raise BadProfile(f"damaged: stack {i} lies outside the lists of frames")
        mine = lists[first : first + depth]
        if depth and max(mine) >= len(frames):
            raise BadProfile(f"damaged: stack {i} has frame {max(mine)}, and there are {len(frames)}")
        if source >= len(SOURCES):
            raise BadProfile(f"damaged: stack {i} has source {source}, and there are {len(SOURCES)}")
        places = tuple(frames[n] for n in mine)
        figures = (live_bytes, live_count, total_bytes, total_count, peak_bytes, peak_count)
        stacks.append(Stack(places, heap, SOURCES[source], *figures))
    return stacks


def _name(id_: int, name: bytes) -> str:
    return name.partition(b"\0")[0].decode("utf-8", "replace") or ("default" if id_ == 0 else f"heap {id_}")


def _time(nanoseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=nanoseconds // 1000)


# ---- writing one ----


def dump(profile: Profile) -> bytes:
    """Return *profile* as a dump.

    Raises:
        ValueError: it is a difference.
    """
    if profile.since is not None:
        raise ValueError("a difference of two profiles can not be written as a dump")
    text = bytearray()
    numbers = {frame: i for i, frame in enumerate(dict.fromkeys(f for stack in profile.stacks for f in stack.frames))}
    frames = b"".join([_frame(frame, text) for frame in numbers])
    lists = [numbers[frame] for stack in profile.stacks for frame in stack.frames]
    stacks, first = [], 0
    for x in profile.stacks:
        words = (x.live_count, x.live_bytes, x.total_count, x.total_bytes, x.peak_count, x.peak_bytes, x.heap)
        stacks.append(STACK.pack(*words, SOURCES.index(x.source), len(x.frames), first))
        first += len(x.frames)
    heaps = b"".join([HEAP.pack(id_, _cut(name, 39)) for id_, name in profile.heaps.items()])
    body = b"".join([frames, *stacks, struct.pack(f"<{len(lists)}Q", *lists), heaps, text])
    times = [(time - EPOCH) // timedelta(microseconds=1) * 1000 for time in (profile.began, profile.written)]
    reason = REASONS.index(profile.reason)
    figures = (profile.live_bytes, profile.peak_bytes, profile.samples, profile.dropped)
    counts = (len(numbers), len(profile.stacks), len(lists), len(profile.heaps), len(text))
    head = (HEAD.size + len(body), profile.interval, *times, profile.pid, reason, *figures, *counts)
    return HEAD.pack(MAGIC, VERSION, *head, *[0] * 7) + body


def _frame(frame: Frame, text: bytearray) -> bytes:
    """Return a frame's words, and add its names to *text*."""
    file = frame.file.encode("utf-8", "replace")
    file = file[max(0, len(file) - MOST_FILE) :].decode("utf-8", "ignore").encode()
    function = _cut(frame.function, MOST_FUNCTION)
    lines, sizes = frame.line << 32 | frame.first_line, len(file) << 32 | len(function)
    words = FRAME.pack(lines, len(text), sizes, len(text) + len(file))
    text += file + function
    return words


def _cut(text: str, most: int) -> bytes:
    """Return the beginning of *text* as UTF-8, cut at a character."""
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore").encode()
