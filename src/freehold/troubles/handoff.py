"""Made by one thread, dropped by another.

One thread receives messages of 0.8 to 2 MB, as the network thread of a worker does; another takes two hundred at a
time, reduces them to a row of means and drops them. Whoever frees is never who allocated. What is left when the queue
is empty was reported as dask/distributed#6232, and makes services preload another allocator or restart at night.
"""

from queue import Queue
from threading import Thread

import numpy as np

BATCH = 200
Batches = Queue[list[np.ndarray] | None]


def receive(batches: Batches, count: int) -> None:
    for first in range(0, count * BATCH, BATCH):
        lengths = [200_000 + number * 7_919 % 300_000 for number in range(first, first + BATCH)]
        batches.put([np.full(length, length % 251, dtype=np.float32) for length in lengths])
    batches.put(None)


def reduce(batches: Batches, rows: list[np.ndarray]) -> None:
    while (batch := batches.get()) is not None:
        rows.append(np.array([message.mean() for message in batch]))


def main(scale: float = 1.0) -> list[np.ndarray]:
    batches: Batches = Queue(maxsize=4)
    rows: list[np.ndarray] = []
    threads = [Thread(target=receive, args=(batches, int(30 * scale))), Thread(target=reduce, args=(batches, rows))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows
