"""Other shapes for extents in use: longer, shorter, two of one, one of two.

Thread-safety: any thread, any time. What is given another shape is taken while a hook is asked, and nobody else's.
Invariants: an address never changes; what is refused is as it was.
Does not move anything: who needs more room than there is allocates anew.
Follows: jemalloc's expansion and shrinking in place.
"""

import cython
from cython.cimports.freehold.core.budget import budget_give, budget_take
from cython.cimports.freehold.core.emap import (
    EXTENT_ACTIVE,
    EXTENT_DIRTY,
    EXTENT_MUZZY,
    EXTENT_PAGE,
    EXTENT_SHIFT,
    EXTENT_TAKEN,
    EmapRegion,
    Extent,
    emap_at,
    emap_region,
    extent_end,
)
from cython.cimports.freehold.core.eset import Eset, eset_put_back, eset_remove
from cython.cimports.freehold.core.extent import (
    extents_activate,
    extents_deactivate,
    extents_from_retained,
    extents_is_live,
    extents_put_rest,
)
from cython.cimports.freehold.core.extentbook import (
    MERGE_DEAD,
    MERGE_HOOK,
    MERGE_OK,
    MERGE_STATE,
    Extents,
    ExtentView,
    extents_ask_merge,
    extents_cut,
    extents_describe,
    extents_idle,
    extents_join,
    extents_lock,
    extents_may_split,
    extents_mergeable,
    extents_retain,
    extents_set,
    extents_shelf,
    extents_stock,
    extents_unlock,
)
from cython.cimports.freehold.core.extentgrow import extents_make_committed
from cython.cimports.freehold.core.extentpurge import extents_settle
from cython.cimports.freehold.core.extentview import extents_verify
from cython.cimports.freehold.core.machine import EINVAL, ENOMEM, least, most
from cython.cimports.freehold.core.pages import pages_allocate_range
from cython.cimports.libc.stdint import uint32_t, uint64_t

# ---- resizing in place ----


def extents_resize_at(x: cython.pointer[Extents], address: uint64_t, size: uint64_t) -> cython.bint:
    pages: uint64_t = (most(size, 1) + EXTENT_PAGE - 1) >> EXTENT_SHIFT
    extents_lock(x)
    e: cython.pointer[Extent] = emap_at(cython.address(x.map), address)
    done: cython.bint = e != cython.NULL and e.address == address and e.state == EXTENT_ACTIVE
    done = done and extents_reform(x, e, pages)
    extents_unlock(x)
    return done


def extents_resize(
    x: cython.pointer[Extents], e: cython.pointer[Extent], birth: uint64_t, pages: uint64_t
) -> cython.bint:
    extents_lock(x)
    done: cython.bint = extents_is_live(e, birth) and extents_reform(x, e, pages)
    extents_unlock(x)
    extents_settle(x)
    return done


def extents_reform(x: cython.pointer[Extents], e: cython.pointer[Extent], pages: uint64_t) -> cython.bint:
    if pages == e.pages:
        return True
    extents_deactivate(x, e)  # nobody else's while a hook is asked
    done: cython.bint
    if pages < e.pages:
        done = extents_shorten(x, e, pages)
    else:
        done = extents_lengthen(x, e, pages - e.pages)
    extents_activate(x, e)
    extents_verify(x)
    return done


def extents_shorten(x: cython.pointer[Extents], e: cython.pointer[Extent], pages: uint64_t) -> cython.bint:
    """The record for the tail was promised when the extent was handed out; the next promise is made up for at once."""
    if not extents_may_split(x, e, pages):
        return False
    if x.map.spares == 0 and not extents_stock(x, 1):
        return False
    tail: cython.pointer[Extent] = extents_cut(x, e, pages)
    extents_idle(x, cython.address(x.dirty), tail)
    extents_stock(x, 1)
    return True


def extents_lengthen(x: cython.pointer[Extents], e: cython.pointer[Extent], more: uint64_t) -> cython.bint:
    end: uint64_t = extent_end(e)
    region: cython.pointer[EmapRegion] = emap_region(cython.address(x.map), end)
    if region == cython.NULL or (region.base == end and not x.config.maps_coalesce):
        return False
    if not extents_stock(x, 2):
        return False
    next: cython.pointer[Extent] = emap_at(cython.address(x.map), end)
    if next == cython.NULL:
        return extents_lengthen_into_retained(x, e, more)
    if next.pages < more or (next.state != EXTENT_DIRTY and next.state != EXTENT_MUZZY):
        return False
    return extents_lengthen_into_idle(x, e, next, more)


def extents_lengthen_into_idle(
    x: cython.pointer[Extents], e: cython.pointer[Extent], next: cython.pointer[Extent], more: uint64_t
) -> cython.bint:
    s: cython.pointer[Eset] = extents_set(x, next.state)
    newer: cython.pointer[Extent] = next.newer
    rest: cython.pointer[Extent] = cython.NULL
    eset_remove(s, next)
    if next.pages > more:
        if not extents_may_split(x, next, more) or not extents_stock(x, 2):
            eset_put_back(s, next)
            return False
        rest = extents_cut(x, next, more)
    merged: cython.bint = extents_ask_merge(x, e, next.address, more << EXTENT_SHIFT)
    if merged:
        extents_join(x, e, next)
    elif rest != cython.NULL:  # as it was
        extents_join(x, next, rest)
        rest = cython.NULL
    if not merged:
        eset_put_back(s, next)
    elif rest != cython.NULL:
        extents_put_rest(x, s, rest, newer)
    return merged


def extents_lengthen_into_retained(
    x: cython.pointer[Extents], e: cython.pointer[Extent], more: uint64_t
) -> cython.bint:
    end: uint64_t = extent_end(e)
    bytes: uint64_t = more << EXTENT_SHIFT
    scavenged: uint64_t = 0
    if x.config.budget != cython.NULL and not budget_take(x.config.budget, bytes):
        return False
    done: cython.bint = pages_allocate_range(extents_shelf(x, end), end, more, cython.address(scavenged))
    if done:
        next: cython.pointer[Extent] = extents_from_retained(x, end, more)
        done = extents_make_committed(x, next) and extents_ask_merge(x, e, end, bytes)
        if done:
            extents_join(x, e, next)
        else:
            extents_retain(x, next)
    if not done and x.config.budget != cython.NULL:
        budget_give(x.config.budget, bytes)
    return done


# ---- splitting and merging on demand ----


def extents_split(
    x: cython.pointer[Extents],
    e: cython.pointer[Extent],
    birth: uint64_t,
    pages: uint64_t,
    rest: cython.pointer[ExtentView],
) -> cython.int:
    error: cython.int = EINVAL
    extents_lock(x)
    if not extents_stock(x, 2):
        error = ENOMEM
    elif extents_is_live(e, birth) and pages < e.pages:
        extents_deactivate(x, e)
        if extents_may_split(x, e, pages):
            error = 0 if extents_stock(x, 3) else ENOMEM
        if error == 0:
            tail: cython.pointer[Extent] = extents_cut(x, e, pages)
            extents_activate(x, tail)
            extents_describe(tail, rest)
        extents_activate(x, e)
        extents_verify(x)
    extents_unlock(x)
    return error


def extents_merge(
    x: cython.pointer[Extents],
    a: cython.pointer[cython.const[ExtentView]],
    b: cython.pointer[cython.const[ExtentView]],
) -> cython.int:
    low: cython.pointer[Extent] = a.extent
    high: cython.pointer[Extent] = b.extent
    why: cython.int = MERGE_DEAD
    extents_lock(x)
    if low.birth == a.birth and high.birth == b.birth:
        why = extents_mergeable(x, low, high)
    if why == MERGE_OK:
        why = extents_merge_same(x, low, high)
        extents_verify(x)
    extents_unlock(x)
    return why


def extents_merge_same(
    x: cython.pointer[Extents], low: cython.pointer[Extent], high: cython.pointer[Extent]
) -> cython.int:
    """Two of one state. Idle ones that a hook kept apart become as old as the older."""
    state: uint32_t = low.state
    if state == EXTENT_TAKEN:
        return MERGE_STATE
    extents_take(x, low)
    extents_take(x, high)
    merged: cython.bint = extents_ask_merge(x, low, high.address, high.pages << EXTENT_SHIFT)
    if merged:
        low.turn = least(low.turn, high.turn)
        extents_join(x, low, high)
    else:
        extents_put(x, high, state)
    extents_put(x, low, state)
    return MERGE_OK if merged else MERGE_HOOK


def extents_take(x: cython.pointer[Extents], e: cython.pointer[Extent]) -> cython.void:
    """Out of whatever state it is in."""
    if e.state == EXTENT_ACTIVE:
        extents_deactivate(x, e)
    else:
        eset_remove(extents_set(x, e.state), e)


def extents_put(x: cython.pointer[Extents], e: cython.pointer[Extent], state: uint32_t) -> cython.void:
    if state == EXTENT_ACTIVE:
        extents_activate(x, e)
    else:
        eset_put_back(extents_set(x, state), e)
