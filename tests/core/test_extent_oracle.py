"""Extents against a model that keeps a list of ranges, and sorts it for each question."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from freehold.errors import BadFree, NotMergeable
from freehold.face.extents_face import Extent, Extents

PAGE = 8192
REGION = 512  # pages
STEPS = 200
FIRST = 1 << 40


def bin_of(pages: int) -> int:
    """Return the largest bin, in pages, that is not larger: 1, 2, 3, 4, and from there four in each doubling."""
    step = 1 << max(0, pages.bit_length() - 3)
    return pages // step * step


def share(x: Fraction) -> Fraction:
    return 6 * x**5 - 15 * x**4 + 10 * x**3


@dataclass
class Range:
    """A range in the model; pages, not bytes."""

    first: int
    pages: int
    serial: int
    state: str
    is_head: bool
    turn: int = 0
    view: Extent | None = None

    @property
    def end(self) -> int:
        return self.first + self.pages


class Model:
    """Ranges of all states but retained; of each region, which pages are retained."""

    def __init__(self, times: dict[str, int], *, coalesce: bool) -> None:
        self.times = times  # ms
        self.coalesce = coalesce
        self.ranges: list[Range] = []
        self.regions: list[tuple[int, int]] = []  # first page and pages, oldest first: serial 1, 2 …
        self.retained: set[int] = set()
        self.became: dict[str, list[tuple[int, int]]] = {"dirty": [], "muzzy": []}  # step, pages
        self.turns = 0
        self.now = 0

    def idle(self, state: str) -> list[Range]:
        return sorted((r for r in self.ranges if r.state == state), key=lambda r: r.turn)

    def region_of(self, page: int) -> int:
        return next(i for i, (first, pages) in enumerate(self.regions) if first <= page < first + pages)

    def serial_and_head(self, first: int, pages: int) -> tuple[int, bool]:
        touched = {self.region_of(page) for page in range(first, first + pages)}
        return min(touched) + 1, any(first == base for base, _ in self.regions)

    # ---- allocate ----

    def best(self, state: str, pages: int) -> Range | None:
        fits = [r for r in self.idle(state) if r.pages >= pages]
        near = [r for r in fits if bin_of(r.pages) == bin_of(pages)]
        if not near and fits:
            smallest = min(bin_of(r.pages) for r in fits)
            near = [r for r in fits if bin_of(r.pages) == smallest]
        return min(near, key=lambda r: (r.serial, r.first), default=None)

    def lowest_retained(self, pages: int) -> int | None:
        length, last, region = 0, -2, -1
        for page in sorted(self.retained):
            same = self.coalesce or self.region_of(page) == region
            length = length + 1 if page == last + 1 and same else 1
            region = region if self.coalesce else self.region_of(page)
            if length == pages:
                return page - pages + 1
            last = page
        return None

    def allocate(self, pages: int) -> Range | None:
        """Return the range handed out; None: a region is needed first."""
        for state in ("dirty", "muzzy"):
            found = self.best(state, pages)
            if found is not None:
                self.cut(found, pages, state)
                found.state = "active"
                return found
        first = self.lowest_retained(pages)
        if first is None:
            return None
        self.retained -= set(range(first, first + pages))
        serial, is_head = self.serial_and_head(first, pages)
        new = Range(first, pages, serial, "active", is_head)
        self.ranges.append(new)
        return new

    def cut(self, r: Range, pages: int, state: str) -> Range | None:
        if r.pages == pages:
            return None
        head = any(r.first + pages == base for base, _ in self.regions)
        rest = Range(r.first + pages, r.pages - pages, r.serial, state, head, r.turn)
        r.pages = pages
        self.ranges.append(rest)
        return rest

    # ---- giving back ----

    def make_idle(self, r: Range, state: str) -> None:
        self.became[state].append((self.step(state), r.pages))
        r.state = state
        merged = True
        while merged:
            merged = False
            for a in self.idle(state):
                for b in self.idle(state):
                    if r in (a, b) and a.end == b.first and (self.coalesce or not b.is_head):
                        a.pages += b.pages
                        a.serial = min(a.serial, b.serial)
                        self.ranges.remove(b)
                        r, merged = a, True
                        break
                if merged:
                    break
        r.turn = self.turns = self.turns + 1

    def step(self, state: str) -> int:
        time = self.times[state]
        return self.now * STEPS // time if time > 0 else 0

    def limit(self, state: str) -> int | None:
        time = self.times[state]
        if time <= 0:
            return 0 if time == 0 else None
        now = self.step(state)
        ages = [(now - step, pages) for step, pages in self.became[state] if now - step < STEPS]
        return floor(sum((pages * share(Fraction(STEPS - age, STEPS)) for age, pages in ages), Fraction(0)))

    def decay(self, *, everything: bool = False) -> int:
        purged = 0
        for state in ("dirty", "muzzy"):
            for r in self.idle(state):
                limit = self.limit(state)
                left = sum(other.pages for other in self.idle(state))
                if not everything and (limit is None or left <= limit):
                    break
                purged += r.pages
                if state == "dirty" and not everything and self.times["muzzy"] != 0:
                    self.make_idle(r, "muzzy")
                else:
                    self.ranges.remove(r)
                    self.retained |= set(range(r.first, r.end))
        return purged


class ExtentMachine(RuleBasedStateMachine):
    @initialize(
        dirty=st.sampled_from([-1, 0, 100, 1000]),
        muzzy=st.sampled_from([-1, 0, 0, 400]),
        coalesce=st.booleans(),
        gaps=st.lists(st.integers(0, 1), min_size=1, max_size=5),
    )
    def start(self, dirty: int, muzzy: int, coalesce: bool, gaps: list[int]) -> None:
        self.model = Model({"dirty": dirty, "muzzy": muzzy}, coalesce=coalesce)
        self.gaps = gaps
        self.next = FIRST
        self.returned: list[tuple[int, int]] = []
        self.extents = Extents(
            dirty_decay_ms=dirty, muzzy_decay_ms=muzzy, maps_coalesce=coalesce,
            hooks={"alloc": self.alloc, "free": self.take_back, "purge_lazy": self.yes, "purge_now": self.yes},
        )  # fmt: skip

    def alloc(self, size: int, alignment: int, zero: bool, commit: bool) -> int:
        """Hand out addresses with nothing behind them, some of them next to the last."""
        assert (0, 512 * PAGE) == (size % (512 * PAGE), alignment)
        address = self.next
        self.next += size + self.gaps[len(self.model.regions) % len(self.gaps)] * 512 * PAGE
        self.model.regions.append((address // PAGE, size // PAGE))
        self.model.retained |= set(range(address // PAGE, (address + size) // PAGE))
        return address

    def take_back(self, address: int, size: int) -> bool:
        self.returned.append((address // PAGE, size // PAGE))
        return True

    def yes(self, *_: int) -> bool:
        return True

    def teardown(self) -> None:
        if hasattr(self, "extents"):
            self.extents.check()
            self.extents.close()
            assert sorted(self.model.regions) == sorted(self.returned)

    def active(self) -> list[Range]:
        return sorted((r for r in self.model.ranges if r.state == "active"), key=lambda r: r.first)

    def pick(self, which: int) -> Range:
        active = self.active()
        return active[which % len(active)]

    @rule(
        pages=st.one_of(st.integers(1, 12), st.integers(1, 600), st.sampled_from([512, 513, 1024])),
        odd=st.integers(0, PAGE - 1),
    )
    def allocate(self, pages: int, odd: int) -> None:
        expected = self.model.allocate(pages)
        got = self.extents.allocate(pages * PAGE - odd)
        if expected is None:
            expected = self.model.allocate(pages)  # the region came through the hook
            assert expected is not None
        assert (expected.first * PAGE, pages * PAGE, expected.serial) == (got.address, got.size, got.serial)
        expected.view = got

    has_active = precondition(lambda self: any(r.state == "active" for r in self.model.ranges))

    @has_active
    @rule(which=st.integers(0, 1000))
    def free(self, which: int) -> None:
        r = self.pick(which)
        view = r.view
        assert view is not None
        self.extents.free(view)
        self.model.make_idle(r, "dirty")
        if self.model.times["dirty"] == 0:
            self.model.decay()
        with pytest.raises(BadFree) as caught:
            self.extents.free(view)
        assert "double" == caught.value.reason

    @has_active
    @rule(which=st.integers(0, 1000), at=st.integers(1, 600))
    def split(self, which: int, at: int) -> None:
        r = self.pick(which)
        if at >= r.pages:
            with pytest.raises(ValueError, match="size"):
                self.extents.split(r.view, at * PAGE)
            return
        first, rest = self.extents.split(r.view, at * PAGE)
        assert first is r.view
        cut = self.model.cut(r, at, "active")
        assert cut is not None
        cut.view = rest

    @has_active
    @rule(a=st.integers(0, 1000), b=st.integers(0, 1000), near=st.booleans())
    def merge(self, a: int, b: int, near: bool) -> None:
        low = self.pick(a)
        high = self.pick(a + 1 if near else b)
        reason = None
        if low.end != high.first:
            reason = "not neighbours"
        elif high.is_head and not self.model.coalesce:
            reason = "head"
        if reason is None:
            assert low.view is self.extents.merge(low.view, high.view)
            assert high.view is not None
            assert high.view.state is None
            low.pages += high.pages
            low.serial = min(low.serial, high.serial)
            self.model.ranges.remove(high)
            return
        with pytest.raises(NotMergeable) as caught:
            self.extents.merge(low.view, high.view)
        assert reason == caught.value.reason

    @has_active
    @rule(which=st.integers(0, 1000), pages=st.one_of(st.integers(1, 40), st.integers(1, 600)))
    def resize(self, which: int, pages: int) -> None:
        r, model = self.pick(which), self.model
        done = self.extents.resize(r.view, pages * PAGE)
        more = set(range(r.end, r.first + pages))
        after = next((o for o in model.ranges if o.first == r.end and o.state in ("dirty", "muzzy")), None)
        crosses = not model.coalesce and any(base in (r.end, *more) for base, _ in model.regions if base >= r.end)
        if pages <= r.pages:
            tail = model.cut(r, pages, "dirty")
            if tail is not None:
                model.make_idle(tail, "dirty")
                if model.times["dirty"] == 0:
                    model.decay()
            assert done
        elif after is not None and after.pages >= len(more) and not (after.is_head and crosses):
            model.cut(after, len(more), after.state)
            model.ranges.remove(after)
            r.serial, r.pages = min(r.serial, after.serial), pages
            assert done
        elif more <= model.retained and not crosses:
            model.retained -= more
            r.serial, r.pages = min(r.serial, model.serial_and_head(r.end, len(more))[0]), pages
            assert done
        else:
            assert not done

    @rule(ms=st.sampled_from([0, 1, 3, 10, 25, 50, 100, 333, 1001]))
    def decay(self, ms: int) -> None:
        self.model.now += ms
        assert self.model.decay() * PAGE == self.extents.decay(self.model.now)

    @rule()
    def purge(self) -> None:
        assert self.model.decay(everything=True) * PAGE == self.extents.purge()

    @rule()
    def clock_goes_back(self) -> None:
        assert self.model.decay() * PAGE == self.extents.decay(0)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "extents"):
            return
        model = self.model
        counts = {
            state: sum(r.pages for r in model.ranges if r.state == state) for state in ("active", "dirty", "muzzy")
        }
        assert {**counts, "retained": len(model.retained)} == self.extents.counts()
        for r in model.ranges:
            for page in {r.first, r.end - 1, (r.first + r.end) // 2}:
                self.same(r, self.extents.lookup(page * PAGE + 5))
            if r.view is not None:
                self.same(r, r.view)
        for state in ("dirty", "muzzy"):
            expected = [r.first * PAGE for r in model.idle(state)]
            assert expected == [e.address for e in self.extents.lru(state)]

    def same(self, r: Range, e: Any) -> None:
        expected = (r.first * PAGE, r.pages * PAGE, r.serial, r.is_head, r.state)
        assert expected == (e.address, e.size, e.serial, e.is_head, e.state)

    @invariant()
    def tells_retained_ranges(self) -> None:
        if not hasattr(self, "extents"):
            return
        expected = []
        for serial, (base, pages) in enumerate(self.model.regions, 1):
            run: list[int] = []
            for page in [*range(base, base + pages), -1]:
                if page in self.model.retained:
                    run.append(page)
                elif run:
                    expected.append((run[0] * PAGE, len(run) * PAGE, serial, run[0] == base))
                    run = []
        assert expected == [(e.address, e.size, e.serial, e.is_head) for e in self.extents.lru("retained")]


ExtentMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_E1_to_E7_agree_with_a_model_of_ranges() -> None:
    """Whatever is done in whatever order, every answer is the model's."""
    run_state_machine_as_test(ExtentMachine)
