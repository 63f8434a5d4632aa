# cython: language_level=3
"""Size classes as Python meets them: `SizeClasses`.

Thread-safety: a table is constant once made; every method may be called from any thread.
Invariant: ``size(index(s))`` is the smallest class size that is at least s.
Does not: allocate, or change the table that the heap uses.
"""

import cython
from cython.cimports.freehold.core.sizes import (
    SIZES_MOST,
    SIZES_NONE,
    Sizes,
    sizes_divide,
    sizes_index_aligned,
    sizes_make,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

from freehold._arguments import WORD, any_integer, integer, power_of_two
from freehold.errors import InvalidSizeClass, UnsuitableAlignment


def count_classes(minimum: object, per_doubling: object, large_minimum: object, large_maximum: object) -> object:
    """Return how many classes a table with these parameters has: linear ones, doublings, powers of two."""
    linear = min(large_minimum, minimum * per_doubling) // minimum
    doublings = max(0, large_minimum.bit_length() - (minimum * per_doubling).bit_length())
    return linear + per_doubling * doublings - 1 + large_maximum.bit_length() - large_minimum.bit_length() + 1


@cython.final
@cython.cclass
class SizeClasses:
    """A table of size classes, made from its parameters.

    Args:
        minimum: the smallest class, and the grain of the first ones; a power of two from 2.
        per_doubling: classes in each doubling; a power of two.
        small_limit: the largest small class; a power of two.
        large_minimum: the smallest of the large classes, which are powers of two.
        large_maximum: the largest of them.

    Example:
        >>> classes = SizeClasses()
        >>> classes.index(100), classes.size(6), classes.divide(6, 1000)
        (6, 112, 8)

    Thread-safety: constant once made.
    """

    _table: Sizes
    _closed: cython.bint

    def __init__(self, *, minimum=16, per_doubling=4, small_limit=131072, large_minimum=1 << 21, large_maximum=1 << 36):
        # ceil(2^64 / 1) does not fit a word, hence 2.
        minimum = power_of_two("minimum", minimum, 2, 1 << 62)
        per_doubling = power_of_two("per_doubling", per_doubling, 1, SIZES_MOST)
        large_minimum = power_of_two("large_minimum", large_minimum, 2 * minimum)
        large_maximum = power_of_two("large_maximum", large_maximum, large_minimum)
        small_limit = power_of_two("small_limit", small_limit, minimum, large_minimum // 2)
        if minimum * per_doubling >= WORD:
            raise ValueError(
                f"per_doubling must be below {WORD // minimum} where minimum is {minimum}, not {per_doubling}"
            )
        count = count_classes(minimum, per_doubling, large_minimum, large_maximum)
        if count > SIZES_MOST:
            raise ValueError(f"per_doubling of {per_doubling} makes {count} classes; a table holds {SIZES_MOST}")
        sizes_make(cython.address(self._table), minimum, per_doubling, small_limit, large_minimum, large_maximum)

    def __enter__(self):
        self._check_open()
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Refuse further calls."""
        self._closed = True

    @cython.cfunc
    def _check_open(self) -> object:
        if self._closed:
            raise ValueError("these size classes are closed")

    @cython.cfunc
    def _sizes(self, first: uint32_t, count: uint32_t) -> object:
        self._check_open()
        return tuple([self._table.size[i] for i in range(first, first + count)])

    @cython.cfunc
    @cython.exceptval(check=True)
    def _index(self, index: object) -> uint32_t:
        self._check_open()
        return integer("index", index, 0, self._table.count - 1)

    @property
    def small(self) -> tuple:
        """The sizes of the small classes, ascending."""
        return self._sizes(0, self._table.small)

    @property
    def middle(self) -> tuple:
        """The sizes between small and large."""
        return self._sizes(self._table.small, self._table.middle)

    @property
    def large(self) -> tuple:
        """The sizes of the large classes: powers of two."""
        return self._sizes(self._table.small + self._table.middle, self._table.large)

    def index(self, size, alignment=0) -> int:
        """Return the index of the smallest class that is at least `size` and a multiple of `alignment`.

        Size 0 is served as 1; alignment 0 asks for none.

        Raises:
            InvalidSizeClass: larger than the largest class.
            UnsuitableAlignment: an alignment above the largest small class.
        """
        self._check_open()
        asked = any_integer("size", size)
        if asked < 0:
            raise ValueError(f"size must not be negative, not {asked}")
        align: uint64_t = power_of_two("alignment", alignment) if any_integer("alignment", alignment) else 0
        if align > self._table.small_limit:
            raise UnsuitableAlignment(alignment=align)
        index: uint32_t = SIZES_NONE
        if asked < WORD:
            index = sizes_index_aligned(cython.address(self._table), asked, align)
        if index == SIZES_NONE:
            raise InvalidSizeClass(size_class=(asked - 1).bit_length(), asked=asked)
        return index

    def size(self, index) -> int:
        """Return the size in bytes of a class."""
        return self._table.size[self._index(index)]

    def divide(self, index, offset) -> int:
        """Return ``offset // size(index)`` by one multiplication and a shift.

        Raises:
            ValueError: the offset is so large that the multiplication would not be exact. With the default
                parameters, all offsets up to 2^43 are served.
        """
        i: uint32_t = self._index(index)
        # The multiplier is larger than 2^64 / size by excess / size: exact as long as offset * excess < 2^64.
        excess: uint64_t = self._table.multiplier[i] * self._table.size[i]
        most: uint64_t = (~cython.cast(uint64_t, 0)) // excess if excess else ~cython.cast(uint64_t, 0)
        return sizes_divide(cython.address(self._table), i, integer("offset", offset, 0, most))

    def multiplier(self, index) -> tuple:
        """Return ``(m, shift)``: ``offset * m >> shift`` is ``offset // size(index)``."""
        return self._table.multiplier[self._index(index)], 64
