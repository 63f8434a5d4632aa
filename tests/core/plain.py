"""Core modules run uncompiled, for tests of their arithmetic: the file itself, with stand-ins for what it cimports."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CORE = Path(__file__).parents[2] / "src" / "freehold" / "core"


@contextmanager
def uncompiled(name: str, stand_ins: Mapping[str, Mapping[str, Any]], **types_of_c: type) -> Iterator[Any]:
    """Run core/NAME.py; yield it as a module. *stand_ins* are by core module, then by name; the rest is of stdint."""
    modules: dict[str, Any] = {
        f"cython.cimports.freehold.core.{module}": types.SimpleNamespace(**names) for module, names in stand_ins.items()
    }
    modules |= {
        f"cython.cimports{part}": types.ModuleType("package") for part in ("", ".freehold", ".freehold.core", ".libc")
    }
    modules["cython.cimports.libc.stdint"] = types.SimpleNamespace(**types_of_c)
    saved = {module: sys.modules.get(module) for module in modules}
    sys.modules.update(modules)
    try:
        spec = importlib.util.spec_from_file_location(f"plain_{name}", CORE / f"{name}.py")
        assert spec is not None and spec.loader is not None
        plain = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(plain)
        yield plain
    finally:
        for module, old in saved.items():
            if old is None:
                del sys.modules[module]
            else:
                sys.modules[module] = old
