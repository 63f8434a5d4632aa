"""Processes on the heap as they change: what they publish, and what the system says of them, one sample after another.

Thread-safety: a `Watch`, and `Watches`, by one thread at a time.
Does not show anything, and does not stop or slow a process: one that does not answer keeps its last figures, and is
marked so.
"""

from __future__ import annotations

import os
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from freehold import published
from freehold.published import NotPublished, Page, Snapshot

__all__ = ["Sample", "Watch", "Watches", "command_of"]

HISTORY = 600  # samples kept
ANSWER_S = 0.25
RATE_S = 1.0
LOOK_AROUND_S = 2.0  # between two looks for processes that were not there before
PAGE = os.sysconf("SC_PAGESIZE")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """One process at one moment.

    Attributes:
        answered: whether the figures are of now; else they are the last ones that it published.
        rates: over the last second, or since the first sample, per second: `faults`, `calls` (of the OS, by the heap),
            `allocations`, `purged` (bytes), and `cpu`, the share of a core.
    """

    pid: int
    command: str
    time_s: float
    snapshot: Snapshot
    answered: bool
    resident: int
    counters: dict[str, float]
    rates: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return everything by name."""
        return {
            "pid": self.pid,
            "command": self.command,
            "answered": self.answered,
            "resident": self.resident,
            "rates": self.rates,
            "published": self.snapshot.as_dict(),
        }


class Watch:
    """One process: its page, and the samples taken of it, the latest last.

    Raises:
        NotPublished: it has no page for us.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.page: Page | None = published.find(pid)
        self.command = command_of(pid)
        self.history: deque[Sample] = deque(maxlen=HISTORY)
        self._asked = 0

    @property
    def is_over(self) -> bool:
        """Whether the process has ended, or runs another program."""
        return self.page is None

    @property
    def last(self) -> Sample | None:
        """The latest sample."""
        return self.history[-1] if self.history else None

    def close(self) -> None:
        """Let go of the page; the history stays."""
        if self.page is not None:
            self.page.close()
            self.page = None

    def ask(self) -> None:
        """Ask the process for figures, without waiting for them."""
        if self.page is not None:
            self._asked = self.page.ring()

    def take(self, timeout_s: float = ANSWER_S) -> Sample | None:
        """Take the sample that was asked for; None: the process is over, or has never answered."""
        if self.page is None:
            return None
        answered = self.page.wait_for(self._asked, timeout_s)
        if not answered and not self.page.is_alive():
            self.page.close()
            self.page = self._next_page()
            return None
        snapshot = self.page.read()
        if snapshot is None:
            return None
        try:
            resident, counters = _of_the_system(self.pid)
        except (OSError, ValueError, IndexError):  # it has just ended
            self.close()
            return None
        counters |= {
            "calls": float(sum(call[0] for call in snapshot.calls.values())),
            "allocations": float(snapshot.total().allocations),
            "purged": float(snapshot.purged),
        }
        now = time.monotonic()
        rates = _rates(self._a_second_before(now), counters, now)
        sample = Sample(self.pid, self.command, now, snapshot, answered, resident, counters, rates)
        self.history.append(sample)
        return sample

    def _a_second_before(self, now: float) -> Sample | None:
        """Return the sample to take rates from: over less than a second, the system's clock ticks would show."""
        earlier = next((sample for sample in reversed(self.history) if now - sample.time_s >= RATE_S), None)
        return earlier or (self.history[0] if self.history else None)

    def look(self, timeout_s: float = ANSWER_S) -> Sample | None:
        """Ask, and take the sample."""
        self.ask()
        return self.take(timeout_s)

    def purge(self) -> int | None:
        """Have the process give everything idle back; return how many bytes, None if it does not answer."""
        return None if self.page is None else self.page.purge()

    def _next_page(self) -> Page | None:
        """Return the page that a process has now: one that became a daemon makes another."""
        with suppress(NotPublished):
            return published.find(self.pid)
        return None


class Watches:
    """All processes on the heap that are ours to look into."""

    def __init__(self) -> None:
        self.by_pid: dict[int, Watch] = {}
        self._looked_around_s = 0.0

    def look(self) -> list[Sample]:
        """Return a sample of each process; all are asked before the first is waited for."""
        now = time.monotonic()
        if not self._looked_around_s or now - self._looked_around_s > LOOK_AROUND_S:
            self._looked_around_s = now
            self._look_around()
        for watch in self.by_pid.values():
            watch.ask()
        end = time.monotonic() + ANSWER_S
        samples = [watch.take(max(0.0, end - time.monotonic())) for watch in self.by_pid.values()]
        for pid in [pid for pid, watch in self.by_pid.items() if watch.is_over]:
            del self.by_pid[pid]
        return [sample for sample in samples if sample is not None]

    def _look_around(self) -> None:
        for pid in published.processes():
            if pid not in self.by_pid:
                with suppress(NotPublished):
                    self.by_pid[pid] = Watch(pid)

    def close(self) -> None:
        """Let go of all pages."""
        for watch in self.by_pid.values():
            watch.close()
        self.by_pid.clear()


def command_of(pid: int) -> str:
    """Return a process's command line as one line, without the folder of its program."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = [os.fsdecode(word) for word in file.read().split(b"\0") if word]
    except OSError:
        words = []
    text = " ".join([os.path.basename(words[0]), *words[1:]] if words else ["?"])
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _of_the_system(pid: int) -> tuple[int, dict[str, float]]:
    """Return what is resident, and the counters that the system keeps: page faults and processor seconds."""
    with open(f"/proc/{pid}/statm") as file:
        resident = int(file.read().split()[1]) * PAGE
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    faults, major, user, system = int(fields[7]), int(fields[9]), int(fields[11]), int(fields[12])
    return resident, {"faults": float(faults + major), "cpu": (user + system) / TICKS}


def _rates(before: Sample | None, counters: dict[str, float], now: float) -> dict[str, float]:
    if before is None or now <= before.time_s:
        return dict.fromkeys(counters, 0.0)
    passed = now - before.time_s
    return {name: max(0.0, value - before.counters[name]) / passed for name, value in counters.items()}
