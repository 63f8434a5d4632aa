# cython: subinterpreters_compatible=own_gil
"""CPython's allocator domains (raw, mem, obj) and pymalloc's arenas, made to call the heap.

Thread-safety: everything runs under the GIL. The hooks themselves are in the core (`hooks`): plain C functions of a
library that is never unloaded, for callers without the GIL, and for those that outlive the interpreter.
Invariants: each domain is wrapped once, and never unwrapped; `activate` says where *new* blocks come from.
Does not: decide whether they may be wrapped (freehold.domains does), or look at an allocator again once it is.
"""

import cython
from cython.cimports.freehold.core.heap import heap_boot
from cython.cimports.freehold.core.hooks import (
    DOMAIN_OBJ,
    DOMAIN_RAW,
    DOMAINS,
    Allocator,
    ArenaAllocator,
    hooks_switch,
    hooks_switch_arenas,
    hooks_wrap,
    hooks_wrap_arenas,
)
from cython.cimports.freehold.face.cpython_domains import (
    FREE_THREADED,
    DebugLayer,
    allocator_name,
    foreign_file,
    get_allocator,
    get_arenas,
    set_allocator,
    set_arenas,
)
from cython.cimports.freehold.face.lives import until_the_end

domains_are_taken = cython.declare(cython.bint)  # of the process, not of one interpreter: never reset
domains_are_active = cython.declare(cython.bint)
before = cython.declare(Allocator[DOMAINS])  # what was in force; constant once taken
arenas_are_taken_too = cython.declare(cython.bint)
arenas_are_active_too = cython.declare(cython.bint)

__life__ = until_the_end()  # of this module in this interpreter


# ---- what is there ----


def is_free_threaded() -> bool:
    """Return whether this Python was built without the GIL: its collector finds objects by walking its own heap."""
    return FREE_THREADED


def name() -> str:
    """Return CPython's name for its allocators in force: ``"pymalloc"``, ``"malloc_debug"`` …; empty: it knows none."""
    known: cython.p_const_char = allocator_name()
    return "" if known == cython.NULL else known.decode()


def foreign() -> str:
    """Return the file of the first function in force that is not CPython's own, ``"?"`` if unknown; empty: all are."""
    a = cython.declare(Allocator)
    domain: cython.uint
    for domain in range(DOMAINS):
        get_allocator(domain, cython.address(a))
        file: str = _foreign(cython.address(a))
        if file:
            return file
    return ""


@cython.cfunc
def _foreign(a: cython.pointer[Allocator]) -> str:
    functions = cython.declare(cython.p_void[4])
    functions[0], functions[1] = cython.cast(cython.p_void, a.malloc), cython.cast(cython.p_void, a.calloc)
    functions[2], functions[3] = cython.cast(cython.p_void, a.realloc), cython.cast(cython.p_void, a.free)
    i: cython.int
    for i in range(4):
        file: cython.p_const_char = foreign_file(functions[i])
        if file != cython.NULL:
            return file.decode("utf-8", "replace") or "?"
    return ""


def foreign_arenas() -> str:
    """Return the same for whoever gives pymalloc its arenas."""
    a = cython.declare(ArenaAllocator)
    get_arenas(cython.address(a))
    for function in (cython.cast(cython.size_t, a.malloc), cython.cast(cython.size_t, a.free)):
        file: cython.p_const_char = foreign_file(cython.cast(cython.p_void, cython.cast(cython.size_t, function)))
        if file != cython.NULL:
            return file.decode("utf-8", "replace") or "?"
    return ""


# ---- taking ----


def take() -> None:
    """Wrap the functions in force, for good: of all domains, or of raw alone in a free-threaded build.

    Since 3.12 Python forgets its allocators when it is initialised again: then the hooks are put back.

    Raises:
        OSError: the operating system refuses the heap its addresses.
    """
    global domains_are_taken
    _boot()
    now = cython.declare(Allocator)
    hooks = cython.declare(Allocator)
    last: cython.uint = DOMAIN_RAW if FREE_THREADED else DOMAIN_OBJ
    domain: cython.uint
    for domain in range(DOMAIN_RAW, last + 1):
        get_allocator(domain, cython.address(now))
        if domains_are_taken and now.malloc != before[domain].malloc:
            continue  # they are in force, or somebody is on top of them
        before[domain] = now
        hooks_wrap(domain, cython.address(now), cython.address(hooks))
        set_allocator(domain, cython.address(hooks))
    domains_are_taken = True


def take_beneath_debug() -> None:
    """Wrap what lies beneath CPython's debug hooks, which stay on top and go on checking.

    Nothing else may run: those hooks read what is written here without a lock.

    Raises:
        RuntimeError: these are not the debug hooks as we know them; nothing was changed.
        OSError: the operating system refuses the heap its addresses.
    """
    global domains_are_taken
    if domains_are_taken:
        return
    _boot()
    layers = cython.declare(cython.pointer[DebugLayer][DOMAINS])
    a = cython.declare(Allocator)
    domain: cython.uint
    for domain in range(DOMAINS):
        get_allocator(domain, cython.address(a))
        layers[domain] = cython.cast(cython.pointer[DebugLayer], a.ctx)
        # A ctx is only looked into where the functions are CPython's own: then it is one that CPython made.
        if _foreign(cython.address(a)) or a.ctx == cython.NULL or layers[domain].domain != b"rmo"[domain]:
            raise RuntimeError("Python's debug hooks are not as freehold knows them")
        if _foreign(cython.address(layers[domain].beneath)):
            raise RuntimeError("what lies beneath Python's debug hooks is not Python's own")
    for domain in range(DOMAINS):
        before[domain] = layers[domain].beneath
        hooks_wrap(domain, cython.address(layers[domain].beneath), cython.address(a))
        layers[domain].beneath = a
    domains_are_taken = True


def take_arenas() -> None:
    """Wrap whoever gives pymalloc its arenas, for good.

    Raises:
        OSError: the operating system refuses the heap its addresses.
    """
    global arenas_are_taken_too
    if arenas_are_taken_too:
        return
    _boot()
    now = cython.declare(ArenaAllocator)
    hooks = cython.declare(ArenaAllocator)
    get_arenas(cython.address(now))
    hooks_wrap_arenas(cython.address(now), cython.address(hooks))
    set_arenas(cython.address(hooks))
    arenas_are_taken_too = True


@cython.cfunc
def _boot() -> object:
    error: cython.int = heap_boot()
    if error:
        raise OSError(error, "the operating system refuses the heap its addresses")
    return None


# ---- where new blocks come from ----


def is_taken() -> bool:
    """Return whether CPython's domains (of a free-threaded build: raw) call the heap."""
    return domains_are_taken


def arenas_are_taken() -> bool:
    """Return whether pymalloc asks the heap for its arenas."""
    return arenas_are_taken_too


def activate(on: cython.bint) -> None:
    """Say whether the domains' new blocks come from the heap (True) or from where they came before (False)."""
    global domains_are_active
    domains_are_active = on and domains_are_taken
    hooks_switch(domains_are_active)


def activate_arenas(on: cython.bint) -> None:
    """Say the same for pymalloc's new arenas."""
    global arenas_are_active_too
    arenas_are_active_too = on and arenas_are_taken_too
    hooks_switch_arenas(arenas_are_active_too)


def is_active() -> bool:
    """Return whether the domains' new blocks come from the heap."""
    return domains_are_active


def arenas_are_active() -> bool:
    """Return whether pymalloc's new arenas come from the heap."""
    return arenas_are_active_too
