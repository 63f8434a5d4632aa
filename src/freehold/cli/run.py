"""`freehold run`: run a program, unchanged, on the freehold heap.

This process *becomes* a fresh Python that runs the program (exec), so arguments, `__main__`, `sys.path`, standard
input, signals and the exit code are Python's own by construction. What differs is in the environment (see
`freehold.start`), and is inherited. A report is made by another process, beside it (`freehold.view.beside`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import replace

from freehold import config, profiles, start
from freehold.cli import say
from freehold.view import beside, compared, report
from freehold.view.beside import Wish

__all__ = ["add_arguments", "run", "split"]

WITH_VALUE = (
    "-o",
    "--output",
    "--objects",
    "--arrow",
    "--decay",
    "--huge-pages",
    "--on-error",
    "--publish",
    "--log",
    "--profile-interval",
    "--growth",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `freehold run` to *parser*."""
    parser.usage = "freehold run [options] [--] [-m module | -c command | script | -] [argument ...]"
    parser.add_argument(
        "--report", action="store_true", default=None, help="end with a report on stderr, of the program itself"
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="run the program under the default allocator first, and report on both side by side",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write the report to FILE: .html with curves over time, .json, or .txt as it looks on stderr",
    )
    parser.add_argument(
        "--preload",
        action="store_true",
        help="serve C and C++ libraries, too: libfreehold.so is every process's malloc",
    )
    parser.add_argument("-f", "--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--objects", metavar="HOW", help=f"{config.OPTIONS['objects'].help}")
    parser.add_argument("--arrow", metavar="YES|NO", help=f"{config.OPTIONS['arrow'].help}; default: yes")
    parser.add_argument("--decay", metavar="TIME", help=f'{config.OPTIONS["decay"].help}: "500ms", "10s", 0, "never"')
    parser.add_argument("--huge-pages", metavar="HOW", help=f"{config.OPTIONS['huge_pages'].help}: auto, never")
    parser.add_argument("--on-error", metavar="HOW", help=f"{config.OPTIONS['on_error'].help}: abort, report")
    parser.add_argument("--publish", metavar="HOW", help=f"{config.OPTIONS['publish'].help}: yes, no")
    parser.add_argument("--log", metavar="HOW", help=f"{config.OPTIONS['log'].help}: yes, no")
    parser.add_argument(
        "--profile",
        nargs="?",
        const="yes",
        metavar="FILE",
        help=f"take a heap profile, and write it at the end to FILE ({profiles.endings()}); default: "
        "freehold-PROGRAM.PID.html. As --profile=FILE",
    )
    parser.add_argument("--profile-interval", metavar="SIZE", help=f"{config.OPTIONS['profile_interval'].help}")
    parser.add_argument(
        "--growth", metavar="STEP", help=f"with --profile, {config.OPTIONS['growth'].help.rpartition(';')[0]}"
    )
    parser.epilog = (
        "The options end where the program begins. Children follow, unless under python -I, -E or -S; with --preload, "
        "those that are not Python too."
    )


def split(argv: list[str]) -> tuple[list[str], list[str]]:
    """Cut *argv* into our own options, and the program with its arguments as Python takes them."""
    i = 0
    while i < len(argv):
        word = argv[i]
        if word == "--":
            return argv[:i], argv[i + 1 :]
        if not word.startswith("-") or word == "-" or word[:2] in ("-m", "-c"):
            break
        i += 2 if word in WITH_VALUE else 1
    return argv[:i], argv[i:]


class _Wrong(Exception):
    """What was asked for can not be started; the message is for the user."""


def run(args: argparse.Namespace) -> int:
    """Become the program that *args* say; return an exit code only if that is not possible."""
    try:
        _check_program(args.program)
        given = {name: getattr(args, name) for name in config.OPTIONS}
        settings = config.resolve(command_line=given, say=say)
        output = _check_output(args.output, force=args.force)
        profile = _check_profile(settings, args)
        _check_interpreter()
        told = {
            name: str(setting.given)
            for name, setting in settings.items()
            if setting.source != "default" and name != "report"
        }
        if profile:
            told["profile"] = profile
        environ = start.environment(told)
        if args.preload:
            start.preload(environ)
    except (_Wrong, ValueError, ImportError) as problem:
        print(f"freehold run: {problem}", file=sys.stderr)
        return 2
    command = [sys.executable, *_interpreter_flags(), *args.program]
    sys.stdout.flush()
    try:
        if settings["report"].value or args.compare or output:
            wish = Wish(args.program, settings["report"].value or args.compare, output)
            environ["FREEHOLD_RUN"] += _report_beside(command, wish, compare=args.compare)
        os.execve(command[0], command, environ)
    except OSError as problem:
        print(f"freehold run: {command[0]}: {problem.strerror}", file=sys.stderr)
        return 1


def _report_beside(command: list[str], wish: Wish, *, compare: bool) -> str:
    """Have the report made beside the program; return the address where the program is to speak."""
    if compare:
        compared.spool()
        default, said = compared.run_default(command, start.default_environment())
        wish = replace(wish, default=default, said=said)
    return beside.stay(wish)


def _check_program(program: list[str]) -> None:
    if not program:
        raise _Wrong("no program: expected a script, -m module, -c command, or - for standard input")
    first = program[0]
    if first in ("-m", "-c") and len(program) == 1:
        raise _Wrong(f"{first} needs {'a module' if first == '-m' else 'a command'} after it")
    if not first.startswith("-") and not os.path.exists(first):
        raise _Wrong(f"{first}: no such script; expected a file, or a folder or zip file with a __main__.py")


def _check_output(path: str | None, *, force: bool) -> str:
    """Return the absolute path for the report, or an empty text."""
    if path is None:
        return ""
    path = os.path.abspath(path)
    if not path.endswith(report.KINDS):
        raise _Wrong(f"-o {path}: expected a name that ends in .json, .txt or .html")
    return _check_place("-o ", path, force=force)


def _check_place(option: str, path: str, *, force: bool) -> str:
    """Return *path*, of a file that can be written, as far as that can be told before."""
    if not os.path.isdir(os.path.dirname(path)):
        raise _Wrong(f"{option}{path}: there is no folder {os.path.dirname(path)}")
    if os.path.exists(path) and not force:
        raise _Wrong(f"{option}{path}: exists already; -f overwrites it")
    return path


def _check_profile(settings: dict[str, config.Setting], args: argparse.Namespace) -> str:
    """Return the absolute path for the profile, or an empty text."""
    path = settings["profile"].value
    if not path:
        if settings["growth"].source == "command line":
            raise _Wrong("--growth is of a profile: --profile takes one")
        return ""
    if path == "yes":
        program = next((word for word in args.program if word not in ("-m", "-c", "-")), "program")
        name = os.path.splitext(os.path.basename(program))[0] if args.program[0] != "-c" else "command"
        path = f"freehold-{name}.{os.getpid()}.html"
    try:
        profiles.format_of(path)
    except ValueError as problem:
        raise _Wrong(f"--profile={problem}") from None
    return _check_place("--profile=", os.path.abspath(path), force=args.force)


def _check_interpreter() -> None:
    """Refuse where the program would start without us."""
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise _Wrong("Python was started with -I, -E or -S; it must heed PYTHONPATH and look for sitecustomize")
    from freehold.face import cpython_domains, numpy_handler  # noqa: F401  if it is not built for this Python, say so here


def _interpreter_flags() -> list[str]:
    """Return the flags this interpreter was started with, for the program's."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    for name, value in sys._xoptions.items():
        flag = name if value is True else f"{name}={value}"
        if flag not in flags:
            flags += ["-X", flag]
    if sys.flags.inspect:
        flags.append("-i")
    if getattr(sys.stdout, "write_through", False):
        flags.append("-u")
    return flags
