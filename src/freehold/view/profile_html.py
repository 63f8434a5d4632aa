"""A heap profile as a flame graph: one HTML file that needs neither network nor anything else.

The page is `profile_page.html` with its style and scripts put in, and the profile as JSON: the stacks as a tree, so
that what they have in common is told once. The page's own policy forbids it to load or send anything.

Thread-safety: functions of their arguments.
Invariant: the figures of the page's stacks are the profile's; of a difference, those that have grown.
Does not: lay out or draw; `profile_page.js` does, in the browser.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from freehold.view.profile_text import NATIVE, SOURCE_NAMES, clean, facts, growth, short
from freehold.view.top_text import size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from freehold.profiles import Frame, Profile

__all__ = ["as_html"]


def as_html(profile: Profile, *, live: bool = True) -> bytes:
    """Return *profile* as a page; *live* says which of the two pictures it shows first."""
    told = json.dumps(document(profile, live=live), separators=(",", ":"))
    page = Template(_part("profile_page.html")).substitute(
        pid=profile.pid,
        facts="".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in [*facts(profile)][1:]
        ),
        remarks="".join(f"<p class=remark>{escape(text)}</p>" for text in _remarks(profile)),
        style=_part("profile_page.css"),
        script=_part("profile_tree.js") + _part("profile_page.js"),
        profile=told.replace("<", "\\u003c"),  # no name can end the element that holds it
    )
    return page.encode()


def document(profile: Profile, *, live: bool = True) -> dict[str, Any]:
    """Return what the page draws.

    `frames` has function, number of the file, and line; `parents` and `places` are the tree: each node's parent, which
    comes before it, and its frame, with node 0 for all; a row of `stacks` is its node, source, heap and four figures.
    """
    shown = growth(profile)
    tree = _Tree()
    sources = [name for name in SOURCE_NAMES if name in {stack.source for stack in shown.stacks}]
    heaps = list(shown.heaps)
    rows = [
        [
            tree.node(stack.frames), sources.index(stack.source), heaps.index(stack.heap),
            stack.live_bytes, stack.live_count, stack.total_bytes, stack.total_count,
        ]
        for stack in shown.stacks
    ]  # fmt: skip
    return {
        "live": live,
        "grown": profile.since is not None,
        "sources": [[name, SOURCE_NAMES[name]] for name in sources],
        "heaps": [clean(shown.heaps[heap]) for heap in heaps],
        "files": [[clean(short(file)), clean(file)] for file in tree.files],
        "frames": tree.frames,
        "parents": tree.parents,
        "places": tree.places,
        "stacks": rows,
    }


class _Tree:
    """Stacks as paths from one root, outermost frame first."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        self.frames: list[list[Any]] = []
        self.parents, self.places = [0], [-1]
        self._numbers: dict[Frame | None, int] = {}
        self._children: dict[tuple[int, int], int] = {}

    def node(self, frames: tuple[Frame, ...]) -> int:
        """Return the node where a stack ends."""
        at = 0
        for frame in reversed(frames or (None,)):
            step = (at, self._number(frame))
            if step not in self._children:
                self._children[step] = len(self.parents)
                self.parents.append(at)
                self.places.append(step[1])
            at = self._children[step]
        return at

    def _number(self, frame: Frame | None) -> int:
        if frame not in self._numbers:
            self._numbers[frame] = len(self.frames)
            name, file, line = (NATIVE, "", 0) if frame is None else (frame.function, frame.file, frame.line)
            self.frames.append([clean(name), self.files.setdefault(file, len(self.files)), line])
        return self._numbers[frame]


def _remarks(profile: Profile) -> Iterator[str]:
    """Yield what the picture can not show."""
    if profile.dropped > 0:
        yield f"{profile.dropped:,} samples found no room in the tables: their memory is not in the picture."
    shrunk = -sum(min(0, stack.live_bytes) for stack in profile.stacks)
    if profile.since is not None:
        yield f"Drawn is what has grown. Elsewhere {size(shrunk)} less are live than before."
    if not profile.stacks:
        changed = "changed" if profile.since is not None else "was sampled"
        yield f"Nothing {changed}: there is nothing to draw."


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
