"""Run one trouble in this process and say what it needed, one JSON object a line, on a pipe.

Started by `measure` as a script of its own (`python -P runner.py TROUBLE.py …`), so that under the default allocator
nothing of freehold is loaded. After the work it sleeps with no Python activity: what memory does then is the
allocator's own doing. Does not: watch its memory over time; who started it does, from outside.

Thread-safety: single-threaded itself; a trouble may start threads.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import runpy
import sys
import time
from typing import Any

IDLE_SECONDS = 2.5
SETTLE_SECONDS = 0.2

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Return this process's resident memory."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * _PAGE_BYTES


def peak_bytes() -> int:
    """Return the most that was resident since `forget_peak`."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def forget_peak() -> None:
    """Let the peak start again at what is resident now; where the kernel refuses, imports may count in it."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as clear_refs:
            clear_refs.write("5")
    except OSError:
        pass


def live_bytes(kept: Any) -> int:
    """Return the bytes that *kept* needs: arrays with their buffers, frames by their columns and index."""
    if isinstance(kept, dict):
        return sys.getsizeof(kept) + sum(live_bytes(part) for part in kept.values())
    if isinstance(kept, (list, tuple)):
        return sys.getsizeof(kept) + sum(live_bytes(part) for part in kept)
    if hasattr(kept, "memory_usage"):
        usage = kept.memory_usage(index=True, deep=True)
        return int(usage.sum() if hasattr(usage, "sum") else usage)
    if getattr(kept, "base", None) is not None:
        return sys.getsizeof(kept) + live_bytes(kept.base)
    return sys.getsizeof(kept)


def run(path: str, scale: float, tell: Any) -> Any:
    """Run the trouble in the file *path*, call *tell* at its phases, and return what it keeps."""
    program = runpy.run_path(path, run_name="trouble")
    program.get("warm_up", lambda: None)()
    gc.collect()
    time.sleep(SETTLE_SECONDS)
    forget_peak()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    begin = time.monotonic()
    tell(phase="begin", at=begin, resident_bytes=resident_bytes())
    kept = program["main"](scale)
    end = time.monotonic()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    tell(
        phase="end",
        at=end,
        seconds=end - begin,
        peak_bytes=peak_bytes(),
        live_bytes=live_bytes(kept),
        fault_count=faults,
    )
    return kept


def main() -> None:
    """Parse the command line, install freehold if asked to, run, and stay idle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--pipe", type=int, default=1, help="file descriptor to report on")
    parser.add_argument("--install", action="store_true", help="put NumPy's data on the freehold heap")
    options = parser.parse_args()
    if options.install:
        import freehold

        freehold.install(objects=False)

    def tell(**said: Any) -> None:
        os.write(options.pipe, json.dumps(said).encode() + b"\n")

    kept = run(options.path, options.scale, tell)
    time.sleep(IDLE_SECONDS)
    del kept


if __name__ == "__main__":
    main()
