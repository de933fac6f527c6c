"""Affine integers: a float32 scale and a zero point that follow the range of a group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import FormatError
from .base import Format
from .fixed import FixedPoint, check_bits
from .groups import ScaledFormat

ZeroPoint = Literal["integer", "none", "real"]

ZERO_POINTS: dict[ZeroPoint, str] = {
    "integer": "scale = (hi - lo) / (2^bits - 1), hi and lo made to include 0, which is exact",
    "none": "scale = amax / (2^(bits-1) - 1), symmetric about 0",
    "real": "scale = (hi - lo) / (2^bits - 1), codes count from lo; 0 need not be a value",
}
"""The rules for scale and zero point, one line each."""


@dataclass(frozen=True)
class Affine(ScaledFormat):
    """Integer codes times a float32 scale, from a zero point.

    In float32, each operation rounded to nearest even (codes by the rounding asked for), in this
    order, where lo and hi are the smallest and largest element of the group::

        integer:  lo, hi = min(lo, 0), max(hi, 0);  s = (hi - lo) / (2^bits - 1)
                  z = clamp(nearest(-2^(bits-1) - lo / s))
                  code = clamp(round(x / s) + z);   y = (code - z) * s
        none:     s = amax / (2^(bits-1) - 1)
                  code = clamp(round(x / s));       y = code * s       (+-(2^(bits-1) - 1))
        real:     s = (hi - lo) / (2^bits - 1)
                  code = clamp(round((x - lo) / s)); y = code * s + lo  (0 to 2^bits - 1)

    ``real`` is the quantizer of CPT (Fu et al., ICLR 2021): asymmetric, from minimum to maximum.
    Where s is 0 (all elements equal, or next to 0) so is each code. Wider inputs are first rounded
    to float32. A group that holds a NaN or an infinity, or whose hi - lo exceeds float32, becomes
    NaN throughout: it has no scale. Rounding again may move values by a unit in the last place,
    since the scale then follows the rounded ones.

    Args:
        bits: word length, 2 to 16.
        zero: the rule for the zero point: ``integer``, ``none`` (symmetric) or ``real``.
        axis: without ``block``, the axis whose indices (channels) each have a scale of their own;
            with it, the axis along which blocks run, None for the last. Negative counts back.
        block: elements that share a scale along ``axis``; the last block may be shorter.
            ``axis`` and ``block`` None mean one scale for the whole tensor.

    Raises:
        FormatError: for a width, axis or block out of range, or an unknown rule.
    """

    bits: int
    zero: ZeroPoint = "integer"
    axis: int | None = None
    block: int | None = None

    def __post_init__(self) -> None:
        """Refuse widths, rules and groups that do not exist."""
        check_bits("Affine", self.bits, 2, 16)
        if self.zero not in ZERO_POINTS:
            raise FormatError(
                "Affine", f"unknown zero {self.zero!r}", "use one of " + ", ".join(ZERO_POINTS)
            )
        self._check_groups()

    @property
    def name(self) -> str:
        """``int8``, symmetric ``int8s``, from minimum to maximum ``int8m``; ``int8c0``, ``b32``."""
        tag = {"integer": "", "none": "s", "real": "m"}[self.zero]
        return f"int{self.bits}{tag}{self._group_name()}"

    @property
    def code_min(self) -> int:
        """The smallest code."""
        return 0 if self.zero == "real" else -(1 << (self.bits - 1)) + (self.zero == "none")

    @property
    def code_max(self) -> int:
        """The largest code."""
        return (1 << (self.bits - (self.zero != "real"))) - 1

    @property
    def element(self) -> FixedPoint:  # type: ignore[override]  # derived, a field elsewhere
        """The format of the codes: integers."""
        return FixedPoint(self.bits, 0, signed=self.zero != "real")

    @property
    def significant_bits(self) -> int:
        """Those of float32: the scale is any float32 number."""
        return 24

    @property
    def scale_rule(self) -> str:
        """How scale and zero point follow from the elements."""
        return ZERO_POINTS[self.zero]

    __str__ = Format.__str__
