"""A tract: the bitmaps of 4096 chunks, and over them the bottom four levels of the tree of summaries.

Not thread-safe: the caller holds the page allocator's lock.
Invariants: every summary is what its eight children say together, a leaf's what its chunk's bitmap says; of unknown
pages it is (0, 0, 0). A page in use is resident. A chunk with free resident pages has its releasable bit set.
A zeroed tract is one whose chunks are all known, free and scavenged: to know 2^21 new pages touches one OS page.
Does not know its neighbours, map memory, lock, or count.
Follows: the lower levels of Go's page allocator.
"""

import cython
from cython.cimports.freehold.core.bits import bits_count
from cython.cimports.freehold.core.machine import CHECK, NOWHERE, bit, clz, ctz, least, mask, memset
from cython.cimports.freehold.core.summary import (
    summary_end,
    summary_free,
    summary_max,
    summary_merge,
    summary_pack,
    summary_start,
)
from cython.cimports.freehold.core.tract import (
    CHUNK_PAGES,
    CHUNK_SHIFT,
    TRACT_CHUNKS,
    TRACT_LEAF,
    TRACT_SHIFT,
    TREE_LIES,
    PageChunk,
    PageTract,
    Run,
    Summary,
    TreeCounts,
    TreeFault,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

# ---- one chunk: 512 pages, eight words; a clear bit is a free page ----


def erode(bits: uint64_t, n: uint64_t) -> uint64_t:
    """Leave a bit set where a run of n set bits begins; n from 1 to 64."""
    have: uint64_t = 1
    while have < n and bits:
        step: uint64_t = least(have, n - have)
        bits &= bits >> step
        have += step
    return bits


def longest_inside(word: uint64_t, longest: uint64_t) -> uint64_t:
    """The longest run of clear bits between the lowest and the highest set bit; `longest` if that is longer."""
    bits: uint64_t = ~word & mask(64 - clz(word))
    bits &= bits + 1
    if bits:
        bits = erode(bits, longest + 1)
    while bits:
        longest += 1
        bits &= bits >> 1
    return longest


def chunk_find(used: cython.pointer[cython.const[uint64_t]], first: uint64_t, n: uint64_t) -> uint64_t:
    length: uint64_t = 0  # of the free run that ends where the word begins
    i: uint64_t = first // 64
    while i < 8:
        word: uint64_t = used[i]
        if i == first // 64:
            word |= mask(first % 64)
        if word == 0:
            length += 64
            if length >= n:
                return (i + 1) * 64 - length
        else:
            if length + ctz(word) >= n:
                return i * 64 - length
            if n < 64:
                starts: uint64_t = erode(~word, n)
                if starts:
                    return i * 64 + ctz(starts)
            length = clz(word)
        i += 1
    return NOWHERE


def chunk_summary(used: cython.pointer[cython.const[uint64_t]]) -> uint64_t:
    start: uint64_t = NOWHERE
    longest: uint64_t = 0
    length: uint64_t = 0  # of the free run that ends where the word begins
    i: cython.int
    for i in range(8):
        word: uint64_t = used[i]
        if word == 0:
            length += 64
            continue
        length += ctz(word)
        if start == NOWHERE:
            start = length
        if length > longest:
            longest = length
        longest = longest_inside(word, longest)
        length = clz(word)
    if start == NOWHERE:
        return summary_free(TRACT_LEAF)
    return summary_pack(start, longest if longest > length else length, length)


# ---- summaries ----


def summary_unpack(word: uint64_t, into: cython.pointer[Summary]) -> cython.void:
    into.start = summary_start(word)
    into.max = summary_max(word)
    into.end = summary_end(word)


def tract_knows(tract: cython.pointer[cython.const[PageTract]], chunk: uint64_t) -> cython.bint:
    return tract != cython.NULL and not tract.unknown[chunk // 64] & bit(chunk % 64)


def tract_fill_unknown(tract: cython.pointer[PageTract]) -> cython.void:
    memset(tract.unknown, 0xFF, cython.sizeof(tract.unknown))
    level: uint32_t
    for level in range(TRACT_LEAF + 1):
        at: uint64_t = bit(3 * level)
        while at < 2 * bit(3 * level):
            tract.summary[at] = summary_free(level)
            at += 1


def tract_leaf(tract: cython.pointer[cython.const[PageTract]], chunk: uint64_t) -> uint64_t:
    return tract.summary[TRACT_CHUNKS + chunk] ^ summary_free(TRACT_LEAF)


def tract_set_leaf(tract: cython.pointer[PageTract], chunk: uint64_t, word: uint64_t) -> cython.void:
    tract.summary[TRACT_CHUNKS + chunk] = word ^ summary_free(TRACT_LEAF)


def tract_children(
    tract: cython.pointer[cython.const[PageTract]], at: uint64_t
) -> cython.pointer[cython.const[cython.ulonglong]]:
    return cython.cast(cython.pointer[cython.const[cython.ulonglong]], cython.address(tract.summary[8 * at]))


def tract_refresh(tract: cython.pointer[PageTract], low: uint64_t, high: uint64_t) -> cython.bint:
    """Carry the change of leaves low … high up, to the first level that does not change; whether the root did."""
    low += TRACT_CHUNKS
    high += TRACT_CHUNKS
    level: uint32_t = TRACT_LEAF
    while level > 0:
        low >>= 3
        high >>= 3
        changed: cython.bint = False
        at: uint64_t = low
        while at <= high:
            word: uint64_t = summary_merge(tract_children(tract, at), level) ^ summary_free(level - 1)
            if word != tract.summary[at]:
                tract.summary[at] = word
                changed = True
            at += 1
        if not changed:
            return False
        level -= 1
    return True


# ---- finding ----


def run_step(
    run: cython.pointer[Run],
    j: cython.int,
    s: cython.pointer[cython.const[Summary]],
    pages: uint64_t,
    npages: uint64_t,
) -> cython.int:
    """Look at child j of a scan: 0: go on; 1: the run is long enough; 2: the lowest one lies inside this child."""
    if run.length + s.start >= npages:
        if run.length == 0:
            run.first = j * pages
        return 1
    if s.max >= npages:
        return 2
    if run.length > 0 and s.start == pages:
        run.length += pages
    else:
        run.length = s.end
        run.first = (j + 1) * pages - s.end
    return 0


def scan_words(
    words: cython.pointer[cython.const[cython.ulonglong]], level: uint32_t, npages: uint64_t, run: cython.pointer[Run]
) -> cython.int:
    """The same among eight summaries of a tract at a level from 1 to 4."""
    run.length = 0
    free: uint64_t = summary_free(level)
    s = cython.declare(Summary)
    j: cython.int
    for j in range(8):
        word: uint64_t = words[j] ^ free
        if word == 0:
            run.length = 0
            continue
        summary_unpack(word, cython.address(s))
        step: cython.int = run_step(run, j, cython.address(s), summary_start(free), npages)
        if step:
            return 8 if step == 1 else j
    return 9


def tract_find(tract: cython.pointer[PageTract], npages: uint64_t) -> uint64_t:
    run = cython.declare(Run)
    at: uint64_t = 1
    level: uint32_t
    base: uint64_t = tract.place << TRACT_SHIFT
    for level in range(1, TRACT_LEAF + 1):
        if CHECK and summary_merge(tract_children(tract, at), level) != (tract.summary[at] ^ summary_free(level - 1)):
            return TREE_LIES()
        j: cython.int = scan_words(tract_children(tract, at), level, npages, cython.address(run))
        if j == 9:
            return TREE_LIES()
        if j == 8:
            first: uint64_t = (at - bit(3 * level - 3)) << (TRACT_SHIFT - 3 * level + 3)
            return base + first + run.first
        at = 8 * at + j
    chunk: uint64_t = at - TRACT_CHUNKS
    found: uint64_t = chunk_find(tract.chunk[chunk].used, 0, npages)
    if found == NOWHERE:
        return TREE_LIES()
    return base + (chunk << CHUNK_SHIFT) + found


def tract_last_releasable(tract: cython.pointer[cython.const[PageTract]], chunk: uint64_t) -> uint64_t:
    """The highest marked chunk of the tract at or below `chunk`; NOWHERE if none."""
    w: uint64_t = chunk // 64
    word: uint64_t = tract.releasable[w] & mask(chunk % 64 + 1)
    if word == 0:
        words: uint64_t = tract.releasable_words & mask(w)
        if words == 0:
            return NOWHERE
        w = 63 - clz(words)
        word = tract.releasable[w]
    return w * 64 + 63 - clz(word)


# ---- checking ----


def tract_blame(
    fault: cython.pointer[TreeFault],
    tract: cython.pointer[cython.const[PageTract]],
    level: uint32_t,
    index: uint64_t,
    recomputed: uint64_t,
) -> cython.void:
    """Say that entry `index` of the tract, at this level, should be `recomputed` (packed)."""
    fault.level = level
    fault.index = (tract.place << (3 * level)) + index
    summary_unpack(tract.summary[bit(3 * level) + index] ^ summary_free(level), cython.address(fault.stored))
    summary_unpack(recomputed, cython.address(fault.recomputed))


def tract_path_is_sound(tract: cython.pointer[PageTract], chunk: uint64_t) -> cython.bint:
    if tract_leaf(tract, chunk) != (chunk_summary(tract.chunk[chunk].used) if tract_knows(tract, chunk) else 0):
        return False
    at: uint64_t = TRACT_CHUNKS + chunk
    level: uint32_t = TRACT_LEAF
    while level > 0:
        at >>= 3
        if summary_merge(tract_children(tract, at), level) != (tract.summary[at] ^ summary_free(level - 1)):
            return False
        level -= 1
    return True


def tract_check_chunk(
    tract: cython.pointer[cython.const[PageTract]],
    chunk: uint64_t,
    fault: cython.pointer[TreeFault],
    counts: cython.pointer[TreeCounts],
) -> cython.p_const_char:
    c: cython.pointer[cython.const[PageChunk]] = cython.address(tract.chunk[chunk])
    found: uint64_t = chunk_summary(c.used) if tract_knows(tract, chunk) else 0
    if tract_leaf(tract, chunk) != found:
        tract_blame(fault, tract, TRACT_LEAF, chunk, found)
        return b"a summary is what lies below it"
    if not tract_knows(tract, chunk):
        return cython.NULL
    tract_blame(fault, tract, TRACT_LEAF, chunk, found)
    idle: cython.bint = False
    i: cython.int
    for i in range(8):
        if c.used[i] & ~c.resident[i]:
            return b"a page in use is not scavenged"
        idle = idle or c.resident[i] & ~c.used[i] != 0
    if idle and not tract.releasable[chunk // 64] & bit(chunk % 64):
        return b"a chunk with free pages that are not scavenged is in the index"
    counts.chunks += 1
    counts.used += bits_count(c.used, 0, CHUNK_PAGES)
    counts.scavenged += CHUNK_PAGES - bits_count(c.resident, 0, CHUNK_PAGES)
    return cython.NULL


def tract_check(
    tract: cython.pointer[PageTract], fault: cython.pointer[TreeFault], counts: cython.pointer[TreeCounts]
) -> cython.p_const_char:
    """Bottom up, so that the first summary found wrong is one whose children are right."""
    law: cython.p_const_char = cython.NULL
    c: uint64_t
    for c in range(TRACT_CHUNKS):
        law = tract_check_chunk(tract, c, fault, counts)
        if law != cython.NULL:
            return law
    level: uint32_t = TRACT_LEAF
    while level > 0:
        level -= 1
        for c in range(bit(3 * level)):
            at: uint64_t = bit(3 * level) + c
            word: uint64_t = summary_merge(tract_children(tract, at), level + 1)
            if word != (tract.summary[at] ^ summary_free(level)):
                tract_blame(fault, tract, level, c, word)
                return b"a summary is what lies below it"
    return cython.NULL
