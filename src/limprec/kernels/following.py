"""A precision whose scale follows more than the tensor at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ..formats import Precision

Amax = Callable[[Tensor], Tensor | float]
"""Returns the magnitude that the scale of a tensor follows: one number, or one a group."""


@dataclass(frozen=True)
class Following(Precision):
    """A precision of a format with scales, and what they follow; for ``round_to`` alone.

    Args:
        amax: asked with each tensor that is rounded, once.
    """

    amax: Amax | None = field(default=None, compare=False, kw_only=True)

    @property
    def plain(self) -> Precision:
        """The precision alone."""
        return Precision(self.format, self.rounding, self.random_bits)
