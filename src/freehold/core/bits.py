"""Runs in bitmaps: set, clear, test, count and find them a word at a time.

Not thread-safe: the caller holds what guards the bitmap.
Invariant: a call touches no word outside the bits it was given.
Does not know the length of a bitmap.
"""

import cython
from cython.cimports.freehold.core.machine import NOWHERE, ctz, least, mask, popcount
from cython.cimports.libc.stdint import uint64_t

# Each loop below goes over the words that a run touches; `here` is the part of the run that lies in one word.


def bits_get(words: cython.pointer[cython.const[uint64_t]], i: uint64_t) -> cython.bint:
    return (words[i // 64] >> (i % 64)) & 1


def bits_set(words: cython.pointer[uint64_t], i: uint64_t, n: uint64_t) -> cython.void:
    while n > 0:
        here: uint64_t = least(n, 64 - i % 64)
        words[i // 64] |= mask(here) << (i % 64)
        i += here
        n -= here


def bits_clear(words: cython.pointer[uint64_t], i: uint64_t, n: uint64_t) -> cython.void:
    while n > 0:
        here: uint64_t = least(n, 64 - i % 64)
        words[i // 64] &= ~(mask(here) << (i % 64))
        i += here
        n -= here


def bits_all_set(words: cython.pointer[cython.const[uint64_t]], i: uint64_t, n: uint64_t) -> cython.bint:
    return bits_next_clear(words, i, i + n) == i + n


def bits_all_clear(words: cython.pointer[cython.const[uint64_t]], i: uint64_t, n: uint64_t) -> cython.bint:
    return bits_next_set(words, i, i + n) == i + n


def bits_count(words: cython.pointer[cython.const[uint64_t]], i: uint64_t, n: uint64_t) -> uint64_t:
    total: uint64_t = 0
    while n > 0:
        here: uint64_t = least(n, 64 - i % 64)
        total += popcount((words[i // 64] >> (i % 64)) & mask(here))
        i += here
        n -= here
    return total


def bits_next_set(words: cython.pointer[cython.const[uint64_t]], i: uint64_t, length: uint64_t) -> uint64_t:
    while i < length:
        word: uint64_t = words[i // 64] >> (i % 64)
        if word:
            return least(i + ctz(word), length)
        i = (i | 63) + 1
    return length


def bits_next_clear(words: cython.pointer[cython.const[uint64_t]], i: uint64_t, length: uint64_t) -> uint64_t:
    while i < length:
        word: uint64_t = ~words[i // 64] >> (i % 64)
        if word:
            return least(i + ctz(word), length)
        i = (i | 63) + 1
    return length


def bits_find_clear(
    words: cython.pointer[cython.const[uint64_t]], i: uint64_t, length: uint64_t, n: uint64_t, align: uint64_t
) -> uint64_t:
    while True:
        i = (bits_next_clear(words, i, length) + align - 1) // align * align
        if i >= length or length - i < n:
            return NOWHERE
        end: uint64_t = bits_next_set(words, i, i + n)
        if end == i + n:
            return i
        i = end
