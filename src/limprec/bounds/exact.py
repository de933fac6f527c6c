"""Exact arithmetic on fractions and integers, and how numbers are checked and printed."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from ..errors import GuidelineError

MAX_CLASSES = 2**53
"""Beyond it even the widest format of ``limprec.formats`` (54 bits) is too narrow."""
SHARE = Fraction(1, 16)
"""What rounding may take where we advise: of the error's power as noise, or of its mass.

A choice of ours. Training bears it out: a sixteenth clipped off the right class does no harm that
shows, an eighth can ruin a training (``experiments/guideline``)."""
HALF = Fraction(1, 2)
"""What it may take of the mass, for the least width."""


def power(exponent: int) -> Fraction:
    """Return 2^exponent."""
    return Fraction(2) ** exponent


def floor_log2(x: Fraction) -> int:
    """Return floor(log2 x) of a positive fraction."""
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if x >= power(guess) else guess - 1


def ceil_log2(x: Fraction) -> int:
    """Return ceil(log2 x) of a positive fraction."""
    floor = floor_log2(x)
    return floor if x == power(floor) else floor + 1


def first(enough: Callable[[int], bool], start: int) -> int:
    """Return the first number from ``start`` on for which a condition that stays true is true."""
    while not enough(start):
        start += 1
    return start


def integer(name: str, value: Any, least: int, most: int) -> int:
    """Return an int of any integral type, or raise ``GuidelineError``."""
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None or not least <= found <= most:
        top = f"2^{most.bit_length() - 1}" if most > 10**6 else str(most)
        raise GuidelineError(
            "guideline", f"{name} is {value!r}", f"give an integer from {least} to {top}"
        )
    return found


def fraction(name: str, value: Any, wanted: str, holds: Callable[[Fraction], bool]) -> Fraction:
    """Return a real number exactly, or raise ``GuidelineError``."""
    try:
        found = None if isinstance(value, (bool, str)) else Fraction(value)
    except (TypeError, ValueError, OverflowError):
        found = None
    if found is None or not holds(found):
        raise GuidelineError("guideline", f"{name} is {value!r}", f"give {wanted}")
    return found


def number(x: Fraction) -> str:
    """Print a fraction: powers of two beyond a few as such, others to four digits."""
    exponent = floor_log2(x)
    if x == power(exponent) and not -21 < exponent < 11:
        return f"2^{exponent}"
    if x.numerator == 1 and x.denominator > 1:
        return f"1/{x.denominator}"
    return f"{x.numerator}" if x.denominator == 1 and x < 10**9 else f"{as_float(x):.4g}"


def as_float(x: Fraction) -> float:
    """Return the nearest float, infinity beyond the largest."""
    try:
        return float(x)
    except OverflowError:
        return math.inf


def percent(x: Fraction) -> str:
    """Print a share: 5%, 0.3%, 0.1% for anything smaller but 0."""
    share = 100 * float(x)
    return "0.1%" if 0 < share < 0.1 else f"{share:.2g}%" if share < 10 else f"{share:.0f}%"


def bits(n: int) -> str:
    """Print a number of bits."""
    return f"{n} {'bit' if n == 1 else 'bits'}"
