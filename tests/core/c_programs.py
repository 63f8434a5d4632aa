"""The C programs beside the core's tests: compiled once a session against the library tested, sanitized as it is."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

import freehold.face.vm_face

LIBRARY = Path(freehold.face.vm_face.__file__).parents[1] / "libfreehold.so"
SOURCES = Path(__file__).parent / "programs"
CLEAN = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # a sanitizer is for Python alone


@cache
def folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="freehold-programs-")


@cache
def sanitizer() -> list[str]:
    """Return the compiler's option for the sanitizer that the library was built with."""
    needed = subprocess.run(["ldd", LIBRARY], env=CLEAN, capture_output=True, text=True, check=True).stdout
    return [f"-fsanitize={kind}" for name, kind in (("tsan", "thread"), ("asan", "address")) if f"lib{name}" in needed]


@cache
def python() -> list[str]:
    """Return how to link Python: AddressSanitizer keeps code of the library that nothing calls, and that refers to it."""
    if "-fsanitize=address" not in sanitizer():
        return []
    folder, version = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDVERSION")
    return [f"-L{folder}", f"-lpython{version}", f"-Wl,-rpath,{folder}"]


@cache
def program(name: str) -> Path:
    """Compile a program and return its path."""
    binary = Path(folder().name) / name
    subprocess.run(
        ["gcc", "-O2", "-g", "-Wall", "-Wextra", "-Werror", *sanitizer(), SOURCES / f"{name}.c", "-o", binary,
         f"-L{LIBRARY.parent}", "-lc", "-lfreehold", f"-Wl,-rpath,{LIBRARY.parent}", *python(), "-lpthread"],
        env=CLEAN,
        check=True,
    )  # fmt: skip
    return binary


@cache
def preloaded(name: str) -> Path:
    """Compile a program as a library to be preloaded, and return its path."""
    library = Path(folder().name) / f"{name}.so"
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", SOURCES / f"{name}.c", "-o", library, "-ldl"],
        env=CLEAN,
        check=True,
    )
    return library


def figures(name: str, *arguments: object, **environment: str) -> dict[str, int]:
    """Run a program, which must end well and say nothing on stderr; return the figures that it prints."""
    done = subprocess.run(
        [program(name), *map(str, arguments)],
        env={**CLEAN, "TSAN_OPTIONS": "halt_on_error=1 die_after_fork=0", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    sys.stderr.write(done.stderr)

    assert (0, "") == (done.returncode, done.stderr[:2000]), done.stdout
    return {key: int(value) for key, value in (pair.split("=") for pair in done.stdout.split())}
