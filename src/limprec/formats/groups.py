"""Which elements share a scale: a whole tensor, an index of one axis (channel), or a block."""

from __future__ import annotations

from abc import abstractmethod

from ..errors import FormatError
from .base import Format, ScalarFormat

GROUP_PATTERN = r"(?:c(-?\d+)|(?:b(\d+))?(?:a(-?\d+))?)"
"""The end of a short name: ``c0`` a scale per index of axis 0, ``b32a0`` blocks along axis 0."""


class ScaledFormat(Format):
    """A format whose elements share scales; a group is the set of elements that share one.

    ``block`` None and ``axis`` None: the whole tensor is one group. ``block`` None: each index of
    ``axis`` is a group (a channel). Otherwise each run of ``block`` neighbours along ``axis`` is
    one; the last run of a row may be shorter. A tensor without axes is one block.
    """

    axis: int | None
    block: int | None
    element: ScalarFormat
    """The format of an element before its scale."""

    @property
    def has_nan(self) -> bool:
        """Whether a scale has a code for NaN, which makes its group NaN."""
        return False

    @property
    def per_tensor(self) -> bool:
        """Whether the whole tensor is one group."""
        return self.axis is None and self.block is None

    @property
    @abstractmethod
    def scale_rule(self) -> str:
        """One line that says how the scale follows from the elements."""

    def _check_groups(self) -> None:
        """Refuse axes and blocks that do not exist; blocks run along the last axis by default."""
        name = type(self).__name__
        if self.axis is not None and (not isinstance(self.axis, int) or abs(self.axis) > 63):
            raise FormatError(name, f"axis {self.axis!r}", "give an integer, -1 for the last axis")
        if self.block is not None:
            if not isinstance(self.block, int) or isinstance(self.block, bool) or self.block < 1:
                raise FormatError(name, f"block {self.block!r}", "give a positive integer, e.g. 32")
            if self.axis is None:
                object.__setattr__(self, "axis", -1)

    def _group_name(self, block: int | None = None) -> str:
        """Return how the groups differ from blocks of ``block`` along the last axis."""
        if self.block is None:
            return "" if self.axis is None else f"c{self.axis}"
        length = "" if self.block == block else f"b{self.block}"
        return length + ("" if self.axis == -1 else f"a{self.axis}")
