"""The command `freehold`: one file per verb.

A verb is a module here with `add_arguments(parser)` and `run(args) -> int`, the exit code. One that ends in another
program's command line also has `split(argv)`, which cuts that off: it goes to `args.program` untouched.
Wrong input: one line that names it and what would be right, exit code 2, and nothing was started.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from freehold.config import OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

__all__ = ["VERBS", "main", "say"]

VERBS = {
    "run": "run a program, unchanged, on the freehold heap",
    "demo": "show reported memory troubles under the default allocator and under freehold",
    "stats": "show what a running process's heaps hold, or those in a file",
    "diff": "show what has changed between two snapshots or reports",
    "purge": "have a running process give back everything idle now",
    "top": "look into running processes: what their heaps hold, and how that changes",
    "map": "draw where the memory of a running process's heaps is",
    "profile": "show which lines of a program hold its memory: as a table, a flame graph, or for other tools",
    "enable": "have every Python of this environment start on the freehold heap",
    "disable": "take back what enable did",
    "doctor": "say what would work here, what would not, and why",
    "config": "show every option, its value, and where the value comes from",
}


class _Parser(argparse.ArgumentParser):
    """A parser that needs one line to say what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"there is no option {unknown[0]!r}; {self._meant(unknown[0])}")
        return known, unknown

    def _meant(self, option: str) -> str:
        from difflib import get_close_matches

        known = [name for action in self._actions for name in action.option_strings]
        near = get_close_matches(option.partition("=")[0], known, n=1)
        return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import freehold

        print("freehold", freehold.__version__)
        parser.exit()


def say(problem: str) -> None:
    """Say on stderr what is wrong with the environment or a configuration file; it is no reason to stop."""
    print(f"freehold: {problem}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (the process's if None); return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(prog="freehold", description="A memory allocator for Python's data.", allow_abbrev=False)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", prog="freehold")
    program: list[str] = []
    verb: Any = None
    for name, help_text in VERBS.items():
        of_verb = verbs.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
        if argv[:1] == [name]:
            verb = import_module(f"freehold.cli.{name}")
            of_verb.set_defaults(**dict.fromkeys(OPTIONS))  # a verb need not have a word for each
            verb.add_arguments(of_verb)
            if hasattr(verb, "split"):
                own, program = verb.split(argv[1:])
                argv = [name, *own]
    args = parser.parse_args(argv)
    if verb is None:
        parser.error(f"no verb: expected one of {', '.join(VERBS)}")
    args.program = program
    try:
        code: int = verb.run(args)
    except ImportError as problem:
        if not (problem.name or "").startswith("freehold.face"):
            raise
        print(f"freehold {args.verb}: {problem}", file=sys.stderr)  # not built for this Python
        return 1
    return code
