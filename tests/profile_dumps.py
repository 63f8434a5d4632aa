"""Dumps of heap profiles for tests: a writer by the layout alone, and profiles as programs would have them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from freehold.profiles import Frame, Profile, Stack

SOURCES = ["other", "numpy", "raw", "mem", "obj", "arrow", "malloc", "block"]
REASONS = ["asked", "peak", "exit"]
BEGAN = datetime(2026, 11, 21, 20, 30, 0, tzinfo=UTC)


def word(value: int) -> bytes:
    return value.to_bytes(8, "little")


def nanoseconds(when: datetime) -> int:
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


def dump(profile: Profile) -> bytes:
    """Return *profile* word by word; each stack's frames have entries of their own, and each frame its own text."""
    text, frames, lists, stacks, heaps = bytearray(), [], [], [], b""
    for stack in profile.stacks:
        figures = [stack.live_count, stack.live_bytes, stack.total_count, stack.total_bytes]
        figures += [stack.peak_count, stack.peak_bytes]
        stacks += [*figures, stack.heap, SOURCES.index(stack.source), len(stack.frames), len(lists)]
        for frame in stack.frames:
            lists.append(len(frames) // 4)
            file, function = frame.file.encode(), frame.function.encode()
            frames += [frame.line << 32 | frame.first_line, len(text)]
            frames += [len(file) << 32 | len(function), len(text) + len(file)]
            text += file + function
    for number, name in profile.heaps.items():
        heaps += word(number) + name.encode().ljust(40, b"\0")
    head = [1, 0, profile.interval, nanoseconds(profile.began), nanoseconds(profile.written), profile.pid]
    head += [REASONS.index(profile.reason), profile.live_bytes, profile.peak_bytes, profile.samples, profile.dropped]
    head += [len(frames) // 4, len(profile.stacks), len(lists), len(profile.heaps), len(text), *[0] * 7]
    words = [*head, *frames, *stacks, *lists]
    head[1] = words[1] = 8 + 8 * len(words) + len(heaps) + len(text)
    return b"fhprofil" + b"".join(map(word, words)) + heaps + text


def profile(stacks: list[Stack], heaps: dict[int, str] | None = None, **more: int) -> Profile:
    """Return a profile of these stacks, with figures that fit them."""
    live = sum(stack.live_bytes for stack in stacks)
    facts = {"live_bytes": live + 20_000_000, "peak_bytes": 2 * live, "samples": live >> 19, "dropped": 0, **more}
    return Profile(
        interval=1 << 19, began=BEGAN, written=BEGAN + timedelta(seconds=754), pid=4711, reason="asked",
        stacks=tuple(stacks), heaps=heaps or {0: "default"}, **facts,
    )  # fmt: skip


SITE = "/srv/app/.venv/lib/python3.11/site-packages"
MAIN = Frame("/srv/app/etl.py", 88, "<module>", 1)
RUN = Frame("/srv/app/etl.py", 71, "run", 60)
LOAD = Frame("/srv/app/etl.py", 23, "load", 18)
CLEAN = Frame("/srv/app/etl.py", 41, "clean", 30)
MODEL = Frame("/srv/app/model.py", 102, "Model.fit", 80)
READ = Frame(f"{SITE}/pandas/io/parquet.py", 312, "read_parquet", 280)
ARROW = Frame(f"{SITE}/pyarrow/parquet/core.py", 1843, "read_table", 1720)
TAKE = Frame(f"{SITE}/pandas/core/algorithms.py", 1211, "take", 1100)
DOT = Frame(f"{SITE}/numpy/linalg/_linalg.py", 2390, "lstsq", 2280)
JSON = Frame("/usr/lib/python3.11/json/decoder.py", 353, "JSONDecoder.raw_decode", 343)
MIB = 1 << 20


def small() -> Profile:
    """Return ten stacks of a program that loads, cleans and fits."""
    stacks = [
        Stack((ARROW, READ, LOAD, RUN, MAIN), 0, "arrow", 412 * MIB, 1_630, 900 * MIB, 4_100),
        Stack((TAKE, CLEAN, RUN, MAIN), 0, "numpy", 230 * MIB, 96, 1_900 * MIB, 812),
        Stack((CLEAN, RUN, MAIN), 0, "numpy", 118 * MIB, 40, 240 * MIB, 83),
        Stack((CLEAN, RUN, MAIN), 0, "obj", 31 * MIB, 402_000, 88 * MIB, 1_300_000),
        Stack((MODEL, RUN, MAIN), 1, "numpy", 160 * MIB, 12, 160 * MIB, 12),
        Stack((DOT, MODEL, RUN, MAIN), 1, "malloc", 0, 0, 1_200 * MIB, 60),
        Stack((JSON, LOAD, RUN, MAIN), 0, "obj", 57 * MIB, 610_000, 60 * MIB, 640_000),
        Stack((JSON, LOAD, RUN, MAIN), 0, "mem", 12 * MIB, 11_000, 14 * MIB, 13_000),
        Stack((RUN, MAIN), 1, "block", 64 * MIB, 1, 64 * MIB, 1),
        Stack((), 0, "malloc", 24 * MIB, 2_048, 32 * MIB, 9_000),
    ]
    return profile(stacks, {0: "default", 1: "model"})


def large(count: int = 5_000, depth: int = 60, seed: int = 1) -> Profile:
    """Return many deep stacks, which branch the more the deeper they are."""
    dice = random.Random(seed)
    packages = ["app/core", f"{SITE}/numpy/_core", f"{SITE}/pandas/core", f"{SITE}/dask", f"{SITE}/sklearn/utils"]
    frames = [
        Frame(f"{dice.choice(packages)}/{name}.py", dice.randrange(1, 900), f"{name}_{dice.randrange(40)}", 1)
        for name in ("load", "frame", "reduce", "shuffle", "merge", "apply", "parse", "take", "concat") * 60
    ]
    paths: list[list[Frame]] = [[MAIN, RUN]]
    stacks = []
    for _ in range(count):
        path = list(dice.choice(paths[-200:]))[: dice.randrange(2, depth)]
        while len(path) < depth - dice.randrange(12):
            path.append(dice.choice(frames))
        paths.append(path)
        live = int(dice.paretovariate(1.1) * 300_000)
        blocks = 1 + live // dice.choice([64, 512, 8_192, 1 << 20])
        source = dice.choices(SOURCES, [1, 30, 2, 6, 25, 12, 6, 2])[0]
        stacks.append(Stack(tuple(reversed(path)), 0, source, live, blocks, live * 3, blocks * 4))
    return profile(stacks)
