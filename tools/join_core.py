"""Join the core's modules into one, and write its headers anew as externs for the faces.

The core is a stack of ``x.py`` + ``x.pxd`` pairs. Compiled one by one they would call each other through pointers;
joined, they are one translation unit that the C compiler inlines across, and one shared library without Python in it.

    join_core.py CORE_DIR OUT_DIR MODULE…    write freehold_core.{py,pxd,api,lines}, freehold/core/*.pxd and exports.map
    join_core.py --cythonize CYTHON OUT_DIR  write freehold_core.{c,h}, the #line marks naming the modules again

Every function that a header declares gets the C name ``fh_<name>`` and is exported, and so is each other name that
``FH_ALSO(name, function)`` gives one; everything else stays inside.
A file whose text would not change is left alone, so that what depends on it is not built again: an edited body costs
the library, an edited signature the faces as well (``freehold_core.api`` holds all that they see).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# A function's declaration: `cdef <type> name(`, not inline (those have their body in the header).
FUNCTION = re.compile(r"^cdef (?!inline|extern|enum|struct|union|public)(.*?[ *])(\w+)(\(.*)$")
ALIAS = re.compile(r"^ *FH_ALSO\((\w+), ", re.MULTILINE)
INTERNAL_IMPORT = re.compile(r"^from (?:cython\.cimports\.)?freehold\.core\.\w+ c?import ")


def logical_lines(text: str) -> list[str]:
    """Return the lines of `text`, those inside brackets joined to the line that opens them by newlines."""
    lines: list[str] = []
    depth = 0
    for line in text.splitlines():
        code = line.split("#")[0]
        if depth:
            lines[-1] += "\n" + line
        else:
            lines.append(line)
        depth += sum(code.count(c) for c in "([") - sum(code.count(c) for c in ")]")
    return lines


def public(line: str) -> str:
    """Return the declaration with its C name, exported."""
    line = re.sub(r"^cdef (packed )?(struct|union) ", r"cdef public \1\2 ", line)
    line = re.sub(r"^ctypedef ", "ctypedef public ", line)
    line = re.sub(r"^cdef enum", "cdef public enum", line)
    return FUNCTION.sub(r'cdef public \1\2 "fh_\2"\3', line)


def join_bodies(core: Path, modules: list[str]) -> tuple[str, list[tuple[int, str]]]:
    """Return the joined body, and at which line each module begins."""
    out = ["# cython: language_level=3, cdivision=True", "import cython"]
    marks: list[tuple[int, str]] = []
    for name in modules:
        path = core / f"{name}.py"
        if not path.exists():
            continue
        marks.append((len(out), str(path)))
        for line in logical_lines(path.read_text()):
            blank = INTERNAL_IMPORT.match(line) or line == "import cython"
            out += ["" for _ in line.split("\n")] if blank else line.split("\n")
    return "\n".join(out) + "\n", marks


def join_headers(core: Path, modules: list[str]) -> tuple[str, list[tuple[int, str]]]:
    """Return one header that declares everything, in layer order, and at which line each module's begins."""
    out: list[str] = []
    marks: list[tuple[int, str]] = []
    for name in modules:
        path = core / f"{name}.pxd"
        marks.append((len(out), str(path)))
        told, inside = split_header(path.read_text())
        for line in logical_lines(told):
            out += ["" if INTERNAL_IMPORT.match(line) else part for part in public(line).split("\n")]
        out += inside.splitlines()
    return "\n".join(out) + "\n", marks


def extern_header(text: str) -> str:
    """Return a core header as the faces see it: the same names, found in the library."""
    out: list[str] = []
    block: str | None = None  # what the indented lines that follow belong to
    for line in logical_lines(text):
        if line[:1] in (" ", "\t") or not line.strip():
            if block == "extern":
                out += ["    " + part if part.strip() else part for part in line.split("\n")]
            elif block == "keep":
                out.append(line)
            continue
        if line.startswith("#"):
            continue
        if line.startswith(("from ", "cimport ", "cdef enum", "cdef inline")):
            out.append(line)
            block = "keep"
        elif line.startswith("cdef extern"):
            block = "drop"
        else:
            declaration = re.sub(r"^cdef ", "", FUNCTION.sub(r'\1\2 "fh_\2"\3', line))
            out.append('cdef extern from "freehold_core.h":')
            out += ["    " + part for part in declaration.split("\n")]
            block = "extern"
    return "\n".join(out) + "\n"


def exported(text: str) -> list[str]:
    return [m.group(2) for line in logical_lines(text) if (m := FUNCTION.match(line))]


def split_header(text: str) -> tuple[str, str]:
    """Return what a header tells everyone, and what follows its line `# inside <module>`, for the module alone."""
    told, _, inside = text.partition("\n# inside ")
    return told + "\n", "# " + inside if inside else ""


def write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def with_module_lines(text: str, marks: dict[str, list[tuple[int, str]]]) -> str:
    """Return C text whose #line marks name the modules instead of the joined files."""

    def original(match: re.Match[str]) -> str:
        number = int(match.group(1))
        for start, path in reversed(marks[match.group(2)]):
            if number > start:
                return f'#line {number - start} "{path}"'
        return match.group(0)

    return re.sub(r'#line (\d+) "[^"]*(freehold_core\.(?:py|pxd))"', original, text)


def without_places(text: str) -> str:
    """Return a C header without its #line marks and quotations, which move with every line above them."""
    text = re.sub(r'^/\* "freehold_core\.pxd":.*?\*/\n', "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r'\n*^#line \d+ "[^"]*"$', "", text, flags=re.MULTILINE)


def cythonize(cython: str, out: Path) -> None:
    marks = json.loads((out / "freehold_core.lines").read_text())
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        c_file = Path(scratch) / "freehold_core.c"
        options = ["-3", "--line-directives", "-Xcdivision=True", "--module-name", "freehold_core"]
        subprocess.run([cython, *options, str(out / "freehold_core.py"), "-o", str(c_file)], check=True)
        write_if_changed(out / "freehold_core.c", with_module_lines(c_file.read_text(), marks))
        write_if_changed(out / "freehold_core.h", without_places(c_file.with_suffix(".h").read_text()))


def join(core: Path, out: Path, modules: list[str]) -> None:
    api = out / "freehold" / "core"
    api.mkdir(parents=True, exist_ok=True)
    for package in (out / "freehold", api):
        write_if_changed(package / "__init__.pxd", "")
    body, body_marks = join_bodies(core, modules)
    header, header_marks = join_headers(core, modules)
    write_if_changed(out / "freehold_core.py", body)
    write_if_changed(out / "freehold_core.pxd", header)
    marks = {"freehold_core.py": body_marks, "freehold_core.pxd": header_marks}
    write_if_changed(out / "freehold_core.lines", json.dumps(marks))
    headers: list[str] = []
    names: list[str] = []
    for name in modules:
        text, inside = split_header((core / f"{name}.pxd").read_text())
        headers.append(extern_header(text))
        write_if_changed(api / f"{name}.pxd", headers[-1])
        names += [f"fh_{function}" for function in exported(text)] + ALIAS.findall(inside)
    write_if_changed(out / "freehold_core.api", "".join(headers))
    exports = "".join(f"    {name};\n" for name in names)
    write_if_changed(out / "exports.map", "{\n  global:\n" + exports + "  local: *;\n};\n")


def main(argv: list[str]) -> None:
    if argv[0] == "--cythonize":
        cythonize(argv[1], Path(argv[2]))
    else:
        join(Path(argv[0]), Path(argv[1]), argv[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
