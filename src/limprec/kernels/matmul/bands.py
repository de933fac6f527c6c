"""A batch of matrices in bands of rows; causal attention asks for columns up to the diagonal.

The bands are made one after the other, in pieces that stay in the cache; how large their numbers
are is seen there, and all of them are rounded to codes of one whole batch under one scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..native import stored
from .operands import Operand, round_operand
from .real import Role

_LEAST_ROWS, _MOST_BANDS = 64, 8
_LANES = 16
"""Shorter rows of a softmax are summed in another order, with other bits."""
_TOGETHER = 1 << 19
"""Elements that are made together: few enough to stay in the cache, enough for several threads."""

Index = tuple[int | slice, ...]


class Band(NamedTuple):
    """Rows ``start`` to ``stop`` of each matrix, its first ``width`` columns."""

    start: int
    stop: int
    width: int

    @property
    def height(self) -> int:
        """How many rows it has."""
        return self.stop - self.start

    def rows_of(self, x: Tensor) -> Tensor:
        """Return these rows of matrices, whole."""
        return x[..., self.start : self.stop, :]

    def columns_of(self, x: Tensor) -> Tensor:
        """Return these columns of matrices, whole."""
        return x[..., : self.width]

    def of(self, x: Tensor) -> Tensor:
        """Return these rows and columns of matrices."""
        return x[..., self.start : self.stop, : self.width]


def bands_of(rows: int, columns: int, causal: bool) -> list[Band]:
    """Return the bands that hold all elements that are not 0: in row i those up to i, if causal."""
    if not causal or rows * columns == 0:
        return [Band(0, rows, columns)]
    height = max(_LEAST_ROWS, -(-rows // (_MOST_BANDS * _LANES)) * _LANES)
    stops = [*range(height, rows, height), rows]
    return [
        Band(start, stop, min(stop, columns))
        for start, stop in zip([0, *stops], stops, strict=False)
    ]


class Banded:
    """A batch of matrices whose bands are about to be made.

    Args:
        like: of the dtype and on the device that it shall have.
        shape: (..., rows, columns).
        bands: what is not 0 of it.
        role: how it is going to be rounded.
    """

    def __init__(self, like: Tensor, shape: torch.Size, bands: list[Band], role: Role) -> None:
        self.shape, self.bands, self.role = shape, bands, role
        self.parts = [like.new_empty(*shape[:-2], b.height, b.width) for b in bands]
        self._straight = stored.can_store_part(self.parts[0], role[0])
        self._magnitude = 0

    def pieces(self) -> Iterator[tuple[int, Band, Index]]:
        """Yield the number of a part, its band, and where a few of its matrices are."""
        for number, (band, part) in enumerate(zip(self.bands, self.parts, strict=True)):
            for place in _places(part.shape):
                yield number, band, place

    def look(self, piece: Tensor) -> None:
        """Take note of a finished piece of a part while it is in the cache."""
        if self._straight:
            self._magnitude = max(self._magnitude, stored.magnitude(piece, self.role[0]))

    def round(self) -> Operand:
        """Return the codes and the scale of the whole batch, 0 outside its bands."""
        first = self.parts[0]
        if not self._straight:
            whole = first if first.shape == self.shape else first.new_zeros(self.shape)
            for band, part in zip(self.bands, self.parts, strict=True):
                if part is not whole:
                    band.of(whole).copy_(part)
            return round_operand(whole, *self.role)
        codes = first.new_empty(self.shape, dtype=torch.int8)
        scale = first.new_empty(())
        for band, part in zip(self.bands, self.parts, strict=True):
            codes[..., band.start : band.stop, band.width :] = 0
            stored.round_part(part, band.of(codes), scale, *self.role, self._magnitude)
        return Operand(codes, scale)


def _places(shape: Sequence[int]) -> Iterator[Index]:
    """Yield where few enough matrices of (..., L, S) are."""
    if len(shape) == 2:
        yield ()
        return
    each = math.prod(shape[1:])
    if each > _TOGETHER and len(shape) > 3:
        for first in range(shape[0]):
            for rest in _places(shape[1:]):
                yield (first, *rest)
        return
    count = max(1, _TOGETHER // max(1, each))
    for first in range(0, shape[0], count):
        yield (slice(first, first + count),)
