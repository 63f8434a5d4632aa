"""Crimes against the C heap: each a tiny program in a process of its own, with one exit code and one line on stderr."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ABORTED = -6
SIZES = [16, 48, 112, 1024, 5120, 131_072]


def commit(crime: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a crime. `tell(x)` prints x in hex, so that the line on stderr can be compared with it."""
    program = "import c_heap as heap, threading\ntell = lambda x: print(hex(x), flush=True)\n" + textwrap.dedent(crime)
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def line(what: str, address: str, size_class: int) -> str:
    return rf"freehold: fatal: {what} {address} class={size_class} heap=default pid=\d+"


def aborts(crime: str, what: str, size_class: int) -> None:
    """The crime ends in SIGABRT after one line; under FREEHOLD_ON_ERROR=report it goes on after the same line."""
    crime = textwrap.dedent(crime)
    done = commit(crime)
    address = done.stdout.split()[0]

    assert re.fullmatch(line(what, address, size_class) + "\n", done.stderr), done.stderr
    assert ABORTED == done.returncode
    report = commit(
        crime + "\nassert heap.check() == 0 and heap.stats()['bad_frees'] == 1\n", FREEHOLD_ON_ERROR="report"
    )
    assert re.fullmatch(line(what, report.stdout.split()[0], size_class) + "\n", report.stderr), report.stderr
    assert 0 == report.returncode


@pytest.mark.parametrize("size", SIZES)
def test_F1_double_free_back_to_back(size: int) -> None:
    """The same thread frees a block twice."""
    aborts(f"p = heap.allocate({size}, 0); tell(p); heap.deallocate(p); heap.deallocate(p)", "double free of", size)


@pytest.mark.parametrize("size", [16, 48, 5120])
def test_F1_double_free_after_600_other_frees(size: int) -> None:
    """The block is back in its region by then."""
    aborts(
        f"""
        p = heap.allocate({size}, 0); tell(p); others = [heap.allocate({size}, 0) for _ in range(600)]
        heap.deallocate(p)
        for other in others: heap.deallocate(other)
        heap.deallocate(p)
        """,
        "double free of",
        size,
    )


def test_F1_double_free_after_everything_was_given_back() -> None:
    """Its page is gone; its state is not."""
    aborts(
        "p = heap.allocate(48, 0); tell(p); heap.deallocate(p); heap.purge(); heap.deallocate(p)", "double free of", 48
    )


def test_F1_double_free_in_a_second_thread() -> None:
    """One thread frees it, then another does."""
    aborts(
        """
        p = heap.allocate(48, 0); tell(p); heap.deallocate(p)
        thread = threading.Thread(target=heap.deallocate, args=(p,)); thread.start(); thread.join()
        """,
        "double free of",
        48,
    )


def test_F1_double_free_after_its_owner_died() -> None:
    """A thread allocates, frees and ends; then another frees it."""
    aborts(
        """
        found = []
        def work():
            found.append(heap.allocate(48, 0))
            heap.deallocate(found[0])
        thread = threading.Thread(target=work); thread.start(); thread.join()
        tell(found[0]); heap.deallocate(found[0])
        """,
        "double free of",
        48,
    )


def test_F1_a_reported_double_free_never_gives_a_block_two_owners() -> None:
    """4 times 4,096 blocks, each freed twice: every block handed out later is handed out once."""
    done = commit(
        """
        for _ in range(4):
            blocks = [heap.allocate(48, 0) for _ in range(4096)]
            for p in blocks[::16]: heap.deallocate(p); heap.deallocate(p)
            again = [heap.allocate(48, 0) for _ in range(4096)]
            live = sorted([p for i, p in enumerate(blocks) if i % 16] + again)
            assert len(live) == len(set(live)) and min(b - a for a, b in zip(live, live[1:])) >= 48
            for p in live: heap.deallocate(p)
        assert heap.stats()["bad_frees"] == 1024 and heap.check() == 0
        """,
        FREEHOLD_ON_ERROR="report",
    )

    assert (0, 1024) == (done.returncode, len(done.stderr.splitlines())), done.stderr[-300:]


@pytest.mark.parametrize("offset", [1, 16, 47])
def test_F2_free_of_an_interior_address(offset: int) -> None:
    """Whatever the offset, and whether the block is live."""
    aborts(f"p = heap.allocate(48, 0) + {offset}; tell(p); heap.deallocate(p)", "free of an interior address", 48)


def test_F2_every_interior_address_of_every_class_is_told() -> None:
    """All offsets below 4 KiB, sampled, and the last byte."""
    done = commit(
        """
        count = 0
        for size in (16, 32, 48, 64, 80, 96, 112, 128, 160, 224, 256, 320, 448, 640, 1024, 1792, 5120, 57344, 131072):
            p = heap.allocate(size, 0)
            for offset in {*range(1, min(size, 4096), 7), size - 1}:
                heap.deallocate(p + offset); count += 1
            heap.deallocate(p)
        assert heap.stats()["bad_frees"] == count and heap.check() == 0
        """,
        FREEHOLD_ON_ERROR="report",
    )

    assert 0 == done.returncode, done.stderr[-300:]
    assert {"interior"} == {text.split()[5] for text in done.stderr.splitlines()}


@pytest.mark.parametrize(
    "address",
    [
        "0x123456789",
        "0x8000_0000_0000_0000",
        "0xffff_ffff_ffff_fff0",
        "0x7",
        "ctypes.addressof(ctypes.create_string_buffer(64))",
        "ctypes.addressof(ctypes.c_char.from_buffer(mmap.mmap(-1, 4096)))",
    ],
)
def test_F3_free_of_an_address_that_is_not_ours(address: str) -> None:
    """Unmapped, non-canonical, libc's, another mapping: told without reading the memory."""
    aborts(f"import ctypes, mmap\np = {address}\ntell(p); heap.deallocate(p)", "free of an address that is not ours", 0)


def test_F3_free_of_nothing_does_nothing() -> None:
    """NULL."""
    done = commit("heap.deallocate(None); heap.deallocate(0); assert heap.check() == 0")

    assert (0, "") == (done.returncode, done.stderr)


def test_F3_a_block_of_another_primary_is_not_the_heaps() -> None:
    """The process heap refuses it."""
    aborts(
        "from freehold.layers import Primary\nq = Primary(); p = q.allocate(48)\ntell(p); heap.deallocate(p)",
        "free of an address that is not ours",
        0,
    )


@pytest.mark.parametrize("beyond", ["112 * 10_000", "100 << 20", "1 << 31"])
def test_F4_free_of_a_never_allocated_block(beyond: str) -> None:
    """Beyond what its region has made, near and far."""
    crime = f"p = heap.allocate(112, 0) // (1 << 22) * (1 << 22) + ({beyond}) // 112 * 112; tell(p); heap.deallocate(p)"
    aborts(crime, "free of a never allocated block", 112)


@pytest.mark.parametrize("use", ["heap.usable_size(p)", "heap.reallocate(p, 40, 0)", "heap.reallocate(p, 4000, 0)"])
def test_F5_use_of_a_freed_block(use: str) -> None:
    """Asking its size and resizing it are told; what was in it is not touched."""
    crime = f"""
    p = heap.allocate(48, 0); heap.fill(p, 0x5A, 48); tell(p); heap.deallocate(p)
    {use}
    assert heap.read(p, 48) == b"\\x5a" * 48
    """
    aborts(textwrap.dedent(crime), "use of the freed block", 48)


def test_F5_resize_of_an_interior_or_foreign_address() -> None:
    """Told as a free of it is."""
    aborts("p = heap.allocate(48, 0) + 8; tell(p); heap.reallocate(p, 40, 0)", "free of an interior address", 48)
    aborts("p = 0x12340; tell(p); heap.reallocate(p, 40, 0)", "free of an address that is not ours", 0)


@pytest.mark.parametrize(
    "request_",
    [
        "heap.allocate(2**63, 0)", "heap.allocate(2**50, 0)", "heap.allocate(2**64 - 1, 0)",
        "heap.allocate(2**64 - 4096, 0)",
        "heap.allocate(2**64 - 1, 64)", "heap.allocate(2**64 - 63, 64)", "heap.allocate(2**64 - 4096, 4096)",
        "heap.allocate(2**64 - 1, 2**40)", "heap.allocate(16, 2**62)", "heap.allocate_zeroed(2**63, 0)",
        "heap.allocate_zeroed(2**64 - 1, 64)", "heap.reallocate(p, 2**63, 0)", "heap.reallocate(p, 2**64 - 1, 64)",
    ],
)  # fmt: skip
def test_F7_a_size_that_can_not_be_is_ENOMEM(request_: str) -> None:
    """NULL, errno ENOMEM, nothing changed, no call to the OS."""
    done = commit(
        f"""
        import ctypes, errno
        from freehold.face.vm_face import Vm
        p = heap.allocate(48, 0); heap.fill(p, 3, 48)
        heap.reclaim_ticks(); before = heap.stats(); calls = [c["calls"] for c in Vm().stats().values()]
        ctypes.set_errno(0)
        assert {request_} is None
        assert ctypes.get_errno() == errno.ENOMEM
        after = heap.stats()
        assert all(before[k] == after[k] for k in ("allocations", "blocks", "mapped"))
        assert calls == [c["calls"] for c in Vm().stats().values()]
        assert heap.read(p, 48) == bytes([3]) * 48 and heap.check() == 0
        heap.deallocate(p)
        """,
    )

    assert (0, "") == (done.returncode, done.stderr), done.stderr


def test_F8_alignments() -> None:
    """Powers of two are honoured, for size 0 too; others are EINVAL."""
    done = commit(
        """
        import ctypes, errno
        for shift in range(18):
            for size in (0, 1, 1 << shift, (1 << shift) + 1, 100_000):
                blocks = [heap.allocate(size, 1 << shift) for _ in range(3)]
                assert all(p % (1 << shift) == 0 and heap.usable_size(p) >= size for p in blocks)
                for p in blocks: heap.deallocate(p)
        for wrong in (*range(3, 17, 2), 6, 10, 12, 14, 24, 48, 2**63 + 1):
            for size in (0, 16, 1024, 5000, 200_000, 2**40):
                ctypes.set_errno(0)
                assert heap.allocate(size, wrong) is None and ctypes.get_errno() == errno.EINVAL
        assert heap.check() == 0
        """
    )

    assert (0, "") == (done.returncode, done.stderr), done.stderr


def test_F9_size_0_gets_a_block_of_its_own() -> None:
    """Distinct, not NULL, and freed like any other; resizing to 0 too."""
    done = commit(
        """
        blocks = [heap.allocate(0, 0), heap.allocate_zeroed(0, 0), heap.reallocate(heap.allocate(48, 0), 0, 0),
                  heap.reallocate(None, 0, 0), heap.allocate(0, 64)]
        assert None not in blocks and len(set(blocks)) == 5 and heap.stats()["blocks"] == 5
        for p in blocks: heap.deallocate(p)
        assert heap.stats()["blocks"] == 0 and heap.check() == 0
        """
    )

    assert (0, "") == (done.returncode, done.stderr), done.stderr


def test_F11_user_memory_holds_nothing_of_ours() -> None:
    """Random bytes over every block, live and freed; then all are freed and used again."""
    done = commit(
        """
        import ctypes, os
        sizes = (16, 48, 100, 500, 1024, 5000, 20_000, 131_072)
        blocks = [(heap.allocate(size, 0), size) for size in sizes for _ in range(200)]
        for p, _ in blocks[::2]: heap.deallocate(p)
        for p, size in blocks: ctypes.memmove(p, os.urandom(size), size)
        assert heap.check() == 0
        for p, _ in blocks[1::2]: heap.deallocate(p)
        heap.purge()
        again = [heap.allocate(size, 0) for size in sizes for _ in range(200)]
        assert len(set(again)) == 1600 and heap.check() == 0
        """
    )

    assert (0, "") == (done.returncode, done.stderr), done.stderr


def test_F6_a_raced_double_free_is_told_before_the_block_has_two_owners() -> None:
    """Two threads free the same blocks: of each race one is told, when caches are flushed or blocks handed out again."""
    done = commit(
        """
        import random
        ROUNDS, BLOCKS = 40, 5000
        start, end = threading.Barrier(3), threading.Barrier(3)
        blocks = []
        def race(seed):
            order = random.Random(seed)
            for _ in range(ROUNDS):
                start.wait()
                for p in blocks: heap.deallocate(p)
                end.wait()
        for seed in range(2): threading.Thread(target=race, args=(seed,), daemon=True).start()
        for turn in range(ROUNDS):
            blocks[:] = [heap.allocate(48, 0) for _ in range(BLOCKS)]
            assert len(set(blocks)) == BLOCKS
            start.wait(); end.wait()
            heap.purge()  # flushes what is cached
            heap.purge()
        again = [heap.allocate(48, 0) for _ in range(4 * BLOCKS)]  # all there are, so the last ones are told of
        assert len(set(again)) == 4 * BLOCKS
        for p in again: heap.deallocate(p)
        assert heap.stats()["bad_frees"] == BLOCKS * ROUNDS, heap.stats()
        assert (heap.check(), heap.stats()["blocks"]) == (0, 0)
        """,
        FREEHOLD_ON_ERROR="report",
    )

    assert 0 == done.returncode, done.stderr[-600:]
    assert {"double free of"} == {" ".join(text.split()[2:5]) for text in done.stderr.splitlines()}


def test_F6_a_raced_double_free_aborts_at_the_flush() -> None:
    """Without report, the first one that is told ends the process."""
    done = commit(
        """
        blocks = [heap.allocate(48, 0) for _ in range(20_000)]
        start = threading.Barrier(2)
        def free_all():
            start.wait()
            for p in blocks: heap.deallocate(p)
        threads = [threading.Thread(target=free_all) for _ in range(2)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        """
    )

    assert ABORTED == done.returncode
    assert re.match(line("double free of", "0x[0-9a-f]+", 48), done.stderr)
