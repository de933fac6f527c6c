"""Floating point with any split of exponent and mantissa bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..errors import FormatError
from .base import Format, ScalarFormat

Specials = Literal["ieee", "fn", "fnuz", "finite"]
FloatOverflow = Literal["saturate", "ieee"]

SPECIALS: dict[Specials, str] = {
    "ieee": "infinities and NaN in the top exponent (IEEE 754)",
    "fn": "no infinity; NaN where exponent and mantissa are all ones (OCP 8-bit e4m3)",
    "fnuz": "no infinity, no negative zero; NaN in its place, bias one higher",
    "finite": "neither infinity nor NaN (OCP MX fp6 and fp4)",
}


@dataclass(frozen=True)
class FloatingPoint(ScalarFormat):
    """Sign, ``exponent_bits`` and ``mantissa_bits``; everything else is derived.

    Args:
        exponent_bits: 2 to 11 (1 to 11 unless ``specials`` is ``ieee``).
        mantissa_bits: stored bits after the leading one, 1 to 52.
        bias: exponent bias; None means 2^(exponent_bits-1) - 1, one more under ``fnuz``.
        subnormals: whether the lowest exponent has evenly spaced values down to 0; if not,
            a value under the smallest normal rounds to 0 or to it.
        specials: which codes are not numbers: ``ieee``, ``fn``, ``fnuz`` or ``finite``.
        overflow: ``saturate`` sends what exceeds ``max`` (infinities too) to ``max``; ``ieee``
            sends it to infinity, or to NaN where the format has no infinity (``max`` where it has
            neither), as IEEE 754 section 7.4 says for the rounding at hand. None means
            ``saturate`` up to 8 bits, as fp8 hardware converts, and ``ieee`` above.

    NaN stays NaN in a carrier, also where the format has no NaN: a simulation that hid it would
    hide a divergence. Negative zero stays, except under ``fnuz``.

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
        if not isinstance(m, int) or not 1 <= m <= 52:
            raise FormatError(
                "FloatingPoint", f"{m!r} mantissa bits", "give an integer from 1 to 52"
            )
        if self.bias is None:
            object.__setattr__(self, "bias", (1 << (e - 1)) - (self.specials != "fnuz"))
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
    def max_exponent(self) -> int:
        """Exponent of the largest finite value."""
        assert self.bias is not None
        reserved = 2 if self.specials == "ieee" else 1
        return (1 << self.exponent_bits) - reserved - self.bias

    @property
    def max(self) -> float:
        """The largest finite value; under ``fn`` the code above it is NaN."""
        steps = 2 if self.specials == "fn" else 1
        return float((2.0 - steps * 2.0**-self.mantissa_bits) * 2.0**self.max_exponent)

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
        return self.specials == "ieee"

    @property
    def has_nan(self) -> bool:
        """Whether the format has a code for NaN."""
        return self.specials != "finite"

    @property
    def has_negative_zero(self) -> bool:
        """Whether -0 is a value of the format."""
        return self.specials != "fnuz"

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
        usual = 2 ** (self.exponent_bits - 1) - (self.specials != "fnuz")
        base = f"e{self.exponent_bits}m{self.mantissa_bits}"
        # A bare "e4m3" is OCP's, so the IEEE layout of such a split has to say so.
        ieee = "ieee" if base in NAMED_FLOATS else ""
        tag = {"ieee": ieee, "fn": "fn", "fnuz": "fnuz", "finite": "fin"}[self.specials]
        bias = "" if self.bias == usual else f"b{self.bias}"
        return f"{base}{bias}{tag}{'' if self.subnormals else '-nosub'}"

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
