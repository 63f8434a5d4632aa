"""The options, where their values come from, and how sizes and durations are written.

Call arguments > command line > ``FREEHOLD_<OPTION>`` > ``FREEHOLD_CONF="decay=10s,report=yes"`` > ``[tool.freehold]``
of the nearest pyproject.toml that has one > what `freehold enable` was told > defaults.

Thread-safety: functions of their arguments; `_warned` only saves repetition.
Does not: apply anything. An unknown name, and a bad value from outside the program, warn once; a bad value in a call
raises.
Imports next to nothing: it runs at the start of every process that follows `freehold run`.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

__all__ = ["NEVER", "OPTIONS", "Option", "Setting", "parse_duration", "parse_size", "resolve", "total_memory"]

NEVER = -1  # as a duration

_SIZES = {"": 1, "b": 1} | {
    unit: base**power
    for power, letter in enumerate("kmgtp", start=1)
    for base, units in ((1000, (letter, letter + "b")), (1024, (letter + "ib", letter + "i")))
    for unit in units
}
_MILLISECONDS = {"": 1000.0, "us": 1e-3, "ms": 1.0, "s": 1000.0, "min": 60e3, "m": 60e3, "h": 3600e3}
_YES = ("1", "yes", "true", "on")
_NO = ("0", "no", "false", "off", "")
NOT_OPTIONS = ("conf", "run")  # FREEHOLD_<these> say something else

_warned: set[str] = set()


# ---- values ----


def _split_number(text: str) -> tuple[float, str]:
    """Return the number that *text* begins with, and the unit that follows, in lower case."""
    text = text.strip()
    end = len(text)
    while end and not (text[end - 1].isdigit() or text[end - 1] == "."):
        end -= 1
    return (int if text[:end].isdigit() else float)(text[:end]), text[end:].strip().lower()


def parse_size(name: str, value: object) -> int:
    """Return the bytes that *value* means: an int, ``"1.5GiB"``, ``"512MB"``, or ``"50%"`` of the memory there is.

    Raises:
        ValueError: it means none; the text names the argument *name* and the value.
    """
    wrong = ValueError(f'{name}={value!r} is not a size: expected bytes, or text like "1.5GiB", "512MB" or "50%"')
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str):
        try:
            number, unit = _split_number(value)
            size = int(total_memory() * number / 100) if unit == "%" else int(number * _SIZES[unit])
        except (ValueError, KeyError, OverflowError):
            raise wrong from None
    else:
        raise wrong
    if size < 0:
        raise wrong
    return size


def parse_duration(name: str, value: object) -> float:
    """Return the milliseconds that *value* means: seconds, ``"500ms"``, ``"10s"``, 0 (at once), ``"never"`` (`NEVER`).

    Raises:
        ValueError: it means none; the text names the argument *name* and the value.
    """
    wrong = ValueError(
        f'{name}={value!r} is not a duration: expected seconds, text like "500ms" or "10s", 0 (at once) or "never"'
    )
    if value in ("never", -1, "-1"):
        return NEVER
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        duration = value * 1000.0
    elif isinstance(value, str):
        try:
            number, unit = _split_number(value)
            duration = number * _MILLISECONDS[unit]
        except (ValueError, KeyError):
            raise wrong from None
    else:
        raise wrong
    if not 0 <= duration < float("inf"):
        raise wrong
    return duration


def _parse_switch(name: str, value: object) -> bool:
    text = str(value).lower()
    if text not in _YES + _NO:
        raise ValueError(f"{name}={value!r} is not a switch: expected yes or no")
    return text in _YES


def _one_of(*words: str) -> Callable[[str, object], str]:
    def parse(name: str, value: object) -> str:
        if value not in words:
            raise ValueError(f"{name}={value!r} is not known: expected {' or '.join(map(repr, words))}")
        return str(value)

    return parse


def _parse_objects(name: str, value: object) -> str:
    if value in {"arena", "arenas"}:
        return "arena"
    try:
        return "yes" if _parse_switch(name, value) else "no"
    except ValueError:
        raise ValueError(f"{name}={value!r} is not known: expected True, False (yes, no) or 'arena'") from None


def _parse_file(_: str, value: object) -> str:
    """Return the file that is meant: an empty text, none; ``yes``, one that is named after the program."""
    text = str(value)
    return "" if text.lower() in _NO else "yes" if text.lower() in _YES else text


def total_memory() -> int:
    """Return the bytes of memory this process may use: the machine's, or its container's if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as file:
                total = min(total, int(file.read()))
        except (OSError, ValueError):  # no such cgroup, or "max"
            continue
    return total


# ---- options ----


class Option:
    """An option: its name, how its value is read, and what it is when nobody says."""

    __slots__ = ("default", "help", "name", "parse")

    def __init__(self, name: str, default: str, parse: Callable[[str, object], Any], help: str) -> None:
        self.name = name
        self.default = default
        self.parse = parse
        self.help = help


class Setting:
    """What an option was set to: the text or object given, what it means, and where it was given."""

    __slots__ = ("given", "source", "value")

    def __init__(self, given: Any, value: Any, source: str) -> None:
        self.given = given
        self.value = value
        self.source = source


OPTIONS = {
    option.name: option
    for option in (
        Option("decay", "1s", parse_duration, "how long idle memory is kept before it is given back"),
        Option("huge_pages", "auto", _one_of("auto", "never"), "whether growing parts of the heap use huge pages"),
        Option(
            "objects",
            "no",
            _parse_objects,
            "whether Python's objects come from the heap: yes, no, or arena (only pymalloc's arenas)",
        ),
        Option("arrow", "yes", _parse_switch, "whether what Arrow's default memory pool allocates comes from the heap"),
        Option(
            "on_error",
            "abort",
            _one_of("abort", "report"),
            "what a bad free does: end the process, or a line on stderr",
        ),
        Option("publish", "yes", _parse_switch, "whether `freehold top` may look into this process"),
        Option("log", "no", _parse_switch, "whether Python's logging is told what an operator must know"),
        Option(
            "profile",
            "no",
            _parse_file,
            "whether a heap profile is taken, and written when the program ends: yes, or FILE",
        ),
        Option("profile_interval", "512KiB", parse_size, "bytes between two samples of it, in the mean"),
        Option(
            "growth", "0", parse_size, "a dump of the profile whenever so many bytes more are live than ever; 0: none"
        ),
        Option("report", "no", _parse_switch, "whether `freehold run` ends with a report on stderr"),
    )
}


def nearest(name: str, names: Mapping[str, object]) -> str:
    """Return the known name that *name* most likely was meant to be."""
    from difflib import get_close_matches

    return get_close_matches(name, names, n=1, cutoff=0.0)[0]


# ---- sources ----


def resolve(
    call: Mapping[str, Any] | None = None,
    command_line: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    folder: str | None = None,
    enabled: Mapping[str, str] | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Setting]:
    """Return every option's setting, from the first source that has a good one.

    Args:
        call: what a function was called with; None means not given.
        command_line: the same from a command line.
        environ: the environment; None is the process's.
        folder: where the search for a pyproject.toml begins; None is the current one, an empty text: none is read.
        enabled: what `freehold enable` was told.
        say: called with each thing that is wrong outside the program; None warns, once.

    Raises:
        ValueError: a bad value in *call* or *command_line*.
    """
    environ = os.environ if environ is None else environ
    settings = {
        name: Setting(option.default, option.parse(name, option.default), "default") for name, option in OPTIONS.items()
    }
    problems = _lay_over(settings, enabled or {}, "freehold enable")
    if environ.get("NUMPY_MADVISE_HUGEPAGE") == "0":  # NumPy's own switch for the same thing
        settings["huge_pages"] = Setting("never", "never", "NUMPY_MADVISE_HUGEPAGE")
    if folder != "":
        problems += _lay_over(settings, *_from_pyproject(folder or os.getcwd()))
    problems += _lay_over(settings, _from_conf(environ.get("FREEHOLD_CONF", "")), "FREEHOLD_CONF")
    for name, value in _from_variables(environ).items():
        problems += _lay_over(settings, {name: value}, f"FREEHOLD_{name.upper()}")
    for problem in problems:
        (say or _warn)(problem)
    for source, values in (("command line", command_line), ("call", call)):
        for name, value in (values or {}).items():
            if value is not None:
                settings[name] = Setting(value, OPTIONS[name].parse(name, value), source)
    return settings


def _lay_over(settings: dict[str, Setting], values: Mapping[str, Any], source: str) -> list[str]:
    """Set the options that *values* names; return what is wrong: names that do not exist, values that make no sense."""
    problems = []
    for name, value in values.items():
        if name not in OPTIONS:
            problems.append(f"{source}: there is no option {name!r}; did you mean {nearest(name, OPTIONS)!r}?")
            continue
        try:
            settings[name] = Setting(value, OPTIONS[name].parse(name, value), source)
        except ValueError as problem:
            problems.append(f"{source}: {problem}; it stays {settings[name].given!r}")
    return problems


def _warn(problem: str) -> None:
    if problem not in _warned:
        _warned.add(problem)
        import warnings

        warnings.warn(f"freehold: {problem}", RuntimeWarning, stacklevel=3)


def _from_conf(text: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in text.split(",") if pair.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _from_variables(environ: Mapping[str, str]) -> dict[str, str]:
    prefix = "FREEHOLD_"
    found = {name[len(prefix) :].lower(): value for name, value in environ.items() if name.startswith(prefix)}
    return {name: value for name, value in found.items() if name not in NOT_OPTIONS}


def _from_pyproject(folder: str) -> tuple[dict[str, Any], str]:
    """Return [tool.freehold] of the nearest pyproject.toml that has one, and the file's path."""
    while True:
        path = os.path.join(folder, "pyproject.toml")
        table = _read_table(path)
        if table is not None:
            return table, path
        parent = os.path.dirname(folder)
        if parent == folder:
            return {}, ""
        folder = parent


def _read_table(path: str) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError:
        return None
    if b"freehold" not in text:  # most have none: do not import a parser to learn that
        return None
    import tomllib

    try:
        table = tomllib.loads(text.decode()).get("tool", {}).get("freehold")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return None  # those it is written for will say so
    return table if isinstance(table, dict) else None
