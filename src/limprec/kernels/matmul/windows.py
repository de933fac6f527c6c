"""Convolutions of int8 codes as products of int8 matrices, in one to three spatial dimensions.

A convolution is the product of a matrix of windows, one row a position, one column a tap and
channel, and the weight; so is the error's way back to the input, phase by phase: the inputs whose
index is r modulo the stride meet the same taps, and are a convolution of stride 1. Windows are
gathered a few samples at a time, so that they stay in the cache and never fill the memory.

Codes of 0 are exact zeros, which makes padding exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .integer import integer_matmul
from .operands import has_native, to_values

_BYTES = 1 << 20
"""Of gathered windows at a time."""

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Geometry:
    """Where the windows of a convolution lie, dimension by dimension."""

    kernel: Sizes
    stride: Sizes
    before: Sizes
    """Zeros in front of each row, of padding."""
    after: Sizes
    dilation: Sizes

    def positions(self, sizes: Sequence[int]) -> Sizes:
        """Return how many positions there are in each dimension of an input of ``sizes``."""
        return tuple(
            (size + b + a - d * (k - 1) - 1) // s + 1
            for size, k, s, b, a, d in zip(
                sizes, self.kernel, self.stride, self.before, self.after, self.dilation, strict=True
            )
        )


@dataclass(frozen=True)
class _Taps:
    """One dimension of windows over codes that begin at ``start`` of a row of zeros."""

    positions: int
    count: int
    stride: int
    step: int
    start: int

    @property
    def length(self) -> int:
        """How long the row is."""
        return (self.positions - 1) * self.stride + (self.count - 1) * self.step + 1


def convolve(
    x: Tensor,
    weight: Tensor,
    geometry: Geometry,
    scale: float | Tensor,
    out: Tensor,
    bias: Tensor | None,
    peak: int,
) -> None:
    """Write the convolution of codes, times ``scale`` plus ``bias``, to ``out``.

    Args:
        x: (B, C, *sizes) int8.
        weight: (O, C, *kernel) int8.
        geometry: of the windows.
        scale: what a product of two codes is worth.
        out: (B, O, *positions), floating.
        bias: (O,) or None.
        peak: as for ``integer_matmul``.
    """
    taps = _forward_taps(geometry, out.shape[2:])
    _correlate(x, weight.movedim(1, -1).flatten(1), taps, scale, out, bias, peak)


def convolve_back(
    e: Tensor, weight: Tensor, geometry: Geometry, scale: float | Tensor, out: Tensor, peak: int
) -> None:
    """Write the gradient of a convolution with respect to its input to ``out``.

    Args:
        e: (B, O, *positions) int8, the error.
        weight: (O, C, *kernel) int8.
        geometry: of the convolution.
        scale: what a product of two codes is worth.
        out: (B, C, *sizes), floating.
        peak: as for ``integer_matmul``.
    """
    dimensions = range(len(geometry.kernel))
    for phase in itertools.product(*(range(s) for s in geometry.stride)):
        every = [slice(r, None, s) for r, s in zip(phase, geometry.stride, strict=True)]
        part = out[_at(every)]
        if part.numel() == 0:
            continue
        found = [_phase(geometry, i, phase[i], part.shape[2 + i]) for i in dimensions]
        if any(taps.count == 0 for taps, _ in found):
            part.zero_()
            continue
        used = weight[_at([chosen for _, chosen in found])].flip(*(2 + i for i in dimensions))
        matrix = used.movedim((1, 0), (0, -1)).flatten(1)
        _correlate(e, matrix, [taps for taps, _ in found], scale, part, None, peak)


def weight_sums(e: Tensor, x: Tensor, geometry: Geometry, peak: int) -> Tensor:
    """Return the gradient of a convolution with respect to its weight, in products of codes.

    Args:
        e: (B, O, *positions) int8, the error.
        x: (B, C, *sizes) int8, the input.
        geometry: of the convolution.
        peak: as for ``integer_matmul``.

    Returns:
        (O, C, *kernel) int32 or int64.
    """
    taps = _forward_taps(geometry, e.shape[2:])
    channels, count = x.shape[1], math.prod(geometry.kernel)
    wide = x.shape[0] * math.prod(e.shape[2:]) * peak >= 2**31
    total = e.new_zeros(e.shape[1], count * channels, dtype=torch.int64 if wide else torch.int32)
    for some in _few(x.shape[0], taps, channels):
        errors = _gather(e[some], [_Taps(n, 1, 1, 1, 0) for n in e.shape[2:]])
        total += integer_matmul(errors.t(), _gather(x[some], taps), peak)
    return total.view(-1, *geometry.kernel, channels).movedim(-1, 1)


def channel_sums(e: Tensor) -> Tensor:
    """Return the sum of the codes of each channel of (B, C, *sizes), int32 or int64."""
    rows = e.movedim(1, -1)
    if rows.is_contiguous():
        rows = rows.flatten(0, -2)
        return integer_matmul(rows.new_ones(1, rows.shape[0]), rows, 128)[0]
    planes = e.flatten(2).flatten(0, 1)
    each = integer_matmul(planes, planes.new_ones(planes.shape[1], 1), 128)
    return each.view(e.shape[:2]).sum(0, dtype=torch.int64)


def _at(places: list[slice]) -> tuple[slice, ...]:
    """Return the index of places in the spatial dimensions."""
    return (slice(None), slice(None), *places)


def _forward_taps(geometry: Geometry, positions: Sequence[int]) -> list[_Taps]:
    g = geometry
    return [
        _Taps(n, k, s, d, b)
        for n, k, s, d, b in zip(positions, g.kernel, g.stride, g.dilation, g.before, strict=True)
    ]


def _phase(geometry: Geometry, i: int, phase: int, positions: int) -> tuple[_Taps, slice]:
    """Return the windows of the error that inputs ``phase``, ``phase + stride``, ... meet.

    Input j meets error o through tap k where j = o stride + k dilation - before. For the inputs of
    a phase that leaves every ``every``-th tap from ``first`` on, last tap first; the next input of
    the phase meets the next error. Also returned: these taps.
    """
    kernel, stride, step = geometry.kernel[i], geometry.stride[i], geometry.dilation[i]
    reach = phase + geometry.before[i]
    every = stride // math.gcd(stride, step)
    taps = range(kernel)
    first = next((k for k in taps[:every] if (reach - k * step) % stride == 0), kernel)
    count, apart = len(taps[first::every]), every * step // stride
    start = (count - 1) * apart - (reach - first * step) // stride
    return _Taps(positions, count, 1, apart, start), slice(first, None, every)


def _correlate(
    x: Tensor,
    matrix: Tensor,
    taps: list[_Taps],
    scale: float | Tensor,
    out: Tensor,
    bias: Tensor | None,
    peak: int,
) -> None:
    """Write windows times ``matrix`` (channels out, taps and channels in) to ``out``."""
    batch, channels = out.shape[:2]
    last = out.stride(1) == 1 and channels > 1
    for some in _few(batch, taps, x.shape[1]):
        windows, to = _gather(x[some], taps), out[some]
        if last:
            total = integer_matmul(windows, matrix.t(), peak)
            values = to_values(total, scale, out.dtype, bias)
            to.movedim(1, -1).copy_(values.view(to.shape[0], *to.shape[2:], channels))
        else:
            total = integer_matmul(matrix, windows.t(), peak)
            wide = torch.float64 if out.dtype == torch.float64 else torch.float32
            values = to_values(total, scale, wide)
            if bias is not None:
                values += bias[:, None]
            to.transpose(0, 1).copy_(values.view(channels, to.shape[0], *to.shape[2:]))


def _few(batch: int, taps: list[_Taps], channels: int) -> Iterator[slice]:
    """Cut a batch into slices whose windows take about ``_BYTES``."""
    each = channels * math.prod(t.positions * t.count for t in taps)
    size = max(1, _BYTES // max(each, 1))
    for start in range(0, batch, size):
        yield slice(start, min(start + size, batch))


def _gather(x: Tensor, taps: list[_Taps]) -> Tensor:
    """Return the windows of (B, C, *sizes): a row a position, a column a tap and channel."""
    batch, channels = x.shape[:2]
    trivial = all(
        (t.count, t.stride, t.start, t.positions) == (1, 1, 0, size)
        for t, size in zip(taps, x.shape[2:], strict=True)
    )
    last = x.movedim(1, -1)
    if trivial and last.is_contiguous():
        return last.flatten(0, -2)
    if x.is_cpu and has_native("windows"):
        rows, columns = math.prod(t.positions for t in taps), math.prod(t.count for t in taps)
        out = x.new_empty(batch * rows, columns * channels)
        numbers = [n for t in taps for n in (t.positions, t.count, t.stride, t.step, t.start)]
        missing = 3 - len(taps)
        numbers = [1, 1, 1, 1, 0] * missing + numbers
        deep = x.reshape(batch, channels, *[1] * missing, *x.shape[2:])
        torch.ops.limprec.windows.default(deep, out, torch.tensor(numbers))
        return out
    return _gather_strided(last, taps)


def _gather_strided(x: Tensor, taps: list[_Taps]) -> Tensor:
    """Return ``_gather`` of (B, *sizes, C): the semantics, on any device."""
    batch, channels = x.shape[0], x.shape[-1]
    rows = x.new_zeros(batch, *(t.length for t in taps), channels)
    source, target = [], []
    for t, size in zip(taps, x.shape[1:-1], strict=True):
        begin, end = max(t.start, 0), min(t.start + size, t.length)
        target.append(slice(begin, max(begin, end)))
        source.append(slice(begin - t.start, max(begin, end) - t.start))
    rows[(slice(None), *target)] = x[(slice(None), *source)]
    strides = rows.stride()
    spatial = list(zip(strides[1:-1], taps, strict=True))
    view = rows.as_strided(
        (batch, *(t.positions for t in taps), *(t.count for t in taps), channels),
        (strides[0], *(s * t.stride for s, t in spatial), *(s * t.step for s, t in spatial), 1),
    )
    return view.reshape(batch * math.prod(t.positions for t in taps), -1)
