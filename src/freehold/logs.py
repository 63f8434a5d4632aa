"""What an operator must know of the heap, told to Python's logging as the logger ``freehold``, once each.

Nothing is logged from inside an allocation: the allocator only counts, and holds neither the GIL nor a log's locks. A
Python thread looks at the counters every second, and once more when the process ends. There is none unless
it was asked for: ``log=yes`` among the options, or `start_logging`.

Thread-safety: any thread. Around `os.fork` the thread ends and begins again, in parent and child.
Invariant: one thing is told once in a process, and not again in its forked children.
Does not: open the heap, configure logging, or tell anything while the interpreter is held up.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from freehold import config, heap_stats, opening

__all__ = ["Remark", "remarks", "start_logging", "stop_logging"]

EVERY = "1s"
END_S = 2.0  # so long is waited for a handler that is at work
NO_LIMIT = (1 << 64) - 1
FOR_MEMORY = ("reserve", "commit", "map", "map_file", "populate", "remap")
FOR_HUGE_PAGES = ("advise_huge", "map_huge")
FOR_GIVING_BACK = ("purge_now", "purge_lazy", "decommit", "unmap")

_logger = logging.getLogger("freehold")
_lock = threading.Lock()  # guards the next three
_said: set[str] = set()
_watcher: _Watcher | None = None
_is_covered = False  # the end of the process, and forks


class Remark(NamedTuple):
    """One thing to be told: what it is about, so that it is told once, how loud, and in which words."""

    about: str
    level: int
    text: str


def remarks(
    heaps: Iterable[tuple[str, Mapping[str, int]]],
    failures: Mapping[str, int],
    huge_page_mode: str,
    *,
    wants_huge_pages: bool,
) -> Iterator[Remark]:
    """Yield what is to be told of these figures.

    Args:
        heaps: each one's name, and what the core tells of it.
        failures: how often the system refused each call for memory.
        huge_page_mode: what the kernel's transparent huge pages are set to.
        wants_huge_pages: whether the heap would use them.
    """
    for name, read in heaps:
        if read["refused"] and read["limit"] != NO_LIMIT:
            text = f"heap {name!r} has reached its limit of {read['limit']:,} bytes: {read['used']:,} are in use now"
            yield Remark(f"limit {name}", logging.WARNING, text)
        if read["exhausted"]:
            text = f"heap {name!r} has used up the addresses of a size class: larger blocks serve it"
            yield Remark(f"exhausted {name}", logging.WARNING, text)
    yield from _refusals(failures, FOR_MEMORY, logging.ERROR, "memory")
    yield from _refusals(failures, FOR_HUGE_PAGES, logging.WARNING, "huge pages")
    yield from _refusals(failures, FOR_GIVING_BACK, logging.WARNING, "to take memory back")
    yield from _refusals(failures, ("bind",), logging.WARNING, "to bind memory to a node")
    if wants_huge_pages and huge_page_mode == "never":
        text = "transparent huge pages are switched off on this system (/sys/kernel/mm/transparent_hugepage/enabled)"
        yield Remark("huge pages", logging.INFO, text)


def _refusals(failures: Mapping[str, int], calls: tuple[str, ...], level: int, what: str) -> Iterator[Remark]:
    for call in calls:
        if failures.get(call, 0):
            yield Remark(
                call, level, f"the operating system has refused {what}: {call}, {failures[call]:,} times so far"
            )


def start_logging(every: float | str = EVERY) -> None:
    """Have Python's logging told, as ``freehold``, what an operator must know: each thing once.

    A limit that was reached, addresses that are used up, memory or huge pages that the system refuses, memory that it
    does not take back. Where logging is not configured, Python writes what is a warning or worse to stderr.

    Args:
        every: how often the counters are looked at: seconds, or text like ``"500ms"``.

    Raises:
        ValueError: that is no such time, or 0.

    Thread-safety: any thread, any number of times; the last one says how often.
    """
    global _watcher
    every_ms = config.parse_duration("every", every)
    if every_ms <= 0:
        raise ValueError(f"every={every!r}: expected a time above 0")
    with _lock:
        _cover()
        _end_watcher()
        _watcher = _Watcher(every_ms / 1000)


def stop_logging() -> None:
    """Have it told nothing more, after a last look. Does nothing where it was not started."""
    global _watcher
    with _lock:
        was = _watcher
        _end_watcher()
        _watcher = None
    if was is not None:
        _look()


class _Watcher:
    """A thread that looks, and ends when it is told to."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="freehold-log", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(self.every_s):
            _look()

    def end(self) -> None:
        self._over.set()
        if self._thread is not threading.current_thread():
            self._thread.join(END_S)


def _look() -> None:
    """Tell what is new. What goes wrong here is nobody's trouble."""
    try:
        if opening.is_open():
            for remark in _now():
                if remark.about not in _said:
                    _said.add(remark.about)
                    _logger.log(remark.level, "%s", remark.text)
    except Exception:
        _logger.debug("the counters could not be read", exc_info=True)


def _now() -> Iterator[Remark]:
    from freehold.face.vm_face import Vm

    with Vm() as vm:
        failures = {name: call["failures"] for name, call in vm.stats().items()}
        mode = str(vm.facts()["huge_page_mode"])
    wants = opening.setting("huge_pages") != "never"
    return remarks(heap_stats.readings(), failures, mode, wants_huge_pages=wants)


def _end_watcher() -> None:
    if _watcher is not None:
        _watcher.end()


def _cover() -> None:
    global _is_covered
    if not _is_covered:
        _is_covered = True
        atexit.register(stop_logging)
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _before_fork() -> None:
    """Python warns of a fork beside threads, and a child would find the thread's locks held."""
    _lock.acquire()
    _end_watcher()


def _after_fork() -> None:
    global _watcher
    if _watcher is not None:
        _watcher = _Watcher(_watcher.every_s)
    _lock.release()
