"""reclaim: what is idle goes back by itself, whoever freed it; and nothing else does. In processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from c_programs import LIBRARY, figures

CRIMES = Path(__file__).parents[1] / "crimes"
SITE = LIBRARY.parents[1]
MIB = 1024  # in KiB, as the programs print


def run(program: str, **environment: str) -> None:
    """Run a program against the C heap; it must end well and say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, "-c", "import c_heap as heap\n" + textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": f"{SITE}:{CRIMES}", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (0, "") == (done.returncode, done.stderr), done.stderr


# ---- H8, H5: what is idle goes back, by itself; then nothing runs ----


@pytest.mark.parametrize("who", range(4), ids=["the maker", "another", "a sleeper", "the dead"])
@pytest.mark.parametrize(
    ("size", "count"), [(16, 4_000_000), (48, 1_000_000), (4096, 20_000), (131_072, 1000), (300_000, 300)]
)
def test_H8_two_seconds_after_the_last_free_the_memory_is_back(size: int, count: int, who: int) -> None:
    """Whichever thread freed it, also one that sleeps or is dead: within 3 % of the peak, plus 8 MiB, of the start."""
    seen = figures("rest", size, count, 0, who)

    assert seen["end"] - seen["start"] <= 0.03 * (seen["peak"] - seen["start"]) + 8 * MIB
    assert (0, 0, 0) == (seen["live"], seen["dirty"], seen["broken"])


def test_H8_R2_what_many_tiny_blocks_needed_goes_back_too() -> None:
    """Their states and their entries in the free array: five bytes for each sixteen."""
    seen = figures("rest", 16, 10_000_000, 0, 0)

    assert seen["end"] - seen["start"] <= 0.03 * (seen["peak"] - seen["start"]) + MIB


def test_H8_what_is_live_stays_as_it_was() -> None:
    """Every second page's block stays, and keeps its contents (the program looks)."""
    seen = figures("rest", 4096, 20_000, 2, 0)

    assert 10_000 == seen["live"]
    assert seen["end"] - seen["start"] <= 40_000 + 0.03 * (seen["peak"] - seen["start"]) + 8 * MIB


def test_H5_the_thread_sleeps_when_nothing_is_dirty() -> None:
    """It has run a few times, and does not run again."""
    seen = figures("rest", 48, 1_000_000, 0, 0)

    assert 1 == seen["asleep"]
    assert 0 < seen["ticks"] == seen["later"] < 20


def test_H5_a_loop_that_goes_on_keeps_what_it_uses() -> None:
    """After a large build was given back, a warm loop of 8 MiB is purged of nothing that it uses."""
    run(
        """
        import time
        blocks = [heap.allocate(4096, 0) for _ in range(16_000)]
        for p in blocks: heap.fill(p, 1, 4096)
        for p in blocks: heap.deallocate(p)
        time.sleep(1.6)
        assert heap.stats()["dirty"] == 0, heap.stats()
        before = heap.stats()["purged"]
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            blocks = [heap.allocate(4096, 0) for _ in range(2000)]
            for p in blocks: heap.fill(p, 1, 8)
            for p in blocks: heap.deallocate(p)
        purged = heap.stats()["purged"] - before
        assert purged <= 4 << 20, purged  # once, at first: the ends of huge pages that it does not use
        """
    )


def test_H5_its_signals_are_blocked() -> None:
    """No handler of the program ever runs on it."""
    run(
        """
        import time
        from pathlib import Path
        heap.deallocate(heap.allocate(100_000, 0))
        deadline = time.monotonic() + 20
        while True:
            ours = [t for t in Path("/proc/self/task").iterdir() if (t / "comm").read_text() == "freehold\\n"]
            if ours or time.monotonic() > deadline: break
        masks = dict(line.split(":\\t") for line in (ours[0] / "status").read_text().splitlines() if ":\\t" in line)
        every = (1 << 64) - 1
        free = every & ~int(masks["SigBlk"], 16)
        # KILL and STOP can not be blocked; 32 and 33 are the C library's own
        assert free & ~sum(1 << (n - 1) for n in (9, 19, 32, 33)) == 0, hex(free)
        """
    )


RESTS = """
    import os, sys, threading, time; from pathlib import Path
    from freehold.face import process_heap
    def threads():
        return sum(Path(f"/proc/self/task/{task}/comm").read_text() == "freehold\\n" for task in os.listdir("/proc/self/task"))
    def use():
        blocks = [heap.allocate(5000, 0) for _ in range(300)]
        for p in blocks: heap.fill(p, 1, 5000)
        for p in blocks: heap.deallocate(p)
    def until(done):
        deadline = time.monotonic() + 20
        while not done() and time.monotonic() < deadline: time.sleep(0.01)
        return done()
"""


def test_H6_the_thread_rests_while_it_is_told_to() -> None:
    """It is gone for the kernel, nothing starts it, and what went idle meanwhile is given back after."""
    run(
        RESTS
        + """
    process_heap.rest(); use(); assert threads() == 0
    process_heap.resume(); assert until(lambda: threads() == 1)
    process_heap.rest(); assert threads() == 0
    process_heap.rest(); use()
    process_heap.resume(); use(); assert threads() == 0
    process_heap.resume(); assert until(lambda: threads() == 1)
    assert until(lambda: heap.stats()["dirty"] == 0)
    assert until(heap.reclaim_is_asleep)
    process_heap.rest(); assert threads() == 0
    process_heap.resume(); use(); assert until(lambda: heap.stats()["dirty"] == 0)
    assert heap.check() == 0
    """
    )


def test_H6_python_forks_find_no_thread_of_the_heap() -> None:
    """So Python has nothing to warn of, whatever the thread was at; threads that fork at one time, and children, too."""
    run(
        RESTS
        + """
    import warnings
    warnings.simplefilter("error")  # since 3.12 Python counts
    seen = []
    if sys.version_info < (3, 12):  # before, it does not, and freehold does nothing by itself
        os.register_at_fork(after_in_parent=lambda: seen.append(threads()))
        os.register_at_fork(before=process_heap.rest, after_in_parent=process_heap.resume)
    def fork(times):
        for _ in range(times):
            use()
            pid = os.fork()
            if pid == 0:
                use(); os._exit(0 if heap.check() == 0 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    fork(60)
    assert seen == [0] * (60 if sys.version_info < (3, 12) else 0), seen
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            fork(5); code = any(seen)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    warnings.simplefilter("ignore")  # of the two threads that come now
    both = [threading.Thread(target=fork, args=(30,)) for _ in range(2)]
    for t in both: t.start()
    for t in both: t.join()
    use()
    assert until(lambda: heap.stats()["dirty"] == 0 and threads() == 1), (heap.stats(), threads())
    """
    )


def test_H5_H6_a_forked_child_gives_back_by_itself_too() -> None:
    """Its thread starts again when first needed; the parent is untouched."""
    run(
        """
        import os, time
        kept = heap.allocate(48, 0); heap.fill(kept, 7, 48)
        heap.deallocate(heap.allocate(5000, 0)); time.sleep(0.3)
        pid = os.fork()
        if pid == 0:
            blocks = [heap.allocate(4096, 0) for _ in range(10_000)]
            for p in blocks: heap.fill(p, 1, 4096)
            for p in blocks: heap.deallocate(p)
            heap.deallocate(kept)
            deadline = time.monotonic() + 10
            while (heap.stats()["dirty"] or not heap.reclaim_is_asleep()) and time.monotonic() < deadline:
                time.sleep(0.05)
            good = heap.stats()["dirty"] == 0 and heap.reclaim_is_asleep() and heap.check() == 0
            os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert heap.read(kept, 48) == bytes([7]) * 48
        heap.deallocate(kept)
        assert heap.check() == 0
        """
    )


# ---- accounting, and the end ----


def test_H4_the_figures_add_up() -> None:
    """mapped = active + dirty + muzzy + retained; blocks = allocations - deallocations; to the block."""
    run(
        """
        import random
        roll, live = random.Random(5), {}
        for _ in range(20_000):
            if roll.random() < 0.6:
                size = roll.choice((1, 16, 48, 100, 1000, 5000, 40_000))
                p = heap.allocate(size, 0); live[p] = heap.usable_size(p)
            elif live:
                p = roll.choice([*live][:50]); heap.deallocate(p); del live[p]
            if _ % 500 == 0:
                s = heap.stats()
                assert s["mapped"] == s["active"] + s["dirty"] + s["muzzy"] + s["retained"]
                assert s["blocks"] == s["allocations"] - s["deallocations"] == len(live)
                assert s["allocated"] == sum(live.values())
                assert s["allocated"] <= s["active"] <= s["mapped"] and heap.check() == 0
        for p in live: heap.deallocate(p)
        heap.purge()
        s = heap.stats()
        assert (s["blocks"], s["allocated"], s["dirty"]) == (0, 0, 0), s
        """
    )


def test_H7_threads_that_end_in_any_order_leave_their_blocks() -> None:
    """A daemon thread allocates while the interpreter ends."""
    run(
        """
        import threading
        def work():
            while True:
                for p in [heap.allocate(size, 0) for size in (16, 100, 5000)]: heap.deallocate(p)
        for _ in range(3): threading.Thread(target=work, daemon=True).start()
        """
    )
