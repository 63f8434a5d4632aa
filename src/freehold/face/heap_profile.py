# cython: subinterpreters_compatible=own_gil
"""The heap profile as Python asks for it: begun, ended, written to a file.

Thread-safety: everything may be called from any thread; the GIL is released while a dump is written.
Does not: read a dump (freehold.profiles does), or say which line a block comes from: what a thread's Python frames are,
python_frames tells the core from here.
"""

import cython
from cython.cimports.freehold.core.heap import heap_boot
from cython.cimports.freehold.core.profile import profile_begin, profile_end, profile_grow, profile_write
from cython.cimports.freehold.face.lives import until_the_end
from cython.cimports.libc.stdint import uint32_t, uint64_t

__life__ = until_the_end()  # of this module in this interpreter


def begin(interval: uint64_t) -> None:
    """Sample from now on, one block in *interval* bytes in the mean; or go on as somebody else has begun it.

    Raises:
        MemoryError: the operating system refuses the tables.
    """
    error: cython.int = heap_boot()
    if not error:
        with cython.nogil:
            error = profile_begin(interval)
    if error:
        raise MemoryError("the operating system refuses the profile its tables")


def end() -> None:
    """Stop sampling, when this was called as often as `begin`; what was recorded is gone then."""
    with cython.nogil:
        profile_end()


def write(fd: cython.int, reason: uint32_t) -> None:
    """Write all that was recorded to the file *fd*, in the layout of docs/profile.md.

    Raises:
        RuntimeError: there is no profile.
        OSError: the file could not be written.
    """
    error: cython.int = 0
    with cython.nogil:
        error = profile_write(fd, reason)
    if error == 22:
        raise RuntimeError("there is no profile: nobody has begun one, or everybody has ended it")
    if error:
        raise OSError(error, "the profile could not be written")


def grow(step: uint64_t, prefix: bytes) -> None:
    """Have a dump written at each new high-water mark that is *step* bytes above the one before; 0: no more.

    Args:
        step: bytes.
        prefix: of the files' paths; ``.PID.NUMBER.raw`` comes after it.

    Raises:
        RuntimeError: there is no profile.
        ValueError: *prefix* is longer than 511 bytes.
    """
    error: cython.int = profile_grow(step, prefix)
    if error == 22:
        raise RuntimeError("there is no profile: nobody has begun one, or everybody has ended it")
    if error:
        raise ValueError(f"prefix {prefix!r}: expected at most 511 bytes")
