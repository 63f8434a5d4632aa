# cpython_frames.pxd: what CPython keeps of a thread and of its frames, by the interpreter's own headers: no struct is copied.
#
# Any thread, with or without the GIL. A thread asks for itself alone: no other thread writes, or frees, what is read here, but
# where a comment says so.
# Not known: other versions than 3.11.2 to 3.13, builds without the GIL, and a Python that was installed without those headers.
# There FRAMES_ARE_KNOWN is 0, and nobody has frames.
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    #include <pthread.h>
    #include <sched.h>
    #include <stdint.h>
    #define FH_FRAMES_ARE_KNOWN 0
    #if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030E0000 && !defined(Py_GIL_DISABLED) && defined(__has_include)
    #if __has_include("internal/pycore_frame.h")
    #undef FH_FRAMES_ARE_KNOWN
    #define FH_FRAMES_ARE_KNOWN 1
    #ifndef Py_BUILD_CORE
    #define Py_BUILD_CORE 1
    #endif
    #include "internal/pycore_frame.h"
    #endif
    #endif

    #if FH_FRAMES_ARE_KNOWN
    typedef struct _PyInterpreterFrame fh_frame;

    /* The state with which this thread runs Python right now; NULL: it has let go of the GIL, or never had it. Who is attached
       keeps its state alive: a state is freed by its thread, or at the interpreter's end by who holds the GIL, and that is us.
       Nothing is followed here but the thread's own variables. */
    static inline PyThreadState *fh_attached(void) {
    #if PY_VERSION_HEX >= 0x030D0000
        return PyThreadState_GetUnchecked();            /* a variable of this thread */
    #elif PY_VERSION_HEX >= 0x030C0000
        return _PyThreadState_UncheckedGet();           /* a variable of this thread */
    #else
        /* 3.11 knows only whose the GIL is; that state may be another thread's, so it is compared and never followed. It is
           ours if it is the one that this thread has noted. (A thread that has several, for several interpreters, notes the
           first: while it runs another, it counts as detached.) */
        PyThreadState *noted = PyGILState_GetThisThreadState();
        return noted == _PyThreadState_UncheckedGet() ? noted : NULL;
    #endif
    }

    /* The state that this thread has noted, for when it is not attached; NULL: none. The caller is inside the door, so that
       the end of the interpreter, which frees other threads' states, waits. A thread that ends forgets its state before
       freeing it. Since 3.12 the noted one is the last that was attached; a state that somebody has handed to another
       thread, against the rules, shows by being active there. */
    static inline PyThreadState *fh_detached(void) {
        PyThreadState *noted = PyGILState_GetThisThreadState();
    #if PY_VERSION_HEX >= 0x030C0000
        if (noted && noted->_status.active) return NULL;
    #endif
        return noted;
    }

    /* The innermost frame. In 3.11 and 3.12 `cframe` leads to a struct on this thread's own C stack, below where we are, or
       into the state itself. It is made valid before it is linked, and unlinked before its function returns. */
    static inline fh_frame *fh_innermost(PyThreadState *state) {
    #if PY_VERSION_HEX >= 0x030D0000
        return state->current_frame;
    #else
        return state->cframe->current_frame;
    #endif
    }

    /* Whether Python would show it: not a shim on the C stack (whose other fields are not set), nor a function that has not
       begun yet. Every other linked frame holds its code object; a frame is unlinked before what it holds is let go. */
    static inline int fh_is_shown(fh_frame *frame) {
    #if PY_VERSION_HEX >= 0x030C0000
        if (frame->owner == FRAME_OWNED_BY_CSTACK) return 0;
    #endif
        return !_PyFrame_IsIncomplete(frame);
    }
    static inline PyCodeObject *fh_code(fh_frame *frame) {
    #if PY_VERSION_HEX >= 0x030D0000
        return _PyFrame_GetCode(frame);
    #else
        return frame->f_code;
    #endif
    }
    static inline uint64_t fh_place(fh_frame *frame) {
    #if PY_VERSION_HEX >= 0x030D0000
        return (uint64_t)(uintptr_t)frame->instr_ptr;
    #else
        return (uint64_t)(uintptr_t)frame->prev_instr;
    #endif
    }
    static inline int fh_offset(PyCodeObject *code, uint64_t place) {
        return (int)((char *)(uintptr_t)place - (char *)_PyCode_CODE(code));
    }
    #else
    typedef struct fh_frame { struct fh_frame *previous; } fh_frame;
    static inline PyThreadState *fh_attached(void) { return NULL; }
    static inline PyThreadState *fh_detached(void) { return NULL; }
    static inline fh_frame *fh_innermost(PyThreadState *state) { (void)state; return NULL; }
    static inline int fh_is_shown(fh_frame *frame) { (void)frame; return 0; }
    static inline PyCodeObject *fh_code(fh_frame *frame) { (void)frame; return NULL; }
    static inline uint64_t fh_place(fh_frame *frame) { (void)frame; return 0; }
    static inline int fh_offset(PyCodeObject *code, uint64_t place) { (void)code; (void)place; return 0; }
    #endif

    /* In these, a frame could be seen while it was being torn down. It is what runs that counts, not what we were built with. */
    #define fh_is_torn_in_sight() (Py_Version < 0x030B0200)

    #if PY_VERSION_HEX >= 0x030D0000
    #define fh_is_ending() Py_IsFinalizing()
    #else
    #define fh_is_ending() _Py_IsFinalizing()
    #endif

    /* A text's characters; 0 where 3.11 has not laid them out yet. */
    static inline uint64_t fh_length(PyObject *text) {
    #if PY_VERSION_HEX < 0x030C0000
        if (!PyUnicode_IS_READY(text)) return 0;
    #endif
        return (uint64_t)PyUnicode_GET_LENGTH(text);
    }
    #define fh_character(text, i) ((uint32_t)PyUnicode_READ(PyUnicode_KIND(text), PyUnicode_DATA(text), (Py_ssize_t)(i)))
    #define fh_is_main_interpreter() (PyInterpreterState_Get() == PyInterpreterState_Main())
    #define fh_at_fork(child) pthread_atfork(NULL, NULL, child)
    """
    enum:
        FRAMES_ARE_KNOWN "FH_FRAMES_ARE_KNOWN"
        ACQUIRE "__ATOMIC_ACQUIRE"
        ACQ_REL "__ATOMIC_ACQ_REL"
        RELEASE "__ATOMIC_RELEASE"
    ctypedef struct State "PyThreadState":
        pass
    ctypedef struct Frame "fh_frame":
        Frame *previous             # the caller's; NULL at the outermost
    ctypedef struct Code "PyCodeObject":
        PyObject *co_filename       # constant once the code has run: an import corrects it before that
        PyObject *co_qualname       # constant
        int co_firstlineno          # constant
    bint is_torn_in_sight "fh_is_torn_in_sight"() noexcept nogil
    State *attached "fh_attached"() noexcept nogil
    State *detached "fh_detached"() noexcept nogil
    Frame *innermost "fh_innermost"(State *state) noexcept nogil
    bint is_shown "fh_is_shown"(Frame *frame) noexcept nogil
    Code *code_of "fh_code"(Frame *frame) noexcept nogil
    uint64_t place_of "fh_place"(Frame *frame) noexcept nogil    # address of an instruction: that under way, or the last word before it
    int offset_of "fh_offset"(Code *code, uint64_t place) noexcept nogil    # of it in its code, in bytes
    int line_at "PyCode_Addr2Line"(Code *code, int offset) noexcept nogil   # -1: none. Reads the code's own tables, and allocates nothing
    bint is_ending "fh_is_ending"() noexcept nogil
    uint64_t length "fh_length"(PyObject *text) noexcept nogil
    uint32_t character "fh_character"(PyObject *text, uint64_t i) noexcept nogil
    int at_fork "fh_at_fork"(void (*child)() noexcept nogil) noexcept nogil
    int sched_yield() noexcept nogil
    uint32_t load "__atomic_load_n"(uint32_t *p, int order) noexcept nogil
    bint swap_if "__atomic_compare_exchange_n"(uint32_t *p, uint32_t *seen, uint32_t want, bint weak, int won, int lost) noexcept nogil
    uint32_t fetch_sub "__atomic_fetch_sub"(uint32_t *p, uint32_t x, int order) noexcept nogil
    uint32_t fetch_or "__atomic_fetch_or"(uint32_t *p, uint32_t x, int order) noexcept nogil
    uint32_t fetch_and "__atomic_fetch_and"(uint32_t *p, uint32_t x, int order) noexcept nogil
    bint is_main_interpreter "fh_is_main_interpreter"() noexcept
