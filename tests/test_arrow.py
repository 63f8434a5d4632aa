"""Arrow's default pool on the heap: redirected in every state, beside whatever else, or left alone and told."""

import importlib.util
import shutil
import subprocess
import sysconfig

import pytest

from arrow_programs import LOOK, PROGRAMS, ended, python, well

# ---- the default pool ----


def test_F38_what_arrow_allocates_is_on_the_heap_in_every_thread():
    """Arrays, results of compute, and what Arrow's own threads make; the pool says its name and counts both sides."""
    well("""
import threading
import pyarrow as pa, pyarrow.compute as pc
old = pa.array(range(1000))
assert "arrow" in freehold.install().taken
pool = pa.default_memory_pool()
assert pool.backend_name == "freehold"
before = pool.bytes_allocated()
array = pa.array(range(100_000))
assert pool.bytes_allocated() - before >= 800_000 and pool.max_memory() >= pool.bytes_allocated()
found = []
def work(n):
    mine = pa.array(range(n * 1000))
    found.append(owned(mine) | owned(pc.add(mine, 1)) | owned(pc.cast(mine, pa.string())))
threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert found == [{True}] * 4 and owned(array) == {True} and owned(old) == {False}
del array
assert pool.bytes_allocated() == before
assert {b.address % 64 for n in (1, 100, 5000, 200_000, 3 << 20) for b in [pa.allocate_buffer(n)]} == {0}
""")


def test_F38_results_are_those_of_arrows_own_pool_and_all_of_their_bytes_are_ours(tmp_path):
    """Group-by, join, sort, dictionaries, IPC and Parquet there and back: C++'s own users of its default pool, too."""
    program = """
import sys
import pyarrow as pa, pyarrow.compute as pc, pyarrow.parquet as pq
if sys.argv[1] == "on": freehold.install()
n = 200_000
table = pa.table({"key": pa.array([f"k{i * 7919 % 1000}" for i in range(n)]), "value": pa.array(range(n)),
                  "list": pa.array([[i] * (i % 4) for i in range(n)])})
grouped = table.group_by("key").aggregate([("value", "sum"), ("value", "mean"), ("value", "count")]).sort_by("key")
names = pa.table({"key": [f"k{i}" for i in range(0, 1000, 3)], "name": [f"name {i}" for i in range(0, 1000, 3)]})
joined = table.select(["key", "value"]).join(names, "key", join_type="inner").sort_by("value")
pq.write_table(table, sys.argv[2])
read = pq.read_table(sys.argv[2])
encoded = table["key"].combine_chunks().dictionary_encode()
sink = pa.BufferOutputStream()
with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
    writer.write_table(table)
back = pa.ipc.open_stream(sink.getvalue()).read_all()
assert read == table == back
print(pc.sum(grouped["value_sum"]), grouped.num_rows, grouped["value_mean"][77], joined.num_rows, joined["name"][777])
print(len(encoded.dictionary), hash(str(grouped.to_pydict())) % 1000003, pc.sum(joined["value"]))
if sys.argv[1] == "on":
    assert owned(read) == owned(grouped) == owned(joined) == {True}
    ours, theirs = __import__("freehold.face.arrow_pool").face.arrow_pool.totals()
    assert ours > 100 * theirs, (ours, theirs)
"""
    on, off = (python("-c", LOOK + program, how, tmp_path / "t.parquet", PYTHONHASHSEED="1") for how in ("on", "off"))

    assert (0, "") == (off.returncode, off.stderr)
    assert ended(off) == ended(on)


def test_F35_buffers_go_home_whatever_the_state():
    """A buffer grows and goes back where it is at home: of before, of after, and of the time after `uninstall()`."""
    well("""
import pyarrow as pa
owns = lambda b: process_heap.owns(b.address)
def make(): return [pa.allocate_buffer(n, resizable=True) for n in (1, 100, 5000, 200_000, 5 << 20)]
def grow(buffers):
    for b in buffers:
        bytes_of(b)[:1] = b"x"
        b.resize(b.size * 3 + 5)
        assert bytes_of(b)[:1] == b"x"
        b.resize(b.size // 3, shrink_to_fit=True)
    return {owns(b) for b in buffers}
pool = pa.default_memory_pool()
start = pool.bytes_allocated()
first = make()
freehold.install()
second = make()
assert grow(first) == {False} and grow(second) == {True}
freehold.uninstall()
third = make()
assert grow(first) == {False} and grow(second) == {True} and grow(third) == {False}
assert pool.backend_name != "freehold"
freehold.install()
assert grow(third) == {False} and grow(make()) == {True}
del first
freehold.uninstall()
del second, third
assert pool.bytes_allocated() == start, (pool.bytes_allocated(), start)
""")


def test_F35_a_thousand_installs_and_uninstalls():
    """Beside threads that allocate, grow and check what they hold."""
    assert (0, "well\n", "") == ended(python(PROGRAMS / "switching_arrow.py"))


def test_F9_what_has_no_bytes_has_no_home():
    """An empty buffer begins where new blocks do when it grows, whoever made it; shrunk to nothing, it is nobody's."""
    well("""
import pyarrow as pa
owns = lambda b: process_heap.owns(b.address)
old = pa.allocate_buffer(0, resizable=True)
freehold.install()
new = [pa.allocate_buffer(0, resizable=True) for _ in range(3)]
old.resize(1000); new[0].resize(1000)
assert owns(old) and owns(new[0]) and not owns(new[1])
freehold.uninstall()
new[1].resize(1000)
assert not owns(new[1])
for b in (old, new[0]): b.resize(0, shrink_to_fit=True)
assert not owns(old) and not owns(new[0])
new[0].resize(100)
assert not owns(new[0])
freehold.install()
for b in new[:2]: b.resize(0, shrink_to_fit=True); b.resize(77)
assert owns(new[0]) and owns(new[1])
del old, new
""")


# In a program: `allocate`, `reallocate` and `free` of Arrow's default pool, called as C++ calls them.
CALLS = """
import ctypes, pyarrow.lib
from ctypes import CFUNCTYPE, POINTER, byref, c_int64, c_void_p
library = ctypes.CDLL(pyarrow.lib.__file__)
find = library["_ZN5arrow19default_memory_poolEv"]
find.restype = c_void_p
pool = find()
def functions(): return ctypes.cast(ctypes.cast(pool, POINTER(c_void_p))[0], POINTER(c_void_p))
def allocate(size, alignment=64):
    status, out = c_void_p(), c_void_p()
    CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_void_p)(functions()[2])(
        ctypes.addressof(status), pool, size, alignment, ctypes.addressof(out))
    return None if status.value else out.value
def reallocate(p, old, size, alignment=64):
    status, at = c_void_p(), c_void_p(p)
    CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p)(functions()[3])(
        ctypes.addressof(status), pool, old, size, alignment, ctypes.addressof(at))
    return (not status.value), at.value
def free(p, size, alignment=64): CFUNCTYPE(None, c_void_p, c_void_p, c_int64, c_int64)(functions()[4])(pool, p, size, alignment)
"""


def test_F7_F8_sizes_and_alignments_that_can_and_can_not_be():
    """Any power of two is honoured; what can not be is a Status, leaves the block as it was, and grows nothing."""
    well(
        CALLS
        + """
freehold.install()
before = freehold.stats().current_count
for alignment in (1, 8, 64, 128, 4096, 65536, 1 << 21, 1 << 24):
    for size in (0, 1, 100, 5000, 300_000):
        p = allocate(size, alignment)
        assert p % alignment == 0, (size, alignment)
        ok, p = reallocate(p, size, size * 3 + 1, alignment)
        assert ok and p % alignment == 0
        free(p, size * 3 + 1, alignment)
assert [allocate(n) for n in (-1, -64, 1 << 50, 1 << 62, (1 << 63) - 1)] == [None] * 5
assert [allocate(100, a) for a in (0, -64, 24)] == [None] * 3
p = allocate(100)
ctypes.memset(p, 7, 100)
assert [reallocate(p, 100, n) for n in (-1, 1 << 50, 1 << 62)] == [(False, p)] * 3
ok, moved = reallocate(p, 100, 100, 1 << 21)  # a larger alignment than it was made with
assert ok and moved % (1 << 21) == 0 and ctypes.string_at(moved, 100) == bytes([7]) * 100
free(moved, 100, 1 << 21)
assert freehold.stats().current_count == before
import pyarrow as pa
try:
    pa.allocate_buffer(1 << 55)
except pa.ArrowMemoryError as problem:
    assert isinstance(problem, MemoryError) and "asked 36028797018963968 bytes" in str(problem)
"""
    )


@pytest.mark.parametrize(
    ("crime", "said"), [("free(p, 1); free(p, 1)", "double free"), ("free(p + 64, 1)", "interior")]
)
def test_F1_F2_bad_frees_abort(crime, said):
    """Through Arrow's pool, too, with one line that says so."""
    done = python("-c", LOOK + CALLS + f"freehold.install()\np = allocate(100000)\n{crime}")

    assert -6 == done.returncode
    assert done.stderr.startswith("freehold: fatal: ")
    assert said in done.stderr
    assert 1 == done.stderr.count("\n")


# ---- when ----


def test_waits_for_pyarrow_without_importing_it():
    """Installed before pyarrow is imported, its pool is taken when it is, on whatever way; no trace is left."""
    well("""
import sys
finders = list(sys.meta_path)
first = freehold.install()
assert "not imported yet" in first.not_taken["arrow"] and "pyarrow" not in sys.modules
assert "freehold.face.arrow_pool" not in sys.modules
import pyarrow.parquet as pq
import pyarrow as pa
assert owned(pa.array(range(1000))) == {True}
assert "freehold" not in repr(pa.lib.__loader__) + repr(pa.lib.__spec__)
import numpy
assert sys.meta_path == finders
assert freehold.install().taken == ("numpy", "arrow")
""")


def test_uninstalled_before_pyarrow_is_imported_leaves_it_alone():
    """A wait that was called off takes nothing, and neither does `install(arrow=False)`, which leaves NumPy taken."""
    well("""
import sys
freehold.install()
freehold.uninstall()
asked_not = freehold.install(arrow=False)
assert asked_not.not_taken["arrow"] == "pyarrow stays on its own pool (arrow=False)"
import numpy, pyarrow as pa
assert owned(pa.array(range(1000))) == {False} and "freehold.face.arrow_pool" not in sys.modules
assert freehold.install(arrow=False).taken == ("numpy",)
assert freehold.install(arrow=True).taken == ("numpy", "arrow")
assert owned(pa.array(range(1000))) == {True}
assert freehold.install().taken == ("numpy", "arrow")
assert freehold.install(arrow=False).taken == ("numpy",)
assert owned(pa.array(range(1000))) == {False}
""")


def test_taken_while_another_thread_imports_pyarrow():
    """`install()` in the middle of an import of pyarrow by another thread takes it all the same."""
    code = """
import sys, threading, time, freehold
thread = threading.Thread(target=__import__, args=("pyarrow",))
thread.start()
while sys.argv[1] not in sys.modules and thread.is_alive(): time.sleep(0)
freehold.install()
thread.join()
print(freehold.install().taken)
"""
    for module in ("pyarrow", "numpy", "pyarrow.lib", "pyarrow.ipc"):
        assert (0, "('numpy', 'arrow')\n", "") == ended(python("-c", code, module))


def test_F27_taken_on_a_thread_that_ends_at_once():
    """pyarrow imported and taken on a short-lived thread serves every later one, and what it made goes back."""
    well("""
import threading
kept = []
def first():
    import pyarrow as pa
    assert "arrow" in freehold.install().taken
    kept.append(pa.array(range(50_000)))
def later():
    import pyarrow as pa
    import pyarrow.compute as pc
    array = pc.multiply(kept[0], 2)
    found.append(owned(array) == {True} and array[777].as_py() == 1554)
found = []
for target in [first] + [later] * 8:
    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
kept.clear()
assert found == [True] * 8
""")


def test_F38_another_pool_that_a_program_has_set_stays_its_own():
    """`set_memory_pool` before is respected, and told; what asks for the default one is on the heap."""
    well("""
import pyarrow as pa
pa.set_memory_pool(pa.system_memory_pool())
told = freehold.install().not_taken["arrow"]
assert "has set another one" in told, told
assert pa.default_memory_pool().backend_name == "system" and owned(pa.array(range(1000))) == {False}
""")


@pytest.mark.parametrize("backend", ["system", "mimalloc"])
def test_F38_whatever_backend_arrow_was_told_to_use(backend):
    """ARROW_DEFAULT_MEMORY_POOL chooses what serves blocks of before and after."""
    well(
        """
import pyarrow as pa
old = pa.allocate_buffer(1000, resizable=True)
assert pa.default_memory_pool().backend_name != "freehold"
freehold.install()
old.resize(100_000)
assert owned(pa.array(range(1000))) == {True} and not process_heap.owns(old.address)
freehold.uninstall()
del old
""",
        ARROW_DEFAULT_MEMORY_POOL=backend,
    )


def test_F38_a_pool_that_checks_its_blocks_is_left_alone():
    """ARROW_DEBUG_MEMORY_POOL asks Arrow for that; it is told, and a heap's pool can be had all the same."""
    well(
        """
import pyarrow as pa
told = freehold.install().not_taken["arrow"]
assert told.startswith("pyarrow stays on its own pool: ARROW_DEBUG_MEMORY_POOL has that pool check its blocks"), told
assert owned(pa.array(range(1000))) == {False}
assert owned(pa.array(range(1000), memory_pool=freehold.Heap().arrow_pool())) == {True}
""",
        ARROW_DEBUG_MEMORY_POOL="abort",
    )


def test_F22_forked_children_have_the_pools():
    """A child, of a parent whose thread is anywhere, allocates in both pools, frees what it inherited, closes the heap."""
    well("""
import os, threading, warnings
import pyarrow as pa
warnings.simplefilter("ignore")
freehold.install()
heap = freehold.Heap("forked")
pool = heap.arrow_pool()
table, mine = pa.array(range(100_000)), pa.array(range(100_000), memory_pool=pool)
stop = threading.Event()
def busy():
    while not stop.is_set(): pa.allocate_buffer(1 << 20, pool, resizable=True).resize(9 << 20)
thread = threading.Thread(target=busy)
thread.start()
for _ in range(25):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            more = [pa.array(range(1000)) for _ in range(50)] + [pa.array(range(1000), memory_pool=pool)]
            ok = all(owned(a) == {True} for a in more) and mine[77].as_py() == table[77].as_py() == 77
            del table, mine, more
            heap.close(force=True)
            code = 0 if ok else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
stop.set()
thread.join()
assert heap.stats().current_count == 1 and mine[99_999].as_py() == 99_999
""")


def test_F31_ends_quietly_with_tables_alive():
    """Programs end with live tables in modules and in cycles, of both pools, beside allocating daemon threads."""
    code = """
import sys, threading
import pyarrow as pa, pyarrow.compute as pc
freehold.install()
heap = freehold.Heap("last")
class Cycle: pass
cycle, sys.modules["json"] = Cycle(), type(sys)("json")
cycle.me, cycle.table = cycle, pa.table({"a": range(10_000)})
sys.modules["json"].kept = [pa.array(range(1000)), pa.array(range(1000), memory_pool=heap.arrow_pool())]
def forever():
    while True: pc.add(pa.array(range(1000)), 1)
for _ in range(2): threading.Thread(target=forever, daemon=True).start()
"""
    for _ in range(4):
        assert (0, "", "") == ended(python("-c", LOOK + code))


# ---- pandas ----


def test_F38_strings_of_pandas_are_on_the_heap():
    """`str` columns, which since pandas 3 are Arrow's, and what group-by, merge and sort make of them."""
    pandas = pytest.importorskip("importlib.metadata").version("pandas") if importlib.util.find_spec("pandas") else "0"
    if int(pandas.partition(".")[0]) < 3:
        pytest.skip("it takes pandas 3")
    well("""
import pandas as pd
first = freehold.install().taken
def strings(series): return series.array._pa_array
assert "arrow" in first
frame = pd.DataFrame({"key": [f"key {i % 97}" for i in range(20_000)], "value": range(20_000)})
grouped = frame.groupby("key")["value"].sum()
merged = frame.merge(pd.DataFrame({"key": [f"key {i}" for i in range(50)], "name": [f"n{i}" for i in range(50)]}), on="key")
ordered = frame.sort_values("key", ignore_index=True)
for column in (frame["key"], merged["name"], ordered["key"], frame["key"].str.upper()):
    assert owned(strings(column)) == {True}
assert grouped.sum() == sum(range(20_000)) and len(merged) == sum(i % 97 < 50 for i in range(20_000))
""")


# ---- what is refused, and told ----

# A library with the names that are looked for; what is wrong with it, the compiler is told.
LIBRARY = """
void a(void) {} void b(void) {}
#define IS(name) void name(void) { __asm__ volatile("" :: "i"(__LINE__)); }
IS(_ZN5arrow15ProxyMemoryPool8AllocateEllPPh)
IS(_ZN5arrow15ProxyMemoryPool10ReallocateElllPPh)
IS(_ZN5arrow15ProxyMemoryPool4FreeEPhll)
IS(_ZN5arrow15ProxyMemoryPool13ReleaseUnusedEv)
IS(_ZNK5arrow15ProxyMemoryPool15bytes_allocatedEv)
IS(_ZNK5arrow15ProxyMemoryPool10max_memoryEv)
IS(TOTAL)
IS(_ZNK5arrow15ProxyMemoryPool15num_allocationsEv)
IS(_ZNK5arrow15ProxyMemoryPool12backend_nameB5cxx11Ev)
void *_ZTVN5arrow15ProxyMemoryPoolE[] = {0, 0, a, b, _ZN5arrow15ProxyMemoryPool8AllocateEllPPh,
    _ZN5arrow15ProxyMemoryPool10ReallocateElllPPh, _ZN5arrow15ProxyMemoryPool4FreeEPhll,
    _ZN5arrow15ProxyMemoryPool13ReleaseUnusedEv, _ZNK5arrow15ProxyMemoryPool15bytes_allocatedEv,
    _ZNK5arrow15ProxyMemoryPool10max_memoryEv, TOTAL, _ZNK5arrow15ProxyMemoryPool15num_allocationsEv,
    _ZNK5arrow15ProxyMemoryPool12backend_nameB5cxx11Ev MORE};
"""
TOTAL = "_ZNK5arrow15ProxyMemoryPool21total_bytes_allocatedEv"
MODULE = """
import ctypes, types
__file__ = {file!r}
loaded = ctypes.CDLL(__file__)
cpp_version_info = types.SimpleNamespace(major={major})
"""


@pytest.mark.parametrize(
    ("flags", "major", "said"),
    [
        (["-DMORE=,a", f"-DTOTAL={TOTAL}"], 99, "functions that are not known: [11] of 12"),
        (["-DMORE=", "-DTOTAL=another"], 99, f"table has no {TOTAL}"),
        (["-DMORE=", f"-DTOTAL={TOTAL}"], 99, "its library has no _ZTIN5arrow10MemoryPoolE"),
        (["-DMORE=", f"-DTOTAL={TOTAL}"], 19, "its version is 19, and 20 the first that freehold knows"),
    ],
)
def test_F38_a_pyarrow_that_is_not_known_is_left_alone_and_told(tmp_path, flags, major, said):
    """A function more, one less, a library without what is needed, an old version: nothing is called, and the import works."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("it takes a C compiler")
    (tmp_path / "pyarrow").mkdir()
    library = str(tmp_path / "pyarrow" / f"fake{sysconfig.get_config_var('EXT_SUFFIX')}")
    (tmp_path / "fake.c").write_text(LIBRARY)
    subprocess.run([compiler, "-shared", "-fPIC", *flags, tmp_path / "fake.c", "-o", library], check=True)
    (tmp_path / "pyarrow" / "__init__.py").write_text("import pyarrow.lib\n")
    (tmp_path / "pyarrow" / "lib.py").write_text(MODULE.format(file=library, major=major))
    code = """
import sys
sys.path.insert(0, sys.argv[1])
freehold.install()
import pyarrow
print(freehold.install().not_taken["arrow"])
try: freehold.Heap().arrow_pool()
except RuntimeError as problem: print(problem)
"""
    done = python("-c", LOOK + code, tmp_path)
    install, pool = done.stdout.splitlines()

    assert (0, "") == (done.returncode, done.stderr)
    assert install.startswith("pyarrow stays on its own pool: ")
    assert said in install
    assert pool.startswith("this pyarrow can not have a pool of a heap: ")


def test_F38_a_self_test_that_fails_changes_nothing():
    """Where the stand-in does not work as it should, the pool itself is never touched."""
    well("""
import pyarrow as pa
from freehold.face import arrow_layout
right = arrow_layout.what_is_wrong
for wrong in (lambda lib, pool: "it is Monday", lambda lib, pool: 1 / 0):
    arrow_layout.what_is_wrong = wrong
    told = freehold.install().not_taken["arrow"]
    assert told in ("pyarrow stays on its own pool: the self-test failed: it is Monday",
                    "pyarrow stays on its own pool: division by zero"), told
    assert owned(pa.array(range(1000))) == {False} and pa.default_memory_pool().backend_name != "freehold"
arrow_layout.what_is_wrong = right
assert "arrow" in freehold.install().taken and owned(pa.array(range(1000))) == {True}
""")


def test_F38_somebody_elses_functions_in_arrows_pool_are_left_there():
    """A table that is not in Arrow's library: the pool was redirected before. It stays as it is, and is told."""
    well(
        CALLS
        + """
theirs = (c_void_p * 34)(*functions()[:34])
word = ctypes.cast(pool, POINTER(c_void_p))
before, word[0] = word[0], ctypes.addressof(theirs)
told = freehold.install().not_taken["arrow"]
assert "has put functions of its own there: install first" in told, told
assert word[0] == ctypes.addressof(theirs)
word[0] = before
"""
    )


# ---- the commands ----


def test_run_takes_arrow_unless_told_not_to():
    """`freehold run`, its children, `--arrow=no` and `FREEHOLD_ARROW=no`; what is said for config."""
    code = LOOK + "import pyarrow as pa; print(owned(pa.array(range(1000))))"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"

    assert (0, "{True}\n", "") == ended(python("-m", "freehold", "run", "-c", child))
    assert (0, "{False}\n", "") == ended(python("-m", "freehold", "run", "--arrow", "no", "-c", child))
    assert (0, "{False}\n", "") == ended(python("-m", "freehold", "run", "-c", code, FREEHOLD_ARROW="no"))


def test_doctor_says_that_arrow_can_be_taken():
    """It tries, in a fresh process."""
    done = python("-m", "freehold", "doctor")

    assert ["yes", "arrow", "can be taken"] == next(
        line.split(maxsplit=2) for line in done.stdout.splitlines() if line.split()[1:2] == ["arrow"]
    )
