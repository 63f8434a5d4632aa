"""A process under one peer: reads `[function, arguments]` from stdin, line by line, and answers with the result.

`--install=HOW` has NumPy's data come from freehold first, and Python's objects as HOW says. Results are JSON.
"""

from __future__ import annotations

import gc
import json
import sys
from importlib import import_module

from benchmarks.measure import peak_bytes, reset_peak, resident_bytes

before_bytes = 0  # resident before the work


def begin() -> None:
    """Note what is resident, and count the peak from here."""
    global before_bytes
    gc.collect()
    before_bytes = resident_bytes()
    reset_peak()


def memory() -> tuple[int, int]:
    """Return the peak since `begin`, and what is resident now, both above what was resident then."""
    now = resident_bytes()
    return max(0, peak_bytes() - before_bytes), max(0, now - before_bytes)


def main() -> None:
    for word in sys.argv[1:]:
        if word.startswith("--install="):
            import freehold

            freehold.install(objects=word.removeprefix("--install="))
    this = sys.modules[__name__]
    sys.modules["benchmarks.worker"] = this  # so that a benchmark that imports us shares this state
    gc.disable()  # it would stop at other places under each peer
    for line in sys.stdin:
        name, arguments = json.loads(line)
        module, function = name.rsplit(".", 1)
        result = getattr(this if module == "worker" else import_module(f"benchmarks.{module}"), function)(**arguments)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
