"""`freehold map`: a picture of a process's heap memory, whose sums are the process's own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from freehold.view import heap_map
from freehold.view.top_text import size
from watched import Child, page_of

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def one(child) -> Child:
    """A process with two heaps, some of whose memory is idle."""
    started = child()
    started.do("kept += [np.ones(n * n % 400_000) for n in range(300)]; heap = freehold.Heap('a & b', decay='never')")
    started.do("kept += [heap.full(n, 1.0) for n in (100, 30_000, 400_000)]; del kept[::3]")
    page_of(started.pid).close()
    return started


def draw(*arguments: object, **how: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "freehold", "map", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **how)


def test_the_table_is_what_the_process_says(one: Child, tmp_path: Path) -> None:
    """Each heap by its name, and their sum; a process that stands still is drawn whole."""
    said = one.do("answer = freehold.stats().as_dict()")
    done = draw(one.pid, "-o", tmp_path / "heap.svg")
    texts = [text.text for text in ET.parse(tmp_path / "heap.svg").iter(SVG + "text")]  # noqa: S314  our own

    assert (0, f"{tmp_path}/heap.svg\n", "") == (done.returncode, done.stdout, done.stderr)
    at = texts.index("all")
    idle = said["dirty_bytes"] + said["muzzy_bytes"]
    sums = (said["current_bytes"], said["active_bytes"], idle, said["retained_bytes"], said["mapped_bytes"])
    assert [size(n) for n in sums] == texts[at + 1 : at + 6]
    assert {"default", "a & b", "live", "mapped"} <= set(texts)
    assert not [text for text in texts if text and "differ" in text]


def test_the_cells_stand_for_all_the_addresses(one: Child) -> None:
    """No more of them than can be seen; their shares, weighed by what they stand for, are the ranges'."""
    with page_of(one.pid) as page:
        seen = page.map()
    cell = heap_map.cell_bytes(seen)
    placed = [r for r in seen.ranges if r.address]
    drawn = ET.fromstring(heap_map.as_svg(seen, "x", "now")).findall(f"{SVG}g")  # noqa: S314  our own

    assert sum(-(-r.size // cell) for r in placed) == len(drawn) <= heap_map.CELLS
    assert sum(-(-r.size // (cell // 2)) for r in placed) > heap_map.CELLS or cell == 1 << 16
    assert all(1 == pytest.approx(sum(shares.values())) for r in placed for _, shares in heap_map.cells(r, cell))
    titles = [title for title, _ in heap_map.groups(seen)]
    assert {"default: small", "default: extent", "a & b: large"} <= {title.partition(",")[0] for title in titles}


def test_a_page_of_its_own_holds_the_same_picture(one: Child, tmp_path: Path) -> None:
    """With nothing to be loaded from elsewhere; what a name holds is no markup."""
    assert 0 == draw(one.pid, "-o", tmp_path / "heap.html").returncode
    text = (tmp_path / "heap.html").read_text()

    assert text.startswith("<!doctype html>")
    assert "a &amp; b" in text
    assert 1 == text.count("http")  # the name of SVG itself


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((1 << 22, "-o", "x.svg"), 1, "there is no process 4194304"),
        ((1, "-o", "x.png"), 2, "-o x.png: expected a name that ends in .svg or .html"),
        ((1, "-o", "there.svg"), 2, "-o there.svg: exists already; -f overwrites it"),
    ],
)
def test_what_can_not_be_drawn_is_said_in_one_line(
    arguments: tuple[object, ...], code: int, said: str, tmp_path: Path
) -> None:
    """And nothing is written."""
    (tmp_path / "there.svg").write_text("mine")
    done = draw(*arguments, cwd=tmp_path, env={**os.environ, "PYTHONPATH": absolute_path()})

    assert (code, "", f"freehold map: {said}\n") == (done.returncode, done.stdout, done.stderr)
    assert ["there.svg", "mine"] == [os.listdir(tmp_path)[0], (tmp_path / "there.svg").read_text()]


def absolute_path() -> str:
    return os.pathsep.join(map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))))


def test_F53_a_picture_that_finds_no_room_is_removed(one: Child, tmp_path: Path) -> None:
    """The error is told."""
    done = draw(
        one.pid, "-o", tmp_path / "heap.svg", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    )

    assert (1, f"freehold map: -o {tmp_path}/heap.svg: File too large\n") == (done.returncode, done.stderr)
    assert [] == os.listdir(tmp_path)
