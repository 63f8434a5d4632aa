"""Many heaps, their limits and their sums: H2, H3, H4. Each test is a program of its own against the C functions."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from c_programs import figures
from test_heap import told

from freehold.face.vm_face import DEBUG

CORE = Path(__file__).parents[2] / "src" / "freehold" / "core"
MIB = 1 << 20
PRELUDE = """
import random
def mappings():
    return sum(1 for _ in open("/proc/self/maps"))
def balanced(s):
    return s["used"] == s["active"] + s["dirty"] + s["metadata"] and s["mapped"] == sum(
        s[k] for k in ("active", "dirty", "muzzy", "retained"))
def storm(h, seed, rounds, top=21, most=1000):
    roll, live = random.Random(seed), []
    refused = 0
    for _ in range(rounds):
        if live and (roll.random() < 0.45 or len(live) > most):
            heap.deallocate(live.pop(roll.randrange(len(live))))
            continue
        p = heap.allocate_in(h, 1 << roll.randrange(4, top), 16)
        if p is None:
            refused += 1
            for q in live[::2]: heap.deallocate(q)
            live = live[1::2]
        else:
            heap.fill(p, 1, 16); live.append(p)
    for p in live: heap.deallocate(p)
    return refused
def in_threads(*functions):
    threads = [threading.Thread(target=f) for f in functions]
    for t in threads: t.start()
    for t in threads: t.join()
"""


def ran(text: str, *, address_limit: int | None = None, **values: int) -> dict[str, Any]:
    """Run a program with what these tests share before it, and each of *values* in the place of its name."""
    text = textwrap.dedent(text)
    for name, value in values.items():
        text = text.replace(name, str(value))
    return told(PRELUDE + text, address_limit=address_limit)


def test_H2_a_block_lives_in_the_heap_that_was_asked_and_goes_back_there() -> None:
    """In every layer; freed, resized and asked about by its address alone."""
    seen = ran("""
        a, b = heap.open_heap(), heap.open_heap()
        sizes = (0, 1, 100, 5000, 100_000, 300_000, 3 * MIB, 40 * MIB, (64 << 30) + 1)
        blocks = [(h, heap.allocate_in(h, size, 64)) for size in sizes for h in (a, b)]
        astray = sum(heap.heap_of(p) != h for h, p in blocks)
        counts = [heap.stats_of(h)["blocks"] for h in (a, b)]
        moved = [heap.reallocate(blocks[i][1], 9000, 64) for i in (2, 4)]
        astray += sum(heap.heap_of(p) != a for p in moved)
        for i, (_, p) in enumerate(blocks):
            if i not in (2, 4): heap.deallocate(p)
        for p in moved: heap.deallocate(p)
        left = [heap.stats_of(h)["blocks"] for h in (a, b)]
        tell(astray=astray, counts=counts, left=left, check=heap.check(), closed=[heap.close_heap(h)[0] for h in (a, b)],
             heaps=heap.heaps_count())
    """)

    assert {"astray": 0, "counts": [9, 9], "left": [0, 0], "check": 0, "closed": [0, 0], "heaps": 1} == seen


def test_H2_closing_with_live_blocks_is_refused_and_reports_them() -> None:
    """Nothing has changed then: the blocks hold what they held, the heap serves on."""
    seen = ran("""
        h = heap.open_heap()
        blocks = [heap.allocate_in(h, size, 16) for size in (100, 300_000, 3 * MIB)]
        for p in blocks: heap.fill(p, 7, 100)
        told = heap.close_heap(h)
        kept = all(heap.read(p, 100) == bytes([7]) * 100 for p in blocks)
        more = heap.allocate_in(h, 100, 16)
        for p in [*blocks, more]: heap.deallocate(p)
        tell(busy=told[0] == heap.BUSY, blocks=told[1], enough=told[2] >= 100 + 300_000 + 3 * MIB, kept=kept,
             closed=heap.close_heap(h))
    """)

    assert {"busy": True, "blocks": 3, "enough": True, "kept": True, "closed": [0, 0, 0]} == seen


def test_H2_forced_closing_gives_the_memory_back_and_ends_with_the_last_free() -> None:
    """What was live reads 0, and nothing else comes to lie there; when it is freed the addresses go too."""
    seen = ran("""
        h = heap.open_heap(decay_ms=20)
        before = heap.resident_bytes()
        blocks = [heap.allocate_in(h, size, 16) for size in (5000,) * 4000 + (300_000,) * 20 + (3 * MIB,) * 10]
        for p in blocks: heap.fill(p, 7, heap.usable_size(p))
        told = heap.close_heap(h, force=True)
        held = heap.resident_bytes() - before
        zero = all(heap.read(p, 4096).count(0) == 4096 for p in blocks[::100])
        count = heap.heaps_count()
        for p in blocks: heap.deallocate(p)
        end = time.monotonic() + 20
        while heap.heaps_count() > 1 and time.monotonic() < end: time.sleep(0.02)
        tell(told=told[:2], held=held < 4 * MIB, zero=zero, count=count, after=heap.heaps_count(), check=heap.check())
    """)

    assert {"told": [0, 4030], "held": True, "zero": True, "count": 2, "after": 1, "check": 0} == seen


def test_H2_a_heap_is_closed_by_force_while_others_free_its_blocks() -> None:
    """Memory goes back without the layers' locks: a block that is freed meanwhile goes back once."""
    seen = ran(
        """
        def close(h):
            told.append(heap.close_heap(h, force=True)[0])
        def drop(blocks):
            for p in blocks: heap.deallocate(p)
        told = []
        for _ in range(ROUNDS):
            h = heap.open_heap(decay_ms=1)
            blocks = [heap.allocate_in(h, size, 16) for size in ((5000,) * 40 + (300_000,) * 8 + (3 * MIB,) * 4) * 4]
            for p in blocks: heap.fill(p, 7, heap.usable_size(p))
            in_threads(lambda: close(h), lambda: drop(blocks[::2]), lambda: drop(blocks[1::2]))
        end = time.monotonic() + 20
        while heap.heaps_count() > 1 and time.monotonic() < end: time.sleep(0.02)
        tell(told=sum(told), closings=len(told), after=heap.heaps_count(), check=heap.check())
    """,
        ROUNDS=15,
    )

    assert {"told": 0, "closings": 15, "after": 1, "check": 0} == seen


def test_H2_F54_ten_thousand_openings_and_closings_leave_no_trace() -> None:
    """No mapping, no resident memory, no descriptor, no address."""
    seen = ran(
        """
        from freehold.face.space_face import Space
        def cycle():
            h = heap.open_heap()
            for size in (64, 3000, 300_000, 3 * MIB):
                p = heap.allocate_in(h, size, 16); heap.fill(p, 1, 64); heap.deallocate(p)
            assert heap.close_heap(h)[0] == 0
        for _ in range(50): cycle()
        def trace():
            return mappings(), len(os.listdir("/proc/self/fd")), Space().stats()["taken_bytes"]
        before, resident = trace(), heap.resident_bytes()
        for _ in range(ROUNDS): cycle()
        tell(same=before == trace(), grown=max(0, heap.resident_bytes() - resident) >> 20, check=heap.check())
    """,
        ROUNDS=1000 if DEBUG else 10_000,
    )

    assert {"same": True, "grown": 0, "check": 0} == seen


def test_H2_a_hundred_heaps_fit_and_are_apart() -> None:
    """Each with every layer in use, at once; an id is used again."""
    seen = ran("""
        heaps = [heap.open_heap() for _ in range(100)]
        blocks = [[heap.allocate_in(h, size, 16) for size in (64, 300_000, 3 * MIB)] for h in heaps]
        astray = sum(heap.heap_of(p) != h for h, mine in zip(heaps, blocks) for p in mine)
        for mine in blocks:
            for p in mine: heap.deallocate(p)
        tell(astray=astray, check=heap.check(), closed=sum(heap.close_heap(h)[0] for h in heaps), left=heap.heaps_count())
    """)

    assert {"astray": 0, "check": 0, "closed": 0, "left": 1} == seen


def test_H2_F16_heaps_open_where_addresses_are_few() -> None:
    """Their regions get smaller."""
    seen = ran(
        """
        heaps = [heap.open_heap() for _ in range(8)]
        ok = all(heap.allocate_in(h, size, 16) for h in heaps for size in (64, 3000, 300_000))
        tell(ok=ok, check=heap.check())
    """,
        address_limit=2 << 30,
    )

    assert {"ok": True, "check": 0} == seen


def test_H2_each_heap_decays_at_its_own_pace() -> None:
    """One keeps what another gave back; one that never gives back keeps it all."""
    seen = ran("""
        heaps = {"quick": heap.open_heap(decay_ms=20), "never": heap.open_heap(decay_ms=None)}
        for h in heaps.values():
            blocks = [heap.allocate_in(h, 20_000, 16) for _ in range(1000)]
            for p in blocks: heap.fill(p, 1, 20_000)
            for p in blocks: heap.deallocate(p)
        end = time.monotonic() + 20
        while heap.stats_of(heaps["quick"])["dirty"] > MIB and time.monotonic() < end: time.sleep(0.02)
        tell(**{name: heap.stats_of(h)["dirty"] > 10 * MIB for name, h in heaps.items()}, check=heap.check())
    """)

    assert {"quick": False, "never": True, "check": 0} == seen


def test_H2_threads_storm_over_heaps_and_die() -> None:
    """Blocks of several heaps, freed by threads that never allocated there; sums hold afterwards, and all close."""
    seen = ran("""
        heaps = [heap.open_heap() for _ in range(4)]
        passing, lock = [], threading.Lock()
        def work(seed):
            roll = random.Random(seed)
            for _ in range(1500):
                h = roll.choice(heaps)
                p = heap.allocate_in(h, 1 << roll.randrange(4, 20), 16)
                heap.fill(p, seed & 255, 16)
                with lock:
                    passing.append(p)
                    q = passing.pop(roll.randrange(len(passing))) if len(passing) > 50 else None
                if q: heap.deallocate(q)
        for generation in range(5):
            in_threads(*(lambda seed=generation * 4 + i: work(seed) for i in range(4)))
        middle = [heap.check_of(h) for h in heaps]
        for p in passing: heap.deallocate(p)
        tell(middle=middle, check=heap.check(), balanced=all(balanced(heap.stats_of(h)) for h in heaps),
             closed=[heap.close_heap(h) for h in heaps])
    """)

    assert {"middle": [0] * 4, "check": 0, "balanced": True, "closed": [[0, 0, 0]] * 4} == seen


def test_H2_F22_forks_in_a_storm_over_heaps() -> None:
    """The child uses, checks, opens and closes heaps, frees the parent's blocks; nobody hangs."""
    seen = ran("""
        heaps = [heap.open_heap(decay_ms=10) for _ in range(8)]
        keep = [heap.allocate_in(h, 1000, 16) for h in heaps for _ in range(100)]
        stop = threading.Event()
        def work(seed):
            while not stop.is_set(): storm(heaps[seed], seed, 200)
        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for t in threads: t.start()
        codes = []
        for _ in range(60):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    for p in keep: heap.deallocate(p)
                    for i, h in enumerate(heaps): storm(h, i, 60)
                    new = heap.open_heap(); storm(new, 1, 60)
                    code = 0 if heap.close_heap(new)[0] == 0 and heap.purge() >= 0 else 3
                finally:
                    os._exit(code)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        stop.set()
        for t in threads: t.join()
        for p in keep: heap.deallocate(p)
        tell(codes=sum(map(abs, codes)), check=heap.check(), closed=[heap.close_heap(h)[0] for h in heaps])
    """)

    assert {"codes": 0, "check": 0, "closed": [0] * 8} == seen


def test_H6_every_rank_of_locks_says_how_it_is_held_across_a_fork() -> None:
    """No lock is made with a rank that `fork_cover` is not told of; boot aborts where one is missing."""
    ranks = set(re.findall(r"^    (RANK_\w+) = ", (CORE / "sync.pxd").read_text(), re.MULTILINE))
    sources = "".join(path.read_text() for path in CORE.glob("*.py"))
    made = set(re.findall(r"mutex_init\([^\n]*, (RANK_\w+)\)", sources))
    covered = set(re.findall(r"fork_cover\((RANK_\w+),", sources))

    assert made <= ranks
    assert ranks == covered


# ---- limits ----


def test_H3_F18_eight_threads_racing_never_pass_the_limit() -> None:
    """At no sample, in a storm over all layers; the sums hold afterwards, and all that was idle can be had again."""
    seen = ran(
        """
        limit = 16 * MIB
        h = heap.open_heap(limit=limit)
        stop, over, refused = threading.Event(), [], []
        def look():
            while not stop.is_set():
                s = heap.stats_of(h)
                if s["used"] > limit or s["peak"] > limit: over.append(s)
        watcher = threading.Thread(target=look); watcher.start()
        in_threads(*(lambda i=i: refused.append(storm(h, i, ROUNDS, 22)) for i in range(8)))
        stop.set(); watcher.join()
        s = heap.stats_of(h)
        large = heap.allocate_in(h, 12 * MIB, 16)
        tell(over=over[:1], refused=sum(refused) > 0, blocks=s["blocks"], balanced=balanced(s), check=heap.check_of(h),
             large=large is not None)
    """,
        ROUNDS=1000 if DEBUG else 6000,
    )

    assert {"over": [], "refused": True, "blocks": 0, "balanced": True, "check": 0, "large": True} == seen


@pytest.mark.parametrize("size", [16, 1000, 100_000, 300_000, 3 * MIB])
def test_H3_the_limit_is_on_what_is_resident(size: int) -> None:
    """Filled to the limit, memory has grown by no more than that; what was refused is served after one free."""
    seen = ran(
        """
        limit, size = 48 * MIB, SIZE
        before = heap.resident_bytes()
        h = heap.open_heap(limit=limit)
        blocks = []
        while (p := heap.allocate_in(h, size, 16)) is not None:
            blocks.append(p)
            if len(blocks) % 100 == 1 or size > 4096: heap.fill(p, 1, size)
        error = ctypes.get_errno()
        grown = heap.resident_bytes() - before - 40 * len(blocks)
        used = heap.stats_of(h)["used"]
        for p in blocks[-2:]: heap.deallocate(p)
        del blocks[-2:]
        again = heap.allocate_in(h, size, 16) is not None
        tell(error=error, over=used > limit, grown=grown, full=len(blocks) * size, again=again, check=heap.check_of(h))
    """,
        SIZE=size,
    )

    assert {"error": 12, "over": False, "again": True, "check": 0} == {
        k: seen[k] for k in ("error", "over", "again", "check")
    }
    assert seen["grown"] <= 48 * MIB + 2 * MIB
    assert seen["full"] >= 0.55 * 48 * MIB


def test_H3_what_is_idle_in_another_class_or_thread_makes_room() -> None:
    """A heap full of free small blocks, some in a sleeping thread's cache, serves a large one."""
    seen = ran("""
        h = heap.open_heap(limit=32 * MIB)
        done, stay = threading.Event(), threading.Event()
        def sleeper():
            for p in [heap.allocate_in(h, 1000, 16) for _ in range(10_000)]: heap.deallocate(p)
            done.set(); stay.wait()
        t = threading.Thread(target=sleeper); t.start(); done.wait()
        for size in (2000, 50_000, 300_000):
            for p in [heap.allocate_in(h, size, 16) for _ in range(10 * MIB // size)]: heap.deallocate(p)
        p = heap.allocate_in(h, 26 * MIB, 16)
        stay.set(); t.join()
        tell(served=p is not None, check=heap.check_of(h))
    """)

    assert {"served": True, "check": 0} == seen


def test_H3_a_limit_below_what_is_used_is_refused_and_changes_nothing() -> None:
    """One above it holds from then on, also for threads that are allocating."""
    seen = ran("""
        h = heap.open_heap()
        blocks = [heap.allocate_in(h, 100_000, 16) for _ in range(100)]
        below, above = heap.set_limit(h, 5 * MIB), heap.set_limit(h, 12 * MIB)
        refused = heap.allocate_in(h, 5 * MIB, 16) is None
        for p in blocks: heap.deallocate(p)
        tell(below=below, above=above, refused=refused, lowered=heap.set_limit(h, 2 * MIB), limit=heap.stats_of(h)["limit"],
             check=heap.check_of(h))
    """)

    assert {"below": False, "above": True, "refused": True, "lowered": True, "limit": 2 * MIB, "check": 0} == seen


def test_H3_a_limit_lowered_in_a_storm_holds_at_once() -> None:
    """After `set_limit` has said yes, no sample is above."""
    seen = ran("""
        h = heap.open_heap(limit=32 * MIB)
        stop, over = threading.Event(), []
        def work(seed):
            while not stop.is_set(): storm(h, seed, 300, 19, 50)
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for t in threads: t.start()
        changed = 0
        for i in range(200):
            limit = (32 if i % 2 else 6) * MIB
            if heap.set_limit(h, limit):
                changed += 1
                for _ in range(3):
                    s = heap.stats_of(h)
                    if s["active"] + s["dirty"] > limit: over.append((limit, s))
        stop.set()
        for t in threads: t.join()
        tell(over=over[:1], changed=changed > 50, check=heap.check_of(h))
    """)

    assert {"over": [], "changed": True, "check": 0} == seen


def test_H3_a_hundred_thousand_refusals_leak_nothing() -> None:
    """Books, blocks and resident memory are as after the first."""
    seen = ran(
        """
        h = heap.open_heap(limit=2 * MIB)
        def refuse():
            return all(heap.allocate_in(h, size, 16) is None for size in (3 * MIB, 2_050_000, 40 * MIB))
        refuse(); before, resident = heap.stats_of(h), heap.resident_bytes()
        all_refused = all(refuse() for _ in range(ROUNDS))
        after = heap.stats_of(h)
        tell(all_refused=all_refused, same=before["used"] == after["used"], blocks=after["blocks"],
             grown=max(0, heap.resident_bytes() - resident) >> 20, check=heap.check_of(h))
    """,
        ROUNDS=1000 if DEBUG else 34_000,
    )

    assert {"all_refused": True, "same": True, "blocks": 0, "grown": 0, "check": 0} == seen


def test_H3_F14_a_heap_too_small_for_thread_caches_serves_without() -> None:
    """Their books are on its bill; where that is refused, blocks come from the regions."""
    seen = ran("""
        h = heap.open_heap(limit=160 << 10)
        p = [heap.allocate_in(h, 64, 16) for _ in range(100)]
        for q in p: heap.deallocate(q)
        s = heap.stats_of(h)
        tell(served=None not in p, within=s["peak"] <= 160 << 10, check=heap.check_of(h), blocks=s["blocks"])
    """)

    assert {"served": True, "within": True, "check": 0, "blocks": 0} == seen


# ---- secure heaps ----


def test_H2_a_secure_heap_erases_holds_back_and_shuffles() -> None:
    """A freed block reads 0 and is not the next one handed out; neighbours in time are not neighbours in memory."""
    seen = ran("""
        h = heap.open_heap(secure=True)
        p = heap.allocate_in(h, 1000, 16); heap.fill(p, 7, 1000); heap.deallocate(p)
        erased = heap.read(p, 1000) == bytes(1000)
        again = p in [heap.allocate_in(h, 1000, 16) for _ in range(100)]
        blocks = [heap.allocate_in(h, 48, 16) for _ in range(500)]
        steps = sum(b - a == 48 for a, b in zip(blocks, blocks[1:]))
        tell(erased=erased, again=again, few_steps=steps < 50, check=heap.check_of(h), balanced=balanced(heap.stats_of(h)),
             blocks=heap.stats_of(h)["blocks"])
    """)

    assert {"erased": True, "again": False, "few_steps": True, "check": 0, "balanced": True, "blocks": 600} == seen


@pytest.mark.parametrize("what", ["a second free", "past the end"])
def test_H2_a_secure_heap_ends_the_process_at(what: str, run_program) -> None:  # type: ignore[no-untyped-def]
    """A block that is held back was freed already; behind one above 128 KiB lies a page that nobody may touch."""
    crime = {
        "a second free": "p = heap.allocate_in(h, 100, 16); heap.deallocate(p); heap.deallocate(p)",
        "past the end": "p = heap.allocate_in(h, 200_000, 16); heap.fill(p + heap.usable_size(p), 1, 1)",
    }[what]
    crimes = Path(__file__).parents[1] / "crimes"
    ran = run_program(
        f"import sys; sys.path.insert(0, {str(crimes)!r})\nimport c_heap as heap\nh = heap.open_heap(secure=True)\n{crime}\n"
    )

    assert ran.returncode in (-6, -11)
    assert ("double free" in ran.stderr) == (what == "a second free")


# ---- sums ----


def test_H4_the_sums_of_all_heaps_are_those_of_the_process() -> None:
    """Blocks and bytes of three heaps add up to what the whole tells; each balances."""
    seen = ran("""
        heaps = [heap.open_heap() for _ in range(3)]
        before = heap.stats()
        blocks = [heap.allocate_in(h, size, 16) for h in heaps for size in (64, 5000, 300_000, 3 * MIB)]
        s, each = heap.stats(), [heap.stats_of(h) for h in heaps]
        tell(blocks=s["blocks"] - before["blocks"] == sum(e["blocks"] for e in each) == 12,
             bytes=s["allocated"] - before["allocated"] == sum(e["allocated"] for e in each),
             balanced=all(map(balanced, each)), check=heap.check())
    """)

    assert {"blocks": True, "bytes": True, "balanced": True, "check": 0} == seen


@pytest.mark.parametrize("seed", [1, 2])
def test_H2_H3_a_storm_of_c_threads_over_heaps_with_limits(seed: int) -> None:
    """Threads make, fill, check and pass on blocks of four heaps, two of them near their limits; threads die; forks."""
    assert {"clean": 1} == figures("heaps", 4, 3, 4000 if DEBUG else 20000, seed, 6)
