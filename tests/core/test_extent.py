"""The laws of extents, one by one. What they say together is in test_extent_oracle.py."""

from __future__ import annotations

import contextlib
import ctypes
import random
import sys
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import floor
from typing import Any

import pytest

from freehold.errors import BadFree, NotMergeable, OutOfMemory
from freehold.face.extents_face import Extent, Extents, ExtentState
from freehold.face.vm_face import Vm, fail
from freehold.layers import SizeClasses

PAGE = 8192
REGION = 512 * PAGE
FIRST = 1 << 41  # where the addresses of `Fake` begin: nothing is mapped there


class Fake:
    """Hooks with nothing behind them, that tell what they were asked, and refuse what they are told to."""

    def __init__(self, *refused: str) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.refused = set(refused)
        self.next = FIRST

    def answer(self, name: str, *arguments: int) -> bool:
        self.calls.append((name, *arguments))
        return name not in self.refused

    def alloc(self, size: int, alignment: int, zero: bool, commit: bool) -> int | None:
        if not self.answer("alloc", size, alignment, zero, commit):
            return None
        self.next += size
        return self.next - size

    def __getattr__(self, name: str) -> Callable[..., bool]:
        if name not in ("free", "commit", "decommit", "purge_lazy", "purge_now", "split", "merge"):
            raise AttributeError(name)
        return lambda *arguments: self.answer(name, *arguments)

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


@pytest.fixture
def extents() -> Iterator[Extents]:
    """Return extents as they are by default, checked when the test is done with them."""
    with Extents() as x:
        yield x
        x.check()


def faked(*refused: str, **options: Any) -> tuple[Extents, Fake]:
    hooks = Fake(*refused)
    return Extents(hooks=hooks, **options), hooks


# ---- E1: what an extent is ----


def test_E1_an_extent_tells_where_it_is_and_what_it_is(extents: Extents) -> None:
    """Sizes are whole pages; the class is that of the size while it is active, and none afterwards."""
    e = extents.allocate(100_000)

    assert (13 * PAGE, extents, 1, "active", True) == (e.size, e.heap, e.serial, e.state, e.is_head)
    assert SizeClasses().index(13 * PAGE) == e.size_class
    extents.free(e)
    assert (ExtentState.DIRTY, None) == (e.state, e.size_class)


def test_E1_its_memory_can_be_written_and_read_back(extents: Extents) -> None:
    """All of it, also after it was purged."""
    for _ in range(2):
        e = extents.allocate(3 * REGION)
        ctypes.memset(e.address, 0xA5, e.size)
        assert b"\xa5\xa5" == ctypes.string_at(e.address + e.size - 2, 2)
        extents.free(e)
        extents.purge()


@pytest.mark.parametrize("purged", [False, True])
def test_E1_zeroed_extents_read_zero(extents: Extents, purged: bool) -> None:
    """Whatever was there before."""
    e = extents.allocate(REGION)
    ctypes.memset(e.address, 0xA5, e.size)
    extents.free(e)
    if purged:
        extents.purge()

    e = extents.allocate(REGION, zero=True)

    assert bytes(REGION) == ctypes.string_at(e.address, REGION)


def test_E1_of_one_extent_there_is_one_view(extents: Extents) -> None:
    """Whoever asks gets the same object; what is retained is described anew each time."""
    e = extents.allocate(PAGE)

    assert e is extents.lookup(e.address + 5)
    extents.free(e)
    assert [e] == extents.lru("dirty")
    extents.purge()
    assert extents.lookup(FIRST) is None
    assert extents.lookup(e.address) is not extents.lookup(e.address)
    assert "retained" == e.state


def test_E1_a_view_is_not_made_by_hand() -> None:
    """Extents come from `allocate`."""
    with pytest.raises(TypeError):
        Extent()


# ---- E2: split, merge, serials ----


def test_E2_splitting_copies_the_serial_and_merging_keeps_the_smaller() -> None:
    """A region's parts have its number; the second of two touching regions is a head."""
    x, _ = faked()
    a, b = x.allocate(REGION), x.allocate(REGION)

    assert ((1, True), (2, True)) == ((a.serial, a.is_head), (b.serial, b.is_head))
    a, rest = x.split(a, 100 * PAGE)
    assert (100 * PAGE, 412 * PAGE, 1, False) == (a.size, rest.size, rest.serial, rest.is_head)
    assert rest is x.merge(rest, b)
    assert (924 * PAGE, 1, None) == (rest.size, rest.serial, b.state)
    x.check()


@pytest.mark.parametrize("by", ["merge", "free", "retained"])
def test_E2_nothing_crosses_regions_where_maps_do_not_coalesce(by: str) -> None:
    """Neither on demand, nor when freed, nor when both are retained."""
    x, hooks = faked(maps_coalesce=False)
    a, b = x.allocate(REGION), x.allocate(REGION)
    if by == "merge":
        with pytest.raises(NotMergeable) as caught:
            x.merge(a, b)
        assert "head" == caught.value.reason
        return
    x.free(a)
    x.free(b)
    assert [a, b] == x.lru("dirty")
    if by == "retained":
        x.purge()
        assert [a.address, b.address] == [e.address for e in x.lru("retained")]
    large = x.allocate(REGION + PAGE)
    assert (3, FIRST + 2 * REGION, 3) == (hooks.names().count("alloc"), large.address, large.serial)
    x.check()


def test_E2_merging_says_why_not() -> None:
    """Each reason by its name; a dead extent is not even asked about."""
    x, hooks = faked()
    y, _ = faked()
    a, other = x.allocate(4 * PAGE), y.allocate(PAGE)
    a, b = x.split(a, PAGE)
    b, c = x.split(b, PAGE)
    hooks.refused.add("merge")

    def reason(low: Extent, high: Extent) -> str:
        with pytest.raises(NotMergeable) as caught:
            x.merge(low, high)
        return caught.value.reason

    assert ["not neighbours", "not neighbours", "heap", "hook"] == [
        reason(a, c), reason(b, a), reason(a, other), reason(a, b),
    ]  # fmt: skip
    x.free(c)
    assert "state" == reason(b, c)
    hooks.refused.clear()
    x.merge(a, b)
    for call in (lambda: x.merge(a, b), lambda: x.free(b), lambda: x.split(b, PAGE), lambda: x.resize(b, PAGE)):
        with pytest.raises(BadFree):
            call()
    x.check()


def test_E2_two_that_a_hook_kept_apart_can_be_merged_later() -> None:
    """While they are dirty, too; the result is as old as the older."""
    x, hooks = faked("merge")
    a, b = x.split(x.allocate(2 * PAGE), PAGE)
    x.free(a)
    x.free(b)
    hooks.refused.clear()

    assert a is x.merge(a, b)
    assert ([a], 2 * PAGE, "dirty") == (x.lru("dirty"), a.size, a.state)


# ---- E3: bins ----


def laid_out(x: Extents, sizes: list[int]) -> list[Extent]:
    """Return extents of so many pages, each with an active page after it, so that none is merged when freed."""
    made = []
    for size in sizes:
        made.append(x.allocate(size * PAGE))
        x.allocate(PAGE)
    return made


@pytest.mark.parametrize(
    ("idle", "asked", "taken"),
    [
        ([16, 20, 24], 17, 1),  # the smallest bin that fits
        ([19, 18, 20], 17, 0),  # in the bin of the request, the first in order that is large enough
        ([16, 18, 20], 17, 1),
        ([40, 23, 20], 20, 1),
        ([8, 9, 10], 8, 0),
        ([100, 5, 6], 4, 1),
    ],
)
def test_E3_the_smallest_bin_that_fits_oldest_region_lowest_address(
    extents: Extents, idle: list[int], asked: int, taken: int
) -> None:
    """And what is left over stays dirty, in its place."""
    made = laid_out(extents, idle)
    places = [e.address for e in made]
    for e in reversed(made):
        extents.free(e)

    got = extents.allocate(asked * PAGE)

    assert places[taken] == got.address
    left = sum(idle) - asked
    assert left == extents.counts()["dirty"]


def test_E3_a_loop_of_one_size_gets_its_own_memory_back(extents: Extents) -> None:
    """Though there is a larger one at a lower address."""
    larger, own = laid_out(extents, [37, 36])
    extents.free(larger)
    seen = set()
    for _ in range(100):
        seen.add(own.address)
        extents.free(own)
        own = extents.allocate(36 * PAGE)

    assert 1 == len(seen - {larger.address})
    extents.check()


def test_E3_what_is_freed_is_the_youngest(extents: Extents) -> None:
    """Oldest first; a merged one is as young as its youngest part."""
    a, b, c = laid_out(extents, [3, 3, 3])
    for e in (b, c, a):
        extents.free(e)

    assert [b, c, a] == extents.lru("dirty")
    guard = extents.lookup(b.address + b.size)
    assert guard is not None
    extents.free(guard)
    assert [a, b] == extents.lru("dirty")
    assert (7 * PAGE, None) == (b.size, c.state)


def test_E3_retained_ranges_are_free_pages_and_told_of_by_region(extents: Extents) -> None:
    """In no set: a lookup finds them all the same."""
    a = extents.allocate(PAGE)

    found = extents.lookup(a.address + 3 * PAGE)

    assert found is not None
    assert (a.address + PAGE, 511 * PAGE, 1, False, "retained", None) == (
        found.address, found.size, found.serial, found.is_head, found.state, found.size_class,
    )  # fmt: skip
    assert {"active": 1, "dirty": 0, "muzzy": 0, "retained": 511} == extents.counts()
    with pytest.raises(ValueError, match="active"):
        extents.lru("active")


# ---- E4: decay ----


def steps(at: float, time: float) -> int:
    """Return in which 200th of the decay time a moment lies; both in whole nanoseconds."""
    return int(at * 1_000_000) * 200 // int(time * 1_000_000)


def may_stay(became: list[tuple[float, int]], now: float, time: float) -> int:
    """Return the pages that may stay: what became idle at a time, by how many 200ths of the decay time have passed."""
    total = Fraction(0)
    for then, pages in became:
        age = steps(now, time) - steps(then, time)
        x = Fraction(max(0, 200 - age), 200)
        total += pages * (6 * x**5 - 15 * x**4 + 10 * x**3)
    return floor(total)


@pytest.mark.parametrize("time", [1000, 200, 7, 1000.5])
def test_E4_single_pages_go_along_the_curve(time: float) -> None:
    """At every step of the decay time as many stay as the formula says, and none after all of it."""
    x, _ = faked(dirty_decay_ms=time, maps_coalesce=False)
    pages = [x.allocate(2 * PAGE) for _ in range(400)]
    singles = [x.split(e, PAGE)[0] for e in pages]
    became = []
    for i in range(8):
        now = i * time / 20
        x.decay(now)
        for e in singles[i * 50 : i * 50 + 50]:
            x.free(e)
        became.append((now, 50))
    for percent in range(40, 150):
        now = time * percent / 100
        x.decay(now)
        assert may_stay(became, now, time) == x.counts()["dirty"]
    assert 0 == x.counts()["dirty"]
    x.check()


def test_E4_whole_extents_go_oldest_first() -> None:
    """Until what is left is at or below the limit."""
    x, hooks = faked()
    a, b, c = laid_out(x, [100, 10, 1])
    for e in (a, b, c):
        x.free(e)

    assert 0 == x.decay(0)
    assert 100 * PAGE == x.decay(100)  # 110 may stay, 111 are there
    assert [b, c] == x.lru("dirty")
    assert ("purge_now", a.address, 100 * PAGE, 0, 100 * PAGE) == hooks.calls[-1]
    assert 11 * PAGE == x.decay(1005)


def test_E4_muzzy_is_a_second_curve() -> None:
    """Purged lazily at the end of the first; purged for good at the end of its own."""
    x, hooks = faked(dirty_decay_ms=100, muzzy_decay_ms=100)
    e = x.allocate(10 * PAGE)
    x.free(e)

    assert (10 * PAGE, "muzzy", "purge_lazy") == (x.decay(100), e.state, hooks.names()[-1])
    assert [e] == x.lru("muzzy")
    assert e is x.allocate(10 * PAGE)
    x.free(e)
    x.decay(200)
    assert (10 * PAGE, "retained", "purge_now") == (x.decay(300), e.state, hooks.names()[-1])


@pytest.mark.parametrize(
    ("dirty", "muzzy", "states"),
    [
        (0, 0, ("retained", "retained")),
        (0, 50, ("muzzy", "retained")),
        (-1, 0, ("dirty", "dirty")),
        (0, -1, ("muzzy", "muzzy")),
    ],
)
def test_E4_at_once_and_never(dirty: int, muzzy: int, states: tuple[str, str]) -> None:
    """0 is at once, -1 never, whatever comes; `purge` takes all."""
    x, _ = faked(dirty_decay_ms=dirty, muzzy_decay_ms=muzzy)
    e = x.allocate(PAGE)
    x.free(e)
    first = e.state
    x.decay(10**9)

    assert states == (first, e.state)
    x.purge()
    assert "retained" == e.state
    assert {"active": 0, "dirty": 0, "muzzy": 0, "retained": 512} == x.counts()


def test_E4_time_never_goes_back_and_may_be_told_by_any_call() -> None:
    """What is freed is dated with the largest time told so far."""
    x, _ = faked()
    e = x.allocate(PAGE, now_ms=5000)
    x.decay(10)
    x.free(e)

    assert 0 == x.decay(5004) + x.decay(4000)
    other = x.allocate(2 * PAGE, now_ms=6005)
    assert ("retained", FIRST + PAGE) == (e.state, other.address) or ("active" == other.state and None is e.state)


def test_E4_purging_gives_memory_back_to_the_OS(extents: Extents) -> None:
    """It reads zero again."""
    e = extents.allocate(REGION)
    ctypes.memset(e.address, 1, e.size)
    extents.free(e)

    assert REGION == extents.purge()
    assert bytes(REGION) == ctypes.string_at(e.address, REGION)


@pytest.mark.debug
def test_E4_what_the_OS_refuses_to_take_stays_and_is_tried_again(extents: Extents) -> None:
    """In its place in the order of ages."""
    a, b = laid_out(extents, [5, 6])
    extents.free(a)
    extents.free(b)
    with fail("purge_now") as failing:
        assert 6 * PAGE == extents.purge()

    assert (1, [a], 1) == (failing.failed, extents.lru("dirty"), extents.stats()["refusals"])
    assert 5 * PAGE == extents.purge()


# ---- E5: hooks ----


def test_E5_a_region_is_asked_for_and_given_back_at_the_end() -> None:
    """At least 4 MiB, aligned so; whole blocks of it for what is larger."""
    x, hooks = faked()
    x.allocate(PAGE)
    x.allocate(REGION + 1)
    x.close()

    assert [("alloc", REGION, REGION, False, True), ("alloc", 2 * REGION, REGION, False, True)] == hooks.calls[:2]
    assert [("free", FIRST, REGION), ("free", FIRST + REGION, 2 * REGION)] == hooks.calls[2:]


@pytest.mark.parametrize("answer", [None, 0, 1 << 40 | PAGE, 1 << 48, -REGION, 1 << 70, "no"])
def test_E5_a_region_that_is_none_is_out_of_memory(answer: object) -> None:
    """And changes nothing."""
    x = Extents(hooks={"alloc": lambda *_: answer})
    with pytest.raises(OutOfMemory, match="8193"):
        x.allocate(PAGE + 1)

    assert {"active": 0, "dirty": 0, "muzzy": 0, "retained": 0} == x.counts()


def test_E5_the_same_addresses_are_not_taken_twice() -> None:
    """A hook that hands out what is in use already is not believed."""
    x = Extents(hooks={"alloc": lambda *_: FIRST})
    e = x.allocate(REGION)
    with pytest.raises(OutOfMemory):
        x.allocate(PAGE)

    assert e is x.lookup(FIRST)
    x.check()


def test_E5_lazy_purges_that_are_refused_are_made_at_once() -> None:
    """And those refused too stay where they were."""
    x, hooks = faked("purge_lazy", muzzy_decay_ms=50, dirty_decay_ms=50)
    e = x.allocate(PAGE)
    x.free(e)

    assert (PAGE, "retained") == (x.decay(60), e.state)
    assert ["purge_lazy", "purge_now"] == hooks.names()[-2:]
    hooks.refused.add("purge_now")
    e = x.allocate(PAGE)
    x.free(e)
    assert (0, "dirty") == (x.decay(200), e.state)
    hooks.refused.clear()
    assert (PAGE, "muzzy") == (x.decay(201), e.state)


def test_E5_a_refused_split_passes_the_range_over() -> None:
    """It is as it was; the next one is looked at."""
    x, hooks = faked("split")
    a, b = laid_out(x, [20, 30])
    x.free(a)
    x.free(b)

    other = x.allocate(10 * PAGE)

    assert [("split", e.address, e.size, 10 * PAGE, e.size - 10 * PAGE) for e in (a, b)] == [
        call for call in hooks.calls if call[0] == "split"
    ]
    assert ([a, b], 20 * PAGE, 30 * PAGE, False) == (x.lru("dirty"), a.size, b.size, other in (a, b))
    assert not x.resize(other, PAGE)
    with pytest.raises(ValueError, match="hook"):
        x.split(other, PAGE)
    assert 10 * PAGE == other.size
    x.check()


def test_E5_refused_merges_leave_two() -> None:
    """Each is asked about once."""
    x, hooks = faked("merge")
    a, b = x.split(x.allocate(5 * PAGE), 2 * PAGE)
    x.free(a)
    x.free(b)

    assert [a, b] == x.lru("dirty")
    assert [("merge", a.address, 2 * PAGE, b.address, 3 * PAGE)] == [c for c in hooks.calls if c[0] == "merge"]
    c = x.allocate(2 * PAGE)
    assert not x.resize(c, 3 * PAGE)
    assert (3 * PAGE, "dirty") == (b.size, b.state)
    x.check()


def test_E5_regions_wholly_retained_go_back_or_are_decommitted() -> None:
    """Refused by `free`, `decommit` may have them; they are committed again before they are used."""
    x, hooks = faked("free")
    a, b = x.allocate(REGION), x.allocate(REGION)
    x.free(a)
    x.purge()

    assert 0 == x.shrink()
    assert [("free", a.address, REGION), ("decommit", a.address, REGION, 0, REGION)] == hooks.calls[-2:]
    assert {"active": 512, "dirty": 0, "muzzy": 0, "retained": 512} == x.counts()
    hooks.refused.add("commit")
    with pytest.raises(OutOfMemory):
        x.allocate(PAGE)
    hooks.refused.clear()
    c = x.allocate(PAGE)
    assert ("commit", c.address, REGION, 0, REGION) == hooks.calls[-1]
    x.free(c)
    x.purge()
    assert (REGION, {"active": 512, "dirty": 0, "muzzy": 0, "retained": 0}) == (x.shrink(), x.counts())
    assert x.lookup(c.address) is None
    assert "active" == b.state
    x.check()


@pytest.mark.parametrize(("taken", "told"), [(REGION, True), (2 * REGION, True), (REGION, False)])
def test_E5_a_region_may_be_handed_out_again_before_its_free_returns(taken: int, told: bool) -> None:
    """As when another thread is given it at once; even where the one who gave it out says it was refused."""
    again: list[Extent] = []

    def free(address: int, size: int, *_: int) -> bool:
        if not again:
            again.append(x.allocate(taken))
            assert (FIRST, again[0]) == (again[0].address, x.lookup(FIRST))
            return told
        return True

    x = Extents(hooks={"alloc": lambda *_: FIRST, "free": free, "purge_now": lambda *_: True})
    x.free(x.allocate(REGION))
    x.purge()

    assert REGION == x.shrink()
    assert {"active": taken // PAGE, "dirty": 0, "muzzy": 0, "retained": 0} == x.counts()
    x.check()
    x.free(again[0])
    x.purge()
    assert taken == x.shrink()
    assert x.lookup(FIRST) is None
    assert {"active": 0, "dirty": 0, "muzzy": 0, "retained": 0} == x.counts()
    x.check()


@pytest.mark.parametrize("coalesce", [True, False])
def test_E5_a_part_of_a_region_may_be_handed_out_again_before_its_free_returns(coalesce: bool) -> None:
    """The rest of its addresses is forgotten, and can be had again."""
    again: list[Extent] = []
    given = iter([FIRST, FIRST + REGION, FIRST])

    def free(*_: int) -> bool:
        if not again:
            again.append(x.allocate(REGION))
        return True

    hooks = {"alloc": lambda *_: next(given), "free": free, "purge_now": lambda *_: True}
    x = Extents(maps_coalesce=coalesce, hooks=hooks)
    x.free(x.allocate(2 * REGION))
    x.purge()
    assert 2 * REGION == x.shrink()
    low = x.allocate(REGION)

    assert [FIRST, FIRST + REGION] == [low.address, again[0].address]
    assert [low, again[0]] == [x.lookup(FIRST), x.lookup(FIRST + REGION)]
    x.check()


def test_E5_an_exception_is_a_refusal_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through `sys.unraisablehook`, with what was raised."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: told.append(args.exc_value))

    def broken(*_: int) -> int:
        raise LookupError("no more")

    x = Extents(hooks={"alloc": broken})
    with pytest.raises(OutOfMemory):
        x.allocate(PAGE)

    assert ["no more"] == [str(error) for error in told]


def test_E5_a_hook_may_call_any_method() -> None:
    """No lock is held; what it works on is in no state meanwhile."""
    seen: list[object] = []

    def purge_now(address: int, size: int, offset: int, length: int) -> bool:
        inner = x.allocate(PAGE)
        seen.append((x.lookup(address), sum(x.counts().values()), inner.state))
        x.free(inner)
        x.check()
        return True

    hooks = Fake()
    x = Extents(hooks={"alloc": hooks.alloc, "purge_now": purge_now, "split": hooks.split, "merge": hooks.merge})
    e = x.allocate(100 * PAGE)
    x.free(e)
    x.purge()

    assert (None, 412, "active") == seen[0]
    x.check()


def test_E5_a_hook_may_close_everything() -> None:
    """The call under way ends first; the regions go back as it leaves."""
    returned = []

    def purge_now(*_: int) -> bool:
        x.close()
        return True

    x = Extents(
        hooks={"alloc": lambda *_: FIRST, "free": lambda *region: returned.append(region), "purge_now": purge_now}
    )
    e = x.allocate(PAGE)
    x.free(e)

    assert PAGE == x.purge()
    assert [(FIRST, REGION)] == returned
    with pytest.raises(ValueError, match="closed"):
        x.counts()
    assert e.state is None


@pytest.mark.parametrize("hooks", [{"allok": print}, {"alloc": 5}])
def test_G2_hooks_that_are_none_are_refused(hooks: dict[str, object]) -> None:
    """An unknown name, or what can not be called."""
    with pytest.raises((TypeError, ValueError), match="hooks"):
        Extents(hooks=hooks)


# ---- E6: resizing in place ----


def test_E6_shrinking_leaves_a_dirty_tail_and_growing_takes_it_back(extents: Extents) -> None:
    """In place, whole pages; into retained pages, too."""
    e = extents.allocate(10 * PAGE)
    address = e.address

    assert extents.resize(e, 4 * PAGE - 100)
    assert (4 * PAGE, 6) == (e.size, extents.counts()["dirty"])
    assert extents.resize(e, 9 * PAGE)
    assert (9 * PAGE, 1) == (e.size, extents.counts()["dirty"])
    assert not extents.resize(e, 11 * PAGE)  # the neighbour is dirty, and too small
    extents.purge()
    assert extents.resize(e, REGION)
    assert (address, REGION, "active") == (e.address, e.size, e.state)
    assert not extents.resize(e, REGION * (1 << 20))
    assert SizeClasses().index(REGION) == e.size_class


def test_E6_what_is_in_use_or_another_regions_is_not_grown_into() -> None:
    """Where maps do not coalesce, the next region's head ends it."""
    x, _ = faked(maps_coalesce=False)
    a, b = x.allocate(REGION), x.allocate(REGION)

    assert not x.resize(a, REGION + PAGE)
    x.free(b)
    assert not x.resize(a, REGION + PAGE)
    x.purge()
    assert not x.resize(a, REGION + PAGE)
    assert REGION == a.size


@pytest.mark.debug
def test_E6_shrinking_succeeds_though_there_is_no_more_memory(extents: Extents) -> None:
    """The record for the tail was set aside when the extent was handed out; a free needs none."""
    made = [extents.allocate(2 * PAGE) for _ in range(3000)]
    with fail("map", times=10**9), fail("reserve", times=10**9), fail("commit", times=10**9):
        assert all(extents.resize(e, PAGE) for e in made)
        for e in made:
            extents.free(e)

    assert 6000 == extents.counts()["dirty"]


@pytest.mark.debug
@pytest.mark.parametrize("call", ["map", "commit"])
def test_E6_an_allocation_that_the_OS_refuses_changes_nothing(call: str) -> None:
    """At whichever use."""
    nth = 0
    refused = True
    while refused:
        nth += 1
        with Extents() as x:
            with fail(call, nth=nth, times=10**9) as failing:
                try:
                    x.allocate(PAGE)
                except OutOfMemory as error:
                    assert PAGE == error.asked
                refused = failing.failed > 0
            assert (0 if refused else 1) == x.counts()["active"]
            x.check()
            assert PAGE == x.allocate(PAGE).size

    assert nth > (2 if call == "map" else 1)


# ---- E7: from address to extent ----


def test_E7_every_address_leads_to_its_extent(extents: Extents) -> None:
    """The first page, the last, and any between, of any state and length."""
    long = extents.allocate(5 * REGION)
    short = extents.allocate(PAGE)
    extents.free(extents.allocate(3 * PAGE))

    for e in (long, short, *extents.lru("dirty")):
        for offset in (0, 1, e.size // 2, e.size - 1):
            assert e is extents.lookup(e.address + offset)
    for address in (0, -1, 1 << 70, FIRST, (1 << 64) - 1):
        assert extents.lookup(address) is None


def test_E7_what_was_merged_away_leads_nowhere(extents: Extents) -> None:
    """Its record is used again, and is another extent then."""
    a, b = extents.split(extents.allocate(2 * PAGE), PAGE)
    at = b.address
    extents.merge(a, b)

    assert a is extents.lookup(at)
    c = extents.allocate(PAGE)
    assert (None, "active") == (b.state, c.state)
    with pytest.raises(BadFree):
        extents.free(b)


# ---- crimes, threads, arguments ----


def test_G3_a_bad_free_says_why_and_changes_nothing(extents: Extents) -> None:
    """Twice, or somebody else's."""
    e = extents.allocate(PAGE)
    with Extents() as other, pytest.raises(BadFree) as foreign:
        other.free(e)
    extents.free(e)
    with pytest.raises(BadFree) as double:
        extents.free(e)

    assert ("foreign", "double", 1) == (foreign.value.reason, double.value.reason, extents.counts()["dirty"])
    with pytest.raises(TypeError):
        extents.free(e.address)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda x, e: x.allocate(0), ValueError),
        (lambda x, e: x.allocate(-1), ValueError),
        (lambda x, e: x.allocate(1.5), TypeError),
        (lambda x, e: x.allocate(1 << 60), OutOfMemory),
        (lambda x, e: x.allocate(1 << 90), OutOfMemory),
        (lambda x, e: x.split(e, 0), ValueError),
        (lambda x, e: x.split(e, 100), ValueError),
        (lambda x, e: x.split(e, 2 * PAGE), ValueError),
        (lambda x, e: x.resize(e, 0), ValueError),
        (lambda x, e: x.decay(-1), ValueError),
        (lambda x, e: x.decay("1"), TypeError),
        (lambda x, e: x.lru("new"), ValueError),
        (lambda x, e: Extents(dirty_decay_ms=-2), ValueError),
        (lambda x, e: Extents(muzzy_decay_ms=None), TypeError),
        (lambda x, e: Extents(maps_coalesce=1), TypeError),
    ],
)
def test_G2_wrong_arguments_are_refused(extents: Extents, call: Callable[..., object], error: type[Exception]) -> None:
    """And change nothing."""
    e = extents.allocate(2 * PAGE)
    with pytest.raises(error):
        call(extents, e)

    assert (2 * PAGE, "active") == (e.size, e.state)


def test_G1_closed_is_closed() -> None:
    """Closing twice does nothing; what was handed out is no more; the memory and the tables are gone."""
    before = Vm().stats()
    x = Extents()
    e = x.allocate(PAGE)
    x.close()
    x.close()

    assert e.state is None
    for call, arguments in ((x.counts, ()), (x.purge, ()), (x.check, ()), (x.free, (e,)), (x.allocate, (1,))):
        with pytest.raises(ValueError, match="closed"):
            call(*arguments)
    del x, e, call, arguments
    after = Vm().stats()
    mapped = after["map"]["bytes"] - before["map"]["bytes"]
    assert mapped == after["unmap"]["bytes"] - before["unmap"]["bytes"]


def test_E3_of_threads_that_free_one_extent_one_wins(extents: Extents) -> None:
    """The others are told that it was free already."""
    for _ in range(200):
        e = extents.allocate(PAGE)
        outcomes: list[str] = []
        barrier = threading.Barrier(4)

        def race(e: Extent = e, outcomes: list[str] = outcomes, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                extents.free(e)
                outcomes.append("freed")
            except BadFree as error:
                outcomes.append(error.reason)

        threads = [threading.Thread(target=race) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ["double"] * 3 + ["freed"] == sorted(outcomes)


def storm(x: Extents, seed: int, failures: list[BaseException]) -> None:
    """Allocate, write, resize, split and free at random; each byte written is found again."""
    rng = random.Random(seed)
    mine: list[Extent] = []
    try:
        for i in range(600):
            if len(mine) < 20 or rng.random() < 0.5:
                e = x.allocate(rng.choice([1, 5, 40, 200, 700]) * rng.randint(1, PAGE))
                ctypes.memset(e.address, seed, 64)
                ctypes.memset(e.address + e.size - 64, seed, 64)
                mine.append(e)
                continue
            e = mine.pop(rng.randrange(len(mine)))
            assert bytes([seed]) * 64 == ctypes.string_at(e.address, 64)
            what = rng.random()
            if what < 0.2 and e.size > PAGE:
                with contextlib.suppress(ValueError):  # a hook may refuse
                    e, rest = x.split(e, PAGE * rng.randint(1, e.size // PAGE - 1))
                    x.free(rest)
            elif what < 0.5:
                x.resize(e, rng.randint(1, 2 * e.size))
            x.free(e)
            if i % 50 == 0:
                x.decay(i * 10)
            if i % 97 == 0:
                x.purge()
                x.shrink()
        for e in mine:
            assert bytes([seed]) * 64 == ctypes.string_at(e.address, 64)
            x.free(e)
    except BaseException as error:
        failures.append(error)


@pytest.mark.parametrize("coalesce", [True, False])
@pytest.mark.parametrize("hooked", [False, True])
def test_E5_a_storm_of_threads_leaves_every_byte_in_place(coalesce: bool, hooked: bool) -> None:
    """And everything is counted at the end; with hooks, which let go of the lock in the middle of each operation."""
    rng = random.Random(5)

    def sometimes(*_: int) -> bool:
        return rng.random() < 0.8

    hooks = {"split": sometimes, "merge": sometimes} if hooked else None
    x = Extents(maps_coalesce=coalesce, muzzy_decay_ms=500, hooks=hooks)
    failures: list[BaseException] = []
    threads = [threading.Thread(target=storm, args=(x, seed, failures)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == failures
    x.check()
    x.purge()
    assert {"active": 0, "dirty": 0, "muzzy": 0} == {k: v for k, v in x.counts().items() if k != "retained"}
    x.shrink()
    assert {"active": 0, "dirty": 0, "muzzy": 0, "retained": 0} == x.counts()


# ---- the heap's view: addresses, and a limit ----


@pytest.mark.debug
def test_E4_what_becomes_resident_counts_against_the_limit_first() -> None:
    """A refusal changes nothing; what is dirty counts and is used again; what is purged counts no more."""
    from freehold.face.probe import LimitedExtents

    x = LimitedExtents(10 * PAGE)
    a, b = x.allocate(4 * PAGE), x.allocate(6 * PAGE)

    assert (10 * PAGE, 0, False) == (x.used, x.allocate(1), x.resize(b, 7 * PAGE))
    assert 0 == x.deallocate(a)
    assert (10 * PAGE, a) == (x.used, x.allocate(4 * PAGE))
    assert x.resize(b, 2 * PAGE)
    assert (10 * PAGE, 4 * PAGE, 6 * PAGE) == (x.used, x.purge(), x.used)
    assert x.resize(b, 6 * PAGE)
    assert 10 * PAGE == x.used
    assert 0 == x.close()


@pytest.mark.debug
def test_E7_a_bad_address_is_told_apart_and_changes_nothing() -> None:
    """Twice; inside a page; inside an extent."""
    from freehold.face.probe import LimitedExtents

    double, interior = 1, 3
    x = LimitedExtents(REGION)
    a = x.allocate(4 * PAGE)

    assert [interior, interior] == [x.deallocate(a + 8), x.deallocate(a + PAGE)]
    assert [0, double, interior] == [x.deallocate(a), x.deallocate(a), x.deallocate(a + 8)]
    assert 4 * PAGE == x.used
    x.close()
