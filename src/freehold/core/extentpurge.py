"""What is idle goes back, oldest first: from dirty to muzzy, from there to retained, along a curve for each.

Thread-safety: any thread, any time. An extent is taken out of its set before it is purged: it is the purger's then, and
no lock is held while the OS or a hook works.
Invariant: an extent that can not be purged keeps its place in the order of ages, and is passed over until next time.
Does not read a clock: time is passed in, and never goes back.
Follows: jemalloc's pac, where what is purged lazily decays once more.
"""

import cython
from cython.cimports.freehold.core.budget import budget_give
from cython.cimports.freehold.core.decay import decay_advance, decay_advance_late, decay_limit
from cython.cimports.freehold.core.ehooks import ehooks_purge_lazy, ehooks_purge_now
from cython.cimports.freehold.core.emap import EXTENT_SHIFT, Extent
from cython.cimports.freehold.core.eset import Eset, eset_put_back, eset_remove
from cython.cimports.freehold.core.extentbook import (
    Extents,
    extents_decay_of,
    extents_idle,
    extents_leave,
    extents_lock,
    extents_retain,
    extents_return,
    extents_unlock,
)
from cython.cimports.freehold.core.extentgrow import extents_calm, extents_shrink
from cython.cimports.freehold.core.machine import most
from cython.cimports.libc.stdint import uint64_t


def extents_decay(x: cython.pointer[Extents], now: uint64_t) -> uint64_t:
    extents_lock(x)
    x.now = most(x.now, now)
    decay_advance(cython.address(x.dirty_decay), x.now)
    decay_advance(cython.address(x.muzzy_decay), x.now)
    extents_unlock(x)
    return extents_decay_both(x)


def extents_tick(x: cython.pointer[Extents], now: uint64_t, busy: cython.pointer[cython.bint]) -> uint64_t:
    """Regions that are left wholly retained go back, too."""
    extents_lock(x)
    x.now = most(x.now, now)
    decay_advance_late(cython.address(x.dirty_decay), x.now)
    decay_advance_late(cython.address(x.muzzy_decay), x.now)
    extents_unlock(x)
    purged: uint64_t = extents_decay_both(x)
    if purged:
        extents_shrink(x)
    extents_lock(x)
    busy[0] = busy[0] or x.dirty.pages > 0 or x.muzzy.pages > 0
    extents_unlock(x)
    return purged


def extents_purge(x: cython.pointer[Extents]) -> uint64_t:
    return extents_reduce(x, cython.address(x.dirty), True) + extents_reduce(x, cython.address(x.muzzy), True)


def extents_give_back(x: cython.pointer[Extents]) -> uint64_t:
    purged: uint64_t = extents_purge(x)
    extents_shrink(x)
    return purged


def extents_settle(x: cython.pointer[Extents]) -> uint64_t:
    return extents_decay_both(x) if x.dirty_decay.time == 0 else 0


def extents_decay_both(x: cython.pointer[Extents]) -> uint64_t:
    return extents_reduce(x, cython.address(x.dirty), False) + extents_reduce(x, cython.address(x.muzzy), False)


def extents_reduce(x: cython.pointer[Extents], s: cython.pointer[Eset], all: cython.bint) -> uint64_t:
    """Let extents go, oldest first, until no more are left than may stay. Those that come meanwhile may wait."""
    purged: uint64_t = 0
    aside: cython.pointer[Extent] = cython.NULL  # refused; linked by `left`, the youngest first
    aside_pages: uint64_t = 0
    extents_lock(x)
    last: uint64_t = s.turn
    while extents_over(x, s, aside_pages, all) and s.oldest.turn < last:
        e: cython.pointer[Extent] = s.oldest
        eset_remove(s, e)
        given_back: uint64_t = extents_let_go(x, s, e, all)
        purged += given_back
        if given_back == 0:
            aside_pages += e.pages
            e.left = aside
            aside = e
    while aside != cython.NULL:
        next: cython.pointer[Extent] = aside.left
        eset_put_back(s, aside)
        aside = next
    extents_unlock(x)
    return purged


def extents_over(x: cython.pointer[Extents], s: cython.pointer[Eset], aside: uint64_t, all: cython.bint) -> cython.bint:
    if s.oldest == cython.NULL:
        return False
    return all or s.pages + aside > decay_limit(extents_decay_of(x, s))


def extents_let_go(
    x: cython.pointer[Extents], s: cython.pointer[Eset], e: cython.pointer[Extent], all: cython.bint
) -> uint64_t:
    """Purge an extent that is taken, lazily if it may be muzzy for a while; return its bytes, or 0: refused."""
    size: uint64_t = e.pages << EXTENT_SHIFT
    lazily: cython.bint = s == cython.address(x.dirty) and not all and x.muzzy_decay.time > 0
    extents_leave(x)
    lazily = lazily and ehooks_purge_lazy(cython.address(x.config.hooks), e.address, size)
    gone: cython.bint = lazily or ehooks_purge_now(cython.address(x.config.hooks), e.address, size)
    extents_return(x)
    if not gone:
        x.refusals += 1
        return 0
    extents_calm(x, e.address, size)
    x.purged_bytes += size
    if lazily:
        extents_idle(x, cython.address(x.muzzy), e)
        return size
    extents_retain(x, e)
    if x.config.budget != cython.NULL:
        budget_give(x.config.budget, size)
    return size
