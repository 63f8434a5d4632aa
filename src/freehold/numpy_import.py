"""Takes NumPy's memory handler as soon as NumPy's C module is there, without importing NumPy itself.

Thread-safety: everything runs under the GIL; taking twice, and arming twice, is harmless.
Invariants: an importer of NumPy sees no trace: the finder leaves `sys.meta_path` when it has done its work.
Does not: ever let NumPy's import fail. What went wrong is kept as text, for `Installation`.
Imports next to nothing: it runs at the start of every process that follows `freehold run`.
"""

from __future__ import annotations

import sys

from freehold.when_imported import Finder, imported, log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["arm", "disarm", "status"]

C_MODULES = ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath")  # since 2.0, and before
NOT_IMPORTED = "NumPy is not imported yet; it is taken the moment it is"

_problem = ""  # why NumPy could not be taken, when it was tried last


_finder: Finder | None = None


def arm(prepare: Callable[[], None]) -> None:
    """Take NumPy's handler now if NumPy is imported, else when it is.

    Args:
        prepare: called once before the first block is handed out.
    """
    global _finder
    disarm()
    for name in C_MODULES:
        module = imported(name)
        if module is not None and _has_table(module):
            _take(module, prepare)
            return
    _finder = Finder(C_MODULES, lambda module: _take(module, prepare))
    sys.meta_path.insert(0, _finder)


def disarm() -> None:
    """Leave NumPy alone if it is imported later; what has been taken stays taken."""
    global _finder
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    _finder = None


def status() -> str:
    """Return an empty text if NumPy's arrays come from the heap, else why not."""
    handler = sys.modules.get("freehold.face.numpy_handler")
    if _finder is not None:
        return NOT_IMPORTED
    if handler is None or not handler.is_active():
        return _problem or "not installed"
    return _problem


def _has_table(module: ModuleType) -> bool:
    """Return whether this is the C module itself; one of its two names is a redirection, in each version another."""
    return "_ARRAY_API" in module.__dict__


def _take(module: ModuleType, prepare: Callable[[], None]) -> None:
    """Take the handler and prove it; never raise."""
    global _problem
    if not _has_table(module):
        return
    disarm()
    try:
        from contextvars import Context

        from freehold.face import numpy_handler

        prepare()
        Context().run(numpy_handler.take, module)  # in an empty context the handler in force is the default one
        numpy_handler.activate(True)
        proved = numpy_handler.prove(module)
        _problem = "" if proved else "the handler is taken, but an array of a new thread did not come from the heap"
    except Exception as problem:
        _problem = f"{type(problem).__name__}: {problem}"
    if _problem:
        log("warning", f"NumPy: {_problem}")
