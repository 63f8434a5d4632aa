"""NumPy: arrays of all sizes, expressions, a transform, and LAPACK; what was made is kept to the end."""

import time

import numpy as np

random = np.random.default_rng(1)
kept = [random.standard_normal(4_000_000) for _ in range(6)]
kept += [np.full(1000, float(i)) for i in range(10_000)]
kept.append(kept[0] * 2 + kept[1] - kept[2])
kept.append(np.fft.rfft(kept[3]))
square = random.standard_normal((700, 700))
kept.extend(np.linalg.svd(square))
kept.append(np.linalg.solve(square, square.T))
words = np.array([f"word {i}" for i in range(100_000)], dtype=object)
time.sleep(2)  # what is idle is given back meanwhile
