"""Takes Python's own allocators (the raw, mem and obj domains, or pymalloc's arenas) where that can be done safely.

What is done where something else is there already:

    tracemalloc is tracing       it is stopped and started again around us, with a warning: its traces are gone
    debug hooks, and we are late  left alone, with a warning
    debug hooks, at the start    they stay on top: we go beneath them
    somebody else's functions    left alone, with a warning: install first, profile second
    a build without the GIL      raw alone is taken: its collector needs Python's own heap for objects

Thread-safety: everything runs under the GIL; taking twice is harmless.
Does not: raise for what it finds. Why something was not taken is kept as text, for `Installation`.
Imports next to nothing: it runs at the start of every process that follows `freehold run`.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["disarm", "is_active", "status", "take"]

STAY = 'Python objects stay with Python\'s own allocator (objects="no")'
DEBUG = (
    "Python's debug hooks are on (PYTHONMALLOC=debug, or -X dev) and must be told of every block: "
    "under `freehold run` they stay on top"
)
NO_GIL = "not replaceable: in a free-threaded build the garbage collector needs Python's own heap; raw memory is taken"
ARENAS_ONLY = 'Python objects stay with pymalloc, and only its arenas are taken (objects="arena")'

RESTARTED = "tracemalloc was stopped and started again: what it had traced before is gone"

_problem = ""  # why what was asked for could not be taken, when it was tried last


def take(how: str, prepare: Callable[[], None], *, first: bool = False) -> list[str]:
    """Take what *how* says; what an earlier call took and this one does not name gets no new blocks.

    Args:
        how: ``"yes"``: the domains; ``"arena"``: pymalloc's arenas; ``"no"``: nothing.
        prepare: called once before the first block is handed out.
        first: nothing but the interpreter's start has run in this process.

    Returns:
        What the user is to be told, as sentences: nothing, where all went as asked.
    """
    global _problem
    _problem = ""
    remarks: list[str] = []
    if how == "no":
        disarm()
        return remarks
    try:
        from freehold.face import cpython_domains as face

        prepare()
        _problem = _take_arenas(face) if how == "arena" else _take_domains(face, remarks, first=first)
        face.activate(how == "yes" and not _problem)
        face.activate_arenas(how == "arena" and not _problem)
    except Exception as problem:
        _problem = f"{type(problem).__name__}: {problem}"
    if _problem:
        remarks.append(f"Python objects are not on its heap: {_problem}")
    return [] if first and remarks == [RESTARTED] else remarks  # what the interpreter's start traced is nobody's loss


def disarm() -> None:
    """Have new blocks come from where they came before; what has been taken stays taken."""
    face = _face()
    if face is not None:
        face.activate(False)
        face.activate_arenas(False)


def is_active() -> bool:
    """Return whether new blocks, of the domains or of arenas, come from the heap."""
    face = _face()
    return face is not None and (face.is_active() or face.arenas_are_active())


def status() -> tuple[tuple[str, ...], str]:
    """Return what is taken, and why Python's objects are not; an empty text if they are."""
    face = _face()
    if face is not None and face.is_active():
        return (("raw",), NO_GIL) if face.is_free_threaded() else (("objects",), "")
    if face is not None and face.arenas_are_active():
        return ("arenas",), ARENAS_ONLY
    return (), _problem or STAY


def _face() -> ModuleType | None:
    return sys.modules.get("freehold.face.cpython_domains")


# ---- what is there, and whether we may ----


def _take_domains(face: ModuleType, remarks: list[str], *, first: bool) -> str:
    """Take the domains; return why not. Some things are remarked on even if it works."""
    if face.is_taken():
        face.take()  # puts back what Python may have forgotten
        return ""

    def wrap() -> str:
        name, file = face.name(), face.foreign()
        if file:
            return _somebody_elses(file)
        if name.endswith("_debug"):
            if not first:
                return DEBUG
            face.take_beneath_debug()
            return ""
        if not name:
            return "Python does not know its own allocator any more"
        face.take()
        return ""

    return _without_tracing(wrap, remarks)


def _take_arenas(face: ModuleType) -> str:
    """Take the arenas; return why not."""
    if face.arenas_are_taken():
        return ""
    file = face.foreign_arenas()
    if file:
        return _somebody_elses(file)
    name = face.name() or _asked_for()  # where tracemalloc is tracing, Python does not know it by name
    if not name.startswith("pymalloc"):
        return f"there are no arenas: Python's allocator is {name}, not pymalloc"
    face.take_arenas()
    return ""


def _asked_for() -> str:
    """Return the allocator that the environment asks Python for."""
    import os

    asked = "" if sys.flags.ignore_environment else os.environ.get("PYTHONMALLOC", "")
    return "pymalloc" if asked in {"", "default", "debug"} else asked


def _somebody_elses(file: str) -> str:
    return f"{file} has put functions of its own there: install first, profile second"


def _without_tracing(wrap: Callable[[], str], remarks: list[str]) -> str:
    """Call *wrap* with tracemalloc off: when it stops it would put back what was there when it started."""
    import _tracemalloc

    if not _tracemalloc.is_tracing():
        return wrap()
    frames = _tracemalloc.get_traceback_limit()
    _tracemalloc.stop()
    try:
        return wrap()
    finally:
        _tracemalloc.start(frames)
        remarks.append(RESTARTED)
