"""Every benchmark runs, and says something sane. No time is judged here."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import bench_servers, double_free, measure, peers, servers, sources  # noqa: E402
from benchmarks.__main__ import names  # noqa: E402
from benchmarks.bench_waiting import instant_wait_ns  # noqa: E402
from benchmarks.measure import interval, turned  # noqa: E402
from benchmarks.report import Cell, Row  # noqa: E402
from freehold.view.sources import PARTS  # noqa: E402


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", names())
def test_a_benchmark_runs_and_its_figures_are_numbers(name: str, tmp_path: Path) -> None:
    """The smallest effort: each row has freehold's figure, peers' where there are any, and every bar an answer."""
    if name == "arrow" and importlib.util.find_spec("pyarrow") is None:
        pytest.skip("there is no pyarrow")
    file = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks", name, "--effort", "smoke", "--json", str(file)]
    run = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)

    assert (0, "") == (run.returncode, run.stderr), run.stdout
    (benchmark,) = json.loads(file.read_text())["benchmarks"]
    assert benchmark["rows"] or any(note.startswith("left out") for note in benchmark["notes"])
    for row in benchmark["rows"]:
        assert math.isfinite(row["figure"])
        assert all(math.isfinite(peer["value"]) for peer in row["peers"].values())
        assert (row["bar"] is None) == (row["met"] is None)


def test_what_is_on_the_heap_is_told_for_each_way() -> None:
    """A program's parts in percent of what is resident, all of them; a name that is none is said, with those there are."""
    shares = dict.fromkeys(PARTS, 10 << 20) | {"total": 70 << 20, "seconds": 1}
    asked = [sys.executable, "-m", "benchmarks.sources", "cobol"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)

    assert "| COBOL | as it is | 70 | 14% | 14% | 14% | 14% | 14% | 29% |" == sources.row("COBOL", "as it is", shares)
    assert {*PARTS} == {part for column in sources.COLUMNS.values() for part in column}
    assert 2 == done.returncode
    assert "there is no program cobol; there are numpy, pandas, sklearn, torch" in done.stderr


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """Not the ratio of the medians: what slows a round slows both."""
    row = Row("x", "ns", {"freehold": Cell([1.0, 20.0, 3.0]), "default": Cell([2.0, 40.0, 4.0])}, 0.6, against="best")

    assert (0.5, True) == (row.as_dict()["ratio"], row.met)


def test_the_bar_is_for_the_figure_where_no_peer_is_named() -> None:
    """A peer may be better; the bar does not care."""
    row = Row("x", "×", {"freehold": Cell([1.02]), "default": Cell([0.5])}, 1.03)

    assert (True, "default") == (row.met, row.peer)


def test_controls_are_never_the_peer_to_beat() -> None:
    """They say what the machine does, not what an allocator can."""
    row = Row(
        "x",
        "ns",
        {"freehold": Cell([3.0]), "default": Cell([2.0]), "nobody": Cell([1.0]), "default again": Cell([1.0])},
    )

    assert "default" == row.peer


def test_a_median_stands_inside_its_interval() -> None:
    """For any number of rounds, and the interval is of values that were measured."""
    for count in range(1, 200):
        values = [float(i) for i in range(count)]
        low, high = interval(values)

        assert values[0] <= low <= values[count // 2] <= high <= values[-1]


def test_each_peer_begins_a_round_in_its_turn() -> None:
    """Nobody always goes first, and everyone goes once."""
    items = ["a", "b", "c", "d"]
    rounds = [turned(items, number) for number in range(8)]

    assert set(items) == {order[0] for order in rounds}
    assert all(sorted(order) == items for order in rounds)


def test_waiting_counts_arrivals_not_allocations() -> None:
    """One stop of 10 ms in a second: of the arrivals, 1 in 10,000 find more than 9.9 ms of it still to go."""
    assert 9_900_000 == round(instant_wait_ns([10_000_000], 1_000_000_000))
    assert 0 == instant_wait_ns([50_000], 1_000_000_000)


def test_taking_the_states_out_fails_where_the_source_is_not_as_expected() -> None:
    """Half a change would measure nothing."""
    with pytest.raises(ValueError, match="expected"):
        double_free.without_states("int main(void) { return 0; }")


def test_a_server_that_is_not_here_is_left_out_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named; the means are of what is there, and of nothing there are none."""

    class Nowhere(servers.Server):
        name = "nowhere"
        programs = ("sh", "no-such-server")

    monkeypatch.setattr(bench_servers, "SERVERS", (Nowhere,))
    measured = bench_servers.run(measure.SMOKE)

    assert [] == measured.rows
    assert "left out: nowhere: this machine lacks no-such-server" in measured.notes


@pytest.mark.parametrize(
    ("program", "said"), [("echo no room; exit 3", "does not answer: no room"), ("sleep 60", "why")]
)
def test_a_server_is_gone_when_its_block_ends(program: str, said: str, tmp_path: Path) -> None:
    """One that never answered too, and its words are told; one that ran while something else went wrong."""

    class Odd(servers.Server):
        name = "odd"

        def command(self) -> list[str]:
            return ["sh", "-c", f"exec {program}" if program.startswith("sleep") else program]

        def answers(self) -> bool:
            return program.startswith("sleep")

    server = Odd(peers.Peer(peers.DEFAULT), tmp_path)
    with pytest.raises(RuntimeError, match=said), server:
        raise RuntimeError("why")

    assert not Path(f"/proc/{server.pid}").exists()


def test_what_a_server_keeps_is_counted_above_what_it_had() -> None:
    """Above its live data in percent of them; of the peak's growth what is above 8 MiB."""
    mib = 1 << 20
    served = bench_servers.Served(
        1, 1, before=10 * mib, peak=210 * mib, at_once=0, later=113 * mib, live=100 * mib, dropped=28 * mib
    )

    assert (3.0, 5.0) == (served.above_live_percent(), served.kept_percent())
