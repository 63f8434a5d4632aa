"""Options: how values are written, and which source wins."""

import json
import os
import re
import subprocess
import sys
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold import config

GIB = 1 << 30


@pytest.fixture(autouse=True)
def nothing_warned_yet():
    config._warned.clear()


def values(**sources):
    """Resolve with *sources*, outside any project, and return the values by name."""
    settings = config.resolve(**({"environ": {}, "folder": ""} | sources))
    return {name: setting.value for name, setting in settings.items()}


# ---- sizes ----


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0),
        (12345, 12345),
        ("12345", 12345),
        ("1.5GiB", 3 * GIB // 2),
        ("1.5 GiB", 3 * GIB // 2),
        ("512MB", 512_000_000),
        ("512mb", 512_000_000),
        ("4k", 4000),
        ("4Ki", 4096),
        ("1TiB", 1 << 40),
        ("7B", 7),
        ("100%", config.total_memory()),
        ("50%", config.total_memory() // 2),
    ],
)
def test_sizes(text, size):
    """A size is an int, a number with a decimal or binary unit, or a share of the memory there is."""
    assert size == config.parse_size("limit", text)


@pytest.mark.parametrize(
    "wrong", ["", "GiB", "1.5.5GiB", "12 apples", "-1", -1, "1e400", "5 %%", True, None, 1.5, [], b"1GiB"]
)
def test_wrong_sizes_are_named(wrong):
    """What is no size raises `ValueError` with the argument and the value."""
    with pytest.raises(ValueError, match="limit=") as caught:
        config.parse_size("limit", wrong)

    assert repr(wrong) in str(caught.value)


@given(st.integers(0, 1 << 20), st.sampled_from(["KiB", "MiB", "GiB", "TiB"]))
def test_sizes_in_binary_units_are_exact(n, unit):
    """A whole number of binary units is exactly so many bytes."""
    power = ["KiB", "MiB", "GiB", "TiB"].index(unit) + 1

    assert n << 10 * power == config.parse_size("limit", f"{n}{unit}")


# ---- durations ----


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        (0, 0),
        ("0", 0),
        ("0s", 0),
        ("500ms", 500),
        ("10s", 10_000),
        (10, 10_000),
        (0.25, 250),
        ("1.5 s", 1500),
        ("2min", 120_000),
        ("2m", 120_000),
        ("1h", 3_600_000),
        ("250us", 0.25),
        ("never", config.NEVER),
        (-1, config.NEVER),
    ],
)
def test_durations(text, milliseconds):
    """A duration is seconds, a number with a unit, 0, or never; read as milliseconds."""
    assert milliseconds == config.parse_duration("decay", text)


@pytest.mark.parametrize(
    "wrong", ["", "ms", "10 parsecs", "-5s", -2, "nan", float("nan"), float("inf"), None, True, []]
)
def test_wrong_durations_are_named(wrong):
    """What is no duration raises `ValueError` with the argument and the value."""
    with pytest.raises(ValueError, match="decay=") as caught:
        config.parse_duration("decay", wrong)

    assert repr(wrong) in str(caught.value)


# ---- sources ----


def test_defaults():
    """Where nobody says anything, each option has its default."""
    assert {
        "decay": 1000,
        "huge_pages": "auto",
        "objects": "no",
        "arrow": True,
        "on_error": "abort",
        "publish": True,
        "log": False,
        "profile": "",
        "profile_interval": 512 << 10,
        "growth": 0,
        "report": False,
    } == values()


def test_each_source_wins_over_the_next(tmp_path):
    """Call > command line > FREEHOLD_DECAY > FREEHOLD_CONF > pyproject.toml > default; the source is told."""
    (tmp_path / "pyproject.toml").write_text('[tool.freehold]\ndecay = "1h"\n')
    inner = tmp_path / "src" / "package"
    inner.mkdir(parents=True)
    sources = {
        "call": {"decay": "5s"},
        "command_line": {"decay": "4s"},
        "environ": {"FREEHOLD_DECAY": "3s", "FREEHOLD_CONF": "huge_pages=never,decay=2s"},
        "folder": str(inner),
    }
    expected = [(5000, "call"), (4000, "command line"), (3000, "FREEHOLD_DECAY"), (2000, "FREEHOLD_CONF")]
    for value, source in expected:
        setting = config.resolve(**sources)["decay"]
        assert (value, source) == (setting.value, setting.source)
        if source == "FREEHOLD_DECAY":
            del sources["environ"]["FREEHOLD_DECAY"]
        else:
            sources.pop({"call": "call", "command line": "command_line"}.get(source, "environ"))
    setting = config.resolve(environ={}, folder=str(inner))["decay"]
    assert (3_600_000, str(tmp_path / "pyproject.toml")) == (setting.value, setting.source)


def test_none_in_a_call_is_not_given():
    """An argument that is None leaves the option to the next source."""
    assert 3000 == values(call={"decay": None}, environ={"FREEHOLD_DECAY": "3s"})["decay"]


def test_the_nearest_project_with_a_table_counts(tmp_path):
    """A pyproject.toml without [tool.freehold], or one that can not be read, is passed over."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "pyproject.toml").write_text('[tool.freehold]\nhuge_pages = "never"\n')
    for text in ("[project]\nname = 'freehold-user'\n", "this is not = = toml freehold"):
        (inner / "pyproject.toml").write_text(text)
        assert "never" == values(folder=str(inner))["huge_pages"]


@pytest.mark.parametrize(
    "environ", [{"FREEHOLD_DECY": "3s"}, {"FREEHOLD_CONF": "decy=3s"}, {"FREEHOLD_CONF": " decy = 3s , ,report=no"}]
)
def test_an_unknown_name_warns_once_with_the_nearest(environ):
    """A name that is no option is passed over with one warning, however often it is read."""
    with pytest.warns(RuntimeWarning, match="no option 'decy'; did you mean 'decay'"):
        assert 1000 == values(environ=environ)["decay"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values(environ=environ)


def test_a_bad_value_warns_from_outside_and_raises_in_a_call():
    """From the environment a bad value is passed over with a warning; in a call it is an error."""
    with pytest.warns(RuntimeWarning, match="FREEHOLD_DECAY: decay='soon' is not a duration.* it stays '1s'"):
        assert 1000 == values(environ={"FREEHOLD_DECAY": "soon"})["decay"]
    for source in ("call", "command_line"):
        with pytest.raises(ValueError, match="decay='soon' is not a duration"):
            values(**{source: {"decay": "soon"}})


def test_numpys_own_switch_for_huge_pages_is_heeded():
    """NUMPY_MADVISE_HUGEPAGE=0 is huge_pages=never, unless freehold's own options say otherwise."""
    assert "never" == values(environ={"NUMPY_MADVISE_HUGEPAGE": "0"})["huge_pages"]
    assert "auto" == values(environ={"NUMPY_MADVISE_HUGEPAGE": "0", "FREEHOLD_HUGE_PAGES": "auto"})["huge_pages"]


def test_what_is_not_an_option_is_not_warned_of():
    """The switch and the marks that `freehold run` leaves are known."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values(environ={"FREEHOLD": "1", "FREEHOLD_RUN": "1 - ", "FREEHOLD_CONF": "", "HOME": "/"})


def test_config_shows_values_and_sources(tmp_path):
    """`freehold config` prints each option with its value and where that comes from; --json the same for programs."""
    (tmp_path / "pyproject.toml").write_text("[tool.freehold]\nreport = true\n")
    command = [sys.executable, "-m", "freehold", "config"]
    paths = os.pathsep.join(map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))))
    environ = os.environ | {"PYTHONPATH": paths, "FREEHOLD_CONF": "decay=7s"}
    shown = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path, check=True).stdout
    read = json.loads(
        subprocess.run([*command, "--json"], capture_output=True, env=environ, cwd=tmp_path, check=True).stdout
    )

    assert re.search(r"^decay +  = 7s +from FREEHOLD_CONF;", shown, re.MULTILINE)
    assert {"value": "7s", "source": "FREEHOLD_CONF"} == read["decay"]
    assert {"value": True, "source": str(tmp_path / "pyproject.toml")} == read["report"]
    assert {"value": "auto", "source": "default"} == read["huge_pages"]
