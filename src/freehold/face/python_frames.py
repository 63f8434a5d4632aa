# cython: subinterpreters_compatible=own_gil
"""The Python frames of the calling thread: what a sample of the heap profile tells of who allocated.

Thread-safety: the hooks may be called by any thread at any time, with or without the GIL, before the interpreter lives
and after it has died. They allocate nothing, wait for nothing, run no Python, and touch no reference count.
Invariants: a thread reads its own frames alone, which stay as they are while it is in the hook; their code, they hold.
What could free them all the same is the interpreter's end, under threads that have let go of the GIL. So those pass a
door, shut at exit before that begins: who is inside is waited for, and nobody enters again in this process.
Does not: know greenlets that are switched out, name C functions, or keep a reference. The functions for Python, unlike
the hooks, must not be called once the module is gone: it keeps its objects with the interpreter.
"""

import atexit
import sys

import cython
from cython.cimports.cpython.mem import PyMem_Free, PyMem_Malloc
from cython.cimports.cpython.object import PyObject
from cython.cimports.freehold.core.sampling import (
    FILE_ROOM,
    FUNCTION_ROOM,
    FrameText,
    RawFrame,
    sampling_name_frames,
)
from cython.cimports.freehold.face.cpython_frames import (
    ACQ_REL,
    ACQUIRE,
    FRAMES_ARE_KNOWN,
    RELEASE,
    Code,
    Frame,
    State,
    at_fork,
    attached,
    character,
    code_of,
    detached,
    fetch_and,
    fetch_or,
    fetch_sub,
    innermost,
    is_ending,
    is_main_interpreter,
    is_shown,
    is_torn_in_sight,
    length,
    line_at,
    load,
    offset_of,
    place_of,
    sched_yield,
    swap_if,
)
from cython.cimports.freehold.face.lives import until_the_end
from cython.cimports.freehold.face.python_frames import DOOR_OPEN
from cython.cimports.libc.stdint import uint32_t, uint64_t, uintptr_t

door = cython.declare(uint32_t)  # of the process, as are the two below; atomic
was_opened = cython.declare(cython.bint)  # for good; under the GIL
forks_are_told = cython.declare(cython.bint)  # for good; under the GIL

__life__ = until_the_end()  # of this module in this interpreter


# ---- the hooks ----


def frames_walk(into: cython.pointer[RawFrame], most: uint32_t) -> uint32_t:
    through_door: cython.bint = False
    state: cython.pointer[State] = frames_enter(cython.address(through_door))
    if state == cython.NULL:
        return 0
    n: uint32_t = 0
    frame: cython.pointer[Frame] = innermost(state)
    while frame != cython.NULL and n < most:
        if is_shown(frame):
            code: cython.pointer[Code] = code_of(frame)
            into[n].code = cython.cast(uintptr_t, code)
            into[n].place = place_of(frame)
            into[n].name = cython.cast(uintptr_t, code.co_qualname)
            into[n].first = cython.cast(uint32_t, code.co_firstlineno)
            n += 1
        frame = frame.previous
    frames_leave(through_door)
    return n


def frames_name(frame: cython.pointer[cython.const[RawFrame]], into: cython.pointer[FrameText]) -> cython.void:
    into.line = into.first_line = into.file_bytes = into.function_bytes = 0
    through_door: cython.bint = False
    # A frame that this thread was told through the door is there only while the door has never been shut.
    if frames_enter(cython.address(through_door)) == cython.NULL:
        return
    code: cython.pointer[Code] = cython.cast(cython.pointer[Code], cython.cast(uintptr_t, frame.code))
    name: cython.pointer[PyObject] = cython.cast(cython.pointer[PyObject], cython.cast(uintptr_t, frame.name))
    line: cython.int = line_at(code, offset_of(code, frame.place))
    into.line = line if line > 0 else 0
    into.first_line = cython.cast(uint32_t, frame.first)
    into.file_bytes = frames_copy(code.co_filename, frames_tail(code.co_filename, FILE_ROOM), into.file, FILE_ROOM)
    into.function_bytes = frames_copy(name, 0, into.function, FUNCTION_ROOM)
    frames_leave(through_door)


# ---- the door ----


def frames_enter(through_door: cython.pointer[cython.bint]) -> cython.pointer[State]:
    state: cython.pointer[State] = attached()
    if state != cython.NULL:
        return state
    # Who finds it shut has not counted, so that who shuts it waits for those inside alone.
    seen: uint32_t = load(cython.address(door), ACQUIRE)
    while seen & DOOR_OPEN:
        if swap_if(cython.address(door), cython.address(seen), seen + 1, True, ACQ_REL, ACQUIRE):
            through_door[0] = True
            state = cython.NULL if is_ending() else detached()
            if state == cython.NULL:
                frames_leave(True)
            return state
    return cython.NULL


def frames_leave(through_door: cython.bint) -> cython.void:
    if through_door:
        fetch_sub(cython.address(door), 1, RELEASE)


def frames_forked() -> cython.void:
    """In a child, where nobody else is: who was inside in the parent never leaves here."""
    fetch_and(cython.address(door), DOOR_OPEN, ACQ_REL)


def shut() -> None:
    """Keep out whoever has not the GIL, from now on; wait for those inside, which are pointers away from leaving."""
    fetch_and(cython.address(door), ~cython.cast(uint32_t, DOOR_OPEN), ACQ_REL)
    while load(cython.address(door), ACQUIRE):
        sched_yield()


def install_hooks() -> None:
    """Have the heap profile tell the frames of threads: until this interpreter ends, of those without the GIL, too.

    In a process where Python ends and begins again, this is of its first life: a thread of that may still run, and has
    nothing to show it by.

    Raises:
        RuntimeError: this is not the main interpreter, whose end is the one to wait for.
    """
    global was_opened, forks_are_told
    if not is_main_interpreter():
        raise RuntimeError("only the main interpreter can have its threads' frames walked")
    if not forks_are_told and at_fork(frames_forked) == 0:
        forks_are_told = True
    if was_opened or not forks_are_told:
        return
    atexit.register(shut)
    was_opened = True
    fetch_or(cython.address(door), DOOR_OPEN, ACQ_REL)
    sampling_name_frames(frames_walk, frames_name)


# ---- texts ----


def frames_copy(text: cython.pointer[PyObject], begin: uint64_t, into: cython.p_char, room: uint32_t) -> uint32_t:
    """Write a text's characters from `begin` on as UTF-8, as many as fit; return the bytes."""
    used: uint32_t = 0
    i: uint64_t = begin
    end: uint64_t = length(text)
    while i < end:
        point: uint32_t = frames_readable(text, i)
        width: uint32_t = frames_width(point)
        if used + width > room:
            break
        frames_encode(point, width, into + used)
        used += width
        i += 1
    return used


def frames_tail(text: cython.pointer[PyObject], room: uint32_t) -> uint64_t:
    i: uint64_t = length(text)
    used: uint32_t = 0
    while i > 0:
        used += frames_width(frames_readable(text, i - 1))
        if used > room:
            break
        i -= 1
    return i


def frames_readable(text: cython.pointer[PyObject], i: uint64_t) -> uint32_t:
    point: uint32_t = character(text, i)
    return 0xFFFD if point == 0 or 0xD800 <= point <= 0xDFFF else point


def frames_width(character: uint32_t) -> uint32_t:
    if character < 0x80:
        return 1
    if character < 0x800:
        return 2
    return 3 if character < 0x10000 else 4


def frames_encode(character: uint32_t, width: uint32_t, into: cython.p_char) -> cython.void:
    lead: uint32_t = 0 if width == 1 else (0xF00 >> width) & 0xFF  # as many ones as bytes follow, and one more
    i: uint32_t = width - 1
    while i > 0:
        into[i] = cython.cast(cython.char, 0x80 | character & 0x3F)
        character >>= 6
        i -= 1
    into[0] = cython.cast(cython.char, lead | character)


# ---- for Python ----


def walk(most: uint32_t = 128) -> list:
    """Return what the hooks tell of the calling thread: file, line and function's qualified name, innermost first.

    Args:
        most: how many frames, at most; the innermost ones.
    """
    into: cython.pointer[RawFrame] = cython.cast(
        cython.pointer[RawFrame], PyMem_Malloc((cython.cast(cython.size_t, most) + 1) * cython.sizeof(RawFrame))
    )
    if into == cython.NULL:
        raise MemoryError(f"no room for {most} frames")
    try:
        count: uint32_t = frames_walk(into, most)
        return [_told(cython.address(into[i])) for i in range(count)]
    finally:
        PyMem_Free(into)


@cython.cfunc
def _told(frame: cython.pointer[RawFrame]) -> tuple:
    text = cython.declare(FrameText)
    frames_name(frame, cython.address(text))
    return text.file[: text.file_bytes].decode(), text.line, text.function[: text.function_bytes].decode()


def hooks() -> tuple:
    """Return the addresses of the two hooks, for C: `walk_hook` and `name_hook` of the profile."""
    return cython.cast(uintptr_t, cython.address(frames_walk)), cython.cast(uintptr_t, cython.address(frames_name))


# ---- proved before anybody trusts it ----


@cython.cfunc
def _prove() -> object:
    """Compare what is walked with what Python says of its frames: no layout is believed, whatever the version."""
    if not FRAMES_ARE_KNOWN or is_torn_in_sight():
        raise ImportError(f"freehold does not know the frames of Python {sys.version.split()[0]}")
    if attached() == cython.NULL:
        return None  # 3.11, in an interpreter that is not this thread's first one: nothing of it will be walked
    into = cython.declare(RawFrame[64])
    count: uint32_t = frames_walk(into, 64)
    frame: object = sys._getframe()
    i: uint32_t
    for i in range(count):
        code: cython.pointer[Code] = cython.cast(cython.pointer[Code], cython.cast(uintptr_t, into[i].code))
        if frame is None or cython.cast(uintptr_t, code) != cython.cast(uint64_t, id(frame.f_code)):
            raise ImportError("this Python's frames are not as freehold knows them")
        if offset_of(code, into[i].place) != frame.f_lasti:
            raise ImportError("this Python's frames are not where freehold looks for their instructions")
        frame = frame.f_back
    if count < 64 and frame is not None:
        raise ImportError("this Python has frames that freehold does not see")
    return None


_prove()
