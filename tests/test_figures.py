"""`freehold stats`, `freehold diff`, `freehold purge`: of a running process, and of files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from freehold import Snapshot
from watched import Child, page_of


def freehold(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "freehold", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def one(child) -> Child:
    """A process with two heaps, some of whose memory is idle, that stands still."""
    started = child()
    started.do(
        "kept += [np.ones(n) for n in (10, 50_000, 1 << 20)]; heap = freehold.Heap('étl', limit='1GiB', decay='never')"
    )
    started.do("kept.append(heap.full(300_000, 1.0)); np.ones(3 << 20)")
    page_of(started.pid).close()
    return started


def test_stats_of_a_process_is_what_it_says_itself(one: Child) -> None:
    """Every figure but the one that the page does not tell; as text too."""
    said = one.do("answer = freehold.stats().as_dict()")
    read = json.loads(freehold("stats", one.pid, "--json").stdout)
    text = freehold("stats", one.pid).stdout
    whose = {name: read.pop(name) for name in ("pid", "command", "time")}

    for figures in (said, *said["heaps"]):
        figures["total_bytes"] = None
    assert said == read
    assert (one.pid, True) == (whose["pid"], whose["command"].startswith("python"))
    assert text.startswith(f"process {one.pid}: python")
    assert f"{said['current_bytes']:,}" in text
    held = next(heap["current_bytes"] for heap in said["heaps"] if heap["name"] == "étl")
    assert f"heap étl: {held:,} bytes in 1 blocks" in text


def test_diff_says_what_has_changed(one: Child, tmp_path: Path) -> None:
    """Of two outputs of stats, of a snapshot and now; as a table and as JSON: the same."""
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(freehold("stats", one.pid, "--json").stdout)
    one.do("kept.append(heap.full(400_000, 1.0))")
    one.do(f"freehold.snapshot().save({str(after)!r})")
    table = freehold("diff", before, after)
    read = json.loads(freehold("diff", before, one.pid, "--json").stdout)
    changed = {(change["heap"], change["name"]): change["difference"] for change in read}

    assert (0, "") == (table.returncode, table.stderr)
    rows = [line.split() for line in table.stdout.splitlines()]
    assert ["heap", "figure", "before", "after", "difference"] == rows[0]
    assert ["étl", "current_count", "1", "2", "+1"] in rows
    assert 1 == changed["étl", "current_count"] == changed[None, "current_count"]
    assert changed["étl", "current_bytes"] == changed[None, "current_bytes"] >= 3_200_000
    assert "nothing has changed\n" == freehold("diff", after, after).stdout
    assert [] == json.loads(freehold("diff", after, after, "--json").stdout)
    assert one.pid == Snapshot.load(after).pid


def test_purge_has_a_process_give_back(one: Child) -> None:
    """What was idle; the second time there is nothing."""
    idle = one.do("answer = freehold.stats().dirty_bytes")
    first, second = freehold("purge", one.pid), freehold("purge", one.pid, "--json")

    assert idle > 20 << 20
    assert 0 == first.returncode
    assert first.stdout.startswith(f"process {one.pid} gave back ")
    assert (0, one.pid) == (second.returncode, json.loads(second.stdout)["pid"])
    assert json.loads(second.stdout)["given_back_bytes"] < 1 << 20
    assert one.do("answer = freehold.stats().dirty_bytes") < 1 << 20


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("stats", 1 << 22), 1, "there is no process 4194304"),
        (("purge", 1 << 22), 1, "there is no process 4194304"),
        (("diff", 1 << 22, "none"), 1, "there is no process 4194304"),
        (("stats", "none"), 2, "none: No such file or directory"),
        (("stats", __file__), 2, "test_figures.py: neither a snapshot, nor what"),
        (("purge", "none"), 2, "invalid int value: 'none'"),
        (("diff", "none"), 2, "the following arguments are required: B"),
    ],
)
def test_what_has_no_figures_is_said_in_one_line(arguments: tuple[object, ...], code: int, said: str) -> None:
    """With an exit code; nothing on stdout."""
    done = freehold(*arguments)

    assert (code, "", 1) == (done.returncode, done.stdout, done.stderr.count("\n"))
    assert said in done.stderr


def test_a_report_of_a_program_that_never_used_the_heap_is_said(tmp_path: Path) -> None:
    """There is nothing to be shown."""
    (tmp_path / "r.json").write_text('{"heap": null}')
    done = freehold("stats", tmp_path / "r.json")

    assert (2, True) == (done.returncode, "never used the heap" in done.stderr)
