"""space: one reservation of addresses, and who owns a pointer."""

from __future__ import annotations

import ctypes
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from freehold.errors import BadFree, OSRefused, OutOfMemory
from freehold.face.space_face import Space
from freehold.face.vm_face import DEBUG, Vm, fail

if DEBUG:
    from freehold.face import probe

if TYPE_CHECKING:
    from conftest import Run

BLOCK = 4 << 20
PAGE = Vm().facts()["page_size"]
MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40


pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def space(quiet: None) -> Iterator[Space]:
    """The space; the test must leave as many blocks taken as it found."""
    space = Space()
    before = space.stats()
    yield space
    assert before == Space().stats()


def maps() -> list[str]:
    return Path("/proc/self/maps").read_text().splitlines()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


# ---- S1 ----


def test_S1_the_space_is_one_aligned_reservation(space: Space) -> None:
    """32 TiB where nothing limits addresses, whole blocks, at a multiple of the block."""
    assert (32 * TIB, BLOCK) == (space.size, space.block_size)
    assert (0, 0) == (space.base % BLOCK, space.size % BLOCK)


def test_S1_free_addresses_are_inaccessible_and_in_no_core_dump(space: Space) -> None:
    """The last block's mapping is PROT_NONE, and marked to be left out of dumps."""
    last = space.base + space.size - 1
    smaps = Path("/proc/self/smaps").read_text().split("VmFlags:")
    for i, part in enumerate(smaps[:-1]):
        header = next(
            line for line in part.splitlines() if (line[:1] in "0123456789abcdef" and " ---p " in line) or "-" in line
        )
        low, high = (int(x, 16) for x in header.split()[0].split("-"))
        if low <= last < high:
            assert "---p" == header.split()[1]
            assert "dd" in smaps[i + 1].splitlines()[0].split()
            return
    pytest.fail("the end of the space is not mapped")


SAY_SIZE = "from freehold.face.space_face import Space; print(Space().size)"


@pytest.mark.parametrize(
    ("limit", "size"),
    [(1 << 46, 32 * TIB), (TIB, 512 * GIB), (65 * GIB, 32 * GIB), (20 * GIB, 8 * GIB), (16 * GIB, 8 * GIB)],
)
def test_S1_the_reservation_is_halved_until_the_limit_allows_it(limit: int, size: int, run_program: Run) -> None:
    """Under RLIMIT_AS the space is the largest halving of 32 TiB that leaves half of the limit to others."""
    assert f"{size}\n" == run_program(SAY_SIZE, address_limit=limit).stdout


USE_SPACE = """
    from freehold.face.space_face import Space
    space = Space()
    assert space.size >= 8 << 30, space.size
    first = space.take(1)
    assert space.owner(first + 5) == (0, "space")
    space.give_back(first, 1)
    assert space.owner(first) is None
    assert space.take(1) == first
    print("well")
"""


@pytest.mark.parametrize("limit", [256 * MIB, GIB, 4 * GIB, 15 * GIB])
def test_F16_a_process_with_few_addresses_has_a_space(limit: int, run_program: Run) -> None:
    """Where the limit is below any reservation the space is never below 8 GiB, and works."""
    result = run_program(USE_SPACE, address_limit=limit)

    assert ("well\n", "") == (result.stdout, result.stderr)


FILL_SPACE = """
    import ctypes, errno
    from freehold.face import probe
    from freehold.face.space_face import Space
    limit, block = {limit}, Space().block_size
    vm_size = lambda: int(open("/proc/self/statm").read().split()[0]) * 4096
    room = limit - vm_size()
    blocks, error = [], 0
    while not error:
        address = Space().take(1)
        error = probe.commit(address, block)
        if error:
            Space().give_back(address, 1)
        else:
            ctypes.memset(address, 1, 4096)
            blocks.append(address)
    assert error == errno.ENOMEM, error
    assert len(blocks) * block >= 0.85 * room, (len(blocks), room)
    for address in blocks:
        assert probe.decommit(address, block) == 0
        Space().give_back(address, 1)
    again = Space().take(len(blocks))
    assert again == blocks[0] and probe.commit(again, len(blocks) * block) == 0
    assert ctypes.string_at(again, 4096) == bytes(4096)
    print("well")
"""


@pytest.mark.debug
@pytest.mark.parametrize("limit", [256 * MIB, GIB, 4 * GIB])
def test_F16_a_limited_process_may_fill_its_limit_and_go_on(limit: int, run_program: Run) -> None:
    """Blocks are committed up to the limit, then ENOMEM; given back, the same memory is had again and reads 0."""
    result = run_program(FILL_SPACE.format(limit=limit), address_limit=limit)

    assert ("well\n", "") == (result.stdout, result.stderr)


OTHERS_MAPPING = """
    import ctypes, errno
    from freehold.face import probe
    from freehold.face.space_face import Space
    space = Space()
    address = space.take(3)
    assert probe.commit(address, 8192) == 0
    others = address + space.block_size + 65536
    assert probe.commit_at(others, 8192) == 0
    ctypes.memset(others, 7, 8192)
    assert probe.commit(others - 4096, 8192) == errno.ENOMEM
    assert probe.commit(address + 2 * space.block_size, 4096) == 0
    assert probe.decommit(address, 8192) == probe.decommit(address + 2 * space.block_size, 4096) == 0
    space.give_back(address, 3)
    assert ctypes.string_at(others, 8192) == bytes([7]) * 8192
    assert probe.reserve_at(address, 4096) == 0, "what was ours is unmapped"
    assert probe.reserve_at(address + 2 * space.block_size, 4096) == 0
    print("well")
"""


@pytest.mark.debug
def test_F16_what_others_mapped_in_an_unreserved_space_is_never_unmapped(run_program: Run) -> None:
    """Somebody else's mapping in a range that could not be reserved makes a commit fail, and outlives give_back."""
    result = run_program(OTHERS_MAPPING, address_limit=GIB)

    assert ("well\n", "") == (result.stdout, result.stderr)


# ---- S2 ----


def test_S2_every_byte_of_a_taken_block_is_owned(space: Space) -> None:
    """Blocks taken here are owned by (0, 'space'), to their last byte and no further; free ones by nobody."""
    address = space.take(3)
    end = address + 3 * BLOCK

    assert {(0, "space")} == {space.owner(p) for p in (address, address + BLOCK - 1, address + BLOCK, end - 1)}
    space.give_back(address, 3)
    assert {None} == {space.owner(p) for p in (address, address + BLOCK, end - 1)}


@pytest.mark.parametrize(
    "address", [-1, 0, 1, 0x1234, 1 << 47, (1 << 64) - 1, 1 << 64, 1 << 200, -(1 << 64), 0xDEAD_BEEF_DEAD_BEEF]
)
def test_S2_any_int_has_an_owner_or_none(space: Space, address: int) -> None:
    """owner is None for every int that is no address of the space."""
    assert space.owner(address) is None


def test_S2_owner_is_none_just_outside_the_space(space: Space) -> None:
    """One byte below and one above are nobody's; memory of others is nobody's."""
    buffer = ctypes.create_string_buffer(16)

    outside = (
        space.base - 1,
        space.base + space.size,
        space.base + space.size - 1,
        ctypes.addressof(buffer),
        id(space),
    )
    assert {None} == {space.owner(p) for p in outside}


def test_S2_random_addresses_have_no_owner(space: Space) -> None:
    """Garbage never crashes; free blocks all over the space read as nobody's."""
    r = random.Random(1)
    owners = {space.owner(r.getrandbits(64)) for _ in range(20_000)}
    owners |= {space.owner(space.base + space.size // 2 + r.randrange(space.size // 2)) for _ in range(20_000)}

    assert {None} == owners


@pytest.mark.debug
def test_S2_owner_words_keep_heap_layer_and_note(space: Space) -> None:
    """The word holds 16 bits of heap, the layer and 40 bits of note; layers have names."""
    error, address = probe.take(1, 1)
    names = ["none", "space", "primary", "pages", "large", "huge", "arena", "extent"]
    for layer, name in list(enumerate(names))[1:]:
        probe.own(address, 1, 65535, layer, (1 << 40) - 1)
        assert (65535, layer, (1 << 40) - 1) == probe.owner(address + BLOCK - 1)
        assert (65535, name) == space.owner(address)
    probe.disown(address, 1)

    assert (0, 0) == (error, probe.give_back(address, 1))


@pytest.mark.debug
def test_S2_owner_is_right_while_blocks_change_hands(space: Space) -> None:
    """A reader without a lock sees nobody, or one whole owner, never a mixture."""
    _, address = probe.take(1, 1)
    wrong: list[int] = []
    stop = threading.Event()

    def change_hands() -> None:
        while not stop.is_set():
            for heap in (1, 0xFFFF):
                probe.own(address, 1, heap, 1, heap)
                probe.disown(address, 1)

    writer = threading.Thread(target=change_hands)
    readers = [
        threading.Thread(target=lambda: wrong.append(probe.read_owner(address + 7, 1, 0xFFFF, 20_000_000)))
        for _ in range(2)
    ]
    for t in (writer, *readers):
        t.start()
    for t in readers:
        t.join()
    stop.set()
    writer.join()
    probe.disown(address, 1)

    assert [0, 0] == wrong
    assert 0 == probe.give_back(address, 1)


# ---- S3, and what take and give_back promise ----


def test_S3_addresses_given_back_are_reused_and_nothing_leaks() -> None:
    """A hundred thousand cycles of take and give_back use the same addresses, mappings and memory."""
    space, vm = Space(), Vm()
    mappings, resident, stats, addresses = len(maps()), resident_bytes(), space.stats(), set()
    for i in range(100_000):
        address = space.take(1 + i % 3)
        addresses.add(address)
        if i % 100 == 0:
            vm.commit(address, PAGE)
            ctypes.memset(address, 1, PAGE)
        space.give_back(address, 1 + i % 3)

    assert len(addresses) <= 3  # one for each length, where shorter holes lie below
    assert stats == space.stats()
    assert abs(len(maps()) - mappings) < 20
    assert resident_bytes() - resident < MIB


def test_S3_memory_given_back_reads_zero_when_taken_again(space: Space) -> None:
    """give_back takes the memory with it: nothing of it is seen by the next."""
    vm = Vm()
    address = space.take(1)
    vm.commit(address, BLOCK)
    ctypes.memset(address, 0xFF, BLOCK)
    resident = resident_bytes()
    space.give_back(address, 1)

    assert resident - resident_bytes() > BLOCK // 2
    assert address == space.take(1)
    vm.commit(address, BLOCK)
    assert bytes(BLOCK) == ctypes.string_at(address, BLOCK)
    space.give_back(address, 1)


def test_S3_the_lowest_run_that_fits_is_taken(space: Space) -> None:
    """First fit in address order: a hole serves what fits into it, and no more."""
    whole = space.take(8)
    space.give_back(whole, 2)
    longer, fitting = space.take(3), space.take(2)

    assert longer != whole
    assert fitting <= whole
    space.give_back(fitting, 2)
    space.give_back(longer, 3)
    space.give_back(whole + 2 * BLOCK, 6)


def test_blocks_may_be_given_back_in_parts(space: Space) -> None:
    """Part of what was taken may go, from the middle too."""
    address = space.take(5)
    space.give_back(address + 2 * BLOCK, 1)

    assert [True, True, False, True, True] == [space.owner(address + i * BLOCK) is not None for i in range(5)]
    space.give_back(address, 2)
    space.give_back(address + 3 * BLOCK, 2)


@pytest.mark.debug
@pytest.mark.parametrize("align", [1, 2, 3 - 1, 256, 1 << 18])
def test_take_aligns_addresses_not_places(space: Space, align: int) -> None:
    """An aligned run begins at a multiple of its alignment as an address."""
    taken = [probe.take(3, align) for _ in range(4)]

    assert [(0, 0)] * 4 == [(error, address % (align * BLOCK)) for error, address in taken]
    assert 4 == len({address for _, address in taken})
    assert [0] * 4 == [probe.give_back(address, 3) for _, address in taken]


def test_more_blocks_than_there_are_is_out_of_memory(space: Space) -> None:
    """What cannot fit raises OutOfMemory with the blocks asked for, and changes nothing."""
    for blocks in (space.size // BLOCK, space.size // BLOCK + 1, (1 << 64) - 1):
        with pytest.raises(OutOfMemory, match=str(blocks)) as caught:
            space.take(blocks)
        assert ("space", blocks) == (caught.value.layer, caught.value.asked)


def test_a_bad_give_back_changes_nothing(space: Space) -> None:
    """Free blocks are 'double', others' 'foreign', the inside of a block 'misaligned'; all stays as it was."""
    address = space.take(2)
    before = space.stats()
    last = space.base + space.size - BLOCK
    crimes = [
        (address + 1, 1, "misaligned", address + 1),
        (address, 3, "double", address + 2 * BLOCK),
        (last, 1, "double", last),
        (last, 2, "foreign", last),
        (address, (1 << 64) - 1, "foreign", address),
        (space.base - BLOCK, 1, "foreign", space.base - BLOCK),
        (space.base + space.size, 1, "foreign", space.base + space.size),
        (0, 1, "foreign", 0),
        (-BLOCK, 1, "foreign", -BLOCK),
        (1 << 200, 1, "foreign", 1 << 200),
    ]
    for where, blocks, reason, named in crimes:
        with pytest.raises(BadFree) as caught:
            space.give_back(where, blocks)
        assert (reason, named) == (caught.value.reason, caught.value.address)
    assert before == space.stats()
    assert {(0, "space")} == {space.owner(address), space.owner(address + BLOCK)}
    space.give_back(address, 2)
    with pytest.raises(BadFree, match="double"):
        space.give_back(address, 2)


@pytest.mark.debug
def test_blocks_of_a_layer_are_foreign(space: Space) -> None:
    """What a layer of a heap has taken is not given back through the face."""
    _, address = probe.take(1, 1)
    probe.own(address, 1, 3, 2, 0)

    with pytest.raises(BadFree, match="foreign"):
        space.give_back(address, 1)
    assert (3, "primary") == space.owner(address)
    probe.disown(address, 1)
    assert 0 == probe.give_back(address, 1)


def test_of_threads_that_give_the_same_blocks_back_one_succeeds(space: Space) -> None:
    """Racing to give back, exactly one thread wins; the others get BadFree, and counts stay right."""
    outcomes: list[str] = []
    rounds, barrier = 300, threading.Barrier(4)
    current = [0]

    def race() -> None:
        for _ in range(rounds):
            if barrier.wait() == 0:
                current[0] = space.take(2)
            barrier.wait()
            try:
                space.give_back(current[0], 2)
                outcomes.append("given")
            except BadFree:
                outcomes.append("bad")
            barrier.wait()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=race) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    sys.setswitchinterval(interval)

    assert (rounds, 3 * rounds) == (outcomes.count("given"), outcomes.count("bad"))


def test_threads_never_share_a_block(space: Space) -> None:
    """Blocks taken by different threads at the same time are disjoint."""
    problems: list[int] = []

    def work(seed: int) -> None:
        r, mine = random.Random(seed), []
        vm = Vm()
        for _ in range(300):
            if mine and r.random() < 0.5:
                address, n = mine.pop(r.randrange(len(mine)))
                if ctypes.string_at(address, 1) != bytes([seed]):
                    problems.append(address)
                space.give_back(address, n)
            else:
                n = r.randint(1, 5)
                address = space.take(n)
                vm.commit(address, PAGE)
                ctypes.memset(address, seed, 1)
                mine.append((address, n))
        for address, n in mine:
            space.give_back(address, n)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()

    assert [] == problems


@pytest.mark.debug
def test_F12_blocks_the_os_will_not_take_stay_taken(space: Space) -> None:
    """A decommit that fails raises OSRefused, the blocks are as they were, and the next try succeeds."""
    address = space.take(2)
    Vm().commit(address, PAGE)
    ctypes.memset(address, 5, PAGE)
    before = space.stats()

    with fail("decommit"), pytest.raises(OSRefused) as caught:
        space.give_back(address, 2)

    assert (12, "decommit", "space") == (caught.value.errno, caught.value.call, caught.value.layer)
    assert before == space.stats()
    assert (0, "space") == space.owner(address + BLOCK)
    assert b"\5" == ctypes.string_at(address, 1)
    space.give_back(address, 2)


class SpaceModel(RuleBasedStateMachine):
    """Takes and gives back at random; a dict of blocks says what must be owned."""

    def __init__(self) -> None:
        super().__init__()
        self.space = Space()
        self.before = self.space.stats()
        self.taken: set[int] = set()  # addresses of blocks
        self.seen: set[int] = set()

    @rule(n=st.integers(1, 9))
    def take(self, n: int) -> None:
        address = self.space.take(n)
        blocks = {address + i * BLOCK for i in range(n)}
        free_below = sorted(b for b in self.seen - self.taken if b < address)
        runs = [b for b in free_below if all(b + i * BLOCK in self.seen - self.taken for i in range(n))]

        assert set() == blocks & self.taken
        assert [] == runs, "a lower run was free"
        self.taken |= blocks
        self.seen |= blocks

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), n=st.integers(1, 6))
    def give_back(self, data: st.DataObject, n: int) -> None:
        address = data.draw(st.sampled_from(sorted(self.taken)))
        blocks = {address + i * BLOCK for i in range(n)}
        if blocks <= self.taken:
            self.space.give_back(address, n)
            self.taken -= blocks
        else:
            with pytest.raises(BadFree):
                self.space.give_back(address, n)

    @invariant()
    def owners_and_sums_are_right(self) -> None:
        stats = self.space.stats()
        assert self.taken == {b for b in self.seen if self.space.owner(b + BLOCK // 2) == (0, "space")}
        assert len(self.taken) * BLOCK == stats["taken_bytes"] - self.before["taken_bytes"]
        assert stats["reserved_bytes"] == stats["taken_bytes"] + stats["free_bytes"] == self.space.size

    def teardown(self) -> None:
        for block in self.taken:
            self.space.give_back(block, 1)
        assert self.before == self.space.stats()


TestSpaceModel = SpaceModel.TestCase
TestSpaceModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


# ---- G ----


def test_G1_there_is_one_space_and_closing_it_is_harmless() -> None:
    """Space() is the same object each time; closed, it refuses calls; Space() opens it again, blocks and all."""
    space = Space()
    address = space.take(1)
    with space as same:
        assert same is space is Space()
    space.close()

    for call in ("take", "owner"):
        with pytest.raises(ValueError, match="closed"):
            getattr(space, call)(1)
    for name in ("base", "size", "block_size"):
        with pytest.raises(ValueError, match="closed"):
            getattr(space, name)
    with pytest.raises(ValueError, match="closed"):
        space.stats()
    with pytest.raises(ValueError, match="closed"):
        space.give_back(address, 1)
    with pytest.raises(ValueError, match="closed"):
        space.__enter__()
    assert Space() is space
    assert (0, "space") == space.owner(address)
    space.give_back(address, 1)


@pytest.mark.parametrize("wrong", [0, -1, 1 << 64])
def test_G2_a_wrong_number_of_blocks_is_named(space: Space, wrong: int) -> None:
    """nblocks is at least 1 and fits a word."""
    with pytest.raises(ValueError, match="nblocks"):
        space.take(wrong)
    with pytest.raises(ValueError, match="nblocks"):
        space.give_back(space.base, wrong)


def test_G2_what_is_no_int_is_a_type_error(space: Space) -> None:
    """Floats, strings and None are no addresses."""
    for wrong in (1.0, "1", None):
        for call in (
            space.take,
            space.owner,
            lambda x: space.give_back(x, 1),
            lambda x: space.give_back(space.base, x),
        ):
            with pytest.raises(TypeError):
                call(wrong)
