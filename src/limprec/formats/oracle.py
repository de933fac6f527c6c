"""An exact scalar oracle: slow, in rational arithmetic, written from the definitions.

It judges the reference kernels; ml_dtypes and gfloat, which are not ours, judge the oracle.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from fractions import Fraction

from ..errors import FormatError
from .base import Format
from .fixed import DynamicFixedPoint, FixedPoint
from .floating import FloatingPoint
from .rounding import Rounding
from .scale import E8M0
from .table import ListedFormat

RANDOM_BITS = 32
"""Width of the random word behind one stochastic rounding."""


def round_exact(
    x: float,
    fmt: Format,
    rounding: Rounding = Rounding.NEAREST,
    *,
    random: int | None = None,
    amax: float | None = None,
) -> float:
    """Round one number.

    Args:
        x: any float, NaN and infinities included.
        fmt: the target format; those with shared scales other than dynamic fixed point take a
            whole tensor, see ``oracle_arrays``.
        rounding: the rounding mode.
        random: for ``stochastic`` the random word, 0 to 2^32 - 1.
        amax: for dynamic fixed point the largest magnitude of the group that ``x`` belongs to.

    Returns:
        The value of the format, or NaN or an infinity where the format's policy says so.

    Raises:
        FormatError: if ``random`` or ``amax`` is missing where it is needed.
    """
    if isinstance(fmt, DynamicFixedPoint):
        return _dynamic(x, fmt, rounding, random, amax)
    if math.isnan(x):
        return math.nan
    if isinstance(fmt, FixedPoint):
        return _fixed(x, fmt, rounding, random)
    if isinstance(fmt, FloatingPoint):
        return _floating(x, fmt, rounding, random)
    if isinstance(fmt, E8M0):
        return _power_of_two(x, fmt, rounding, random)
    if isinstance(fmt, ListedFormat):
        return _listed(x, fmt, rounding, random)
    raise FormatError("round_exact", f"no rule for {fmt!r}", "use a format of limprec.formats")


def round_to_integer(
    q: Fraction, rounding: Rounding, random: int | None, odd: bool | None = None
) -> int:
    """Round an exact rational to an integer.

    Ties to even go to the even integer, unless ``odd`` says whether the lower one counts as odd.
    """
    magnitude, negative = abs(q), q < 0
    low = math.floor(magnitude)
    rest = magnitude - low
    if rounding is Rounding.STOCHASTIC:
        away = _goes_far(rest, random)
    elif rounding is Rounding.NEAREST:
        odd = low % 2 == 1 if odd is None else odd
        away = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and odd)
    elif rounding is Rounding.NEAREST_AWAY:
        away = rest >= Fraction(1, 2)
    elif rounding is Rounding.TOWARD_ZERO:
        away = False
    else:
        away = rest > 0 and (rounding is Rounding.DOWN) == negative
    return -(low + away) if negative else low + away


def _goes_far(share: Fraction | float, random: int | None) -> bool:
    """Whether stochastic rounding takes the far neighbour, ``share`` of the gap away."""
    if random is None or not 0 <= random < 2**RANDOM_BITS:
        raise FormatError(
            "round_exact", f"random word {random!r}", f"give 0 to 2^{RANDOM_BITS} - 1"
        )
    return bool(math.floor(share * 2**RANDOM_BITS) + random >= 2**RANDOM_BITS)


def _fixed(x: float, fmt: FixedPoint, rounding: Rounding, random: int | None) -> float:
    if math.isinf(x):
        if fmt.overflow == "wrap":
            return math.nan
        return fmt.max if x > 0 else fmt.min
    code = round_to_integer(Fraction(x) * Fraction(2) ** fmt.fraction_bits, rounding, random)
    if fmt.overflow == "wrap":
        code = (code - fmt.code_min) % 2**fmt.bits + fmt.code_min
    return float(max(fmt.code_min, min(fmt.code_max, code)) * fmt.lsb)


def _dynamic(
    x: float, fmt: DynamicFixedPoint, rounding: Rounding, random: int | None, amax: float | None
) -> float:
    if amax is None:
        raise FormatError("round_exact", f"{fmt} without amax", "give the tensor's largest |x|")
    if not math.isfinite(amax) or math.isnan(x):
        return math.nan
    if amax == 0:
        return 0.0
    _, exponent = math.frexp(amax)  # amax = f * 2^exponent, 1/2 <= f < 1: floor(log2 amax) + 1
    lsb = Fraction(2) ** (exponent - fmt.bits + 1)
    code = round_to_integer(Fraction(x) / lsb, rounding, random)
    return float(max(-fmt.code_max, min(fmt.code_max, code)) * lsb)


def _floating(x: float, fmt: FloatingPoint, rounding: Rounding, random: int | None) -> float:
    zero = math.copysign(0.0, x) if fmt.has_negative_zero else 0.0
    if x == 0:
        return zero
    if math.isinf(x):
        return _overflow(x, fmt)
    exact = Fraction(x)
    _, e = math.frexp(x)
    exponent = max(e - 1, fmt.min_exponent)
    step = Fraction(2) ** (exponent - fmt.mantissa_bits)
    if not fmt.subnormals and abs(exact) < Fraction(2) ** fmt.min_exponent:
        step = Fraction(2) ** fmt.min_exponent
    odd = None
    if fmt.mantissa_bits == 0 and abs(exact) >= step:  # a code is an exponent
        odd = (exponent - fmt.min_exponent + 1) % 2 == 1
    value = round_to_integer(exact / step, rounding, random, odd) * step
    if value == 0:
        return zero
    if abs(value) > Fraction(fmt.max):
        held = _held_back(x, rounding)
        return math.copysign(fmt.max, x) if held else _overflow(x, fmt)
    return float(value)


def _held_back(x: float, rounding: Rounding) -> bool:
    """Whether a directed rounding stops at the largest finite value."""
    return (
        rounding is Rounding.TOWARD_ZERO
        or (rounding is Rounding.DOWN and x > 0)
        or (rounding is Rounding.UP and x < 0)
    )


def _overflow(x: float, fmt: FloatingPoint) -> float:
    """What lies beyond the range becomes, where the rounding does not hold it back."""
    if fmt.overflow == "saturate" or not (fmt.has_infinity or fmt.has_nan):
        return math.copysign(fmt.max, x)
    return math.copysign(math.inf, x) if fmt.has_infinity else math.nan


def _power_of_two(x: float, fmt: E8M0, rounding: Rounding, random: int | None) -> float:
    if x <= 0 or math.isinf(x):
        return math.nan
    low = Fraction(2) ** (math.frexp(x)[1] - 1)
    value = low * round_to_integer(Fraction(x) / low, rounding, random, odd=True)
    if value > Fraction(fmt.max):
        return fmt.max if _held_back(x, rounding) else math.nan
    return max(float(value), fmt.min)


def _listed(x: float, fmt: ListedFormat, rounding: Rounding, random: int | None) -> float:
    table = fmt.table
    if math.isinf(x) and fmt.keeps_infinity_out:
        return math.nan
    if x <= table[0] or x >= table[-1]:
        return table[0] if x <= table[0] else table[-1]
    above = bisect_left(table, x)  # the first value that is not under x
    low, high = table[above - 1], table[above]
    if x == high:
        return high
    near, far = (low, high) if x >= 0 else (high, low)
    if rounding is Rounding.STOCHASTIC:
        return far if _goes_far((x - near) / (far - near), random) else near
    if rounding is Rounding.TOWARD_ZERO:
        return near
    if rounding is Rounding.DOWN:
        return low
    if rounding is Rounding.UP:
        return high
    threshold = fmt.thresholds[above - 1]
    if x != threshold:
        return low if x < threshold else high
    if rounding is Rounding.NEAREST_AWAY:
        return far
    return low if fmt.code_of(above - 1) % 2 == 0 else high
