"""`freehold profile`: a table on stdout, files of every format, differences; and nothing lost to a wrong word."""

from __future__ import annotations

import gzip
import json
import os
import pty
import resource
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from freehold import cli, published
from freehold.profiles import Profile, Stack
from freehold.published import NotPublished
from profile_dumps import CLEAN, LOAD, MAIN, MIB, RUN, dump, profile, small


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two dumps, in which the commands run."""
    (tmp_path / "small.raw").write_bytes(dump(small()))
    stacks = [Stack((LOAD, MAIN), 0, "numpy", 5 * MIB, 5, 9 * MIB, 9), Stack((RUN, MAIN), 0, "obj", 1, 1, 1, 1)]
    later = [
        Stack((LOAD, MAIN), 0, "numpy", 2 * MIB, 2, 9 * MIB, 9),
        Stack((CLEAN, MAIN), 0, "numpy", 64 * MIB, 1, 64 * MIB, 1),
    ]
    (tmp_path / "before.raw").write_bytes(dump(profile(stacks)))
    (tmp_path / "after.raw").write_bytes(dump(profile(later)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: object, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own; here it must not be found by the folder it runs in."""
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, "-m", "freehold", "profile", *map(str, arguments)], capture_output=True, text=True, timeout=60,
        check=False, env={**os.environ, "PYTHONPATH": path, "TZ": "UTC"}, **how,
    )  # fmt: skip


TABLE = """\
process: 4711  written: 2026-11-21 20:42:34, when asked  profiled for: 12 min 34 s
live in all heaps, exact: 1.10 GiB  peak: 2.16 GiB  a sample each: 512 KiB  samples: 2,216  dropped: 0
1.08 GiB live in 1,026,827 blocks, estimated
of it NumPy arrays 508 MiB, Arrow 412 MiB, Python objects 88.0 MiB, blocks by name 64.0 MiB, C and C++ 24.0 MiB, Python containers 12.0 MiB

 itself   share  with callees   blocks  line
412 MiB  37.2 %       412 MiB    1,630  read_table (pyarrow/parquet/core.py:1843)
230 MiB  20.8 %       230 MiB       96  take (pandas/core/algorithms.py:1211)
160 MiB  14.4 %       160 MiB       12  Model.fit (srv/app/model.py:102)
149 MiB  13.4 %       379 MiB  402,040  clean (srv/app/etl.py:41)
"""


def test_prints_the_lines_that_allocated_most(folder: Path) -> None:
    """Above them whose memory it is, how it was measured, and of which sources."""
    done = command("small.raw", "-n", 4)

    assert (0, "") == (done.returncode, done.stderr)
    assert TABLE == done.stdout


def test_on_a_terminal_it_says_the_same(folder: Path) -> None:
    """In a frame, with what a program calls its functions as text and nothing else."""
    odd = profile([Stack((MAIN,), 0, "obj", MIB, 1, MIB, 1)])
    content = dump(odd).replace(b"<module>", b"[red]x[/")
    (folder / "odd.raw").write_bytes(content)
    for name, words in (
        ("small.raw", ["read_table (pyarrow/parquet/core.py:1843)", "37.2 %"]),
        ("odd.raw", ["[red]x[/ ("]),
    ):
        here, there = pty.openpty()
        child = subprocess.run(
            [sys.executable, "-m", "freehold", "profile", name], stdout=there, stderr=subprocess.PIPE, timeout=60,
            check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "120", "TERM": "xterm"},
        )  # fmt: skip
        os.close(there)
        shown = os.read(here, 1 << 16).decode()
        os.close(here)

        assert (0, b"") == (child.returncode, child.stderr)
        for word in [*words, "with callees"]:
            assert word in shown


def test_total_is_all_that_was_allocated(folder: Path) -> None:
    """Freed since or not."""
    lines = command("small.raw", "--total", "-n", 2).stdout.splitlines()

    assert lines[2].startswith("4.55 GiB allocated in total in 1,967,068 blocks")
    assert ["1.86", "1.17"] == [line.split()[0] for line in lines[-2:]]


def test_json_has_the_same_figures(folder: Path) -> None:
    """As numbers, by the names that Python knows them by."""
    read = json.loads(command("small.raw", "--json", "-n", 2).stdout)
    seen = small()

    assert (seen.pid, seen.interval, seen.samples, None) == (
        read["pid"],
        read["interval"],
        read["samples"],
        read["since"],
    )
    assert "2026-11-21T20:42:34+00:00" == read["written"]
    assert 1108 * MIB == read["total"]["live_bytes"] == sum(x["live_bytes"] for x in read["sources"].values())
    assert ["default", "model"] == list(read["heaps"])
    assert [("read_table", 412 * MIB), ("take", 230 * MIB)] == [
        (x["function"], x["itself"]["live_bytes"]) for x in read["lines"]
    ]


@pytest.mark.parametrize("name", ["x.html", "x.json", "x.pb.gz", "x.txt", "x.collapsed", "x.raw"])
def test_writes_what_the_name_says(folder: Path, name: str) -> None:
    """What `Profile.save` writes, and it says where; a dump byte for byte."""
    done = command("small.raw", "-o", name)
    small().save("expected-" + name)

    assert (0, f"{name}\n", "") == (done.returncode, done.stdout, done.stderr)
    expected = "small.raw" if name == "x.raw" else "expected-" + name
    assert (folder / expected).read_bytes() == (folder / name).read_bytes()


def test_a_format_without_a_file_goes_to_stdout(folder: Path) -> None:
    """So that another tool can read it from there."""
    assert (
        small().encode("collapsed", live=False).decode()
        == command("small.raw", "--format", "collapsed", "--total").stdout
    )
    assert 0 == command("small.raw", "--format", "pprof", "-o", "heap").returncode
    assert gzip.decompress((folder / "heap").read_bytes())


def test_a_reader_who_has_seen_enough_is_no_error(folder: Path) -> None:
    """As `head` is, of more than a pipe holds."""
    stacks = [Stack((MAIN,) * i, 0, "obj", MIB, 1, MIB, 1) for i in range(1, 120)]
    (folder / "long.raw").write_bytes(dump(profile(stacks)))
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", "freehold", "profile", "long.raw", "--format", "collapsed"], stdout=theirs,
        stderr=subprocess.PIPE, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    os.close(theirs)

    assert (0, b"") == (done.returncode, done.stderr)


def test_diff_tells_what_grew(folder: Path) -> None:
    """Between two dumps, what changed most first, and what shrank as such."""
    done = command("--diff", "before.raw", "after.raw")
    lines = done.stdout.splitlines()

    assert (0, "") == (done.returncode, done.stderr)
    assert "growth since: 2026-11-21 20:42:34" in lines[0]
    assert "of it NumPy arrays +61.0 MiB, Python objects -1 B" in lines
    assert ["+64.0 MiB            +64.0 MiB       1  clean (srv/app/etl.py:41)", "-3.00 MiB            -3.00 MiB      -3  load (srv/app/etl.py:23)"] == lines[-4:-2]  # fmt: skip
    assert [64 * MIB, -3 * MIB] == [
        x["itself"]["live_bytes"]
        for x in json.loads(command("--diff", "before.raw", "after.raw", "--json").stdout)["lines"]
    ][:2]
    assert (
        f"run (/srv/app/etl.py:71) {MIB}"
        not in command("--diff", "before.raw", "after.raw", "--format", "collapsed").stdout
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "expected a PID or a FILE, or --diff BEFORE AFTER"),
        (("small.raw", "--diff", "a", "b"), 2, "expected a PID or a FILE, or --diff BEFORE AFTER"),
        (("none.raw",), 2, "none.raw: No such file or directory"),
        ((".",), 2, ".: Is a directory"),
        (("text",), 2, "text: not a heap profile"),
        (("torn.raw",), 2, "torn.raw: truncated: it has 200 of 3318 bytes"),
        (("--diff", "small.raw", "text"), 2, "text: not a heap profile"),
        (("small.raw", "-o", "x.svg"), 2, "-o x.svg: expected a name that ends in .html, .json, .pb.gz, .txt, .collapsed or .raw, or --format"),
        (("small.raw", "-o", "text", "--format", "html"), 2, "-o text: exists already; -f overwrites it"),
        (("small.raw", "-o", "small.raw"), 2, "-o small.raw: exists already; -f overwrites it"),
        (("small.raw", "-o", "no/x.html"), 1, "-o no/x.html: No such file or directory"),
        (("small.raw", "-n", "-1"), 2, "-n -1: expected how many lines, 0 or more"),
        (("small.raw", "--json", "-o", "x.html"), 2, "--json is for the table: it goes to stdout, not to a file"),
        (("--diff", "before.raw", "after.raw", "-o", "x.raw"), 2, "a difference of two profiles can not be written as a dump"),
    ],
)  # fmt: skip
def test_what_can_not_be_done_is_said_in_one_line(
    folder: Path, arguments: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is written."""
    (folder / "text").write_text("mine")
    (folder / "torn.raw").write_bytes(dump(small())[:200])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    assert (code, ("", f"freehold profile: {said}\n")) == (cli.main(["profile", *arguments]), capsys.readouterr())
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_force_overwrites(folder: Path) -> None:
    """What was there is gone."""
    (folder / "x.txt").write_text("mine")

    assert 0 == command("small.raw", "-o", "x.txt", "-f").returncode
    assert small().encode("collapsed") == (folder / "x.txt").read_bytes()


def test_F53_a_file_that_finds_no_room_is_removed(folder: Path) -> None:
    """The error is told."""
    limit = 1000
    done = command(
        "small.raw", "-o", "x.html", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )

    assert (1, "freehold profile: -o x.html: File too large\n") == (done.returncode, done.stderr)
    assert not (folder / "x.html").exists()


def test_digits_are_a_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is asked for a dump, which is kept as it came; a difference may end with one."""
    content = dump(profile(list(small().stacks), {0: "default", 1: "model"}, dropped=3))
    asked = []

    def ask(pid: int, seconds: float) -> bytes:
        asked.append(pid)
        if pid == 1:
            raise NotPublished("process 1 is not yours to look into")
        return content

    monkeypatch.setattr(published, "ask_profile", ask, raising=False)

    assert 0 == cli.main(["profile", "4711", "-o", "x.raw"])
    assert content == (folder / "x.raw").read_bytes()
    assert 0 == cli.main(["profile", "--diff", "before.raw", "4711", "-n", "1"])
    assert 0 == cli.main(["profile", "4711", "-n", "0"])
    assert "3 samples found no room in the tables" in capsys.readouterr().out
    assert 1 == cli.main(["profile", "1"])
    assert "freehold profile: process 1 is not yours to look into\n" == capsys.readouterr().err
    assert [4711, 4711, 4711, 1] == asked


def test_a_binary_format_is_kept_from_a_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it would be noise."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    assert 2 == cli.main(["profile", "small.raw", "--format", "pprof"])
    assert "freehold profile: --format pprof is no text for a terminal: -o FILE writes it\n" == capsys.readouterr().err


def test_times_are_told_as_one_would() -> None:
    """Seconds, minutes, hours."""
    from dataclasses import replace

    from freehold.view.profile_text import facts

    for seconds, said in ((0.25, "0.2 s"), (59, "59.0 s"), (754, "12 min 34 s"), (7_290, "2 h 1 min"), (-5, "0.0 s")):
        seen: Profile = replace(small(), written=small().began + timedelta(seconds=seconds))
        assert said == dict(facts(seen))["profiled for"]
