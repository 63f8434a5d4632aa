"""Who is measured: freehold, the allocators it is held against, and what each needs to run.

Thread-safety: none needed; everything is read once, at start.
Does not: measure. A peer that is not on this machine is left out, and `missing` says which and why.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FREEHOLD = "freehold"
DEFAULT = "default"
CONTROL = "default again"  # what two equal peers differ by
NOBODY = "nobody"  # no allocator at all: what the machine itself does to the figures
CONTROLS = (CONTROL, NOBODY)
KEEPS = "glibc keeps"  # trimming and mmap off
JEMALLOC = "jemalloc"
JEMALLOC_TUNED = "jemalloc tuned"
MIMALLOC = "mimalloc"
TCMALLOC = "tcmalloc"

LIBRARIES = {  # name: (file, Debian's package)
    JEMALLOC: ("libjemalloc.so.2", "libjemalloc2"),
    MIMALLOC: ("libmimalloc.so.2", "libmimalloc2.0"),
    TCMALLOC: ("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
}
TUNED = "background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0"
NEVER_TRIMS = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"  # no mmap, and the top is kept
ROOM_FOR_TLS = "glibc.rtld.optional_static_tls=16384"  # jemalloc needs 2.6 KiB where it is loaded late


@dataclass(frozen=True)
class Peer:
    """One way to allocate: an environment to start a process in, and for C the library's file."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    library: str = ""  # file; empty: the C library's own malloc
    install: bool = False  # the process calls freehold.install() first …
    objects: str = "no"  # … with this


def _library_folders() -> list[Path]:
    return [*sorted(Path("/usr/lib").glob("*-linux-gnu")), Path("/usr/lib64"), Path("/usr/lib"), Path("/usr/local/lib")]


def find_library(name: str) -> str:
    """Return the file of a peer's library, empty if there is none. FREEHOLD_BENCH_<NAME>=file comes first."""
    given = os.environ.get(f"FREEHOLD_BENCH_{name.upper()}", "")
    if given:
        return given
    for folder in _library_folders():
        file = folder / LIBRARIES[name][0]
        if file.exists():
            return str(file)
    return ""


@cache
def freehold_site() -> str:
    """Return the folder to put on the path so that `import freehold` finds a built one; empty if there is none.

    FREEHOLD_BENCH_SITE comes first, then the newer of what is installed and this checkout's release build.
    """
    given = os.environ.get("FREEHOLD_BENCH_SITE", "")
    if given:
        return given
    built = [Path(sysconfig.get_paths()["platlib"]), ROOT / "build" / "release" / "site"]
    built = [site for site in built if (site / "freehold" / "libfreehold.so").exists()]
    if built:
        return str(max(built, key=lambda site: (site / "freehold" / "libfreehold.so").stat().st_mtime))
    spec = importlib.util.find_spec("freehold")
    return str(Path(spec.origin).parent.parent) if spec and spec.origin else ""


def freehold_library() -> str:
    return str(Path(freehold_site()) / "freehold" / "libfreehold.so") if freehold_site() else ""


@cache
def install_works() -> str:
    """Return why freehold cannot be installed into a process; empty when it can."""
    if not freehold_site():
        return "not built: make flavour-release"
    program = "import freehold; freehold.install(objects=False); import numpy; numpy.empty(1 << 20)"
    run = subprocess.run([sys.executable, "-c", program], env=python_environment(), capture_output=True, text=True)
    return "" if run.returncode == 0 else (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]


def python_environment() -> dict[str, str]:
    """Return the environment every measured Python process shares: ours, without anyone's allocator in it."""
    ours = ("LD_PRELOAD", "GLIBC_TUNABLES", "MALLOC_", "MIMALLOC_", "TCMALLOC_", "FREEHOLD_", "PYTHONMALLOC")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = [str(ROOT), freehold_site(), clean.get("PYTHONPATH", "")]
    clean["PYTHONPATH"] = os.pathsep.join(part for part in path if part)
    clean.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", PYTHONHASHSEED="0")
    return clean


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"


def python_peers(*, control: bool = False) -> list[Peer]:
    """Return the peers a Python program can run under here; freehold first, if it can be installed."""
    peers = [] if install_works() else [Peer(FREEHOLD, install=True)]
    peers.append(Peer(DEFAULT))
    if control:
        peers.append(Peer(CONTROL))
    if _is_glibc():
        peers.append(Peer(KEEPS, {"GLIBC_TUNABLES": NEVER_TRIMS}))
    for name in LIBRARIES:
        file = find_library(name)
        if file:
            peers.append(Peer(name, {"LD_PRELOAD": file}))
            if name == JEMALLOC:
                peers.append(Peer(JEMALLOC_TUNED, {"LD_PRELOAD": file, "MALLOC_CONF": TUNED}))
    return peers


def c_peers() -> list[Peer]:
    """Return the peers whose functions C code can call here: all of them live in one process, loaded side by side."""
    peers = [Peer(FREEHOLD, library=freehold_library())] if freehold_library() else []
    peers.append(Peer(DEFAULT))
    return peers + [Peer(name, library=find_library(name)) for name in LIBRARIES if find_library(name)]


def preloaded_peers() -> list[Peer]:
    """Return the peers that can be a whole process's malloc here: each one's environment preloads it."""
    files = {FREEHOLD: freehold_library()} | {name: find_library(name) for name in LIBRARIES}
    peers = [Peer(name, {"LD_PRELOAD": file}) for name, file in files.items() if file]
    return [*peers[:1], Peer(DEFAULT), *peers[1:]]


def c_environment(peer: Peer | None = None) -> dict[str, str]:
    clean = {name: value for name, value in python_environment().items() if name != "PYTHONPATH"}
    if _is_glibc():
        clean["GLIBC_TUNABLES"] = ROOM_FOR_TLS
    return clean | (peer.environment if peer else {})


def missing() -> list[str]:
    """Return a line for each peer that is left out, with the reason."""
    lines = [
        f"{name}: {file} not found (Debian's {package})"
        for name, (file, package) in LIBRARIES.items()
        if not find_library(name)
    ]
    why = install_works()
    return lines + ([f"{FREEHOLD} in Python: {why}"] if why else [])
