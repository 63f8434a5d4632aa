"""What other processes publish of their heaps, read from outside, without stopping or slowing them.

A process on the heap keeps a page that its owner can find and map: a memory file among its open files. `docs/page.md`
has its layout. Whoever wants fresh figures rings, and the process's reclaim thread writes them within a millisecond or
so; nobody is asked to do anything else.

Thread-safety: a `Page` by one thread at a time; any number of processes may read the same one.
Invariant: a `Snapshot` is whole: what was being written while it was read is read again.
Does not import the compiled modules: a process of any freehold is read by any Python.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import platform
import random
import struct
import time
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Self

__all__ = [
    "CALLS",
    "LAYERS",
    "Heap",
    "Layer",
    "NotPublished",
    "Page",
    "Range",
    "Snapshot",
    "ask_profile",
    "find",
    "processes",
]

VERSION = 1
LINK = "/memfd:freehold.page"
LAYERS = ("small", "extent", "large", "huge")
CALLS = (
    "reserve", "commit", "decommit", "unmap", "purge_lazy", "purge_now", "advise_huge", "advise_no_huge", "populate",
    "will_need", "bind", "map_file", "map_huge", "map", "remap",
)  # fmt: skip

HEAD = struct.Struct("=8sIIQQQQQQ")
BELL, PURGE, MAP, PROFILE, PROFILE_MS, PROFILE_DONE = 64, 68, 72, 76, 80, 84  # where the words of the readers are
PROFILE_FILE = 120  # … and one that answers them
BODY = 128
CALL_ROOM = 16
PROCESS = struct.Struct(f"={14 + 4 * CALL_ROOM}Q")
LAYER = struct.Struct("=8Q")
HEAP = struct.Struct("=9Q40s")
RANGE = struct.Struct("=7Q")
RANGE_LAYERS = {2: "small", 7: "extent", 4: "large", 5: "huge"}  # as the owner table has them
NONE = (1 << 64) - 1
IS_SECURE, IS_BUSY, IS_SUM = 1, 2, 4

FUTEX_WAKE = 1
SYS_FUTEX = {"x86_64": 202}.get(platform.machine(), 98)
RING_AGAIN_S = 0.05  # two readers may have rung at the same instant with the same word


class NotPublished(LookupError):
    """A process publishes nothing, or nothing that we may read; the text says which."""


@dataclass(frozen=True)
class Layer:
    """One layer of one heap. Bytes; blocks and allocations are counts."""

    allocated: int
    active: int
    dirty: int
    muzzy: int
    retained: int
    cached: int
    blocks: int
    allocations: int

    @property
    def mapped(self) -> int:
        """Active, dirty, muzzy and retained."""
        return self.active + self.dirty + self.muzzy + self.retained


@dataclass(frozen=True)
class Heap:
    """One heap; where there are very many, the last one is the sum of *count* of them."""

    id: int
    name: str
    secure: bool
    busy: bool
    count: int
    limit: int | None
    used: int
    peak: int
    refused: int
    metadata: int
    decay_s: float | None
    layers: dict[str, Layer]

    def total(self) -> Layer:
        """Return all its layers together."""
        return _sum(self.layers.values())


@dataclass(frozen=True)
class Range:
    """Neighbouring addresses of one layer of one heap, and how many bytes of them are in which state.

    *part* is the size class of small blocks, or the pool of large ones. Where spans are is not told: address 0.
    """

    address: int
    size: int
    heap: int
    layer: str
    part: int
    active: int
    dirty: int
    muzzy: int
    retained: int


@dataclass(frozen=True)
class Snapshot:
    """What a process published at one moment.

    Attributes:
        time_s: when, by the clock that `time.monotonic` reads.
        heaps: the default one first.
        calls: the OS's memory calls by name: calls, bytes, nanoseconds, failures.
        purges: how often a reader had it give back, and *purges_bytes* what that gave.
        ranges: where the memory is; empty unless `Page.map` asked.
    """

    pid: int
    time_s: float
    heap_count: int
    ticks: int
    purges: int
    purges_bytes: int
    metadata: int
    purged: int
    purge_calls: int
    os_failures: int
    bad_frees: int
    heaps: tuple[Heap, ...]
    calls: dict[str, tuple[int, int, int, int]]
    ranges: tuple[Range, ...] = ()
    ranges_left_out: int = 0

    def total(self) -> Layer:
        """Return all heaps together."""
        return _sum(heap.total() for heap in self.heaps)

    def layers(self) -> dict[str, Layer]:
        """Return each layer of all heaps together."""
        return {name: _sum(heap.layers[name] for heap in self.heaps) for name in LAYERS}

    def as_dict(self) -> dict[str, Any]:
        """Return everything by name; sums of it too."""
        read = asdict(self)
        return read | {"total": asdict(self.total()) | {"mapped": self.total().mapped}}

    def to_json(self) -> str:
        """Return everything as one JSON object."""
        return json.dumps(self.as_dict())


def _sum(layers: Any) -> Layer:
    rows = [(x.allocated, x.active, x.dirty, x.muzzy, x.retained, x.cached, x.blocks, x.allocations) for x in layers]
    return Layer(*(sum(column) for column in zip(*rows, strict=True))) if rows else Layer(*[0] * 8)


# ---- finding ----


def processes() -> Iterator[int]:
    """Yield the ids of the processes whose pages we may read."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _descriptor(int(entry)) is not None:
            yield int(entry)


def find(pid: int) -> Page:
    """Open the page of process *pid*.

    Raises:
        NotPublished: there is no such process, it is not ours, or it has no page.
    """
    try:
        descriptor = _descriptor(pid, careful=True)
    except FileNotFoundError:
        raise NotPublished(f"there is no process {pid}") from None
    except PermissionError:
        raise NotPublished(f"process {pid} is not yours to look into") from None
    if descriptor is None:
        raise NotPublished(
            f"process {pid} publishes nothing: it is not on the freehold heap, has hardly used it yet, or was started "
            "with publish=no"
        )
    try:
        return Page(pid, descriptor)
    except OSError:
        raise NotPublished(f"process {pid} has just ended") from None


def ask_profile(pid: int, seconds: float = 10.0) -> bytes:
    """Return the heap profile of process *pid*, as `freehold.profiles.Profile.read` takes it.

    Args:
        pid: the process. It is not stopped; its reclaim thread writes the profile.
        seconds: where it takes no profile yet, how long it is to take one before this returns; 0: not at all.

    Raises:
        NotPublished: there is no such process, it is not ours, it publishes nothing, or it does not answer; or takes no
            profile, where *seconds* is 0.
    """
    with find(pid) as page:
        content = page.profile(seconds)
    if content is None:
        raise NotPublished(f"process {pid} has ended, or does not answer")
    if not content:
        raise NotPublished(f"process {pid} takes no profile")
    return content


def _descriptor(pid: int, *, careful: bool = False) -> int | None:
    """Return the number of the file that is the page of *pid*. It is a high one, so they are looked at from the top."""
    folder = f"/proc/{pid}/fd"
    try:
        for number in sorted(map(int, os.listdir(folder)), reverse=True):
            if _link(f"{folder}/{number}").startswith(LINK):
                return number
    except OSError:
        if careful:
            raise
    return None


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # closed a moment ago
        return ""


def _own_number(pid: int) -> int:
    """Return what a process calls itself: in a container that is another number than outside."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next(int(line.split()[-1]) for line in file if line.startswith("NSpid:"))
    except StopIteration:  # a kernel without namespaces
        return pid


# ---- reading ----


class Page:
    """The page of another process, or of this one. A context manager.

    Attributes:
        space: the addresses that all its heaps lie in; empty where the process does not tell.

    Raises:
        NotPublished: it is none that this version can read, or a forked child holds its parent's.
    """

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._path = f"/proc/{pid}/fd/{descriptor}"
        file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            facts = os.fstat(file)
            if facts.st_size < HEAD.size:
                raise NotPublished(f"the page of process {pid} is being made")
            self._inode = facts.st_ino
            self._map = mmap.mmap(file, facts.st_size)
        finally:
            os.close(file)
        magic, version, size, *_ = HEAD.unpack_from(self._map)
        wrong = "is none of freehold's" if magic != b"freehold" else ""
        if not wrong and (version != VERSION or size != len(self._map)):
            wrong = f"has version {version}; this freehold reads version {VERSION}"
        if not wrong and HEAD.unpack_from(self._map)[6] != _own_number(pid):
            wrong = "is its parent's"
        if wrong:
            self._map.close()
            raise NotPublished(f"the page of process {pid} {wrong}")
        self._bell = ctypes.c_uint32.from_buffer(self._map, BELL)
        space: int = HEAD.unpack_from(self._map)[8]
        self.space = range(space & ~0xFF, (space & ~0xFF) + (1 << (space & 0xFF)) if space else 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap it. Twice does no harm."""
        if not self._map.closed:
            del self._bell
            self._map.close()

    def is_alive(self) -> bool:
        """Return whether the process still has the page: it does not when it has ended, or runs another program."""
        try:
            return os.stat(self._path).st_ino == self._inode
        except OSError:
            return False

    def read(self) -> Snapshot | None:
        """Return what was published last; None: nothing was yet, or the process ended while it wrote."""
        for _ in range(1000):
            sequence = self._sequence()
            *_, checksum, body, _, _, _ = HEAD.unpack_from(self._map)
            if sequence % 2 == 0 and body <= len(self._map) - BODY:
                if sequence == 0:
                    return None
                copy = self._map[BODY : BODY + body]
                if self._sequence() == sequence and sum(array("Q", copy)) & NONE == checksum:
                    return _parse(self.pid, copy)
            time.sleep(0)
        return None

    def fresh(self, timeout_s: float = 0.25) -> Snapshot | None:
        """Ask for figures and return them; None: the process did not answer in time."""
        return self.read() if self.wait_for(self.ring(), timeout_s) else None

    def map(self, timeout_s: float = 2.0) -> Snapshot | None:
        """Ask for figures with the ranges that the memory is in; None: the process did not answer in time."""
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            self._write(MAP)
            seen = self.fresh(left)
            if seen is None or seen.ranges:  # else another reader was answered in between
                return seen
        return None

    def ring(self) -> int:
        """Ask for figures, and return at once: they are there when `wait_for` this number says so."""
        sequence = self._sequence()
        self._write(BELL)
        self._wake()
        return sequence + 2 + sequence % 2

    def purge(self, timeout_s: float = 10.0) -> int | None:
        """Have the process give everything idle back; return how many bytes that were, None if it did not answer."""
        before = self.fresh()
        self._write(PURGE)
        end = time.monotonic() + timeout_s
        while before is not None and time.monotonic() < end:
            after = self.fresh(end - time.monotonic())
            if after is not None and after.purges > before.purges:
                return after.purges_bytes - before.purges_bytes
        return None

    def profile(self, seconds: float = 10.0, timeout_s: float = 10.0) -> bytes | None:
        """Ask for the heap profile; nothing in it: there is none; None: the process did not answer in time.

        Args:
            seconds: how long it is to take one first, where it does not yet; 0: not at all.
            timeout_s: how much longer than that to wait.
        """
        before = self._profiles() >> 32
        struct.pack_into("=I", self._map, PROFILE_MS, min(int(seconds * 1000), (1 << 32) - 1))
        self._write(PROFILE)
        end = time.monotonic() + seconds + timeout_s
        while self._profiles() >> 32 == before:
            if time.monotonic() > end or not self.is_alive():
                return None
            self.wait_for(self.ring(), 0.25)
            time.sleep(0.005)
        descriptor = self._profiles() & 0xFFFFFFFF
        if descriptor == 0:
            return b""
        try:
            with open(f"/proc/{self.pid}/fd/{descriptor}", "rb") as file:
                return file.read()
        except OSError:
            return None
        finally:
            self._write(PROFILE_DONE)
            self.ring()

    def _profiles(self) -> int:
        """Return how many profiles were written, and in which file the last one is."""
        written: int = struct.unpack_from("=Q", self._map, PROFILE_FILE)[0]
        return written

    def _sequence(self) -> int:
        sequence: int = struct.unpack_from("=Q", self._map, 16)[0]
        return sequence

    def _write(self, place: int) -> None:
        """Change a word of the readers to one that it was not."""
        before: int = struct.unpack_from("=I", self._map, place)[0]
        struct.pack_into("=I", self._map, place, before ^ random.randrange(1, 1 << 32))

    def _wake(self) -> None:
        _libc.syscall(SYS_FUTEX, ctypes.byref(self._bell), FUTEX_WAKE, 1 << 30, None, None, 0)

    def wait_for(self, sequence: int, timeout_s: float) -> bool:
        """Wait for what `ring` asked for, ringing again now and then; False: the process did not answer in time."""
        began = rung = time.monotonic()
        while self._sequence() < sequence:
            now = time.monotonic()
            if now - began > timeout_s:
                return False
            if now - rung > RING_AGAIN_S:
                rung = now
                self.ring()
            time.sleep(min(0.005, max(0.0002, (now - began) / 4)))
        return True


_libc = ctypes.CDLL(None, use_errno=True)


def _parse(pid: int, body: bytes) -> Snapshot:
    words = PROCESS.unpack_from(body)
    calls = {name: words[14 + 4 * i : 18 + 4 * i] for i, name in enumerate(CALLS[: words[13]])}
    size = HEAP.size + len(LAYERS) * LAYER.size
    heaps = tuple(_parse_heap(body, PROCESS.size + i * size) for i in range(words[2]))
    start = PROCESS.size + words[2] * size
    ranges = tuple(_parse_range(body, start + i * RANGE.size) for i in range(words[11]))
    ticks, purges, purges_bytes, metadata, purged, purge_calls, os_failures, bad_frees = words[3:11]
    return Snapshot(
        pid=pid,
        time_s=words[0] / 1e9,
        heap_count=words[1],
        ticks=ticks,
        purges=purges,
        purges_bytes=purges_bytes,
        metadata=metadata,
        purged=purged,
        purge_calls=purge_calls,
        os_failures=os_failures,
        bad_frees=bad_frees,
        heaps=heaps,
        calls=calls,
        ranges=ranges,
        ranges_left_out=words[12],
    )


def _parse_range(body: bytes, at: int) -> Range:
    address, size, owner, active, dirty, muzzy, retained = RANGE.unpack_from(body, at)
    layer = RANGE_LAYERS.get(owner >> 40 & 0xFF, "?")
    return Range(address, size, owner >> 48, layer, owner & 0xFFFFFFFFFF, active, dirty, muzzy, retained)


def _parse_heap(body: bytes, at: int) -> Heap:
    id_, flags, limit, used, peak, refused, metadata, decay_ns, count, text = HEAP.unpack_from(body, at)
    at += HEAP.size
    layers = {name: Layer(*LAYER.unpack_from(body, at + i * LAYER.size)) for i, name in enumerate(LAYERS)}
    name = text.partition(b"\0")[0].decode("utf-8", "replace") or ("default" if id_ == 0 else f"heap {id_}")
    return Heap(
        id=id_,
        name=f"{count} more heaps" if flags & IS_SUM else name,
        secure=bool(flags & IS_SECURE),
        busy=bool(flags & IS_BUSY),
        count=count,
        limit=None if limit == NONE else limit,
        used=used,
        peak=peak,
        refused=refused,
        metadata=metadata,
        decay_s=None if decay_ns == NONE else decay_ns / 1e9,
        layers=layers,
    )
