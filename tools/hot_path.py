"""Counts what a hit executes: the machine code of the functions that hand out and take back, against a golden file.

    tools/hot_path.py [LIBRARY]            print the counts, one line per function
    tools/hot_path.py [LIBRARY] --path     print the instructions counted, too
    tools/hot_path.py [LIBRARY] --update   write the golden file, tests/golden/hot_path.txt

The hot path of a function is the shortest way from its entry to a return, in instructions, that writes to memory (a
hit always does; an early way out for NULL does not) and stays inside the function: what the compiler moved to a
`.cold` part and what ends in a jump to another function are slow paths. Calls are stepped over and counted.

The counts are one compiler's: the golden file names it, and only with the same one are they compared exactly. Any
compiler must come to no call, no locked instruction and no division.
"""

from __future__ import annotations

import argparse
import heapq
import os
import platform
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILT = (ROOT / "build" / "release" / "site", Path(sysconfig.get_paths()["platlib"]))
GOLDEN = ROOT / "tests" / "golden" / "hot_path.txt"
FUNCTIONS = (
    "fh_heap_allocate",
    "fh_heap_deallocate",
    "fh_hook_obj_malloc",
    "fh_hook_obj_free",
    "malloc",
    "free",
    "_Znwm",
    "_ZdlPv",
)

_LINE = re.compile(r"^\s*([0-9a-f]+):\s+(?P<text>\S.*?)\s*(?:[#;].*|//.*)?$")
_TARGET = re.compile(r"\b([0-9a-f]+) <[^>]*>$")
_RETURN = re.compile(r"^(repz |bnd |rep )?retq?\b")
_CALL = re.compile(r"^(bnd )?(call|blr?\b)")
_ALWAYS = re.compile(r"^(bnd |notrack )?(jmp|br?\s)")
_CONDITIONAL = re.compile(r"^(bnd )?(j(?!mp)\w+|b\.\w+|cbn?z|tbn?z)\b")
_LOCKED = re.compile(r"^lock\b|^xchg\b.*\(|^(ld[ax]*xr|st[l]?xr|cas|swp|ld(add|set|clr|eor)|dmb)")
_DIVISION = re.compile(r"^(i?div[bwlq]?|udiv|sdiv)\b")
_NOT_WRITTEN = re.compile(r"^(cmp|test|bt[bwlq]?\b|nop|lea|push|pop|prefetch|mul[bwlq]?\b|imul|div|idiv|call|j)")


@dataclass(frozen=True)
class Instruction:
    """One line of the disassembly."""

    address: int
    text: str

    @property
    def target(self) -> int | None:
        found = _TARGET.search(self.text)
        return int(found[1], 16) if found else None

    @property
    def writes(self) -> bool:
        """Whether it stores to memory other than the stack's."""
        if platform.machine() == "aarch64":
            return self.text.startswith("st") and "[sp" not in self.text
        operands = self.text.split(None, 1)[-1]
        return operands.endswith(")") and not operands.endswith("(%rsp)") and not _NOT_WRITTEN.match(self.text)


def find_library() -> Path | None:
    """Return the newer of the release build and what is installed; None if there is neither."""
    found = [site / "freehold" / "libfreehold.so" for site in BUILT]
    return max((path for path in found if path.exists()), key=lambda path: path.stat().st_mtime, default=None)


def output_of(*command: str) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C"})
    return run.stdout


@cache
def symbols(library: Path) -> dict[str, tuple[int, int]]:
    """Return where each exported function begins and how long it is; an alias is as long as what it is one of."""
    lines = [line.split() for line in output_of("nm", "-D", "-S", "--defined-only", str(library)).splitlines()]
    sizes = {int(line[0], 16): int(line[1], 16) for line in lines if len(line) == 4}
    return {line[-1]: (int(line[0], 16), sizes.get(int(line[0], 16), 0)) for line in lines}


def disassemble(library: Path, function: str) -> list[Instruction]:
    """Return the function's instructions, without its cold part."""
    start, size = symbols(library).get(function, (0, 0))
    where = [f"--start-address={start}", f"--stop-address={start + size}"]  # it may have several names
    lines = output_of("objdump", "-d", "--no-show-raw-insn", *where, str(library)).splitlines() if size else []
    found = [Instruction(int(match[1], 16), match["text"]) for match in map(_LINE.match, lines) if match]
    if not found:
        raise LookupError(f"{library} has no {function}")
    return found


def hot_path(code: list[Instruction]) -> list[Instruction]:
    """Return the instructions of the hot path, as defined above."""
    index = {instruction.address: i for i, instruction in enumerate(code)}
    queue: list[tuple[int, int, bool, tuple[int, ...]]] = [(0, 0, False, ())]  # steps, where, has it written, the way
    seen = set()
    while queue:
        steps, here, wrote, way = heapq.heappop(queue)
        if here >= len(code) or (here, wrote) in seen:
            continue
        seen.add((here, wrote))
        instruction = code[here]
        wrote = wrote or instruction.writes
        way = (*way, here)
        if _RETURN.match(instruction.text):
            if wrote:
                return [code[i] for i in way]
            continue
        following = []
        if not _ALWAYS.match(instruction.text):
            following.append(here + 1)
        if not _CALL.match(instruction.text) and instruction.target in index:
            following.append(index[instruction.target])
        for there in following:
            heapq.heappush(queue, (steps + 1, there, wrote, way))
    raise LookupError("no way from the entry to a return that writes to memory: the hot path leaves the function")


def counts(path: list[Instruction]) -> dict[str, int]:
    def how_many(pattern: re.Pattern[str]) -> int:
        return sum(bool(pattern.match(instruction.text)) for instruction in path)

    return {
        "instructions": len(path),
        "calls": how_many(_CALL),
        "branches": how_many(_CONDITIONAL),
        "jumps": how_many(_ALWAYS),
        "locked": how_many(_LOCKED),
        "divisions": how_many(_DIVISION),
        "writes": sum(instruction.writes for instruction in path),
    }


def compiler() -> str:
    """Return which compiler `cc` is, by its first line."""
    run = subprocess.run([os.environ.get("CC", "cc"), "--version"], capture_output=True, text=True, check=True)
    return f"{run.stdout.splitlines()[0]}, {platform.machine()}"


def measure(library: Path) -> dict[str, dict[str, int]]:
    return {function: counts(hot_path(disassemble(library, function))) for function in FUNCTIONS}


def as_text(measured: dict[str, dict[str, int]]) -> str:
    lines = [
        f"{function}: " + ", ".join(f"{name} {n}" for name, n in values.items())
        for function, values in measured.items()
    ]
    return "\n".join(lines) + "\n"


def read_golden() -> tuple[str, str]:
    """Return the compiler that the golden counts are for, and the counts as text."""
    lines = [line for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]
    return lines[0].removeprefix("compiler: "), "\n".join(lines[1:]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "library", nargs="?", type=Path, default=find_library(), help="default: the newest release build"
    )
    parser.add_argument("--path", action="store_true", help="print the instructions, too")
    parser.add_argument("--update", action="store_true", help="write the golden file")
    given = parser.parse_args()
    if given.library is None:
        parser.error("no release build is here, nor is freehold installed: name a library")
    text = as_text(measure(given.library))
    if given.path:
        for function in FUNCTIONS:
            print(
                f"{function}:",
                *(f"  {i.address:x}  {i.text}" for i in hot_path(disassemble(given.library, function))),
                sep="\n",
            )
    print(text, end="")
    if given.update:
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(
            f"# Made by tools/hot_path.py --update; what is counted stands there.\ncompiler: {compiler()}\n{text}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
