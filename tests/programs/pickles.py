"""Sends a function and a class of __main__ to a spawned child and back."""

import concurrent.futures
import multiprocessing
import pickle


class Point:
    def __init__(self, x):
        self.x = x


def double(point):
    return Point(point.x * 2)


if __name__ == "__main__":
    assert pickle.loads(pickle.dumps(Point(3))).x == 3
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        print(executor.submit(double, Point(21)).result().x)
