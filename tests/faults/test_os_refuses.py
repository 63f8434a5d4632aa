"""F12, F14: the OS refuses, at every use of every call in turn, once and from there on. Debug builds."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from freehold.errors import OutOfMemory
from freehold.face.primary_face import Primary
from freehold.face.vm_face import fail

pytestmark = pytest.mark.debug
TESTS = Path(__file__).parents[1]
CALLS = [
    "reserve",
    "commit",
    "decommit",
    "unmap",
    "purge_lazy",
    "purge_now",
    "advise_huge",
    "advise_no_huge",
    "map",
    "remap",
]
ALWAYS = 1 << 40

# What a failing heap is put through: `work` takes blocks of all kinds, or is refused, and frees them.
PRELUDE = """
import c_heap as heap, ctypes, errno, threading
from freehold.face.vm_face import fail
SIZES = (16, 48, 1000, 5000, 40_000, 131_072, 300_000, 3 << 20)

def take(size):
    before = heap.stats()
    ctypes.set_errno(0)
    p = heap.allocate(size, 0)
    if p is None:
        after = heap.stats()
        assert ctypes.get_errno() == errno.ENOMEM, ctypes.get_errno()
        # Large pools count a request that reached their queues, served or not (L10).
        for key in ("allocated", "blocks", "bad_frees") + (("allocations", "deallocations") if size < 2 << 20 else ()):
            assert before[key] == after[key], (size, key, before, after)
    else:
        heap.fill(p, size % 251, min(size, 4096))
    return p

def work(rounds=3):
    refused = 0
    for turn in range(rounds):
        blocks = [(take(size), size) for size in SIZES for _ in range(30 if size < 100_000 else 3)]
        refused += sum(p is None for p, _ in blocks)
        for p, size in blocks:
            if p is not None:
                assert heap.read(p, min(size, 4096)) == bytes([size % 251]) * min(size, 4096)
                heap.deallocate(p)
        heap.purge()
    assert heap.check() == 0
    return refused
"""


def run(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": f"{TESTS / 'crimes'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert (0, "") == (done.returncode, done.stderr), done.stderr[-2000:]


@pytest.mark.parametrize("call", CALLS)
def test_F12_the_heap_survives_each_use_of_a_call_failing(call: str) -> None:
    """At its n-th use, n = 1 … N, once and for ever: NULL and ENOMEM, or served; then all is well."""
    run(
        f"""
        for times in (1, {ALWAYS}):
            n = 1
            while n < 60:
                with fail({call!r}, nth=n, times=times) as failing:
                    work(2)
                assert work(1) == 0
                if failing.failed == 0: break
                n += 1 if n < 12 else 7
        assert work() == 0 and heap.stats()["blocks"] == 0
        """
    )


def test_F12_the_first_request_of_a_process_may_be_refused() -> None:
    """Nothing is mapped yet: it fails cleanly, and the next one succeeds."""
    run(
        f"""
        with fail("commit", times={ALWAYS}):
            assert work(1) > 0
        assert work() == 0
        """
    )


def test_F12_a_refused_purge_is_counted_and_made_good() -> None:
    """The range is kept, os_failures says so, and soon after the OS relents the memory is back."""
    run(
        f"""
        import time
        blocks = [heap.allocate(4096, 0) for _ in range(5000)]
        for p in blocks: heap.fill(p, 1, 4096)
        with fail("purge_now", times={ALWAYS}):
            failures = heap.stats()["os_failures"]
            for p in blocks: heap.deallocate(p)
            heap.purge()
            assert heap.stats()["os_failures"] > failures
            assert heap.stats()["dirty"] >= 5000 * 4096
            assert heap.check() == 0
        time.sleep(2.5)
        assert heap.stats()["dirty"] == 0 and heap.reclaim_is_asleep(), heap.stats()
        """
    )


def test_F14_a_thread_whose_cache_can_not_be_made_does_without_and_tries_again() -> None:
    """It is served from the regions, then gets its cache."""
    run(
        f"""
        assert work() == 0
        def thread():
            with fail("map", times={ALWAYS}) as failing:
                blocks = [heap.allocate(48, 0) for _ in range(300)]
                assert None not in blocks and len(set(blocks)) == 300
                for p in blocks: heap.deallocate(p)
                assert failing.failed > 0 and heap.stats()["cached"] == 0, heap.stats()
            for p in [heap.allocate(48, 0) for _ in range(300)]: heap.deallocate(p)
            results.append(heap.stats()["cached"])
        results = []
        heap.purge()
        t = threading.Thread(target=thread); t.start(); t.join()
        assert results and results[0] > 0 and heap.check() == 0
        """
    )


# ---- the same, through Primary ----


@pytest.mark.parametrize("call", ["commit", "map"])
@pytest.mark.parametrize("times", [1, ALWAYS])
@pytest.mark.parametrize("cache_bytes", [0, 2 << 20])
def test_F12_a_primary_survives_each_use_of_a_call_failing(call: str, times: int, cache_bytes: int) -> None:
    """A request that raises has changed nothing; when the OS relents all is well."""
    for n in range(1, 25):
        with Primary(cache_bytes=cache_bytes, metadata_size=8) as p:
            with fail(call, nth=n, times=times) as failing:
                blocks = []
                for size in (16, 48, 1000, 70_000):
                    for _ in range(40):
                        before = p.stats()
                        try:
                            blocks.append(p.allocate(size))
                        except OutOfMemory:
                            after = p.stats()
                            assert before["allocations"] == after["allocations"]
                            assert before["frees"] == after["frees"]
                        p.check()
                for block in blocks[::2]:
                    p.free(block)
                p.release()
            p.check()
            assert len(blocks) == len(set(blocks))
            assert len(blocks) - len(blocks[::2]) == sum(c["in_use"] for c in p.stats()["classes"])
            assert p.owns(p.allocate(48))
            if failing.failed == 0:
                break


def test_F12_opening_a_primary_may_be_refused() -> None:
    """Its tables: MemoryError, and the next one opens."""
    with fail("map", times=ALWAYS), pytest.raises(MemoryError):
        Primary()
    with Primary() as p:
        p.allocate(1)


@pytest.mark.parametrize("call", ["decommit", "unmap"])
def test_F12_closing_survives_a_refusal(call: str) -> None:
    """Addresses that the OS still maps are never handed to anybody else."""
    p = Primary()
    block = p.allocate(4096)
    with fail(call, times=ALWAYS):
        p.close()
    with Primary() as q:
        assert call == "unmap" or q.allocate(4096) != block
        q.check()
