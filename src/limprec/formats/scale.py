"""e8m0: the powers of two that scale the blocks of OCP Microscaling formats."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .base import Format, ScalarFormat


@dataclass(frozen=True)
class E8M0(ScalarFormat):
    """Unsigned 8-bit exponents: code c means 2^(c - 127), 255 is NaN (OCP Microscaling 1.0).

    There is neither sign nor zero: what is not positive becomes NaN, and so does what exceeds
    2^127 where the rounding does not hold it back (infinities always). What is under 2^-127
    becomes 2^-127. Both nearest roundings send a tie to the larger power, as PyTorch and
    ml_dtypes convert. (Those two send all of 2^-127 < x < 2^-126 up; here it rounds like the rest.)
    """

    @property
    def name(self) -> str:
        """``e8m0``."""
        return "e8m0"

    @property
    def bits(self) -> int:  # type: ignore[override]  # derived here, a field elsewhere
        """Eight exponent bits, nothing else."""
        return 8

    @property
    def max(self) -> float:
        """2^127."""
        return 2.0**127

    @property
    def min(self) -> float:
        """2^-127: every value is positive."""
        return 2.0**-127

    @property
    def smallest(self) -> float:
        """2^-127."""
        return 2.0**-127

    @property
    def significant_bits(self) -> int:
        """One: every value is a power of two."""
        return 1

    @property
    def has_nan(self) -> bool:
        """Code 255 is NaN."""
        return True

    def decode(self, code: int) -> float:
        """Return 2^(code - 127), NaN for 255."""
        self._check_code(code)
        return math.nan if code == 255 else math.ldexp(1.0, code - 127)

    def encode(self, value: float) -> int:
        """Return log2(value) + 127, 255 for NaN."""
        if math.isnan(value):
            return 255
        fraction, exponent = math.frexp(value)
        if fraction != 0.5 or not -126 <= exponent <= 128:
            raise self._no_value(value)
        return exponent + 126

    __str__ = Format.__str__
