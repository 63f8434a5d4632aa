"""The core's layers: a module imports only from those below it."""

from __future__ import annotations

import re
from pathlib import Path

CORE = Path(__file__).parents[2] / "src" / "freehold" / "core"
IMPORT = re.compile(r"^from (?:cython\.cimports\.)?freehold\.core\.(\w+) c?import", re.MULTILINE)


def layers() -> list[str]:
    """Return the modules bottom to top, as the build joins them."""
    text = (CORE.parent / "meson.build").read_text()
    listed = re.search(r"^core_modules = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
    assert listed is not None
    return re.findall(r"'(\w+)'", listed.group(1))


def upward_imports(order: list[str], folder: Path) -> list[str]:
    """Return every import of a module from one that does not stand below it."""
    found = []
    for i, name in enumerate(order):
        for path in (folder / f"{name}.py", folder / f"{name}.pxd"):
            below = {*order[:i], name} if path.suffix == ".py" else set(order[:i])
            imported = IMPORT.findall(path.read_text()) if path.exists() else []
            found += [f"{path.name} imports {other}" for other in imported if other not in below]
    return found


def test_core_modules_import_only_what_lies_below() -> None:
    """No cimport of the core points upward."""
    assert [] == upward_imports(layers(), CORE)


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    """The check above sees an upward import, in a body and in a header."""
    (tmp_path / "low.py").write_text("import cython\nfrom cython.cimports.freehold.core.high import (\n    up,\n)\n")
    (tmp_path / "low.pxd").write_text("from freehold.core.high cimport up\n")
    (tmp_path / "high.py").write_text("from cython.cimports.freehold.core.high import up\n")

    assert ["low.py imports high", "low.pxd imports high"] == upward_imports(["low", "high"], tmp_path)


def test_every_core_file_is_built() -> None:
    """The build's list names every module of the folder, and nothing else."""
    assert set(layers()) == {path.stem for path in CORE.glob("*.p*") if path.suffix in (".py", ".pxd")}


def test_the_readme_tells_the_layers_in_order() -> None:
    """The README's table has the modules of the build, bottom to top."""
    told = re.findall(r"^\| `(\w+)` \|", (CORE / "README.md").read_text(), re.MULTILINE)

    assert layers() == [name for name in told if name in layers()]
