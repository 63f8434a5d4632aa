"""Ends while arrays live in modules, cycles, finalizers and thread-locals, beside allocating daemon threads (F31)."""

import sys
import threading

import numpy as np

sys.modules["json"] = kept = type(sys)("json")
kept.array = np.ones(100_000)


class Cycle:
    def __init__(self):
        self.me = self
        self.array = np.ones(50_000)

    def __del__(self):
        self.array = self.array + np.ones(50_000)


local = threading.local()


def forever():
    local.array = np.ones(10)
    while True:
        local.array = np.zeros(1 + len(local.array) * 3 % 100_003)


cycle = Cycle()
for _ in range(3):
    threading.Thread(target=forever, daemon=True).start()
