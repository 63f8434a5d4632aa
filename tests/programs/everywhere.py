"""Counts, by address, how many bytes of arrays made in every kind of thread and context are on the heap (F40)."""

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

import numpy as np

import freehold
from freehold.face import process_heap

ours = theirs = 0


def work(n: int = 0) -> None:
    global ours, theirs
    base = np.arange(1000 + n, dtype=float)
    for array in (
        base,
        base + 1,
        np.sort(base),
        np.zeros(50_000),
        np.concatenate([base, base]),
        base.astype("f4"),
        base.copy(),
    ):
        if process_heap.owns(array.__array_interface__["data"][0]):
            ours += array.nbytes
        else:
            theirs += array.nbytes


async def tasks() -> None:
    work()
    await asyncio.gather(*(asyncio.to_thread(work) for _ in range(4)))
    await asyncio.get_running_loop().run_in_executor(None, work)
    await asyncio.create_task(coroutine())


async def coroutine() -> None:
    work()


early_executor = ThreadPoolExecutor(4)
early_pool = ThreadPool(2)  # joblib's threading backend is made of these
list(early_executor.map(len, ["started"] * 8))
assert freehold.install().taken == ("numpy",)
list(early_executor.map(work, range(20)))
early_pool.map(work, range(20))
with ThreadPoolExecutor(2) as late_executor:
    list(late_executor.map(work, range(20)))
for _ in range(5):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
contextvars.Context().run(work)
contextvars.copy_context().run(work)
asyncio.run(tasks())
early_pool.terminate()
print(ours / (ours + theirs))
