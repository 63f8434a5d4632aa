"""chance: how probable it is that a sample falls into a size, and how long it is until the next; plain and compiled."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain import uncompiled


@pytest.fixture(scope="module")
def plain() -> Iterator[Any]:
    """chance.py itself, run uncompiled, with stand-ins for what it takes from the processor."""
    stand_ins = {
        "machine": {"clz": lambda x: 64 - x.bit_length(), "most": max},
        "chance": {"LN_2": math.log(2)},
    }
    with uncompiled("chance", stand_ins, uint64_t=int) as module:
        yield module


@given(size=st.integers(1, 1 << 50), mean=st.integers(1, 1 << 40))
def test_the_chance_of_a_size_is_that_of_an_exponential_interval(plain: Any, size: int, mean: int) -> None:
    assert math.isclose(-math.expm1(-size / mean), plain.chance_of(size, mean), rel_tol=1e-7)


@given(n=st.integers(1, (1 << 63) - 1))
def test_the_logarithm_is_right_to_one_in_ten_million(plain: Any, n: int) -> None:
    assert math.isclose(math.log(n), plain.chance_ln(n), rel_tol=1e-7, abs_tol=1e-7)


def test_intervals_are_exponential(plain: Any) -> None:
    """Their mean, their spread, and how many are longer than one, two and three means."""
    numbers = random.Random(4711)
    plain.chance_next = lambda state: numbers.getrandbits(64)
    drawn = [plain.chance_interval(None, 524_288) / 524_288 for _ in range(200_000)]

    assert math.isclose(1, sum(drawn) / len(drawn), rel_tol=0.01)
    assert math.isclose(1, sum((x - 1) ** 2 for x in drawn) / len(drawn), rel_tol=0.03)
    for k in (1, 2, 3):
        assert math.isclose(math.exp(-k), sum(x > k for x in drawn) / len(drawn), rel_tol=0.05)


def test_an_interval_is_never_nothing(plain: Any) -> None:
    """Whatever is drawn, also for the least of means: the next block is the earliest that can be sampled."""
    for bits in (0, 1 << 11, (1 << 64) - 1):
        plain.chance_next = lambda state, bits=bits: bits
        assert 1 <= plain.chance_interval(None, 1) <= 38
    assert 19_253_000 < plain.chance_interval(None, 524_288) + 19_253_000
