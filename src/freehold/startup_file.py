"""The file that `freehold enable` writes and `freehold disable` removes: with it, every Python here starts freehold.

It is a ``.pth`` file in site-packages: Python's `site` runs its one line at each start. The line does nothing where
FREEHOLD=0, or where freehold is not there any more.

Thread-safety: none needed; two that write it at once write the same.
Does not: touch a file that it has not written.
"""

from __future__ import annotations

import os
import site
import subprocess
import sys
import sysconfig

__all__ = ["CanNot", "content", "path", "read", "remove", "write"]

NAME = "freehold-enabled.pth"
MARK = "# Written by `freehold enable`; `freehold disable` removes it. FREEHOLD=0 switches it off for one process."
LINE = (
    'import os; os.environ.get("FREEHOLD") != "0" and __import__("importlib.util").util.find_spec("freehold") '
    'and __import__("freehold.start").start.start_enabled({options!r})'
)


class CanNot(Exception):
    """The file can not be written or removed; the message is for the user."""


def path() -> str:
    """Return where the file is, or would be: in the site-packages that freehold lies in, or this environment's."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folders = [os.path.abspath(folder) for folder in (*site.getsitepackages(), site.getusersitepackages())]
    return os.path.join(here if here in folders else sysconfig.get_paths()["purelib"], NAME)


def content(options: dict[str, str]) -> str:
    """Return the file's text, for *options* that are to hold where the environment does not say otherwise."""
    return f"{MARK}\n{LINE.format(options=options)}\n"


def read() -> str:
    """Return the file's text; empty if there is none."""
    try:
        with open(path(), encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def write(text: str) -> None:
    """Write the file, all of it or nothing.

    Raises:
        CanNot: freehold is not installed here, the folder can not be written, or the file is somebody else's.
    """
    _check_ours()
    _check_installed()
    part = f"{path()}.{os.getpid()}"  # a Python that starts meanwhile sees no half: this name is not .pth
    try:
        with open(part, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(part, path())
    except OSError as problem:
        raise _refused(problem) from None


def remove() -> None:
    """Remove the file.

    Raises:
        CanNot: the folder can not be written, or the file is somebody else's.
    """
    _check_ours()
    try:
        os.remove(path())
    except OSError as problem:
        raise _refused(problem) from None


def _check_ours() -> None:
    text = read()
    if text and not text.startswith(MARK):
        raise CanNot(f"{path()} was not written by `freehold enable`: it stays as it is")


def _check_installed() -> None:
    """Find out whether a Python that is told nothing finds freehold."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", "import freehold.start"]
    if subprocess.run(command, env=environ, cwd="/", stderr=subprocess.DEVNULL, check=False).returncode != 0:
        raise CanNot(f"freehold is not installed for {sys.executable}: there would be nothing to start (pip install .)")


def _refused(problem: OSError) -> CanNot:
    folder = os.path.dirname(path())
    why = problem.strerror or str(problem)
    return CanNot(f"{folder}: {why}; it takes an environment that you may write to, such as a venv of your own")
