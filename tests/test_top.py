"""`freehold top`: once, as text and as JSON, and live: keys, sizes, and processes that end while they are looked at."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Sparkline, Static

from freehold import published
from freehold.published import LAYERS, NotPublished
from freehold.view import top_text
from freehold.view.top_app import ListScreen, ProcessScreen, TopApp
from freehold.view.watch import Watch, Watches, command_of
from watched import Child, page_of, wait_for


@pytest.fixture
def one(child) -> Child:
    """A process with two heaps and figures that stand still."""
    started = child()
    started.do("kept += [np.ones(n) for n in (10, 50_000, 1 << 20)]; heap = freehold.Heap('étl', limit='1GiB')")
    started.do("kept.append(heap.full(300_000, 1.0))")
    page_of(started.pid).close()
    return started


def top(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "freehold", "top", *map(str, arguments)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )


# ---- once ----


def test_once_says_what_the_process_says_itself(one: Child) -> None:
    """Heaps by name, layers, and a sum that balances; at most 80 columns; nothing but text."""
    said = one.do("answer = freehold.stats().as_dict()")
    shown = top(one.pid, "--once")

    assert (0, "") == (shown.returncode, shown.stderr)
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"{one.pid}  python")
    assert f"live {top_text.size(said['current_bytes'])}" in lines[1]
    rows = {line.split()[0]: line for line in lines if line}
    assert {"default", "étl", *LAYERS, "all"} <= set(rows)
    assert "1.00 GiB" in rows["étl"]
    assert rows["all"].endswith(f"{said['current_count']:,}")
    assert "\x1b" not in shown.stdout


def test_json_balances(one: Child) -> None:
    """The same in one object; without a process a list, in which it is."""
    read = json.loads(top(one.pid, "--json").stdout)
    listed = {entry["pid"]: entry for entry in json.loads(top("--json").stdout)}

    total = read["published"]["total"]
    assert total["mapped"] == total["active"] + total["dirty"] + total["muzzy"] + total["retained"]
    parts = [layer for heap in read["published"]["heaps"] for layer in heap["layers"].values()]
    assert total["allocated"] == sum(layer["allocated"] for layer in parts)
    assert read["resident"] >= total["active"]
    assert total["allocated"] == listed[one.pid]["published"]["total"]["allocated"]


def test_the_list_is_sorted_as_asked(child) -> None:
    """By what is live, or by number."""
    small, large = child(), child()
    small.do("kept.append(np.ones(100_000))")
    large.do("kept.append(np.ones(3_000_000))")
    for process in (small, large):
        page_of(process.pid).close()

    def order(sort: str) -> list[int]:
        lines = top("--once", "--sort", sort).stdout.splitlines()[1:]
        return [pid for pid in (int(line.split()[0]) for line in lines) if pid in (small.pid, large.pid)]

    assert [large.pid, small.pid] == order("live")
    assert sorted([small.pid, large.pid]) == order("pid")


def test_two_hundred_processes_are_listed_at_once_and_leave_nothing(child) -> None:
    """Each with its own figures; killed, they are gone from the list, and no file of theirs is left."""
    one = child()
    one.do("kept.append(np.ones(1000)); r, w = os.pipe(); pids = []")
    grow = "kept.append(np.ones(100_000 + len(pids))), os.read(r, 1), os._exit(0)"
    pids = one.do(f"[pids.append(os.fork()) or pids[-1] or ({grow}) for _ in range(200)]; answer = pids")
    wait_for(lambda: set(pids) <= set(published.processes()))

    def listed() -> dict[int, dict[str, Any]]:
        return {entry["pid"]: entry for entry in json.loads(top("--json").stdout) if entry["pid"] in set(pids)}

    seen = wait_for(lambda: found if len(found := listed()) == 200 else None, timeout_s=60)
    assert all(entry["published"]["pid"] == pid for pid, entry in seen.items())
    assert all(entry["published"]["total"]["allocated"] >= 800_000 for entry in seen.values())
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert 200 * [signal.SIGKILL] == one.do("answer = [os.waitpid(pid, 0)[1] for pid in pids]")
    assert {} == listed()
    assert [] == [name for name in os.listdir("/dev/shm") if "freehold" in name]  # noqa: S108


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((1 << 22, "--once"), 1, "there is no process 4194304"),
        ((os.getpid(), "--once", "--every", "0"), 2, "--every 0: expected seconds"),
        (("--sort", "size", "--once"), 2, "invalid choice: 'size'"),
    ],
)
def test_what_can_not_be_shown_is_said_in_one_line(arguments: tuple[object, ...], code: int, said: str) -> None:
    """With an exit code."""
    shown = top(*arguments)

    assert (code, "") == (shown.returncode, shown.stdout)
    assert said in shown.stderr
    assert 1 == shown.stderr.count("\n")


def test_without_textual_one_line_says_how_to_get_it(tmp_path) -> None:
    """The live view needs it; --once does not."""
    program = "import sys; sys.modules['textual'] = None; from freehold.cli import main; sys.exit(main(sys.argv[1:]))"
    hide = [sys.executable, "-c", program.replace("sys.modules['textual'] = None", HIDE)]
    live = subprocess.run([*hide, "top"], capture_output=True, text=True, check=False)
    once = subprocess.run([*hide, "top", "--once"], capture_output=True, text=True, check=False)

    assert (2, "", 1) == (live.returncode, live.stdout, live.stderr.count("\n"))
    assert "pip install 'freehold[top]'" in live.stderr
    assert (0, "") == (once.returncode, once.stderr)


HIDE = "import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, *a: None if n == 'textual' else f(n, *a)"


# ---- sizes of things ----


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (1024, "1.00 KiB"), (10_239, "10.0 KiB"), (102_300, "99.9 KiB"),
     (1_023_900, "0.98 MiB"), (5 << 30, "5.00 GiB"), (999 << 40, "999 TiB"), (1 << 60, "1024 PiB")],
)  # fmt: skip
def test_sizes_have_three_digits_and_a_unit(count: int, text: str) -> None:
    """Eight letters at most."""
    assert text == top_text.size(count)
    assert len(text) <= 8


# ---- watching ----


def test_a_process_that_is_stopped_is_shown_as_it_was(one: Child) -> None:
    """It does not answer, and is said not to; when it goes on, it does."""
    watch = Watch(one.pid)
    assert watch.look().answered
    os.kill(one.pid, 19)
    stopped = watch.look(0.05)
    assert not stopped.answered
    assert "does not answer" in top_text.process_text(stopped)
    os.kill(one.pid, 18)

    assert watch.look(5).answered


def test_rates_are_per_second(one: Child) -> None:
    """Page faults, and calls of the heap to the system, between two samples."""
    watch = Watch(one.pid)
    watch.look()
    one.do("kept.append(np.ones(20_000_000)); del kept[-1]; freehold.purge()")
    rates = watch.look().rates

    assert rates["faults"] > 0
    assert rates["calls"] > 0
    assert rates["purged"] > 100 << 20


def test_who_ends_leaves_the_list(child) -> None:
    """And who comes is found."""
    watches = Watches()
    one = child()
    one.do("kept.append(np.ones(1 << 20))")
    page_of(one.pid).close()
    assert one.pid in [sample.pid for sample in watches.look()]
    one.end()

    assert one.pid not in [sample.pid for sample in watches.look()]
    watches.close()


def test_a_command_line_is_one_line() -> None:
    """Whatever its arguments hold."""
    sleeper = subprocess.Popen(["/bin/sh", "-c", "read x; \n\x1b[31m", "b"], stdin=subprocess.PIPE)
    wait_for(lambda: command_of(sleeper.pid).startswith("sh"))

    assert "sh -c read x; ??[31m b" == command_of(sleeper.pid)
    sleeper.communicate()
    assert "?" == command_of(sleeper.pid)


# ---- live ----

Step = Callable[[Pilot, TopApp], Awaitable[None]]


def live(step: Step, pid: int | None = None, size: tuple[int, int] = (80, 24)) -> None:
    """Run the live view without a terminal, and *step* in it."""

    async def main() -> None:
        app = TopApp(pid=pid, every_s=0.05)
        async with app.run_test(size=size) as pilot:
            await step(pilot, app)

    asyncio.run(main())


async def until(pilot: Pilot, condition: Callable[[], Any]) -> Any:
    """Return what *condition* returns once that is something."""
    for _ in range(400):
        found = condition()
        if found:
            return found
        await pilot.pause(0.02)
    raise AssertionError("it never came")


def text_of(app: TopApp, name: str) -> str:
    return str(app.screen.query_one(name, Static).render())


def cells(app: TopApp, name: str) -> list[list[str]]:
    """Return the words of each row of a table."""
    if name != "#processes":
        return [line.split() for line in text_of(app, name).splitlines()[1:]]
    table = app.screen.query_one(name, DataTable)
    return [[str(cell).strip() for cell in table.get_row_at(i)] for i in range(table.row_count)]


def pids(app: TopApp) -> list[str]:
    return [row[0] for row in cells(app, "#processes")]


def test_keys_lead_into_a_process_and_back(one: Child) -> None:
    """Enter looks into the one under the cursor, Escape goes back."""

    async def step(pilot: Pilot, app: TopApp) -> None:
        await until(pilot, lambda: str(one.pid) in pids(app))
        app.screen.query_one(DataTable).move_cursor(row=pids(app).index(str(one.pid)))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ProcessScreen) and text_of(app, "#title"))
        assert text_of(app, "#title").startswith(str(one.pid))
        assert {"default", "étl"} == {row[0] for row in cells(app, "#heaps")}
        assert [*LAYERS, "all", "books"] == [row[0] for row in cells(app, "#layers")]
        await until(pilot, lambda: app.screen.query_one("#resident", Sparkline).data)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ListScreen))

    live(step)


def test_the_sort_key_changes_what_the_list_is_sorted_by(one: Child) -> None:
    """Round through all of them, and says which."""

    async def step(pilot: Pilot, app: TopApp) -> None:
        await until(pilot, lambda: pids(app))
        seen = []
        for _ in top_text.SORTS:
            seen.append(text_of(app, "#state").partition("by ")[2])
            await pilot.press("s")
        assert [*top_text.SORTS] == seen
        assert "by resident" in text_of(app, "#state")

    live(step)


def test_purge_asks_the_process_and_says_what_came_of_it(one: Child) -> None:
    """In the list for the one under the cursor, and in its own screen."""
    one.do("kept.append(np.ones(3 << 20)); del kept[-1]")

    async def step(pilot: Pilot, app: TopApp) -> None:
        await until(pilot, lambda: text_of(app, "#title"))
        await pilot.press("p")
        await until(pilot, lambda: "gave back" in text_of(app, "#state"))
        assert f"process {one.pid} gave back 24.0 MiB" == text_of(app, "#state")

    live(step, pid=one.pid)
    assert 0 == one.do("answer = freehold.stats().dirty_bytes >> 20")


def test_frozen_figures_stay(one: Child) -> None:
    """Until the key is pressed again; it says so."""

    async def step(pilot: Pilot, app: TopApp) -> None:
        await until(pilot, lambda: cells(app, "#layers"))
        await pilot.press("f")
        before, taken = cells(app, "#layers"), len(app.screen.watch_it.history)
        one.do("kept.append(np.ones(5 << 20))")
        await until(pilot, lambda: len(app.screen.watch_it.history) > taken + 3)
        assert before == cells(app, "#layers")
        assert "frozen" in text_of(app, "#state")
        await pilot.press("f")
        await until(pilot, lambda: before != cells(app, "#layers"))
        assert "frozen" not in text_of(app, "#state")

    live(step, pid=one.pid)


def test_a_process_that_ends_is_shown_as_it_was_last(one: Child) -> None:
    """The view goes on, and says that it has ended; back in the list it is gone."""

    async def step(pilot: Pilot, app: TopApp) -> None:
        await until(pilot, lambda: cells(app, "#layers"))
        last = cells(app, "#layers")
        one.process.kill()  # one that ends by itself frees this and that before
        one.process.wait()
        await until(pilot, lambda: "has ended" in text_of(app, "#state"))
        assert last == cells(app, "#layers")
        await pilot.press("p", "escape")
        await until(pilot, lambda: isinstance(app.screen, ListScreen) and str(one.pid) not in pids(app))

    live(step, pid=one.pid)


@pytest.mark.parametrize("size", [(40, 10), (80, 24), (200, 60)])
def test_it_is_drawn_in_any_size(one: Child, size: tuple[int, int]) -> None:
    """Also when the terminal changes; in 80 columns nothing is cut."""

    async def step(pilot: Pilot, app: TopApp) -> None:
        await until(pilot, lambda: cells(app, "#layers"))
        await pilot.resize_terminal(*size)
        await until(pilot, lambda: app.size == size and str(one.pid) in app.export_screenshot())
        for name in ("heaps", "layers") if size[0] >= 80 else ():
            assert 0 < max(map(len, text_of(app, f"#{name}").splitlines())) <= 80

    live(step, pid=one.pid)


def test_the_command_has_what_the_other_columns_leave(one: Child) -> None:
    """Twenty letters in 80 columns, and more in more."""

    async def step(pilot: Pilot, app: TopApp) -> None:
        await until(pilot, lambda: pids(app))
        table = app.screen.query_one("#processes", DataTable)
        for columns, letters in ((80, 20), (60, 20), (130, 70)):
            await pilot.resize_terminal(columns, 24)
            await until(pilot, lambda: table.ordered_columns[-1].width == letters + (columns >= 80))  # noqa: B023

    live(step)


def test_nothing_is_told_by_colour_alone(one: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under NO_COLOR it is drawn without any, and says the same."""
    monkeypatch.setenv("NO_COLOR", "1")

    async def step(pilot: Pilot, app: TopApp) -> None:
        await until(pilot, lambda: cells(app, "#layers"))
        assert app.no_color
        await until(pilot, lambda: "default" in app.export_screenshot())

    live(step, pid=one.pid)


def test_the_live_view_of_no_process_says_so() -> None:
    """It does not open."""
    with pytest.raises(NotPublished, match="there is no process"):
        TopApp(pid=1 << 22)


def test_the_quit_key_ends_it(one: Child) -> None:
    """From either screen."""

    async def step(pilot: Pilot, app: TopApp) -> None:
        await until(pilot, lambda: cells(app, "#layers"))
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)

    live(step, pid=one.pid)
