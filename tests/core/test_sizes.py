"""sizes: the classes, and the arithmetic between sizes, classes and offsets, compiled and plain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain import uncompiled

from freehold.errors import InvalidSizeClass, UnsuitableAlignment
from freehold.face.sizes_face import SizeClasses

WORD = 1 << 64
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
REGION = 1 << 36  # the largest offset that a region can have

SMALL = (
    16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 1792,
    2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 14336, 16384, 20480, 24576, 28672, 32768,
    40960, 49152, 57344, 65536, 81920, 98304, 114688, 131072,
)  # fmt: skip
MIDDLE = (
    163840, 196608, 229376, 262144, 327680, 393216, 458752, 524288, 655360, 786432, 917504, 1048576,
    1310720, 1572864, 1835008,
)  # fmt: skip
LARGE = tuple(1 << n for n in range(21, 37))

HIGH = {"small_limit": 1 << 60, "large_minimum": 1 << 61, "large_maximum": 1 << 61}
OTHERS = [
    {"minimum": 8},
    {"minimum": 2, "per_doubling": 1, "small_limit": 2, "large_minimum": 4, "large_maximum": 4},
    {"minimum": 16, "per_doubling": 1},
    {"minimum": 16, "per_doubling": 2, "small_limit": 1 * KIB},
    {"minimum": 16, "per_doubling": 8, "small_limit": 64 * KIB, "large_minimum": 1 << 28},
    {"minimum": 64, "per_doubling": 16, "large_minimum": 1 << 30, "large_maximum": 1 << 30},
    {"minimum": 16, "per_doubling": 64, "small_limit": 256, "large_minimum": 512},
    {"minimum": 4096, "per_doubling": 4, "large_maximum": 1 << 63},
    {"minimum": 2, "per_doubling": 4, "large_minimum": 1 << 62, "large_maximum": 1 << 63},
]


@pytest.fixture(params=[{}, *OTHERS], ids=str)
def classes(request: pytest.FixtureRequest) -> SizeClasses:
    return SizeClasses(**request.param)


def all_sizes(classes: SizeClasses) -> tuple[int, ...]:
    return classes.small + classes.middle + classes.large


def naive_sizes(
    minimum: int = 16, per_doubling: int = 4, large_minimum: int = 1 << 21, large_maximum: int = 1 << 36, **_: int
) -> list[int]:
    """Return the classes by their law: multiples of the minimum, then `per_doubling` a doubling, then doublings."""
    sizes, size, step = [], minimum, minimum
    while size < large_minimum:
        sizes.append(size)
        if size >= 2 * per_doubling * step:
            step *= 2
        size += step
    return sizes + [1 << n for n in range(large_minimum.bit_length() - 1, large_maximum.bit_length())]


# ---- Z1 ----


def test_Z1_the_default_classes() -> None:
    """48 small, 15 middle and 16 large classes, each as written down in the design."""
    classes = SizeClasses()

    assert (SMALL, MIDDLE, LARGE) == (classes.small, classes.middle, classes.large)
    assert (48, 15, 16) == (len(SMALL), len(MIDDLE), len(LARGE))


@pytest.mark.parametrize("parameters", [{}, *OTHERS], ids=str)
def test_Z1_the_classes_come_from_the_parameters(parameters: dict[str, int]) -> None:
    """Any parameters give the classes of the same law, parted by the two limits."""
    classes = SizeClasses(**parameters)
    limit, large = parameters.get("small_limit", 128 * KIB), parameters.get("large_minimum", 1 << 21)

    assert naive_sizes(**parameters) == list(all_sizes(classes))
    assert all(size <= limit for size in classes.small)
    assert all(limit < size < large for size in classes.middle)
    assert all(size >= large for size in classes.large)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"minimum": 0}, "minimum"),
        ({"minimum": 1}, "minimum"),
        ({"minimum": 24}, "minimum"),
        ({"minimum": -16}, "minimum"),
        ({"per_doubling": 0}, "per_doubling"),
        ({"per_doubling": 3}, "per_doubling"),
        ({"per_doubling": 64}, "per_doubling"),
        ({"per_doubling": 1024}, "per_doubling"),
        ({"small_limit": 100_000}, "small_limit"),
        ({"small_limit": 8}, "small_limit"),
        ({"small_limit": 1 << 21}, "small_limit"),
        ({"large_minimum": 3 << 20}, "large_minimum"),
        ({"large_minimum": 16}, "large_minimum"),
        ({"large_maximum": 1 << 20}, "large_maximum"),
        ({"large_maximum": 3 << 21}, "large_maximum"),
        ({"large_maximum": 1 << 64}, "large_maximum"),
        ({"minimum": 1 << 60, "per_doubling": 16, **HIGH}, "per_doubling"),
    ],
)  # fmt: skip
def test_Z1_parameters_that_make_no_table_are_refused(parameters: dict[str, int], named: str) -> None:
    """Not a power of two, out of order, or more classes than a table holds: ValueError that names the argument."""
    with pytest.raises(ValueError, match=named):
        SizeClasses(**parameters)


def test_Z1_the_largest_table_that_fits_is_made() -> None:
    """512 classes are served, one more is refused."""
    parameters = {"minimum": 2, "per_doubling": 32, "small_limit": 64, "large_minimum": 1 << 20}
    full = all_sizes(SizeClasses(**parameters, large_maximum=1 << 52))

    assert 512 == len(full)
    assert naive_sizes(**parameters, large_maximum=1 << 52) == list(full)
    with pytest.raises(ValueError, match=r"per_doubling.* 513 classes"):
        SizeClasses(**parameters, large_maximum=1 << 53)


# ---- Z2 ----


def test_Z2_index_is_the_smallest_class_that_holds_the_size(classes: SizeClasses) -> None:
    """Each class begins a byte above the one below it, and ends with its own size."""
    sizes = all_sizes(classes)
    for i, size in enumerate(sizes):
        first = sizes[i - 1] + 1 if i else 1
        assert (i, i, size) == (classes.index(first), classes.index(size), classes.size(i))


def test_Z2_index_is_right_for_every_small_and_middle_size() -> None:
    """Every size up to 2 MiB has the smallest class that holds it."""
    classes, expected, sizes = SizeClasses(), 0, all_sizes(SizeClasses())
    index = classes.index
    for size in range(1, 2 * MIB + 2):
        if size > sizes[expected]:
            expected += 1
        assert expected == index(size)


@given(st.integers(0, 36).flatmap(lambda n: st.integers(0, 1 << n)))
def test_Z2_index_of_any_size(size: int) -> None:
    """index agrees with a search through the table."""
    assert next(i for i, s in enumerate(SMALL + MIDDLE + LARGE) if s >= size) == SizeClasses().index(size)


def test_Z2_divide_is_proven_exact_for_every_offset_of_a_region() -> None:
    """With m = (2^64 + e) / size the error offset·e / 2^64 stays below 1: the quotient is exact for all offsets."""
    classes = SizeClasses()
    for i, size in enumerate(all_sizes(classes)):
        m, shift = classes.multiplier(i)
        e = m * size - (1 << shift)
        assert (64, True) == (shift, 0 <= e < size)
        assert REGION * e < 1 << shift


def test_Z2_divide_is_exact_at_class_boundaries(classes: SizeClasses) -> None:
    """At multiples of every class, and a byte before, divide is `//`: at the low end, the high end and between."""
    for i, size in enumerate(all_sizes(classes)):
        m, shift = classes.multiplier(i)
        e = m * size - (1 << shift)
        top = min(REGION, (WORD - 1) // e if e else WORD - 1) // size
        multiples = {1, 2, 3, top - 1, top, *range(1, top, max(1, top // 997))}
        for offset in (k * size - b for k in multiples if 0 < k <= top for b in (0, 1)):
            assert offset // size == classes.divide(i, offset) == offset * m >> shift


@pytest.mark.debug
@pytest.mark.parametrize("first", [0, REGION - (1 << 28)])
def test_Z2_divide_is_exact_at_every_boundary(first: int) -> None:
    """Every multiple of every class, and the byte before it, in the lowest and the highest 256 MiB of a region."""
    from freehold.face import probe

    assert [0] * 63 == [probe.wrong_quotients(i, first, first + (1 << 28)) for i in range(63)]


@given(st.integers(0, 78), st.integers(0, (1 << 43) - 1))
def test_Z2_divide_any_offset(i: int, offset: int) -> None:
    """divide agrees with `//` for every offset up to 2^43."""
    classes = SizeClasses()

    assert offset // classes.size(i) == classes.divide(i, offset)


def test_Z2_an_offset_beyond_the_proof_is_refused(classes: SizeClasses) -> None:
    """The largest offset that divide takes is exact; the next is a ValueError, not a wrong quotient."""
    for i, size in enumerate(all_sizes(classes)):
        m, shift = classes.multiplier(i)
        e = m * size - (1 << shift)
        most = (WORD - 1) // e if e else WORD - 1
        assert most // size == classes.divide(i, most)
        with pytest.raises(ValueError, match="offset"):
            classes.divide(i, most + 1)


# ---- Z3 ----


def test_Z3_an_alignment_picks_the_smallest_class_that_is_a_multiple() -> None:
    """For every class size, a byte more and less, and every alignment, a search through the table agrees."""
    classes = SizeClasses()
    sizes = all_sizes(classes)
    for align in (1 << n for n in range(18)):
        for size in sorted({max(0, s + d) for s in sizes for d in (-1, 0, 1) if s + d <= 1 << 36} | {0, 1, 17}):
            expected = next(i for i, s in enumerate(sizes) if s >= size and s % align == 0)
            assert expected == classes.index(size, align)


@given(st.integers(0, 21).flatmap(lambda n: st.integers(0, 1 << n)), st.integers(0, 17))
def test_Z3_any_size_and_alignment(size: int, n: int) -> None:
    """The class found is a multiple of the alignment, holds the size, and no smaller one is and does."""
    found = SizeClasses().index(size, alignment=1 << n)

    assert next(i for i, s in enumerate(SMALL + MIDDLE + LARGE) if s >= size and s % (1 << n) == 0) == found


def test_Z3_size_zero_is_served_as_one() -> None:
    """Size 0 gets the smallest class, or the smallest that is aligned."""
    classes = SizeClasses()

    assert (0, 0) == (classes.index(0), classes.index(1))
    assert [classes.index(1, 1 << n) for n in range(18)] == [classes.index(0, 1 << n) for n in range(18)]


def test_Z3_impossible_requests_say_what_is_impossible() -> None:
    """Too large is InvalidSizeClass with the class it would need; too aligned is UnsuitableAlignment."""
    classes = SizeClasses()
    for size, needed in (((1 << 36) + 1, 37), (1 << 37, 37), (WORD - 1, 64), (WORD, 64), (1 << 100, 100)):
        with pytest.raises(InvalidSizeClass) as caught:
            classes.index(size)
        assert (needed, size) == (caught.value.size_class, caught.value.asked)
        with pytest.raises(InvalidSizeClass):
            classes.index(size, 4096)
    for align in (1 << 18, 1 << 63):
        with pytest.raises(UnsuitableAlignment) as refused:
            classes.index(1, align)
        assert align == refused.value.alignment
    with pytest.raises(InvalidSizeClass):
        classes.index((1 << 36) + 1, 128 * KIB)
    assert 78 == classes.index(1 << 36, 128 * KIB)


# ---- plain and compiled ----


class Word(int):
    """An unsigned 64-bit number: what the plain file needs of one is `~`."""

    def __invert__(self) -> Word:
        return Word(WORD - 1 - int(self))


class Sizes:
    """The struct, as a plain object."""

    def __init__(self) -> None:
        self.size = [0] * 512
        self.multiplier = [0] * 512


@pytest.fixture(scope="module")
def plain() -> Iterator[Any]:
    """sizes.py itself, run uncompiled, with stand-ins for what it takes from the processor."""
    stand_ins = {
        "machine": {"clz": lambda x: 64 - x.bit_length(), "mul_high": lambda a, b: a * b >> 64},
        "sizes": {"SIZES_NONE": 0xFFFFFFFF, "Sizes": Sizes},
    }
    with uncompiled("sizes", stand_ins, uint32_t=int, uint64_t=Word) as module:
        yield module


def plain_table(plain: Any, **parameters: int) -> Sizes:
    values = {
        "minimum": 16, "per_doubling": 4, "small_limit": 128 * KIB, "large_minimum": 1 << 21, "large_maximum": 1 << 36,
        **parameters,
    }  # fmt: skip
    table = Sizes()
    plain.sizes_make(table, *values.values())
    return table


@pytest.mark.parametrize("parameters", [{}, *OTHERS], ids=str)
def test_Z2_plain_and_compiled_make_the_same_table(plain: Any, parameters: dict[str, int]) -> None:
    """The same file, run as Python, gives the sizes, counts and multipliers of the compiled one."""
    compiled, table = SizeClasses(**parameters), plain_table(plain, **parameters)

    assert list(all_sizes(compiled)) == table.size[: table.count]
    assert (len(compiled.small), len(compiled.middle), len(compiled.large)) == (table.small, table.middle, table.large)
    assert [compiled.multiplier(i)[0] for i in range(table.count)] == table.multiplier[: table.count]
    assert [-(-WORD // size) for size in table.size[: table.count]] == table.multiplier[: table.count]


@given(data=st.data())
def test_Z2_plain_and_compiled_agree(plain: Any, data: st.DataObject) -> None:
    """For any size, alignment and offset the plain file and the compiled one say the same."""
    parameters = data.draw(st.sampled_from([{}, *OTHERS[:-2]]))
    compiled, table = SizeClasses(**parameters), plain_table(plain, **parameters)
    size = data.draw(st.integers(0, table.large_maximum))
    align = 1 << data.draw(st.integers(0, table.small_limit.bit_length() - 1))
    i = data.draw(st.integers(0, table.count - 1))
    offset = data.draw(st.integers(0, (1 << 64) // table.large_minimum - 1))

    assert plain.sizes_index(table, size) == compiled.index(size)
    found = plain.sizes_index_aligned(table, size, align)
    if found == 0xFFFFFFFF:
        with pytest.raises(InvalidSizeClass):
            compiled.index(size, align)
    else:
        assert found == compiled.index(size, align)
        assert 0 == table.size[found] % align
    assert plain.sizes_divide(table, i, offset) == compiled.divide(i, offset) == offset // table.size[i]


def test_Z2_plain_index_of_sizes_beyond_the_largest(plain: Any) -> None:
    """Sizes above the largest class, and those that alignment would carry over 2^64, have no class."""
    table = plain_table(plain)

    assert {0xFFFFFFFF} == {plain.sizes_index(table, size) for size in ((1 << 36) + 1, 1 << 63, WORD - 1)}
    assert {0xFFFFFFFF} == {plain.sizes_index_aligned(table, WORD - 1, 1 << n) for n in range(18)}


# ---- G ----


def test_G1_closed_size_classes_raise() -> None:
    """close may be called twice; any other call after it raises ValueError."""
    with SizeClasses() as classes:
        assert 0 == classes.index(1)
    classes.close()

    for call in ("index", "size", "multiplier"):
        with pytest.raises(ValueError, match="closed"):
            getattr(classes, call)(1)
    for name in ("small", "middle", "large"):
        with pytest.raises(ValueError, match="closed"):
            getattr(classes, name)
    with pytest.raises(ValueError, match="closed"):
        classes.divide(1, 1)
    with pytest.raises(ValueError, match="closed"):
        classes.__enter__()


def test_G2_wrong_arguments_are_named() -> None:
    """Negative sizes, alignments that are no power of two, indices outside the table; what is no int is a TypeError."""
    classes = SizeClasses()
    wrong = [
        (classes.index, (-1,), "size"),
        (classes.index, (1, 3), "alignment"),
        (classes.index, (1, -16), "alignment"),
        (classes.size, (79,), "index"),
        (classes.size, (-1,), "index"),
        (classes.divide, (79, 0), "index"),
        (classes.divide, (0, -1), "offset"),
        (classes.multiplier, (1 << 40,), "index"),
    ]
    for call, arguments, named in wrong:
        with pytest.raises(ValueError, match=named):
            call(*arguments)
    for call, arguments in (
        (classes.index, (1.0,)),
        (classes.index, (1, "16")),
        (classes.size, (None,)),
        (classes.divide, (0, 1.5)),
    ):
        with pytest.raises(TypeError):
            call(*arguments)
    with pytest.raises(TypeError):
        SizeClasses(minimum="16")
