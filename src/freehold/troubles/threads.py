"""Eight threads of temporaries.

Event columns are read, combined, selected and thrown away by eight threads, and each chunk leaves a small histogram
that lives on between the large temporaries: scikit-hep/coffea#249 ("memory fragmentation in threaded executors") and
dask/dask#3530. The pool stays, idle, as a server's does: what its threads hold must come back from sleeping threads.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

POOL = ThreadPoolExecutor(8)


def histogram(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    events = int(random.integers(300_000, 1_200_000))
    pt, eta, phi = (random.random(events, dtype=np.float32) for _ in range(3))
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    energy = np.sqrt(px * px + py * py + pz * pz + np.float32(0.01))
    central = (eta < 0.8) & (pt > 0.1)
    return np.histogram(energy[central], bins=200, range=(0.0, 2.0))[0]


def main(scale: float = 1.0) -> list[np.ndarray]:
    return list(POOL.map(histogram, range(int(160 * scale))))
