"""One precision as one integer, which ``plan.cpp`` unpacks: cheap to pass, constant in a graph."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

from ...errors import KernelError
from ...formats import (
    MX_ELEMENTS,
    NVFP4,
    Affine,
    DynamicFixedPoint,
    FixedPoint,
    FloatingPoint,
    Format,
    Microscaling,
    Precision,
    Rounding,
    ScaledFormat,
)


class Simd(IntEnum):
    """Which instruction set to use; all give the same bits, so only tests and benchmarks ask."""

    AUTO = 0
    """The best that this CPU has."""
    PORTABLE = 1
    """The baseline of the architecture: SSE2, NEON."""
    AVX2 = 2
    AVX512 = 3
    """AVX-512 F, BW, DQ and VL."""


_ROUNDINGS = (
    Rounding.NEAREST,
    Rounding.NEAREST_AWAY,
    Rounding.TOWARD_ZERO,
    Rounding.DOWN,
    Rounding.UP,
    Rounding.STOCHASTIC,
)
_SPECIALS = ("ieee", "fn", "fnuz", "finite", "p3109")
_ELEMENTS = tuple(MX_ELEMENTS.values())
_ZEROS = ("integer", "none", "real")
_LONGEST_BLOCK = 2**24 - 1


def has_kernel(fmt: Format) -> bool:
    """Return whether there are native kernels for a format."""
    if isinstance(fmt, FloatingPoint) or isinstance(fmt, FixedPoint):  # noqa: SIM101 (faster)
        return True
    scaled = DynamicFixedPoint | Microscaling | NVFP4 | Affine
    return isinstance(fmt, scaled) and (fmt.block or 1) <= _LONGEST_BLOCK


@lru_cache(maxsize=4096)
def pack(precision: Precision, simd: Simd = Simd.AUTO) -> int:
    """Return the integer of a precision: fields from the lowest bit up, as ``plan.cpp`` reads them.

    Raises:
        KernelError: for a format without native kernels.
    """
    fmt = precision.format
    if not has_kernel(fmt):
        raise KernelError("native backend", f"no kernel for {fmt}", "use Backend.AUTO")
    head: tuple[tuple[int, int], ...] = (
        (_ROUNDINGS.index(precision.rounding), 3),
        (int(simd), 2),
        (precision.random_bits - 1, 5),
    )
    if isinstance(fmt, FloatingPoint):
        assert fmt.bias is not None
        return _join(
            (0, 3),
            *head,
            (fmt.exponent_bits, 4),
            (fmt.mantissa_bits, 6),
            (fmt.bias + 2048, 12),
            (fmt.subnormals, 1),
            (_SPECIALS.index(fmt.specials), 3),
            (fmt.overflow == "saturate", 1),
        )
    if isinstance(fmt, FixedPoint):
        wrap = fmt.overflow == "wrap"
        shape = ((fmt.bits, 6), (fmt.fraction_bits + 2048, 12), (fmt.signed, 1), (wrap, 1))
        return _join((1, 3), *head, *shape)
    assert isinstance(fmt, ScaledFormat)
    head = (*head, *_groups(fmt))
    if isinstance(fmt, DynamicFixedPoint):
        return _join((2, 3), *head, (fmt.bits, 6))
    if isinstance(fmt, Microscaling):
        return _join((3, 3), *head, (_ELEMENTS.index(fmt.element), 3))
    if isinstance(fmt, NVFP4):
        return _join((4, 3), *head)
    assert isinstance(fmt, Affine)
    return _join((5, 3), *head, (fmt.bits, 5), (_ZEROS.index(fmt.zero), 2))


def _groups(fmt: ScaledFormat) -> tuple[tuple[int, int], ...]:
    """Return the fields of which elements share a scale: a tensor, a channel or a block."""
    span = 0 if fmt.per_tensor else 1 if fmt.block is None else 2
    return (span, 2), ((fmt.axis or 0) + 64, 7), (fmt.block or 0, 24)


def _join(*fields: tuple[int, int]) -> int:
    """Put (value, width) fields side by side."""
    packed = shift = 0
    for value, width in fields:
        assert 0 <= value < 1 << width, "a field outgrew its width"
        packed |= int(value) << shift
        shift += width
    return packed
