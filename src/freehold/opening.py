"""With which settings the heap is opened: they can be chosen until it is, and are fixed from then on.

Thread-safety: everything runs under the GIL; opening twice is harmless.
Imports next to nothing: it runs at the start of every process that follows `freehold run`.
"""

from __future__ import annotations

import os

from freehold import config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["choose", "is_open", "is_preloaded", "open_heap", "setting", "when_open"]

OF_THE_HEAP = ("decay", "huge_pages", "on_error", "publish")
# Where one of these is set, somebody has decided how glibc keeps what is free; it stays so.
SAYS_HOW_LIBC_KEEPS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")

_chosen: dict[str, config.Setting] | None = None
_is_open = False
_waiting: list[Callable[[], None]] = []  # to be called when it is


def choose(settings: dict[str, config.Setting]) -> None:
    """Open the heap with *settings* when it is opened.

    Raises:
        ValueError: it is open, and a call asks for something else than it was opened with.
    """
    global _chosen, _is_open
    if not _is_open and any(setting.source == "call" for setting in settings.values()) and is_preloaded():
        _chosen, _is_open = _at_start(), True
    if _chosen is None or not _is_open:
        _chosen = settings
        return
    for name in OF_THE_HEAP:
        asked, fixed = settings[name], _chosen[name]
        if asked.source == "call" and asked.value != fixed.value:
            raise ValueError(f"{name}={asked.given!r}: the heap is open already, with {name}={fixed.given!r}")


def open_heap() -> None:
    """Open the heap, if it is not open yet.

    Raises:
        OSError: the operating system refuses it its addresses.
    """
    global _chosen, _is_open
    if _is_open:
        return
    if is_preloaded():
        _chosen, _is_open = _at_start(), True
        _opened()
        return
    from freehold.face import process_heap

    if _chosen is None:
        _chosen = config.resolve()
    os.putenv("FREEHOLD_ON_ERROR", _chosen["on_error"].value)  # the core reads it from there, and the next one too
    os.putenv("FREEHOLD_PUBLISH", "yes" if _chosen["publish"].value else "no")
    process_heap.configure(_chosen["decay"].value, _chosen["huge_pages"].value != "never")
    process_heap.open()
    if not any(name in os.environ for name in SAYS_HOW_LIBC_KEEPS):
        process_heap.have_libc_give_back(1 << 20)
    _is_open = True
    _opened()


def when_open(begin: Callable[[], None]) -> None:
    """Call *begin* when the heap is opened; at once, if it is open."""
    if _is_open:
        begin()
    else:
        _waiting.append(begin)


def _opened() -> None:
    """Have a heap profile, should anybody ask for one, say which lines blocks come from; call who waits."""
    try:
        from freehold.face import python_frames

        python_frames.install_hooks()
    except (RuntimeError, ImportError):  # this is not the main interpreter, or one whose frames are not known
        pass
    while _waiting:
        _waiting.pop()()


def is_open() -> bool:
    """Return whether the heap is open; what asks does not open it."""
    return _is_open or is_preloaded()


def setting(name: str) -> Any:
    """Return what an option of the open heap was set to."""
    if _chosen is None:
        open_heap()
    assert _chosen is not None
    return _chosen[name].value


def is_preloaded() -> bool:
    """Return whether this process's malloc is the heap: then the library opened it before Python began."""
    if "libfreehold.so" not in os.environ.get("LD_PRELOAD", ""):
        return False
    from freehold.face import process_heap

    return process_heap.serves_malloc()


def _at_start() -> dict[str, config.Setting]:
    """Return the settings as the library read them: from the environment that the process began with."""
    with open("/proc/self/environ", "rb") as file:
        pairs = (os.fsdecode(entry).partition("=") for entry in file.read().split(b"\0") if entry)
    return config.resolve(environ={name: value for name, _, value in pairs}, folder="", say=lambda _: None)
