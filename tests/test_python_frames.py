"""The Python frames of the calling thread: the same as Python tells, from everywhere that memory is allocated."""

import ctypes
import gc
import itertools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import traceback
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.face import python_frames
from ways_to_call import WAYS, nest

PROGRAMS = Path(__file__).parent / "programs"
# Programs run in other folders too: what PYTHONPATH names must be found from there.
PATH = os.pathsep.join(map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))))
DEPTH = 2000  # more frames than any test has


def said():
    """Return what Python says of the caller's frames."""
    frames = traceback.walk_stack(sys._getframe(1))
    return [(frame.f_code.co_filename, line or 0, frame.f_code.co_qualname) for frame, line in frames]


def look():
    """Return whether the walk tells what Python says; the line is the same for both."""
    walked, told = python_frames.walk(DEPTH), said()
    return walked == told or pytest.fail(f"{walked[:20]} is not {told[:20]}")


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


# ---- what is told ----


@pytest.mark.parametrize("way", WAYS)
def test_the_walk_tells_what_python_says(way):
    """File, line and qualified name of every frame, in each kind of call, and twice in each."""
    assert nest([way], look) is True
    assert nest([way, way], look) is True


@given(st.lists(st.sampled_from(sorted(WAYS)), max_size=8))
def test_the_walk_tells_what_python_says_in_any_nest(ways):
    """Whatever calls whatever."""
    assert nest(ways, look) is True


@pytest.mark.parametrize("way", ["traced", "profiled", "monitored"])
def test_what_watches_a_program_has_frames(way):
    """The tracing function is called, and looked at from within; and the program is while it is watched."""
    looked = []

    assert nest([way], lambda: looked.append(look()) or True) is True
    assert [True] * (1 if way == "monitored" and sys.version_info < (3, 12) else 2) == looked


def test_frames_that_have_not_begun_are_not_told():
    """3.11 collects garbage in any allocation, also in those of a function's cells, before it begins."""
    looked = []

    def with_cells(a):
        def generate(b):
            yield lambda: (a, b)

        return list(generate(a))

    def collected(phase, facts):
        looked.append(look())

    thresholds = gc.get_threshold()
    gc.callbacks.append(collected)
    gc.set_threshold(1)
    try:
        for n in range(50):
            with_cells(n)
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(collected)

    assert looked
    assert all(looked)


def test_module_level_is_told():
    """Code of a module has the name <module>, its file and its lines."""
    code = "from freehold.face import python_frames\n\nprint(python_frames.walk())"

    assert (0, "[('<string>', 3, '<module>')]\n", "") == ended(python("-c", code))


def test_the_depth_is_bounded_to_the_innermost():
    """What is deeper than asked is cut at the outer end; nothing is asked, nothing is told."""

    def dig(n):
        if n:
            return dig(n - 1)
        return [(most, python_frames.walk(most), said()[:most]) for most in (0, 1, 5, 128, 300)]

    for most, walked, told in dig(200):
        assert walked[1:] == told[1:]
        assert len(walked) == min(most, len(told))


def test_a_wrong_depth_is_refused():
    """A negative number is no depth."""
    with pytest.raises(OverflowError):
        python_frames.walk(-1)


def test_lines_move_with_the_program():
    """Each walk is told by the line that it is called on, in a loop and over several lines."""
    here = sys._getframe().f_lineno
    lines = [python_frames.walk(1)[0][1]]
    lines += [
        python_frames.walk(1)[-1][1],
        python_frames.walk(1)[-1][1],
    ]

    assert [here + 1, here + 3, here + 4] == lines


# ---- texts ----


def cut(text, room, *, keep_end):
    """Return a text as UTF-8 that fits, cut at a character."""
    characters = ["\ufffd" if c == "\0" or 0xD800 <= ord(c) <= 0xDFFF else c for c in text]
    while len("".join(characters).encode()) > room:
        del characters[0 if keep_end else -1]
    return "".join(characters)


def told_of(file, function):
    """Return what is told of a function that has these texts."""

    def walk():
        return python_frames.walk(1)

    code = walk.__code__.replace(co_filename=file, co_qualname=function)
    return [told[::2] for told in types.FunctionType(code, globals())()]


TEXTS = [
    "plain",
    "größe",
    "ñ" * 300,
    "имя",
    "名前" * 200,
    "𝕏.😀",
    "😀" * 200,
    "a" * 512,
    "a" * 511 + "é",
    "é" + "a" * 512,
]
TEXTS += ["a" * 255 + "é", "", "x\0y", "\udcff.py", "\ud800\udc00"]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_texts_are_utf8_of_any_kind(text):
    """Latin-1, two and four bytes; too long: of a file the end is kept, of a function the beginning; never half a character."""
    assert [(cut(text, 512, keep_end=True), cut(text, 256, keep_end=False))] == told_of(text, text)


@given(st.text(st.characters(), max_size=700), st.text(st.characters(), max_size=400))
def test_any_text_is_told_as_utf8(file, function):
    """What UTF-8 can not say is U+FFFD."""
    assert [(cut(file, 512, keep_end=True), cut(function, 256, keep_end=False))] == told_of(file, function)


def test_names_and_files_of_a_program_are_told():
    """A program in a file with another script's name, and functions with such names."""
    names = {}
    exec(compile("def größe(then):\n  return then()", "/数据/😀.py", "exec"), names)  # noqa: S102 - ours
    told = names["größe"](lambda: python_frames.walk(2))

    assert ("/数据/😀.py", 2, "größe") == told[1]


# ---- threads, without the GIL ----


class RawFrame(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("code", "place", "name", "first")]


class FrameText(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("line", "first_line", "file_bytes", "function_bytes")),
        ("file", ctypes.c_char * 512),
        ("function", ctypes.c_char * 256),
    ]


WALK_TYPE = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.POINTER(RawFrame), ctypes.c_uint32)
NAME_TYPE = ctypes.CFUNCTYPE(None, ctypes.POINTER(RawFrame), ctypes.POINTER(FrameText))


def walk_released():
    """Return the same as `walk`, but for the caller's own frame: the hooks are called with the GIL let go."""
    walk_hook, name_hook = python_frames.hooks()
    frames, text = (RawFrame * DEPTH)(), FrameText()
    told = []
    for i in range(WALK_TYPE(walk_hook)(frames, DEPTH)):
        NAME_TYPE(name_hook)(ctypes.byref(frames[i]), ctypes.byref(text))
        file, function = bytes(text)[16:528][: text.file_bytes], bytes(text)[528:][: text.function_bytes]
        told.append((file.decode(), text.line, function.decode()))
    return told[1:]


def look_released():
    walked, told = walk_released(), said()
    return walked == told or pytest.fail(f"{walked[:20]} is not {told[:20]}")


@given(st.lists(st.sampled_from(sorted(WAYS)), max_size=6))
def test_frames_are_walked_without_the_gil(ways):
    """Arrow allocates so: the thread's own frames are what they were when it let go."""
    python_frames.install_hooks()

    assert nest(ways, look_released) is True


@pytest.mark.parametrize("way", [look, look_released])
def test_each_thread_has_its_own_frames(way):
    """Threads that walk at once are told nothing of one another."""
    python_frames.install_hooks()
    answers = []

    def work(i):
        ways = list(itertools.islice(itertools.cycle(sorted(WAYS)[i:] + sorted(WAYS)[:i]), 6))
        answers.extend(nest(ways, way) for _ in range(10))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [True] * 40 == answers


PREPARE = f"""
import ctypes, json, sys, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
from freehold.face import python_frames
from test_python_frames import *
"""


def test_before_the_hooks_are_installed_only_who_has_the_gil_has_frames():
    """The end of the interpreter is not waited for yet, so nobody is shown who could be surprised by it."""
    code = (
        PREPARE
        + "print(len(walk_released()), python_frames.install_hooks(), len(walk_released()), len(python_frames.walk()))"
    )

    assert (0, "0 None 1 1\n", "") == ended(python("-c", code))


def test_a_fork_keeps_the_frames():
    """A child walks with and without the GIL, and ends."""
    code = PREPARE + (
        "import os, warnings; warnings.simplefilter('ignore'); python_frames.install_hooks()\n"
        "pid = os.fork()\n"
        "good = look() and look_released()\n"
        "if pid: print(good, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "else: sys.exit(0 if good else 1)\n"
    )

    assert (0, "True 0\n", "") == ended(python("-c", code))


# ---- interpreters that end, and others ----


def test_finalizers_at_the_end_of_python_have_frames():
    """While modules are torn down, whoever has the GIL walks; who lets go of it is told as running no Python."""
    code = """
import ctypes, sys
from freehold.face import python_frames
python_frames.install_hooks()
address, _ = python_frames.hooks()
held, released = (make(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32)(address) for make in (ctypes.PYFUNCTYPE, ctypes.CFUNCTYPE))
class Ends:
    def __del__(self, held=held, released=released, room=ctypes.create_string_buffer(320), out=sys.stdout):
        out.write(f"{held(room, 10)} {released(room, 10)}\\n")
        out.flush()
sys.kept = Ends()
"""

    assert (0, "1 0\n", "") == ended(python("-c", code))


def test_finalizers_of_the_main_module_are_named():
    """They run at the end, too, while our module is still there."""
    code = """
from freehold.face import python_frames
class Ends:
    def __del__(self, walk=python_frames.walk, say=print):
        say(walk())
kept = Ends()
"""

    assert (0, "[('<string>', 5, 'Ends.__del__')]\n", "") == ended(python("-c", code))


IN_ANOTHER = """
import json, sys
from freehold.face import python_frames
def said(frame):
    while frame:
        yield frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname
        frame = frame.f_back
def inner(): return python_frames.walk(), list(said(sys._getframe()))
walked, told = (lambda: [inner() for _ in range(1)][0])()
try:
    python_frames.install_hooks()
    refused = False
except RuntimeError:
    refused = True
with open(OUT, "w") as file:
    json.dump((walked == told, refused, [one[2] for one in walked]), file)
"""


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
@pytest.mark.parametrize("hooks", [False, True])
def test_other_interpreters_have_frames(kind, hooks, tmp_path):
    """Since 3.12 those of the interpreter that runs. 3.11 can not tell it, and has those that called into it, or none."""
    code = f"""
import sys, threading
try: import _interpreters as interpreters
except ImportError: import _xxsubinterpreters as interpreters
from freehold.face import python_frames
if {hooks}: python_frames.install_hooks()
made = interpreters.create({kind!r}) if sys.version_info >= (3, 13) else interpreters.create(isolated={kind == "isolated"})
def enter():
    problem = interpreters.run_string(made, "OUT = " + repr({str(tmp_path / "out")!r}) + {IN_ANOTHER!r})
    assert problem is None, problem
    return [one[2] for one in python_frames.walk()]
print(enter())
interpreters.destroy(made)
print((lambda: [one[2] for one in python_frames.walk()])())
"""
    done = python("-c", code)
    same, refused, names = json.loads((tmp_path / "out").read_text()) if done.returncode == 0 else (None, None, None)
    outer = ["enter", "<module>"] if hooks else []

    assert (0, "['enter', '<module>']\n['<lambda>', '<module>']\n", "") == ended(done)
    assert refused
    assert (same, names) == ((False, outer) if sys.version_info < (3, 12) else (True, names))


# ---- in C ----


@pytest.fixture(scope="module")
def compile_walker(tmp_path_factory):
    """Compile the C that walks: as a library, or as a program with Python in it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("it takes a C compiler")

    def make(name, *options):
        at = tmp_path_factory.mktemp("walker") / name
        include = sysconfig.get_paths()["include"]
        subprocess.run(
            [compiler, "-O2", "-pthread", f"-I{include}", PROGRAMS / "walker.c", "-o", at, *options], check=True
        )
        return at

    return make


@pytest.fixture(scope="module")
def walker(compile_walker):
    """Return the beginning of a program that has the library: `held` keeps the GIL, `released` lets go of it."""
    library = compile_walker("walker.so", "-shared", "-fPIC")
    return PREPARE + (
        f"held, released = ctypes.PyDLL({str(library)!r}), ctypes.CDLL({str(library)!r})\n"
        "python_frames.install_hooks()\n"
        "held.walker_begin(*map(ctypes.c_void_p, python_frames.hooks()))\n"
        "released.walker_spin.restype = released.walker_walks.restype = released.walker_shown.restype = ctypes.c_long\n"
        "held.walker_allocations.restype = released.walker_lives.restype = ctypes.c_long\n"
        "def dig(n, then): return then() if n <= 1 else dig(n - 1, then)\n"
    )


def test_nothing_is_allocated(walker):
    """A thousand walks and all their names call none of Python's allocators, and leave the C library's heap as it is."""
    code = walker + (
        "depth = ctypes.c_int()\n"
        "calls = dig(50, lambda: held.walker_allocations(ctypes.byref(depth)))\n"
        "print(calls, depth.value)\n"
    )

    assert (0, "2 52\n", "") == ended(python("-c", code))


def test_threads_that_are_born_and_die_while_walking(walker):
    """C's threads walk before, in and after a life in Python, beside Python's short threads and a thread without the GIL."""
    code = walker + (
        "wrong = []\n"
        "call = lambda: look() and look_released()\n"
        "def briefly(): wrong.append(not dig(5, call))\n"
        "def spin(): wrong.append(dig(9, lambda: released.walker_spin(ctypes.c_double(2.0), depth)))\n"
        "depth = ctypes.c_int(); counted = []\n"
        "def measure(): counted.append(dig(9, lambda: len(python_frames.walk())))\n"
        "thread = threading.Thread(target=measure); thread.start(); thread.join(); depth = ctypes.c_int(counted[0])\n"
        "spinner = threading.Thread(target=spin); spinner.start()\n"
        "while spinner.is_alive():\n"
        "    some = [threading.Thread(target=briefly) for _ in range(8)]\n"
        "    for one in some: one.start()\n"
        "    wrong.append(released.walker_lives(ctypes.py_object(call), 5, 8))\n"
        "    for one in some: one.join()\n"
        "spinner.join()\n"
        "print(sum(wrong), released.walker_walks() > 1000, len(wrong) > 10)\n"
    )

    assert (0, "0 True True\n", "") == ended(python("-c", code))


ENDS = """
class Ends:
    def __del__(self, shown=held.walker_shown, walks=held.walker_walks, sleep=__import__("time").sleep, say=sys.stdout.write):
        before, then = shown(), walks()
        sleep(0.05)
        say(f"{before > 0} {shown() - before} {walks() > then}\\n")
sys.kept = Ends()
for n in range(3): threading.Thread(target=dig, args=(n * 20, released.walker_spin_for_ever), daemon=True).start()
while released.walker_shown() < 1000: pass
"""


@pytest.mark.parametrize("at_exit", ["", "import atexit; atexit._clear()\n"])
def test_the_interpreter_ends_under_threads_that_walk(walker, at_exit):
    """Daemon threads without the GIL walk for ever. Once Python has freed their states and frames, they are told none.

    Also where a program has dropped what is to be done at exit: then the interpreter's own word is looked at.
    """
    for _ in range(3):
        assert (0, "True 0 True\n", "") == ended(python("-c", walker + at_exit + ENDS))


@pytest.mark.parametrize("lives", [1, 3])
def test_python_embedded_is_ended_and_begun_again(compile_walker, lives):
    """The hooks are called in each life and after it."""
    if lives > 1 and sys.version_info[:2] == (3, 12):
        pytest.skip("3.12 itself can not be initialised twice without a crash")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        pytest.skip("it takes a shared libpython")
    library, version = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDVERSION")
    program = compile_walker("walker", "-DWALKER_EMBEDS", f"-L{library}", f"-Wl,-rpath,{library}", f"-lpython{version}")
    site = os.pathsep.join([PATH, sysconfig.get_paths()["purelib"]])
    environ = os.environ | {"PYTHONPATH": site, "PYTHONHOME": sys.base_prefix}
    done = subprocess.run([program, str(lives)], capture_output=True, text=True, timeout=60, env=environ)

    assert (0, "well\n", "") == ended(done)


def test_the_walk_is_pointer_chasing_only(walker):
    """Ten frames take well under a microsecond, whatever the machine has to do."""
    code = walker + (
        "held.walker_time.restype = ctypes.c_double\n"
        "print(json.dumps([dig(n, lambda: held.walker_time(200, 100)) for n in (10, 100)]))\n"
    )
    done = python("-c", code)
    ten, hundred = json.loads(done.stdout)

    assert ten < 1000
    assert hundred < 10_000
