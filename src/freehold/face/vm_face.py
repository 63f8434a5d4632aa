# cython: language_level=3
"""The operating system's memory calls as Python meets them: `Vm`, and `fail`, which makes them fail.

Thread-safety: every method may be called from any thread; the GIL is released around the system call.
Invariant: a method returns what the kernel said, 0 or an errno; it raises only for arguments that are no sizes or
addresses.
Does not: remember what is mapped, or protect anybody from unmapping what is in use.
"""

import errno as error_numbers

import cython
from cython.cimports.freehold.core.heap import heap_boot
from cython.cimports.freehold.core.vm import (
    HUGE_ADVISED,
    HUGE_ALWAYS,
    HUGE_NEVER,
    VM_CALLS,
    VmCall,
    VmFacts,
    vm_advise_huge,
    vm_advise_no_huge,
    vm_bind,
    vm_call_name,
    vm_check_level,
    vm_commit,
    vm_decommit,
    vm_facts,
    vm_fail,
    vm_fail_counts,
    vm_map_file,
    vm_map_huge,
    vm_populate,
    vm_purge_lazy,
    vm_purge_now,
    vm_read_stats,
    vm_reserve,
    vm_unmap,
    vm_will_need,
)
from cython.cimports.freehold.face.vm_face import RangeCall
from cython.cimports.libc.stdint import uint64_t

from freehold._arguments import integer, power_of_two, size_of

heap_boot()

DEBUG = vm_check_level() > 0
"""Whether this is the debug build."""

CALLS = {vm_call_name(call).decode(): call for call in range(VM_CALLS)}


@cython.cfunc
def over_range(call: RangeCall, address: object, size: object) -> object:
    """Make a call that takes a range of whole pages, and return its errno."""
    at: uint64_t = integer("address", address)
    n: uint64_t = size_of("size", size, vm_facts().page_size)
    error: cython.int
    with cython.nogil:
        error = call(at, n)
    return error


@cython.cfunc
def or_none(limit: uint64_t) -> object:
    """Return a limit, or None for the number that means there is none."""
    return None if limit == ~cython.cast(uint64_t, 0) else limit


@cython.final
@cython.cclass
class Vm:
    """The operating system's memory calls, each counted.

    A method returns 0 or the errno; those that make a mapping return ``(errno, address)``, the address 0 if refused.
    Sizes are multiples of the OS page (`map_file`, `will_need`: any).

    Example:
        >>> with Vm() as vm:
        ...     error, address = vm.reserve(1 << 20, 1 << 16)
        ...     error, address % (1 << 16), vm.commit(address, 4096), vm.unmap(address, 1 << 20)
        (0, 0, 0, 0)

    Thread-safety: any method, any thread.
    """

    _closed: cython.bint

    def __enter__(self):
        self._check_open()
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Refuse further calls. What was mapped stays mapped."""
        self._closed = True

    @cython.cfunc
    def _check_open(self) -> object:
        if self._closed:
            raise ValueError("this Vm is closed")

    def facts(self) -> dict:
        """Return what was read about the system at start-up; None where there is no limit."""
        self._check_open()
        f: cython.pointer[VmFacts] = vm_facts()
        modes = {HUGE_NEVER: "never", HUGE_ADVISED: "madvise", HUGE_ALWAYS: "always"}  # the kernel's words
        return {
            "page_size": f.page_size,
            "huge_page_size": f.huge_page_size,
            "huge_page_mode": modes[f.huge_page_mode],
            "numa_nodes": f.numa_nodes,
            "overcommit": f.overcommit,
            "rlimit_as": or_none(f.rlimit_as),
            "cgroup_limit": or_none(f.cgroup_limit),
        }

    def stats(self) -> dict:
        """Return, by call: its uses, the bytes of those that succeeded, the nanoseconds of all, and its failures."""
        self._check_open()
        c = cython.declare(VmCall)
        result = {}
        for name, call in CALLS.items():
            vm_read_stats(call, cython.address(c))
            result[name] = {
                "calls": c.calls,
                "bytes": c.bytes,
                "nanoseconds": c.nanoseconds,
                "failures": c.failures,
            }
        return result

    def reserve(self, size, align=0) -> tuple:
        """Reserve addresses with no memory behind them, at a multiple of `align` (a power of two; 0: any page)."""
        self._check_open()
        n: uint64_t = size_of("size", size, vm_facts().page_size)
        multiple: uint64_t = power_of_two("align", align) if integer("align", align) else 0
        address: uint64_t = 0
        error: cython.int
        with cython.nogil:
            error = vm_reserve(n, multiple, cython.address(address))
        return error, address

    def commit(self, address, size) -> int:
        """Make a reserved range readable and writable; contents, if any, are kept."""
        self._check_open()
        return over_range(vm_commit, address, size)

    def decommit(self, address, size) -> int:
        """Take a range back to addresses alone; its contents are lost."""
        self._check_open()
        return over_range(vm_decommit, address, size)

    def unmap(self, address, size) -> int:
        """Give a range of addresses back."""
        self._check_open()
        return over_range(vm_unmap, address, size)

    def purge_lazy(self, address, size) -> int:
        """Let the kernel take the pages when it needs them (MADV_FREE); until then they keep their contents."""
        self._check_open()
        return over_range(vm_purge_lazy, address, size)

    def purge_now(self, address, size) -> int:
        """Give the pages back at once (MADV_DONTNEED); they read 0 from here on."""
        self._check_open()
        return over_range(vm_purge_now, address, size)

    def advise_huge(self, address, size) -> int:
        """Ask for transparent huge pages in a range."""
        self._check_open()
        return over_range(vm_advise_huge, address, size)

    def advise_no_huge(self, address, size) -> int:
        """Ask for no transparent huge pages in a range."""
        self._check_open()
        return over_range(vm_advise_no_huge, address, size)

    def populate(self, address, size) -> int:
        """Fault a committed range in, for writing."""
        self._check_open()
        return over_range(vm_populate, address, size)

    def will_need(self, address, size) -> int:
        """Say that a range will be read soon; it need not begin or end on a page."""
        self._check_open()
        at: uint64_t = integer("address", address)
        n: uint64_t = size_of("size", size)
        error: cython.int
        with cython.nogil:
            error = vm_will_need(at, n)
        return error

    def bind(self, address, size, node) -> int:
        """Prefer the memory of one NUMA node for a range."""
        self._check_open()
        at: uint64_t = integer("address", address)
        n: uint64_t = size_of("size", size, vm_facts().page_size)
        where: cython.int = integer("node", node, 0, (1 << 31) - 1)
        error: cython.int
        with cython.nogil:
            error = vm_bind(at, n, where)
        return error

    def map_file(self, fd, offset, size) -> tuple:
        """Map a part of an open file, shared, for reading and writing."""
        self._check_open()
        file: cython.int = integer("fd", fd, 0, (1 << 31) - 1)
        start: uint64_t = integer("offset", offset, 0, (1 << 63) - 1)
        n: uint64_t = size_of("size", size)
        address: uint64_t = 0
        error: cython.int
        with cython.nogil:
            error = vm_map_file(file, start, n, cython.address(address))
        return error, address

    def map_huge(self, size, huge_page_size=1 << 21) -> tuple:
        """Map memory on huge pages of the system's pool: 2 MiB or 1 GiB each, set aside by its administrator."""
        self._check_open()
        page: uint64_t = power_of_two("huge_page_size", huge_page_size)
        n: uint64_t = size_of("size", size, page)
        address: uint64_t = 0
        error: cython.int
        with cython.nogil:
            error = vm_map_huge(n, page, cython.address(address))
        return error, address


@cython.final
@cython.cclass
class Failing:
    """A call of `Vm` that fails while this is entered: what `fail` returns.

    Attributes:
        calls: uses of the call since this was entered.
        failed: how many of them were made to fail.
    """

    _call: cython.int
    _name: object
    _nth: uint64_t
    _times: uint64_t
    _errno: cython.int
    _entered: cython.bint
    _calls: uint64_t
    _failed: uint64_t

    def __enter__(self):
        if self._name in being_failed:
            raise RuntimeError(f"'{self._name}' is being made to fail already")
        being_failed.add(self._name)
        self._entered = True
        vm_fail(self._call, self._nth, self._times, self._errno)
        return self

    def __exit__(self, *_):
        vm_fail_counts(self._call, cython.address(self._calls), cython.address(self._failed))
        vm_fail(self._call, 0, 0, 0)
        self._entered = False
        being_failed.discard(self._name)

    @property
    def calls(self) -> int:
        self._read()
        return self._calls

    @property
    def failed(self) -> int:
        self._read()
        return self._failed

    @cython.cfunc
    def _read(self) -> object:
        if self._entered:
            vm_fail_counts(self._call, cython.address(self._calls), cython.address(self._failed))


being_failed = set()  # names of calls: one `fail` each at a time


def fail(call, *, nth=1, times=1, errno=error_numbers.ENOMEM) -> Failing:
    """Make the nth … nth+times-1 uses of a vm call fail, in this process, while the result is entered.

    In the debug build alone.

    Args:
        call: the name of the call, as in `Vm` ('map': memory for freehold's own tables).
        nth: the first use that fails, from 1.
        times: how many uses fail from there on.
        errno: what they fail with.

    Raises:
        RuntimeError: this is a release build, or the call is being made to fail already.

    Example:
        >>> with fail("commit", nth=2) as failing:  # doctest: +SKIP
        ...     work()
        ...     print(failing.calls, failing.failed)

    Thread-safety: all threads of the process see the call fail.
    """
    if not DEBUG:
        raise RuntimeError("calls can be made to fail in the debug build alone")
    if not isinstance(call, str):
        raise TypeError(f"call must be a str, not {type(call).__name__}")
    if call not in CALLS:
        raise ValueError(f"call must be one of {', '.join(CALLS)}, not {call!r}")
    f: Failing = Failing()
    f._call = CALLS[call]
    f._name = call
    f._nth = integer("nth", nth, 1)
    f._times = integer("times", times, 1)
    f._errno = integer("errno", errno, 1, 4095)
    return f
