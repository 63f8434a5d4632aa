"""`freehold map`: where a process's heap memory is, as a picture."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from importlib.util import find_spec

from freehold import published
from freehold.published import NotPublished
from freehold.view.saved_map import NoMap, SavedMap, load
from freehold.view.watch import command_of

__all__ = ["add_arguments", "run"]

KINDS = (".svg", ".png", ".html", ".json")
HINT = "a .png needs Pillow: pip install 'freehold[map]'; .svg and .html do without"


class _CanNot(Exception):
    """There is nothing to draw, or nowhere to put it; the text says why, *code* is the exit code."""

    def __init__(self, problem: str, code: int) -> None:
        super().__init__(problem)
        self.code = code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `freehold map` to *parser*."""
    parser.add_argument("of", metavar="PID|FILE", help="the process, or a map that was written as .json")
    parser.add_argument(
        "-o", "--output", metavar="FILE",
        help="where the picture goes: .svg, .png, .html, or .json to draw it later; default: freehold-SCRIPT.PID.svg",
    )  # fmt: skip
    parser.add_argument("-f", "--force", action="store_true", help="overwrite FILE")


def run(args: argparse.Namespace) -> int:
    """Write the picture that *args* ask for; return the exit code."""
    try:
        if args.output is not None:
            _check(args.output, force=args.force)
        drawn = _of_process(int(args.of)) if args.of.isascii() and args.of.isdigit() else _of_file(args.of)
        path = args.output
        if path is None:
            path = f"freehold-{_script(drawn.command)}.{drawn.seen.pid}.svg"
            _check(path, force=args.force)
        _write(path, drawn)
    except _CanNot as problem:
        print(f"freehold map: {problem}", file=sys.stderr)
        return problem.code
    print(path)
    return 0


def _check(path: str, *, force: bool) -> None:
    """See that a picture can be put there, before anybody is asked for one."""
    if not path.endswith(KINDS):
        raise _CanNot(f"-o {path}: expected a name that ends in {', '.join(KINDS[:-1])} or {KINDS[-1]}", 2)
    if path.endswith(".png") and find_spec("PIL") is None:
        raise _CanNot(f"-o {path}: {HINT}", 2)
    if os.path.exists(path) and not force:
        raise _CanNot(f"-o {path}: exists already; -f overwrites it", 2)


def _of_process(pid: int) -> SavedMap:
    try:
        with published.find(pid) as page:
            seen = page.map()
    except NotPublished as problem:
        raise _CanNot(str(problem), 1) from None
    if seen is None:
        raise _CanNot(f"process {pid} does not answer", 1)
    return SavedMap(seen, command_of(pid), time.strftime("%Y-%m-%d %H:%M:%S"))


def _of_file(path: str) -> SavedMap:
    try:
        return load(path)
    except OSError as problem:
        raise _CanNot(f"{path}: {problem.strerror}", 2) from None
    except NoMap as problem:
        raise _CanNot(f"{path}: no map, as `freehold map PID -o FILE.json` writes it: {problem}", 2) from None


def _script(command: str) -> str:
    """Return what a program is called: its script without folder and ending, or its module; else the interpreter."""
    program, *words = command.split(" ")
    if words[:1] == ["-m"] and words[1:]:
        name = words[1]
    else:
        scripts = [] if "-c" in words else [word for word in words if not word.startswith("-")]
        name = os.path.splitext(os.path.basename(scripts[0]))[0] if scripts else program
    return re.sub(r"[^\w.-]", "_", name) or "python"


def _drawn(path: str, drawn: SavedMap) -> bytes:
    if path.endswith(".json"):
        return drawn.to_json().encode()
    if path.endswith(".png"):
        from freehold.view import map_png

        return map_png.as_png(*drawn)
    from freehold.view import heap_map

    draw = heap_map.as_html if path.endswith(".html") else heap_map.as_svg
    return draw(*drawn).encode()


def _write(path: str, drawn: SavedMap) -> None:
    """Write the picture; a file that could not be written whole is removed."""
    picture = _drawn(path, drawn)
    try:
        with open(path, "wb") as file:
            file.write(picture)
    except OSError as problem:
        if os.path.isfile(path):
            os.unlink(path)
        raise _CanNot(f"-o {path}: {problem.strerror}", 1) from None
