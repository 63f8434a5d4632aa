"""Large temporaries in an expression.

A vegetation index over a satellite scene of three bands, once for each of 80 dates: every operator makes a temporary of
20 MiB, whose pages the system hands out and zeroes again and again (numpy#8783, numpy#11919). An allocator that keeps
them is fast, and most then never give them back; below 32 MiB the default keeps some and is not fast (numpy#29738).
"""

import numpy as np

PIXELS = 5 * 1024 * 1024


def main(scale: float = 1.0) -> list[float]:
    random = np.random.default_rng(20240601)
    near_infrared, red, blue = (random.random(int(PIXELS * scale), dtype=np.float32) for _ in range(3))
    greenness = []
    for date in range(80):
        haze = np.float32(date / 800)
        index = 2.5 * (near_infrared - red) / (near_infrared + 6.0 * red - 7.5 * (blue - haze) + 8.5)
        greenness.append(float(index[:: 1 + date].mean()))
    return greenness
