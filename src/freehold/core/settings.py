"""What the environment says of the heap, where there is no Python to read it: the C half of ``freehold/config.py``.

Thread-safety: one thread, before the heap is open; nothing is allocated and nothing is locked.
Invariants: each option has its default until a good value is found; ``FREEHOLD_<OPTION>`` stands above
``FREEHOLD_CONF``, and both above NumPy's own switch for huge pages.
Does not say anything in a process that `freehold run` started: it has read the same, and has said it once for all.
"""

import cython
from cython.cimports.freehold.core.machine import NOWHERE, getenv, memcpy, strchr, strlen, strncmp, tell
from cython.cimports.freehold.core.settings import (
    OPTION_ARROW,
    OPTION_DECAY,
    OPTION_HUGE_PAGES,
    OPTION_LOG,
    OPTION_OBJECTS,
    OPTION_ON_ERROR,
    OPTION_PUBLISH,
    OPTION_TEXT,
    OPTIONS,
    Settings,
    environ,
    isdigit,
    isspace,
    strcmp,
    strspn,
    strtod,
    tolower,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t


def settings_read(into: cython.pointer[Settings]) -> cython.void:
    into.decay_ns = 1_000_000_000
    into.huge_pages = True
    into.reports = False
    into.hides = False
    says: cython.bint = getenv(b"FREEHOLD_RUN") == cython.NULL
    numpy_says: cython.p_char = getenv(b"NUMPY_MADVISE_HUGEPAGE")
    if numpy_says != cython.NULL and strcmp(numpy_says, b"0") == 0:
        into.huge_pages = False
    conf: cython.p_char = getenv(b"FREEHOLD_CONF")
    if conf != cython.NULL:
        settings_from_conf(into, conf, says)
    settings_from_variables(into, says)


def settings_from_conf(s: cython.pointer[Settings], text: cython.p_const_char, says: cython.bint) -> cython.void:
    """FREEHOLD_CONF="decay=10s,huge_pages=never"."""
    name = cython.declare(cython.char[OPTION_TEXT])
    value = cython.declare(cython.char[OPTION_TEXT])
    while text[0]:
        end: cython.p_const_char = text
        while end[0] and end[0] != b",":
            end += 1
        equals: cython.p_const_char = text
        while equals < end and equals[0] != b"=":
            equals += 1
        text_copy(name, text, equals - text)
        text_copy(value, equals + 1, end - equals - 1 if equals < end else 0)
        if name[0] or value[0]:
            settings_set(s, b"FREEHOLD_CONF", name, value, says)
        text = end + 1 if end[0] else end


def settings_from_variables(s: cython.pointer[Settings], says: cython.bint) -> cython.void:
    """FREEHOLD_DECAY=10s, and so on. FREEHOLD_CONF and FREEHOLD_RUN are no options."""
    name = cython.declare(cython.char[OPTION_TEXT])
    source = cython.declare(cython.char[OPTION_TEXT])
    at: cython.pp_char = environ
    while at != cython.NULL and at[0] != cython.NULL:
        entry: cython.p_char = at[0]
        equals: cython.p_char = strchr(entry, b"=")
        if strncmp(entry, b"FREEHOLD_", 9) == 0 and equals != cython.NULL:
            text_copy(source, entry, equals - entry)
            text_copy(name, entry + 9, equals - entry - 9)
            i: uint64_t = 0
            while name[i]:
                name[i] = cython.cast(cython.char, tolower(name[i]))
                i += 1
            if strcmp(name, b"conf") != 0 and strcmp(name, b"run") != 0:
                settings_set(s, source, name, equals + 1, says)
        at += 1


def settings_set(
    s: cython.pointer[Settings],
    source: cython.p_const_char,
    name: cython.p_const_char,
    value: cython.p_const_char,
    says: cython.bint,
) -> cython.void:
    option: cython.int = option_find(name)
    if option < 0:
        if says:
            tell(
                b"freehold: %s: there is no option '%s'; did you mean '%s'?\n",
                source,
                name,
                option_name(option_nearest(name)),
            )
    elif not settings_take(s, option, value) and says:
        settings_complain(s, source, option, value)


def settings_take(s: cython.pointer[Settings], option: cython.int, value: cython.p_const_char) -> cython.bint:
    """Set an option; False if the value makes no sense, and nothing is changed."""
    if option == OPTION_DECAY:
        return duration_parse(value, cython.address(s.decay_ns))
    if option == OPTION_HUGE_PAGES:
        if strcmp(value, b"auto") != 0 and strcmp(value, b"never") != 0:
            return False
        s.huge_pages = strcmp(value, b"auto") == 0
    elif option == OPTION_ON_ERROR:
        if strcmp(value, b"abort") != 0 and strcmp(value, b"report") != 0:
            return False
        s.reports = strcmp(value, b"report") == 0
    elif option == OPTION_PUBLISH:
        is_on: cython.bint = True
        if not switch_parse(value, cython.address(is_on)):
            return False
        s.hides = not is_on
    return True


def settings_complain(
    s: cython.pointer[Settings], source: cython.p_const_char, option: cython.int, value: cython.p_const_char
) -> cython.void:
    expected: cython.p_const_char = (
        b'is not a duration: expected seconds, text like "500ms" or "10s", 0 (at once) or "never"'
    )
    if option == OPTION_HUGE_PAGES:
        expected = b"is not known: expected 'auto' or 'never'"
    elif option == OPTION_ON_ERROR:
        expected = b"is not known: expected 'abort' or 'report'"
    elif option == OPTION_PUBLISH:
        expected = b"is not a switch: expected yes or no"
    tell(b"freehold: %s: %s='%.64s' %s; it stays as it was\n", source, option_name(option), value, expected)


# ---- options ----


def option_name(option: cython.int) -> cython.p_const_char:
    if option == OPTION_DECAY:
        return b"decay"
    if option == OPTION_HUGE_PAGES:
        return b"huge_pages"
    if option == OPTION_ON_ERROR:
        return b"on_error"
    if option == OPTION_OBJECTS:
        return b"objects"
    if option == OPTION_ARROW:
        return b"arrow"
    if option == OPTION_PUBLISH:
        return b"publish"
    if option == OPTION_LOG:
        return b"log"
    return b"report"


def option_find(name: cython.p_const_char) -> cython.int:
    i: cython.int = 0
    while i < OPTIONS:
        if strcmp(name, option_name(i)) == 0:
            return i
        i += 1
    return -1


def option_nearest(name: cython.p_const_char) -> cython.int:
    """Return the option that a name most likely was meant to be."""
    best: cython.int = 0
    i: cython.int = 1
    while i < OPTIONS:
        if edit_distance(name, option_name(i)) < edit_distance(name, option_name(best)):
            best = i
        i += 1
    return best


def edit_distance(a: cython.p_const_char, b: cython.p_const_char) -> uint32_t:
    """How many letters have to be put in, left out or changed to make b of a (Levenshtein)."""
    row = cython.declare(uint32_t[OPTION_TEXT])
    width: uint32_t = cython.cast(uint32_t, strlen(b))
    j: uint32_t = 0
    while j <= width:
        row[j] = j
        j += 1
    i: uint32_t = 0
    while a[i]:
        corner: uint32_t = row[0]
        row[0] = i + 1
        j = 0
        while j < width:
            changed: uint32_t = corner + (a[i] != b[j])
            corner = row[j + 1]
            shorter: uint32_t = (corner if corner < row[j] else row[j]) + 1
            row[j + 1] = changed if changed < shorter else shorter
            j += 1
        i += 1
    return row[width]


# ---- values ----


def switch_parse(text: cython.p_const_char, is_on: cython.pointer[cython.bint]) -> cython.bint:
    """1, yes, true, on, or 0, no, false, off, in any case, or nothing at all; False if it is none of them."""
    lower = cython.declare(cython.char[OPTION_TEXT])
    text_copy(lower, text, strlen(text))
    i: uint64_t = 0
    while lower[i]:
        lower[i] = cython.cast(cython.char, tolower(lower[i]))
        i += 1
    is_on[0] = (
        strcmp(lower, b"1") == 0
        or strcmp(lower, b"yes") == 0
        or strcmp(lower, b"true") == 0
        or strcmp(lower, b"on") == 0
    )
    is_off: cython.bint = (
        strcmp(lower, b"0") == 0
        or strcmp(lower, b"no") == 0
        or strcmp(lower, b"false") == 0
        or strcmp(lower, b"off") == 0
        or lower[0] == 0
    )
    return is_on[0] or is_off


def duration_parse(text: cython.p_const_char, ns: cython.pointer[uint64_t]) -> cython.bint:
    """Seconds, "500ms", "10s", 0 (at once, which is a millisecond) or "never"; False if it is none of them."""
    if strcmp(text, b"never") == 0 or strcmp(text, b"-1") == 0:
        ns[0] = NOWHERE
        return True
    while isspace(text[0]):
        text += 1
    number = cython.declare(cython.char[OPTION_TEXT])
    unit = cython.declare(cython.char[OPTION_TEXT])
    n: uint64_t = strlen(text)
    while n > 0 and not isdigit(text[n - 1]) and text[n - 1] != b".":
        n -= 1
    text_copy(number, text, n)
    text_copy(unit, text + n, strlen(text + n))
    if n == 0 or strspn(number, b"0123456789.eE+-") != strlen(number):
        return False
    end: cython.p_char = cython.NULL
    ms: cython.double = strtod(number, cython.address(end)) * unit_ms(unit)
    if end[0] or not (ms >= 0 and ms < 1e12):
        return False
    ns[0] = cython.cast(uint64_t, (ms if ms > 1.0 else 1.0) * 1e6)
    return True


def unit_ms(unit: cython.p_const_char) -> cython.double:
    """How many milliseconds a unit has; -1 if there is no such unit."""
    lower = cython.declare(cython.char[OPTION_TEXT])
    text_copy(lower, unit, strlen(unit))
    i: uint64_t = 0
    while lower[i]:
        lower[i] = cython.cast(cython.char, tolower(lower[i]))
        i += 1
    if lower[0] == 0 or strcmp(lower, b"s") == 0:
        return 1000.0
    if strcmp(lower, b"ms") == 0:
        return 1.0
    if strcmp(lower, b"us") == 0:
        return 1e-3
    if strcmp(lower, b"min") == 0 or strcmp(lower, b"m") == 0:
        return 60e3
    if strcmp(lower, b"h") == 0:
        return 3600e3
    return -1.0


def text_copy(into: cython.p_char, source: cython.p_const_char, n: uint64_t) -> cython.void:
    """Copy n letters without the white space around them, as many as there is room for, and end with a NUL."""
    while n > 0 and isspace(source[0]):
        source += 1
        n -= 1
    while n > 0 and isspace(source[n - 1]):
        n -= 1
    if n > OPTION_TEXT - 1:
        n = OPTION_TEXT - 1
    memcpy(into, source, n)
    into[n] = 0
