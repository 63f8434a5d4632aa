"""Summaries: of a stretch of pages, how many are free at its start, in its longest run, and at its end.

Thread-safety: arithmetic without state; any thread.
Invariants: start <= max, end <= max; one of them equals the length of the stretch only if all three do. Packed in one
word of three 21-bit fields, start lowest; 2^21 fits in no field, and is said by the top bit alone: all three are it.
Does not know bitmaps or addresses.
Follows: the packed sums of Go's page allocator.
"""

import cython


def summary_pack(start: cython.ulonglong, longest: cython.ulonglong, end: cython.ulonglong) -> cython.ulonglong:
    if longest == 0x200000:
        return cython.cast(cython.ulonglong, 1) << 63
    return start | longest << 21 | end << 42


def summary_free(level: cython.uint) -> cython.ulonglong:
    """A stretch at level 0 is 2^21 pages, and an eighth of that at each level below."""
    pages: cython.ulonglong = cython.cast(cython.ulonglong, 0x200000) >> (3 * level)
    return summary_pack(pages, pages, pages)


def summary_start(word: cython.ulonglong) -> cython.ulonglong:
    return 0x200000 if word >> 63 else word & 0x1FFFFF


def summary_max(word: cython.ulonglong) -> cython.ulonglong:
    return 0x200000 if word >> 63 else word >> 21 & 0x1FFFFF


def summary_end(word: cython.ulonglong) -> cython.ulonglong:
    return 0x200000 if word >> 63 else word >> 42


def summary_merge(words: cython.pointer[cython.const[cython.ulonglong]], level: cython.uint) -> cython.ulonglong:
    """Eight neighbours at a level from 1 to 4, each ^ summary_free(level): the summary they make together, packed."""
    free: cython.ulonglong = summary_free(level)
    pages: cython.ulonglong = free & 0x1FFFFF
    start: cython.ulonglong = 0
    longest: cython.ulonglong = 0
    length: cython.ulonglong = 0  # of the free run that ends where child j begins
    broken: cython.bint = False  # a page in use was met
    j: cython.uint
    for j in range(8):
        if words[j] == 0:
            length += pages
            continue
        word: cython.ulonglong = words[j] ^ free  # no field is 2^21 here: no top bit to look at
        length += word & 0x1FFFFF
        if not broken:
            start = length
            broken = True
        if length > longest:
            longest = length
        length = 0
        if word != 0:
            length = word >> 21 & 0x1FFFFF
            if length > longest:
                longest = length
            length = word >> 42
    if length > longest:
        longest = length
    return summary_pack(start if broken else length, longest, length)
