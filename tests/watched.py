"""Processes on the heap that do as they are told, for tests that look into them from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from freehold import published
from freehold.published import NotPublished, Page

START = """
import json, os, sys
import freehold
freehold.install()
import numpy as np
kept = []
"""


class Child:
    """A Python process on the heap that does as it is told, line by line."""

    def __init__(self, start: str = START, command: tuple[str, ...] = (sys.executable,), **environment: str) -> None:
        loop = (
            "for line in sys.stdin:\n    exec(line)\n    print(json.dumps(globals().pop('answer', None)), flush=True)"
        )
        self.process = subprocess.Popen(
            [*command, "-c", textwrap.dedent(start) + loop], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "FREEHOLD_DECAY": "never", **environment},
        )  # fmt: skip
        self.pid = self.process.pid

    def do(self, line: str) -> Any:
        """Have it run *line*; return what it assigned to `answer`."""
        print(line, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def end(self) -> int:
        self.process.stdin.close()
        code = self.process.wait(timeout=30)
        self.process.stdout.close()
        return code


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    """Return what starts children; see at the end that each of them ends well, unless it was ended."""
    started: list[Child] = []

    def start(*arguments: Any, **environment: str) -> Child:
        started.append(Child(*arguments, **environment))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            assert 0 == one.end()
        else:
            one.process.stdin.close()
            one.process.stdout.close()


def wait_for(condition: Callable[[], Any], timeout_s: float = 20) -> Any:
    """Return what *condition* returns once that is something."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.005)
    return found


def page_of(pid: int) -> Page:
    """Open the page of a process that has used its heap a moment ago."""

    def try_it() -> Page | None:
        try:
            return published.find(pid)
        except NotPublished:
            return None

    return wait_for(try_it)


def descriptors(pid: int) -> list[int]:
    """Return the numbers of a process's files that are pages."""
    folder = f"/proc/{pid}/fd"
    return [int(n) for n in os.listdir(folder) if os.readlink(f"{folder}/{n}").startswith(published.LINK)]
