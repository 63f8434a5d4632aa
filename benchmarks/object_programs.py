"""Programs made of Python objects: what `bench_objects` runs under each peer.

Each prepares what it works on, untimed, and returns a function that works: it builds its data and returns it, so that
the drop is timed apart and a part can be kept. Sizes are for `scale` 1: about a second under CPython's own allocator.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import random
import re
import sysconfig
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

Work = Callable[[], Any]


# ---- data, built and dropped ----


def json_20_mb(scale: float) -> Work:
    seed = random.Random(1)
    rows = [
        {"id": i, "name": f"user {i}", "tags": [f"t{seed.randrange(999)}" for _ in range(4)], "score": seed.random()}
        for i in range(int(215_000 * scale))
    ]
    text = json.dumps(rows)
    return lambda: (rows_again := json.loads(text), json.dumps(rows_again))


def million_dicts(scale: float) -> Work:
    return lambda: [{"id": i, "left": i + 1, "right": None} for i in range(int(1_000_000 * scale))]


def sort_strings(scale: float) -> Work:
    seed = random.Random(2)
    numbers = [seed.getrandbits(60) for _ in range(int(1_000_000 * scale))]
    return lambda: sorted(f"{number:x}" for number in numbers)


def ast_walk(scale: float) -> Work:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"), key=lambda path: path.name)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files[: int(90 * scale) + 2]]

    def work() -> Any:
        trees = [ast.parse(text) for text in texts]
        names = Counter(node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name))
        return trees, names

    return work


def object_graph(scale: float) -> Work:
    class Node:
        def __init__(self, value: int, following: Any) -> None:
            self.value = value
            self.following = following
            self.label = str(value)

    def work() -> Any:
        heads = []
        for i in range(int(60_000 * scale)):
            node = None
            for j in range(10):
                node = Node(i * 10 + j, node)
            heads.append(node)
        return heads

    return work


def word_index(scale: float) -> Work:
    seed = random.Random(3)
    words = ["".join(seed.choices("abcdefghij", k=seed.randrange(3, 9))) for _ in range(30_000)]
    text = " ".join(seed.choices(words, k=int(1_200_000 * scale)))

    def work() -> Any:
        index = defaultdict(list)
        for position, word in enumerate(text.split()):
            index[word].append(position)
        return index

    return work


def bytes_and_buffers(scale: float) -> Work:
    def work() -> Any:
        seed, kept = random.Random(4), []
        for i in range(int(300_000 * scale)):
            buffer = bytearray(seed.randrange(20, 1500))
            buffer += b"x" * (i % 700)
            if i % 3 == 0:
                kept.append(bytes(buffer))
        return kept

    return work


# ---- churn: little is live at any time ----


def binary_trees(scale: float) -> Work:
    def tree(depth: int) -> Any:
        return (tree(depth - 1), tree(depth - 1)) if depth else None

    def size(node: Any) -> int:
        return 1 + size(node[0]) + size(node[1]) if node else 1

    return lambda: sum(size(tree(12)) for _ in range(int(160 * scale) + 1))


def nbody(scale: float) -> Work:
    def work() -> Any:
        bodies = [[0.1 * i, 0.2 * i, 0.3 * i, 0.01, 0.02, 0.03, 1.0 + i] for i in range(5)]
        for _ in range(int(28_000 * scale) + 1):
            for i, a in enumerate(bodies):
                for b in bodies[i + 1 :]:
                    dx, dy, dz = a[0] - b[0], a[1] - b[1], a[2] - b[2]
                    force = 0.001 / ((dx * dx + dy * dy + dz * dz) ** 1.5 + 0.01)
                    a[3], a[4], a[5] = a[3] - dx * b[6] * force, a[4] - dy * b[6] * force, a[5] - dz * b[6] * force
                    b[3], b[4], b[5] = b[3] + dx * a[6] * force, b[4] + dy * a[6] * force, b[5] + dz * a[6] * force
            for a in bodies:
                a[0], a[1], a[2] = a[0] + 0.001 * a[3], a[1] + 0.001 * a[4], a[2] + 0.001 * a[5]
        return bodies

    return work


def queens(scale: float) -> Work:
    def solve(n: int, row: int, columns: tuple[int, ...]) -> Any:
        if row == n:
            yield columns
            return
        for column in range(n):
            if all(column not in {c, c + row - r, c - row + r} for r, c in enumerate(columns)):
                yield from solve(n, row + 1, (*columns, column))

    return lambda: [len(list(solve(7, 0, ()))) for _ in range(int(14 * scale) + 1)]


def big_integers(scale: float) -> Work:
    def work() -> Any:
        a, b = 3, 7
        for _ in range(int(60 * scale) + 1):
            for i in range(3_000):
                a, b = (a * 5 + b) % (1 << 700), a ^ i
        return a

    return work


def text_formatting(scale: float) -> Work:
    def work() -> Any:
        out = io.StringIO()
        for i in range(int(400_000 * scale)):
            out.write(f"{i:>8} {i * 0.5:.3f} {'ab' * (i % 9)}\n")
        return [line.rstrip().replace(" ", ",") for line in out.getvalue().split("\n")]

    return work


def tokenize(scale: float) -> Work:
    pattern = re.compile(r"(?P<name>[a-z_]\w*)|(?P<number>\d+)|(?P<space>\s+)|(?P<other>.)")
    text = "alpha = beta_2 + 42 * (gamma - 7)\n" * int(17_000 * scale + 1)
    return lambda: Counter((match.lastgroup, match.group()) for match in pattern.finditer(text))


def pickling(scale: float) -> Work:
    rows = [(i, str(i), [i, i + 1], {"k": i * 0.5}) for i in range(int(130_000 * scale))]
    return lambda: pickle.loads(pickle.dumps(rows, protocol=4))  # noqa: S301 - we have just made it


def queue_of_events(scale: float) -> Work:
    class Event:
        __slots__ = ("args", "name", "when")

        def __init__(self, when: int, name: str, args: Any) -> None:
            self.when, self.name, self.args = when, name, args

    def work() -> Any:
        queue, done = deque(Event(i, f"event {i}", (i, [i])) for i in range(2_000)), 0
        for when in range(int(700_000 * scale)):
            event = queue.popleft()
            done += len(event.args[1])
            queue.append(Event(when, f"event {when}", (when, [when])))
        return done

    return work


def set_algebra(scale: float) -> Work:
    def work() -> Any:
        total = 0
        for i in range(int(2_500 * scale) + 1):
            a, b = {(j, i) for j in range(100)}, {(j, i) for j in range(50, 150)}
            total += len(a & b) + len(a | b) + len(frozenset(a ^ b))
        return total

    return work


PROGRAMS: dict[str, Callable[[float], Work]] = {
    "json of 20 MB": json_20_mb,
    "a million dicts": million_dicts,
    "sorting a million strings": sort_strings,
    "syntax trees of the library": ast_walk,
    "linked objects": object_graph,
    "index of words": word_index,
    "bytes and buffers": bytes_and_buffers,
    "binary trees": binary_trees,
    "n bodies": nbody,
    "queens": queens,
    "big integers": big_integers,
    "text formatting": text_formatting,
    "tokens by regex": tokenize,
    "pickling": pickling,
    "queue of events": queue_of_events,
    "algebra of sets": set_algebra,
}
