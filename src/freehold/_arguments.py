"""What the faces ask of their arguments: not an int is a `TypeError`, a wrong one a `ValueError` that names it.

Thread-safety: functions without state.
Does not: know what an argument is for.
"""

from __future__ import annotations

import operator
from typing import Any

WORD = 1 << 64  # addresses and sizes are one machine word in the core


def integer(name: str, value: Any, least: int = 0, most: int = WORD - 1) -> int:
    """Return `value` as an int from `least` to `most`."""
    number = any_integer(name, value)
    if not least <= number <= most:
        raise ValueError(f"{name} must be from {least} to {most}, not {number}")
    return number


def any_integer(name: str, value: Any) -> int:
    """Return `value` as an int, whatever its size and sign."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}") from None


def size_of(name: str, value: Any, multiple: int = 1) -> int:
    """Return a size in bytes: at least 1, a multiple of `multiple`, below 2^63."""
    number = integer(name, value, 1, WORD // 2 - 1)
    if number % multiple:
        raise ValueError(f"{name} must be a multiple of {multiple}, not {number}")
    return number


def power_of_two(name: str, value: Any, least: int = 1, most: int = WORD // 2) -> int:
    """Return a power of two from `least` to `most`."""
    number = integer(name, value, least, most)
    if number & (number - 1):
        raise ValueError(f"{name} must be a power of two, not {number}")
    return number


def nanoseconds(name: str, value: Any) -> int:
    """Return a time in milliseconds, int or float, as whole nanoseconds; what is too long for them is for ever."""
    if not isinstance(value, float):
        value = any_integer(name, value)
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, but is {value}")
    longest = WORD // 2 - 1
    return longest if value > longest // 1_000_000 else int(value * 1_000_000)
