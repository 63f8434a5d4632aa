"""Programs with pyarrow in them, each run in a process of its own: in the tests' own, others would find its pool taken."""

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("pyarrow") is None:
    pytest.skip("there is no pyarrow", allow_module_level=True)
if platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
    pytest.skip("elsewhere pyarrow stays on its own pool", allow_module_level=True)

PROGRAMS = Path(__file__).parent / "programs"
PATH = os.pathsep.join(map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))))

# In a program: `owned(x)`, whether the buffers of arrays, columns or tables are on the heap: {True}, {False}, or both.
LOOK = """
import freehold
from freehold.face import process_heap
def buffers(x):
    if hasattr(x, "columns"): return [b for column in x.columns for b in buffers(column)]
    if hasattr(x, "chunks"): return [b for chunk in x.chunks for b in buffers(chunk)]
    return [b for b in x.buffers() if b is not None and b.size]
def bytes_of(buffer): return memoryview(buffer).cast("B")
def owned(x): return {process_heap.owns(b.address) for b in buffers(x)}
"""


def python(*arguments, **environment):
    """Run Python in a fresh process and return it, ended."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": PATH} | environment,
    )


def ended(done):
    return done.returncode, done.stdout, done.stderr


def well(code, *arguments, **environment):
    """Run a program that is to end with the word "well" and nothing else."""
    done = python("-c", LOOK + code + "\nprint('well')", *arguments, **environment)

    assert "" == done.stderr
    assert (0, "well\n") == (done.returncode, done.stdout)
