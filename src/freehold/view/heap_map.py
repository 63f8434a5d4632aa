"""`freehold map`: where a process's heap memory is, as a picture: a cell for each so many bytes of addresses.

Thread-safety: functions of their arguments.
Invariant: the table under the picture is what `freehold stats` says, to the byte, and the ranges drawn add up to it
where the process stood still; where they do not, the picture says by how much.
Does not know where inside a range which state is: a cell is filled in proportion.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

from freehold.view.top_text import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from freehold.published import Layer, Range, Snapshot

__all__ = [
    "COLOURS",
    "SIDE",
    "WIDTH",
    "Cell",
    "Picture",
    "Words",
    "as_html",
    "as_svg",
    "cell_bytes",
    "picture",
    "printable",
]

COLOURS = {"active": "#2f6db3", "idle": "#e08e2b", "retained": "#d9dee4"}
CELLS = 3000  # at most, over all ranges
COLUMNS = 80
SIDE, GAP = 9, 1  # of a cell
LEFT, TOP, LINE = 16, 24, 18
WIDTH = 2 * LEFT + COLUMNS * (SIDE + GAP)
LEGEND = {"active": "holds live blocks", "idle": "nobody's, resident", "retained": "addresses alone"}
TABLE = (("live", 250), ("active", 350), ("idle", 450), ("retained", 550), ("mapped", 650))


class Group(NamedTuple):
    """What is drawn together: the ranges of one layer of one heap, by address."""

    title: str
    ranges: list[Range]


class Words(NamedTuple):
    """A text, from *x* on or, where it is a *number*, up to it. *kind*: "title", "small" or nothing."""

    x: int
    y: int
    text: str
    kind: str = ""
    number: bool = False


class Cell(NamedTuple):
    """A square, filled from below with *shares* of colours; *tip*: what stands there."""

    x: int
    y: int
    shares: dict[str, float]
    tip: str = ""


class Picture(NamedTuple):
    """What is to be drawn, on white, whatever draws it."""

    height: int
    shapes: list[Words | Cell]


def groups(seen: Snapshot) -> list[Group]:
    """Return the ranges by heap and layer, in the order of the heaps; those whose place is not told are left out."""
    found = []
    for heap in seen.heaps:
        for layer in heap.layers:
            mine = [r for r in seen.ranges if (r.heap, r.layer) == (heap.id, layer) and r.address]
            if mine:
                title = f"{heap.name}: {layer}, {size(sum(r.size for r in mine))} of addresses"
                found.append(Group(title, sorted(mine, key=lambda r: r.address)))
    return found


def cell_bytes(seen: Snapshot) -> int:
    """Return how many bytes of addresses a cell stands for: a power of two from 64 KiB on."""
    cell = 1 << 16
    while sum(-(-r.size // cell) for r in seen.ranges if r.address) > CELLS and cell < 1 << 62:
        cell *= 2
    return cell


def cells(r: Range, cell: int) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield each cell of a range: its address, and the share of each state in it."""
    shares = {"active": r.active / r.size, "idle": (r.dirty + r.muzzy) / r.size, "retained": r.retained / r.size}
    for i in range(-(-r.size // cell)):
        yield r.address + i * cell, shares


def _tip(address: int, shares: dict[str, float]) -> str:
    told = ", ".join(f"{state} {100 * share:.0f} %" for state, share in shares.items() if share > 0)
    return f"{address:#x}: {told}"


def picture(seen: Snapshot, command: str, when: str) -> Picture:
    """Return the picture of *seen*: whose it is, the legend, the cells of each group, and the table."""
    cell = cell_bytes(seen)
    out, y = _head(seen, command, when, cell)
    for group in groups(seen):
        y += LINE
        out.append(Words(LEFT, y, group.title, "title"))
        y += 6
        column = 0
        for r in group.ranges:
            for address, shares in cells(r, cell):
                if column == COLUMNS:
                    column, y = 0, y + SIDE + GAP
                out.append(Cell(LEFT + column * (SIDE + GAP), y, shares, _tip(address, shares)))
                column += 1
        y += SIDE + GAP + 6
    table, y = _table(seen, y + LINE)
    return Picture(y + LINE, out + table)


def _head(seen: Snapshot, command: str, when: str, cell: int) -> tuple[list[Words | Cell], int]:
    """Return whose memory it is, the legend and the scale, and how far down they reach."""
    scale = f"{when}; a cell is {size(cell)} of addresses or what is left of a range"
    out: list[Words | Cell] = [
        Words(LEFT, TOP, f"process {seen.pid}: {command}"[:110], "title"),
        Words(LEFT, TOP + LINE, scale, "small"),
    ]
    x, y = LEFT, TOP + 2 * LINE
    for state, meaning in LEGEND.items():
        out.append(Cell(x, y - 9, {state: 1.0}))
        out.append(Words(x + SIDE + 5, y, f"{state}: {meaning}", "small"))
        x += 200
    return out, y + 6


def _table(seen: Snapshot, y: int) -> tuple[list[Words | Cell], int]:
    """Return the figures of each heap and their sum, and how far down they reach."""
    total = seen.total()
    out: list[Words | Cell] = [Words(LEFT + x, y, name, "title", number=True) for name, x in TABLE]
    for name, layer in [*((heap.name, heap.total()) for heap in seen.heaps), ("all", total)]:
        y += LINE
        out.append(Words(LEFT, y, name, "title" if name == "all" else ""))
        out += [Words(LEFT + x, y, text, number=True) for text, (_, x) in zip(_sizes(layer), TABLE, strict=True)]
    for line in _remarks(seen, total):
        y += LINE
        out.append(Words(LEFT, y, line, "small"))
    return out, y


def _sizes(layer: Layer) -> Sequence[str]:
    idle = layer.dirty + layer.muzzy
    return [size(n) for n in (layer.allocated, layer.active, idle, layer.retained, layer.mapped)]


def _remarks(seen: Snapshot, total: Layer) -> Iterator[str]:
    """Yield what the picture can not show."""
    unplaced = sum(r.size for r in seen.ranges if not r.address)
    if unplaced:
        yield f"not drawn: {size(unplaced)} in whole blocks for single requests, whose places are not told"
    difference = abs(total.mapped - sum(r.size for r in seen.ranges))
    if difference:
        yield f"the process was at work: drawn and counted differ by {size(difference)}"
    if seen.ranges_left_out:
        yield f"{seen.ranges_left_out} ranges found no room"


# ---- as SVG ----


def as_svg(seen: Snapshot, command: str, when: str) -> str:
    """Return the picture of *seen* as an SVG document."""
    height, shapes = picture(seen, command, when)
    style = (
        "text{font:12px system-ui,sans-serif;fill:#222}.title{font-weight:600}.small{font-size:11px;fill:#555}"
        ".number{text-anchor:end;font-variant-numeric:tabular-nums}"
    )
    drawn = "".join(_text(shape) if isinstance(shape, Words) else _square(shape) for shape in shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#ffffff"/>{drawn}</svg>'
    )


def _text(words: Words) -> str:
    names = " ".join(filter(None, (words.kind, "number" if words.number else "")))
    told = f' class="{names}"' if names else ""
    return f'<text x="{words.x}" y="{words.y}"{told}>{escape(printable(words.text))}</text>'


def printable(text: str) -> str:
    """Return a text that a document can hold: a heap's name may be anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _square(cell: Cell) -> str:
    parts, at = [], float(cell.y + SIDE)
    for state, share in cell.shares.items():
        if share > 0:
            at -= SIDE * share
            parts.append(
                f'<rect x="{cell.x}" y="{at:.2f}" width="{SIDE}" height="{SIDE * share:.2f}" fill="{COLOURS[state]}"/>'
            )
    return f"<g><title>{cell.tip}</title>{''.join(parts)}</g>" if cell.tip else "".join(parts)


def as_html(seen: Snapshot, command: str, when: str) -> str:
    """Return the picture as a page of its own."""
    title = escape(f"heap of process {seen.pid}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width"><style>body{margin:0;background:#fff}svg{max-width:100%;'
        f"height:auto}}</style><body>{as_svg(seen, command, when)}</body></html>\n"
    )
