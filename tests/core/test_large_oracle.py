"""The large pools against a plain model: lists for queues, sums for statistics, the same rules said in Python."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from freehold.errors import BadFree, Disabled
from freehold.face.large_pools import LargeBlock, LargePools

MIB = 1 << 20
SIZES = [2 * MIB, 4 * MIB, 32 * MIB, 64 * MIB]
THREADS = 3


class Block:
    """What the model knows of a block."""

    def __init__(self, address: int, since: float) -> None:
        self.address = address
        self.since = since
        self.touched = False
        self.handed_out = False


class Model:
    """One class: where each block is, in the order in which it will be taken."""

    def __init__(self, size: int, config: dict[str, Any]) -> None:
        self.size = size
        self.config = config
        self.used: list[Block] = []
        self.clean: list[Block] = []
        self.kept: dict[int, list[Block]] = {}  # by thread, only where there are some; oldest first
        self.live: dict[int, Block] = {}
        self.areas: list[int] = []
        self.known: dict[int, Block] = {}
        self.counts = dict.fromkeys(
            ("allocations", "slow_path", "refill", "deallocations", "clear_eager", "clear_slow"), 0
        )

    # ---- taking ----

    def source(self, thread: int) -> Callable[[], Block | None]:
        """Return what takes the next block from the first place that has one."""
        if self.used:
            return lambda: self.used.pop(0) if self.used else None
        if self.clean:
            return lambda: self.clean.pop(0) if self.clean else None
        return lambda: self.steal(thread)

    def steal(self, thread: int) -> Block | None:
        others = [key for key in self.kept if key != thread]
        if not others:
            return None
        return self.take_kept(min(others, key=lambda key: self.kept[key][0].since), 0)

    def take_kept(self, thread: int, at: int) -> Block:
        block = self.kept[thread].pop(at)
        if not self.kept[thread]:
            del self.kept[thread]
        return block

    def allocate(self, thread: int, new_area: Callable[[], int], now: float) -> Block:
        """Return the block a request must get; `new_area` tells where a new area begins, if one is needed."""
        self.counts["allocations"] += 1
        if thread in self.kept:
            block = self.take_kept(thread, -1)
        else:
            take = self.source(thread)
            found = take()
            if found is None:
                self.counts["slow_path"] += 1
                found = self.refill(new_area(), now)
            else:
                self.bring_along(thread, take)
            block = found
        self.live[block.address] = block
        block.handed_out = True
        return block

    def bring_along(self, thread: int, take: Callable[[], Block | None]) -> None:
        batch = max(1, self.config["local_buffer_bytes"] // self.size // 2) - 1
        while batch and (block := take()) is not None:
            own = self.kept.setdefault(thread, [])
            at = len(own)
            while at and own[at - 1].since >= block.since:
                at -= 1
            own.insert(at, block)
            batch -= 1

    def refill(self, base: int, now: float) -> Block:
        first = max(1, 32 * MIB // self.size)
        last = self.areas[-1] if self.areas else 0
        self.areas.append(last + max(first, last // (self.config["growth_dampener"] + 1)))
        self.counts["refill"] += 1
        blocks = [Block(base + i * self.size, now) for i in range(self.areas[-1])]
        self.known.update((block.address, block) for block in blocks)
        self.clean += blocks[1:]
        return blocks[0]

    # ---- giving ----

    def free(self, thread: int, address: int, now: float) -> None:
        block = self.live.pop(address)
        self.counts["deallocations"] += 1
        block.since = now
        block.touched = True
        if len(self.kept.get(thread, [])) < self.config["local_buffer_bytes"] // self.size:
            self.kept.setdefault(thread, []).append(block)
            return
        if self.config["eager_return"]:
            self.counts["clear_eager"] += 1
            block.touched = False
        self.used.append(block)

    def end(self, thread: int) -> None:
        self.used += self.kept.pop(thread, [])

    def maintain(self, now: float) -> int:
        budget = -(-self.config["clear_bytes"] // self.size)
        cleared = 0
        while cleared < budget and self.used:
            self.clear(self.used.pop(0))
            cleared += 1
        while cleared < budget and self.kept:
            thread = min(self.kept, key=lambda key: self.kept[key][0].since)
            if now - self.kept[thread][0].since < self.config["decay_ms"]:
                break
            self.clear(self.take_kept(thread, 0))
            cleared += 1
        return cleared

    def clear(self, block: Block) -> None:
        self.counts["clear_slow"] += 1
        block.touched = block.touched and self.config["lazy_clear"]
        self.clean.append(block)

    def stats(self) -> dict[str, int]:
        kept = [block for own in self.kept.values() for block in own]
        free = self.used + self.clean + kept
        return {
            "areas": len(self.areas),
            "area_total_bytes": sum(self.areas) * self.size,
            "free_regions": len(free),
            "clean_regions": len(self.clean),
            "global_regions": len(self.used),
            "thread_regions": len(kept),
            "touched_bytes": sum(block.touched for block in free) * self.size,
            **self.counts,
        }


class Worker:
    """A thread that does what it is told until it is told to end."""

    def __init__(self) -> None:
        self.asked: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self.answers: SimpleQueue[Any] = SimpleQueue()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while (work := self.asked.get()) is not None:
            try:
                self.answers.put((work(), None))
            except Exception as error:
                self.answers.put((None, error))
            del work

    def __call__(self, work: Callable[[], Any]) -> Any:
        self.asked.put(work)
        answer, error = self.answers.get()
        if error is not None:
            raise error
        return answer

    def end(self) -> None:
        self.asked.put(None)
        self.thread.join()


threads = st.integers(0, THREADS - 1)
configuration = {
    "enabled": st.sampled_from([True, True, True, False]),
    "interval_ms": st.integers(0, 2),
    "clear_bytes": st.sampled_from([0, 1, 5 * MIB, 32 * MIB, 1 << 40]),
    "eager_return": st.sampled_from([False, False, True]),
    "growth_dampener": st.integers(0, 3),
    "local_buffer_bytes": st.sampled_from([0, 2 * MIB, 9 * MIB, 32 * MIB, 70 * MIB]),
    "decay_ms": st.integers(0, 6),
    "lazy_clear": st.booleans(),
}


class LargePoolsMachine(RuleBasedStateMachine):
    """Every block handed out is the one the model says, and every figure of every class is the model's."""

    @initialize(config=st.fixed_dictionaries(configuration | {"enabled": st.just(True)}))
    def open(self, config: dict[str, Any]) -> None:
        self.config = config
        self.pools = LargePools(**config)
        self.models = {size: Model(size, self.config) for size in SIZES}
        self.workers = [Worker() for _ in range(THREADS)]
        self.held: list[LargeBlock] = []
        self.gone: list[LargeBlock] = []
        self.now = 0.0
        self.last_pass: float | None = None

    def teardown(self) -> None:
        if hasattr(self, "pools"):
            self.pools.close(force=True)
            for worker in self.workers:
                worker.end()

    @rule(thread=threads, size=st.sampled_from(SIZES), count=st.integers(1, 20), zero=st.booleans())
    def allocate(self, thread: int, size: int, count: int, zero: bool) -> None:
        if not self.config["enabled"]:
            with pytest.raises(Disabled):
                self.workers[thread](lambda: self.pools.allocate(size))
            return
        for _ in range(count):
            block = self.workers[thread](lambda: self.pools.allocate(size, zero=zero))
            expected = self.models[size].allocate(thread, lambda block=block: block.address, self.now)

            assert expected.address == block.address
            assert (size, not expected.touched) == (block.capacity, block.clean)
            expected.touched = True
            self.held.append(block)

    @precondition(lambda self: self.held)
    @rule(thread=threads, count=st.integers(1, 20), data=st.data())
    def free(self, thread: int, count: int, data: st.DataObject) -> None:
        for _ in range(min(count, len(self.held))):
            self.give_back(thread, self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    def give_back(self, thread: int, block: LargeBlock) -> None:
        self.workers[thread](lambda: self.pools.free(block))
        self.models[block.capacity].free(thread, block.address, self.now)
        self.gone.append(block)

    @precondition(lambda self: self.gone)
    @rule(thread=threads, data=st.data())
    def free_again(self, thread: int, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.gone))
        if block.address in self.models[block.capacity].live:
            return
        with pytest.raises(BadFree) as caught:
            self.workers[thread](lambda: self.pools.free(block))

        assert "double" == caught.value.reason

    @rule(thread=threads, by=st.integers(-2, 6))
    def maintain(self, thread: int, by: int) -> None:
        cleared = self.workers[thread](lambda: self.pools.maintain(max(0, self.now + by)))
        self.now = max(self.now, self.now + by)
        expected = 0
        if self.last_pass is None or self.now - self.last_pass >= self.config["interval_ms"]:
            self.last_pass = self.now
            expected = sum(model.maintain(self.now) for model in self.models.values())

        assert expected == cleared

    @precondition(lambda self: self.config["enabled"])
    @rule(thread=threads, size=st.sampled_from(SIZES[:2]), count=st.integers(1, 10), later=st.integers(0, 6))
    def use(self, thread: int, size: int, count: int, later: int) -> None:
        """Allocate and free, and let time pass: what a program does, and what fills the queues."""
        self.allocate(thread, size, count, False)
        for _ in range(count):
            self.give_back(thread, self.held.pop())
        self.maintain(thread, later)

    @rule(thread=threads)
    def end_thread(self, thread: int) -> None:
        self.workers[thread].end()
        self.workers[thread] = Worker()
        for model in self.models.values():
            model.end(thread)

    @rule(config=st.fixed_dictionaries({}, optional=configuration))
    def configure(self, config: dict[str, Any]) -> None:
        self.pools.configure(**config)
        self.config.update(config)

    @invariant()
    def figures_are_the_models(self) -> None:
        if not hasattr(self, "pools"):
            return
        stats = self.pools.stats()
        for size, model in self.models.items():
            assert model.stats() == stats[size]
            assert stats[size]["area_total_bytes"] == size * (stats[size]["free_regions"] + len(model.live))
        self.pools.check()


LargePoolsMachine.TestCase.settings = settings(
    max_examples=80, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestL2ToL12 = LargePoolsMachine.TestCase


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    """A run of the machine ends its threads."""
    before = threading.active_count()
    yield
    assert before == threading.active_count()
