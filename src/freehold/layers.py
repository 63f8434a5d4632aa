"""Each layer of the core as a small class of its own: to learn it, to test it, to build other things on it.

A caller's mistake raises and changes nothing. Every class is a context manager; `close` may be called twice, and any
other call after it raises `ValueError`. Every method may be called from any thread at any time.
"""

from __future__ import annotations

from freehold.errors import (
    BadFree,
    BlocksLive,
    Disabled,
    FreeholdError,
    Inconsistent,
    InvalidSizeClass,
    LimitError,
    NotMergeable,
    OSRefused,
    OutOfBounds,
    OutOfMemory,
    UnsuitableAlignment,
)
from freehold.face.arenas_face import Arenas
from freehold.face.extents_face import Extent, Extents, ExtentState
from freehold.face.large_pools import LargePools
from freehold.face.page_allocator import PageAllocator
from freehold.face.primary_face import Primary
from freehold.face.sizes_face import SizeClasses
from freehold.face.space_face import Space
from freehold.face.vm_face import DEBUG, Vm, fail

__all__ = [
    "DEBUG",
    "Arenas",
    "BadFree",
    "BlocksLive",
    "Disabled",
    "Extent",
    "ExtentState",
    "Extents",
    "FreeholdError",
    "Inconsistent",
    "InvalidSizeClass",
    "LargePools",
    "LimitError",
    "NotMergeable",
    "OSRefused",
    "OutOfBounds",
    "OutOfMemory",
    "PageAllocator",
    "Primary",
    "SizeClasses",
    "Space",
    "UnsuitableAlignment",
    "Vm",
    "fail",
]
