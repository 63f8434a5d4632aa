"""Many mid-size arrays, all dropped.

50,000 arrays of 20 KB are made, looked at once and dropped; one number for each stays.
With the default allocator the process keeps nearly all of it, and a later large array can not use it:
numpy#18358 (these sizes), numpy#23238 (the same with 8 KB), numpy#15498 (with sizes that vary).
"""

import numpy as np


def main(scale: float = 1.0) -> list[float]:
    windows = [np.full(5_000, second, dtype=np.int32) for second in range(int(50_000 * scale))]
    levels = [float(window[::50].mean()) for window in windows]
    del windows
    return levels
