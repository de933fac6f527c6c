"""What the kernels need to know of a precision: constants that each of them is compiled for."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache

import torch

from ...errors import KernelError
from ...formats import (
    MAX_RANDOM_BITS,
    NVFP4,
    Affine,
    DynamicFixedPoint,
    FixedPoint,
    FloatingPoint,
    Format,
    Microscaling,
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
    MX_FLOATING = 4
    MX_FIXED = 5
    NVFP4 = 6
    SYMMETRIC = 7
    """Affine integers about 0."""
    ZERO_POINT = 8
    """Affine integers with an integer zero point."""
    FROM_LEAST = 9
    """Affine integers that count from the smallest element."""


_AFFINE = {"none": Kind.SYMMETRIC, "integer": Kind.ZERO_POINT, "real": Kind.FROM_LEAST}


@dataclass(frozen=True)
class Spec:
    """One precision for one kernel. Magnitudes are bit patterns of float32.

    Args:
        kind: the family; ``bits`` to ``beyond`` are those of its elements.
        mode: the rounding mode.
        bits: mantissa bits (floating, MX), word length (else).
        step: exponent of the smallest normal value (floating), of the LSB (fixed point).
        least: exponent of the smallest positive value.
        highest: magnitude of the largest value; the largest code under a dynamic or float scale,
            the largest value in units of its last bit under MX.
        lowest: magnitude of the most negative value; the smallest code under a float scale.
        peak: exponent of the largest value, under MX.
        beyond: magnitude that floats take over ``highest``.
        signed_zero: whether -0 stays.
        random_bits: how many bits of a random word count, under ``STOCHASTIC``.
    """

    kind: Kind
    mode: Mode = Mode.NEAREST
    bits: int = 0
    step: int = 0
    least: int = 0
    highest: int = 0
    lowest: int = 0
    peak: int = 0
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


def is_supported(fmt: Format, dtype: torch.dtype) -> bool:
    """Return whether there is a kernel for a format in a carrier: all but tables and e8m0."""
    if isinstance(fmt, NVFP4 | Affine):
        return dtype == torch.float32
    kinds = FloatingPoint | FixedPoint | DynamicFixedPoint | Microscaling
    return dtype in CARRIERS and isinstance(fmt, kinds)


@lru_cache(maxsize=4096)
def make_spec(text: str) -> Spec:
    """Return the constants of the precision of a short name.

    Raises:
        KernelError: for a format without a kernel.
    """
    precision = parse_precision(text)
    mode, random_bits = Mode[precision.rounding.name], precision.random_bits
    return replace(_spec_of(precision.format), mode=mode, random_bits=random_bits)


def _spec_of(fmt: Format) -> Spec:
    if isinstance(fmt, FloatingPoint):
        return _floating(fmt)
    if isinstance(fmt, FixedPoint):
        kind = Kind.WRAPPING if fmt.overflow == "wrap" else Kind.SATURATING
        highest = fmt.code_max if kind is Kind.WRAPPING else magnitude_of(fmt.max)
        lsb = -fmt.fraction_bits
        return Spec(
            kind, bits=fmt.bits, step=lsb, least=lsb, highest=highest, lowest=magnitude_of(-fmt.min)
        )
    if isinstance(fmt, DynamicFixedPoint):
        return Spec(Kind.DYNAMIC, bits=fmt.bits, highest=fmt.code_max)
    if isinstance(fmt, Microscaling):
        return _microscaling(fmt)
    if isinstance(fmt, NVFP4):
        return replace(_floating(fmt.element), kind=Kind.NVFP4)
    if isinstance(fmt, Affine):
        return Spec(_AFFINE[fmt.zero], bits=fmt.bits, highest=fmt.code_max, lowest=fmt.code_min)
    raise KernelError("triton backend", f"no kernel for {fmt}", "use Backend.AUTO")


def _floating(fmt: FloatingPoint) -> Spec:
    highest = magnitude_of(fmt.max)
    if fmt.overflow == "saturate" or not (fmt.has_infinity or fmt.has_nan):
        beyond = highest
    else:
        beyond = INFINITY if fmt.has_infinity else NAN
    return Spec(
        Kind.FLOATING,
        bits=fmt.mantissa_bits,
        step=fmt.min_exponent,
        least=fmt.min_exponent - fmt.mantissa_bits * fmt.subnormals,
        highest=highest,
        beyond=beyond,
        signed_zero=fmt.has_negative_zero,
    )


def _microscaling(fmt: Microscaling) -> Spec:
    element, peak = fmt.element, fmt.max_exponent
    if isinstance(element, FixedPoint):
        bits = element.fraction_bits
        return Spec(Kind.MX_FIXED, bits=bits, least=-bits, highest=element.code_max, peak=peak)
    kind, last = Kind.MX_FLOATING, peak - element.mantissa_bits  # exponent of the last bit of max
    return replace(_floating(element), kind=kind, highest=int(element.max / 2.0**last), peak=peak)


@lru_cache(maxsize=4096)
def text_of(precision: Precision) -> str:
    """Return the short name that ``make_spec`` reads."""
    return str(precision)


def magnitude_of(value: float) -> int:
    """Return the bits of a non-negative float32."""
    (bits,) = struct.unpack("<i", struct.pack("<f", abs(value)))
    return int(bits)
