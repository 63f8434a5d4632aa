"""`statistics()`, `profiler()` and `snapshot()`: what was allocated between two moments, exactly."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import freehold
from freehold import Change, Heap, ProfilerRecords, Snapshot, Stats, profiler
from freehold.counting import Reading, _between
from freehold.snapshots import NotASnapshot

MIB = 1 << 20


# ---- statistics ----


def test_H4_what_was_allocated_within_is_counted_to_the_byte() -> None:
    """Of each kind of block: small, extents, large, spans; what was there before is not in it, what was freed is told."""
    heap = Heap(decay="never")
    before = [heap.block(1000)]
    sizes = (1, 100, 100_000, 200_000, 3 * MIB, 300 * MIB)
    with heap.statistics() as seen:
        blocks = [heap.block(size) for size in sizes for _ in range(2)]
        capacity = sum(block.capacity for block in blocks)
        for block in blocks[::2] + before:
            block.release()
    kept = sum(block.capacity for block in blocks[1::2])
    found = seen.stats()

    assert (12, 7, 5) == (found.total_count, found.freed_count, found.current_count)
    assert capacity <= found.total_bytes
    assert found.current_bytes == found.total_bytes // 2 - heap_capacity(1000)
    assert kept <= found.current_bytes + heap_capacity(1000)


def heap_capacity(size: int) -> int:
    """Return what a block of so many bytes counts for."""
    heap = Heap()
    block = heap.block(size)
    counted = heap.stats().current_bytes
    block.release()
    return counted


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0, 16, 5000, 90_000, 150_000, MIB, 5 * MIB])), max_size=30)
)
def test_H4_nested_ones_count_apart(steps: list[tuple[int, int]]) -> None:
    """Each has the sums of what happened since it was entered, whatever the others do: a naive model says so."""
    heap, live, opened = Heap(decay="never"), [], []
    for what, size in steps:
        if what == 0:
            opened.append([heap.statistics().__enter__(), 0, 0, 0, 0])
        elif what == 1 and live:
            block, counted = live.pop()
            block.release()
            for one in opened:
                one[1] -= counted
                one[2] -= 1
        else:
            was = heap.stats().current_bytes
            live.append((heap.block(size), heap.stats().current_bytes - was))
            for one in opened:
                one[1:] = one[1] + live[-1][1], one[2] + 1, one[3] + live[-1][1], one[4] + 1
    for counting, *expected in opened:
        found = counting.stats()
        assert expected == [found.current_bytes, found.current_count, found.total_bytes, found.total_count]


def test_a_peak_is_told_where_the_counters_know_it() -> None:
    """A new highest one of the heap, above what was used at the beginning; else None, also while it is open."""
    heap = Heap(decay="never")
    with heap.statistics() as first:
        heap.full(2 * MIB, 1, "u1")
    heap.purge()
    with heap.statistics() as second:
        heap.full(MIB, 1, "u1")
        assert second.stats().peak_bytes is None
    heap.purge()
    with heap.statistics() as third:
        heap.full(5 * MIB, 1, "u1")
        heap.purge()

    assert 2 * MIB <= first.stats().peak_bytes < 3 * MIB
    assert second.stats().peak_bytes is None
    assert third.stats().used_bytes < 5 * MIB <= third.stats().peak_bytes < 9 * MIB


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_a_peak_is_never_guessed(used: int, highest: int, used_after: int, highest_after: int) -> None:
    """Only one that was passed in between was reached in between."""
    before, after = Reading(0, 0, 0, 0, used, highest), Reading(0, 0, 0, 0, used_after, highest_after)
    found = _between(0.0, before, 1.0, after).peak_bytes

    assert found == (highest_after - used if highest_after > highest else None)


def test_H4_threads_are_counted_together(run_program) -> None:
    """The process is counted; threads that allocate at once, exactly, once they have ended. With no other heap, the peak too."""
    done = run_program(
        """
        import threading, freehold, numpy as np
        freehold.install()
        kept = []
        with freehold.statistics() as seen:
            def work():
                kept.append([np.ones(20_000) for _ in range(50)])
            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        found = seen.stats()
        assert 400 == found.current_count == found.total_count - found.freed_count, found
        assert 400 * 160_000 <= found.current_bytes <= found.total_bytes
        assert 400 * 160_000 <= found.peak_bytes, found
        assert found.seconds > 0
        heap = freehold.Heap()
        with freehold.statistics() as seen:
            kept.append(np.ones(50_000_000))
        assert seen.stats().peak_bytes is None
        """
    )

    assert (0, "") == (done.returncode, done.stderr)


def test_what_can_not_be_counted_is_said() -> None:
    """Before it is entered; of a heap that is closed: leaving it hides no error."""
    heap = Heap("gone")
    with pytest.raises(ValueError, match="has to be entered"):
        heap.statistics().stats()
    with heap.statistics() as seen:
        heap.close()
    with pytest.raises(ValueError, match="heap 'gone' is closed"):
        seen.stats()


# ---- profiler ----


def test_a_profiler_adds_up_by_name() -> None:
    """Calls, bytes, blocks and time, of functions, coroutines and pieces; also those that raise; a call inside its own."""
    records, heap = ProfilerRecords(), Heap(decay="never")
    kept = []

    @profiler("take", records=records)
    def take(depth: int) -> None:
        kept.append(heap.block(200_000))
        if depth:
            take(depth - 1)

    @profiler(records=records)
    async def later() -> None:
        await asyncio.sleep(0)
        kept.append(heap.block(1000))

    take(2)
    asyncio.run(later())
    with pytest.raises(KeyError), profiler("piece", records=records):
        raise KeyError
    found = records.records

    assert (3, 6) == (found["take"].calls, found["take"].total_count)  # 3, 2 and 1: each counts what is inside it
    assert 6 * 200_000 <= found["take"].current_bytes == found["take"].total_bytes
    name = f"{__name__}.test_a_profiler_adds_up_by_name.<locals>.later"
    assert (1, True) == (found[name].calls, found[name].total_count >= 1)
    assert (1, 0) == (found["piece"].calls, found["piece"].current_bytes)
    report = records.report().splitlines()
    assert ["name", "take"] == [line.split()[-1] for line in report[:2]]
    assert f"{found['take'].total_bytes:,}" in report[1]
    records.clear()
    assert {} == records.records
    assert 1 == len(records.report().splitlines())


def test_a_profiler_loses_no_call_of_any_thread() -> None:
    """A thousand calls of eight threads are a thousand."""
    records = ProfilerRecords()

    @profiler("work", records=records)
    def work() -> None:
        pass

    threads = [threading.Thread(target=lambda: [work() for _ in range(125)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 1000 == records.records["work"].calls


def test_the_default_records_are_the_packages() -> None:
    """As in rmm: what nobody named others for goes there."""
    with profiler("mine"):
        pass

    assert freehold.profiler_records().records["mine"].calls >= 1


def test_a_wrong_profiler_is_refused() -> None:
    """Without brackets, without a name, around a generator."""
    with pytest.raises(TypeError, match=r"written @freehold.profiler\(\)"):
        profiler(lambda: None)
    with pytest.raises(ValueError, match="needs a name"), profiler():
        pass

    def generate():
        yield 1

    with pytest.raises(TypeError, match="generator function: use a `with`"):
        profiler("x")(generate)


# ---- snapshots ----


def test_a_snapshot_is_stats_and_compares() -> None:
    """What has changed of a heap, by name; a heap that came, one that went; a limit that was set."""
    gone, stays = Heap("gone"), Heap("stays")
    before = freehold.snapshot()
    gone.close()
    came = Heap("came")
    stays.limit = "64MiB"
    block = stays.block(100_000)
    after = freehold.snapshot()
    found = {(change.heap, change.name): change for change in after.compare_to(before)}

    assert isinstance(before.stats, Stats)
    assert found["stays", "limit_bytes"] == Change("stays", "limit_bytes", None, 64 * MIB)
    assert 1 == found["stays", "current_count"].difference == found[None, "current_count"].difference
    assert ("came", None) == (found["came", "used_bytes"].heap, found["came", "used_bytes"].before)
    assert None is found["gone", "used_bytes"].after
    assert found["gone", "used_bytes"].difference < 0
    assert "stays: current_count +1 (0 to 1)" == str(found["stays", "current_count"])
    assert () == after.compare_to(after)
    block.release()
    came.close()


def test_heaps_of_one_name_are_compared_together() -> None:
    """Their sums."""
    first, second = Heap("twin"), Heap("twin")
    before = freehold.snapshot()
    blocks = [first.block(10), second.block(10), second.block(10)]
    found = {(change.heap, change.name): change for change in freehold.snapshot().compare_to(before)}

    assert 3 == found["twin", "current_count"].difference
    for block in blocks:
        block.release()


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """The same snapshot; also as `stats().to_json()`, and in a report."""
    heap = Heap("größer", limit="64MiB")
    snapshot = freehold.snapshot()
    snapshot.save(tmp_path / "a.json")
    (tmp_path / "b.json").write_text(snapshot.stats.to_json())
    (tmp_path / "c.json").write_text(json.dumps({"program": ["x.py"], "heap": snapshot.stats.as_dict()}))

    assert snapshot == Snapshot.load(tmp_path / "a.json")
    assert snapshot.stats == Snapshot.load(tmp_path / "b.json").stats
    assert (snapshot.stats, "x.py") == (
        Snapshot.load(tmp_path / "c.json").stats,
        Snapshot.load(tmp_path / "c.json").command,
    )
    heap.close()


def test_a_snapshot_is_frozen() -> None:
    """It stays what it was."""
    with pytest.raises(AttributeError):
        freehold.snapshot().time = 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from(["", "current_bytes", "heaps", "heap", "pid", "time", "purge_count"]), JSON)
def test_what_is_no_snapshot_is_refused(name: str, value: object) -> None:
    """Whatever a file holds, it is a snapshot, or `ValueError` says why not."""
    read = freehold.snapshot().as_dict() | ({name: value} if name else {})
    for one in (value, read, {"heap": value}):
        try:
            assert isinstance(Snapshot.from_dict(one).stats.current_bytes, int)
        except NotASnapshot as problem:
            assert str(problem)
