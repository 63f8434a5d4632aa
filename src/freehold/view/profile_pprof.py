"""A heap profile for pprof: `profile.proto`, compressed with gzip.

Written by hand: of protocol buffers the format needs numbers, strings and messages in messages, which are the three
functions at the end; a library would be a compiled dependency and generated code for the same bytes.

Thread-safety: a function of its arguments.
Invariants: string 0 is empty; ids count from 1; every id that is used is defined, once.
The same profile gives the same bytes: gzip is told no time.
"""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

from freehold.view.profile_text import NATIVE, SOURCE_NAMES, clean, facts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from freehold.profiles import Frame, Profile, Stack

__all__ = ["as_pprof"]

# Numbers of the fields of profile.proto.
SAMPLE_TYPE, SAMPLE, LOCATION, FUNCTION, STRING = 1, 2, 4, 5, 6
TIME, DURATION, PERIOD_TYPE, PERIOD, COMMENT, DEFAULT = 9, 10, 11, 12, 13, 14
TYPES = (("live_objects", "count"), ("live_space", "bytes"), ("total_objects", "count"), ("total_space", "bytes"))
MOST = (1 << 63) - 1


def as_pprof(profile: Profile, *, live: bool = True) -> bytes:
    """Return *profile* for pprof; *live* says which of the sample types it shows first."""
    tables = _Tables()
    types = [_message(SAMPLE_TYPE, _value_type(tables, *names)) for names in TYPES]
    samples = [_message(SAMPLE, _sample(stack, profile, tables)) for stack in profile.stacks]
    comments = [_number(COMMENT, tables.string(f"{name}: {value}")) for name, value in facts(profile)]
    period = _message(PERIOD_TYPE, _value_type(tables, "space", "bytes"))
    default = _number(DEFAULT, tables.string("live_space" if live else "total_space"))
    microseconds = [round(x.timestamp() * 1e6) for x in (profile.since or profile.began, profile.written)]
    times = _number(TIME, microseconds[0] * 1000) + _number(DURATION, (microseconds[1] - microseconds[0]) * 1000)
    strings = [_message(STRING, text.encode()) for text in tables.strings]
    parts = [*types, *samples, *tables.definitions, *strings, times, period, _number(PERIOD, profile.interval)]
    return gzip.compress(b"".join([*parts, *comments, default]), mtime=0)


class _Tables:
    """The strings, functions and locations that were mentioned, each once."""

    def __init__(self) -> None:
        self.strings = {"": 0}
        self.functions: dict[tuple[str, str, int], int] = {}
        self.locations: dict[Frame | None, int] = {}
        self.definitions: list[bytes] = []

    def string(self, text: str) -> int:
        return self.strings.setdefault(clean(text), len(self.strings))

    def location(self, frame: Frame | None) -> int:
        if frame not in self.locations:
            self.locations[frame] = len(self.locations) + 1
            name, file, first, line = (NATIVE, "", 0, 0) if frame is None else (
                frame.function, frame.file, frame.first_line, frame.line
            )  # fmt: skip
            at = _message(4, _number(1, self.function(name, file, first)) + _number(2, line))
            self.definitions.append(_message(LOCATION, _number(1, self.locations[frame]) + at))
        return self.locations[frame]

    def function(self, name: str, file: str, first: int) -> int:
        key = (name, file, first)
        if key not in self.functions:
            self.functions[key] = len(self.functions) + 1
            # No name as the system has it: else pprof takes it for C++ and makes nothing of `<module>`.
            texts = _number(2, self.string(name)) + _number(4, self.string(file))
            self.definitions.append(_message(FUNCTION, _number(1, self.functions[key]) + texts + _number(5, first)))
        return self.functions[key]


def _sample(stack: Stack, profile: Profile, tables: _Tables) -> bytes:
    """Return a stack's locations, innermost first, its four figures, and whose memory it is as labels."""
    figures = (stack.live_count, stack.live_bytes, stack.total_count, stack.total_bytes)
    labels = (("source", SOURCE_NAMES[stack.source]), ("heap", profile.heaps[stack.heap]))
    told = [_number(1, tables.string(key)) + _number(2, tables.string(text)) for key, text in labels]
    locations = [tables.location(frame) for frame in stack.frames or (None,)]
    return _numbers(1, locations) + _numbers(2, figures) + b"".join([_message(3, label) for label in told])


def _value_type(tables: _Tables, name: str, unit: str) -> bytes:
    return _number(1, tables.string(name)) + _number(2, tables.string(unit))


def _varint(value: int) -> bytes:
    """Return a number in groups of seven bits, the lowest first; one below zero as its two's complement."""
    value = min(value, MOST) & ((1 << 64) - 1)
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _numbers(field: int, values: Iterable[int]) -> bytes:
    return _message(field, b"".join(map(_varint, values)))


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content
