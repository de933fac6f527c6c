"""Dynamic floating point: floats under one power of two that follows the tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ..errors import FormatError
from .base import Format
from .floating import FloatingPoint
from .groups import ScaledFormat


@dataclass(frozen=True)
class DynamicFloatingPoint(ScaledFormat):
    """A float times a power of two that the whole tensor shares: per-tensor scaling of fp8.

    y = Q(x * 2^k) / 2^k, where k is the largest integer with amax * 2^k <= the element's ``max``,
    so that the largest magnitude lies in the top binade, or just under it where it would exceed
    ``max`` there, and nothing overflows. The same as the element with its bias raised by k
    (``at``), which is how it is computed. k is held so that every value stays one of the carrier's:
    in float32, e4m3 takes its k from -119 to 140 (in the carrier's last binade ``max`` saturates).
    Rounding is idempotent.

    An all-zero (or empty) tensor has k = 0. A tensor that holds a NaN or an infinity becomes NaN
    throughout: it has no scale. Where the scale is given (a delayed one), what lies beyond it
    saturates, infinities too, and only the NaN of an element stays; the element's own overflow
    policy has no say.

    Source: P. Micikevicius et al., "FP8 Formats for Deep Learning", 2022, leaves such scales to
    software; that they are powers of two, and this rule for k, is ours.

    Args:
        element: any float.

    Raises:
        FormatError: if ``element`` is none.
    """

    element: FloatingPoint
    axis = None
    block = None

    def __post_init__(self) -> None:
        """Refuse other elements."""
        if not isinstance(self.element, FloatingPoint):
            raise FormatError(
                "DynamicFloatingPoint", f"element {self.element!r}", "give a FloatingPoint"
            )

    @property
    def name(self) -> str:
        """``de4m3``, ``dfp16``: a ``d`` before the float's name."""
        return f"d{self.element.name}"

    @property
    def bits(self) -> int:  # type: ignore[override]  # derived here, a field elsewhere
        """Bits of an element."""
        return self.element.bits

    @property
    def significant_bits(self) -> int:
        """Those of the element: the scale is a power of two."""
        return self.element.significant_bits

    @property
    def scale_rule(self) -> str:
        """How the scale follows from the elements."""
        return f"2^k, k the largest with amax * 2^k <= {self.element.max:g}"

    def exponent(self, amax: float) -> int:
        """Return k for a finite largest magnitude, 0 for 0; exact."""
        if not amax:
            return 0
        fraction, exponent = math.frexp(amax)
        top_fraction, top = math.frexp(self.element.max)
        return top - exponent - (fraction > top_fraction)

    def at(self, k: int) -> FloatingPoint:
        """Return the scalar float, saturating, that this is under the scale 2^k.

        Raises:
            FormatError: if its exponents leave float64's range.
        """
        assert self.element.bias is not None
        return replace(self.element, bias=self.element.bias + k, overflow="saturate")

    __str__ = Format.__str__
