"""A heap map kept as JSON, to be drawn later: what a process published, whose it was, and when.

Thread-safety: functions of their arguments.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, NamedTuple

from freehold.published import LAYERS, Heap, Layer, Range, Snapshot

__all__ = ["NoMap", "SavedMap", "load"]


class NoMap(ValueError):
    """A file holds no map; the text says what is wrong with it."""


class SavedMap(NamedTuple):
    """What a process published with its ranges; its command line; when, as text."""

    seen: Snapshot
    command: str
    when: str

    def to_json(self) -> str:
        """Return it as one JSON object."""
        return json.dumps({"map": self.seen.as_dict(), "command": self.command, "when": self.when}) + "\n"


def load(path: str) -> SavedMap:
    """Read what `SavedMap.to_json` made.

    Raises:
        OSError: the file can not be read.
        NoMap: it is none of a map, or a broken one.
    """
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        read = json.loads(text)
        return SavedMap(_snapshot(read["map"]), str(read["command"]), str(read["when"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise NoMap(f"{type(problem).__name__}: {problem}") from None


def _snapshot(read: dict[str, Any]) -> Snapshot:
    heaps = tuple(
        Heap(**_of(Heap, heap, "layers"), layers={name: Layer(**_of(Layer, heap["layers"][name])) for name in LAYERS})
        for heap in read["heaps"]
    )
    ranges = tuple(Range(**_of(Range, each)) for each in read["ranges"])
    if any(r.size <= 0 for r in ranges):
        raise ValueError("a range has no bytes")
    return Snapshot(**_of(Snapshot, read, "heaps", "ranges", "calls"), heaps=heaps, ranges=ranges, calls={})


def _of(kind: type[Any], read: dict[str, Any], *but: str) -> dict[str, Any]:
    """Return the fields that a dataclass has, but some; what should be a number or a text is one."""
    found = {field.name: read[field.name] for field in fields(kind) if field.name not in but}
    for field in fields(kind):
        value = found.get(field.name)
        is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if field.name in found and not (
            is_number if field.type == "int" else field.type != "str" or isinstance(value, str)
        ):
            raise ValueError(f"{field.name} is {value!r}")
    return found
