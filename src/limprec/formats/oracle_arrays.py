"""The oracle for formats with shared scales: whole tensors as flat lists, one group at a time."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product

from ..errors import FormatError
from .affine import Affine
from .base import Format
from .dynamic import DynamicFloatingPoint
from .fixed import DynamicFixedPoint, FixedPoint
from .groups import ScaledFormat
from .microscaling import NVFP4, Microscaling
from .oracle import round_exact, round_to_integer
from .rounding import Rounding


def round_array_exact(
    values: Sequence[float],
    shape: tuple[int, ...],
    fmt: Format,
    rounding: Rounding = Rounding.NEAREST,
    random: Sequence[int] | None = None,
) -> list[float]:
    """Round a tensor, element by element, in the order of its definition.

    Args:
        values: the elements, row-major; for NVFP4, affine and dynamic floating point float32
            numbers.
        shape: the shape of the tensor.
        fmt: the target format.
        rounding: the rounding mode.
        random: for ``stochastic`` one random word an element.

    Raises:
        FormatError: as ``round_exact``.
    """
    words = random if random is not None else [None] * len(values)
    if not isinstance(fmt, ScaledFormat):
        return [round_exact(x, fmt, rounding, random=w) for x, w in zip(values, words, strict=True)]
    result = [0.0] * len(values)
    whole = [abs(x) for x in values]
    for group in _groups(shape, fmt):
        xs = [values[i] for i in group]
        ws = [words[i] for i in group]
        if not all(map(math.isfinite, values if isinstance(fmt, NVFP4) else xs)):
            ys = [math.nan] * len(xs)
        elif isinstance(fmt, DynamicFixedPoint):
            top = max(map(abs, xs))
            pairs = zip(xs, ws, strict=True)
            ys = [round_exact(x, fmt, rounding, random=w, amax=top) for x, w in pairs]
        elif isinstance(fmt, DynamicFloatingPoint):
            element = fmt.at(_largest_exponent(max(map(abs, xs)), fmt))
            pairs = zip(xs, ws, strict=True)
            ys = [round_exact(x, element, rounding, random=w) for x, w in pairs]
        elif isinstance(fmt, Microscaling):
            ys = _microscaling(xs, fmt, rounding, ws)
        elif isinstance(fmt, NVFP4):
            ys = _nvfp4(xs, max(whole), fmt, rounding, ws)
        elif isinstance(fmt, Affine):
            ys = _affine(xs, fmt, rounding, ws)
        else:
            raise FormatError("round_array_exact", f"no rule for {fmt!r}", "use another format")
        for i, y in zip(group, ys, strict=True):
            result[i] = y
    return result


def _largest_exponent(top: float, fmt: DynamicFloatingPoint) -> int:
    """Return the largest k with top * 2^k <= max, found by trying; max / 2^k is float32's."""
    k, most = 0, Fraction(fmt.element.max)
    if not top:
        return k
    while Fraction(top) * Fraction(2) ** k > most:
        k -= 1
    while Fraction(top) * Fraction(2) ** (k + 1) <= most:
        k += 1
    while most / Fraction(2) ** k >= 2**128:
        k += 1
    return k


def _groups(shape: tuple[int, ...], fmt: ScaledFormat) -> list[list[int]]:
    """Return the row-major indices of each group's elements."""
    found: dict[tuple[int, ...], list[int]] = {}
    for flat, index in enumerate(product(*map(range, shape))):
        if fmt.axis is None:
            key: tuple[int, ...] = ()
        elif fmt.block is None:
            key = (index[fmt.axis],)
        else:
            place = list(index) or [0]
            place[fmt.axis] //= fmt.block
            key = tuple(place)
        found.setdefault(key, []).append(flat)
    return list(found.values())


def _microscaling(
    xs: list[float], fmt: Microscaling, rounding: Rounding, words: list[int | None]
) -> list[float]:
    """Round to the element format moved by the scale's exponent: exact, without a division."""
    top = max(map(abs, xs))
    exponent = math.frexp(top)[1] - 1 - fmt.max_exponent if top else -127
    exponent = max(-127, min(127, exponent))
    if isinstance(fmt.element, FixedPoint):
        moved: Format = FixedPoint(fmt.element.bits, fmt.element.fraction_bits - exponent)
        least = -fmt.element.max * 2.0**exponent
    else:
        assert fmt.element.bias is not None
        moved = replace(fmt.element, bias=fmt.element.bias - exponent)
        least = -math.inf
    pairs = zip(xs, words, strict=True)
    return [max(least, round_exact(x, moved, rounding, random=w)) for x, w in pairs]


def _nvfp4(
    xs: list[float], amax: float, fmt: NVFP4, rounding: Rounding, words: list[int | None]
) -> list[float]:
    tensor = _f32(amax / 2688.0)
    top = max(map(abs, xs))
    block = 0.0
    if tensor:
        block = round_exact(_f32(_f32(top / 6.0) / tensor), fmt.scale)
    both = _f32(block * tensor)
    ys = []
    for x, word in zip(xs, words, strict=True):
        relative = _f32(x / both) if both else math.copysign(0.0, x)
        element = round_exact(relative, fmt.element, rounding, random=word)
        ys.append(_f32(_f32(element * block) * tensor))
    return ys


def _affine(
    xs: list[float], fmt: Affine, rounding: Rounding, words: list[int | None]
) -> list[float]:
    low, high = min(xs), max(xs)
    if fmt.zero == "integer":
        low, high = min(low, 0.0), max(high, 0.0)
    if fmt.zero == "none":
        step = _f32(max(map(abs, xs)) / fmt.code_max)
    else:
        step = _f32(_f32(high - low) / (2**fmt.bits - 1))
    if math.isinf(step):
        return [math.nan] * len(xs)
    zero = 0
    if fmt.zero == "integer" and step:
        exact = Fraction(_f32(fmt.code_min - _f32(low / step)))
        zero = round_to_integer(exact, Rounding.NEAREST, None)
        zero = max(fmt.code_min, min(fmt.code_max, zero))
    ys = []
    for x, word in zip(xs, words, strict=True):
        offset = _f32(x - low) if fmt.zero == "real" else x
        relative = Fraction(_f32(offset / step)) if step else Fraction(0)
        code = round_to_integer(relative, rounding, word) + zero
        code = max(fmt.code_min, min(fmt.code_max, code))
        y = _f32((code - zero) * step)
        ys.append(_f32(y + low) if fmt.zero == "real" else y)
    return ys


def _f32(x: float) -> float:
    """Round the float64 result of one operation on float32 numbers to float32.

    Rounding twice is harmless here: 53 bits are at least twice 24 and two more.
    """
    try:
        return float(struct.unpack("f", struct.pack("f", x))[0])
    except OverflowError:
        return math.copysign(math.inf, x)
