"""Convolutions as products of matrices of windows, in the carrier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .bilinear import Bilinear, Multiply, Product

_conv_backward = torch.ops.aten.convolution_backward.default


@dataclass(frozen=True)
class Convolution(Bilinear):
    """A convolution of (B, C, *sizes) and (O, C / groups, *kernel), padded with zeros.

    As products of matrices, group by group, in this order of terms:

    - y: a row a position (sample, then place), summed over channels in and taps;
    - dL/da: a row an element of the input, summed over channels out and taps, the error spread by
      the stride with zeros between;
    - dL/db: a row a channel out, summed over samples and places.

    Blocks run along the channels (of one group) of both operands of the first two, and along the
    samples of the third: it sums over samples and places, and samples alone lie in a row for the
    error and for every tap of the input alike.

    Args:
        stride: one number a dimension, as are padding and dilation.
        padding: zeros at both ends.
        dilation: distance of taps.
        groups: how many.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    axes: ClassVar[Mapping[tuple[str, Product], int]] = MappingProxyType(
        {
            ("a", Product.FORWARD): 1,
            ("b", Product.FORWARD): 1,
            ("e", Product.FIRST): 1,
            ("b", Product.FIRST): 0,
            ("e", Product.SECOND): 0,
            ("a", Product.SECOND): 0,
        }
    )

    def grouped(self, x: Tensor, operand: str, product: Product) -> tuple[Tensor, int]:
        """Return an operand with its groups apart, where blocks run along what they divide."""
        axis = self.axes[operand, product]
        divided = product is Product.FIRST if operand == "b" else axis == 1
        if self.groups == 1 or not divided:
            return x, axis
        return _split(x, axis, self.groups), axis + 1

    def forward(self, a: Tensor, b: Tensor, multiply: Multiply | None) -> Tensor:
        """Return the convolution."""
        if multiply is None:
            return torch.convolution(
                a,
                b,
                None,
                self.stride,
                self.padding,
                self.dilation,
                False,
                [0] * len(self.stride),
                self.groups,
            )
        rows, places = self._rows(a, b.shape[2:])
        y = multiply(rows, b.reshape(self.groups, b.shape[0] // self.groups, -1).mT)
        return _images(y, a.shape[0], places)

    def first(
        self, e: Tensor, b: Tensor, shape: Sequence[int], multiply: Multiply | None
    ) -> Tensor:
        """Return the gradient with respect to the input."""
        if multiply is None:
            return self._backward(e, e.new_empty(1).expand(shape), b, 0)
        kernel, sizes = b.shape[2:], shape[2:]
        spread = e.new_zeros(
            *e.shape[:2],
            *((n - 1) * s + 1 for n, s in zip(e.shape[2:], self.stride, strict=True)),
        )
        every: list[slice] = [slice(None, None, s) for s in self.stride]
        spread[(slice(None), slice(None), *every)] = e
        ends = []
        for k, d, p, n, m in zip(
            kernel, self.dilation, self.padding, sizes, spread.shape[2:], strict=True
        ):
            before = d * (k - 1) - p
            ends.append((before, n + p - m))
        windows = _windows(_padded(spread, ends), kernel, [1] * len(kernel), self.dilation)
        windows = windows.flip(*range(-len(kernel), 0))
        weight = _split(b, 0, self.groups).movedim(2, -1).flatten(1, -2)
        y = multiply(_matrix(windows, self.groups, len(kernel)), weight)
        return _images(y, e.shape[0], sizes)

    def second(
        self, e: Tensor, a: Tensor, shape: Sequence[int], multiply: Multiply | None
    ) -> Tensor:
        """Return the gradient with respect to the weight."""
        if multiply is None:
            return self._backward(e, a, e.new_empty(1).expand(shape), 1)
        rows, _ = self._rows(a, shape[2:])
        errors = _split(e, 1, self.groups).movedim(0, 2).flatten(2)
        return multiply(errors, rows).reshape(shape)

    def _backward(self, e: Tensor, a: Tensor, b: Tensor, which: int) -> Tensor:
        mask = [which == 0, which == 1, False]
        gradient: Tensor = _conv_backward(
            e,
            a,
            b,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.stride),
            self.groups,
            mask,
        )[which]
        return gradient

    def _rows(self, a: Tensor, kernel: Sequence[int]) -> tuple[Tensor, Sequence[int]]:
        """Return the windows as (groups, positions, channels and taps), and the places."""
        padded = _padded(a, [(p, p) for p in self.padding])
        windows = _windows(padded, kernel, self.stride, self.dilation)
        return _matrix(windows, self.groups, len(kernel)), windows.shape[2 : 2 + len(kernel)]


def _padded(x: Tensor, ends: Sequence[tuple[int, int]]) -> Tensor:
    return F.pad(x, [n for pair in reversed(ends) for n in pair])


def _windows(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Return (B, C, *places, *kernel), a view."""
    for i, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = x.unfold(2 + i, d * (k - 1) + 1, s)[..., ::d]
    return x


def _matrix(windows: Tensor, groups: int, dimensions: int) -> Tensor:
    """Return (B, C, *places, *kernel) as (groups, B * places, C / groups * taps)."""
    apart: Tensor = _split(windows, 1, groups).movedim(2, 2 + dimensions).movedim(1, 0)
    return apart.flatten(1, 1 + dimensions).flatten(2)


def _split(x: Tensor, axis: int, groups: int) -> Tensor:
    """Return x with an axis split in two, the groups first."""
    each = x.shape[axis] // groups
    return x.reshape(*x.shape[:axis], groups, each, *x.shape[axis + 1 :])


def _images(y: Tensor, batch: int, places: Sequence[int]) -> Tensor:
    """Return (groups, B * places, channels) as (B, groups * channels, *places)."""
    groups, _, channels = y.shape
    apart = y.view(groups, batch, math.prod(places), channels).permute(1, 0, 3, 2)
    return apart.reshape(batch, groups * channels, *places)
