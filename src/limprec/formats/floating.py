"""Floating point with any split of exponent and mantissa bits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from ..errors import FormatError
from .base import Format, ScalarFormat

Specials = Literal["ieee", "fn", "fnuz", "finite", "p3109"]
FloatOverflow = Literal["saturate", "ieee"]

SPECIALS: dict[Specials, str] = {
    "ieee": "infinities and NaN in the top exponent (IEEE 754)",
    "fn": "no infinity; NaN where exponent and mantissa are all ones (OCP 8-bit e4m3)",
    "fnuz": "no infinity, no negative zero; NaN in its place, bias one higher",
    "finite": "neither infinity nor NaN (OCP MX fp6 and fp4)",
    "p3109": "infinities at the top codes, NaN in the place of negative zero (IEEE P3109)",
}


@dataclass(frozen=True)
class FloatingPoint(ScalarFormat):
    """Sign, ``exponent_bits`` and ``mantissa_bits``; everything else is derived.

    Args:
        exponent_bits: 2 to 11 (1 to 11 unless ``specials`` is ``ieee``).
        mantissa_bits: stored bits after the leading one, 0 to 52 (from 1 under ``ieee``, whose
            NaN needs one). With 0 the values are 0 and powers of two.
        bias: exponent bias; None means 2^(exponent_bits-1) - 1, one more under ``fnuz`` and
            ``p3109``.
        subnormals: whether the lowest exponent has evenly spaced values down to 0; if not,
            a value under the smallest normal rounds to 0 or to it.
        specials: which codes are not numbers: ``ieee``, ``fn``, ``fnuz``, ``finite`` or ``p3109``
            (the extended domain of IEEE P3109; its finite domain is ``fnuz``).
        overflow: ``saturate`` sends what exceeds ``max`` (infinities too) to ``max``; ``ieee``
            sends it to infinity, or to NaN where the format has no infinity (``max`` where it has
            neither), as IEEE 754 section 7.4 says for the rounding at hand. None means
            ``saturate`` up to 8 bits, as fp8 hardware converts, and ``ieee`` above.

    NaN stays NaN in a carrier, also where the format has no NaN: a simulation that hid it would
    hide a divergence. Negative zero stays, except under ``fnuz`` and ``p3109``. Ties to even are
    ties to the even code.

    Raises:
        FormatError: for fields out of range or unknown policies.
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int | None = None
    subnormals: bool = True
    specials: Specials = "ieee"
    overflow: FloatOverflow | None = None

    def __post_init__(self) -> None:
        """Check the fields and fill in the two defaults that follow from others."""
        e, m = self.exponent_bits, self.mantissa_bits
        if self.specials not in SPECIALS:
            raise FormatError(
                "FloatingPoint",
                f"unknown specials {self.specials!r}",
                "use one of " + ", ".join(SPECIALS),
            )
        least = 2 if self.specials == "ieee" else 1
        if not isinstance(e, int) or not least <= e <= 11:
            raise FormatError(
                "FloatingPoint", f"{e!r} exponent bits", f"give an integer from {least} to 11"
            )
        least = 1 if self.specials == "ieee" else 0
        if not isinstance(m, int) or not least <= m <= 52:
            raise FormatError(
                "FloatingPoint", f"{m!r} mantissa bits", f"give an integer from {least} to 52"
            )
        if self.bias is None:
            object.__setattr__(self, "bias", self._usual_bias)
        elif not isinstance(self.bias, int) or not -1100 <= self.bias <= 1100:
            raise FormatError(
                "FloatingPoint", f"bias {self.bias!r}", "give an integer from -1100 to 1100"
            )
        if self.overflow is None:
            object.__setattr__(self, "overflow", "saturate" if self.bits <= 8 else "ieee")
        elif self.overflow not in ("saturate", "ieee"):
            raise FormatError(
                "FloatingPoint", f"unknown overflow {self.overflow!r}", "use 'saturate' or 'ieee'"
            )
        if self.largest_code < 1 << m:
            raise FormatError(
                "FloatingPoint", f"{e} exponent and {m} mantissa bits", "give one more of either"
            )
        if self.min_exponent - m < -1074 or self.max_exponent > 1023:
            raise FormatError(
                "FloatingPoint",
                f"exponents {self.min_exponent} to {self.max_exponent} leave float64's range",
                "choose fewer exponent bits or a bias nearer to the default",
            )

    @property
    def bits(self) -> int:  # type: ignore[override]  # derived here, a field elsewhere
        """Word length: sign, exponent and mantissa."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal value, 1 - bias."""
        assert self.bias is not None
        return 1 - self.bias

    @property
    def largest_code(self) -> int:
        """Code of the largest finite value: exponent and mantissa as one integer."""
        top = {"ieee": 1 << self.mantissa_bits, "fn": 1, "p3109": 1}.get(self.specials, 0)
        return (1 << (self.exponent_bits + self.mantissa_bits)) - 1 - top

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite value."""
        assert self.bias is not None
        return (self.largest_code >> self.mantissa_bits) - self.bias

    @property
    def max(self) -> float:
        """The largest finite value; the code above it, if any, is infinity or NaN."""
        steps = 1 << self.mantissa_bits
        return float((1 + self.largest_code % steps / steps) * 2.0**self.max_exponent)

    @property
    def min(self) -> float:
        """The most negative finite value, -max."""
        return -self.max

    @property
    def smallest_normal(self) -> float:
        """The smallest positive value with a leading one."""
        return float(2.0**self.min_exponent)

    @property
    def smallest(self) -> float:
        """The smallest positive value, a subnormal where there are any."""
        if not self.subnormals:
            return self.smallest_normal
        return float(2.0 ** (self.min_exponent - self.mantissa_bits))

    @property
    def epsilon(self) -> float:
        """The distance from 1 to the next larger value, 2^-mantissa_bits."""
        return float(2.0**-self.mantissa_bits)

    @property
    def has_infinity(self) -> bool:
        """Whether infinities are values of the format."""
        return self.specials in ("ieee", "p3109")

    @property
    def has_nan(self) -> bool:
        """Whether the format has a code for NaN."""
        return self.specials != "finite"

    @property
    def has_negative_zero(self) -> bool:
        """Whether -0 is a value of the format."""
        return self.specials not in ("fnuz", "p3109")

    @property
    def significant_bits(self) -> int:
        """Mantissa bits and the leading one."""
        return self.mantissa_bits + 1

    @property
    def name(self) -> str:
        """The published name where there is one, else the fields in short: ``e3m4b5fin-nosub``."""
        for name, known in NAMED_FLOATS.items():
            if known == self:
                return name
        twin = replace(self, overflow=None)
        if self != twin:
            return f"{twin.name}-{'sat' if self.overflow == 'saturate' else 'ovf'}"
        if self == replace(self, bias=None, subnormals=True, specials="p3109"):
            return f"binary{self.bits}p{self.mantissa_bits + 1}"
        base = f"e{self.exponent_bits}m{self.mantissa_bits}"
        # A bare "e4m3" is OCP's, so the IEEE layout of such a split has to say so.
        ieee = "ieee" if base in NAMED_FLOATS else ""
        tag = {"ieee": ieee, "finite": "fin"}.get(self.specials, self.specials)
        bias = "" if self.bias == self._usual_bias else f"b{self.bias}"
        return f"{base}{bias}{tag}{'' if self.subnormals else '-nosub'}"

    @property
    def _usual_bias(self) -> int:
        return (1 << (self.exponent_bits - 1)) - self.has_negative_zero

    def decode(self, code: int) -> float:
        """Return the value of a word: sign, exponent, mantissa from the top bit down.

        Without subnormals the codes of subnormals read as zeros, as flushing hardware reads them.
        """
        self._check_code(code)
        sign = code >> (self.bits - 1)
        magnitude = code - (sign << (self.bits - 1))
        if sign and not magnitude and not self.has_negative_zero:
            return math.nan
        if magnitude > self.largest_code:
            infinite = self.has_infinity and magnitude == self.largest_code + 1
            return (-math.inf if sign else math.inf) if infinite else math.nan
        exponent, mantissa = divmod(magnitude, 1 << self.mantissa_bits)
        if exponent:
            mantissa += 1 << self.mantissa_bits
        elif not self.subnormals:
            mantissa = 0
        step = self.min_exponent - self.mantissa_bits + max(exponent - 1, 0)
        return math.copysign(math.ldexp(mantissa, step), -sign or 1)

    def encode(self, value: float) -> int:
        """Return the word of a value: sign, exponent, mantissa from the top bit down."""
        if math.isnan(value):
            return self._nan_code()
        sign = math.copysign(1.0, value) < 0 and (value != 0 or self.has_negative_zero)
        word = sign << (self.bits - 1)
        if math.isinf(value):
            if not self.has_infinity:
                raise self._no_value(value)
            return word + self.largest_code + 1
        exponent = max(math.frexp(value)[1] - 1 if value else -1100, self.min_exponent)
        steps = abs(Fraction(value)) / Fraction(2) ** (exponent - self.mantissa_bits)
        normal = steps >= 1 << self.mantissa_bits
        code = ((exponent - self.min_exponent) << self.mantissa_bits) + int(steps)
        known = steps.denominator == 1 and code <= self.largest_code
        if not known or not (normal or steps == 0 or self.subnormals):
            raise self._no_value(value)
        return word + code

    def _nan_code(self) -> int:
        if not self.has_nan:
            raise self._no_value(math.nan)
        if not self.has_negative_zero:
            return 1 << (self.bits - 1)
        quiet = 1 << (self.mantissa_bits - 1) if self.specials == "ieee" else 0
        return self.largest_code + 1 + quiet

    __str__ = Format.__str__


# Sources: IEEE 754-2008 (fp16, fp32, fp64); the bfloat16 and TensorFloat-32 layouts of Google's
# and NVIDIA's hardware manuals; OCP 8-bit Floating Point Specification 1.0 (e4m3, e5m2); OCP
# Microscaling Formats 1.0 (e2m3, e3m2, e2m1).
NAMED_FLOATS: dict[str, FloatingPoint] = {
    "fp64": FloatingPoint(11, 52),
    "fp32": FloatingPoint(8, 23),
    "tf32": FloatingPoint(8, 10),
    "bf16": FloatingPoint(8, 7),
    "fp16": FloatingPoint(5, 10),
    "e5m2": FloatingPoint(5, 2),
    "e4m3": FloatingPoint(4, 3, specials="fn"),
    "e3m2": FloatingPoint(3, 2, specials="finite"),
    "e2m3": FloatingPoint(2, 3, specials="finite"),
    "e2m1": FloatingPoint(2, 1, specials="finite"),
}
"""Formats with a published name, in the order in which ``limprec formats`` lists them."""
