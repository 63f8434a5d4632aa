"""`freehold profile`: which lines of a program hold its memory: as a table, as a flame graph, for other tools."""

from __future__ import annotations

import argparse
import json
import os
import sys

from freehold.profiles import FORMATS, BadProfile, Profile, endings, format_of
from freehold.published import NotPublished

__all__ = ["add_arguments", "run"]

BINARY = ("pprof", "raw")


class _CanNot(Exception):
    """What was asked for is not possible; the message is for the user, the code for the exit."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `freehold profile` to *parser*."""
    formats = sorted(set(FORMATS.values()))
    parser.add_argument("source", nargs="?", metavar="PID|FILE", help="a process that profiles its heap, or a dump")
    parser.add_argument("--diff", nargs=2, metavar=("BEFORE", "AFTER"), help="what grew between two dumps")
    parser.add_argument("-o", "--output", metavar="FILE", help=f"write it there; the ending tells how: {endings()}")
    parser.add_argument("--format", choices=formats, help="how, whatever the name; without -o: to stdout")
    parser.add_argument("-f", "--force", action="store_true", help="overwrite FILE")
    parser.add_argument(
        "--seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="how long a process that takes no profile yet is to take one first; 0: not at all; default: 10",
    )
    parser.add_argument("--total", action="store_true", help="all that was allocated, freed or not, not what is live")
    parser.add_argument("--peak", action="store_true", help="what was live when most was, not what is live now")
    parser.add_argument("-n", "--lines", type=int, default=20, metavar="N", help="lines of the table; default: 20")
    parser.add_argument("--json", action="store_true", help="the table as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Show or write the profile that *args* ask for; return the exit code."""
    try:
        how = _checked(args)
        if args.diff is None:
            content, profile = _read(args.source, args.seconds)
        else:
            (_, before), (_, after) = (_read(source, args.seconds) for source in args.diff)
            content, profile = b"", after.minus(before)
        if args.peak:
            profile = profile.at_peak()
        if how is None:
            return _show(profile, args)
        _write(content if how == "raw" else profile.encode(how, live=not args.total), args.output)
    except _CanNot as problem:
        print(f"freehold profile: {problem}", file=sys.stderr)
        return problem.code
    return 0


def _check_wish(args: argparse.Namespace) -> None:
    """Refuse what can not be meant, whatever the format."""
    if (args.source is None) == (args.diff is None):
        raise _CanNot(2, "expected a PID or a FILE, or --diff BEFORE AFTER")
    if args.peak and args.diff is not None:
        raise _CanNot(2, "--peak is of one profile, not of a difference")
    if not 0 <= args.seconds <= 86_400:
        raise _CanNot(2, f"--seconds {args.seconds:g}: expected how long, 0 to 86400")
    if args.lines < 0:
        raise _CanNot(2, f"-n {args.lines}: expected how many lines, 0 or more")


def _checked(args: argparse.Namespace) -> str | None:
    """Return the format to write, None for the table; refuse what can not be meant."""
    _check_wish(args)
    how: str | None = args.format
    if args.output is not None and args.json:
        raise _CanNot(2, "--json is for the table: it goes to stdout, not to a file")
    if args.output is not None and how is None:
        try:
            how = format_of(args.output)
        except ValueError:
            raise _CanNot(2, f"-o {args.output}: expected a name that ends in {endings()}, or --format") from None
    if args.output is not None and os.path.lexists(args.output) and not args.force:
        raise _CanNot(2, f"-o {args.output}: exists already; -f overwrites it")
    if how == "raw" and args.diff is not None:
        raise _CanNot(2, "a difference of two profiles can not be written as a dump")
    if how in BINARY and args.output is None and sys.stdout.isatty():
        raise _CanNot(2, f"--format {how} is no text for a terminal: -o FILE writes it")
    return how


def _read(source: str, seconds: float) -> tuple[bytes, Profile]:
    """Return the dump that *source* names, as it is and as it reads: digits are a process."""
    try:
        if source.isascii() and source.isdigit():
            from freehold.published import ask_profile

            if sys.stderr.isatty():
                print(f"process {source} is asked; this may take {seconds:g} s", file=sys.stderr)
            content = ask_profile(int(source), seconds)
        else:
            content = Profile.content(source)
        return content, Profile.read(content)
    except NotPublished as problem:
        raise _CanNot(1, str(problem)) from None
    except BadProfile as problem:
        raise _CanNot(2, f"{source}: {problem}") from None
    except OSError as problem:
        raise _CanNot(2, f"{source}: {problem.strerror}") from None


def _show(profile: Profile, args: argparse.Namespace) -> int:
    """Print the table: for a terminal, for a file, or for programs."""
    from freehold.view import profile_table

    if args.json:
        print(json.dumps(profile_table.as_dict(profile, args.lines, live=not args.total), indent=2))
    elif sys.stdout.isatty():
        profile_table.show(profile, args.lines, live=not args.total)
    else:
        print(profile_table.as_text(profile, args.lines, live=not args.total))
    return 0


def _write(content: bytes, path: str | None) -> None:
    """Write a file, or to stdout; a file that could not be written whole is removed."""
    if path is None:
        _pipe(content)
        return
    try:
        with open(path, "wb") as file:
            file.write(content)
    except OSError as problem:
        if os.path.isfile(path):
            os.unlink(path)
        raise _CanNot(1, f"-o {path}: {problem.strerror}") from None
    print(path)


def _pipe(content: bytes) -> None:
    """Write to stdout; a reader who has seen enough is no error."""
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
