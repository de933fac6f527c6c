"""An exact scalar oracle: slow, in rational arithmetic, written from the definitions.

It judges the reference kernels; ml_dtypes and gfloat, which are not ours, judge the oracle.
"""

from __future__ import annotations

import math
from fractions import Fraction

from ..errors import FormatError
from .base import Format
from .fixed import DynamicFixedPoint, FixedPoint
from .floating import FloatingPoint
from .rounding import Rounding

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
        fmt: the target format.
        rounding: the rounding mode.
        random: for ``stochastic`` the random word, 0 to 2^32 - 1.
        amax: for dynamic fixed point the largest magnitude of the tensor that ``x`` belongs to.

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
    raise FormatError("round_exact", f"no rule for {fmt!r}", "use a format of limprec.formats")


def round_to_integer(q: Fraction, rounding: Rounding, random: int | None) -> int:
    """Round an exact rational to an integer; ties to even are ties to the even integer."""
    magnitude, negative = abs(q), q < 0
    low = math.floor(magnitude)
    rest = magnitude - low
    if rounding is Rounding.STOCHASTIC:
        if random is None or not 0 <= random < 2**RANDOM_BITS:
            raise FormatError(
                "round_exact", f"random word {random!r}", f"give 0 to 2^{RANDOM_BITS} - 1"
            )
        away = bool(math.floor(rest * 2**RANDOM_BITS) + random >= 2**RANDOM_BITS)
    elif rounding is Rounding.NEAREST:
        away = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low % 2 == 1)
    elif rounding is Rounding.NEAREST_AWAY:
        away = rest >= Fraction(1, 2)
    elif rounding is Rounding.TOWARD_ZERO:
        away = False
    else:
        away = rest > 0 and (rounding is Rounding.DOWN) == negative
    return -(low + away) if negative else low + away


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
    value = round_to_integer(exact / step, rounding, random) * step
    if value == 0:
        return zero
    if abs(value) > Fraction(fmt.max):
        toward_finite = (
            rounding is Rounding.TOWARD_ZERO
            or (rounding is Rounding.DOWN and x > 0)
            or (rounding is Rounding.UP and x < 0)
        )
        return math.copysign(fmt.max, x) if toward_finite else _overflow(x, fmt)
    return float(value)


def _overflow(x: float, fmt: FloatingPoint) -> float:
    """What lies beyond the range becomes, where the rounding does not hold it back."""
    if fmt.overflow == "saturate" or not (fmt.has_infinity or fmt.has_nan):
        return math.copysign(fmt.max, x)
    return math.copysign(math.inf, x) if fmt.has_infinity else math.nan
