"""Fixed point: integers times one constant power of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import FormatError
from .base import Format, ScalarFormat

FixedOverflow = Literal["saturate", "wrap"]
MAX_BITS = 54
"""Widest integer code: more than any carrier (float64 has 53 significant bits) can hold."""


def check_bits(operation: str, bits: int, least: int) -> None:
    """Raise ``FormatError`` unless ``bits`` is an integer from ``least`` to ``MAX_BITS``."""
    if not isinstance(bits, int) or isinstance(bits, bool) or not least <= bits <= MAX_BITS:
        raise FormatError(
            operation, f"{bits!r} bits", f"give an integer from {least} to {MAX_BITS}"
        )


@dataclass(frozen=True)
class FixedPoint(ScalarFormat):
    """Two's complement (or unsigned) codes of ``bits`` bits times 2^-``fraction_bits``.

    Args:
        bits: word length, sign included; at least 2 if signed, else at least 1.
        fraction_bits: binary digits after the point; may be negative or exceed ``bits``.
        signed: whether codes run from -2^(bits-1) to 2^(bits-1)-1, else from 0 to 2^bits-1.
        overflow: ``saturate`` clamps to the nearest end; ``wrap`` takes the code modulo 2^bits.

    Zero has no sign. NaN stays NaN in a carrier; an infinity saturates, and is NaN under ``wrap``.

    Raises:
        FormatError: for a width out of range or an unknown overflow policy.
    """

    bits: int
    fraction_bits: int
    signed: bool = True
    overflow: FixedOverflow = "saturate"

    def __post_init__(self) -> None:
        """Refuse widths and policies that do not exist."""
        check_bits("FixedPoint", self.bits, 2 if self.signed else 1)
        if not isinstance(self.fraction_bits, int) or abs(self.fraction_bits) > 1000:
            raise FormatError(
                "FixedPoint",
                f"{self.fraction_bits!r} fraction bits",
                "give an integer from -1000 to 1000",
            )
        if self.overflow not in ("saturate", "wrap"):
            raise FormatError(
                "FixedPoint", f"unknown overflow {self.overflow!r}", "use 'saturate' or 'wrap'"
            )

    @property
    def name(self) -> str:
        """``fx8.4``; ``u`` in front if unsigned, ``-wrap`` behind if it wraps."""
        wrap = "-wrap" if self.overflow == "wrap" else ""
        return f"{'' if self.signed else 'u'}fx{self.bits}.{self.fraction_bits}{wrap}"

    @property
    def code_min(self) -> int:
        """The smallest integer code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def code_max(self) -> int:
        """The largest integer code."""
        return (1 << (self.bits - self.signed)) - 1

    @property
    def lsb(self) -> float:
        """The distance between neighbours, 2^-fraction_bits."""
        return 2.0**-self.fraction_bits

    @property
    def max(self) -> float:
        """The largest value."""
        return self.code_max * self.lsb

    @property
    def min(self) -> float:
        """The smallest value, 0 if unsigned."""
        return self.code_min * self.lsb

    @property
    def smallest(self) -> float:
        """The smallest positive value, one LSB."""
        return self.lsb

    @property
    def significant_bits(self) -> int:
        """Bits of the largest magnitude that is no power of two."""
        return max(1, self.bits - 1 if self.signed else self.bits)

    __str__ = Format.__str__


@dataclass(frozen=True)
class DynamicFixedPoint(Format):
    """Signed codes of ``bits`` bits times a power of two that the whole tensor shares.

    The scale follows the largest magnitude ``amax``: E = floor(log2 amax) + 1 and
    LSB = 2^(E - bits + 1), codes symmetric in +-(2^(bits-1) - 1). Rounding is then idempotent.
    Also called block floating point. An all-zero (or empty) tensor stays as it is; a tensor that
    holds a NaN or an infinity becomes NaN throughout, since it has no scale.

    Args:
        bits: word length, sign included, at least 2.

    Raises:
        FormatError: for a width out of range.
    """

    bits: int

    def __post_init__(self) -> None:
        """Refuse widths that do not exist."""
        check_bits("DynamicFixedPoint", self.bits, 2)

    @property
    def name(self) -> str:
        """``dfx8``."""
        return f"dfx{self.bits}"

    @property
    def code_max(self) -> int:
        """The largest integer code; the smallest is its negative."""
        return (1 << (self.bits - 1)) - 1

    @property
    def significant_bits(self) -> int:
        """Bits of the largest code."""
        return self.bits - 1

    __str__ = Format.__str__
