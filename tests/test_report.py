"""The report of `freehold run`: whole however the program ends, the same in each form, and without a trace in it."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from freehold.view import report

RUN = [sys.executable, "-m", "freehold", "run"]
ENVIRON = os.environ | {
    "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(":"))))
}
MIB = 1 << 20
GROWS = """
import numpy as np, time
kept = [np.ones(1_000_000) for _ in range(10)]
time.sleep(0.3)
del kept[1:]
time.sleep(1.6)
"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"stdin": subprocess.DEVNULL, "env": ENVIRON} | options
    return subprocess.run([*RUN, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options)


def reported(tmp_path: Path, *program: str, **options: Any) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run *program*; return how it ended, and its report."""
    path = tmp_path / "run.json"
    done = run("-f", "-o", path, *program, **options)
    return done, json.loads(path.read_text())


# ---- what it says ----


def test_memory_over_time_is_that_of_the_program(tmp_path: Path) -> None:
    """Live, idle and resident memory rise and fall as the program takes and drops; purges and the end are marked."""
    done, figures = reported(tmp_path, "--decay", "500ms", "-c", GROWS)
    line, marks = figures["timeline"], figures["marks"]
    high = line["live"].index(max(line["live"]))
    idle = line["dirty"].index(max(line["dirty"]))

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert 80e6 <= max(line["live"]) < 100e6
    assert max(line["resident"]) <= figures["peak_resident_bytes"] < max(line["resident"]) + 30 * MIB
    assert high < idle < len(line["seconds"]) - 1
    assert 72e6 <= line["dirty"][idle] < 90e6
    assert (0, 8e6) <= (line["dirty"][-1], line["live"][-1]) < (1, 10e6)
    assert {"peak", "given back", "end"} == {mark["what"] for mark in marks}
    assert 72e6 <= sum(mark["amount"] for mark in marks if mark["what"] == "given back") < 90e6
    assert ("end", figures["resident_bytes"]) == (marks[-1]["what"], marks[-1]["amount"])
    assert figures["wall_seconds"] == pytest.approx(line["seconds"][-1], abs=0.01)


def test_who_asked_for_the_memory_is_told_by_source_and_by_line(tmp_path: Path) -> None:
    """What was live when most was, also if it is gone by the end; in the text too, and nothing of a default run."""
    program = tmp_path / "job.py"
    program.write_text(
        "import numpy as np\ndef make():\n    return [np.ones(1_000_000) for _ in range(20)]\n"
        "def words():\n    return {str(i): [i] for i in range(400_000)}\nkept = words()\nmake()\ndel kept\n"
    )
    done, figures = reported(tmp_path, "--objects=yes", "--compare", "--report", str(program))
    told = figures["profile"]
    made = next(line for line in told["lines"] if line["file"] == str(program) and line["line"] == 3)

    assert 0 == done.returncode, done.stderr
    assert 140e6 < told["sources"]["numpy"]["peak_bytes"] < 180e6
    assert 20e6 < told["sources"]["obj"]["peak_bytes"] + told["sources"]["mem"]["peak_bytes"] < 120e6
    assert "profile" not in figures["compared"]["default"]
    assert re.search(r"at the peak: NumPy arrays +1[45]\d\.\d MiB", done.stderr), done.stderr
    assert 140e6 < made["peak_bytes"] < 180e6 and f"({program}:3)" in done.stderr


def test_where_the_memory_was_adds_up(tmp_path: Path) -> None:
    """At the peak and at the end the parts are what is resident; the heap's are what its figures say."""
    _, figures = reported(tmp_path, "-c", GROWS.replace("1.6", "0.1"))
    for parts in figures["memory"].values():
        found = {name: size for name, size in parts.items() if name not in ("seconds", "total")}
        assert parts["total"] == sum(found.values())
        assert {*report.PARTS} == {*found}
    end, heap = figures["memory"]["at_end"], figures["heap"]

    assert abs(end["total"] - figures["resident_bytes"]) < 2 * MIB
    assert abs(end["heap_idle"] - heap["dirty_bytes"] - heap["muzzy_bytes"]) < MIB
    assert 8e6 <= end["heap_live"] < 12e6
    assert 80e6 <= figures["memory"]["at_peak"]["heap_live"] + figures["memory"]["at_peak"]["heap_idle"] < 100e6


def test_a_limit_that_is_hit_is_marked(tmp_path: Path) -> None:
    """A request over a limit is in the marks, the table and the heap's own figures."""
    code = """
import freehold, time
heap = freehold.Heap("etl", limit="8MiB")
time.sleep(0.2)
try: heap.full(2_000_000, 1.0)
except MemoryError: print("refused")
time.sleep(0.2)
"""
    done, figures = reported(tmp_path, "--report", "-c", code)

    etl = next(heap for heap in figures["heap"]["heaps"] if heap["name"] == "etl")
    assert "refused\n" == done.stdout
    assert etl["refused_count"] >= 1
    assert etl["refused_count"] == sum(mark["amount"] for mark in figures["marks"] if mark["what"] == "limit")
    assert re.search(f"^  heap: over a limit +{etl['refused_count']} times$", done.stderr, re.MULTILINE)
    assert 8 * MIB == etl["limit_bytes"]


def test_preloaded_what_malloc_gave_is_the_heaps(tmp_path: Path) -> None:
    """With the library preloaded, C's memory is on the heap, and none is glibc's."""
    code = """
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.memset.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
for _ in range(1000): libc.memset(libc.malloc(50_000), 1, 50_000)
"""
    without, preloaded = (
        reported(tmp_path, *option, "-c", code)[1]["memory"]["at_end"] for option in ([], ["--preload"])
    )

    assert 50e6 < without["malloc"] < 60e6
    assert preloaded["malloc"] < MIB
    assert 50e6 < preloaded["heap_live"] < 65e6


# ---- however it ends ----


@pytest.mark.parametrize(
    ("code", "returncode", "by_itself"),
    [
        ("raise SystemExit(3)", 3, True),
        ("1 / 0", 1, True),
        ("import os; os._exit(9)", 9, False),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, False),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15, False),
        ("import ctypes; ctypes.string_at(8)", -11, False),
        ("import threading, time; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()", 0, True),
        ("import threading, time; threading.Thread(target=time.sleep, args=(0.5,)).start()", 0, True),
        ("import os; os.fork()", 0, True),
        ("import os; os.fork() or os._exit(4); os.wait()", 0, True),
        ("import os; os.execv('/bin/sh', ['sh', '-c', 'sleep 0.3; exit 5'])", 5, False),
    ],
)
def test_it_is_whole_however_the_program_ends(tmp_path: Path, code: str, returncode: int, by_itself: bool) -> None:
    """By its end, an exception, a signal, os._exit, with threads and children: one report, and the exit code its own."""
    start = "import numpy as np, time; kept = np.ones(5_000_000); time.sleep(0.4)\n"
    done, figures = reported(tmp_path, "--report", "-c", start + code)

    assert returncode == done.returncode
    assert 1 == done.stderr.count("peak resident")
    assert by_itself == (figures["ended"] == "by itself")
    assert by_itself == ("without a word" not in done.stderr)
    assert figures["peak_resident_bytes"] > 40e6
    assert 40e6 < figures["heap"]["current_bytes"] < 70e6
    assert 0.4 < figures["wall_seconds"] < 60
    assert figures["cpu_seconds"] > 0
    assert max(figures["timeline"]["resident"]) > 40e6


def test_a_signal_from_outside_ends_the_program_not_the_report(tmp_path: Path) -> None:
    """What is sent to the whole group, as a terminal does, reaches the program alone."""
    path = tmp_path / "run.json"
    code = "import time; print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [*RUN, "-o", str(path), "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRON,
        process_group=0,
    ) as process:
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        process.stderr.read()

        assert -signal.SIGINT == process.wait(timeout=30)
    assert json.loads(path.read_text())["resident_bytes"] > 0


def test_the_program_finds_no_trace() -> None:
    """No child to wait for, no thread, no open file, no other parent or group: what it sees is as without a report."""
    code = """
import os, threading
try: os.wait()
except ChildProcessError: print("no children")
print(sorted(os.listdir("/proc/self/fd")), threading.active_count(), len(os.listdir("/proc/self/task")))
print(os.getppid(), os.getpgid(0) == os.getpgid(os.getppid()), os.getsid(0) == os.getsid(os.getppid()))
"""
    plain, told = run("-c", code), run("--report", "-c", code)

    assert (0, plain.stdout) == (told.returncode, told.stdout)


def test_what_goes_wrong_with_the_report_is_one_line() -> None:
    """A file that can not be written: said, and the report is still on stderr; the exit code is the program's."""
    done = run("-f", "-o", "/dev/full/x.json", "-c", "pass")
    assert (2, 1) == (done.returncode, done.stderr.count("\n"))

    done = run("--report", "-f", "-o", "/proc/run.json", "-c", "raise SystemExit(4)")
    assert 4 == done.returncode
    assert 1 == done.stderr.count("no report: ")
    assert "peak resident" in done.stderr


def test_a_program_that_changes_folder_and_stderr_is_reported(tmp_path: Path) -> None:
    """The file is where the command line said; the report goes to the stderr that the program began with."""
    code = "import os, sys; os.chdir('/'); os.close(2); sys.stderr = None"
    done = run("--report", "-o", "run.txt", "-c", code, cwd=tmp_path)

    assert (tmp_path / "run.txt").read_text() == done.stderr
    assert "peak resident" in done.stderr


def test_nobody_waits_for_who_reports() -> None:
    """Whoever reads what the program inherited sees the end of it with the program."""
    reader, writer = os.pipe()
    code = "import time; time.sleep(0.5)"
    with subprocess.Popen(
        [*RUN, "--report", "-c", code], stderr=subprocess.DEVNULL, pass_fds=[writer], env=ENVIRON
    ) as process:
        os.close(writer)
        assert b"" == os.read(reader, 1)
        began = time.monotonic()
        assert 0 == process.wait(timeout=30)
    os.close(reader)

    assert time.monotonic() - began < 20


def test_among_very_many_open_files_it_is_made(tmp_path: Path) -> None:
    """Numbers of files beyond a thousand, inherited, are no hindrance."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3000:
        pytest.skip("so many files may not be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3000, hard))
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(1500)]
    done = run("--report", "-o", tmp_path / "run.json", "-c", "print(1)", pass_fds=files)
    for file in files:
        os.close(file)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert (0, "1\n") == (done.returncode, done.stdout)
    assert "peak resident" in done.stderr


def test_if_who_reports_is_gone_the_program_goes_on() -> None:
    """Killed, it is missed by nobody but who waits for the report: exit code and output are the program's."""
    code = """
import os, signal
mark = os.environ["MARK"].encode()
for pid in filter(str.isdigit, os.listdir("/proc")):
    try: seen = open(f"/proc/{pid}/environ", "rb").read()
    except OSError: continue
    if mark in seen and int(pid) != os.getpid():
        os.kill(int(pid), signal.SIGKILL)
print("went on")
"""
    done = run("--report", "-c", code, env=ENVIRON | {"MARK": f"mark-{os.urandom(8).hex()}"})

    assert (0, "went on\n") == (done.returncode, done.stdout)
    assert re.fullmatch(r"freehold: no report: Connection\w+: .*\n", done.stderr)


def test_where_nobody_listens_the_program_begins() -> None:
    """Told of an address where nobody is, a program starts as ever, on the heap, and says nothing of it."""
    code = "import os, numpy as np; from freehold.face import process_heap as heap; print(heap.owns(np.ones(9).ctypes.data))"
    again = f"os.execv('/proc/self/exe', ['python', '-c', {code!r}])"
    done = run("-c", f"import os; os.environ['FREEHOLD_RUN'] = f'{{os.getpid()}} @nobody'; {again}")

    assert (0, "True\n", "") == (done.returncode, done.stdout, done.stderr)


def test_without_a_page_the_system_still_says(tmp_path: Path) -> None:
    """publish=no: no heap over time; resident memory, and the heap's figures at the end, all the same."""
    _, figures = reported(tmp_path, "--publish", "no", "-c", GROWS.replace("1.6", "0"))

    assert {0} == {*figures["timeline"]["live"][:-1]}
    assert figures["heap"]["current_bytes"] == figures["timeline"]["live"][-1]
    assert max(figures["timeline"]["resident"]) > 80e6
    assert figures["heap"]["current_bytes"] >= 8e6


# ---- its forms ----


class Page(HTMLParser):
    """What is in a page: the figures it carries, its tables by id, and the curves and words of what was drawn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.results: dict[str, Any] = {}
        self.tables: dict[str, list[int]] = {}
        self.curves: dict[str, int] = {}
        self.addresses: list[str] = []
        self._table = self._script = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self._script = found.get("id", "") if tag == "script" else ""
        self._table = found.get("id", self._table) if tag == "table" else self._table
        self.addresses += [found[name] for name in ("src", "href") if name in found]
        if "data-bytes" in found:
            self.tables.setdefault(self._table, []).append(int(found["data-bytes"]))
        if "data-points" in found:
            self.curves[found["data-name"]] = int(found["data-points"])

    def handle_endtag(self, tag: str) -> None:
        self._script = ""

    def handle_data(self, data: str) -> None:
        if self._script == "results":
            self.results = json.loads(data)


def columns(figures: dict[str, Any]) -> list[int]:
    """Return the table of where the memory was, as the page has it: row by row."""
    looks = [look for look in figures["memory"].values() if look]
    parts = [part for part in report.PARTS if any(look[part] for look in looks)]
    return [look[name] for name in [*parts, "total"] for look in looks]


def test_the_page_has_the_figures_and_needs_nothing_else(tmp_path: Path) -> None:
    """Each number of the table is that of the JSON in it; nothing is fetched; a name is text, not markup."""
    path = tmp_path / "run.html"
    done = run("-o", path, "-c", GROWS.replace("1.6", "0"), "</script><b>&$x")
    text = path.read_text()
    page = Page(text)

    assert (0, "") == (done.returncode, done.stderr)
    assert columns(page.results) == page.tables["places"]
    heaps = page.results["heap"]["heaps"]
    assert [heap["current_bytes"] for heap in heaps] == page.tables["heaps"][:: len(page.tables["heaps"]) // len(heaps)]
    assert [] == page.addresses
    assert not re.search(r"https?://(?!www\.w3\.org)|@import|url\(", text)
    assert "<b>&$x" not in text.replace('"<\\/script><b>&$x"', "")
    assert len(text) < 200_000


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here to open the page in")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_drawn(tmp_path: Path, scheme: str) -> None:
    """Opened in a browser: a curve for what is shown, with every moment, and not a word of trouble."""
    path = tmp_path / "run.html"
    assert 0 == run("-o", path, "-c", GROWS.replace("1.6", "0")).returncode
    seen = tmp_path / "seen.html"
    trap = "<script>onerror = problem => document.title = 'trou' + 'ble: ' + problem;</script>"
    seen.write_text(path.read_text().replace("<head>", "<head>" + trap))
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
         f"--blink-settings=preferredColorScheme={int(scheme == 'light')}", "--dump-dom", seen.as_uri()],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    drawn, before = Page(done.stdout), Page(path.read_text())

    assert "trouble: " not in done.stdout
    assert before.results == drawn.results
    assert before.tables == drawn.tables
    points = len(before.results["timeline"]["seconds"])
    assert {"resident": points, "live": points, "dirty": points} == drawn.curves


def test_text_and_json_say_the_same(tmp_path: Path) -> None:
    """What stderr and .txt have is what the .json gives."""
    paths = [tmp_path / "run.txt", tmp_path / "run.json"]
    done = run("--report", "-o", paths[0], "-c", "import numpy")
    again = run("--report", "-o", paths[1], "-c", "import numpy")

    assert done.stderr == paths[0].read_text()
    assert again.stderr == report.figures_as_text(json.loads(paths[1].read_text()))


def test_stats_reads_it(tmp_path: Path) -> None:
    """`freehold stats FILE` shows the heaps of a report, also of a program that was killed."""
    code = "import os, time, numpy as np; kept = np.ones(3_000_000); time.sleep(0.4); os._exit(0)"
    reported(tmp_path, "-c", code)
    done = subprocess.run(
        [sys.executable, "-m", "freehold", "stats", "--json", str(tmp_path / "run.json")],
        capture_output=True,
        text=True,
    )

    assert 24e6 <= json.loads(done.stdout)["current_bytes"] < 40e6
