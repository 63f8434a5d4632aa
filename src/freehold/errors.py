"""What freehold raises.

    FreeholdError
    ├── OutOfMemory (MemoryError)      exhausted, limit, no fit
    │   ├── OSRefused (OSError)        the OS said no
    │   └── LimitError                 a heap's own limit
    ├── InvalidSizeClass (ValueError)
    ├── UnsuitableAlignment (ValueError)
    ├── Disabled (RuntimeError)
    ├── BadFree (ValueError)
    ├── NotMergeable (ValueError)
    ├── OutOfBounds (IndexError)
    ├── BlocksLive (RuntimeError)
    └── Inconsistent (AssertionError)  what check() found

A call that raises has changed nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

__all__ = [
    "BadFree",
    "BlocksLive",
    "Disabled",
    "FreeholdError",
    "Inconsistent",
    "InvalidSizeClass",
    "LimitError",
    "NotMergeable",
    "OSRefused",
    "OutOfBounds",
    "OutOfMemory",
    "UnsuitableAlignment",
]


class FreeholdError(Exception):
    """The root of everything freehold raises."""


class OutOfMemory(FreeholdError, MemoryError):
    """A layer could not serve a request it could have served with more room.

    Attributes:
        layer: which layer refused, for example ``"primary"``.
        asked: bytes (or pages, blocks: the layer's unit) asked for.
        limit: the limit that stood in the way, or None.
        size_class: the size in bytes of the class asked, or None where that has no meaning.
    """

    def __init__(
        self,
        message: str = "",
        *,
        layer: str | None = None,
        asked: int | None = None,
        limit: int | None = None,
        size_class: int | None = None,
    ) -> None:
        details = {"asked": asked, "size class": size_class, "limit": limit}
        known = ", ".join(f"{name} {value}" for name, value in details.items() if value is not None)
        super().__init__(f"{layer or 'freehold'}: {message or 'out of memory'}" + (f" ({known})" if known else ""))
        self.layer = layer
        self.asked = asked
        self.limit = limit
        self.size_class = size_class


class OSRefused(OutOfMemory, OSError):
    """The operating system refused a call.

    Attributes:
        errno: the error number it gave.
        call: the name of the call, as in ``freehold.layers.Vm``.
    """

    def __init__(
        self,
        message: str = "",
        *,
        errno: int,
        call: str,
        layer: str | None = None,
        asked: int | None = None,
        **more: Any,
    ) -> None:
        OutOfMemory.__init__(
            self, message or f"the OS refused to {call}: {os.strerror(errno)}", layer=layer, asked=asked, **more
        )
        self.errno = errno
        self.call = call


class LimitError(OutOfMemory):
    """A heap would have grown beyond its limit, even after giving back what was idle.

    Attributes:
        heap: the heap's name.
        asked: bytes asked for.
        live: bytes that the heap holds for blocks in use and for its own books.
        limit: the heap's limit in bytes.
        largest: the longest run of bytes that it could still hand out.
    """

    def __init__(
        self,
        message: str = "",
        *,
        heap: str | None = None,
        asked: int | None = None,
        live: int | None = None,
        limit: int | None = None,
        largest: int | None = None,
    ) -> None:
        told = f"asked {asked} bytes, in use {live}, limit {limit}, largest free run {largest}"
        MemoryError.__init__(self, message or f"heap {heap!r}: {told}")
        self.layer = "heap"
        self.size_class = None
        self.heap = heap
        self.asked = asked
        self.live = live
        self.limit = limit
        self.largest = largest


class InvalidSizeClass(FreeholdError, ValueError):
    """A size that no class of this layer can ever serve.

    Attributes:
        size_class: the class that would be needed (log2 of its size in ``LargePools``).
        asked: the bytes asked for.
    """

    def __init__(self, message: str = "", *, size_class: int | None = None, asked: int | None = None) -> None:
        super().__init__(message or f"no size class serves {asked} bytes (class {size_class})")
        self.size_class = size_class
        self.asked = asked


class UnsuitableAlignment(FreeholdError, ValueError):
    """An alignment that this layer can never give. Attributes: ``alignment``."""

    def __init__(self, message: str = "", *, alignment: int) -> None:
        super().__init__(message or f"alignment {alignment} can not be served here")
        self.alignment = alignment


class Disabled(FreeholdError, RuntimeError):
    """The layer is switched off."""


class BadFree(FreeholdError, ValueError):
    """An address was given back that is not a live block of this layer.

    Attributes:
        address: what was given back.
        reason: ``'double'``, ``'foreign'``, ``'interior'``, ``'misaligned'`` or ``'closed'``.
    """

    def __init__(self, message: str = "", *, address: int, reason: str) -> None:
        super().__init__(message or f"bad free of {address:#x}: {reason}")
        self.address = address
        self.reason = reason


class NotMergeable(FreeholdError, ValueError):
    """Two extents can not become one. Attributes: ``reason``."""

    def __init__(self, message: str = "", *, reason: str) -> None:
        super().__init__(message or f"not mergeable: {reason}")
        self.reason = reason


class OutOfBounds(FreeholdError, IndexError):
    """A range runs past its block. Attributes, in bytes: ``offset, length, capacity``."""

    def __init__(self, message: str = "", *, offset: int, length: int, capacity: int) -> None:
        super().__init__(message or f"bytes {offset} to {offset + length} lie outside a block of {capacity} bytes")
        self.offset = offset
        self.length = length
        self.capacity = capacity


class BlocksLive(FreeholdError, RuntimeError):
    """Something was closed while its blocks were in use. Attributes: ``blocks``, ``bytes``."""

    def __init__(self, message: str = "", *, blocks: int, bytes: int) -> None:
        super().__init__(message or f"{blocks} blocks ({bytes} bytes) are still live")
        self.blocks = blocks
        self.bytes = bytes


class Inconsistent(FreeholdError, AssertionError):
    """`check()` found an invariant broken. Attributes: ``invariant``, and ``values`` (name to value)."""

    def __init__(self, message: str = "", *, invariant: str, values: Mapping[str, Any]) -> None:
        shown = ", ".join(f"{name}={value}" for name, value in values.items())
        super().__init__(message or f"{invariant}: {shown}")
        self.invariant = invariant
        self.values = dict(values)
