"""What `freehold top` says, as rows and lines of text: for the terminal, once, and for the live view's tables.

Thread-safety: functions of their arguments.
Invariant: with the widths given here every line fits into 80 columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from freehold.published import Heap, Layer
    from freehold.view.watch import Sample

__all__ = [
    "HEAP_COLUMNS", "LAYER_COLUMNS", "PROCESS_COLUMNS", "SORTS", "heap_rows", "layer_rows", "list_text", "process_rows",
    "process_text", "rates_line", "size", "space_line", "table_lines",
    "title_line",
]  # fmt: skip

WIDTH = 80
PROCESS_COLUMNS = (
    ("pid", 7), ("resident", 9), ("live", 9), ("idle", 9), ("retained", 9), ("heaps", 5), ("cpu %", 5), ("command", 20),
)  # fmt: skip
HEAP_COLUMNS = (
    ("heap", 15), ("live", 9), ("idle", 9), ("retained", 9), ("used", 9), ("limit", 9), ("state", 13),
)  # fmt: skip
LAYER_COLUMNS = (
    ("layer", 15), ("live", 9), ("active", 9), ("idle", 9), ("retained", 9), ("cached", 9), ("blocks", 12),
)  # fmt: skip
TEXTS = {"command", "heap", "layer", "state"}  # columns that begin at the left

SORTS = {
    "resident": lambda sample: -sample.resident,
    "live": lambda sample: -sample.snapshot.total().allocated,
    "idle": lambda sample: -idle(sample.snapshot.total()),
    "cpu": lambda sample: -sample.rates["cpu"],
    "pid": lambda sample: sample.pid,
}


def size(count: float) -> str:
    """Return bytes with three digits that count and a binary unit; at most eight letters."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = 0
    while count >= 999.5 and power < len(units) - 1:
        count /= 1024
        power += 1
    digits = 0 if power == 0 or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:.{digits}f} {units[power]}"


def idle(layer: Layer) -> int:
    """Return what is resident, or may be, and nobody's."""
    return layer.dirty + layer.muzzy


# ---- rows ----


def process_rows(samples: Iterable[Sample], sort: str = "resident") -> list[tuple[str, ...]]:
    """Return a row for each process, as `PROCESS_COLUMNS` says."""
    rows: list[tuple[str, ...]] = []
    for sample in sorted(samples, key=SORTS[sort]):
        total = sample.snapshot.total()
        rows.append((
            str(sample.pid), size(sample.resident), size(total.allocated), size(idle(total)), size(total.retained),
            str(sample.snapshot.heap_count), f"{100 * sample.rates['cpu']:.1f}",
            sample.command if sample.answered else f"(no answer) {sample.command}",
        ))  # fmt: skip
    return rows


def heap_rows(sample: Sample) -> list[tuple[str, ...]]:
    """Return a row for each heap, the one that holds most first, as `HEAP_COLUMNS` says."""
    heaps = sorted(sample.snapshot.heaps, key=lambda heap: -heap.total().allocated)
    return [
        (
            heap.name, size(heap.total().allocated), size(idle(heap.total())), size(heap.total().retained),
            size(heap.used), "none" if heap.limit is None else size(heap.limit), _state(heap),
        )
        for heap in heaps
    ]  # fmt: skip


def _state(heap: Heap) -> str:
    if heap.decay_s is None:
        return "keeps it all"
    return "giving back" if heap.busy and idle(heap.total()) else "at rest"


def layer_rows(sample: Sample) -> list[tuple[str, ...]]:
    """Return a row for each layer of all heaps together, one for their sum, and one for what is beside them."""
    layers = [*sample.snapshot.layers().items(), ("all", sample.snapshot.total())]
    rows = [
        (name, size(x.allocated), size(x.active), size(idle(x)), size(x.retained), size(x.cached), f"{x.blocks:,}")
        for name, x in layers
    ]
    return [*rows, ("books", "", size(sample.snapshot.metadata), "", "", "", "")]


# ---- lines ----


def title_line(sample: Sample) -> str:
    """Return whose figures these are."""
    return f"{sample.pid}  {sample.command}"[:WIDTH]


def space_line(sample: Sample) -> str:
    """Return what the process holds."""
    total = sample.snapshot.total()
    parts = {
        "resident": sample.resident, "live": total.allocated, "idle": idle(total), "retained": total.retained,
    }  # fmt: skip
    return "  ".join(f"{name} {size(value)}" for name, value in parts.items())


def rates_line(sample: Sample) -> str:
    """Return what it does."""
    rates = sample.rates
    return (
        f"faults {rates['faults']:,.0f}/s  OS calls {rates['calls']:,.0f}/s  given back {size(rates['purged'])}/s"
        f"  cpu {100 * rates['cpu']:.1f} %"
    )


def table_lines(columns: Sequence[tuple[str, int]], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Return a line of names, and one for each row."""
    lines = [[name for name, _ in columns], *rows]
    return [
        " ".join(
            cell[:width].ljust(width) if name in TEXTS else cell.rjust(width)
            for cell, (name, width) in zip(line, columns, strict=True)
        ).rstrip()[:WIDTH]
        for line in lines
    ]


def list_text(samples: Sequence[Sample], sort: str = "resident") -> str:
    """Return the list of processes as text."""
    if not samples:
        return "no process of yours is on the freehold heap, or has used it enough yet"
    return "\n".join(table_lines(PROCESS_COLUMNS, process_rows(samples, sort)))


def process_text(sample: Sample) -> str:
    """Return one process as text."""
    no_answer = [] if sample.answered else ["it does not answer: these are the last figures that it published"]
    return "\n".join([
        title_line(sample), space_line(sample), rates_line(sample), *no_answer, "",
        *table_lines(HEAP_COLUMNS, heap_rows(sample)), "",
        *table_lines(LAYER_COLUMNS, layer_rows(sample)),
    ])  # fmt: skip
