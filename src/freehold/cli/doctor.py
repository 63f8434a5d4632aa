"""`freehold doctor`: what would work here, what would not, and why.

The answer about `install()` is not guessed: it is asked for in a fresh process of the same environment. The exit code
is 0 where NumPy's arrays and Python's objects can be taken (NumPy: if it is there at all), else 1. That some pyarrow
stays on its own pool is told, and is no fault.

Does not: change anything, or import NumPy here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

from freehold import config, startup_file

__all__ = ["Finding", "add_arguments", "findings", "run"]

ASK = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
for name in ("numpy", "pyarrow"):
    try:
        importlib.import_module(name)
    except ImportError:
        pass
import freehold
found = freehold.install(objects=True, arrow=True)
print(json.dumps([list(found.taken), dict(found.not_taken)]))
"""
PACKAGES = ("numpy", "pyarrow", "pandas", "memray")
PEERS = ("jemalloc", "mimalloc", "tcmalloc", "snmalloc")
SANITIZERS = ("libasan", "libtsan", "liblsan", "libubsan")


class Finding(NamedTuple):
    """One thing that was looked at: whether it is well (None: neither here nor there), and a sentence."""

    name: str
    good: bool | None
    says: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `freehold doctor` to *parser*."""
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what was found as *args* say; return the exit code."""
    found = list(findings())
    if args.json:
        print(json.dumps({each.name: {"good": each.good, "says": each.says} for each in found}, indent=2))
    else:
        width = max(len(each.name) for each in found)
        for each in found:
            mark = {True: "yes", False: "NO ", None: "   "}[each.good]
            print(f"{mark}  {each.name:<{width}}  {each.says}")
    return 0 if all(each.good is not False for each in found) else 1


def findings() -> Iterator[Finding]:
    """Look at everything, one thing after the other."""
    yield Finding("python", None, f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}")
    yield from _installing()
    yield from _system()
    yield from _packages()
    yield from _environment()
    text = startup_file.read()
    says = startup_file.path() if text else "no: `freehold enable` starts it with every Python of this environment"
    yield Finding("enabled", None, says)


def _installing() -> Iterator[Finding]:
    """Try it."""
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=False, timeout=120)
    try:
        taken, not_taken = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        yield Finding("install()", False, f"does not work: {last}")
        return
    asked = ("numpy", "arrow", "objects")
    for name in asked:
        package = {"numpy": "numpy", "arrow": "pyarrow"}.get(name)
        absent = package is not None and _version(package) is None
        good = True if name in taken else None if absent or name == "arrow" else False
        yield Finding(name, good, "can be taken" if name in taken else "is not there" if absent else not_taken[name])
    yield from (Finding(name, None, why) for name, why in not_taken.items() if name not in asked)


def _system() -> Iterator[Finding]:
    from freehold.layers import Vm

    facts = Vm().facts()
    yield Finding("kernel", None, f"{platform.system()} {platform.release()}, {platform.machine()}, {_libc()}")
    huge = facts["huge_page_mode"]
    yield Finding("huge pages", None, f"{huge}; {'growing parts use them' if huge != 'never' else 'not used'}")
    limit = "the limit of its cgroup" if facts["cgroup_limit"] else "no cgroup limits it"
    yield Finding("memory", None, f"{config.total_memory() >> 20} MiB; {limit}")
    if facts["rlimit_as"]:
        says = f"ulimit -v is {facts['rlimit_as'] >> 20} MiB: the reservation of addresses is smaller"
        yield Finding("addresses", None, says)
    if facts["overcommit"] == 2:
        yield Finding("overcommit", None, "the system counts reserved addresses (vm.overcommit_memory=2)")


def _libc() -> str:
    return " ".join(platform.libc_ver()).strip() or "an unknown libc"


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        version = _version(name)
        if version is not None:
            yield Finding(f"package {name}", None, version)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _environment() -> Iterator[Finding]:
    """Report what others have put into the environment, as far as it meets us."""
    for word in os.environ.get("LD_PRELOAD", "").replace(":", " ").split():
        yield _preload(word)
    if "debug" in os.environ.get("PYTHONMALLOC", "") or sys.flags.dev_mode:
        yield Finding(
            "debug hooks", None, "Python's are on: `freehold run` goes beneath them, install() leaves objects alone"
        )
    elif os.environ.get("PYTHONMALLOC"):
        yield Finding("PYTHONMALLOC", None, f"{os.environ['PYTHONMALLOC']}: it serves objects that are not taken")
    if os.environ.get("PYTHONTRACEMALLOC", "0") != "0":
        yield Finding("tracemalloc", None, "is on from the start: install() stops and restarts it")
    if os.environ.get("FREEHOLD") == "0":
        yield Finding("FREEHOLD", None, "0: `freehold run` and `freehold enable` do nothing here")


def _preload(file: str) -> Finding:
    name = os.path.basename(file)
    if any(word in name for word in SANITIZERS):
        return Finding(f"preload {name}", False, "a sanitizer wants to see every block: do not use both")
    if any(word in name for word in PEERS):
        return Finding(f"preload {name}", None, "another allocator: it serves what is not on the heap")
    return Finding(f"preload {name}", None, "is there already, and stays")
