"""What a program itself does for its report: it says when it begins, and at its end what its heaps hold.

The report is made by another process, which listens at an address that `freehold run` chose (see
`freehold.view.recorder`). The program waits until that process has looked at it: what was before the beginning is not
its, and after the end there is nothing to look at.

Thread-safety: by the main thread, before the program and at exit, after the other threads.
Does not: change the exit code, whatever happens; import anything that needs the heap; or speak for children.
Imports next to nothing: it runs in programs under the default allocator too, and is then all of freehold in them.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["begin"]

PATIENCE_S = 30.0  # for a report to be made; then the program ends without


def begin() -> None:
    """Say that the program begins, if this is one that is to be reported on; have its end told too."""
    pid, _, address = os.environ.get("FREEHOLD_RUN", "").partition(" ")
    if not address or pid != str(os.getpid()):
        return
    import atexit  # not above: a program that is not reported on sees no trace

    try:
        _tell(address, _times("begin"))
    except OSError:  # nobody listens: who should has said why
        return
    atexit.register(_end, os.getpid(), address)


def _end(pid: int, address: str) -> None:
    if os.getpid() != pid:  # a forked child that ends as if it were the program
        return
    try:
        message = _times("end")
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)
        _tell(address, message + _heap())
    except Exception as problem:
        _say(f"freehold: no report: {type(problem).__name__}: {problem}\n")


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except Exception:  # there is none, or Python itself will say what is wrong with it
        return


def _times(what: str) -> str:
    return f"{what} {time.monotonic()!r} {time.process_time()!r}\n"


def _heap() -> str:
    """Return what the heaps hold, as Python writes it; an empty text where freehold was never there.

    Nothing is imported here that may run code from a text, as `json` and `dataclasses` do: after that Python no longer
    knows that a KeyboardInterrupt ended the program, and the exit code would be another one.
    """
    if "freehold.numpy_import" not in sys.modules:
        return ""
    from freehold import numpy_import, opening

    why = numpy_import.status()
    told: dict[str, Any] = {"not_taken": {"numpy": why} if why else {}}
    if "freehold.face.process_heap" in sys.modules or opening.is_preloaded():
        from freehold.face import process_heap

        told["process"], told["default"] = process_heap.read_stats(), process_heap.read_default_stats()
    if "freehold.profiling" in sys.modules:
        told["profile"] = sys.modules["freehold.profiling"].dump_of_program()
    if "freehold.heap_stats" in sys.modules:
        told["heaps"] = [heap.as_dict() for heap in sys.modules["freehold.heap_stats"].each()]
    return repr(told)


def _tell(address: str, message: str) -> None:
    """Send *message*, and wait until it has been dealt with. Nothing stays open."""
    import _socket

    speaker = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        speaker.settimeout(PATIENCE_S)
        speaker.connect(address.replace("@", "\0", 1))
        speaker.sendall(message.encode())
        speaker.shutdown(_socket.SHUT_WR)
        speaker.recv(1)
    finally:
        speaker.close()


def _say(text: str) -> None:
    try:
        sys.stderr.write(text)
    except Exception:  # nobody listens: then nobody is told
        return
