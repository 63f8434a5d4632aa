"""What it costs to tell a double free: the core, compiled twice, with the state of each block told apart and without.

A block's state byte says live, cached or free. Allocating writes *live*, freeing looks for it and writes *cached*. In
the second build live and cached are one state, so that there is nothing to write and nothing to ask. Both builds run
in one process, in alternating rounds, on the same flags.

Does not change anything that is installed. Needs the C that a build leaves in build/.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers import ROOT, Peer

FLAGS = [
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-w",
    "-D_GNU_SOURCE",
    "-DFH_CHECK=0",
    "-fno-strict-aliasing",
]
FLAGS += ["-fno-semantic-interposition", "-fno-math-errno", "-DCYTHON_INLINE=inline __attribute__((always_inline))"]
FLAGS += ["-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-Wl,-Bsymbolic-functions"]
WITH, WITHOUT = "told", "not told"

_LIVE = re.compile(r"\b(\w*BLOCK_LIVE) = 3\b")
_MADE_LIVE = re.compile(r"fh_store_relaxed\((?:\(&\(.*\)\)|\w+), \w*BLOCK_LIVE\);")
_ASKED = re.compile(r"fh_load_relaxed\(.*\) != \w*BLOCK_LIVE\)")
_MADE_CACHED = re.compile(
    r"fh_store_relaxed\((?!\(&\(__pyx_v_r->)(?:\(&\(.*\)\)|\w+), \w*BLOCK_CACHED\);"
)  # by a cache, not a region


def without_states(source: str) -> str:
    """Return the core's C with live and cached one state, without the writes and questions that this makes needless.

    Raises:
        ValueError: the source does not look as expected any more; half a change would measure nothing.
    """
    for pattern, replacement, least in (
        (_LIVE, r"\1 = 2", 1),
        (_MADE_LIVE, ";", 2),
        (_ASKED, "0)", 1),
        (_MADE_CACHED, ";", 1),
    ):
        source, count = pattern.subn(replacement, source)
        if count < least:
            raise ValueError(f"{pattern.pattern} stands {count} times in the core's C, expected {least} at least")
    return source


def core_source() -> Path:
    """Return the C of the newest build.

    Raises:
        FileNotFoundError: nothing was built here.
    """
    found = list((ROOT / "build").glob("*/src/freehold/freehold_core.c"))
    if not found:
        raise FileNotFoundError("build/*/src/freehold/freehold_core.c: the core's C, which any build leaves")
    return max(found, key=lambda path: path.stat().st_mtime)


@contextmanager
def builds() -> Iterator[list[Peer]]:
    """Compile both; yield them as peers for C programs."""
    core_c = core_source()
    source = core_c.read_text()
    with tempfile.TemporaryDirectory(prefix="freehold-bench-") as folder:
        peers = []
        for name, text in ((WITH, source), (WITHOUT, without_states(source))):
            c, library = Path(folder) / f"{name[:3]}.c", Path(folder) / f"{name[:3]}.so"
            c.write_text(text)
            command = [
                os.environ.get("CC", "cc"),
                *FLAGS,
                "-I" + sysconfig.get_paths()["include"],
                str(c),
                "-o",
                str(library),
                f"-Wl,--version-script={core_c.with_name('exports.map')}",
            ]
            subprocess.run(command, check=True)
            peers.append(Peer(name, library=str(library)))
        yield peers
