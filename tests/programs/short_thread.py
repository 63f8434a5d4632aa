"""NumPy is imported, and taken, on a thread that ends at once; then others work (F27)."""

import threading

import freehold


def first() -> None:
    import numpy as np

    assert freehold.install().taken == ("numpy",)
    np.ones(1000)


def later(found: list) -> None:
    import numpy as np

    from freehold.face import process_heap

    arrays = [np.ones(n) for n in range(1, 2000, 7)]
    found.append(all(process_heap.owns(a.__array_interface__["data"][0]) for a in arrays))


thread = threading.Thread(target=first)
thread.start()
thread.join()
found: list = []
for _ in range(20):
    thread = threading.Thread(target=later, args=(found,))
    thread.start()
    thread.join()
later(found)
print(found == [True] * 21)
