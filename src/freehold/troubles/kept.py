"""A few results kept among many.

7,000 chunks of 160 KiB are loaded, as in dask/distributed#5971. One in 64 is kept, the others are dropped: what stays
is spread thin over the whole heap. A worker calls the rest "unmanaged (old)" memory, dask/distributed#6232.
"""

import numpy as np

CHUNK = 160 * 1024 // 8


def main(scale: float = 1.0) -> list[np.ndarray]:
    chunks = [np.full(CHUNK, float(number)) for number in range(int(7_000 * scale))]
    samples = chunks[::64]
    del chunks
    return samples
