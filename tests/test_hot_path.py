"""The machine code of a hit: no call, no lock, no division, and as many instructions as the golden file says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hot_path", ROOT / "tools" / "hot_path.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["hot_path"] = module
    spec.loader.exec_module(module)
    return module


tool = load_tool()
LIBRARY = tool.find_library()
needs_release = pytest.mark.skipif(LIBRARY is None, reason="it counts a release build: make install")


def code(*lines: str) -> list:
    """Return instructions of one byte each, from address 0x10 on."""
    return [tool.Instruction(0x10 + i, text) for i, text in enumerate(lines)]


@needs_release
@pytest.mark.parametrize("function", tool.FUNCTIONS)
def test_a_hit_calls_nothing_locks_nothing_and_divides_nothing(function: str) -> None:
    """Whatever the compiler."""
    measured = tool.measure(LIBRARY)[function]

    assert {"calls": 0, "locked": 0, "divisions": 0} == {
        name: measured[name] for name in ("calls", "locked", "divisions")
    }


@needs_release
def test_a_hit_takes_as_many_instructions_as_the_golden_file_says() -> None:
    """Exactly, where the compiler is the one it was made with; another one's counts are its own."""
    compiler, golden = tool.read_golden()
    measured = tool.as_text(tool.measure(LIBRARY))

    assert (golden if compiler == tool.compiler() else measured) == measured


def test_the_hot_path_is_the_shortest_that_writes_memory() -> None:
    """An early way out that writes nothing is not it, nor is a detour."""
    function = code("test %rdi,%rdi", "je 17 <f+0x7>", "jb 14 <f+0x4>", "nop", "mov %rax,(%rdi)", "ret", "nop", "ret")

    assert [0x10, 0x11, 0x12, 0x14, 0x15] == [instruction.address for instruction in tool.hot_path(function)]


def test_what_leaves_the_function_is_no_hot_path() -> None:
    """A jump to the cold part, or to another function, is not followed."""
    function = code("je 99 <f.cold>", "movb $0x1,(%rdi)", "jmp 80 <g>", "ret")

    with pytest.raises(LookupError, match="leaves the function"):
        tool.hot_path(function)


def test_calls_locks_and_divisions_are_counted() -> None:
    """Each kind in its own column."""
    function = code("call 80 <g>", "lock xadd %eax,(%rdi)", "div %rcx", "jne 14 <f+0x4>", "ret")

    assert {
        "instructions": 5,
        "calls": 1,
        "branches": 1,
        "jumps": 0,
        "locked": 1,
        "divisions": 1,
        "writes": 1,
    } == tool.counts(tool.hot_path(function))
