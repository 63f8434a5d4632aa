"""The lines of a heap profile that allocated most, as a table: for a terminal, as plain text, and for programs.

Thread-safety: functions of their arguments.
Invariant: the three say the same; plain text needs no width, colour or library.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from freehold.view.profile_text import SOURCE_NAMES, change, clean, facts, place
from freehold.view.top_text import size

if TYPE_CHECKING:
    from freehold.profiles import Amount, Line, Profile

__all__ = ["as_dict", "as_text", "show"]

COLUMNS = ("itself", "share", "with callees", "blocks", "line")


def most(profile: Profile, n: int, *, live: bool) -> list[Line]:
    """Return the *n* lines that allocated most themselves; of a difference those that changed most, either way."""
    lines = [line for line in profile.by_line(live=live) if line.itself.bytes(live=live) or line.under.bytes(live=live)]
    if profile.since is not None:
        lines.sort(key=lambda line: (-abs(line.itself.bytes(live=live)), -abs(line.under.bytes(live=live))))
    return lines[:n]


def rows(profile: Profile, n: int, *, live: bool) -> list[tuple[str, ...]]:
    """Return a row for each of these lines, as `COLUMNS` says; a difference has no shares."""
    whole = 0 if profile.since else profile.total().bytes(live=live)
    return [_row(line, whole, _written(profile), live=live) for line in most(profile, n, live=live)]


def _row(line: Line, whole: int, write: Any, *, live: bool) -> tuple[str, ...]:
    itself = line.itself.bytes(live=live)
    return (
        write(itself),
        f"{100 * itself / whole:.1f} %" if whole > 0 else "",
        write(line.under.bytes(live=live)),
        f"{line.itself.count(live=live):,}",
        place(line.frame),
    )


def _written(profile: Profile) -> Any:
    return size if profile.since is None else change


def summary(profile: Profile, *, live: bool) -> list[str]:
    """Return what stands above the table: whose it is, how much there is, and of which sources."""
    write, total = _written(profile), profile.total()
    sources = [(SOURCE_NAMES[name], amount.bytes(live=live)) for name, amount in profile.by_source().items()]
    told = ", ".join(f"{name} {write(amount)}" for name, amount in sources if amount)
    what = "live" if live else "allocated in total"
    lines = [
        "  ".join(f"{name}: {clean(value)}" for name, value in list(facts(profile))[:3]),
        "  ".join(f"{name}: {clean(value)}" for name, value in list(facts(profile))[3:]),
        f"{write(total.bytes(live=live))} {what} in {total.count(live=live):,} blocks, estimated",
        *([f"of it {told}"] if told else []),
    ]
    if profile.dropped > 0:
        lines.append(f"{profile.dropped:,} samples found no room in the tables: their memory is not counted here")
    return lines


def as_text(profile: Profile, n: int, *, live: bool) -> str:
    """Return the table as text, a line for each line of the program."""
    table = [COLUMNS, *rows(profile, n, live=live)]
    widths = [max(len(row[i]) for row in table) for i in range(len(COLUMNS) - 1)]
    lines = [
        "  ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in table
    ]
    return "\n".join([*summary(profile, live=live), "", *lines])


def show(profile: Profile, n: int, *, live: bool) -> None:
    """Print the table on a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for line in summary(profile, live=live):
        console.print(Text(line))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in COLUMNS[:-1]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(COLUMNS[-1], overflow="fold")
    for row in rows(profile, n, live=live):
        table.add_row(*map(Text, row))
    console.print(table)


def as_dict(profile: Profile, n: int, *, live: bool) -> dict[str, Any]:
    """Return the figures by name, with *n* lines; bytes and blocks are numbers, times are ISO 8601."""
    facts_of = ("interval", "pid", "reason", "live_bytes", "peak_bytes", "samples", "dropped")
    times = {name: getattr(profile, name) for name in ("began", "written", "since")}
    return {
        **{name: getattr(profile, name) for name in facts_of},
        **{name: time and time.isoformat() for name, time in times.items()},
        "total": asdict(profile.total()),
        "sources": _dicts(profile.by_source()),
        "heaps": _dicts(profile.by_heap()),
        "lines": [
            {
                **(asdict(line.frame) if line.frame else {"file": None, "line": 0, "function": None, "first_line": 0}),
                "itself": asdict(line.itself),
                "under": asdict(line.under),
            }
            for line in most(profile, n, live=live)
        ],
    }


def _dicts(amounts: dict[str, Amount]) -> dict[str, dict[str, int]]:
    return {name: asdict(amount) for name, amount in amounts.items()}
