"""How a tensor falls into runs: evenly spaced elements that share a scale, seen by the kernels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ...formats import ScaledFormat
from .. import groups

TILE = 1024
"""Elements of one program: some runs side by side, each of a power of two of elements."""
STRIDED_WIDTH = 128
"""Widest part of a run whose elements are apart: 8 neighbouring runs then fill a memory sector."""


@dataclass(frozen=True)
class Runs:
    """The runs of a row-major tensor, one after the other along rows of runs.

    Run ``r`` is number ``r // stride % blocks`` of its row, and its first element is
    ``(r // stride // blocks * length + number * size) * stride + r % stride``.

    Args:
        count: how many.
        size: elements of a run; the last one of a row may be shorter.
        length: elements of a row.
        blocks: runs of a row.
        stride: distance of neighbours in a run; so many rows lie interlaced.
        entries: how many scales there are: run ``r`` has number ``r % entries``.
    """

    count: int
    size: int
    length: int
    blocks: int
    stride: int
    entries: int

    @property
    def width(self) -> int:
        """Elements of a run that one program takes, a power of two."""
        widest = TILE if self.stride == 1 else STRIDED_WIDTH
        return min(widest, 1 << (self.size - 1).bit_length())

    @property
    def groups(self) -> int:
        """Runs that one program takes."""
        return TILE // self.width

    @property
    def parts(self) -> int:
        """Programs that share a run."""
        return -(-self.size // self.width)

    @property
    def whole(self) -> bool:
        """Whether one program sees all that share a scale, so that one pass is enough."""
        return self.parts == 1 and self.entries == self.count

    def opens_blocks(self, elements: int) -> bool:
        """Whether every program's part of a run starts at a multiple of ``elements``."""
        starts = self.count == 1 or self.length % elements == 0
        starts = starts and (self.blocks == 1 or self.size % elements == 0)
        return self.stride == 1 and self.width >= elements and starts


def runs_of(shape: torch.Size, fmt: ScaledFormat) -> Runs:
    """Return the runs of a tensor that has elements.

    Raises:
        KernelError: if the tensor lacks the format's axis.
    """
    groups.group_shape(shape, fmt)  # raises
    if fmt.axis is None:
        return Runs(1, shape.numel(), shape.numel(), 1, 1, 1)
    sizes = tuple(shape) or (1,)
    axis = fmt.axis % len(sizes)
    outer, length, inner = math.prod(sizes[:axis]), sizes[axis], math.prod(sizes[axis + 1 :])
    if fmt.block is None:
        if inner == 1:
            return Runs(length, outer, outer, 1, length, length)
        return Runs(outer * length, inner, inner, 1, 1, length)
    size = min(fmt.block, length)
    count = outer * -(-length // size) * inner
    if inner == 1 and length % size == 0:  # rows need not be told apart
        return Runs(count, size, size, 1, 1, count)
    return Runs(count, size, length, -(-length // size), inner, count)
