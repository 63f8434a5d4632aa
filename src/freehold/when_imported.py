"""Has something called when a module is imported by somebody else, without importing it.

Thread-safety: everything runs under the GIL.
Invariants: an importer sees no trace: whoever put a `Finder` into `sys.meta_path` takes it out when it is called, and
the module keeps its own loader. A module that is never imported costs one comparison for each other that is.
Does not: ever let an import fail; what is called must see to that.
Imports next to nothing: it runs at the start of every process that follows `freehold run`.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

__all__ = ["Finder", "imported", "log"]


class Finder:
    """Finds some modules where everybody does, and has *then* called with each when it is loaded."""

    def __init__(self, names: tuple[str, ...], then: Callable[[ModuleType], None]) -> None:
        self.names = names
        self.then = then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in self.names:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, self.then)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """A module's own loader, and a call after it."""

    def __init__(self, own: Any, then: Callable[[ModuleType], None]) -> None:
        self.own = own
        self.then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self.own.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.own
        if module.__spec__ is not None:
            module.__spec__.loader = self.own
        self.own.exec_module(module)
        self.then(module)


def imported(name: str) -> ModuleType | None:
    """Return a module if it is imported; if another thread is in the middle of that, once it has done it."""
    module = sys.modules.get(name)
    if module is None:
        return None
    from time import monotonic, sleep

    # Importing it here would take import locks in another order than that thread does: it might then see half a module.
    deadline = monotonic() + 5
    while getattr(module.__spec__, "_initializing", False) and monotonic() < deadline:
        sleep(0.001)
    return sys.modules.get(name)


def log(level: str, text: str) -> None:
    """Tell Python's logging, as `freehold`; *level* is the name of a logger's method."""
    try:
        import logging

        getattr(logging.getLogger("freehold"), level)(text)
    except Exception:  # whoever imports a module is not to suffer from a log that can not be written
        return
