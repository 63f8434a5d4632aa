"""Programs under the library: the C and C++ programs beside these tests, compiled once a session, and anybody's."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

import freehold.face.vm_face

LIBRARY = Path(freehold.face.vm_face.__file__).parents[1] / "libfreehold.so"
SOURCES = Path(__file__).parent / "programs"
OURS = ("LD_PRELOAD", "FREEHOLD")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
# No optimisation that knows what malloc does: what a program says is what is tested.
C = ["cc", "-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fno-builtin", "-pthread"]
CPP = ["c++", "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-sized-deallocation", "-fno-builtin"]


@cache
def folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="freehold-preload-")


@cache
def compiled(source: str, *options: str) -> str:
    """Compile a source with *options* and return the path of what came out; skip the test without a compiler."""
    command = CPP if source.endswith(".cpp") else C
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here")
    binary = Path(folder().name) / (Path(source).stem + "-".join(["", *options]).replace("/", "-"))
    subprocess.run([*command, SOURCES / source, "-o", binary, *options, "-ldl"], check=True, env=CLEAN)
    return str(binary)


def run(
    *command: object, before: str = "", preload: bool = True, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run a command under the library.

    Args:
        command: the program and its arguments.
        before: libraries to preload before it.
        preload: False: without the library, as ever.
        options: for `subprocess.run`; ``environment`` adds to a clean one.
    """
    environment = CLEAN | options.pop("environment", {})  # type: ignore[operator]
    libraries = [*filter(None, [before]), *([str(LIBRARY)] if preload else [])]
    if libraries:
        environment["LD_PRELOAD"] = ":".join(libraries)
    return subprocess.run(
        [str(word) for word in command],
        **{"env": environment, "capture_output": True, "text": True, "timeout": 200, "check": False} | options,
    )


def output_of(*command: object, **options: object) -> str:
    """Run a command under the library, which must end well and say nothing on stderr."""
    done = run(*command, **options)

    assert (0, "") == (done.returncode, done.stderr[:2000]), done.stdout
    return done.stdout
