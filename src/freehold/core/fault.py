"""What happens when a caller frees, or resizes, what is not a live block: one line on stderr, then SIGABRT.

Thread-safety: any thread, any time, also inside a signal handler: nothing is locked or allocated.
Under ``FREEHOLD_ON_ERROR=report`` the same line is written, the block is left as it is, and the call returns.
Follows: hardened_malloc's fatal errors, whose texts are part of its interface.
"""

import cython
from cython.cimports.freehold.core.fault import FAULTS, FREE_DOUBLE, FREE_INTERIOR, FREE_NEVER, USED_FREED
from cython.cimports.freehold.core.machine import abort, add64_relaxed, getenv, getpid, load64_relaxed, memcmp, tell
from cython.cimports.libc.stdint import uint64_t

fault_reports = cython.declare(cython.bint)  # constant once the heap is open
fault_counts = cython.declare(uint64_t[FAULTS])  # by reason; atomic, relaxed: statistics only


def fault_boot() -> cython.void:
    global fault_reports
    wish: cython.p_char = getenv(b"FREEHOLD_ON_ERROR")
    fault_reports = wish != cython.NULL and memcmp(wish, b"report", 7) == 0


def fault_only_report(wish: cython.bint) -> cython.void:
    global fault_reports
    fault_reports = wish


def fault_text(reason: cython.int) -> cython.p_const_char:
    if reason == FREE_DOUBLE:
        return b"double free of"
    if reason == FREE_INTERIOR:
        return b"free of an interior address"
    if reason == FREE_NEVER:
        return b"free of a never allocated block"
    if reason == USED_FREED:
        return b"use of the freed block"
    return b"free of an address that is not ours"


def fault_bad_free(reason: cython.int, address: uint64_t, size_class: uint64_t) -> cython.void:
    add64_relaxed(cython.address(fault_counts[reason]), 1)
    tell(
        b"freehold: fatal: %s %p class=%llu heap=default pid=%d\n",
        fault_text(reason),
        cython.cast(cython.p_void, address),
        cython.cast(cython.ulonglong, size_class),
        getpid(),
    )
    if not fault_reports:
        abort()


def fault_count(reason: cython.int) -> uint64_t:
    return load64_relaxed(cython.address(fault_counts[reason]))
