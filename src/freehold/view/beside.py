"""The process beside a program: it records the program, and makes the report when that ends.

It is forked off before the program begins, and is no child of it: a program that waits for its children does not find
it, and what kills the program does not reach it (docs/decisions/0007).

Thread-safety: one thread, and a `Relay` where there is one.
Does not: change what the program does, whatever goes wrong here: that is one line on stderr.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

from . import report
from .compared import Relay, nothing_compared
from .recorder import Recorder, listen

__all__ = ["Wish", "stay"]

LAST_WORDS_S = 5.0  # for what children of the program still write to its stdout


@dataclass(frozen=True)
class Wish:
    """What is to be reported, and how.

    Attributes:
        program: the command line, as it was given.
        on_stderr: print the report.
        path: also write it to this file; an empty text: do not.
        default: the figures under the default allocator, if the two are to be compared.
        said: what the program wrote there.
    """

    program: list[str]
    on_stderr: bool
    path: str
    default: dict[str, Any] | None = None
    said: IO[bytes] | None = None


def stay(wish: Wish) -> str:
    """Leave a process beside this one, which is about to become the program; return the address that it listens at.

    Where the output is to be compared, standard output is a pipe to that process from here on.
    """
    listener, address = listen()
    pipe = None if wish.said is None or _is_terminal(1) else os.pipe()
    pid = os.getpid()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        listener.close()
        if pipe is not None:
            os.dup2(pipe[1], 1)
            os.close(pipe[0])
            os.close(pipe[1])
        return address
    try:
        os.setsid()
        if os.fork() == 0:
            _be_beside(wish, pid, listener, pipe)
    finally:
        os._exit(0)


def _is_terminal(descriptor: int) -> bool:
    """Return whether it is a terminal, or nothing at all."""
    try:
        return os.isatty(descriptor) or not os.fstat(descriptor)
    except OSError:
        return True


def _be_beside(wish: Wish, pid: int, listener: socket.socket, pipe: tuple[int, int] | None) -> None:
    """Record the process *pid*, report on it, and end when nothing of its output is on its way any more."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    relay = None
    if pipe is not None and wish.said is not None:
        relay = Relay(pipe[0], os.dup(1), wish.said)
        relay.start()
        os.close(pipe[1])
    try:
        recorder = Recorder(pid, listener)
        _keep_only(recorder, listener, relay)
        recorder.record()
        try:
            _report(wish, recorder, relay)
        finally:
            recorder.let_go()
    except Exception as problem:  # the program goes on
        _say(f"freehold: no report: {type(problem).__name__}: {problem}\n")
    if relay is not None:
        listener.close()
        relay.is_over()


def _keep_only(recorder: Recorder, listener: socket.socket, relay: Relay | None) -> None:
    """Let go of all files that the program was started with but stderr: nobody waits for ours instead."""
    kept = {2, *recorder.descriptors, listener.fileno(), *(relay.descriptors if relay else ())}
    os.chdir("/")
    before = -1
    for number in [*sorted(kept), os.sysconf("SC_OPEN_MAX")]:
        os.closerange(before + 1, number)
        before = number
    while (null := os.open(os.devnull, os.O_RDWR)) < 2:
        pass
    os.close(null)


def _report(wish: Wish, recorder: Recorder, relay: Relay | None) -> None:
    """Make the report, while the program waits, unless there is more of its output to come: then when that is here."""
    if relay is not None and not (recorder.waiting and relay.knows()):
        recorder.let_go()
        recorder.wait()
        relay.is_over(LAST_WORDS_S)
    figures: dict[str, Any] = {"program": wish.program, **recorder.figures(), **recorder.heap()}
    figures["compared"] = None if wish.default is None else _compared(wish.default, relay)
    try:
        if wish.path:
            report.write(figures, wish.path)
    finally:
        if wish.on_stderr and sys.stderr is not None:
            report.show(figures, sys.stderr)


def _compared(default: dict[str, Any], relay: Relay | None) -> dict[str, Any]:
    if relay is None:
        said = nothing_compared("it went to a terminal, or nowhere")
    elif not relay.knows() and not relay.is_over(0):
        said = nothing_compared("a child of the program still writes")
    else:
        said = relay.result()
    return {"default": default, "output": said}


def _say(text: str) -> None:
    with suppress(Exception):  # nobody listens: then nobody is told
        sys.stderr.write(text)
        sys.stderr.flush()
