"""Looks at a program from beside it, from its beginning to its end, however that comes.

Another process does this, so it costs the program neither a thread nor its GIL, and a program that is killed is
reported on all the same: docs/decisions/0007. What it reads is what the system says (/proc) and what the heaps publish
(docs/page.md). The program speaks twice, at its beginning and its end (`freehold.view.at_end`).

Thread-safety: a `Recorder` by one thread.
Invariants: bounded memory, however long the program runs. Looking at where memory is, which stops a program's page
faults for some milliseconds, takes at most 1 % of its time.
Does not: stop, slow or change the program; know its exit code.
"""

from __future__ import annotations

import ast
import os
import select
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from freehold import heap_stats, profile_dump, published, snapshots
from freehold.published import NotPublished, Page, Snapshot
from freehold.stats import of_process

from . import sources
from .profile_text import NATIVE, ROOTS
from .timeline import Moment, Timeline, marks

__all__ = ["Recorder", "listen", "ready_of"]

EVERY_S = 0.05
AT_MOST_EVERY_S = 0.5  # when the timeline has grown long, it is looked at more rarely
ANSWER_S = 0.04
LOOK_FOR_PAGE_S = 0.1
GROWTH = 1.03  # of resident memory, before it is looked at again where that is
LEAST_GROWTH = 4 << 20
LINES = 20  # of the program are told, those that had most memory
SHARE = 100  # between two such looks the program runs so many times as long as one takes
MESSAGE_S = 2.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_CREDENTIALS = struct.Struct("3i")


def listen() -> tuple[socket.socket, str]:
    """Return a socket that a program can speak to, and its address. It has no name in any file system."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    name = f"freehold-{os.getpid()}-{os.urandom(8).hex()}"
    listener.bind("\0" + name)
    listener.listen(4)
    return listener, "@" + name


def ready_of(descriptors: list[int], timeout_s: float | None = None) -> list[int]:
    """Wait until one of *descriptors* can be read, for so long at most; return which can. Numbers may be high."""
    watched = select.poll()
    for descriptor in descriptors:
        watched.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in watched.poll(None if timeout_s is None else max(0.0, timeout_s * 1000))]


@dataclass
class _Usage:
    """What the system says a process used and has: sizes in bytes."""

    resident: int
    peak: int
    cpu_s: float
    minor_faults: int
    major_faults: int


def _usage(pid: int) -> _Usage:
    """Read it.

    Raises:
        OSError, LookupError: the process has ended.
    """
    with open(f"/proc/{pid}/status") as file:
        pairs = (line.split(":", 1) for line in file)
        sizes = {name: int(value.split()[0]) << 10 for name, value in pairs if value.endswith("kB\n")}
    with open(f"/proc/{pid}/stat") as file:
        words = file.read().rpartition(")")[2].split()
    cpu_s = (int(words[11]) + int(words[12])) * _TICK_S
    return _Usage(sizes["VmRSS"], sizes["VmHWM"], cpu_s, int(words[7]), int(words[9]))


class Recorder:
    """What is recorded of one program.

    Args:
        pid: the process that it is, or will be by exec.
        listener: where it speaks, as `listen` gave it.
    """

    def __init__(self, pid: int, listener: socket.socket) -> None:
        self.pid = pid
        self.timeline = Timeline()
        self.snapshot: Snapshot | None = None
        self.told: dict[str, Any] = {}
        self.ended = "without a word"
        self.waiting: socket.socket | None = None  # the program, at its end
        self._listener = listener
        self._over = os.pidfd_open(pid)
        self._begun = self._seen = time.monotonic()
        self._cpu_s: tuple[float, float] | None = None  # as the program says: at its beginning and its end
        self._first: _Usage | None = None
        self._last: _Usage | None = None
        self._page: Page | None = None
        self._looked_for_page = 0.0
        self._peak: tuple[Moment, sources.Parts] | None = None
        self._end: sources.Parts | None = None
        self._look_again = 0.0

    @property
    def descriptors(self) -> list[int]:
        """The open files that it needs beside the listener."""
        return [self._over]

    # ---- while it runs ----

    def record(self) -> None:
        """Return when the program is about to end, or has ended. In the first case it waits for `let_go`."""
        next_s = time.monotonic()
        while self.waiting is None:
            ready = ready_of([self._listener.fileno(), self._over], next_s - time.monotonic())
            if self._listener.fileno() in ready:
                self._hear()
            elif ready:
                self._seen = time.monotonic()
                break
            else:
                self._look()
                next_s = time.monotonic() + min(max(EVERY_S, self.timeline.stretch_s), AT_MOST_EVERY_S)
        if self.waiting is not None:
            self._look(end=True)
        elif self._page is not None:
            self.snapshot = self._page.read() or self.snapshot

    def wait(self) -> None:
        """Return when the program has ended."""
        ready_of([self._over])

    def let_go(self) -> None:
        """Let the program end."""
        if self.waiting is not None:
            with suppress(OSError):  # it did not want to wait any longer
                self.waiting.send(b".")
            self.waiting.close()
            self.waiting = None

    def _hear(self) -> None:
        speaker, _ = self._listener.accept()
        credentials = speaker.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(credentials)[0] != self.pid:
            speaker.close()
            return
        message = b""
        speaker.settimeout(MESSAGE_S)
        with suppress(OSError), speaker.makefile("rb") as file:
            message = file.read()
        if not self._understands(message.decode(errors="replace")):
            speaker.close()
        else:
            self.waiting = speaker

    def _understands(self, message: str) -> bool:
        """Take in what the program says; return whether it is its end, so that it waits."""
        head, _, rest = message.partition("\n")
        try:
            what, at, cpu = head.split()
            at_s, cpu_s = float(at), float(cpu)
            told = _told(ast.literal_eval(rest)) if rest else {}
        except (ValueError, SyntaxError, LookupError, TypeError):  # whoever it is
            return False
        if what == "begin":
            self._begin(at_s, cpu_s)
            return False
        self._cpu_s = (self._cpu_s[0] if self._cpu_s else 0.0, cpu_s)
        self._seen, self.ended, self.told = at_s, "by itself", told
        return True

    def _begin(self, at_s: float, cpu_s: float) -> None:
        """Forget what was before: a process that had yet to become the program."""
        if self._cpu_s is not None:  # it became another one by exec, and goes on
            return
        self._begun, self._cpu_s = at_s, (cpu_s, cpu_s)
        self.timeline = Timeline()
        self._peak = self._first = self._last = None
        self._look()

    def _look(self, *, end: bool = False) -> None:
        """Take a sample; one that fails, because the process has just ended or may not be looked into, is none."""
        snapshot = self._published(now=end)
        try:
            usage = _usage(self.pid)
        except (OSError, LookupError, ValueError):
            return
        if not end:
            self._seen = time.monotonic()
        self._first = self._first or usage
        self._last = usage
        moment = _moment(max(0.0, self._seen - self._begun), usage.resident, snapshot, self.told.get("heap"))
        self.timeline.add(moment)
        if end:
            self._end = self._parts(moment)
        elif self._has_grown(usage.resident):
            parts = self._parts(moment)
            self._peak = (moment, parts) if parts else self._peak

    def _published(self, *, now: bool) -> Snapshot | None:
        """Return what the heaps publish now, or did last; None: there is nothing yet."""
        at_s = time.monotonic()
        if self._page is None and (now or at_s - self._looked_for_page > LOOK_FOR_PAGE_S):
            self._looked_for_page = at_s
            with suppress(NotPublished, OSError):
                self._page = published.find(self.pid)
        if self._page is not None:
            answer = self._page.fresh(ANSWER_S)
            if answer is None and not self._page.is_alive():
                self._page.close()
                self._page = None
            else:
                self.snapshot = answer or self._page.read() or self.snapshot
        return self.snapshot

    def _has_grown(self, resident: int) -> bool:
        grown = self._peak is None or resident > max(GROWTH * self._peak[1].total, self._peak[1].total + LEAST_GROWTH)
        return grown and time.monotonic() >= self._look_again

    def _parts(self, moment: Moment) -> sources.Parts | None:
        space = range(0) if self._page is None else self._page.space
        began = time.monotonic()
        try:
            return sources.of_process(self.pid, space, idle=moment.dirty + moment.muzzy)
        except (OSError, IndexError, ValueError):
            return None
        finally:
            now = time.monotonic()
            self._look_again = now + SHARE * (now - began)

    # ---- afterwards ----

    def figures(self) -> dict[str, Any]:
        """Return what was recorded: sizes in bytes, times in seconds. `docs/seeing.md` has the names."""
        first, last = self._first, self._last or _Usage(0, 0, 0.0, 0, 0)
        first = first or last
        if self._cpu_s is not None and self.ended == "by itself":
            cpu_s = self._cpu_s[1] - self._cpu_s[0]
        else:
            cpu_s = last.cpu_s - first.cpu_s
        return {
            "ended": self.ended,
            "wall_seconds": self._seen - self._begun,
            "cpu_seconds": cpu_s,
            # The system's own mark may lag a little behind what it says at the same moment.
            "peak_resident_bytes": max(last.peak, *(moment.resident for moment in self.timeline.moments), 0),
            "resident_bytes": last.resident,
            "minor_faults": last.minor_faults - first.minor_faults,
            "major_faults": last.major_faults - first.major_faults,
            "timeline": self.timeline.as_dict(),
            "marks": [
                *marks(self.timeline.moments),
                {"seconds": round(self._seen - self._begun, 3), "what": "end", "amount": last.resident},
            ],
            "memory": self._memory(),
        }

    def heap(self) -> dict[str, Any]:
        """Return what the heaps held: as the program said at its end, or else as it published last."""
        told = self.told or {"heap": None, "not_taken": {}, "profile": None}
        if not self.told and self.snapshot is not None:
            told = {
                "heap": snapshots.of_published(self.snapshot, "", 0).stats.as_dict(),
                "not_taken": {},
                "profile": None,
            }
        given_back = told["heap"]["purged_bytes"] if told["heap"] else 0
        return {"given_back_bytes": given_back, **told}

    def _memory(self) -> dict[str, Any]:
        """Return where the memory was, at the highest that was looked at, and at the end if it was told."""
        peak = None
        if self._peak is not None:
            moment, parts = self._peak
            peak = {"seconds": round(moment.seconds, 3), **parts.as_dict()}
        if self._end is not None and (peak is None or self._end.total > peak["total"]):
            peak = {"seconds": round(self._seen - self._begun, 3), **self._end.as_dict()}
        return {"at_peak": peak, "at_end": self._end.as_dict() if self._end else None}


def _moment(seconds: float, resident: int, snapshot: Snapshot | None, told: dict[str, Any] | None) -> Moment:
    """Return the moment as the heaps publish it; at the end, as the program says, so that both are the same."""
    if told is not None:
        names = ("current", "dirty", "muzzy", "retained", "purged")
        live, dirty, muzzy, retained, given_back = (told[f"{name}_bytes"] for name in names)
        refused = sum(heap["refused_count"] for heap in told["heaps"])
        return Moment(seconds, resident, live, dirty, muzzy, retained, given_back, refused)
    if snapshot is None:
        return Moment(seconds, resident)
    total = snapshot.total()
    return Moment(
        seconds,
        resident,
        live=total.allocated,
        dirty=total.dirty,
        muzzy=total.muzzy,
        retained=total.retained,
        given_back=snapshot.purged,
        refused=sum(heap.refused for heap in snapshot.heaps),
    )


def _told(said: dict[str, Any]) -> dict[str, Any]:
    """Return what a program said of its heaps by the names of `freehold.stats()`."""
    heap = None
    if "process" in said:
        heaps = tuple(heap_stats.HeapStats(**each) for each in said.get("heaps", ()))
        heap = of_process(said["process"], heaps or (heap_stats.of_heap("default", said["default"]),)).as_dict()
    return {"heap": heap, "not_taken": dict(said["not_taken"]), "profile": _profile(said.get("profile"))}


def _profile(dump: bytes | None) -> dict[str, Any] | None:
    """Return what a program's samples say: who asked for memory, and the lines that had most when most was live."""
    if not dump:
        return None
    taken = profile_dump.parse(dump)
    sources: dict[str, dict[str, int]] = {}
    lines: dict[profile_dump.Frame | None, dict[str, int]] = {}
    for stack in taken["stacks"]:
        for sums in (sources.setdefault(stack.source, {}), lines.setdefault(_own(stack.frames), {})):
            sums["peak_bytes"] = sums.get("peak_bytes", 0) + stack.peak_bytes
            sums["total_bytes"] = sums.get("total_bytes", 0) + stack.total_bytes
    return {
        "interval_bytes": taken["interval"],
        "samples": taken["samples"],
        "dropped": taken["dropped"],
        "sources": dict(sorted(sources.items(), key=lambda item: -item[1]["peak_bytes"])),
        "lines": [
            {"file": at.file, "line": at.line, "function": at.function, **sums}
            if at
            else {"file": "", "line": 0, "function": NATIVE, **sums}
            for at, sums in sorted(lines.items(), key=lambda item: -item[1]["peak_bytes"])[:LINES]
            if sums["peak_bytes"]
        ],
    }


def _own(frames: tuple[profile_dump.Frame, ...]) -> profile_dump.Frame | None:
    """Return the innermost frame of the program's own, if there is one: not of an installed package or the library."""
    own = (frame for frame in frames if not ROOTS.match(frame.file) and not frame.file.startswith("<frozen "))
    return next(own, frames[0] if frames else None)
