"""`freehold run`: a program under it is exactly the program under Python, but for where its memory comes from."""

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from freehold.cli import VERBS

PROGRAMS = Path(__file__).parent / "programs"
FREEHOLD = ["-m", "freehold", "run"]
# Programs run in other folders too: what PYTHONPATH names must be found from there.
ENVIRON = os.environ | {
    "PYTHONPATH": os.pathsep.join(
        map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
    )
}


def python(*arguments, **options):
    """Run Python in a fresh process and return it, ended."""
    options = {
        "capture_output": True,
        "text": True,
        "timeout": 120,
        "stdin": subprocess.DEVNULL,
        "env": ENVIRON,
    } | options
    if "input" in options:
        del options["stdin"]
    return subprocess.run([sys.executable, *map(str, arguments)], **options)


def ended(done):
    return done.returncode, done.stdout, done.stderr


# ---- as Python does ----


def facts(before, after, **options):
    done = python(*before, *after, **options)
    assert (0, "") == (done.returncode, done.stderr)
    return json.loads(done.stdout)


@pytest.fixture
def project(tmp_path):
    """A folder with the same program as a script, a module, a package, a folder and a zip file."""
    text = (PROGRAMS / "facts.py").read_text()
    (tmp_path / "package").mkdir()
    for name in ("script.py", "module.py", "package/__main__.py", "package/__init__.py"):
        (tmp_path / name).write_text(text if "init" not in name else "")
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("__main__.py", text)
    return tmp_path


@pytest.mark.parametrize(
    "program",
    [
        ["script.py", "a", "--report", "-m", "--", "-o", "x"],
        ["./script.py"],
        ["-m", "module", "-c", "b"],
        ["-mmodule", "--help"],
        ["-m", "package", "c"],
        ["package", "d"],
        ["app.zip", "e"],
        ["-c", "import runpy; runpy.run_path('script.py', run_name='__main__')", "-f", "--decay"],
        ["-", "read"],
    ],
)
@pytest.mark.parametrize(
    "flags", [[], ["-O", "-X", "dev", "-W", "error::UserWarning"], ["-u", "-B", "-s", "-X", "int_max_str_digits=9999"]]
)
def test_a_program_sees_what_it_sees_under_python(project, program, flags):
    """Arguments, `__main__`, paths, flags, modules, environment, standard input: the same with freehold and without."""
    options = {"cwd": project} | ({"input": (project / "script.py").read_text()} if program[0] == "-" else {})
    plain = facts(flags, program, **options)
    ours = facts([*flags, *FREEHOLD], program, **options)
    for seen in (plain, ours):  # how the flags were written may differ, what they mean may not
        del seen["orig_argv"]

    assert plain == ours


def test_safe_path_passes_on(project):
    """Under `python -P` the program's folder is not in `sys.path`, with freehold and without."""
    assert (
        facts(["-P"], ["script.py"], cwd=project)["path"]
        == facts(["-P", *FREEHOLD], ["script.py"], cwd=project)["path"]
    )


def test_two_dashes_end_our_options(project):
    """After `--` comes the program, with -m and -c too."""
    for program in (["script.py", "a"], ["-m", "module"], ["-c", "print([])"]):
        assert ended(python(*FREEHOLD, *program, cwd=project))[0] == 0
        assert python(*FREEHOLD, *program, cwd=project).stdout == python(
            *FREEHOLD, "--", *program, cwd=project
        ).stdout.replace('"--", ', "")


def test_the_programs_own_sitecustomize_runs(tmp_path):
    """A `sitecustomize` of the user's runs as ever, and is the one that is imported; so does one that fails."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.mine = __name__")
    environ = ENVIRON | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ENVIRON['PYTHONPATH']}"}
    code = "import sys, sitecustomize; print(sys.mine, sitecustomize.__file__)"

    assert f"sitecustomize {tmp_path}/sitecustomize.py\n" == python(*FREEHOLD, "-c", code, env=environ).stdout
    (tmp_path / "sitecustomize.py").write_text("1 / 0")
    failing = python(*FREEHOLD, "-c", "print(1)", env=environ)
    assert (0, "1\n") == (failing.returncode, failing.stdout)
    assert python("-c", "print(1)", env=environ).stderr in failing.stderr


def test_without_a_sitecustomize_there_is_none():
    """Where the user has no `sitecustomize`, importing it fails as ever."""
    done = python(*FREEHOLD, "-S", "-c", "pass")
    assert 2 == done.returncode

    code = "import sys; print('sitecustomize' in sys.modules, 'startup' in str(sys.path)); import sitecustomize"
    plain, ours = python("-c", code), python(*FREEHOLD, "-c", code)
    assert plain.returncode == ours.returncode
    assert plain.stdout == ours.stdout


def test_main_pickles():
    """Functions and classes of `__main__` pickle, to spawned children too."""
    assert (0, "42\n", "") == ended(python(*FREEHOLD, PROGRAMS / "pickles.py"))


@pytest.mark.parametrize(
    "code", ["import sys; sys.exit(7)", "raise SystemExit('bye')", "1 / 0", "import os; os._exit(9)", "x ="]
)
@pytest.mark.parametrize("ours", [[], ["--report"]])
def test_the_exit_code_passes_through(code, ours):
    """However a program ends, its exit code is its own, with a report and without; so is what it writes."""
    plain, done = python("-c", code), python(*FREEHOLD, *ours, "-c", code)

    assert plain.returncode == done.returncode
    assert plain.stdout == done.stdout
    assert plain.stderr in done.stderr if ours else plain.stderr == done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT])
def test_a_signal_kills_the_program_itself(number):
    """The process that was started is the program: a signal reaches it, and it dies by it as under Python."""
    code = "import time; print('ready', flush=True); time.sleep(60)"
    ends = []
    for before in ([], FREEHOLD):
        with subprocess.Popen(
            [sys.executable, *before, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            process.stdout.readline()
            process.send_signal(number)
            told = process.stderr.read().splitlines()  # since 3.13 with marks under the call that it was in: either one
            ends.append(([line for line in told if line.strip(b" ~^")], process.wait(timeout=30)))

    assert ends[0] == ends[1]
    assert -number == ends[1][1]


# ---- on the heap ----


@pytest.mark.parametrize("way", ["self", "fork", "spawn", "forkserver", "subprocess", "os.fork", "loky"])
def test_children_follow(way):
    """The program's arrays, and those of its children however they are started, come from the heap."""
    assert (0, "True\n", "") == ended(python(*FREEHOLD, PROGRAMS / "children.py", way))


def test_children_without_heed_for_pythonpath_do_not_follow_but_work():
    """`python -I` ignores PYTHONPATH: such a child is plain Python."""
    code = """
import subprocess, sys
subprocess.run([sys.executable, '-I', '-c', 'import sys; print("freehold" in sys.modules)'], check=True)
"""

    assert (0, "False\n", "") == ended(python(*FREEHOLD, "-c", code))


def test_children_can_be_switched_off():
    """FREEHOLD=0 in a child's environment leaves it alone."""
    code = """
import os, subprocess, sys
subprocess.run([sys.executable, sys.argv[1], 'self'], env=os.environ | {'FREEHOLD': '0'})
"""

    assert "False\n" == python(*FREEHOLD, "-c", code, PROGRAMS / "children.py").stdout


def test_another_python_is_left_alone(tmp_path):
    """A child under a Python that freehold is not built for starts as ever, without a word."""
    others = [
        path
        for path in (Path.home() / ".pyenv" / "versions").glob("3.*/bin/python")
        if f"3.{sys.version_info.minor}." not in str(path)
    ]
    code = "import subprocess, sys\nfor other in sys.argv[1:]: subprocess.run([other, '-c', 'print(1)'], check=True)"

    assert (0, "1\n" * len(others), "") == ended(python(*FREEHOLD, "-c", code, *others))


def test_numpy_is_not_imported_unless_the_program_does():
    """A program without NumPy has neither NumPy nor the heap in it."""
    code = "import sys; print([name for name in sys.modules if name.startswith(('numpy', 'freehold.face.'))])"

    assert (0, "[]\n", "") == ended(python(*FREEHOLD, "-c", code))


def test_options_reach_the_program_and_its_children():
    """What the command line says is the setting in the program and in its children, above the environment."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'freehold', 'config', '--json'])"
    environ = ENVIRON | {"FREEHOLD_DECAY": "3s", "FREEHOLD_CONF": "huge_pages=never"}
    read = json.loads(python(*FREEHOLD, "--decay", "9s", "-c", code, env=environ).stdout)

    assert ["9s", "never"] == [read["decay"]["value"], read["huge_pages"]["value"]]


def test_a_wrong_name_in_the_environment_is_warned_of_once():
    """One warning, by `freehold run` itself: the program and its children say nothing more."""
    environ = ENVIRON | {"FREEHOLD_DECY": "3s"}
    done = python(*FREEHOLD, PROGRAMS / "children.py", "subprocess", env=environ)

    assert "True\n" == done.stdout
    assert 1 == done.stderr.count("did you mean 'decay'?")


# ---- the report ----


def test_report_figures_are_those_of_the_program(tmp_path):
    """The report says what the program took; as JSON in bytes and seconds. The program's output is untouched."""
    path = tmp_path / "run.json"
    done = python(*FREEHOLD, "--report", "-o", path, PROGRAMS / "sized.py", "3")
    figures = json.loads(path.read_text())

    assert (3, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("freehold\n")
    for word in ("time", "peak resident", "resident at the end", "page faults", "given back", "heap: live"):
        assert re.search(f"^  {word}  ", done.stderr, re.MULTILINE)
    assert 100e6 < figures["peak_resident_bytes"] < 250e6
    assert 0 < figures["cpu_seconds"] < 30
    assert 0 < figures["wall_seconds"] < 30
    assert figures["minor_faults"] > 0
    assert {} == figures["not_taken"]
    assert figures["heap"]["current_bytes"] >= 100_000_000


def test_report_comes_after_an_exception_and_changes_no_exit_code():
    """A program that dies by an exception has its traceback, then the report, and exit code 1."""
    done = python(*FREEHOLD, "--report", PROGRAMS / "sized.py", "trouble")

    assert 1 == done.returncode
    assert done.stderr.index("ValueError: trouble") < done.stderr.index("freehold\n  time")


@pytest.mark.parametrize("way", ["fork", "spawn", "subprocess", "os.fork"])
def test_report_is_of_the_main_process_only(way):
    """Children follow, but do not report."""
    done = python(*FREEHOLD, "--report", PROGRAMS / "children.py", way)

    assert (0, "True\n") == (done.returncode, done.stdout)
    assert 1 == done.stderr.count("peak resident")


def test_report_is_asked_for_by_the_environment_too():
    """FREEHOLD_REPORT=1 is --report."""
    done = python(*FREEHOLD, "-c", "pass", env=ENVIRON | {"FREEHOLD_REPORT": "1"})

    assert re.search("^  not on the heap: numpy +NumPy is not imported yet", done.stderr, re.MULTILINE)


def test_report_never_fails_a_program():
    """Where standard error is closed or full, the exit code is as without a report."""
    command = [sys.executable, *FREEHOLD, "--report", "-c", "pass"]
    with open("/dev/full", "w") as full:
        assert 0 == subprocess.run(command, stderr=full, timeout=60).returncode
    assert 0 == subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *command], timeout=60).returncode


def test_report_is_a_table_on_a_terminal():
    """On a terminal the report is drawn as a table."""
    import pty

    end, terminal = pty.openpty()
    done = subprocess.run([sys.executable, *FREEHOLD, "--report", "-c", "pass"], stderr=terminal, timeout=60)
    os.close(terminal)
    shown = os.read(end, 65536).decode()
    os.close(end)

    assert 0 == done.returncode
    assert "│" in shown
    assert "peak resident" in shown


# ---- wrong input ----


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], f"freehold: no verb: expected one of {', '.join(VERBS)}"),
        (["rnu"], "freehold: argument VERB: invalid choice: 'rnu' (choose from "),
        (["run"], "freehold run: no program: expected a script, -m module, -c command, or - for standard input"),
        (["run", "--reprot", "x.py"], "freehold run: there is no option '--reprot'; did you mean --report?"),
        (["run", "-z", "x.py"], "freehold run: there is no option '-z'; there are "),
        (["run", "nope.py"], "freehold run: nope.py: no such script; expected a file, or a folder or zip file"),
        (["run", "-m"], "freehold run: -m needs a module after it"),
        (["run", "-c"], "freehold run: -c needs a command after it"),
        (["run", "-o"], "freehold run: argument -o/--output: expected one argument"),
        (["run", "-o", "x.png", "-c", "print(1)"], "expected a name that ends in .json, .txt or .html"),
        (["run", "-o", "/nowhere/x.json", "-c", "print(1)"], "there is no folder /nowhere"),
        (["run", "-o", "there.txt", "-c", "print(1)"], "exists already; -f overwrites it"),
        (
            ["run", "--decay", "soon", "-c", "print(1)"],
            "freehold run: decay='soon' is not a duration: expected seconds, text like",
        ),
        (
            ["run", "--huge-pages", "some", "-c", "print(1)"],
            "huge_pages='some' is not known: expected 'auto' or 'never'",
        ),
        (["config", "--jsno"], "freehold config: there is no option '--jsno'; did you mean --json?"),
    ],
)
def test_wrong_input_is_named_in_one_line(tmp_path, arguments, said):
    """One line that names what is wrong and what would be right; exit code 2; nothing was started."""
    (tmp_path / "there.txt").write_text("kept")
    done = python("-m", "freehold", *arguments, cwd=tmp_path)

    assert (2, "", 1) == (done.returncode, done.stdout, done.stderr.count("\n"))
    assert said in done.stderr
    assert "kept" == (tmp_path / "there.txt").read_text()


@pytest.mark.parametrize("flag", ["-I", "-E"])
def test_refuses_to_start_where_it_would_not_take(flag):
    """Under -I and -E the program would start without freehold: said, and not started."""
    code = """
import sys
sys.path[:] = sys.argv[1].split(':')
from freehold.cli import main
sys.exit(main(['run', '-c', 'print(1)']))
"""
    done = python(flag, "-c", code, ":".join(path for path in sys.path if path))

    assert (2, "") == (done.returncode, done.stdout)
    assert "-I, -E or -S" in done.stderr


def test_the_output_file_is_overwritten_when_forced(tmp_path):
    """-f overwrites what is there."""
    path = tmp_path / "run.txt"
    path.write_text("old")

    assert 0 == python(*FREEHOLD, "-f", "-o", path, "-c", "pass").returncode
    assert path.read_text().startswith("freehold\n  time")


def test_version():
    """`freehold --version` says freehold and a number."""
    assert re.fullmatch(r"freehold \d+\S*\n", python("-m", "freehold", "--version").stdout)
