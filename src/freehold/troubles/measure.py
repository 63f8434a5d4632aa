"""Run a trouble in a fresh process under an allocator, watch its resident memory, and judge what it held when idle.

The promise judged, for memory above what was resident before the work:

    held = resident 2 s after the work - live        kept  <=>  held <= 3 % of peak + 8 MiB

Thread-safety: functions share nothing; one `measure` at a time gives undisturbed times.
Does not: run anything of the trouble in this process, or import what it needs.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import selectors
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import Trouble

__all__ = ["DEFAULT", "FREEHOLD", "PEERS", "Allocator", "Result", "Run", "RunFailed", "measure", "peer", "summarise"]

MIB = 1 << 20
IDLE_SECONDS = 2.0
"""How long after the work resident memory is read."""
HELD_SHARE = 0.03
HELD_SLACK_BYTES = 8 * MIB
SAMPLE_SECONDS = 0.02
SHOWN_IDLE_SECONDS = 2.4
"""How much of the idle time the curves show: less than the runner sleeps, so that its end is not in them."""
PATIENCE_SECONDS = 300.0

_RUNNER = Path(__file__).with_name("runner.py")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# What would make a "default" run something else, or tune one allocator and not the other.
_SCRUBBED = ("LD_PRELOAD", "GLIBC_TUNABLES", "PYTHONMALLOC", "MALLOC_", "MIMALLOC_", "TCMALLOC_", "FREEHOLD")


class RunFailed(Exception):
    """A process that ran a trouble ended badly; the message is its last line."""


@dataclass(frozen=True)
class Allocator:
    """What serves a process's memory: the C library's, freehold's, or a library preloaded in its place."""

    name: str
    install: bool = False
    preload: str | None = None


DEFAULT = Allocator("default")
FREEHOLD = Allocator("freehold", install=True)
PEERS = {"jemalloc": "jemalloc", "mimalloc": "mimalloc", "tcmalloc": "tcmalloc_minimal"}
"""Allocators that can be preloaded, and the names of their libraries."""


def peer(name: str) -> Allocator | None:
    """Return the peer called *name*, or None where its library is not installed."""
    library = ctypes.util.find_library(PEERS[name])
    return Allocator(name, preload=library) if library else None


@dataclass(frozen=True)
class Run:
    """One run of a trouble; byte counts are of the whole process, times are since the work began."""

    seconds: float
    fault_count: int
    baseline_bytes: int
    peak_bytes: int
    resident_bytes: int
    live_bytes: int
    samples: tuple[tuple[float, int], ...]

    @property
    def grown_bytes(self) -> int:
        """The peak above what was resident before the work."""
        return self.peak_bytes - self.baseline_bytes

    @property
    def left_bytes(self) -> int:
        """What is resident 2 s after the work, above what was before it."""
        return self.resident_bytes - self.baseline_bytes

    @property
    def held_bytes(self) -> int:
        """What is left and not live: never below zero."""
        return max(0, self.left_bytes - self.live_bytes)

    @property
    def allowed_bytes(self) -> int:
        """The most that may be held under the promise."""
        return int(HELD_SHARE * self.grown_bytes) + HELD_SLACK_BYTES

    @property
    def given_back(self) -> bool:
        """Whether the promise was kept."""
        return self.held_bytes <= self.allowed_bytes


@dataclass(frozen=True)
class Result:
    """All rounds of one trouble under one allocator, as they are shown.

    Time and faults are medians; memory is that of the round that held most, so a verdict holds for every round.
    """

    trouble: Trouble
    allocator: Allocator
    seconds: float
    fault_count: int
    worst: Run
    rounds: int

    def as_dict(self) -> dict[str, Any]:
        """Return what is shown as plain values; samples are (seconds since the work began, resident bytes)."""
        run = self.worst
        return {
            "trouble": self.trouble.name,
            "allocator": self.allocator.name,
            "rounds_count": self.rounds,
            "seconds": self.seconds,
            "fault_count": self.fault_count,
            "baseline_bytes": run.baseline_bytes,
            "peak_bytes": run.peak_bytes,
            "resident_bytes": run.resident_bytes,
            "live_bytes": run.live_bytes,
            "held_bytes": run.held_bytes,
            "allowed_bytes": run.allowed_bytes,
            "given_back": run.given_back,
            "work_seconds": run.seconds,
            "samples": [(round(at, 3), amount) for at, amount in run.samples],
        }


def summarise(trouble: Trouble, allocator: Allocator, runs: Sequence[Run]) -> Result:
    """Return what is shown of *runs*."""
    seconds = statistics.median(run.seconds for run in runs)
    faults = statistics.median_low([run.fault_count for run in runs])
    worst = max(runs, key=lambda run: run.held_bytes - run.allowed_bytes)
    return Result(trouble, allocator, seconds, faults, worst, len(runs))


def environment(allocator: Allocator) -> dict[str, str]:
    """Return the environment of a process that runs under *allocator*: ours, with no other allocator's settings."""
    scrubbed = tuple(prefix for prefix in _SCRUBBED if not (allocator.install and prefix == "FREEHOLD"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(scrubbed)}
    return kept | ({"LD_PRELOAD": allocator.preload} if allocator.preload else {})


def measure(trouble: Trouble, allocator: Allocator, *, scale: float = 1.0) -> Run:
    """Run *trouble* once in a fresh process under *allocator*.

    Raises:
        RunFailed: the process could not run it.
    """
    reader, writer = os.pipe()
    command = [sys.executable, "-P", str(_RUNNER), str(trouble.path), f"--scale={scale}", f"--pipe={writer}"]
    command += ["--install"] if allocator.install else []
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command, pass_fds=[writer], env=environment(allocator), stdout=subprocess.DEVNULL, stderr=complaints
        )
        os.close(writer)
        try:
            said, samples = _watch(process.pid, reader)
            status = process.wait(PATIENCE_SECONDS)
        finally:
            process.kill()
            process.wait()
            os.close(reader)
        complaints.seek(0)
        lines = complaints.read().decode(errors="replace").strip().splitlines()
    if status or "end" not in said:
        raise RunFailed(f"{trouble.name} under {allocator.name}: {lines[-1] if lines else f'exit status {status}'}")
    return _run(said["begin"], said["end"], samples)


def _run(begin: dict[str, Any], end: dict[str, Any], samples: list[tuple[float, int]]) -> Run:
    idle, shown = end["at"] + IDLE_SECONDS, end["at"] + SHOWN_IDLE_SECONDS
    resident = next((amount for at, amount in samples if at >= idle), None)
    if resident is None:
        raise RunFailed("the process ended before it had been idle for long enough")
    return Run(
        seconds=end["seconds"],
        fault_count=end["fault_count"],
        baseline_bytes=begin["resident_bytes"],
        peak_bytes=end["peak_bytes"],
        resident_bytes=resident,
        live_bytes=end["live_bytes"],
        samples=tuple((at - begin["at"], amount) for at, amount in samples if begin["at"] <= at <= shown),
    )


def _watch(pid: int, reader: int) -> tuple[dict[str, Any], list[tuple[float, int]]]:
    """Sample the process's resident memory until it closes the pipe; return what it said by phase, and the samples."""
    said: dict[str, Any] = {}
    samples: list[tuple[float, int]] = []
    unread = b""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with open(f"/proc/{pid}/statm", "rb", buffering=0) as statm, selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if selector.select(SAMPLE_SECONDS):
                heard = os.read(reader, 1 << 16)
                if not heard:
                    return said, samples
                *lines, unread = (unread + heard).split(b"\n")
                said |= {phase["phase"]: phase for phase in map(json.loads, lines)}
            amount = _resident(statm.fileno())
            if amount:
                samples.append((time.monotonic(), amount))
    raise RunFailed(f"no end after {PATIENCE_SECONDS:.0f} s")


def _resident(statm: int) -> int:
    """Return the resident bytes of the process whose statm this is, 0 when it is gone."""
    try:
        words = os.pread(statm, 256, 0).split()
    except ProcessLookupError:
        return 0
    return int(words[1]) * _PAGE_BYTES if words else 0
