"""The demo as one HTML file that needs nothing else: the table, a chart for each trouble, the programs themselves.

Everything shown is read from the demo's document, which the page also carries, in `<script id="results">`.
The charts are Plotly's, with its script inside the page (4.8 MB): no network is needed to read it.
Does not: measure or judge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from .demo_table import HEADER, Row, mib, rows, totals

__all__ = ["page"]

HUES = {
    "default": "#e0663c",
    "freehold": "#2a8fd6",
    "jemalloc": "#9a7bd8",
    "mimalloc": "#c29a1f",
    "tcmalloc": "#4fa36c",
}
"""Colours that stand out on light and dark paper."""
DASHES = {"jemalloc": "dash", "mimalloc": "dashdot", "tcmalloc": "dot"}
_MIB = 1 << 20
_SOFT = "#858d96"
_PROMISED = "#2fa866"


def page(document: Mapping[str, Any]) -> str:
    """Return the page that shows *document*."""
    from plotly.offline import get_plotlyjs

    template = Template(Path(__file__).with_name("demo_page.html").read_text(encoding="utf-8"))
    allocators = list(totals(document))
    return template.substitute(
        plotly_js=get_plotlyjs(),
        count=_count(len(document["troubles"])),
        allocators=_listed([f"<b>{escape(name)}</b>" for name in allocators]),
        rounds=_rounds(document),
        tiles="".join(_tile(name, total) for name, total in totals(document).items()),
        header="".join(f"<th>{escape(name)}</th>" for name in HEADER),
        rows="\n".join(_row(row, first=row.cells[1] == allocators[0]) for row in rows(document)),
        cards="\n".join(_card(document, trouble) for trouble in document["troubles"]),
        machine="".join(
            f"<dt>{escape(name)}</dt><dd>{escape(what)}</dd>"
            for name, what in {**document["machine"], "measured": document["made"]}.items()
        ),
        document=json.dumps(document).replace("</", "<\\/"),
    )


def _count(troubles: int) -> str:
    return "One trouble" if troubles == 1 else f"{troubles} troubles"


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _rounds(document: Mapping[str, Any]) -> str:
    size = "" if document["scale"] == 1 else f"Inputs are {document['scale']:.0%} of full size. "
    count = document["rounds_count"]
    shown = (
        f"{count} rounds, alternating: times are medians, memory is of the worst round." if count > 1 else "One round."
    )
    return size + shown


def _hue(allocator: str) -> str:
    return HUES.get(allocator, _SOFT)


def _tile(allocator: str, total: Mapping[str, Any]) -> str:
    return (
        f'<div class="tile" style="--hue:{_hue(allocator)}"><span class="name">{escape(allocator)}</span>'
        f"<b>{total['given_back']} of {total['run']}</b><span>given back 2 s later</span>"
        f"<span>{mib(total['held_bytes'])} MiB still held in all</span>"
        f"<span>{total['seconds']:.2f} s of work in all</span></div>"
    )


def _verdict(given_back: bool, text: str) -> str:
    return f'<span class="verdict {"yes" if given_back else "no"}">{escape(text)}</span>'


def _row(row: Row, *, first: bool) -> str:
    cells = [escape(cell) for cell in row.cells]
    cells[1] = f'<span><i class="dot" style="--hue:{_hue(row.cells[1])}"></i>{cells[1]}</span>'
    cells[-1] = _verdict(row.given_back, row.cells[-1])
    shown = "".join(f'<td data-label="{escape(name)}">{cell}</td>' for name, cell in zip(HEADER, cells, strict=True))
    return f'<tr class="first">{shown}</tr>' if first else f"<tr>{shown}</tr>"


def _card(document: Mapping[str, Any], trouble: Mapping[str, Any]) -> str:
    results = [result for result in document["results"] if result["trouble"] == trouble["name"]]
    chips = "".join(
        _verdict(result["given_back"], f"{result['allocator']}: {mib(result['held_bytes'])} MiB held")
        for result in results
    )
    return (
        f'<article class="card"><h2>{escape(trouble["title"])} <span class="soft">{escape(trouble["name"])}</span></h2>'
        f'<p>{_story(trouble)}</p><div class="chips">{chips}</div>{_chart(trouble["name"], results)}'
        f"<details><summary>The program</summary><pre>{escape(trouble['program'])}</pre></details></article>"
    )


def _story(trouble: Mapping[str, Any]) -> str:
    """Return the story of *trouble* with its reports as links."""
    story: str = escape(trouble["story"])
    for report in trouble["reports"]:
        story = story.replace(report["name"], f'<a href="{escape(report["url"])}">{escape(report["name"])}</a>')
    return story


def _chart(name: str, results: list[dict[str, Any]]) -> str:
    """Resident memory over time under each allocator, in MiB above the start, and what the promise allows."""
    from plotly.graph_objects import Figure

    figure = Figure(
        layout={
            "margin": {"l": 52, "r": 12, "t": 30, "b": 40},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": _SOFT},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "hovermode": "closest",
            "dragmode": False,
            "xaxis": {"title": {"text": "seconds"}, "fixedrange": True, "zeroline": False},
            "yaxis": {"title": {"text": "MiB resident"}, "fixedrange": True, "rangemode": "tozero"},
        }
    )
    for result in results:
        _draw(figure, result)
    if results:
        promised = min(result["live_bytes"] + result["allowed_bytes"] for result in results) / _MIB
        figure.add_hrect(y0=0, y1=promised, fillcolor=_PROMISED, opacity=0.28, line_width=0, layer="below")
    config = {"displayModeBar": False, "responsive": True}
    drawn = figure.to_html(
        full_html=False, include_plotlyjs=False, config=config, default_height="100%", div_id=f"chart-{name}"
    )
    return f'<div class="chart">{drawn}</div>'


def _draw(figure: Any, result: Mapping[str, Any]) -> None:
    allocator = result["allocator"]
    hue, end = _hue(allocator), result["work_seconds"]
    above = [(at, (amount - result["baseline_bytes"]) / _MIB) for at, amount in result["samples"]]
    figure.add_scatter(
        x=[at for at, _ in above],
        y=[round(amount, 2) for _, amount in above],
        name=allocator,
        mode="lines",
        line={"color": hue, "width": 2.5, "dash": DASHES.get(allocator, "solid")},
        hovertemplate="%{y:,.1f} MiB at %{x:.2f} s",
    )
    marks = [next(((at, amount) for at, amount in above if at >= moment), above[-1]) for moment in (end, end + 2.0)]
    figure.add_scatter(
        x=[at for at, _ in marks],
        y=[round(amount, 2) for _, amount in marks],
        name=allocator,
        mode="markers",
        showlegend=False,
        marker={"color": hue, "size": [8, 11], "symbol": ["circle", "diamond"], "opacity": 1},
        text=["work ends", "judged"],
        hovertemplate="%{text}: %{y:,.1f} MiB at %{x:.2f} s",
    )
