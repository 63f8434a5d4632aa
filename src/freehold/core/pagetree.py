"""The tree over the tracts: nodes of eight that say where the lowest run of n free pages is, and what is known at all.

Not thread-safe: the caller holds the page allocator's lock.
Invariants: a node's summaries are what its children say; so are its bits `known` and `releasable`.
Does not map memory, lock, or count: pages does.
Follows: Go's page allocator, whose levels are flat arrays over all addresses and whose root is scanned from end to end;
here what is not known is not mapped, and above the root the tree goes on.
"""

import cython
from cython.cimports.freehold.core.bits import bits_clear, bits_next_clear, bits_next_set, bits_set
from cython.cimports.freehold.core.machine import NOWHERE, bit, clz, ctz, least, mask, memset, most, round_down
from cython.cimports.freehold.core.pagetree import PageNode, PageTree
from cython.cimports.freehold.core.summary import summary_free, summary_pack
from cython.cimports.freehold.core.tract import (
    TRACT_CHUNKS,
    TRACT_SHIFT,
    TREE_LIES,
    PageTract,
    Run,
    Summary,
    TreeFault,
    run_step,
    summary_unpack,
    tract_fill_unknown,
    tract_find,
    tract_last_releasable,
    tract_refresh,
    tract_set_leaf,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

# ---- looking up ----


def tree_open(t: cython.pointer[PageTree], root_bits: uint32_t) -> cython.void:
    memset(t, 0, cython.sizeof(PageTree))
    t.heights = (root_bits + 2) // 3 if root_bits else 1


def tree_node(t: cython.pointer[PageTree], height: uint32_t, place: uint64_t) -> cython.pointer[PageNode]:
    node: cython.pointer[PageNode] = t.top
    while node != cython.NULL and node.height > height:
        slot: uint64_t = (place >> (3 * (node.height - height - 1))) & 7
        node = cython.cast(cython.pointer[PageNode], node.child[slot])
    return node


def tree_tract(t: cython.pointer[PageTree], place: uint64_t) -> cython.pointer[PageTract]:
    if t.recent != cython.NULL and t.recent.place == place:
        return t.recent
    if place >> (3 * t.heights):
        return cython.NULL
    node: cython.pointer[PageNode] = tree_node(t, 0, place >> 3)
    if node == cython.NULL or node.child[place & 7] == cython.NULL:
        return cython.NULL
    t.recent = cython.cast(cython.pointer[PageTract], node.child[place & 7])
    return t.recent


def tree_read(
    t: cython.pointer[PageTree], level: uint32_t, index: uint64_t, into: cython.pointer[Summary]
) -> cython.void:
    tract: cython.pointer[PageTract] = tree_tract(t, index >> (3 * level))
    if tract == cython.NULL:
        into.start = 0
        into.max = 0
        into.end = 0
        return
    at: uint64_t = bit(3 * level) + (index & mask(3 * level))
    summary_unpack(tract.summary[at] ^ summary_free(level), into)


def tree_write(
    t: cython.pointer[PageTree],
    tract: cython.pointer[PageTract],
    level: uint32_t,
    index: uint64_t,
    from_: cython.pointer[cython.const[Summary]],
) -> cython.void:
    """Make one summary say something else; what stands above the root says what the root says."""
    at: uint64_t = bit(3 * level) + (index & mask(3 * level))
    tract.summary[at] = summary_pack(from_.start, from_.max, from_.end) ^ summary_free(level)
    tree_refresh_nodes(t, tract)


def same_summary(a: cython.pointer[cython.const[Summary]], b: cython.pointer[cython.const[Summary]]) -> cython.bint:
    return a.start == b.start and a.max == b.max and a.end == b.end


# ---- knowing and forgetting ----


def tree_missing_bytes(t: cython.pointer[PageTree], chunk: uint64_t, n: uint64_t) -> uint64_t:
    low: uint64_t = chunk // TRACT_CHUNKS
    high: uint64_t = (chunk + n - 1) // TRACT_CHUNKS
    if high - low >= bit(26):  # 2^45 bytes of tracts: no address space holds them
        return NOWHERE
    total: uint64_t = 0
    i: uint64_t = low
    while i <= high:
        if tree_tract(t, i) == cython.NULL:
            total += cython.sizeof(PageTract)
        i += 1
    height: uint32_t
    for height in range(t.heights):
        i = low >> (3 * height + 3)
        while i <= high >> (3 * height + 3):
            if tree_node(t, height, i) == cython.NULL:
                total += cython.sizeof(PageNode)
            i += 1
    return total


def tree_add_nodes(t: cython.pointer[PageTree], low: uint64_t, high: uint64_t, memory: uint64_t) -> uint64_t:
    """Make the nodes over tracts low … high that are missing, from the top down; return what memory is left."""
    height: uint32_t = t.heights
    while height > 0:
        height -= 1
        i: uint64_t = low >> (3 * height + 3)
        while i <= high >> (3 * height + 3):
            if tree_node(t, height, i) == cython.NULL:
                node: cython.pointer[PageNode] = cython.cast(cython.pointer[PageNode], memory)
                memory += cython.sizeof(PageNode)
                node.height = height
                node.place = i
                node.parent = tree_node(t, height + 1, i >> 3) if height + 1 < t.heights else cython.NULL
                if node.parent != cython.NULL:
                    node.parent.child[i & 7] = node
                else:
                    t.top = node
            i += 1
    return memory


def tree_add_tract(
    t: cython.pointer[PageTree], place: uint64_t, memory: uint64_t, whole: cython.bint
) -> cython.pointer[PageTract]:
    tract: cython.pointer[PageTract] = cython.cast(cython.pointer[PageTract], memory)
    tract.place = place
    tract.parent = tree_node(t, 0, place >> 3)
    tract.parent.child[place & 7] = tract
    if not whole:
        tract_fill_unknown(tract)
    return tract


def tree_know(t: cython.pointer[PageTree], chunk: uint64_t, n: uint64_t, memory: uint64_t) -> cython.void:
    """Make chunks known, with zeroed memory for the tracts and nodes that are missing (`tree_missing_bytes`)."""
    memory = tree_add_nodes(t, chunk // TRACT_CHUNKS, (chunk + n - 1) // TRACT_CHUNKS, memory)
    while n > 0:
        low: uint64_t = chunk % TRACT_CHUNKS
        here: uint64_t = least(n, TRACT_CHUNKS - low)
        tract: cython.pointer[PageTract] = tree_tract(t, chunk // TRACT_CHUNKS)
        whole: cython.bint = tract == cython.NULL and here == TRACT_CHUNKS
        if tract == cython.NULL:
            tract = tree_add_tract(t, chunk // TRACT_CHUNKS, memory, whole)
            memory += cython.sizeof(PageTract)
        if whole:
            tract.known_chunks = TRACT_CHUNKS
            tree_refresh_nodes(t, tract)
        else:
            tree_know_in_tract(t, tract, low, here)
        node: cython.pointer[PageNode] = tract.parent
        place: uint64_t = tract.place
        while node != cython.NULL and not node.known & cython.cast(uint32_t, bit(place & 7)):
            node.known |= cython.cast(uint32_t, bit(place & 7))
            place = node.place
            node = node.parent
        chunk += here
        n -= here


def tree_know_in_tract(
    t: cython.pointer[PageTree], tract: cython.pointer[PageTract], low: uint64_t, n: uint64_t
) -> cython.void:
    bits_clear(tract.unknown, low, n)
    tract.known_chunks += n
    memset(cython.address(tract.summary[TRACT_CHUNKS + low]), 0, n * 8)
    tree_refresh(t, tract, low, low + n - 1)


def tree_forget(t: cython.pointer[PageTree], chunk: uint64_t, n: uint64_t) -> cython.void:
    while n > 0:
        low: uint64_t = chunk % TRACT_CHUNKS
        here: uint64_t = least(n, TRACT_CHUNKS - low)
        tree_forget_in_tract(t, tree_tract(t, chunk // TRACT_CHUNKS), low, here)
        chunk += here
        n -= here


def tree_forget_in_tract(
    t: cython.pointer[PageTree], tract: cython.pointer[PageTract], low: uint64_t, n: uint64_t
) -> cython.void:
    bits_set(tract.unknown, low, n)
    tract.known_chunks -= n
    c: uint64_t
    for c in range(low, low + n):
        tract_set_leaf(tract, c, 0)
        tree_unmark_releasable(tract, c)
    tree_refresh(t, tract, low, low + n - 1)
    node: cython.pointer[PageNode] = tract.parent
    place: uint64_t = tract.place
    empty: cython.bint = tract.known_chunks == 0
    while node != cython.NULL and empty:
        node.known &= ~cython.cast(uint32_t, bit(place & 7))
        empty = node.known == 0
        place = node.place
        node = node.parent


def tree_next_known(t: cython.pointer[PageTree], chunk: uint64_t) -> uint64_t:
    place: uint64_t = chunk // TRACT_CHUNKS
    if place >> (3 * t.heights):
        return NOWHERE
    tract: cython.pointer[PageTract] = tree_tract(t, place)
    if tract != cython.NULL:
        i: uint64_t = bits_next_clear(tract.unknown, chunk % TRACT_CHUNKS, TRACT_CHUNKS)
        if i < TRACT_CHUNKS:
            return place * TRACT_CHUNKS + i
    # The last node on the way down with a known child after the way: the next known chunk is its first one there.
    turn: cython.pointer[PageNode] = cython.NULL
    after: uint64_t = 0
    node: cython.pointer[PageNode] = t.top
    while node != cython.NULL:
        slot: uint64_t = (place >> (3 * node.height)) & 7
        if node.known & ~mask(slot + 1):
            turn = node
            after = node.known & ~mask(slot + 1)
        node = cython.cast(cython.pointer[PageNode], node.child[slot]) if node.height else cython.NULL
    if turn == cython.NULL:
        return NOWHERE
    while turn.height > 0:
        turn = cython.cast(cython.pointer[PageNode], turn.child[ctz(after)])
        after = turn.known
    tract = cython.cast(cython.pointer[PageTract], turn.child[ctz(after)])
    return tract.place * TRACT_CHUNKS + bits_next_clear(tract.unknown, 0, TRACT_CHUNKS)


def tree_next_unknown(t: cython.pointer[PageTree], chunk: uint64_t) -> uint64_t:
    while True:
        tract: cython.pointer[PageTract] = tree_tract(t, chunk // TRACT_CHUNKS)
        if tract == cython.NULL:
            return chunk
        i: uint64_t = bits_next_set(tract.unknown, chunk % TRACT_CHUNKS, TRACT_CHUNKS)
        chunk = round_down(chunk, TRACT_CHUNKS) + i
        if i < TRACT_CHUNKS:
            return chunk


# ---- summaries above the tracts ----


def tree_merge_node(node: cython.pointer[cython.const[PageNode]], into: cython.pointer[Summary]) -> cython.void:
    """As summary_merge, over the counts of a node, which no word would hold."""
    pages: uint64_t = bit(TRACT_SHIFT + 3 * node.height)
    length: uint64_t = 0  # of the free run that ends where child j begins
    broken: cython.bint = False
    into.start = 0
    into.max = 0
    j: cython.int
    for j in range(8):
        if node.sum[j].start == pages:
            length += pages
            continue
        length += node.sum[j].start
        if not broken:
            into.start = length
            broken = True
        into.max = most(into.max, length)
        length = 0
        if node.sum[j].max:
            into.max = most(into.max, node.sum[j].max)
            length = node.sum[j].end
    into.max = most(into.max, length)
    into.end = length
    if not broken:
        into.start = length


def tree_refresh(
    t: cython.pointer[PageTree], tract: cython.pointer[PageTract], low: uint64_t, high: uint64_t
) -> cython.void:
    if tract_refresh(tract, low, high):
        tree_refresh_nodes(t, tract)


def tree_refresh_nodes(t: cython.pointer[PageTree], tract: cython.pointer[PageTract]) -> cython.void:
    now = cython.declare(Summary)
    summary_unpack(tract.summary[1] ^ summary_free(0), cython.address(now))
    node: cython.pointer[PageNode] = tract.parent
    place: uint64_t = tract.place
    while node != cython.NULL:
        if same_summary(cython.address(node.sum[place & 7]), cython.address(now)):
            return
        node.sum[place & 7] = now
        tree_merge_node(node, cython.address(now))
        place = node.place
        node = node.parent
    t.whole = now


# ---- finding: the lowest run of n free pages ----


def scan_node(node: cython.pointer[cython.const[PageNode]], npages: uint64_t, run: cython.pointer[Run]) -> cython.int:
    """Return which child holds the lowest run; 8: it crosses children and is in `run`; 9: there is none."""
    run.length = 0
    pages: uint64_t = bit(TRACT_SHIFT + 3 * node.height)
    j: cython.int
    for j in range(8):
        if node.sum[j].max == 0:
            run.length = 0
            continue
        step: cython.int = run_step(run, j, cython.address(node.sum[j]), pages, npages)
        if step:
            return 8 if step == 1 else j
    return 9


def tree_find(t: cython.pointer[PageTree], npages: uint64_t) -> uint64_t:
    if t.whole.max < npages:
        return NOWHERE
    run = cython.declare(Run)
    run.first = 0
    node: cython.pointer[PageNode] = t.top
    while True:
        j: cython.int = scan_node(node, npages, cython.address(run))
        if j == 9:
            return TREE_LIES()
        if j == 8:
            return (node.place << (TRACT_SHIFT + 3 * node.height + 3)) + run.first
        if node.height == 0:
            return tract_find(cython.cast(cython.pointer[PageTract], node.child[j]), npages)
        node = cython.cast(cython.pointer[PageNode], node.child[j])


def tree_lowest_free(t: cython.pointer[PageTree]) -> uint64_t:
    return tree_find(t, 1)


# ---- the index of chunks that have something to release ----


def tree_mark_releasable(tract: cython.pointer[PageTract], chunk: uint64_t) -> cython.void:
    """Set the chunk's bit, and those above it up to the first that is set already."""
    word: cython.pointer[uint64_t] = cython.address(tract.releasable[chunk // 64])
    before: uint64_t = word[0]
    word[0] |= bit(chunk % 64)
    if before:
        return
    before = tract.releasable_words
    tract.releasable_words |= bit(chunk // 64)
    node: cython.pointer[PageNode] = tract.parent
    place: uint64_t = tract.place
    while node != cython.NULL and before == 0:
        before = node.releasable
        node.releasable |= cython.cast(uint32_t, bit(place & 7))
        place = node.place
        node = node.parent


def tree_unmark_releasable(tract: cython.pointer[PageTract], chunk: uint64_t) -> cython.void:
    word: cython.pointer[uint64_t] = cython.address(tract.releasable[chunk // 64])
    if word[0] == 0:
        return
    word[0] &= ~bit(chunk % 64)
    if word[0]:
        return
    tract.releasable_words &= ~bit(chunk // 64)
    left: uint64_t = tract.releasable_words
    node: cython.pointer[PageNode] = tract.parent
    place: uint64_t = tract.place
    while node != cython.NULL and left == 0:
        node.releasable &= ~cython.cast(uint32_t, bit(place & 7))
        left = node.releasable
        place = node.place
        node = node.parent


def tree_highest_releasable(t: cython.pointer[PageTree], chunk: uint64_t) -> uint64_t:
    chunk = least(chunk, (cython.cast(uint64_t, TRACT_CHUNKS) << (3 * t.heights)) - 1)
    place: uint64_t = chunk // TRACT_CHUNKS
    tract: cython.pointer[PageTract] = tree_tract(t, place)
    i: uint64_t = NOWHERE
    if tract != cython.NULL:
        i = tract_last_releasable(tract, chunk % TRACT_CHUNKS)
    if i != NOWHERE:
        return place * TRACT_CHUNKS + i
    # As in tree_next_known, downwards.
    turn: cython.pointer[PageNode] = cython.NULL
    before: uint64_t = 0
    node: cython.pointer[PageNode] = t.top
    while node != cython.NULL:
        slot: uint64_t = (place >> (3 * node.height)) & 7
        if node.releasable & mask(slot):
            turn = node
            before = node.releasable & mask(slot)
        node = cython.cast(cython.pointer[PageNode], node.child[slot]) if node.height else cython.NULL
    if turn == cython.NULL:
        return NOWHERE
    while turn.height > 0:
        turn = cython.cast(cython.pointer[PageNode], turn.child[63 - clz(before)])
        before = turn.releasable
    tract = cython.cast(cython.pointer[PageTract], turn.child[63 - clz(before)])
    return tract.place * TRACT_CHUNKS + tract_last_releasable(tract, TRACT_CHUNKS - 1)


# ---- checking ----


def tree_check_nodes(t: cython.pointer[PageTree], fault: cython.pointer[TreeFault]) -> cython.p_const_char:
    if t.top == cython.NULL:
        return cython.NULL
    law: cython.p_const_char = tree_check_node(t.top, fault)
    if law != cython.NULL:
        return law
    fault.level = -cython.cast(cython.int, t.heights)
    fault.index = 0
    fault.stored = t.whole
    tree_merge_node(t.top, cython.address(fault.recomputed))
    if not same_summary(cython.address(fault.stored), cython.address(fault.recomputed)):
        return b"a summary is what lies below it"
    return cython.NULL


def tree_check_node(
    node: cython.pointer[cython.const[PageNode]], fault: cython.pointer[TreeFault]
) -> cython.p_const_char:
    law: cython.p_const_char = cython.NULL
    j: cython.int
    for j in range(8):
        if node.child[j] == cython.NULL:
            continue
        fault.level = -cython.cast(cython.int, node.height)
        fault.index = 8 * node.place + j
        fault.stored = node.sum[j]
        child: cython.pointer[cython.const[PageNode]] = cython.cast(cython.pointer[PageNode], node.child[j])
        tract: cython.pointer[cython.const[PageTract]] = cython.cast(cython.pointer[PageTract], node.child[j])
        if node.height == 0:
            summary_unpack(tract.summary[1] ^ summary_free(0), cython.address(fault.recomputed))
        else:
            tree_merge_node(child, cython.address(fault.recomputed))
        if not same_summary(cython.address(fault.stored), cython.address(fault.recomputed)):
            return b"a summary is what lies below it"
        known: cython.bint = tract.known_chunks != 0 if node.height == 0 else child.known != 0
        idle: cython.bint = tract.releasable_words != 0 if node.height == 0 else child.releasable != 0
        if known != (node.known >> j & 1 != 0) or idle != (node.releasable >> j & 1 != 0):
            return b"a node knows what its children hold"
        if node.height > 0:
            law = tree_check_node(child, fault)
            if law != cython.NULL:
                return law
    return cython.NULL
