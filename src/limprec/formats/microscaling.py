"""Blocks of narrow elements under one scale: OCP Microscaling (MX) and NVIDIA's NVFP4."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import FormatError
from .base import Format
from .fixed import FixedPoint
from .floating import NAMED_FLOATS, FloatingPoint
from .groups import ScaledFormat
from .scale import E8M0

# OCP Microscaling Formats (MX) Specification 1.0, table 1.
MX_ELEMENTS: dict[str, FloatingPoint | FixedPoint] = {
    "mxfp8_e4m3": NAMED_FLOATS["e4m3"],
    "mxfp8_e5m2": NAMED_FLOATS["e5m2"],
    "mxfp6_e3m2": NAMED_FLOATS["e3m2"],
    "mxfp6_e2m3": NAMED_FLOATS["e2m3"],
    "mxfp4_e2m1": NAMED_FLOATS["e2m1"],
    "mxint8": FixedPoint(8, 6),
}
"""The concrete MX formats and their elements."""


@dataclass(frozen=True)
class Microscaling(ScaledFormat):
    """Elements of a narrow scalar format times a power of two that each block shares.

    The scale follows the block's largest magnitude: X = 2^(floor(log2 amax) - emax), emax the
    exponent of the element's largest value, X held within 2^-127 to 2^127 (e8m0). Elements are
    x / X rounded, and saturate (specification 1.0, section 6.3); the integer elements of ``mxint8``
    saturate at +-(2 - 2^-6), so that rounding is idempotent. An all-zero block has X = 2^-127. A
    block that holds a NaN or an infinity becomes NaN throughout: its scale is NaN.

    Args:
        element: format of the elements: one of ``MX_ELEMENTS``.
        block: elements under one scale; the last block of a row may be shorter.
        axis: the axis along which blocks run; negative counts back.

    Raises:
        FormatError: for another element, or an axis or block out of range.
    """

    element: FloatingPoint | FixedPoint
    block: int = 32
    axis: int = -1

    def __post_init__(self) -> None:
        """Refuse elements, blocks and axes that do not exist."""
        if self.element not in MX_ELEMENTS.values():
            known = ", ".join(str(element) for element in MX_ELEMENTS.values())
            raise FormatError("Microscaling", f"element {self.element}", f"use one of {known}")
        if self.block is None or self.axis is None:
            raise FormatError("Microscaling", "no block or axis", "give e.g. block=32, axis=-1")
        self._check_groups()

    @property
    def name(self) -> str:
        """``mxfp8_e4m3``; ``mxfp8_e4m3b16``, ``mxfp8_e4m3a0`` with other blocks or axes."""
        known = next(name for name, e in MX_ELEMENTS.items() if e == self.element)
        return known + self._group_name(block=32)

    @property
    def bits(self) -> int:  # type: ignore[override]  # derived here, a field elsewhere
        """Bits of an element."""
        return self.element.bits

    @property
    def has_nan(self) -> bool:
        """A NaN scale makes its block NaN."""
        return True

    @property
    def significant_bits(self) -> int:
        """Bits of an element's significand: the scale is a power of two."""
        return self.element.significant_bits

    @property
    def scale(self) -> E8M0:
        """The format of the scales."""
        return E8M0()

    @property
    def max_exponent(self) -> int:
        """Exponent of the element's largest value, emax."""
        return self.element.max_exponent if isinstance(self.element, FloatingPoint) else 0

    @property
    def scale_rule(self) -> str:
        """How the scale follows from the elements."""
        less = f" - {self.max_exponent}" if self.max_exponent else ""
        return f"X = 2^(floor(log2 amax){less}), held within 2^-127 to 2^127"

    __str__ = Format.__str__


@dataclass(frozen=True)
class NVFP4(ScaledFormat):
    """e2m1 elements under an e4m3 scale per block and a float32 scale per tensor.

    In float32, each operation rounded to nearest even, in this order::

        s = amax_tensor / 2688                # 6 * 448: the largest element times block scale
        b = e4m3((amax_block / 6) / s)        # nearest, saturating
        q = e2m1(x / (b * s))                 # the rounding asked for, saturating
        y = (q * b) * s                       # q * b is exact

    Where b * s is 0, so are the block's values, with the sign of x. Wider inputs are first
    rounded to float32. A tensor that holds a NaN or an infinity becomes NaN throughout: it has no
    scale. Rounding again may move values, since scales then follow the rounded ones.

    Args:
        block: elements under one e4m3 scale; the last block of a row may be shorter.
        axis: the axis along which blocks run; negative counts back.

    Raises:
        FormatError: for an axis or block out of range.
    """

    block: int = 16
    axis: int = -1

    def __post_init__(self) -> None:
        """Refuse blocks and axes that do not exist."""
        if self.block is None or self.axis is None:
            raise FormatError("NVFP4", "no block or axis", "give e.g. block=16, axis=-1")
        self._check_groups()

    @property
    def name(self) -> str:
        """``nvfp4``; ``nvfp4b32``, ``nvfp4a0`` with other blocks or axes."""
        return "nvfp4" + self._group_name(block=16)

    @property
    def bits(self) -> int:  # type: ignore[override]  # derived here, a field elsewhere
        """Bits of an element."""
        return 4

    @property
    def element(self) -> FloatingPoint:  # type: ignore[override]  # derived, a field elsewhere
        """The format of the elements."""
        return NAMED_FLOATS["e2m1"]

    @property
    def scale(self) -> FloatingPoint:
        """The format of the block scales."""
        return replace(NAMED_FLOATS["e4m3"], overflow="saturate")

    @property
    def has_nan(self) -> bool:
        """A NaN scale makes its block NaN."""
        return True

    @property
    def significant_bits(self) -> int:
        """Those of float32: the tensor's scale is any float32 number."""
        return 24

    @property
    def scale_rule(self) -> str:
        """How the scales follow from the elements."""
        return "s = amax_tensor / 2688 in float32, b = e4m3(amax_block / 6 / s)"

    __str__ = Format.__str__
