"""`install()` and `uninstall()`: what of this process comes from the freehold heap.

Thread-safety: both may be called from any thread, any number of times.
Invariants: hooks are permanent. `uninstall` only says where *new* blocks come from; where a block goes back to, its
address says.
Does not: import NumPy or pyarrow.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from types import MappingProxyType

from freehold import arrow_import, config, domains, numpy_import, opening

__all__ = ["Installation", "install", "uninstall"]


class Installation:
    """What comes from the freehold heap since `install()`, and what does not.

    Attributes:
        taken: whose new blocks come from the heap, for example ``("numpy", "objects")``.
        not_taken: the others, each with the reason.
    """

    __slots__ = ("not_taken", "taken")  # no dataclass: importing those would be half of what installing costs

    def __init__(self, taken: tuple[str, ...], not_taken: Mapping[str, str]) -> None:
        self.taken = taken
        self.not_taken = not_taken

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Installation) and (self.taken, self.not_taken) == (other.taken, other.not_taken)

    def __hash__(self) -> int:
        return hash(self.taken)

    def __repr__(self) -> str:
        return f"Installation(taken={self.taken!r}, not_taken={dict(self.not_taken)!r})"

    def __str__(self) -> str:
        lines = [f"{name}: on the freehold heap" for name in self.taken]
        return "\n".join(lines + [f"{name}: {why}" for name, why in self.not_taken.items()])


def install(
    *,
    objects: bool | str | None = None,
    arrow: bool | None = None,
    decay: int | float | str | None = None,
    huge_pages: str | None = None,
) -> Installation:
    """Have the process's memory come from the freehold heap from now on, in every thread.

    Blocks made before stay valid and go back to where they came from. If NumPy or pyarrow is not imported yet, it is
    taken the moment it is. Calling it again changes nothing but the answer.

    Args:
        objects: True: Python's objects and whatever else its allocators serve; ``"arena"``: pymalloc serves them, from
            arenas of the heap; False: they stay where they are.
        arrow: False: Arrow's default memory pool stays as it is. True, as is the default: what it allocates is on the
            heap where pyarrow's library is one that freehold knows.
        decay: how long idle memory is kept before it is given back: seconds, ``"500ms"``, ``"10s"``, 0 or ``"never"``.
        huge_pages: ``"auto"`` or ``"never"``.

    Returns:
        What is taken now, what is not, and why.

    Raises:
        ValueError: an argument has a wrong value, or one that differs from what the heap was opened with.

    Example:
        >>> import freehold
        >>> print(freehold.install())

    Thread-safety: any thread, any time.
    """
    settings = config.resolve(call={"objects": objects, "arrow": arrow, "decay": decay, "huge_pages": huge_pages})
    opening.choose(settings)
    remarks = []
    if objects is not None or not domains.is_active():  # asked again without a word of them, they stay as they are
        remarks = domains.take(settings["objects"].value, opening.open_heap)
    numpy_import.arm(opening.open_heap)
    on = settings["arrow"].value or (arrow is None and arrow_import.is_armed())  # likewise
    arrow_import.take(opening.open_heap, on=on)
    if settings["log"].value:
        from freehold import logs

        logs.start_logging()
    for remark in remarks:
        warnings.warn(f"freehold: {remark}", RuntimeWarning, stacklevel=2)
    return _installation()


def uninstall() -> None:
    """Have new blocks come from where they came before `install()`. Blocks of the heap stay valid, and go back to it.

    Thread-safety: any thread, any time.
    """
    domains.disarm()
    arrow_import.disarm()
    numpy_import.disarm()
    handler = sys.modules.get("freehold.face.numpy_handler")
    if handler is not None:
        handler.activate(False)


def _installation() -> Installation:
    no_numpy = numpy_import.status()
    python, no_objects = domains.status()
    not_taken = {"numpy": no_numpy, "objects": no_objects, "arrow": arrow_import.status()}
    taken: tuple[str, ...] = python if no_numpy else ("numpy", *python)
    if not not_taken["arrow"]:
        taken += ("arrow",)
    if opening.is_preloaded():
        taken += ("libc",)
    else:
        not_taken["libc"] = (
            "what C libraries allocate stays with malloc; glibc's is told to give back what is free at its end"
        )
    return Installation(taken=taken, not_taken=MappingProxyType({name: why for name, why in not_taken.items() if why}))
