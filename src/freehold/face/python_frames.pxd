# python_frames.pxd: the Python frames of the calling thread, for the heap profile: the walk hook and the name hook.
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from freehold.core.sampling cimport FrameText, RawFrame
from freehold.face.cpython_frames cimport State

cdef enum:
    DOOR_OPEN = 0x40000000          # of `door`: below it stands how many are inside

cdef uint32_t frames_walk(RawFrame *into, uint32_t most) noexcept nogil             # innermost first; how many; 0: no Python runs here now
cdef void frames_name(const RawFrame *frame, FrameText *into) noexcept nogil        # one that frames_walk has just told this thread

cdef State *frames_enter(bint *through_door) noexcept nogil     # this thread's state, held until frames_leave; NULL: it has none
cdef void frames_leave(bint through_door) noexcept nogil
cdef void frames_forked() noexcept nogil
cdef uint32_t frames_copy(PyObject *text, uint64_t begin, char *into, uint32_t room) noexcept nogil
cdef uint64_t frames_tail(PyObject *text, uint32_t room) noexcept nogil             # the first character of the longest end that fits
cdef uint32_t frames_readable(PyObject *text, uint64_t i) noexcept nogil            # a character; U+FFFD for what UTF-8 can not say
cdef uint32_t frames_width(uint32_t character) noexcept nogil                       # in bytes of UTF-8
cdef void frames_encode(uint32_t character, uint32_t width, char *into) noexcept nogil
