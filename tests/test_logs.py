"""Python's logging is told what an operator must know: once, and never from inside an allocation."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

import freehold
from freehold import Heap, LimitError, logs
from watched import wait_for

NOTHING = {"refused": 0, "limit": 1 << 30, "used": 5, "exhausted": 0}


@pytest.fixture(autouse=True)
def nothing_said_yet():
    logs._said.clear()
    yield
    freehold.stop_logging()


def told(heaps=(), failures=None, mode="madvise", wants=True):
    return [(remark.level, remark.text) for remark in logs.remarks(heaps, failures or {}, mode, wants_huge_pages=wants)]


def test_nothing_is_told_where_nothing_happened() -> None:
    """Counters at 0 are silent; a request that nobody bounds is no limit reached."""
    assert [] == told(
        [("a", NOTHING), ("b", NOTHING | {"refused": 3, "limit": logs.NO_LIMIT})], {"commit": 0, "bind": 0}
    )
    assert [] == told(mode="never", wants=False)


@pytest.mark.parametrize(
    ("figures", "level", "words"),
    [
        (
            {"heaps": [("etl", NOTHING | {"refused": 1})]},
            "WARNING",
            "heap 'etl' has reached its limit of 1,073,741,824",
        ),
        ({"heaps": [("etl", NOTHING | {"exhausted": 1})]}, "WARNING", "has used up the addresses of a size class"),
        ({"failures": {"commit": 2}}, "ERROR", "has refused memory: commit, 2 times"),
        ({"failures": {"purge_now": 1}}, "WARNING", "has refused to take memory back: purge_now"),
        ({"failures": {"advise_huge": 7}}, "WARNING", "has refused huge pages: advise_huge"),
        ({"failures": {"bind": 1}}, "WARNING", "to bind memory to a node"),
        ({"mode": "never"}, "INFO", "huge pages are switched off on this system"),
    ],
)
def test_each_thing_is_told_in_its_words(figures, level: str, words: str) -> None:
    """As loud as it is."""
    ((found, text),) = told(**figures)

    assert level == logging.getLevelName(found)
    assert words in text


def test_every_call_of_the_system_is_told_of() -> None:
    """Each that can be refused is one of those that are told, or is known to do no harm."""
    from freehold.face.vm_face import Vm

    with Vm() as vm:
        calls = set(vm.stats())

    harmless = {"advise_no_huge", "will_need"}
    assert calls - harmless == {*logs.FOR_MEMORY, *logs.FOR_HUGE_PAGES, *logs.FOR_GIVING_BACK, "bind"}


def test_a_limit_is_told_once(caplog) -> None:
    """By another thread, soon; a second time it is not; another heap's is."""
    first, second = Heap("first", limit="8MiB"), Heap("second", limit="8MiB")
    with caplog.at_level(logging.INFO, logger="freehold"):
        freehold.start_logging("1ms")
        with pytest.raises(LimitError):
            first.block(64 << 20)
        wait_for(lambda: caplog.records)
        with pytest.raises(LimitError):
            first.block(64 << 20)
        with pytest.raises(LimitError):
            second.block(64 << 20)
        wait_for(lambda: len(caplog.records) > 1)
        freehold.stop_logging()
    names = [record.getMessage().split("'")[1] for record in caplog.records if "limit" in record.getMessage()]

    assert ["first", "second"] == names
    assert {"freehold"} == {record.name for record in caplog.records}
    assert "freehold-log" == caplog.records[0].threadName


def test_stopping_looks_a_last_time_and_leaves_no_thread(caplog) -> None:
    """What happened since the last look is told; then nothing looks."""
    heap = Heap("last", limit="8MiB")
    freehold.start_logging("1h")
    with pytest.raises(LimitError):
        heap.block(64 << 20)
    assert not caplog.records
    freehold.stop_logging()
    freehold.stop_logging()

    assert 1 == sum("'last'" in record.getMessage() for record in caplog.records)
    assert "freehold-log" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("every", [0, "soon", -5, "never"])
def test_a_wrong_time_is_refused(every: object) -> None:
    """With the argument's name and value."""
    with pytest.raises(ValueError, match=f"every={every!r}"):
        freehold.start_logging(every)


def test_a_handler_that_fails_ends_nothing(monkeypatch, caplog) -> None:
    """The thread goes on, and tells the next thing."""
    monkeypatch.setattr(logs, "_now", lambda: 1 / 0)
    freehold.start_logging("1ms")
    time.sleep(0.02)
    monkeypatch.undo()
    heap = Heap("after", limit="8MiB")
    with pytest.raises(LimitError):
        heap.block(64 << 20)

    wait_for(lambda: "'after'" in caplog.text)


def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments, "-c", textwrap.dedent(program)],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


HITS_A_LIMIT = """
    import freehold, sys
    freehold.install()
    heap = freehold.Heap("small", limit="8MiB")
    try:
        heap.block(64 << 20)
    except MemoryError:
        print("logging" in sys.modules)
"""


def test_the_option_switches_it_on() -> None:
    """In a process, and under `freehold run`; without it nothing is imported for it. Unconfigured, it stands on stderr."""
    said = "heap 'small' has reached its limit of 8,388,608 bytes"
    silent = run(HITS_A_LIMIT)
    loud = run(HITS_A_LIMIT, FREEHOLD_LOG="yes")
    under_run = run(HITS_A_LIMIT, "-m", "freehold", "run", FREEHOLD_CONF="log=yes")

    assert (0, "") == (silent.returncode, silent.stderr)
    assert (0, 1, True) == (loud.returncode, loud.stderr.count("\n"), said in loud.stderr), loud.stderr
    assert (0, 1, True) == (under_run.returncode, under_run.stderr.count("\n"), said in under_run.stderr), (
        under_run.stderr
    )


def test_F24_a_fork_finds_no_thread_and_both_go_on() -> None:
    """Parent and child each tell what happens in them; nothing is told twice, and Python has nothing to warn of."""
    program = """
        import os, sys, logging, threading, warnings
        warnings.simplefilter("error")
        import freehold
        freehold.install()
        logging.basicConfig(format="%(message)s", stream=sys.stdout)
        freehold.start_logging("1ms")
        def hit(name):
            heap = freehold.Heap(name, limit="8MiB")
            try:
                heap.block(64 << 20)
            except MemoryError:
                pass
            freehold.stop_logging()
        hit("before")
        freehold.start_logging("1ms")
        pid = os.fork()
        if pid == 0:
            hit("child")
            sys.stdout.flush()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        hit("parent")
    """
    done = run(program)
    heaps = [line.split("'")[1] for line in done.stdout.splitlines() if "limit" in line]

    assert (0, "") == (done.returncode, done.stderr)
    assert ["before", "child", "parent"] == heaps


def test_addresses_that_are_used_up_are_told() -> None:
    """Where the system has few of them, a size class ends early; larger blocks serve."""
    program = """
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        import freehold, logging, sys
        logging.basicConfig(stream=sys.stdout)
        freehold.install()
        import numpy as np
        kept = []
        heap = freehold.Heap("few")
        while not heap._core.stats()["exhausted"] and len(kept) < 3_000_000:
            kept.extend(heap.block(4096) for _ in range(1000))
        freehold.start_logging("1h")
        freehold.stop_logging()
    """
    done = run(program)

    assert (0, "") == (done.returncode, done.stderr[-500:])
    assert "WARNING:freehold:heap 'few' has used up the addresses of a size class" in done.stdout


@pytest.mark.debug
def test_F12_memory_that_the_system_refuses_is_told(caplog) -> None:
    """The call that it refused, by name."""
    from freehold.face.vm_face import fail

    heap = Heap("unlucky")
    with fail("commit", nth=1, times=1 << 40), pytest.raises(MemoryError):
        heap.block(64 << 20)
    freehold.start_logging("1h")
    freehold.stop_logging()

    assert [("ERROR", True)] == [
        (record.levelname, record.getMessage().startswith("the operating system has refused memory: commit"))
        for record in caplog.records
        if ": commit," in record.getMessage()
    ]
