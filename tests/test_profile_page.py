"""The flame graph as its readers meet it: opened in Chromium, steered with the mouse and the keys."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import CHROMIUM, Browser, browser
from freehold.profiles import Frame, Profile, Stack
from freehold.view.profile_text import SOURCE_NAMES
from freehold.view.top_text import size
from profile_dumps import MAIN, MIB, RUN, large, profile, small

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
ROW = 20  # pixels


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


class Page:
    """A profile's page, and where its frames are: by depth, and by their share of the width."""

    def __init__(self, browser: Browser, seen: Profile, path: Path, **how: Any) -> None:
        self.browser, self.seen = browser, seen
        seen.save(path)
        browser.open(path, **how)

    def at(self, depth: int, share: float) -> tuple[float, float]:
        x, y, width = self.browser.run(
            "(r => [r.x, r.y, r.width])(document.querySelector('canvas').getBoundingClientRect())"
        )
        return x + share * width, y + (depth + 0.5) * ROW - self.browser.run(
            "document.querySelector('#graph').scrollTop"
        )

    def click(self, depth: int, share: float) -> None:
        self.browser.click(*self.at(depth, share))

    def told(self) -> str:
        return self.browser.text("#told")

    def press(self, *keys: str) -> None:
        self.browser.press(*keys)

    def choose(self, selector: str) -> None:
        self.browser.run(f"document.querySelector({selector!r}).click()")
        self.browser.settle()

    def look_for(self, text: str) -> str:
        self.press("/", *text)
        return self.browser.text("#found")

    def lines(self) -> list[list[str]]:
        found: list[list[str]] = self.browser.run(
            "[...document.querySelectorAll('#lines tbody tr')].map(row => [...row.cells].map(cell => cell.innerText))"
        )
        return found


@pytest.fixture
def page(chromium: Browser, tmp_path: Path) -> Iterator[Page]:
    yield Page(chromium, small(), tmp_path / "small.html")
    assert [] == chromium.problems()


def test_says_whose_memory_it_is(page: Page) -> None:
    """Title, totals, and how it was measured are the profile's."""
    facts = page.browser.text("#facts")

    assert "Heap profile of process 4711" == page.browser.run("document.title")
    assert "1.08 GiB live, 1,026,827 blocks, estimated" == page.browser.text("#total")
    for fact in ("12 min 34 s", "1.10 GiB", "2.16 GiB", "512 KiB", "2,216", "dropped\n0", "when asked"):
        assert fact in facts


def test_the_legend_has_every_source(page: Page) -> None:
    """With its bytes, the colour of its frames, and its share."""
    legend = page.browser.text("#legend")

    for source, amount in page.seen.by_source().items():
        assert f"{SOURCE_NAMES[source]} {size(amount.live_bytes)}" in " ".join(legend.split())
    hues = page.browser.run("[...document.querySelectorAll('#legend i')].map(x => getComputedStyle(x).backgroundColor)")
    assert len(page.seen.by_source()) == len(set(hues))
    fills = set()
    for share in (0.05, 0.5):  # Arrow, NumPy
        x, y = page.at(4, share)
        fills.add(pixel(page.browser, x, y - 8))
    assert 2 == len(fills)


def pixel(browser: Browser, x: float, y: float) -> tuple[int, ...]:
    script = (
        f"(r => [...document.querySelector('canvas').getContext('2d').getImageData({x} - r.x, {y} - r.y, 1, 1).data])"
    )
    return tuple(browser.run(f"{script}(document.querySelector('canvas').getBoundingClientRect())"))


def test_a_source_can_be_left_out(page: Page) -> None:
    """The rest is drawn, and counted, as if it were all; once more brings it back."""
    page.choose("#legend button")

    assert page.browser.text("#total").startswith(f"{size(600 * MIB)} live of those chosen")
    assert "false" == page.browser.run("document.querySelector('#legend button').getAttribute('aria-pressed')")
    page.choose("#legend button")
    assert page.browser.text("#total").startswith("1.08 GiB live, ")


def test_heaps_can_be_told_apart_instead(page: Page) -> None:
    """Each by its name, with what it has; where there is but one, there is no such choice."""
    page.choose("#heaps")

    assert "default 884 MiB, 80 % model 224 MiB, 20 %" == " ".join(page.browser.text("#legend").split())
    page.choose("#legend button:last-child")
    assert page.browser.text("#total").startswith("884 MiB live of those chosen")
    page.choose("#sources")
    assert page.browser.text("#total").startswith("1.08 GiB live, ")
    assert len(page.seen.by_source()) == page.browser.run("document.querySelector('#legend').children.length")


def test_one_heap_needs_no_colours(chromium: Browser, tmp_path: Path) -> None:
    """Then the choice is not shown."""
    Page(chromium, profile([Stack((MAIN,), 0, "obj", MIB, 1, MIB, 1)]), tmp_path / "x.html")

    assert 0 == chromium.run("document.querySelector('#heaps').offsetWidth")


def test_all_that_was_allocated(page: Page) -> None:
    """A button, and a key; what is freed since is in it."""
    page.press("t")

    assert page.browser.text("#total").startswith(f"{size(4_658 * MIB)} allocated in total, 1,967,068 blocks")
    assert "lstsq" in page.lines()[1][0]
    page.choose("#live")
    assert page.browser.text("#total").startswith("1.08 GiB live")


def test_can_be_shown_first(chromium: Browser, tmp_path: Path) -> None:
    """As `--total` asks."""
    small().save(tmp_path / "x.html", live=False)
    chromium.open(tmp_path / "x.html")

    assert "allocated in total" in chromium.text("#total")


def test_blocks_instead_of_bytes(page: Page) -> None:
    """The picture is of counts then."""
    page.choose("#blocks")

    assert page.browser.text("#total").startswith("1,026,827 blocks live, 1.08 GiB")
    assert ["JSONDecoder.raw_decode json/decoder.py:353", "621,000 blocks"] == page.lines()[0][:2]


def test_a_click_zooms_and_escape_goes_back(page: Page) -> None:
    """To a frame: it is as wide as the picture, and the lines below are those it called."""
    page.click(3, 0.1)

    assert page.told().startswith("load srv/app/etl.py:23 · 481 MiB live · 622,630 blocks")
    assert "43 % of all that is shown · 100 % of what is zoomed to" in page.told()
    assert "Lines below load" == page.browser.text("#caption")
    page.browser.move(*page.at(3, 0.99))
    assert page.browser.text("#tip").startswith("load\n/srv/app/etl.py:23")
    page.press("Escape")
    assert page.told().startswith("all · 1.08 GiB live")
    assert "Lines" == page.browser.text("#caption")


def test_the_button_goes_back_too(page: Page) -> None:
    """It can be pressed only where there is something to go back from."""
    assert page.browser.run("document.querySelector('#reset').disabled")
    page.click(2, 0.1)
    assert not page.browser.run("document.querySelector('#reset').disabled")
    page.choose("#reset")
    assert page.told().startswith("all")


def test_hovering_tells_bytes_blocks_share_and_sources(page: Page) -> None:
    """Of the frame under the mouse; beside the frames nothing."""
    page.browser.move(*page.at(3, 0.5))
    tip = " ".join(page.browser.text("#tip").split())

    assert tip.startswith(
        "clean /srv/app/etl.py:41 379 MiB live 402,136 blocks of 988 B on average 34 % of all that is shown"
    )
    assert "149 MiB allocated here itself" in tip
    assert "348 MiB NumPy arrays 31.0 MiB Python objects" in tip
    page.browser.move(*page.at(5, 0.9))
    assert page.browser.run("document.querySelector('#tip').hidden")


def test_search_tells_how_much_it_found(page: Page) -> None:
    """A frame below one that was found does not count again; what is not found is dimmed."""
    x, y = page.at(4, 0.5)
    before = pixel(page.browser, x, y - 8)

    assert "412 MiB, 37 %" == page.look_for("parquet")
    assert before != pixel(page.browser, x, y - 8)
    page.press("Enter")
    assert page.told().startswith("read_parquet pandas/io/parquet.py:312")
    page.press("Escape")
    assert "" == page.browser.text("#found")
    assert "nothing found" == page.look_for("no such name")


def test_enter_goes_from_one_match_to_the_next(page: Page) -> None:
    """The largest first, and around."""
    assert "69.0 MiB, 6.2 %" == page.look_for("raw_decode")
    page.press("Escape", "Escape")
    page.look_for("app/model")
    page.press("Enter", "Enter")
    assert page.told().startswith("Model.fit")


def test_the_keys_reach_every_frame(page: Page) -> None:
    """Down to the largest callee, up, to the sides; Enter zooms, Backspace goes up by one."""
    page.browser.run("document.querySelector('#graph').focus()")
    steps = [("ArrowDown", "<module>"), ("ArrowDown", "run"), ("ArrowDown", "load"), ("ArrowRight", "clean"),
             ("ArrowDown", "take"), ("ArrowUp", "clean"), ("ArrowLeft", "load")]  # fmt: skip
    for key, name in steps:
        page.press(key)
        assert page.told().startswith(f"{name} ")
    page.press("Enter")
    assert "Lines below load" == page.browser.text("#caption")
    page.press("Backspace")
    assert "Lines below run" == page.browser.text("#caption")


def test_the_order_can_be_turned_round(page: Page) -> None:
    """From the lines that allocated to who called them; the total and the lines stay."""
    lines = page.lines()
    page.press("o")
    page.browser.move(*page.at(1, 0.1))

    assert page.browser.text("#tip").startswith("read_table\n")
    assert lines == page.lines()
    page.click(1, 0.6)
    assert page.told().startswith("Model.fit srv/app/model.py:102 · 160 MiB live")


def test_the_lines_are_the_profiles(page: Page) -> None:
    """As `Profile.top` has them; a press looks for one in the picture."""
    shown = page.lines()

    for line, row in zip(page.seen.top(6), shown, strict=False):
        assert row[0].startswith(line.frame.function)
        assert [size(line.itself.live_bytes), size(line.under.live_bytes)] == [row[1], row[3]]
        assert f"{line.itself.live_count:,}" == row[4]
    page.choose("#lines a")
    assert "412 MiB, 37 %" == page.browser.text("#found")


def test_a_deep_and_wide_profile_is_drawn_at_once(chromium: Browser, tmp_path: Path) -> None:
    """A hundred thousand frames: the total is all of them; it scrolls; only what can be seen is drawn."""
    page = Page(chromium, large(), tmp_path / "large.html")

    assert page.browser.text("#total").startswith(f"{size(page.seen.total().live_bytes)} live")
    assert chromium.run("document.querySelector('#graph').scrollHeight") == ROW * (
        2 + max(len(x.frames) for x in page.seen.stacks) - 1
    )
    drawn = chromium.run(
        "(was => { let n = 0; box = (...how) => { n++; was(...how) }; draw(); box = was; return n })(box)"
    )
    assert 1_000 < drawn < 20_000
    assert 100_000 < chromium.run("tree.count")
    page.click(6, 0.2)
    assert "of what is zoomed to" in page.told()
    assert [] == chromium.problems()


def test_stacks_of_any_depth_can_be_drawn(chromium: Browser, tmp_path: Path) -> None:
    """Ten thousand frames, one in the other."""
    deep = tuple(Frame("/a.py", i, f"f{i}") for i in range(10_000))
    page = Page(chromium, profile([Stack(deep, 0, "numpy", MIB, 1, MIB, 1)]), tmp_path / "deep.html")
    chromium.run("document.querySelector('#graph').scrollTop = 1e9")
    chromium.settle()
    page.click(10_000, 0.5)

    assert page.told().startswith("f0 /a.py:0")
    assert [] == chromium.problems()


@pytest.mark.parametrize(
    "seen", [profile([]), profile([Stack((MAIN, RUN), 0, "obj", 0, 0, 0, 0)])], ids=["none", "zero"]
)
def test_a_profile_of_nothing_is_a_page(chromium: Browser, seen: Profile, tmp_path: Path) -> None:
    """Every button does what it says, and none complains."""
    page = Page(chromium, seen, tmp_path / "empty.html")

    assert page.browser.text("#total").startswith("0 B live")
    for button in ("#allocated", "#blocks", "#up", "#live"):
        page.choose(button)
    page.press("/", "x", "Enter", "Escape", "Escape", "ArrowDown", "Enter")
    assert [] == chromium.problems()


def test_names_are_text_and_never_markup(chromium: Browser, tmp_path: Path) -> None:
    """Wherever they are shown."""
    odd = Frame("<img src=x onerror=alert(1)>.py", 1, "<b id=bad>&amp;</script>")
    page = Page(chromium, profile([Stack((odd,), 0, "obj", MIB, 1, MIB, 1)], {0: "<i id=bad>"}), tmp_path / "odd.html")
    page.browser.move(*page.at(1, 0.5))
    page.click(1, 0.5)

    assert page.told().startswith("<b id=bad>&amp;</script> <img src=x onerror=alert(1)>.py:1")
    assert 0 == chromium.run("document.querySelectorAll('#bad, img').length")
    assert [] == chromium.problems()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_can_be_read_on_light_and_on_dark_paper(chromium: Browser, scheme: str, tmp_path: Path) -> None:
    """Text on every colour of the legend has a contrast of 4.5 to 1, as the accessibility guidelines ask."""
    chromium.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    every = [Stack((MAIN,), 0, source, MIB, 1, MIB, 1) for source in SOURCE_NAMES]
    Page(chromium, profile(every), tmp_path / "x.html")
    colours = chromium.run("""
        (pen => [...colours.flat(), colours.ink].map(colour => {
          pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
        }))(document.createElement('canvas').getContext('2d'))""")
    chromium.ask("Emulation.setEmulatedMedia", features=[])
    *fills, ink = map(luminance, colours)

    assert 5 * len(SOURCE_NAMES) == len(fills)
    assert 4.5 <= min((max(ink, fill) + 0.05) / (min(ink, fill) + 0.05) for fill in fills)


def luminance(colour: list[int]) -> float:
    parts = [x / 3294.6 if x <= 10 else ((x / 255 + 0.055) / 1.055) ** 2.4 for x in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("width", [360, 800, 2_000])
def test_fits_every_window(chromium: Browser, width: int, tmp_path: Path) -> None:
    """Nothing is wider than the window."""
    Page(chromium, small(), tmp_path / "x.html", width=width)

    assert chromium.run("document.documentElement.scrollWidth") <= width


def test_a_picture_can_be_taken(chromium: Browser, tmp_path: Path) -> None:
    """The canvas is not empty: it has as many colours as one would see."""
    Page(chromium, small(), tmp_path / "x.html")
    shot = base64.b64decode(chromium.ask("Page.captureScreenshot")["data"])

    assert shot.startswith(b"\x89PNG")
    many = "(c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size)"
    assert 20 < chromium.run(f"{many}(document.querySelector('canvas'))")
