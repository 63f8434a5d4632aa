"""The pictures of `freehold map` as a person sees them: in a browser, pixel by pixel. Left out where there is no Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image, ImageChops

from freehold.view import heap_map, map_png, saved_map
from freehold.view.top_text import size
from watched import Child, page_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars", "--window-size=832,900")  # fmt: skip
# Where each text stands, as the browser has laid it out.
ASK = """<script>addEventListener("load", () => {
  const found = [...document.querySelectorAll("text")].map(t => {
    const box = t.getBoundingClientRect(); return [t.textContent, box.left, box.top, box.right, box.bottom]; });
  document.documentElement.innerHTML = "<pre>" + encodeURIComponent(JSON.stringify(found)) + "</pre>"; });</script>"""

needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., str]:
    """Return what has the browser open a file, and returns what it prints."""

    def run(path: Path, *arguments: str) -> str:
        command = [str(BROWSER), *QUIET, f"--user-data-dir={tmp_path / 'profile'}", *arguments, path.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return run


@pytest.fixture
def screenshot(browse, tmp_path: Path) -> Callable[[Path], Image.Image]:
    def take(path: Path) -> Image.Image:
        to = tmp_path / f"{path.name}.seen.png"
        browse(path, f"--screenshot={to}")
        with Image.open(to) as image:
            return image.convert("RGB")

    return take


@pytest.fixture
def drawn(child: Callable[..., Child], tmp_path: Path) -> tuple[saved_map.SavedMap, dict[str, object]]:
    """A map of a process that stands still, as JSON, HTML, SVG and PNG, and what `freehold stats --json` says of it."""
    one = child()
    one.do("kept += [np.ones(n * n % 400_000) for n in range(300)]; heap = freehold.Heap('étl & co', decay='never')")
    one.do("kept += [heap.full(n, 1.0) for n in (100, 30_000, 400_000)]; del kept[::3]")
    page_of(one.pid).close()

    def freehold(*arguments: object) -> str:
        command = [sys.executable, "-m", "freehold", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    freehold("map", one.pid, "-o", tmp_path / "map.json")
    for kind in ("html", "svg", "png"):
        freehold("map", tmp_path / "map.json", "-o", tmp_path / f"map.{kind}")
    return saved_map.load(str(tmp_path / "map.json")), json.loads(freehold("stats", one.pid, "--json"))


def rows_of(said: dict[str, object]) -> list[list[str]]:
    """Return the table as it should be: each heap, and all."""
    heaps = [*said["heaps"], {**said, "name": "all"}]
    return [
        [
            heap["name"],
            size(heap["current_bytes"]),
            size(heap["active_bytes"]),
            size(heap["dirty_bytes"] + heap["muzzy_bytes"]),
            size(heap["retained_bytes"]),
            size(heap["mapped_bytes"]),
        ]
        for heap in heaps
    ]


def darkest(image: Image.Image, box: tuple[float, float, float, float]) -> int:
    return image.crop(tuple(map(round, box))).convert("L").getextrema()[0]


@needs_browser
def test_a_person_sees_title_legend_and_the_processes_own_figures(drawn, browse, screenshot, tmp_path: Path) -> None:
    """Every text stands inside the page, in ink, apart from the others; the figures are those of stats."""
    kept, said = drawn
    page = tmp_path / "map.html"
    (tmp_path / "asked.html").write_text(page.read_text().replace("</body>", f"{ASK}</body>"))
    dump = browse(tmp_path / "asked.html", "--dump-dom")
    encoded = unescape(re.search("<pre>(.*)</pre>", dump).group(1))
    texts = json.loads(unquote(encoded))
    image = screenshot(page)

    names = [text for text, *_ in texts]
    assert names[0] == f"process {kept.seen.pid}: {kept.command}"[:110]
    assert [f"{state}: {meaning}" for state, meaning in heap_map.LEGEND.items()] == names[2:5]
    table = names[names.index("live") + 5 :]
    expected = rows_of(said)
    assert expected == [table[i : i + 6] for i in range(0, 6 * len(expected), 6)]
    for text, *box in texts:
        assert 0 <= box[0] < box[2] <= image.width or text == names[0], text
        assert 0 <= box[1] < box[3] <= image.height, text
        assert darkest(image, box) < 128, text
    for (_, *one), (_, *other) in pairwise(texts):
        assert one[2] <= other[0] or one[3] <= other[1] + 3 or other[3] <= one[1] + 3


@needs_browser
def test_the_colours_seen_are_those_of_the_legend_in_the_share_of_the_states(drawn, screenshot, tmp_path: Path) -> None:
    """Counted in the picture: of what is drawn so much is active, idle and retained."""
    kept, _ = drawn
    image = screenshot(tmp_path / "map.svg")
    shapes = heap_map.picture(*kept).shapes
    cells = [shape for shape in shapes if isinstance(shape, heap_map.Cell)]
    colours = dict(image.getcolors(image.width * image.height))
    by_colour = {colour: count for count, colour in colours.items()}

    for state, colour in heap_map.COLOURS.items():
        rgb = tuple(bytes.fromhex(colour[1:]))
        area = sum(cell.shares.get(state, 0) for cell in cells) * heap_map.SIDE**2
        edges = sum(0 < cell.shares.get(state, 0) < 1 for cell in cells) * 2 * heap_map.SIDE  # mixed where they meet
        assert abs(by_colour[rgb] - area) <= edges, state


@needs_browser
def test_the_svg_and_the_page_look_alike(drawn, screenshot, tmp_path: Path) -> None:
    """To the pixel."""
    pictures = [screenshot(tmp_path / name) for name in ("map.svg", "map.html")]

    assert ImageChops.difference(*pictures).getbbox() is None


def test_the_png_has_the_same_cells_and_every_text(drawn, tmp_path: Path) -> None:
    """Twice as large; each cell begins with its lowest state; ink where texts stand."""
    kept, _ = drawn
    shapes = heap_map.picture(*kept).shapes
    with Image.open(tmp_path / "map.png") as file:
        image = file.convert("RGB")

    for shape in shapes:
        x, y = 2 * shape.x, 2 * shape.y
        if isinstance(shape, heap_map.Words):
            box = (x - 60, y - 20, x, y) if shape.number else (x, y - 20, x + 60, y)
            assert darkest(image, box) < 128, shape.text
        else:
            state = next(state for state, share in shape.shares.items() if share > 0.2)
            at = sum(
                share
                for name, share in shape.shares.items()
                if list(shape.shares).index(name) < list(shape.shares).index(state)
            )
            middle = y + 18 - round(18 * (at + shape.shares[state] / 2))
            assert tuple(bytes.fromhex(heap_map.COLOURS[state][1:])) == image.getpixel((x + 9, middle))


def test_the_png_needs_no_font_of_the_machine(drawn, monkeypatch) -> None:
    """It has accents where the machine's font has them; else letters are written plainly, and none is lost."""
    kept, _ = drawn
    heaps = [replace(heap, name="etl & co") if heap.id else heap for heap in kept.seen.heaps]
    plain = kept._replace(seen=replace(kept.seen, heaps=tuple(heaps)))
    there = [map_png.as_png(*one) for one in (kept, plain)]
    monkeypatch.setattr(map_png, "FONTS", ("there is none.ttf", "nor this.ttf"))
    without = [map_png.as_png(*one) for one in (kept, plain)]

    assert without[0] == without[1]
    assert (there[0] == there[1]) == (there == without)
    assert "etl ?" == map_png._plain("étl 力")
