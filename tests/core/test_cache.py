"""cache: threads that allocate, free elsewhere, sleep, die and fork, while others take what they keep."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import threading
import time
from typing import Any

import pytest
from c_programs import figures, sanitizer

from freehold.errors import BadFree
from freehold.face.primary_face import Primary


def run_all(*works: Any) -> None:
    """Run each in a thread of its own; raise what any of them raised."""
    errors: list[BaseException] = []

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# ---- the process heap, from C: true parallelism ----


@pytest.mark.parametrize(("threads", "purgers", "life"), [(4, 0, 0), (6, 1, 0), (4, 2, 30)])
def test_R10_a_storm_never_gives_a_block_two_owners(threads: int, purgers: int, life: int) -> None:
    """Blocks pass between threads; threads die; others purge, which claims the caches of those who are outside."""
    seen = figures("storm", threads, 3, purgers, life)

    assert 0 == seen["broken"]
    assert seen["operations"] > 1000
    assert seen["threads"] > threads if life else seen["threads"] == threads


def test_R6_a_storm_of_waves_forgets_and_remembers_rightly() -> None:
    """Regions that grow, empty and forget their blocks, again and again, while two threads give back."""
    seen = figures("waves", 2, 3, 60_000, 0)

    assert (0, 0) == (seen["live"], seen["broken"])
    assert seen["waves"] > 0


def test_F6_R11_a_raced_double_free_is_told_before_the_block_has_two_owners() -> None:
    """Two threads free the same 200,000 blocks: each is freed once and told once, and none has two owners."""
    seen = figures("race", 40, 5000, FREEHOLD_ON_ERROR="report")

    assert {"tries": 200_000, "told": 200_000} == seen


def test_F22_R8_forked_children_of_a_storm_are_whole() -> None:
    """Whatever the other threads were in the midst of."""
    assert {"forks": 60, "bad": 0, "broken": 0} == figures("forks", 4, 60)


def test_F25_F26_short_threads_leave_nothing_behind() -> None:
    """They end with full caches, and go on allocating in the destructors of their thread-specific data."""
    seen = figures("threads", 10_000)

    assert (0, 0) == (seen["live"], seen["broken"])
    if not sanitizer():  # which has memory of its own for each thread
        assert seen["late"] <= seen["early"] * 1.1 + 1024


@pytest.mark.parametrize(("threads", "purgers"), [(3, 0), (1, 2)])
def test_F29_a_signal_handler_may_allocate(threads: int, purgers: int) -> None:
    """Wherever in the allocator it interrupts its thread: in the midst of giving everything back and counting it, too."""
    seen = figures("signals", threads, purgers, 2)

    assert (0, 0) == (seen["live"], seen["broken"])
    assert seen["handled"] > 100
    assert (seen["purges"] > 0) == (purgers > 0)


# ---- a Primary of its own, from Python ----


@pytest.mark.parametrize("cache_bytes", [0, 3000, 2 << 20])
def test_R10_a_storm_balances(cache_bytes: int) -> None:
    """Threads pass blocks on, others drain, release, read statistics and check, all at once."""
    with Primary(cache_bytes=cache_bytes, metadata_size=8) as p:
        passing: list[int] = []
        stop = threading.Event()
        end = time.monotonic() + 1.5

        def work(seed: int) -> None:
            roll = random.Random(seed)
            mine: list[tuple[int, int, int]] = []
            while time.monotonic() < end:
                if roll.random() < 0.55:
                    size, byte = roll.choice((16, 48, 100, 1000, 5000)), roll.randrange(256)
                    block = p.allocate(size)
                    ctypes.memset(block, byte, size)
                    mine.append((block, byte, size))
                elif mine:
                    block, byte, size = mine.pop(roll.randrange(len(mine)))
                    assert bytes([byte]) * size == ctypes.string_at(block, size)
                    if roll.random() < 0.5:
                        passing.append(block)
                    else:
                        p.free(block)
                if passing and roll.random() < 0.5:
                    with contextlib.suppress(IndexError):  # another thread was quicker
                        p.free(passing.pop())
            for block, _, _ in mine:
                p.free(block)

        def generations(seed: int) -> None:
            while time.monotonic() < end:
                run_all(lambda: work(seed))

        def look() -> None:
            while not stop.is_set():
                p.release()
                p.check()
                stats = p.stats()
                assert all(c["allocations"] - c["frees"] == c["in_use"] for c in stats["classes"])
                p.lock_all()
                p.for_each(lambda block: None if p.owns(block) else pytest.fail("a block is not owned"))
                p.unlock_all()

        def workers() -> None:
            run_all(*(lambda seed=seed: generations(seed) for seed in range(4)))
            stop.set()

        run_all(workers, look)
        for block in passing:
            p.free(block)
        assert 0 == sum(c["in_use"] for c in p.stats()["classes"])
        p.check()


def test_R10_short_threads_balance() -> None:
    """Each frees what the one before made, and dies; counts and blocks survive it."""
    with Primary() as p:
        blocks: list[int] = []

        def work() -> None:
            for block in blocks:
                p.free(block)
            blocks[:] = [p.allocate(64) for _ in range(300)]

        for _ in range(100):
            run_all(work)
        stats = p.stats()

        assert (30_000, 29_700) == (stats["allocations"], stats["frees"])
        assert 300 == sum(c["in_use"] for c in stats["classes"])
        p.check()


def test_R10_close_waits_for_calls_and_refuses_the_next() -> None:
    """Whatever other threads are doing, and whatever their caches hold."""
    for _ in range(50):
        p = Primary()
        ready = threading.Barrier(4)

        def work(p: Primary = p, ready: threading.Barrier = ready) -> None:
            ready.wait()
            try:
                while True:
                    p.free(p.allocate(100))
            except BadFree:
                raise
            except ValueError:
                pass

        def close(p: Primary = p, ready: threading.Barrier = ready) -> None:
            ready.wait()
            p.close()

        run_all(work, work, work, close)


def test_F22_a_fork_in_a_storm_leaves_every_primary_usable() -> None:
    """The child's own Primary and the process's, while threads of the parent are inside both."""
    with Primary() as p:
        stop = threading.Event()
        blocks = [p.allocate(48) for _ in range(1000)]

        def work() -> None:
            while not stop.is_set():
                for block in [p.allocate(size) for size in (16, 48, 1000) for _ in range(50)]:
                    p.free(block)

        def fork() -> None:
            try:
                for _ in range(40):
                    pid = os.fork()
                    if pid == 0:
                        status = 1
                        try:
                            for block in blocks:
                                p.free(block)
                            assert 500 == len({p.allocate(48) for _ in range(500)})
                            p.release()
                            p.lock_all()
                            p.unlock_all()
                            p.check()
                            p.close()
                            status = 0
                        finally:
                            os._exit(status)
                    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            finally:
                stop.set()

        run_all(work, work, work, fork)
        p.check()
