"""What the kernels need to know of a precision: constants that each of them is compiled for."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import torch

from ...errors import KernelError
from ...formats import (
    MAX_RANDOM_BITS,
    DynamicFixedPoint,
    FixedPoint,
    FloatingPoint,
    Format,
    Precision,
    parse_precision,
)

CARRIERS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""What the kernels read and write; float64 has more bits than their arithmetic."""

INFINITY, NAN = 0x7F800000, 0x7FC00000


class Mode(IntEnum):
    """The rounding mode, as device code compares it."""

    NEAREST = 0
    NEAREST_AWAY = 1
    TOWARD_ZERO = 2
    DOWN = 3
    UP = 4
    STOCHASTIC = 5


class Kind(IntEnum):
    """The family of formats: what bounds the step and what happens beyond the range."""

    FLOATING = 0
    SATURATING = 1
    WRAPPING = 2
    DYNAMIC = 3


@dataclass(frozen=True)
class Spec:
    """One precision for one kernel. Magnitudes are bit patterns of float32.

    Args:
        kind: the family.
        mode: the rounding mode.
        bits: mantissa bits (floating), word length (else).
        step: exponent of the smallest normal value (floating), of the LSB (fixed point).
        least: exponent of the smallest positive value.
        highest: magnitude of the largest value; the largest code under a dynamic scale.
        lowest: magnitude of the most negative value.
        beyond: magnitude that floats take over ``highest``.
        signed_zero: whether -0 stays.
        random_bits: how many bits of a random word count, under ``STOCHASTIC``.
    """

    kind: Kind
    mode: Mode
    bits: int
    step: int = 0
    least: int = 0
    highest: int = 0
    lowest: int = 0
    beyond: int = 0
    signed_zero: bool = False
    random_bits: int = MAX_RANDOM_BITS

    @property
    def constants(self) -> dict[str, int | bool]:
        """The arguments of ``elements.round_bits`` that kernels are compiled for."""
        return {
            "KIND": int(self.kind),
            "MODE": int(self.mode),
            "BITS": self.bits,
            "STEP": self.step,
            "LEAST": self.least,
            "HIGHEST": self.highest,
            "LOWEST": self.lowest,
            "BEYOND": self.beyond,
            "SIGNED_ZERO": self.signed_zero,
        }


def is_supported(fmt: Format) -> bool:
    """Return whether there is a kernel for a format: all scalar ones but tables and e8m0."""
    if isinstance(fmt, DynamicFixedPoint):
        return fmt.per_tensor
    return isinstance(fmt, FloatingPoint | FixedPoint)


@lru_cache(maxsize=4096)
def make_spec(text: str) -> Spec:
    """Return the constants of the precision of a short name.

    Raises:
        KernelError: for a format without a kernel.
    """
    precision = parse_precision(text)
    fmt, mode, random_bits = precision.format, Mode[precision.rounding.name], precision.random_bits
    if not is_supported(fmt):
        raise KernelError("triton backend", f"no kernel for {fmt}", "use Backend.AUTO")
    if isinstance(fmt, FloatingPoint):
        highest = _magnitude(fmt.max)
        if fmt.overflow == "saturate" or not (fmt.has_infinity or fmt.has_nan):
            beyond = highest
        else:
            beyond = INFINITY if fmt.has_infinity else NAN
        return Spec(
            Kind.FLOATING,
            mode,
            fmt.mantissa_bits,
            fmt.min_exponent,
            fmt.min_exponent - fmt.mantissa_bits * fmt.subnormals,
            highest,
            beyond=beyond,
            signed_zero=fmt.has_negative_zero,
            random_bits=random_bits,
        )
    if isinstance(fmt, FixedPoint):
        kind = Kind.WRAPPING if fmt.overflow == "wrap" else Kind.SATURATING
        highest, lowest = _magnitude(fmt.max), _magnitude(-fmt.min)
        if kind is Kind.WRAPPING:
            highest = fmt.code_max
        lsb = -fmt.fraction_bits
        return Spec(kind, mode, fmt.bits, lsb, lsb, highest, lowest, random_bits=random_bits)
    assert isinstance(fmt, DynamicFixedPoint)
    return Spec(Kind.DYNAMIC, mode, fmt.bits, highest=fmt.code_max, random_bits=random_bits)


@lru_cache(maxsize=4096)
def text_of(precision: Precision) -> str:
    """Return the short name that ``make_spec`` reads."""
    return str(precision)


def _magnitude(value: float) -> int:
    """Return the bits of a non-negative float32."""
    (bits,) = struct.unpack("<i", struct.pack("<f", abs(value)))
    return int(bits)
