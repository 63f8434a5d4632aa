"""primary against a naive model: a dict of live blocks, and sums over it."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from freehold.errors import BadFree
from freehold.face.primary_face import Primary

PAGE = mmap.PAGESIZE
METADATA = 16
ANY = st.integers(0, 1 << 20)  # which one, counted round: what is drawn must not depend on addresses
SOME_SIZES = [0, 1, 16, 17, 48, 100, 112, 500, 1024, 1280, 4096, 5000, 20_480, 70_000, 131_072]


class PrimaryModel(RuleBasedStateMachine):
    """Every block carries a pattern and metadata; the model, the memory and the statistics must agree."""

    cache_bytes = 0

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[int, int]] = {}  # address: its pattern, and bytes of its class
        self.freed: set[int] = set()
        self.handed_out: dict[int, int] = {}  # address: what its metadata says
        self.allocations = 0
        self.turn = 0

    @initialize(shuffle=st.booleans())
    def open(self, shuffle: bool) -> None:
        self.primary = Primary(metadata_size=METADATA, shuffle=shuffle, cache_bytes=self.cache_bytes)
        self.classes = self.primary.classes

    def teardown(self) -> None:
        if hasattr(self, "primary"):
            self.primary.close()

    def pattern(self) -> int:
        self.turn += 1
        return self.turn % 255 + 1

    @rule(
        size=st.sampled_from(SOME_SIZES), count=st.integers(1, 40), alignment=st.sampled_from([0, 0, 1, 32, 256, 4096])
    )
    def allocate(self, size: int, count: int, alignment: int) -> None:
        for _ in range(count):
            block = self.primary.allocate(size, alignment)
            expected = min(c for c in self.classes if c >= size and c % max(alignment, 1) == 0)

            assert block not in self.live
            assert expected == self.primary.usable_size(block)
            assert 0 == block % max(alignment, 1)
            assert bytes([self.handed_out.get(block, 0)]) * METADATA == bytes(self.primary.metadata(block))
            pattern = self.pattern()
            ctypes.memset(block, pattern, expected)
            self.primary.metadata(block)[:] = bytes([pattern]) * METADATA
            self.live[block] = (pattern, expected)
            self.handed_out[block] = pattern
            self.freed.discard(block)
            self.allocations += 1

    def free_block(self, block: int) -> None:
        pattern, size = self.live.pop(block)
        assert bytes([pattern]) * size == ctypes.string_at(block, size)
        self.primary.free(block)
        self.freed.add(block)

    @precondition(lambda self: self.live)
    @rule(which=ANY, count=st.integers(1, 60))
    def free_some(self, which: int, count: int) -> None:
        start = which % len(self.live)
        for block in sorted(self.live)[start : start + count]:
            self.free_block(block)

    @precondition(lambda self: self.live)
    @rule(step=st.integers(1, 5))
    def free_every(self, step: int) -> None:
        for block in sorted(self.live)[::step]:
            self.free_block(block)

    @precondition(lambda self: self.freed)
    @rule(which=ANY)
    def free_again(self, which: int) -> None:
        self.refuse(sorted(self.freed)[which % len(self.freed)], "double")

    @precondition(lambda self: self.live)
    @rule(which=ANY, offset=ANY)
    def free_inside(self, which: int, offset: int) -> None:
        block = sorted(self.live)[which % len(self.live)]
        self.refuse(block + 1 + offset % (self.live[block][1] - 1), "interior")

    @rule(address=st.one_of(st.integers(0, 1 << 20), st.integers(1 << 60, 1 << 65)))
    def free_foreign(self, address: int) -> None:
        self.refuse(address, "foreign")

    def refuse(self, address: int, reason: str) -> None:
        with pytest.raises(BadFree) as error:
            self.primary.free(address)
        assert (address, reason) == (error.value.address, error.value.reason)

    @rule()
    def drain(self) -> None:
        self.primary.drain()
        assert 0 == sum(c["cached"] for c in self.primary.stats()["classes"])

    @rule(force=st.booleans(), now=st.one_of(st.none(), st.integers(0, 5000)))
    def release(self, force: bool, now: int | None) -> None:
        assert 0 == self.primary.release(force=force, now_ms=now) % PAGE

    @rule()
    def come_to_rest(self) -> None:
        """With nothing live, and a page's worth freed in each class, a release leaves nothing resident."""
        for block in sorted(self.live):
            self.free_block(block)
        for size in {self.primary.usable_size(block) for block in self.freed}:
            blocks = [self.primary.allocate(size) for _ in range(-(-PAGE // size))]
            for block in blocks:
                self.handed_out.setdefault(block, 0)
                self.freed.add(block)
                self.primary.free(block)
            self.allocations += len(blocks)
        self.primary.release()

        assert 0 == sum(c["in_use"] + c["resident_bytes"] for c in self.primary.stats()["classes"])

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "primary"):
            return
        self.primary.check()
        stats = self.primary.stats()
        in_use = dict.fromkeys(self.classes, 0)
        for _, size in self.live.values():
            in_use[size] += 1

        assert in_use == {c["size"]: c["in_use"] for c in stats["classes"]}
        assert self.allocations == stats["allocations"]
        assert self.allocations - len(self.live) == stats["frees"]
        for block in [*self.freed][:20]:
            assert block == self.primary.block_start(block + 1)
            assert bytes([self.handed_out[block]]) * METADATA == bytes(self.primary.metadata(block))


class CachedPrimaryModel(PrimaryModel):
    """The same with thread caches."""

    cache_bytes = 2 << 20


class SmallCachePrimaryModel(PrimaryModel):
    """The same with caches too small for most classes."""

    cache_bytes = 5000


LONG = settings(max_examples=120, stateful_step_count=30, deadline=None)


def as_test(model: Any) -> Any:
    model.TestCase.settings = LONG
    return model.TestCase


TestR3R4R6R9R11WithoutCaches = as_test(PrimaryModel)
TestR3R4R6R9R10R11WithCaches = as_test(CachedPrimaryModel)
TestR3R4R6R9R10R11WithSmallCaches = as_test(SmallCachePrimaryModel)
