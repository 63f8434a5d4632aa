"""Idle extents in one state, found by size and left by age.

Not thread-safe: the caller holds the lock of the extents.
Invariants: an extent is filed under the largest bin that is not larger than it; a bin is a tree in order of serial and
address, each node of which knows the largest extent below it; the list is in order of turns.
Does not split or merge: what it hands out may be larger than asked.
Follows: jemalloc's eset; its pairing heaps are trees here, since the first of a bin may be too small and the next not.
"""

import cython
from cython.cimports.freehold.core.bits import bits_get, bits_next_set
from cython.cimports.freehold.core.emap import EXTENT_TAKEN, Extent
from cython.cimports.freehold.core.eset import ESET_BINS, Eset, EsetWrong
from cython.cimports.freehold.core.machine import bit, clz, load64_relaxed, memset, most, store64_relaxed
from cython.cimports.libc.stdint import uint32_t, uint64_t


def eset_open(s: cython.pointer[Eset], state: uint32_t) -> cython.void:
    memset(s, 0, cython.sizeof(Eset))
    s.state = state


def eset_bin(pages: uint64_t) -> uint64_t:
    if pages < 4:
        return pages - 1
    top: uint64_t = 63 - clz(pages)
    return 4 * top - 5 + (pages >> (top - 2) & 3)


# ---- finding ----


def eset_first_is(s: cython.pointer[Eset], pages: uint64_t) -> cython.pointer[Extent]:
    """Where that takes no search: the extent that eset_find returns, if it has just so many pages; else NULL."""
    e: cython.pointer[Extent] = s.bin[eset_bin(pages)]
    return e if e != cython.NULL and e.left == cython.NULL and e.pages == pages else cython.NULL


def eset_find(s: cython.pointer[Eset], pages: uint64_t) -> cython.pointer[Extent]:
    """In the bin of this size the first that is large enough; else the first of the smallest bin of larger ones."""
    bin: uint64_t = eset_bin(pages)
    e: cython.pointer[Extent] = eset_first(s.bin[bin], pages)
    if e != cython.NULL:
        return e
    bin = bits_next_set(s.filled, bin + 1, ESET_BINS)
    return eset_first(s.bin[bin], pages) if bin < ESET_BINS else cython.NULL


def eset_first(root: cython.pointer[Extent], pages: uint64_t) -> cython.pointer[Extent]:
    """The first extent of a tree that has so many pages."""
    if root == cython.NULL or root.largest < pages:
        return cython.NULL
    while True:
        if root.left != cython.NULL and root.left.largest >= pages:
            root = root.left
        elif root.pages >= pages:
            return root
        else:
            root = root.right


# ---- joining and leaving ----


def eset_insert(s: cython.pointer[Eset], e: cython.pointer[Extent]) -> cython.void:
    e.turn = s.turn
    s.turn += 1
    eset_insert_before(s, e, cython.NULL)


def eset_put_back(s: cython.pointer[Eset], e: cython.pointer[Extent]) -> cython.void:
    newer: cython.pointer[Extent] = s.oldest
    while newer != cython.NULL and newer.turn < e.turn:
        newer = newer.newer
    eset_insert_before(s, e, newer)


def eset_insert_before(
    s: cython.pointer[Eset], e: cython.pointer[Extent], newer: cython.pointer[Extent]
) -> cython.void:
    e.newer = newer
    e.older = s.newest if newer == cython.NULL else newer.older
    if newer == cython.NULL:
        s.newest = e
    else:
        newer.older = e
    if e.older == cython.NULL:
        s.oldest = e
    else:
        e.older.newer = e
    bin: uint64_t = eset_bin(e.pages)
    if s.bin[bin] == cython.NULL:
        e.left = cython.NULL
        e.right = cython.NULL
        e.largest = e.pages
        s.bin[bin] = e
        s.filled[bin // 64] |= bit(bin % 64)
    else:
        s.bin[bin] = eset_plant(s.bin[bin], e)
    e.state = s.state
    s.count += 1
    store64_relaxed(cython.address(s.pages), s.pages + e.pages)


def eset_remove(s: cython.pointer[Eset], e: cython.pointer[Extent]) -> cython.void:
    if e.older == cython.NULL:
        s.oldest = e.newer
    else:
        e.older.newer = e.newer
    if e.newer == cython.NULL:
        s.newest = e.older
    else:
        e.newer.older = e.older
    bin: uint64_t = eset_bin(e.pages)
    if s.bin[bin] == e and e.left == cython.NULL and e.right == cython.NULL:
        s.bin[bin] = cython.NULL
        s.filled[bin // 64] &= ~bit(bin % 64)
    else:
        s.bin[bin] = eset_pluck(s.bin[bin], e)
    e.state = EXTENT_TAKEN
    s.count -= 1
    store64_relaxed(cython.address(s.pages), s.pages - e.pages)


# ---- a bin's tree: in order from left to right, and by weight from the top down ----


def eset_before(a: cython.pointer[cython.const[Extent]], b: cython.pointer[cython.const[Extent]]) -> cython.bint:
    return a.serial < b.serial or (a.serial == b.serial and a.address < b.address)


def eset_weight(e: cython.pointer[cython.const[Extent]]) -> uint64_t:
    """As good as drawn at random, and always the same for an address."""
    return (e.address >> 13) * cython.cast(uint64_t, 0x9E37_79B9_7F4A_7C15)


def eset_sum_up(e: cython.pointer[Extent]) -> cython.void:
    e.largest = e.pages
    if e.left != cython.NULL:
        e.largest = most(e.largest, e.left.largest)
    if e.right != cython.NULL:
        e.largest = most(e.largest, e.right.largest)


def eset_plant(root: cython.pointer[Extent], e: cython.pointer[Extent]) -> cython.pointer[Extent]:
    """Return the tree with one extent more."""
    if root == cython.NULL or eset_weight(e) > eset_weight(root):
        eset_part(root, e, cython.address(e.left), cython.address(e.right))
        root = e
    elif eset_before(e, root):
        root.left = eset_plant(root.left, e)
    else:
        root.right = eset_plant(root.right, e)
    eset_sum_up(root)
    return root


def eset_part(
    root: cython.pointer[Extent],
    at: cython.pointer[cython.const[Extent]],
    low: cython.pointer[cython.pointer[Extent]],
    high: cython.pointer[cython.pointer[Extent]],
) -> cython.void:
    """Part a tree into what comes before an extent and what comes after it."""
    if root == cython.NULL:
        low[0] = cython.NULL
        high[0] = cython.NULL
    elif eset_before(root, at):
        low[0] = root
        eset_part(root.right, at, cython.address(root.right), high)
        eset_sum_up(root)
    else:
        high[0] = root
        eset_part(root.left, at, low, cython.address(root.left))
        eset_sum_up(root)


def eset_unite(low: cython.pointer[Extent], high: cython.pointer[Extent]) -> cython.pointer[Extent]:
    """The reverse of eset_part."""
    if low == cython.NULL or high == cython.NULL:
        return high if low == cython.NULL else low
    if eset_weight(low) > eset_weight(high):
        low.right = eset_unite(low.right, high)
        eset_sum_up(low)
        return low
    high.left = eset_unite(low, high.left)
    eset_sum_up(high)
    return high


def eset_pluck(root: cython.pointer[Extent], e: cython.pointer[Extent]) -> cython.pointer[Extent]:
    """Return the tree without one extent."""
    if root == e:
        return eset_unite(e.left, e.right)
    if eset_before(e, root):
        root.left = eset_pluck(root.left, e)
    else:
        root.right = eset_pluck(root.right, e)
    eset_sum_up(root)
    return root


# ---- checking ----


def eset_is_sound(s: cython.pointer[Eset], wrong: cython.pointer[EsetWrong]) -> cython.bint:
    pages: uint64_t = 0
    bin: uint64_t = 0
    wrong.law = cython.NULL
    while bin < ESET_BINS and wrong.law == cython.NULL:
        wrong.law = b"a bin is marked filled if it is"
        wrong.expected = s.bin[bin] != cython.NULL
        wrong.found = bits_get(s.filled, bin)
        if wrong.expected == wrong.found:
            wrong.law = cython.NULL
            pages += eset_walk(s, bin, s.bin[bin], wrong)
        bin += 1
    count: uint64_t = 0
    e: cython.pointer[Extent] = s.oldest
    while e != cython.NULL and wrong.law == cython.NULL:
        if (e.newer == cython.NULL and s.newest != e) or (e.newer != cython.NULL and e.newer.turn <= e.turn):
            wrong.law = b"idle extents are in order of age"
        count += 1
        e = e.newer
    if wrong.law == cython.NULL and (pages != load64_relaxed(cython.address(s.pages)) or count != s.count):
        wrong.law = b"idle extents and their pages are counted"
        wrong.expected = pages
        wrong.found = s.pages
    return wrong.law == cython.NULL


def eset_walk(
    s: cython.pointer[Eset], bin: uint64_t, e: cython.pointer[Extent], wrong: cython.pointer[EsetWrong]
) -> uint64_t:
    """The pages of a tree; on the way, its order and what its nodes say."""
    if e == cython.NULL:
        return 0
    largest: uint64_t = e.largest
    pages: uint64_t = eset_walk(s, bin, e.left, wrong) + e.pages + eset_walk(s, bin, e.right, wrong)
    if e.state != s.state or eset_bin(e.pages) != bin:
        wrong.law = b"an idle extent is filed by its state and size"
    elif (e.left != cython.NULL and not eset_before(e.left, e)) or (
        e.right != cython.NULL and not eset_before(e, e.right)
    ):
        wrong.law = b"a bin is in order of serial and address"
    eset_sum_up(e)
    if e.largest != largest:
        wrong.law = b"a tree knows its largest extent"
        wrong.expected = e.largest
        wrong.found = largest
    return pages
