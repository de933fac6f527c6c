"""Fixed point: integers times a power of two, constant or shared by a group of elements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from ..errors import FormatError
from .base import Format, ScalarFormat
from .groups import ScaledFormat

FixedOverflow = Literal["saturate", "wrap"]
MAX_BITS = 54
"""Widest integer code: more than any carrier (float64 has 53 significant bits) can hold."""


def check_bits(operation: str, bits: int, least: int, most: int = MAX_BITS) -> None:
    """Raise ``FormatError`` unless ``bits`` is an integer from ``least`` to ``most``."""
    if not isinstance(bits, int) or isinstance(bits, bool) or not least <= bits <= most:
        raise FormatError(operation, f"{bits!r} bits", f"give an integer from {least} to {most}")


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

    @property
    def has_nan(self) -> bool:
        """No code of fixed point is NaN."""
        return False

    def decode(self, code: int) -> float:
        """Return the value of a word, in two's complement if signed."""
        self._check_code(code)
        return (code - (1 << self.bits) if code > self.code_max else code) * self.lsb

    def encode(self, value: float) -> int:
        """Return the word of a value, in two's complement if signed."""
        if not math.isfinite(value):
            raise self._no_value(value)
        code = Fraction(value) * Fraction(2) ** self.fraction_bits
        if code.denominator != 1 or not self.code_min <= code <= self.code_max:
            raise self._no_value(value)
        return int(code) % (1 << self.bits)

    __str__ = Format.__str__


@dataclass(frozen=True)
class DynamicFixedPoint(ScaledFormat):
    """Signed codes of ``bits`` bits times a power of two that a group of elements shares.

    The scale follows the group's largest magnitude ``amax``: E = floor(log2 amax) + 1 and
    LSB = 2^(E - bits + 1), codes symmetric in +-(2^(bits-1) - 1). Rounding is then idempotent.
    Also called block floating point. An all-zero (or empty) group stays as it is; a group that
    holds a NaN or an infinity becomes NaN throughout, since it has no scale.

    Args:
        bits: word length, sign included, at least 2.
        axis: without ``block``, the axis whose indices (channels) each have a scale of their own;
            with it, the axis along which blocks run, None for the last. Negative counts back.
        block: elements that share a scale along ``axis``; the last block may be shorter.
            ``axis`` and ``block`` None mean one scale for the whole tensor.

    Raises:
        FormatError: for a width, axis or block out of range.
    """

    bits: int
    axis: int | None = None
    block: int | None = None

    def __post_init__(self) -> None:
        """Refuse widths and groups that do not exist."""
        check_bits("DynamicFixedPoint", self.bits, 2)
        self._check_groups()

    @property
    def name(self) -> str:
        """``dfx8``; ``dfx8c0`` per index of axis 0; ``dfx8b32``, ``dfx8b32a0`` in blocks."""
        return f"dfx{self.bits}{self._group_name()}"

    @property
    def code_max(self) -> int:
        """The largest integer code; the smallest is its negative."""
        return (1 << (self.bits - 1)) - 1

    @property
    def significant_bits(self) -> int:
        """Bits of the largest code."""
        return self.bits - 1

    @property
    def element(self) -> FixedPoint:  # type: ignore[override]  # derived, a field elsewhere
        """The format of the elements before the scale: integers."""
        return FixedPoint(self.bits, 0)

    @property
    def scale_rule(self) -> str:
        """How the scale follows from the elements."""
        return "LSB = 2^(E - bits + 1), E = floor(log2 amax) + 1"

    __str__ = Format.__str__
