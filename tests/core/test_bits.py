"""bits: runs in bitmaps, against Python's unbounded ints."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from freehold.face import probe

WORDS = 5
BITS = 64 * WORDS
ALL = (1 << BITS) - 1

# Whole words, single bits and noise: runs of every length, across words and at their edges.
maps = st.one_of(
    st.integers(0, ALL),
    st.lists(st.tuples(st.integers(0, BITS), st.integers(0, BITS)), max_size=4).map(
        lambda runs: sum({1 << i for a, b in runs for i in range(a, b)})
    ),
    st.sampled_from([0, ALL]),
)
ranges = st.tuples(st.integers(0, BITS), st.integers(0, BITS)).map(lambda ends: (min(ends), max(ends) - min(ends)))


class Bitmap:
    """A bitmap the core sees, with a word on either side that no call may touch."""

    def __init__(self, value: int) -> None:
        words = [GUARD, *(value >> 64 * w & (1 << 64) - 1 for w in range(WORDS)), GUARD]
        self.words = np.array(words, dtype=np.uint64)
        self.address = self.words[1:].ctypes.data

    def value(self) -> int:
        assert GUARD == self.words[0] == self.words[-1]
        return sum(int(word) << 64 * w for w, word in enumerate(self.words[1:-1]))


GUARD = 0xA5A5A5A5A5A5A5A5


def run(i: int, n: int) -> int:
    return ((1 << n) - 1) << i


@given(maps, ranges)
def test_set_turns_on_the_bits_of_the_run_and_no_other(value: int, where: tuple[int, int]) -> None:
    """Setting a run is `or` with it."""
    bitmap = Bitmap(value)

    probe.set_bits(bitmap.address, *where)

    assert value | run(*where) == bitmap.value()


@given(maps, ranges)
def test_clear_turns_off_the_bits_of_the_run_and_no_other(value: int, where: tuple[int, int]) -> None:
    """Clearing a run is `and` with all the others."""
    bitmap = Bitmap(value)

    probe.clear_bits(bitmap.address, *where)

    assert value & ~run(*where) == bitmap.value()


@given(maps, ranges)
def test_tests_and_counts_agree_with_the_bits(value: int, where: tuple[int, int]) -> None:
    """all_set, all_clear and count say what the bits of the run are; of an empty run everything is true."""
    address = (bitmap := Bitmap(value)).address
    part = value & run(*where)

    assert (part == run(*where)) == probe.all_set(address, *where)
    assert (part == 0) == probe.all_clear(address, *where)
    assert part.bit_count() == probe.count_bits(address, *where)
    assert value == bitmap.value()


@given(maps, st.integers(0, BITS - 1))
def test_get_reads_one_bit(value: int, i: int) -> None:
    """get is a shift and a mask."""
    assert bool(value >> i & 1) == probe.get_bit(Bitmap(value).address, i)


@given(maps, st.integers(0, BITS), st.integers(0, BITS))
def test_next_finds_the_first_at_or_after(value: int, i: int, length: int) -> None:
    """next_set and next_clear return the first such bit from i on, or the length."""
    address = (bitmap := Bitmap(value)).address

    assert next((k for k in range(i, length) if value >> k & 1), length) == probe.next_set(address, i, length)
    assert next((k for k in range(i, length) if not value >> k & 1), length) == probe.next_clear(address, i, length)
    assert value == bitmap.value()


@given(maps, st.integers(0, BITS), st.integers(0, BITS), st.integers(1, 80), st.sampled_from([1, 2, 8, 64, 128]))
def test_find_clear_returns_the_lowest_aligned_run(value: int, i: int, length: int, n: int, align: int) -> None:
    """find_clear returns the lowest multiple of align, at or after i, with n clear bits before the length."""
    fits = (k for k in range(i, length - n + 1) if k % align == 0 and not value >> k & ((1 << n) - 1))

    assert next(fits, probe.NOWHERE) == probe.find_clear(Bitmap(value).address, i, length, n, align)
