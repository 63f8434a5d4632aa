"""What a report is made of: moments kept few, marks, and where the pages of a process are."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freehold.view import recorder, report, sources
from freehold.view.sources import Mapping, split
from freehold.view.timeline import MOST, Moment, Timeline, marks
from watched import wait_for

MIB = 1 << 20


# ---- over time ----


def timeline(residents: list[int], every_s: float = 0.05, most: int = MOST) -> Timeline:
    """Return a timeline of a process that had these resident bytes, one after another."""
    made = Timeline(most=most)
    for n, resident in enumerate(residents):
        made.add(Moment(n * every_s, resident, given_back=n, refused=n // 10))
    return made


@given(st.lists(st.integers(0, 100), min_size=1, max_size=300), st.integers(4, 40), st.floats(0.01, 1.0))
def test_few_moments_are_kept_and_none_that_matters_is_lost(residents: list[int], most: int, every_s: float) -> None:
    """Fewer than asked for; the first, the last and the highest among them; in order of time."""
    kept = timeline(residents, every_s, most).moments

    assert len(kept) <= most
    assert (residents[0], residents[-1]) == (kept[0].resident, kept[-1].resident)
    assert (0, len(residents) - 1) == (kept[0].given_back, kept[-1].given_back)
    assert max(residents) == max(moment.resident for moment in kept)
    assert sorted(kept, key=lambda moment: moment.seconds) == kept


def test_a_day_is_as_few_moments_as_a_minute() -> None:
    """A program of a day, looked at twice a second, has at most MOST moments, spread over all of it."""
    day = Timeline()
    for n in range(2 * 24 * 3600):
        day.add(Moment(n / 2, 1 + n % 7))
    gaps = [after.seconds - before.seconds for before, after in zip(day.moments, day.moments[1:], strict=False)]

    assert MOST // 3 < len(day.moments) <= MOST
    assert max(gaps) < 4 * day.stretch_s


def test_nothing_is_a_timeline_too() -> None:
    """A program that ended before it was looked at has no moments and no marks."""
    assert [] == Timeline().moments
    assert {"seconds": []} == Timeline().as_dict()
    assert [] == marks([])


def test_marks_say_when_the_peak_was_and_what_was_given_back_and_refused() -> None:
    """The highest moment; what was given back where it is much; each request over a limit."""
    seen = [
        Moment(0.0, 10 * MIB),
        Moment(1.0, 500 * MIB),
        Moment(2.0, 400 * MIB, given_back=100 * MIB),
        Moment(3.0, 400 * MIB, given_back=100 * MIB + MIB, refused=3),  # less than 2 % of the peak is no mark
        Moment(4.0, 20 * MIB, given_back=481 * MIB, refused=3),
    ]

    assert [
        {"seconds": 1.0, "what": "peak", "amount": 500 * MIB},
        {"seconds": 2.0, "what": "given back", "amount": 100 * MIB},
        {"seconds": 3.0, "what": "limit", "amount": 3},
        {"seconds": 4.0, "what": "given back", "amount": 380 * MIB},
    ] == marks(seen)


# ---- where the pages are ----

SMAPS = """\
555500000000-555500001000 r--p 00000000 fe:00 26723                      /usr/bin/py thon
Size:                  4 kB
Rss:                   4 kB
VmFlags: rd mr mw me
555600000000-555600100000 rw-p 00000000 00:00 0                          [heap]
Rss:                 512 kB
7f0000000000-7f0000021000 rw-p 00000000 00:00 0
Rss:                  64 kB
7f0000021000-7f0004000000 ---p 00000000 00:00 0
Rss:                   0 kB
7f1000000000-7f1000400000 rw-p 00000000 00:00 0
Rss:                4096 kB
7f1000400000-7f1000800000 ---p 00000000 00:00 0
Rss:                   0 kB
7f20000ff000-7f2000100000 ---p 00000000 00:00 0
Rss:                   0 kB
7f2000100000-7f2000900000 rw-p 00000000 00:00 0
Rss:                  16 kB
7f3000000000-7f3000100000 rw-p 00000000 00:00 0
Rss:                1024 kB
7f4000000000-7f4000001000 rw-s 00000000 00:01 1024                       /memfd:freehold.page (deleted)
Rss:                   8 kB
7f5000000000-7f5000001000 r--s 00000000 fe:00 1024                       /usr/lib/gconv-modules.cache
Rss:                  28 kB
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
Rss:                  32 kB
7ffc00100000-7ffc00102000 r-xp 00000000 00:00 0                          [vdso]
Rss:                   4 kB
"""
SPACE = range(0x7F1000000000, 0x7F1000800000)


def test_each_mapping_is_counted_once_where_it_belongs() -> None:
    """The break and arenas are malloc's, what follows a guard page a stack, and the rest what it is called."""
    parts = split(sources.mappings(SMAPS.splitlines(keepends=True)), SPACE, idle=MIB)

    assert {
        "total": 5788 << 10,
        "heap_live": 3 * MIB,
        "heap_idle": MIB,
        "malloc": (512 + 64) << 10,
        "other": MIB,
        "files": (4 + 28 + 4) << 10,
        "shared": 8 << 10,
        "stacks": (16 + 32) << 10,
    } == parts.as_dict()


@given(
    st.lists(
        st.builds(
            Mapping,
            st.integers(0, 1 << 47),
            st.integers(0, 1 << 47),
            st.sampled_from(["rw-p", "r--p", "---p", "rw-s"]),
            st.sampled_from(["", "[heap]", "[stack]", "[anon: x]", "/lib/x.so", "/dev/shm/x", "/memfd:x (deleted)"]),  # noqa: S108
            st.integers(0, 1 << 40),
        )
    ),
    st.integers(0, 1 << 45),
)
def test_the_parts_always_add_up(found: list[Mapping], idle: int) -> None:
    """Whatever is mapped, the parts are the whole, and none is negative."""
    parts = split(found, range(1 << 20, 1 << 46), idle).as_dict()
    total = parts.pop("total")

    assert sum(mapping.resident for mapping in found) == total == sum(parts.values())
    assert min(parts.values()) >= 0


def test_this_process_is_what_the_system_says() -> None:
    """The parts of a real process add up to what it has resident, and the kinds are found."""
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    before = sources.of_process(os.getpid())
    with mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE) as memory:
        memory.write(b"x" * (64 * MIB))
        after = sources.of_process(os.getpid())
    stop.set()
    with open("/proc/self/smaps_rollup") as file:
        rollup = next(int(line.split()[1]) << 10 for line in file if line.startswith("Rss"))

    assert 64 * MIB <= after.other - before.other < 66 * MIB
    assert abs(before.total - rollup) < 3 * MIB
    assert before.files > MIB
    assert before.stacks > 0
    assert 8 == ctypes.sizeof(ctypes.c_void_p)  # addresses above are of 64 bits


def test_threads_arenas_are_mallocs(run_program) -> None:
    """What glibc allocates for other threads than the first lies in arenas of 64 MiB, and is counted as its own."""
    done = run_program("""
        import ctypes, os, threading
        from freehold.view import sources
        libc = ctypes.CDLL(None)
        libc.malloc.restype, libc.memset.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        before = sources.of_process(os.getpid()).malloc
        def work():
            for _ in range(200): libc.memset(libc.malloc(100_000), 1, 100_000)
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(38_000_000 < sources.of_process(os.getpid()).malloc - before < 42_000_000)
    """)

    assert ("True\n", "") == (done.stdout, done.stderr)


# ---- the recorder, on a process that says nothing ----


def test_a_process_that_never_speaks_is_recorded_to_its_end() -> None:
    """Another program's memory is seen, its end noticed; what is not known is not made up."""
    listener, _ = recorder.listen()
    command = [sys.executable, "-c", "import sys; x = bytearray(50_000_000); sys.stdin.read()"]
    with listener, subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        one = recorder.Recorder(process.pid, listener)
        thread = threading.Thread(target=one.record)
        thread.start()
        wait_for(
            lambda: one.figures()["memory"]["at_peak"] and one.figures()["memory"]["at_peak"]["other"] > 50_000_000
        )
        process.stdin.close()
        thread.join(timeout=60)
        figures = one.figures()

    assert "without a word" == figures["ended"]
    assert 50_000_000 < max(figures["timeline"]["resident"]) <= figures["peak_resident_bytes"]
    assert 50_000_000 < figures["memory"]["at_peak"]["other"] < 60_000_000
    assert figures["memory"]["at_end"] is None
    assert {"given_back_bytes": 0, "heap": None, "not_taken": {}, "profile": None} == one.heap()


def test_who_is_not_the_program_is_not_believed() -> None:
    """Only the process that is recorded can say that it ends; anything else that it says is nothing."""
    listener, address = recorder.listen()
    code = """
    import _socket, sys, time
    for words in sys.argv[2:]:
        speaker = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        speaker.connect(sys.argv[1].replace("@", chr(0)))
        try:
            speaker.send(words.encode())
            speaker.shutdown(1)
            assert speaker.recv(1) == b""
        except ConnectionError: pass
    """
    command = [sys.executable, "-c", textwrap.dedent(code), address]
    with listener, subprocess.Popen(["sleep", "60"]) as other, subprocess.Popen([*command, "end 1.0 1.0"]) as liar:
        one = recorder.Recorder(other.pid, listener)
        thread = threading.Thread(target=one.record)
        thread.start()
        assert 0 == liar.wait(timeout=20)
        other.kill()
        thread.join(timeout=20)
        assert "without a word" == one.figures()["ended"]
    listener, address = recorder.listen()
    command[-1] = address
    with listener, subprocess.Popen([*command, "nonsense", "end 1 2 3", "end x 1", "end 1.0 1.0\n{"]) as process:
        one = recorder.Recorder(process.pid, listener)
        one.record()
        assert 0 == process.wait(timeout=20)

    assert "without a word" == one.figures()["ended"]


# ---- for people ----


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (MIB * 3 // 2, "1.5 MiB"), (1 << 60, "1048576.0 TiB")],
)
def test_bytes_are_told_in_binary_units(size: int, text: str) -> None:
    assert text == report.in_bytes(size)
