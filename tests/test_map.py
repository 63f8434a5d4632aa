"""`freehold map`: a picture of a process's heap memory, whose sums are the process's own."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from freehold import published
from freehold.cli import map as map_verb
from freehold.view import heap_map, saved_map
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
        ((1, "-o", "x.gif"), 2, "-o x.gif: expected a name that ends in .svg, .png, .html or .json"),
        (("none.json", "-o", "x.svg"), 2, "none.json: No such file or directory"),
        (
            ("there.svg", "-o", "x.svg"),
            2,
            "there.svg: no map, as `freehold map PID -o FILE.json` writes it: JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        ),
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


def test_a_map_is_kept_and_drawn_later(one: Child, tmp_path: Path) -> None:
    """The same picture, of the same moment, once the process is over; PNG has its size."""
    for name in ("kept.json", "now.svg"):
        assert 0 == draw(one.pid, "-o", tmp_path / name).returncode
    one.end()
    for name in ("later.svg", "later.png", "later.html"):
        assert 0 == draw(tmp_path / "kept.json", "-o", tmp_path / name).returncode
    kept = saved_map.load(str(tmp_path / "kept.json"))
    now, later = (ET.parse(tmp_path / name).getroot() for name in ("now.svg", "later.svg"))  # noqa: S314  our own

    def words(root: ET.Element) -> list[str]:
        return [str(text.text) for text in root.iter(SVG + "text") if not str(text.text).startswith("20")]

    assert words(now) == words(later)
    assert (tmp_path / "later.svg").read_text() == heap_map.as_svg(*kept)
    with Image.open(tmp_path / "later.png") as picture:
        assert (2 * heap_map.WIDTH, 2 * heap_map.picture(*kept).height) == picture.size
    assert kept == saved_map.load(str(tmp_path / "kept.json"))


def test_a_picture_is_named_after_the_program(one: Child, tmp_path: Path) -> None:
    """Where no name is given; there already, it is not overwritten unless it may be."""
    environ = {**os.environ, "PYTHONPATH": absolute_path()}
    done = [draw(one.pid, *more, cwd=tmp_path, env=environ) for more in ([], [], ["-f"])]
    name = f"freehold-python.{one.pid}.svg"

    assert [(0, name + "\n"), (2, ""), (0, name + "\n")] == [(each.returncode, each.stdout) for each in done]
    assert f"-o {name}: exists already" in done[1].stderr
    assert [name] == os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("command", "name"),
    [("python train.py --x", "train"), ("python3 -u /a/b/serve.me.py 1", "serve.me"), ("python -m pkg.etl a", "pkg.etl"),
     ("python -c import os", "python"), ("python", "python"), ("?", "_"), ("python ../x/é/..", "..")],
)  # fmt: skip
def test_a_program_is_called_by_its_script(command: str, name: str) -> None:
    """Without folder and ending; a module by its name; nothing that a file's name can not hold."""
    assert name == map_verb._script(command)


def test_a_name_that_no_document_can_hold_is_drawn(one: Child, tmp_path: Path) -> None:
    """With marks for what can not be shown."""
    one.do("odd = freehold.Heap('a\\x01<b>\\ud800\\n'); kept.append(odd.full(1000, 1.0))")
    for name in ("heap.svg", "heap.png"):
        assert 0 == draw(one.pid, "-o", tmp_path / name).returncode

    texts = [text.text for text in ET.parse(tmp_path / "heap.svg").iter(SVG + "text")]  # noqa: S314  our own
    assert "a?<b>??" in texts


def test_without_pillow_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    """Of PNG alone."""
    hide = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'PIL' else f(n, *a)"
    program = f"{hide}; import sys; from freehold.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "map", "1", "-o", str(tmp_path / "x.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (2, 1) == (done.returncode, done.stderr.count("\n"))
    assert "pip install 'freehold[map]'" in done.stderr


BROKEN = st.integers(-(1 << 70), 1 << 70) | st.none() | st.text(max_size=3) | st.lists(st.none(), max_size=2)


@given(where=st.integers(0, 10_000), what=BROKEN)
def test_a_broken_map_is_refused_or_drawn(where: int, what: object) -> None:
    """Whatever stands in a file: never anything but a picture, or one line."""
    read = json.loads(A_MAP)
    places: list[tuple[Any, Any]] = []

    def walk(inside: Any) -> None:
        for key in list(inside) if isinstance(inside, dict) else range(len(inside)):
            places.append((inside, key))
            if isinstance(inside[key], (dict, list)):
                walk(inside[key])

    walk(read)
    inside, key = places[where % len(places)]
    inside[key] = what
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        file.write(json.dumps(read))
        file.flush()
        try:
            kept = saved_map.load(file.name)
        except saved_map.NoMap as problem:
            assert str(problem)
        else:
            ET.fromstring(heap_map.as_svg(*kept))  # noqa: S314  our own


A_LAYER = published.Layer(4096, 8192, 4096, 0, 4096, 0, 1, 1)
A_HEAP = published.Heap(
    0, "default", False, False, 1, None, 5000, 6000, 0, 904, 1.0, dict.fromkeys(published.LAYERS, A_LAYER)
)
A_RANGE = published.Range(1 << 40, 1 << 20, 0, "small", 3, 1 << 19, 1 << 18, 0, 1 << 18)
A_MAP = saved_map.SavedMap(
    published.Snapshot(7, 1.0, 1, 0, 0, 0, 0, 0, 0, 0, 0, (A_HEAP,), {}, (A_RANGE,)), "python x.py", "now"
).to_json()


def test_F53_a_picture_that_finds_no_room_is_removed(one: Child, tmp_path: Path) -> None:
    """The error is told."""
    done = draw(
        one.pid, "-o", tmp_path / "heap.svg", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    )

    assert (1, f"freehold map: -o {tmp_path}/heap.svg: File too large\n") == (done.returncode, done.stderr)
    assert [] == os.listdir(tmp_path)
