"""A heap profile as collapsed stacks: a line for each, outermost frame first, then its bytes.

What flamegraph.pl, speedscope, inferno and `sort` read. Thread-safety: a function of its arguments.
Invariant: a `;` stands only between two frames, and what follows the last space of a line is its bytes.
After: the format of Brendan Gregg's FlameGraph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from freehold.view.profile_text import NATIVE, clean, growth

if TYPE_CHECKING:
    from freehold.profiles import Frame, Profile

__all__ = ["as_collapsed"]


def as_collapsed(profile: Profile, *, live: bool = True) -> bytes:
    """Return *profile* as collapsed stacks: of what is live, or of all that was allocated."""
    sums: dict[str, int] = {}
    for stack in growth(profile).stacks:
        amount = stack.amount.bytes(live=live)
        if amount:
            line = ";".join(map(_frame, reversed(stack.frames))) or NATIVE
            sums[line] = sums.get(line, 0) + amount
    return "".join(f"{line} {amount}\n" for line, amount in sorted(sums.items())).encode()


def _frame(frame: Frame) -> str:
    return clean(f"{frame.function} ({frame.file}:{frame.line})").replace(";", ":")
