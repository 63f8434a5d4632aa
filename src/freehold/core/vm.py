"""The operating system's memory calls, each counted, each able to fail on demand.

Thread-safety: every function may be called from any thread; the counters are atomic and relaxed.
Invariant: for each call, ``failures <= calls``; ``bytes`` counts successful calls alone.
Does not remember what is mapped: ``space`` and the layers do.
Follows: mimalloc's ``prim`` contract (preconditions stated once, results are errno values).
"""

import cython
from cython.cimports.freehold.core.machine import (
    CHECK,
    EEXIST,
    EINVAL,
    ENOMEM,
    MADV_DODUMP,
    MADV_DONTDUMP,
    MADV_DONTNEED,
    MADV_FREE,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    MADV_POPULATE_WRITE,
    MADV_WILLNEED,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_HUGETLB,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    MREMAP_DONTUNMAP,
    MREMAP_FIXED,
    MREMAP_MAYMOVE,
    O_CLOEXEC,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    RLIMIT_AS,
    SC_PAGESIZE,
    SYS_MBIND,
    SYS_MMAP,
    SYS_MREMAP,
    add64_relaxed,
    close,
    ctz,
    errno,
    getrlimit,
    least,
    load64_acquire,
    load64_relaxed,
    madvise,
    memchr,
    mincore,
    mprotect,
    munmap,
    now_ns,
    open,
    read,
    rlimit,
    round_up,
    snprintf,
    store64_relaxed,
    store64_release,
    strchr,
    strlen,
    strncmp,
    strrchr,
    strstr,
    strtoull,
    sub64_relaxed,
    syscall,
    sysconf,
)
from cython.cimports.freehold.core.vm import (
    HUGE_ADVISED,
    HUGE_ALWAYS,
    HUGE_NEVER,
    VM_ADVISE_HUGE,
    VM_ADVISE_NO_HUGE,
    VM_BIND,
    VM_CALLS,
    VM_COMMIT,
    VM_DECOMMIT,
    VM_MAP,
    VM_MAP_FILE,
    VM_MAP_HUGE,
    VM_POPULATE,
    VM_PURGE_LAZY,
    VM_PURGE_NOW,
    VM_REMAP,
    VM_RESERVE,
    VM_UNMAP,
    VM_WILL_NEED,
    VmCall,
    VmFacts,
    VmFault,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

vm_calls = cython.declare(VmCall[VM_CALLS])
vm_faults = cython.declare(VmFault[VM_CALLS])  # debug builds alone look at it
vm_the_facts = cython.declare(VmFacts)  # written by vm_boot, then constant
vm_metadata = cython.declare(uint64_t)  # bytes; atomic, relaxed: statistics only

# ---- facts ----


def vm_read_file(path: cython.p_const_char, into: cython.p_char, room: cython.size_t) -> cython.size_t:
    """Read a small file of /proc or /sys as a string; 0 if it is not there."""
    fd: cython.int = open(path, O_CLOEXEC)
    if fd < 0:
        return 0
    n: cython.Py_ssize_t = read(fd, into, room - 1)
    close(fd)
    if n < 0:
        n = 0
    into[n] = 0
    return n


def vm_read_number(path: cython.p_const_char, otherwise: uint64_t) -> uint64_t:
    """Return the number a file begins with, or `otherwise` where there is none ("max")."""
    text = cython.declare(cython.char[128])
    if vm_read_file(path, text, 128) == 0 or text[0] < 48 or text[0] > 57:
        return otherwise
    return strtoull(text, cython.NULL, 10)


def vm_cgroup_limit(membership: cython.p_const_char, mount: cython.p_const_char) -> uint64_t:
    """Return the least limit of the process's memory cgroup and of those around it, by either version of cgroups."""
    groups = cython.declare(cython.char[4096])
    limit: uint64_t = ~cython.cast(uint64_t, 0)
    n: cython.size_t = vm_read_file(membership, groups, 4096)
    line: cython.p_char = groups
    while line < groups + n:  # a line is "number:controllers:path"
        end: cython.p_char = cython.cast(cython.p_char, memchr(line, 10, n - (line - groups)))
        if end == cython.NULL:
            break
        end[0] = 0
        controllers: cython.p_char = strchr(line, 58)
        path: cython.p_char = strchr(controllers + 1, 58) if controllers != cython.NULL else cython.NULL
        if path != cython.NULL:
            path[0] = 0
            if controllers[1] == 0:
                limit = least(limit, vm_limit_around(mount, b"", path + 1, b"memory.max"))
            elif vm_names(controllers + 1, b"memory"):
                limit = least(limit, vm_limit_around(mount, b"/memory", path + 1, b"memory.limit_in_bytes"))
        line = end + 1
    return limit


def vm_names(words: cython.p_const_char, word: cython.p_const_char) -> cython.bint:
    """Whether `word` is among words parted by commas."""
    n: cython.size_t = strlen(word)
    while words != cython.NULL:
        if strncmp(words, word, n) == 0 and (words[n] == 0 or words[n] == 44):
            return True
        words = strchr(words, 44)
        if words != cython.NULL:
            words += 1
    return False


def vm_limit_around(
    mount: cython.p_const_char, hierarchy: cython.p_const_char, path: cython.p_char, name: cython.p_const_char
) -> uint64_t:
    """Return the least limit told by files `name` in the folder `path` of a hierarchy and in those above it.

    Where the path is not there (a container that sees its own cgroup as the root), only those above it tell.
    """
    none: uint64_t = ~cython.cast(uint64_t, 0)
    limit: uint64_t = none
    place = cython.declare(cython.char[4096])
    while True:
        if snprintf(place, 4096, b"%s%s%s/%s", mount, hierarchy, path, name) < 4096:
            here: uint64_t = vm_read_number(place, none)
            if here < cython.cast(uint64_t, 1) << 62:  # the older files say "none" with a huge number
                limit = least(limit, here)
        slash: cython.p_char = strrchr(path, 47)
        if slash == cython.NULL:
            return limit
        slash[0] = 0


def vm_boot() -> cython.void:
    text = cython.declare(cython.char[256])
    limit = cython.declare(rlimit)
    f: cython.pointer[VmFacts] = cython.address(vm_the_facts)
    none: uint64_t = ~cython.cast(uint64_t, 0)
    f.page_size = cython.cast(uint64_t, sysconf(SC_PAGESIZE))
    f.huge_page_size = vm_read_number(b"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", 0)
    f.huge_page_mode = HUGE_NEVER
    if vm_read_file(b"/sys/kernel/mm/transparent_hugepage/enabled", text, 256) > 0:
        if strstr(text, b"[madvise]") != cython.NULL:
            f.huge_page_mode = HUGE_ADVISED
        elif strstr(text, b"[always]") != cython.NULL:
            f.huge_page_mode = HUGE_ALWAYS
    f.numa_nodes = 1
    n: cython.size_t = vm_read_file(b"/sys/devices/system/node/online", text, 256)
    while n > 0 and (48 <= text[n - 1] <= 57 or text[n - 1] == 10):
        n -= 1
    if n > 0:  # "0-3": the last number is the highest node
        f.numa_nodes = cython.cast(cython.int, strtoull(cython.address(text[n]), cython.NULL, 10)) + 1
    f.overcommit = cython.cast(cython.int, vm_read_number(b"/proc/sys/vm/overcommit_memory", 0))
    f.rlimit_as = none
    if getrlimit(RLIMIT_AS, cython.address(limit)) == 0:
        f.rlimit_as = limit.rlim_cur
    f.cgroup_limit = vm_cgroup_limit(b"/proc/self/cgroup", b"/sys/fs/cgroup")


def vm_check_level() -> cython.int:
    return CHECK


def vm_facts() -> cython.pointer[VmFacts]:
    return cython.address(vm_the_facts)


def vm_call_name(call: cython.int) -> cython.p_const_char:
    if call == VM_RESERVE:
        return b"reserve"
    if call == VM_COMMIT:
        return b"commit"
    if call == VM_DECOMMIT:
        return b"decommit"
    if call == VM_UNMAP:
        return b"unmap"
    if call == VM_PURGE_LAZY:
        return b"purge_lazy"
    if call == VM_PURGE_NOW:
        return b"purge_now"
    if call == VM_ADVISE_HUGE:
        return b"advise_huge"
    if call == VM_ADVISE_NO_HUGE:
        return b"advise_no_huge"
    if call == VM_POPULATE:
        return b"populate"
    if call == VM_WILL_NEED:
        return b"will_need"
    if call == VM_BIND:
        return b"bind"
    if call == VM_MAP_FILE:
        return b"map_file"
    if call == VM_MAP_HUGE:
        return b"map_huge"
    if call == VM_MAP:
        return b"map"
    if call == VM_REMAP:
        return b"remap"
    return cython.NULL


# ---- counting, and failing on demand ----


def vm_read_stats(call: cython.int, into: cython.pointer[VmCall]) -> cython.void:
    into.calls = load64_relaxed(cython.address(vm_calls[call].calls))
    into.bytes = load64_relaxed(cython.address(vm_calls[call].bytes))
    into.nanoseconds = load64_relaxed(cython.address(vm_calls[call].nanoseconds))
    into.failures = load64_relaxed(cython.address(vm_calls[call].failures))


def vm_fail(call: cython.int, nth: uint64_t, times: uint64_t, error: cython.int) -> cython.void:
    f: cython.pointer[VmFault] = cython.address(vm_faults[call])
    store64_release(cython.address(f.nth), 0)
    store64_relaxed(cython.address(f.seen), 0)
    store64_relaxed(cython.address(f.failed), 0)
    store64_relaxed(cython.address(f.times), times)
    store64_relaxed(cython.address(f.error), cython.cast(uint64_t, error))
    store64_release(cython.address(f.nth), nth)  # pairs with the acquire in vm_must_fail


def vm_fail_counts(call: cython.int, seen: cython.pointer[uint64_t], failed: cython.pointer[uint64_t]) -> cython.void:
    seen[0] = load64_relaxed(cython.address(vm_faults[call].seen))
    failed[0] = load64_relaxed(cython.address(vm_faults[call].failed))


def vm_must_fail(call: cython.int) -> cython.int:
    """Return the errno that a test wants of this use of the call, or 0."""
    if not CHECK:
        return 0
    f: cython.pointer[VmFault] = cython.address(vm_faults[call])
    nth: uint64_t = load64_acquire(cython.address(f.nth))
    if nth == 0:
        return 0
    use: uint64_t = add64_relaxed(cython.address(f.seen), 1) + 1
    if use < nth or use - nth >= load64_relaxed(cython.address(f.times)):
        return 0
    add64_relaxed(cython.address(f.failed), 1)
    return cython.cast(cython.int, load64_relaxed(cython.address(f.error)))


def vm_count(call: cython.int, size: uint64_t, began: uint64_t, error: cython.int) -> cython.int:
    """Book one use of a call, and return its error."""
    c: cython.pointer[VmCall] = cython.address(vm_calls[call])
    add64_relaxed(cython.address(c.calls), 1)
    add64_relaxed(cython.address(c.nanoseconds), now_ns() - began)
    if error:
        add64_relaxed(cython.address(c.failures), 1)
    else:
        add64_relaxed(cython.address(c.bytes), size)
    return error


# ---- the calls ----


def vm_mmap(
    address: uint64_t,
    size: uint64_t,
    protection: cython.int,
    flags: cython.int,
    fd: cython.int,
    offset: uint64_t,
    got: cython.pointer[uint64_t],
) -> cython.int:
    """Map by raw system call: tools that hook mmap() would count our reservation as memory in use."""
    # syscall() takes its arguments as longs, so that is what it is given.
    p: cython.long = protection
    f: cython.long = flags
    file: cython.long = fd
    result: cython.long = syscall(SYS_MMAP, address, size, p, f, file, offset)
    if result == -1:
        return errno
    got[0] = cython.cast(uint64_t, result)
    return 0


def vm_map_at(address: uint64_t, size: uint64_t, protection: cython.int) -> cython.int:
    """Map where nothing is mapped yet; EEXIST where something is."""
    at: uint64_t = 0
    flags: cython.int = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE
    error: cython.int = vm_mmap(address, size, protection, flags, -1, 0, cython.address(at))
    if not error and at != address:  # kernels before 4.17 take the address as a hint
        munmap(cython.cast(cython.p_void, at), size)
        error = EEXIST
    return error


def vm_advise(call: cython.int, address: uint64_t, size: uint64_t, advice: cython.int) -> cython.int:
    began: uint64_t = now_ns()
    error: cython.int = vm_must_fail(call)
    if not error and madvise(cython.cast(cython.p_void, address), size, advice) != 0:
        error = errno
    return vm_count(call, size, began, error)


def vm_reserve(size: uint64_t, align: uint64_t, address: cython.pointer[uint64_t]) -> cython.int:
    began: uint64_t = now_ns()
    error: cython.int = vm_must_fail(VM_RESERVE)
    at: uint64_t = 0
    slack: uint64_t = align if align > vm_the_facts.page_size else 0
    if not error and size + slack < size:
        error = ENOMEM
    if not error:
        error = vm_mmap(
            0, size + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, cython.address(at)
        )
    if not error:
        base: uint64_t = round_up(at, slack) if slack else at
        if base > at:
            munmap(cython.cast(cython.p_void, at), base - at)
        if at + slack > base:
            munmap(cython.cast(cython.p_void, base + size), at + slack - base)
        madvise(cython.cast(cython.p_void, base), size, MADV_DONTDUMP)
        address[0] = base
    return vm_count(VM_RESERVE, size, began, error)


def vm_reserve_at(address: uint64_t, size: uint64_t) -> cython.int:
    began: uint64_t = now_ns()
    error: cython.int = vm_must_fail(VM_RESERVE)
    if not error:
        error = vm_map_at(address, size, PROT_NONE)
    if not error:
        madvise(cython.cast(cython.p_void, address), size, MADV_DONTDUMP)
    return vm_count(VM_RESERVE, size, began, error)


def vm_commit(address: uint64_t, size: uint64_t) -> cython.int:
    began: uint64_t = now_ns()
    error: cython.int = vm_must_fail(VM_COMMIT)
    if not error and mprotect(cython.cast(cython.p_void, address), size, PROT_READ | PROT_WRITE) != 0:
        error = errno
    if not error:
        madvise(cython.cast(cython.p_void, address), size, MADV_DODUMP)
    return vm_count(VM_COMMIT, size, began, error)


def vm_commit_at(address: uint64_t, size: uint64_t) -> cython.int:
    began: uint64_t = now_ns()
    error: cython.int = vm_must_fail(VM_COMMIT)
    if not error:
        error = vm_map_at(address, size, PROT_READ | PROT_WRITE)
    return vm_count(VM_COMMIT, size, began, error)


def vm_decommit(address: uint64_t, size: uint64_t) -> cython.int:
    began: uint64_t = now_ns()
    error: cython.int = vm_must_fail(VM_DECOMMIT)
    at: uint64_t = 0
    if not error:
        error = vm_mmap(
            address, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0, cython.address(at)
        )
    if not error:
        madvise(cython.cast(cython.p_void, address), size, MADV_DONTDUMP)
    return vm_count(VM_DECOMMIT, size, began, error)


def vm_unmap(address: uint64_t, size: uint64_t) -> cython.int:
    began: uint64_t = now_ns()
    error: cython.int = vm_must_fail(VM_UNMAP)
    if not error and munmap(cython.cast(cython.p_void, address), size) != 0:
        error = errno
    return vm_count(VM_UNMAP, size, began, error)


def vm_purge_lazy(address: uint64_t, size: uint64_t) -> cython.int:
    return vm_advise(VM_PURGE_LAZY, address, size, MADV_FREE)


def vm_purge_now(address: uint64_t, size: uint64_t) -> cython.int:
    return vm_advise(VM_PURGE_NOW, address, size, MADV_DONTNEED)


def vm_advise_huge(address: uint64_t, size: uint64_t) -> cython.int:
    return vm_advise(VM_ADVISE_HUGE, address, size, MADV_HUGEPAGE)


def vm_advise_no_huge(address: uint64_t, size: uint64_t) -> cython.int:
    return vm_advise(VM_ADVISE_NO_HUGE, address, size, MADV_NOHUGEPAGE)


def vm_populate(address: uint64_t, size: uint64_t) -> cython.int:
    return vm_advise(VM_POPULATE, address, size, MADV_POPULATE_WRITE)


def vm_will_need(address: uint64_t, size: uint64_t) -> cython.int:
    """Any range; the kernel wants it to begin on a page."""
    start: uint64_t = address & ~(vm_the_facts.page_size - 1)
    return vm_advise(VM_WILL_NEED, start, size + (address - start), MADV_WILLNEED)


def vm_bind(address: uint64_t, size: uint64_t, node: cython.int) -> cython.int:
    """Prefer the memory of one NUMA node for a range."""
    began: uint64_t = now_ns()
    error: cython.int = vm_must_fail(VM_BIND)
    if not error and (node < 0 or node >= 64):
        error = EINVAL
    if not error:
        nodes: uint64_t = cython.cast(uint64_t, 1) << node
        preferred: cython.long = 1
        bits: cython.long = 65  # the kernel takes one away
        no_flags: cython.long = 0
        if syscall(SYS_MBIND, address, size, preferred, cython.address(nodes), bits, no_flags) != 0:
            error = errno
    return vm_count(VM_BIND, size, began, error)


def vm_map_file(fd: cython.int, offset: uint64_t, size: uint64_t, address: cython.pointer[uint64_t]) -> cython.int:
    began: uint64_t = now_ns()
    error: cython.int = vm_must_fail(VM_MAP_FILE)
    if not error:
        error = vm_mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset, address)
    return vm_count(VM_MAP_FILE, size, began, error)


def vm_huge_flags(huge_page_size: uint64_t) -> cython.int:
    """The flag carries log2 of the size, from bit MAP_HUGE_SHIFT on."""
    kind: uint32_t = cython.cast(uint32_t, ctz(huge_page_size)) << 26
    return MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | cython.cast(cython.int, kind)


def vm_map_huge(size: uint64_t, huge_page_size: uint64_t, address: cython.pointer[uint64_t]) -> cython.int:
    began: uint64_t = now_ns()
    error: cython.int = vm_must_fail(VM_MAP_HUGE)
    if not error and (huge_page_size == 0 or huge_page_size & (huge_page_size - 1)):
        error = EINVAL
    if not error:
        error = vm_mmap(0, size, PROT_READ | PROT_WRITE, vm_huge_flags(huge_page_size), -1, 0, address)
    return vm_count(VM_MAP_HUGE, size, began, error)


def vm_map_huge_at(address: uint64_t, huge_page_size: uint64_t, reserved: cython.bint) -> cython.int:
    began: uint64_t = now_ns()
    error: cython.int = vm_must_fail(VM_MAP_HUGE)
    at: uint64_t = 0
    flags: cython.int = vm_huge_flags(huge_page_size) | (MAP_FIXED if reserved else MAP_FIXED_NOREPLACE)
    if not error:
        error = vm_mmap(address, huge_page_size, PROT_READ | PROT_WRITE, flags, -1, 0, cython.address(at))
    if not error and at != address:  # kernels before 4.17 take the address as a hint
        munmap(cython.cast(cython.p_void, at), huge_page_size)
        error = EEXIST
    return vm_count(VM_MAP_HUGE, huge_page_size, began, error)


def vm_map(size: uint64_t, address: cython.pointer[uint64_t]) -> cython.int:
    began: uint64_t = now_ns()
    error: cython.int = vm_must_fail(VM_MAP)
    if not error:
        error = vm_mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, address)
    if not error:
        add64_relaxed(cython.address(vm_metadata), size)
    return vm_count(VM_MAP, size, began, error)


def vm_unmap_metadata(address: uint64_t, size: uint64_t) -> cython.int:
    error: cython.int = vm_unmap(address, size)
    if not error:
        sub64_relaxed(cython.address(vm_metadata), size)
    return error


def vm_metadata_bytes() -> uint64_t:
    return load64_relaxed(cython.address(vm_metadata))


def vm_resident(address: uint64_t, size: uint64_t) -> uint64_t:
    """Count the resident pages of a mapped range, 16 MiB a call (of 4 KiB pages)."""
    resident = cython.declare(cython.uchar[4096])
    page: uint64_t = vm_the_facts.page_size
    end: uint64_t = address + size
    pages: uint64_t = 0
    while address < end:
        count: uint64_t = least((end - address + page - 1) // page, 4096)
        if mincore(cython.cast(cython.p_void, address), count * page, resident) != 0:
            return 0
        i: uint64_t = 0
        while i < count:
            pages += resident[i] & 1
            i += 1
        address += count * page
    return pages * page


def vm_remap(source: uint64_t, to: uint64_t, size: uint64_t) -> cython.int:
    """Move private pages, which must all be of one mapping, and leave the source mapped."""
    began: uint64_t = now_ns()
    error: cython.int = vm_must_fail(VM_REMAP)
    flags: cython.long = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP
    if not error and syscall(SYS_MREMAP, source, size, size, flags, to) == -1:
        error = errno
    return vm_count(VM_REMAP, size, began, error)
