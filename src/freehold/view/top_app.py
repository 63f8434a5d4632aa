"""`freehold top` live: a list of processes, and a screen for each, redrawn as they change.

Keys: Enter looks into a process, Escape goes back, `s` changes what the list is sorted by, `f` freezes what is shown,
`p` has the process give everything idle back, `q` ends.

Thread-safety: what is seen belongs to Textual's event loop; processes are asked in a thread, one look at a time.
Does not need colour: what is marked is marked in words.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.coordinate import Coordinate
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Sparkline, Static

from freehold.view import top_text
from freehold.view.watch import Sample, Watch, Watches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.worker import Worker

__all__ = ["TopApp"]

DRAW_EVERY_S = 0.45  # at most: who looks more often sees it in the curves
PLOT_EVERY_S = 2.0  # a curve shows minutes


def _fill(table: DataTable[Text], columns: Sequence[tuple[str, int]], rows: Sequence[tuple[str, ...]]) -> None:
    """Show *rows*, which begin with their keys; what the cursor is on stays under it. What is as it was stays drawn."""
    if not table.columns:
        for i, (name, width) in enumerate(columns):
            table.add_column(_cell(name, name, gap=i > 0), key=name, width=width + (i > 0))
    keys = [row[0] for row in rows]
    if not _fit(table, columns) and keys == [str(key.value) for key in table.rows]:
        for i, row in enumerate(rows):
            for j, text in enumerate(row):
                if table.get_cell_at(Coordinate(i, j)).plain.lstrip() != text.lstrip():
                    table.update_cell_at(Coordinate(i, j), _cell(text, columns[j][0], gap=j > 0))
        return
    selected = _selected(table)
    table.clear()
    for row in rows:
        table.add_row(*(_cell(text, columns[j][0], gap=j > 0) for j, text in enumerate(row)), key=row[0])
    if selected in keys:
        table.move_cursor(row=keys.index(selected))


def _fit(table: DataTable[Text], columns: Sequence[tuple[str, int]]) -> bool:
    """Give the command what the other columns leave; return whether that has changed anything."""
    if columns[-1][0] != "command":
        return False
    *others, last = table.ordered_columns
    before, last.width = last.width, max(columns[-1][1], table.size.width - sum(column.width for column in others))
    return before != last.width


def _cell(text: str, column: str, *, gap: bool) -> Text:
    """Return what stands in a column; *gap*: with a space before it."""
    left = column in top_text.TEXTS
    return Text(
        f" {text}" if left and gap else text, justify="left" if left else "right", no_wrap=True, overflow="ellipsis"
    )


def _selected(table: DataTable[Text]) -> str:
    """Return the key of the row under the cursor, an empty text if there is none."""
    if not table.is_valid_row_index(table.cursor_row):
        return ""
    return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value or ""


class Looking(Screen[None]):
    """A screen that looks every so often, and shows what it saw unless it is frozen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f", "freeze", "freeze"),
        Binding("p", "purge", "give back"),
        Binding("q", "app.quit", "quit"),
    ]

    def __init__(self, every_s: float) -> None:
        super().__init__()
        self.every_s = every_s
        self.is_frozen = False
        self.note = ""
        self._busy = asyncio.Lock()  # one thread at a time has the pages
        self._drawn_s = 0.0
        self._said: dict[str, str] = {}  # what stands where

    def on_mount(self) -> None:
        """Look now, and then every so often."""
        # The function, not its coroutine: once the app ends, nobody would await that.
        _: Worker[None] = self.run_worker(self._look_on)  # said, since a coroutine could be a result too

    async def _look_on(self) -> None:
        """Look for ever: the worker ends with the screen. A worker for each look takes longer than the look."""
        while True:
            if not self._busy.locked() and self.is_current and self.app.screen is self:
                await self.look()
            await asyncio.sleep(self.every_s)

    async def look(self) -> None:
        """Ask, in a thread, and show what there is."""
        async with self._busy:
            seen = await asyncio.to_thread(self.sample)
        with suppress(NoMatches):  # the screen was taken down meanwhile
            now = time.monotonic()
            if not self.is_frozen and now - self._drawn_s >= DRAW_EVERY_S:
                self._drawn_s = now
                self.show(seen)
            self.show_state()

    def sample(self) -> Any:
        """Return what there is to show. Called in a thread."""
        raise NotImplementedError

    def show(self, seen: Any) -> None:
        """Show it."""
        raise NotImplementedError

    def watch_to_purge(self) -> Watch | None:
        """Return the process that `p` is for."""
        raise NotImplementedError

    def state(self) -> str:
        """Return what the line at the bottom says."""
        return self.note

    def show_state(self) -> None:
        """Show the line at the bottom."""
        words = [word for word in ("frozen" if self.is_frozen else "", self.state()) if word]
        self.say("state", " · ".join(words))

    def say(self, where: str, text: str, style: str = "") -> None:
        """Show a line of text, if it is another one than stands there. Where there are 80 columns it stays one line."""
        if self._said.get(where) != text:
            may_wrap = where not in self._said or self.app.size.width < top_text.WIDTH
            self._said[where] = text
            shown = Text(text, style=style, no_wrap=style == "bold")
            self.query_one(f"#{where}", Static).update(shown, layout=may_wrap)

    def say_table(self, where: str, columns: Sequence[tuple[str, int]], rows: Sequence[tuple[str, ...]]) -> None:
        """Show a table, if it is another one than stands there."""
        lines = top_text.table_lines(columns, rows)
        text, before = "\n".join(lines), self._said.get(where, "")
        if text != before:
            self._said[where] = text
            shown = Text(text, no_wrap=True, overflow="ellipsis")
            shown.stylize("bold", 0, len(lines[0]))
            self.query_one(f"#{where}", Static).update(shown, layout=text.count("\n") != before.count("\n"))

    def action_freeze(self) -> None:
        """Let what is shown stay as it is, or go on."""
        self.is_frozen = not self.is_frozen
        self.show_state()

    async def action_purge(self) -> None:
        """Have the process give everything idle back."""
        watch = self.watch_to_purge()
        if watch is not None:
            _: Worker[None] = self.run_worker(partial(self._purge, watch))

    async def _purge(self, watch: Watch) -> None:
        async with self._busy:
            given_back = await asyncio.to_thread(watch.purge)
        if given_back is None:
            self.note = f"process {watch.pid} does not answer"
        else:
            self.note = f"process {watch.pid} gave back {top_text.size(given_back)}"
        self._drawn_s = 0.0
        await self.look()


class ListScreen(Looking):
    """All processes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort", "sort"),
        Binding("enter", "open", "look into", priority=True),
    ]

    def __init__(self, every_s: float, sort: str) -> None:
        super().__init__(every_s)
        self.sort = sort
        self.watches = Watches()
        self.seen: list[Sample] = []

    def compose(self) -> ComposeResult:
        """Return what is on the screen."""
        yield DataTable[Text](id="processes", cursor_type="row", cell_padding=0)
        yield Static(id="state")
        yield Footer()

    def sample(self) -> list[Sample]:
        return self.watches.look()

    def show(self, seen: list[Sample]) -> None:
        self.seen = seen
        rows = top_text.process_rows(seen, self.sort)
        _fill(self.query_one("#processes", DataTable), top_text.PROCESS_COLUMNS, rows)

    def state(self) -> str:
        count = f"{len(self.seen)} processes on the heap" if self.seen else top_text.list_text([])
        return " · ".join(filter(None, (count, f"by {self.sort}", self.note)))

    def watch_to_purge(self) -> Watch | None:
        key = _selected(self.query_one("#processes", DataTable))
        return self.watches.by_pid.get(int(key)) if key else None

    def action_sort(self) -> None:
        """Sort by the next one."""
        names = list(top_text.SORTS)
        self.sort = names[(names.index(self.sort) + 1) % len(names)]
        self.show(self.seen)
        self.show_state()

    def action_open(self) -> None:
        """Look into the process under the cursor."""
        key = _selected(self.query_one("#processes", DataTable))
        if key:
            self.app.open_process(int(key))  # type: ignore[attr-defined]


class ProcessScreen(Looking):
    """One process."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "back")]

    def __init__(self, every_s: float, watch: Watch) -> None:
        super().__init__(every_s)
        self.watch_it = watch
        self._plotted_s = 0.0

    def compose(self) -> ComposeResult:
        """Return what is on the screen."""
        with VerticalScroll():
            yield Static(id="title")
            yield Static(id="space")
            yield Static(id="rates")
            with Vertical(classes="plot"):
                yield Static(id="resident_label")
                yield Sparkline(id="resident", summary_function=max)
                yield Static(id="live_label")
                yield Sparkline(id="live", summary_function=max)
            yield Static(id="heaps", classes="table")  # a table for each would take most of the time that drawing takes
            yield Static(id="layers", classes="table")
        yield Static(id="state")
        yield Footer()

    def sample(self) -> Sample | None:
        return self.watch_it.look()

    def show(self, seen: Sample | None) -> None:
        if seen is None:
            return
        self.say("title", top_text.title_line(seen), "bold")
        self.say("space", top_text.space_line(seen))
        self.say("rates", top_text.rates_line(seen))
        self.say_table("heaps", top_text.HEAP_COLUMNS, top_text.heap_rows(seen))
        self.say_table("layers", top_text.LAYER_COLUMNS, top_text.layer_rows(seen))
        if not self._plotted_s or seen.time_s - self._plotted_s > PLOT_EVERY_S:
            self._plotted_s = seen.time_s
            history = list(self.watch_it.history)
            self._plot("resident", [sample.resident for sample in history])
            self._plot("live", [sample.snapshot.total().allocated for sample in history])

    def _plot(self, name: str, values: list[int]) -> None:
        """Draw a curve; one that stays flat looks as it did."""
        low, high = top_text.size(min(values)), top_text.size(max(values))
        self.say(f"{name}_label", f"{name}, {low} to {high}")
        plot = self.query_one(f"#{name}", Sparkline)
        if min(values) != max(values) or set(values) != set(plot.data or ()):
            plot.data = values

    def state(self) -> str:
        if self.watch_it.is_over:
            return f"process {self.watch_it.pid} has ended: these are its last figures"
        last = self.watch_it.last
        if last is not None and not last.answered:
            return "it does not answer: these are the last figures that it published"
        return self.note

    def watch_to_purge(self) -> Watch | None:
        return None if self.watch_it.is_over else self.watch_it

    def action_back(self) -> None:
        """Go back to the list."""
        self.app.close_process()  # type: ignore[attr-defined]


class TopApp(App[None]):
    """The live view.

    Args:
        pid: the process to look into first; None: the list.
        sort: what the list is sorted by.
        every_s: how often it looks.

    Raises:
        NotPublished: process *pid* has no page for us.
    """

    TITLE = "freehold top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    DataTable { height: 1fr; scrollbar-size-vertical: 1; }
    .table { height: auto; margin-top: 1; }
    .plot { height: auto; margin-top: 1; }
    Sparkline { height: 2; }
    #state { height: 1; }
    """

    def __init__(self, pid: int | None = None, sort: str = "resident", every_s: float = 0.5) -> None:
        super().__init__()
        self._first = None if pid is None else Watch(pid)
        self._sort = sort
        self.every_s = every_s

    def on_mount(self) -> None:
        """Show the list, and above it the process that was asked for."""
        self.push_screen(ListScreen(self.every_s, self._sort))
        if self._first is not None:
            self.push_screen(ProcessScreen(self.every_s, self._first))

    def open_process(self, pid: int) -> None:
        """Look into a process."""
        try:
            self.push_screen(ProcessScreen(self.every_s, Watch(pid)))
        except LookupError as problem:
            self.notify(str(problem), markup=False)

    def close_process(self) -> None:
        """Go back to the list."""
        if isinstance(self.screen, ProcessScreen):
            self.pop_screen()  # its page is unmapped when the thread that may still be looking is done
