"""`freehold run --preload`: C's memory and Python's in one heap; children that are not Python are unharmed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from preloaded import CLEAN, LIBRARY, compiled

PATHS = [os.path.abspath(path) for path in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
RUN = [sys.executable, "-m", "freehold", "run", "--preload"]


def freehold_run(code: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *options, "-c", code],
        env=CLEAN | {"PYTHONPATH": os.pathsep.join(PATHS)} | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def says(code: str, *options: str, **environment: str) -> str:
    done = freehold_run(code, *options, **environment)

    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


LIBC = """
import ctypes
libc = ctypes.CDLL(None)
for name in ("malloc", "calloc", "realloc", "aligned_alloc", "strdup"):
    getattr(libc, name).restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
"""


def test_one_heap_for_c_and_for_arrays() -> None:
    """One library, one owner table, one set of statistics: what malloc hands out counts where arrays do."""
    assert "True True True True True\n" == says(
        LIBC
        + """
import numpy as np, freehold
from freehold.face import process_heap
import freehold.face.vm_face, freehold.face.numpy_handler
array = np.empty(1000)
before = freehold.stats()
blocks = [libc.malloc(100_000) for _ in range(100)]
after = freehold.stats()
loads = {line.split()[-1] for line in open('/proc/self/maps') if 'libfreehold' in line}
print(process_heap.serves_malloc(), all(map(process_heap.owns, [*blocks, array.ctypes.data])),
      100 <= after.current_count - before.current_count < 110, after.current_bytes - before.current_bytes >= 10_000_000,
      len(loads) == 1)
"""
    )


def test_one_reclaim_thread_gives_back_what_c_freed_and_what_arrays_were() -> None:
    """After both were freed and two seconds have passed, both are with the system again."""
    thread, peak, after = map(
        int,
        says(
            LIBC
            + """
import time, numpy as np, freehold
def resident():
    return int(next(line for line in open('/proc/self/smaps_rollup') if line.startswith('Rss')).split()[1]) << 10
base = resident()
blocks = [libc.malloc(5000) for _ in range(10_000)]
for p in blocks: ctypes.memset(p, 1, 5000)
arrays = [np.ones(1000) for _ in range(10_000)]
peak = resident() - base
for p in blocks: libc.free(p)
del blocks, arrays
time.sleep(2)
import os
names = [open(f'/proc/self/task/{t}/comm').read() for t in os.listdir('/proc/self/task')]
print(names.count('freehold\\n'), peak, resident() - base)
"""
        ).split(),
    )

    assert 1 == thread
    assert peak > 120_000_000
    assert after < 0.03 * peak + (8 << 20)


def test_F39_blocks_change_hands_between_malloc_and_numpys_handler() -> None:
    """Arrays from before install, during and after uninstall, resized and freed in each state; nothing is owned twice."""
    assert "0 True\n" == says(
        """
import os
os.environ['FREEHOLD'] = '0'
import numpy as np, freehold
from freehold.face import process_heap, numpy_handler
def churn(arrays):
    for k, a in enumerate(arrays):
        a.resize(len(a) * 3 + 1, refcheck=False)
        if k % 3 == 0: a.resize(1, refcheck=False)
    return all(process_heap.owns(a.ctypes.data) for a in arrays)
sizes = [1, 10, 100, 1000, 20_000, 100_000, 1_000_000]
good, kept = True, []
for state in range(8):
    made = [np.ones(n) for n in sizes for _ in range(5)]
    (freehold.install if state % 2 == 0 else freehold.uninstall)()
    good &= churn(made[::2]) and churn(kept)
    kept = made[1::2]
    del made
del kept
freehold.uninstall()
good &= freehold.face.process_heap.read_stats()['bad_frees'] == 0
print(freehold.face.process_heap.read_stats()['bad_frees'], good)
""",
        FREEHOLD_ON_ERROR="report",
    )


def test_the_installation_says_that_libc_is_taken() -> None:
    """And what the heap was opened with stands: a call that asks for something else is refused, by name."""
    assert "('numpy', 'libc') decay=5: the heap is open already, with decay='9s'\n" == says(
        """
import numpy, freehold
try:
    freehold.install(decay=5)
except ValueError as problem:
    print(freehold.install(decay="9s").taken, problem)
""",
        "--decay",
        "9s",
    )


def test_settings_reach_the_library() -> None:
    """What the command line says is what the heap does, before Python is there; nobody warns twice."""
    code = """
import ctypes, time
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
blocks = [ctypes.c_void_p(libc.malloc(5000)) for _ in range(5000)]
for p in blocks: ctypes.memset(p, 1, 5000)
for p in blocks: libc.free(p)
time.sleep(1.5)
print(int(next(line for line in open('/proc/self/smaps_rollup') if line.startswith('Rss')).split()[1]) > 25_000)
"""

    assert "True\n" == says(code, "--decay", "never")
    assert "False\n" == says(code, "--decay", "100ms")
    wrong = freehold_run("import numpy, subprocess; subprocess.run(['true'])", FREEHOLD_DECY="1s")
    assert (0, 1) == (wrong.returncode, wrong.stderr.count("did you mean"))


def test_it_goes_behind_what_is_preloaded() -> None:
    """LD_PRELOAD keeps what it held, and the library comes last, once."""
    other = compiled("early.c", "-shared", "-fPIC")
    code = "import os, subprocess, sys; print(os.environ['LD_PRELOAD'], flush=True)\nif len(sys.argv) == 1: subprocess.run([sys.executable, '-m', 'freehold', 'run', '--preload', '-c', code, 'again'])"
    code = f"code = {code!r}\nexec(code)"
    said = says(code, LD_PRELOAD=other).split()

    assert [f"{other}:{LIBRARY}"] * 2 == said


@pytest.mark.parametrize(
    "command",
    [["ls", "/"], ["sh", "-c", "echo $((6*7)) | cat"], ["git", "--version"], ["env", "-i", "/bin/echo", "x"], ["true"]],
)
def test_F24_children_that_are_not_python_are_unharmed(command: list[str]) -> None:
    """They run under the library, say what they always say, and find nothing open that is ours."""
    code = f"import subprocess; subprocess.run({command!r}, check=True)"
    plain = subprocess.run(command, capture_output=True, text=True, check=True, env=CLEAN)

    assert plain.stdout == says(code)
    assert "0\n1\n2\n" == says("import subprocess; subprocess.run('ls /proc/$$/fd', shell=True)").replace("10\n", "")


@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver", "subprocess", "os.fork"])
def test_python_children_follow(way: str) -> None:
    """Their arrays come from the heap, which is their malloc too."""
    program = Path(__file__).parents[1] / "programs" / "children.py"
    done = subprocess.run(
        [*RUN, program, way],
        env=CLEAN | {"PYTHONPATH": os.pathsep.join(PATHS)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert (0, "True\n", "") == (done.returncode, done.stdout, done.stderr)


def test_F32_an_interpreter_ends_with_blocks_live_and_threads_running() -> None:
    """Arrays in modules, cycles, daemon threads: exit code 0 and no word."""
    assert "" == says(
        """
import threading, numpy as np, sys
sys.kept = [np.ones(100) for _ in range(100)]
class Cycle:
    def __init__(self): self.me, self.array = self, np.ones(10_000)
    def __del__(self): np.ones(10)
cycles = [Cycle() for _ in range(10)]
def forever():
    while True: np.ones(1000).tolist()
for _ in range(3): threading.Thread(target=forever, daemon=True).start()
"""
    )


def test_F13_python_recovers_from_each_memory_error() -> None:
    """CPython's own injection: an allocation that fails at any point leaves no bad free and no crash behind."""
    pytest.importorskip("_testcapi")
    assert "0\n" == says(
        """
import _testcapi, numpy as np
from freehold.face import process_heap
def work():
    return [np.ones(5).tolist(), {str(i): [i] for i in range(5)}, np.arange(3) + 1.5]
work()
for k in range(300):
    _testcapi.set_nomemory(k, k + 1)
    try:
        work()
    except MemoryError:
        pass
    finally:
        _testcapi.remove_mem_hooks()
print(process_heap.read_stats()['bad_frees'])
"""
    )
