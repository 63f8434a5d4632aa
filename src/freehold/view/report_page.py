"""The report of `freehold run -o run.html`: one file that needs nothing else, no network, no other program.

Everything shown is read from the report, which the page also carries, in `<script id="results">`; the curves are drawn
from there by a script in the page.
Thread-safety: functions of their arguments.
Does not: measure, or judge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from . import report
from .profile_text import SOURCE_NAMES
from .report import in_bytes
from .sources import PARTS

__all__ = ["page"]

PART_HUES = {
    "heap_live": "#2a8fd6",
    "heap_idle": "#8cc6ef",
    "malloc": "#e0663c",
    "other": "#9a7bd8",
    "files": "#c29a1f",
    "shared": "#4fa36c",
    "stacks": "#858d96",
}
"""Colours that stand out on light and dark paper; the heap's and the C library's are those of the demo."""
HUES = {"freehold": "#2a8fd6", "default": "#e0663c"}
_OF_A_HEAP = {
    "current_bytes": "live",
    "active_bytes": "active",
    "dirty_bytes": "dirty",
    "muzzy_bytes": "muzzy",
    "retained_bytes": "retained",
    "metadata_bytes": "books",
    "peak_bytes": "peak",
    "limit_bytes": "limit",
}


def page(figures: Mapping[str, Any]) -> str:
    """Return the page that shows the report *figures*."""
    template = Template(Path(__file__).with_name("report_page.html").read_text(encoding="utf-8"))
    return template.substitute(
        program=escape(" ".join(figures["program"])),
        tiles="".join(_tiles(figures)),
        notes="".join(f'<p class="soft">{escape(note)}</p>' for note in report.notes(dict(figures))),
        head=_head(figures),
        rows="\n".join(_row(row, compared=bool(figures["compared"])) for row in report.rows(dict(figures))),
        places=_places(figures),
        heaps=_heaps(figures),
        lines=_lines(figures),
        events=_events(figures),
        document=json.dumps(figures).replace("</", "<\\/"),
    )


def _tiles(figures: Mapping[str, Any]) -> list[str]:
    runs = [("freehold", figures)]
    if figures["compared"]:
        runs.insert(0, ("default", figures["compared"]["default"]))
    return [
        f'<div class="tile" style="--hue:{HUES[name]}"><span class="name">{name}</span>'
        f"<b>{in_bytes(run['peak_resident_bytes'])}</b><span>resident at the peak</span>"
        f"<span>{in_bytes(run['resident_bytes'])} resident at the end</span>"
        f"<span>{run['wall_seconds']:.2f} s, {run['cpu_seconds']:.2f} s of CPU</span></div>"
        for name, run in runs
    ]


def _head(figures: Mapping[str, Any]) -> str:
    return "".join(f"<th>{name}</th>" for name in ("", *(("default",) if figures["compared"] else ()), "freehold"))


def _row(row: report.Row, *, compared: bool) -> str:
    cells = (row.default, row.freehold) if compared else (row.freehold,)
    return f"<tr><th>{escape(row.name)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _places(figures: Mapping[str, Any]) -> str:
    """Where the resident memory was: a bar, and a table whose columns add up, for each moment that was looked at."""
    looks = [("freehold", figures)]
    if figures["compared"]:
        looks.insert(0, ("default", figures["compared"]["default"]))
    found = [
        (name, when, run["memory"][key])
        for name, run in looks
        for key, when in (("at_peak", _when(run)), ("at_end", "at the end"))
        if run["memory"][key]
    ]
    if not found:
        return '<p class="soft">The program ended before it could be looked at.</p>'
    bars = "".join(_bar(f"{name}, {when}", parts) for name, when, parts in found)
    head = "".join(f"<th>{name}<br>{when}</th>" for name, when, _ in found)
    used = [part for part in PARTS if any(parts[part] for _, _, parts in found)]
    rows = "".join(
        f'<tr><th><i class="dot" style="--hue:{PART_HUES[part]}"></i>{escape(PARTS[part])}</th>'
        + "".join(_cell(parts[part]) for _, _, parts in found)
        + "</tr>"
        for part in used
    )
    total = "".join(_cell(parts["total"]) for _, _, parts in found)
    return (
        f'<div class="card bars">{bars}</div><div class="table"><table id="places">'
        f"<thead><tr><th></th>{head}</tr></thead>"
        f'<tbody>{rows}<tr class="sum"><th>resident</th>{total}</tr></tbody></table></div>'
    )


def _when(run: Mapping[str, Any]) -> str:
    peak = run["memory"]["at_peak"]
    return f"highest seen, {peak['seconds']:.1f} s" if peak else ""


def _bar(name: str, parts: Mapping[str, int]) -> str:
    pieces = "".join(
        f'<i style="--hue:{PART_HUES[part]};flex-grow:{parts[part]}"'
        f' title="{escape(PARTS[part])}: {in_bytes(parts[part])}"></i>'
        for part in PARTS
        if parts[part]
    )
    head = f'<div class="look"><span>{escape(name)}</span><span>{in_bytes(parts["total"])}</span></div>'
    return f'{head}<div class="bar">{pieces}</div>'


def _cell(amount: int | None) -> str:
    return "<td></td>" if amount is None else f'<td data-bytes="{amount}">{in_bytes(amount)}</td>'


def _heaps(figures: Mapping[str, Any]) -> str:
    heap = figures["heap"]
    if heap is None:
        return '<p class="soft">There was no heap: nothing was allocated there.</p>'
    head = "".join(f"<th>{name}</th>" for name in ("", *_OF_A_HEAP.values(), "blocks", "over the limit"))
    rows = "".join(
        f"<tr><th>{escape(str(one['name']))}</th>{''.join(_cell(one[name]) for name in _OF_A_HEAP)}"
        f"<td>{one['current_count']:,}</td><td>{one['refused_count']:,}</td></tr>"
        for one in heap["heaps"]
    )
    return f'<div class="table"><table id="heaps"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _lines(figures: Mapping[str, Any]) -> str:
    """Who asked for the memory that was live when most was, and from which lines."""
    profile = figures["profile"]
    if profile is None or not profile["samples"]:
        return '<p class="soft">Nothing was sampled.</p>'
    head = "<thead><tr><th></th><th>live when most was</th><th>allocated in all</th></tr></thead>"
    sources = "".join(
        f"<tr><th>{escape(SOURCE_NAMES[name])}</th>{_cell(sums['peak_bytes'])}{_cell(sums['total_bytes'])}</tr>"
        for name, sums in profile["sources"].items()
    )
    lines = "".join(
        f"<tr><th>{escape(line['function'])}<br><small>{escape(_place(line))}</small></th>"
        f"{_cell(line['peak_bytes'])}{_cell(line['total_bytes'])}</tr>"
        for line in profile["lines"]
    )
    return (
        f'<div class="table"><table id="sources">{head}<tbody>{sources}</tbody></table></div>'
        f'<div class="table"><table id="lines">{head}<tbody>{lines}</tbody></table></div>'
        f'<p class="soft">Estimated from {profile["samples"]:,} samples, one for each'
        f" {in_bytes(profile['interval_bytes'])} in the mean.</p>"
    )


def _place(line: Mapping[str, Any]) -> str:
    return f"{line['file']}:{line['line']}" if line["file"] else ""


def _events(figures: Mapping[str, Any]) -> str:
    """Return what the marks say in one sentence."""
    marks = figures["marks"]
    back = [mark for mark in marks if mark["what"] == "given back"]
    limit = [mark for mark in marks if mark["what"] == "limit"]
    found = [f"Green marks: {in_bytes(sum(mark['amount'] for mark in back))} were given back"] if back else []
    found += [f"{sum(mark['amount'] for mark in limit):,} times something was over a limit"] if limit else []
    return escape("; ".join(found) + ".") if found else ""
