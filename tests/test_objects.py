"""CPython's raw, mem and obj domains on the heap, or pymalloc's arenas: in every state, beside whatever else hooks them."""

import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
import types
from pathlib import Path

import pytest

from freehold import domains

PROGRAMS = Path(__file__).parent / "programs"
# Programs run in other folders too: what PYTHONPATH names must be found from there.
PATH = os.pathsep.join(map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))))
OWNS = "from freehold.face import process_heap; owns = lambda block: process_heap.owns(id(block))\n"
STEPS = ("install", "uninstall", "start", "stop")


def python(*arguments, **environment):
    """Run Python in a fresh process and return it, ended."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"PYTHONPATH": PATH} | environment,
    )


def ended(done):
    return done.returncode, done.stdout, done.stderr


# ---- what is taken ----


def test_objects_of_all_three_domains_come_from_the_heap():
    """Objects, the buffers of lists, bytearrays and raw blocks are on the heap, in every thread; what was there stays."""
    code = (
        """
import ctypes, freehold, threading
before = [bytes(n) for n in (10, 500, 5000, 500_000)]
assert "objects" in freehold.install(objects=True).taken
"""
        + OWNS
        + """
raw = ctypes.pythonapi.PyMem_RawMalloc
mem = ctypes.pythonapi.PyMem_Malloc
for function in (raw, mem):
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
def look():
    found.append(all(map(owns, [bytes(n) for n in (10, 500, 5000, 500_000)])))
    found.append(process_heap.owns(raw(100)) and process_heap.owns(mem(100)))
found = []
thread = threading.Thread(target=look); thread.start(); thread.join(); look()
print(found, any(map(owns, before)))
"""
    )

    assert (0, "[True, True, True, True] False\n", "") == ended(python("-c", code))


def test_arena_takes_only_the_arenas():
    """With "arena", small objects lie in arenas of the heap, and large blocks where they did."""
    code = (
        """
import freehold
taken = freehold.install(objects="arena")
kept = [bytes(100) for _ in range(50_000)]
"""
        + OWNS
        + """
print(taken.taken, "only its arenas" in taken.not_taken["objects"], owns(kept[-1]), owns(bytes(5000)))
"""
    )

    assert (0, "('arenas',) True True False\n", "") == ended(python("-c", code))


@pytest.mark.parametrize("how", ["True", "'arena'"])
def test_uninstall_leaves_blocks_where_they_are(how):
    """After `uninstall()`, new blocks come from before; ours are resized on the heap; installing again takes again."""
    code = (
        f"""
import freehold
freehold.install(objects={how})
kept = [bytes(100) for _ in range(60_000)]
freehold.uninstall()
"""
        + OWNS
        + f"""
more = [bytes(100) for _ in range(60_000)]
assert owns(kept[-1]) and not owns(more[-1])
del kept, more
freehold.install(objects={how})
again = [bytes(100) for _ in range(60_000)]
print(owns(again[-1]))
"""
    )

    assert (0, "True\n", "") == ended(python("-c", code))


def test_a_call_without_a_word_of_objects_leaves_them_as_they_are():
    """`install()` after `install(objects=True)` changes nothing; `install(objects=False)` gives new ones back to Python."""
    code = """
import freehold
print([freehold.install(objects=how).taken for how in (None, True, None, "arena", None, False, None)])
"""

    assert "[(), ('objects',), ('objects',), ('arenas',), ('arenas',), (), ()]\n" == python("-c", code).stdout


@pytest.mark.parametrize(("objects", "said"), [("most", "objects='most'"), (7, "objects=7")])
def test_a_wrong_word_is_an_error_that_names_it(objects, said):
    """The text names the argument, the value, and what would be right."""
    import freehold

    with pytest.raises(ValueError, match=f"{said} is not known: expected True, False"):
        freehold.install(objects=objects)


def test_numpy_before_or_after():
    """NumPy imported before objects are taken, or after, is taken too; its own small blocks go home."""
    pytest.importorskip("numpy")
    code = """
import sys
if "before" in sys.argv: import numpy
import freehold
freehold.install(objects=True)
import numpy as np
arrays = [np.ones(n) for n in range(1, 3000, 7)]
objects = np.array([str(i) for i in range(10_000)], dtype=object)
freehold.uninstall()
freehold.install(objects=True)
print(freehold.install().taken, len(arrays), objects[-1])
"""
    for argument in ("before", "after"):
        assert (0, "('numpy', 'objects') 429 9999\n", "") == ended(python("-c", code, argument))


def test_sizes_that_are_nothing_or_too_much():
    """F7, F9 for each domain: nothing gives distinct blocks, what can not be is NULL, and memory comes zeroed from calloc."""
    code = """
import ctypes, freehold
freehold.install(objects=True)
api, word, pointer = ctypes.pythonapi, ctypes.c_size_t, ctypes.c_void_p
for domain in ("PyMem_Raw", "PyMem_", "PyObject_"):
    malloc, calloc, realloc, free = (getattr(api, domain + verb) for verb in ("Malloc", "Calloc", "Realloc", "Free"))
    for function, arguments in ((malloc, [word]), (calloc, [word, word]), (realloc, [pointer, word])):
        function.restype, function.argtypes = pointer, arguments
    free.argtypes, free.restype = [pointer], None
    none = [malloc(0) for _ in range(50)] + [calloc(0, 8) for _ in range(50)] + [realloc(None, 0) for _ in range(50)]
    assert None not in none and len(set(none)) == 150
    for size in (2**50, 2**62, 2**63 - 1, 2**64 - 1):
        assert malloc(size) is None and calloc(size, 16) is None and realloc(none[0], size) is None
    for size in (1, 16, 100, 600, 5000, 200_000, 5_000_000):
        p = malloc(size)
        ctypes.memset(p, 255, size)
        free(p)
        p = calloc(1, size)
        assert ctypes.string_at(p, size) == bytes(size)
        ctypes.memset(p, 7, size)
        for other in (size * 3 + 5, size // 3 + 1, size):
            p = realloc(p, other)
            assert ctypes.string_at(p, min(size // 3 + 1, other)) == bytes([7]) * min(size // 3 + 1, other)
        free(p)
    for p in none: free(p)
    free(None)
print("well")
"""

    assert (0, "well\n", "") == ended(python("-c", code))


@pytest.mark.parametrize(("crime", "said"), [("free(p); free(p)", "double free"), ("free(p + 16)", "interior")])
@pytest.mark.parametrize("domain", ["PyMem_Raw", "PyMem_", "PyObject_"])
def test_F1_F2_bad_frees_abort(domain, crime, said):
    """A double or an interior free in any domain ends the process with one line that says so."""
    code = f"""
import ctypes, freehold
freehold.install(objects=True)
malloc, free = ctypes.pythonapi.{domain}Malloc, ctypes.pythonapi.{domain}Free
malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
p = malloc(100_000)
{crime}
"""
    done = python("-c", code)

    assert -6 == done.returncode
    assert done.stderr.startswith("freehold: fatal: ")
    assert said in done.stderr


# ---- faults, by number ----


def test_F13_every_allocation_may_fail():
    """`_testcapi.set_nomemory(k)` for k = 0 … 500 with the hooks on: each MemoryError is survived, and nothing leaks."""
    pytest.importorskip("_testcapi")
    code = """
import _testcapi, freehold, gc
freehold.install(objects=True)
def work():
    return {str(i): [i] * i for i in range(20)}, "x" * 3000, list(range(200))
def sweep():
    failed = 0
    for k in range(501):
        try:
            _testcapi.set_nomemory(k, k + 1)
            work()
        except MemoryError:
            failed += 1
        finally:
            _testcapi.remove_mem_hooks()
    gc.collect()
    return failed
assert sweep() > 10
before = freehold.stats().current_count
sweep()
grown = freehold.stats().current_count - before
assert grown < 200, grown  # free lists and caches breathe; a leak of one block at each failure is 500
print("well")
"""

    assert (0, "well\n", "") == ended(python("-c", code))


@pytest.mark.parametrize("way", ["self", "fork", "spawn", "forkserver", "subprocess", "os.fork"])
def test_F24_children_follow_with_their_objects(way):
    """However children of `freehold run --objects=yes` are started, they work; no descriptor of ours is inherited."""
    pytest.importorskip("numpy")
    # Since 3.12 Python warns where a process that forks has any thread, ours included.
    quiet = {"PYTHONWARNINGS": "ignore::DeprecationWarning"}
    done = python("-m", "freehold", "run", "--objects=yes", PROGRAMS / "children.py", way, **quiet)

    assert (0, "True\n", "") == ended(done)


def test_F24_no_descriptor_of_ours_is_inherited():
    """A program that `freehold run --objects=yes` starts sees the descriptors that it sees under Python."""
    code = "import os, subprocess, sys; subprocess.run([sys.executable, '-I', '-c', 'import os; print(os.listdir(\"/proc/self/fd\"))'])"
    plain = python("-c", code)

    assert plain.stdout == python("-m", "freehold", "run", "--objects=yes", "-c", code).stdout


def test_F31_ends_quietly_with_objects_alive():
    """Programs end with live objects in modules, cycles and finalizers beside allocating daemon threads: not a word."""
    code = """
import sys, threading, freehold
freehold.install(objects=True)
class Cycle:
    def __init__(self): self.me, self.block = self, bytes(5000)
    def __del__(self): self.block = [self.block * 2 for _ in range(100)]
def forever():
    while True: [str(i) for i in range(100)]
sys.modules["json"] = kept = type(sys)("json")
kept.cycle, cycle = Cycle(), Cycle()
for _ in range(3): threading.Thread(target=forever, daemon=True).start()
"""
    for _ in range(10):
        assert (0, "", "") == ended(python("-c", code))


@pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="3.12 itself can not be initialised twice without a crash")
def test_F32_python_is_ended_and_begun_again(tmp_path):
    """An embedded Python lives ten times; hooks are there in each life, and raw blocks of one are freed in another."""
    compiler = shutil.which("cc")
    library, version = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDVERSION")
    if compiler is None or not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        pytest.skip("it takes a C compiler and a shared libpython")
    include, program = sysconfig.get_paths()["include"], tmp_path / "embedded"
    options = [f"-I{include}", f"-L{library}", f"-Wl,-rpath,{library}", f"-lpython{version}"]
    subprocess.run([compiler, PROGRAMS / "embedded.c", "-o", program, *options], check=True)
    site = os.pathsep.join([PATH, sysconfig.get_paths()["purelib"]])
    environ = os.environ | {"PYTHONPATH": site, "PYTHONHOME": sys.base_prefix}
    done = subprocess.run([program], capture_output=True, text=True, timeout=120, env=environ)

    assert (0, "well\n", "") == ended(done)


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_F33_interpreters_beside_the_main_one(kind):
    """Interpreters in three threads, sharing the GIL or each with its own, live and end with blocks on the heap."""
    assert (0, "well\n", "") == ended(python(PROGRAMS / "interpreters.py", kind))


def test_F34_a_build_without_the_gil_keeps_its_objects(monkeypatch):
    """There, raw alone is taken, and the reason for the rest is said: never silently."""
    state = {"active": False}
    face = types.ModuleType("face")
    face.is_free_threaded = lambda: True
    face.foreign, face.name, face.is_taken = (lambda: ""), (lambda: "mimalloc"), (lambda: False)
    face.take, face.activate_arenas, face.arenas_are_active = (lambda: None), (lambda on: None), (lambda: False)
    face.activate = lambda on: state.update(active=on)
    face.is_active = lambda: state["active"]
    monkeypatch.setitem(sys.modules, "freehold.face.cpython_domains", face)
    monkeypatch.setattr("freehold.face.cpython_domains", face, raising=False)

    assert [] == domains.take("yes", lambda: None)
    taken, why = domains.status()
    assert ("raw",) == taken
    assert "not replaceable" in why


@pytest.mark.parametrize(("how", "times"), [("yes", 1000), ("arena", 300)])
def test_F35_a_thousand_installs_and_uninstalls(how, times):
    """Blocks from before, during and after are read, resized and freed in every state, beside allocating threads."""
    assert (0, "well\n", "") == ended(python(PROGRAMS / "switching_objects.py", how, times))


@pytest.mark.parametrize("how", ["yes", "arena"])
def test_F36_all_orders_of_installing_and_tracing(how):
    """Each of the 24 orders of install, uninstall, start and stop survives, and what is traced is traced whole."""
    for order in itertools.permutations(STEPS):
        assert (0, "well\n", "") == ended(python(PROGRAMS / "orders.py", how, *order)), order


def test_F36_installing_while_tracing_says_what_is_lost():
    """tracemalloc is stopped and started again around us, with a warning, and traces as deep as before."""
    code = """
import freehold, tracemalloc, warnings
tracemalloc.start(7)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    print(freehold.install(objects=True).taken, freehold.install(objects=True).taken)
print([str(w.message) for w in said], said[0].filename, tracemalloc.get_traceback_limit())
"""
    done = python("-c", code)
    first, second = done.stdout.splitlines()

    assert "('objects',) ('objects',)" == first
    assert 1 == second.count("tracemalloc was stopped and started again")
    assert second.endswith("<string> 7")


def test_F36_traced_from_the_start():
    """PYTHONTRACEMALLOC=1, which stops at exit: nothing is lost then, and `freehold run` says nothing."""
    code = "import tracemalloc; kept = [bytes(100)] * 9; print(tracemalloc.is_tracing())"
    done = python("-m", "freehold", "run", "--objects=yes", "-c", code, PYTHONTRACEMALLOC="1")

    assert (0, "True\n", "") == ended(done)


@pytest.mark.parametrize("way", [{"PYTHONMALLOC": "debug"}, {"PYTHONMALLOC": "malloc_debug"}, {"PYTHONDEVMODE": "1"}])
def test_F37_installing_late_leaves_debug_hooks_alone(way):
    """Under debug hooks a late install leaves objects where they are, with a warning; NumPy is taken all the same."""
    pytest.importorskip("numpy")
    code = """
import numpy, freehold, warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    found = freehold.install(objects=True)
print(found.taken, "debug hooks" in found.not_taken["objects"], len(said), "debug hooks" in str(said[0].message))
"""

    assert (0, "('numpy',) True 1 True\n", "") == ended(python("-c", code, **way))


@pytest.mark.parametrize("way", [{"PYTHONMALLOC": "debug"}, {"PYTHONDEVMODE": "1"}])
def test_F37_run_keeps_debug_hooks_on_top(way):
    """Under `freehold run` objects are on the heap, and the debug hooks above it still catch an overflow."""
    pytest.importorskip("_testcapi")
    code = OWNS + "print(owns(bytes(100)), flush=True)\nimport _testcapi; _testcapi.pymem_buffer_overflow()"
    done = python("-m", "freehold", "run", "--objects=yes", "-c", code, **way)

    assert (-6, "True\n") == (done.returncode, done.stdout)
    assert "Debug memory block at address" in done.stderr


def test_F37_pythons_own_tests_of_memory_pass_under_run():
    """test_capi's memory tests, where they are installed, pass with the debug hooks above the heap."""
    pytest.importorskip("test.support")
    module = "test.test_capi.test_mem" if sys.version_info >= (3, 12) else "test.test_capi"
    command = ["-m", "unittest", module]
    if sys.version_info < (3, 12):
        command += ["-k", "PyMem"]
    done = python("-m", "freehold", "run", "--objects=yes", *command, PYTHONMALLOC="debug")

    assert 0 == done.returncode, done.stderr[-2000:]


def test_F38_somebody_elses_hooks_are_left_alone():
    """A profiler's hooks in force: objects stay, with a warning that says whose, and to install first."""
    pytest.importorskip("_testcapi")
    code = """
import _testcapi, freehold, freehold.face.cpython_domains, freehold.face.process_heap, warnings, freehold.opening
freehold.opening.open_heap()
_testcapi.set_nomemory(1 << 30, 0)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    found = freehold.install(objects=True)
_testcapi.remove_mem_hooks()
print("objects" in found.taken, "install first, profile second" in str(said[0].message), "_testcapi" in str(said[0].message))
print("objects" in freehold.install(objects=True).taken)
"""

    assert (0, "False True True\nTrue\n", "") == ended(python("-c", code))


def test_F38_hooks_put_above_ours_stay_when_we_uninstall():
    """Hooks put in after ours see every block; `uninstall` takes nothing from under them."""
    pytest.importorskip("_testcapi")
    code = """
import _testcapi, freehold
freehold.install(objects=True)
kept = [str(i) for i in range(1000)]
_testcapi.set_nomemory(1 << 30, 0)
more = [str(i) for i in range(1000)]
freehold.uninstall()
del kept
again = [str(i) for i in range(1000)]
_testcapi.remove_mem_hooks()
del more, again
print("well")
"""

    assert (0, "well\n", "") == ended(python("-c", code))


@pytest.mark.parametrize("how", ["malloc", "mimalloc", "pymalloc"])
def test_F38_any_allocator_of_pythons_may_be_below(how):
    """PYTHONMALLOC names what serves the rest; where that has no arenas, "arena" says so."""
    if how == "mimalloc" and sys.version_info < (3, 13):
        pytest.skip("since 3.13")
    code = """
import freehold, warnings
warnings.simplefilter("ignore")
kept = [bytes(n) for n in range(5000)]
arena = freehold.install(objects="arena")
print(arena.taken, "no arenas" in arena.not_taken["objects"], freehold.install(objects=True).taken)
del kept
"""
    expected = "('arenas',) False ('objects',)\n" if how == "pymalloc" else "() True ('objects',)\n"

    assert (0, expected, "") == ended(python("-c", code, PYTHONMALLOC=how))


# ---- giving back ----


@pytest.mark.parametrize("how", ["True", "'arena'"])
@pytest.mark.parametrize("keep", ["[]", "made[::5000]"])
def test_H8_dropped_objects_leave_the_process(how, keep):
    """Two seconds after half a million dictionaries are dropped, little more than what lives is resident."""
    code = f"""
import os, time, freehold
freehold.install(objects={how})
def resident():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Rss:"))
before = resident()
made = [{{"id": i, "next": i + 1}} for i in range(500_000)]
peak = resident() - before
kept = {keep}
del made
end = time.monotonic() + 10
while resident() - before > 0.03 * peak + (8 << 20) + (1 << 20) and time.monotonic() < end: time.sleep(0.1)
print((resident() - before) >> 20, peak >> 20)
"""
    after, peak = map(int, python("-c", code).stdout.split())

    if how == "True" or keep == "[]":  # an arena in which one object lives stays
        assert after <= 0.03 * peak + 9


# ---- whole programs ----


def test_run_takes_objects_before_the_program_begins():
    """`freehold run --objects=yes` comes first: modules that the program imports are on the heap."""
    code = "import json, freehold\n" + OWNS + "print(owns(json.dumps), freehold.install().taken)"

    assert (0, "True ('objects',)\n", "") == ended(python("-m", "freehold", "run", "--objects=yes", "-c", code))


@pytest.mark.parametrize("how", ["yes", "arena", "no"])
def test_the_option_comes_from_the_environment_too(how):
    """FREEHOLD_OBJECTS is the option for `freehold run` and for `install()`."""
    expected = {"yes": "('objects',)", "arena": "('arenas',)", "no": "()"}[how]
    code = "import freehold; print(freehold.install().taken)"

    assert f"{expected}\n" == python("-c", code, FREEHOLD_OBJECTS=how).stdout
    assert f"{expected}\n" == python("-m", "freehold", "run", "-c", code, FREEHOLD_OBJECTS=how).stdout


@pytest.mark.parametrize("how", ["yes", "arena"])
def test_a_program_with_everything_ends_well(how):
    """Threads, processes, regular expressions, JSON, pickles, generators and finalizers under `freehold run`."""
    code = """
import concurrent.futures, gc, json, multiprocessing, pickle, re, weakref
def work(n):
    rows = [{"i": i, "name": f"row {i}", "parts": re.findall(r"\\\\w+", "a bb ccc " * 5)} for i in range(n)]
    return len(pickle.loads(pickle.dumps(json.loads(json.dumps(rows)))))
class Node:
    def __init__(self): self.me, self.block = self, bytearray(700)
gone = []
for _ in range(2000): weakref.finalize(Node(), gone.append, 1)
gc.collect()
with concurrent.futures.ThreadPoolExecutor(4) as threads: found = list(threads.map(work, [500] * 12))
with multiprocessing.get_context("fork").Pool(2) as pool: found += pool.map(work, [300] * 4)
print(found == [500] * 12 + [300] * 4, len(gone))
"""
    done = python("-m", "freehold", "run", f"--objects={how}", "-c", code.replace("\\\\\\\\", "\\\\"))

    assert (0, "True 2000\n") == (done.returncode, done.stdout), done.stderr
