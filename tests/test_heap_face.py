"""`freehold.Heap`: where arrays live, what a limit does, and how a heap ends."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import numpy as np
import pytest

import freehold
from freehold import BlocksLive, Heap, LimitError
from freehold.face import heap_face

MIB = 1 << 20


def count(heap: Heap) -> int:
    return heap.stats().current_count


def test_H2_arrays_made_inside_live_in_the_heap_and_others_do_not() -> None:
    """The `with` is of NumPy's own kind (NEP 49): nested, the inner one holds; after it the outer one again."""
    with Heap("outer") as outer:
        first = np.ones(1000)
        with Heap("inner") as inner:
            second = np.zeros((10, 10))
        third = np.arange(5)
    outside = np.ones(1000)

    assert (2, 1) == (count(outer), count(inner))
    assert "freehold outer" == np._core.multiarray.get_handler_name(third)
    assert "freehold inner" == np._core.multiarray.get_handler_name(second)
    assert "default_allocator" == np._core.multiarray.get_handler_name(outside)
    del first, second, third
    assert (0, 0) == (count(outer), count(inner))


def test_H2_arrays_outlive_the_with_and_the_heap_object() -> None:
    """The memory stays as long as an array does, also one that is resized; then it goes."""
    before = count_of_heaps()
    with Heap("short") as heap:
        array = np.arange(1000)
    del heap
    gc.collect()
    array.resize(200_000, refcheck=False)

    assert np.arange(1000).sum() == array.sum()
    assert before + 1 == count_of_heaps()
    del array
    assert before == count_of_heaps()


def count_of_heaps() -> int:
    import ctypes

    library = ctypes.CDLL(str(Path(heap_face.__file__).parents[1] / "libfreehold.so"))
    library.fh_heaps_count.restype = ctypes.c_uint64
    return int(library.fh_heaps_count())


def test_H2_arrays_are_aligned_and_zeros_are_zero() -> None:
    """To 64 bytes, in every size."""
    heap = Heap()
    for size in (1, 100, 5000, 200_000, 3 * MIB):
        heap.full(size, 7, "u1")
        array = heap.zeros(size, "u1")
        assert 0 == array.ctypes.data % 64
        assert not array.any()


def test_H2_the_makers_of_arrays_take_numpys_arguments() -> None:
    """empty, zeros, full, array: shape, dtype, order; the result lives in the heap."""
    heap = Heap()
    arrays = [
        heap.empty((3, 4), "f4", "F"),
        heap.zeros(5, int),
        heap.full((2, 2), 7),
        heap.array([[1, 2], [3, 4]], dtype="i2", order="F"),
    ]

    assert [((3, 4), "<f4"), ((5,), "<i8"), ((2, 2), "<i8"), ((2, 2), "<i2")] == [
        (a.shape, a.dtype.str) for a in arrays
    ]
    assert [True, False, True] == [a.flags.f_contiguous for a in (arrays[0], arrays[2], arrays[3])]
    assert 4 == count(heap)


def test_H2_threads_do_not_inherit_the_with_but_run_and_executor_carry_it() -> None:
    """A context is a thread's own."""
    heap, seen = Heap(), []

    def work() -> None:
        seen.append(np._core.multiarray.get_handler_name(np.ones(3)))

    with heap:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        with heap.executor(2) as pool:
            results = list(pool.map(np.ones, [10, 20, 30]))
    seen.append(np._core.multiarray.get_handler_name(heap.run(np.ones, 5, dtype="f4")))

    assert ["default_allocator", f"freehold {heap.name}"] == seen
    assert 3 == count(heap)
    assert [10, 20, 30] == [len(array) for array in results]


def test_H2_tasks_and_contexts_have_their_own() -> None:
    """Two tasks inside two heaps, taking turns, do not mix them up."""
    heaps = Heap("a"), Heap("b")

    async def work(heap: Heap) -> list[str]:
        names = []
        with heap:
            for _ in range(3):
                names.append(np._core.multiarray.get_handler_name(np.ones(3)))
                await asyncio.sleep(0)
        return names

    async def both() -> list[list[str]]:
        return await asyncio.gather(*map(work, heaps))

    assert [["freehold a"] * 3, ["freehold b"] * 3] == asyncio.run(both())
    context = contextvars.copy_context()
    assert 1 == context.run(lambda: len(heaps[0].empty(1)))


def test_H2_an_exception_inside_puts_the_handler_back() -> None:
    """And goes on as it was."""
    with pytest.raises(KeyError, match="mine"), Heap():
        raise KeyError("mine")

    assert "default_allocator" == np._core.multiarray.get_handler_name(np.ones(3))


# ---- limits ----


def test_H3_an_array_beyond_the_limit_raises_what_says_all() -> None:
    """From a maker, from NumPy inside the `with`, from a block: heap, asked, in use, limit, largest free run."""
    heap = Heap("small", limit="8MiB")
    keep = heap.zeros(1 * MIB, "u1")

    def inside() -> None:
        with heap:
            np.empty(20 * MIB, "u1")

    for ask in (lambda: heap.empty(20 * MIB, "u1"), inside, lambda: heap.block(20 * MIB)):
        with pytest.raises(LimitError) as caught:
            ask()
        problem = caught.value
        assert isinstance(problem, MemoryError)
        assert ("small", 20 * MIB, 8 * MIB) == (problem.heap, problem.asked, problem.limit)
        assert MIB <= problem.live <= 4 * MIB
        assert 4 * MIB <= problem.largest <= 8 * MIB - problem.live
        assert all(str(n) in str(problem) for n in (20 * MIB, 8 * MIB, problem.live, problem.largest))
    assert 1 == count(heap)
    del keep


def test_H3_after_a_free_the_same_request_succeeds() -> None:
    """What is idle is given back before a request is refused."""
    heap = Heap(limit="32MiB")
    arrays = [heap.full(4 * MIB, 1, "u1") for _ in range(6)]
    with pytest.raises(LimitError):
        heap.empty(20 * MIB, "u1")
    del arrays[1:]

    assert 20 * MIB == len(heap.empty(20 * MIB, "u1"))
    heap.check()


def test_H3_F18_threads_racing_to_the_limit_get_errors_and_never_pass_it() -> None:
    """Eight of them, through NumPy; the highest use is within the limit, and nothing is left."""
    heap = Heap(limit="16MiB")
    refused = []

    def work(seed: int) -> None:
        roll, live = np.random.default_rng(seed), []
        for _ in range(300):
            try:
                live.append(heap.run(np.ones, int(roll.integers(1, 1 << 18))))
            except LimitError as problem:
                refused.append(problem.asked)
                live = live[len(live) // 2 + 1 :]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert refused
    assert heap.stats().peak_bytes <= 16 * MIB
    assert 0 == count(heap)
    heap.check()


def test_H3_on_limit_is_asked_and_can_make_room() -> None:
    """With the heap and the bytes; True: try again; anything else: refuse."""
    calls: list[tuple[str, int]] = []
    hoard: list[np.ndarray] = []

    def make_room(heap: Heap, asked: int) -> bool:
        calls.append((heap.name, asked))
        if hoard:
            hoard.clear()
            return True
        return False

    heap = Heap("asking", limit="8MiB", on_limit=make_room)
    hoard.append(heap.zeros(6 * MIB, "u1"))
    served = heap.zeros(5 * MIB, "u1")

    assert [("asking", 5 * MIB)] == calls
    assert 5 * MIB == len(served)
    with pytest.raises(LimitError):
        heap.zeros(6 * MIB, "u1")
    assert 2 == len(calls)


def test_H3_an_on_limit_that_raises_means_no(capsys: pytest.CaptureFixture[str]) -> None:
    """What it raised is shown; the request is refused."""
    heap = Heap(limit="4MiB", on_limit=lambda heap, asked: 1 / 0)

    with pytest.raises(LimitError):
        heap.block(8 * MIB)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_H3_the_limit_can_be_changed_but_not_below_what_is_used() -> None:
    """The error has both figures, and nothing has changed."""
    heap = Heap(limit="50%")
    keep = heap.zeros(8 * MIB, "u1")
    keep[:] = 1
    heap.limit = "1.5GiB"

    assert 3 << 29 == heap.limit
    with pytest.raises(ValueError, match=rf"limit='2MiB' is {2 * MIB} bytes, below the \d+ bytes") as caught:
        heap.limit = "2MiB"
    assert str(heap.stats().used_bytes) in str(caught.value)
    assert 3 << 29 == heap.limit
    heap.limit = None
    assert heap.limit is None


def test_H3_F19_the_limit_cgroup_is_what_the_container_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limit less what the process has resident; none where there is none."""
    from freehold.face import vm_face

    class Facts:
        limit: int | None = 1 << 40

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def facts(self) -> dict[str, int | None]:
            return {"cgroup_limit": Facts.limit, "page_size": 4096, "numa_nodes": 1}

    monkeypatch.setattr(vm_face, "Vm", Facts)
    limit = Heap(limit="cgroup").limit
    Facts.limit = None

    assert limit is not None
    assert (1 << 40) - (4 << 30) < limit < 1 << 40
    assert Heap(limit="cgroup").limit is None


# ---- arguments ----


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"name": 3}, TypeError, "name must be a str or None, not int"),
        ({"limit": "1XB"}, ValueError, "limit='1XB' is not a size"),
        ({"limit": -1}, ValueError, "limit=-1 is not a size"),
        ({"limit": 0}, ValueError, "limit=0 leaves no room"),
        ({"limit": 1000}, ValueError, "limit=1000 is less than"),
        ({"limit": 2.5}, ValueError, "limit=2.5 is not a size"),
        ({"decay": "soon"}, ValueError, "decay='soon' is not a duration"),
        ({"decay": -2}, ValueError, "decay=-2 is not a duration"),
        ({"numa_node": 4096}, ValueError, "numa_node must be from 0 to"),
        ({"numa_node": "0"}, TypeError, "numa_node must be an int"),
        ({"huge_pages": "some"}, ValueError, "huge_pages='some' is not known: expected 'never', 'auto', 'always'"),
        ({"secure": 1}, TypeError, "secure must be a bool"),
        ({"on_limit": 5}, TypeError, "on_limit must be callable"),
    ],
)
def test_H2_wrong_arguments_are_named(arguments: dict[str, object], kind: type[Exception], text: str) -> None:
    """With the value and what would be right; no heap is opened."""
    gc.collect()  # heaps that other tests left in cycles
    before = count_of_heaps()
    with pytest.raises(kind, match=text):
        Heap(**arguments)  # type: ignore[arg-type]
    assert before == count_of_heaps()


def test_H2_names_are_given_where_none_is() -> None:
    """heap-1, heap-2 …, each once."""
    names = [Heap().name for _ in range(3)]

    assert 3 == len(set(names))
    assert all(name.startswith("heap-") for name in names)


# ---- giving back, and the end ----


def test_H2_purge_gives_back_what_is_idle_and_says_how_much() -> None:
    """And leaves what is live."""
    heap = Heap(decay="never")
    keep = heap.full(10, 1.0)
    for size in (100, 10_000, 300_000, 8 * MIB):
        heap.full(size, 1, "u1")
    dirty = heap.stats().dirty_bytes

    assert heap.purge() >= 8 * MIB
    assert heap.stats().dirty_bytes < dirty - 8 * MIB
    assert 10.0 == keep.sum()


def test_H2_closing_while_arrays_live_is_refused() -> None:
    """With how many, and how much; afterwards the heap is as it was."""
    heap = Heap("busy")
    array = heap.full(1000, 3)

    with pytest.raises(BlocksLive, match="heap 'busy': 1 blocks") as caught:
        heap.close()
    assert 1 == caught.value.blocks
    assert caught.value.bytes >= 8000
    assert 3000 == array.sum()
    del array
    heap.close()
    heap.close()
    assert heap.closed


def test_H2_forced_closing_leaves_arrays_that_read_zero_and_can_be_dropped() -> None:
    """Nothing crashes, whatever is done with them."""
    heap = Heap(decay="10ms")
    arrays = [heap.full(size, 7, "u1") for size in (100, 10_000, 300_000, 4 * MIB)]
    heap.close(force=True)

    assert heap.closed
    assert [0, 0, 0, 0] == [int(array.max()) for array in arrays]
    arrays[0][:] = 1
    del arrays


@pytest.mark.parametrize(
    "use",
    [
        lambda heap: heap.__enter__(),
        lambda heap: heap.block(10),
        lambda heap: heap.zeros(3),
        lambda heap: heap.stats(),
        lambda heap: heap.purge(),
        lambda heap: heap.limit,
        lambda heap: heap.executor(),
        lambda heap: heap.check(),
    ],
)
def test_H2_a_closed_heap_says_so(use) -> None:  # type: ignore[no-untyped-def]
    """Whatever is asked of it."""
    heap = Heap("over")
    heap.close()

    with pytest.raises(ValueError, match="heap 'over' is closed"):
        use(heap)


def test_H2_a_secure_heap_serves_arrays() -> None:
    """Small and large ones; it balances, and its freed blocks are no one's."""
    heap = Heap(secure=True)
    arrays = [heap.full(size, 5, "u1") for size in (10, 1000, 100_000, 300_000, 3 * MIB) for _ in range(20)]

    assert all((array == 5).all() for array in arrays)
    assert 100 == count(heap)
    heap.check()
    del arrays
    assert 0 == count(heap)
    heap.check()
    heap.close()


def test_F28_memory_errors_by_the_thousand_leak_nothing() -> None:
    """Refused inside NumPy, caught, and again."""
    heap = Heap(limit="2MiB")
    for _ in range(2000):
        with pytest.raises(LimitError):
            heap.zeros(4 * MIB, "u1")

    assert 0 == count(heap)
    heap.close()


def test_F22_a_forked_child_has_the_heap_too() -> None:
    """Its arrays, its limit, its end; the parent's is untouched."""
    heap = Heap("shared by fork", limit="32MiB")
    array = heap.full(1000, 2)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            more = heap.full(1000, 3)
            heap.check()
            ok = array.sum() == 2000 and more.sum() == 3000 and count(heap) == 2
            del array, more
            heap.close()
            code = 0 if ok else 2
        finally:
            os._exit(code)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert (2000, 1) == (array.sum(), count(heap))


# ---- statistics ----


def test_H4_statistics_list_the_heaps_by_name() -> None:
    """The default one first; each balances; JSON is what `as_dict` says."""
    heap = Heap("listed", limit="64MiB")
    array = heap.full(1000, 1)
    stats = freehold.stats()
    mine = next(each for each in stats.heaps if each.name == "listed")

    assert "default" == stats.heaps[0].name
    assert mine.limit_bytes == 64 * MIB
    assert mine.used_bytes == mine.active_bytes + mine.dirty_bytes + mine.metadata_bytes
    assert mine.mapped_bytes == mine.active_bytes + mine.dirty_bytes + mine.muzzy_bytes + mine.retained_bytes
    assert stats.as_dict() == json.loads(stats.to_json())
    assert mine.as_dict() == json.loads(mine.to_json())
    heap_names = [each.name for each in stats.heaps]
    del array
    heap.close()
    assert "listed" in heap_names
    assert "listed" not in [each.name for each in freehold.stats().heaps]


def test_H4_the_command_shows_this_process_or_a_report(tmp_path: Path) -> None:
    """For people and as JSON; a file that is no report is an error."""
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"heap": freehold.stats().as_dict()}))

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "freehold", "stats", *arguments], capture_output=True, text=True, check=False
        )

    assert "heap default: 0 bytes in 0 blocks" in command().stdout
    assert "default" == json.loads(command("--json").stdout)["heaps"][0]["name"]
    assert "current_bytes" in command(str(report)).stdout
    wrong = command(str(tmp_path / "none.json"))
    assert (2, "", True) == (wrong.returncode, wrong.stdout, "none.json: No such file" in wrong.stderr)
