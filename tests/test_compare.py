"""`freehold run --compare`: the program twice, measured alike; what it does the second time is what it does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from freehold.view import report

RUN = [sys.executable, "-m", "freehold", "run", "--compare"]
ENVIRON = os.environ | {
    "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(":"))))
}
DROPS = """
import numpy as np, time
tables = [np.full(1000, i) for i in range(20_000)]
tables = tables[::1000]
time.sleep(2)
"""


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    options = ({} if "input" in options else {"stdin": subprocess.DEVNULL}) | {"env": ENVIRON} | options
    return subprocess.run([*RUN, *map(str, arguments)], capture_output=True, text=True, timeout=200, **options)


@pytest.fixture
def compared(tmp_path: Path):
    """Run a program as `run` does; return how it ended, and its report."""

    def start(*arguments: object, **options: Any) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        done = run("-f", "-o", tmp_path / "run.json", *arguments, **options)
        figures = json.loads((tmp_path / "run.json").read_text())
        if figures["compared"]["output"]["kept"]:
            started.append(figures["compared"]["output"]["kept"])
        return done, figures

    started: list[str] = []
    yield start
    for path in started:
        os.unlink(path)


def test_what_the_default_allocator_keeps_is_measured(compared) -> None:
    """Both are measured alike: under freehold what was dropped is back at the end, under the default one it is not."""
    done, figures = compared("--decay", "300ms", "-c", DROPS)
    default = figures["compared"]["default"]

    assert (0, "") == (done.returncode, done.stdout)
    assert 150e6 < default["resident_bytes"] <= default["peak_resident_bytes"]
    assert figures["peak_resident_bytes"] > 150e6
    assert figures["resident_bytes"] < 80e6
    assert default["memory"]["at_end"]["malloc"] > 120e6
    assert 0 == default["memory"]["at_end"]["heap_live"] == default["memory"]["at_end"]["heap_idle"]
    assert {0} == {*default["timeline"]["live"]}
    assert max(default["timeline"]["resident"]) > 150e6
    assert 2 < default["wall_seconds"] < 60
    assert default["cpu_seconds"] > 0
    assert default["minor_faults"] > 0


def test_both_stand_side_by_side(compared) -> None:
    """Each line of the report has both columns, and they are what the JSON has."""
    done, figures = compared("-c", "import numpy")
    default = figures["compared"]["default"]

    assert done.stderr == report.figures_as_text(figures)
    assert re.search("^  +default +freehold$", done.stderr, re.MULTILINE)
    for one in (default, figures):
        assert report.in_bytes(one["peak_resident_bytes"]) in done.stderr
    assert "same both times" in done.stderr


def test_no_freehold_is_in_the_default_run(compared) -> None:
    """No heap, no finder, no variable that asks for one; the program's own arguments and folders both times."""
    code = """
import json, os, sys
import numpy
seen = sorted(name for name in sys.modules if name.startswith("freehold"))
maps = "libfreehold" in open("/proc/self/maps").read()
print(json.dumps([os.environ["FREEHOLD"], seen, maps, os.environ.get("LD_PRELOAD"), sys.argv, sys.path]))
"""
    done, figures = compared("--preload", "-c", code, "a", "--report")
    ours = json.loads(done.stdout)
    theirs = json.loads(Path(figures["compared"]["output"]["kept"]).read_text())

    assert ["0", ["freehold", "freehold.view", "freehold.view.at_end"], False, None] == theirs[:4]
    assert ["1", True] == [ours[0], ours[2]]
    assert ours[4:] == theirs[4:]


@pytest.mark.parametrize("code", ["print('x' * 100_000)", "print(len(__import__('sys').stdin.read()))", "pass"])
def test_output_that_is_the_same_is_said_to_be(compared, code: str) -> None:
    """However much it is; nothing of the other run is left behind."""
    done, figures = compared("-c", code, input="line\n" * 50_000)

    assert (
        subprocess.run([sys.executable, "-c", code], input=b"line\n" * 50_000, stdout=-1).stdout == done.stdout.encode()
    )
    assert {"compared": True, "same": True, "differs_at": None, "kept": None, "why": ""} == figures["compared"][
        "output"
    ]


@pytest.mark.parametrize(
    ("code", "differs_at"),
    [
        ("import os; print('same', os.environ['FREEHOLD'])", 5),
        ("import os; print('same'); os.environ['FREEHOLD'] == '1' and print('more')", 5),
        ("import os; print('same'); os.environ['FREEHOLD'] == '0' and print('more')", 5),
        ("import os; os.write(1, b'x' * 200_000 + os.environ['FREEHOLD'].encode())", 200_000),
    ],
)
def test_output_that_differs_is_said_to_and_kept(compared, code: str, differs_at: int) -> None:
    """From which byte on; shown is freehold's, and the default allocator's is in a file."""
    done, figures = compared("-c", code)
    output = figures["compared"]["output"]
    kept = Path(output["kept"]).read_bytes()

    assert (False, differs_at) == (output["same"], output["differs_at"])
    assert kept[:differs_at] == done.stdout.encode()[:differs_at]
    assert kept != done.stdout.encode()
    assert f"differs from byte {differs_at:,} on" in done.stderr


def test_standard_input_is_read_twice(tmp_path: Path, compared) -> None:
    """From a pipe, from a file from where it stands, and from none: the program gets the same both times."""
    code = "import os; print(len(os.read(0, 10)), len(os.fdopen(0).read()))"
    assert "10 90\n" == compared("-c", code, input="x" * 100)[0].stdout
    (tmp_path / "given").write_text("y" * 100)
    with open(tmp_path / "given") as file:
        os.lseek(file.fileno(), 30, os.SEEK_SET)
        done, figures = compared("-c", code, stdin=file)

    assert "10 60\n" == done.stdout
    assert figures["compared"]["output"]["same"]
    assert "0 0\n" == compared("-c", code)[0].stdout


def test_a_program_from_standard_input_runs_twice(compared) -> None:
    """`freehold run --compare -` reads the program for each run."""
    done, figures = compared("-", input="print('hello')")

    assert (0, "hello\n") == (done.returncode, done.stdout)
    assert figures["compared"]["output"]["same"]


@pytest.mark.parametrize(
    ("code", "returncode", "said"),
    [
        ("raise SystemExit(3)", 3, "exit code 3."),
        ("1 / 0", 1, "exit code 1: ZeroDivisionError: division by zero."),
        ("import os; os._exit(7)", 7, "exit code 7."),
        ("import os; os.kill(os.getpid(), 9)", -9, "signal 9."),
        ("import os; os.environ['FREEHOLD'] == '0' and 1 / 0", 0, "exit code 1: ZeroDivisionError: division by zero."),
    ],
)
def test_a_program_that_fails_is_reported_on(compared, code: str, returncode: int, said: str) -> None:
    """The exit code is that of the run under freehold; how the other one ended is said."""
    done, figures = compared("-c", "import time; print(1, flush=True); time.sleep(0.2)\n" + code)

    assert (returncode, "1\n") == (done.returncode, done.stdout)
    assert f"Under the default allocator it ended with {said}" in done.stderr
    assert 1 == done.stderr.count("peak resident")
    assert (returncode or 1) == figures["compared"]["default"]["exit_code"]


def test_a_child_that_keeps_writing_holds_nobody_up(compared) -> None:
    """The program's exit code comes at once; what a child of it writes afterwards still arrives."""
    code = """
import os, sys, time
print("first", flush=True)
if os.fork() == 0:
    time.sleep(1)
    print("second", flush=True)
    os._exit(0)
"""
    done, figures = compared("-c", code)

    assert (0, "first\nsecond\n") == (done.returncode, done.stdout)
    assert figures["compared"]["output"]["compared"]


def test_a_reader_that_goes_away_is_noticed() -> None:
    """As without freehold, a program whose output nobody reads any more fails to write."""
    code = "for n in range(200_000): print(n)"
    shell = f"{sys.executable} -m freehold run --compare -c {code!r} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=200, env=ENVIRON)

    assert "0\n" == done.stdout
    assert "BrokenPipeError" in done.stderr
    assert done.returncode != 0
    for path in re.findall(r"/\S+freehold-default-\S+\.out", done.stderr):
        os.unlink(path)


def test_on_a_terminal_it_is_on_the_terminal() -> None:
    """A program that writes to a terminal goes on doing so: its output is not compared, which is said."""
    import pty

    end, terminal = pty.openpty()
    code = "import os; print(os.isatty(1))"
    done = subprocess.run(
        [*RUN, "-c", code], stdout=terminal, stderr=subprocess.PIPE, text=True, timeout=100, env=ENVIRON
    )
    os.close(terminal)
    shown = os.read(end, 4096).decode()
    os.close(end)

    assert (0, "True\r\n") == (done.returncode, shown)
    assert "not compared: it went to a terminal" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_in_the_midst_of_the_first_run_nothing_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    """The program under the default allocator ends with the command that started it."""
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with subprocess.Popen([*RUN, "-c", code], env=ENVIRON, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.02)
        pid = int((tmp_path / "pid").read_text())
        process.send_signal(number)
        assert -number == process.wait(timeout=30)
    end = time.monotonic() + 20
    while is_running(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_page_shows_both(tmp_path: Path) -> None:
    """The curve and the columns of the default allocator are on the page."""
    path = tmp_path / "run.html"
    assert 0 == run("-o", path, "-c", "import numpy").returncode
    text = path.read_text()
    results = json.loads(re.search(r'<script type="application/json" id="results">(.*)</script>', text)[1])

    assert "<th>default</th><th>freehold</th>" in text
    for look in results["compared"]["default"]["memory"].values():
        assert f'data-bytes="{look["total"]}"' in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--compare"], "freehold run: no program"),
        (["--compare", "nope.py"], "nope.py: no such script"),
        (["--compare", "-o", "x.png", "-c", "pass"], "expected a name that ends in .json, .txt or .html"),
        (["--compare=yes", "-c", "pass"], "freehold run: argument --compare: ignored explicit argument 'yes'"),
        (["--comprae", "-c", "pass"], "there is no option '--comprae'; did you mean --compare?"),
    ],
)
def test_wrong_arguments_are_named_and_nothing_runs(arguments: list[str], said: str) -> None:
    """One line, exit code 2, and neither run was started."""
    done = subprocess.run([*RUN[:-1], *arguments], capture_output=True, text=True, timeout=60, env=ENVIRON)

    assert (2, "", 1) == (done.returncode, done.stdout, done.stderr.count("\n"))
    assert said in done.stderr


def test_output_arrives_whatever_goes_wrong_beside(run_program) -> None:
    """Where the program can not be recorded, this is said once, and what it writes is passed on all the same."""
    done = run_program("""
        import sys, tempfile
        from freehold.view import beside
        def fails(*_): raise RuntimeError("not here")
        beside.Recorder = fails
        beside.stay(beside.Wish([], True, "", default={}, said=tempfile.TemporaryFile()))
        print("x" * 200_000)
    """)

    assert (0, "x" * 200_000 + "\n") == (done.returncode, done.stdout)
    assert "freehold: no report: RuntimeError: not here\n" == done.stderr
