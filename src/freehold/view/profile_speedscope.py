"""A heap profile for speedscope (www.speedscope.app): two `sampled` profiles, of what is live and of all allocated.

Thread-safety: a function of its arguments.
Invariant: the weights of a profile add up to its `endValue`, in bytes.
Does not: tell counts, sources and heaps, for which the format has no place.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from freehold.view.profile_text import NATIVE, clean, growth

if TYPE_CHECKING:
    from freehold.profiles import Frame, Profile

__all__ = ["as_speedscope"]

SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def as_speedscope(profile: Profile, *, live: bool = True) -> bytes:
    """Return *profile* as speedscope's JSON; *live* says which of the two profiles it shows first."""
    profile = growth(profile)
    frames = list(dict.fromkeys(frame for stack in profile.stacks for frame in stack.frames))
    numbers = {frame: i for i, frame in enumerate(frames)}
    grown = "" if profile.since is None else ", growth"
    document = {
        "$schema": SCHEMA,
        "name": f"heap of process {profile.pid}",
        "exporter": "freehold",
        "activeProfileIndex": 0 if live else 1,
        "shared": {"frames": [*map(_frame, frames), {"name": NATIVE}]},
        "profiles": [
            _sampled(profile, numbers, f"live{grown}", live=True),
            _sampled(profile, numbers, f"allocated in total{grown}", live=False),
        ],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _frame(frame: Frame) -> dict[str, Any]:
    return {"name": clean(frame.function), "file": clean(frame.file), "line": frame.line}


def _sampled(profile: Profile, numbers: dict[Frame, int], name: str, *, live: bool) -> dict[str, Any]:
    """Return the stacks that have anything, outermost frame first."""
    found = [(stack, amount) for stack in profile.stacks if (amount := stack.amount.bytes(live=live))]
    return {
        "type": "sampled",
        "name": name,
        "unit": "bytes",
        "startValue": 0,
        "endValue": sum(amount for _, amount in found),
        "samples": [[numbers[frame] for frame in reversed(stack.frames)] or [len(numbers)] for stack, _ in found],
        "weights": [amount for _, amount in found],
    }
