"""The arenas against a model that keeps a dict for each block: whatever is done in whatever order, they agree.

The model states the contract, not the method: what a block holds, and whether it may be written, it asks the memory.
"""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from freehold.errors import BadFree, OutOfMemory
from freehold.face.arenas_face import ArenaBlock, Arenas
from freehold.face.vm_face import Vm

BLOCK = 4 << 20
NODES = 2
UNSET = object()


class Model:
    """One arena: of each block, whether it is live, dirty, committed and scheduled."""

    def __init__(self, blocks: int, exclusive: bool, node: int) -> None:
        self.live = [False] * blocks
        self.dirty = [False] * blocks
        self.committed = [False] * blocks
        self.scheduled = [False] * blocks
        self.exclusive = exclusive
        self.node = node
        self.expiry: float | None = None

    def lowest(self, n: int) -> int | None:
        """Return where the lowest free run of n blocks begins."""
        for i in range(len(self.live) - n + 1):
            if not any(self.live[i : i + n]):
                return i
        return None


class ArenaMachine(RuleBasedStateMachine):
    blocks = Bundle("blocks")

    @initialize(delay=st.sampled_from([-1, 0, 10]), most=st.integers(1, 5), limited=st.booleans())
    def start(self, delay: int, most: int, limited: bool) -> None:
        self.arenas = Arenas(
            max_arenas=most, purge_delay_ms=delay, limit_os_alloc=limited, numa_nodes=NODES, reserve_size=3 * BLOCK,
            eager_commit=0,
        )  # fmt: skip
        self.most, self.delay, self.limited = most, delay * 10, limited
        self.models: list[Model] = []
        self.direct: set[int] = set()  # addresses of the live blocks of 4 MiB that came straight from the OS
        self.now = 0.0
        self.purges = self.purged = 0

    def teardown(self) -> None:
        if hasattr(self, "arenas"):
            self.arenas.close(force=True)

    @rule(blocks=st.sampled_from([1, 2, 5, 63, 64, 65, 130]), exclusive=st.booleans(), node=st.integers(-1, NODES - 1),
          commit=st.booleans())  # fmt: skip
    def reserve(self, blocks: int, exclusive: bool, node: int, commit: bool) -> None:
        if len(self.models) == self.most:
            with pytest.raises(OutOfMemory):
                self.arenas.reserve(blocks * BLOCK, exclusive=exclusive)
            return
        number = self.arenas.reserve(blocks * BLOCK - 5, exclusive=exclusive, numa_node=node, commit=commit)
        model = Model(blocks, exclusive, node)
        model.committed = [commit] * blocks
        self.models.append(model)
        assert len(self.models) == number

    def choose(self, n: int, arena: int | None, node: int) -> int | None:
        """Return the number of the arena that has to serve."""
        if arena is not None:
            return arena if self.models[arena - 1].lowest(n) is not None else None
        open_to_all = [(number, m) for number, m in enumerate(self.models, 1) if not m.exclusive]
        near = [number for number, m in open_to_all if node == -1 or m.node in (-1, node)]
        for number in near + [number for number, _ in open_to_all if number not in near]:
            if self.models[number - 1].lowest(n) is not None:
                return number
        if len(self.models) < self.most:
            self.models.append(Model(max(n, 3), exclusive=False, node=node))
            return len(self.models)
        return None

    @rule(
        target=blocks,
        n=st.sampled_from([1, 1, 2, 3, 10, 64, 70]),
        arena=st.one_of(st.none(), st.integers(1, 5)),
        node=st.integers(-1, NODES - 1),
        commit=st.booleans(),
    )
    def allocate(self, n: int, arena: int | None, node: int, commit: bool):
        size = n * BLOCK - (n % 3)
        if arena is not None and arena > len(self.models):
            with pytest.raises(ValueError, match="arena"):
                self.arenas.allocate(size, arena=arena)
            return multiple()
        number = self.choose(n, arena, node)
        if number is None and (arena is not None or self.limited):
            with pytest.raises(OutOfMemory):
                self.arenas.allocate(size, arena=arena, numa_node=node)
            return multiple()
        block = self.arenas.allocate(size, arena=arena, numa_node=node, commit=commit)
        assert n * BLOCK == block.size
        if number is None:
            assert ("os", None, None, commit, True) == (
                block.kind, block.arena, block.block_index, block.initially_committed, block.initially_zero,
            )  # fmt: skip
            self.direct |= self.parts(block)
        else:
            self.expect(self.models[number - 1], number, block, commit)
        if block.initially_committed:
            self.touch(block)
        return block

    def expect(self, model: Model, number: int, block: ArenaBlock, commit: bool) -> None:
        n = block.size // BLOCK
        at = model.lowest(n)
        assert at is not None
        run = range(at, at + n)
        assert ("arena", number, at, model.exclusive, commit or all(model.committed[i] for i in run)) == (
            block.kind, block.arena, block.block_index, block.exclusive, block.initially_committed,
        )  # fmt: skip
        assert block.initially_zero == (not any(model.dirty[i] for i in run))
        assert self.arenas.area(number)[0] + at * BLOCK == block.address
        for i in run:
            model.live[i] = model.dirty[i] = True
            model.scheduled[i] = False
            model.committed[i] = model.committed[i] or commit

    def touch(self, block: ArenaBlock) -> None:
        """Look that each block reads 0 if it is said to, and write into it."""
        for address in range(block.address, block.address + block.size, BLOCK):
            if block.initially_zero:
                assert bytes(8) == ctypes.string_at(address, 8)
            ctypes.memset(address, 0x5A, 8)

    @rule(block=blocks, committed=st.sampled_from([UNSET, 0, 1]), later=st.integers(0, 60), own=st.booleans())
    def free(self, block: ArenaBlock, committed: object, later: int, own: bool) -> None:
        """Free a block, or what was one: some of it may be free again, or another's."""
        self.now += later
        live = self.is_live(block)
        if live and own and not block.initially_committed:
            assert 0 == Vm().commit(block.address, block.size)  # as a caller may
            self.touch(block._replace(initially_zero=False))
        part = None if committed is UNSET else min(block.size, 4096) * int(committed == 1)
        if not live:
            with pytest.raises(BadFree) as caught:
                self.arenas.free(block, part, now=self.now)
            assert caught.value.reason in (("double",) if block.arena else ("double", "foreign"))
            return
        self.arenas.free(block, part, now=self.now)
        if block.arena is None:
            self.direct -= self.parts(block)
            return
        self.give_up(self.models[block.arena - 1], block, part)

    @staticmethod
    def parts(block: ArenaBlock) -> set[int]:
        return set(range(block.address, block.address + block.size, BLOCK))

    def is_live(self, block: ArenaBlock) -> bool:
        """Any run of live blocks is: what was freed and handed out again, to whomever, can not be told apart."""
        n = block.size // BLOCK
        if block.arena is None:
            return self.parts(block) <= self.direct
        return all(self.models[block.arena - 1].live[block.block_index : block.block_index + n])

    def give_up(self, model: Model, block: ArenaBlock, part: int | None) -> None:
        run = range(block.block_index, block.block_index + block.size // BLOCK)
        for i in run:
            model.live[i] = False
            model.committed[i] = model.committed[i] and part is None
            model.scheduled[i] = self.delay > 0
        if self.delay == 0:
            self.forget(model, run)
            self.purges += 1
        elif self.delay > 0 and model.expiry is None:
            model.expiry = self.now + self.delay
        elif self.delay > 0 and self.now < model.expiry:
            model.expiry += self.delay / 10

    def forget(self, model: Model, run: range | list[int]) -> None:
        for i in run:
            model.committed[i] = model.dirty[i] = model.scheduled[i] = False
            self.purged += 1

    @rule(force=st.booleans(), visit_all=st.booleans(), later=st.integers(0, 150))
    def purge(self, force: bool, visit_all: bool, later: int) -> None:
        self.now += later
        purged = False
        for model in self.models:
            if model.expiry is not None and (force or model.expiry <= self.now) and (visit_all or not purged):
                model.expiry = None
                wanted = [i for i, scheduled in enumerate(model.scheduled) if scheduled]
                self.forget(model, wanted)
                purged = purged or bool(wanted)
        assert purged == self.arenas.purge(force, visit_all, now=self.now)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "arenas"):
            return
        self.arenas.check()
        for number, model in enumerate(self.models, 1):
            drawn = "".join(".x"[live] for live in model.live)
            assert "\n".join(drawn[i : i + 64] for i in range(0, len(drawn), 64)) == self.arenas.picture(number)
        stats = self.arenas.stats()
        assert {
            "arenas": len(self.models),
            "reserved_bytes": sum(len(m.live) for m in self.models) * BLOCK,
            "committed_bytes": sum(sum(m.committed) for m in self.models) * BLOCK,
            "in_use_bytes": sum(sum(m.live) for m in self.models) * BLOCK,
            "os_direct_bytes": len(self.direct) * BLOCK,
            "scheduled_bytes": sum(sum(m.scheduled) for m in self.models) * BLOCK,
            "purged_bytes": self.purged * BLOCK,
        } == {key: value for key, value in stats.items() if key not in ("purges", "metadata_bytes")}


ArenaMachine.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_A1_to_A11_agree_with_a_model_of_blocks() -> None:
    """Whatever is done in whatever order, every answer is the model's."""
    run_state_machine_as_test(ArenaMachine)
