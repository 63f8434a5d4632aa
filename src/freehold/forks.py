"""What Python's `os.fork` is to find: since 3.12 it warns where the process has other threads than the one that forks.

The heap can be forked at any moment, but Python cannot know that of its thread. So it ends before a fork and begins
again after it, where one was at work. Under plain C nothing of this is needed.

Thread-safety: the hooks run in the thread that forks; the core counts them.
"""

from __future__ import annotations

import os
import sys

__all__ = ["prepare"]

_resting = 0  # forks that are between their two hooks


def prepare() -> None:
    """Have every `os.fork` of this interpreter find no thread of the heap's."""
    os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_in_child)


def _before() -> None:
    global _resting
    if "freehold.face" in sys.modules:
        from freehold.face import process_heap

        process_heap.rest()
        _resting += 1


def _after() -> None:
    global _resting
    if _resting:
        from freehold.face import process_heap

        _resting -= 1
        process_heap.resume()


def _in_child() -> None:
    """The core has begun anew there."""
    global _resting
    _resting = 0
