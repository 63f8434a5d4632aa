"""What the parts of a page allocator share: its lock, the runs claimed from it, its marks, and the check of all of it.

Thread-safety: functions that take the lock say so; the others want it held.
Invariants: used + free = 512 x chunks; no page below the hint is free; a claimed run is marked used and belongs to
whoever claimed it. Summaries that disagree with the bitmaps are fatal, and everything known about them is said.
Does not decide which pages are handed out (pages) or given back (scavenge).
Follows: Go's page allocator.
"""

import cython
from cython.cimports.freehold.core.bits import bits_all_clear, bits_all_set, bits_clear, bits_count, bits_set
from cython.cimports.freehold.core.fault import FREE_DOUBLE, FREE_FOREIGN, FREE_OK
from cython.cimports.freehold.core.machine import (
    CHECK,
    NOWHERE,
    abort,
    futex_wait,
    futex_wake,
    getpid,
    least,
    memset,
    round_up,
    snprintf,
    store32_release,
    tell,
)
from cython.cimports.freehold.core.pagebook import MARK_SCAVENGED, MARK_USED, Mark, Pages, PagesClaim, PagesWrong
from cython.cimports.freehold.core.pagetree import (
    PageTree,
    tree_check_nodes,
    tree_lowest_free,
    tree_mark_releasable,
    tree_next_known,
    tree_refresh,
    tree_tract,
    tree_write,
)
from cython.cimports.freehold.core.summary import summary_free
from cython.cimports.freehold.core.sync import mutex_lock, mutex_reset, mutex_unlock
from cython.cimports.freehold.core.tract import (
    CHUNK_PAGES,
    CHUNK_SHIFT,
    TRACT_CHUNKS,
    TRACT_LEAF,
    TRACT_SHIFT,
    PageChunk,
    PageTract,
    Summary,
    TreeCounts,
    TreeFault,
    chunk_summary,
    tract_check,
    tract_knows,
    tract_leaf,
    tract_set_leaf,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

# ---- the lock ----


def pages_lock(p: cython.pointer[Pages]) -> cython.void:
    mutex_lock(cython.address(p.lock))
    while p.claims != cython.NULL:
        pages_wait(p)


def pages_unlock(p: cython.pointer[Pages]) -> cython.void:
    mutex_unlock(cython.address(p.lock))


def pages_reset(p: cython.pointer[Pages]) -> cython.void:
    mutex_reset(cython.address(p.lock))


# ---- claims: runs that somebody works on without the lock ----


def pages_claim(
    p: cython.pointer[Pages], claim: cython.pointer[PagesClaim], page: uint64_t, npages: uint64_t
) -> cython.void:
    claim.page = page
    claim.npages = npages
    claim.next = p.claims
    p.claims = claim


def pages_unclaim(p: cython.pointer[Pages], claim: cython.pointer[PagesClaim]) -> cython.void:
    link: cython.pointer[cython.pointer[PagesClaim]] = cython.address(p.claims)
    while link[0] != claim:
        link = cython.address(link[0].next)
    link[0] = claim.next
    store32_release(cython.address(p.claims_ended), p.claims_ended + 1)
    futex_wake(cython.address(p.claims_ended), 1 << 30)


def pages_wait(p: cython.pointer[Pages]) -> cython.void:
    """Let the lock go until a claim has ended."""
    seen: uint32_t = p.claims_ended
    mutex_unlock(cython.address(p.lock))
    futex_wait(cython.address(p.claims_ended), seen, -1)
    mutex_lock(cython.address(p.lock))


def pages_claimed(p: cython.pointer[Pages], page: uint64_t, npages: uint64_t) -> cython.bint:
    claim: cython.pointer[PagesClaim] = p.claims
    while claim != cython.NULL:
        if claim.page < page + npages and page < claim.page + claim.npages:
            return True
        claim = claim.next
    return False


def pages_claimed_pages(p: cython.pointer[Pages]) -> uint64_t:
    total: uint64_t = 0
    claim: cython.pointer[PagesClaim] = p.claims
    while claim != cython.NULL:
        total += claim.npages
        claim = claim.next
    return total


# ---- marking ----


def pages_state(p: cython.pointer[Pages], page: uint64_t, npages: uint64_t, used: cython.bint) -> cython.int:
    """FREE_OK: all known and in use (or free, as asked). FREE_FOREIGN: one is unknown. FREE_DOUBLE: one is not so."""
    state: cython.int = FREE_OK
    while npages > 0:
        first: uint64_t = page % CHUNK_PAGES
        here: uint64_t = least(npages, CHUNK_PAGES - first)
        tract: cython.pointer[PageTract] = tree_tract(cython.address(p.tree), page >> TRACT_SHIFT)
        chunk: uint64_t = (page >> CHUNK_SHIFT) % TRACT_CHUNKS
        if not tract_knows(tract, chunk):
            return FREE_FOREIGN
        bits: cython.pointer[uint64_t] = tract.chunk[chunk].used
        if not (bits_all_set(bits, first, here) if used else bits_all_clear(bits, first, here)):
            state = FREE_DOUBLE
        page += here
        npages -= here
    return state


def pages_mark(p: cython.pointer[Pages], page: uint64_t, npages: uint64_t, how: Mark) -> uint64_t:
    """Mark a known run; return how many of its pages were scavenged."""
    scavenged: uint64_t = 0
    while npages > 0:  # once for each tract
        tract: cython.pointer[PageTract] = tree_tract(cython.address(p.tree), page >> TRACT_SHIFT)
        low: uint64_t = (page >> CHUNK_SHIFT) % TRACT_CHUNKS
        chunk: uint64_t = low
        changed: cython.bint = False
        while npages > 0 and chunk < TRACT_CHUNKS:
            first: uint64_t = page % CHUNK_PAGES
            here: uint64_t = least(npages, CHUNK_PAGES - first)
            before: uint64_t = tract_leaf(tract, chunk)
            scavenged += chunk_mark(tract, chunk, first, here, how)
            changed = changed or tract_leaf(tract, chunk) != before
            page += here
            npages -= here
            chunk += 1
        if changed:
            tree_refresh(cython.address(p.tree), tract, low, chunk - 1)
    return scavenged


def chunk_mark(tract: cython.pointer[PageTract], chunk: uint64_t, first: uint64_t, n: uint64_t, how: Mark) -> uint64_t:
    c: cython.pointer[PageChunk] = cython.address(tract.chunk[chunk])
    scavenged: uint64_t = 0
    if how == MARK_USED:
        scavenged = n - bits_count(c.resident, first, n)
        bits_set(c.used, first, n)
        bits_set(c.resident, first, n)
    else:
        bits_clear(c.used, first, n)
        if how == MARK_SCAVENGED:
            bits_clear(c.resident, first, n)
        else:
            tree_mark_releasable(tract, chunk)
    if n < CHUNK_PAGES:
        tract_set_leaf(tract, chunk, chunk_summary(c.used))
    else:
        tract_set_leaf(tract, chunk, 0 if how == MARK_USED else summary_free(TRACT_LEAF))
    return scavenged


def pages_refresh(p: cython.pointer[Pages], page: uint64_t) -> cython.void:
    """Carry up what was changed in the bitmap of one page's chunk."""
    tract: cython.pointer[PageTract] = tree_tract(cython.address(p.tree), page >> TRACT_SHIFT)
    chunk: uint64_t = (page >> CHUNK_SHIFT) % TRACT_CHUNKS
    tract_set_leaf(tract, chunk, chunk_summary(tract.chunk[chunk].used))
    tree_refresh(cython.address(p.tree), tract, chunk, chunk)
    pages_verify(p)


def pages_hint_address(p: cython.pointer[Pages]) -> uint64_t:
    """From the counters alone: it is told of an allocator whose summaries are wrong, too."""
    return NOWHERE if p.used_pages == p.chunks * CHUNK_PAGES else p.hint << p.page_shift


# ---- checking ----


def pages_check(p: cython.pointer[Pages], wrong: cython.pointer[PagesWrong]) -> cython.bint:
    pages_lock(p)
    sound: cython.bint = pages_is_sound(p, wrong)
    pages_unlock(p)
    return sound


def pages_is_sound(p: cython.pointer[Pages], wrong: cython.pointer[PagesWrong]) -> cython.bint:
    t: cython.pointer[PageTree] = cython.address(p.tree)
    counts = cython.declare(TreeCounts)
    memset(cython.address(counts), 0, cython.sizeof(TreeCounts))
    memset(wrong, 0, cython.sizeof(PagesWrong))
    wrong.search_address = pages_hint_address(p)
    chunk: uint64_t = tree_next_known(t, 0)
    while chunk != NOWHERE and wrong.law == cython.NULL:
        wrong.law = tract_check(
            tree_tract(t, chunk // TRACT_CHUNKS), cython.address(wrong.fault), cython.address(counts)
        )
        chunk = tree_next_known(t, round_up(chunk + 1, TRACT_CHUNKS))
    if wrong.law == cython.NULL:
        wrong.law = tree_check_nodes(t, cython.address(wrong.fault))
    if wrong.law != cython.NULL:
        return False
    wrong.counted = True
    if pages_differ(wrong, b"the known chunks are counted", counts.chunks, p.chunks):
        return False
    if pages_differ(wrong, b"the pages in use are counted", counts.used, p.used_pages + pages_claimed_pages(p)):
        return False
    if pages_differ(wrong, b"the scavenged pages are counted", counts.scavenged, p.scavenged_pages):
        return False
    return pages_hint_is_sound(p, wrong)


def pages_differ(
    wrong: cython.pointer[PagesWrong], law: cython.p_const_char, expected: uint64_t, actual: uint64_t
) -> cython.bint:
    wrong.law = law
    wrong.expected = expected
    wrong.actual = actual
    return expected != actual


def pages_hint_is_sound(p: cython.pointer[Pages], wrong: cython.pointer[PagesWrong]) -> cython.bint:
    t: cython.pointer[PageTree] = cython.address(p.tree)
    if p.chunks == 0:
        return not pages_differ(wrong, b"the search address is none where nothing is known", NOWHERE, p.hint)
    chunk: uint64_t = p.hint >> CHUNK_SHIFT
    if pages_differ(wrong, b"the search address is known memory", tree_next_known(t, chunk), chunk):
        return False
    lowest: uint64_t = tree_lowest_free(t)
    return not pages_differ(wrong, b"no page below the search address is free", least(lowest, p.hint), p.hint)


def pages_wrong_text(
    wrong: cython.pointer[cython.const[PagesWrong]], text: cython.p_char, room: cython.size_t
) -> cython.void:
    f: cython.pointer[cython.const[TreeFault]] = cython.address(wrong.fault)
    address = cython.declare(cython.char[64])
    at: cython.ulonglong = wrong.search_address
    if at == NOWHERE:
        snprintf(address, 64, b"none")
    else:
        snprintf(address, 64, b"0x%llx (%llu)", at, at)
    if wrong.counted:
        snprintf(
            text,
            room,
            b"pages: %s: expected %llu, found %llu, search address %s",
            wrong.law,
            cython.cast(cython.ulonglong, wrong.expected),
            cython.cast(cython.ulonglong, wrong.actual),
            cython.cast(cython.p_char, address),
        )
        return
    snprintf(
        text,
        room,
        b"pages: %s: level %d, index %llu, stored (%llu, %llu, %llu), recomputed (%llu, %llu, %llu), search address %s",
        wrong.law,
        f.level,
        cython.cast(cython.ulonglong, f.index),
        cython.cast(cython.ulonglong, f.stored.start),
        cython.cast(cython.ulonglong, f.stored.max),
        cython.cast(cython.ulonglong, f.stored.end),
        cython.cast(cython.ulonglong, f.recomputed.start),
        cython.cast(cython.ulonglong, f.recomputed.max),
        cython.cast(cython.ulonglong, f.recomputed.end),
        cython.cast(cython.p_char, address),
    )


def pages_abort(p: cython.pointer[Pages]) -> cython.void:
    """Say what is wrong, and end the process: the summaries promised what the bitmaps do not hold, or the reverse."""
    wrong = cython.declare(PagesWrong)
    text = cython.declare(cython.char[400])
    snprintf(text, 400, b"pages: a run was found that is not free")
    if not pages_is_sound(p, cython.address(wrong)):
        pages_wrong_text(cython.address(wrong), text, 400)
    tell(b"freehold: fatal: %s pid=%d\n", cython.cast(cython.p_char, text), getpid())
    abort()


def pages_verify(p: cython.pointer[Pages]) -> cython.void:
    """Debug level 2: check everything after each operation, while that is quick."""
    wrong = cython.declare(PagesWrong)
    if CHECK >= 2 and p.chunks <= 64 and not pages_is_sound(p, cython.address(wrong)):
        pages_abort(p)


def pages_corrupt(
    p: cython.pointer[Pages], level: uint32_t, index: uint64_t, summary: cython.pointer[cython.const[Summary]]
) -> cython.bint:
    mutex_lock(cython.address(p.lock))
    tract: cython.pointer[PageTract] = tree_tract(cython.address(p.tree), index >> (3 * level))
    if tract != cython.NULL:
        tree_write(cython.address(p.tree), tract, level, index, summary)
    mutex_unlock(cython.address(p.lock))
    return tract != cython.NULL
