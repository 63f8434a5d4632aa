"""Takes Arrow's default memory pool as soon as pyarrow's C module is there, without importing pyarrow itself.

pyarrow's packages import one C module, `pyarrow.lib`, before anything else, and whoever uses Arrow from Python (pandas,
Parquet, datasets) comes through it. So a finder in `sys.meta_path` waits for that name alone; where pyarrow is never
imported, it costs a comparison per import. Buffers that were made while the module was loading go back where they came
from, as do all that are older.

Thread-safety: everything runs under the GIL, and what calls into pyarrow, which lets go of it, under a lock; taking
twice is harmless.
Does not: ever let pyarrow's import fail. What went wrong is kept as text, for `Installation`.
Imports next to nothing: it runs at the start of every process that follows `freehold run`.
"""

from __future__ import annotations

import sys
from _thread import RLock
from os import environ

from freehold.when_imported import Finder, imported, log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

__all__ = ["disarm", "is_armed", "pool_of", "status", "take"]

C_MODULE = "pyarrow.lib"
NOT_IMPORTED = "pyarrow is not imported yet; its pool is taken the moment it is"
STAYS = "pyarrow stays on its own pool"
NOT_ASKED = f"{STAYS} (arrow=False)"
DEBUGGED = "ARROW_DEBUG_MEMORY_POOL has that pool check its blocks, and would see none of them"
ANOTHER = "its default pool is taken, but this program has set another one (pyarrow.set_memory_pool)"

_problem = NOT_ASKED  # why the pool is not taken, when it was tried last
_finder: Finder | None = None
_lock = RLock()


def take(prepare: Callable[[], None], *, on: bool) -> None:
    """Take Arrow's default pool now if pyarrow is imported, else when it is.

    Args:
        prepare: called once before the first block is handed out.
        on: False: leave it alone instead, from now on.
    """
    global _finder
    if not on:
        disarm()
        return
    _wait_no_more()
    module = imported(C_MODULE)
    if module is not None:
        _take(module, prepare)
        return
    _finder = Finder((C_MODULE,), lambda module: _take(module, prepare))
    sys.meta_path.insert(0, _finder)
    # A thread in the middle of importing pyarrow may have looked for its C module just before the finder was there.
    module = sys.modules.get(C_MODULE) if imported("pyarrow") is not None else None
    if module is not None and _finder is not None:
        _take(module, prepare)


def disarm() -> None:
    """Have new blocks come from where they came before, also if pyarrow is imported later."""
    global _problem
    _wait_no_more()
    _problem = NOT_ASKED
    face = _face()
    if face is not None:
        face.activate(False)


def is_armed() -> bool:
    """Return whether the pool is taken, or will be when pyarrow is imported."""
    face = _face()
    return _finder is not None or (face is not None and face.is_active())


def status() -> str:
    """Return an empty text if what Arrow's default pool allocates comes from the heap, else why not."""
    return NOT_IMPORTED if _finder is not None else _problem


def pool_of(core: Any, name: str) -> Any:
    """Return the `pyarrow.MemoryPool` that allocates in a heap; the heap stays while somebody has that pool itself.

    Raises:
        ImportError: there is no pyarrow.
        RuntimeError: this pyarrow is not as freehold knows it; the text says in what.
    """
    from importlib import import_module
    from weakref import WeakKeyDictionary

    from freehold.face import arrow_pool

    global _cores
    import_module("pyarrow")
    with _lock:
        if _cores is None:
            _cores = WeakKeyDictionary()
        for pool, its in _cores.items():
            if its is core:
                return pool
        try:
            pool = arrow_pool.open_pool(sys.modules[C_MODULE], core, name)
        except RuntimeError as problem:
            raise RuntimeError(f"this pyarrow can not have a pool of a heap: {problem}") from None
        _cores[pool] = core
        return pool


_cores: Any = None  # pool: the core of its heap


def _face() -> ModuleType | None:
    return sys.modules.get("freehold.face.arrow_pool")


def _wait_no_more() -> None:
    global _finder
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    _finder = None


def _take(module: ModuleType, prepare: Callable[[], None]) -> None:
    """Take the pool, and prove it; never raise."""
    global _problem
    _wait_no_more()
    try:
        from freehold.face import arrow_pool

        if environ.get("ARROW_DEBUG_MEMORY_POOL", "") not in {"", "none"}:
            raise RuntimeError(DEBUGGED)  # noqa: TRY301 - told as all else that stands in the way
        prepare()
        with _lock:
            arrow_pool.take(module)
            arrow_pool.activate(True)
            _problem = "" if arrow_pool.prove(module) else ANOTHER
    except Exception as problem:
        _problem = f"{STAYS}: {problem}"
        log("info", f"Arrow: {_problem}")
