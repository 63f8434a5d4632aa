"""vm: the operating system's memory calls through `Vm`, and `fail`."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from freehold.face.vm_face import DEBUG, Vm, fail

if TYPE_CHECKING:
    from conftest import Run

PAGE = mmap.PAGESIZE
MIB = 1 << 20
RANGE_CALLS = [
    "commit", "decommit", "unmap", "purge_lazy", "purge_now", "advise_huge", "advise_no_huge", "populate", "will_need",
]  # fmt: skip
COUNTED = {*RANGE_CALLS, "reserve", "bind", "map_file", "map_huge", "map", "remap"}


def mapping(address: int) -> dict[str, str]:
    """Return what /proc/self/smaps says of the mapping around an address; empty if there is none."""
    found: dict[str, str] = {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and not first.endswith(":"):
            if found:
                break
            low, high = (int(x, 16) for x in first.split("-"))
            if low <= address < high:
                found = {"range": first, "protection": rest.split()[0], "size": str(high - low)}
        elif found:
            found[first.rstrip(":")] = rest.strip()
    return found


def inaccessible_bytes() -> int:
    """Return how many addresses are mapped and can not be accessed."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    ends = [ends.split("-") for ends, protection, *_ in lines if protection == "---p"]
    return sum(int(end, 16) - int(start, 16) for start, end in ends)


def read(address: int, n: int = 1) -> bytes:
    return ctypes.string_at(address, n)


def write(address: int, text: bytes) -> None:
    ctypes.memmove(address, text, len(text))


@pytest.fixture
def vm() -> Iterator[Vm]:
    with Vm() as vm:
        yield vm


@pytest.fixture
def reserved(vm: Vm) -> Iterator[int]:
    """The address of 4 MiB reserved at a multiple of 2 MiB."""
    error, address = vm.reserve(4 * MIB, 2 * MIB)
    assert 0 == error
    yield address
    vm.unmap(address, 4 * MIB)


@pytest.fixture
def committed(vm: Vm, reserved: int) -> int:
    assert 0 == vm.commit(reserved, 4 * MIB)
    return reserved


# ---- V1 ----


@pytest.mark.parametrize("align", [0, 1, PAGE, 1 << 16, 2 * MIB, 1 << 30])
def test_V1_reserve_gives_exactly_the_addresses_asked_for_aligned(vm: Vm, align: int) -> None:
    """A reservation is aligned, inaccessible, of the size asked, and not in core dumps; no slack is left around it."""
    before = inaccessible_bytes()

    error, address = vm.reserve(3 * PAGE, align)

    assert (0, 0) == (error, address % max(align, PAGE))
    assert inaccessible_bytes() - before == 3 * PAGE  # where it touches another one, both are shown as one
    assert mapping(address)["protection"] == mapping(address + 3 * PAGE - 1)["protection"] == "---p"
    assert "dd" in mapping(address)["VmFlags"].split()
    assert 0 == vm.unmap(address, 3 * PAGE)
    assert inaccessible_bytes() == before


def test_V1_reserve_more_than_there_are_addresses_returns_enomem(vm: Vm) -> None:
    """A reservation the kernel cannot make is an errno, with size and alignment at their worst too."""
    assert (errno.ENOMEM, 0) == vm.reserve(1 << 56, 0)
    assert (errno.ENOMEM, 0) == vm.reserve((1 << 63) - PAGE, 1 << 63)


def test_V1_committed_memory_reads_zero_and_keeps_what_is_written(vm: Vm, reserved: int) -> None:
    """commit makes a range readable and writable, in core dumps again; committing twice keeps the contents."""
    assert 0 == vm.commit(reserved + PAGE, PAGE)
    assert bytes(PAGE) == read(reserved + PAGE, PAGE)
    write(reserved + PAGE, b"kept")

    assert 0 == vm.commit(reserved, 3 * PAGE)
    assert b"kept" == read(reserved + PAGE, 4)
    assert "dd" not in mapping(reserved)["VmFlags"].split()


def test_V1_decommit_takes_the_memory_and_keeps_the_addresses(vm: Vm, committed: int) -> None:
    """After decommit the range is reserved as before, and reads 0 when committed again."""
    write(committed, b"lost")

    assert 0 == vm.decommit(committed, PAGE)
    assert "---p" == mapping(committed)["protection"]
    assert "dd" in mapping(committed)["VmFlags"].split()
    assert 0 == vm.commit(committed, PAGE)
    assert b"\0\0\0\0" == read(committed, 4)


def test_V1_purge_now_reads_zero(vm: Vm, committed: int) -> None:
    """After purge_now pages read 0 and can be written without another call; their neighbours are untouched."""
    write(committed, b"x" * 3 * PAGE)

    assert 0 == vm.purge_now(committed + PAGE, PAGE)
    assert b"x" * PAGE + bytes(PAGE) + b"x" * PAGE == read(committed, 3 * PAGE)
    write(committed + PAGE, b"again")
    assert b"again" == read(committed + PAGE, 5)


def test_V1_purge_lazy_keeps_or_zeroes_whole_pages(vm: Vm, committed: int) -> None:
    """After purge_lazy a page reads as before or 0; once written it keeps what was written."""
    write(committed, b"x" * PAGE)

    assert 0 == vm.purge_lazy(committed, PAGE)
    assert read(committed, PAGE) in (b"x" * PAGE, bytes(PAGE))
    write(committed, b"y")
    assert b"y" == read(committed)


def test_V1_huge_page_advice_is_on_the_range(vm: Vm, committed: int) -> None:
    """advise_huge and advise_no_huge set the kernel's flag for the range, the later one wins."""
    assert 0 == vm.advise_huge(committed, 2 * MIB)
    assert "hg" in mapping(committed)["VmFlags"].split()
    assert 0 == vm.advise_no_huge(committed, 2 * MIB)
    assert "nh" in mapping(committed)["VmFlags"].split()


def test_V1_populate_makes_pages_resident(vm: Vm, committed: int) -> None:
    """After populate the range is resident without a touch."""
    vm.advise_no_huge(committed, 4 * MIB)

    assert 0 == vm.populate(committed, 64 * PAGE)
    assert f"{64 * PAGE // 1024} kB" == mapping(committed)["Rss"]


def test_V1_will_need_takes_any_range(vm: Vm, committed: int) -> None:
    """will_need need not begin or end on a page, and changes no contents."""
    write(committed + 5, b"same")

    assert 0 == vm.will_need(committed + 5, 4)
    assert 0 == vm.will_need(committed + PAGE - 1, PAGE + 2)
    assert b"same" == read(committed + 5, 4)


def test_V1_bind_prefers_a_node_that_exists(vm: Vm, committed: int) -> None:
    """bind serves the nodes there are and returns EINVAL for others; the memory can be used all the same."""
    assert 0 == vm.bind(committed, MIB, 0)
    write(committed, b"bound")
    assert errno.EINVAL == vm.bind(committed, MIB, 63)
    assert errno.EINVAL == vm.bind(committed, MIB, 64)


def test_V1_map_file_is_shared_with_the_file(vm: Vm) -> None:
    """A mapping of a file reads and writes the file itself, from the offset asked."""
    with tempfile.TemporaryFile() as file:
        file.write(b"a" * PAGE + b"b" * PAGE)
        file.flush()
        error, address = vm.map_file(file.fileno(), PAGE, PAGE)

        assert (0, b"bb") == (error, read(address, 2))
        write(address, b"w")
        assert b"ab" + b"w" == os.pread(file.fileno(), 1, 0) + b"b" + os.pread(file.fileno(), 1, PAGE)
        assert 0 == vm.unmap(address, PAGE)


def test_V1_map_file_returns_what_the_kernel_says(vm: Vm) -> None:
    """A descriptor that is closed, an offset off the page and a file opened for reading alone are errno values."""
    with tempfile.NamedTemporaryFile() as file, open(file.name, "rb") as readable:
        assert (errno.EINVAL, 0) == vm.map_file(file.fileno(), 1, PAGE)
        assert (errno.EACCES, 0) == vm.map_file(readable.fileno(), 0, PAGE)
    assert (errno.EBADF, 0) == vm.map_file(100_000, 0, PAGE)


@pytest.mark.parametrize("huge_page_size", [2 * MIB, 1 << 30])
def test_V1_map_huge_gives_huge_pages_or_an_errno(vm: Vm, huge_page_size: int) -> None:
    """Memory on huge pages can be written; where the system has set none aside the call returns an errno."""
    error, address = vm.map_huge(huge_page_size, huge_page_size)

    if error:
        assert (True, 0) == (error in (errno.ENOMEM, errno.EINVAL), address)
    else:
        write(address, b"huge")
        assert (0, 0) == (address % huge_page_size, vm.unmap(address, huge_page_size))


@pytest.mark.parametrize("huge_page_size", [1, 1 << 13, 1 << 31, 1 << 32, 1 << 40, 1 << 62])
def test_V1_map_huge_of_a_size_no_processor_has_returns_an_errno(vm: Vm, huge_page_size: int) -> None:
    """Any power of two is a question the kernel may be asked."""
    error, address = vm.map_huge(huge_page_size, huge_page_size)

    assert (True, 0) == (error in (errno.EINVAL, errno.ENOMEM), address)


@pytest.mark.parametrize("call", ["commit", "purge_lazy", "purge_now", "advise_huge", "populate", "will_need"])
@pytest.mark.parametrize("address", [0, 0x1234_5000, (1 << 64) - PAGE, 1 << 63])
def test_V1_a_bad_address_is_an_errno(vm: Vm, call: str, address: int) -> None:
    """Addresses where nothing is mapped, or nothing can be, are refused by the kernel and nothing breaks."""
    assert getattr(vm, call)(address, PAGE) in (errno.ENOMEM, errno.EINVAL, errno.EFAULT)


@pytest.mark.parametrize("call", [call for call in RANGE_CALLS if call != "will_need"])
def test_V1_a_misaligned_address_is_einval(vm: Vm, committed: int, call: str) -> None:
    """Ranges begin on an OS page."""
    assert errno.EINVAL == getattr(vm, call)(committed + 8, PAGE)


def test_V1_stats_count_calls_bytes_time_and_failures(vm: Vm) -> None:
    """Each use adds one call and its time; its bytes if it succeeded, one failure if not."""
    before = vm.stats()
    _error, address = vm.reserve(8 * PAGE, 0)
    vm.commit(address, 3 * PAGE)
    vm.commit(address + 1, PAGE)
    vm.unmap(address, 8 * PAGE)
    after = vm.stats()

    grown = {call: {k: after[call][k] - before[call][k] for k in after[call]} for call in after}
    assert grown["commit"].pop("nanoseconds") > 0
    assert {"calls": 2, "bytes": 3 * PAGE, "failures": 1} == grown["commit"]
    assert (1, 8 * PAGE, 0) == (grown["reserve"]["calls"], grown["reserve"]["bytes"], grown["reserve"]["failures"])
    assert (1, 8 * PAGE, 0) == (grown["unmap"]["calls"], grown["unmap"]["bytes"], grown["unmap"]["failures"])


def test_V1_stats_have_every_call(vm: Vm) -> None:
    """No key is ever missing, and every value is an int."""
    stats = vm.stats()

    assert COUNTED == set(stats)
    assert {("calls", "bytes", "nanoseconds", "failures")} == {tuple(s) for s in stats.values()}
    assert {int} == {type(value) for s in stats.values() for value in s.values()}


def test_V1_any_thread_may_call(vm: Vm) -> None:
    """Counts of calls from several threads add up."""
    before = vm.stats()["reserve"]["calls"]

    def work() -> None:
        for _ in range(200):
            _, address = vm.reserve(PAGE, 0)
            vm.commit(address, PAGE)
            vm.unmap(address, PAGE)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()

    assert 800 == vm.stats()["reserve"]["calls"] - before


@pytest.mark.debug
def test_V1_metadata_is_zeroed_writable_and_accounted() -> None:
    """What freehold maps for itself reads 0, and counts as metadata until it is unmapped."""
    from freehold.face import probe

    before = probe.metadata_bytes()
    error, address = probe.map_metadata(3 * PAGE)

    assert (0, bytes(3 * PAGE)) == (error, read(address, 3 * PAGE))
    assert before + 3 * PAGE == probe.metadata_bytes()
    write(address, b"kept apart")
    assert 0 == probe.unmap_metadata(address, 3 * PAGE)
    assert ({}, before) == (mapping(address), probe.metadata_bytes())


@pytest.mark.debug
def test_V1_remap_moves_pages_to_reserved_addresses(vm: Vm, committed: int) -> None:
    """remap moves contents without a copy to where addresses were reserved; what they leave is mapped, and reads 0."""
    from freehold.face import probe

    _, to = vm.reserve(MIB, MIB)
    write(committed, b"moved")

    assert 0 == probe.remap(committed, to, PAGE)
    assert b"moved" + bytes(PAGE - 5) == read(to, PAGE)
    assert bytes(PAGE) == read(committed, PAGE)
    write(committed, b"again")
    assert b"moved" == read(to, 5)
    assert 0 == vm.unmap(to, MIB)


@pytest.mark.debug
@pytest.mark.parametrize("call", ["reserve_at", "commit_at"])
def test_V1_mapping_at_an_address_never_replaces_what_is_there(vm: Vm, committed: int, call: str) -> None:
    """Where anything is mapped the call returns EEXIST and changes nothing; where nothing is, it maps just there."""
    from freehold.face import probe

    write(committed + PAGE, b"mine")
    vm.unmap(committed, PAGE)

    assert errno.EEXIST == getattr(probe, call)(committed, 2 * PAGE)
    assert b"mine" == read(committed + PAGE, 4)
    assert 0 == getattr(probe, call)(committed, PAGE)
    assert {"reserve_at": "---p", "commit_at": "rw-p"}[call] == mapping(committed)["protection"]


# ---- V2 ----


@pytest.mark.debug
@pytest.mark.parametrize("call", sorted(COUNTED - {"map", "remap"}))
def test_V2_every_call_can_be_made_to_fail(vm: Vm, committed: int, call: str) -> None:
    """Within `fail` the call returns the errno asked, is counted as failed, and has done nothing."""
    with tempfile.TemporaryFile() as file:
        file.truncate(PAGE)
        arguments = {
            "reserve": (PAGE, 0),
            "bind": (committed, PAGE, 0),
            "map_file": (file.fileno(), 0, PAGE),
            "map_huge": (2 * MIB, 2 * MIB),
        }.get(call, (committed, PAGE))
        expected = (errno.EPERM, 0) if call in ("reserve", "map_file", "map_huge") else errno.EPERM
        before = vm.stats()[call]
        write(committed, b"here")
        with fail(call, errno=errno.EPERM) as failing:
            result = getattr(vm, call)(*arguments)

        assert (expected, 1, 1) == (result, failing.calls, failing.failed)
        assert before["failures"] + 1 == vm.stats()[call]["failures"]
        assert before["bytes"] == vm.stats()[call]["bytes"]
        assert b"here" == read(committed, 4)


@pytest.mark.debug
def test_V2_what_freehold_maps_for_itself_can_be_made_to_fail(committed: int) -> None:
    """The calls that no method of `Vm` makes, map and remap, fail as the others do."""
    from freehold.face import probe

    before = probe.metadata_bytes()
    with fail("map"), fail("remap", errno=errno.EAGAIN):
        assert (errno.ENOMEM, 0) == probe.map_metadata(PAGE)
        assert errno.EAGAIN == probe.remap(committed, committed + PAGE, PAGE)
    assert before == probe.metadata_bytes()


@pytest.mark.debug
def test_V2_the_nth_use_fails_and_as_many_after_it_as_asked(vm: Vm, committed: int) -> None:
    """nth counts from 1 and from entering; times uses fail; before, after and outside none does."""
    vm.commit(committed, PAGE)
    with fail("commit", nth=3, times=2) as failing:
        results = [vm.commit(committed, PAGE) for _ in range(6)]
        counts = (failing.calls, failing.failed)

    assert [0, 0, errno.ENOMEM, errno.ENOMEM, 0, 0] == results
    assert (6, 2) == counts == (failing.calls, failing.failed)
    assert 0 == vm.commit(committed, PAGE)
    assert (6, 2) == (failing.calls, failing.failed)


@pytest.mark.debug
def test_V2_from_the_nth_on(vm: Vm, committed: int) -> None:
    """A very large `times` fails every use from the nth on."""
    with fail("commit", nth=2, times=1 << 63):
        assert [0, *[errno.ENOMEM] * 9] == [vm.commit(committed, PAGE) for _ in range(10)]


@pytest.mark.debug
def test_V2_calls_fail_each_for_themselves(vm: Vm, committed: int) -> None:
    """Several calls may be failing at once; the same one twice is an error that leaves the first in force."""
    with fail("commit", errno=errno.EIO), fail("purge_now", errno=errno.EAGAIN):
        with pytest.raises(RuntimeError), fail("commit"):
            pass
        assert (errno.EIO, errno.EAGAIN) == (vm.commit(committed, PAGE), vm.purge_now(committed, PAGE))
    assert (0, 0) == (vm.commit(committed, PAGE), vm.purge_now(committed, PAGE))


@pytest.mark.debug
def test_V2_an_exception_inside_ends_the_failing(vm: Vm, committed: int) -> None:
    """Leaving `fail` by an exception ends it as leaving it quietly does."""
    with pytest.raises(KeyError), fail("commit", times=100):
        raise KeyError

    assert 0 == vm.commit(committed, PAGE)


@pytest.mark.debug
def test_V2_threads_share_the_count_of_uses(vm: Vm, committed: int) -> None:
    """Of uses from many threads exactly `times` fail."""
    failures: list[int] = []

    def work() -> None:
        failures.extend(vm.will_need(committed, PAGE) for _ in range(1000))

    threads = [threading.Thread(target=work) for _ in range(4)]
    with fail("will_need", nth=500, times=777) as failing:
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    assert (4000, 777) == (failing.calls, failing.failed)
    assert 777 == sum(error == errno.ENOMEM for error in failures)


@pytest.mark.debug
def test_V2_wrong_arguments_of_fail_raise() -> None:
    """An unknown call, and counts from 0, are ValueErrors; things that are no such thing TypeErrors."""
    for wrong in ({"call": "mmap"}, {"nth": 0}, {"times": 0}, {"errno": 0}, {"nth": -1}, {"errno": 1 << 20}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fail(**{"call": "commit", **wrong})
    for wrong in ({"call": 1}, {"nth": 1.5}, {"times": "2"}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            fail(**{"call": "commit", **wrong})


def test_V2_a_release_build_refuses_to_fail() -> None:
    """`fail` raises RuntimeError unless the build has it."""
    if DEBUG:
        assert 0 == fail("commit").failed
    else:
        with pytest.raises(RuntimeError):
            fail("commit")


# ---- V3 ----


def kernel_says(path: str) -> str:
    return Path(path).read_text().strip()


def test_V3_facts_are_the_systems(vm: Vm) -> None:
    """Each fact is what the kernel says of itself."""
    facts = vm.facts()
    mode = kernel_says("/sys/kernel/mm/transparent_hugepage/enabled")
    nodes = [n for n in os.listdir("/sys/devices/system/node") if n.startswith("node")]

    assert PAGE == facts["page_size"]
    assert int(kernel_says("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")) == facts["huge_page_size"]
    assert mode[mode.index("[") + 1 : mode.index("]")] == facts["huge_page_mode"]
    assert max(int(n.removeprefix("node")) for n in nodes) + 1 == facts["numa_nodes"]
    assert int(kernel_says("/proc/sys/vm/overcommit_memory")) == facts["overcommit"]


def test_V3_rlimit_as_is_told_or_none(vm: Vm, run_program: Run) -> None:
    """The limit on addresses is its number of bytes, None where there is none."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    program = "from freehold.face.vm_face import Vm; print(Vm().facts()['rlimit_as'])"

    assert (None if soft == resource.RLIM_INFINITY else soft) == vm.facts()["rlimit_as"]
    assert f"{1 << 34}\n" == run_program(program, address_limit=1 << 34).stdout


def test_V3_the_cgroup_limit_is_an_int_or_none(vm: Vm) -> None:
    """A process in no limited cgroup has the limit None."""
    limit = vm.facts()["cgroup_limit"]

    assert limit is None or (isinstance(limit, int) and 0 < limit < 1 << 62)


GROUPS = {
    # name: (what /proc/self/cgroup says, files under the mount point, the limit found)
    "version_2": ("0::/a/b\n", {"a/b/memory.max": "4096\n"}, 4096),
    "version_2_above_the_process": ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "8192\n"}, 8192),
    "version_2_the_tightest": ("0::/a/b\n", {"a/b/memory.max": "8192", "a/memory.max": "4096"}, 4096),
    "version_2_its_own_root": ("0::/\n", {"memory.max": "4096\n"}, 4096),
    "version_2_a_root_without_a_file": ("0::/a\n", {"a/memory.max": "4096\n"}, 4096),
    "version_2_no_limit": ("0::/a\n", {"a/memory.max": "max\n"}, None),
    "version_1": ("9:cpu:/x\n4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "4096\n"}, 4096),
    "version_1_above_the_process": (
        "4:cpu,memory:/a/b\n",
        {"memory/a/b/memory.limit_in_bytes": "9223372036854771712", "memory/a/memory.limit_in_bytes": "4096"},
        4096,
    ),
    "version_1_no_limit": ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712\n"}, None),
    # A container without a namespace of its own: the path is the host's, the mount shows its own group as the root.
    "a_path_that_is_not_mounted": ("0::/host/slice\n", {"memory.max": "4096\n"}, 4096),
    "version_1_a_path_that_is_not_mounted": ("4:memory:/host\n", {"memory/memory.limit_in_bytes": "4096"}, 4096),
    "another_controllers_group": ("4:memory_x:/a\n", {"memory/a/memory.limit_in_bytes": "4096"}, None),
    "a_path_too_long": ("0::/" + "a" * 5000 + "\n", {"memory.max": "4096\n"}, None),
    "nothing": ("", {}, None),
}


@pytest.mark.debug
@pytest.mark.parametrize("case", GROUPS)
def test_V3_the_cgroup_limit_is_the_tightest_around_the_process(case: str, tmp_path: Path) -> None:
    """The limit is the least of the process's own cgroup and every one around it, by either version of cgroups."""
    from freehold.face import probe

    membership, files, limit = GROUPS[case]
    (tmp_path / "self").write_text(membership)
    for name, text in files.items():
        (tmp_path / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mount" / name).write_text(text)

    found = probe.cgroup_limit(str(tmp_path / "self").encode(), str(tmp_path / "mount").encode())

    assert ((1 << 64) - 1 if limit is None else limit) == found


# ---- G ----


def test_G1_a_closed_vm_raises(vm: Vm) -> None:
    """close may be called twice; any other call after it raises ValueError."""
    vm = Vm()
    vm.close()
    vm.close()

    calls = [(name, (PAGE, PAGE)) for name in RANGE_CALLS]
    calls += [
        ("reserve", (PAGE, 0)),
        ("bind", (0, PAGE, 0)),
        ("map_file", (0, 0, PAGE)),
        ("map_huge", (2 * MIB, 2 * MIB)),
    ]
    for name, arguments in [*calls, ("facts", ()), ("stats", ()), ("__enter__", ())]:
        with pytest.raises(ValueError, match="closed"):
            getattr(vm, name)(*arguments)


@pytest.mark.parametrize(
    ("call", "arguments", "named"),
    [
        ("reserve", (0, 0), "size"),
        ("reserve", (-PAGE, 0), "size"),
        ("reserve", (PAGE + 1, 0), "size"),
        ("reserve", (1 << 63, 0), "size"),
        ("reserve", (PAGE, 3), "align"),
        ("reserve", (PAGE, -1), "align"),
        ("commit", (-PAGE, PAGE), "address"),
        ("commit", (1 << 64, PAGE), "address"),
        ("commit", (PAGE, 0), "size"),
        ("decommit", (PAGE, 100), "size"),
        ("will_need", (PAGE, 0), "size"),
        ("bind", (PAGE, PAGE, -1), "node"),
        ("map_file", (-1, 0, PAGE), "fd"),
        ("map_file", (0, -1, PAGE), "offset"),
        ("map_huge", (MIB, 3), "huge_page_size"),
        ("map_huge", (PAGE, 2 * MIB), "size"),
    ],
)
def test_G2_a_wrong_argument_is_named(vm: Vm, call: str, arguments: tuple[int, ...], named: str) -> None:
    """Sizes that are none, alignments that are no power of two and addresses outside 64 bits raise ValueError."""
    with pytest.raises(ValueError, match=named):
        getattr(vm, call)(*arguments)


@pytest.mark.parametrize("call", [*RANGE_CALLS, "reserve"])
@pytest.mark.parametrize("wrong", [1.0, "4096", None])
def test_G2_what_is_no_int_is_a_type_error(vm: Vm, call: str, wrong: object) -> None:
    """Only ints (and what counts as one, as NumPy's) are taken."""
    with pytest.raises(TypeError):
        getattr(vm, call)(wrong, PAGE)
    with pytest.raises(TypeError):
        getattr(vm, call)(PAGE, wrong)
