"""The malloc family and C++'s operators, by the names that every program calls them by.

Thread-safety: all of it, from any thread at any time: also while the heap boots, and after a thread's destructors ran.
Invariants: whose an address is, `space_owner` tells; what came while the heap booted lies in a small area of its own,
and is never reused.
Does not serve where it is merely loaded: C++'s operators are missing in libc, so a program may find ours although its
malloc is another. They ask once who the process's malloc is, and leave the work to the C++ runtime if it is not ours.
Nor where a program has an operator new of its own: then every other operator is the runtime's, which calls the
program's.
Follows: the exports of jemalloc, mimalloc and tcmalloc; glibc for zero sizes, alignments and errno.
"""

import cython
from cython.cimports.freehold.core.bin import cache_deallocate, cache_room
from cython.cimports.freehold.core.family import (
    EARLY_BYTES,
    EARLY_HEADER,
    call_free,
    call_new,
    call_new_with,
    call_new_with_both,
    early,
    family_boots,
    loader_range,
    overflows,
    process_function,
    runtime_function,
)
from cython.cimports.freehold.core.fault import FREE_FOREIGN, fault_bad_free, fault_only_report
from cython.cimports.freehold.core.heap import (
    heap_allocate_as,
    heap_allocate_zeroed_as,
    heap_boot,
    heap_configure,
    heap_deallocate_slow,
    heap_hit,
    heap_owns,
    heap_purge,
    heap_reallocate_as,
    heap_usable_size,
)
from cython.cimports.freehold.core.heaps import heaps_may_idle
from cython.cimports.freehold.core.machine import (
    EINVAL,
    ENOMEM,
    bit,
    clz,
    errno,
    fetch_add64,
    least,
    load32_acquire,
    memcpy,
    most,
    must,
    round_up,
    store32_release,
)
from cython.cimports.freehold.core.publish import publish_hide
from cython.cimports.freehold.core.reclaim import reclaim_start_when
from cython.cimports.freehold.core.sampling import SOURCE_MALLOC
from cython.cimports.freehold.core.settings import Settings, settings_read
from cython.cimports.freehold.core.vm import vm_facts
from cython.cimports.libc.stdint import uint32_t, uint64_t

family_is_open = cython.declare(uint32_t)  # 1: the heap is; atomic
family_looked = cython.declare(uint32_t)  # 1: who serves is known; atomic
malloc_is_ours = cython.declare(cython.bint)  # the process's malloc is this library's; constant once looked
operators_are_ours = cython.declare(cython.bint)  # … and so is its operator new; constant once looked
early_used = cython.declare(uint64_t)  # bytes; atomic

# ---- C ----


def family_malloc(size: cython.size_t) -> cython.p_void:
    p: cython.p_void
    if cython.likely(heap_hit(size, cython.address(p))):
        return p
    return family_malloc_slow(size)


def family_malloc_slow(size: cython.size_t) -> cython.p_void:
    if cython.unlikely(not load32_acquire(cython.address(family_is_open))):
        return family_allocate_first(size, 0, False)
    return heap_allocate_as(size, 0, SOURCE_MALLOC)


def family_calloc(count: cython.size_t, size: cython.size_t) -> cython.p_void:
    bytes: cython.size_t = 0
    if cython.unlikely(overflows(count, size, cython.address(bytes))):
        global errno
        errno = ENOMEM
        return cython.NULL
    return family_allocate(bytes, 0, True)


def family_realloc(p: cython.p_void, size: cython.size_t) -> cython.p_void:
    if p == cython.NULL:
        return family_malloc(size)
    if size == 0:
        family_free(p)
        return cython.NULL
    if cython.likely(heap_owns(p)):
        return heap_reallocate_as(p, size, 0, SOURCE_MALLOC)
    known: cython.size_t = family_stranger_size(p)
    new: cython.p_void = cython.NULL
    if known == 0:
        fault_bad_free(FREE_FOREIGN, cython.cast(uint64_t, p), 0)
    else:
        new = family_malloc(size)
    if new != cython.NULL:
        memcpy(new, p, least(known, size))
    return new


def family_reallocarray(p: cython.p_void, count: cython.size_t, size: cython.size_t) -> cython.p_void:
    bytes: cython.size_t = 0
    if cython.unlikely(overflows(count, size, cython.address(bytes))):
        global errno
        errno = ENOMEM
        return cython.NULL
    return family_realloc(p, bytes)


def family_free(p: cython.p_void) -> cython.void:
    if cython.unlikely(not cache_deallocate(p)):
        family_free_slow(p)


def family_free_slow(p: cython.p_void) -> cython.void:
    global errno
    kept: cython.int = errno
    if p != cython.NULL and (heap_owns(p) or not family_take_stranger(p)):
        heap_deallocate_slow(p)
    errno = kept


def family_aligned_alloc(align: cython.size_t, size: cython.size_t) -> cython.p_void:
    if cython.unlikely(align == 0 or align & (align - 1)):
        global errno
        errno = EINVAL
        return cython.NULL
    return family_allocate(size, align, False)


def family_memalign(align: cython.size_t, size: cython.size_t) -> cython.p_void:
    if align > bit(63):
        global errno
        errno = EINVAL
        return cython.NULL
    if align & (align - 1):
        align = bit(64 - clz(align))
    return family_allocate(size, align, False)


def family_posix_memalign(into: cython.pointer[cython.p_void], align: cython.size_t, size: cython.size_t) -> cython.int:
    if align < cython.sizeof(cython.p_void) or align & (align - 1):
        return EINVAL
    p: cython.p_void = family_allocate(size, align, False)
    if p == cython.NULL:
        return ENOMEM
    into[0] = p
    return 0


def family_valloc(size: cython.size_t) -> cython.p_void:
    return family_allocate(size, vm_facts().page_size if family_open() else 4096, False)


def family_pvalloc(size: cython.size_t) -> cython.p_void:
    page: cython.size_t = vm_facts().page_size if family_open() else 4096
    rounded: cython.size_t = round_up(size, page)
    if rounded < size:
        global errno
        errno = ENOMEM
        return cython.NULL
    return family_allocate(rounded, page, False)


def family_usable_size(p: cython.p_void) -> cython.size_t:
    if p == cython.NULL:
        return 0
    room: cython.size_t = cache_room(p)  # some programs ask at each allocation, and at each free
    if cython.likely(room != 0):
        return room
    return heap_usable_size(p) if heap_owns(p) else family_stranger_size(p)


def family_trim(keep: cython.size_t) -> cython.int:
    return family_open() and heap_purge() > 0


# ---- what all of it stands on ----


def family_allocate(size: cython.size_t, align: cython.size_t, zero: cython.bint) -> cython.p_void:
    if cython.unlikely(not load32_acquire(cython.address(family_is_open))):
        return family_allocate_first(size, align, zero)
    if zero:
        return heap_allocate_zeroed_as(size, align, SOURCE_MALLOC)
    return heap_allocate_as(size, align, SOURCE_MALLOC)


def family_allocate_first(size: cython.size_t, align: cython.size_t, zero: cython.bint) -> cython.p_void:
    """Open the heap, and allocate from it; while this very thread opens it, from a small area instead."""
    if family_boots:
        return early_allocate(size, align)
    if not family_open():
        global errno
        errno = ENOMEM
        return cython.NULL
    if zero:
        return heap_allocate_zeroed_as(size, align, SOURCE_MALLOC)
    return heap_allocate_as(size, align, SOURCE_MALLOC)


def family_open() -> cython.bint:
    """Open the heap as the environment says, unless it is open; False where it can not be, or is just being opened."""
    global family_boots
    if load32_acquire(cython.address(family_is_open)):
        return True
    if family_boots:
        return False
    family_boots = 1
    wishes = cython.declare(Settings)
    settings_read(cython.address(wishes))
    heap_configure(wishes.decay_ns, wishes.huge_pages)
    publish_hide(wishes.hides)
    reclaim_start_when(heaps_may_idle)
    error: cython.int = heap_boot()
    if not error:
        fault_only_report(wishes.reports)
        store32_release(cython.address(family_is_open), 1)
    family_boots = 0
    return error == 0


def early_allocate(size: cython.size_t, align: cython.size_t) -> cython.p_void:
    """Hand out a piece of the early area, which reads zero and is never handed out again."""
    global errno
    align = most(align, EARLY_HEADER)
    if size <= EARLY_BYTES and align <= EARLY_BYTES:
        room: uint64_t = round_up(size, EARLY_HEADER) + align
        at: uint64_t = fetch_add64(cython.address(early_used), room)
        if at + room <= EARLY_BYTES:
            p: uint64_t = round_up(cython.cast(uint64_t, early) + at + EARLY_HEADER, align)
            cython.cast(cython.pointer[uint64_t], p - EARLY_HEADER)[0] = size
            return cython.cast(cython.p_void, p)
    errno = ENOMEM
    return cython.NULL


# ---- addresses that are not the heap's ----


def early_owns(p: cython.p_void) -> cython.bint:
    return cython.cast(uint64_t, p) - cython.cast(uint64_t, early) < EARLY_BYTES


def loader_owns(p: cython.p_void, end: cython.pointer[uint64_t]) -> cython.bint:
    """Whether ld.so itself allocated it, before there was any malloc: behind its own data."""
    start: uint64_t = 0
    loader_range(cython.address(start), end)
    end[0] = round_up(end[0], 4096)
    return start <= cython.cast(uint64_t, p) < end[0]


def family_stranger_size(p: cython.p_void) -> cython.size_t:
    """How many bytes may be read at an address that is not the heap's but may be freed; 0 if it may not."""
    end: uint64_t = 0
    if early_owns(p):
        return cython.cast(cython.pointer[uint64_t], p)[-2]
    return end - cython.cast(uint64_t, p) if loader_owns(p, cython.address(end)) else 0


def family_take_stranger(p: cython.p_void) -> cython.bint:
    """Take back what is not the heap's: nothing to do for the early area and for ld.so; else the process's free."""
    end: uint64_t = 0
    if early_owns(p) or loader_owns(p, cython.address(end)):
        return True
    if family_serves():
        return not family_open()
    theirs: cython.p_void = process_function(b"free", cython.cast(cython.p_void, family_free))
    if theirs == cython.NULL:
        return False
    call_free(theirs, p)
    return True


def family_serves() -> cython.bint:
    family_look_around()
    return malloc_is_ours


def family_look_around() -> cython.void:
    """Learn who serves the process: the first in its order of symbols."""
    global malloc_is_ours, operators_are_ours
    if load32_acquire(cython.address(family_looked)):
        return
    malloc_is_ours = process_function(b"malloc", cython.cast(cython.p_void, family_malloc)) == cython.NULL
    operators_are_ours = (
        malloc_is_ours and process_function(b"_Znwm", cython.cast(cython.p_void, family_new)) == cython.NULL
    )
    store32_release(cython.address(family_looked), 1)


# ---- C++ ----


def family_new(size: cython.size_t) -> cython.p_void:
    p: cython.p_void
    if cython.likely(operators_are_ours and heap_hit(size, cython.address(p))):
        return p
    return family_new_slow(size)


def family_new_slow(size: cython.size_t) -> cython.p_void:
    family_look_around()
    p: cython.p_void = family_malloc(size) if operators_are_ours else cython.NULL
    return p if p != cython.NULL else family_new_elsewhere(size)


def family_new_elsewhere(size: cython.size_t) -> cython.p_void:
    """Have the program's own operator do it, or the runtime's, which calls malloc and the new-handler, and throws."""
    theirs: cython.p_void = process_function(b"_Znwm", cython.cast(cython.p_void, family_new))
    if theirs == cython.NULL:
        theirs = runtime_function(b"_Znwm")
    must(theirs != cython.NULL, b"operator new: no memory, and no C++ runtime that could throw")
    return call_new(theirs, size)


def family_new_nothrow(size: cython.size_t, nothrow: cython.p_void) -> cython.p_void:
    family_look_around()
    p: cython.p_void = family_malloc(size) if operators_are_ours else cython.NULL
    theirs: cython.p_void = cython.NULL
    if p == cython.NULL:
        theirs = runtime_function(b"_ZnwmRKSt9nothrow_t")
    return p if theirs == cython.NULL else call_new_with(theirs, size, cython.cast(cython.size_t, nothrow))


def family_new_aligned(size: cython.size_t, align: cython.size_t) -> cython.p_void:
    family_look_around()
    p: cython.p_void = family_allocate(size, align, False) if operators_are_ours else cython.NULL
    return p if p != cython.NULL else family_new_aligned_elsewhere(size, align)


def family_new_aligned_elsewhere(size: cython.size_t, align: cython.size_t) -> cython.p_void:
    theirs: cython.p_void = process_function(b"_ZnwmSt11align_val_t", cython.cast(cython.p_void, family_new_aligned))
    if theirs == cython.NULL:
        theirs = runtime_function(b"_ZnwmSt11align_val_t")
    must(theirs != cython.NULL, b"operator new: no memory, and no C++ runtime that could throw")
    return call_new_with(theirs, size, align)


def family_new_aligned_nothrow(size: cython.size_t, align: cython.size_t, nothrow: cython.p_void) -> cython.p_void:
    family_look_around()
    p: cython.p_void = family_allocate(size, align, False) if operators_are_ours else cython.NULL
    theirs: cython.p_void = cython.NULL
    if p == cython.NULL:
        theirs = runtime_function(b"_ZnwmSt11align_val_tRKSt9nothrow_t")
    return p if theirs == cython.NULL else call_new_with_both(theirs, size, align, nothrow)


def family_delete(p: cython.p_void) -> cython.void:
    if cython.unlikely(not cache_deallocate(p)):
        family_delete_slow(p, b"_ZdlPv")


def family_delete_array(p: cython.p_void) -> cython.void:
    if cython.unlikely(not cache_deallocate(p)):
        family_delete_slow(p, b"_ZdaPv")


def family_delete_slow(p: cython.p_void, name: cython.p_const_char) -> cython.void:
    """Where a program has an operator delete of its own, it has to see what none of ours handed out."""
    family_look_around()
    theirs: cython.p_void = cython.NULL
    if not operators_are_ours:
        theirs = process_function(name, cython.cast(cython.p_void, family_delete))
        if theirs == cython.cast(cython.p_void, family_delete_array):
            theirs = process_function(b"_ZdlPv", cython.cast(cython.p_void, family_delete))
    if theirs == cython.NULL:
        family_free_slow(p)
    else:
        call_free(theirs, p)
