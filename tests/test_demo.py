"""`freehold demo`: its arithmetic, that its three outputs say the same, and a small run from end to end."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from freehold.cli import demo
from freehold.troubles import NAMES, Report, runner, trouble
from freehold.troubles.measure import DEFAULT, FREEHOLD, Allocator, Run, RunFailed, environment, measure, summarise
from freehold.view import demo_page, demo_table

MIB = 1 << 20


def a_run(**changes: int) -> Run:
    """Return a run that grew by 1000 MiB from 50, and was left with 39 of which 1 is live."""
    made = Run(
        seconds=1.5,
        fault_count=1_000,
        baseline_bytes=50 * MIB,
        peak_bytes=1_050 * MIB,
        resident_bytes=89 * MIB,
        live_bytes=1 * MIB,
        samples=((0.0, 50 * MIB), (1.5, 1_050 * MIB), (3.6, 89 * MIB)),
    )
    return replace(made, **changes)


def parsed(*options: str) -> argparse.Namespace:
    """Return *options* as the command line gives them."""
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(options)


class TestVerdict:
    """Held is what is resident 2 s later, above the start, and not live; 3 % of the peak plus 8 MiB is allowed."""

    def test_held_is_left_without_live(self) -> None:
        """Neither what was resident before the work nor what is live is held."""
        assert 38 * MIB == a_run().held_bytes

    def test_allowed_is_share_of_peak_and_slack(self) -> None:
        """3 % counts from the peak above the start."""
        assert 30 * MIB + 8 * MIB == a_run().allowed_bytes

    @pytest.mark.parametrize(("more", "given_back"), [(0, True), (1, False)])
    def test_exactly_allowed_is_given_back(self, more: int, given_back: bool) -> None:
        """One byte more than allowed breaks the promise."""
        assert given_back is a_run(resident_bytes=89 * MIB + more).given_back

    def test_held_is_never_negative(self) -> None:
        """Less resident than live (pages never touched) is not a debt."""
        assert a_run(resident_bytes=50 * MIB).held_bytes == 0

    def test_summary_has_median_time_and_worst_memory(self) -> None:
        """A verdict over rounds holds for every round."""
        runs = [a_run(), replace(a_run(), seconds=9.0), a_run(resident_bytes=90 * MIB, fault_count=7)]

        summary = summarise(trouble("kept"), DEFAULT, runs)

        assert (1.5, 1_000, False) == (summary.seconds, summary.fault_count, summary.worst.given_back)


class TestLiveBytes:
    """Live bytes count what the kept objects need."""

    def test_counts_buffers_of_arrays_in_containers(self) -> None:
        """An array counts with its buffer, wherever it is kept."""
        kept = {"a": [np.zeros(1000), np.zeros(24)]}

        assert 8 * 1024 <= runner.live_bytes(kept) < 8 * 1024 + 1024

    def test_counts_whole_base_of_view(self) -> None:
        """A view keeps all of its base alive."""
        assert runner.live_bytes(np.zeros(100_000)[:1]) >= 800_000

    def test_counts_columns_and_index_of_frames(self) -> None:
        """A frame counts its columns and its index."""
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame({"x": np.zeros(1000)}, index=np.arange(1000))

        assert runner.live_bytes(frame) == 16_000


class TestTroubles:
    """Each trouble names the reports it reproduces and knows nothing of allocators."""

    @pytest.mark.parametrize("name", NAMES)
    def test_has_title_story_and_reports(self, name: str) -> None:
        """The docstring is where the page's text comes from."""
        found = trouble(name)

        assert found.title and found.story and found.reports

    @pytest.mark.parametrize("name", NAMES)
    def test_knows_no_allocator(self, name: str) -> None:
        """The same program runs under every allocator."""
        imported = set(re.findall(r"^(?:from|import) (\w+)", trouble(name).program, re.MULTILINE))

        assert imported <= {"numpy", "pandas", "queue", "threading", "concurrent"}

    @pytest.mark.parametrize("name", NAMES)
    def test_keeps_no_more_than_it_says(self, name: str) -> None:
        """What main returns is live and can be counted."""
        kept = runner.run(str(trouble(name).path), 0.04, lambda **said: None)

        assert 0 < runner.live_bytes(kept) < 20 * MIB

    def test_report_url(self) -> None:
        """A report's short name leads to its thread."""
        expected = ("https://github.com/numpy/numpy/issues/18358", "https://github.com/dask/distributed/issues/6232")

        assert expected == (Report("numpy", 18358).url, Report("dask/distributed", 6232).url)


class TestEnvironment:
    """A process gets its allocator's settings and no other's."""

    def test_default_is_really_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither a preload nor settings of ours or of malloc reach the default's process."""
        for name in ("LD_PRELOAD", "MALLOC_ARENA_MAX", "FREEHOLD_CONF", "PYTHONMALLOC"):
            monkeypatch.setenv(name, "x")

        assert {"LD_PRELOAD", "MALLOC_ARENA_MAX", "FREEHOLD_CONF", "PYTHONMALLOC"}.isdisjoint(environment(DEFAULT))

    def test_freehold_keeps_its_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The user's own options for freehold hold in the demo."""
        monkeypatch.setenv("FREEHOLD_CONF", "decay=1s")

        assert environment(FREEHOLD)["FREEHOLD_CONF"] == "decay=1s"

    def test_peer_is_preloaded(self) -> None:
        """A peer comes in by LD_PRELOAD."""
        assert environment(Allocator("peer", preload="libpeer.so"))["LD_PRELOAD"] == "libpeer.so"


class TestMeasure:
    """A trouble runs in a process of its own and is watched from outside."""

    def test_run_that_fails_says_why(self, tmp_path: Path) -> None:
        """The last line of a broken program is the message."""
        broken = tmp_path / "broken.py"
        broken.write_text("def main(scale):\n    raise ValueError('no such data')\n", encoding="utf-8")

        with pytest.raises(RunFailed, match="broken under default: ValueError: no such data"):
            measure(replace(trouble("kept"), name="broken", path=broken), DEFAULT)

    def test_sees_what_is_live_and_what_came_back(self, tmp_path: Path) -> None:
        """200 MiB dropped and 20 kept, all mapped singly by the C library: 20 are left."""
        program = tmp_path / "mapped.py"
        program.write_text(
            "import numpy as np\n\ndef main(scale):\n    np.ones(200 << 17)\n    return [np.ones(20 << 17)]\n",
            encoding="utf-8",
        )

        run = measure(replace(trouble("kept"), name="mapped", path=program), DEFAULT)

        assert abs(run.live_bytes - 20 * MIB) < MIB
        assert abs(run.grown_bytes - 200 * MIB) < 8 * MIB
        assert run.given_back


class Cells(HTMLParser):
    """The table's cells as a reader sees them, and the document that the page carries."""

    def __init__(self, page: str) -> None:
        """Read *page*."""
        super().__init__()
        self.rows: list[list[str]] = []
        self.document = ""
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note where the parser is."""
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        if tag == "td" or ("id", "results") in attrs:
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        """Note what it has left."""
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        """Take the text of cells and of the document."""
        if self._inside == "td":
            self.rows[-1][-1] += data
        elif self._inside == "script":
            self.document += data


@pytest.fixture
def shown() -> dict[str, object]:
    """Return the document of one trouble under two allocators, one of which gave back."""
    held = a_run(resident_bytes=900 * MIB)
    results = [summarise(trouble("kept"), DEFAULT, [held]), summarise(trouble("kept"), FREEHOLD, [a_run()])]
    return demo.document([trouble("kept")], results, scale=1.0, rounds=1)


class TestOutputs:
    """The terminal, the page and the JSON are made from one document."""

    def test_page_and_table_have_the_same_numbers(self, shown: dict[str, object]) -> None:
        """Every cell of the page's table is the terminal's."""
        cells = Cells(demo_page.page(shown))

        assert [list(row.cells) for row in demo_table.rows(shown)] == [row for row in cells.rows if row]

    def test_page_carries_the_json(self, shown: dict[str, object], tmp_path: Path) -> None:
        """What --json writes is also in the page, whole."""
        demo.write(shown, html=str(tmp_path / "demo.html"), json_file=str(tmp_path / "demo.json"))

        written = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))
        cells = Cells((tmp_path / "demo.html").read_text(encoding="utf-8"))

        assert written == json.loads(cells.document)

    def test_page_loads_nothing_from_elsewhere(self, shown: dict[str, object]) -> None:
        """The page is one file: no script, style or picture comes from a network."""
        page = demo_page.page(shown)

        assert [] == re.findall(r"<(?:script|img|iframe)[^>]+src=|<link[^>]+href=|@import", page)

    def test_terminal_shows_the_verdicts(
        self, shown: dict[str, object], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        """The table and one line for each allocator go to stdout, as plain text where it is no terminal."""
        demo.write(shown, html=str(tmp_path / "demo.html"), json_file=None)

        printed = capsys.readouterr().out

        assert "\x1b" not in printed
        assert "default: given back 0 of 1, 849.0 MiB still held, 1.50 s of work" in printed
        assert "freehold: given back 1 of 1, 38.0 MiB still held, 1.50 s of work" in printed


class TestCommand:
    """`freehold demo` refuses what it can not do in one line, and runs end to end."""

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            (["--only", "nothing"], "no trouble is called 'nothing': choose from dropped, kept"),
            (["--rounds", "0"], "--rounds must be a number of at least 1, not '0'"),
            (["--rounds", "many"], "--rounds must be a number of at least 1, not 'many'"),
            (["--with", "hoard"], "no peer is called 'hoard': choose from jemalloc, mimalloc, tcmalloc"),
            (["--html", "/nowhere/demo.html"], "can not write /nowhere/demo.html"),
            (["--json", "/"], "can not write /"),
        ],
    )
    def test_bad_option_is_one_line_and_2(
        self, options: list[str], line: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Nothing runs, one line says what is wrong, the exit code is 2."""
        code = demo.run(parsed(*options))

        printed = capsys.readouterr()
        assert (2, "", 1) == (code, printed.out, printed.err.count("\n"))
        assert printed.err.startswith(f"freehold demo: {line}")

    def test_peer_without_library_is_one_line_and_2(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A peer that was asked for and is not there is an error, not silence."""
        monkeypatch.setattr(demo, "peer", lambda name: None)

        code = demo.run(parsed("--with", "jemalloc"))

        assert (2, "freehold demo: the library of jemalloc is not installed\n") == (code, capsys.readouterr().err)

    def test_missing_library_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Without pandas the demo says how to get it."""
        monkeypatch.setattr(demo, "NEEDED", ("numpy", "no_such_pandas"))

        code = demo.run(parsed())

        expected = "freehold demo: no_such_pandas is missing: pip install freehold[demo]\n"
        assert (2, expected) == (code, capsys.readouterr().err)

    def test_quick_run_from_end_to_end(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """One trouble, under the default allocator twice: measured, judged, shown and written; the exit code judges."""
        monkeypatch.setattr(demo, "FREEHOLD", Allocator("default again"))
        files = tmp_path / "demo.html", tmp_path / "demo.json"

        code = demo.run(parsed("--quick", "--only", "kept", "--html", str(files[0]), "--json", str(files[1])))

        first, result = json.loads(files[1].read_text(encoding="utf-8"))["results"]
        assert ("kept", "default", 1) == (first["trouble"], first["allocator"], first["rounds_count"])
        assert ("kept", "default again", 1) == (result["trouble"], result["allocator"], result["rounds_count"])
        assert code == (0 if result["given_back"] else 1)
        assert result["peak_bytes"] - result["baseline_bytes"] > 100 * MIB
        assert len(result["samples"]) > 50
        assert files[0].stat().st_size > MIB

    def test_default_process_loads_nothing_of_freehold(self) -> None:
        """The runner is a script of its own, so a default run is a default run."""
        code = "import runpy, sys; runpy.run_path(sys.argv[1]); print([m for m in sys.modules if 'freehold' in m])"

        printed = subprocess.run(
            [sys.executable, "-c", code, runner.__file__], capture_output=True, text=True, check=True
        )

        assert printed.stdout == "[]\n"
