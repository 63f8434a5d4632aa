"""Bitmaps that threads share: runs of bits are claimed across fields of 64 bits without a lock.

Thread-safety: any thread, any time. A field is changed by one atomic operation; a run over several fields is claimed
field by field in ascending order, and given up again, in descending order, where a later field can not be had.
Invariants: a claim that fails leaves its bits clear; of claims that overlap and all try, one succeeds, because the one
whose conflict lies highest finds none above it. What a failing claim held for a moment, others saw as claimed.
Does not wait, nor know the length of a bitmap.
Follows: mimalloc's bitmaps; the search is for the lowest run, wherever in a field it begins.
"""

import cython
from cython.cimports.freehold.core.machine import (
    NOWHERE,
    ctz,
    fetch_and64,
    fetch_or64,
    least,
    load64_acquire,
    mask,
    popcount,
    swap64_if,
)
from cython.cimports.libc.stdint import uint64_t

# Each loop below goes over the fields that a run touches; `here` is how much of the run lies in one of them.


def fields_swap(field: cython.pointer[uint64_t], bits: uint64_t, expected: uint64_t) -> cython.bint:
    """Turn over bits of one field that are all as expected: none of them (0), or every one (`bits`)."""
    seen: uint64_t = load64_acquire(field)
    while seen & bits == expected:
        if swap64_if(field, cython.address(seen), seen ^ bits):
            return True
    return False


def fields_claim(field: cython.pointer[uint64_t], i: uint64_t, n: uint64_t) -> cython.bint:
    at: uint64_t = i
    end: uint64_t = i + n
    while at < end:
        here: uint64_t = least(end - at, 64 - at % 64)
        if not fields_swap(field + at // 64, mask(here) << (at % 64), 0):
            fields_clear(field, i, at - i)
            return False
        at += here
    return True


def fields_take(field: cython.pointer[uint64_t], i: uint64_t, n: uint64_t) -> cython.bint:
    at: uint64_t = i
    end: uint64_t = i + n
    if fields_next_clear(field, i, end) < end:  # a wrong call leaves no trace, not even for a moment
        return False
    while at < end:
        here: uint64_t = least(end - at, 64 - at % 64)
        bits: uint64_t = mask(here) << (at % 64)
        if not fields_swap(field + at // 64, bits, bits):
            fields_set(field, i, at - i)
            return False
        at += here
    return True


def fields_claim_lowest(field: cython.pointer[uint64_t], length: uint64_t, n: uint64_t) -> uint64_t:
    i: uint64_t = 0
    while True:
        i = fields_next_clear(field, i, length)
        if length - i < n:
            return NOWHERE
        end: uint64_t = fields_next_set(field, i, i + n)
        if end < i + n:
            i = end
        elif fields_claim(field, i, n):
            return i


def fields_claim_some(field: cython.pointer[uint64_t], i: uint64_t, n: uint64_t) -> uint64_t:
    word: cython.pointer[uint64_t] = field + i // 64
    most: uint64_t = least(n, 64 - i % 64)
    seen: uint64_t = load64_acquire(word)
    while True:
        above: uint64_t = seen >> (i % 64)
        here: uint64_t = least(most, ctz(above)) if above else most
        if here == 0 or swap64_if(word, cython.address(seen), seen | mask(here) << (i % 64)):
            return here


def fields_set(field: cython.pointer[uint64_t], i: uint64_t, n: uint64_t) -> cython.void:
    while n > 0:
        here: uint64_t = least(n, 64 - i % 64)
        fetch_or64(field + i // 64, mask(here) << (i % 64))
        i += here
        n -= here


def fields_set_all(
    into: cython.pointer[uint64_t], source: cython.pointer[cython.const[uint64_t]], length: uint64_t
) -> cython.void:
    """Set the bits that another bitmap has."""
    i: uint64_t = fields_next_set(source, 0, length)
    while i < length:
        end: uint64_t = fields_next_clear(source, i, length)
        fields_set(into, i, end - i)
        i = fields_next_set(source, end, length)


def fields_clear(field: cython.pointer[uint64_t], i: uint64_t, n: uint64_t) -> cython.void:
    """From the top down: who waits for the lowest bits of a run finds the rest of it clear."""
    end: uint64_t = i + n
    while end > i:
        here: uint64_t = least(end - i, (end - 1) % 64 + 1)
        end -= here
        fetch_and64(field + end // 64, ~(mask(here) << (end % 64)))


def fields_next_set(field: cython.pointer[cython.const[uint64_t]], i: uint64_t, end: uint64_t) -> uint64_t:
    while i < end:
        word: uint64_t = load64_acquire(field + i // 64) >> (i % 64)
        if word:
            return least(i + ctz(word), end)
        i = (i | 63) + 1
    return end


def fields_next_clear(field: cython.pointer[cython.const[uint64_t]], i: uint64_t, end: uint64_t) -> uint64_t:
    while i < end:
        word: uint64_t = ~load64_acquire(field + i // 64) >> (i % 64)
        if word:
            return least(i + ctz(word), end)
        i = (i | 63) + 1
    return end


def fields_count(field: cython.pointer[cython.const[uint64_t]], length: uint64_t) -> uint64_t:
    total: uint64_t = 0
    i: uint64_t = 0
    while i < length:
        total += popcount(load64_acquire(field + i // 64) & mask(least(length - i, 64)))
        i += 64
    return total
