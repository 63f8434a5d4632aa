"""The picture of `freehold map` as PNG: for what shows neither SVG nor HTML.

Drawn with Pillow, which brings a font along for a machine that has none; that one knows no letters with accents.
Thread-safety: a function of its arguments.
"""

from __future__ import annotations

import unicodedata
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from freehold.view.heap_map import COLOURS, SIDE, WIDTH, Cell, Words, picture, printable

if TYPE_CHECKING:
    from freehold.published import Snapshot

__all__ = ["as_png"]

SCALE = 2  # pixels for each unit of the picture
SIZES = {"small": 11.0}
INK = {"small": "#555555"}
FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")


def as_png(seen: Snapshot, command: str, when: str) -> bytes:
    """Return the picture of *seen* as a PNG file."""
    height, shapes = picture(seen, command, when)
    image = Image.new("RGB", (WIDTH * SCALE, height * SCALE), "#ffffff")
    draw = ImageDraw.Draw(image)
    for shape in shapes:
        if isinstance(shape, Words):
            _write(draw, shape)
        else:
            _fill(draw, shape)
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _write(draw: ImageDraw.ImageDraw, words: Words) -> None:
    pixels, text = SIZES.get(words.kind, 12.0) * SCALE, printable(words.text)
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    try:
        font = ImageFont.truetype(FONTS[words.kind == "title"], pixels)
    except OSError:
        font, text = ImageFont.load_default(pixels), _plain(text)
    draw.text(
        (words.x * SCALE, words.y * SCALE), text, INK.get(words.kind, "#222222"), font,
        anchor="rs" if words.number else "ls",
    )  # fmt: skip


def _plain(text: str) -> str:
    """Return a text without what Pillow's own font does not know: accents go, all else becomes a mark."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() else "?" for letter in letters)


def _fill(draw: ImageDraw.ImageDraw, cell: Cell) -> None:
    bottom = float((cell.y + SIDE) * SCALE)
    for state, share in cell.shares.items():
        top = bottom - SIDE * SCALE * share
        if round(top) < round(bottom):
            left = cell.x * SCALE
            draw.rectangle((left, round(top), left + SIDE * SCALE - 1, round(bottom) - 1), COLOURS[state])
        bottom = top
