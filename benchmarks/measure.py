"""How it is measured: worker processes, paired rounds, medians, resident memory.

A benchmark starts one worker process per peer and then goes round: in each round every worker does the same piece of
work, one at a time, the order turning by one each round. Ratios are taken within a round and then the median over
rounds, so that whatever the machine does for a minute, it does to all of them.

Thread-safety: the driver has one thread; a worker works on one call at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import IO, TYPE_CHECKING, Any, cast

from benchmarks import peers as peers_module

if TYPE_CHECKING:
    from benchmarks.peers import Peer

MIB = 1 << 20


@dataclass(frozen=True)
class Effort:
    """How much is done: `smoke` proves that all runs, `quick` is the short form, `full` is to quote."""

    name: str
    rounds: int
    slice_s: float  # aim of one timed piece of work
    scale: float  # of what is built
    largest_bytes: int  # of an array
    idle_s: float
    after_s: float = 2.0  # how long after the work the memory is looked at


SMOKE = Effort("smoke", rounds=2, slice_s=0.0005, scale=0.01, largest_bytes=1 * MIB, idle_s=1.0, after_s=0.2)
QUICK = Effort("quick", rounds=7, slice_s=0.003, scale=0.5, largest_bytes=64 * MIB, idle_s=20.0)
FULL = Effort("full", rounds=15, slice_s=0.006, scale=1.0, largest_bytes=256 * MIB, idle_s=60.0)
EFFORTS = {effort.name: effort for effort in (SMOKE, QUICK, FULL)}


# ---- resident memory of this process, or of another ----


def resident_bytes(process: int | str = "self") -> int:
    """Return what is resident now, counted page by page (the kernel's quick counter lags by some pages per core)."""
    with open(f"/proc/{process}/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Rss:"))


def peak_bytes(process: int | str = "self") -> int:
    with open(f"/proc/{process}/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def reset_peak() -> None:
    """Have the peak count from now; where the system does not allow it, it counts from the start of the process."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


# ---- worker processes ----


class Worker:
    """A Python process under one peer: a function's name and arguments go in, its result comes back."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        environment = peers_module.python_environment() | peer.environment
        command = [sys.executable, "-m", "benchmarks.worker"] + ([f"--install={peer.objects}"] if peer.install else [])
        self._process = subprocess.Popen(
            command, env=environment, cwd=peers_module.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._stdin, self._stdout = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)

    def send(self, function: str, **arguments: Any) -> None:
        print(json.dumps([function, arguments]), file=self._stdin, flush=True)

    def receive(self) -> Any:
        answer = self._stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker under {self.peer.name} ended with exit code {self._process.wait()}")
        return json.loads(answer)

    def call(self, function: str, **arguments: Any) -> Any:
        """Run `module.function` of this package in the worker."""
        self.send(function, **arguments)
        return self.receive()

    def close(self) -> None:
        self._stdin.close()
        self._process.wait()
        self._stdout.close()


@contextmanager
def workers(peers: Iterable[Peer]) -> Iterator[list[Worker]]:
    started = [Worker(peer) for peer in peers]
    try:
        yield started
    finally:
        for worker in started:
            worker.close()


def turned(items: list[Any], round_number: int) -> list[Any]:
    """Return *items* beginning with the next one each round, and going backwards from there every other round."""
    step = 1 if round_number % 2 == 0 else -1
    return [items[(round_number + step * i) % len(items)] for i in range(len(items))]


def rounds_of(team: list[Worker], count: int, function: str, **arguments: Any) -> dict[str, list[Any]]:
    """Call *function* in each worker once per round; return each peer's results by round."""
    results: dict[str, list[Any]] = {worker.peer.name: [] for worker in team}
    for number in range(count):
        for worker in turned(team, number):
            results[worker.peer.name].append(worker.call(function, **arguments))
    return results


def memory_after(team: list[Worker], effort: Effort) -> dict[str, tuple[int, int]]:
    """Return each worker's peak and what is resident two seconds later, in bytes above what it had before the work."""
    time.sleep(effort.after_s)
    return {worker.peer.name: tuple(worker.call("worker.memory")) for worker in team}


def fresh(peer: Peer, function: str, **arguments: Any) -> Any:
    """Call *function* in a process that has done nothing else."""
    worker = Worker(peer)
    try:
        return worker.call(function, **arguments)
    finally:
        worker.close()


# ---- arithmetic ----


def paired_ratio(ours: list[float], theirs: list[float]) -> float:
    return median(mine / other for mine, other in zip(ours, theirs, strict=True))


def interval(values: list[float]) -> tuple[float, float]:
    """Return a 95 % confidence interval of the median, from the order of the values alone (all of them if few)."""
    ordered = sorted(values)
    reach = 0.98 * len(ordered) ** 0.5
    low = max(0, round(len(ordered) / 2 - reach) - 1)
    high = min(len(ordered) - 1, round(len(ordered) / 2 + reach))
    return ordered[low], ordered[high]


def repeats_for(seconds_each: float, slice_s: float) -> int:
    return max(1, int(slice_s / max(seconds_each, 1e-9)))


def available_bytes() -> int:
    """Return the bytes that may be used before the machine has to swap or kill."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
