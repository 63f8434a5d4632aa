"""freehold: a memory allocator for Python's data.

>>> import freehold
>>> installation = freehold.install()  # NumPy's arrays, of every thread: from now on in the freehold heap
>>> freehold.stats().current_bytes

Thread-safety: everything here may be called from any thread.
Does not import anything before it is used: `import freehold` takes a millisecond and needs no NumPy.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as in `typing`, which would take longer to import than all this
if TYPE_CHECKING:
    from typing import Any

    from freehold.counting import Counting, Statistics
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
    from freehold.face.block import Block
    from freehold.heap import Heap
    from freehold.heap_stats import HeapStats
    from freehold.install import Installation, install, uninstall
    from freehold.logs import start_logging, stop_logging
    from freehold.profilers import ProfilerRecord, ProfilerRecords, profiler, profiler_records
    from freehold.profiles import Profile
    from freehold.profiling import Profiling, profile
    from freehold.snapshots import Change, Snapshot, snapshot
    from freehold.stats import Stats, purge, statistics, stats

__all__ = [
    "BadFree",
    "Block",
    "BlocksLive",
    "Change",
    "Counting",
    "Disabled",
    "FreeholdError",
    "Heap",
    "HeapStats",
    "Inconsistent",
    "Installation",
    "InvalidSizeClass",
    "LimitError",
    "NotMergeable",
    "OSRefused",
    "OutOfBounds",
    "OutOfMemory",
    "Profile",
    "ProfilerRecord",
    "ProfilerRecords",
    "Profiling",
    "Snapshot",
    "Statistics",
    "Stats",
    "UnsuitableAlignment",
    "install",
    "profile",
    "profiler",
    "profiler_records",
    "purge",
    "snapshot",
    "start_logging",
    "statistics",
    "stats",
    "stop_logging",
    "uninstall",
]

_ELSEWHERE = {
    "Block": "face.block",
    "Change": "snapshots",
    "Counting": "counting",
    "Heap": "heap",
    "HeapStats": "heap_stats",
    "Installation": "install",
    "Profile": "profiles",
    "ProfilerRecord": "profilers",
    "ProfilerRecords": "profilers",
    "Profiling": "profiling",
    "Snapshot": "snapshots",
    "Statistics": "counting",
    "Stats": "stats",
    "install": "install",
    "profile": "profiling",
    "profiler": "profilers",
    "profiler_records": "profilers",
    "purge": "stats",
    "snapshot": "snapshots",
    "start_logging": "logs",
    "statistics": "stats",
    "stats": "stats",
    "stop_logging": "logs",
    "uninstall": "install",
}  # the module of each public name; of all others it is errors


class _Package(type(sys)):  # type: ignore[misc]
    """This package: `import freehold.stats` must not hide the function `freehold.stats` behind the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, type(sys))):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("freehold")
        except PackageNotFoundError:  # run from a build folder
            return "0+unknown"
    if name not in __all__:
        raise AttributeError(f"module 'freehold' has no attribute {name!r}")
    # Not by importlib: while another thread imports that for the first time, its parts may be found half made.
    value = getattr(__import__("freehold." + _ELSEWHERE.get(name, "errors"), fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
