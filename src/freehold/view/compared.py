"""The same program under the default allocator, measured as it is under freehold; and whether it said the same.

Thread-safety: `run_default` by one thread that is alone; a `Relay` runs in a thread of its own.
Invariants: the program gets the same arguments, environment but for freehold's own, and standard input both times. What
it writes under freehold reaches its reader as soon as it is written, whole, whatever it is compared with.
Does not: compare what goes to a terminal, or what is written to stderr.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from contextlib import suppress
from typing import IO, Any

from .recorder import Recorder, listen, ready_of

__all__ = ["Relay", "nothing_compared", "run_default", "spool"]

CHUNK = 1 << 16
_PR_SET_PDEATHSIG = 1


def spool() -> None:
    """Have standard input be one that can be read twice: what comes from a pipe is taken in whole first."""
    with suppress(OSError):
        if os.isatty(0):
            return
    try:
        os.lseek(0, 0, os.SEEK_CUR)
    except OSError:
        with tempfile.TemporaryFile() as file, suppress(OSError), open(0, "rb", closefd=False) as given:
            shutil.copyfileobj(given, file)
            file.flush()
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            os.dup2(file.fileno(), 0)


def run_default(command: list[str], environ: dict[str, str]) -> tuple[dict[str, Any], IO[bytes]]:
    """Run *command* in a fresh process; return its figures, with `exit_code` and `complaint`, and what it wrote.

    The last line it wrote to stderr is its complaint; what it wrote to stdout is in a file without a name. A program
    that ends by a signal has it as a negative exit code. It does not outlive us.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whatever ends us ends the program: see `_start`
    listener, address = listen()
    place = _place()
    said = tempfile.TemporaryFile()  # noqa: SIM115  the caller's
    with listener, tempfile.TemporaryFile() as complaints:
        pid = _start(command, environ | {"FREEHOLD_RUN": address}, said, complaints)
        recorder = Recorder(pid, listener)
        recorder.record()
        recorder.let_go()
        _, status = os.waitpid(pid, 0)
        complaint = _last_line(complaints)
    if place is not None:
        os.lseek(0, place, os.SEEK_SET)
    code = os.waitstatus_to_exitcode(status)
    return recorder.figures() | {"exit_code": code, "complaint": complaint}, said


def _place() -> int | None:
    """Return where standard input is to be read from again."""
    with suppress(OSError):
        return None if os.isatty(0) else os.lseek(0, 0, os.SEEK_CUR)
    return None


def _start(command: list[str], environ: dict[str, str], said: IO[bytes], complaints: IO[bytes]) -> int:
    """Return the process that runs *command*; it ends when we do."""
    import ctypes

    libc = ctypes.CDLL(None)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(127)
        os.dup2(said.fileno(), 1)
        os.dup2(complaints.fileno(), 2)
        environ["FREEHOLD_RUN"] = f"{os.getpid()} {environ['FREEHOLD_RUN']}"
        os.execve(command[0], command, environ)
    finally:
        os._exit(127)


def _last_line(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - CHUNK))
    lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _common(a: bytes, b: bytes) -> int:
    """Return how many bytes both begin with."""
    if a == b:
        return len(a)
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class Relay:
    """Passes on what the program writes, and compares it with what it wrote before.

    Args:
        source: the end of a pipe that the program's stdout is the other end of.
        drain: where it went before.
        other: the file that the other output is in.
    """

    def __init__(self, source: int, drain: int, other: IO[bytes]) -> None:
        self._source = source
        self._drain = drain
        self._other = other
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._lock = threading.Lock()  # held while something is on its way
        self._other_bytes = other.seek(0, os.SEEK_END)
        other.seek(0)
        self._passed_bytes = 0
        self.differs_at: int | None = None

    @property
    def descriptors(self) -> list[int]:
        """The open files that it needs."""
        return [self._source, self._drain, self._other.fileno()]

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def is_over(self, timeout_s: float | None = None) -> bool:
        """Wait until nobody has the program's stdout any more; return whether that is so."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def knows(self) -> bool:
        """Return whether what was written until now tells what there is to say: it differs, or it is all there."""
        while True:
            with self._lock:
                if not self._thread.is_alive() or not ready_of([self._source], 0):
                    return self.differs_at is not None or self._passed_bytes == self._other_bytes
            time.sleep(0.002)

    def _run(self) -> None:
        while ready_of([self._source]) and self._next():
            pass
        os.close(self._drain)

    def _next(self) -> bool:
        """Pass on what there is; return whether there may be more."""
        with self._lock:
            chunk = os.read(self._source, CHUNK)
            self._compare(chunk)
            if chunk and self._pass_on(chunk):
                return True
            if self.differs_at is None and self._passed_bytes != self._other_bytes:
                self.differs_at = self._passed_bytes
            os.close(self._source)  # where its reader is gone, the program is to notice
            return False

    def _compare(self, chunk: bytes) -> None:
        if self.differs_at is None:
            same = _common(chunk, self._other.read(len(chunk)))
            if same < len(chunk):
                self.differs_at = self._passed_bytes + same
        self._passed_bytes += len(chunk)

    def _pass_on(self, chunk: bytes) -> bool:
        left = memoryview(chunk)
        while left:
            try:
                left = left[os.write(self._drain, left) :]
            except BlockingIOError:
                time.sleep(0.005)
            except OSError:
                return False
        return True

    def result(self) -> dict[str, Any]:
        """Return what there is to say: `compared`, `same`, the first byte that `differs_at`, and where it is `kept`."""
        kept = None if self.differs_at is None else self._keep()
        return {"compared": True, "same": kept is None, "differs_at": self.differs_at, "kept": kept, "why": ""}

    def _keep(self) -> str:
        """Give the other output a name, and return that."""
        handle, path = tempfile.mkstemp(prefix="freehold-default-", suffix=".out")
        with self._lock, os.fdopen(handle, "wb") as file:
            place = self._other.tell()
            self._other.seek(0)
            shutil.copyfileobj(self._other, file)
            self._other.seek(place)
        return path


def nothing_compared(why: str) -> dict[str, Any]:
    """Return the same where nothing was compared."""
    return {"compared": False, "same": None, "differs_at": None, "kept": None, "why": why}
