"""Six reported troubles, each a small program that anybody could have written, and what measures them.

A trouble is one file here with a function `main(scale)`: it does the work on generated input, 1.0 being the full size,
drops what a user would drop, and returns what a user would keep. It knows nothing of allocators. Its docstring is the
one place that says what it is: the first line is the title, the paragraphs after it the story with the reports.

`runner` runs one of them in a process of its own; `measure` starts that process and watches it from outside.
Does not: import NumPy or pandas; only the runner's process does.
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NAMES", "Report", "Trouble", "trouble"]

NAMES = ("dropped", "kept", "threads", "temporaries", "tables", "handoff")
"""The troubles in the order in which they are shown."""

_OWNERS = {"numpy": "numpy/numpy", "pandas": "pandas-dev/pandas"}
_REPORT = re.compile(r"\b([a-z][\w.-]*(?:/[\w.-]+)?)#(\d+)")


@dataclass(frozen=True)
class Report:
    """A public report, as `numpy#18358`."""

    project: str
    number: int

    def __str__(self) -> str:
        return f"{self.project}#{self.number}"

    @property
    def url(self) -> str:
        """Where it can be read."""
        return f"https://github.com/{_OWNERS.get(self.project, self.project)}/issues/{self.number}"


@dataclass(frozen=True)
class Trouble:
    """One of the programs: its file, and what its docstring says of it."""

    name: str
    path: Path
    title: str
    story: str
    reports: tuple[Report, ...]
    program: str


def trouble(name: str) -> Trouble:
    """Return the trouble called *name*, read from its file without running it."""
    path = Path(__file__).with_name(f"{name}.py")
    source = path.read_text(encoding="utf-8")
    module = ast.parse(source)
    title, _, story = inspect.cleandoc(ast.get_docstring(module) or "").partition("\n")
    reports = dict.fromkeys(Report(project, int(number)) for project, number in _REPORT.findall(story))
    program = "\n".join(source.splitlines()[module.body[0].end_lineno :]).strip()
    return Trouble(name, path, title.rstrip("."), story.strip(), tuple(reports), program)
