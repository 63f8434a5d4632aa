"""The published page: what a process's heaps hold, read from another process, whatever either of them does."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import platform
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from freehold import published
from freehold.face.vm_face import Vm
from freehold.published import NotPublished, Page
from freehold.view.watch import Watches
from watched import START, descriptors, page_of, wait_for

ROOT = Path(__file__).parents[1]
MIB = 1 << 20


# ---- the figures ----

SPACE = {"current_bytes": "allocated", "active_bytes": "active", "dirty_bytes": "dirty", "muzzy_bytes": "muzzy",
         "retained_bytes": "retained", "mapped_bytes": "mapped", "current_count": "blocks"}  # fmt: skip


def test_H4_the_page_says_what_stats_says(child) -> None:
    """To the byte, for each heap by its name and for all together, of a process that stands still."""
    one = child()
    one.do("kept += [np.ones(n) for n in (10, 1000, 50_000, 1 << 20, 1 << 23)] + [bytes(5_000_000)]")
    one.do("del kept[1::2]")
    one.do("heap = freehold.Heap('größer als alle anderen, und mit einem Namen', limit='256MiB', secure=True)")
    one.do("kept += [heap.ones if False else heap.full(300_000, 1.0), heap.zeros(10)]; del kept[0]")
    with page_of(one.pid) as page:
        said = one.do("answer = freehold.stats().as_dict()")
        seen = page.fresh()

    names = {heap["name"].encode()[:39].decode(errors="replace"): heap for heap in said["heaps"]}
    assert set(names) == {heap.name for heap in seen.heaps}
    for heap in seen.heaps:
        told, found = names[heap.name], heap.total()
        assert {name: told[name] for name in SPACE} == {name: getattr(found, word) for name, word in SPACE.items()}
        assert (told["used_bytes"], told["peak_bytes"], told["limit_bytes"]) == (heap.used, heap.peak, heap.limit)
        assert told["total_count"] == found.allocations
    assert said["current_bytes"] == seen.total().allocated == sum(x.allocated for x in seen.layers().values())
    assert (said["metadata_bytes"], said["purged_bytes"]) == (seen.metadata, seen.purged)
    assert [False, True] == [heap.secure for heap in seen.heaps]
    assert [None, 1.0] == [heap.decay_s for heap in seen.heaps]


def test_each_layer_has_its_blocks(child) -> None:
    """A block of each size is counted in the layer that serves it."""
    one = child()
    one.do("kept.append(np.ones(1))")
    with page_of(one.pid) as page:
        before = page.fresh().layers()
        one.do("kept += [np.ones(4), np.ones(30_000), np.ones(1 << 20)]")
        one.do("huge = freehold.Heap().block(100, alignment=1 << 25)")
        after = page.fresh().layers()

    assert {"small": 1, "extent": 1, "large": 1, "huge": 1} == {
        name: after[name].blocks - before[name].blocks for name in published.LAYERS
    }


def test_of_very_many_heaps_the_last_ones_are_summed(child) -> None:
    """The page has room for so many; nothing is left out of the sums."""
    one = child()
    one.do("heaps = [freehold.Heap() for _ in range(80)]; kept += [heap.full(1000, 1.0) for heap in heaps]")
    with page_of(one.pid) as page:
        said = one.do("answer = freehold.stats().as_dict()")
        seen = page.fresh()

    assert (81, 64) == (seen.heap_count, len(seen.heaps))
    assert (18, "18 more heaps") == (seen.heaps[-1].count, seen.heaps[-1].name)
    assert said["current_bytes"] == seen.total().allocated
    assert said["current_count"] == seen.total().blocks
    one.do("kept.clear(); [heap.close() for heap in heaps]")


def test_os_calls_are_named_as_vm_names_them() -> None:
    """In the same order."""
    with Vm() as vm:
        assert list(published.CALLS) == list(vm.stats())


# ---- where the memory is ----


def test_H4_the_ranges_add_up_to_the_layers(child) -> None:
    """To the byte, by heap, layer and state; each in its place, and none over another."""
    one = child()
    one.do("heap = freehold.Heap('second', decay='never'); import random; random.seed(1)")
    one.do("kept += [np.ones(random.randrange(1, 400_000)) for _ in range(400)]")
    one.do("kept += [heap.full(random.randrange(1, 400_000), 1.0) for _ in range(100)]")
    one.do("kept.append(heap.block(100, alignment=1 << 25)); random.shuffle(kept)")
    one.do("del kept[::3]")
    with page_of(one.pid) as page:
        plain, seen = page.fresh(), page.map()

    assert () == plain.ranges
    assert 0 == seen.ranges_left_out
    for heap in seen.heaps:
        for name, layer in heap.layers.items():
            mine = [r for r in seen.ranges if (r.heap, r.layer) == (heap.id, name)]
            for state in ("active", "dirty", "muzzy", "retained"):
                assert getattr(layer, state) == sum(getattr(r, state) for r in mine), (heap.name, name, state)
            assert all(r.size == r.active + r.dirty + r.muzzy + r.retained for r in mine)
    placed = sorted((r for r in seen.ranges if r.address), key=lambda r: r.address)
    assert len(placed) > 60
    assert all(a.address + a.size <= b.address for a, b in itertools.pairwise(placed))


def test_a_large_heap_is_told_more_coarsely(child) -> None:
    """When there is no room for a range each, neighbours are joined; none is left out."""
    one = child()
    one.do("heaps = [freehold.Heap() for _ in range(40)]")
    one.do("kept += [heap.empty(n) for heap in heaps for n in (20_000, 1 << 18, 1 << 19, 1 << 20)]")
    with page_of(one.pid) as page:
        seen = page.map()

    assert 0 == seen.ranges_left_out
    assert 100 < len(seen.ranges) <= 900
    assert seen.total().mapped == sum(r.size for r in seen.ranges)
    one.do("kept.clear(); [heap.close() for heap in heaps]")


# ---- asking ----


def switches(pid: int) -> int:
    """Return how often the reclaim thread of a process went to sleep."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text() == "freehold\n":
            return int(
                re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.MULTILINE).group(1)
            )
    return 0


def test_H5_who_is_not_read_does_nothing_and_who_sleeps_answers(child) -> None:
    """The reclaim thread sleeps without a timeout; a reader wakes it, and it sleeps again, whoever else reads."""
    one = child(FREEHOLD_DECAY="50ms")
    one.do("kept.append(np.ones(1 << 20))")
    with page_of(one.pid) as page:

        def state() -> tuple[int, int]:
            return page._sequence(), switches(one.pid)

        def nothing_for_half_a_second() -> bool:
            before = state()
            time.sleep(0.5)
            return before == state()

        wait_for(nothing_for_half_a_second)
        (answered, slept), ticks = state(), page.fresh().ticks
        again = page.fresh()

        assert again is not None
        assert ticks == again.ticks  # an answer is no tick
        answers = (page._sequence() - answered) / 2
        assert 2 <= answers
        assert 1 <= switches(one.pid) - slept <= 3 * answers


def test_two_readers_are_both_answered(child) -> None:
    """Each sees figures from after it asked."""
    one = child()
    one.do("kept.append(np.ones(1 << 20))")
    with page_of(one.pid) as first, page_of(one.pid) as second:
        for _ in range(20):
            now = time.monotonic()
            wanted = first.ring(), second.ring()
            assert first.wait_for(wanted[0], 5)
            assert second.wait_for(wanted[1], 5)
            assert min(first.read().time_s, second.read().time_s) >= now


def test_who_rings_on_and_on_costs_a_hundred_answers_a_second(child) -> None:
    """A reader in a loop does not set the pace."""
    one = child()
    one.do("kept.append(np.ones(1 << 20))")
    with page_of(one.pid) as page:
        before, began = page._sequence(), time.monotonic()
        while time.monotonic() - began < 0.5:
            page.ring()
        took = time.monotonic() - began

        assert 1 <= (page._sequence() - before) / 2 <= 100 * took + 2


def test_who_asks_for_a_purge_gets_it(child) -> None:
    """What is idle goes back at once, in a process that keeps it for ever otherwise."""
    one = child()
    one.do("kept = [np.ones(2000) for _ in range(5000)]; heap = freehold.Heap(decay='never')")
    one.do("kept += [heap.full(50_000, 1.0) for _ in range(20)]")
    one.do("kept.clear()")
    with page_of(one.pid) as page:
        idle = page.fresh().total().dirty
        given_back = page.purge()
        after = page.fresh()

    assert idle > 80 * MIB
    assert given_back >= 0.9 * idle
    assert after.total().dirty < MIB
    assert (1, given_back) == (after.purges, after.purges_bytes)
    assert one.do("answer = freehold.stats().dirty_bytes") < MIB


# ---- torn pages ----


class Paper:
    """A page of this process, written by the test."""

    def __init__(self, body_words: int = 78) -> None:
        self.file = os.memfd_create("freehold.page.of.a.test")
        os.ftruncate(self.file, 1 << 16)
        self.words = [0] * body_words
        self.words[13] = 15
        self.write()

    def write(self, *, sequence: int = 2, off: int = 0, magic: bytes = b"freehold", version: int = 1) -> None:
        head = published.HEAD.pack(
            magic,
            version,
            1 << 16,
            sequence,
            (sum(self.words) + off) % (1 << 64),
            8 * len(self.words),
            os.getpid(),
            0,
            0,
        )
        os.pwrite(self.file, head, 0)
        os.pwrite(self.file, struct.pack(f"={len(self.words)}Q", *self.words), published.BODY)

    def page(self) -> Page:
        return Page(os.getpid(), self.file)


def test_a_torn_page_is_not_believed() -> None:
    """Neither while it is being written, nor where a word is not what was summed."""
    paper = Paper()
    paper.words[3] = 7
    paper.write()
    with paper.page() as page:
        assert 7 == page.read().ticks
        paper.write(sequence=3)
        assert page.read() is None
        paper.write(sequence=4, off=1)
        assert page.read() is None
        paper.write(sequence=6)
        assert 7 == page.read().ticks
    os.close(paper.file)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"magic": b"freehole"}, "none of freehold's"), ({"version": 2}, "has version 2; this freehold reads version 1")],
)
def test_what_is_no_page_is_not_read(wrong: dict[str, Any], said: str) -> None:
    """The text says why."""
    paper = Paper()
    paper.write(**wrong)

    with pytest.raises(NotPublished, match=said):
        paper.page()
    os.close(paper.file)


def test_F53_figures_are_whole_while_threads_allocate_and_fork(child) -> None:
    """Read as fast as it is answered, by a process that does all it can: each time sums that can be, and the end is sound."""
    one = child()
    one.do(
        "import threading; work = lambda: [np.ones(n % 3000 * 8) is None for n in range(15_000)] and None;"
        "threads = [threading.Thread(target=work) for _ in range(3)]; [t.start() for t in threads]"
    )
    seen = []
    with page_of(one.pid) as page:
        for _ in range(30):
            seen.append(page.fresh(5))
            one.do("pid = os.fork(); pid or os._exit(0); answer = os.waitpid(pid, 0)[1]")
    one.do("[t.join() for t in threads]; kept.clear()")

    assert None not in seen
    for heap in (heap for snapshot in seen for heap in snapshot.heaps):
        total = heap.total()
        assert total.allocated <= 1 << 40
        assert total.blocks <= total.allocations
        assert total.active + total.dirty <= heap.peak + 64 * MIB
    assert [s.total().allocations for s in seen] == sorted(s.total().allocations for s in seen)


def test_F30_publishing_asks_no_malloc_that_is_ours(child) -> None:
    """Where the heap is the process's malloc, the thread that publishes never waits for itself."""
    library = Path(sys.modules["freehold.face.vm_face"].__file__).parents[1] / "libfreehold.so"
    one = child("import json, os, sys\nkept = []\n", LD_PRELOAD=str(library))
    one.do("kept += [bytes(n) for n in range(1, 40_000, 7)]")
    with page_of(one.pid) as page:
        for _ in range(20):
            one.do("kept = [bytes(len(b) + 1) for b in kept]")
            assert page.fresh(5).total().blocks > 5000


# ---- processes that fork, change, end ----


def test_H6_a_forked_child_publishes_its_own(child) -> None:
    """From when it first needs the heap; its parent's goes on, and neither is taken for the other's."""
    one = child()
    one.do("kept.append(np.ones(1 << 20)); import threading, signal")
    with page_of(one.pid) as parent:
        before = parent.fresh().total().allocated
        one.do("r, w = os.pipe(); a, b = os.pipe()")
        pid = one.do(
            "answer = pid = os.fork(); pid or (os.read(r, 1), kept.append(np.ones(3 << 20)), os.read(r, 1), os._exit(0))"
        )
        wait_for(lambda: not descriptors(pid))
        with pytest.raises(NotPublished, match="hardly used it yet"):
            published.find(pid)
        one.do("os.write(w, b'1')")
        with page_of(pid) as of_child:
            wait_for(lambda: of_child.fresh().total().allocated >= before + (24 << 20))

            assert before == parent.fresh().total().allocated
            assert (one.pid, pid) == (parent.fresh().pid, of_child.fresh().pid)
            one.do("os.write(w, b'1'); answer = os.waitpid(pid, 0)[1]")
            assert not of_child.is_alive()
        assert parent.is_alive()


def test_a_page_ends_with_its_program(child) -> None:
    """Another one in the same process has none of it."""
    one = child()
    one.do("kept.append(np.ones(1 << 20))")
    page = page_of(one.pid)
    assert page.is_alive()
    print("os.execv('/bin/sleep', ['sleep', '60'])", file=one.process.stdin, flush=True)
    wait_for(lambda: not page.is_alive())

    with pytest.raises(NotPublished, match="publishes nothing"):
        published.find(one.pid)
    one.process.kill()
    one.process.wait()


def test_who_is_killed_leaves_nothing(child) -> None:
    """No file, whatever it was doing; its last figures can still be read by who had the page open."""
    one = child()
    one.do("kept.append(np.ones(1 << 20))")
    with page_of(one.pid) as page:
        last = page.fresh()
        one.process.send_signal(signal.SIGKILL)
        one.process.wait()

        assert not page.is_alive()
        assert page.fresh(0.05) is None
        assert last.heaps == page.read().heaps
    with pytest.raises(NotPublished, match="there is no process"):
        published.find(one.pid)


def test_two_hundred_processes_at_once(child) -> None:
    """Each has its page, is found, and answers."""
    one = child()
    one.do("kept.append(np.ones(1000)); r, w = os.pipe(); pids = []")
    grow = "kept.append(np.ones(100_000)), os.read(r, 1), os._exit(0)"
    pids = one.do(f"[pids.append(os.fork()) or pids[-1] or ({grow}) for _ in range(200)]; answer = pids")
    wait_for(lambda: set(pids) <= set(published.processes()))
    for pid in pids:
        with page_of(pid) as page:
            assert page.fresh(5).total().allocated >= 800_000
    one.do("os.write(w, b'1' * 200); answer = [os.waitpid(pid, 0)[1] for pid in pids]")


def test_who_becomes_a_daemon_is_found_again(child) -> None:
    """It closes every file it does not know; what it opens then has the numbers it expects, and stays open."""
    one = child()
    one.do("kept.append(np.ones(1 << 20))")
    with page_of(one.pid) as page:
        one.do("os.closerange(3, 1024)")
        wait_for(lambda: not page.is_alive())
        opened = one.do("answer = [os.open('/dev/null', os.O_RDONLY) for _ in range(3)]")
    one.do("kept.append(np.ones(1 << 21)); kept.append(np.ones(1 << 22))")
    with page_of(one.pid) as page:
        assert page.fresh().total().allocated >= 56 << 20
        assert [3, 4, 5] == opened
        assert 3 == one.do("answer = len([os.fstat(n) for n in (3, 4, 5)])")


# ---- who may, and whether at all ----


def test_the_page_is_its_owners_alone_and_stays_whole(child) -> None:
    """Mode 0600, closed at exec, above the numbers that programs use, and nobody can cut it short under the writer."""
    one = child()
    one.do("kept.append(np.ones(1 << 20))")
    page_of(one.pid).close()
    (number,) = descriptors(one.pid)
    path = f"/proc/{one.pid}/fd/{number}"
    flags = int(
        re.search(r"^flags:\s+(\d+)", Path(f"/proc/{one.pid}/fdinfo/{number}").read_text(), re.MULTILINE).group(1), 8
    )

    assert 0o600 == os.stat(path).st_mode & 0o777
    assert flags & os.O_CLOEXEC
    assert number >= 200
    file = os.open(path, os.O_RDWR)
    with pytest.raises(PermissionError):
        os.ftruncate(file, 0)
    os.close(file)


@pytest.mark.parametrize("how", [{"FREEHOLD_PUBLISH": "no"}, {"FREEHOLD_CONF": "publish=off"}])
@pytest.mark.parametrize("preloaded", [False, True])
def test_it_can_be_switched_off(child, how: dict[str, str], preloaded: bool) -> None:
    """Then there is no file, and no answer."""
    library = Path(sys.modules["freehold.face.vm_face"].__file__).parents[1] / "libfreehold.so"
    one = child(**how, FREEHOLD_DECAY="20ms", **({"LD_PRELOAD": str(library)} if preloaded else {}))
    one.do("kept.append(np.ones(1 << 20)); kept.clear()")
    wait_for(lambda: switches(one.pid))

    assert [] == descriptors(one.pid)
    with pytest.raises(NotPublished, match="publish=no"):
        published.find(one.pid)


def test_F30_without_a_file_to_be_had_the_heap_works(child) -> None:
    """A process that has used up its files is served as any other, gives back as any other, and has no page."""
    one = child(FREEHOLD_DECAY="100ms")
    one.do("kept.append(np.ones(1 << 20)); import resource, time; freehold.stats()")
    one.do(
        "r, w = os.pipe(); rest = lambda: [time.sleep(0.01) for _ in iter(lambda: freehold.stats().dirty_bytes >> 20, 0)]"
    )
    limit = "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))"
    grow = "kept.append(np.ones(1 << 21)) or kept.clear() or os.read(r, 1) and (rest() or True) and os._exit(7)"
    pid = one.do(f"answer = pid = os.fork(); pid or {limit} or {grow}")
    wait_for(lambda: len(os.listdir(f"/proc/{pid}/task")) == 2)
    assert [] == descriptors(pid)
    one.do("os.write(w, b'1')")
    code = wait_for(lambda: one.do("answer = [code for done, code in [os.waitpid(pid, os.WNOHANG)] if done]"))

    assert [7 << 8] == code


WITHOUT = """
import ctypes, struct
def refuse(number):
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | 38), (0x06, 0, 0, 0x7FFF0000)]
    filters = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
    program = struct.pack("@HP", len(code), ctypes.addressof(filters))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0
"""  # seccomp: the call fails with ENOSYS, as on a kernel that has never heard of it
FUTEX_WAITV = 449
MEMFD_CREATE = {"x86_64": 319}.get(platform.machine(), 279)


def test_before_linux_5_16_each_tick_publishes(child) -> None:
    """A kernel that can not wait for two words: figures are of the last tick, and stay while the thread sleeps."""
    one = child(f"{WITHOUT}\nrefuse({FUTEX_WAITV})\n{START}", FREEHOLD_DECAY="100ms")
    one.do("kept.append(np.ones(1 << 20))")
    with page_of(one.pid) as page:
        seen = wait_for(page.read)
        one.do("kept.append(np.ones(1 << 21))")
        # What is dropped has the thread tick, however soundly it slept.
        wait_for(
            lambda: (
                one.do("np.ones(1 << 17)") is None
                and page.read().total().allocated >= seen.total().allocated + (16 << 20)
            )
        )
        wait_for(lambda: (n := switches(one.pid)) and time.sleep(0.3) is None and n == switches(one.pid))

        assert page.fresh(0.1) is None
        assert one.do("answer = freehold.stats().current_bytes") == page.read().total().allocated


def test_where_memory_files_are_refused_the_heap_works(child) -> None:
    """A sandbox, or a kernel before 3.17: there is no page, and all else is as ever."""
    one = child(f"{WITHOUT}\nrefuse({MEMFD_CREATE})\n{START}", FREEHOLD_DECAY="20ms")
    one.do("kept += [np.ones(1 << 20) for _ in range(5)]; kept.clear()")
    wait_for(lambda: one.do("answer = freehold.stats().dirty_bytes") < MIB)

    assert [] == descriptors(one.pid)


# ---- the document ----


def test_the_layout_is_as_documented(child) -> None:
    """docs/page.md gives each field's place, and a page that a process writes agrees."""
    text = (ROOT / "docs" / "page.md").read_text()
    places = {
        name: (int(at), int(size))
        for at, size, name in re.findall(r"^\| (\d+) \| (\d+) \| `([\w.]+)`", text, re.MULTILINE)
    }
    one = child()
    one.do("kept.append(np.ones(1 << 20))")
    with page_of(one.pid) as page:
        seen = page.fresh()
        raw = bytes(page._map)

    def word(name: str, base: int = 0) -> int:
        at, size = places[name]
        return int.from_bytes(raw[base + at : base + at + size], sys.byteorder)

    process, heap = published.BODY, published.BODY + published.PROCESS.size
    assert b"freehold" == raw[: places["magic"][1]]
    assert (1, len(raw), one.pid) == (word("version"), word("bytes"), word("pid"))
    words = (published.BELL, published.PURGE, published.MAP)
    assert words == (places["bell"][0], places["purge"][0], places["map"][0])
    assert published.PROCESS.size + published.HEAP.size + 4 * published.LAYER.size == word("body_bytes")
    assert (1, 1, 15) == (
        word("process.heaps", process),
        word("process.records", process),
        word("process.calls", process),
    )
    assert seen.metadata == word("process.metadata", process)
    assert (seen.heaps[0].used, seen.heaps[0].metadata) == (word("heap.used", heap), word("heap.metadata", heap))
    layer = heap + published.HEAP.size
    assert seen.heaps[0].layers["small"].allocations == word("layer.allocations", layer)


def test_what_is_gone_is_not_found() -> None:
    """A process that never was, and one that is not ours."""
    with pytest.raises(NotPublished, match="there is no process"):
        published.find(1 << 22)
    if os.geteuid() == 0:
        return
    with pytest.raises(NotPublished, match="not yours"):
        published.find(1)


def test_futexes_are_called_by_their_number() -> None:
    """A call with a word that is not waited for wakes nobody, and is no error."""
    word = ctypes.c_uint32(0)

    assert 0 == published._libc.syscall(published.SYS_FUTEX, ctypes.byref(word), published.FUTEX_WAKE, 1, None, None, 0)


def test_a_page_that_is_being_made_is_none_yet() -> None:
    """Its file is there before it has a size: who looks at that moment goes on."""
    program = "import os; os.memfd_create('freehold.page'); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as maker:
        maker.stdout.readline()

        with pytest.raises(NotPublished, match="being made"):
            published.find(maker.pid)
        with contextlib.closing(Watches()) as watches:  # what `freehold top` lists
            assert maker.pid not in [sample.pid for sample in watches.look()]
        maker.communicate(b"\n")
