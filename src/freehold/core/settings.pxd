# settings.pxd: what the environment says of the heap, read by a process that no Python has told it to.
#
# One thread, once, before the heap is open; allocates nothing, locks nothing.
# The names, the values and the words of its warnings are those of freehold/config.py.
# Does not: apply anything, or read pyproject.toml (`freehold run` does, and passes it on in the environment).
from libc.stdint cimport uint32_t, uint64_t

cdef struct Settings:
    uint64_t decay_ns               # how long idle memory is kept; NOWHERE: for ever
    bint huge_pages                 # growing parts may use them
    bint reports                    # a bad free is reported, and does not end the process
    bint hides                      # no page is published

cdef void settings_read(Settings *into) noexcept nogil                # the process's environment; says what is wrong with it on stderr

# inside settings
cdef enum:                          # the options; keep `option_name` in this order
    OPTION_DECAY = 0
    OPTION_HUGE_PAGES = 1
    OPTION_ON_ERROR = 2
    OPTION_OBJECTS = 3              # of Python alone, like the next two
    OPTION_ARROW = 4
    OPTION_REPORT = 5
    OPTION_PUBLISH = 6
    OPTION_LOG = 7                  # of Python alone
    OPTIONS = 8
    OPTION_TEXT = 64                # bytes of a name or a value at most, with the NUL
cdef extern from *:
    """
    #include <ctype.h>
    extern char **environ;
    """
    char **environ
    int tolower(int c) noexcept nogil
    bint isdigit(int c) noexcept nogil
    bint isspace(int c) noexcept nogil
    double strtod(const char *text, char **end) noexcept nogil
    int strcmp(const char *a, const char *b) noexcept nogil
    size_t strspn(const char *text, const char *only) noexcept nogil
cdef const char *option_name(int option) noexcept nogil
cdef int option_find(const char *name) noexcept nogil
cdef int option_nearest(const char *name) noexcept nogil
cdef uint32_t edit_distance(const char *a, const char *b) noexcept nogil
cdef void settings_set(Settings *s, const char *source, const char *name, const char *value, bint says) noexcept nogil
cdef bint settings_take(Settings *s, int option, const char *value) noexcept nogil
cdef void settings_complain(Settings *s, const char *source, int option, const char *value) noexcept nogil
cdef void settings_from_conf(Settings *s, const char *text, bint says) noexcept nogil
cdef void settings_from_variables(Settings *s, bint says) noexcept nogil
cdef bint switch_parse(const char *text, bint *is_on) noexcept nogil
cdef bint duration_parse(const char *text, uint64_t *ns) noexcept nogil
cdef double unit_ms(const char *unit) noexcept nogil
cdef void text_copy(char *into, const char *source, uint64_t n) noexcept nogil
