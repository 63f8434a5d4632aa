"""`freehold config`: every option, its value, and where the value comes from."""

from __future__ import annotations

import argparse
import json

from freehold import config
from freehold.cli import say

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `freehold config` to *parser*."""
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the options as *args* say; return the exit code."""
    settings = config.resolve(say=say)
    if args.json:
        print(json.dumps({name: {"value": s.given, "source": s.source} for name, s in settings.items()}, indent=2))
        return 0
    width = max(map(len, settings))
    for name, setting in settings.items():
        print(f"{name:<{width}} = {setting.given!s:<8} from {setting.source}; {config.OPTIONS[name].help}")
    return 0
