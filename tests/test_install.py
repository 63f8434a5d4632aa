"""`install()` and `uninstall()`: NumPy's arrays, in every thread and every state."""

import importlib
import os
import pickle
import pkgutil
import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import numpy as np
import pytest

import freehold
from freehold import install as install_function
from freehold import numpy_import
from freehold.face import numpy_handler, process_heap

PROGRAMS = Path(__file__).parent / "programs"


def python(*arguments, **environment):
    """Run Python in a fresh process and return it, ended."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


def owned(array):
    return process_heap.owns(array.__array_interface__["data"][0])


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def installed():
    yield freehold.install()
    freehold.uninstall()


# ---- importing ----


def test_importing_freehold_needs_no_numpy_and_imports_next_to_nothing():
    """`import freehold` imports neither NumPy nor any other module, and takes less than 10 ms."""
    code = "import sys; before = set(sys.modules); import freehold; print(*sorted(set(sys.modules) - before))"

    assert "__future__ freehold\n" == python("-c", code).stdout
    times = [python("-X", "importtime", "-c", "import freehold").stderr.splitlines()[-1] for _ in range(3)]
    assert min(int(line.split("|")[1]) for line in times) < 10_000


def test_functions_are_not_hidden_by_modules_of_the_same_name():
    """`import freehold.stats` leaves `freehold.stats` the function."""
    code = "import freehold.stats, freehold.install; print(callable(freehold.stats), callable(freehold.install))"

    assert "True True\n" == python("-c", code).stdout


def test_public_names_all_exist():
    """Each name of `__all__` can be had, and `dir()` knows it."""
    assert set(freehold.__all__) <= set(dir(freehold))
    for name in freehold.__all__:
        assert name == getattr(freehold, name).__name__


# ---- what install takes ----


def test_takes_numpy_and_says_so(installed):
    """The answer lists what is taken, and for all else the reason."""
    assert {"numpy"} == set(installed.taken) - {"arrow"}  # another test may have imported pyarrow
    assert {"objects", "arrow", "libc"} == set(installed.not_taken) | set(installed.taken) - {"numpy"}
    assert "numpy: on the freehold heap" in str(installed)
    assert owned(np.empty(10))


def test_is_idempotent(installed):
    """Installing again changes nothing but gives the same answer."""
    assert installed == freehold.install() == freehold.install()
    assert numpy_handler.is_active()


def test_refuses_other_settings_once_the_heap_is_open(installed):
    """The heap's settings are fixed when it is opened; asking for others is an error that names both."""
    with pytest.raises(ValueError, match=r"decay='77s'.* with decay='1s'"):
        freehold.install(decay="77s")
    with pytest.raises(ValueError, match="decay='soon' is not a duration"):
        freehold.install(decay="soon")


@pytest.mark.parametrize(("decay", "given_back"), [("100ms", True), (0, True), ("never", False)])
def test_decay_is_applied(decay, given_back):
    """Idle memory is given back after the decay time, without a further call; with "never" it is kept."""
    code = f"""
import time, freehold, numpy as np
freehold.install(decay={decay!r})
arrays = [np.ones(1000) for _ in range(20_000)]
del arrays
end = time.monotonic() + 3
while time.monotonic() < end and freehold.stats().purged_bytes < 100 << 20:
    time.sleep(0.05)
print(freehold.stats().purged_bytes >= 100 << 20)
"""
    assert f"{given_back}\n" == python("-c", code).stdout


def test_uninstall_without_install_does_nothing():
    """`uninstall()` alone imports nothing and raises nothing."""
    done = python("-c", "import freehold, sys; freehold.uninstall(); print('numpy' in sys.modules)")

    assert ("False\n", "", 0) == (done.stdout, done.stderr, done.returncode)


def test_waits_for_numpy_without_importing_it():
    """Installed before NumPy is imported, NumPy is taken when it is, and no trace of the waiting is left."""
    code = """
import sys, freehold
finders = list(sys.meta_path)
first = freehold.install(arrow=False)
assert first.taken == () and "not imported yet" in first.not_taken["numpy"] and "numpy" not in sys.modules
import numpy as np
from freehold.face import process_heap
assert process_heap.owns(np.ones(10).__array_interface__["data"][0])
assert sys.meta_path == finders
umath = sys.modules["numpy._core._multiarray_umath" if np.__version__[0] != "1" else "numpy.core._multiarray_umath"]
assert "freehold" not in repr(umath.__loader__) + repr(umath.__spec__)
assert freehold.install(arrow=False).taken == ("numpy",)
"""
    done = python("-c", code)

    assert ("", 0) == (done.stderr, done.returncode)


def test_uninstalled_before_numpy_is_imported_leaves_numpy_alone():
    """A wait that was called off takes nothing."""
    code = """
import freehold; freehold.install(); freehold.uninstall()
import numpy, sys
print("freehold.face.numpy_handler" in sys.modules, freehold.install().taken)
"""
    assert "False ('numpy',)\n" == python("-c", code).stdout


def test_leaves_a_handler_set_by_somebody_else_alone():
    """A handler set in a context (NEP 49) is not the default one, and is not touched: taken is the default one."""
    code = """
import ctypes, freehold, numpy as np
umath = np._core._multiarray_umath if hasattr(np, "_core") else np.core._multiarray_umath
pointer = ctypes.pythonapi.PyCapsule_GetPointer
pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
table = ctypes.cast(pointer(umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
get = ctypes.PYFUNCTYPE(ctypes.py_object)(table[305])
set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[304])
theirs = ctypes.create_string_buffer(ctypes.string_at(pointer(get(), b"mem_handler"), 176), 176)
theirs[0:7] = b"foreign"
new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
set_handler(new(ctypes.addressof(theirs), b"mem_handler", None))
before = theirs.raw
assert freehold.install().taken == ("numpy",)
from freehold.face import process_heap
assert theirs.raw == before
assert not process_heap.owns(np.ones(10).__array_interface__["data"][0])
"""
    done = python("-c", code)

    assert ("", 0) == (done.stderr, done.returncode)


@pytest.mark.parametrize(
    ("field", "value", "said"), [(127, b"\\x02", "version 2, not 1"), (0, b"default_allocato_", "not NumPy's own")]
)
def test_refuses_a_handler_it_does_not_know(field, value, said):
    """A default handler of another version or name is left as it is; the answer says why."""
    code = f"""
import ctypes, freehold, numpy as np
umath = np._core._multiarray_umath if hasattr(np, "_core") else np.core._multiarray_umath
pointer = ctypes.pythonapi.PyCapsule_GetPointer
pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
table = ctypes.cast(pointer(umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
handler = pointer(ctypes.PYFUNCTYPE(ctypes.py_object)(table[305])(), b"mem_handler")
ctypes.memmove(handler + {field}, {value!r}, {len(value)})
print(freehold.install().not_taken["numpy"])
from freehold.face import numpy_handler
print(numpy_handler.is_taken())
"""
    code = code.replace("\\\\", "\\")
    done = python("-c", code)

    assert said in done.stdout
    assert done.stdout.endswith("False\n")


# ---- threads, contexts, life and death ----


def test_F27_taken_on_a_thread_that_ends_at_once():
    """NumPy imported and taken on a short-lived thread serves every later one."""
    done = python(PROGRAMS / "short_thread.py")

    assert ("True\n", "", 0) == (done.stdout, done.stderr, done.returncode)


def test_F31_ends_quietly_with_arrays_alive():
    """Fifty programs end with live arrays and allocating daemon threads: exit code 0, and not a word."""
    for _ in range(50):
        done = python("-m", "freehold", "run", PROGRAMS / "ends_with_arrays.py")

        assert ("", "", 0) == (done.stdout, done.stderr, done.returncode)


def test_F35_a_thousand_installs_and_uninstalls():
    """Blocks from before, during and after are read, resized and freed in every state, beside allocating threads."""
    done = python(PROGRAMS / "switching.py")

    assert ("well\n", "", 0) == (done.stdout, done.stderr, done.returncode)


def test_F35_blocks_go_home_whatever_the_state():
    """A block keeps its home when resized, and new blocks come from where the state says."""
    freehold.uninstall()
    foreign = np.ones(1000)
    freehold.install()
    ours = np.ones(1000)
    foreign.resize(3000, refcheck=False)
    assert (False, True) == (owned(foreign), owned(ours))

    freehold.uninstall()
    ours.resize(3000, refcheck=False)
    assert (True, False) == (owned(ours), owned(np.ones(1000)))
    assert 1000 == ours.sum() == foreign.sum()


def test_F40_reaches_every_thread_and_context():
    """At least 99 % of the bytes of arrays made in threads, executors, contexts and tasks are on the heap."""
    done = python(PROGRAMS / "everywhere.py")

    assert ("", 0) == (done.stderr, done.returncode)
    assert float(done.stdout) >= 0.99


def test_proves_it_in_a_new_thread(installed):
    """The proof is an array made on a thread that is new; it fails where the hooks are off."""
    umath = next(
        sys.modules[name] for name in numpy_import.C_MODULES if "_ARRAY_API" in vars(sys.modules.get(name, pytest))
    )

    assert numpy_handler.prove(umath)
    freehold.uninstall()
    assert not numpy_handler.prove(umath)


def test_says_so_when_it_can_not_be_proved(monkeypatch, caplog):
    """Where the proof fails, or no thread can be had for it, NumPy does not count as taken, and a log line says why."""

    def refuse(umath):
        raise OSError(11, "no thread could be started")

    for prove, why in (
        (lambda umath: False, "an array of a new thread did not come from the heap"),
        (refuse, "no thread"),
    ):
        monkeypatch.setattr(numpy_handler, "prove", prove)
        installation = freehold.install()
        assert "numpy" not in installation.taken
        assert why in installation.not_taken["numpy"]
        assert why in caplog.text
    monkeypatch.undo()
    assert "numpy" in freehold.install().taken
    freehold.uninstall()


def test_taken_while_another_thread_imports_numpy():
    """`install()` in the middle of an import of NumPy by another thread takes it all the same."""
    code = """
import sys, threading, time, freehold
thread = threading.Thread(target=__import__, args=("numpy",))
thread.start()
time.sleep(float(sys.argv[1]))
freehold.install()
thread.join()
print(freehold.install().taken)
"""
    for milliseconds in range(0, 120, 10):
        done = python("-c", code, milliseconds / 1000)
        assert ["('numpy',)"] == done.stdout.splitlines() + done.stderr.splitlines()


# ---- the hooks themselves, called as NumPy calls them ----

# In a program: `malloc`, `calloc`, `realloc` and `free` of NumPy's default handler, installed.
HOOKS = """
import ctypes, freehold, numpy as np
from ctypes import POINTER, PYFUNCTYPE, c_char_p, c_size_t, c_void_p, py_object
freehold.install()
umath = np._core._multiarray_umath if hasattr(np, "_core") else np.core._multiarray_umath
pointer = ctypes.pythonapi.PyCapsule_GetPointer
pointer.restype, pointer.argtypes = c_void_p, [py_object, c_char_p]
table = ctypes.cast(pointer(umath._ARRAY_API, None), POINTER(c_void_p))
words = ctypes.cast(pointer(PYFUNCTYPE(py_object)(table[305])(), b"mem_handler") + 128, POINTER(c_void_p))
def hook(i, result, *arguments):
    function = ctypes.CFUNCTYPE(result, c_void_p, *arguments, use_errno=True)(words[i])
    return lambda *values: function(None, *values)
malloc, calloc = hook(1, c_void_p, c_size_t), hook(2, c_void_p, c_size_t, c_size_t)
realloc, free = hook(3, c_void_p, c_void_p, c_size_t), hook(4, None, c_void_p, c_size_t)
"""


@pytest.mark.parametrize(
    ("crime", "said"),
    [
        ("p = malloc(1000); free(p, 1000); free(p, 1000)", "double free"),
        ("p = malloc(1000); free(p, 1000); kept = [malloc(5000) for _ in range(600)]; free(p, 1)", "double free"),
        ("free(malloc(1000) + 16, 1000)", "interior"),
        ("free(malloc(1000) + 1, 1000)", "interior"),
    ],
)
def test_F1_F2_bad_frees_abort(crime, said):
    """A double or interior free through NumPy's handler ends the process with one line that says so."""
    done = python("-c", HOOKS + crime)

    assert -6 == done.returncode
    assert done.stderr.startswith("freehold: fatal: ")
    assert said in done.stderr
    assert 1 == done.stderr.count("\n")


def test_F3_foreign_blocks_go_to_the_allocator_before():
    """NULL may be freed; a block that is not ours is resized and freed by whoever NumPy had before."""
    code = """
free(None, 0)
freehold.uninstall()
foreign = [malloc(3000) for _ in range(10)]
freehold.install()
from freehold.face import process_heap
grown = [realloc(p, 6000) for p in foreign]
print(any(map(process_heap.owns, foreign + grown)))
for p in grown: free(p, 6000)
"""
    done = python("-c", HOOKS + code)

    assert ("False\n", "", 0) == (done.stdout, done.stderr, done.returncode)


def test_F7_F9_sizes_that_are_nothing_or_too_much():
    """What overflows gives NULL and ENOMEM; nothing gives distinct blocks; a wrong size at free is not believed."""
    code = """
import errno
huge = 2**63 // 8 + 1
for attempt in (lambda: calloc(huge, 16), lambda: malloc(2**63), lambda: malloc(2**50), lambda: malloc(2**64 - 1),
                lambda: malloc(2**64 - 4096), lambda: calloc(2**64 - 1, 2**64 - 1)):
    ctypes.set_errno(0)
    assert attempt() is None and ctypes.get_errno() == errno.ENOMEM
p = malloc(100)
assert realloc(p, 2**63) is None
blocks = [malloc(0) for _ in range(100)] + [calloc(0, 8) for _ in range(100)] + [calloc(8, 0) for _ in range(100)]
blocks += [realloc(None, 0) for _ in range(100)] + [realloc(p, 0)]
assert None not in blocks and len(set(blocks)) == len(blocks)
for block in blocks: free(block, 12345678)
"""
    done = python("-c", HOOKS + code)

    assert ("", 0) == (done.stderr, done.returncode)


# ---- what NumPy does with memory ----


@pytest.mark.parametrize("nbytes", [1, 2, 15, 16, 63, 64, 65, 100, 160, 1000, 4096, 100_000, 3 << 20, 5 << 20])
def test_arrays_are_aligned_to_64(installed, nbytes):
    """Whatever its size, an array's data begins at a multiple of 64."""
    arrays = [make(nbytes, np.uint8) for make in (np.empty, np.zeros, np.ones) for _ in range(5)]
    arrays += [np.empty(1, np.uint8) for _ in range(3)]
    for array in arrays[-3:]:
        array.resize(nbytes, refcheck=False)

    assert {0} == {array.__array_interface__["data"][0] % 64 for array in arrays}


def test_F39_views_keep_the_base_alive(installed):
    """A view of a view is valid after both bases are gone."""
    view = np.arange(10_000)[10:-10][::2].reshape(-1, 5).T
    [np.full(10_000, -1) for _ in range(20)]

    assert list(range(10, 9990, 2)) == view.T.ravel().tolist()


def test_F39_resize_keeps_the_contents_and_zeroes_the_rest(installed):
    """`ndarray.resize` up and down through every layer keeps what fits; what is new reads zero."""
    array = np.arange(10)
    for n in (100, 7, 5000, 40_000, 10, 1_000_000, 3, 0, 12):
        before = array.copy()
        array.resize(n, refcheck=False)
        kept = min(len(before), n)
        assert (array[:kept] == before[:kept]).all()
        assert (array[kept:] == 0).all()
        assert owned(array)


def test_F39_pickle_5_out_of_band(installed):
    """Arrays pickled out of band and in band come back equal."""
    array = np.arange(100_000.0)
    buffers = []
    text = pickle.dumps(array, protocol=5, buffer_callback=buffers.append)

    assert (pickle.loads(text, buffers=buffers) == array).all()
    assert (pickle.loads(pickle.dumps(array)) == array).all()


def test_F39_fromiter_grows_in_place(installed):
    """`fromiter`, which reallocates as it goes, ends with what the iterator gave."""
    assert list(range(100_000)) == np.fromiter(iter(range(100_000)), dtype=int).tolist()


def test_F9_zero_sized_arrays_are_blocks_of_their_own(installed):
    """Arrays of no bytes have distinct addresses and can be resized and freed."""
    arrays = [np.empty((0, 3)) for _ in range(100)] + [np.zeros(0) for _ in range(100)]
    addresses = {array.__array_interface__["data"][0] for array in arrays}
    arrays[0].resize((2, 3), refcheck=False)

    assert 200 == len(addresses)
    assert 0 == arrays[0].sum()


@pytest.mark.parametrize("make", [np.empty, np.zeros])
def test_F7_what_can_not_be_is_a_memory_error(installed, make):
    """More than there is: NumPy's own MemoryError, and the heap is as it was."""
    before = freehold.stats().current_count
    for n in (1 << 50, 1 << 60, (1 << 63) - 1):
        with pytest.raises(MemoryError):
            make(n, np.uint8)

    assert before == freehold.stats().current_count


def test_zeros_of_a_large_size_stay_untouched(installed):
    """A gigabyte of zeros costs nothing until it is written."""
    before = resident()
    array = np.zeros(1 << 30, np.uint8)
    assert resident() - before < 8 << 20

    array[::4096] = 1
    assert resident() - before > 900 << 20
    assert 1 << 18 == int(array[::4096].sum())


def test_zeros_are_zero_in_memory_that_was_used(installed):
    """Memory given out again by `zeros` reads zero, of every size."""
    for n in (10, 1000, 50_000, 1 << 20, 8 << 20):
        for _ in range(5):
            np.full(n, 255, np.uint8)
            assert not np.zeros(n, np.uint8).any()


def test_arrays_freed_on_other_threads(installed):
    """Arrays made on one thread, dropped on another after the first has ended, leave nothing behind."""
    before = freehold.stats().current_count
    made = []
    threads = [threading.Thread(target=lambda: made.extend(np.ones(n) for n in range(1, 3000, 11))) for _ in range(4)]
    for thread in threads:
        thread.start()
        thread.join()
    dropper = threading.Thread(target=made.clear)
    dropper.start()
    dropper.join()

    assert abs(freehold.stats().current_count - before) <= 2


# ---- figures ----


def test_stats_follow_arrays_and_balance(installed):
    """A held array is in the figures, a dropped one is not, and the sums are right."""
    before = freehold.stats()
    array = np.ones(1 << 20)
    during = freehold.stats()
    del array
    after = freehold.stats()

    assert during.current_bytes - before.current_bytes >= 8 << 20
    assert abs(after.current_bytes - before.current_bytes) < 1 << 20
    for held in (before, during, after):
        assert held.mapped_bytes == held.active_bytes + held.dirty_bytes + held.muzzy_bytes + held.retained_bytes
        assert held.current_count == held.total_count - held.freed_count


def test_stats_are_frozen_and_become_dict_and_json(installed):
    """The figures can not be changed; as a dictionary and as JSON they are the same."""
    import dataclasses
    import json

    held = freehold.stats()
    with pytest.raises(dataclasses.FrozenInstanceError):
        held.current_bytes = 0
    assert held.as_dict() == json.loads(held.to_json())


def test_purge_gives_back_what_is_idle(installed):
    """After `purge()`, what arrays left behind is no longer resident."""
    freehold.purge()  # what other tests left
    before = resident()
    arrays = [np.ones(1000) for _ in range(20_000)]
    assert resident() - before > 100 << 20
    del arrays
    freehold.purge()

    assert resident() - before < 16 << 20


def test_install_is_the_function():
    """`from freehold import install` is the function, whatever was imported before."""
    assert callable(install_function)


def test_H8_what_libc_keeps_free_at_its_end_is_given_back():
    """Returns 40 MiB that a C library allocated in blocks of 2 MiB and freed, which glibc alone would keep."""
    program = """
import ctypes, numpy, os, freehold
freehold.install()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE")
large = [libc.malloc(30 << 20)]
libc.free(large.pop())  # glibc alone now has blocks up to 30 MiB on its heap, and keeps 60 MiB free there
before = resident()
blocks = [libc.malloc(2 << 20) for _ in range(20)]
for block in blocks:
    ctypes.memset(block, 1, 2 << 20)
for block in reversed(blocks):
    libc.free(block)
print((resident() - before) >> 20)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert 8 > int(ran.stdout), ran.stderr


# ---- a freehold that is not built for this Python ----


@pytest.fixture
def unbuilt(tmp_path):
    """Return a folder with a freehold in it that has no compiled modules but their sources, as a checkout has."""
    package = Path(freehold.__file__).parent
    sources = Path(__file__).parents[1] / "src" / "freehold" / "face"
    shutil.copytree(package, tmp_path / "freehold", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for source in sources.glob("*.py"):
        shutil.copy(source, tmp_path / "freehold" / "face")
    return tmp_path


@pytest.mark.parametrize(
    "program",
    ["import freehold; freehold.stats()", "from freehold.layers import Vm", "import freehold.face.process_heap"],
)
def test_F55_without_compiled_modules_the_missing_file_is_named(unbuilt, program):
    """And what to do about it; the sources beside are never run in their place."""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(unbuilt)}
    )
    missing = unbuilt / "freehold" / "face" / f"process_heap{sysconfig.get_config_var('EXT_SUFFIX')}"
    assert 1 == ran.returncode
    assert ran.stderr.splitlines()[-1].startswith(
        f"ImportError: freehold is not built for this Python: there is no {missing}. Install it for {sys.executable}: "
    )


def test_F55_install_and_the_command_line_say_so_in_a_line(unbuilt):
    """`install` leaves everything as it was; `freehold run` starts nothing."""
    environ = os.environ | {"PYTHONPATH": str(unbuilt)}
    program = "import freehold, numpy; print(freehold.install().not_taken['numpy']); print(numpy.ones(3).sum())"
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, env=environ)
    assert (0, "3.0") == (ran.returncode, ran.stdout.splitlines()[-1]), ran.stderr
    assert "freehold is not built for this Python: there is no " in ran.stdout
    for arguments in (["run", "-c", "print(1)"], ["doctor"]):
        ran = subprocess.run(
            [sys.executable, "-m", "freehold", *arguments], capture_output=True, text=True, env=environ
        )
        assert "print" not in ran.stdout and "1\n" != ran.stdout
        assert 1 == len(ran.stderr.splitlines()) and ran.returncode in (1, 2), ran.stderr
        assert ran.stderr.startswith(f"freehold {arguments[0]}: freehold is not built for this Python: there is no ")


def test_F55_what_runs_is_compiled():
    """Every module of the face, and the library under them, is machine code."""
    import freehold.face

    modules = [info.name for info in pkgutil.iter_modules(freehold.face.__path__)]
    assert "process_heap" in modules and "heap_profile" in modules
    for name in modules:
        assert importlib.import_module(f"freehold.face.{name}").__file__.endswith(".so"), name
