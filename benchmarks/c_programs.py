"""The C halves of the benchmarks: compiled when needed, into a temporary folder, with the machine's own compiler."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers import Peer, c_environment

HERE = Path(__file__).resolve().parent
FLAGS = ["-O2", "-std=gnu11", "-Wall", "-falign-functions=64", "-falign-loops=32", "-fno-builtin", "-pthread"]


@contextmanager
def compiled(name: str) -> Iterator[Path]:
    """Compile NAME.c; the program is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="freehold-bench-") as folder:
        program = Path(folder) / name
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, *FLAGS, str(HERE / f"{name}.c"), "-o", str(program), "-ldl", "-lm"], check=True)
        yield program


def output_of(program: Path, peers: list[Peer], *arguments: object) -> list[str]:
    """Run it with *arguments* and the peers' files; return its lines."""
    named = [f"{peer.name.replace(' ', '_')}={peer.library}" for peer in peers]
    command = [str(program), *map(str, arguments), *named]
    run = subprocess.run(command, env=c_environment(), capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit code {run.returncode}: {run.stderr.strip()}")
    return run.stdout.splitlines()
