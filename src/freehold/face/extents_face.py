# cython: language_level=3
"""Extents as Python meets them: ranges of memory with a life, and a live view of each.

Thread-safety: every method may be called from any thread, and from a hook; the GIL is released around the core. `close`
lets calls that are under way end; the last of them gives the memory back.
Invariants: a call that raises has changed nothing; of one extent there is one `Extent`, as long as anybody holds it.
Does not: read a clock (time is what methods are told), or touch the memory, but where ``zero`` asks for that.
"""

from collections.abc import Mapping
from enum import StrEnum
from weakref import WeakValueDictionary

import cython
from cython.cimports.cpython.exc import PyErr_SetObject, PyErr_WriteUnraisable
from cython.cimports.cpython.mem import PyMem_Free, PyMem_Malloc
from cython.cimports.freehold.core.emap import (
    EXTENT_ACTIVE,
    EXTENT_DIRTY,
    EXTENT_MUZZY,
    EXTENT_NO_CLASS,
    EXTENT_PAGE,
    EXTENT_RETAINED,
)
from cython.cimports.freehold.core.extent import (
    extents_close,
    extents_dispose,
    extents_enter,
    extents_exit,
    extents_give,
    extents_obtain,
    extents_open,
    extents_read,
)
from cython.cimports.freehold.core.extentbook import (
    MERGE_COMMIT,
    MERGE_DEAD,
    MERGE_HEAD,
    MERGE_HOOK,
    MERGE_NOT_NEIGHBOURS,
    MERGE_OK,
    MERGE_STATE,
    ExtentConfig,
    ExtentView,
)
from cython.cimports.freehold.core.extentbook import (
    Extents as Core,
)
from cython.cimports.freehold.core.extentgrow import extents_shrink
from cython.cimports.freehold.core.extentpurge import extents_decay, extents_purge
from cython.cimports.freehold.core.extentshape import extents_merge, extents_resize, extents_split
from cython.cimports.freehold.core.extentview import (
    ExtentStats,
    ExtentWrong,
    extents_check,
    extents_is_retained,
    extents_list,
    extents_lookup,
    extents_read_stats,
)
from cython.cimports.freehold.core.fault import FREE_OK
from cython.cimports.freehold.core.heap import heap_boot
from cython.cimports.libc.errno import ENOMEM
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memset

from freehold._arguments import WORD, any_integer, size_of
from freehold.errors import BadFree, Inconsistent, NotMergeable, OSRefused, OutOfMemory

heap_boot()

NO_HEAP = 0xFFFD  # the heap id that the owner table tells of these blocks
LONGEST_NS = (1 << 63) - 1
HOOKS = ("alloc", "free", "commit", "decommit", "purge_lazy", "purge_now", "split", "merge")
REASONS = {
    MERGE_NOT_NEIGHBOURS: "not neighbours",
    MERGE_STATE: "state",
    MERGE_COMMIT: "commit",
    MERGE_HEAD: "head",
    MERGE_HOOK: "hook",
}


class ExtentState(StrEnum):
    """The states of an extent."""

    ACTIVE = "active"
    DIRTY = "dirty"
    MUZZY = "muzzy"
    RETAINED = "retained"


ExtentState.__module__ = "freehold.layers"
STATES = {
    EXTENT_ACTIVE: ExtentState.ACTIVE,
    EXTENT_DIRTY: ExtentState.DIRTY,
    EXTENT_MUZZY: ExtentState.MUZZY,
    EXTENT_RETAINED: ExtentState.RETAINED,
}


@cython.cfunc
def nanoseconds(name: object, value: object) -> object:
    """Return a time in milliseconds, int or float, as whole nanoseconds; what is too long for them is for ever."""
    if not isinstance(value, float):
        value = any_integer(name, value)
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, but is {value}")
    if value > LONGEST_NS // 1_000_000:
        return LONGEST_NS
    return int(value * 1_000_000)


@cython.cfunc
def decay_time(name: object, value: object) -> object:
    """Return a decay time as nanoseconds; -1, never, as the largest word."""
    if not isinstance(value, float):
        value = any_integer(name, value)
    if value == -1:
        return WORD - 1
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, or -1 for never, but is {value}")
    return nanoseconds(name, value)


# ---- hooks: from the core to Python callables ----


@cython.cfunc
def ask(context: cython.p_void, name: object, arguments: tuple) -> object:
    """Call a hook; what it raises goes to sys.unraisablehook, and counts as None."""
    hook = cython.cast(dict, cython.cast(object, context))[name]
    try:
        return hook(*arguments)
    except BaseException as error:  # nobody above could do anything with it
        PyErr_SetObject(type(error), error)
        PyErr_WriteUnraisable(hook)
    return None


def hook_alloc(
    context: cython.p_void, size: uint64_t, alignment: uint64_t, zero: cython.bint, commit: cython.bint
) -> uint64_t:
    address: uint64_t = 0
    with cython.gil:
        answer = ask(context, "alloc", (size, alignment, bool(zero), bool(commit)))
        if isinstance(answer, int) and 0 <= answer < WORD:
            address = answer
    return address


def hook_free(context: cython.p_void, a: uint64_t, b: uint64_t, c: uint64_t, d: uint64_t) -> cython.bint:
    done: cython.bint
    with cython.gil:
        done = ask(context, "free", (a, b)) is True
    return done


def hook_commit(context: cython.p_void, a: uint64_t, b: uint64_t, c: uint64_t, d: uint64_t) -> cython.bint:
    done: cython.bint
    with cython.gil:
        done = ask(context, "commit", (a, b, c, d)) is True
    return done


def hook_decommit(context: cython.p_void, a: uint64_t, b: uint64_t, c: uint64_t, d: uint64_t) -> cython.bint:
    done: cython.bint
    with cython.gil:
        done = ask(context, "decommit", (a, b, c, d)) is True
    return done


def hook_purge_lazy(context: cython.p_void, a: uint64_t, b: uint64_t, c: uint64_t, d: uint64_t) -> cython.bint:
    done: cython.bint
    with cython.gil:
        done = ask(context, "purge_lazy", (a, b, c, d)) is True
    return done


def hook_purge_now(context: cython.p_void, a: uint64_t, b: uint64_t, c: uint64_t, d: uint64_t) -> cython.bint:
    done: cython.bint
    with cython.gil:
        done = ask(context, "purge_now", (a, b, c, d)) is True
    return done


def hook_split(context: cython.p_void, a: uint64_t, b: uint64_t, c: uint64_t, d: uint64_t) -> cython.bint:
    done: cython.bint
    with cython.gil:
        done = ask(context, "split", (a, b, c, d)) is True
    return done


def hook_merge(context: cython.p_void, a: uint64_t, b: uint64_t, c: uint64_t, d: uint64_t) -> cython.bint:
    done: cython.bint
    with cython.gil:
        done = ask(context, "merge", (a, b, c, d)) is True
    return done


@cython.cfunc
def hooks_of(given: object) -> dict:
    """Return the hooks of a mapping or an object, by name; those it has not are the OS's."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        unknown = set(given) - set(HOOKS)
        if unknown:
            raise ValueError(f"hooks has no such function: {', '.join(sorted(map(str, unknown)))}")
        found = dict(given)
    else:
        found = {name: getattr(given, name, None) for name in HOOKS}
    found = {name: hook for name, hook in found.items() if hook is not None}
    for name, hook in found.items():
        if not callable(hook):
            raise TypeError(f"hooks: {name} must be callable, not {type(hook).__name__}")
    return found


# ---- the faces ----


@cython.final
@cython.cclass
class Extent:
    """A live view of an extent, or what a retained range was when it was asked for.

    Attributes:
        address: where it begins.
        size: its bytes, whole pages of 8 KiB.
        heap: the `Extents` that it belongs to.
        serial: the number of the region it lies in; smaller is older.
        state: an `ExtentState`; None once it was merged into another, or is no more.
        is_head: whether it begins where its region begins.
        size_class: index of the smallest size class that holds it while it is active; else None.

    Thread-safety: any attribute, any thread.
    """

    __weakref__ = cython.declare(object)
    _heap: Extents
    _view: ExtentView  # what identifies it, and what it was when it was last looked at
    _dead: cython.bint

    def __init__(self):
        raise TypeError("extents come from Extents.allocate")

    @cython.cfunc
    @cython.exceptval(check=False)
    def _look(self) -> cython.bint:
        """Look at it anew; False if it is no more. Its memory may have gone back to the OS: it is retained then."""
        core: cython.pointer[Core] = self._heap._core
        view = cython.declare(ExtentView)  # a copy: without the GIL other threads look, too
        there: cython.bint = False
        if self._dead:
            return False
        view = self._view
        with cython.nogil:
            if extents_enter(core):
                if view.extent != cython.NULL:
                    there = extents_read(core, view.extent, view.birth, cython.address(view))
                if not there:
                    there = extents_is_retained(core, view.address, view.size)
                    if there:
                        view.extent = cython.NULL
                        view.state = EXTENT_RETAINED
                        view.size_class = EXTENT_NO_CLASS
                extents_exit(core)
        self._view = view
        self._dead = not there
        return there

    @property
    def address(self) -> int:
        self._look()
        return self._view.address

    @property
    def size(self) -> int:
        self._look()
        return self._view.size

    @property
    def heap(self):
        return self._heap

    @property
    def serial(self) -> int:
        self._look()
        return self._view.serial

    @property
    def state(self):
        if not self._look():
            return None
        return STATES.get(self._view.state)

    @property
    def is_head(self) -> bool:
        self._look()
        return bool(self._view.is_head)

    @property
    def size_class(self):
        if not self._look() or self._view.size_class == EXTENT_NO_CLASS:
            return None
        return self._view.size_class

    def __repr__(self) -> str:
        state = self.state
        return f"<Extent {self._view.address:#x} {self._view.size} bytes {state or 'dead'} serial={self._view.serial}>"


@cython.final
@cython.cclass
class Extents:
    """Ranges of memory with a life: active, then dirty, muzzy and retained while nobody uses them.

    Args:
        dirty_decay_ms: how long what is freed stays resident, along a smooth curve; 0: not at all, -1: for ever.
        muzzy_decay_ms: how long it stays after it was purged lazily; 0: it is purged at once instead.
        maps_coalesce: whether the OS can purge and unmap across what was obtained apart. Where it can not, nothing
            ever crosses from one region to another.
        hooks: a mapping or an object with functions that stand in for the OS's: ``alloc(size, alignment, zero, commit)
            -> address | None``, ``free(address, size)``, ``commit``, ``decommit``, ``purge_lazy`` and
            ``purge_now(address, size, offset, length)``, ``split(address, size, size_a, size_b)``, ``merge(address_a,
            size_a, address_b, size_b)``, these ``-> bool``: anything but True is a refusal.

    Example:
        >>> with Extents() as extents:
        ...     e = extents.allocate(100_000)
        ...     e.size, e.state.value
        ...     extents.free(e)
        ...     e.state.value
        (106496, 'active')
        'dirty'

    Thread-safety: any method, any thread, and any hook.
    """

    __weakref__ = cython.declare(object)
    _core: cython.pointer[Core]
    _hooks: dict
    _views: object  # the Extent of each that somebody holds

    def __cinit__(self, *, dirty_decay_ms=1000, muzzy_decay_ms=0, maps_coalesce=True, hooks=None):
        config = cython.declare(ExtentConfig)
        memset(cython.address(config), 0, cython.sizeof(ExtentConfig))
        self._core = cython.NULL
        self._hooks = hooks_of(hooks)
        self._views = WeakValueDictionary()
        config.heap = NO_HEAP
        config.node = -1
        config.dirty_ns = decay_time("dirty_decay_ms", dirty_decay_ms)
        config.muzzy_ns = decay_time("muzzy_decay_ms", muzzy_decay_ms)
        if not isinstance(maps_coalesce, bool):
            raise TypeError(f"maps_coalesce must be a bool, not {type(maps_coalesce).__name__}")
        config.maps_coalesce = maps_coalesce
        config.hooks.context = cython.cast(cython.p_void, self._hooks)
        if "alloc" in self._hooks:
            config.hooks.alloc = hook_alloc
        if "free" in self._hooks:
            config.hooks.free = hook_free
        if "commit" in self._hooks:
            config.hooks.commit = hook_commit
        if "decommit" in self._hooks:
            config.hooks.decommit = hook_decommit
        if "purge_lazy" in self._hooks:
            config.hooks.purge_lazy = hook_purge_lazy
        if "purge_now" in self._hooks:
            config.hooks.purge_now = hook_purge_now
        if "split" in self._hooks:
            config.hooks.split = hook_split
        if "merge" in self._hooks:
            config.hooks.merge = hook_merge
        error: cython.int = extents_open(cython.address(config), cython.address(self._core))
        if error:
            raise OSRefused(errno=error, call="map", layer="extent")

    def __del__(self):
        # Before anything that hooks need is taken apart, whatever refers to whatever.
        if self._core != cython.NULL:
            self.close()

    def __dealloc__(self):
        if self._core != cython.NULL:
            with cython.nogil:
                extents_dispose(self._core)

    # ---- in, out, and the end ----

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def _enter(self) -> cython.int:
        if not extents_enter(self._core):
            raise ValueError("these Extents are closed")
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _exit(self) -> cython.void:
        with cython.nogil:
            extents_exit(self._core)

    def __enter__(self):
        self._enter()
        self._exit()
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Give every region to ``free``, whether extents in it are active or not."""
        with cython.nogil:
            extents_close(self._core)

    @cython.cfunc
    def _show(self, view: cython.pointer[ExtentView]) -> Extent:
        """Return the one view of an extent; of a retained range, a new one."""
        e: Extent
        if view.extent != cython.NULL:
            known = self._views.get(view.birth)
            if known is not None:
                return known
        e = Extent.__new__(Extent)
        e._heap = self
        e._view = view[0]
        e._dead = False
        if view.extent != cython.NULL:
            return self._views.setdefault(view.birth, e)
        return e

    @cython.cfunc
    def _own(self, e: object) -> Extent:
        """Return what a caller says is an extent of these; the call is inside."""
        if not isinstance(e, Extent):
            raise TypeError(f"an Extent is needed, not {type(e).__name__}")
        extent: Extent = e
        if extent._heap is not self:
            raise BadFree(address=extent._view.address, reason="foreign")
        return extent

    @cython.cfunc
    @cython.exceptval(-1, check=False)
    def _pass_time(self, now_ms: object) -> cython.int:
        """Let time pass that a call was told of, with what decays meanwhile."""
        if now_ms is None:
            return 0
        now: uint64_t = nanoseconds("now_ms", now_ms)
        with cython.nogil:
            extents_decay(self._core, now)
        return 0

    # ---- allocate and free ----

    def allocate(self, size, *, zero=False, now_ms=None) -> Extent:
        """Return an active extent of at least so many bytes.

        Args:
            size: bytes, rounded up to pages of 8 KiB.
            zero: all of it reads 0.
            now_ms: what time it is; what has decayed since goes back first.

        Raises:
            OutOfMemory: nothing that is idle fits, and there is no more to be had.
        """
        self._enter()
        try:
            number = any_integer("size", size)
            if number < 1:
                raise ValueError(f"size must be at least 1, not {number}")
            self._pass_time(now_ms)
            view = cython.declare(ExtentView)
            pages: uint64_t = min(-(-number // EXTENT_PAGE), WORD - 1)
            cleared: cython.bint = bool(zero)
            error: cython.int
            with cython.nogil:
                error = extents_obtain(self._core, pages, cleared, cython.address(view))
                if not error and cleared and not view.zeroed:
                    memset(cython.cast(cython.p_void, view.address), 0, view.size)
            if error:
                raise OutOfMemory(layer="extent", asked=number)
            return self._show(cython.address(view))
        finally:
            self._exit()

    def free(self, e, *, now_ms=None) -> None:
        """Make an active extent dirty, merged with dirty neighbours, the youngest of all.

        Raises:
            BadFree: it is not active ('double'), or not of these ('foreign').
        """
        self._enter()
        try:
            extent: Extent = self._own(e)
            self._pass_time(now_ms)
            reason: cython.int = 1
            if extent._look() and extent._view.extent != cython.NULL:
                view = cython.declare(ExtentView)
                view = extent._view
                with cython.nogil:
                    reason = extents_give(self._core, view.extent, view.birth)
            if reason != FREE_OK:
                raise BadFree(address=extent._view.address, reason="double")
        finally:
            self._exit()

    # ---- other shapes ----

    @cython.cfunc
    def _active(self, e: object) -> Extent:
        extent: Extent = self._own(e)
        if not extent._look():
            raise BadFree(address=extent._view.address, reason="double")
        if extent._view.state != EXTENT_ACTIVE:
            raise ValueError(f"e must be active, not {extent.state.value if extent.state else extent.state}")
        return extent

    def split(self, e, size) -> tuple:
        """Cut an active extent in two, both active; return it, shrunk to `size`, and the rest.

        Raises:
            ValueError: not a multiple of 8 KiB inside it; it is not active; a hook refused.
            OutOfMemory: there was no room for a record.
        """
        self._enter()
        try:
            extent: Extent = self._active(e)
            number = size_of("size", size, EXTENT_PAGE)
            if number >= extent._view.size:
                raise ValueError(f"size must be less than the extent's {extent._view.size}, not {number}")
            rest = cython.declare(ExtentView)
            view = cython.declare(ExtentView)
            view = extent._view
            pages: uint64_t = number // EXTENT_PAGE
            error: cython.int
            with cython.nogil:
                error = extents_split(self._core, view.extent, view.birth, pages, cython.address(rest))
            if error == ENOMEM:
                raise OutOfMemory("no room for a record", layer="extent")
            if error:
                raise ValueError("e was not split: the hook refused, or it is not active any more")
            return extent, self._show(cython.address(rest))
        finally:
            self._exit()

    def merge(self, a, b) -> Extent:
        """Join two neighbours of one state; return `a`, grown, and `b` is no more.

        Raises:
            NotMergeable: they are not neighbours, or differ in state, or a hook refused: ``reason`` says which.
            BadFree: one of them is no more.
        """
        self._enter()
        try:
            if isinstance(a, Extent) and isinstance(b, Extent):
                low: Extent = a
                high: Extent = b
                if low._heap is not high._heap:
                    raise NotMergeable(reason="heap")
            low = self._own(a)
            high = self._own(b)
            for e in (low, high):
                if not cython.cast(Extent, e)._look():
                    raise BadFree(address=cython.cast(Extent, e)._view.address, reason="double")
            why: cython.int = self._why_apart(low, high)
            if why == MERGE_OK:
                views = cython.declare(ExtentView[2])
                views[0] = low._view
                views[1] = high._view
                with cython.nogil:
                    why = extents_merge(self._core, views, views + 1)
            if why == MERGE_DEAD:
                raise BadFree(address=high._view.address, reason="double")
            if why != MERGE_OK:
                raise NotMergeable(reason=REASONS[why])
            return low
        finally:
            self._exit()

    @cython.cfunc
    @cython.exceptval(check=False)
    def _why_apart(self, low: Extent, high: Extent) -> cython.int:
        """Of two of which one has no record, being retained: why they can not be merged."""
        if low._view.extent != cython.NULL and high._view.extent != cython.NULL:
            return MERGE_OK
        if low._view.address + low._view.size != high._view.address:
            return MERGE_NOT_NEIGHBOURS
        if low._view.state != high._view.state:
            return MERGE_STATE
        return MERGE_HEAD  # retained ranges that touch are one, but for the border of a region

    def resize(self, e, size, *, now_ms=None) -> bool:
        """Shrink an active extent, or grow it into a free right neighbour; return whether it was done."""
        self._enter()
        try:
            extent: Extent = self._active(e)
            number = any_integer("size", size)
            if number < 1:
                raise ValueError(f"size must be at least 1, not {number}")
            self._pass_time(now_ms)
            pages: uint64_t = min(-(-number // EXTENT_PAGE), WORD - 1)
            done: cython.bint
            view = cython.declare(ExtentView)
            view = extent._view
            with cython.nogil:
                done = extents_resize(self._core, view.extent, view.birth, pages)
            return bool(done)
        finally:
            self._exit()

    # ---- giving back ----

    def decay(self, now_ms) -> int:
        """Let go what may not stay any longer; return how many bytes were purged."""
        self._enter()
        try:
            now: uint64_t = nanoseconds("now_ms", now_ms)
            purged: uint64_t
            with cython.nogil:
                purged = extents_decay(self._core, now)
            return purged
        finally:
            self._exit()

    def purge(self) -> int:
        """Let go everything that is dirty or muzzy; return how many bytes were purged."""
        self._enter()
        try:
            purged: uint64_t
            with cython.nogil:
                purged = extents_purge(self._core)
            return purged
        finally:
            self._exit()

    def shrink(self) -> int:
        """Give every region that is wholly retained to ``free``; return how many bytes were taken.

        What is refused is offered to ``decommit``, and stays retained.
        """
        self._enter()
        try:
            given_back: uint64_t
            with cython.nogil:
                given_back = extents_shrink(self._core)
            return given_back
        finally:
            self._exit()

    # ---- reading ----

    def lookup(self, address):
        """Return the extent that an address lies in, whatever its state; None if it is nobody's."""
        self._enter()
        try:
            number = any_integer("address", address)
            if not 0 <= number < WORD:
                return None
            at: uint64_t = number
            view = cython.declare(ExtentView)
            found: cython.bint
            with cython.nogil:
                found = extents_lookup(self._core, at, cython.address(view))
            return self._show(cython.address(view)) if found else None
        finally:
            self._exit()

    def lru(self, state) -> list:
        """Return all extents in an idle state, the one that is longest in it first."""
        self._enter()
        try:
            wanted = ExtentState(state)
            if wanted == ExtentState.ACTIVE:
                raise ValueError("state must be 'dirty', 'muzzy' or 'retained': active extents have no order")
            which: uint32_t = EXTENT_RETAINED
            if wanted == ExtentState.DIRTY:
                which = EXTENT_DIRTY
            elif wanted == ExtentState.MUZZY:
                which = EXTENT_MUZZY
            return self._list(which)
        finally:
            self._exit()

    @cython.cfunc
    def _list(self, state: uint32_t) -> list:
        room: uint64_t = 0
        count: uint64_t = 64
        views: cython.pointer[ExtentView] = cython.NULL
        while count > room:
            PyMem_Free(views)
            room = count + 16
            views = cython.cast(cython.pointer[ExtentView], PyMem_Malloc(room * cython.sizeof(ExtentView)))
            if views == cython.NULL:
                raise MemoryError
            with cython.nogil:
                count = extents_list(self._core, state, views, room)
        try:
            return [self._show(cython.address(views[i])) for i in range(count)]
        finally:
            PyMem_Free(views)

    def counts(self) -> dict:
        """Return how many pages of 8 KiB are in each state."""
        self._enter()
        try:
            s = cython.declare(ExtentStats)
            with cython.nogil:
                extents_read_stats(self._core, cython.address(s))
            return {
                "active": s.active_pages,
                "dirty": s.dirty_pages,
                "muzzy": s.muzzy_pages,
                "retained": s.retained_pages,
            }
        finally:
            self._exit()

    def stats(self) -> dict:
        """Return counts and bytes: of extents, regions, what was purged so far and what was refused, and metadata."""
        self._enter()
        try:
            s = cython.declare(ExtentStats)
            with cython.nogil:
                extents_read_stats(self._core, cython.address(s))
            return {
                "active": s.active,
                "active_bytes": s.active_pages * EXTENT_PAGE,
                "dirty_bytes": s.dirty_pages * EXTENT_PAGE,
                "muzzy_bytes": s.muzzy_pages * EXTENT_PAGE,
                "retained_bytes": s.retained_pages * EXTENT_PAGE,
                "regions": s.regions,
                "allocations": s.allocations,
                "purged_bytes": s.purged_bytes,
                "refusals": s.refusals,
                "metadata_bytes": s.metadata_bytes,
            }
        finally:
            self._exit()

    def check(self) -> None:
        """Walk everything and compare.

        Raises:
            Inconsistent: something differs; the text says what and where.
        """
        self._enter()
        try:
            wrong = cython.declare(ExtentWrong)
            sound: cython.bint
            with cython.nogil:
                sound = extents_check(self._core, cython.address(wrong))
            if not sound:
                raise Inconsistent(
                    invariant=cython.cast(bytes, wrong.law).decode(),
                    values={"address": wrong.address, "expected": wrong.expected, "found": wrong.found},
                )
        finally:
            self._exit()
