"""The heap profile: what it says is true of what was allocated, whoever did it, and taking it is safe at any moment."""

from __future__ import annotations

import errno
import itertools
import math
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import freehold
from freehold import published
from freehold.face import heap_profile
from freehold.profiles import Profile
from freehold.published import NotPublished
from watched import START, page_of, wait_for

KIB, MIB = 1 << 10, 1 << 20
PROFILED = START + "from freehold.face import heap_profile\n"


@pytest.fixture(autouse=True)
def installed() -> Any:
    freehold.install()
    yield
    freehold.uninstall()


def of_this_file(profile: Profile) -> list[Any]:
    return [stack for stack in profile.stacks if any(frame.file == __file__ for frame in stack.frames)]


def sums(stacks: list[Any]) -> tuple[int, int, int, int]:
    return tuple(
        sum(getattr(stack, name) for stack in stacks)
        for name in ("live_bytes", "live_count", "total_bytes", "total_count")
    )  # type: ignore[return-value]


def assert_near(truth: float, estimate: float, blocks: float, size: float, interval: int) -> None:
    """Within six times the spread that the sampling of so many blocks of a size has."""
    p = -math.expm1(-size / interval)
    spread = truth * math.sqrt((1 - p) / (p * blocks)) if blocks else 0
    assert abs(truth - estimate) <= 6 * spread + size, (truth, estimate, spread)


# ---- it is true ----


@pytest.mark.parametrize("size", [1, 16, 64, 100, 1024, 5000, 40_000, 131_072, 200_000, 1_500_000, 3_000_000])
def test_what_the_samples_stand_for_is_what_was_allocated_whatever_the_size(size: int) -> None:
    """Unbiased by size, of each layer: bytes and blocks, live and in all."""
    interval, n = 64 * KIB, min(40_000, 200 * MIB // size)
    with freehold.profile(interval) as taken:
        kept = [np.empty(size, np.uint8) for _ in range(n)]
        for _ in range(n):
            np.empty(size, np.uint8)
        profile = taken.take()
        usable = heap_size(kept[0])
        live_bytes, live_count, total_bytes, total_count = sums(of_this_file(profile))
        assert_near(n * usable, live_bytes, n, usable, interval)
        assert_near(n, live_count, n, usable, interval)
        assert_near(2 * n * usable, total_bytes, 2 * n, usable, interval)
        assert_near(2 * n, total_count, 2 * n, usable, interval)
        del kept

    assert 0 == sum(stack.live_bytes for stack in of_this_file(taken.profile))
    assert abs(total_bytes - sums(of_this_file(taken.profile))[2]) <= 2 * usable + interval


def heap_size(array: np.ndarray) -> int:
    from freehold.face import process_heap

    return process_heap.usable_size(array.ctypes.data)


def test_a_gibibyte_of_mixed_sizes_is_told_within_five_percent() -> None:
    """Sizes log-uniform from 64 bytes to 4 MiB, some dropped again: what lives, and what was allocated in all."""
    numbers, interval = np.random.default_rng(7), 64 * KIB
    sizes = np.exp(numbers.uniform(np.log(64), np.log(4 * MIB), 4000)).astype(int)
    with freehold.profile(interval) as taken:
        kept = [np.empty(size, np.uint8) for size in sizes]
        truth = sum(map(heap_size, kept))
        assert truth > 1 << 30
        assert math.isclose(truth, sums(of_this_file(taken.take()))[0], rel_tol=0.05)
        del kept[::2]
        left = sum(map(heap_size, kept))
        live, _, total, _ = sums(of_this_file(taken.take()))
        assert math.isclose(left, live, rel_tol=0.05)
        assert math.isclose(truth, total, rel_tol=0.05)


def test_an_interval_of_a_byte_tells_every_block() -> None:
    with freehold.profile(1) as taken:
        kept = [np.empty(n, np.uint8) for n in range(1, 3000)]
        live_bytes, live_count, *_ = sums(of_this_file(taken.take()))
    assert (sum(map(heap_size, kept)), len(kept)) == (live_bytes, live_count)


def test_the_peak_is_told_also_when_all_of_it_is_gone() -> None:
    """What each line had live when most was: the one that had dropped its own by then had nothing."""
    with freehold.profile(16 * KIB) as taken:
        early = [np.empty(10_000, np.uint8) for _ in range(1000)]
        del early
        most = [np.empty(50_000, np.uint8) for _ in range(1000)]
        truth = 1000 * heap_size(most[0])
        del most
        late = [np.empty(10_000, np.uint8) for _ in range(1000)]
        peak = sums(of_this_file(taken.take().at_peak()))
    assert math.isclose(truth, peak[0], rel_tol=0.15) and math.isclose(1000, peak[1], rel_tol=0.15)
    assert 1000 == len(late) and peak[2] > 1.2 * truth


def test_a_resized_block_counts_with_its_new_size() -> None:
    with freehold.Heap("resizing") as heap, freehold.profile(1) as taken:
        for first, second in ((1000, 1100), (300_000, 900_000), (900_000, 300_000), (10 * MIB, 40 * MIB)):
            block = heap.block(first)
            block.resize(second)
            live = sum(stack.live_bytes for stack in taken.take().stacks if stack.source == "block")
            assert second <= live <= 1.5 * second + 64 * KIB, (first, second)
            block.release()


def test_lines_of_user_code_have_what_they_made() -> None:
    """The line that asked, however deep under it NumPy allocates; two lines that allocate twice as much have twice."""
    with freehold.profile(16 * KIB) as taken:
        first = [np.ones(5000) for _ in range(500)]
        second = [np.ones(5000) for _ in range(1000)]
        profile = taken.take()
    source = Path(__file__).read_text().splitlines()
    one, two = (
        max(
            line.under.live_bytes
            for line in profile.by_line()
            if line.frame and line.frame.file == __file__ and text in source[line.frame.line - 1]
        )
        for text in ("first = [", "second = [")
    )
    assert 1500 == len(first) + len(second)
    assert math.isclose(500 * heap_size(first[0]), one, rel_tol=0.2)
    assert math.isclose(1000 * heap_size(second[0]), two, rel_tol=0.2)


def test_each_source_is_named(child: Any) -> None:
    """NumPy, Python's objects, Arrow, blocks by name; and each heap by its name."""
    one = child("import json, os, sys, freehold; freehold.install(objects=True); import numpy as np, pyarrow as pa\n")
    one.do("taken = freehold.profile(1024).__enter__()")
    one.do("a = [np.ones(1000) for i in range(100)]; o = [[i] * 9 for i in range(10_000)]")
    one.do("p = [pa.allocate_buffer(5000) for i in range(100)]; t = pa.array(range(100_000))")
    one.do(
        "h = freehold.Heap('mine'); b = [h.block(5000) for i in range(100)]; e = [h.empty(1000) for i in range(100)]"
    )
    one.do("profile = taken.take()")
    sources = one.do("answer = {name: amount.live_bytes for name, amount in profile.by_source().items()}")
    heaps = one.do("answer = {name: amount.live_bytes for name, amount in profile.by_heap().items()}")

    assert sources["numpy"] > 1_200_000 and sources["arrow"] > 1_000_000
    assert sources["obj"] > 500_000 and sources["mem"] > 500_000
    assert 400_000 < sources["block"] < 700_000
    assert 1_200_000 < heaps["mine"] < 1_700_000 and heaps["default"] > 3_000_000


# ---- taking it is safe ----


def test_profiles_overlap_and_end_in_any_order() -> None:
    """It goes on while anybody wants it, with the interval of whoever began."""
    outer, inner = freehold.profile(4 * KIB), freehold.profile(1)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    kept = np.ones(100_000)
    assert sums(of_this_file(inner.take()))[0] >= kept.nbytes
    assert 4 * KIB == inner.take().interval
    inner.__exit__(None, None, None)
    with pytest.raises(RuntimeError, match="there is no profile"):
        inner.take()


def test_what_was_sampled_may_be_freed_after_the_profile_has_ended() -> None:
    with freehold.profile(1):
        kept = [np.ones(n) for n in (1, 10, 1000, 100_000, 1_000_000)]
    with freehold.profile(1) as taken:
        del kept
        assert 0 == sum(stack.live_bytes for stack in of_this_file(taken.take()))


def test_a_heap_that_is_closed_takes_its_samples_along() -> None:
    """A later heap may have its number: nothing of the former is told of it."""
    with freehold.profile(1) as taken:
        heap = freehold.Heap("former")
        kept = [heap.block(10_000) for _ in range(50)]
        for block in kept:
            block.release()
        heap.close()
        del kept, block
        with freehold.Heap("latter") as latter:
            block = latter.block(20_000)
            mine = taken.take().by_heap()["latter"]
            assert 20_000 <= mine.live_bytes == mine.total_bytes < 40_000
            block.release()


def test_secure_heaps_are_profiled_too() -> None:
    with freehold.profile(1) as taken, freehold.Heap("safe", secure=True) as heap:
        kept = [heap.block(1000) for _ in range(100)]
        assert 100 == taken.take().by_heap()["safe"].live_count
        for block in kept:
            block.release()
        heap.purge()  # also what was held back
        assert 0 == taken.take().by_heap()["safe"].live_count


def test_threads_allocate_while_profiles_begin_end_and_are_written() -> None:
    """A dump in progress neither stops nor is stopped by allocation; at the end the heap's books are in order."""
    stop, errors = threading.Event(), []

    def work(seed: int) -> None:
        numbers = np.random.default_rng(seed)
        kept: list[Any] = []
        try:
            while not stop.is_set():
                kept.append(np.empty(int(2 ** numbers.uniform(3, 22)), np.uint8))
                if len(kept) > 100:
                    del kept[:: int(numbers.integers(1, 4))]
        except BaseException as problem:
            errors.append(problem)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for round_ in range(40):
        with freehold.profile((1, 512, 64 * KIB)[round_ % 3]) as taken:
            for _ in range(5):
                profile = taken.take()
                assert all(0 <= stack.live_bytes <= stack.total_bytes + MIB for stack in profile.stacks)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_forked_child_goes_on_with_a_profile_of_its_own(run_program: Any) -> None:
    """Also beside threads that are being sampled; what it drops is dropped in its own."""
    ran = run_program(
        """
        import os, sys, threading, freehold
        freehold.install()
        import numpy as np
        stop = threading.Event()
        def work():
            while not stop.is_set():
                np.empty(10_000)
        threads = [threading.Thread(target=work) for _ in range(3)]
        with freehold.profile(512) as taken:
            kept = [np.empty(100_000) for _ in range(20)]
            for t in threads: t.start()
            for _ in range(30):
                if (pid := os.fork()) == 0:
                    del kept[:]
                    mine = [np.empty(50_000) for _ in range(10)]
                    lines = {line.frame.line: line.itself.live_bytes for line in taken.take().by_line() if line.frame}
                    os._exit(0 if sum(x == 0 for x in lines.values()) and max(lines.values()) < 6_000_000 else 1)
                assert os.waitpid(pid, 0)[1] == 0
            stop.set()
            for t in threads: t.join()
            assert sum(s.live_bytes for s in taken.take().stacks) > 16_000_000
        print("well")
        """
    )
    assert (0, "well\n") == (ran.returncode, ran.stdout), ran.stderr


def test_a_file_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    with freehold.profile(1):
        kept = np.ones(1000)
        with open("/dev/full", "wb") as full, pytest.raises(OSError, match="could not be written") as refused:
            heap_profile.write(full.fileno(), 0)
        assert errno.ENOSPC == refused.value.errno
        with pytest.raises(OSError, match="could not be written"):
            heap_profile.write(-1, 0)
        assert kept.sum() == 1000
    with pytest.raises(RuntimeError, match="there is no profile"):
        heap_profile.write(1, 0)


@pytest.mark.parametrize("interval", [0, -1, "much", None, 1.5, True])
def test_a_wrong_interval_is_named(interval: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"interval={interval!r}")):
        freehold.profile(interval)


def test_tables_that_are_full_drop_samples_and_say_so(run_program: Any) -> None:
    """More live samples than there is room for: allocation goes on, the drops are counted, frees find nothing amiss."""
    ran = run_program(
        """
        import freehold
        freehold.install()
        import numpy as np
        from freehold.face.numpy_handler import is_active
        with freehold.profile(1) as taken:
            kept = [np.empty(1, np.uint8) for _ in range(300_000)]
            profile = taken.take()
            assert profile.samples >= 300_000 and profile.dropped >= 300_000 - 262_144, (profile.samples, profile.dropped)
            del kept
            assert sum(s.live_count for s in taken.take().stacks) < 1000
        print("well")
        """
    )
    assert (0, "well\n") == (ran.returncode, ran.stdout), ran.stderr


# ---- growth: jemalloc's dumps at new high-water marks ----


def test_growth_writes_a_dump_at_each_step_from_inside_the_allocation(run_program: Any, tmp_path: Path) -> None:
    ran = run_program(
        f"""
        import os, freehold
        freehold.install()
        import numpy as np
        from freehold.face import heap_profile
        with freehold.profile(64 << 10):
            heap_profile.grow(10 << 20, {os.fsencode(tmp_path)!r} + b"/grown")
            kept = []
            for i in range(100):
                kept.append(np.empty(1 << 17))
                np.empty(1 << 20)
            del kept
            kept = [np.empty(1 << 17) for i in range(90)]     # not a new mark
        print(os.getpid())
        """
    )
    assert 0 == ran.returncode, ran.stderr
    dumps = sorted(tmp_path.glob(f"grown.{int(ran.stdout)}.*.raw"), key=lambda path: int(path.suffixes[-2][1:]))
    assert 6 <= len(dumps) <= 11
    profiles = [Profile.read(path) for path in dumps]
    lives = [sum(stack.live_bytes for stack in profile.stacks) for profile in profiles]
    assert all(b - a > 9 * MIB for a, b in itertools.pairwise(lives)), lives
    assert all("high-water" in profile.reason or "peak" in profile.reason for profile in profiles)


def test_F53_a_dump_for_which_the_disk_has_no_room_is_removed(run_program: Any, tmp_path: Path) -> None:
    """One written in an allocation goes without a word, one that is asked for raises; the program goes on."""
    ran = run_program(
        f"""
        import resource, signal, freehold
        freehold.install()
        import numpy as np
        from freehold.face import heap_profile
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with freehold.profile(4096) as taken:
            profile = taken.take()
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))  # what a disk that is full comes to
            heap_profile.grow(1 << 20, {os.fsencode(tmp_path)!r} + b"/grown")
            kept = [np.ones(1 << 17) for i in range(20)]
            for save in (lambda: profile.save({str(tmp_path / "saved.html")!r}), taken.take):
                try:
                    save()
                except OSError as problem:
                    print(problem.errno)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(kept[0].sum())
        """
    )
    assert (0, f"{errno.EFBIG}\n{errno.EFBIG}\n131072.0\n") == (ran.returncode, ran.stdout), ran.stderr
    assert [] == list(tmp_path.iterdir())


def test_growth_into_a_folder_that_is_gone_is_done_without(run_program: Any) -> None:
    ran = run_program(
        """
        import freehold
        freehold.install()
        import numpy as np
        from freehold.face import heap_profile
        with freehold.profile(1024):
            heap_profile.grow(1 << 20, b"/nowhere/at/all")
            kept = [np.ones(1 << 17) for i in range(50)]
            try:
                heap_profile.grow(1 << 20, b"x" * 600)
            except ValueError as problem:
                print(type(problem).__name__)
        """
    )
    assert (0, "ValueError\n", "") == (ran.returncode, ran.stdout, ran.stderr)


# ---- from outside ----


def test_a_running_process_is_asked_for_its_profile(child: Any) -> None:
    """One that takes one already answers at once; the file it is written to is closed again."""
    one = child(PROFILED)
    one.do("taken = freehold.profile(4096).__enter__(); kept += [np.ones(10_000) for i in range(200)]")
    page_of(one.pid).close()
    for _ in range(3):
        profile = Profile.read(published.ask_profile(one.pid, seconds=0))
        assert sum(stack.live_bytes for stack in profile.stacks) > 15_000_000
        assert profile.pid == one.pid and profile.interval == 4096
        wait_for(lambda: not profile_files(one.pid))


def test_a_process_that_takes_none_takes_one_for_a_while(child: Any) -> None:
    one = child(PROFILED)
    one.do("kept += [np.ones(1_000_000)]")
    page_of(one.pid).close()
    with pytest.raises(NotPublished, match="takes no profile"):
        published.ask_profile(one.pid, seconds=0)
    asked: list[bytes] = []
    thread = threading.Thread(target=lambda: asked.append(published.ask_profile(one.pid, seconds=1.5)))
    thread.start()
    end = time.monotonic() + 1
    while time.monotonic() < end:
        one.do("more = [np.ones(100_000) for i in range(20)]")
        time.sleep(0.05)
    thread.join()
    profile = Profile.read(asked[0])
    assert sum(stack.total_bytes for stack in profile.stacks) > 10_000_000
    wait_for(lambda: not profile_files(one.pid))
    with pytest.raises(NotPublished, match="takes no profile"):
        published.ask_profile(one.pid, seconds=0)


def test_a_process_that_ends_while_it_is_asked_is_said(child: Any) -> None:
    one = child(PROFILED)
    one.do("kept += [np.ones(1_000_000)]")
    page_of(one.pid).close()
    threading.Timer(0.5, one.end).start()
    with pytest.raises(NotPublished):
        published.ask_profile(one.pid, seconds=20)


def profile_files(pid: int) -> list[str]:
    folder = f"/proc/{pid}/fd"
    return [n for n in os.listdir(folder) if published._link(f"{folder}/{n}").startswith("/memfd:freehold.profile")]


# ---- of a whole program ----

PROGRAM = """
import sys
import numpy as np
def make():
    return [np.ones(10_000) for i in range(200)]
kept = make()
"""


def run(tmp_path: Path, *options: str, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    (tmp_path / "job.py").write_text(program)
    return subprocess.run(
        [sys.executable, "-m", "freehold", "run", *options, "job.py"], cwd=tmp_path, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("ending", [".html", ".json", ".pb.gz", ".txt", ".raw"])
def test_run_writes_the_profile_of_a_program_at_its_end(tmp_path: Path, ending: str) -> None:
    ran = run(tmp_path, f"--profile=out{ending}", "--profile-interval", "4KiB")
    assert (0, "") == (ran.returncode, ran.stdout) and f"out{ending}" in ran.stderr
    assert (tmp_path / f"out{ending}").stat().st_size > 200
    if ending == ".raw":
        profile = Profile.read(tmp_path / "out.raw")
        assert any(frame.function == "make" for stack in profile.stacks for frame in stack.frames)
    again = run(tmp_path, f"--profile=out{ending}")
    assert 2 == again.returncode and "-f overwrites" in again.stderr


def test_run_names_the_file_after_program_and_process(tmp_path: Path) -> None:
    ran = run(tmp_path, "--profile", "--growth", "4MiB", "--profile-interval=16KiB")
    assert 0 == ran.returncode, ran.stderr
    names = sorted(path.name for path in tmp_path.iterdir() if path.name != "job.py")
    assert re.fullmatch(r"freehold-job\.\d+\.html", names[-1]), names
    assert len(names) >= 3 and all(re.fullmatch(r"freehold-job\.\d+\.\d+\.raw", name) for name in names[:-1]), names


def test_children_have_files_of_their_own(tmp_path: Path) -> None:
    program = (
        PROGRAM
        + "import subprocess\nif len(sys.argv) == 1: subprocess.run([sys.executable, __file__, 'child'], check=True)\n"
    )
    ran = run(tmp_path, "--profile=out.raw", "--profile-interval=4KiB", program=program)
    assert 0 == ran.returncode, ran.stderr
    files = sorted(path.name for path in tmp_path.glob("out*.raw"))
    assert 2 == len(files) and re.fullmatch(r"out\.\d+\.raw", files[0]), files
    assert Profile.read(tmp_path / files[0]).pid != Profile.read(tmp_path / "out.raw").pid


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--profile=out.gif"], "out.gif: expected a name that ends in"),
        (["--profile=no/where.html"], "there is no folder"),
        (["--growth", "1MiB"], "--profile takes one"),
        (["--profile", "--profile-interval", "many"], "profile_interval='many' is not a size"),
    ],
)
def test_run_says_what_is_wrong_with_its_profile_options(tmp_path: Path, options: list[str], said: str) -> None:
    ran = run(tmp_path, *options)
    assert 2 == ran.returncode and said in ran.stderr
